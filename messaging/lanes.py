"""The lane protocol: arrive, claim, record and release, renew.

A lane is one direction of one conversation. One process at a time holds its lease and carries what waits in it, in
order of position. Everything here is a statement or two on PostgreSQL; callers own the transaction. Rows are locked in
one order everywhere, lanes by id before messages by id, so that batches do not wait for each other in a circle.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from django.utils import timezone

from messaging import circuits
from messaging.circuits import SIDE_OF, Call
from messaging.models import Direction, Outcome, Side, Status
from messaging.query import query, records

LEASE_SECONDS = 20
FIRST_BACKOFF_SECONDS = 1.0
LONGEST_BACKOFF_SECONDS = 20.0  # what waits is under way again within half a minute of the cause going away
REPORT_SECONDS = 10.0  # how long a report may take that tells what became of a send in doubt
MOST_TRIES = 8  # of a message that fails while others pass
LONGEST_FAILING = timedelta(minutes=15)  # likewise
MOST_LINES = 1_000_000  # positions that are kept free for one transcript
LONGEST_WAIT = timedelta(hours=72)  # as long as Salesforce keeps its events


class Room(NamedTuple):
    """A lane that is locked for arrivals, and what is known of its conversation."""

    conversation_id: int
    lane_id: int
    position: int  # the last one given
    carried_until: datetime | None
    sender_id: int | None  # by which an answer leaves: the one last written to, else the channel's first
    with_rep_since: datetime | None  # when a chatbot handed the conversation over


@dataclass(frozen=True, slots=True)
class Claim:
    """A lane that this process holds. It does not change, since a transaction that changed it may be rolled back."""

    lane_id: int
    org_id: int
    conversation_id: int
    direction: Direction
    lease_id: UUID
    seen: int  # arrivals when it was claimed
    failures: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """The next message of a lane."""

    id: int
    lane_id: int
    org_id: int
    conversation_id: int
    channel_id: int
    sender_id: int | None
    uuid: UUID
    text: str
    written_at: datetime
    subject: str  # the end user, as the far side knows them
    template: str | None  # Infobip's content of one, as JSON
    routing_attributes: str | None  # a JSON object
    more: bool  # others wait behind it


@dataclass(slots=True)
class Result:
    """How the try of a message ended."""

    claim: Claim
    message: Waiting
    attempt_id: int
    outcome: Outcome
    status: int | None = None
    code: str = ""
    detail: str = ""
    request_id: str = ""
    retry_after: float | None = None
    conversation_identifier: str = ""
    session: str = ""
    seconds: float = 0.0  # the call took
    called: bool = True  # False: it was given back untried, or failed through our own fault
    given_up: str = ""  # why it is not tried again, in words for the rep

    @property
    def succeeded(self) -> bool:
        """Tell whether the far side did its part; a refusal for good is one too."""
        return self.outcome in (Outcome.SENT, Outcome.REFUSED)

    @property
    def pauses(self) -> bool:
        """Tell whether the lane waits before the same message is tried again."""
        return not self.succeeded and not self.given_up


def create_lanes(org_id: int, conversation_ids: Sequence[int]) -> None:
    """Give conversations their lanes, where they have none."""
    query(
        """INSERT INTO messaging_lane (org_id, conversation_id, direction, position, arrivals, failures)
           SELECT %s, conversation_id, direction, 0, 0, 0
           FROM unnest(%s::bigint[]) AS conversation_id, unnest(%s::text[]) AS direction
           ON CONFLICT DO NOTHING""",
        [org_id, list(conversation_ids), Direction.values],
    )


def lock_lanes(org_id: int, direction: Direction, places: set[tuple[int, str]]) -> dict[tuple[int, str], Room]:
    """Lock the lanes of end users in sorted order, so that arrivals can be given positions.

    Whoever brings messages also adds to ``arrivals``, which tells a process about to release the lane that something
    came since it looked.

    :param places: channel ids and addresses; those that nobody has written from yet are left out of the answer
    """
    ordered = sorted(places)
    # one look-up after the other, each by a whole key, whatever the statistics make of a table that was empty just now;
    # the lanes are locked last, in the order of the rows that name them
    found = query(
        """SELECT lane.channel_id, lane.address, lane.conversation_id, lane.id, locked.position, locked.carried_until,
               lane.sender_id, locked.with_rep_since
           FROM (
               SELECT place.channel_id, place.address, known.conversation_id, lane.id,
                   COALESCE(conversation.last_sender_id, (
                       SELECT min(id) FROM tenants_sender WHERE channel_id = place.channel_id)) AS sender_id
               FROM unnest(%s::bigint[], %s::text[]) AS place (channel_id, address)
               CROSS JOIN LATERAL (
                   SELECT conversation_id FROM messaging_address
                   WHERE org_id = %s AND channel_id = place.channel_id AND address = place.address LIMIT 1) AS known
               CROSS JOIN LATERAL (
                   SELECT last_sender_id FROM messaging_conversation
                   WHERE id = known.conversation_id LIMIT 1) AS conversation
               CROSS JOIN LATERAL (
                   SELECT id FROM messaging_lane
                   WHERE org_id = %s AND conversation_id = known.conversation_id AND direction = %s LIMIT 1) AS lane
               ORDER BY lane.id OFFSET 0) AS lane
           CROSS JOIN LATERAL (
               SELECT position, carried_until, with_rep_since FROM messaging_lane
               WHERE id = lane.id LIMIT 1 FOR NO KEY UPDATE) AS locked""",
        [[place[0] for place in ordered], [place[1] for place in ordered], org_id, org_id, direction.value],
    )
    return {(channel_id, address): Room(*room) for channel_id, address, *room in found}


def raise_barrier(org_id: int, conversation_id: int) -> datetime:
    """Give a conversation to the reps, and let what its end user writes from now on wait for a transcript.

    Positions below the barrier are kept free for the transcript. Repeating it changes nothing.

    :return: since when it is with them
    """
    rows = query(
        """UPDATE messaging_lane SET arrivals = arrivals + 1,
               with_rep_since = CASE WHEN barrier IS NULL THEN clock_timestamp() ELSE with_rep_since END,
               barrier = COALESCE(barrier, position + %s), position = GREATEST(position, COALESCE(barrier, position + %s))
           WHERE org_id = %s AND conversation_id = %s AND direction = 'inbound' RETURNING with_rep_since""",
        [MOST_LINES, MOST_LINES, org_id, conversation_id],
    )
    return rows[0][0]  # type: ignore[no-any-return]


def lower_barrier(org_id: int, conversation_id: int, lines: Sequence[Mapping[str, object]]) -> None:
    """Put a transcript below the barrier, and let what waits above it follow. Lines that are there already are left out.

    :param lines: in order, each with channel_id, sender_id, source_entry, part, text, written_at and routing_attributes
    """
    for lane_id, barrier in query(
        """SELECT id, barrier FROM messaging_lane WHERE org_id = %s AND conversation_id = %s AND direction = 'inbound'
             AND barrier IS NOT NULL FOR NO KEY UPDATE""",
        [org_id, conversation_id],
    ):
        query(
            """INSERT INTO messaging_message (org_id, lane_id, conversation_id, direction, uuid, created_at, late, status,
                   status_at, tries, error_code, error, told, position, channel_id, sender_id, source_entry, part, text,
                   written_at, routing_attributes)
               SELECT %s, %s, %s, 'inbound', gen_random_uuid(), clock_timestamp(), false, 'pending', clock_timestamp(), 0,
                   '', '', '', line.*
               FROM jsonb_to_recordset(%s::jsonb) AS line (position bigint, channel_id bigint, sender_id bigint,
                   source_entry text, part int, text text, written_at timestamptz, routing_attributes jsonb)
               ON CONFLICT DO NOTHING""",
            [
                *(org_id, lane_id, conversation_id),
                records({"position": barrier - MOST_LINES + n, **line} for n, line in enumerate(lines, 1)),
            ],
        )
        query(
            """UPDATE messaging_lane SET barrier = NULL, arrivals = arrivals + 1, due_at = LEAST(due_at, clock_timestamp())
               WHERE id = %s""",
            [lane_id],
        )


def make_due(org_id: int, direction: Direction, conversation_ids: Sequence[int]) -> None:
    """Ring lanes without bringing a message."""
    rows = query(
        """SELECT id FROM messaging_lane WHERE org_id = %s AND direction = %s AND conversation_id = ANY(%s)
           ORDER BY id FOR NO KEY UPDATE""",
        [org_id, direction.value, list(conversation_ids)],
    )
    query(
        """UPDATE messaging_lane SET arrivals = arrivals + 1, due_at = LEAST(due_at, clock_timestamp())
           WHERE id = ANY(%s)""",
        [[lane_id for (lane_id,) in rows]],
    )


@dataclass(frozen=True, slots=True)
class Share:
    """How many more lanes of an org and far side a process may take, and how many it holds."""

    org_id: int
    side: Side
    more: int
    held: int


def claim(most: int, *, shares: Iterable[Share] = (), share: int = 8) -> list[Claim]:
    """Take due lanes that nobody holds, or whose holder's lease ran out.

    Nobody waits for a neighbour: of each org and far side at most its share is taken, those that have waited longest
    first, and orgs take turns, who holds least coming first. An open circuit lets one lane through for each probe.

    :param most: how many lanes to take
    :param shares: what is left to orgs and sides of which something is known; the others have ``share``
    """
    given = list(shares)
    probes = circuits.take_probes()
    rows = query(
        """WITH RECURSIVE org (id) AS (
               (SELECT org_id FROM messaging_lane WHERE due_at IS NOT NULL ORDER BY org_id LIMIT 1)
               UNION ALL
               SELECT (SELECT org_id FROM messaging_lane WHERE due_at IS NOT NULL AND org_id > org.id
                       ORDER BY org_id LIMIT 1)
               FROM org WHERE org.id IS NOT NULL),
           way AS (
               SELECT org.id AS org_id, of.direction, probe.side IS NOT NULL AS probing, COALESCE(share.held, 0) AS held,
                   CASE WHEN probe.side IS NOT NULL THEN 1 ELSE LEAST(COALESCE(share.more, %s), %s) END AS more
               FROM org
               CROSS JOIN unnest(%s::text[], %s::text[]) AS of (direction, side)
               LEFT JOIN unnest(%s::bigint[], %s::text[], %s::int[], %s::int[]) AS share (org_id, side, more, held)
                 ON share.org_id = org.id AND share.side = of.side
               LEFT JOIN unnest(%s::bigint[], %s::text[]) AS probe (org_id, side)
                 ON probe.org_id = org.id AND probe.side = of.side
               LEFT JOIN messaging_circuit circuit
                 ON circuit.org_id = org.id AND circuit.side = of.side AND circuit.opened_at IS NOT NULL
               WHERE org.id IS NOT NULL AND (circuit.id IS NULL OR probe.side IS NOT NULL)),
           candidate AS MATERIALIZED (
               SELECT lane.id, lane.due_at, way.org_id, way.held
               FROM way CROSS JOIN LATERAL (
                   SELECT id, due_at FROM messaging_lane
                   WHERE org_id = way.org_id AND direction = way.direction AND due_at IS NOT NULL
                     AND (due_at <= clock_timestamp() OR way.probing)
                     AND (retry_at IS NULL OR retry_at <= clock_timestamp() OR way.probing)
                     AND (leased_until IS NULL OR leased_until < clock_timestamp())
                   ORDER BY due_at LIMIT way.more
                   FOR NO KEY UPDATE SKIP LOCKED) AS lane),
           turn AS (
               SELECT id FROM candidate
               ORDER BY row_number() OVER (PARTITION BY org_id ORDER BY due_at) + held, due_at LIMIT %s)
           UPDATE messaging_lane lane
           SET lease_id = gen_random_uuid(), leased_until = clock_timestamp() + make_interval(secs => %s)
           FROM turn WHERE lane.id = turn.id
           RETURNING lane.id, lane.org_id, lane.conversation_id, lane.direction, lane.lease_id, lane.arrivals,
               lane.failures""",
        [
            *(share, most),
            *([direction.value for direction in SIDE_OF], [side.value for side in SIDE_OF.values()]),
            *([each.org_id for each in given], [each.side.value for each in given]),
            *([each.more for each in given], [each.held for each in given]),
            *([org_id for org_id, _ in probes], [side.value for _, side in probes]),
            *(most, LEASE_SECONDS),
        ],
    )
    claims = [
        Claim(lane_id, org_id, conversation_id, Direction(direction), lease_id, seen, failures)
        for lane_id, org_id, conversation_id, direction, lease_id, seen, failures in rows
    ]
    _end_tries_of_the_dead([each.lane_id for each in claims])
    return claims


def _end_tries_of_the_dead(lane_ids: Sequence[int]) -> None:
    """Put in doubt the tries that were never ended in lanes that are claimed anew: their process died.

    Read from the few tries that are open at all, not from the lanes' many messages.
    """
    if lane_ids:
        query(
            """UPDATE messaging_attempt SET outcome = 'in doubt', ended_at = clock_timestamp(),
                   detail = 'the process that made this try is gone'
               WHERE id IN (
                   SELECT attempt.id FROM messaging_attempt attempt
                   CROSS JOIN LATERAL (
                       SELECT lane_id FROM messaging_message WHERE id = attempt.message_id LIMIT 1) AS of
                   WHERE attempt.outcome = 'open' AND of.lane_id = ANY(%s))""",
            [list(lane_ids)],
        )


def renew(claims: Iterable[Claim]) -> set[int]:
    """Prolong leases, and name the lanes that are still held under them."""
    mine = set(_lock_mine(claims))
    query(
        "UPDATE messaging_lane SET leased_until = clock_timestamp() + make_interval(secs => %s) WHERE id = ANY(%s)",
        [LEASE_SECONDS, list(mine)],
    )
    return mine


def lock(claims: Iterable[Claim], *, neighbours_of: Iterable[int] = ()) -> None:
    """Lock all lanes that a transaction is going to write to, in sorted order, before anything else.

    Who locks lanes after messages waits in a circle with a webhook that brings reports: it locks them the other way round.

    :param neighbours_of: conversations whose other lanes may be rung as well
    """
    _lock_mine(claims, neighbours_of=neighbours_of)


def _lock_mine(claims: Iterable[Claim], *, neighbours_of: Iterable[int] = ()) -> dict[int, int]:
    """Lock lanes in sorted order, and give the arrivals of those that are still held: the fence of every record."""
    held = {each.lane_id: each.lease_id for each in claims}
    rows = query(
        """SELECT id, lease_id, arrivals FROM messaging_lane WHERE id = ANY(%s) OR conversation_id = ANY(%s)
           ORDER BY id FOR NO KEY UPDATE""",
        [sorted(held), sorted(set(neighbours_of))],
    )
    return {lane_id: arrivals for lane_id, lease_id, arrivals in rows if lane_id in held and lease_id == held[lane_id]}


def first_waiting(lane_ids: Sequence[int]) -> dict[int, Waiting]:
    """Read the next message of each lane; lanes in which none waits are left out."""
    rows = query(
        """SELECT head.id, head.lane_id, head.org_id, head.conversation_id, head.channel_id, head.sender_id, head.uuid,
               head.text, head.written_at, conversation.subject, head.template, head.routing_attributes,
               EXISTS (SELECT 1 FROM messaging_message next
                       WHERE next.lane_id = lane.id AND next.status = 'pending' AND next.position > head.position)
           FROM messaging_lane lane
           CROSS JOIN LATERAL (
               SELECT * FROM messaging_message
               WHERE messaging_message.lane_id = lane.id AND messaging_message.status = 'pending'
                 AND (lane.barrier IS NULL OR position <= lane.barrier)
               ORDER BY position LIMIT 1) AS head
           JOIN messaging_conversation conversation ON conversation.id = head.conversation_id
           WHERE lane.id = ANY(%s)""",
        [list(lane_ids)],
    )
    return {row[1]: Waiting(*row) for row in rows}


def open_attempts(heads: Iterable[tuple[Claim, Waiting]]) -> dict[int, int]:
    """Note that messages are about to be tried, and give the attempt's id by message."""
    pairs = list(heads)
    rows = query(
        """INSERT INTO messaging_attempt
               (org_id, message_id, lease_id, started_at, outcome, code, detail, request_id)
           SELECT org_id, message_id, lease_id, clock_timestamp(), 'open', '', '', ''
           FROM jsonb_to_recordset(%s::jsonb) AS try (org_id bigint, message_id bigint, lease_id uuid)
           RETURNING message_id, id""",
        [
            records(
                {"org_id": claim.org_id, "message_id": message.id, "lease_id": claim.lease_id} for claim, message in pairs
            )
        ],
    )
    return dict(rows)


def record(results: Sequence[Result]) -> list[tuple[Claim, Waiting]]:
    """Write down how tries ended, release the lanes that are done or must pause, and give what the others carry next.

    A result whose lane was taken over meanwhile does not count: who holds the lane now found the open attempt and
    decides. A status moves only from pending, since a report can be faster than the answer to the send.
    """
    may_fail = {
        each.claim.conversation_id
        for each in results
        if each.claim.direction is Direction.OUTBOUND and each.outcome is not Outcome.SENT
    }
    arrivals = _lock_mine((result.claim for result in results), neighbours_of=may_fail)
    counted = sorted((each for each in results if each.claim.lane_id in arrivals), key=lambda each: each.message.id)
    circuits.note(
        Call(each.claim.org_id, each.claim.direction, each.claim.lane_id, each.succeeded) for each in counted if each.called
    )
    _give_up([each for each in counted if not each.succeeded])
    _end_attempts(counted)
    _advance_messages(counted)
    _name_conversations(counted)
    for result in counted:
        if result.claim.direction is Direction.OUTBOUND and (result.outcome is Outcome.REFUSED or result.given_up):
            make_due(result.claim.org_id, Direction.RECEIPTS, [result.claim.conversation_id])

    looked: list[Result] = []
    for result in counted:
        if result.pauses:
            continue
        # nothing waited behind it when we looked, and nothing came since: no need to look again
        if result.message.more or arrivals[result.claim.lane_id] != result.claim.seen:
            looked.append(result)
    heads = first_waiting([result.claim.lane_id for result in looked]) if looked else {}
    going_on = [result for result in looked if result.claim.lane_id in heads]
    if going_on:
        _keep(going_on)
    _release([(each, backoff(each)) for each in counted if each.claim.lane_id not in heads])
    return [
        (replace(each.claim, seen=arrivals[each.claim.lane_id], failures=0), heads[each.claim.lane_id]) for each in going_on
    ]


def _give_up(results: Sequence[Result]) -> None:
    """Find the messages that are not worth another try, and say why.

    During a general outage all wait. One that keeps failing while others pass is at fault itself; and what nobody would
    want any more is let go.
    """
    if not results:
        return
    rows = query(
        """SELECT message.id, message.tries + 1, message.created_at, message.direction,
               CASE WHEN message.template IS NULL THEN conversation.window_closes_at END,
               circuit.opened_at IS NULL, circuit.last_success_at,
               (SELECT min(started_at) FROM messaging_attempt WHERE message_id = message.id)
           FROM messaging_message message
           JOIN messaging_conversation conversation ON conversation.id = message.conversation_id
           LEFT JOIN messaging_circuit circuit ON circuit.org_id = message.org_id
               AND circuit.side = CASE message.direction WHEN 'outbound' THEN 'infobip' ELSE 'salesforce' END
           WHERE message.id = ANY(%s)""",
        [[each.message.id for each in results]],
    )
    now = timezone.now()
    reasons: dict[int, str] = {}
    for message_id, tries, created_at, direction, window_closes_at, closed, passed_at, first_try in rows:
        failing_for = now - first_try if first_try else timedelta()
        others_pass = closed and passed_at is not None and first_try is not None and passed_at > first_try
        if now - created_at > LONGEST_WAIT:
            reasons[message_id] = f"it could not be delivered for {LONGEST_WAIT.days * 24} hours"
        elif direction == Direction.OUTBOUND and window_closes_at is not None and window_closes_at < now:
            reasons[message_id] = "the 24-hour window closed while it waited; send a template"
        elif others_pass and (tries >= MOST_TRIES or failing_for > LONGEST_FAILING):
            reasons[message_id] = "it kept failing while other messages passed"
    for result in results:
        result.given_up = reasons.get(result.message.id, "")


def _end_attempts(results: Sequence[Result]) -> None:
    query(
        """UPDATE messaging_attempt SET ended_at = clock_timestamp(), outcome = ended.outcome, status = ended.status,
               code = ended.code, detail = ended.detail, request_id = ended.request_id
           FROM jsonb_to_recordset(%s::jsonb)
               AS ended (id bigint, outcome text, status int, code text, detail text, request_id text)
           WHERE messaging_attempt.id = ended.id AND messaging_attempt.id = ANY(%s)
             AND messaging_attempt.outcome = 'open'""",
        [
            records(
                {
                    "id": each.attempt_id,
                    "outcome": each.outcome.value,
                    "status": each.status,
                    "code": each.code[:100],
                    "detail": each.detail[:300],
                    "request_id": each.request_id[:100],
                }
                for each in results
            ),
            [each.attempt_id for each in results],
        ],
    )


def _advance_messages(results: Sequence[Result]) -> None:
    """Move messages forward; ``results`` are in the order of the messages' ids."""
    locked = query(
        "SELECT id, status FROM messaging_message WHERE id = ANY(%s) ORDER BY id FOR NO KEY UPDATE",
        [[each.message.id for each in results]],
    )
    # chosen here, not in the statement below: there the planner would read all that is pending, to find these few
    pending = {message_id for message_id, status in locked if status == Status.PENDING}
    results = [each for each in results if each.message.id in pending]
    reached = {Outcome.SENT: Status.SENT.value, Outcome.REFUSED: Status.FAILED.value}
    query(
        """UPDATE messaging_message SET tries = tries + 1, status = COALESCE(tried.status, messaging_message.status),
               status_at = CASE WHEN tried.status IS NULL THEN status_at ELSE clock_timestamp() END,
               error_code = tried.code, error = tried.detail
           FROM jsonb_to_recordset(%s::jsonb) AS tried (id bigint, status text, code text, detail text)
           WHERE messaging_message.id = tried.id AND messaging_message.id = ANY(%s)""",
        [
            records(
                {
                    "id": each.message.id,
                    "status": Status.FAILED.value if each.given_up else reached.get(each.outcome),
                    "code": each.code[:100],
                    "detail": (f"{each.given_up} ({each.detail})" if each.given_up else each.detail)[:300],
                }
                for each in results
            ),
            [each.message.id for each in results],
        ],
    )


def _name_conversations(results: Sequence[Result]) -> None:
    """Keep what Salesforce says of a conversation: its id, and the session that is open now."""
    told = {each.claim.conversation_id: each for each in results if each.conversation_identifier}
    if not told:
        return
    ids = sorted(told)
    columns = [ids, [told[each].conversation_identifier for each in ids], [told[each].session[:18] for each in ids]]
    changed = query(
        """SELECT conversation.id FROM messaging_conversation conversation
           JOIN unnest(%s::bigint[], %s::text[], %s::text[]) AS told (id, identifier, session)
             ON told.id = conversation.id
           WHERE (conversation.identifier, conversation.session, conversation.session_open)
               IS DISTINCT FROM (told.identifier, told.session, true)
           ORDER BY conversation.id FOR NO KEY UPDATE OF conversation""",
        columns,
    )
    if changed:
        openings = [(conversation_id, told[conversation_id]) for (conversation_id,) in changed]
        open_sessions(
            Opening(each.claim.org_id, conversation_id, each.conversation_identifier, each.session[:18])
            for conversation_id, each in openings
        )


class Opening(NamedTuple):
    """What Salesforce says of a conversation: its own id of it, and the session, empty where it names none."""

    org_id: int
    conversation_id: int
    identifier: str
    session: str


def open_sessions(openings: Iterable[Opening]) -> None:
    """Note which sessions are open in conversations, whose inbound lanes the caller holds or has locked.

    A session that is known to have ended is not opened by an answer that came late. With its session a conversation is
    the reps', whoever had it before.
    """
    told = list(openings)
    rows, ids = records(each._asdict() for each in told), [each.conversation_id for each in told]
    query(
        """INSERT INTO messaging_session (org_id, conversation_id, salesforce_id, state, opened_at, quick_checks, due_at)
           SELECT org_id, conversation_id, session, 'open', clock_timestamp(), 0, clock_timestamp()
           FROM jsonb_to_recordset(%s::jsonb) AS told (org_id bigint, conversation_id bigint, session text)
           WHERE session <> '' ON CONFLICT DO NOTHING""",
        [rows],
    )
    query(
        """WITH told AS (
               SELECT told.*, EXISTS (
                   SELECT 1 FROM messaging_session known
                   WHERE known.org_id = told.org_id AND known.salesforce_id = told.session
                     AND known.state = 'ended') AS ended
               FROM jsonb_to_recordset(%s::jsonb)
                   AS told (org_id bigint, conversation_id bigint, identifier text, session text)),
           conversation AS (
               UPDATE messaging_conversation conversation
               SET identifier = told.identifier, session = COALESCE(NULLIF(told.session, ''), conversation.session),
                   session_open = CASE WHEN told.session = '' THEN session_open ELSE NOT told.ended END
               FROM told
               WHERE conversation.id = told.conversation_id AND conversation.org_id = told.org_id
                 AND conversation.id = ANY(%s))
           UPDATE messaging_lane lane SET with_rep_since = COALESCE(with_rep_since, clock_timestamp())
           FROM told
           WHERE lane.conversation_id = told.conversation_id AND lane.org_id = told.org_id
             AND lane.conversation_id = ANY(%s) AND lane.direction = 'inbound' AND NOT told.ended""",
        [rows, ids, ids],
    )


def backoff(result: Result) -> float:
    """Say how many seconds a lane pauses after a result, 0 for none."""
    if not result.pauses:
        return 0.0
    seconds = backoff_seconds(result.claim.failures, result.retry_after)
    if result.outcome is Outcome.IN_DOUBT and result.claim.direction is Direction.OUTBOUND:
        return max(seconds, REPORT_SECONDS)  # a report moves the message on, and it is not sent again
    return seconds


def backoff_seconds(failures: int, retry_after: float | None) -> float:
    """Double the pause with each failure in a row, with jitter, and wait at least as long as the far side asks."""
    longest = min(LONGEST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2 ** min(failures, 10))
    return max(retry_after or 0.0, random.uniform(longest / 2, longest))


def _keep(results: Sequence[Result]) -> None:
    query(
        """UPDATE messaging_lane SET failures = 0, retry_at = NULL,
               leased_until = clock_timestamp() + make_interval(secs => %s),
               carried_until = GREATEST(carried_until, kept.written_at)
           FROM jsonb_to_recordset(%s::jsonb) AS kept (id bigint, written_at timestamptz)
           WHERE messaging_lane.id = kept.id AND messaging_lane.id = ANY(%s)""",
        [
            LEASE_SECONDS,
            records({"id": each.claim.lane_id, "written_at": each.message.written_at} for each in results),
            [each.claim.lane_id for each in results],
        ],
    )


def _release(results: Sequence[tuple[Result, float]]) -> None:
    query(
        """UPDATE messaging_lane SET lease_id = NULL, leased_until = NULL, failures = freed.failures,
               carried_until = GREATEST(carried_until, freed.written_at),
               retry_at = clock_timestamp() + make_interval(secs => NULLIF(freed.pause, 0)),
               due_at = clock_timestamp() + make_interval(secs => NULLIF(freed.pause, 0))
           FROM jsonb_to_recordset(%s::jsonb) AS freed (id bigint, failures int, pause float8, written_at timestamptz)
           WHERE messaging_lane.id = freed.id AND messaging_lane.id = ANY(%s)""",
        [
            records(
                {
                    "id": each.claim.lane_id,
                    "failures": each.claim.failures + 1 if pause else 0,
                    "pause": pause,
                    "written_at": None if pause else each.message.written_at,
                }
                for each, pause in results
            ),
            [each.claim.lane_id for each, _ in results],
        ],
    )


def add_notice(claim: Claim, channel_id: int, entry: str, text: str) -> None:
    """Queue a line of our own for the rep, once for each entry that it is about."""
    add_own(claim.org_id, claim.conversation_id, channel_id, Direction.INBOUND, f"failure:{entry}", text)


def add_own(
    org_id: int,
    conversation_id: int,
    channel_id: int,
    direction: Direction,
    entry: str,
    text: str,
    *,
    sender_id: int | None = None,
) -> None:
    """Queue a text of our own at the end of a lane, once for each ``entry``; locks the lane."""
    lane_rows = query(
        """SELECT id, position FROM messaging_lane WHERE org_id = %s AND conversation_id = %s AND direction = %s
           FOR NO KEY UPDATE""",
        [org_id, conversation_id, direction.value],
    )
    for lane_id, position in lane_rows:
        query(
            """INSERT INTO messaging_message (org_id, lane_id, conversation_id, channel_id, sender_id, direction, position,
                   uuid, source_entry, part, text, written_at, created_at, late, status, status_at, tries, error_code,
                   error, told, ours)
               VALUES (%s, %s, %s, %s, %s, %s, %s, gen_random_uuid(), %s, 0, %s, clock_timestamp(), clock_timestamp(),
                   false, 'pending', clock_timestamp(), 0, '', '', '', true)
               ON CONFLICT DO NOTHING""",
            [
                *(org_id, lane_id, conversation_id, channel_id, sender_id, direction.value, position + 1),
                *(entry[:250], text),
            ],
        )
        query(
            """UPDATE messaging_lane SET position = position + 1, arrivals = arrivals + 1,
                   due_at = LEAST(due_at, clock_timestamp()) WHERE id = %s""",
            [lane_id],
        )


def hand_back(claims: Iterable[Claim], *, pause: float = 0.0, done: bool = False) -> None:
    """Release lanes without the try of a message; they stay due unless ``done`` and nothing came meanwhile."""
    held = {each.lane_id: each for each in claims}
    if not held:
        return
    mine = _lock_mine(held.values())
    query(
        """UPDATE messaging_lane SET lease_id = NULL, leased_until = NULL, failures = freed.failures,
               retry_at = clock_timestamp() + make_interval(secs => NULLIF(%s, 0)::float8),
               due_at = CASE WHEN %s AND arrivals = freed.seen THEN NULL
                             ELSE clock_timestamp() + make_interval(secs => %s) END
           FROM unnest(%s::bigint[], %s::bigint[], %s::int[]) AS freed (id, seen, failures)
           WHERE messaging_lane.id = freed.id""",
        [
            pause,
            done,
            pause,
            list(mine),
            [held[each].seen for each in mine],
            [held[each].failures + 1 if pause else 0 for each in mine],
        ],
    )
