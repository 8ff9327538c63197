"""Pages behind the event loop: what Django is told of a request, and who may hold a thread."""

import json
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import IncompleteRead
from typing import Any

import pytest
from django.conf import settings

from config.counted import FLUSH_SECONDS
from config.pages import MOST_BODIES, MOST_WAITING, STRANGERS_BODY
from tests.support.happenings import wait_until
from tests.support.web import Web

ACCEPTED = "aB3-accepted"


def shown_as(credential: str) -> list[dict[str, str]]:
    """Give the ways in which a request shows a session or a token."""
    return [
        {"Cookie": f"a=b; __Host-sid-acme-1={credential}; c=d"},
        {"Cookie": f"sessionid={credential}"},
        {"Authorization": f"bearer  {credential}"},
        {"X-Connector-Token": credential},
    ]


OURS, MADE_UP = shown_as(ACCEPTED), shown_as("made-up")


@pytest.fixture(scope="module")
def web(django_db_setup: None) -> Iterator[Web]:
    with Web("tests.config.odd_pages") as running:
        assert running.request("GET", f"/accept?{ACCEPTED}")[0] == 200
        yield running


@pytest.fixture(scope="module")
def web_of_ours(django_db_setup: None) -> Iterator[Web]:
    with Web() as running:
        yield running


def ask(web: Web, method: str = "GET", path: str = "/", *arguments: Any) -> dict[str, Any]:
    status, said = web.request(method, path, *arguments)
    assert status == 200, said
    found: dict[str, Any] = json.loads(said)
    return found


def test_a_request_is_described_as_wsgi_does(web: Web) -> None:
    seen = ask(web, "POST", "/a%20b/%C3%A9%2F?q=%C3%A9&x", b"body", {"Content-Type": "text/x", "Host": "a.example"})
    assert (seen["REQUEST_METHOD"], seen["PATH_INFO"], seen["SCRIPT_NAME"]) == (
        "POST",
        "/a b/é/".encode().decode("latin-1"),
        "",
    )
    assert (seen["QUERY_STRING"], seen["CONTENT_TYPE"], seen["HTTP_HOST"]) == ("q=%C3%A9&x", "text/x", "a.example")
    assert (seen["CONTENT_LENGTH"], seen["body"], seen["REMOTE_ADDR"]) == ("4", "body", "127.0.0.1")
    assert seen["wsgi.url_scheme"] == "http" and "HTTP_CONTENT_LENGTH" not in seen


def test_a_body_in_chunks_has_its_length_when_django_sees_it(web: Web) -> None:
    seen = ask(web, "POST", "/", (part for part in (b"one ", b"two ", b"three")))
    assert (seen["CONTENT_LENGTH"], seen["body"]) == ("13", "one two three")
    assert "HTTP_TRANSFER_ENCODING" not in seen


def test_no_header_with_underscores_passes_for_what_the_proxy_says(web: Web) -> None:
    headers = {"X_Forwarded_For": "6.6.6.6", "X-Forwarded_Proto": "https", "X-Forwarded-For": "203.0.113.1"}
    seen = ask(web, "GET", "/", b"", headers)
    assert seen["HTTP_X_FORWARDED_FOR"] == "203.0.113.1" and "HTTP_X_FORWARDED_PROTO" not in seen


def test_a_header_that_comes_twice_is_one(web: Web) -> None:
    twice = b"X-A: 1\r\nx-a: 2\r\nCookie: a=1\r\nCookie: b=2\r\n"
    with (
        web.raw(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + twice + b"\r\n") as one,
        one.makefile("rb") as answer,
    ):
        said = answer.read()
    seen = json.loads(said.partition(b"\r\n\r\n")[2])
    assert (seen["HTTP_X_A"], seen["HTTP_COOKIE"]) == ("1,2", "a=1; b=2")
    assert said.count(b"x-one") == 2


def test_bytes_that_are_no_text_hurt_nobody(web: Web) -> None:
    with web.raw(b"GET /%FF?q=\xc3\xa9 HTTP/1.1\r\nHost: a\r\nX-A: \xe9\r\nConnection: close\r\n\r\n") as one:
        assert one.recv(20).startswith((b"HTTP/1.1 200", b"HTTP/1.1 400"))
    assert ask(web)


def test_a_page_that_raises_is_a_500_and_costs_no_thread(web: Web) -> None:
    assert [web.request("GET", "/raise")[0] for _ in range(5)] == [500] * 5
    assert "a page's own fault" in web.said() and ask(web)


def test_a_body_that_trickles_holds_no_thread(web: Web) -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n"
    slow = [web.raw(head + b"begun") for _ in range(8)]
    assert [ask(web)["REQUEST_METHOD"] for _ in range(10)] == ["GET"] * 10
    for each in slow:
        each.close()


def test_a_client_that_does_not_read_holds_no_thread_for_what_fits(web: Web) -> None:
    slow = [web.raw(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n") for _ in range(8)]
    assert ask(web)
    for each in slow:
        each.close()


def test_a_client_that_goes_away_gives_its_thread_back_and_the_page_is_told(web: Web) -> None:
    before = len(ask(web, "GET", "/closed"))
    for _ in range(4):
        with web.raw(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n") as one:
            one.recv(1000)
    wait_until(lambda: len(ask(web, "GET", "/closed")) == before + 4)


def test_a_client_that_stays_and_does_not_read_is_given_up_and_costs_little_memory(web: Web) -> None:
    before = web.memory
    slow = [web.raw(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n") for _ in range(2)]
    time.sleep(2)
    assert web.memory - before < 16  # of 128 that they asked for
    time.sleep(10)
    began = time.monotonic()
    assert ask(web) and time.monotonic() - began < 3
    for each in slow:
        each.close()


def test_a_large_response_comes_whole(web: Web) -> None:
    status, said = web.request("GET", "/large")
    assert status == 200 and len(said) == 64 * 1024 * 1024


def test_a_response_that_breaks_off_is_not_taken_for_whole(web: Web) -> None:
    with pytest.raises(IncompleteRead):
        web.request("GET", "/broken")
    assert ask(web)


def test_while_all_threads_are_busy_some_wait_and_the_rest_are_told(web: Web) -> None:
    hanging = [web.raw(b"GET /sleep HTTP/1.1\r\nHost: a\r\n\r\n") for _ in range(10)]
    with ThreadPoolExecutor(1) as pool:
        began = time.monotonic()
        assert pool.submit(web.request, "GET", "/").result()[0] == 503
        assert 9 < time.monotonic() - began < 13
    assert web.request("GET", "/healthz")[0] == 200
    for each in hanging:
        each.close()
    wait_until(lambda: web.request("GET", "/")[0] == 200, seconds=15)


def test_of_those_that_wait_there_are_so_many_and_the_next_is_told_at_once(django_db_setup: None) -> None:
    with Web("tests.config.odd_pages", MOST_WAITING="1") as web:
        for _ in range(6):
            web.raw(b"GET /sleep HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(0.5)
        began = time.monotonic()
        assert web.request("GET", "/")[0] == 503 and time.monotonic() - began < 1


@pytest.mark.parametrize("length", [STRANGERS_BODY + 1, 10**12, 10**30])
def test_a_body_larger_than_a_pages_is_refused_before_it_is_read(web: Web, length: int) -> None:
    with web.raw(f"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n".encode()) as one:
        assert one.recv(20).startswith((b"HTTP/1.1 413", b"HTTP/1.1 400"))


def test_who_shows_a_credential_may_send_our_largest_form_also_when_they_come_first_and_a_stranger_a_sign_in(
    web: Web,
) -> None:
    form = b"x" * settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    assert web.request("POST", "/", form[:STRANGERS_BODY])[0] == 200
    for shown in (*OURS, *MADE_UP):
        assert web.request("POST", "/", form, shown)[0] == 200
        assert web.request("POST", "/", form + b"x", shown)[0] == 413


def test_strangers_bodies_leave_memory_to_who_is_known(web: Web) -> None:
    form = b"x" * settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    head = f"POST /sleep HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer made-up\r\nContent-Length: {len(form)}\r\n\r\n"
    waiting = [web.raw(head.encode() + form) for _ in range(MOST_BODIES // len(form))]
    time.sleep(0.2)
    assert web.request("POST", "/", form, MADE_UP[0])[0] == 503
    assert web.request("POST", "/", form, OURS[0])[0] == 200
    for each in waiting:
        each.close()
    wait_until(lambda: web.request("GET", "/")[0] == 200, seconds=15)


@pytest.mark.parametrize("shown", [{"Cookie": "a=b; csrftoken=c"}, *MADE_UP], ids=str)
def test_strangers_share_a_few_threads_whatever_they_make_up_and_leave_the_rest_to_people_and_their_systems(
    web: Web, shown: dict[str, str]
) -> None:
    ((name, value),) = shown.items()
    strangers = [web.raw(f"GET /sleep HTTP/1.1\r\nHost: a\r\n{name}: {value}\r\n\r\n".encode()) for _ in range(6)]
    time.sleep(0.2)
    began = time.monotonic()
    assert [web.request("GET", "/", b"", ours)[0] for ours in OURS] == [200] * 4 and time.monotonic() - began < 1.5
    for each in strangers:
        each.close()
    wait_until(lambda: web.request("GET", "/")[0] == 200, seconds=15)


def test_many_strangers_who_wait_leave_room_for_who_is_known(web: Web) -> None:
    sleeping = [web.raw(b"GET /sleep HTTP/1.1\r\nHost: a\r\n\r\n") for _ in range(MOST_WAITING + 2)]
    time.sleep(0.2)
    assert web.request("GET", "/")[0] == 503
    assert web.request("GET", "/", b"", OURS[0])[0] == 200
    for each in sleeping:
        each.close()
    wait_until(lambda: web.request("GET", "/")[0] == 200, seconds=15)


@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=x", " Multipart/Form-Data", "multipart/mixed"])
def test_a_multipart_body_is_refused_before_it_is_read(web: Web, kind: str) -> None:
    for ours in ("", "Cookie: __Host-sid-a=b\r\n"):
        head = f"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: {kind}\r\n{ours}Content-Length: 1000\r\n\r\n"
        with web.raw(head.encode()) as one:
            assert one.recv(20).startswith(b"HTTP/1.1 415")


def test_what_a_stranger_sends_behind_a_request_is_not_worked_on(web: Web) -> None:
    request = b"GET / HTTP/1.1\r\nHost: a\r\n%s\r\n"
    known, made_up = (f"Authorization: Bearer {token}\r\n".encode() for token in (ACCEPTED, "made-up"))
    for ours, answered in ((b"", 1), (made_up, 1), (known, 5)):
        with web.raw(request % ours * 5) as one:
            one.settimeout(2)
            said = b""
            with suppress(TimeoutError, ConnectionResetError):
                while part := one.recv(65536):
                    said += part
        assert said.count(b"HTTP/1.1 200") == answered


def test_refusals_of_django_are_counted_together_without_their_tracebacks(web_of_ours: Web) -> None:
    web = web_of_ours
    too_many = b"&".join(b"a%d=b" % number for number in range(1100))
    form = {"Content-Type": "application/x-www-form-urlencoded", "Cookie": "csrftoken=" + "a" * 32}
    for _ in range(20):
        assert web.request("GET", "/sf/start", b"", {"Host": "a b"})[0] == 400
        assert web.request("POST", "/admin/login/", too_many, form)[0] == 400
    wait_until(lambda: web.said().count("pages refused") >= 2)
    time.sleep(FLUSH_SECONDS + 0.5)
    lines = [json.loads(line) for line in web.said().splitlines() if "pages refused" in line]
    counts = Counter[str]()
    for line in lines:
        counts[line["reason"]] += line["count"]
    assert counts == {"DisallowedHost": 20, "TooManyFieldsSent": 20} and len(lines) <= 8
    assert "Traceback" not in web.said() and not any('"level": "error"' in line for line in web.said().splitlines())


def test_what_is_there_from_the_start_is_not_looked_through_for_garbage(django_db_setup: None) -> None:
    """Some 300,000 objects: while thousands of connections came, that alone stopped the door for half a second."""
    with Web("tests.config.looked_through") as web:
        status, count = web.request("GET", "/looked-through")
    assert status == 200 and int(count) < 20_000


def test_the_description_of_the_api_is_the_same_whatever_is_asked_of_it(web_of_ours: Web) -> None:
    with ThreadPoolExecutor(3) as pool:
        first, *others = pool.map(lambda _: web_of_ours.request("GET", "/api/schema/"), range(8))
    assert others == [first] * 7  # also to those who were the first to ask
    assert first[0] == 200 and b"/api/v1/conversations:" in first[1]
    for query in ("version=%00", "version=%0d%0aa", "lang=%00", "format=%00", "version=7"):
        assert web_of_ours.request("GET", f"/api/schema/?{query}") == first
