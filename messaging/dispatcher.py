"""A turn of the queue: records what ended, takes the next messages, and commits that they are being tried before any is
called. All in one transaction, in the dispatcher's thread of a worker.
"""

import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import structlog
from django.db import transaction

from messaging import circuits, claims, receipts, results
from messaging.circuits import Endpoint
from messaging.claims import Claim, Given, Pause, Share, Waiting
from messaging.conversations import choose_senders
from messaging.delivery import Result
from messaging.expiry import expire_waiting
from messaging.holder import Holder
from messaging.limits import FIRST_SHARE
from messaging.models import Direction, Outcome
from messaging.receipts import ReceiptBatch, ReceiptOutcome
from messaging.routes import Route, Routes
from tenants.database import facts_of, is_rows_fault
from tenants.tenancy import every_org

log = structlog.get_logger(__name__)

LOOK_SECONDS = 1.0  # how often a worker looks for due lanes without being woken
PROBE_SECONDS = 0.5  # how often it looks for open circuits that want a probe
JUDGE_SECONDS = 0.5  # how often it looks for lanes of processes that are gone
EXPIRE_SECONDS = 60.0  # how often it looks for messages that have waited too long behind an open circuit


@dataclass(frozen=True, slots=True)
class Work:
    """One call to make: a message, or the receipts of a conversation."""

    claim: Claim
    route: Route
    message: Waiting | None = None
    batch: ReceiptBatch | None = None


Ended = Result | ReceiptOutcome


@dataclass(frozen=True, slots=True)
class Room:
    """How many more calls may begin, in all and of each endpoint of which something is known."""

    free: int
    shares: Sequence[Share]


@dataclass(frozen=True, slots=True)
class Turn:
    """What is to be called now, and whether more may be due than there was room for."""

    work: Sequence[Work] = ()
    more: bool = False


class Dispatcher:
    """Belongs to one worker; its methods run in one thread.

    :param calls: how many may be under way at once
    :param stopping: once it is set, lanes are only let go
    """

    def __init__(self, holder: Holder, calls: int, stopping: threading.Event) -> None:
        self.holder, self.calls, self.stopping = holder, calls, stopping
        self.routes = Routes()
        self.uncertain = False  # a turn failed, and may have been committed all the same
        self.judged_at = self.expired_at = self.looked_at = self.probed_at = 0.0

    def must_look(self, ended: Sequence[Ended]) -> bool:
        """Say whether lanes may have become due of which nobody says so: by time, or by what ended, if not well."""
        if time.monotonic() - self.looked_at >= LOOK_SECONDS:
            return True
        return not all(isinstance(each, Result) and each.outcome is Outcome.SENT for each in ended)

    def turn(self, ended: Sequence[Ended], room: Room | None, *, under_way: Iterable[Work] = ()) -> Turn:
        """Record what ended, take the next message of those lanes, and of others that are due where there is room.

        :param under_way: the calls that have not ended
        """
        with every_org():
            freed = self._find_lost(under_way, ended) or self._judge()
            self._expire()
            with transaction.atomic():
                lanes, more = results.record(ended, holder=self.holder.number), freed
                if self.stopping.is_set():
                    claims.release([Pause(each.lane_id, 0.0, carried=each.carried) for each in lanes])
                    lanes = []
                elif room is not None:
                    found, more = self._look(room)
                    lanes += found
                return Turn(self._prepare(claims.take(lanes, holder=self.holder.number)), more)

    def _look(self, room: Room) -> tuple[list[Given], bool]:
        """Lock lanes that are due, and say whether a bound may have kept some back."""
        if not self.holder.held.is_set():
            return [], True
        self.looked_at = time.monotonic()
        found = claims.lock_due(room.free, shares=room.shares, share=FIRST_SHARE, probes=self._probes())
        bounded = any(each.bounded for each in found) or any(not each.more for each in room.shares)
        return [Given(each.id) for each in found], bounded or len(found) >= room.free

    def _probes(self) -> list[Endpoint]:
        """Take the probes of open circuits, now and then."""
        if time.monotonic() - self.probed_at < PROBE_SECONDS:
            return []
        self.probed_at = time.monotonic()
        return circuits.take_probes()

    def _find_lost(self, under_way: Iterable[Work], ended: Iterable[Ended]) -> bool:
        """Free lanes that a turn took whose commit seemed to fail; True if there were some."""
        if not self.uncertain:
            return False
        known = [(each.claim.lane_id, each.message.id if each.message is not None else None) for each in under_way]
        known += [(each.claim.lane_id, each.message.id if isinstance(each, Result) else None) for each in ended]
        with transaction.atomic():
            freed = claims.free_unknown(self.holder.number, known=known)
        self.uncertain = False
        if freed:
            log.warning("lanes were taken though the commit seemed to fail; they are free", lanes=freed)
        return freed > 0

    def _judge(self) -> bool:
        """Free the lanes of processes that are gone, now and then; True if there were some."""
        if time.monotonic() - self.judged_at < JUDGE_SECONDS or not self.holder.may_judge():
            return False
        self.judged_at = time.monotonic()
        with transaction.atomic():
            freed = claims.mark_abandoned_attempts_in_doubt(me=self.holder.number)
        if freed:
            log.warning("lanes of a process that is gone are free", lanes=freed)
        return freed > 0

    def _expire(self) -> None:
        """Give up what has waited too long, now and then."""
        if time.monotonic() - self.expired_at >= EXPIRE_SECONDS:
            self.expired_at = time.monotonic()
            expire_waiting()

    def _prepare(self, taken: Sequence[tuple[Claim, Waiting | None]]) -> list[Work]:
        """Find the route of each message, and what is to be reported where receipts are due."""
        reporting = [claim for claim, message in taken if message is None]
        batches = receipts.pending_receipts([claim.conversation_id for claim in reporting])
        claims.release([Pause(each.lane_id, None) for each in reporting if each.conversation_id not in batches])
        taken = _with_senders(taken)
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

    def record_one_by_one(self, ended: Sequence[Ended]) -> None:
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


def _with_senders(taken: Sequence[tuple[Claim, Waiting | None]]) -> list[tuple[Claim, Waiting | None]]:
    """Choose a sender for what a rep wrote before the channel had one."""
    without = [
        message.id
        for claim, message in taken
        if message is not None and message.sender_id is None and claim.direction is Direction.OUTBOUND
    ]
    chosen = choose_senders(without) if without else {}
    return [
        (claim, replace(message, sender_id=chosen[message.id]) if message is not None and message.id in chosen else message)
        for claim, message in taken
    ]
