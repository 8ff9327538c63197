"""Tells reps that what they wrote waits: a line in the conversation, once a message, while the session is open.

A circuit lets one lane through at a time, so the others are looked at here, some hundred at a time; what is tried in vain
by itself results.py brings.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import structlog
from django.db import transaction
from django.utils import timezone

from connector.events import MARK
from messaging.models import NOTICE, Direction, Upstream
from messaging.query import query
from messaging.queue import NewMessage, append, lock_conversations
from messaging.receipts import quoted

log = structlog.get_logger(__name__)

OVERDUE_SECONDS = 60.0  # in which a short outage is over, and nobody need be told
LANES_AT_ONCE = 100  # of all open circuits, in turns
NO_REASON = "Infobip takes no messages at the moment"


class Overdue(NamedTuple):
    """A rep's message that waits, and what the last try of it came to."""

    org_id: int
    conversation_id: int
    channel_id: int
    uuid: UUID
    text: str
    error: str


def tell(waiting: Sequence[Overdue]) -> int:
    """Queue a line for each that nobody was told of yet; the caller has locked all lanes of their conversations.

    :return: how many
    """
    if not waiting:
        return 0
    rows = query(
        """SELECT given.n, lane.id FROM unnest(%s::bigint[], %s::bigint[], %s::text[]) WITH ORDINALITY
               AS given (conversation_id, channel_id, entry, n)
           CROSS JOIN LATERAL (
               SELECT org_id, session_open FROM messaging_conversation
               WHERE id = given.conversation_id LIMIT 1) AS conversation
           CROSS JOIN LATERAL (
               SELECT show_failures FROM tenants_channel WHERE id = given.channel_id LIMIT 1) AS channel
           CROSS JOIN LATERAL (
               SELECT id FROM messaging_lane
               WHERE org_id = conversation.org_id AND conversation_id = given.conversation_id AND direction = 'inbound'
               LIMIT 1) AS lane
           WHERE conversation.session_open AND channel.show_failures AND NOT EXISTS (
               SELECT 1 FROM messaging_message
               WHERE channel_id = given.channel_id AND source_entry = given.entry AND org_id = conversation.org_id)
           ORDER BY given.n""",
        [
            [each.conversation_id for each in waiting],
            [each.channel_id for each in waiting],
            [_entry(each) for each in waiting],
        ],
    )
    append(
        [
            NewMessage(
                org_id=each.org_id,
                lane_id=lane_id,
                conversation_id=each.conversation_id,
                direction=Direction.INBOUND,
                channel_id=each.channel_id,
                sender_id=None,
                endpoint_id=each.channel_id,
                source_entry=_entry(each),
                text=_line(each),
                written_at=timezone.now(),
                ours=True,
            )
            for n, lane_id in rows
            for each in [waiting[n - 1]]
        ]
    )
    return len(rows)


class OpenCircuits:
    """Looks through what waits behind open circuits; belongs to one process, which remembers how far it has come."""

    def __init__(self) -> None:
        self.looked_until: dict[int, datetime] = {}  # by circuit: since when the last lane has been due

    def tell_reps(self) -> int:
        """Tell of the next messages that wait behind each circuit that has been open for long.

        :return: how many
        """
        with transaction.atomic():
            found = query(
                """SELECT circuit.id, lane.due_at, lane.turn, head.org_id, head.conversation_id, head.channel_id, head.uuid,
                       head.text, head.error, head.tell
                   FROM messaging_circuit circuit
                   LEFT JOIN unnest(%s::bigint[], %s::timestamptz[]) AS looked (id, until) ON looked.id = circuit.id
                   CROSS JOIN LATERAL (
                       SELECT id, due_at, row_number() OVER (ORDER BY due_at) AS turn FROM messaging_lane
                       WHERE org_id = circuit.org_id AND direction = 'outbound' AND endpoint_id = circuit.endpoint_id
                         AND due_at IS NOT NULL AND holder IS NULL AND due_at > COALESCE(looked.until, '-infinity')
                       ORDER BY due_at LIMIT %s) AS lane
                   CROSS JOIN LATERAL (
                       SELECT *, NOT ours AND created_at < clock_timestamp() - make_interval(secs => %s) AS tell
                       FROM messaging_message WHERE lane_id = lane.id AND status = 'pending'
                       ORDER BY position LIMIT 1) AS head
                   WHERE circuit.opened_at < clock_timestamp() - make_interval(secs => %s) AND circuit.upstream = %s
                   ORDER BY lane.turn, circuit.id LIMIT %s""",
                [
                    *(list(self.looked_until), list(self.looked_until.values())),
                    *(LANES_AT_ONCE, OVERDUE_SECONDS, OVERDUE_SECONDS, Upstream.INFOBIP.value, LANES_AT_ONCE),
                ],
            )
            # behind the last one of all it begins anew: one that began again before would keep the others waiting
            if not found:
                self.looked_until.clear()
            self.looked_until |= {circuit_id: due_at for circuit_id, due_at, *_ in found}
            waiting = [Overdue(*each) for _, _, _, *each, tells in found if tells]
            lock_conversations(each.conversation_id for each in waiting)
            told = tell(waiting)
        if told:
            log.warning("reps were told that messages wait", count=told)
        return told


def _entry(each: Overdue) -> str:
    return f"{NOTICE}waiting:{each.uuid}"


def _line(each: Overdue) -> str:
    return f"{MARK} Not sent yet: {quoted(each.text)} — {each.error or NO_REASON}. It is sent as soon as that is over."
