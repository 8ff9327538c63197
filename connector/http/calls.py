"""A call before it is made and its answer afterwards: the same for both transports."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar
from urllib.parse import urlencode

from urllib3.filepost import encode_multipart_formdata

from connector.http.errors import CustomerMustAct, ServiceUnavailable
from connector.pasted import can_be_sent

if TYPE_CHECKING:
    from connector.http.client import ApiClient

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: the status, and the body where it is a JSON object (an empty one otherwise).

    ``request_id`` is what we called the request, where the platform wants a name for each.
    """

    status: int
    body: dict[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request that is built but for its access token, and how its answer is read.

    ``client.run(call)`` makes it in this thread, ``Caller.run(call)`` on an event loop, both with the same result.

    :param read: gives the result of an answer; raises ``ApiError`` where the answer does not say that all went well
    """

    client: "ApiClient"
    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(repr=False)
    read: Callable[[Answer], T] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Request:
    """One try of a call, as it goes out."""

    service: str
    base_url: str
    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(repr=False)
    largest_answer: int  # bytes
    id: str = ""


@dataclass(frozen=True, slots=True)
class Content:
    """A body and its type."""

    type: str
    body: bytes = field(repr=False)


class Token(Protocol):
    """What proves to a platform who calls."""

    @property
    def value(self) -> str: ...


class TokenSource(Protocol):
    """Where a client takes the access token from that its calls carry."""

    @property
    def key(self) -> str:
        """What names this source: two with one key have the same token."""

    def ready(self) -> Token | None:
        """Give the token in use without waiting for anything; None where that takes a login or a look elsewhere."""

    def current(self) -> Token:
        """Give the token in use, logging in where there is none."""

    def renew(self, refused: Any) -> Token:
        """Give another one after ``refused`` was not accepted; callers at the same time share one login."""


def json_content(value: object) -> Content:
    return Content("application/json", json.dumps(value).encode())


def form_content(fields: Mapping[str, str]) -> Content:
    return Content("application/x-www-form-urlencoded", urlencode(fields).encode())


def multipart_content(parts: Mapping[str, tuple[str | None, bytes, str]]) -> Content:
    """Build a multipart body of parts by name: file name or None, content, type."""
    body, kind = encode_multipart_formdata(parts)  # type: ignore[arg-type]  # takes None for a file name
    return Content(kind, body)


def check_headers(service: str, headers: Mapping[str, str], names: Mapping[str, str]) -> None:
    """Refuse a header that would arrive as something else or could not be sent at all, before anything is sent.

    :param names: by header: which setting of the customer's it holds
    :raises CustomerMustAct: naming the setting
    """
    for header, value in headers.items():
        if not can_be_sent(value):
            name = names.get(header, f"the header {header}")
            raise CustomerMustAct(
                service, f"{name} contains characters that cannot be sent, such as a line break or an invisible one"
            )


def json_object(content: bytes) -> dict[str, Any]:
    """Read a body: an object as it is, another value as the only field ``list``, what is not JSON as an empty object."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {"list": body}


def says_nothing(service: str, answer: Answer) -> ServiceUnavailable:
    """Say that an answer has a status of success and not what the platform promises with it: in doubt."""
    return ServiceUnavailable(
        service,
        "the answer does not say what became of the request",
        status=answer.status,
        request_id=answer.request_id,
        in_doubt=True,
    )
