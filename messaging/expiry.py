"""Gives up what has waited for 72 hours behind an open circuit, where nothing is tried; else results.py does."""

from collections import defaultdict

import structlog
from django.db import transaction

from connector.events import MARK
from messaging.circuits import UPSTREAM_OF
from messaging.models import Direction
from messaging.query import query
from messaging.queue import append_own, lock_conversations
from messaging.results import mark_receipts_due
from messaging.retry import LONGEST_WAIT_SECONDS, TOO_OLD

log = structlog.get_logger(__name__)

LANES_AT_ONCE = 500  # of each open circuit, those that have waited longest


def expire_waiting() -> int:
    """Fail messages that are too old for anybody, and tell of each where a person looks.

    :return: how many
    """
    with transaction.atomic():
        lanes = query(
            """SELECT lane.id, lane.conversation_id
               FROM messaging_circuit circuit
               JOIN unnest(%s::text[], %s::text[]) AS of (direction, upstream) ON of.upstream = circuit.upstream
               CROSS JOIN LATERAL (
                   SELECT id, conversation_id FROM messaging_lane
                   WHERE org_id = circuit.org_id AND direction = of.direction AND endpoint_id = circuit.endpoint_id
                     AND due_at IS NOT NULL AND holder IS NULL
                   ORDER BY due_at LIMIT %s) AS lane
               CROSS JOIN LATERAL (
                   SELECT created_at FROM messaging_message
                   WHERE lane_id = lane.id AND status = 'pending' ORDER BY position LIMIT 1) AS head
               WHERE circuit.opened_at IS NOT NULL
                 AND head.created_at < clock_timestamp() - make_interval(secs => %s)""",
            [list(UPSTREAM_OF), list(UPSTREAM_OF.values()), LANES_AT_ONCE, LONGEST_WAIT_SECONDS],
        )
        if not lanes:
            return 0
        lock_conversations(conversation_id for _, conversation_id in lanes)
        expired = query(
            """UPDATE messaging_message message
               SET status = 'failed', status_at = clock_timestamp(),
                   error = left(%s || COALESCE(' (' || NULLIF(error, '') || ')', ''), 300)
               FROM messaging_lane lane
               WHERE message.lane_id = ANY(%s) AND message.status = 'pending'
                 AND message.created_at < clock_timestamp() - make_interval(secs => %s)
                 AND lane.id = message.lane_id AND lane.holder IS NULL
               RETURNING message.org_id, message.conversation_id, message.channel_id, message.direction, message.ours,
                   message.position""",
            [TOO_OLD, [lane_id for lane_id, _ in lanes], LONGEST_WAIT_SECONDS],
        )
        _tell(expired)
    log.warning("messages given up behind an open circuit", count=len(expired))
    return len(expired)


def _tell(expired: list[tuple[int, int, int, str, bool, int]]) -> None:
    """Report what a rep wrote as failed, and leave one line in each conversation for what an end user wrote."""
    missing: dict[tuple[int, int, int], list[int]] = defaultdict(list)
    for org_id, conversation_id, channel_id, direction, ours, position in expired:
        if direction == Direction.OUTBOUND:
            mark_receipts_due(org_id, conversation_id, channel_id)
        elif not ours:
            missing[org_id, conversation_id, channel_id].append(position)
    for (org_id, conversation_id, channel_id), positions in sorted(missing.items()):
        what = "A message" if len(positions) == 1 else f"{len(positions)} messages"
        text = f"{MARK} {what} could not be shown here — {TOO_OLD}."
        append_own(org_id, conversation_id, channel_id, Direction.INBOUND, f"expired:{max(positions)}", text)
