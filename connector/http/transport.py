"""Sends a request from the calling thread, on ``requests``, within a total time and to public networks only."""

import math
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, LocationValueError, ReadTimeoutError
from urllib3.util.ssl_ import create_urllib3_context

from connector.http.addresses import private_address, wrong_network
from connector.http.calls import Answer, Request, json_object
from connector.http.errors import Broken

CONNECT_SECONDS = 4.0
TOTAL_SECONDS = 14.0  # below the lease of a lane (20 s), so that nobody else carries it while a call is under way


class _NotPublic(Exception):
    """A connection led to an address that is none of the internet."""


class _Deadline(threading.local):
    at = math.inf  # of the call under way, by time.monotonic()
    outer = math.inf  # of all calls of a piece of work
    connecting = False  # whether the call under way is doing that, and so has certainly not arrived


_deadline = _Deadline()


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Bound everything that the calling thread requests inside: a login, the call, its repetition with a new token.

    Inside another limit the one that ends first holds.
    """
    before = _deadline.outer
    _deadline.outer = min(before, time.monotonic() + seconds)
    try:
        yield
    finally:
        _deadline.outer = before


def seconds_left() -> float:
    """Give how long a call that began now could last."""
    return max(0.0, min(TOTAL_SECONDS, _deadline.outer - time.monotonic()))


class _DeadlineSocket(socket.socket):
    """A socket whose reads end at the calling thread's deadline: a time-out of requests counts from byte to byte."""

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        _bound(self)
        return super().recv_into(*args, **kwargs)


class _DeadlineSSLSocket(ssl.SSLSocket):
    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        _bound(self)
        return super().recv_into(*args, **kwargs)


def _bound(sock: socket.socket) -> None:
    left = _deadline.at - time.monotonic()
    if left <= 0:
        raise TimeoutError("the total time of the call is over")
    if left < (sock.gettimeout() or math.inf):
        sock.settimeout(left)


def _guarded(plain: socket.socket, host: str) -> socket.socket:
    """Look whom a new connection has reached, before a byte is sent, and bind it to the deadlines.

    :raises _NotPublic: if a name of the internet leads into a private network, or a name of this machine elsewhere
    """
    if kind := wrong_network(host, plain.getpeername()[0]):
        plain.close()
        raise _NotPublic(kind)
    timeout = plain.gettimeout()
    sock = _DeadlineSocket(plain.family, plain.type, plain.proto, fileno=plain.detach())
    sock.settimeout(timeout)
    return sock


class _Connection(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return _guarded(super()._new_conn(), self.host)

    def connect(self) -> None:
        _deadline.connecting = True
        super().connect()  # with the name's address, and TLS where there is any
        _deadline.connecting = False


class _SecureConnection(_Connection, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


class _Adapter(HTTPAdapter):
    """Connections of all clients of this process: kept alive, shared by threads, bounded."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        context = create_urllib3_context()
        context.sslsocket_class = _DeadlineSSLSocket
        super().init_poolmanager(*args, ssl_context=context, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}


_adapter = _Adapter(pool_connections=256, pool_maxsize=64)


def send(request: Request) -> Answer:
    """Send a request and read its answer, whatever its status, within ``TOTAL_SECONDS`` and the ``time_limit``.

    :raises ServiceUnavailable: if no answer came; in doubt unless the request certainly never left
    :raises PrivateAddress: if the name of the host leads to a private network; nothing was sent there
    """
    left = seconds_left()
    if not left:
        raise Broken.NO_TIME.error(request.service)
    _deadline.at, _deadline.connecting = time.monotonic() + left, False
    try:
        try:
            # without a session, whose merging of settings, cookies, proxies and .netrc costs as much time as the call; and
            # no redirect is followed, which could lead credentials to another host
            prepared = requests.PreparedRequest()
            prepared.prepare(request.method, request.base_url + request.path, dict(request.headers), data=request.body)
            response = _adapter.send(prepared, stream=True, timeout=(min(CONNECT_SECONDS, left), left))
        except _NotPublic as exc:
            raise private_address(request.service, urlsplit(request.base_url).hostname or "", str(exc)) from exc
        except (requests.RequestException, HTTPError, OSError) as exc:
            raise _broken(exc).error(request.service) from exc
        with response:
            try:
                content = response.raw.read(request.largest_answer, decode_content=True)
            except ReadTimeoutError as exc:
                raise Broken.NO_ANSWER.error(request.service) from exc
            except (HTTPError, OSError) as exc:
                raise Broken.BROKEN_OFF.error(request.service) from exc
        return Answer(response.status_code, json_object(content), response.headers, request.id)
    finally:
        _deadline.at = math.inf


def _broken(exc: Exception) -> Broken:
    """Tell how a call ended without an answer: in doubt unless it certainly had no connection yet."""
    never = requests.ConnectTimeout | requests.exceptions.InvalidURL | LocationValueError
    if _deadline.connecting or isinstance(exc, never):
        return Broken.NOT_CONNECTED if isinstance(exc, requests.Timeout) else Broken.NO_CONNECTION
    return Broken.NO_ANSWER if isinstance(exc, requests.Timeout) else Broken.BROKEN_OFF
