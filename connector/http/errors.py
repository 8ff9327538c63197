"""What a call can fail with: one family for both platforms and both transports."""

import re
from collections.abc import Mapping
from enum import Enum
from typing import Any, ClassVar


class ApiError(Exception):
    """A call that did not succeed.

    ``retryable``: sending the same thing again later can help. ``in_doubt``: the platform may have taken it all
    the same. The text holds ids and codes, never what a person wrote.
    """

    retryable: ClassVar[bool] = False

    def __init__(
        self,
        service: str,
        message: str,
        *,
        status: int | None = None,
        code: str = "",
        request_id: str = "",
        in_doubt: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.service, self.message, self.status, self.code = service, message, status, code
        self.request_id, self.in_doubt, self.retry_after = request_id, in_doubt, retry_after

    def __str__(self) -> str:
        facts = [
            f"HTTP {self.status}" if self.status else "",
            f"code {self.code}" if self.code else "",
            self.request_id and f"request {self.request_id}",
        ]
        known = ", ".join(fact for fact in facts if fact)
        return f"{self.service}: {self.message}" + (f" ({known})" if known else "")


class AddressRefused(ApiError):
    """An address that is not one of the platform's."""


class PrivateAddress(AddressRefused):
    """A name of the platform's that leads to a private network.

    A resolver in trouble may say so for a while, so what waits is not given up for it.
    """

    retryable = True


class RequestRejected(ApiError):
    """The platform refuses this very request; sending it again cannot help."""


class CustomerMustAct(ApiError):
    """Credentials or set-up are wrong: the customer must act, and what waits goes out afterwards."""

    retryable = True


class AuthenticationFailed(CustomerMustAct):
    """The platform does not accept our credentials; ``description`` is its reason in its own words."""

    def __init__(self, service: str, message: str, *, description: str = "", **facts: Any) -> None:
        super().__init__(service, message, **facts)
        self.description = description


class ServiceUnavailable(ApiError):
    """5xx, a time-out, no connection, or an answer that cannot be read."""

    retryable = True


class RateLimited(ServiceUnavailable):
    """Too many requests; ``retry_after`` says, in seconds, how long to wait."""


class Broken(Enum):
    """How a call can end without an answer: the words, and whether the request may have arrived."""

    NO_TIME = "no time left to call", False
    NO_TOKEN = "no access token in time", False
    NO_CONNECTION = "no connection", False
    NOT_CONNECTED = "no connection in time", False
    NO_ANSWER = "no answer in time", True
    BROKEN_OFF = "the connection broke off", True

    def error(self, service: str) -> ServiceUnavailable:
        words, in_doubt = self.value
        return ServiceUnavailable(service, words, in_doubt=in_doubt)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Read ``Retry-After`` in seconds, at most an hour; its rare form of a date counts as absent."""
    value = headers.get("Retry-After", "")
    return min(float(value), 3600.0) if re.fullmatch(r"\d{1,9}(\.\d+)?", value) else None
