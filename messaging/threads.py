"""Blocking work beside an event loop: statements and logins, in threads that never hold up the end of the process."""

import asyncio
import queue
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from django.db import connection

from tenants.tenancy import every_org

Value = TypeVar("Value")

LOCK_SECONDS = 3.0  # for how long a statement of a desk waits for a row that somebody else has locked


class Desk:
    """A thread that does one piece of database work after the other, with the scope of all orgs.

    Each kind of work has a desk of its own, so that one which hangs leaves the others going.
    """

    def __init__(self, name: str) -> None:
        self.work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    async def run(self, work: Callable[[], Value]) -> Value:
        """Have something done, and give what it gives or raise what it raises."""
        done, finish = _hand_over(lambda: _in_database(work))
        self.work.put(finish)
        return await done

    def close(self) -> None:
        """Let the thread end when it has done what lies there."""
        self.work.put(_stop)

    def _run(self) -> None:
        while (work := self.work.get()) is not _stop:
            work()


def _stop() -> None:
    """Stand for the end of the work."""


async def in_thread(work: Callable[[], Value], name: str) -> Value:
    """Have something done in a thread of its own, without a database connection."""
    done, finish = _hand_over(work)
    threading.Thread(target=finish, name=name, daemon=True).start()
    return await done


def _hand_over(work: Callable[[], Value]) -> tuple["asyncio.Future[Value]", Callable[[], None]]:
    """Make a future of this loop, and what another thread has to call for it."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Value] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if done.done():  # nobody waits any more
            return
        if error is None:
            done.set_result(result)
        else:
            done.set_exception(error)

    def finish() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as exc:
            error = exc
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, result, error)

    return done, finish


def place_of(exc: BaseException) -> str:
    """Say where an exception was raised, for logs that must not hold its text, in which tokens and messages may stand."""
    frames = traceback.extract_tb(exc.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""


def _in_database(work: Callable[[], Value]) -> Value:
    """Run with the scope of all orgs, and hold no connection afterwards."""
    try:
        with every_org():
            with connection.cursor() as cursor:
                cursor.execute("SELECT set_config('lock_timeout', %s, false)", [f"{LOCK_SECONDS:.0f}s"])
            return work()
    finally:
        connection.close()
