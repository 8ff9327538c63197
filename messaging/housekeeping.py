"""What a worker does besides carrying lanes: hand-overs, and sessions that are to be greeted, asked about or closed.

One thread looks for what is due. The calls to the platforms are made by others, which hold no database connection while
they wait. Of each org a few are under way at once, and orgs whose upstreams hang share a part of the threads: they hold up
nobody else, however many they are.
"""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from enum import StrEnum
from typing import Any

import structlog
from django.db import connection

from connector.http import ApiError, time_limit
from connector.salesforce.sessions import find_states, shows_any
from messaging import due_sessions, handover, sessions
from messaging.batches import brief_connection, in_words, work_on
from messaging.handover import Claim
from messaging.overdue import OpenCircuits
from tenants.database import facts_of, is_database_trouble, note_trouble
from tenants.encryption import CannotDecrypt
from tenants.models import SalesforceConnection
from tenants.tenancy import every_org

log = structlog.get_logger(__name__)

LOOK_SECONDS = 1.0
TELL_SECONDS = 2.0  # between two looks behind open circuits
SOON_SECONDS = 0.1  # while something is under way, whose next step may be due soon
THREADS = 384  # begun when they are needed; one that waits costs some 100 KiB
SLOW_SECONDS = 3.0  # an org is fast while none of its calls takes longer
MOST_NOT_FAST = 256  # threads for orgs that are slow, or not known yet; the others are for those that are fast
HIDDEN = "it shows our user none of the org's messaging sessions any more"
ASK_SECONDS = 20.0  # for all that asking an org takes, a login included
DRAIN_SECONDS = 10.0


class Kind(StrEnum):
    """What a thread is busy with."""

    HANDOVER = "hand-over"
    ASK = "ask"


class UnderWay:
    """What this process has under way, by org, and what else it may begin.

    An org has to prove that its upstreams answer before it gets more than one thread for each kind of work. Those that have
    not proven it share a part of the threads, so that any number of upstreams may hang.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.running: dict[int, tuple[Kind, int, float]] = {}
        self.fast: set[int] = set()
        self.tickets = itertools.count()

    @property
    def free(self) -> int:
        """How many threads have nothing to do."""
        with self.lock:
            return THREADS - len(self.running)

    def begin(self, kind: Kind, org_id: int) -> int:
        """Note that a thread is busy for an org until ``end``."""
        with self.lock:
            return self._begin(kind, org_id)

    def try_to_ask(self, org_id: int) -> int | None:
        """Begin to ask about an org's sessions, one query at a time; None: not now."""
        with self.lock:
            if len(self.running) >= THREADS or (Kind.ASK, org_id) in {each[:2] for each in self.running.values()}:
                return None
            if org_id not in self._fast() and self._not_fast() >= MOST_NOT_FAST:
                return None
            return self._begin(Kind.ASK, org_id)

    def end(self, ticket: int, *, called: bool = True) -> None:
        """Note that a thread is done."""
        with self.lock:
            _, org_id, began = self.running.pop(ticket)
            if called:
                (self.fast.add if time.monotonic() - began <= SLOW_SECONDS else self.fast.discard)(org_id)

    def shares(self) -> handover.Shares:
        """Say how many more hand-overs may begin."""
        with self.lock:
            fast = self._fast()
            busy = Counter(org_id for kind, org_id, _ in self.running.values() if kind is Kind.HANDOVER)
            return handover.Shares(fast, busy, not_fast=max(0, MOST_NOT_FAST - self._not_fast()))

    def _begin(self, kind: Kind, org_id: int) -> int:
        ticket = next(self.tickets)
        self.running[ticket] = (kind, org_id, time.monotonic())
        return ticket

    def _fast(self) -> set[int]:
        since = time.monotonic() - SLOW_SECONDS
        return self.fast - {org_id for _, org_id, began in self.running.values() if began < since}

    def _not_fast(self) -> int:
        fast = self._fast()
        return sum(org_id not in fast for _, org_id, _ in self.running.values())


class Housekeeping:
    """Runs until it is stopped; start it once in a process.

    :param wake_lanes: tells the lanes of this process that they have work
    """

    def __init__(self, wake_lanes: Callable[[], None]) -> None:
        self.wake_lanes = wake_lanes
        self.woken = threading.Event()
        self.stopping = threading.Event()
        self.pool = ThreadPoolExecutor(THREADS, thread_name_prefix="housekeeping")
        self.under_way = UnderWay()
        self.open_circuits, self.told_at = OpenCircuits(), 0.0
        self.thread = threading.Thread(target=self._run, name="housekeeping", daemon=True)

    def start(self) -> None:
        """Start looking."""
        self.thread.start()

    def wake(self) -> None:
        """Say that something may be due; from any thread."""
        self.woken.set()

    def stop(self) -> None:
        """Begin nothing more; what is under way is taken up by others when its lease runs out."""
        self.stopping.set()
        self.woken.set()
        self.thread.join(DRAIN_SECONDS)
        self.pool.shutdown(wait=False, cancel_futures=True)

    def _run(self) -> None:
        active = False
        while not self.stopping.is_set():
            self.woken.wait(SOON_SECONDS if active or self.under_way.running else LOOK_SECONDS)
            self.woken.clear()
            # each by itself: what is wrong with sessions must not stop hand-overs
            turns = [self._look_at(each) for each in (self._sessions, self._handovers, self._overdue)]
            active = any(turns)
        connection.close()

    def _look_at(self, turn: Callable[[], bool]) -> bool:
        try:
            with every_org():
                return turn()
        except Exception as exc:  # this thread must outlive whatever it stumbles over
            self._log(exc)
            with suppress(Exception):  # in whatever state it is
                connection.close()
            return False

    def _sessions(self) -> bool:
        tickets: dict[int, int] = {}

        def may_ask(org_id: int) -> bool:
            if org_id not in tickets and (ticket := self.under_way.try_to_ask(org_id)) is not None:
                tickets[org_id] = ticket
            return org_id in tickets

        to_ask: dict[int, list[str]] = {}
        try:
            to_ask, wake = due_sessions.process_due(may_ask)
        finally:
            for org_id, ticket in tickets.items():
                if org_id in to_ask:
                    self.pool.submit(self._guard, ticket, org_id, ask, org_id, to_ask[org_id])
                else:
                    self.under_way.end(ticket, called=False)
        if wake:
            self.wake_lanes()
        return wake or bool(to_ask)

    def _overdue(self) -> bool:
        """Tell some reps of what waits; the next ones a moment later."""
        if time.monotonic() - self.told_at >= TELL_SECONDS:
            self.told_at = time.monotonic()
            if self.open_circuits.tell_reps():
                self.wake_lanes()
        return False

    def _handovers(self) -> bool:
        free = self.under_way.free
        claims = handover.claim(free, self.under_way.shares()) if free > 0 else []
        for claimed in claims:
            ticket = self.under_way.begin(Kind.HANDOVER, claimed.org_id)
            self.pool.submit(self._guard, ticket, claimed.org_id, self._carry_on, claimed)
        return bool(claims)

    def _guard(self, ticket: int, org_id: int, work: Callable[..., None], *arguments: Any) -> None:
        try:
            with every_org():
                work(*arguments)
        except Exception as exc:
            self._log(exc, org_id)
        finally:
            self.under_way.end(ticket)
            self.woken.set()

    def _log(self, exc: Exception, org_id: int | None = None) -> None:
        if is_database_trouble(exc):
            note_trouble("database trouble", exc, org=org_id)
        else:
            log.error("housekeeping failed", org=org_id, **facts_of(exc))

    def _carry_on(self, claimed: Claim) -> None:
        if handover.carry_on(claimed):
            self.wake_lanes()


def ask(org_id: int, ids: Sequence[str]) -> None:
    """Ask Salesforce which of an org's sessions have ended, and note those that have."""
    problem, pause, ended, states = "", 0.0, list[str](), dict[str, bool]()
    try:
        with brief_connection():
            salesforce = SalesforceConnection.objects.select_related("org").get(org_id=org_id)
            doubtful = sessions.ended_if_absent(org_id, ids)
        with time_limit(ASK_SECONDS):
            client = salesforce.rest()
            states = find_states(client, ids)
            ended = [each for each in ids if states.get(each)]
            if gone := [each for each in doubtful if each not in states]:  # their records were deleted, or hidden from us
                if states or shows_any(client):
                    ended += gone
                else:
                    problem = HIDDEN
    except Exception as exc:
        if is_database_trouble(exc):
            raise
        expected = isinstance(exc, ApiError | CannotDecrypt)
        problem, pause = str(exc) if expected else in_words(exc), getattr(exc, "retry_after", None) or 0.0
        log.warning("sessions not asked about", org=org_id, error=type(exc).__name__)
    with brief_connection():
        sessions.note_seen(org_id, list(states))
        sessions.note_answer(org_id, ids, problem, pause=pause)  # they are asked about again at their next time
        work_on(
            {org_id: ended},
            lambda some: [sessions.end(org_id, each) for each in some],
            set_aside=lambda each, exc: sessions.note_answer(org_id, [each], in_words(exc)),
        )


running: Housekeeping | None = None  # this process's one, set when it starts
