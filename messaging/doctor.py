"""What the doctor checks in messaging: the event stream, the connections to both platforms, and what waits."""

from collections.abc import Iterator
from datetime import timedelta

from django.utils import timezone

from messaging.models import Circuit, EventSubscription, Handover, Side
from messaging.query import query
from tenants.doctor import OrgSnapshot, Seen, State, check

SILENCE = timedelta(minutes=10)  # Salesforce answers an idle stream every 270 seconds
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
    why="While all calls fail, messages wait. They are sent in order afterwards.",
    remedy="See the other findings. We try again every ten seconds, and continue once a call succeeds.",
)
def circuits_are_closed(org: OrgSnapshot) -> Iterator[Seen]:
    opened = {each.side: each for each in Circuit.objects.filter(org=org.org, opened_at__isnull=False)}
    for side in (Side.SALESFORCE, Side.INFOBIP):
        circuit = opened.get(side.value)
        found = "works" if circuit is None else f"failing since {circuit.opened_at:%H:%M} UTC"
        yield Seen(of=str(side.label), ok=circuit is None, found=found)


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
    refused = query(  # by the index of those with a problem
        """SELECT problem FROM messaging_handover
           WHERE org_id = %s AND called_at > %s AND problem <> '' AND state = 'refused' ORDER BY called_at DESC LIMIT 1""",
        [org.org.pk, since],
    )
    under_way = Handover.objects.filter(org=org.org, due_at__isnull=False, state__in=["called", "reading"])
    stuck = under_way.filter(called_at__lt=timezone.now() - LONGEST_WAITING).order_by("called_at").first()
    if refused:
        yield Seen(ok=False, found=f"one was refused: {refused[0][0]}")
    elif stuck is not None:
        remedy = "Its transcript cannot be read or delivered. The other findings usually show the reason."
        yield Seen(ok=False, found=f"one has been under way since {stuck.called_at:%d %B, %H:%M} UTC", remedy=remedy)
    else:
        yield Seen(ok=True, found="none refused")


@check(
    "Waiting messages",
    expected="none for more than 15 minutes",
    why="They are sent again automatically, for up to 72 hours.",
    remedy="The other findings usually show the reason.",
    otherwise=State.WARNING,
)
def nothing_waits_long(org: OrgSnapshot) -> Iterator[Seen]:
    waiting = conversations_that_wait(org.org.pk, LONGEST_WAITING)
    number = f"{MOST_COUNTED:,} or more" if waiting == MOST_COUNTED else f"{waiting}"
    found = f"{number} {'conversation waits' if waiting == 1 else 'conversations wait'} for more than 15 minutes"
    yield Seen(ok=not waiting, found=found if waiting else "none for long")


def conversations_that_wait(org_id: int, longer_than: timedelta) -> int:
    """Count the lanes whose next message has waited so long, up to ``MOST_COUNTED``.

    From the lanes that are due to the first message of each, so that it costs by what waits, not by what is stored.
    """
    ((count,),) = query(
        """SELECT count(*) FROM (
               SELECT FROM messaging_lane lane
               CROSS JOIN LATERAL (
                   SELECT created_at FROM messaging_message
                   WHERE lane_id = lane.id AND status = 'pending' ORDER BY position LIMIT 1) AS head
               WHERE lane.org_id = %s AND lane.due_at IS NOT NULL AND head.created_at < clock_timestamp() - %s
               LIMIT %s) AS stuck""",
        [org_id, longer_than, MOST_COUNTED],
    )
    return int(count)
