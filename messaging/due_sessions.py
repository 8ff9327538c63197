"""Does what is due about sessions: sends the texts of our own that open and close them, each once, and names whom to ask.

What is due is found by a partial index, a share of each org, and then read by key. What raises is counted on its row and
tried again; after some failures the session goes on without its text.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar

import structlog
from django.db import Error as DatabaseError
from django.db import models
from django.utils import timezone

from connector.salesforce.sessions import MOST_AT_ONCE, is_id
from messaging.batches import brief_transaction, in_words, work_on
from messaging.models import Conversation, Direction, Session
from messaging.query import query, records
from messaging.queue import append_own, lock_conversations
from messaging.retry import backoff_seconds
from messaging.sessions import NOT_ASKED, QUICK, end_handovers, youngest_opened
from tenants import texts
from tenants.models import Channel, Org, Sender, WelcomeWhen

log = structlog.get_logger(__name__)

Row = TypeVar("Row", bound=models.Model)

SWEEP = timedelta(minutes=5)
JUST_BEFORE = timedelta(seconds=2)  # we know a session a rep may write in it
EARLY = timedelta(minutes=1)  # so long before we know a session a rep may come to it, not longer
SWEEP_OF_DISCONNECTED = timedelta(hours=1)
MOST_OF_ORG = MOST_AT_ONCE  # that one turn takes: as many as one query asks about
MOST_OF_TURN = 1000
MOST_TEXTS_OF_ORG = 20  # that one turn queues: their lanes are locked until all of the turn is written
MOST_TEXTS_OF_TURN = 100
MOST_FAILURES = 8


@dataclass(slots=True)
class _Done:
    """What one batch came to: the sessions to ask about, by org, and whether lanes now have work."""

    to_ask: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    wake: bool = False


def process_due(may_ask: Callable[[int], bool] = lambda _org_id: True) -> tuple[dict[int, list[str]], bool]:
    """Send the texts that are due, and find the sessions that are to be asked about; outside of transactions.

    :param may_ask: whether an org may be asked now; its sessions wait a moment otherwise
    :return: by org the sessions to ask about, and whether lanes now have work
    """
    done = work_on(_find_due(), lambda ids: _process(ids, may_ask), set_aside=_set_aside)
    to_ask: dict[int, list[str]] = defaultdict(list)
    for part in done:
        for org_id, ids in part.to_ask.items():
            to_ask[org_id] += ids
    try:
        for org_id, ids in to_ask.items():
            ids += _neighbours(org_id, ids)
    except DatabaseError as exc:  # they are a saving, no duty
        log.warning("neighbours not found", error=type(exc).__name__)
    return dict(to_ask), any(part.wake for part in done)


def _find_due() -> dict[int, list[int]]:
    """Name what is due, by org: of each a share, orgs in turn, so that nobody waits for a neighbour's many."""
    rows = query(
        """WITH RECURSIVE org (id) AS (
               (SELECT org_id FROM messaging_session WHERE due_at IS NOT NULL ORDER BY org_id LIMIT 1)
               UNION ALL
               SELECT (SELECT org_id FROM messaging_session WHERE due_at IS NOT NULL AND org_id > org.id
                       ORDER BY org_id LIMIT 1)
               FROM org WHERE org.id IS NOT NULL)
           SELECT org.id, head.id FROM org CROSS JOIN LATERAL (
               SELECT id, due_at, row_number() OVER (ORDER BY due_at) AS turn FROM messaging_session
               WHERE org_id = org.id AND due_at <= statement_timestamp() ORDER BY due_at LIMIT %s) AS head
           ORDER BY head.turn, head.due_at LIMIT %s""",
        [MOST_OF_ORG, MOST_OF_TURN],
    )
    found: dict[int, list[int]] = defaultdict(list)
    for org_id, session_id in rows:
        found[org_id].append(session_id)
    return found


@dataclass(slots=True)
class _Batch:
    """Sessions that are due and locked, with the rows that their texts need, each read by key."""

    sessions: list[Session]
    conversations: dict[int, Conversation]
    channels: dict[int, Channel]
    senders: dict[int, int]  # by conversation: the one by which its texts leave
    disconnected: set[int]
    youngest: dict[int, datetime]  # when the youngest session opened, of conversations of which one ended
    early_reps: dict[tuple[int, str], datetime]  # who came before their session was known, by org and identifier
    answered: set[int]  # sessions in which a rep has written


def _read(ids: Sequence[int]) -> _Batch:
    left, texts_of = set[int](), Counter[int]()
    conversation_ids = []
    for session_id, org_id, conversation_id in query(
        """SELECT id, org_id, conversation_id FROM messaging_session
           WHERE id = ANY(%s) AND due_at IS NOT NULL AND (greeted_at IS NULL OR state = 'ended')
           ORDER BY row_number() OVER (PARTITION BY org_id ORDER BY due_at), due_at""",
        [list(ids)],
    ):
        if texts_of[org_id] >= MOST_TEXTS_OF_ORG or texts_of.total() >= MOST_TEXTS_OF_TURN:
            left.add(session_id)  # stays due: their turn comes next
        else:
            texts_of[org_id] += 1
            conversation_ids.append(conversation_id)
    if conversation_ids:
        lock_conversations(conversation_ids)
    sessions = list(
        Session.objects.raw(
            """SELECT * FROM messaging_session WHERE id = ANY(%s) AND due_at <= statement_timestamp()
               ORDER BY id FOR NO KEY UPDATE SKIP LOCKED""",
            [[each for each in ids if each not in left]],
        )
    )
    conversations = _by_key(Conversation, {session.conversation_id for session in sessions})
    channels = _by_key(Channel, {conversation.channel_id for conversation in conversations.values()})
    return _Batch(
        sessions,
        conversations,
        channels,
        _senders(conversations.values()),
        {
            org.pk
            for org in _by_key(Org, {session.org_id for session in sessions}).values()
            if org.disconnected_at is not None
        },
        youngest_opened({each.conversation_id for each in sessions if each.state == Session.State.ENDED}),
        _early_reps(conversations.values()),
        _answered([each.pk for each in sessions if each.greeted_at is None]),
    )


def _senders(conversations: Collection[Conversation]) -> dict[int, int]:
    """Name the senders last written to, else the channels' oldest, of those in use; a conversation may have none."""
    known = _by_key(Sender, {each.last_sender_id for each in conversations if each.last_sender_id})
    in_use = Sender.objects.raw(
        "SELECT * FROM tenants_sender WHERE channel_id = ANY(%s) AND retired_at IS NULL ORDER BY id DESC",
        [[each.channel_id for each in conversations]],
    )
    oldest = {sender.channel_id: sender.pk for sender in in_use}  # which comes last, and stays
    found = {}
    for each in conversations:
        last = known.get(each.last_sender_id or 0)
        chosen = last.pk if last is not None and last.retired_at is None else oldest.get(each.channel_id)
        if chosen is not None:
            found[each.pk] = chosen
    return found


def _early_reps(conversations: Iterable[Conversation]) -> dict[tuple[int, str], datetime]:
    wanted = [(each.org_id, each.identifier) for each in conversations if each.identifier]
    rows = query(
        """SELECT early.org_id, early.identifier, early.at
           FROM unnest(%s::bigint[], %s::text[]) AS wanted (org_id, identifier)
           CROSS JOIN LATERAL (
               SELECT * FROM messaging_earlyrep
               WHERE org_id = wanted.org_id AND identifier = wanted.identifier LIMIT 1) AS early""",
        [[org_id for org_id, _ in wanted], [identifier for _, identifier in wanted]],
    )
    return {(org_id, identifier): at for org_id, identifier, at in rows}


def _answered(ids: Sequence[int]) -> set[int]:
    """Name the sessions in which a rep has written: what their conversation's last message of one is younger than."""
    rows = query(
        """SELECT session.id FROM unnest(%s::bigint[]) AS wanted (id)
           CROSS JOIN LATERAL (SELECT * FROM messaging_session WHERE id = wanted.id LIMIT 1) AS session
           CROSS JOIN LATERAL (
               SELECT id FROM messaging_lane
               WHERE org_id = session.org_id AND conversation_id = session.conversation_id AND direction = 'outbound'
               LIMIT 1) AS lane
           CROSS JOIN LATERAL (
               SELECT created_at FROM messaging_message
               WHERE lane_id = lane.id AND NOT ours ORDER BY position DESC LIMIT 1) AS written
           WHERE written.created_at > COALESCE(
               -- of one whose end we have not heard of yet: until this one opened
               (SELECT max(COALESCE(ended_at, session.opened_at - %s)) FROM messaging_session
                WHERE conversation_id = session.conversation_id AND id <> session.id), '-infinity')""",
        [list(ids), JUST_BEFORE],
    )
    return {session_id for (session_id,) in rows}


def _by_key(model: type[Row], keys: Iterable[int]) -> dict[int, Row]:
    # one array, whatever their number: a list of parameters would be another statement for each number
    rows = model._default_manager.raw(f"SELECT * FROM {model._meta.db_table} WHERE id = ANY(%s)", [list(keys)])
    return {row.pk: row for row in rows}


def _process(ids: Sequence[int], may_ask: Callable[[int], bool]) -> _Done:
    batch, done, now = _read(ids), _Done(), timezone.now()
    over: dict[int, dict[int, datetime]] = defaultdict(dict)
    for session in batch.sessions:
        problem = ""
        connected = session.org_id not in batch.disconnected
        if session.state == Session.State.ENDED:
            if session.opened_at >= batch.youngest[session.conversation_id]:
                problem = _queue_text(session, batch, done, now) if connected else ""
                over[session.org_id][session.conversation_id] = session.ended_at or now
            session.due_at = None
        elif not connected:
            session.due_at = now + SWEEP_OF_DISCONNECTED  # nothing is sent or asked; an org may come back
        else:
            problem = _process_one(session, batch, done, now, may_ask)
        session.problem = problem or ("" if session.tries else session.problem)
        session.tries = 0
    for org_id, ended in over.items():
        # from here on what the end user writes is the chatbot's; Infobip's conversation follows when the text has left
        end_handovers(org_id, ended)
    _save(batch.sessions)
    return done


def _process_one(session: Session, batch: _Batch, done: _Done, now: datetime, may_ask: Callable[[int], bool]) -> str:
    """Greet in an open session, and have it asked about when its time came; gives what went wrong."""
    channel = batch.channels[batch.conversations[session.conversation_id].channel_id]
    problem = ""
    if session.joined_at is None:
        session.joined_at = _came_early(session, batch)
    if session.pk in batch.answered:
        session.greeted_at = now  # "a rep will be with you" is no word to say after one has been
    if session.greeted_at is None and (channel.welcome_when == WelcomeWhen.OPENED or session.joined_at is not None):
        problem = _queue_text(session, batch, done, now)
        session.greeted_at = now
    if not is_id(session.salesforce_id):
        session.due_at = None
        return problem or f"{NOT_ASKED}its id is not a record's"
    # not at once when it has just opened, or a rep just joined
    if now - max(session.opened_at, session.joined_at or session.opened_at) >= QUICK:
        if not may_ask(session.org_id):
            session.due_at = now + QUICK
            return problem
        done.to_ask[session.org_id].append(session.salesforce_id)
        session.quick_checks = max(0, session.quick_checks - 1)
    session.due_at = now + (QUICK if session.quick_checks else SWEEP)
    return problem


def _came_early(session: Session, batch: _Batch) -> datetime | None:
    conversation = batch.conversations[session.conversation_id]
    at = batch.early_reps.get((session.org_id, conversation.identifier))
    return at if at is not None and at >= session.opened_at - EARLY else None


def _queue_text(session: Session, batch: _Batch, done: _Done, now: datetime) -> str:
    """Queue the text that opens or closes a session, if there is one and WhatsApp would bring it; gives what is wrong."""
    conversation = batch.conversations[session.conversation_id]
    channel = batch.channels[conversation.channel_id]
    closes_at = conversation.window_closes_at
    if closes_at is None or closes_at <= now:
        return ""
    offered = [channel.language, *channel.translations]
    language = conversation.language or texts.language_of(conversation.subject, offered)
    if session.state == Session.State.ENDED:
        kind, text = "closing", texts.closing_text(channel, language)
    else:
        kind, text = "welcome", texts.opening_text(channel, language, now)
    if not text:
        return ""
    sender_id = batch.senders.get(conversation.pk)
    if sender_id is None:
        return f"The {kind} text was not sent: the channel has no sender"
    queue_text(session, channel, kind, text, sender_id)
    done.wake = True
    return ""


def queue_text(session: Session, channel: Channel, kind: str, text: str, sender_id: int) -> None:
    """Queue a text of our own at the end of the outbound lane, once for each session and kind."""
    entry = f"{kind}:{session.salesforce_id}"
    append_own(session.org_id, session.conversation_id, channel.pk, Direction.OUTBOUND, entry, text, sender_id=sender_id)


def _save(sessions: Sequence[Session]) -> None:
    query(
        """UPDATE messaging_session SET due_at = done.due_at, greeted_at = done.greeted_at, joined_at = done.joined_at,
               tries = done.tries, quick_checks = done.quick_checks, problem = done.problem
           FROM jsonb_to_recordset(%s::jsonb) AS done (id bigint, due_at timestamptz, greeted_at timestamptz,
               joined_at timestamptz, tries int, quick_checks int, problem text)
           WHERE messaging_session.id = done.id AND messaging_session.id = ANY(%s)""",
        [
            records(
                {
                    "id": each.pk,
                    "due_at": each.due_at,
                    "greeted_at": each.greeted_at,
                    "joined_at": each.joined_at,
                    "tries": each.tries,
                    "quick_checks": each.quick_checks,
                    "problem": each.problem[:300],
                }
                for each in sessions
            ),
            [each.pk for each in sessions],
        ],
    )


def _neighbours(org_id: int, ids: Sequence[str]) -> list[str]:
    """Name an org's other open sessions, whose turn then comes at the same time: one query asks about all of them.

    Asked about one by one, they would use up the org's daily calls.
    """
    with brief_transaction():
        query("SET LOCAL enable_sort = off", [])  # else all sessions of the org are read, and sorted, for the first few
        rows = query(
            """UPDATE messaging_session SET due_at = statement_timestamp() + %s WHERE id = ANY(ARRAY(
                   SELECT id FROM messaging_session
                   WHERE org_id = %s AND due_at > statement_timestamp() AND state = 'open' AND quick_checks = 0
                     AND tries = 0 AND opened_at <= statement_timestamp() - %s
                   ORDER BY due_at LIMIT %s FOR NO KEY UPDATE SKIP LOCKED))
               RETURNING salesforce_id""",
            [SWEEP, org_id, QUICK, max(0, MOST_AT_ONCE - len(ids))],
        )
    return [session for (session,) in rows if session not in ids]


def _set_aside(session_id: int, exc: Exception) -> None:
    """Count what went wrong with a session; after some failures it goes on without its text, and says so."""
    rows = query(
        """SELECT org_id, conversation_id, state, greeted_at IS NULL, tries + 1 FROM messaging_session
           WHERE id = %s AND due_at IS NOT NULL FOR NO KEY UPDATE""",
        [session_id],
    )
    for org_id, conversation_id, state, greets, tries in rows:
        pause: timedelta | None = timedelta(seconds=backoff_seconds(tries, None))
        if tries >= MOST_FAILURES:
            pause = SWEEP if greets and state == Session.State.OPEN else None
            if state == Session.State.ENDED:
                end_handovers(org_id, {conversation_id: timezone.now()})
        query(
            """UPDATE messaging_session SET problem = %s, tries = CASE WHEN %s THEN 0 ELSE %s END,
                   greeted_at = CASE WHEN %s THEN COALESCE(greeted_at, clock_timestamp()) ELSE greeted_at END,
                   due_at = clock_timestamp() + %s::interval
               WHERE id = %s""",
            [in_words(exc)[:300], tries >= MOST_FAILURES, tries, tries >= MOST_FAILURES, pause, session_id],
        )
