"""Calls on an event loop, over real sockets: one total time, whom a name leads to, and what one far side costs others."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from connector import aio
from connector.aio import Caller
from connector.http import (
    ApiError,
    PrivateAddress,
    ServiceUnavailable,
    addresses,
)
from tests.connector.loop import LAG, OK, call_to, failure, with_caller
from tests.connector.upstream import Behaviour, Upstream, answer, drip, hang_up, replies, wait

Start = Callable[[Behaviour], Upstream]


# one total time

HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "behave",
    [wait(3), drip(HEAD, b"X-More: of it\r\n"), drip(HEAD + b"Content-Length: 4000\r\n\r\n", b" ")],
    ids=["silent", "head", "body"],
)
def test_an_answer_that_drips_ends_exactly_with_the_time_and_is_in_doubt(upstream: Start, behave: Behaviour) -> None:
    error, took = with_caller(lambda caller: failure(caller, call_to(upstream(behave).url), 0.4))
    assert 0.4 <= took < 0.4 + LAG
    assert (type(error), error.message, error.in_doubt) == (ServiceUnavailable, "no answer in time", True)


def test_a_connection_that_is_never_made_ends_exactly_with_the_time_and_is_not_in_doubt(full_port: int) -> None:
    error, took = with_caller(lambda caller: failure(caller, call_to(f"http://127.0.0.1:{full_port}"), 0.4))
    assert 0.4 <= took < 0.4 + LAG
    assert (error.message, error.in_doubt) == ("no connection in time", False)


def test_a_handshake_that_hangs_ends_exactly_with_the_time_and_is_not_in_doubt(upstream: Start) -> None:
    url = upstream(OK).url.replace("http:", "https:")  # it waits for a request that TLS does not begin with
    error, took = with_caller(lambda caller: failure(caller, call_to(url), 0.4))
    assert 0.4 <= took < 0.4 + LAG
    assert (error.message, error.in_doubt) == ("no connection in time", False)


def hanging_names(monkeypatch: pytest.MonkeyPatch, *known: str) -> threading.Event:
    """Let every name but these hang until the event is set."""
    go_on, real = threading.Event(), socket.getaddrinfo

    def look(host: str, *args: Any, **kwargs: Any) -> Any:
        if host not in known:
            go_on.wait(10)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return real(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", look)
    return go_on


def test_names_that_hang_end_exactly_with_the_time_and_stop_no_other_name(
    upstream: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = hanging_names(monkeypatch, "localhost")
    server = upstream(OK)

    async def work(caller: Caller) -> None:
        calls = [call_to(f"https://org{number}.my.salesforce.com") for number in range(100)]
        hanging = [asyncio.create_task(failure(caller, call, 0.6)) for call in calls]
        await asyncio.sleep(0.2)
        assert await caller.run(call_to(f"http://localhost:{server.port}")) == {"taken": True}
        for error, took in await asyncio.gather(*hanging):
            assert 0.6 <= took < 0.6 + LAG
            assert (error.message, error.in_doubt) == ("no connection in time", False)

    with_caller(work)
    go_on.set()


def test_callers_of_one_name_share_one_look_at_it(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []

    def look(host: str, *args: Any, **kwargs: Any) -> Any:
        looked.append(host)
        time.sleep(0.05)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look)

    async def work(caller: Caller) -> None:
        for error, _ in await asyncio.gather(*(failure(caller, call_to("https://a.my.salesforce.com")) for _ in range(20))):
            assert (error.message, error.in_doubt) == ("no connection", False)

    with_caller(work)
    assert looked == ["a.my.salesforce.com"]


# whom a name leads to


def resolve_to(monkeypatch: pytest.MonkeyPatch, *found: str) -> None:
    """Let each name lead to these addresses."""

    def look(host: str, port: int, *_: object, **__: object) -> list[Any]:
        families = [socket.AF_INET6 if ":" in each else socket.AF_INET for each in found]
        return [(family, socket.SOCK_STREAM, 6, "", (each, port)) for family, each in zip(families, found, strict=True)]

    monkeypatch.setattr(socket, "getaddrinfo", look)


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        *(
            ("127.0.0.1", "loopback"),
            ("10.0.0.1", "private"),
            ("169.254.169.254", "link-local"),
            ("0.0.0.0", "unspecified"),
        ),
        *(("::1", "loopback"), ("fd00::1", "private"), ("64:ff9b::7f00:1", "loopback"), ("::ffff:10.0.0.1", "private")),
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_nothing_is_sent_where_a_name_leads_to_a_private_network(
    monkeypatch: pytest.MonkeyPatch, upstream: Start, found: str, kind: str, scheme: str
) -> None:
    server = upstream(OK)
    resolve_to(monkeypatch, found)
    call = call_to(f"{scheme}://evil.my.salesforce.com:{server.port}")
    error, took = with_caller(lambda caller: failure(caller, call))
    assert str(error) == f"API: evil.my.salesforce.com leads to a {kind} address, so nothing was sent there"
    assert (type(error), error.in_doubt, error.retryable) == (PrivateAddress, False, True)
    assert not server.connections  # not even a connection was made
    assert took < 1


@pytest.mark.parametrize(
    "literal", ["10.0.0.1", "169.254.169.254", "[fd00::1]", "[::ffff:10.0.0.1]", "0.0.0.0", "2130706433"]
)
def test_a_literal_address_of_a_private_network_is_not_called(literal: str) -> None:
    error, took = with_caller(lambda caller: failure(caller, call_to(f"http://{literal}:9")))
    assert not error.in_doubt and isinstance(error, PrivateAddress | ServiceUnavailable)
    assert took < 1


def test_a_name_of_this_machine_may_not_lead_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, "192.0.2.1")
    error, _ = with_caller(lambda caller: failure(caller, call_to("http://localhost:9")))
    assert isinstance(error, PrivateAddress) and "localhost leads to a private address" in error.message


def test_a_name_is_looked_at_again_for_each_connection(monkeypatch: pytest.MonkeyPatch, upstream: Start) -> None:
    """A resolver that answers well at first and with a private address afterwards gains nothing."""
    server = upstream(hang_up_after(answer(200, '{"taken": true}')))
    monkeypatch.setattr(aio, "NAMES_SECONDS", 0)
    monkeypatch.setattr(addresses, "why_not_public", lambda address: "" if address == "127.0.0.1" else "private")

    async def work(caller: Caller) -> None:
        resolve_to(monkeypatch, "127.0.0.1")  # public, for this test
        call = call_to(f"http://acme.my.salesforce.com:{server.port}")
        assert await caller.run(call) == {"taken": True}
        await asyncio.sleep(0.2)  # it hangs up
        resolve_to(monkeypatch, "127.0.0.2")
        error, _ = await failure(caller, call)
        assert isinstance(error, PrivateAddress)

    with_caller(work)
    assert len(server.requests) == 1


def hang_up_after(raw: bytes) -> Behaviour:
    def behave(connection: socket.socket) -> None:
        connection.sendall(raw)
        hang_up(connection)

    return behave


def test_of_several_addresses_only_the_public_ones_are_tried(monkeypatch: pytest.MonkeyPatch, upstream: Start) -> None:
    server = upstream(OK)
    monkeypatch.setattr(addresses, "why_not_public", lambda address: "" if address == "127.0.0.1" else "private")
    resolve_to(monkeypatch, "127.0.0.2", "127.0.0.1")
    call = call_to(f"http://acme.my.salesforce.com:{server.port}")
    assert with_caller(lambda caller: caller.run(call)) == {"taken": True}


# connections that are kept


def test_connections_are_kept_and_shared(upstream: Start) -> None:
    server = upstream(OK)

    async def work(caller: Caller) -> None:
        for _ in range(10):
            await caller.run(call_to(server.url))

    with_caller(work)
    assert (len(server.requests), len(server.connections)) == (10, 1)


@pytest.mark.parametrize("heard", [True, False], ids=["heard of", "not heard of yet"])
def test_a_connection_that_was_closed_while_idle_costs_no_doubt(upstream: Start, heard: bool) -> None:
    server = upstream(OK)

    async def work(caller: Caller) -> None:
        await caller.run(call_to(server.url))
        hang_up(server.connections[0])
        if heard:
            await asyncio.sleep(0.05)
        else:
            time.sleep(0.05)  # its end is here, and this loop has not looked
        assert await caller.run(call_to(server.url)) == {"taken": True}

    with_caller(work)
    assert (len(server.requests), len(server.connections)) == (2, 2)


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_a_connection_that_ends_under_a_request_leaves_doubt_and_nothing_is_sent_again(
    upstream: Start, method: str
) -> None:
    server = upstream(OK)

    async def work(caller: Caller) -> ApiError:
        await caller.run(call_to(server.url))
        server.behave = hang_up
        return (await failure(caller, call_to(server.url, method=method)))[0]

    error = with_caller(work)
    assert (error.message, error.in_doubt) == ("the connection broke off", True)
    assert len(server.requests) == 2


def test_what_is_left_of_a_call_that_was_given_up_is_nobodys_answer(upstream: Start) -> None:
    def late(connection: socket.socket) -> None:
        number = len(server.requests)
        time.sleep(0.2 if number == 1 else 0)
        connection.sendall(answer(200, json.dumps({"number": number})))

    server = upstream(late)

    async def work(caller: Caller) -> None:
        await failure(caller, call_to(server.url), 0.1)
        given_up = asyncio.create_task(caller.run(call_to(server.url)))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.sleep(0.2)
        assert (await caller.run(call_to(server.url)))["number"] == len(server.requests)

    with_caller(work)


def test_hundreds_of_calls_run_at_once_to_one_host(upstream: Start) -> None:
    all_here = threading.Barrier(256, timeout=20)  # nobody is answered before everybody has asked

    def meet(connection: socket.socket) -> None:
        all_here.wait()
        connection.sendall(answer(200, '{"taken": true}'))

    server = upstream(meet)

    async def work(caller: Caller) -> None:
        await asyncio.gather(*(caller.run(call_to(server.url), seconds=20) for _ in range(256)))

    with_caller(work)
    assert len(server.connections) == 256


# what is never taken along


def test_cookies_are_neither_kept_nor_sent(upstream: Start) -> None:
    server = upstream(replies(answer(200, "{}", "Set-Cookie: session=abc; Path=/")))

    async def work(caller: Caller) -> None:
        for _ in range(2):
            await caller.run(call_to(server.url))

    with_caller(work)
    assert not any(b"cookie" in request.lower() for request in server.requests)


def test_neither_proxies_nor_stored_passwords_of_the_machine_are_used(
    upstream: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server = upstream(OK)
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert with_caller(lambda caller: caller.run(call_to(server.url))) == {"taken": True}
    assert b"authorization" not in server.requests[0].lower()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_redirect_is_not_followed(upstream: Start, status: int, method: str) -> None:
    server = upstream(lambda connection: connection.sendall(answer(status, "{}", f"Location: {server.url}/elsewhere")))
    assert with_caller(lambda caller: caller.run(call_to(server.url, method=method))) == {}
    assert len(server.requests) == 1
