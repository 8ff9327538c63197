"""Writes down what streams bring and what is the matter with them: many at once while all goes well, else one by one."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import structlog

from messaging.intake import StreamBatch, receive_stream_batches
from messaging.subscriptions import StreamLease, Trouble, note_troubles, release, start_over
from messaging.threads import Desk
from messaging.wake import wake
from tenants.database import facts_of, is_database_trouble

log = structlog.get_logger(__name__)

AT_ONCE = 200  # batches, or troubles, of one transaction
SHORTEST_PAUSE, LONGEST_PAUSE = 0.3, 5.0  # seconds, before the database is tried again


class NotSaved(Exception):
    """What a stream brought cannot be written down, however it is taken apart; the text says why."""


class _NotNow(Exception):
    """The database cannot do its work now; nothing is decided about what was to be written."""


@dataclass(eq=False, slots=True)
class _Waiting:
    batch: StreamBatch
    saved: asyncio.Future[bool]
    pause: float = SHORTEST_PAUSE


@dataclass(eq=False, slots=True)
class StreamWriter:
    """Writes for all streams of a process; streams wait meanwhile, and ask for more only when they are served.

    What fails with others leaves their queue at once and is tried alone, at a desk of its own, so that one stream waits. An
    event that the database refuses is set aside by intake.py.
    """

    together: asyncio.Queue[_Waiting] = field(default_factory=asyncio.Queue)
    alone: asyncio.Queue[_Waiting] = field(default_factory=asyncio.Queue)
    troubles: asyncio.Queue[Trouble] = field(default_factory=asyncio.Queue)
    desks: dict[str, Desk] = field(default_factory=lambda: {name: Desk(name) for name in ("together", "alone", "notes")})

    def work(self) -> list[Coroutine[Any, Any, None]]:
        """Give what is to run as long as streams are read."""
        return [self._write_together(), self._write_alone(), self._write_troubles()]

    async def save(self, batch: StreamBatch) -> bool:
        """Have a batch written down, and wait for it, as long as the database is away; False if the lease is lost.

        :raises NotSaved: if it cannot be
        """
        waiting = _Waiting(batch, asyncio.get_running_loop().create_future())
        self.together.put_nowait(waiting)
        return await waiting.saved

    def note(self, trouble: Trouble) -> None:
        """Have it shown what is the matter with a stream, some time."""
        self.troubles.put_nowait(trouble)

    async def start_over(self, lease: StreamLease) -> datetime | None:
        """Have a position forgotten; None where the row could not be had."""
        try:
            return await self.desks["notes"].run(lambda: start_over(lease))
        except Exception as exc:
            log.warning("position not forgotten", org=lease.org_id, error=type(exc).__name__)
            return None

    async def release(self, lease: StreamLease) -> None:
        """Have a lease released; where it cannot be, it runs out by itself."""
        try:
            await self.desks["notes"].run(lambda: release([lease]))
        except Exception as exc:
            log.warning("lease not released", org=lease.org_id, error=type(exc).__name__)

    async def finish(self) -> None:
        """Wait for what is being written."""
        await asyncio.gather(*(desk.run(lambda: None) for desk in self.desks.values()), return_exceptions=True)

    def close(self) -> None:
        """Let the threads end."""
        for desk in self.desks.values():
            desk.close()

    async def _write_together(self) -> None:
        while True:
            some = [await self.together.get()]
            while not self.together.empty() and len(some) < AT_ONCE:
                some.append(self.together.get_nowait())
            some = [each for each in some if not each.saved.done()]  # a reader that was stopped waits no longer
            try:
                saved = await self._receive("together", [each.batch for each in some])
            except Exception as exc:
                log.warning("pages are saved one by one", streams=len(some), error=type(exc).__name__)
                for each in some:
                    self.alone.put_nowait(each)
                continue
            for each in some:
                if not each.saved.done():
                    each.saved.set_result(each.batch.subscription_id in saved)

    async def _write_alone(self) -> None:
        while True:
            each = await self.alone.get()
            if each.saved.done():
                continue
            try:
                saved = await self._receive_one(each.batch)
            except _NotNow as exc:
                log.warning("page not saved", org=each.batch.org_id, error=type(exc.__cause__).__name__)
                asyncio.get_running_loop().call_later(each.pause, self.alone.put_nowait, each)
                each.pause = min(2 * each.pause, LONGEST_PAUSE)
            except NotSaved as exc:
                if not each.saved.done():
                    each.saved.set_exception(exc)
            else:
                if not each.saved.done():
                    each.saved.set_result(saved)

    async def _receive_one(self, batch: StreamBatch) -> bool:
        try:
            return bool(await self._receive("alone", [batch]))
        except Exception as exc:
            if isinstance(exc, OSError) or is_database_trouble(exc):
                raise _NotNow from exc
            log.warning("batch refused", org=batch.org_id, events=len(batch.events), **facts_of(exc))
            raise NotSaved(type(exc.__cause__ or exc).__name__) from exc  # its text would hold what somebody wrote

    async def _receive(self, desk: str, batches: list[StreamBatch]) -> set[int]:
        def receive() -> set[int]:
            saved, work = receive_stream_batches(batches)
            if work:
                wake()
            return saved

        return await self.desks[desk].run(receive)

    async def _write_troubles(self) -> None:
        while True:
            some = [await self.troubles.get()]
            while not self.troubles.empty() and len(some) < AT_ONCE:
                some.append(self.troubles.get_nowait())
            try:
                await self.desks["notes"].run(lambda some=some: note_troubles(some))  # type: ignore[misc]
            except Exception as exc:
                log.warning("troubles not noted", error=type(exc).__name__)
