"""One HTTP client for both platforms: a total deadline per call, one error family, one rule about repeating."""

import ipaddress
import json as json_module
import math
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError
from urllib3.util.ssl_ import create_urllib3_context

CONNECT_SECONDS = 4.0
TOTAL_SECONDS = 14.0  # below the lease of a lane (20 s), so that nobody else carries it while a call is under way
LARGEST_ANSWER = 1 << 20
LOCAL_HOSTS = re.compile(r"localhost|127(\.\d+){3}|::1")

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # how a host without IPv4 reaches one that has nothing else


class ApiError(Exception):
    """A call that did not succeed.

    ``retryable``: sending the same thing again later can help. ``in_doubt``: the far side may have taken it all
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
    """The far side refuses this very request; sending it again cannot help."""


class CustomerMustAct(ApiError):
    """Credentials or set-up are wrong: the customer must act, and what waits goes out afterwards."""

    retryable = True


class AuthenticationFailed(CustomerMustAct):
    """The far side does not accept our credentials; ``description`` is its reason in its own words."""

    def __init__(self, service: str, message: str, *, description: str = "", **facts: Any) -> None:
        super().__init__(service, message, **facts)
        self.description = description


class ServiceUnavailable(ApiError):
    """5xx, a time-out, no connection, or an answer that cannot be read."""

    retryable = True


class RateLimited(ServiceUnavailable):
    """Too many requests; ``retry_after`` says, in seconds, how long to wait."""


def check_address(url: str, *, service: str, hosts: re.Pattern[str], allow_local: bool) -> str:
    """Give the address back without a trailing slash if it may be called.

    :raises AddressRefused: if it is not https on a host of the platform (or, where allowed, anything on this machine)
    """
    try:
        parts = urlsplit(url.strip().rstrip("/"))
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError as exc:
        raise AddressRefused(service, f"the address is not valid: {exc}") from exc
    if parts.username or parts.password or parts.query or parts.fragment:
        raise AddressRefused(service, f"{host or 'the address'} must not carry a user, a query or a fragment")
    if allow_local and parts.scheme in ("http", "https") and LOCAL_HOSTS.fullmatch(host):
        return parts.geturl()
    if parts.scheme != "https" or port is not None or parts.path or not hosts.fullmatch(host):
        raise AddressRefused(service, f"{host or 'the address'} is not an https address of {service}")
    return f"https://{host}"


def why_not_public(address: str) -> str:
    """Say what kind of address it is where it does not belong to the internet; nothing where it does."""
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv6Address):
        in_nat64 = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF) if found in _NAT64 else None
        found = found.ipv4_mapped or found.sixtofour or in_nat64 or found
    for kind in ("unspecified", "loopback", "link_local", "site_local", "multicast", "reserved", "private"):
        if getattr(found, f"is_{kind}", False):
            return kind.replace("_", "-")
    return "" if found.is_global else "private"  # such as those that providers share among customers


class _NotPublic(Exception):
    """A connection led to an address that is none of the internet."""


class _Deadline(threading.local):
    at = math.inf  # of the call under way, by time.monotonic()
    outer = math.inf  # of all calls of a piece of work


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
    kind = why_not_public(plain.getpeername()[0])
    if kind != ("loopback" if LOCAL_HOSTS.fullmatch(host) else ""):
        plain.close()
        raise _NotPublic(kind or "public")
    timeout = plain.gettimeout()
    sock = _DeadlineSocket(plain.family, plain.type, plain.proto, fileno=plain.detach())
    sock.settimeout(timeout)
    return sock


class _Connection(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return _guarded(super()._new_conn(), self.host)


class _SecureConnection(HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        return _guarded(super()._new_conn(), self.host)


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


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: the status, and the body where it is a JSON object (an empty one otherwise)."""

    status: int
    body: dict[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)


class ApiClient:
    """Calls one host. Safe to share between threads: it keeps nothing between two calls.

    :param allow_local: whether that host may be this machine
    :raises AddressRefused: if it is this machine and may not be
    """

    service = "API"
    largest_answer = LARGEST_ANSWER  # in bytes; what is longer counts as an answer without a body

    def __init__(self, base_url: str, *, allow_local: bool = False) -> None:
        if not allow_local and LOCAL_HOSTS.fullmatch(urlsplit(base_url).hostname or ""):
            raise AddressRefused(self.service, "this machine is no address of the platform's")
        self.base_url = base_url

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
        """
        body = None if json is None else json_module.dumps(json).encode()
        if body is not None:
            headers = {**headers, "Content-Type": "application/json"}
        now = time.monotonic()
        _deadline.at = min(now + TOTAL_SECONDS, _deadline.outer)
        if _deadline.at <= now:
            raise ServiceUnavailable(self.service, "no time left to call")
        try:
            # without a session, whose merging of settings, cookies, proxies and .netrc costs as much time as the call; and
            # no redirect is followed, which could lead credentials to another host
            prepared = requests.PreparedRequest()
            prepared.prepare(method, self.base_url + path, dict(headers), files, body if body is not None else data)
            with _adapter.send(prepared, stream=True, timeout=(CONNECT_SECONDS, TOTAL_SECONDS)) as response:
                content = response.raw.read(self.largest_answer, decode_content=True)
                return Answer(response.status_code, _json_object(content), response.headers)
        except _NotPublic as exc:
            host = urlsplit(self.base_url).hostname
            raise PrivateAddress(self.service, f"{host} leads to a {exc} address, so nothing was sent there") from exc
        except requests.ConnectTimeout as exc:
            raise ServiceUnavailable(self.service, "no connection in time") from exc
        except requests.RequestException as exc:
            raise self._no_answer(exc) from exc
        except (HTTPError, OSError) as exc:  # while the body is read
            raise ServiceUnavailable(self.service, f"the answer broke off ({type(exc).__name__})", in_doubt=True) from exc
        finally:
            _deadline.at = math.inf

    def _no_answer(self, exc: requests.RequestException) -> ServiceUnavailable:
        refused = "NewConnectionError" in repr(exc) or "NameResolutionError" in repr(exc)
        if refused or isinstance(exc, requests.exceptions.SSLError):
            return ServiceUnavailable(self.service, "no connection")
        what = "no answer in time" if isinstance(exc, requests.Timeout) else "the connection broke off"
        return ServiceUnavailable(self.service, what, in_doubt=True)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Read ``Retry-After`` in seconds, at most an hour; its rare form of a date counts as absent."""
    value = headers.get("Retry-After", "")
    return min(float(value), 3600.0) if re.fullmatch(r"\d{1,9}(\.\d+)?", value) else None


def _json_object(content: bytes) -> dict[str, Any]:
    try:
        body = json_module.loads(content)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {"list": body}
