"""Takes arrivals org by org, then one by one, where together they raise or wait; what raises alone is set aside.

Set aside is kept in the ledger with the reason, visible and counted, and never tried again by itself.
"""

import hashlib
import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime

import structlog
from django.db import transaction

from messaging.ingest import ingest
from messaging.ledger import Arrival, keep_new
from messaging.query import query
from tenants.database import facts_of, is_rows_fault, sqlstate

log = structlog.get_logger(__name__)

LOCKED = "55P03"  # SQLSTATE: a lock was not given in time
SHORT_LOCK_MS = 50  # for an org's lanes, where one of them was locked lately
APART_SECONDS = 10.0


def _by_org(arrivals: Sequence[Arrival]) -> dict[int, list[Arrival]]:
    by_org: dict[int, list[Arrival]] = defaultdict(list)
    for arrival in arrivals:
        by_org[arrival.org_id].append(arrival)
    return by_org


def unreadable(
    org_id: int, account_id: int | None, subscription_id: int | None, body: bytes, received_at: datetime, problem: str
) -> Arrival:
    key = f"sha256:{hashlib.sha256(body).hexdigest()}"
    return Arrival(
        org_id, account_id, subscription_id, key, body, received_at=received_at, kind="unreadable", problem=problem
    )


# Orgs of which somebody outside, such as an operator, has locked a lane, and until when each is taken alone. It is used
# in one thread of a process.
_apart: dict[int, float] = {}


def ingest_but_locked(arrivals: Sequence[Arrival]) -> tuple[bool, set[int]]:
    """Ingest arrivals at once, but for those of orgs of which a lane was locked lately."""
    now = time.monotonic()
    for org_id in [each for each, until in _apart.items() if until < now]:
        del _apart[org_id]
    if not _apart:
        return ingest(arrivals), set()
    work = ingest([each for each in arrivals if each.org_id not in _apart])
    more, left = ingest_apart([each for each in arrivals if each.org_id in _apart])
    return work or more, left


def ingest_apart(arrivals: Sequence[Arrival]) -> tuple[bool, set[int]]:
    """Ingest org by org, and leave those that would have to wait for a lock."""
    work, left = False, set[int]()
    query("SELECT set_config('lock_timeout', %s, true)", [f"{SHORT_LOCK_MS}ms"])
    for org_id, of_org in _by_org(arrivals).items():
        try:
            with transaction.atomic():
                work = ingest_carefully(of_org) or work
        except Exception as exc:
            if sqlstate(exc) != LOCKED:
                raise
            left.add(org_id)
            _apart[org_id] = time.monotonic() + APART_SECONDS
    query("SET LOCAL lock_timeout TO DEFAULT", [])
    return work, left


def ingest_carefully(arrivals: Sequence[Arrival]) -> bool:
    """Ingest org by org, and what raises there arrival by arrival; set aside what raises alone."""
    work = False
    for of_org in _by_org(arrivals).values():
        effect, problem = _saved(of_org)
        if problem:
            for arrival in of_org:
                one, problem = _saved([arrival])
                effect = effect or one
                if problem:
                    _set_aside(arrival, problem)
        work = work or effect
    return work


def _saved(arrivals: Sequence[Arrival]) -> tuple[bool, str]:
    """Ingest in a savepoint: whether there is something to do now, and what keeps it from being written."""
    before = [arrival.problem for arrival in arrivals]
    try:
        with transaction.atomic():
            return ingest(arrivals), ""
    except Exception as exc:
        if not is_rows_fault(exc):
            raise
        for arrival, problem in zip(arrivals, before, strict=True):
            arrival.problem = problem
        return False, f"it cannot be taken in: {type(exc.__cause__ or exc).__name__}"


def _set_aside(arrival: Arrival, problem: str) -> None:
    """Keep an arrival that raises, without an effect."""
    aside = unreadable(
        arrival.org_id,
        arrival.account_id,
        arrival.subscription_id,
        arrival.body,
        arrival.received_at,
        problem,
    )
    try:
        with transaction.atomic():
            keep_new([aside])
    except Exception as exc:
        if not is_rows_fault(exc) or arrival.subscription_id is not None:  # a stream waits, visibly, and loses nothing
            raise
        # its account is gone: there is nobody left to show it to
        log.error("arrival dropped: its account is gone", org=arrival.org_id, **facts_of(exc))
        return
    log.error("arrival set aside", org=arrival.org_id, event_id=aside.id, problem=aside.problem)
