"""What each step of a hand-over does.

1. CALLED: the conversation is looked at. It must exist, and the end user must take part; then it is the reps', and
   what the end user writes from now on is held.
2. READING: the transcript is read, page after page, until it holds all that was left to it, and then once more, for it
   lags. It is settled which lines the rep reads in it (settling.py); then it goes below what is held as messages of the
   lane, or to Salesforce's history where channel and org permit it. What is not in it follows.
3. RELAYED, while the session goes on. When it ends, sessions.py makes it
4. ENDING: once the closing text has left, the conversation at Infobip is closed, so that the chatbot has the next message.

A step holds no database connection while it calls: each use of the database stands in ``brief_connection``.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog
from django.utils import timezone

from connector.events import strip_mark
from connector.http import ApiError, RequestRejected
from connector.infobip import conversations
from connector.infobip.conversations import ConversationUnknown
from connector.phone import spellings_of
from connector.salesforce.interactions import NOT_UNIQUE, HistoryRefused, InteractionClient, PastEntry
from messaging import sessions, settling, transcript
from messaging.batches import brief_connection, brief_transaction
from messaging.circuits import endpoint_of
from messaging.conversations import begin_conversation
from messaging.models import Conversation, Direction, Handover, Lane, Message, Status
from messaging.query import query
from messaging.queue import NewMessage, append, held_lane, hold, lock_conversations, release_hold
from messaging.sessions import Opening, open_sessions
from tenants.models import AtEnd, InfobipAccount, SalesforceConnection, TranscriptForm

log = structlog.get_logger(__name__)

READ_SECONDS = 10.0  # of one step, after which the next one goes on: the lease is for a step
IMPORT_SECONDS = 10.0
ONCE_MORE = timedelta(seconds=0.5)
LONGEST_LAG = timedelta(seconds=20)
UNKNOWN_FOR = timedelta(seconds=10)  # a conversation that has just begun may be unknown as long
CLOSING_LEAVES = timedelta(seconds=30)


@dataclass(slots=True)
class Step:
    """What a step leads to: its effect, and the state that is committed with it.

    :param due_in: when the next step is due; None: none is
    :param problem: what went wrong, in words; with ``due_in`` it counts as a failure
    """

    due_in: timedelta | None = None
    state: Handover.State | None = None
    problem: str = ""
    effect: Callable[[], None] | None = None
    wake: bool = False  # lanes have work now


class CannotGoOn(Exception):
    """What no repetition can help; the text says why."""


def _refused(problem: str) -> Step:
    return Step(None, Handover.State.REFUSED, problem)


def _look(handover: Handover, account: InfobipAccount) -> Step:
    """Find out whether the conversation is what the call says, and give it to the reps."""
    young = timezone.now() - handover.called_at < UNKNOWN_FOR
    try:
        lines = conversations.read_newest(account.client(), handover.infobip_conversation)
    except ConversationUnknown:
        return Step(timedelta(seconds=1)) if young else _refused("Infobip knows no conversation of this id in this account")
    end_user = spellings_of(handover.end_user)
    written = [line for line in lines if line.end_user in end_user]
    if not written:
        if young:
            return Step(timedelta(seconds=1))
        return _refused("senderNumber did not write in this conversation; it must be the end user's number")
    last = written[-1]
    with brief_connection():
        sender = account.senders.filter(number__in=spellings_of(last.sender)).first()
    if sender is None:
        return _refused(f"the number ending in {last.sender[-4:]} is not set up as a sender of this account")
    if not sender.chatbot_first:
        return _refused(
            f"the number ending in {sender.number[-4:]} is set to rep first, so a rep has this conversation already"
        )

    def effect() -> None:
        conversation_id = begin_conversation(
            handover.org_id,
            sender.channel_id,
            handover.end_user,
            name=handover.attributes.get("customerName", ""),
            language=handover.language,
            sender=sender.pk,
            written_at=min(last.at, timezone.now()),
        )
        held_at = hold(handover.org_id, conversation_id)
        Handover.objects.filter(pk=handover.pk).update(conversation_id=conversation_id, held_at=held_at)

    return Step(timedelta(), Handover.State.READING, effect=effect)


def _read(handover: Handover, account: InfobipAccount) -> Step:
    """Read the transcript, and pass it on when it is complete."""
    if not handover.settled:
        if not _read_on(handover, account):
            return Step(timedelta())
        with brief_connection():
            if not settling.is_complete(handover) and settling.age(handover) < LONGEST_LAG:
                return Step(ONCE_MORE)
            if handover.found_at is None:
                Handover.objects.filter(pk=handover.pk).update(found_at=timezone.now())
                return Step(ONCE_MORE)
            _settle(handover)
    with brief_connection():
        conversation = _conversation(handover)
        entries = settling.entries_of(handover)
        batches = _batches(handover, conversation, entries)
        salesforce = None
        if batches:
            salesforce = SalesforceConnection.objects.select_related("org").filter(org_id=handover.org_id).first()
    if salesforce is not None and salesforce.history_refused_at is None:
        try:
            return _import_history(handover, conversation, salesforce.client(), batches)
        except RequestRejected as exc:  # the lane is always open
            log.info("history refused", org=handover.org_id, handover=handover.pk, code=exc.code)
            if isinstance(exc, HistoryRefused):  # the org takes none: not tried again until somebody chooses it anew
                with brief_connection():
                    SalesforceConnection.objects.filter(pk=salesforce.pk).update(history_refused_at=timezone.now())
    messages = transcript.messages_of(handover, conversation, entries)
    return Step(None, Handover.State.RELAYED, effect=lambda: _release_hold(handover, messages), wake=True)


def _read_on(handover: Handover, account: InfobipAccount) -> bool:
    """Read from the page on that comes next, and keep each; False if the end was not reached in the time of a step."""
    until = time.monotonic() + READ_SECONDS
    client = account.client()
    with brief_connection():
        after = settling.last_written(handover)
    while True:
        number = handover.page
        page = conversations.read_page(client, handover.infobip_conversation, number, after=after)
        with brief_connection(), brief_transaction():
            settling.keep_page(handover, number, page)
        if not page.more:
            return True
        after = page.lines[-1][1].at if page.lines else after
        if time.monotonic() > until:
            return False


def _settle(handover: Handover) -> None:
    """Decide which lines the rep reads in the transcript: under the lane's lock, so that what comes finds it decided."""
    conversation = _conversation(handover)
    with brief_transaction():
        lock_conversations([conversation.pk])
        settling.settle_lines(handover, conversation.channel.transcript)
        settling.note_progress(handover, "settled = true, complete_at = clock_timestamp()", [])
    handover.settled = True


def _conversation(handover: Handover) -> Conversation:
    assert handover.conversation_id is not None
    return Conversation.objects.select_related("channel").get(pk=handover.conversation_id, org_id=handover.org_id)


def _batches(handover: Handover, conversation: Conversation, entries: Sequence[transcript.Entry]) -> list[list[PastEntry]]:
    if conversation.channel.transcript != TranscriptForm.NATIVE:
        return []
    if conversation.session_open and not handover.batches:
        return []  # the lane adds to a session that is open
    return transcript.history_of(handover, entries)


def _release_hold(
    handover: Handover, messages: Sequence[Mapping[str, object]], *, read: bool = True, lines: int | None = None
) -> None:
    """Put a transcript below the hold, and what was left to it in vain, and let what waits above follow.

    Lines that are there already are left out.

    :param read: whether the transcript was passed on
    :param lines: how many it had, where they are not the messages
    """
    assert handover.conversation_id is not None
    lane_id = held_lane(handover.org_id, handover.conversation_id)
    if lane_id is not None:
        missing = settling.missing_messages(handover, _conversation(handover), read=read)
        append([_line(handover, lane_id, message) for message in [*messages, *missing]], below_hold=True)
        release_hold(lane_id)
    settling.close(handover, read=read)
    Handover.objects.filter(pk=handover.pk).update(lines=len(messages) if lines is None else lines)


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


def go_on_without_transcript(handover: Handover, problem: str, *, notice: bool = True) -> Step:
    """Let the live messages go on; a line tells the rep that the transcript is missing."""

    def effect() -> None:
        words = "The conversation with the chatbot could not be read"
        lines = [transcript.notice(handover, _conversation(handover), "begin", words)] if notice else []
        _release_hold(handover, lines, read=handover.batches > 0, lines=0)

    return Step(None, Handover.State.RELAYED, problem, effect, wake=True)


def _import_history(
    handover: Handover, conversation: Conversation, client: InteractionClient, batches: Sequence[Sequence[PastEntry]]
) -> Step:
    """Give the transcript to Salesforce's history, newest first, since routing may be faster; a long one in several steps.

    :raises RequestRejected: if Salesforce does not take it, before anything was taken
    """
    until = time.monotonic() + IMPORT_SECONDS
    channel = conversation.channel
    session = conversation.session if handover.batches else ""
    for number in range(handover.batches, len(batches)):
        if time.monotonic() > until:
            return Step(timedelta())
        identifier = ""
        try:
            delivered = client.import_history(
                context=channel.authorization_context,
                channel_address=channel.channel_address_identifier,
                end_user=conversation.subject,
                end_user_name=strip_mark(conversation.name),
                chatbot_name=channel.chatbot_name,
                entries=batches[number],
                began=batches[-1][0].at - timedelta(seconds=1),
                ended=max(batches[0][-1].at, timezone.now()),
                session=session,
            )
        except ApiError as exc:
            if exc.code == NOT_UNIQUE:  # it took this batch at a try whose answer was lost
                pass
            elif number and isinstance(exc, RequestRejected):
                return go_on_without_transcript(handover, f"Salesforce's history took a part only: {exc}")
            else:
                raise
        else:
            session, identifier = session or delivered.session[:18], delivered.conversation
        opened = Opening(handover.org_id, conversation.pk, identifier, session) if identifier and not number else None
        _note_batch(handover, number + 1, opened)
    lines = sum(len(batch) for batch in batches)
    return Step(None, Handover.State.RELAYED, effect=lambda: _release_hold(handover, [], lines=lines), wake=True)


def _note_batch(handover: Handover, batches: int, opened: Opening | None) -> None:
    with brief_connection(), brief_transaction():
        if opened is not None:
            lock_conversations([opened.conversation_id])
            open_sessions([opened])
        settling.note_progress(handover, "batches = %s", [batches])
    handover.batches = batches


def end_if_over(handover: Handover) -> None:
    """Let a hand-over end whose session ended while its history was imported, so that nobody else will end it.

    Messages that were held meanwhile open a session of their own, and the hand-over ends with that one.
    """
    if not handover.batches or handover.conversation_id is None:
        return
    over = query(
        """SELECT session.ended_at FROM messaging_session session
           WHERE session.conversation_id = %s AND session.org_id = %s AND session.opened_at >= %s
             AND session.state = 'ended'
             AND NOT EXISTS (SELECT 1 FROM messaging_session open
                             WHERE open.conversation_id = session.conversation_id AND open.state = 'open')
             AND NOT EXISTS (SELECT 1 FROM messaging_lane lane JOIN messaging_message message ON message.lane_id = lane.id
                             WHERE lane.conversation_id = session.conversation_id AND lane.direction = 'inbound'
                               AND message.status = 'pending')
           ORDER BY session.opened_at DESC LIMIT 1""",
        [handover.conversation_id, handover.org_id, handover.held_at],
    )
    for (ended_at,) in over:
        sessions.end_handovers(handover.org_id, {handover.conversation_id: ended_at})
        sessions.give_to_chatbot(handover.org_id, handover.conversation_id)


def _give_back(handover: Handover, account: InfobipAccount) -> Step:
    """Close the conversation at Infobip, after the closing text: the chatbot has what the end user writes next."""
    if handover.conversation_id is None or handover.ended_at is None:
        return Step(None, Handover.State.ENDED)
    with brief_connection():
        if _conversation(handover).channel.at_end == AtEnd.LEAVE:
            return Step(None, Handover.State.ENDED)
        waits = timezone.now() - handover.ended_at < CLOSING_LEAVES and _closing_waits(handover)
    if waits:
        return Step(timedelta(seconds=0.5))
    conversations.close(account.client(), handover.infobip_conversation)
    return Step(None, Handover.State.ENDED)


def _closing_waits(handover: Handover) -> bool:
    assert handover.conversation_id is not None
    lanes = Lane.objects.filter(
        org_id=handover.org_id, conversation_id=handover.conversation_id, direction=Direction.OUTBOUND
    )
    waiting = Message.objects.filter(lane_id__in=list(lanes.values_list("pk", flat=True)), status=Status.PENDING)
    return waiting.filter(source_entry__startswith="closing:").exists()


STEPS: dict[Handover.State, Callable[[Handover, InfobipAccount], Step]] = {
    Handover.State.CALLED: _look,
    Handover.State.READING: _read,
    Handover.State.ENDING: _give_back,
}
