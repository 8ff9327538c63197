"""The one way in: what arrived is written down once, and has its effect in the same transaction. Nothing here calls out."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar
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
    Text,
    UnexpectedPayload,
    Unsupported,
    split_text,
)
from connector.infobip import webhooks
from connector.infobip.client import TEXT_LIMIT as WHATSAPP_TEXT_LIMIT
from connector.salesforce.interactions import TEXT_LIMIT as SALESFORCE_TEXT_LIMIT
from connector.salesforce.platform_events import PlatformEvent, Topic, created_at, parse_event
from messaging.lanes import Way, arrive, create_lanes, query
from messaging.models import MAY_FOLLOW, Direction, Message, Status
from tenants.models import Channel, InfobipAccount, Org, Sender

log = structlog.get_logger(__name__)
Value = TypeVar("Value")

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
    return _in_transaction(lambda: _receive(account, arrivals))


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


def _in_transaction(work: Any) -> bool:
    """Run in one transaction, and once more where two batches locked each other out."""
    try:
        with transaction.atomic():
            return bool(work())
    except OperationalError as exc:
        if not isinstance(exc.__cause__, errors.DeadlockDetected):
            raise
        with transaction.atomic():
            return bool(work())


def _receive(account: InfobipAccount, arrivals: Sequence[Arrival]) -> bool:
    fresh = _keep_new(arrivals, org_id=account.org_id, account_id=account.pk)
    return _apply_each_safely(
        fresh, lambda some: _apply_results(account, some), org_id=account.org_id, account_id=account.pk
    )


def _keep_new(
    arrivals: Sequence[Arrival], *, org_id: int, account_id: int | None = None, subscription_id: int | None = None
) -> list[Arrival]:
    """Insert arrivals, and give those that were not known."""
    by_key: dict[str, Arrival] = {}
    for arrival in arrivals:
        by_key.setdefault(arrival.key, arrival)
    rows = query(
        """INSERT INTO messaging_receivedevent
               (org_id, account_id, subscription_id, key, body, received_at, kind, problem)
           SELECT %s, %s, %s, key, body, clock_timestamp(), kind, problem
           FROM unnest(%s::text[], %s::bytea[], %s::text[], %s::text[]) AS come (key, body, kind, problem)
           ON CONFLICT DO NOTHING RETURNING id, key""",
        [
            org_id,
            account_id,
            subscription_id,
            list(by_key),
            [arrival.body for arrival in by_key.values()],
            [arrival.kind for arrival in by_key.values()],
            [arrival.problem for arrival in by_key.values()],
        ],
    )
    for arrival_id, key in rows:
        by_key[key].id = arrival_id
    return [arrival for arrival in arrivals if arrival.id and by_key[arrival.key] is arrival]


def _apply_each_safely(arrivals: Sequence[Arrival], apply: Any, **ids: int) -> bool:
    """Apply all at once; if the database refuses something, one by one, so that one costs its neighbours nothing."""
    if not arrivals:
        return False
    before = {id(arrival): arrival.problem for arrival in arrivals}
    try:
        with transaction.atomic():
            work = bool(apply(arrivals))
    except (DataError, IntegrityError):
        work = False
        for arrival in arrivals:
            try:
                with transaction.atomic():
                    work = bool(apply([arrival])) or work
            except (DataError, IntegrityError) as exc:
                arrival.problem = f"the database refuses it: {type(exc.__cause__).__name__}"
    troubled = [arrival for arrival in arrivals if arrival.problem and arrival.problem != before[id(arrival)]]
    if troubled:
        query(
            """UPDATE messaging_receivedevent SET problem = found.problem
               FROM unnest(%s::bigint[], %s::text[]) AS found (id, problem)
               WHERE messaging_receivedevent.id = found.id""",
            [[arrival.id for arrival in troubled], [arrival.problem[:300] for arrival in troubled]],
        )
    for arrival in arrivals:
        if arrival.problem:
            log.warning("arrival without effect", **ids, event_id=arrival.id, problem=arrival.problem)
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
    sender: Sender | None
    addresses: list[str]
    source_entry: str
    parts: list[str]
    written_at: datetime
    name: str = ""
    identifier: str = ""
    failure: str = ""


def _take_messages(account: InfobipAccount, arrivals: Sequence[Arrival]) -> bool:
    events = [(arrival, arrival.event) for arrival in arrivals if isinstance(arrival.event, MessageReceived)]
    numbers = {event.sender for _, event in events}
    senders = {sender.number: sender for sender in account.org.senders.filter(account=account, number__in=numbers)}
    incoming = []
    for arrival, event in sorted(events, key=lambda pair: pair[1].received_at):
        sender = senders.get(event.sender)
        if sender is None:
            arrival.problem = f"the number ending in {event.sender[-4:]} is not set up as a sender of this account"
            continue
        incoming.append(
            _Incoming(
                channel_id=sender.channel_id,
                sender=sender,
                addresses=[event.end_user, *event.aliases],
                source_entry=event.external_id,
                parts=list(split_text(event.text, SALESFORCE_TEXT_LIMIT)),
                written_at=event.received_at,
                name=event.name,
            )
        )
    return _enter(account.org, Direction.INBOUND, incoming)


def _enter(org: Org, direction: Direction, incoming: Sequence[_Incoming]) -> bool:
    """Put messages into their conversations' lanes, in the given order; True if any waits there now."""
    if not incoming:
        return False
    conversation_ids = _conversations(org.pk, incoming)
    counts: dict[Way, int] = defaultdict(int)
    for message, conversation_id in zip(incoming, conversation_ids, strict=True):
        counts[Way(conversation_id, direction)] += len(message.parts)
    rooms = arrive(org.pk, counts)
    _note_conversations(org.pk, incoming, conversation_ids)
    if direction is Direction.OUTBOUND:
        _choose_senders(org, incoming, conversation_ids)

    now = timezone.now()
    taken: dict[int, int] = defaultdict(int)
    rows = []
    for message, conversation_id in zip(incoming, conversation_ids, strict=True):
        room = rooms[Way(conversation_id, direction)]
        for part, text in enumerate(message.parts):
            rows.append(
                Message(
                    org_id=org.pk,
                    lane_id=room.lane_id,
                    conversation_id=conversation_id,
                    channel_id=message.channel_id,
                    sender=message.sender,
                    direction=direction,
                    position=room.position + taken[room.lane_id],
                    uuid=uuid4(),
                    source_entry=message.source_entry,
                    part=part,
                    text=text,
                    written_at=message.written_at,
                    created_at=now,
                    late=room.carried_until is not None and message.written_at < room.carried_until,
                    status=Status.FAILED if message.failure else Status.PENDING,
                    status_at=now,
                    error=message.failure,
                )
            )
            taken[room.lane_id] += 1
    Message.objects.bulk_create(rows, ignore_conflicts=True)
    return any(row.status == Status.PENDING for row in rows)


def _conversations(org_id: int, incoming: Sequence[_Incoming]) -> list[int]:
    """Find the conversation of each message by any of its addresses; begin those that are new."""
    known = _known_addresses(org_id, incoming)

    def found(message: _Incoming) -> int | None:
        places = ((message.channel_id, address) for address in message.addresses)
        return next((known[place] for place in places if place in known), None)

    strangers = {(each.channel_id, each.addresses[0]): each.name for each in incoming if found(each) is None}
    begun = _begin_conversations(org_id, strangers) if strangers else {}
    conversation_ids = [found(each) or begun[(each.channel_id, each.addresses[0])] for each in incoming]

    unheard = sorted(
        {
            (message.channel_id, address, conversation_id)
            for message, conversation_id in zip(incoming, conversation_ids, strict=True)
            for address in message.addresses
            if (message.channel_id, address) not in known
        }
    )
    if unheard:
        query(
            """INSERT INTO messaging_address (org_id, channel_id, address, conversation_id)
               SELECT %s, channel_id, address, conversation_id
               FROM unnest(%s::bigint[], %s::text[], %s::bigint[]) AS t (channel_id, address, conversation_id)
               ON CONFLICT DO NOTHING""",
            [org_id, *(list(column) for column in zip(*unheard, strict=True))],
        )
    return conversation_ids


def _known_addresses(org_id: int, incoming: Sequence[_Incoming]) -> dict[tuple[int, str], int]:
    rows = query(
        """SELECT channel_id, address, conversation_id FROM messaging_address
           WHERE org_id = %s AND channel_id = ANY(%s) AND address = ANY(%s)""",
        [
            org_id,
            list({message.channel_id for message in incoming}),
            list({address for message in incoming for address in message.addresses}),
        ],
    )
    return {(channel_id, address): conversation_id for channel_id, address, conversation_id in rows}


def _begin_conversations(org_id: int, strangers: Mapping[tuple[int, str], str]) -> dict[tuple[int, str], int]:
    # sorted, so that two batches with the same strangers wait for each other instead of in a circle
    wanted = sorted(strangers)
    columns = [[channel_id for channel_id, _ in wanted], [subject for _, subject in wanted]]
    query(
        """INSERT INTO messaging_conversation (org_id, channel_id, subject, name, identifier, created_at)
           SELECT %s, channel_id, subject, name, '', clock_timestamp()
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


def _note_conversations(org_id: int, incoming: Sequence[_Incoming], conversation_ids: Sequence[int]) -> None:
    """Note on each conversation what its youngest message tells: who wrote, through which sender, under which name."""
    youngest = dict(sorted(zip(conversation_ids, incoming, strict=True), key=lambda pair: pair[0]))
    ids = list(youngest)
    # two lanes of a conversation are written by different processes: sorted locks here as well
    query("SELECT 1 FROM messaging_conversation WHERE id = ANY(%s) ORDER BY id FOR NO KEY UPDATE", [ids])
    query(
        """UPDATE messaging_conversation SET
               name = COALESCE(NULLIF(told.name, ''), messaging_conversation.name),
               identifier = COALESCE(NULLIF(told.identifier, ''), messaging_conversation.identifier),
               last_sender_id = COALESCE(told.sender_id, last_sender_id),
               window_closes_at = CASE WHEN told.sender_id IS NULL THEN window_closes_at
                                       ELSE GREATEST(window_closes_at, told.written_at + %s) END
           FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::bigint[], %s::timestamptz[])
               AS told (id, name, identifier, sender_id, written_at)
           WHERE messaging_conversation.id = told.id AND messaging_conversation.org_id = %s""",
        [
            WINDOW,
            ids,
            [message.name for message in youngest.values()],
            [message.identifier for message in youngest.values()],
            [message.sender and message.sender.pk for message in youngest.values()],
            [message.written_at for message in youngest.values()],
            org_id,
        ],
    )


def _choose_senders(org: Org, incoming: Sequence[_Incoming], conversation_ids: Sequence[int]) -> None:
    """Answer by the sender last written to, else by the channel's first one."""
    last = dict(
        org.conversations.filter(id__in=conversation_ids, last_sender__isnull=False).values_list("id", "last_sender_id")
    )
    senders = list(org.senders.filter(channel_id__in={message.channel_id for message in incoming}).order_by("id"))
    by_id = {sender.pk: sender for sender in senders}
    first = {sender.channel_id: sender for sender in reversed(senders)}
    for message, conversation_id in zip(incoming, conversation_ids, strict=True):
        message.sender = by_id.get(last.get(conversation_id, 0)) or first.get(message.channel_id)


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
    arrive(account.org_id, {Way(each, Direction.RECEIPTS): 0 for each in conversation_ids})
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
    """Write down what streams brought and move their positions, all in one transaction, a savepoint for each stream.

    A position moves only under the lease of the stream that brought the events: a process that lost it saves nothing.

    :return: the subscriptions whose batch is saved, and whether lanes now have work
    """
    saved: set[int] = set()
    work = False

    def receive_all() -> bool:
        nonlocal work
        saved.clear()
        work = False
        for batch in batches:
            try:
                with transaction.atomic():
                    if _move_position(batch):
                        work = _receive_events(batch) or work
                        saved.add(batch.subscription_id)
            except (DataError, IntegrityError) as exc:
                log.error("stream batch refused", org=batch.org_id, error=type(exc.__cause__).__name__)
        return work

    _in_transaction(receive_all)
    return saved, work


def _move_position(batch: StreamBatch) -> bool:
    rows = query(
        """UPDATE messaging_eventsubscription SET replay_id = %s, last_answer_at = clock_timestamp(), failures = 0,
               problem = ''
           WHERE id = %s AND org_id = %s AND lease_id = %s RETURNING id""",
        [batch.replay_id, batch.subscription_id, batch.org_id, batch.lease_id],
    )
    return bool(rows)


def _receive_events(batch: StreamBatch) -> bool:
    arrivals = []
    for event in batch.events:
        at = created_at(event)
        if at is not None and at < batch.since:
            continue  # published before this subscription began: reading starts at the earliest event of the bus
        arrivals.append(_read_event(event, batch.topic))
    if not arrivals:
        return False
    fresh = _keep_new(arrivals, org_id=batch.org_id, subscription_id=batch.subscription_id)
    org = Org.objects.get(pk=batch.org_id)
    return _apply_each_safely(
        fresh, lambda some: _take_replies(org, some), org_id=batch.org_id, subscription_id=batch.subscription_id
    )


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


def _take_replies(org: Org, arrivals: Sequence[Arrival]) -> bool:
    replies = [(arrival, arrival.event) for arrival in arrivals if isinstance(arrival.event, ReplyWritten)]
    if not replies:
        return False
    addresses = {reply.channel_address for _, reply in replies}
    channels = {
        channel.channel_address_identifier: channel
        for channel in org.channels.filter(channel_address_identifier__in=addresses)
    }
    incoming = []
    for arrival, reply in replies:  # in the order of the stream
        channel: Channel | None = channels.get(reply.channel_address)
        if channel is None:
            arrival.problem = "no channel of this org has this channelAddressIdentifier"
            continue
        parts, failure = [""], ""
        if isinstance(reply.content, Text):
            parts = list(split_text(reply.content.body, WHATSAPP_TEXT_LIMIT))
        else:
            failure = f"{_in_words(reply.content)} cannot be sent to WhatsApp yet; nothing was sent"
        incoming.append(
            _Incoming(
                channel_id=channel.pk,
                sender=None,
                addresses=[reply.end_user],
                source_entry=reply.entry,
                parts=parts,
                written_at=reply.written_at,
                identifier=reply.conversation,
                failure=failure,
            )
        )
    return _enter(org, Direction.OUTBOUND, incoming)


def _in_words(content: Unsupported) -> str:
    return {"Attachments": "A file", "RichLink": "A rich link"}.get(content.kind, f"Content of the kind {content.kind}")
