"""Reads every org's platform events: one event loop holds the streams, each under a lease.

gRPC does not survive a fork and its channels belong to one loop, so all of it lives in a thread of a process that never
forks. Statements and logins run in threads beside the loop, each kind in its own, so that none waits for another.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import structlog

from connector.salesforce.pubsub.stream import SILENCE_SECONDS
from messaging.stream_connections import Channels, Logins
from messaging.stream_reader import Means, SchemaTroubles, StreamReader
from messaging.stream_writer import StreamWriter
from messaging.subscriptions import StreamLease, add_missing, claim_streams, release, renew
from messaging.threads import Desk
from tenants.database import facts_of

log = structlog.get_logger(__name__)

HEARTBEAT_SECONDS = 2.5
LOOK_SECONDS = 1.0  # how often a process looks for streams that nobody reads
NEW_TOPICS_SECONDS = 5.0  # how often it looks for topics that have no row, where nobody announces them
MOST_STREAMS = 5000  # of one process
CLAIMED_AT_ONCE = 100  # streams are opened by and by: thousands at once stall
FINISH_SECONDS = 0.3  # for each thing that the end waits for
DRAIN_SECONDS = 10.0


class _News:
    """Word that an org was set up, for all who wait."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    def spread(self) -> None:
        """Wake who waits; whoever comes later waits for the next."""
        self.event.set()
        self.event = asyncio.Event()

    async def wait(self, seconds: float) -> None:
        """Wait, but not longer than until there is some."""
        await _wait_for(self.event, seconds)


async def _wait_for(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)


class Subscriber:
    """Reads streams until it is stopped; start it once in a process.

    :param silence_seconds: after which a stream that says nothing is opened anew
    """

    def __init__(self, *, silence_seconds: float = SILENCE_SECONDS) -> None:
        self.silence_seconds = silence_seconds
        self.reading: dict[int, tuple[StreamLease, asyncio.Task[None]]] = {}
        self.loop: asyncio.AbstractEventLoop | None = None
        self.stopping = False
        self.thread = threading.Thread(target=self._run, name="subscriber", daemon=True)

    def start(self) -> None:
        """Start reading, in a thread of its own."""
        self.thread.start()

    def look(self) -> None:
        """Look for streams that nobody reads, and try those in trouble again, now; from any thread."""
        self._tell(lambda: self.news.spread())

    def stop(self) -> None:
        """Stop reading, and release the leases."""
        self.stopping = True
        self._tell(self._end)
        self.thread.join(DRAIN_SECONDS)

    def _end(self) -> None:
        self.stopped.set()
        self.news.spread()  # whoever waits for it looks up

    def _tell(self, what: Callable[[], None]) -> None:
        if self.loop is not None:
            with suppress(RuntimeError):  # it has just ended
                self.loop.call_soon_threadsafe(what)

    def _run(self) -> None:
        while not self.stopping:
            try:
                asyncio.run(self._main())
            except Exception:  # a process that lives on without reading would go unnoticed
                log.exception("subscriber failed; starting again")
                time.sleep(LOOK_SECONDS)

    async def _main(self) -> None:
        self.reading = {}
        self.news, self.stopped = _News(), asyncio.Event()
        self.desks = {name: Desk(name) for name in ("claims", "heartbeats")}
        self.writer, self.channels = StreamWriter(), Channels()
        schemas = SchemaTroubles()
        self.means = Means(Logins(), self.channels, self.writer, schemas, self.news.wait, self.silence_seconds)
        self.loop = asyncio.get_running_loop()
        if self.stopping:  # nobody could tell us before
            self.stopped.set()
        stop, claims = asyncio.create_task(self.stopped.wait()), asyncio.create_task(self._claim_on())
        beside = [asyncio.create_task(each) for each in (self._beat(), *self.writer.work())]
        try:
            await asyncio.wait([stop, claims, *beside], return_when=asyncio.FIRST_COMPLETED)
            for task in (claims, *beside):
                if task.done() and not self.stopping:
                    task.result()  # none of them ends of its own accord
        finally:
            await self._finish(claims, beside)
            stop.cancel()

    async def _finish(self, claims: asyncio.Task[None], beside: list[asyncio.Task[None]]) -> None:
        """Stop what runs, and release every lease, without waiting for what hangs."""
        self._end()
        await asyncio.wait([claims], timeout=FINISH_SECONDS)  # it ends by itself, and what it claims is released too
        readers = [task for _, task in self.reading.values()]
        leases = [lease for lease, _ in self.reading.values()]
        for task in (claims, beside[0], *readers):
            task.cancel()
        # a lease whose page is being saved cannot be released before
        await _in_time(asyncio.gather(self.writer.finish(), *readers, return_exceptions=True))
        for task in beside:
            task.cancel()
        if not await _in_time(self.desks["heartbeats"].run(lambda: release(leases))):
            log.warning("leases not released; they run out by themselves")
        await _in_time(self.channels.close())
        self.writer.close()
        for desk in self.desks.values():
            desk.close()

    async def _claim_on(self) -> None:
        look_for_topics_at = 0.0
        while not self.stopped.is_set():
            news = self.news.event  # before looking, so that none is missed meanwhile
            if time.monotonic() >= look_for_topics_at:
                await self._add_missing()
                look_for_topics_at = time.monotonic() + NEW_TOPICS_SECONDS
            if not await self._claim() and not self.stopped.is_set():
                await _wait_for(news, LOOK_SECONDS)
            if news.is_set():
                look_for_topics_at = 0.0

    async def _add_missing(self) -> None:
        try:
            await self.desks["claims"].run(add_missing)
        except Exception as exc:
            log.warning("new topics not looked for", error=type(exc).__name__)

    async def _claim(self) -> bool:
        """Take streams that nobody reads; True if there may be more."""
        most = min(CLAIMED_AT_ONCE, MOST_STREAMS - len(self.reading))
        if most <= 0:
            return False
        try:
            leases = await self.desks["claims"].run(lambda: claim_streams(most))
        except Exception as exc:
            log.warning("streams not claimed", error=type(exc).__name__)
            return False
        for lease in leases:
            if lease.subscription_id in self.reading:  # under a lease of ours that ran out while the database was away
                self.reading[lease.subscription_id][1].cancel()
            task = asyncio.create_task(StreamReader(lease, self.means).read())
            self.reading[lease.subscription_id] = (lease, task)
            task.add_done_callback(partial(self._drop, lease))
        return len(leases) == most

    def _drop(self, lease: StreamLease, task: asyncio.Task[None]) -> None:
        if self.reading.get(lease.subscription_id, (None, None))[1] is task:
            del self.reading[lease.subscription_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("reader failed", org=lease.org_id, **facts_of(error))

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            leases = [lease for lease, _ in self.reading.values()]
            try:
                lost = await self.desks["heartbeats"].run(lambda leases=leases: renew(leases))  # type: ignore[misc]
            except Exception as exc:
                log.warning("heartbeat missed", error=type(exc).__name__)
                continue
            for lease in leases:
                held, task = self.reading.get(lease.subscription_id, (None, None))
                if lease.subscription_id in lost and held is lease and task is not None:
                    log.warning("lease lost", org=lease.org_id)
                    task.cancel()


async def _in_time(work: Any) -> bool:
    """Wait for something that may hang, or fail; True if it was done."""
    try:
        await asyncio.wait_for(work, FINISH_SECONDS)
    except Exception:
        return False
    return True


running: Subscriber | None = None  # this process's one, set when it starts
