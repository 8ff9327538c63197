"""Time and addresses, over real sockets: what a far side does to us, and where we go at all."""

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from connector import http
from connector.http import AddressRefused, ApiClient, ServiceUnavailable, check_address, time_limit
from connector.infobip.client import HOSTS as INFOBIP
from connector.salesforce.auth import ORG_HOSTS, SCRT_HOSTS

Behaviour = Callable[[socket.socket], None]


@pytest.fixture
def far_side() -> Iterator[Callable[[Behaviour], str]]:
    """Listen on this machine, and behave as told to each connection."""
    listeners: list[socket.socket] = []

    def listen(behave: Behaviour) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    try:
                        behave(connection)
                    except OSError:
                        continue

        threading.Thread(target=serve, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield listen
    for listener in listeners:
        listener.close()


def request(url: str) -> http.Answer:
    return ApiClient(url, allow_local=True).request("POST", "/", headers={}, json={})


def trickle(piece: bytes) -> Behaviour:
    def behave(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        for _ in range(100):
            connection.sendall(piece)
            time.sleep(0.1)

    return behave


def trickle_the_body(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
    for _ in range(100):
        connection.sendall(b" ")
        time.sleep(0.1)


@pytest.mark.parametrize("behave", [trickle(b"X-More: of it\r\n"), trickle_the_body], ids=["headers", "body"])
def test_an_answer_that_trickles_ends_with_the_total_time(
    far_side: Callable[[Behaviour], str], behave: Behaviour, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "TOTAL_SECONDS", 0.6)
    began = time.monotonic()
    with pytest.raises(ServiceUnavailable) as caught:
        request(far_side(behave))
    assert 0.4 < time.monotonic() - began < 1.5
    assert caught.value.in_doubt


def test_all_calls_of_a_piece_of_work_share_its_time(far_side: Callable[[Behaviour], str]) -> None:
    url = far_side(lambda connection: time.sleep(5))
    began = time.monotonic()
    with time_limit(0.5):
        for _ in range(3):
            with pytest.raises(ServiceUnavailable):
                request(url)
    assert time.monotonic() - began < 1.5


def test_a_limit_inside_another_neither_lengthens_nor_ends_it(far_side: Callable[[Behaviour], str]) -> None:
    url = far_side(lambda connection: time.sleep(5))
    began = time.monotonic()
    with time_limit(0.5):
        with time_limit(60), pytest.raises(ServiceUnavailable):
            request(url)
        with pytest.raises(ServiceUnavailable, match="no time left"):
            request(url)
    assert time.monotonic() - began < 1.5


def test_a_connection_refused_leaves_no_doubt() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.raises(ServiceUnavailable) as caught:
        request(f"http://127.0.0.1:{port}")
    assert not caught.value.in_doubt


def test_a_connection_that_breaks_off_leaves_doubt(far_side: Callable[[Behaviour], str]) -> None:
    with pytest.raises(ServiceUnavailable) as caught:
        request(far_side(lambda connection: None))
    assert caught.value.in_doubt


def test_a_redirect_is_not_followed(far_side: Callable[[Behaviour], str]) -> None:
    elsewhere = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    assert request(far_side(lambda connection: connection.sendall(elsewhere))).status == 302


def test_an_answer_that_is_not_json_is_no_body(far_side: Callable[[Behaviour], str]) -> None:
    page = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 6\r\n\r\n<html>"
    answer = request(far_side(lambda connection: connection.sendall(page)))
    assert (answer.status, answer.body) == (502, {})


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("https://acme.my.salesforce.com", ORG_HOSTS),
        ("https://acme--uat.sandbox.my.salesforce.com/", ORG_HOSTS),
        ("https://acme-dev-ed.develop.my.salesforce.com", ORG_HOSTS),
        ("https://ACME.my.salesforce-scrt.com", SCRT_HOSTS),
        ("https://xyz.api.infobip.com", INFOBIP),
    ],
)
def test_the_platforms_own_addresses_are_allowed(url: str, hosts: re.Pattern[str]) -> None:
    assert check_address(url, service="x", hosts=hosts, allow_local=False) == url.rstrip("/").lower()


@pytest.mark.parametrize(
    "url",
    [
        "http://acme.my.salesforce.com",
        "https://acme.my.salesforce.com.evil.example",
        "https://evil.example/acme.my.salesforce.com",
        "https://user@acme.my.salesforce.com",
        "https://acme.my.salesforce.com@evil.example",
        "https://acme.my.salesforce.com:8443",
        "https://acme.my.salesforce.com/path",
        "https://acme.my.salesforce.com?x=1",
        "https://evilmy.salesforce.com",
        "https://127.0.0.1",
        "https://[::1]",
        "https://169.254.169.254",
        "ftp://acme.my.salesforce.com",
        "https://",
        "",
    ],
)
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(AddressRefused):
        check_address(url, service="Salesforce", hosts=ORG_HOSTS, allow_local=False)


def test_this_machine_is_reached_only_where_that_is_allowed() -> None:
    url = "http://127.0.0.1:8000"
    assert check_address(url, service="x", hosts=ORG_HOSTS, allow_local=True) == url
    for evil in ("http://evil.example", "http://127.0.0.1.evil.example", "http://10.0.0.1"):
        with pytest.raises(AddressRefused):
            check_address(evil, service="x", hosts=ORG_HOSTS, allow_local=True)
