"""Takes lanes out of the queue: lock those that are due, take the next message of each, pause or release them.

The statement that locks is never the one that takes: it would read from a snapshot of before its locks, and could send a
message twice. Callers own the transaction.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import structlog
from django.db import transaction

from messaging.circuits import UPSTREAM_OF, Endpoint, columns
from messaging.models import NOTICE, Direction
from messaging.query import query, records
from tenants.database import facts_of, is_rows_fault

log = structlog.get_logger(__name__)

RECOVERY_SECONDS = 1.0  # in which a report may tell what became of a send whose process died
ASIDE_SECONDS = 600.0  # after which a lane that was set aside is looked at again
HOLDER_LOCKS = 0x5CC  # the class of advisory locks that stand for living processes; the number is the holder's


@dataclass(frozen=True, slots=True)
class Claim:
    """A lane that this process holds, as it was when its next message was taken."""

    lane_id: int
    org_id: int
    conversation_id: int
    direction: Direction
    endpoint_id: int
    version: int
    failures: int

    @property
    def endpoint(self) -> Endpoint:
        """Name what it calls."""
        return Endpoint(self.org_id, UPSTREAM_OF[self.direction], self.endpoint_id)


@dataclass(frozen=True, slots=True)
class Waiting:
    """The next message of a lane."""

    id: int
    channel_id: int
    sender_id: int | None
    uuid: UUID
    text: str
    written_at: datetime
    ours: bool
    template: str | None  # Infobip's content of one, as JSON
    routing_attributes: str | None  # a JSON object
    subject: str  # the end user, as the upstream knows them
    identifier: str = ""  # of the conversation in Salesforce, when this was taken
    session: str = ""  # that was open then
    session_open: bool = True
    notice: bool = False  # a line for the rep that is worth nothing outside of the session


@dataclass(frozen=True, slots=True)
class Share:
    """How many more lanes of an endpoint a process may take, and how many it holds."""

    endpoint: Endpoint
    more: int
    held: int


class Given(NamedTuple):
    """A locked lane to be taken; ``carried``: when the message was written that it has just delivered, if it has."""

    lane_id: int
    carried: datetime | None = None


# Which orgs have due lanes, and which endpoints of theirs, is found by leaps over the index: it costs by their number,
# however many lanes wait. Then each endpoint gives its share; a probe does not wait for the pause of its lane. The bound is
# statement_timestamp(): the index cannot be searched by clock_timestamp(), which changes from row to row.
LOCK_DUE = """
WITH RECURSIVE org (id) AS (
    (SELECT org_id FROM messaging_lane WHERE due_at IS NOT NULL AND holder IS NULL ORDER BY org_id LIMIT 1)
    UNION ALL
    SELECT (SELECT org_id FROM messaging_lane WHERE due_at IS NOT NULL AND holder IS NULL AND org_id > org.id
            ORDER BY org_id LIMIT 1)
    FROM org WHERE org.id IS NOT NULL),
due_endpoint (org_id, direction, upstream, endpoint_id) AS (
    SELECT org.id, of.direction, of.upstream, (
        SELECT endpoint_id FROM messaging_lane
        WHERE org_id = org.id AND direction = of.direction AND due_at IS NOT NULL AND holder IS NULL
        ORDER BY endpoint_id LIMIT 1)
    FROM org CROSS JOIN unnest(%s::text[], %s::text[]) AS of (direction, upstream)
    WHERE org.id IS NOT NULL
    UNION ALL
    SELECT endpoint.org_id, endpoint.direction, endpoint.upstream, (
        SELECT endpoint_id FROM messaging_lane
        WHERE org_id = endpoint.org_id AND direction = endpoint.direction AND endpoint_id > endpoint.endpoint_id
          AND due_at IS NOT NULL AND holder IS NULL
        ORDER BY endpoint_id LIMIT 1)
    FROM due_endpoint endpoint WHERE endpoint.endpoint_id IS NOT NULL),
open_endpoint AS MATERIALIZED (
    SELECT endpoint.org_id, endpoint.direction, endpoint.endpoint_id, COALESCE(share.held, 0) AS held,
        CASE WHEN probe.org_id IS NOT NULL THEN 1 ELSE LEAST(COALESCE(share.more, %s), %s) END AS more,
        CASE WHEN probe.org_id IS NOT NULL THEN 'infinity' ELSE statement_timestamp() END AS until
    FROM due_endpoint endpoint
    LEFT JOIN unnest(%s::bigint[], %s::text[], %s::bigint[], %s::int[], %s::int[])
      AS share (org_id, upstream, endpoint_id, more, held) USING (org_id, upstream, endpoint_id)
    LEFT JOIN unnest(%s::bigint[], %s::text[], %s::bigint[])
      AS probe (org_id, upstream, endpoint_id) USING (org_id, upstream, endpoint_id)
    WHERE endpoint.endpoint_id IS NOT NULL AND (probe.org_id IS NOT NULL OR NOT EXISTS (
        SELECT 1 FROM messaging_circuit circuit
        WHERE circuit.org_id = endpoint.org_id AND circuit.upstream = endpoint.upstream
          AND circuit.endpoint_id = endpoint.endpoint_id AND circuit.opened_at IS NOT NULL))),
candidate AS MATERIALIZED (
    SELECT lane.id, lane.due_at, endpoint.org_id, endpoint.direction, endpoint.endpoint_id, endpoint.held, endpoint.more
    FROM open_endpoint endpoint CROSS JOIN LATERAL (
        SELECT id, due_at FROM messaging_lane
        WHERE org_id = endpoint.org_id AND direction = endpoint.direction AND endpoint_id = endpoint.endpoint_id
          AND due_at IS NOT NULL AND holder IS NULL
          AND due_at <= endpoint.until AND (retry_at IS NULL OR retry_at <= endpoint.until)
        ORDER BY due_at LIMIT endpoint.more
        FOR NO KEY UPDATE SKIP LOCKED) AS lane)
SELECT id, count(*) OVER (PARTITION BY org_id, direction, endpoint_id) >= more FROM candidate
ORDER BY row_number() OVER (PARTITION BY org_id, direction, endpoint_id ORDER BY due_at) + held, due_at
LIMIT %s"""


class Due(NamedTuple):
    """A due lane that is locked now."""

    id: int
    bounded: bool  # its endpoint has its whole share: more of it may be due


def lock_due(most: int, *, shares: Sequence[Share] = (), share: int = 8, probes: Sequence[Endpoint] = ()) -> list[Due]:
    """Lock due lanes that nobody holds.

    Nobody waits for a neighbour: of each endpoint at most its share is taken, those that have waited longest first, and
    endpoints take turns, who holds least coming first. An open circuit lets one lane through where there is a probe for it.

    :param most: how many lanes to take
    :param shares: what is left to endpoints of which something is known; the others have ``share``
    """
    rows = query(
        LOCK_DUE,
        [
            *([direction.value for direction in UPSTREAM_OF], [upstream.value for upstream in UPSTREAM_OF.values()]),
            *(share, most),
            *columns(each.endpoint for each in shares),
            *([each.more for each in shares], [each.held for each in shares]),
            *columns(probes),
            most,
        ],
    )
    return [Due(*row) for row in rows]


def lock_held(tries: Mapping[int, int | None], *, holder: int, neighbours_of: Iterable[int] = ()) -> set[int]:
    """Lock lanes in sorted order, and name those in which the try is still this process's: the fence of every record.

    :param tries: lane ids, and the message that was tried in each; None for receipts
    :param neighbours_of: conversations whose other lanes are locked too, as the transaction may write to them
    """
    rows = query(
        """SELECT id, holder, trying FROM messaging_lane WHERE id = ANY(%s) OR conversation_id = ANY(%s)
           ORDER BY id FOR NO KEY UPDATE""",
        [sorted(tries), sorted(set(neighbours_of))],
    )
    return {lane_id for lane_id, by, trying in rows if lane_id in tries and by == holder and trying == tries[lane_id]}


def take(lanes: Sequence[Given], *, holder: int) -> list[tuple[Claim, Waiting | None]]:
    """Hold locked lanes and name the next message of each; those in which nothing waits are released.

    Lanes of receipts are held too, without a message.
    """
    if not lanes:
        return []
    ids = [each.lane_id for each in lanes]
    rows = query(
        """UPDATE messaging_lane lane SET holder = CASE WHEN plan.goes_on THEN %s END, trying = plan.message_id,
               due_at = CASE WHEN plan.goes_on THEN lane.due_at END, retry_at = NULL,
               failures = CASE WHEN plan.carried IS NULL THEN lane.failures ELSE 0 END,
               carried_until = GREATEST(lane.carried_until, plan.carried)
           FROM (
               SELECT given.id, given.carried, head.id IS NOT NULL OR held.direction = 'receipts' AS goes_on,
                   head.id AS message_id, head.channel_id, head.sender_id, head.uuid, head.text, head.written_at, head.ours,
                   head.template, head.routing_attributes, conversation.subject, conversation.identifier,
                   CASE WHEN conversation.session_open THEN conversation.session ELSE '' END AS session,
                   conversation.session_open, starts_with(head.source_entry, %s) AS notice
               FROM unnest(%s::bigint[], %s::timestamptz[]) AS given (id, carried)
               CROSS JOIN LATERAL (
                   SELECT direction, hold, conversation_id FROM messaging_lane WHERE id = given.id LIMIT 1) AS held
               CROSS JOIN LATERAL (
                   SELECT subject, identifier, session, session_open FROM messaging_conversation
                   WHERE id = held.conversation_id LIMIT 1) AS conversation
               LEFT JOIN LATERAL (
                   SELECT * FROM messaging_message
                   WHERE lane_id = given.id AND status = 'pending' AND (held.hold IS NULL OR position <= held.hold)
                   ORDER BY position LIMIT 1) AS head ON held.direction <> 'receipts') AS plan
           WHERE lane.id = plan.id AND lane.id = ANY(%s)
           RETURNING lane.id, lane.org_id, lane.conversation_id, lane.direction, lane.endpoint_id, lane.version,
               lane.failures, plan.goes_on, plan.message_id, plan.channel_id, plan.sender_id, plan.uuid, plan.text,
               plan.written_at, plan.ours, plan.template, plan.routing_attributes, plan.subject, plan.identifier,
               plan.session, plan.session_open, plan.notice""",
        [holder, NOTICE, ids, [each.carried for each in lanes], ids],
    )
    taken: list[tuple[Claim, Waiting | None]] = []
    for lane_id, org_id, conversation_id, direction, endpoint_id, version, failures, goes_on, *head in rows:
        if goes_on:
            claim = Claim(lane_id, org_id, conversation_id, Direction(direction), endpoint_id, version, failures)
            taken.append((claim, Waiting(*head) if head[0] is not None else None))
    return taken


@dataclass(frozen=True, slots=True)
class Pause:
    """How a lane is let go: due again after some seconds (0: at once), or, without any, when something comes."""

    lane_id: int
    seconds: float | None
    failures: int = 0
    carried: datetime | None = None
    endpoint_id: int | None = None  # what failed, where that is not what the lane is filed under
    version: int | None = None  # stays due if more came than this run saw


def release(pauses: Sequence[Pause]) -> None:
    """Let locked lanes go."""
    if not pauses:
        return
    query(
        """UPDATE messaging_lane lane SET holder = NULL, trying = NULL, failures = freed.failures,
               carried_until = GREATEST(lane.carried_until, freed.carried),
               endpoint_id = COALESCE(freed.endpoint_id, lane.endpoint_id),
               retry_at = clock_timestamp() + make_interval(secs => NULLIF(freed.seconds, 0)),
               due_at = CASE WHEN freed.seconds IS NOT NULL THEN clock_timestamp() + make_interval(secs => freed.seconds)
                             WHEN lane.version <> freed.version THEN clock_timestamp() END
           FROM jsonb_to_recordset(%s::jsonb) AS freed (
               id bigint, seconds float8, failures int, carried timestamptz, endpoint_id bigint, version bigint)
           WHERE lane.id = freed.id AND lane.id = ANY(%s)""",
        [
            records(
                {
                    "id": each.lane_id,
                    "seconds": each.seconds,
                    "failures": each.failures,
                    "carried": each.carried,
                    "endpoint_id": each.endpoint_id,
                    "version": each.version,
                }
                for each in pauses
            ),
            [each.lane_id for each in pauses],
        ],
    )


def mark_abandoned_attempts_in_doubt(*, me: int) -> int:
    """Free the lanes of holders that are gone: their session is over, so PostgreSQL has released their lock.

    What such a holder was trying is in doubt: it is sent again with the same id, towards WhatsApp after a moment in which
    a report of it may come.

    :return: how many lanes became free
    """
    holders = query(
        """WITH RECURSIVE known (holder) AS (
               (SELECT holder FROM messaging_lane WHERE holder IS NOT NULL ORDER BY holder LIMIT 1)
               UNION ALL
               SELECT (SELECT holder FROM messaging_lane WHERE holder > known.holder ORDER BY holder LIMIT 1)
               FROM known WHERE known.holder IS NOT NULL)
           SELECT holder FROM known WHERE holder IS NOT NULL AND holder <> %s""",
        [me],
    )
    gone = [
        holder
        for (holder,) in holders
        if query("SELECT pg_try_advisory_xact_lock(%s::int, %s::int)", [HOLDER_LOCKS, holder])[0][0]
    ]
    return sum(_free_lanes_of(holder) for holder in gone)


def _free_lanes_of(holder: int) -> int:
    freed = query(
        """WITH freed AS (
               UPDATE messaging_lane lane SET holder = NULL, trying = NULL,
                   due_at = clock_timestamp() + waits.pause,
                   retry_at = clock_timestamp() + NULLIF(waits.pause, interval '0')
               FROM (
                   SELECT id, trying, direction FROM messaging_lane WHERE holder = %s
                   ORDER BY id FOR NO KEY UPDATE) AS old
               CROSS JOIN LATERAL (SELECT CASE
                   WHEN old.trying IS NOT NULL AND old.direction = 'outbound' THEN make_interval(secs => %s)
                   ELSE interval '0' END AS pause) AS waits
               WHERE lane.id = old.id RETURNING lane.org_id, old.trying),
           doubted AS (
               INSERT INTO messaging_attempt (org_id, message_id, started_at, ended_at, outcome, code, detail, request_id)
               SELECT message.org_id, message.id, clock_timestamp(), clock_timestamp(), 'in doubt', '',
                   'the process that made this try is gone', ''
               FROM freed CROSS JOIN LATERAL (
                   SELECT id, org_id FROM messaging_message
                   WHERE id = freed.trying AND status = 'pending' LIMIT 1) AS message
               RETURNING message_id),
           counted AS (
               UPDATE messaging_message SET tries = tries + 1 WHERE id IN (SELECT message_id FROM doubted))
           SELECT 1 FROM freed""",
        [holder, RECOVERY_SECONDS],
    )
    return len(freed)


def free_unknown(holder: int, *, known: Collection[tuple[int, int | None]]) -> int:
    """Free lanes that this process holds and does not know of: the commit that took them seemed to fail, and did not.

    Nothing was called for them: a call begins after the commit only.

    :param known: lanes of calls that are under way, or whose results are not written yet, each with the message that was
        tried in it: a turn that seemed to fail may have written a result, and tried the next one
    :return: how many lanes became free
    """
    rows = query(
        """UPDATE messaging_lane SET holder = NULL, trying = NULL, retry_at = NULL, due_at = clock_timestamp()
           WHERE id IN (
               SELECT id FROM messaging_lane WHERE holder = %s AND NOT EXISTS (
                   SELECT 1 FROM unnest(%s::bigint[], %s::bigint[]) AS known (lane_id, message_id)
                   WHERE known.lane_id = id AND known.message_id IS NOT DISTINCT FROM trying)
               ORDER BY id FOR NO KEY UPDATE)
           RETURNING id""",
        [holder, [lane_id for lane_id, _ in known], [message_id for _, message_id in known]],
    )
    return len(rows)


def set_aside(lane_id: int, *, holder: int) -> None:
    """Let go a lane whose result cannot be recorded; what was tried in it is in doubt, and it is looked at again later."""
    query(
        """WITH freed AS (
               UPDATE messaging_lane lane SET holder = NULL, trying = NULL,
                   due_at = clock_timestamp() + make_interval(secs => %s),
                   retry_at = clock_timestamp() + make_interval(secs => %s)
               FROM (SELECT id, trying FROM messaging_lane WHERE id = %s AND holder = %s FOR NO KEY UPDATE) AS old
               WHERE lane.id = old.id RETURNING lane.org_id, old.trying)
           INSERT INTO messaging_attempt (org_id, message_id, started_at, ended_at, outcome, code, detail, request_id)
           SELECT org_id, trying, clock_timestamp(), clock_timestamp(), 'in doubt', '', 'its result cannot be recorded', ''
           FROM freed WHERE trying IS NOT NULL""",
        [ASIDE_SECONDS, ASIDE_SECONDS, lane_id, holder],
    )


def set_unreadable_aside(most: int) -> int:
    """Find among due lanes those whose next message raises when it is read, and mark that message as failed.

    :return: how many there were
    """
    aside = 0
    for lane_id, _ in lock_due(most):
        try:
            with transaction.atomic():
                take([Given(lane_id)], holder=0)
                transaction.set_rollback(True)
        except Exception as exc:
            if not is_rows_fault(exc):
                raise
            aside += 1
            log.error("a message cannot be read", lane=lane_id, **facts_of(exc))
            query(
                """UPDATE messaging_message SET status = 'failed', status_at = clock_timestamp(),
                       error = 'it cannot be read; its row is damaged'
                   WHERE id IN (SELECT id FROM messaging_message WHERE lane_id = %s AND status = 'pending'
                                ORDER BY position LIMIT 1)""",
                [lane_id],
            )
    return aside
