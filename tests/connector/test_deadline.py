"""Time and addresses, over real sockets: what a far side does to us, and where we go at all."""

import re
import time
from collections.abc import Callable

import pytest

from connector import http
from connector.http import AddressRefused, ApiClient, ServiceUnavailable, check_address, time_limit, transport
from connector.infobip.client import HOSTS as INFOBIP
from connector.salesforce.auth import ORG_HOSTS, SCRT_HOSTS
from tests.connector.upstream import Behaviour, Upstream, drip, wait

Start = Callable[[Behaviour], Upstream]
HEAD = b"HTTP/1.1 200 OK\r\n"


def request(url: str) -> http.Answer:
    return ApiClient(url, allow_local=True).request("POST", "/", headers={}, json={})


@pytest.mark.parametrize(
    "behave",
    [drip(HEAD, b"X-More: of it\r\n"), drip(HEAD + b"Content-Length: 4000\r\n\r\n", b" ")],
    ids=["headers", "body"],
)
def test_an_answer_that_drips_ends_with_the_total_time(
    upstream: Start, behave: Behaviour, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "TOTAL_SECONDS", 0.6)
    began = time.monotonic()
    with pytest.raises(ServiceUnavailable) as caught:
        request(upstream(behave).url)
    assert 0.4 < time.monotonic() - began < 1.5
    assert (caught.value.message, caught.value.in_doubt) == ("no answer in time", True)


def test_all_calls_of_a_piece_of_work_share_its_time(upstream: Start) -> None:
    url = upstream(wait(5)).url
    began = time.monotonic()
    with time_limit(0.5):
        for _ in range(3):
            with pytest.raises(ServiceUnavailable):
                request(url)
    assert time.monotonic() - began < 1.5


def test_a_connection_that_is_never_made_ends_with_the_time_of_the_work(full_port: int) -> None:
    began = time.monotonic()
    with time_limit(0.5), pytest.raises(ServiceUnavailable) as caught:
        request(f"http://127.0.0.1:{full_port}")
    assert time.monotonic() - began < 1.5
    assert (caught.value.message, caught.value.in_doubt) == ("no connection in time", False)


def test_a_limit_inside_another_neither_lengthens_nor_ends_it(upstream: Start) -> None:
    url = upstream(wait(5)).url
    began = time.monotonic()
    with time_limit(0.5):
        with time_limit(60), pytest.raises(ServiceUnavailable):
            request(url)
        with pytest.raises(ServiceUnavailable, match="no time left"):
            request(url)
    assert time.monotonic() - began < 1.5


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
