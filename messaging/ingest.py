"""The one way in: what arrived is written down once, and has its effect in the same transaction. Nothing here calls out."""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID, uuid4

import structlog
from django.db import DataError, IntegrityError, OperationalError, transaction
from django.utils import timezone
from psycopg import errors

from connector.events import (
    Event,
    Ignored,
    MessageReceived,
    Receipt,
    ReceiptReceived,
    ReplyWritten,
    RepsChanged,
    SessionEnded,
    SessionTouched,
    Text,
    UnexpectedPayload,
    Unsupported,
    split_text,
)
from connector.infobip import webhooks
from connector.infobip.client import TEXT_LIMIT as WHATSAPP_TEXT_LIMIT
from connector.salesforce.interactions import TEXT_LIMIT as SALESFORCE_TEXT_LIMIT
from connector.salesforce.platform_events import PlatformEvent, Topic, created_at, parse_event
from messaging import sessions
from messaging.lanes import Room, create_lanes, lock_lanes, make_due
from messaging.models import MAY_FOLLOW, Direction, Status
from messaging.query import query, records
from tenants.broker import note_automatic
from tenants.models import Channel, InfobipAccount, Sender

log = structlog.get_logger(__name__)

WINDOW = timedelta(hours=24)  # in which free text may answer an end user

_RECEIPT_STATUS = {Receipt.DELIVERED: Status.DELIVERED, Receipt.READ: Status.READ, Receipt.FAILED: Status.FAILED}
_RECEIPT_ORDER = [Receipt.FAILED, Receipt.DELIVERED, Receipt.READ]  # of one batch: the better news wins


@dataclass(slots=True, eq=False)
class Arrival:
    """One thing that came, as it came, with what it says or why it cannot be read."""

    key: str
    body: bytes
    event: Event | None
    kind: str = ""
    problem: str = ""
    id: int = 0


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


def receive_webhook(account: InfobipAccount, results: Sequence[object]) -> bool:
    """Write down the results of one webhook and apply what is new; True if lanes now have work.

    The caller has checked the signature and that the results are the account's own, and answers 200 only after this.
    """
    now = timezone.now()
    arrivals = [_read_result(result, now) for result in results]

    def receive(*, carefully: bool) -> bool:
        fresh = _keep_new(arrivals, org_id=account.org_id, account_id=account.pk)
        return _apply(fresh, lambda some: _apply_results(account, some), carefully=carefully, org_id=account.org_id)

    return _in_transaction(receive)


def _read_result(result: object, now: datetime) -> Arrival:
    # ASCII escapes keep what PostgreSQL's text cannot hold, such as lone surrogates
    arrival = Arrival(webhooks.key_of(result), json.dumps(result).encode(), None)
    try:
        arrival.event = webhooks.parse_result(result, received_at=now)
    except UnexpectedPayload as exc:
        arrival.kind, arrival.problem = "unreadable", str(exc)[:300]
    else:
        arrival.kind = _kind(arrival.event)
    return arrival


def _kind(event: Event) -> str:
    return event.kind if isinstance(event, Ignored) else type(event).__name__


class _Receive(Protocol):
    def __call__(self, *, carefully: bool) -> bool: ...


def _in_transaction(receive: _Receive) -> bool:
    """Run in one transaction: all at once; again where two batches locked each other out; and where the database
    refuses something, once more carefully, with a savepoint for each arrival, so that one costs its neighbours nothing.
    """
    try:
        with transaction.atomic():
            return receive(carefully=False)
    except OperationalError as exc:
        if not isinstance(exc.__cause__, errors.DeadlockDetected):
            raise
    except (DataError, IntegrityError) as exc:
        log.warning("a batch is received one by one", error=type(exc.__cause__).__name__)
    with transaction.atomic():
        return receive(carefully=True)


def _keep_new(
    arrivals: Sequence[Arrival], *, org_id: int, account_id: int | None = None, subscription_id: int | None = None
) -> list[Arrival]:
    """Insert arrivals, and give those that were not known."""
    by_key: dict[str, Arrival] = {}
    for arrival in arrivals:
        arrival.id = 0
        by_key.setdefault(arrival.key, arrival)
    rows = query(
        """INSERT INTO messaging_receivedevent
               (org_id, account_id, subscription_id, key, body, received_at, kind, problem)
           SELECT %s, %s, %s, key, body, clock_timestamp(), kind, problem
           FROM unnest(%s::bytea[]) WITH ORDINALITY AS came (body, n)
           JOIN jsonb_to_recordset(%s::jsonb) AS come (n bigint, key text, kind text, problem text) USING (n)
           ORDER BY n ON CONFLICT DO NOTHING RETURNING id, key""",
        [
            org_id,
            account_id,
            subscription_id,
            [arrival.body for arrival in by_key.values()],
            records(
                {"n": n, "key": key, "kind": arrival.kind, "problem": arrival.problem}
                for n, (key, arrival) in enumerate(by_key.items(), 1)
            ),
        ],
    )
    for arrival_id, key in rows:
        by_key[key].id = arrival_id
    return [arrival for arrival in arrivals if arrival.id and by_key[arrival.key] is arrival]


def _apply(
    arrivals: Sequence[Arrival], effect: Callable[[Sequence[Arrival]], bool], *, carefully: bool, org_id: int
) -> bool:
    """Give arrivals their effect, and note on those that have none why."""
    if not arrivals:
        return False
    before = [arrival.problem for arrival in arrivals]
    work = False
    if carefully:
        for arrival in arrivals:
            try:
                with transaction.atomic():
                    work = effect([arrival]) or work
            except (DataError, IntegrityError) as exc:
                arrival.problem = f"the database refuses it: {type(exc.__cause__).__name__}"
    else:
        work = effect(arrivals)
    troubled = [each for each, problem in zip(arrivals, before, strict=True) if each.problem != problem]
    if troubled:
        query(
            """UPDATE messaging_receivedevent SET problem = found.problem
               FROM unnest(%s::bigint[], %s::text[]) AS found (id, problem)
               WHERE messaging_receivedevent.id = found.id AND messaging_receivedevent.org_id = %s""",
            [[each.id for each in troubled], [each.problem[:300] for each in troubled], org_id],
        )
    for arrival in arrivals:
        if arrival.problem:
            log.warning("arrival without effect", org=org_id, event_id=arrival.id, problem=arrival.problem)
    return work


def _apply_results(account: InfobipAccount, arrivals: Sequence[Arrival]) -> bool:
    written = [arrival for arrival in arrivals if isinstance(arrival.event, MessageReceived)]
    reported = [arrival for arrival in arrivals if isinstance(arrival.event, ReceiptReceived)]
    work = _take_messages(account, written) if written else False
    return (_take_receipts(account, reported) if reported else False) or work


@dataclass(slots=True)
class _Incoming:
    """A message on its way into a lane; ``failure`` says why it can go no further."""

    channel_id: int
    sender_id: int | None
    addresses: list[str]
    source_entry: str
    parts: list[str]
    written_at: datetime
    name: str = ""
    identifier: str = ""
    failure: str = ""
    arrival: Arrival | None = None  # of a message that a chatbot may have, and that then goes no further


def _take_messages(account: InfobipAccount, arrivals: Sequence[Arrival]) -> bool:
    incoming = []
    events = [(arrival, arrival.event) for arrival in arrivals if isinstance(arrival.event, MessageReceived)]
    _map_places(account, [event for _, event in events])
    for arrival, event in sorted(events, key=lambda pair: pair[1].received_at):
        sender = account.senders_by_number.get(event.sender)
        if sender is None:
            arrival.problem = f"the number ending in {event.sender[-4:]} is not set up as a sender of this account"
            continue
        incoming.append(
            _Incoming(
                channel_id=sender.channel_id,
                sender_id=sender.pk,
                addresses=[event.end_user, *event.aliases],
                source_entry=event.external_id,
                parts=list(split_text(event.text, SALESFORCE_TEXT_LIMIT)),
                written_at=event.received_at,
                name=event.name,
                arrival=arrival if sender.chatbot_first else None,
            )
        )
    return _enter(account.org_id, Direction.INBOUND, incoming)


def _map_places(account: InfobipAccount, events: Sequence[MessageReceived]) -> None:
    """Keep where messages stand in conversations at Infobip: a transcript names them by these ids only."""
    placed = [(event, event.place) for event in events if event.place is not None]
    if placed:
        query(
            """INSERT INTO messaging_chatbotmessage
                   (org_id, account_id, infobip_conversation, infobip_id, channel_id, end_user, sender, at)
               SELECT %s, %s, come.* FROM jsonb_to_recordset(%s::jsonb) AS come (infobip_conversation text,
                   infobip_id text, channel_id text, end_user text, sender text, at timestamptz)
               ON CONFLICT DO NOTHING""",
            [
                account.org_id,
                account.pk,
                records(
                    {
                        "infobip_conversation": place.conversation,
                        "infobip_id": place.message,
                        "channel_id": event.external_id,
                        "end_user": event.end_user,
                        "sender": event.sender,
                        "at": event.received_at,
                    }
                    for event, place in placed
                ),
            ],
        )


def _with_chatbot(message: _Incoming, room: Room) -> bool:
    """Tell whether a chatbot has this message: nobody handed the conversation over, or did so after it was written.

    What was written before stands in the transcript.
    """
    if message.arrival is None:
        return False
    return room.with_rep_since is None or message.written_at <= room.with_rep_since


def _enter(org_id: int, direction: Direction, incoming: Sequence[_Incoming]) -> bool:
    """Put messages into their conversations' lanes, in the given order; True if lanes have work now."""
    if not incoming:
        return False
    rooms = _rooms(org_id, direction, incoming)
    pairs = [(message, room) for message, room in zip(incoming, rooms, strict=True) if not _with_chatbot(message, room)]
    if not pairs:
        return False
    youngest: dict[int, _Incoming] = {}
    counts: dict[int, int] = defaultdict(int)
    rows: list[dict[str, object]] = []
    for message, room in pairs:
        youngest[room.conversation_id] = message
        late = room.carried_until is not None and message.written_at < room.carried_until
        for part, text in enumerate(message.parts):
            counts[room.lane_id] += 1
            rows.append(
                {
                    "lane_id": room.lane_id,
                    "conversation_id": room.conversation_id,
                    "channel_id": message.channel_id,
                    "sender_id": message.sender_id or room.sender_id,
                    "position": room.position + counts[room.lane_id],
                    "uuid": uuid4(),
                    "source_entry": message.source_entry,
                    "part": part,
                    "text": text,
                    "written_at": message.written_at,
                    "late": late,
                    "status": Status.FAILED if message.failure else Status.PENDING,
                    "error": message.failure,
                }
            )
    told = [
        {
            "id": conversation_id,
            "name": message.name,
            "identifier": message.identifier,
            "sender_id": message.sender_id,
            "written_at": message.written_at,
        }
        for conversation_id, message in sorted(youngest.items())
    ]
    # as JSON, which the driver writes faster than as many arrays; and the ids beside it, without which the planner, who
    # cannot see how few rows it holds, reads every lane and conversation
    query(
        """WITH lane AS (
               UPDATE messaging_lane SET position = position + come.n, arrivals = arrivals + 1,
                   due_at = LEAST(due_at, clock_timestamp())
               FROM jsonb_to_recordset(%s::jsonb) AS come (lane_id bigint, n int)
               WHERE messaging_lane.id = come.lane_id AND messaging_lane.id = ANY(%s)),
           conversation AS (
               UPDATE messaging_conversation SET
                   name = COALESCE(NULLIF(told.name, ''), messaging_conversation.name),
                   identifier = COALESCE(NULLIF(told.identifier, ''), messaging_conversation.identifier),
                   session_open = session_open OR told.identifier <> '',
                   last_sender_id = COALESCE(told.sender_id, last_sender_id),
                   window_closes_at = CASE WHEN told.sender_id IS NULL THEN window_closes_at
                                           ELSE GREATEST(window_closes_at, told.written_at + %s) END
               FROM jsonb_to_recordset(%s::jsonb)
                   AS told (id bigint, name text, identifier text, sender_id bigint, written_at timestamptz)
               WHERE messaging_conversation.id = told.id AND messaging_conversation.id = ANY(%s))
           INSERT INTO messaging_message (org_id, direction, created_at, status_at, tries, error_code, told,
               lane_id, conversation_id, channel_id, sender_id, position, uuid, source_entry, part, text, written_at,
               late, status, error)
           SELECT %s, %s, clock_timestamp(), clock_timestamp(), 0, '', '', come.*
           FROM jsonb_to_recordset(%s::jsonb) AS come (
               lane_id bigint, conversation_id bigint, channel_id bigint, sender_id bigint, position bigint, uuid uuid,
               source_entry text, part int, text text, written_at timestamptz, late bool, status text, error text)
           ON CONFLICT DO NOTHING""",
        [
            records({"lane_id": lane_id, "n": n} for lane_id, n in counts.items()),
            list(counts),
            WINDOW,
            records(told),
            list(youngest),
            org_id,
            direction.value,
            records(rows),
        ],
    )
    failed = [room.conversation_id for message, room in pairs if message.failure]
    if failed:
        make_due(org_id, Direction.RECEIPTS, sorted(set(failed)))
    return True


def _rooms(org_id: int, direction: Direction, incoming: Sequence[_Incoming]) -> list[Room]:
    """Lock the lane of each message, finding its conversation by any of its addresses and beginning those that are new."""
    places = {(message.channel_id, address) for message in incoming for address in message.addresses}
    known = lock_lanes(org_id, direction, places)

    def found(message: _Incoming) -> Room | None:
        of_message = ((message.channel_id, address) for address in message.addresses)
        return next((known[place] for place in of_message if place in known), None)

    strangers = {(each.channel_id, each.addresses[0]): each.name for each in incoming if found(each) is None}
    unheard = {
        (message.channel_id, address, room.conversation_id)
        for message in incoming
        if (room := found(message)) is not None
        for address in message.addresses
        if (message.channel_id, address) not in known
    }
    if strangers:
        begun = _begin_conversations(org_id, strangers)
        unheard |= {
            (message.channel_id, address, begun[message.channel_id, message.addresses[0]])
            for message in incoming
            if (message.channel_id, message.addresses[0]) in begun
            for address in message.addresses
        }
    if unheard:
        query(
            """INSERT INTO messaging_address (org_id, channel_id, address, conversation_id)
               SELECT %s, channel_id, address, conversation_id
               FROM unnest(%s::bigint[], %s::text[], %s::bigint[]) AS t (channel_id, address, conversation_id)
               ON CONFLICT DO NOTHING""",
            [org_id, *(list(column) for column in zip(*sorted(unheard), strict=True))],
        )
    if strangers:
        known |= lock_lanes(org_id, direction, set(strangers))
    rooms = [found(message) for message in incoming]
    assert all(rooms), "every message has a conversation now"
    return [room for room in rooms if room is not None]


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

    :param written_at: when they last wrote to the sender, which opens the window for answers
    """
    place = (channel_id, end_user)
    room = lock_lanes(org_id, Direction.INBOUND, {place}).get(place)
    conversation_id = room.conversation_id if room else _begin_conversations(org_id, {place: name})[place]
    query(
        """WITH heard AS (
               INSERT INTO messaging_address (org_id, channel_id, address, conversation_id) VALUES (%s, %s, %s, %s)
               ON CONFLICT DO NOTHING)
           UPDATE messaging_conversation SET name = COALESCE(NULLIF(%s, ''), name),
               language = COALESCE(NULLIF(%s, ''), language), last_sender_id = COALESCE(%s, last_sender_id),
               window_closes_at = GREATEST(
                   CASE WHEN last_sender_id = %s THEN window_closes_at END, %s::timestamptz + %s)
           WHERE id = %s""",
        [
            *(org_id, channel_id, end_user, conversation_id),
            *(name[:200], language, sender, sender, written_at, WINDOW, conversation_id),
        ],
    )
    return conversation_id


def _begin_conversations(org_id: int, strangers: Mapping[tuple[int, str], str]) -> dict[tuple[int, str], int]:
    # sorted, so that two batches with the same strangers wait for each other instead of in a circle
    wanted = sorted(strangers)
    columns = [[channel_id for channel_id, _ in wanted], [subject for _, subject in wanted]]
    query(
        """INSERT INTO messaging_conversation
               (org_id, channel_id, subject, name, identifier, session, session_open, created_at)
           SELECT %s, channel_id, subject, name, '', '', false, clock_timestamp()
           FROM unnest(%s::bigint[], %s::text[], %s::text[]) AS t (channel_id, subject, name)
           ON CONFLICT DO NOTHING""",
        [org_id, *columns, [strangers[place] for place in wanted]],
    )
    rows = query(
        """SELECT channel_id, subject, conversation.id FROM messaging_conversation conversation
           JOIN unnest(%s::bigint[], %s::text[]) AS t (channel_id, subject) USING (channel_id, subject)
           WHERE conversation.org_id = %s""",
        [*columns, org_id],
    )
    begun = {(channel_id, subject): conversation_id for channel_id, subject, conversation_id in rows}
    create_lanes(org_id, sorted(begun.values()))
    return begun


@dataclass(frozen=True, slots=True)
class OurTemplate:
    """A template that goes out without a rep: Infobip's content of it, and what it says in a few words."""

    uuid: UUID
    content: dict[str, Any]
    text: str


@dataclass(frozen=True, slots=True)
class Addressed:
    """The conversation with an end user to whom we write first."""

    conversation_id: int
    subject: str
    window_open: bool


def address(sender: Sender, end_user: str, *, name: str, language: str, template: OurTemplate | None) -> Addressed:
    """Find the conversation with an end user, or begin it, and queue a template in it; the caller owns the transaction.

    Answers leave by this sender from now on, and the 24-hour window is that of the sender last written to.
    """
    now = timezone.now()
    first = _Incoming(sender.channel_id, sender.pk, [end_user], source_entry="", parts=[], written_at=now, name=name)
    (room,) = _rooms(sender.org_id, Direction.OUTBOUND, [first])
    ((subject, window_open),) = query(
        """UPDATE messaging_conversation SET name = COALESCE(NULLIF(%s, ''), name),
               language = COALESCE(NULLIF(%s, ''), language),
               window_closes_at = CASE WHEN last_sender_id = %s THEN window_closes_at END, last_sender_id = %s
           WHERE id = %s AND org_id = %s
           RETURNING subject, COALESCE(window_closes_at > clock_timestamp(), false)""",
        [name, language, sender.pk, sender.pk, room.conversation_id, sender.org_id],
    )
    if template is not None:
        query(
            """WITH lane AS (
                   UPDATE messaging_lane SET position = position + 1, arrivals = arrivals + 1,
                       due_at = LEAST(due_at, clock_timestamp()) WHERE id = %s RETURNING position)
               INSERT INTO messaging_message (org_id, lane_id, conversation_id, channel_id, sender_id, direction, position,
                   uuid, source_entry, part, text, template, ours, written_at, created_at, late, status, status_at, tries,
                   error_code, error, told)
               SELECT %s, %s, %s, %s, %s, 'outbound', lane.position, %s, %s, 0, %s, %s::jsonb, true, clock_timestamp(),
                   clock_timestamp(), false, 'pending', clock_timestamp(), 0, '', '', ''
               FROM lane""",
            [
                *(room.lane_id, sender.org_id, room.lane_id, room.conversation_id, sender.channel_id, sender.pk),
                *(template.uuid, f"api:{template.uuid}", template.text, json.dumps(template.content)),
            ],
        )
    return Addressed(room.conversation_id, subject, window_open)


def _take_receipts(account: InfobipAccount, arrivals: Sequence[Arrival]) -> bool:
    """Move messages to the state that reports tell, and ring for those that Salesforce is told of."""
    receipts = {arrival: arrival.event for arrival in arrivals if isinstance(arrival.event, ReceiptReceived)}
    rows = query(
        """SELECT message.uuid, message.id, message.conversation_id FROM messaging_message message
           JOIN tenants_sender sender ON sender.id = message.sender_id
           WHERE message.org_id = %s AND message.uuid = ANY(%s) AND message.direction = 'outbound'
             AND sender.account_id = %s""",
        [account.org_id, [receipt.message_uuid for receipt in receipts.values()], account.pk],
    )
    places = {uuid: (message_id, conversation_id) for uuid, message_id, conversation_id in rows}
    for arrival, receipt in receipts.items():
        if receipt.message_uuid not in places:
            arrival.problem = "no message of this account has this messageId"
    if not places:
        return False
    conversation_ids = {conversation_id for _, conversation_id in places.values()}
    make_due(account.org_id, Direction.RECEIPTS, sorted(conversation_ids))
    message_ids = sorted(message_id for message_id, _ in places.values())
    query("SELECT 1 FROM messaging_message WHERE id = ANY(%s) ORDER BY id FOR NO KEY UPDATE", [message_ids])
    for receipt_kind in _RECEIPT_ORDER:
        status = _RECEIPT_STATUS[receipt_kind]
        told = [each for each in receipts.values() if each.receipt is receipt_kind and each.message_uuid in places]
        if told:
            query(
                """UPDATE messaging_message SET status = %s, status_at = told.at, error_code = told.code,
                       error = told.reason
                   FROM unnest(%s::bigint[], %s::timestamptz[], %s::text[], %s::text[]) AS told (id, at, code, reason)
                   WHERE messaging_message.id = told.id AND messaging_message.status = ANY(%s)""",
                [
                    status,
                    [places[each.message_uuid][0] for each in told],
                    [each.at for each in told],
                    [each.code for each in told],
                    [each.reason for each in told],
                    [before.value for before in MAY_FOLLOW[status]],
                ],
            )
    return True


def receive_stream_batches(batches: Sequence[StreamBatch]) -> tuple[set[int], bool]:
    """Write down what streams brought and move their positions, a transaction for each.

    A position moves only under the lease of the stream that brought the events: a process that lost it saves nothing.

    :return: the subscriptions whose batch is saved, and whether lanes now have work
    """
    saved: set[int] = set()
    work = False
    for batch in batches:
        # an org at a time: lanes are locked in sorted order, and those of several orgs would be locked org by org
        def receive(*, carefully: bool, batch: StreamBatch = batch) -> bool:
            saved.discard(batch.subscription_id)  # of a first try that was rolled back
            if not _move_position(batch):
                return False
            saved.add(batch.subscription_id)
            return _receive_events(batch, carefully=carefully)

        work = _in_transaction(receive) or work
    return saved, work


def _move_position(batch: StreamBatch) -> bool:
    rows = query(
        """UPDATE messaging_eventsubscription SET replay_id = %s, last_answer_at = clock_timestamp(), failures = 0,
               problem = ''
           WHERE id = %s AND org_id = %s AND lease_id = %s RETURNING id""",
        [batch.replay_id, batch.subscription_id, batch.org_id, batch.lease_id],
    )
    return bool(rows)


def _receive_events(batch: StreamBatch, *, carefully: bool) -> bool:
    arrivals = []
    for event in batch.events:
        at = created_at(event)
        if at is not None and at < batch.since:
            continue  # published before this subscription began: reading starts at the earliest event of the bus
        arrivals.append(_read_event(event, batch.topic))
    if not arrivals:
        return False
    fresh = _keep_new(arrivals, org_id=batch.org_id, subscription_id=batch.subscription_id)
    return _apply(fresh, lambda some: _apply_events(batch.org_id, some), carefully=carefully, org_id=batch.org_id)


def _apply_events(org_id: int, arrivals: Sequence[Arrival]) -> bool:
    work = False
    for arrival in arrivals:
        match arrival.event:
            case SessionEnded(conversation, session):
                work = sessions.end(org_id, session, conversation=conversation) or work
            case RepsChanged(conversation, joined, left):
                work = sessions.note_reps(org_id, conversation, joined=joined, left=left) or work
            case SessionTouched(ids):
                sessions.check_soon(org_id, ids)
                work = True
    return _take_replies(org_id, arrivals) or work


def _read_event(event: PlatformEvent, topic: Topic) -> Arrival:
    body = event.payload if event.record is None else json.dumps(event.record, default=str).encode()
    arrival = Arrival(f"event:{event.id}"[:300], body, None)
    try:
        arrival.event = parse_event(event, topic)
    except UnexpectedPayload as exc:
        arrival.kind, arrival.problem = "unreadable", str(exc)[:300]
    else:
        arrival.kind = _kind(arrival.event)
    return arrival


def _take_replies(org_id: int, arrivals: Sequence[Arrival]) -> bool:
    replies = [(arrival, arrival.event) for arrival in arrivals if isinstance(arrival.event, ReplyWritten)]
    if not replies:
        return False
    addresses = {reply.channel_address for _, reply in replies}
    known = Channel.objects.filter(org_id=org_id, channel_address_identifier__in=addresses)
    channels = {channel.channel_address_identifier: channel for channel in known}
    incoming = []
    for arrival, reply in replies:  # in the order of the stream
        channel = channels.get(reply.channel_address)
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
            _Incoming(
                channel_id=channel.pk,
                sender_id=None,
                addresses=[reply.end_user],
                source_entry=reply.entry,
                parts=parts,
                written_at=reply.written_at,
                identifier=reply.conversation,
                failure=failure,
            )
        )
    return _enter(org_id, Direction.OUTBOUND, incoming)


def _in_words(content: Unsupported) -> str:
    return {"Attachments": "A file", "RichLink": "A rich link"}.get(content.kind, f"Content of the kind {content.kind}")
