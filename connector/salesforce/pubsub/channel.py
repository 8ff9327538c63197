"""Where the Pub/Sub API is, as whom we speak with it, and what its refusals mean.

https://developer.salesforce.com/docs/platform/pub-sub-api
"""

import re
from enum import Enum
from typing import Any

import grpc
import grpc.aio

from connector.http import AddressRefused, AuthenticationFailed, CustomerMustAct, ServiceUnavailable
from connector.salesforce import pubsub
from connector.salesforce.auth import SERVICE, AccessToken

ANSWER_SECONDS = 10.0
# An event has 1 MB at most and an answer 3 MB, by the documentation; twice that, so that a day on which it is a little more
# is like any other: https://developer.salesforce.com/docs/platform/pub-sub-api/guide/allocations.html
LARGEST_ANSWER = 6 << 20
# What is larger is asked for alone, and then so much is taken: one org's page is not to use up the memory of all.
LARGEST_ALONE = 64 << 20
# the global one and Germany's: https://developer.salesforce.com/docs/platform/pub-sub-api/guide/pub-sub-endpoints.html
ENDPOINTS = re.compile(r"api(\.deu)?\.pubsub\.salesforce\.com:(443|7443)")
LOCAL_ENDPOINTS = re.compile(r"(localhost|127(\.\d+){3}|\[::1\]):\d+")

_ERROR_PREFIX = "sfdc.platform.eventbus.grpc."


class Remedy(Enum):
    """What a broken stream needs: https://developer.salesforce.com/docs/platform/pub-sub-api/guide/handle-errors.html"""

    RECONNECT = "reconnect"
    NEW_TOKEN = "new token"
    START_OVER = "start over from the earliest event"
    FEWER_EVENTS = "ask for fewer events at a time"
    SLOW_DOWN = "slow down"
    CUSTOMER_MUST_ACT = "the customer must act"


_REMEDIES = {
    "service.auth.error": Remedy.NEW_TOKEN,
    "service.auth.headers.invalid": Remedy.CUSTOMER_MUST_ACT,
    "service.protection.triggered": Remedy.SLOW_DOWN,
    "service.protection.stream.limit.triggered": Remedy.SLOW_DOWN,
    "concurrent.client.limit.exceeded": Remedy.CUSTOMER_MUST_ACT,
    "service.tenant.license": Remedy.CUSTOMER_MUST_ACT,
    "topic.not.found": Remedy.CUSTOMER_MUST_ACT,
    "topic.validation.empty": Remedy.CUSTOMER_MUST_ACT,
    "topic.meta.permission": Remedy.CUSTOMER_MUST_ACT,
    "schema.meta.permission": Remedy.CUSTOMER_MUST_ACT,
    "subscription.topic.cannot.subscribe": Remedy.CUSTOMER_MUST_ACT,
    "subscription.limit.exceeded": Remedy.CUSTOMER_MUST_ACT,
    # two spellings are published, with and without the word in front
    "subscription.fetch.replayid.corrupted": Remedy.START_OVER,
    "subscription.fetch.replayid.validation.failed": Remedy.START_OVER,
    "fetch.replayid.corrupted": Remedy.START_OVER,
    "fetch.replayid.validation.failed": Remedy.START_OVER,
}


class StreamBroken(Exception):
    """A stream ended; ``remedy`` says what the next one needs, ``code`` is the platform's word for the reason."""

    def __init__(self, remedy: Remedy, code: str) -> None:
        super().__init__(f"{code or 'no code'}: {remedy.value}")
        self.remedy, self.code = remedy, code


def open_channel(endpoint: str, *, plaintext: bool, largest: int = LARGEST_ANSWER) -> grpc.aio.Channel:
    """Open a connection that many streams share; the credentials travel with each call.

    :param plaintext: whether a stand-in on this machine may be spoken to, which is done without TLS
    :param largest: bytes of one answer; a larger one breaks its stream
    :raises AddressRefused: if the endpoint is none of Salesforce's
    """
    options = [
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.max_receive_message_length", largest),
        # without it, gRPC leads all channels to one address over one connection, which carries 1,000 calls and no more
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if _is_local(endpoint, plaintext):
        return grpc.aio.insecure_channel(endpoint, options=options)
    return grpc.aio.secure_channel(endpoint, grpc.ssl_channel_credentials(), options=options)


def _is_local(endpoint: str, plaintext: bool) -> bool:
    if plaintext and LOCAL_ENDPOINTS.fullmatch(endpoint):
        return True
    if not ENDPOINTS.fullmatch(endpoint):
        raise AddressRefused(SERVICE, f"{endpoint[:100]} is no endpoint of the Pub/Sub API")
    return False


def credentials_of(tenant_id: str, token: AccessToken) -> tuple[tuple[str, str], ...]:
    """Give the metadata that each call carries."""
    return ("accesstoken", token.value), ("instanceurl", token.instance_url), ("tenantid", tenant_id)


def may_subscribe(endpoint: str, topic: str, tenant_id: str, token: AccessToken, *, plaintext: bool) -> bool | None:
    """Ask whether the user of a token may read a topic; None says that there is no such topic.

    For those who have no event loop: it opens a connection for one question.

    :raises ApiError: if the question is not answered
    """
    local = _is_local(endpoint, plaintext)
    channel = grpc.insecure_channel(endpoint) if local else grpc.secure_channel(endpoint, grpc.ssl_channel_credentials())
    with channel:
        get_topic: Any = channel.unary_unary(
            f"/{pubsub.SERVICE}/GetTopic",
            request_serializer=pubsub.TopicRequest.SerializeToString,
            response_deserializer=pubsub.TopicInfo.FromString,
        )
        request = pubsub.TopicRequest(topic_name=topic)
        try:
            answer = get_topic(request, metadata=credentials_of(tenant_id, token), timeout=ANSWER_SECONDS)
        except grpc.RpcError as exc:
            refusal: Any = exc
            return _answer_of(broken_by(refusal.code(), refusal.trailing_metadata(), ""))
    return bool(answer.can_subscribe)


def _answer_of(refusal: StreamBroken) -> bool | None:
    code = refusal.code.removeprefix(_ERROR_PREFIX)
    if code == "topic.not.found":
        return None
    if code == "topic.meta.permission":
        return False
    if refusal.remedy is Remedy.NEW_TOKEN:
        raise AuthenticationFailed(SERVICE, "the Pub/Sub API does not accept our token", code=code) from refusal
    if refusal.remedy is Remedy.CUSTOMER_MUST_ACT:
        raise CustomerMustAct(SERVICE, "the Pub/Sub API refuses", code=code) from refusal
    raise ServiceUnavailable(SERVICE, "the Pub/Sub API does not answer", code=code) from refusal


def broken_by(status: grpc.StatusCode, trailing: Any, details: str) -> StreamBroken:
    """Read why a call ended: the status alone is not enough, the platform's code is in the trailing metadata."""
    code = str(dict(trailing or ()).get("error-code", ""))[:200]
    remedy = _REMEDIES.get(code.removeprefix(_ERROR_PREFIX))
    if remedy is None:
        remedy = Remedy.NEW_TOKEN if status is grpc.StatusCode.UNAUTHENTICATED else Remedy.RECONNECT
        # our own gRPC says so of an answer above our limit, and there is no code
        if not code and status is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
            return StreamBroken(Remedy.FEWER_EVENTS, "an answer that is too large")
    return StreamBroken(remedy, code or status.name)
