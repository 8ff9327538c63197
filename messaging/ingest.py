"""Turns arrivals into messages in lanes, receipts and sessions. Nothing here calls out; callers own the transaction."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import NamedTuple

from connector.events import (
    InfobipMessageRef,
    MessageReceived,
    ReceiptReceived,
    ReplyWritten,
    RepsChanged,
    SessionEnded,
    SessionTouched,
    Text,
    Unsupported,
    split_text,
)
from connector.infobip.client import TEXT_LIMIT as WHATSAPP_TEXT_LIMIT
from connector.phone import spellings_of
from connector.salesforce.interactions import TEXT_LIMIT as SALESFORCE_TEXT_LIMIT
from messaging import left, receipts, sessions
from messaging.circuits import endpoint_of
from messaging.conversations import Heard, Party, find_or_begin, keep_heard
from messaging.ledger import Arrival, keep_new, note_problems
from messaging.left import UserMessage
from messaging.models import Direction
from messaging.query import query, records
from messaging.queue import FoundLane, LockedLane, NewMessage, append, find_lanes, lock, lock_conversations, mark_due
from messaging.receipts import Report
from messaging.results import mark_receipts_due
from tenants.cache import count_refusal, note_automatic
from tenants.models import Channel

LONGEST_ENTRY = 250  # as the columns hold


@dataclass(slots=True)
class Incoming:
    """A message on its way into a lane; ``failure`` says why it can go no further."""

    party: Party
    sender_id: int | None
    source_entry: str
    parts: list[str]
    written_at: datetime
    identifier: str = ""
    failure: str = ""
    chatbot_first: bool = False  # a chatbot may have it, and then it goes no further
    account_id: int = 0  # of the sender
    text: str = ""  # before it was cut into parts
    ref: InfobipMessageRef | None = None


def ingest(arrivals: Sequence[Arrival]) -> bool:
    """Write arrivals of any orgs down, and give those that are new their effect; True if there is something to do now."""
    fresh = keep_new(arrivals)
    known = [arrival.problem for arrival in fresh]
    work = _take_webhooks([each for each in fresh if each.account_id is not None])
    work = _take_stream_events([each for each in fresh if each.subscription_id is not None]) or work
    note_problems(fresh, known)
    return work


# from Infobip


class _Sender(NamedTuple):
    id: int
    channel_id: int
    chatbot_first: bool
    first_account: int  # of the channel's


Senders = Mapping[tuple[int, str], _Sender]  # by account and number


def _take_webhooks(arrivals: Sequence[Arrival]) -> bool:
    written = [(each, each.event) for each in arrivals if isinstance(each.event, MessageReceived)]
    incoming = _incoming(written)
    reports = {
        Report(each.org_id, each.account_id, each.event): each
        for each in arrivals
        if isinstance(each.event, ReceiptReceived) and each.account_id is not None
    }
    found = receipts.find_reported(list(reports))
    for report, arrival in reports.items():
        if report not in found:
            arrival.problem = "no message of this account has this messageId"
    if not incoming and not found:
        return False
    reported = {each.receipts_lane: each.channel_id for each in found.values()}
    waiting = {each.waiting_lane: each.account_id for each in found.values() if each.waiting_lane is not None}
    entered = _enter(Direction.INBOUND, incoming, also=[*reported, *waiting])
    if found:
        receipts.advance(found)
        mark_due(reported)
        mark_due(waiting, at_once=True)
    return entered or bool(found)


def _incoming(written: Sequence[tuple[Arrival, MessageReceived]]) -> list[Incoming]:
    if not written:
        return []
    senders = _senders({arrival.account_id for arrival, _ in written if arrival.account_id is not None})
    _map_chatbot_messages(written, senders)
    incoming = []
    for arrival, event in _in_order(written):
        sender = _sender_of(arrival, event, senders)
        if sender is None:
            arrival.problem = f"the number ending in {event.sender[-4:]} is not set up as a sender of this account"
            count_refusal(arrival.account_id, "unknown sender", number=event.sender)
            continue
        incoming.append(
            Incoming(
                party=Party(arrival.org_id, sender.channel_id, (event.end_user, *event.aliases), event.name),
                sender_id=sender.id,
                source_entry=_entry_of(arrival, event, sender),
                parts=list(split_text(event.text, SALESFORCE_TEXT_LIMIT)),
                written_at=event.received_at,
                chatbot_first=sender.chatbot_first,
                account_id=arrival.account_id or 0,
                text=event.text,
                ref=event.ref,
            )
        )
    return incoming


def _in_order(written: Sequence[tuple[Arrival, MessageReceived]]) -> Iterator[tuple[Arrival, MessageReceived]]:
    """Give messages in the order in which they were written, as far as one clock tells, and else in that of their arrival.

    A webhook of WhatsApp and a conversation's event have a clock each, so each is ordered among its own kind.
    """
    of_kind = {
        kind: iter(
            sorted((pair for pair in written if (pair[1].ref is not None) is kind), key=lambda pair: pair[1].received_at)
        )
        for kind in (False, True)
    }
    return (next(of_kind[event.ref is not None]) for _, event in written)


def _senders(account_ids: set[int]) -> Senders:
    rows = query(
        """SELECT account_id, number, id, channel_id, chatbot_first, (
               SELECT min(account_id) FROM tenants_sender other WHERE other.channel_id = sender.channel_id)
           FROM tenants_sender sender WHERE account_id = ANY(%s) AND retired_at IS NULL""",
        [sorted(account_ids)],
    )
    return {(account_id, number): _Sender(*sender) for account_id, number, *sender in rows}


def _sender_of(arrival: Arrival, event: MessageReceived, senders: Senders) -> _Sender | None:
    spellings = [(arrival.account_id or 0, each) for each in spellings_of(event.sender)]
    return next((senders[each] for each in spellings if each in senders), None)


def _entry_of(arrival: Arrival, event: MessageReceived, sender: _Sender | None) -> str:
    """Name a message on its channel: ids are an account's own, and a channel may have senders of several."""
    if sender is None or sender.first_account == arrival.account_id:
        return event.external_id
    own = f"{arrival.account_id}:{event.external_id}"
    return own if len(own) <= LONGEST_ENTRY else f"{arrival.account_id}:{sha256(event.external_id.encode()).hexdigest()}"


def _map_chatbot_messages(written: Sequence[tuple[Arrival, MessageReceived]], senders: Senders) -> None:
    """Keep where messages stand in conversations at Infobip: a transcript names them by these ids only."""
    named = [(arrival, event, event.ref) for arrival, event in written if event.ref is not None]
    if named:
        query(
            """INSERT INTO messaging_chatbotmessage
                   (org_id, account_id, infobip_conversation, infobip_id, channel_id, end_user, sender, at)
               SELECT * FROM jsonb_to_recordset(%s::jsonb) AS come (org_id bigint, account_id bigint,
                   infobip_conversation text, infobip_id text, channel_id text, end_user text, sender text, at timestamptz)
               ON CONFLICT DO NOTHING""",
            [
                records(
                    {
                        "org_id": arrival.org_id,
                        "account_id": arrival.account_id,
                        "infobip_conversation": ref.conversation,
                        "infobip_id": ref.message,
                        "channel_id": _entry_of(arrival, event, _sender_of(arrival, event, senders)),
                        "end_user": event.end_user,
                        "sender": event.sender,
                        "at": event.received_at,
                    }
                    for arrival, event, ref in named
                )
            ],
        )


# into lanes


@dataclass(slots=True)
class _Entered:
    messages: list[NewMessage] = field(default_factory=list)
    heard: dict[int, Heard] = field(default_factory=dict)
    failed: dict[int, tuple[int, int]] = field(default_factory=dict)  # conversation: org and channel


def _enter(direction: Direction, incoming: Sequence[Incoming], *, also: Sequence[int] = ()) -> bool:
    """Put messages into their conversations' lanes, in the given order; True if lanes have work now.

    :param also: lanes that the transaction is going to write to as well
    """
    found = find_or_begin(direction, [message.party for message in incoming]) if incoming else []
    locked = lock([*(lane.lane_id for lane in found), *also])
    entered = _Entered()
    nowhere = _goes_no_further(incoming, found, locked)
    for n, (message, lane) in enumerate(zip(incoming, found, strict=True)):
        if n not in nowhere:
            _add(entered, direction, message, lane, locked[lane.lane_id])
        entered.heard[lane.conversation_id] = _heard(message, lane)
    append(entered.messages)
    keep_heard([entered.heard[each] for each in sorted(entered.heard)])
    for conversation_id, (org_id, channel_id) in sorted(entered.failed.items()):
        mark_receipts_due(org_id, conversation_id, channel_id)
    return bool(entered.messages)


def _goes_no_further(
    incoming: Sequence[Incoming], found: Sequence[FoundLane], locked: Mapping[int, LockedLane]
) -> set[int]:
    """Leave to a transcript what was written to a chatbot, and name it, with what a transcript has shown already.

    Who has the conversation is asked under the lane's lock, so the order of arrival decides. No time of Infobip's does: its
    clock is not ours, and WhatsApp's tells whole seconds.
    """
    chatbots, reps = dict[int, UserMessage](), dict[int, UserMessage]()
    for n, (message, lane) in enumerate(zip(incoming, found, strict=True)):
        if message.chatbot_first:
            those = chatbots if locked[lane.lane_id].with_rep_since is None else reps
            those[n] = UserMessage(
                lane.org_id,
                message.account_id,
                message.party.channel_id,
                lane.conversation_id,
                message.source_entry,
                message.text,
                message.written_at,
                message.ref,
            )
    left.leave(list(chatbots.values()))
    places = list(reps)
    return {*chatbots, *(places[n] for n in left.find_shown(list(reps.values())))}


def _add(entered: _Entered, direction: Direction, message: Incoming, lane: FoundLane, locked: LockedLane) -> None:
    party = message.party
    late = locked.carried_until is not None and message.written_at < locked.carried_until
    for part, text in enumerate(message.parts):
        entered.messages.append(
            NewMessage(
                org_id=lane.org_id,
                lane_id=lane.lane_id,
                conversation_id=lane.conversation_id,
                direction=direction,
                channel_id=party.channel_id,
                sender_id=message.sender_id or lane.sender_id,
                endpoint_id=endpoint_of(direction, channel_id=party.channel_id, account_id=lane.account_id),
                source_entry=message.source_entry,
                text=text,
                written_at=message.written_at,
                part=part,
                late=late,
                failure=message.failure,
            )
        )
    if message.failure:
        entered.failed[lane.conversation_id] = (lane.org_id, party.channel_id)


def _heard(message: Incoming, lane: FoundLane) -> Heard:
    """Say what a message tells of its conversation: also what is written to a chatbot opens the 24-hour window."""
    return Heard(
        lane.conversation_id,
        name=message.party.name,
        identifier=message.identifier,
        sender_id=message.sender_id,
        written_at=message.written_at if message.sender_id else None,
    )


# from Salesforce


def _take_stream_events(arrivals: Sequence[Arrival]) -> bool:
    work = False
    replies = [(each, each.event) for each in arrivals if isinstance(each.event, ReplyWritten)]
    incoming = _replies(replies)
    about = [(each.org_id, each.event) for each in arrivals if not isinstance(each.event, ReplyWritten)]
    if any(isinstance(event, SessionEnded | RepsChanged | SessionTouched) for _, event in about):
        # all lanes in one order and before any session: others lock theirs so, and would wait for us in a circle
        places = [place for message in incoming for place in message.party.places]
        ended = [(org_id, event.session, event.conversation) for org_id, event in about if isinstance(event, SessionEnded)]
        lock_conversations(
            {
                *(lane.conversation_id for lane in find_lanes(Direction.OUTBOUND, places).values()),
                *sessions.conversations_of(ended),
            }
        )
    for arrival in arrivals:
        match arrival.event:
            case SessionEnded(conversation, session):
                work = sessions.end(arrival.org_id, session, conversation=conversation) or work
            case RepsChanged(conversation, joined, left):
                work = sessions.note_reps(arrival.org_id, conversation, joined=joined, left=left) or work
            case SessionTouched(ids):
                sessions.check_soon(arrival.org_id, ids)
                work = True
    return (_enter(Direction.OUTBOUND, incoming) if incoming else False) or work


def _replies(replies: Sequence[tuple[Arrival, ReplyWritten]]) -> list[Incoming]:
    if not replies:
        return []
    channels = _channels(replies)
    incoming = []
    for arrival, reply in replies:  # in the order of the streams
        channel = channels.get((arrival.org_id, reply.channel_address))
        if channel is None:
            arrival.problem = "no channel of this org has this channelAddressIdentifier"
            continue
        if reply.automatic:
            note_automatic(channel.pk)
            if not channel.forward_automatic:
                continue
        parts, failure = [""], ""
        if isinstance(reply.content, Text):
            parts = list(split_text(reply.content.body, WHATSAPP_TEXT_LIMIT))
        else:
            failure = f"{_in_words(reply.content)} cannot be sent to WhatsApp yet; nothing was sent"
        incoming.append(
            Incoming(
                party=Party(arrival.org_id, channel.pk, spellings_of(reply.end_user)),
                sender_id=None,
                source_entry=reply.entry,
                parts=parts,
                written_at=reply.written_at,
                identifier=reply.conversation,
                failure=failure,
            )
        )
    return incoming


def _channels(replies: Sequence[tuple[Arrival, ReplyWritten]]) -> Mapping[tuple[int, str], Channel]:
    known = Channel.objects.filter(
        org_id__in={arrival.org_id for arrival, _ in replies},
        channel_address_identifier__in={reply.channel_address for _, reply in replies},
    )
    return {(channel.org_id, channel.channel_address_identifier): channel for channel in known}


def _in_words(content: Unsupported) -> str:
    return {"Attachments": "A file", "RichLink": "A rich link"}.get(content.kind, f"Content of the kind {content.kind}")
