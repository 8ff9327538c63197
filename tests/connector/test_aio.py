"""Calls on an event loop, over real sockets: one total time, whom a name leads to, and what one far side costs others."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from connector import aio
from connector.aio import Caller
from connector.http import (
    Answer,
    ApiClient,
    ApiError,
    AuthenticationFailed,
    Call,
    PrivateAddress,
    ServiceUnavailable,
    TokenSource,
    addresses,
)
from connector.salesforce.auth import AccessToken
from tests.connector.upstream import Behaviour, Upstream, answer, drip, hang_up, replies, wait

T = TypeVar("T")
Start = Callable[[Behaviour], Upstream]
LAG = 0.8  # seconds that a busy machine may take to notice that time is over
OK = replies(answer(200, '{"taken": true}'))


def call_to(url: str, *, tokens: TokenSource | None = None, method: str = "POST", path: str = "/a") -> Call[dict[str, Any]]:
    client = ApiClient(url, allow_local="127.0.0.1" in url or "localhost" in url)
    client.tokens = tokens
    return Call(client, method, path, {"Content-Type": "application/json"}, b"{}", lambda answer: answer.body)


def with_caller(work: Callable[[Caller], Awaitable[T]]) -> T:
    async def run() -> T:
        caller = Caller()
        try:
            return await work(caller)
        finally:
            await caller.close()

    return asyncio.run(run())


async def failure(caller: Caller, call: Call[Any], seconds: float = 5.0) -> tuple[ApiError, float]:
    """Make a call that fails, and give the error and how long it took."""
    began = time.monotonic()
    with pytest.raises(ApiError) as caught:
        await caller.run(call, seconds=seconds)
    return caught.value, time.monotonic() - began


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


# access tokens


class Logins:
    """A source of tokens whose logins take a while or hang; it counts them."""

    def __init__(self, key: str, *, seconds: float = 0.0, fails: ApiError | None = None) -> None:
        self.key, self.seconds, self.fails = key, seconds, fails
        self.token: AccessToken | None = None
        self.logins, self.under_way, self.most_under_way = 0, 0, 0

    def ready(self) -> AccessToken | None:
        return self.token

    def current(self) -> AccessToken:
        return self.token or self.login()

    def renew(self, refused: AccessToken) -> AccessToken:
        return self.token if self.token and self.token != refused else self.login()

    def login(self) -> AccessToken:
        self.logins += 1
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        time.sleep(self.seconds)
        self.under_way -= 1
        if self.fails:
            raise self.fails
        self.token = AccessToken(f"token {self.logins}", "https://acme.my.salesforce.com")
        return self.token


def test_a_login_that_hangs_ends_exactly_with_the_time_and_is_not_in_doubt(upstream: Start) -> None:
    server = upstream(OK)
    error, took = with_caller(lambda caller: failure(caller, call_to(server.url, tokens=Logins("acme", seconds=2)), 0.4))
    assert 0.4 <= took < 0.4 + LAG
    assert (error.message, error.in_doubt) == ("no access token in time", False)
    assert not server.requests


def test_hundreds_of_orgs_whose_login_hangs_delay_nobody_else(upstream: Start) -> None:
    server = upstream(OK)
    hanging = [Logins(f"org {number}", seconds=3) for number in range(300)]
    healthy = Logins("healthy", seconds=0.02)

    async def work(caller: Caller) -> float:
        stuck = [
            asyncio.create_task(failure(caller, call_to(server.url, tokens=tokens), 2.0))
            for tokens in hanging
            for _ in range(3)
        ]
        await asyncio.sleep(0.1)
        began = time.monotonic()
        for _ in range(20):
            assert await caller.run(call_to(server.url, tokens=healthy)) == {"taken": True}
        took = time.monotonic() - began
        await asyncio.gather(*stuck)
        return took

    assert with_caller(work) < 1
    assert healthy.logins == 1
    assert {each.most_under_way for each in hanging} == {1}


def test_all_calls_of_an_org_share_one_login(upstream: Start) -> None:
    server, tokens = upstream(OK), Logins("acme", seconds=0.1)

    async def work(caller: Caller) -> None:
        await asyncio.gather(*(caller.run(call_to(server.url, tokens=tokens)) for _ in range(50)))

    with_caller(work)
    assert tokens.logins == 1
    assert len(server.requests) == 50


def test_a_token_that_is_refused_to_many_is_renewed_once(upstream: Start) -> None:
    def refuse_the_first(connection: socket.socket) -> None:
        fresh = b"Bearer token 2" in server.requests_by[connection][-1]
        connection.sendall(answer(200, '{"taken": true}') if fresh else answer(401, "{}"))

    def read(got: Answer) -> dict[str, Any]:
        if got.status == 401:
            raise AuthenticationFailed("Salesforce", "refused")
        return got.body

    server, tokens = upstream(refuse_the_first), Logins("acme", seconds=0.05)

    async def work(caller: Caller) -> None:
        calls = [call_to(server.url, tokens=tokens) for _ in range(30)]
        results = await asyncio.gather(
            *(caller.run(Call(each.client, each.method, each.path, each.headers, each.body, read)) for each in calls)
        )
        assert results == [{"taken": True}] * 30

    with_caller(work)
    assert tokens.logins == 2


def test_a_login_that_fails_says_so_to_all_who_wait(upstream: Start) -> None:
    refusal = ServiceUnavailable("Salesforce", "cannot log in now")
    tokens = Logins("acme", seconds=0.05, fails=refusal)

    async def work(caller: Caller) -> None:
        for error, _ in await asyncio.gather(
            *(failure(caller, call_to(upstream(OK).url, tokens=tokens)) for _ in range(5))
        ):
            assert error is refusal

    with_caller(work)
    assert tokens.logins == 1


def test_who_gives_up_waiting_for_a_login_ends_it_for_nobody(upstream: Start) -> None:
    server, tokens = upstream(OK), Logins("acme", seconds=0.3)

    async def work(caller: Caller) -> None:
        impatient = asyncio.create_task(failure(caller, call_to(server.url, tokens=tokens), 0.1))
        assert await caller.run(call_to(server.url, tokens=tokens)) == {"taken": True}
        await impatient

    with_caller(work)
    assert tokens.logins == 1


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
    def slow(connection: socket.socket) -> None:
        time.sleep(0.3)
        connection.sendall(answer(200, '{"taken": true}'))

    server = upstream(slow)

    async def work(caller: Caller) -> float:
        began = time.monotonic()
        await asyncio.gather(*(caller.run(call_to(server.url)) for _ in range(256)))
        return time.monotonic() - began

    assert with_caller(work) < 5  # one after another would take 77 seconds


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
