"""Blocking work for an event loop, in threads that hold nobody else up."""

import asyncio
import threading
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


class Threads:
    """Runs blocking functions, one at a time per key, each in a thread of its own.

    A pool of some threads is full when as many of its functions hang; here what hangs costs its own key only. Threads are
    daemons: what hangs does not keep the process from ending either.

    :param most: how many at once, whatever their keys
    """

    def __init__(self, most: int) -> None:
        self._free = asyncio.Semaphore(most)
        self._under_way: dict[Hashable, asyncio.Task[Any]] = {}

    async def run(self, key: Hashable, work: Callable[[], T]) -> T:
        """Run ``work``; while some is under way with this key, wait for the result of that one instead."""
        task = self._under_way.get(key)
        if task is None:
            task = self._under_way[key] = asyncio.create_task(self._run(work))
            task.add_done_callback(lambda done: self._forget(key, done))
        result: T = await asyncio.shield(task)  # who gives up waiting does not end it for the others
        return result

    def close(self) -> None:
        """Stop waiting for what is under way."""
        for task in self._under_way.values():
            task.cancel()

    def _forget(self, key: Hashable, task: asyncio.Task[Any]) -> None:
        del self._under_way[key]
        if not task.cancelled():
            task.exception()  # nobody may have waited to the end

    async def _run(self, work: Callable[[], T]) -> T:
        async with self._free:
            result, run = promise(work)
            threading.Thread(target=run, daemon=True).start()
            return await result


def promise(work: Callable[[], T]) -> tuple[asyncio.Future[T], Callable[[], None]]:
    """Make a future of this event loop for what ``work`` gives or raises, and what another thread is to run for it."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def settle(value: Any, exc: BaseException | None) -> None:
        if result.done():  # nobody waits any more
            return
        if exc is None:
            result.set_result(value)
        else:
            result.set_exception(exc)

    def run() -> None:
        value, exc = None, None
        try:
            value = work()
        except BaseException as raised:
            exc = raised
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, value, exc)

    return result, run
