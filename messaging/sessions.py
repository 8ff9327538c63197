"""Sessions: what is heard of them. Salesforce promises no event that tells the end.

So a session ends by whichever comes first: an event that says so, or the record, which is asked for after the last rep
went, when a change of it is published, and every few minutes (due_sessions.py).
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from messaging.query import query, records
from messaging.queue import lock_conversations

QUICK = timedelta(seconds=4)  # a record may be a moment behind the rep who went
QUICK_CHECKS = 3  # then the session was passed on to somebody
NOT_ASKED = "Salesforce does not say whether it ended: "


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
           JOIN unnest(%s::bigint[], %s::text[], %s::text[]) AS opening (id, identifier, session)
             ON opening.id = conversation.id
           WHERE conversation.id = ANY(%s) AND (conversation.identifier, conversation.session, conversation.session_open)
               IS DISTINCT FROM (opening.identifier, opening.session, true)
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
    opened = list(openings)
    rows, ids = records(each._asdict() for each in opened), [each.conversation_id for each in opened]
    query(
        """INSERT INTO messaging_session (org_id, conversation_id, salesforce_id, state, opened_at, quick_checks, due_at)
           SELECT org_id, conversation_id, session, 'open', clock_timestamp(), 0, clock_timestamp()
           FROM jsonb_to_recordset(%s::jsonb) AS opening (org_id bigint, conversation_id bigint, session text)
           WHERE session <> '' ON CONFLICT DO NOTHING""",
        [rows],
    )
    query(
        """WITH opening AS (
               SELECT opening.*, EXISTS (
                   SELECT 1 FROM messaging_session known
                   WHERE known.org_id = opening.org_id AND known.salesforce_id = opening.session
                     AND known.state = 'ended') AS ended
               FROM jsonb_to_recordset(%s::jsonb)
                   AS opening (org_id bigint, conversation_id bigint, identifier text, session text)),
           conversation AS (
               UPDATE messaging_conversation conversation
               SET identifier = opening.identifier, session = COALESCE(NULLIF(opening.session, ''), conversation.session),
                   session_open = CASE WHEN opening.session = '' THEN session_open ELSE NOT opening.ended END
               FROM opening
               WHERE conversation.id = opening.conversation_id AND conversation.org_id = opening.org_id
                 AND conversation.id = ANY(%s))
           UPDATE messaging_lane lane SET with_rep_since = COALESCE(with_rep_since, clock_timestamp())
           FROM opening
           WHERE lane.conversation_id = opening.conversation_id AND lane.org_id = opening.org_id
             AND lane.conversation_id = ANY(%s) AND lane.direction = 'inbound' AND NOT opening.ended""",
        [rows, ids, ids],
    )


def conversations_of(ended: Sequence[tuple[int, str, str]]) -> set[int]:
    """Name the conversations that ends of sessions may concern.

    :param ended: org ids, sessions, and Salesforce's identifiers of conversations
    """
    rows = query(
        """SELECT session.conversation_id FROM unnest(%s::bigint[], %s::text[]) AS come (org_id, salesforce_id)
           CROSS JOIN LATERAL (
               SELECT conversation_id FROM messaging_session
               WHERE org_id = come.org_id AND salesforce_id = come.salesforce_id LIMIT 1) AS session
           UNION
           SELECT conversation.id FROM unnest(%s::bigint[], %s::text[]) AS come (org_id, identifier)
           CROSS JOIN LATERAL (
               SELECT id FROM messaging_conversation
               WHERE org_id = come.org_id AND identifier = come.identifier AND identifier <> '' LIMIT 1) AS conversation""",
        [
            [org_id for org_id, _, _ in ended],
            [session for _, session, _ in ended],
            [org_id for org_id, _, _ in ended],
            [conversation for _, _, conversation in ended],
        ],
    )
    return {conversation_id for (conversation_id,) in rows}


def end(org_id: int, session: str, *, conversation: str = "") -> bool:
    """Note that a session ended; True if something is to be done about it. The caller owns the transaction.

    The conversation goes back to the chatbot where one is first, unless a younger session of it goes on. Repeating it
    changes nothing.

    :param conversation: Salesforce's identifier, for a session that we never heard of before
    """
    known = query(
        "SELECT conversation_id FROM messaging_session WHERE org_id = %s AND salesforce_id = %s", [org_id, session]
    )
    found = known
    if not known and conversation:
        found = query(
            "SELECT id FROM messaging_conversation WHERE org_id = %s AND identifier = %s LIMIT 1", [org_id, conversation]
        )
    if not found:
        return False
    conversation_id: int = found[0][0]
    lock_conversations([conversation_id])  # lanes come before sessions, as where an answer opens a session
    if not known:
        _note_unknown(org_id, conversation_id, session)
    ended = query(
        """UPDATE messaging_session SET state = 'ended', ended_at = clock_timestamp(), due_at = clock_timestamp(),
               tries = 0, problem = ''
           WHERE org_id = %s AND salesforce_id = %s AND state = 'open' RETURNING opened_at""",
        [org_id, session],
    )
    if not ended:
        return False
    query(
        """UPDATE messaging_conversation SET session_open = false
           WHERE org_id = %s AND id = %s AND session IN ('', %s)""",
        [org_id, conversation_id, session],
    )
    if ended[0][0] >= youngest_opened([conversation_id])[conversation_id]:
        give_to_chatbot(org_id, conversation_id)
    return True


def _note_unknown(org_id: int, conversation_id: int, session: str) -> None:
    """Write down a session of which we hear at its end only.

    An open one that we know is taken for the younger: then the end changes nothing, and Salesforce is asked about the
    other. Taken for the older, a chatbot would be given what a rep is answering.
    """
    opened = query(
        """SELECT salesforce_id, opened_at FROM messaging_session
           WHERE conversation_id = %s AND state = 'open' ORDER BY opened_at""",
        [conversation_id],
    )
    query(
        """INSERT INTO messaging_session (org_id, conversation_id, salesforce_id, state, opened_at, greeted_at,
               quick_checks, tries, problem)
           VALUES (%s, %s, %s, 'open', LEAST(clock_timestamp(), %s::timestamptz - interval '1 second'),
               clock_timestamp(), 0, 0, '') ON CONFLICT DO NOTHING""",
        [org_id, conversation_id, session, opened[0][1] if opened else None],
    )
    check_soon(org_id, [each for each, _ in opened])


def give_to_chatbot(org_id: int, conversation_id: int) -> None:
    """Give a conversation back to the chatbot, where one is first.

    Not while a hand-over holds it for its transcript, nor while what its end user wrote is on the way: that is going to
    open the next session.
    """
    query(
        """UPDATE messaging_lane lane SET with_rep_since = NULL
           WHERE org_id = %s AND conversation_id = %s AND direction = 'inbound' AND hold IS NULL AND NOT EXISTS (
               SELECT 1 FROM messaging_message
               WHERE lane_id = lane.id AND status = 'pending' AND NOT ours)""",
        [org_id, conversation_id],
    )


def end_handovers(org_id: int, ended: Mapping[int, datetime]) -> None:
    """Let the hand-overs of conversations whose session ended close their conversations at Infobip.

    :param ended: conversation to when its session ended
    """
    query(
        """UPDATE messaging_handover SET state = 'ending', ended_at = over.ended_at, due_at = clock_timestamp(), tries = 0
           FROM jsonb_to_recordset(%s::jsonb) AS over (conversation_id bigint, ended_at timestamptz)
           WHERE messaging_handover.conversation_id = ANY(%s) AND messaging_handover.org_id = %s
             AND messaging_handover.conversation_id = over.conversation_id AND messaging_handover.state = 'relayed'""",
        [records({"conversation_id": key, "ended_at": at} for key, at in ended.items()), list(ended), org_id],
    )


def youngest_opened(conversation_ids: Iterable[int]) -> dict[int, datetime]:
    """Say when the youngest session of each conversation opened: of the end of an older one we have heard late."""
    rows = query(
        """SELECT conversation.id, (
               SELECT opened_at FROM messaging_session
               WHERE conversation_id = conversation.id ORDER BY opened_at DESC LIMIT 1)
           FROM unnest(%s::bigint[]) AS conversation (id)""",
        [list(conversation_ids)],
    )
    return dict(rows)


def note_reps(org_id: int, conversation: str, *, joined: bool, left: bool) -> bool:
    """Note that a rep came to a conversation's open session, or went; True if something is to be done about it.

    Who came to a session of which nothing is known yet is remembered until it is.
    """
    found = query(
        "SELECT id FROM messaging_conversation WHERE org_id = %s AND identifier = %s AND identifier <> ''",
        [org_id, conversation],
    )
    ids = [conversation_id for (conversation_id,) in found]
    changed: list[Any] = []
    if joined and ids:
        changed = query(
            """UPDATE messaging_session SET joined_at = clock_timestamp(), due_at = clock_timestamp()
               WHERE conversation_id = ANY(%s) AND state = 'open' AND joined_at IS NULL RETURNING id""",
            [ids],
        )
    if joined and conversation and not changed:  # not where a session that is known was passed on
        query(
            """INSERT INTO messaging_earlyrep (org_id, identifier, at)
               SELECT %s, %s, clock_timestamp() WHERE NOT EXISTS (
                   SELECT 1 FROM messaging_session WHERE conversation_id = ANY(%s) AND state = 'open')
               ON CONFLICT (org_id, identifier) DO UPDATE SET at = EXCLUDED.at""",
            [org_id, conversation, ids],
        )
    if left and not joined and ids:
        changed = query(
            """UPDATE messaging_session SET quick_checks = %s, due_at = clock_timestamp() + %s
               WHERE conversation_id = ANY(%s) AND state = 'open' RETURNING id""",
            [QUICK_CHECKS, QUICK, ids],
        )
    return bool(changed)


def check_soon(org_id: int, sessions: Iterable[str]) -> None:
    """Ask about these sessions now."""
    query(
        """UPDATE messaging_session SET due_at = clock_timestamp(), quick_checks = quick_checks + 1
           WHERE org_id = %s AND salesforce_id = ANY(%s) AND state = 'open' AND quick_checks < %s""",
        [org_id, list(sessions), QUICK_CHECKS],
    )


def note_seen(org_id: int, sessions: Sequence[str]) -> None:
    """Note that Salesforce has records of these sessions: where one is gone later, its session is over."""
    query(
        """UPDATE messaging_session SET seen = true
           WHERE org_id = %s AND salesforce_id = ANY(%s) AND NOT seen""",
        [org_id, list(sessions)],
    )


def ended_if_absent(org_id: int, sessions: Sequence[str]) -> list[str]:
    """Name those of some sessions whose records were deleted if Salesforce finds none of them now.

    That is so where it once had one, where a younger session has followed, and where it would have one after a day.
    """
    rows = query(
        """SELECT salesforce_id FROM messaging_session session
           WHERE org_id = %s AND salesforce_id = ANY(%s) AND (
               seen OR opened_at < clock_timestamp() - interval '1 day' OR EXISTS (
                   SELECT 1 FROM messaging_session
                   WHERE conversation_id = session.conversation_id AND opened_at > session.opened_at))""",
        [org_id, list(sessions)],
    )
    return [session for (session,) in rows]


def note_answer(org_id: int, sessions: Sequence[str], problem: str = "", *, pause: float = 0.0) -> None:
    """Keep on sessions why Salesforce did not say whether they ended, or that it does again.

    :param pause: seconds in which Salesforce wants no other call
    """
    if problem:
        query(
            """UPDATE messaging_session SET problem = %s,
                   due_at = GREATEST(due_at, clock_timestamp() + make_interval(secs => %s))
               WHERE org_id = %s AND salesforce_id = ANY(%s) AND state = 'open' AND greeted_at IS NOT NULL""",
            [f"{NOT_ASKED}{problem}"[:300], pause, org_id, list(sessions)],
        )
    else:
        query(
            """UPDATE messaging_session SET problem = ''
               WHERE org_id = %s AND salesforce_id = ANY(%s) AND starts_with(problem, %s)""",
            [org_id, list(sessions), NOT_ASKED],
        )
