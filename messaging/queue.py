"""Puts messages into lanes: lock, append, mark due, hold. The other end, claiming and releasing, is in claims.py.

A lane is a FIFO partition: one direction of one conversation. Whoever brings something locks the lane first, so a process
that holds the lane's row lock and then finds nothing pending may believe it. Rows are locked in one order everywhere, lanes
by id before messages by id, all of a transaction in one statement, so that batches do not wait for each other in a circle.
Callers own the transaction.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple
from uuid import UUID, uuid4

from django.utils import timezone

from messaging.circuits import endpoint_of
from messaging.models import Direction, Status
from messaging.query import query, records

MOST_LINES = 1_000_000  # positions that are kept free for one transcript


class Place(NamedTuple):
    """Where an end user is found: one of their addresses on a channel."""

    org_id: int
    channel_id: int
    address: str


class FoundLane(NamedTuple):
    """A lane, and what is known of its conversation."""

    org_id: int
    conversation_id: int
    lane_id: int
    sender_id: int | None  # by which an answer leaves: the one last written to, else the channel's first
    account_id: int | None  # that sender's


class LockedLane(NamedTuple):
    """What a lane's row says once it is locked."""

    carried_until: datetime | None
    with_rep_since: datetime | None  # when a chatbot handed the conversation over


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message on its way into a lane; ``failure`` says why it can go no further."""

    org_id: int
    lane_id: int
    conversation_id: int
    direction: Direction
    channel_id: int
    sender_id: int | None
    endpoint_id: int  # of what will be called: see circuits.endpoint_of
    source_entry: str
    text: str
    written_at: datetime
    part: int = 0
    late: bool = False
    failure: str = ""
    ours: bool = False
    template: object = None  # Infobip's content of one
    routing_attributes: object = None
    uuid: UUID = field(default_factory=uuid4)


def create_lanes(conversations: Sequence[tuple[int, int]]) -> None:
    """Give conversations their lanes, where they have none.

    :param conversations: org and conversation ids
    """
    query(
        """INSERT INTO messaging_lane (org_id, conversation_id, direction, position, version, failures)
           SELECT org_id, conversation_id, direction, 0, 0, 0
           FROM unnest(%s::bigint[], %s::bigint[]) AS conversation (org_id, conversation_id)
           CROSS JOIN unnest(%s::text[]) AS direction
           ORDER BY conversation_id, direction ON CONFLICT DO NOTHING""",
        [[org_id for org_id, _ in conversations], [each for _, each in conversations], Direction.values],
    )


def find_lanes(direction: Direction, places: Iterable[Place]) -> dict[Place, FoundLane]:
    """Find the lanes of end users; those that nobody has written from yet are left out of the answer."""
    wanted = sorted(set(places))
    # one look-up after the other, each by a whole key, whatever the statistics make of a table that was empty just now
    found = query(
        """SELECT place.org_id, place.channel_id, place.address, known.conversation_id, lane.id, by.sender_id,
               (SELECT account_id FROM tenants_sender WHERE id = by.sender_id)
           FROM unnest(%s::bigint[], %s::bigint[], %s::text[]) AS place (org_id, channel_id, address)
           CROSS JOIN LATERAL (
               SELECT conversation_id FROM messaging_address
               WHERE org_id = place.org_id AND channel_id = place.channel_id AND address = place.address
               LIMIT 1) AS known
           CROSS JOIN LATERAL (
               SELECT COALESCE(
                   (SELECT id FROM tenants_sender WHERE id = last_sender_id AND retired_at IS NULL),
                   (SELECT min(id) FROM tenants_sender
                    WHERE channel_id = place.channel_id AND retired_at IS NULL)) AS sender_id
               FROM messaging_conversation WHERE id = known.conversation_id LIMIT 1) AS by
           CROSS JOIN LATERAL (
               SELECT id FROM messaging_lane
               WHERE org_id = place.org_id AND conversation_id = known.conversation_id AND direction = %s
               LIMIT 1) AS lane""",
        [*([place[column] for place in wanted] for column in range(3)), direction.value],
    )
    return {Place(org_id, channel_id, address): FoundLane(org_id, *lane) for org_id, channel_id, address, *lane in found}


def lock(lane_ids: Iterable[int]) -> dict[int, LockedLane]:
    """Lock lanes in sorted order: once in a transaction, with all that it is going to write to."""
    rows = query(
        """SELECT id, carried_until, with_rep_since FROM messaging_lane WHERE id = ANY(%s)
           ORDER BY id FOR NO KEY UPDATE""",
        [sorted(set(lane_ids))],
    )
    return {lane_id: LockedLane(*row) for lane_id, *row in rows}


def lock_conversations(conversation_ids: Iterable[int]) -> None:
    """Lock all lanes of conversations, before a transaction that is going to write to several of them."""
    query(
        "SELECT 1 FROM messaging_lane WHERE conversation_id = ANY(%s) ORDER BY id FOR NO KEY UPDATE",
        [sorted(set(conversation_ids))],
    )


COME_DOWN = """UPDATE SET position = EXCLUDED.position WHERE messaging_message.lane_id = EXCLUDED.lane_id
    AND messaging_message.status = 'pending' AND messaging_message.position > EXCLUDED.position"""


def append(messages: Sequence[NewMessage], *, below_hold: bool = False) -> None:
    """Add messages to lanes that the caller has locked, in the given order. One that a lane has already is left out.

    :param below_hold: into the room that a hold keeps free below what waits, for a transcript; what waits above it comes
        down where it is among them
    """
    if not messages:
        return
    ranks: Counter[int] = Counter()
    rows: list[dict[str, object]] = []
    endpoints: dict[int, int] = {}
    for message in messages:
        ranks[message.lane_id] += 1
        endpoints[message.lane_id] = message.endpoint_id
        rows.append(_row(message, rank=ranks[message.lane_id]))
    # as JSON, which the driver writes faster than as many arrays; and the ids beside it, without which the planner, who
    # cannot see how few rows it holds, reads every lane
    query(
        f"""WITH lane AS (
               UPDATE messaging_lane lane SET
                   position = CASE WHEN %s THEN position ELSE position + come.n END, version = version + 1,
                   endpoint_id = CASE WHEN due_at IS NULL THEN come.endpoint_id ELSE lane.endpoint_id END,
                   due_at = LEAST(due_at, GREATEST(clock_timestamp(), retry_at))
               FROM jsonb_to_recordset(%s::jsonb) AS come (lane_id bigint, n int, endpoint_id bigint)
               WHERE lane.id = come.lane_id AND lane.id = ANY(%s)
               RETURNING lane.id, CASE WHEN %s THEN hold - %s ELSE position - come.n END AS base)
           INSERT INTO messaging_message (org_id, lane_id, conversation_id, direction, channel_id, sender_id, position,
               uuid, source_entry, part, text, written_at, late, status, error, ours, template, routing_attributes,
               created_at, status_at, tries, error_code, reported)
           SELECT come.org_id, lane.id, come.conversation_id, come.direction, come.channel_id, come.sender_id,
               lane.base + come.rank, come.uuid, come.source_entry, come.part, come.text, come.written_at, come.late,
               come.status, come.error, come.ours, come.template, come.routing_attributes, clock_timestamp(),
               clock_timestamp(), 0, '', ''
           FROM jsonb_to_recordset(%s::jsonb) AS come (
               lane_id bigint, rank bigint, org_id bigint, conversation_id bigint, direction text, channel_id bigint,
               sender_id bigint, uuid uuid, source_entry text, part int, text text, written_at timestamptz, late bool,
               status text, error text, ours bool, template jsonb, routing_attributes jsonb)
           JOIN lane ON lane.id = come.lane_id
           ON CONFLICT (channel_id, source_entry, part, org_id) DO {COME_DOWN if below_hold else "NOTHING"}""",
        [
            below_hold,
            records({"lane_id": lane_id, "n": n, "endpoint_id": endpoints[lane_id]} for lane_id, n in ranks.items()),
            list(ranks),
            *(below_hold, MOST_LINES),
            records(rows),
        ],
    )


def _row(message: NewMessage, *, rank: int) -> dict[str, object]:
    return {
        "lane_id": message.lane_id,
        "rank": rank,
        "org_id": message.org_id,
        "conversation_id": message.conversation_id,
        "direction": message.direction.value,
        "channel_id": message.channel_id,
        "sender_id": message.sender_id,
        "uuid": message.uuid,
        "source_entry": message.source_entry[:250],
        "part": message.part,
        "text": message.text,
        "written_at": message.written_at,
        "late": message.late,
        "status": Status.FAILED if message.failure else Status.PENDING,
        "error": message.failure[:300],
        "ours": message.ours,
        "template": message.template,
        "routing_attributes": message.routing_attributes,
    }


def append_own(
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
    rows = query(
        """SELECT id, (SELECT account_id FROM tenants_sender WHERE id = %s AND org_id = messaging_lane.org_id)
           FROM messaging_lane WHERE org_id = %s AND conversation_id = %s AND direction = %s FOR NO KEY UPDATE""",
        [sender_id, org_id, conversation_id, direction.value],
    )
    append(
        [
            NewMessage(
                org_id=org_id,
                lane_id=lane_id,
                conversation_id=conversation_id,
                direction=direction,
                channel_id=channel_id,
                sender_id=sender_id,
                endpoint_id=endpoint_of(direction, channel_id=channel_id, account_id=account_id),
                source_entry=entry,
                text=text,
                written_at=timezone.now(),
                ours=True,
            )
            for lane_id, account_id in rows
        ]
    )


def mark_due(endpoints: Mapping[int, int], *, at_once: bool = False) -> None:
    """Say that there is something to do in lanes to which no message was appended; the caller has locked them.

    :param endpoints: by lane id, of what it calls
    :param at_once: also where a lane pauses before it tries a message again
    """
    if endpoints:
        query(
            """UPDATE messaging_lane lane SET version = version + 1,
                   due_at = LEAST(due_at, GREATEST(clock_timestamp(), CASE WHEN NOT %s THEN retry_at END)),
                   retry_at = CASE WHEN NOT %s THEN retry_at END,
                   endpoint_id = CASE WHEN due_at IS NULL THEN given.endpoint_id ELSE lane.endpoint_id END
               FROM unnest(%s::bigint[], %s::bigint[]) AS given (id, endpoint_id)
               WHERE lane.id = given.id AND lane.id = ANY(%s)""",
            [at_once, at_once, list(endpoints), list(endpoints.values()), list(endpoints)],
        )


def hold(org_id: int, conversation_id: int) -> datetime:
    """Give a conversation to the reps, and let what its end user writes from now on wait for a transcript.

    Positions below the hold are kept free for the transcript. Repeating it changes nothing.

    :return: since when it is with them
    """
    rows = query(
        """UPDATE messaging_lane SET version = version + 1,
               with_rep_since = CASE WHEN hold IS NULL THEN clock_timestamp() ELSE with_rep_since END,
               hold = COALESCE(hold, position + %s), position = GREATEST(position, COALESCE(hold, position + %s))
           WHERE org_id = %s AND conversation_id = %s AND direction = 'inbound' RETURNING with_rep_since""",
        [MOST_LINES, MOST_LINES, org_id, conversation_id],
    )
    return rows[0][0]  # type: ignore[no-any-return]


def held_lane(org_id: int, conversation_id: int) -> int | None:
    """Lock the inbound lane of a conversation, and give its id where live messages wait in it for a transcript."""
    rows = query(
        """SELECT id FROM messaging_lane WHERE org_id = %s AND conversation_id = %s AND direction = 'inbound'
             AND hold IS NOT NULL FOR NO KEY UPDATE""",
        [org_id, conversation_id],
    )
    return rows[0][0] if rows else None


def release_hold(lane_id: int) -> None:
    """Let what waits above the hold follow; the caller has locked the lane."""
    query(
        """UPDATE messaging_lane SET hold = NULL, version = version + 1,
               due_at = LEAST(due_at, GREATEST(clock_timestamp(), retry_at))
           WHERE id = %s""",
        [lane_id],
    )
