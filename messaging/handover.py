"""From chatbot to rep: a hand-over from the chatbot's call to the end of the session, step by step.

A step does little, and what it did is committed with the state that follows it: whoever takes it up after a death repeats
at most one step. Steps call Infobip, so they run outside of transactions, under a lease.

1. CALLED: the conversation is looked at. It must exist, and the end user must take part; then it is the reps', and
   what the end user writes from now on waits behind a barrier.
2. READING: the transcript is read until it holds the last line that we know of, and then once more, for it lags; then it
   goes below the barrier as messages of the lane, or to Salesforce's history where channel and org permit it.
3. RELAYED, while the session goes on. When it ends, sessions.py makes it
4. ENDING: once the closing text has left, the conversation at Infobip is closed, so that the chatbot has the next message.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import NAMESPACE_OID, UUID, uuid5
from zoneinfo import ZoneInfo

import structlog
from django.db import transaction
from django.utils import timezone

from connector.events import MARK, clean, split_text, unmarked
from connector.http import ApiError, CustomerMustAct
from connector.infobip import conversations
from connector.infobip.conversations import Author, ConversationUnknown, Line
from connector.salesforce.interactions import (
    MOST_PAST_ENTRIES,
    NOT_UNIQUE,
    OLDEST_PAST_ENTRY,
    TEXT_LIMIT,
    HistoryRefused,
    PastEntry,
)
from messaging.circuits import endpoint_of
from messaging.conversations import begin_conversation
from messaging.models import ChatbotMessage, Conversation, Direction, Handover, Message, Status
from messaging.query import query
from messaging.queue import NewMessage, append, held_lane, hold, lock_conversations, release_hold
from messaging.retry import backoff_seconds
from messaging.sessions import Opening, open_sessions
from tenants.encryption import CannotDecrypt
from tenants.models import AtEnd, Channel, InfobipAccount, TranscriptForm

log = structlog.get_logger(__name__)

LEASE_SECONDS = 30.0  # longer than a step may take
LAG = timedelta(seconds=3)  # by which a transcript is complete, where no event told us of its last line
ONCE_MORE = timedelta(seconds=0.5)
LONGEST_LAG = timedelta(seconds=20)
UNKNOWN_FOR = timedelta(seconds=10)  # a conversation that has just begun may be unknown as long
LONGEST_READING = timedelta(minutes=15)  # in which Infobip answers nothing; then the live messages go on without it
LONGEST_ENDING = timedelta(hours=1)
CLOSING_LEAVES = timedelta(seconds=30)
MOST_ATTRIBUTES = 20
PLACEHOLDERS = (("{{", "}}"), ("<", ">"), ("${", "}"))  # begin and end what a flow sends of an attribute that is not set


class UnusableCall(Exception):
    """A call that cannot name a conversation; the text says what is wrong and what to do."""


@dataclass(frozen=True, slots=True)
class Call:
    """What a chatbot's call says."""

    conversation: str
    end_user: str
    language: str
    attributes: Mapping[str, str]


def parse_call(body: object) -> Call:
    """Read the body of a chatbot's call: two fields, and any others that the customer adds for the routing.

    https://www.infobip.com/docs/answers/chatbot-elements/core-elements

    :raises UnusableCall: if a field is missing, or holds a placeholder that the flow did not fill
    """
    if not isinstance(body, dict):
        raise UnusableCall("The body is not a JSON object. Send conversationId and senderNumber.")
    conversation = _filled(body, "conversationId", 100)
    number = re.sub(r"^\+|[\s()-]", "", _filled(body, "senderNumber", 150))
    attributes: dict[str, str] = {}
    for name, value in body.items():
        if len(attributes) == MOST_ATTRIBUTES:
            break
        if name in ("conversationId", "senderNumber") or len(name) > 80:
            continue
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            continue
        text = clean(str(value)).strip()[:1000]
        if not _is_unset(text):
            attributes[clean(name)] = text
    language = attributes.get("language", "").lower().replace("_", "-")[:10]
    return Call(conversation, number, language if re.fullmatch(r"[a-z]{2,3}(-[a-z0-9]+)*", language) else "", attributes)


def _filled(body: Mapping[str, object], field: str, most: int) -> str:
    value = body.get(field)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    text = value.strip() if isinstance(value, str) else ""
    if _is_unset(text):
        advice = (
            f"{field} is missing, empty, or a placeholder that was not filled. Set it in the body of the Call API step."
        )
        raise UnusableCall(advice)
    text = clean(text).strip()
    if not text or len(text) > most:
        raise UnusableCall(f"{field} is empty or longer than {most} characters.")
    return text


def _is_unset(text: str) -> bool:
    # by its ends and not by a pattern: one with blanks at both ends takes minutes for a text of blanks alone
    return not text or any(
        len(text) >= len(begin + end) and text.startswith(begin) and text.endswith(end) for begin, end in PLACEHOLDERS
    )


def accept(account: InfobipAccount, call: Call) -> bool:
    """Write a call down; False if that conversation is being handed over already."""
    rows = query(
        """INSERT INTO messaging_handover (org_id, account_id, infobip_conversation, end_user, attributes, language, state,
               called_at, lines, batches, tries, problem, due_at)
           SELECT %s, %s, call.conversation, call.end_user, call.attributes, call.language, 'called', clock_timestamp(), 0,
               0, 0, '', clock_timestamp()
           FROM jsonb_to_record(%s::jsonb) AS call (conversation text, end_user text, attributes jsonb, language text)
           ON CONFLICT DO NOTHING RETURNING id""",
        [
            account.org_id,
            account.pk,
            json.dumps(
                {
                    "conversation": call.conversation,
                    "end_user": call.end_user,
                    "attributes": dict(call.attributes),
                    "language": call.language,
                }
            ),
        ],
    )
    return bool(rows)


def claim(most: int) -> list[tuple[int, UUID]]:
    """Take hand-overs that are due, of each org at most two: one whose Infobip hangs holds up nobody else."""
    rows = query(
        """WITH due AS (
               SELECT id, row_number() OVER (PARTITION BY org_id ORDER BY due_at) AS turn FROM messaging_handover
               WHERE due_at <= clock_timestamp() AND (leased_until IS NULL OR leased_until < clock_timestamp()))
           UPDATE messaging_handover handover SET lease_id = gen_random_uuid(),
               leased_until = clock_timestamp() + make_interval(secs => %s)
           WHERE id IN (
               SELECT id FROM messaging_handover
               WHERE id IN (SELECT id FROM due WHERE turn <= 2) AND due_at <= clock_timestamp()
                 AND (leased_until IS NULL OR leased_until < clock_timestamp())
               ORDER BY due_at LIMIT %s FOR NO KEY UPDATE SKIP LOCKED)
           RETURNING id, lease_id""",
        [LEASE_SECONDS, most],
    )
    return [(handover_id, lease_id) for handover_id, lease_id in rows]


@dataclass(slots=True)
class Step:
    """What a step leads to: changes of the hand-over, and when the next one is due (None: none is)."""

    due_in: timedelta | None = None
    state: Handover.State | None = None
    problem: str = ""
    work: bool = False  # lanes have work now


def carry_on(handover_id: int, lease_id: UUID) -> bool:
    """Do the next step of a hand-over; True if lanes now have work. The caller sees all orgs' rows."""
    handover = Handover.objects.select_related("account", "org", "conversation__channel").get(pk=handover_id)
    steps = {
        Handover.State.CALLED: _look,
        Handover.State.READING: _read,
        Handover.State.ENDING: _give_back,
    }
    step = steps.get(Handover.State(handover.state))
    if step is None or handover.org.disconnected_at is not None:
        outcome = Step()
    else:
        try:
            outcome = step(handover, lease_id)
        except (ApiError, CannotDecrypt) as exc:
            outcome = _trouble(handover, exc)
    problem = clean(outcome.problem)[:300]
    if outcome.state is not None or problem:
        log.info("hand-over", org=handover.org_id, handover=handover.pk, state=outcome.state, problem=problem)
    with transaction.atomic():
        query(
            """UPDATE messaging_handover SET lease_id = NULL, leased_until = NULL, state = COALESCE(%s, state),
                   problem = %s, tries = CASE WHEN %s THEN tries + 1 ELSE 0 END, due_at = clock_timestamp() + %s
               WHERE id = %s AND lease_id = %s""",
            [
                outcome.state and outcome.state.value,
                problem,
                bool(problem) and outcome.due_in is not None,
                outcome.due_in,
                handover_id,
                lease_id,
            ],
        )
    return outcome.work


def _trouble(handover: Handover, exc: ApiError | CannotDecrypt) -> Step:
    """Try again later; what the customer must mend is tried again too, as they may mend it while the user waits."""
    pause = timedelta(seconds=backoff_seconds(handover.tries, getattr(exc, "retry_after", None)))
    since = handover.raised_at or handover.called_at
    if handover.state == Handover.State.ENDING and handover.ended_at is not None:
        given_up = timezone.now() - handover.ended_at > LONGEST_ENDING
        return Step(None, Handover.State.ENDED, str(exc)) if given_up else Step(pause, problem=str(exc))
    if timezone.now() - since <= LONGEST_READING:
        return Step(pause, problem=str(exc))
    if handover.state == Handover.State.CALLED:
        return Step(None, Handover.State.REFUSED, str(exc))
    with transaction.atomic():
        _put_into_lane(handover, [_notice(handover, "begin", "The conversation with the chatbot could not be read")])
    return Step(None, Handover.State.RELAYED, str(exc), work=True)


def _refused(problem: str) -> Step:
    return Step(None, Handover.State.REFUSED, problem)


def _look(handover: Handover, _lease_id: UUID) -> Step:
    """Find out whether the conversation is what the call says, and give it to the reps."""
    young = timezone.now() - handover.called_at < UNKNOWN_FOR
    try:
        lines = conversations.read_transcript(handover.account.client(), handover.infobip_conversation)
    except ConversationUnknown:
        return Step(timedelta(seconds=1)) if young else _refused("Infobip knows no conversation of this id in this account")
    written = [line for line in lines if line.author is Author.END_USER and line.end_user == handover.end_user]
    if not written:
        if young:
            return Step(timedelta(seconds=1))
        return _refused("senderNumber did not write in this conversation; it must be the end user's number")
    sender = handover.account.senders.select_related("channel").filter(number=written[-1].sender).first()
    if sender is None:
        return _refused(f"the number ending in {written[-1].sender[-4:]} is not set up as a sender of this account")
    if not sender.chatbot_first:
        return _refused(
            f"the number ending in {sender.number[-4:]} is set to rep first, so a rep has this conversation already"
        )
    name = handover.attributes.get("customerName", "")
    with transaction.atomic():
        conversation_id = begin_conversation(
            handover.org_id,
            sender.channel_id,
            handover.end_user,
            name=name,
            language=handover.language,
            sender=sender.pk,
            written_at=written[-1].at,
        )
        raised_at = hold(handover.org_id, conversation_id)
        Handover.objects.filter(pk=handover.pk).update(
            conversation_id=conversation_id, raised_at=raised_at, state=Handover.State.READING
        )
    return Step(timedelta())


def _read(handover: Handover, lease_id: UUID) -> Step:
    """Read the transcript, and pass it on when it is complete."""
    conversation = handover.conversation
    assert conversation is not None and handover.raised_at is not None
    lines = conversations.read_transcript(handover.account.client(), handover.infobip_conversation)
    now = timezone.now()
    if handover.complete_at is None:
        if not _holds_last_known(handover, lines) and now - handover.raised_at < LONGEST_LAG:
            return Step(ONCE_MORE)
        if handover.found_at is None:
            Handover.objects.filter(pk=handover.pk).update(found_at=now)
            return Step(ONCE_MORE)
        handover.complete_at = now
        Handover.objects.filter(pk=handover.pk).update(complete_at=now)
    entries = _entries(handover, lines)
    if conversation.channel.transcript == TranscriptForm.NATIVE and handover.org.salesforce.history_refused_at is None:
        try:
            if _import_natively(handover, conversation, entries, lease_id):
                return Step(None, Handover.State.RELAYED, work=True)
        except HistoryRefused as exc:
            # the way through the lane is always open; this one is not tried again until somebody chooses it anew
            salesforce = handover.org.salesforce
            salesforce.history_refused_at = now
            salesforce.save(update_fields=["history_refused_at"])
            log.info("history refused", org=handover.org_id, code=exc.code)
    with transaction.atomic():
        if not _still_mine(handover, lease_id):
            return Step()
        _put_into_lane(handover, _messages(handover, entries))
    return Step(None, Handover.State.RELAYED, work=True)


def _still_mine(handover: Handover, lease_id: UUID) -> bool:
    return bool(
        query("SELECT 1 FROM messaging_handover WHERE id = %s AND lease_id = %s FOR NO KEY UPDATE", [handover.pk, lease_id])
    )


def _holds_last_known(handover: Handover, lines: Sequence[Line]) -> bool:
    """Tell whether the transcript has caught up with the line that asked for a person."""
    known = (
        ChatbotMessage.objects.filter(
            account_id=handover.account_id, org_id=handover.org_id, infobip_conversation=handover.infobip_conversation
        )
        .filter(at__lte=handover.raised_at)
        .order_by("-at")
        .values_list("infobip_id", flat=True)
        .first()
    )
    if known is not None:
        return known in {line.id for line in lines}
    return timezone.now() - handover.called_at >= LAG


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the transcript that is new to the rep; ``source_entry`` is the same wherever the message comes from."""

    line: Line
    source_entry: str


def _entries(handover: Handover, lines: Sequence[Line]) -> list[Entry]:
    """Choose the lines that the rep has not seen: none from before the last session's end, and none that came live."""
    conversation = handover.conversation
    assert conversation is not None and handover.raised_at is not None
    before = Handover.objects.filter(org_id=handover.org_id, conversation=conversation, ended_at__isnull=False)
    seen_until = before.exclude(pk=handover.pk).order_by("-ended_at").values_list("ended_at", flat=True).first()
    ids = [line.id for line in lines]
    of_account = ChatbotMessage.objects.filter(org_id=handover.org_id, account_id=handover.account_id, infobip_id__in=ids)
    channel_ids = dict(of_account.values_list("infobip_id", "channel_id"))
    # live messages that no event told us the other id of: they are known by their text and time
    lane = Message.objects.filter(org_id=handover.org_id, conversation=conversation, direction=Direction.INBOUND)
    live = list(lane.filter(created_at__gte=handover.raised_at, part=0).values_list("text", "written_at"))
    entries = []
    for line in lines:
        if seen_until is not None and line.at <= seen_until:
            continue
        if line.author is Author.END_USER and line.id not in channel_ids and line.at > handover.raised_at:
            twin = next((each for each in live if _is_same(each, line)), None)
            if twin is not None:
                live.remove(twin)
                continue
        entries.append(Entry(line, channel_ids.get(line.id) or f"infobip:{line.id}"))
    return entries


def _is_same(live: tuple[str, datetime], line: Line) -> bool:
    return live[0] == line.text[:TEXT_LIMIT] and abs(live[1] - line.at) < timedelta(seconds=10)


def _messages(handover: Handover, entries: Sequence[Entry]) -> list[dict[str, object]]:
    """Write the messages that the rep reads; what is not the end user's own begins with our mark."""
    assert handover.conversation is not None
    channel = handover.conversation.channel
    begin = _notice(handover, "begin", "Conversation with the chatbot")
    if channel.transcript == TranscriptForm.COMPACT:
        zone = ZoneInfo(channel.time_zone)
        name = unmarked(handover.conversation.name) or "Customer"
        script = "\n".join(_compact(each.line, channel, name, zone) for each in entries)
        parts = split_text(f"{begin['text']}\n{script}", TEXT_LIMIT)
        messages = [{**begin, "part": part, "text": text} for part, text in enumerate(parts)]
    else:
        end = _notice(handover, "end", "End of the conversation with the chatbot")
        messages = [
            begin,
            *(
                {
                    **begin,
                    "source_entry": entry.source_entry,
                    "part": part,
                    "text": text,
                    "written_at": entry.line.at,
                }
                for entry in entries
                for part, text in enumerate(split_text(_shown(entry.line, channel), TEXT_LIMIT))
            ),
            end,
        ]
    if attributes := _routing_attributes(handover, channel):
        messages[0]["routing_attributes"] = attributes
    return messages


def _notice(handover: Handover, which: str, text: str) -> dict[str, object]:
    assert handover.conversation is not None
    return {
        "channel_id": handover.conversation.channel_id,
        "sender_id": handover.conversation.last_sender_id,
        "source_entry": f"handover:{handover.pk}:{which}",
        "part": 0,
        "text": f"{MARK} {text}",
        "written_at": handover.raised_at,
        "routing_attributes": None,
    }


def _shown(line: Line, channel: Channel) -> str:
    if line.author is Author.END_USER:
        return line.text
    return f"{MARK} {channel.chatbot_name if line.author is Author.CHATBOT else 'Agent'}: {line.text}"


def _compact(line: Line, channel: Channel, name: str, zone: ZoneInfo) -> str:
    who = f"{name}: {line.text}" if line.author is Author.END_USER else _shown(line, channel)
    return f"{line.at.astimezone(zone):%H:%M} {who}"


def _routing_attributes(handover: Handover, channel: Channel) -> dict[str, str]:
    wanted = channel.routing_attributes.items()
    return {name: handover.attributes[field] for field, name in wanted if field in handover.attributes}


def _put_into_lane(handover: Handover, messages: Sequence[Mapping[str, object]]) -> None:
    """Put a transcript below the hold, and let what waits above it follow. Lines that are there already are left out."""
    assert handover.conversation_id is not None
    lane_id = held_lane(handover.org_id, handover.conversation_id)
    if lane_id is not None:
        append([_line(handover, lane_id, message) for message in messages], below_hold=True)
        release_hold(lane_id)
    Handover.objects.filter(pk=handover.pk).update(lines=len(messages))


def _line(handover: Handover, lane_id: int, message: Mapping[str, Any]) -> NewMessage:
    assert handover.conversation_id is not None
    return NewMessage(
        org_id=handover.org_id,
        lane_id=lane_id,
        conversation_id=handover.conversation_id,
        direction=Direction.INBOUND,
        endpoint_id=endpoint_of(Direction.INBOUND, channel_id=message["channel_id"], account_id=None),
        **message,
    )


def _import_natively(handover: Handover, conversation: Conversation, entries: Sequence[Entry], lease_id: UUID) -> bool:
    """Give the transcript to Salesforce's history, newest first, since routing may be faster; False if it cannot be whole.

    :raises HistoryRefused: if Salesforce takes none, before anything was taken
    """
    oldest = timezone.now() - OLDEST_PAST_ENTRY + timedelta(minutes=5)
    channel = conversation.channel
    if not entries or any(entry.line.at < oldest for entry in entries) or conversation.session_open:
        return False  # the lane takes lines of any age, and adds to a session that is open
    past = [
        PastEntry(
            uuid5(NAMESPACE_OID, f"{handover.org_id} {entry.source_entry} {part}"),
            entry.line.author is not Author.END_USER,
            text,
            entry.line.at + timedelta(milliseconds=part),
        )
        for entry in entries
        for part, text in enumerate(split_text(entry.line.text, TEXT_LIMIT))
    ]
    batches = [past[max(0, end - MOST_PAST_ENTRIES) : end] for end in range(len(past), 0, -MOST_PAST_ENTRIES)]
    session = conversation.session if handover.batches else ""
    client = channel.org.salesforce.client()
    for number, batch in enumerate(batches):
        if number < handover.batches:
            continue
        try:
            delivered = client.import_history(
                context=channel.authorization_context,
                channel_address=channel.channel_address_identifier,
                end_user=conversation.subject,
                end_user_name=unmarked(conversation.name),
                chatbot_name=channel.chatbot_name,
                entries=batch,
                began=past[0].at - timedelta(seconds=1),
                ended=max(past[-1].at, timezone.now()),
                session=session,
            )
        except HistoryRefused:
            if number:
                raise CustomerMustAct("Salesforce", "it stopped taking the history of a conversation") from None
            raise
        except ApiError as exc:
            if exc.code != NOT_UNIQUE:  # it took this batch at a try whose answer was lost
                raise
        else:
            session = session or delivered.session
            with transaction.atomic():
                if not number:
                    lock_conversations([conversation.pk])
                    open_sessions(
                        [Opening(handover.org_id, conversation.pk, delivered.conversation, delivered.session[:18])]
                    )
        handover.batches = number + 1
        query(
            """UPDATE messaging_handover SET batches = %s, leased_until = clock_timestamp() + make_interval(secs => %s)
               WHERE id = %s AND lease_id = %s""",
            [number + 1, LEASE_SECONDS, handover.pk, lease_id],
        )
    with transaction.atomic():
        _put_into_lane(handover, [])
        Handover.objects.filter(pk=handover.pk).update(lines=len(past))
    return True


def _give_back(handover: Handover, _lease_id: UUID) -> Step:
    """Close the conversation at Infobip, after the closing text: the chatbot has what the end user writes next."""
    conversation = handover.conversation
    if conversation is None or conversation.channel.at_end == AtEnd.LEAVE:
        return Step(None, Handover.State.ENDED)
    assert handover.ended_at is not None
    closing = Message.objects.filter(
        org_id=handover.org_id, conversation=conversation, source_entry__startswith="closing:", status=Status.PENDING
    )
    if timezone.now() - handover.ended_at < CLOSING_LEAVES and closing.exists():
        return Step(timedelta(seconds=0.5))
    conversations.close(handover.account.client(), handover.infobip_conversation)
    return Step(None, Handover.State.ENDED)
