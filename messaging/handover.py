"""From chatbot to rep: takes a chatbot's call down, and carries its hand-over on to the end of the session, step by step.

A step does little (handover_steps.py): it reads a few rows, makes its calls, and what it did is committed together with the
state that follows. Whoever takes it up after a death repeats at most one step, whose effects are known again. Steps run
under a lease, are bounded in time, and hold no database connection while they call.

Whatever goes wrong in a step is counted on its row, and tried again after a pause. What cannot go on ends as REFUSED,
RELAYED or ENDED with its problem in words, and never leaves what the end user wrote held.
"""

import json
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

import structlog
from django.db import Error as DatabaseError
from django.utils import timezone

from connector.events import clean
from connector.http import ApiError, time_limit
from connector.phone import address_of
from messaging.batches import brief_connection, brief_transaction, in_words
from messaging.handover_steps import STEPS, CannotGoOn, Step, end_if_over, go_on_without_transcript
from messaging.leases import LeaseLost, Leases
from messaging.models import Handover
from messaging.query import query
from messaging.retry import backoff_seconds
from tenants.database import facts_of, is_database_trouble
from tenants.encryption import CannotDecrypt
from tenants.models import InfobipAccount, Org

log = structlog.get_logger(__name__)

STEP_SECONDS = 20.0  # for all that a step calls, logins included
LEASES = Leases("messaging_handover", seconds=30.0)  # longer than a step may take
MOST_PER_ORG = 2  # under way at once in one process, of an org whose upstreams answer
MOST_FAILURES = 8  # in a row, of a kind that no platform causes
POSTPONED = timedelta(seconds=1)  # where the database is in trouble
LONGEST_PAUSE = timedelta(minutes=1)  # the end user waits
LONGEST_READING = timedelta(minutes=15)  # in which Infobip answers nothing; then the live messages go on without it
LONGEST_ENDING = timedelta(hours=1)
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
    number = address_of(_filled(body, "senderNumber", 150))
    if not number:
        raise UnusableCall("senderNumber is not a phone number. Set it to the end user's, in the international form.")
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


class Claim(NamedTuple):
    """A hand-over that this process may carry on, for as long as its lease is the row's."""

    handover_id: int
    org_id: int
    lease_id: UUID


@dataclass(frozen=True, slots=True)
class Shares:
    """How many hand-overs may be under way.

    :param fast: orgs whose upstreams are known to answer; they may have ``MOST_PER_ORG``, the others one each
    :param busy: by org, how many this process has under way
    :param not_fast: how many the orgs that are not fast may begin, together
    """

    fast: Collection[int] = ()
    busy: Mapping[int, int] = field(default_factory=dict)
    not_fast: int = 1_000_000


def claim(most: int, shares: Shares | None = None) -> list[Claim]:
    """Take hand-overs that are due and that nobody holds: of each org its share, orgs in turn."""
    shares = shares or Shares()
    known = sorted({*shares.fast, *shares.busy})
    rows = query(
        """WITH RECURSIVE org (id) AS (
               (SELECT org_id FROM messaging_handover WHERE due_at IS NOT NULL ORDER BY org_id LIMIT 1)
               UNION ALL
               SELECT (SELECT org_id FROM messaging_handover WHERE due_at IS NOT NULL AND org_id > org.id
                       ORDER BY org_id LIMIT 1)
               FROM org WHERE org.id IS NOT NULL),
           head AS (
               SELECT org.id AS org_id, first.*, COALESCE(share.fast, false) AS fast FROM org
               LEFT JOIN unnest(%s::bigint[], %s::int[], %s::bool[]) AS share (org_id, more, fast)
                 ON share.org_id = org.id
               CROSS JOIN LATERAL (
                   SELECT id, due_at, row_number() OVER (ORDER BY due_at) AS turn FROM messaging_handover
                   WHERE org_id = org.id AND due_at <= statement_timestamp()
                     AND (leased_until IS NULL OR leased_until < statement_timestamp())
                   ORDER BY due_at LIMIT COALESCE(share.more, 1)) AS first)
           SELECT id, org_id FROM (
               SELECT *, row_number() OVER (PARTITION BY fast ORDER BY turn, due_at) AS place FROM head) AS head
           WHERE fast OR place <= %s ORDER BY turn, due_at LIMIT %s""",
        [
            known,
            [max(0, (MOST_PER_ORG if each in shares.fast else 1) - shares.busy.get(each, 0)) for each in known],
            [each in shares.fast for each in known],
            shares.not_fast,
            most,
        ],
    )
    due: dict[int, int] = dict(rows)
    taken = LEASES.claim("id = ANY(%s) AND due_at <= statement_timestamp()", [list(due)], most=most) if due else {}
    return [Claim(each, due[each], lease_id) for each, lease_id in taken.items()]


def carry_on(claimed: Claim) -> bool:
    """Do the next step of a hand-over; True if lanes now have work. The caller sees all orgs' rows.

    :raises django.db.Error: if the database is in trouble; the hand-over is taken up again
    """
    with brief_connection():
        handover = Handover.objects.filter(pk=claimed.handover_id, lease_id=claimed.lease_id).first()
    if handover is None:
        return False
    try:
        try:
            with time_limit(STEP_SECONDS):
                step = _next_step(handover)
            _commit(handover, step)
        except Exception as exc:
            if isinstance(exc, LeaseLost) or is_database_trouble(exc):
                raise
            step = _commit_failure(handover, exc)
    except LeaseLost:
        log.info("hand-over taken up by somebody else", org=handover.org_id, handover=handover.pk)
        return False
    except DatabaseError:  # its row was not at fault
        _postpone(claimed)
        raise
    if step.state is not None or step.problem:
        log.info("hand-over", org=handover.org_id, handover=handover.pk, state=step.state, problem=step.problem)
    return step.wake


def _next_step(handover: Handover) -> Step:
    step = STEPS.get(Handover.State(handover.state))
    if step is None:
        return Step()
    with brief_connection():
        if Org.objects.filter(pk=handover.org_id, disconnected_at__isnull=False).exists():
            raise CannotGoOn("The org is disconnected")
        account = InfobipAccount.objects.get(pk=handover.account_id, org_id=handover.org_id)
    return step(handover, account)


def _postpone(claimed: Claim) -> None:
    """Let somebody take the hand-over up in a moment, if the database takes that; else when its lease is over."""
    with suppress(DatabaseError), brief_connection():
        lease = {claimed.handover_id: claimed.lease_id}
        LEASES.change(lease, "lease_id = NULL, leased_until = NULL, due_at = clock_timestamp() + %s", [POSTPONED])


def _commit(handover: Handover, step: Step) -> None:
    """Write what a step did, and the state that follows.

    :raises LeaseLost: if the hand-over is somebody else's by now
    """
    step.problem = clean(step.problem)[:300]
    with brief_connection(), brief_transaction():
        if step.effect is not None:
            step.effect()  # locks lanes, which come before the hand-over wherever both are locked
        mine = query(
            """UPDATE messaging_handover SET lease_id = NULL, leased_until = NULL, state = COALESCE(%s, state),
                   problem = %s, tries = CASE WHEN %s THEN tries + 1 ELSE 0 END, due_at = clock_timestamp() + %s
               WHERE id = %s AND lease_id = %s RETURNING id""",
            [
                step.state and step.state.value,
                step.problem,
                bool(step.problem) and step.due_in is not None,
                step.due_in,
                handover.pk,
                handover.lease_id,
            ],
        )
        if not mine:
            raise LeaseLost
        if step.state is Handover.State.RELAYED:
            end_if_over(handover)


def _commit_failure(handover: Handover, exc: Exception) -> Step:
    """Count what went wrong on the row: it is tried again after a pause, or given up visibly."""
    expected = isinstance(exc, ApiError | CannotDecrypt | CannotGoOn)
    if not expected:
        log.error("a hand-over failed", org=handover.org_id, handover=handover.pk, **facts_of(exc))
    problem = str(exc) if expected else in_words(exc)
    if not _is_given_up(handover, exc):
        pause = timedelta(seconds=backoff_seconds(handover.tries, getattr(exc, "retry_after", None)))
        step = Step(min(pause, LONGEST_PAUSE), problem=problem)
        _commit(handover, step)
        return step
    if handover.state == Handover.State.CALLED:
        step = Step(None, Handover.State.REFUSED, problem)
    elif handover.state == Handover.State.ENDING:
        step = Step(None, Handover.State.ENDED, problem)
    else:
        step = go_on_without_transcript(handover, problem)
    try:
        _commit(handover, step)
    except Exception as again:
        if step.effect is None or isinstance(again, LeaseLost) or is_database_trouble(again):
            raise
        log.error("a hand-over is ended without a notice", org=handover.org_id, handover=handover.pk, **facts_of(again))
        step = go_on_without_transcript(handover, problem, notice=False)
        _commit(handover, step)
    return step


def _is_given_up(handover: Handover, exc: Exception) -> bool:
    """Tell whether nothing is left to try; what the customer must mend they may mend while the end user waits."""
    if isinstance(exc, CannotGoOn):
        return True
    if not isinstance(exc, ApiError | CannotDecrypt) and handover.tries + 1 >= MOST_FAILURES:
        return True
    now = timezone.now()
    if handover.state == Handover.State.ENDING:
        return handover.ended_at is None or now - handover.ended_at > LONGEST_ENDING
    answered = handover.page_at or handover.held_at or handover.called_at  # a long transcript takes its time
    return now - answered > LONGEST_READING
