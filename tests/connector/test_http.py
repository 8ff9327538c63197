"""The client of both platforms: where it may go, and what it never takes along."""

import json
import re
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from connector import http
from connector.http import (
    AddressRefused,
    ApiClient,
    PrivateAddress,
    ServiceUnavailable,
    addresses,
    check_address,
    retry_after,
    time_limit,
    why_not_public,
)
from connector.infobip.client import HOSTS as INFOBIP_HOSTS
from connector.salesforce.auth import ORG_HOSTS, SCRT_HOSTS


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("https://acme--uat.sandbox.my.salesforce-scrt.com", SCRT_HOSTS),
        ("https://acme-dev-ed.develop.my.salesforce-scrt.com/", SCRT_HOSTS),
        ("https://acme.scratch.my.salesforce.com", ORG_HOSTS),
        ("https://acme.my.salesforce.com", ORG_HOSTS),
        (" https://acme.my.salesforce.com \n", ORG_HOSTS),
        ("https://api.infobip.com", INFOBIP_HOSTS),  # the shared one
        ("https://K2V9.api.infobip.com", INFOBIP_HOSTS),
        ("https://k2v9-xyz.eu.api.infobip.com", INFOBIP_HOSTS),
    ],
)
@pytest.mark.parametrize("allow_local", [False, True])
def test_an_address_of_the_platform_is_allowed_and_written_plainly(
    url: str, hosts: re.Pattern[str], allow_local: bool
) -> None:
    allowed = check_address(url, service="x", hosts=hosts, allow_local=allow_local)
    assert allowed == url.strip().rstrip("/").lower()


@pytest.mark.parametrize(
    "url",
    [
        *(
            "https://acme.my.salesforce-scrt.com.evil.example",
            "https://my.salesforce-scrt.com",
            "https://.my.salesforce-scrt.com",
        ),
        *(
            "https://acme.my.salesforce.com",
            "https://acme.my.salesforce-scrt.com:443",
            "https://acme.my.salesforce-scrt.com:8443",
        ),
        *("http://acme.my.salesforce-scrt.com", "ftp://acme.my.salesforce-scrt.com", "acme.my.salesforce-scrt.com"),
        *("https://user@acme.my.salesforce-scrt.com", "https://user:pass@acme.my.salesforce-scrt.com"),
        *("https://acme.my.salesforce-scrt.com@evil.example", "https://evil.example#acme.my.salesforce-scrt.com"),
        *("https://evil.example?acme.my.salesforce-scrt.com", "https://evil.example/acme.my.salesforce-scrt.com"),
        *(
            "https://acme.my.salesforce-scrt.com?x=1",
            "https://acme.my.salesforce-scrt.com#x",
            "https://acme.my.salesforce-scrt.com/x",
        ),
        *("https://evil.example\\@acme.my.salesforce-scrt.com", "https://acme.my.salesforce-scrt.com\\.evil.example"),
        *(
            "https://acmemy.salesforce-scrt.com",
            "https://acme.my-salesforce-scrt.com",
            "https://acme.mysalesforce-scrt.com",
        ),
        *(
            "https://a.b.my.salesforce-scrt.com",
            "https://-a.my.salesforce-scrt.com",
            "https://acme.my.salesforce-scrt.com.",
        ),
        *(
            "https://acmé.my.salesforce-scrt.com",
            "https://acme%2emy.salesforce-scrt.com",
            "https://acme.my.salesforce-scrt.com%00",
        ),
        *("https://10.0.0.1", "https://169.254.169.254", "https://[fe80::1]", "https://0x7f000001", "https://2130706433"),
        *("https://metadata.google.internal", "https://", "", "/", "javascript:alert(1)"),
    ],
)
@pytest.mark.parametrize("allow_local", [False, True])
def test_any_other_address_is_refused(url: str, allow_local: bool) -> None:
    with pytest.raises(AddressRefused):
        check_address(url, service="Salesforce", hosts=SCRT_HOSTS, allow_local=allow_local)


LOCAL = ["http://127.0.0.1:8000", "https://127.0.0.1", "http://127.1.2.3:1", "http://localhost:8000", "http://[::1]:8000"]


@pytest.mark.parametrize("url", LOCAL)
def test_this_machine_is_an_address_only_where_that_is_allowed(url: str) -> None:
    assert check_address(url, service="x", hosts=SCRT_HOSTS, allow_local=True) == url
    with pytest.raises(AddressRefused):
        check_address(url, service="x", hosts=SCRT_HOSTS, allow_local=False)


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1.evil.example", "http://localhost.evil.example", "http://0.0.0.0", "http://10.0.0.1"),
        *("http://user@127.0.0.1", "http://127.0.0.1?x=1", "http://127.0.0.1@evil.example", "ftp://127.0.0.1"),
    ],
)
def test_what_only_looks_like_this_machine_is_refused(url: str) -> None:
    with pytest.raises(AddressRefused):
        check_address(url, service="x", hosts=SCRT_HOSTS, allow_local=True)


@pytest.mark.parametrize(
    ("header", "seconds"), [("5", 5.0), ("0.5", 0.5), ("3601", 3600.0), ("1e3", None), ("soon", None), ("", None)]
)
def test_the_wait_that_an_answer_asks_for_has_an_end(header: str, seconds: float | None) -> None:
    assert retry_after({"Retry-After": header}) == seconds
    assert retry_after({}) is None


# over a real socket


class Server(ThreadingHTTPServer):
    body = b"{}"
    status = 200
    location = ""
    seen: list[tuple[str, dict[str, str], bytes]]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that has read enough hangs up."""


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            received = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            running.seen.append((self.path, dict(self.headers), received))
            self.send_response(running.status)
            self.send_header("Set-Cookie", "session=abc; Path=/")
            if running.location:
                self.send_header("Location", running.location)
            self.send_header("Content-Length", str(len(running.body)))
            self.end_headers()
            self.wfile.write(running.body)

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

        do_GET = do_POST

    running = Server(("127.0.0.1", 0), Handler)
    running.daemon_threads = True  # kept connections outlive the test
    running.block_on_close = False
    running.seen = []
    thread = threading.Thread(target=running.serve_forever, args=(0.02,))
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def client(server: Server) -> ApiClient:
    return ApiClient(f"http://127.0.0.1:{server.server_port}", allow_local=True)


def test_cookies_are_neither_kept_nor_sent(server: Server) -> None:
    caller = client(server)
    for _ in range(2):
        caller.request("POST", "/a", headers={}, json={})
    assert [("Cookie" in headers) for _, headers, _ in server.seen] == [False, False]


def test_neither_proxies_nor_stored_passwords_of_the_machine_are_used(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert client(server).request("POST", "/a", headers={}, json={}).status == 200
    assert "Authorization" not in server.seen[0][1]


def test_json_goes_out_as_it_is(server: Server) -> None:
    body = {"text": "Grüße 👋\n\u2028", "numbers": [1, 2.5, None, True]}
    client(server).request("POST", "/a?b=c", headers={"X-More": "1"}, json=body)
    ((path, headers, received),) = server.seen
    assert path == "/a?b=c"
    assert (headers["Content-Type"], headers["X-More"]) == ("application/json", "1")
    assert json.loads(received) == body


@pytest.mark.parametrize(
    ("body", "read"),
    [
        (b'{"a": 1}', {"a": 1}),
        (b'[{"a": 1}]', {"list": [{"a": 1}]}),
        (b"7", {"list": 7}),
        (b"null", {"list": None}),
        (b"", {}),
        (b"<html>", {}),
        (b"\xff\xfe", {}),
        (b'{"a": 1', {}),
    ],
)
def test_a_body_is_an_object_or_made_one(server: Server, body: bytes, read: dict[str, Any]) -> None:
    server.body = body
    assert client(server).request("POST", "/a", headers={}).body == read


def test_a_huge_answer_is_not_read_to_its_end(server: Server) -> None:
    server.body = b'"' + b"x" * (2 * http.LARGEST_ANSWER) + b'"'
    answer = client(server).request("POST", "/a", headers={})
    assert (answer.status, answer.body) == (200, {})
    server.body = b'{"a": 1}'
    assert client(server).request("POST", "/a", headers={}).body == {"a": 1}  # and its rest is no one's answer


def test_a_client_says_how_much_it_reads(server: Server) -> None:
    server.body = b'{"a": "' + b"x" * http.LARGEST_ANSWER + b'"}'
    caller = client(server)
    assert caller.request("POST", "/a", headers={}).body == {}
    caller.largest_answer = 2 * http.LARGEST_ANSWER
    assert len(caller.request("POST", "/a", headers={}).body["a"]) == http.LARGEST_ANSWER


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_redirect_is_answered_to_the_caller_and_not_followed(server: Server, method: str, status: int) -> None:
    server.status, server.location = status, f"http://127.0.0.1:{server.server_port}/elsewhere"
    answer = client(server).request(method, "/a", headers={"Authorization": "Bearer secret"})
    assert answer.status == status
    assert [path for path, _, _ in server.seen] == ["/a"]


def test_a_call_for_which_no_time_is_left_is_not_made(server: Server) -> None:
    with time_limit(0), pytest.raises(ServiceUnavailable) as caught:
        client(server).request("POST", "/a", headers={}, json={})
    assert not caught.value.in_doubt
    assert not server.seen
    assert client(server).request("POST", "/a", headers={}, json={}).status == 200  # the limit ended with its work


def test_threads_share_a_client_and_keep_their_own_time(server: Server) -> None:
    caller = client(server)
    found: list[object] = []

    def call() -> None:
        found.append(caller.request("POST", "/a", headers={}, json={}).status)

    threads = [threading.Thread(target=call) for _ in range(8)]
    with time_limit(0):  # this thread's only
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [200] * 8


# whom a name leads to


class Listener:
    """A real listening socket on this machine, which every name leads to; it notes what reaches it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.received: list[bytes] = []
        self.asked = ""
        self.served = threading.Event()
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.thread = threading.Thread(target=self.listen)
        self.thread.start()

        def resolve(host: str, port: int, *_: object, **__: object) -> list[Any]:
            self.asked = host
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", self.port))]

        monkeypatch.setattr(socket, "getaddrinfo", resolve)

    def listen(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                self.received.append(connection.recv(65536))
                self.served.set()

    def close(self) -> list[bytes]:
        """Stop after a connection, and give what each one sent."""
        self.served.wait(5)
        self.socket.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.socket.close()
        return self.received


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    running = Listener(monkeypatch)
    yield running
    if running.thread.is_alive():
        running.close()


@pytest.mark.parametrize("scheme", ["https", "http"])
@pytest.mark.parametrize("allow_local", [False, True])
def test_nothing_is_sent_where_a_name_leads_to_a_private_network(
    listener: Listener, scheme: str, allow_local: bool
) -> None:
    caller = ApiClient(f"{scheme}://evil.my.salesforce.com", allow_local=allow_local)
    with pytest.raises(PrivateAddress) as caught:
        caller.request("POST", "/services/oauth2/token", headers={"Authorization": "Bearer secret"}, json={"a": 1})
    assert isinstance(caught.value, AddressRefused)
    assert str(caught.value) == "API: evil.my.salesforce.com leads to a loopback address, so nothing was sent there"
    assert caught.value.retryable  # what waits is not given up because a resolver is in trouble
    assert not caught.value.in_doubt
    assert listener.asked == "evil.my.salesforce.com"
    assert listener.close() == [b""]


def test_a_name_of_this_machine_may_not_lead_elsewhere(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    monkeypatch.setattr(addresses, "why_not_public", lambda address: "private")
    caller = ApiClient(f"http://localhost:{server.server_port}", allow_local=True)
    with pytest.raises(PrivateAddress, match="localhost leads to a private address"):
        caller.request("POST", "/a", headers={})
    assert not server.seen


def test_a_public_address_is_called(monkeypatch: pytest.MonkeyPatch, listener: Listener) -> None:
    seen: list[str] = []

    def public(address: str) -> str:
        seen.append(address)
        return ""

    monkeypatch.setattr(addresses, "why_not_public", public)
    with pytest.raises(ServiceUnavailable) as caught:  # the listener hangs up without an answer
        ApiClient("http://acme.my.salesforce.com").request("POST", "/a", headers={}, json={})
    assert caught.value.in_doubt
    (received,) = listener.close()
    assert received.startswith(b"POST /a HTTP/1.1\r\nHost: acme.my.salesforce.com\r\n")
    assert seen == ["127.0.0.1"]


@pytest.mark.parametrize("url", LOCAL)
def test_a_client_is_not_built_for_this_machine_unless_that_is_allowed(url: str) -> None:
    assert ApiClient(url, allow_local=True).base_url == url
    with pytest.raises(AddressRefused):
        ApiClient(url)


def test_an_address_is_looked_at_once_a_connection_not_once_a_call(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    looked: list[str] = []

    def look(address: str) -> str:
        looked.append(address)
        return why_not_public(address)

    monkeypatch.setattr(addresses, "why_not_public", look)
    caller = client(server)
    for _ in range(5):
        assert caller.request("POST", "/a", headers={}, json={}).status == 200
    assert looked == ["127.0.0.1"]


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        *(("0.0.0.0", "unspecified"), ("::", "unspecified")),
        *(("127.0.0.1", "loopback"), ("127.255.0.9", "loopback"), ("::1", "loopback"), ("::ffff:127.0.0.1", "loopback")),
        *(("169.254.169.254", "link-local"), ("fe80::1", "link-local"), ("fe80::1%eth0", "link-local")),
        *(("fec0::1", "site-local"), ("224.0.0.1", "multicast"), ("239.1.2.3", "multicast"), ("ff02::1", "multicast")),
        *(("240.0.0.1", "reserved"), ("255.255.255.255", "reserved"), ("::127.0.0.1", "reserved"), ("4000::1", "reserved")),
        *(("10.0.0.1", "private"), ("172.16.0.1", "private"), ("172.31.255.255", "private"), ("192.168.1.1", "private")),
        *(("0.1.2.3", "private"), ("192.0.2.1", "private"), ("198.18.0.1", "private"), ("fd00::1", "private")),
        ("100.64.0.1", "private"),  # shared among a provider's customers
        *(("::ffff:10.0.0.1", "private"), ("::ffff:169.254.169.254", "link-local"), ("2001:db8::1", "private")),
        *(("2002:a00:1::1", "private"), ("64:ff9b::10.0.0.1", "private"), ("64:ff9b:1::8.8.8.8", "reserved")),
        *(("8.8.8.8", ""), ("13.108.0.1", ""), ("2606:4700::1111", ""), ("::ffff:8.8.8.8", ""), ("64:ff9b::8.8.8.8", "")),
    ],
)
def test_an_address_of_no_public_network_is_told(address: str, kind: str) -> None:
    assert why_not_public(address) == kind
