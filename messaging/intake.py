"""Takes in what came, many orgs at a time: what the door appended to the inbox, and what streams brought.

If a batch raises, it is taken again org by org, then arrival by arrival with savepoints; what raises alone is set aside:
kept in the ledger with the reason, visible and counted, and never tried again by itself.
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import structlog
from django.db import connection, transaction
from django.utils import timezone

from connector.events import UnexpectedPayload, clean
from connector.infobip import webhooks
from connector.infobip.deliveries import Unread, take_apart
from connector.salesforce.platform_events import PlatformEvent, Topic, created_at, parse_event
from messaging.aside import LOCKED, ingest_apart, ingest_but_locked, ingest_carefully, unreadable
from messaging.ingest import ingest
from messaging.ledger import Arrival, kind_of
from messaging.query import query
from tenants.database import facts_of, is_rows_fault, sqlstate

log = structlog.get_logger(__name__)

INGEST_LOCK = 0x1A6E57  # one process at a time, so that no later arrival overtakes an earlier one
ROWS_OF_ORG = 200
RESULTS_OF_ORG = 200  # of its rows; a delivery of more is taken in several turns, so that others' come between
RESULTS_AT_ONCE = 2_000
ROWS_AT_ONCE = 2_000
BYTES_OF_ORG = 2 << 20  # a larger body comes alone
BYTES_AT_ONCE = 8 << 20
READ_SECONDS = 1.0  # of a turn, in which others' messages and the database wait
FEW_ROWS, FEW_BYTES = 8, 64 << 10  # a turn that took no more left nothing, unless a giant: that is looked for in a second


class Turn(NamedTuple):
    """What a look into the inbox led to."""

    taken: int = 0  # rows
    work: bool = False  # lanes have something to do
    more: bool = False  # there may well be more to take


def take_inbox() -> Turn:
    """Ingest what the door appended, each org's oldest first.

    :raises django.db.Error: if the database is in trouble; then nothing is lost, and it is to be tried again
    """
    try:
        return _take_inbox(ingest_but_locked)
    except Exception as exc:
        if sqlstate(exc) == LOCKED:
            log.warning("somebody has locked what orgs' messages go to: each org is taken alone", **facts_of(exc))
        elif is_rows_fault(exc):
            log.warning("the inbox is taken row by row", **facts_of(exc))
            return _take_inbox(lambda arrivals: (ingest_carefully(arrivals), set()))
        else:
            raise
    return _take_inbox(ingest_apart)


def _take_inbox(ingested: Callable[[Sequence[Arrival]], tuple[bool, set[int]]]) -> Turn:
    """Take a share of the inbox.

    :param ingested: writes arrivals, and names the orgs whose arrivals it left, for the next time
    """
    with transaction.atomic():
        if not query("SELECT pg_try_advisory_xact_lock(%s)", [INGEST_LOCK])[0][0]:
            return Turn()
        rows = _read_inbox()
        if not rows:
            return Turn()
        share = _share_of(rows)
        work, left_orgs = ingested(share.arrivals)
        if left_orgs:
            share.leave({row.id for row in rows if row.org_id in left_orgs})
        query("DELETE FROM messaging_inbox WHERE id = ANY(%s)", [share.done])
        if share.begun:
            query(
                """UPDATE messaging_inbox inbox SET taken = begun.taken
                   FROM unnest(%s::bigint[], %s::int[]) AS begun (id, taken)
                   WHERE inbox.id = begun.id AND inbox.id = ANY(%s)""",
                [list(share.begun), list(share.begun.values()), list(share.begun)],
            )
    rows = [row for row in rows if row.org_id not in left_orgs]  # those of the others are looked at again in a second
    left = len(share.done) < len(rows)
    more = left or len(rows) > FEW_ROWS or sum(len(row.body) for row in rows) > FEW_BYTES
    return Turn(len(share.done) + len(share.begun), work, more=more)


class _Row(NamedTuple):
    """A delivery in the inbox, of whose results some are ingested already."""

    id: int
    org_id: int
    account_id: int
    body: bytes
    received_at: datetime
    taken: int


@dataclass(slots=True)
class _Share:
    """What of the inbox is one turn's."""

    arrivals: list[Arrival] = field(default_factory=list)
    done: list[int] = field(default_factory=list)  # rows of which nothing is left
    begun: dict[int, int] = field(default_factory=dict)  # how many results are taken of others

    def leave(self, rows: set[int]) -> None:
        """Leave rows as they are."""
        self.done = [each for each in self.done if each not in rows]
        self.begun = {each: taken for each, taken in self.begun.items() if each not in rows}


def _share_of(rows: Iterable[_Row]) -> _Share:
    """Choose results: so many of an org and of all, an org's oldest first, as far as the time to read them goes."""
    share, of_org = _Share(), Counter[int]()
    until = time.monotonic() + READ_SECONDS
    for row in rows:
        if share.arrivals and time.monotonic() > until:
            break
        room = min(RESULTS_OF_ORG - of_org[row.org_id], RESULTS_AT_ONCE - len(share.arrivals))
        if room <= 0:
            of_org[row.org_id] = RESULTS_OF_ORG  # what came later of this org waits for what is left of this row
            continue
        arrivals, more = _arrivals_of_webhook(row, most=room, until=until)
        share.arrivals += arrivals
        of_org[row.org_id] += len(arrivals)
        if more:
            share.begun[row.id] = row.taken + len(arrivals)
        else:
            share.done.append(row.id)
    return share


def _read_inbox() -> list[_Row]:
    """Read a share of each org, in turns, bounded in rows and bytes: a flood, or a giant, is one org's own."""
    rows = query(
        """WITH RECURSIVE org (id) AS (
               (SELECT org_id FROM messaging_inbox ORDER BY org_id LIMIT 1)
               UNION ALL
               SELECT (SELECT org_id FROM messaging_inbox WHERE org_id > org.id ORDER BY org_id LIMIT 1)
               FROM org WHERE org.id IS NOT NULL),
           share AS (
               SELECT row.*, sum(row.size) OVER (ORDER BY row.turn, row.id) AS bytes,
                   row_number() OVER (ORDER BY row.turn, row.id) AS n
               FROM org CROSS JOIN LATERAL (
                   SELECT id, octet_length(body) AS size, row_number() OVER (ORDER BY id) AS turn,
                       sum(octet_length(body)) OVER (ORDER BY id) AS bytes_of_org
                   FROM (SELECT id, body FROM messaging_inbox WHERE org_id = org.id ORDER BY id LIMIT %s) AS oldest) AS row
               WHERE org.id IS NOT NULL AND (row.turn = 1 OR row.bytes_of_org <= %s))
           SELECT inbox.id, inbox.org_id, inbox.account_id, inbox.body, inbox.received_at, inbox.taken
           FROM share CROSS JOIN LATERAL (
               SELECT * FROM messaging_inbox WHERE id = share.id LIMIT 1) AS inbox
           WHERE share.n = 1 OR (share.n <= %s AND share.bytes <= %s)
           ORDER BY inbox.id""",
        [ROWS_OF_ORG, BYTES_OF_ORG, ROWS_AT_ONCE, BYTES_AT_ONCE],
    )
    return [_Row(*row) for row in rows]


def _arrivals_of_webhook(row: _Row, *, most: int, until: float) -> tuple[list[Arrival], bool]:
    """Read the next results of a webhook, and say whether there are more; one that cannot be read is one without effect.

    :param until: by the monotonic clock; of each row one result at least is read
    """
    results = take_apart(bytes(row.body))
    arrivals: list[Arrival] = []
    for result in results[row.taken : row.taken + most]:
        if arrivals and time.monotonic() > until:
            break
        arrivals.append(_read_result(row, result))
    return arrivals, len(results) > row.taken + len(arrivals)


def _read_result(row: _Row, result: object) -> Arrival:
    if isinstance(result, Unread):
        return unreadable(row.org_id, row.account_id, None, result.raw, row.received_at, result.problem)
    try:
        return _arrival_of_result(row.org_id, row.account_id, result, row.received_at)
    except Exception as exc:  # a shape that the reader did not foresee costs that result alone
        raw, problem = json.dumps(result).encode(), f"unforeseen: {type(exc).__name__}"
        return unreadable(row.org_id, row.account_id, None, raw, row.received_at, problem)


def _arrival_of_result(org_id: int, account_id: int, result: object, received_at: datetime) -> Arrival:
    # ASCII escapes keep what PostgreSQL's text cannot hold, such as lone surrogates
    arrival = Arrival(
        org_id, account_id, None, webhooks.key_of(result), json.dumps(result).encode(), received_at=received_at
    )
    return _with_event(arrival, lambda: webhooks.parse_result(result, received_at=received_at))


def _with_event(arrival: Arrival, parse: Callable[[], object]) -> Arrival:
    try:
        arrival.event = parse()  # type: ignore[assignment]
    except UnexpectedPayload as exc:
        arrival.kind, arrival.problem = "unreadable", clean(str(exc))[:300]
    else:
        arrival.kind = kind_of(arrival.event)  # type: ignore[arg-type]
    return arrival


# what streams brought


@dataclass(frozen=True, slots=True)
class StreamBatch:
    """What one stream brought since its position was last saved."""

    org_id: int
    subscription_id: int
    lease_id: UUID
    since: datetime
    topic: Topic
    events: list[PlatformEvent]
    replay_id: bytes


def receive_stream_batches(batches: Sequence[StreamBatch]) -> tuple[set[int], bool]:
    """Write down what streams brought and move their positions, in one transaction.

    A position moves only under the lease of the stream that brought the events: a process that lost it saves nothing.

    :return: the subscriptions whose batch is saved, and whether there is something to do now
    :raises django.db.Error: if the database is in trouble; then nothing is saved
    """
    try:
        with transaction.atomic():
            return _receive(batches, ingest)
    except Exception as exc:
        if not is_rows_fault(exc):
            raise
        log.warning("stream events are taken in one by one", **facts_of(exc))
    saved: set[int] = set()
    work = False
    for batch in batches:
        with transaction.atomic():
            one, effect = _receive([batch], ingest_carefully)
        saved, work = saved | one, work or effect
    return saved, work


def _receive(batches: Sequence[StreamBatch], ingested: Callable[[Sequence[Arrival]], bool]) -> tuple[set[int], bool]:
    mine = _move_positions(batches)
    now = timezone.now()
    arrivals = [
        _arrival_of_event(batch, event, now)
        for batch in batches
        if batch.subscription_id in mine
        for event in batch.events
        # reading starts at the earliest event of the bus, and what was published before we subscribed is not for us
        if (at := created_at(event)) is None or at >= batch.since
    ]
    return mine, ingested(arrivals) if arrivals else False


def _move_positions(batches: Sequence[StreamBatch]) -> set[int]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id FROM messaging_eventsubscription WHERE id = ANY(%s) ORDER BY id FOR NO KEY UPDATE",
            [sorted(batch.subscription_id for batch in batches)],
        )
        cursor.execute(
            """UPDATE messaging_eventsubscription stream SET replay_id = batch.replay_id,
                   last_answer_at = clock_timestamp(), failures = 0, problem = ''
               FROM unnest(%s::bigint[], %s::bigint[], %s::uuid[], %s::bytea[]) AS batch (id, org_id, lease_id, replay_id)
               WHERE stream.id = batch.id AND stream.org_id = batch.org_id AND stream.lease_id = batch.lease_id
                 AND stream.id = ANY(%s)
               RETURNING stream.id""",
            [
                [batch.subscription_id for batch in batches],
                [batch.org_id for batch in batches],
                [batch.lease_id for batch in batches],
                [batch.replay_id for batch in batches],
                [batch.subscription_id for batch in batches],
            ],
        )
        return {row[0] for row in cursor.fetchall()}


def _arrival_of_event(batch: StreamBatch, event: PlatformEvent, received_at: datetime) -> Arrival:
    body = event.payload if event.record is None else json.dumps(event.record, default=str).encode()
    # one without an id is told from others by where it lay and what it says
    key = f"event:{event.id}"[:300] if event.id else f"sha256:{hashlib.sha256(event.replay_id + event.payload).hexdigest()}"
    arrival = Arrival(batch.org_id, None, batch.subscription_id, key, body, received_at=received_at)
    try:
        return _with_event(arrival, lambda: parse_event(event, batch.topic))
    except Exception as exc:  # a shape that the reader did not foresee costs that event alone
        arrival.kind, arrival.problem = "unreadable", f"unforeseen: {type(exc).__name__}"
        return arrival
