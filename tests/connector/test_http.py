"""The client of both platforms: where it may go, and what it never takes along."""

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from connector import http
from connector.http import AddressRefused, ApiClient, ServiceUnavailable, check_address, retry_after, time_limit
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
            self.send_response(200)
            self.send_header("Set-Cookie", "session=abc; Path=/")
            self.send_header("Content-Length", str(len(running.body)))
            self.end_headers()
            self.wfile.write(running.body)

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

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
    return ApiClient(f"http://127.0.0.1:{server.server_port}")


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
