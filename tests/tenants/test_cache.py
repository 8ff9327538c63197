"""What Redis answers never raises and never waits; and what one key holds is nobody else's trouble."""

import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import redis
from pytest_django import Settings

from devstack.ports import free_port
from tenants import cache


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> Iterator[Any]:
    monkeypatch.setattr(cache, "_memory", cache._Memory())
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        yield client
        client.delete("connector:odd", "connector:even", "connector:old-secret:1", _refused(), "connector:automatic:1")


def _refused() -> str:
    return f"connector:refused:{datetime.now(UTC):%Y-%m-%d}"


def test_a_key_of_another_type_fails_for_itself_only(fresh: Any) -> None:
    fresh.set("connector:odd", "a text")
    for _ in range(3):
        assert cache.with_redis(lambda redis: redis.hgetall("connector:odd"), default={}) == {}
        assert cache.with_redis(lambda redis: redis.set("connector:even", "1"), default=None) is True


def test_a_value_that_is_not_what_was_written_is_as_none(fresh: Any) -> None:
    fresh.hset(_refused(), mapping={"1:wrong signature": "many", "1:no signature": 7})
    assert cache.refusals_today(1) == {}
    fresh.delete(_refused())
    fresh.hset(_refused(), mapping={"1:no signature": 7, "2:no signature": "many"})
    assert cache.refusals_today(1) == {"no signature": 7}
    fresh.set(_refused(), "a text")
    cache.count_refusal(1, "no signature")
    assert cache.refusals_today(1) == {}
    fresh.set("connector:old-secret:1", b"\xff")
    assert cache.old_secret_used_at(1) == ""
    fresh.rpush("connector:automatic:1", "x")
    assert cache.automatic_seen_at(1) == ""


def test_a_count_that_cannot_be_kept_lets_everybody_in(fresh: Any) -> None:
    key = f"connector:uses:odd:{datetime.now(UTC):%Y-%m-%dT%H}"
    fresh.set(key, "many", ex=60)
    assert cache.allowed("odd", 0)


def test_while_redis_does_not_answer_one_caller_asks_and_nobody_else_waits(settings: Settings, fresh: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it accepts connections, and says nothing
        settings.REDIS_URL = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        assert cache.with_redis(lambda redis: redis.get("x"), default="none") == "none"
        cache._memory.ask_at = 0.0  # the pause is over
        waited: list[float] = []

        def ask() -> None:
            began = time.monotonic()
            cache.with_redis(lambda redis: redis.get("x"), default="none")
            waited.append(time.monotonic() - began)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sum(each > 0.3 for each in waited) == 1, waited


def test_when_redis_is_back_it_is_asked_again(settings: Settings, fresh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right = settings.REDIS_URL
    settings.REDIS_URL = f"redis://127.0.0.1:{free_port()}/0"
    assert cache.with_redis(lambda redis: redis.ping(), default=False) is False
    settings.REDIS_URL, cache._memory.client = right, None
    assert cache.with_redis(lambda redis: redis.ping(), default=False) is False  # not yet
    cache._memory.ask_at = 0.0
    assert [cache.with_redis(lambda redis: redis.ping(), default=False) for _ in range(3)] == [True] * 3
