"""Access tokens on an event loop: one login an org, and an org whose login hangs costs nobody else anything."""

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any

from connector.aio import Caller
from connector.http import Answer, ApiError, AuthenticationFailed, Call, ServiceUnavailable
from connector.salesforce.auth import AccessToken
from tests.connector.loop import LAG, OK, call_to, failure, with_caller
from tests.connector.upstream import Behaviour, Upstream, answer

Start = Callable[[Behaviour], Upstream]


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
