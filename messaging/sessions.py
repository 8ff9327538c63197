"""Sessions: when one ended, and the texts of our own that open and close it, each once.

Salesforce promises no event that tells the end. So a session ends by whichever comes first: an event that says so, or the
record, which is asked for after the last rep went, when a change of it is published, and every few minutes.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import NamedTuple

import structlog
from django.db.models import F
from django.utils import timezone

from connector.salesforce.rest import RestClient, soql_text
from messaging.models import Conversation, Direction, Handover, Session
from messaging.query import query, records
from messaging.queue import append_own
from tenants import texts
from tenants.models import Channel, WelcomeWhen

log = structlog.get_logger(__name__)

SWEEP = timedelta(minutes=5)
QUICK = timedelta(seconds=4)  # a record may be a moment behind the rep who went
QUICK_CHECKS = 3  # then the session was passed on to somebody
MOST_AT_ONCE = 200  # ids that one query may name


class Opening(NamedTuple):
    """What Salesforce says of a conversation: its own id of it, and the session, empty where it names none."""

    org_id: int
    conversation_id: int
    identifier: str
    session: str


def open_changed(openings: Sequence[Opening]) -> None:
    """Note the sessions of conversations of which something else was known so far."""
    ordered = sorted(openings, key=lambda each: each.conversation_id)
    rows = query(
        """SELECT conversation.id FROM messaging_conversation conversation
           JOIN unnest(%s::bigint[], %s::text[], %s::text[]) AS told (id, identifier, session)
             ON told.id = conversation.id
           WHERE conversation.id = ANY(%s) AND (conversation.identifier, conversation.session, conversation.session_open)
               IS DISTINCT FROM (told.identifier, told.session, true)
           ORDER BY conversation.id FOR NO KEY UPDATE OF conversation""",
        [
            [each.conversation_id for each in ordered],
            [each.identifier for each in ordered],
            [each.session for each in ordered],
            [each.conversation_id for each in ordered],
        ],
    )
    changed = {conversation_id for (conversation_id,) in rows}
    if changed:
        open_sessions(each for each in ordered if each.conversation_id in changed)


def open_sessions(openings: Iterable[Opening]) -> None:
    """Note which sessions are open in conversations, whose inbound lanes the caller holds or has locked.

    A session that is known to have ended is not opened by an answer that came late. With its session a conversation is
    the reps', whoever had it before.
    """
    told = list(openings)
    rows, ids = records(each._asdict() for each in told), [each.conversation_id for each in told]
    query(
        """INSERT INTO messaging_session (org_id, conversation_id, salesforce_id, state, opened_at, quick_checks, due_at)
           SELECT org_id, conversation_id, session, 'open', clock_timestamp(), 0, clock_timestamp()
           FROM jsonb_to_recordset(%s::jsonb) AS told (org_id bigint, conversation_id bigint, session text)
           WHERE session <> '' ON CONFLICT DO NOTHING""",
        [rows],
    )
    query(
        """WITH told AS (
               SELECT told.*, EXISTS (
                   SELECT 1 FROM messaging_session known
                   WHERE known.org_id = told.org_id AND known.salesforce_id = told.session
                     AND known.state = 'ended') AS ended
               FROM jsonb_to_recordset(%s::jsonb)
                   AS told (org_id bigint, conversation_id bigint, identifier text, session text)),
           conversation AS (
               UPDATE messaging_conversation conversation
               SET identifier = told.identifier, session = COALESCE(NULLIF(told.session, ''), conversation.session),
                   session_open = CASE WHEN told.session = '' THEN session_open ELSE NOT told.ended END
               FROM told
               WHERE conversation.id = told.conversation_id AND conversation.org_id = told.org_id
                 AND conversation.id = ANY(%s))
           UPDATE messaging_lane lane SET with_rep_since = COALESCE(with_rep_since, clock_timestamp())
           FROM told
           WHERE lane.conversation_id = told.conversation_id AND lane.org_id = told.org_id
             AND lane.conversation_id = ANY(%s) AND lane.direction = 'inbound' AND NOT told.ended""",
        [rows, ids, ids],
    )


def end(org_id: int, session: str, *, conversation: str = "") -> bool:
    """Note that a session ended; True if something is to be done about it.

    The conversation goes back to the chatbot where one is first. Repeating it changes nothing.

    :param conversation: Salesforce's identifier, for a session that we never heard of before
    """
    if conversation:
        query(
            """INSERT INTO messaging_session (org_id, conversation_id, salesforce_id, state, opened_at, greeted_at,
                   quick_checks, due_at)
               SELECT %s, id, %s, 'open', clock_timestamp(), clock_timestamp(), 0, NULL
               FROM messaging_conversation WHERE org_id = %s AND identifier = %s LIMIT 1
               ON CONFLICT DO NOTHING""",
            [org_id, session, org_id, conversation],
        )
    ended = query(
        """UPDATE messaging_session SET state = 'ended', ended_at = clock_timestamp(), due_at = clock_timestamp()
           WHERE org_id = %s AND salesforce_id = %s AND state = 'open' RETURNING conversation_id""",
        [org_id, session],
    )
    for (conversation_id,) in ended:
        query(
            """UPDATE messaging_lane SET with_rep_since = NULL
               WHERE org_id = %s AND conversation_id = %s AND direction = 'inbound' AND hold IS NULL""",
            [org_id, conversation_id],
        )
        query(
            """UPDATE messaging_conversation SET session_open = false
               WHERE org_id = %s AND id = %s AND session IN ('', %s)""",
            [org_id, conversation_id, session],
        )
    return bool(ended)


def note_reps(org_id: int, conversation: str, *, joined: bool, left: bool) -> bool:
    """Note that a rep came to a conversation's open session, or went; True if something is to be done about it."""
    found = Session.objects.filter(org_id=org_id, conversation__identifier=conversation, state=Session.State.OPEN)
    now = timezone.now()
    changed = found.filter(joined_at=None).update(joined_at=now, due_at=now) if joined else 0
    if left and not joined:
        changed += found.update(quick_checks=QUICK_CHECKS, due_at=now + QUICK)
    return changed > 0


def check_soon(org_id: int, sessions: Iterable[str]) -> None:
    """Ask about these sessions now."""
    found = Session.objects.filter(org_id=org_id, salesforce_id__in=list(sessions), state=Session.State.OPEN)
    found.update(due_at=timezone.now(), quick_checks=F("quick_checks") + 1)


def attend_to_due() -> tuple[dict[int, list[str]], bool]:
    """Send the texts that are due, and find the sessions that are to be asked about; the caller owns the transaction.

    :return: by org the sessions to ask about, and whether lanes now have work
    """
    now = timezone.now()
    due = list(
        Session.objects.select_related("conversation__channel__org")
        .filter(due_at__lte=now)
        .order_by("due_at")
        .select_for_update(skip_locked=True, of=("self",), no_key=True)[:MOST_AT_ONCE]
    )
    to_ask: dict[int, list[str]] = defaultdict(list)
    work = False
    for session in due:
        channel = session.conversation.channel
        if session.state == Session.State.ENDED:
            work = _close(session, channel) or work
            session.due_at = None
        else:
            if session.greeted_at is None and _may_greet(session, channel):
                work = _say(session, channel, "welcome", texts.opening_text(channel, _language(session), now)) or work
                session.greeted_at = now
            # a session is asked about when its time came; not at once when it has just opened, or a rep just joined
            if now - max(session.opened_at, session.joined_at or session.opened_at) >= QUICK:
                to_ask[session.org_id].append(session.salesforce_id)
                session.quick_checks = max(0, session.quick_checks - 1)
            session.due_at = now + (QUICK if session.quick_checks else SWEEP)
        session.save(update_fields=["due_at", "greeted_at", "quick_checks"])
    for org_id, ids in to_ask.items():
        ids += _neighbours(org_id, ids)
    return to_ask, work


def _neighbours(org_id: int, ids: Sequence[str]) -> list[str]:
    """Name an org's other open sessions, whose turn then comes at the same time: one query asks about all of them.

    Asked about one by one, they would use up the org's daily calls.
    """
    now = timezone.now()
    others = Session.objects.filter(
        org_id=org_id, state=Session.State.OPEN, due_at__gt=now, quick_checks=0, opened_at__lte=now - QUICK
    )
    found = others.exclude(salesforce_id__in=ids).select_for_update(skip_locked=True, no_key=True)
    keys = dict(found.order_by("due_at").values_list("pk", "salesforce_id")[: MOST_AT_ONCE - len(ids)])
    Session.objects.filter(pk__in=keys).update(due_at=now + SWEEP)
    return list(keys.values())


def _may_greet(session: Session, channel: Channel) -> bool:
    return channel.welcome_when == WelcomeWhen.OPENED or session.joined_at is not None


def _close(session: Session, channel: Channel) -> bool:
    work = _say(session, channel, "closing", texts.closing_text(channel, _language(session)))
    now = timezone.now()
    # from here on what the end user writes is the chatbot's; the conversation at Infobip follows when the text has left
    Handover.objects.filter(
        org_id=session.org_id, conversation_id=session.conversation_id, state=Handover.State.RELAYED
    ).update(state=Handover.State.ENDING, ended_at=session.ended_at, due_at=now, tries=0)
    return work


def _say(session: Session, channel: Channel, kind: str, text: str) -> bool:
    conversation = session.conversation
    closes_at = conversation.window_closes_at
    if not text or closes_at is None or closes_at <= timezone.now():
        return False
    sender_id = conversation.last_sender_id or channel.senders.order_by("pk").values_list("pk", flat=True).first()
    entry = f"{kind}:{session.salesforce_id}"
    append_own(session.org_id, conversation.pk, channel.pk, Direction.OUTBOUND, entry, text, sender_id=sender_id)
    return True


def _language(session: Session) -> str:
    conversation: Conversation = session.conversation
    channel = conversation.channel
    return conversation.language or texts.language_of(conversation.subject, [channel.language, *channel.translations])


def which_ended(client: RestClient, sessions: Sequence[str]) -> list[str]:
    """Ask Salesforce which of some sessions have ended.

    https://developer.salesforce.com/docs/atlas.en-us.object_reference.meta/object_reference/sforce_api_objects_messagingsession.htm

    :raises ApiError: the member of the family says whether to ask again
    """
    ids = ", ".join(soql_text(each) for each in sessions)
    found = client.query(f"SELECT Id, Status FROM MessagingSession WHERE Id IN ({ids}) AND Status = 'Ended'")
    return [str(record.get("Id")) for record in found]
