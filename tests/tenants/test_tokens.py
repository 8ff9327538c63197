"""One login at a time per org, over a real Redis; the logins themselves are counted by a stand-in."""

import asyncio
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from pytest_django import Settings

from connector.aio import Caller
from connector.http import ApiError, AuthenticationFailed, Call, ServiceUnavailable, time_limit, transport
from connector.salesforce.auth import AccessToken
from connector.salesforce.interactions import InteractionClient
from tenants import cache, tokens
from tenants.encryption import encrypt
from tenants.tokens import Credentials, OrgTokens
from tests.connector import interaction_client
from tests.connector.upstream import Upstream, answer, replies, wait


class Salesforce:
    """Counts logins, and is as slow as a login may be."""

    def __init__(self) -> None:
        self.logins, self.numbers = 0, count(1)
        self.refuses: ApiError | None = None
        self.seconds = 0.1

    def login(self, *, base_url: str, **_: object) -> AccessToken:
        self.logins += 1
        time.sleep(self.seconds)
        if self.refuses:
            raise self.refuses
        return AccessToken(f"token {next(self.numbers)}", base_url)


@pytest.fixture
def salesforce(monkeypatch: pytest.MonkeyPatch) -> Iterator[Salesforce]:
    stand_in = Salesforce()
    monkeypatch.setattr(tokens, "login", stand_in.login)
    yield stand_in
    cache.with_redis(lambda redis: [redis.delete(key) for key in redis.scan_iter("connector:token:*")], default=[])


def source(username: str = "byoc@acme.example") -> OrgTokens:
    return OrgTokens(Credentials(1, "https://acme.my.salesforce.com", "3MVG9", username, "key"))


def as_another_process() -> None:
    tokens.forget_all()


def test_many_threads_share_one_login(salesforce: Salesforce) -> None:
    mine = source()
    got: list[str] = []
    threads = [threading.Thread(target=lambda: got.append(mine.current().value)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert salesforce.logins == 1 and set(got) == {"token 1"}


def test_another_process_finds_the_token_in_redis_as_ciphertext(salesforce: Salesforce) -> None:
    first = source().current()
    stored = cache.with_redis(lambda redis: redis.get(source().key), default="")
    assert stored and "token" not in stored
    as_another_process()
    assert source().current() == first
    assert salesforce.logins == 1


def test_a_refused_token_is_replaced_once_for_all_who_were_refused_it(salesforce: Salesforce) -> None:
    mine = source()
    old = mine.current()
    assert mine.renew(old).value == "token 2"
    assert mine.renew(old).value == "token 2"
    as_another_process()
    assert source().renew(old).value == "token 2"
    assert salesforce.logins == 2


def test_changed_credentials_have_another_token(salesforce: Salesforce) -> None:
    assert source().current() != source("other@acme.example").current()


def test_a_refusal_is_not_asked_for_again_and_again(salesforce: Salesforce) -> None:
    salesforce.refuses = AuthenticationFailed("Salesforce", "login refused")
    mine = source()
    for _ in range(5):
        with pytest.raises(AuthenticationFailed):
            mine.current()
    assert salesforce.logins == 1


def test_without_redis_each_process_keeps_its_own(
    salesforce: Salesforce, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    monkeypatch.setattr(cache, "_memory", cache._Memory())
    mine = source()
    began = time.monotonic()
    assert mine.current().value == mine.current().value == "token 1"
    assert time.monotonic() - began < 1
    as_another_process()
    assert source().current().value == "token 2"


def test_a_token_is_ready_once_there_is_one_and_nothing_is_asked_for_it(salesforce: Salesforce) -> None:
    mine = source()
    assert mine.ready() is None
    assert salesforce.logins == 0
    token = mine.current()
    assert mine.ready() == source().ready() == token
    as_another_process()
    assert source().ready() is None  # it lies in Redis, and a look there would be waiting


def test_a_token_past_its_time_is_not_ready(salesforce: Salesforce, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "KEPT_SECONDS", 1)
    mine = source()
    assert mine.current() == mine.ready()
    time.sleep(1.1)
    assert mine.ready() is None
    assert mine.current().value == "token 2"


def test_a_thread_waits_for_anothers_login_no_longer_than_its_own_time(
    salesforce: Salesforce, monkeypatch: pytest.MonkeyPatch
) -> None:
    salesforce.seconds = 2.0
    mine = source()
    other = threading.Thread(target=mine.current)
    other.start()
    time.sleep(0.1)
    began = time.monotonic()
    with time_limit(0.3), pytest.raises(ServiceUnavailable, match="no access token in time") as caught:
        mine.current()
    assert time.monotonic() - began < 1
    assert not caught.value.in_doubt
    other.join()


# a Redis that answers, but oddly


@pytest.fixture
def redis() -> Iterator[Any]:
    client = cache.with_redis(lambda redis: redis, default=None)
    yield client
    for each in client.scan_iter("connector:token:*"):
        client.delete(each)


def test_a_process_that_dies_while_it_logs_in_costs_the_others_three_seconds(salesforce: Salesforce, redis: Any) -> None:
    mine = source()
    redis.set(f"{mine.key}:lock", "of a dead process", ex=tokens.LOGIN_SECONDS)
    began = time.monotonic()
    assert mine.current().value == "token 1"
    assert 2.5 < time.monotonic() - began < 5
    assert not redis.exists(f"{mine.key}:lock")  # taken over, and released


def test_a_slow_login_elsewhere_is_waited_for(salesforce: Salesforce, redis: Any) -> None:
    mine = source()
    redis.set(f"{mine.key}:lock", "another process", ex=tokens.LOGIN_SECONDS)

    def arrive() -> None:
        time.sleep(0.5)
        redis.set(mine.key, encrypt("theirs"), ex=60)

    other = threading.Thread(target=arrive)
    other.start()
    assert mine.current().value == "theirs"
    assert salesforce.logins == 0
    other.join()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda redis, key: redis.lpush(key, "a list"),
        lambda redis, key: redis.hset(key, "a", "hash"),
        lambda redis, key: redis.set(key, b"\xff\xfe"),
        lambda redis, key: redis.set(key, "schlüssel"),
        lambda redis, key: redis.set(key, "no ciphertext"),
        lambda redis, key: redis.set(key, ""),
    ],
)
def test_what_lies_under_a_tokens_key_and_is_none_costs_one_login_and_no_other_org(
    salesforce: Salesforce, redis: Any, spoil: Callable[[Any, str], object]
) -> None:
    mine = source()
    spoil(redis, mine.key)
    assert mine.current().value == "token 1"
    assert cache.with_redis(lambda redis: "asked", default="not asked") == "asked"  # nobody takes it for an outage
    as_another_process()
    assert source().current().value == "token 1"
    assert salesforce.logins == 1


def test_what_lies_under_a_locks_key_and_is_none_is_taken_over(salesforce: Salesforce, redis: Any) -> None:
    mine = source()
    redis.lpush(f"{mine.key}:lock", "a list")
    assert mine.current().value == "token 1"
    assert not redis.exists(f"{mine.key}:lock")


ERRORS = [
    "READONLY You can't write against a read only replica.",
    "NOPERM User default has no permissions to run this command",
    "OOM command not allowed when used memory > 'maxmemory'.",
    "LOADING Valkey is loading the dataset in memory",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "MISCONF Valkey is configured to save RDB snapshots, but it's currently unable to persist to disk.",
    "ERR max number of clients reached",
    "NOAUTH Authentication required.",
]


@pytest.mark.parametrize("error", ERRORS)
def test_a_redis_that_refuses_everything_costs_a_login_and_no_time(
    salesforce: Salesforce, settings: Settings, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    def refuse(connection: socket.socket) -> None:
        for name in re.findall(rb"\*\d+\r\n\$\d+\r\n(\w+)", server.requests[-1]):
            opening = {b"HELLO": b"%1\r\n+proto\r\n:3\r\n", b"CLIENT": b"+OK\r\n", b"SELECT": b"+OK\r\n"}
            connection.sendall(opening.get(name, f"-{error}\r\n".encode()))

    server = Upstream(refuse, read=lambda connection: connection.recv(65536))
    settings.REDIS_URL = f"redis://127.0.0.1:{server.port}/0"
    monkeypatch.setattr(cache, "_memory", cache._Memory())
    mine = source()
    began = time.monotonic()
    assert mine.current().value == mine.current().value == "token 1"
    assert mine.renew(mine.current()).value == "token 2"
    assert time.monotonic() - began < 2
    assert server.requests
    server.close()


# a login whose far side hangs


def test_a_login_that_hangs_is_the_orgs_own_trouble_and_leaves_no_doubt(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ALLOW_LOCAL_UPSTREAMS = True
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    hanging = Upstream(wait(20))
    body = '{"access_token": "00D!healthy", "success": true}'
    healthy = Upstream(replies(answer(200, body)))

    def client_of(server: Upstream, org_id: int) -> InteractionClient:
        credentials = Credentials(org_id, server.url, f"3MVG9{org_id}", "byoc@acme.example", pem)
        return interaction_client(OrgTokens(credentials), scrt_url=server.url, allow_local=True)

    def call_of(client: InteractionClient) -> Call[None]:
        return client.acknowledge_call(context="C", conversation="c", end_user="1", acknowledgements=[])

    async def run() -> tuple[float, list[BaseException | None]]:
        caller = Caller()
        stuck = [
            asyncio.create_task(caller.run(call_of(client_of(hanging, number)), seconds=3)) for number in range(100, 200)
        ]
        await asyncio.sleep(0.5)
        began = time.monotonic()
        for _ in range(5):
            await caller.run(call_of(client_of(healthy, 1)))
        took = time.monotonic() - began
        results = await asyncio.gather(*stuck, return_exceptions=True)
        await caller.close()
        return took, results

    took, results = asyncio.run(run())
    assert took < 2
    for each in results:
        assert isinstance(each, ServiceUnavailable)
        assert (each.message, each.in_doubt) == ("no access token in time", False)
    hanging.close()
    healthy.close()


def test_a_login_without_an_answer_leaves_no_doubt_about_the_call(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ALLOW_LOCAL_UPSTREAMS = True
    monkeypatch.setattr(transport, "TOTAL_SECONDS", 0.3)
    server = Upstream(wait(2))
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    with pytest.raises(ServiceUnavailable, match="no answer in time") as caught:
        OrgTokens(Credentials(1, server.url, "3MVG9", "byoc@acme.example", pem)).current()
    assert not caught.value.in_doubt
    server.close()
