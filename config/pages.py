"""Django's pages behind an event loop: its WSGI application in a bounded pool of threads, whose connections are kept.

A thread is taken only for what Django does itself. The body is read before, within bounds of size and time, and given to
Django with its length, without which it takes a body for empty; the response is sent on afterwards, so that nobody who
reads slowly holds a thread either. (`a2wsgi` does both inside the thread, and a client that goes away keeps it for good.)

Threads share the interpreter with the door in front of them. Requests share a few, but for those that show a session or a
token which this process accepted lately (tenants/known.py). To find out whether another one is true takes a look into the
database; so whoever comes with it for the first time is a stranger once, and whoever makes one up always.

https://peps.python.org/pep-3333/ and https://asgi.readthedocs.io/en/latest/specs/www.html
"""

import asyncio
import io
import re
import sys
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import structlog
from django.conf import settings

from messaging.door import CLOSE, send_refusal
from messaging.door_body import ClientGone, Held, Receive, Room, broken, length_of
from messaging.door_refusals import Refused
from tenants import repeats
from tenants.known import is_known

log = structlog.get_logger(__name__)

STRANGERS_THREADS = 5  # at most, of all
STRANGERS_BODY = 64 * 1024  # bytes of a request that shows no credential: a sign-in
MOST_WAITING = 200  # requests, for a thread of either kind
WAIT_SECONDS = 10.0  # for a thread
MOST_BODIES = 16 * 1024 * 1024  # bytes, of all requests that are read or wait; half of them may be strangers'
PIECE = 64 * 1024  # bytes of a response that are sent on at once
MOST_UNSENT = 1024 * 1024  # bytes that a thread may be ahead of the client; most responses are smaller than this
STALL_SECONDS = 10.0  # for a client to take the next piece

# what our own pages and callers bring along: the cookies of sessions, a hand-over token, and a token or session as a bearer
SESSION = re.compile(rf"(?:^|;)\s*(?:__Host-sid-[\w-]*|{re.escape(settings.SESSION_COOKIE_NAME)})\s*=\s*([^;]*)")
MOST_CREDENTIALS = 40  # of a request, that are looked at: a person's frames of many orgs share their cookies

Scope = MutableMapping[str, Any]
Headers = Iterable[tuple[bytes, bytes]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Pages:
    """An ASGI application that serves a WSGI application.

    :param threads: the most requests that it works on at once
    """

    def __init__(self, application: Application, *, threads: int) -> None:
        strangers = min(STRANGERS_THREADS, max(1, threads // 2))
        self._application = application
        self._strangers, self._known = _Threads(strangers), _Threads(max(1, threads - strangers))
        self._room = Room(MOST_BODIES)
        self._strangers_room = Room(MOST_BODIES // 2, self._room)

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request with a page.

        408 and 413 for a body too slow or too large, 415 for a multipart one, 503 while all threads are busy.
        """
        credentials = list(islice(credentials_in(scope["headers"]), MOST_CREDENTIALS))
        known = any(map(is_known, credentials))
        threads, room = (self._known, self._room) if known else (self._strangers, self._strangers_room)
        try:
            _refuse_multipart(scope["headers"])
            with Held(room) as held:
                # whether a credential is true or made up: somebody's first request to this process may be our largest form
                limit: int = settings.DATA_UPLOAD_MAX_MEMORY_SIZE if credentials else STRANGERS_BODY
                body = await held.read(receive, length=length_of(scope["headers"], limit), limit=limit)
                response = _Response(asyncio.get_running_loop(), keeps_open=known)
                await threads.wait_for_one()
                threads.run(lambda: self._work(environ_of(scope, body), response))
                await response.send_on(send)
        except Refused as refused:
            await send_refusal(refused, send)
        except ClientGone:
            await send_refusal(broken(), send)
        except TimeoutError:
            return  # it does not take the response

    def _work(self, environ: dict[str, Any], response: "_Response") -> None:
        pieces: Iterable[bytes] = ()
        try:
            pieces = self._application(environ, response.start)
            for piece in pieces:
                response.write(piece)
        except _Abandoned:
            pass
        except Exception as exc:
            repeats.say(log.exception, "page failed", type(exc).__name__)
        finally:
            try:
                getattr(pieces, "close", lambda: None)()  # where Django ends a request and gives its connection back
            finally:
                response.end()


class _Threads:
    """Some threads, and a bounded number of requests that wait for one of them."""

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, "page")
        self._free = asyncio.Semaphore(count)
        self._waiting = 0

    async def wait_for_one(self) -> None:
        """Wait for a free thread; the caller must use it.

        :raises Refused: 503 if too many wait, or it takes too long
        """
        if self._free.locked() and self._waiting >= MOST_WAITING:
            raise _busy()
        self._waiting += 1
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._free.acquire()
        except TimeoutError:
            raise _busy() from None
        finally:
            self._waiting -= 1

    def run(self, work: Callable[[], None]) -> None:
        """Work in the thread that was waited for."""
        loop = asyncio.get_running_loop()
        self._pool.submit(work).add_done_callback(lambda _: loop.call_soon_threadsafe(self._free.release))


def credentials_in(headers: Headers) -> Iterator[str]:
    """Give the sessions and tokens that a request shows, true or made up, as what authenticates reads them."""
    for name, raw in headers:
        value = raw.decode("latin-1")
        if name == b"authorization":
            scheme, _, token = value.partition(" ")
            if scheme.lower() == "bearer":
                yield token.strip()
        elif name == b"x-connector-token":
            yield value
        elif name == b"cookie":
            yield from (found[1].strip() for found in SESSION.finditer(value))


def _refuse_multipart(headers: Headers) -> None:
    """No form of ours is sent that way, and to parse one costs far more than to send it.

    :raises Refused: 415
    """
    if any(name == b"content-type" and value.lstrip()[:10].lower() == b"multipart/" for name, value in headers):
        raise Refused(415, "multipart", "No form here is sent as multipart.")


def _busy() -> Refused:
    return Refused(503, "all threads are busy", "Too many pages are asked for now.")


class _Abandoned(Exception):
    """The client does not take the response."""


class _Response:
    """What a thread writes and the loop sends on; the thread waits only where it is far ahead."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, keeps_open: bool) -> None:
        self.loop, self._keeps_open = loop, keeps_open
        self.status = 500
        self.headers: list[tuple[bytes, bytes]] = [(b"content-length", b"0"), CLOSE]
        self._pieces: deque[bytes] = deque()
        self._unsent = 0
        self._ended = self._abandoned = False
        self._changed = threading.Condition()
        self._more = asyncio.Event()

    def start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], None]:
        self.status = int(status.split(" ", 1)[0])
        self.headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        if not self._keeps_open or self.status >= 400:
            self.headers.append(CLOSE)  # nor is worked on what was sent behind it before this is read
        return self.write

    def write(self, piece: bytes) -> None:
        with self._changed:
            self._pieces.append(piece)
            self._unsent += len(piece)
            if self._unsent >= PIECE:
                self.loop.call_soon_threadsafe(self._more.set)
            if not self._changed.wait_for(lambda: self._abandoned or self._unsent < MOST_UNSENT, 2 * STALL_SECONDS):
                self._abandoned = True
            if self._abandoned:
                raise _Abandoned

    def end(self) -> None:
        with self._changed:
            self._ended = True
        self.loop.call_soon_threadsafe(self._more.set)

    async def send_on(self, send: Send) -> None:
        started = ended = False
        try:
            while not ended:
                await self._more.wait()
                self._more.clear()
                with self._changed:
                    piece, ended = b"".join(self._pieces), self._ended
                    self._pieces.clear()
                async with asyncio.timeout(STALL_SECONDS):
                    if not started:
                        started = True
                        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
                    await send({"type": "http.response.body", "body": piece, "more_body": not ended})
                with self._changed:
                    self._unsent -= len(piece)
                    self._changed.notify()
        finally:
            with self._changed:
                self._abandoned = True
                self._changed.notify()


def environ_of(scope: Scope, body: bytes) -> dict[str, Any]:
    """Describe a request as WSGI does."""
    server, client = scope.get("server") or ("localhost", "80"), scope.get("client") or ("", "")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": "",
        "PATH_INFO": scope["path"].encode("utf-8", "replace").decode("latin-1"),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "SERVER_NAME": str(server[0]),
        "SERVER_PORT": str(server[1]),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "REMOTE_ADDR": str(client[0]),
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope["scheme"],
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    for name, value in scope["headers"]:
        # X_Forwarded_For would become the same name as the header that the proxy in front of us sets
        if b"_" in name or name in (b"content-length", b"transfer-encoding"):
            continue
        key = name.decode("latin-1").upper().replace("-", "_")
        key = key if key == "CONTENT_TYPE" else f"HTTP_{key}"
        text = value.decode("latin-1")
        separator = "; " if key == "HTTP_COOKIE" else ","
        environ[key] = f"{environ[key]}{separator}{text}" if key in environ else text
    return environ
