"""Conversations: who an end user is on a channel, by which sender answers leave, and until when (the 24-hour window)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.utils import timezone

from connector.phone import spellings_of
from messaging.circuits import endpoint_of
from messaging.models import Direction
from messaging.query import query, records
from messaging.queue import FoundLane, NewMessage, Place, append, create_lanes, find_lanes, lock
from tenants.models import Sender

WINDOW = timedelta(hours=24)  # in which free text may answer an end user


@dataclass(frozen=True, slots=True)
class Party:
    """An end user as a message names them: addresses, of which any may be known, and perhaps a name."""

    org_id: int
    channel_id: int
    addresses: tuple[str, ...]
    name: str = ""

    @property
    def places(self) -> list[Place]:
        """Say where to look."""
        return [Place(self.org_id, self.channel_id, address) for address in self.addresses]


def find_or_begin(direction: Direction, parties: Sequence[Party]) -> list[FoundLane]:
    """Find the lane of each party by any of its addresses; conversations of new users are begun, new addresses kept."""
    known = find_lanes(direction, (place for party in parties for place in party.places))

    def found(party: Party) -> FoundLane | None:
        return next((known[place] for place in party.places if place in known), None)

    new_users: dict[Place, str] = {}
    same: dict[Place, Place] = {}  # the first address of the same new user, who may write under several
    for party in parties:
        if found(party) is None:
            first = next((same[place] for place in party.places if place in same), party.places[0])
            new_users.setdefault(first, party.name)
            same.update(dict.fromkeys(party.places, first))
    if new_users:
        begun = _begin(new_users)
        _keep_addresses({(place, begun[first]) for place, first in same.items()})
        known |= find_lanes(direction, same)
    new_addresses = {
        (place, lane.conversation_id)
        for party in parties
        if (lane := found(party)) is not None
        for place in party.places
        if place not in known
    }
    if new_addresses:
        _keep_addresses(new_addresses)
    lanes = [found(party) for party in parties]
    assert all(lanes), "every party has a conversation now"
    return [lane for lane in lanes if lane is not None]


def _keep_addresses(addresses: Iterable[tuple[Place, int]]) -> None:
    ordered = sorted(addresses)
    query(
        """INSERT INTO messaging_address (org_id, channel_id, address, conversation_id)
           SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::text[], %s::bigint[]) ON CONFLICT DO NOTHING""",
        [*([place[n] for place, _ in ordered] for n in range(3)), [conversation_id for _, conversation_id in ordered]],
    )


def _begin(new_users: Mapping[Place, str]) -> dict[Place, int]:
    # sorted, so that two batches with the same new users wait for each other instead of in a circle
    wanted = sorted(new_users)
    columns = [[place[n] for place in wanted] for n in range(3)]
    query(
        """INSERT INTO messaging_conversation
               (org_id, channel_id, subject, name, identifier, session, session_open, created_at)
           SELECT org_id, channel_id, subject, name, '', '', false, clock_timestamp()
           FROM unnest(%s::bigint[], %s::bigint[], %s::text[], %s::text[]) AS t (org_id, channel_id, subject, name)
           ON CONFLICT DO NOTHING""",
        [*columns, [new_users[place][:200] for place in wanted]],
    )
    rows = query(
        """SELECT place.org_id, place.channel_id, place.subject, known.id
           FROM unnest(%s::bigint[], %s::bigint[], %s::text[]) AS place (org_id, channel_id, subject)
           CROSS JOIN LATERAL (
               SELECT id FROM messaging_conversation
               WHERE org_id = place.org_id AND channel_id = place.channel_id AND subject = place.subject
               LIMIT 1) AS known""",
        columns,
    )
    begun = {Place(org_id, channel_id, subject): conversation_id for org_id, channel_id, subject, conversation_id in rows}
    create_lanes(sorted((place.org_id, conversation_id) for place, conversation_id in begun.items()))
    return begun


@dataclass(frozen=True, slots=True)
class Heard:
    """What a message tells of its conversation. ``written_at``: when the end user wrote to the sender."""

    conversation_id: int
    name: str = ""
    language: str = ""
    identifier: str = ""  # Salesforce's id, given by a rep's message: so a session is open
    sender_id: int | None = None  # that the end user wrote to, or that we write by
    written_at: datetime | None = None


def keep_heard(heard: Sequence[Heard]) -> None:
    """Keep what messages tell of their conversations; this alone writes the sender and the 24-hour window.

    Answers leave by the sender last written to, and the window is that sender's: it opens anew with each message of the end
    user, and is closed where they have not written to that sender.
    """
    if not heard:
        return
    query(
        """UPDATE messaging_conversation known SET
               name = COALESCE(NULLIF(heard.name, ''), known.name),
               language = COALESCE(NULLIF(heard.language, ''), known.language),
               identifier = COALESCE(NULLIF(heard.identifier, ''), known.identifier),
               session_open = known.session_open OR heard.identifier <> '',
               last_sender_id = COALESCE(heard.sender_id, known.last_sender_id),
               window_closes_at = CASE WHEN heard.sender_id IS NULL THEN known.window_closes_at
                   ELSE GREATEST(CASE WHEN known.last_sender_id = heard.sender_id THEN known.window_closes_at END,
                                 heard.written_at + %s) END
           FROM jsonb_to_recordset(%s::jsonb) AS heard (
               id bigint, name text, language text, identifier text, sender_id bigint, written_at timestamptz)
           WHERE known.id = heard.id AND known.id = ANY(%s)""",
        [
            WINDOW,
            records(
                {
                    "id": each.conversation_id,
                    "name": each.name[:200],
                    "language": each.language[:10],
                    "identifier": each.identifier,
                    "sender_id": each.sender_id,
                    "written_at": each.written_at,
                }
                for each in heard
            ),
            [each.conversation_id for each in heard],
        ],
    )


def choose_senders(message_ids: Sequence[int]) -> dict[int, int]:
    """Give messages of reps a sender that were written when their channel had none; those of it that has none are left out.

    :return: by message id the sender's: the one last written to, else the channel's first
    """
    rows = query(
        """UPDATE messaging_message message SET sender_id = chosen.sender_id
           FROM (
               SELECT waiting.id, COALESCE(
                   (SELECT id FROM tenants_sender WHERE id = conversation.last_sender_id AND retired_at IS NULL),
                   (SELECT min(id) FROM tenants_sender
                    WHERE channel_id = waiting.channel_id AND retired_at IS NULL)) AS sender_id
               FROM messaging_message waiting JOIN messaging_conversation conversation
                 ON conversation.id = waiting.conversation_id
               WHERE waiting.id = ANY(%s)) AS chosen
           WHERE message.id = chosen.id AND message.id = ANY(%s) AND chosen.sender_id IS NOT NULL
           RETURNING message.id, message.sender_id""",
        [list(message_ids), list(message_ids)],
    )
    return dict(rows)


def begin_conversation(
    org_id: int,
    channel_id: int,
    end_user: str,
    *,
    name: str = "",
    language: str = "",
    sender: int | None = None,
    written_at: datetime | None = None,
) -> int:
    """Find an end user's conversation on a channel, or begin it, and keep what is known of them; gives its id.

    Its inbound lane is locked.

    :param written_at: when they last wrote to the sender, which opens the window for answers
    """
    (lane,) = find_or_begin(Direction.INBOUND, [Party(org_id, channel_id, spellings_of(end_user), name)])
    lock([lane.lane_id])
    keep_heard([Heard(lane.conversation_id, name, language, sender_id=sender, written_at=written_at)])
    return lane.conversation_id


@dataclass(frozen=True, slots=True)
class TemplateMessage:
    """A template that goes out without a rep: Infobip's content of it, and what it says in a few words."""

    uuid: UUID
    content: dict[str, Any]
    text: str


@dataclass(frozen=True, slots=True)
class OutboundConversation:
    """The conversation with an end user to whom we write first."""

    conversation_id: int
    subject: str
    window_open: bool


def start_outbound(
    sender: Sender, end_user: str, *, name: str, language: str, template: TemplateMessage | None
) -> OutboundConversation:
    """Find the conversation with an end user, or begin it, and queue a template in it; the caller owns the transaction."""
    party = Party(sender.org_id, sender.channel_id, spellings_of(end_user), name)
    (lane,) = find_or_begin(Direction.OUTBOUND, [party])
    lock([lane.lane_id])
    keep_heard([Heard(lane.conversation_id, name, language, sender_id=sender.pk)])
    ((subject, window_open),) = query(
        """SELECT subject, COALESCE(window_closes_at > clock_timestamp(), false) FROM messaging_conversation
           WHERE id = %s AND org_id = %s""",
        [lane.conversation_id, sender.org_id],
    )
    if template is not None:
        append(
            [
                NewMessage(
                    org_id=sender.org_id,
                    lane_id=lane.lane_id,
                    conversation_id=lane.conversation_id,
                    direction=Direction.OUTBOUND,
                    channel_id=sender.channel_id,
                    sender_id=sender.pk,
                    endpoint_id=endpoint_of(Direction.OUTBOUND, channel_id=sender.channel_id, account_id=sender.account_id),
                    source_entry=f"api:{template.uuid}",
                    text=template.text,
                    written_at=timezone.now(),
                    ours=True,
                    template=template.content,
                    uuid=template.uuid,
                )
            ]
        )
    return OutboundConversation(lane.conversation_id, subject, window_open)
