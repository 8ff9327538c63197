"""What the doctor checks in messaging: the event stream, the connections to both platforms, what waits or is unreadable."""

import re
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

from django.utils import timezone

from messaging.models import EventSubscription, Handover, Upstream
from messaging.query import query
from tenants.doctor import OrgSnapshot, Seen, State, check

SILENCE = timedelta(minutes=10)  # Salesforce answers an idle stream every 270 seconds
WAITED = timedelta(minutes=1)  # after which what waits at a failing endpoint is more than a hiccup
LONGEST_WAITING = timedelta(minutes=15)
LATELY = timedelta(days=7)
MOST_COUNTED = 1_000


@check(
    "Event stream",
    title="Event stream {of}",
    expected="open",
    why="Reps' messages leave Salesforce through it. They wait there for up to 72 hours.",
    remedy="Check the login and the event's permissions above. The stream is opened again automatically.",
)
def stream_is_read(org: OrgSnapshot) -> Iterator[Seen]:
    streams = list(EventSubscription.objects.filter(org=org.org).order_by("topic"))
    if not streams:
        remedy = "It opens within seconds of the set-up; run the checks again. If it does not, contact support."
        yield Seen(title="Event stream", ok=False, otherwise=State.WARNING, found="not opened yet", remedy=remedy)
    for stream in streams:
        silent = timezone.now() - (stream.last_answer_at or stream.since) > SILENCE
        found = stream.problem or ("silent for more than ten minutes" if silent else "open")
        yield Seen(of=stream.topic, ok=not stream.problem and not silent, found=found)


@check(
    "Connections",
    title="Connection to {of}",
    expected="calls that succeed",
    why="While all calls fail, messages wait. None is lost: they are sent in order afterwards.",
    remedy="See the other findings. We try again at least every twenty seconds for up to 72 hours, "
    "and send what waits as soon as a call succeeds.",
)
def connections_work(org: OrgSnapshot) -> Iterator[Seen]:
    channels = {each.pk: each.name for each in org.channels}
    named = {(Upstream.SALESFORCE, pk): name for pk, name in channels.items()}
    named |= {(Upstream.RECEIPTS, pk): f"the receipts of {name}" for pk, name in channels.items()}
    named |= {(Upstream.INFOBIP, each.pk): each.name for each in org.accounts}
    failing = failing_endpoints(org.org.pk)
    for upstreams in ((Upstream.SALESFORCE, Upstream.RECEIPTS), (Upstream.INFOBIP,)):
        words = [
            f"fails for {named.get((each.upstream, each.endpoint_id), 'one of them')} since {_time(each.since)}"
            + (f" ({each.said})" if each.said else "")
            for each in failing
            if each.upstream in upstreams
        ]
        yield Seen(of=str(upstreams[0].label), ok=not words, found="; ".join(words) or "works")


def _time(at: datetime) -> str:
    return f"{at:%H:%M} UTC" if timezone.now() - at < timedelta(hours=24) else f"{at:%Y-%m-%d %H:%M} UTC"


class FailingEndpoint(NamedTuple):
    """An Infobip account, or a channel's context in Salesforce, that lets nothing through."""

    upstream: Upstream
    endpoint_id: int
    since: datetime
    said: str  # what became of the last call; empty where that is not kept


def failing_endpoints(org_id: int) -> list[FailingEndpoint]:
    """Name the endpoints whose circuit is open, or at which only failures are known and a message has waited for a minute.

    A circuit opens when several conversations fail: where few people write, it may stay closed while nothing passes.
    """
    rows = query(
        """SELECT DISTINCT ON (circuit.id) circuit.upstream, circuit.endpoint_id,
               COALESCE(circuit.opened_at, waiting.since), COALESCE(waiting.said, '')
           FROM messaging_circuit circuit
           LEFT JOIN LATERAL (
               SELECT first.started_at AS since,
                   concat_ws(', ', 'HTTP ' || last.status, NULLIF(last.detail, '')) AS said
               FROM unnest(circuit.failing_lanes) AS failing (lane_id)
               CROSS JOIN LATERAL (
                   SELECT id, created_at, failed_at FROM messaging_message
                   WHERE lane_id = failing.lane_id AND status = 'pending' ORDER BY position LIMIT 1) AS head
               CROSS JOIN LATERAL (
                   SELECT started_at FROM messaging_attempt WHERE message_id = head.id ORDER BY id LIMIT 1) AS first
               CROSS JOIN LATERAL (
                   SELECT id, status, detail FROM messaging_attempt
                   WHERE message_id = head.id ORDER BY id DESC LIMIT 1) AS last
               WHERE head.failed_at IS NOT NULL
                 AND (circuit.opened_at IS NOT NULL OR head.created_at < clock_timestamp() - %s)) AS waiting ON true
           WHERE circuit.org_id = %s
             AND (circuit.opened_at IS NOT NULL OR (circuit.failures > 0 AND waiting.since IS NOT NULL))
           ORDER BY circuit.id, waiting.since""",
        [WAITED, org_id],
    )
    return [FailingEndpoint(Upstream(upstream), *rest) for upstream, *rest in rows]


@check(
    "Hand-overs",
    expected="a session for each call of the chatbot",
    why="After a refused call, the customer waits for a person whom nobody has told.",
    remedy="Compare the body of the Call API element with the one under “Select senders”.",
    otherwise=State.WARNING,
)
def handovers_succeed(org: OrgSnapshot) -> Iterator[Seen]:
    since = timezone.now() - LATELY
    if not Handover.objects.filter(org=org.org, called_at__gt=since).exists():
        return
    troubled = _with_problem("messaging_handover", "called_at", org, since)
    refused = next((problem for state, problem in troubled if state == Handover.State.REFUSED), "")
    other = next(((state, problem) for state, problem in troubled if state != Handover.State.REFUSED), None)
    words = [f"one was refused: {refused}"] if refused else []
    words += [f"one is {other[0]}, with a problem: {other[1]}"] if other else []
    remedy = "" if refused else "The other findings usually show the reason."
    yield Seen(ok=not words, found="; ".join(words) or "none refused", remedy=remedy)


@check(
    "Sessions",
    expected="each session is greeted, checked and closed",
    why="If Salesforce does not tell us that a session has ended, the customer is not returned to the chatbot.",
    remedy="The other findings usually show the reason.",
    otherwise=State.WARNING,
)
def sessions_have_no_problem(org: OrgSnapshot) -> Iterator[Seen]:
    for session, problem in _with_problem(
        "messaging_session", "opened_at", org, timezone.now() - LATELY, column="salesforce_id"
    )[:1]:
        yield Seen(ok=False, found=f"{session}: {problem}")


def _with_problem(
    table: str, since_column: str, org: OrgSnapshot, since: datetime, *, column: str = "state"
) -> list[tuple[str, str]]:
    """Read an org's newest rows with a problem, by the index that holds no others: hence the condition is spelt out."""
    return query(
        f"""SELECT {column}, problem FROM {table}
            WHERE org_id = %s AND {since_column} > %s AND problem <> '' ORDER BY {since_column} DESC LIMIT 50""",
        [org.org.pk, since],
    )


@check(
    "Waiting messages",
    expected="none for more than 15 minutes",
    why="They are sent again automatically, for up to 72 hours.",
    remedy="The other findings usually show the reason.",
    otherwise=State.WARNING,
)
def nothing_waits_long(org: OrgSnapshot) -> Iterator[Seen]:
    waiting = conversations_that_wait(org.org.pk, LONGEST_WAITING)
    found = f"{_at_most(waiting)} {'conversation waits' if waiting == 1 else 'conversations wait'} for more than 15 minutes"
    yield Seen(ok=not waiting, found=found if waiting else "none for long")


def conversations_that_wait(org_id: int, longer_than: timedelta) -> int:
    """Count the lanes whose next message has waited so long, up to ``MOST_COUNTED``.

    From the lanes that are due or held to the first message of each, so that it costs by what waits, not by what is stored;
    in the order of the partial indexes, without which PostgreSQL may take another.
    """
    ((count,),) = query(
        """SELECT count(*) FROM (
               SELECT FROM (
                   (SELECT id FROM messaging_lane WHERE org_id = %s AND due_at IS NOT NULL AND holder IS NULL
                    ORDER BY direction, endpoint_id, due_at LIMIT %s)
                   UNION ALL
                   (SELECT id FROM messaging_lane WHERE org_id = %s AND holder IS NOT NULL
                    ORDER BY holder LIMIT %s)) AS lane
               CROSS JOIN LATERAL (
                   SELECT created_at FROM messaging_message
                   WHERE lane_id = lane.id AND status = 'pending' ORDER BY position LIMIT 1) AS head
               WHERE head.created_at < clock_timestamp() - %s
               LIMIT %s) AS stuck""",
        [org_id, 10 * MOST_COUNTED, org_id, 10 * MOST_COUNTED, longer_than, MOST_COUNTED],
    )
    return int(count)


# by the beginning of what a received event's key says
KINDS = {
    "message": "messages",
    "conversation": "messages of conversations",
    "delivery": "delivery reports",
    "seen": "read reports",
    "event": "platform events",
}
OF_NO_KIND = "webhooks of no known form"
MOST_REASONS = 5
ASK_SUPPORT = "Ask support: what came is kept among the received events, with its reason. Ask the customers to write again."
EVENT_FIELDS = (
    "Compare the two fields of the platform event with those of the channel. Nothing else may publish this event."
)
# what to do, by the reason; the first that fits
REMEDIES = (
    (
        r"it cannot be taken in|unforeseen|.*cannot be read",
        "This is our fault. Tell support: what came is kept, and can be read.",
    ),
    (
        r".*not JSON|.*nested too deep|.* results in one delivery|the result is not an object",
        "Let the subscription, and no flow or proxy of yours, post to our address.",
    ),
    (
        "neither a message nor a report",
        "Subscribe our address to messages, reports and conversation events only. What else came is kept for support.",
    ),
)


class Unreadable(NamedTuple):
    """Arrivals of one kind that could not be read for one reason, within a week and, of these, a day."""

    account_id: int | None  # None for what came by a stream
    kind: str
    reason: str
    week: int
    day: int


@check(
    "Unreadable arrivals",
    title="Unreadable arrivals of {of}",
    expected="none",
    why="What cannot be read reaches nobody, and is not sent to us again.",
    otherwise=State.WARNING,
)
def everything_is_read(org: OrgSnapshot) -> Iterator[Seen]:
    names: dict[int | None, str] = {each.pk: each.name for each in org.accounts}
    alike: dict[tuple[int | None, str], list[Unreadable]] = defaultdict(list)
    for each in unreadable_lately(org.org.pk):
        alike[each.account_id, _remedy(each)].append(each)
    for (account_id, remedy), several in alike.items():
        week, day = sum(each.week for each in several), sum(each.day for each in several)
        reasons = [f"{each.week} {each.kind} ({each.reason})" for each in several[:MOST_REASONS]]
        reasons += ["others"] if len(several) > MOST_REASONS else []
        yield Seen(
            of="Salesforce" if account_id is None else names.get(account_id, "an account that is gone"),
            ok=False,
            found=f"{_at_most(day)} in the last day, {_at_most(week)} in the last 7 days: {', '.join(reasons)}",
            remedy=remedy,
            otherwise=None if day else State.NOTE,
        )
    if not alike:
        yield Seen(title="Unreadable arrivals", ok=True, found="none in the last 7 days")


def unreadable_lately(org_id: int) -> list[Unreadable]:
    """Count what an org's accounts and streams brought and nobody could read, the most frequent first.

    By the index that holds no others, up to ``MOST_COUNTED``: hence the condition is spelt out.
    """
    now = timezone.now()
    rows = query(
        """SELECT account_id, CASE WHEN account_id IS NULL THEN 'event' ELSE split_part(key, ':', 1) END, problem,
               count(*), count(*) FILTER (WHERE received_at > %s)
           FROM (
               SELECT account_id, key, problem, received_at FROM messaging_receivedevent
               WHERE org_id = %s AND received_at > %s AND kind = 'unreadable'
               ORDER BY received_at DESC LIMIT %s) AS newest
           GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1, 2, 3""",
        [now - timedelta(days=1), org_id, now - LATELY, MOST_COUNTED],
    )
    return [Unreadable(account_id, KINDS.get(kind, OF_NO_KIND), *rest) for account_id, kind, *rest in rows]


def _remedy(unreadable: Unreadable) -> str:
    for reason, remedy in REMEDIES[:1] if unreadable.account_id is None else REMEDIES:
        if re.match(reason, unreadable.reason):
            return remedy
    return EVENT_FIELDS if unreadable.account_id is None else ASK_SUPPORT


def _at_most(count: int) -> str:
    return f"{MOST_COUNTED:,} or more" if count >= MOST_COUNTED else str(count)
