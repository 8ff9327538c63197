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
from django.db import connection, transaction
from psycopg_pool import PoolTimeout

from connector.aio import Caller
from messaging import claims, intake, receipts, results
from messaging.claims import Claim, Given, Pause, Waiting
from messaging.delivery import Result, deliver, not_tried
from messaging.expiry import expire_waiting
from messaging.holder import Holder
from messaging.limits import FIRST_SHARE, SLOW_SECONDS, ConcurrencyLimits
from messaging.models import Outcome
from messaging.receipts import ReceiptBatch, ReceiptOutcome
from messaging.routes import Route, Routes
from messaging.wake import FROM_NO_WORKER, INBOX_CHANNEL, wake
from tenants.database import facts_of, is_rows_fault
from tenants.tenancy import every_org

log = structlog.get_logger(__name__)
T = TypeVar("T")

LOOK_SECONDS = 1.0  # how often a worker looks for due lanes without being woken
JUDGE_SECONDS = 0.5  # how often it looks for lanes of processes that are gone
EXPIRE_SECONDS = 60.0  # how often it looks for messages that have waited too long behind an open circuit
GATHER_SECONDS = 0.002  # between two turns: what comes meanwhile shares the next one
PAUSE_SECONDS = 0.3  # after trouble of the database
STUCK_SECONDS = 10.0  # a turn that takes longer is no life any more
CALL_SECONDS = 14.0  # a login, the call and its repetition together
PARKED_SECONDS = 0.5  # a call that takes longer makes room for another: waiting costs nothing
MOST_PARKED = 8  # times as many calls as may be under way may wait
DRAIN_SECONDS = 8.0  # a dyno has 30 s from SIGTERM to SIGKILL


@dataclass(frozen=True, slots=True)
class Work:
    """One call to make: a message, or the receipts of a conversation."""

    claim: Claim
    route: Route
    message: Waiting | None = None
    batch: ReceiptBatch | None = None


@dataclass(slots=True, eq=False)
class Flight:
    """A call under way."""

    work: Work
    task: asyncio.Task[None] | None = None
    began_at: float = field(default_factory=time.monotonic)


Ended = Result | ReceiptOutcome


class Worker:
    """Runs until it is stopped; start it once in a process.

    :param calls: how many may be under way at once
    """

    def __init__(self, calls: int) -> None:
        self.calls = calls
        self.limits = ConcurrencyLimits(calls)
        self.routes = Routes()
        self.flights: set[Flight] = set()
        self.unwritten: list[Ended] = []
        self.holder = Holder(self._hear, self._goes_on)
        self.wake_also: Callable[[], None] = lambda: None
        self.stopping = threading.Event()
        self.inbox = threading.Event()
        self.turned_at = time.monotonic()
        self.judged_at = self.expired_at = 0.0
        self.loop = asyncio.new_event_loop()
        self.woken = asyncio.Event()
        self.dispatcher = ThreadPoolExecutor(1, thread_name_prefix="dispatcher")
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
            self.loop.call_soon_threadsafe(self.woken.set)

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
                    while not self.stopping.is_set() and (turn := intake.take_inbox()).taken:
                        if turn.work:
                            self.wake()
                            wake(sender=self.holder.number)
                        time.sleep(GATHER_SECONDS)
            except Exception as exc:  # this thread must outlive whatever it stumbles over
                log.warning("nothing taken in", **facts_of(exc))
                self._drop_connection(exc)
                self.stopping.wait(PAUSE_SECONDS)
                self.inbox.set()
        connection.close()

    # the loop

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_until_complete(self._main())
        finally:
            self.dispatcher.shutdown(wait=True)
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
            await asyncio.sleep(GATHER_SECONDS)
        await self.caller.close()
        await self._in_dispatcher(_close_connection)

    async def _until_woken(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self.woken.wait(), PAUSE_SECONDS if self.stopping.is_set() else LOOK_SECONDS)
        self.woken.clear()

    async def _in_dispatcher(self, write: Callable[[], T]) -> T:
        return await self.loop.run_in_executor(self.dispatcher, write)

    async def _dispatch(self) -> list[Work]:
        """Do a turn of the dispatcher; what could not be written stays in memory until it can be."""
        ended = list(self.unwritten)
        under_way = [flight.work.claim for flight in self.flights]
        free = self._free()
        try:
            work = await self._in_dispatcher(lambda: self._turn(ended, under_way, free))
        except Exception as exc:
            if not is_rows_fault(exc):
                return await self._wait_for_the_database(exc)
            log.error("a turn failed; its results are recorded one by one", **facts_of(exc))
            work = []
            try:
                await self._in_dispatcher(lambda: self._record_one_by_one(ended))
            except Exception as again:  # a connection that breaks off can look like a fault of the row
                return await self._wait_for_the_database(again)
            self.woken.set()
        del self.unwritten[: len(ended)]  # only now is it committed
        for each in ended:
            self._learn(each)
        if free and len(work) >= free:
            self.woken.set()  # there may be more
        return work

    async def _wait_for_the_database(self, exc: Exception) -> list[Work]:
        log.warning("database trouble", **facts_of(exc))
        await self._in_dispatcher(lambda: self._drop_connection(exc))
        await asyncio.sleep(PAUSE_SECONDS)
        self.woken.set()
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
        self.woken.set()

    def _learn(self, ended: Ended) -> None:
        succeeded = ended.done if isinstance(ended, Result) else ended.again_after is None
        if ended.called:
            self.limits.note(ended.claim.endpoint, well=succeeded and ended.seconds < SLOW_SECONDS)
        if isinstance(ended, Result):
            _log_result(ended)

    # the dispatcher

    def _turn(self, ended: Sequence[Ended], under_way: Sequence[Claim], free: int) -> list[Work]:
        """Record what ended, take new lanes for the calls that are free, and commit what is tried next."""
        with every_org():
            self._judge()
            self._expire()
            with transaction.atomic():
                lanes = results.record(ended, holder=self.holder.number)
                if self.stopping.is_set():
                    claims.release([Pause(each.lane_id, 0.0, carried=each.carried) for each in lanes])
                    lanes = []
                elif free and self.holder.held.is_set():
                    shares = self.limits.shares(each.endpoint for each in under_way)
                    lanes += [Given(each) for each in claims.lock_due(free, shares=shares, share=FIRST_SHARE)]
                work = self._prepare(claims.take(lanes, holder=self.holder.number))
        self.turned_at = time.monotonic()
        return work

    def _judge(self) -> None:
        """Free the lanes of processes that are gone, now and then."""
        if time.monotonic() - self.judged_at < JUDGE_SECONDS or not self.holder.may_judge():
            return
        self.judged_at = time.monotonic()
        with transaction.atomic():
            freed = claims.mark_abandoned_attempts_in_doubt(me=self.holder.number)
        if freed:
            log.warning("lanes of a process that is gone are free", lanes=freed)

    def _expire(self) -> None:
        """Give up what has waited too long, now and then."""
        if time.monotonic() - self.expired_at >= EXPIRE_SECONDS:
            self.expired_at = time.monotonic()
            expire_waiting()

    def _prepare(self, taken: Sequence[tuple[Claim, Waiting | None]]) -> list[Work]:
        """Find the route of each message, and what is to be reported where receipts are due."""
        reporting = [claim for claim, message in taken if message is None]
        batches = receipts.pending_receipts([claim.conversation_id for claim in reporting])
        claims.release(
            [
                Pause(each.lane_id, None, failures=each.failures, version=each.version)
                for each in reporting
                if each.conversation_id not in batches
            ]
        )
        routes = self.routes.find(
            [(message.channel_id, message.sender_id) for _, message in taken if message is not None]
            + [(batch.channel_id, None) for batch in batches.values()]
        )
        work = []
        for claim, message in taken:
            if message is not None:
                work.append(Work(claim, routes[message.channel_id, message.sender_id], message))
            elif (batch := batches.get(claim.conversation_id)) is not None:
                work.append(Work(claim, routes[batch.channel_id, None], batch=batch))
        return work

    def _record_one_by_one(self, ended: Sequence[Ended]) -> None:
        """Record each result in a transaction of its own; the lane of one that raises all the same is set aside."""
        for each in ended:
            try:
                with every_org(), transaction.atomic():
                    lanes = results.record([each], holder=self.holder.number)
                    claims.release([Pause(lane.lane_id, 0.0, carried=lane.carried) for lane in lanes])
            except Exception as exc:
                if not is_rows_fault(exc):
                    raise
                log.error("a result cannot be recorded", org=each.claim.org_id, lane=each.claim.lane_id, **facts_of(exc))
                with every_org(), transaction.atomic():
                    claims.set_aside(each.claim.lane_id, holder=self.holder.number)
        if not ended:
            with every_org(), transaction.atomic():
                claims.set_unreadable_aside(self.calls)


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
