"""The life of a process that holds lanes goes on, whatever its connection raises."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
from django.db import connection

from messaging import holder as module
from messaging.claims import HOLDER_LOCKS
from messaging.holder import Holder
from messaging.wake import wake
from tests.support.happenings import wait_until

pytestmark = pytest.mark.django_db(transaction=True)


@contextmanager
def holding(goes_on: Callable[[], bool] = lambda: True) -> Iterator[Holder]:
    holder = Holder(lambda *_: None, goes_on)
    holder.start()
    try:
        wait_until(holder.held.is_set)
        yield holder
    finally:
        holder.stop()


def is_free(number: int) -> bool:
    """Try the lock of a holder, as those do who look for the dead."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s::int, %s::int)", [HOLDER_LOCKS, number])
        (free,) = cursor.fetchone()
        cursor.execute("SELECT pg_advisory_unlock_all()")
    return bool(free)


def end_session_of(number: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND classid = %s AND objid = %s",
            [HOLDER_LOCKS, number],
        )


def test_the_lock_stands_for_the_process_and_after_a_break_nobody_is_judged_at_once() -> None:
    """After a restart of the database all take their locks again before anybody's lanes are taken away."""
    with holding() as holder:
        assert not is_free(holder.number)
        before, holder.patient_until = time.monotonic(), 0.0
        assert holder.may_judge()
        end_session_of(holder.number)
        wait_until(lambda: holder.patient_until > before)
        wait_until(holder.held.is_set)
        assert not holder.may_judge() and not is_free(holder.number)
    wait_until(lambda: is_free(holder.number))


def test_a_process_that_stands_still_loses_its_hold_and_one_that_goes_on_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FROZEN_SECONDS", 1)
    monkeypatch.setattr(module, "PING_SECONDS", 0.2)
    frozen = threading.Event()
    with holding(lambda: not frozen.is_set()) as holder:
        holder.patient_until = 0.0
        time.sleep(2)
        assert holder.held.is_set() and holder.patient_until == 0.0  # in one session all the time
        frozen.set()
        wait_until(lambda: not holder.held.is_set(), seconds=5)


def test_who_is_connected_to_a_server_that_became_a_replica_lets_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers as before, but the lanes are kept elsewhere now."""
    monkeypatch.setattr(module, "PING_SECONDS", 0.1)
    replica, connect = threading.Event(), module._connect

    def connect_to_what_becomes_a_replica() -> Any:
        made = connect()
        execute = made.execute

        def answer(statement: str, *arguments: Any) -> Any:
            if "pg_is_in_recovery" in statement and replica.is_set():
                return SimpleNamespace(fetchone=lambda: (True,))
            return execute(cast(Any, statement), *arguments)

        monkeypatch.setattr(made, "execute", answer)
        return made

    monkeypatch.setattr(module, "_connect", connect_to_what_becomes_a_replica)
    with holding() as holder:
        replica.set()
        wait_until(lambda: not holder.held.is_set(), seconds=5)


def test_a_connection_that_breaks_off_with_any_error_is_made_anew_under_the_same_number() -> None:
    heard: list[str] = []

    def hear(channel: str, _payload: str) -> None:
        heard.append(channel)
        if len(heard) == 1:
            raise ValueError("file descriptor cannot be a negative integer (-1)")

    holder = Holder(hear, lambda: True)
    holder.start()
    try:
        wait_until(holder.held.is_set)
        number = holder.number
        wake()
        wait_until(lambda: len(heard) == 1 and not holder.held.is_set())
        wait_until(holder.held.is_set)
        wake()
        wait_until(lambda: len(heard) == 2)
        assert holder.number == number
    finally:
        holder.stop()
