"""The loop of a worker: takes in what came, claims lanes, makes the calls, records how they ended.

One event loop makes the calls. One thread is the dispatcher's: a turn of it records what ended, takes the next messages
and commits that they are being tried, all in one transaction, before any of them is called. Another thread ingests. No
connection to the database is held while an upstream is waited for.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

import structlog
from django.db import connection
from psycopg_pool import PoolTimeout

from connector.aio import Caller
from messaging import intake, receipts
from messaging.delivery import Result, deliver, not_tried
from messaging.dispatcher import LOOK_SECONDS, Dispatcher, Ended, Room, Turn, Work
from messaging.holder import Holder
from messaging.limits import SLOW_SECONDS, ConcurrencyLimits
from messaging.models import Outcome
from messaging.receipts import ReceiptOutcome
from messaging.wake import FROM_NO_WORKER, INBOX_CHANNEL, wake
from tenants.database import facts_of, is_rows_fault, note_trouble
from tenants.tenancy import every_org

log = structlog.get_logger(__name__)
T = TypeVar("T")

GATHER_SECONDS = 0.002  # between two turns: what comes meanwhile shares the next one
ENOUGH = 16  # results that wait: a turn for so many need not gather more
RECORD_SECONDS = 0.01  # in which a few successes are written down; while little is under way it is for their neighbours
PAUSE_SECONDS = 0.3  # after trouble of the database
STUCK_SECONDS = 10.0  # a turn that takes longer is no life any more
CALL_SECONDS = 14.0  # a login, the call and its repetition together
PARKED_SECONDS = 0.5  # a call that takes longer makes room for another: waiting costs nothing
MOST_PARKED = 8  # times as many calls as may be under way may wait
DRAIN_SECONDS = 8.0  # a dyno has 30 s from SIGTERM to SIGKILL


@dataclass(slots=True, eq=False)
class Flight:
    """A call under way."""

    work: Work
    task: asyncio.Task[None] | None = None
    began_at: float = field(default_factory=time.monotonic)


class Worker:
    """Runs until it is stopped; start it once in a process.

    :param calls: how many may be under way at once
    """

    def __init__(self, calls: int) -> None:
        self.calls = calls
        self.limits = ConcurrencyLimits(calls)
        self.flights: set[Flight] = set()
        self.unwritten: list[Ended] = []
        self.holder = Holder(self._hear, self._goes_on)
        self.wake_also: Callable[[], None] = lambda: None
        self.stopping = threading.Event()
        self.inbox = threading.Event()
        self.dispatcher = Dispatcher(self.holder, calls, self.stopping)
        self.turned_at = time.monotonic()
        self.due = True  # there may be lanes to take
        self.loop = asyncio.new_event_loop()
        self.woken = asyncio.Event()
        self.dispatching = ThreadPoolExecutor(1, thread_name_prefix="dispatcher")
        self.thread = threading.Thread(target=self._run, name="loop", daemon=True)
        self.ingester = threading.Thread(target=self._ingest, name="ingest", daemon=True)

    def start(self, *, also: Callable[[], None] = lambda: None) -> None:
        """Start the loop and the threads beside it.

        :param also: called, from any thread, when there may be other work than that of lanes
        """
        self.wake_also = also
        self.holder.start()
        self.thread.start()
        self.ingester.start()

    def wake(self) -> None:
        """Say that lanes may have work; from any thread."""
        with suppress(RuntimeError):  # the loop has ended
            self.loop.call_soon_threadsafe(self._look_soon)

    def _look_soon(self) -> None:
        self.due = True
        self.woken.set()

    def stop(self) -> None:
        """Claim no more, wait for the calls under way, record them, and release all lanes."""
        self.stopping.set()
        self.inbox.set()
        self.wake()
        self.thread.join(DRAIN_SECONDS + CALL_SECONDS)
        self.ingester.join(PAUSE_SECONDS * 10)
        self.holder.stop()

    def _hear(self, channel: str, payload: str) -> None:
        if channel == INBOX_CHANNEL:
            self.inbox.set()
            return
        self.wake()
        if payload == FROM_NO_WORKER:  # what a worker has taken in is messages: nothing for others to look at
            self.wake_also()

    def _goes_on(self) -> bool:
        return time.monotonic() - self.turned_at < STUCK_SECONDS

    # taking in

    def _ingest(self) -> None:
        while not self.stopping.is_set():
            self.inbox.wait(LOOK_SECONDS)
            self.inbox.clear()
            try:
                with every_org():
                    while not self.stopping.is_set():
                        turn = intake.take_inbox()
                        if turn.work:
                            self._share(turn)
                        if not turn.more:
                            break
                        time.sleep(GATHER_SECONDS)
                time.sleep(GATHER_SECONDS)
            except Exception as exc:  # this thread must outlive whatever it stumbles over
                note_trouble("nothing taken in", exc)
                self._drop_connection(exc)
                self.stopping.wait(PAUSE_SECONDS)
                self.inbox.set()
        connection.close()

    def _share(self, turn: intake.Turn) -> None:
        """Wake the dispatcher, and other workers where it has enough to do: for a few messages they are left alone."""
        enough = self.due or turn.more
        self.wake()
        if enough:
            wake(sender=self.holder.number)

    # the loop

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_until_complete(self._main())
        finally:
            self.dispatching.shutdown(wait=True)
            self.loop.close()

    async def _main(self) -> None:
        self.caller = Caller()
        drained_at = 0.0
        while True:
            await self._until_woken()
            if self.stopping.is_set():
                drained_at = drained_at or time.monotonic() + DRAIN_SECONDS
                if time.monotonic() > drained_at:
                    for flight in self.flights:
                        if flight.task is not None:
                            flight.task.cancel()
                if not self.flights and not self.unwritten:
                    break
            for work in await self._dispatch():
                self._begin(work)
            await asyncio.sleep(0 if len(self.unwritten) >= ENOUGH else GATHER_SECONDS)
        await self.caller.close()
        await self._in_dispatcher(_close_connection)

    async def _until_woken(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self.woken.wait(), PAUSE_SECONDS if self.stopping.is_set() else LOOK_SECONDS)
        self.woken.clear()

    async def _in_dispatcher(self, write: Callable[[], T]) -> T:
        return await self.loop.run_in_executor(self.dispatching, write)

    async def _dispatch(self) -> Sequence[Work]:
        """Do a turn of the dispatcher; what could not be written stays in memory until it can be."""
        ended = list(self.unwritten)
        under_way = [flight.work for flight in self.flights]
        free = 0 if self.stopping.is_set() else self._free()
        look = self.due or self.dispatcher.must_look(ended)
        self.due = look and not free  # what is said from now on is for the next turn
        room = Room(free, self.limits.shares(each.claim.endpoint for each in under_way)) if look and free else None
        try:
            turn = await self._in_dispatcher(lambda: self.dispatcher.turn(ended, room, under_way=under_way))
        except Exception as exc:
            self.dispatcher.uncertain = True
            if not is_rows_fault(exc):
                return await self._wait_for_the_database(exc)
            log.error("a turn failed; its results are recorded one by one", **facts_of(exc))
            turn = Turn(more=True)
            try:
                await self._in_dispatcher(lambda: self.dispatcher.record_one_by_one(ended))
            except Exception as again:  # a connection that breaks off can look like a fault of the row
                return await self._wait_for_the_database(again)
            self.woken.set()
        else:
            self.turned_at = time.monotonic()
        del self.unwritten[: len(ended)]  # only now is it committed
        for each in ended:
            self._learn(each)
        self.due = self.due or turn.more
        return turn.work

    async def _wait_for_the_database(self, exc: Exception) -> list[Work]:
        note_trouble("database trouble", exc)
        await self._in_dispatcher(lambda: self._drop_connection(exc))
        await asyncio.sleep(PAUSE_SECONDS)
        self._look_soon()
        return []

    def _drop_connection(self, exc: Exception) -> None:
        """Close the connection of the calling thread, and the pool where it gives none though the database is there."""
        _close_connection()
        if isinstance(exc.__cause__, PoolTimeout) and self.holder.held.is_set():
            with suppress(Exception):
                connection.close_pool()  # type: ignore[attr-defined]  # PostgreSQL has it; the next to connect makes another

    def _free(self) -> int:
        """Say how many more calls may begin: those that take long wait aside, as waiting costs nothing."""
        horizon = time.monotonic() - PARKED_SECONDS
        busy = sum(flight.began_at > horizon for flight in self.flights)
        return max(0, min(self.calls - busy, self.calls * MOST_PARKED - len(self.flights)))

    def _begin(self, work: Work) -> None:
        flight = Flight(work)
        self.flights.add(flight)
        flight.task = self.loop.create_task(self._send(flight))

    async def _send(self, flight: Flight) -> None:
        work = flight.work
        claim = work.claim
        with structlog.contextvars.bound_contextvars(org=claim.org_id, conversation=claim.conversation_id):
            try:
                ended = await _call(self.caller, work)
            except asyncio.CancelledError:
                ended = _interrupted(work, "the process stopped while it waited for an answer")
            except Exception as exc:
                log.error("sending failed", **facts_of(exc))
                ended = _interrupted(work, f"internal error: {type(exc).__name__}")
        self.flights.discard(flight)
        self.unwritten.append(ended)
        if self.dispatcher.must_look([ended]) or len(self.unwritten) >= ENOUGH or 2 * len(self.flights) >= self.calls:
            self.woken.set()
        else:  # nobody waits for it: the turn that takes the next message writes it down as well
            self.loop.call_later(RECORD_SECONDS, self._record_what_is_left)

    def _record_what_is_left(self) -> None:
        if self.unwritten:
            self.woken.set()

    def _learn(self, ended: Ended) -> None:
        succeeded = ended.done if isinstance(ended, Result) else ended.again_after is None
        if ended.called:
            self.limits.note(ended.claim.endpoint, well=succeeded and ended.seconds < SLOW_SECONDS)
        if isinstance(ended, Result):
            _log_result(ended)


async def _call(caller: Caller, work: Work) -> Ended:
    if work.batch is not None:
        began = time.monotonic()
        outcome = await receipts.report_receipts(caller, work.route, work.claim, work.batch, seconds=CALL_SECONDS)
        outcome.seconds = time.monotonic() - began
        return outcome
    assert work.message is not None
    return await deliver(caller, work.route, work.claim, work.message, seconds=CALL_SECONDS)


def _interrupted(work: Work, why: str) -> Ended:
    """Say of a call that did not end by itself that nobody knows what came of it."""
    if work.message is None:
        assert work.batch is not None
        return ReceiptOutcome(work.claim, work.batch, again_after=1.0, called=False)
    result = not_tried(work.claim, work.message)
    result.outcome, result.detail, result.called = Outcome.IN_DOUBT, why, True
    return result


def _close_connection() -> None:
    """Close the connection of the calling thread, in whatever state it is: no thread may end of that."""
    with suppress(Exception):
        connection.close()


def _log_result(result: Result) -> None:
    log.info(
        "message tried",
        org=result.claim.org_id,
        conversation=result.claim.conversation_id,
        message=str(result.message.uuid),
        direction=result.claim.direction.value,
        outcome=result.outcome.value,
        ms=round(result.seconds * 1000),
        **({"status": result.status, "code": result.code, "detail": result.detail} if result.detail else {}),
    )


running: Worker | None = None  # this process's one, set when it starts
