"""Calls one host of a platform from the calling thread."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Concatenate, ParamSpec, TypeVar
from urllib.parse import urlsplit
from uuid import uuid4

from connector.http.addresses import LOCAL_HOSTS
from connector.http.calls import (
    Answer,
    Call,
    Content,
    Request,
    Token,
    TokenSource,
    check_headers,
    form_content,
    json_content,
    multipart_content,
)
from connector.http.errors import AddressRefused, AuthenticationFailed
from connector.http.transport import send

T = TypeVar("T")
Client = TypeVar("Client", bound="ApiClient")
Arguments = ParamSpec("Arguments")

LARGEST_ANSWER = 1 << 20
USER_AGENT = "service-cloud-connector"


class ApiClient:
    """Calls one host. Safe to share between threads: it keeps nothing between two calls.

    :param allow_local: whether that host may be this machine
    :raises AddressRefused: if it is this machine and may not be
    """

    service = "API"
    largest_answer = LARGEST_ANSWER  # in bytes; what is longer counts as an answer without a body
    tokens: TokenSource | None = None  # whose token the calls carry
    request_id_header: ClassVar[str] = ""  # in which each request is named, where the platform wants that
    settings_in_headers: ClassVar[Mapping[str, str]] = {}  # by header: what the customer calls that which stands in it

    def __init__(self, base_url: str, *, allow_local: bool = False) -> None:
        if not allow_local and LOCAL_HOSTS.fullmatch(urlsplit(base_url).hostname or ""):
            raise AddressRefused(self.service, "this machine is no address of the platform's")
        self.base_url = base_url

    def run(self, call: Call[T]) -> T:
        """Make a call within ``TOTAL_SECONDS``; where the access token is refused, renew it and repeat once.

        :raises ApiError: the member of the family says whether and when to make it again
        """
        if self.tokens is None:
            return call.read(send(self.prepare(call)))
        token = self.tokens.current()
        try:
            return call.read(send(self.prepare(call, token)))
        except AuthenticationFailed:
            return call.read(send(self.prepare(call, self.tokens.renew(token))))

    def prepare(self, call: Call[Any], token: Token | None = None) -> Request:
        """Build one try of a call, for either transport.

        :raises CustomerMustAct: if a header cannot be sent, naming the setting that stands in it
        """
        headers = {**call.headers}
        if token is not None:
            headers["Authorization"] = f"Bearer {token.value}"
        return self._request(call.method, call.path, headers, call.body)

    def request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        json: object | None = None,
        data: Mapping[str, str] | None = None,
        files: Mapping[str, tuple[str | None, bytes, str]] | None = None,
    ) -> Answer:
        """Make one call and read its answer, whatever its status, within ``TOTAL_SECONDS``.

        :raises ServiceUnavailable: if no answer came; in doubt unless the request certainly never left
        :raises PrivateAddress: if the name of the host leads to a private network; nothing was sent there
        :raises CustomerMustAct: if a header cannot be sent, naming the setting that stands in it
        """
        content = _content(json, data, files)
        typed = {**headers, "Content-Type": content.type} if content else dict(headers)
        return send(self._request(method, path, typed, content.body if content else None))

    def _request(self, method: str, path: str, headers: dict[str, str], body: bytes | None) -> Request:
        request_id = ""
        if self.request_id_header:
            request_id = headers[self.request_id_header] = str(uuid4())
        check_headers(self.service, headers, self.settings_in_headers)
        # what a transport would add of its own: an answer that is compressed costs more than it saves
        headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **headers}
        return Request(self.service, self.base_url, method, path, headers, body, self.largest_answer, request_id)


def at_once(
    build: Callable[Concatenate[Client, Arguments], Call[T]],
) -> Callable[Concatenate[Client, Arguments], T]:
    """Make of a method that builds a call one that makes it in the calling thread, with the same arguments."""

    def run(client: Client, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> T:
        """Build this call and make it.

        :raises ApiError: the member of the family says whether and when to make it again
        """
        return client.run(build(client, *args, **kwargs))

    return run


def _content(
    json: object | None,
    data: Mapping[str, str] | None,
    files: Mapping[str, tuple[str | None, bytes, str]] | None,
) -> Content | None:
    if json is not None:
        return json_content(json)
    if files is not None:
        return multipart_content(files)
    return None if data is None else form_content(data)
