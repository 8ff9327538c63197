"""HTTP to both platforms: calls with a total deadline, one error family, and a guard over where they go."""

from connector.http.addresses import LOCAL_HOSTS, check_address, why_not_public
from connector.http.calls import Answer, Call, Content, TokenSource, json_content, multipart_content, says_nothing
from connector.http.client import LARGEST_ANSWER, ApiClient, at_once
from connector.http.errors import (
    AddressRefused,
    ApiError,
    AuthenticationFailed,
    Broken,
    CustomerMustAct,
    PrivateAddress,
    RateLimited,
    RequestRejected,
    ServiceUnavailable,
    retry_after,
)
from connector.http.transport import CONNECT_SECONDS, TOTAL_SECONDS, seconds_left, time_limit

__all__ = [
    "CONNECT_SECONDS",
    "LARGEST_ANSWER",
    "LOCAL_HOSTS",
    "TOTAL_SECONDS",
    "AddressRefused",
    "Answer",
    "ApiClient",
    "ApiError",
    "AuthenticationFailed",
    "Broken",
    "Call",
    "Content",
    "CustomerMustAct",
    "PrivateAddress",
    "RateLimited",
    "RequestRejected",
    "ServiceUnavailable",
    "TokenSource",
    "at_once",
    "check_address",
    "json_content",
    "multipart_content",
    "retry_after",
    "says_nothing",
    "seconds_left",
    "time_limit",
    "why_not_public",
]
