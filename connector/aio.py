"""Makes calls to both platforms on an event loop, on ``aiohttp``: the same calls, results and errors as in threads."""

import asyncio
import select
import socket
import ssl
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit
from weakref import WeakSet

import aiohttp
import certifi
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import AddrInfoType, Connection
from yarl import URL

from connector.http.addresses import private_address, wrong_network
from connector.http.calls import Answer, Call, Request, Token, TokenSource, json_object
from connector.http.client import ApiClient
from connector.http.errors import AuthenticationFailed, Broken
from connector.http.transport import TOTAL_SECONDS
from connector.threads import Threads

T = TypeVar("T")

IDLE_SECONDS = 15.0  # how long a connection without a call is kept; shorter than servers keep theirs
NAMES_SECONDS = 10  # how long the addresses of a name are kept
LOGINS_AT_ONCE = 1000  # more than orgs whose login can hang at the same time
NAMES_AT_ONCE = 256
LONGEST_LINE = 1 << 16  # of an answer's head, as in the other transport


class Caller:
    """Makes calls within one event loop; made and closed there, once per process."""

    def __init__(self) -> None:
        self._logins = Threads(LOGINS_AT_ONCE)
        self._names = _Names()
        self._session = aiohttp.ClientSession(
            connector=_Connector(
                limit=0,  # callers bound themselves
                keepalive_timeout=IDLE_SECONDS,
                ttl_dns_cache=NAMES_SECONDS,
                resolver=self._names,
                ssl=ssl.create_default_context(cafile=certifi.where()),
                socket_factory=_guarded_socket,
            ),
            timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            max_line_size=LONGEST_LINE,
            max_field_size=LONGEST_LINE,
        )

    async def run(self, call: Call[T], *, seconds: float = TOTAL_SECONDS) -> T:
        """Make a call; where the access token is refused, renew it and repeat once.

        :param seconds: for everything together: token with login, DNS, connecting, TLS, request and answer
        :raises ApiError: the member of the family says whether and when to make it again
        """
        client, progress = call.client, _Progress()
        _progress.set(progress)
        try:
            async with asyncio.timeout(seconds) as limit:
                return await self._run(client, call, progress)
        except TimeoutError as exc:
            if not limit.expired():
                raise
            raise progress.at.error(client.service) from exc

    async def close(self) -> None:
        """Close all connections; what is under way ends without an answer."""
        self._logins.close()
        await self._session.close()
        await self._names.close()

    async def _run(self, client: ApiClient, call: Call[T], progress: "_Progress") -> T:
        if client.tokens is None:
            return call.read(await self._send(client.prepare(call), progress))
        token = await self._token(client.tokens, None, progress)
        try:
            return call.read(await self._send(client.prepare(call, token), progress))
        except AuthenticationFailed:
            token = await self._token(client.tokens, token, progress)
            return call.read(await self._send(client.prepare(call, token), progress))

    async def _token(self, tokens: TokenSource, refused: Token | None, progress: "_Progress") -> Token:
        ready = tokens.ready()
        if ready is not None and ready != refused:
            return ready
        progress.at = Broken.NO_TOKEN
        if refused is None:
            return await self._logins.run(tokens.key, tokens.current)
        token = await self._logins.run(tokens.key, lambda: tokens.renew(refused))
        if token == refused:  # the result of a look that was under way already
            token = await self._logins.run(tokens.key, lambda: tokens.renew(refused))
        return token

    async def _send(self, request: Request, progress: "_Progress") -> Answer:
        """Send a request and read its answer, whatever its status."""
        host = urlsplit(request.base_url).hostname or ""
        progress.begin(host)
        try:
            response = await self._session.request(
                request.method,
                URL(request.base_url + request.path, encoded=True),
                data=request.body,
                headers=request.headers,
                allow_redirects=False,  # one could lead credentials to another host
            )
            content = await _read(response, request.largest_answer)
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            if progress.wrong_network and not progress.connected:
                raise private_address(request.service, host, progress.wrong_network) from exc
            raise progress.broken.error(request.service) from exc
        return Answer(response.status, json_object(content), response.headers, request.id)


@dataclass(slots=True)
class _Progress:
    """How far a call has come, which says what its end without an answer means."""

    host: str = ""
    connected: bool = False
    wrong_network: str = ""  # what kind of network the name led to, where not to the right one
    at: Broken = Broken.NO_TIME  # if the time is over now
    broken: Broken = Broken.NO_CONNECTION  # if it breaks now

    def begin(self, host: str) -> None:
        self.host, self.connected = host, False
        self.at, self.broken = Broken.NOT_CONNECTED, Broken.NO_CONNECTION

    def connect(self) -> None:
        self.connected = True
        self.at, self.broken = Broken.NO_ANSWER, Broken.BROKEN_OFF


_progress: ContextVar[_Progress] = ContextVar("progress")  # of the call that a task makes


class _Connector(aiohttp.TCPConnector):
    """Gives a call its connection: a new one, or one that is still open at this moment."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._known: WeakSet[ResponseHandler] = WeakSet()

    async def connect(self, req: ClientRequest, traces: list[Any], timeout: aiohttp.ClientTimeout) -> Connection:
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            if protocol is None or protocol not in self._known:
                break
            # a server may have closed it without this loop having heard of that yet: a request on it would be lost, and
            # nobody could tell
            if not _has_input(protocol):
                break
            connection.close()
        if protocol is not None:
            self._known.add(protocol)
        _progress.get().connect()
        return connection


def _has_input(protocol: ResponseHandler) -> bool:
    """Tell whether anything came on a connection on which no answer is due: its end, or what is as bad."""
    sock = protocol.transport.get_extra_info("socket") if protocol.transport else None
    if sock is None or sock.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def _guarded_socket(addr_info: AddrInfoType) -> socket.socket:
    """Look where a connection is going to lead, before a byte is sent; also a literal address comes by here.

    :raises OSError: if a name of the internet leads into a private network, or a name of this machine elsewhere
    """
    family, kind, protocol, _, address = addr_info
    progress = _progress.get()
    progress.wrong_network = wrong_network(progress.host, str(address[0]))
    if progress.wrong_network:
        raise OSError(f"{address[0]} is no address for this call")
    return socket.socket(family, kind, protocol)


class _Names(AbstractResolver):
    """Looks names up in threads, so that a name whose server hangs stops no other."""

    def __init__(self) -> None:
        self._threads = Threads(NAMES_AT_ONCE)

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        def look() -> list[Any]:
            return socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)

        flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return [
            ResolveResult(hostname=host, host=address[0], port=address[1], family=found, proto=protocol, flags=flags)
            for found, _, protocol, _, address in await self._threads.run((host, port, family), look)
        ]

    async def close(self) -> None:
        self._threads.close()


async def _read(response: aiohttp.ClientResponse, most: int) -> bytes:
    """Read a body, unpacked where it is packed, and no more of it than ``most`` bytes."""
    pieces, size = [], 0
    try:
        while size < most and (piece := await response.content.readany()):
            pieces.append(piece)
            size += len(piece)
    finally:
        if not response.content.at_eof():  # one that is not read to its end gives its connection to nobody
            response.close()
    return b"".join(pieces)[:most]
