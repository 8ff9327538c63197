"""Blocking database work beside an event loop, in threads that never hold up the end of the process."""

import queue
import threading
from collections.abc import Callable
from typing import TypeVar

from django.db import connection

from connector.threads import promise
from tenants.tenancy import every_org

Value = TypeVar("Value")

LOCK_SECONDS = 3.0  # for how long a statement of a desk waits for a row that somebody else has locked


class Desk:
    """A thread that does one piece of database work after the other, with the scope of all orgs.

    Each kind of work has a desk of its own, so that one which hangs leaves the others going.
    """

    def __init__(self, name: str) -> None:
        self.work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    async def run(self, work: Callable[[], Value]) -> Value:
        """Have something done, and give what it gives or raise what it raises."""
        result, run = promise(lambda: _in_database(work))
        self.work.put(run)
        return await result

    def close(self) -> None:
        """Let the thread end when it has done what lies there."""
        self.work.put(None)

    def _run(self) -> None:
        while (work := self.work.get()) is not None:
            work()


def _in_database(work: Callable[[], Value]) -> Value:
    """Run with the scope of all orgs, and hold no connection afterwards."""
    try:
        with every_org():
            with connection.cursor() as cursor:
                cursor.execute("SELECT set_config('lock_timeout', %s, false)", [f"{LOCK_SECONDS:.0f}s"])
            return work()
    finally:
        connection.close()
