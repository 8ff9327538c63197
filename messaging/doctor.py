"""What the doctor looks at in messaging: the stream, the way of messages to both far sides."""

from collections.abc import Iterator
from datetime import timedelta

from django.utils import timezone

from messaging.models import Circuit, EventSubscription, Handover, Lane, Session, Upstream
from tenants.doctor import Facts, Finding, State, register, state

SILENCE = timedelta(minutes=10)  # Salesforce answers an idle stream every 270 seconds
LONGEST_WAITING = timedelta(minutes=15)
LATELY = timedelta(days=7)


@register("Event stream")
def stream_is_read(facts: Facts) -> Iterator[Finding]:
    streams = list(EventSubscription.objects.filter(org=facts.org).order_by("topic"))
    if not streams:
        remedy = (
            "" if not facts.channels else "It begins within seconds; look again. If not, our subscriber process is down."
        )
        yield Finding(
            "Event stream", State.WARNING, "not read yet", "an open stream", "By it reps' messages leave.", remedy
        )
    for stream in streams:
        silent = timezone.now() - (stream.last_answer_at or stream.since) > SILENCE
        yield Finding(
            f"Event stream {stream.topic}",
            state(not stream.problem and not silent),
            stream.problem or ("silent for more than ten minutes" if silent else "open"),
            "an open stream",
            "By it reps' messages leave Salesforce; they wait there for up to 72 hours.",
            ""
            if not stream.problem and not silent
            else "Check the login and the event's permissions above; it is opened again by itself.",
        )


@register("Ways to the far sides")
def circuits_are_closed(facts: Facts) -> Iterator[Finding]:
    opened = {each.upstream: each for each in Circuit.objects.filter(org=facts.org, opened_at__isnull=False)}
    for side in (Upstream.SALESFORCE, Upstream.INFOBIP):
        circuit = opened.get(side.value)
        yield Finding(
            f"Way to {side.label}",
            state(circuit is None),
            "works" if circuit is None else f"failing since {circuit.opened_at:%H:%M} UTC",
            "calls that succeed",
            "While it fails for everybody, messages wait and are sent in order afterwards.",
            ""
            if circuit is None
            else "Look at the findings above; a probe every ten seconds finds out when it works again.",
        )


@register("Hand-overs")
def handovers_succeed(facts: Facts) -> Iterator[Finding]:
    lately = Handover.objects.filter(org=facts.org, called_at__gt=timezone.now() - LATELY).order_by("-called_at")
    if not lately.exists():
        return
    troubled = lately.exclude(problem="")
    refused = troubled.filter(state=Handover.State.REFUSED).first()
    other = troubled.exclude(state=Handover.State.REFUSED).first()
    remedy = ""
    if refused or other:
        remedy = "The findings above usually say why."
    if refused:
        remedy = "Compare the body of the Call API step with the senders' step."
    words = [f"one was refused: {refused.problem}"] if refused else []
    words += [f"one is {other.state}, with a problem: {other.problem}"] if other else []
    yield Finding(
        "Hand-overs",
        state(not words, State.WARNING),
        "; ".join(words) or "all taken",
        "each call of the chatbot opens a session",
        "A refused call leaves the customer with a chatbot that says a person comes.",
        remedy,
    )


@register("Sessions")
def sessions_have_no_problem(facts: Facts) -> Iterator[Finding]:
    lately = Session.objects.filter(org=facts.org, opened_at__gt=timezone.now() - LATELY).exclude(problem="")
    newest = lately.order_by("-opened_at").first()
    if newest is None:
        return
    yield Finding(
        "Sessions",
        State.WARNING,
        f"{newest.salesforce_id}: {newest.problem}",
        "each session is greeted, asked about and closed",
        "Where Salesforce does not tell us that a session ended, the customer stays with the reps.",
        "The findings above usually say why.",
    )


@register("Messages that wait")
def nothing_waits_long(facts: Facts) -> Iterator[Finding]:
    horizon = timezone.now() - LONGEST_WAITING
    stuck = (
        Lane.objects.filter(org=facts.org, messages__status="pending", messages__created_at__lt=horizon).distinct().count()
    )
    yield Finding(
        "Messages that wait",
        state(not stuck, State.WARNING),
        f"{stuck} conversations wait for more than 15 minutes" if stuck else "none for long",
        "none for more than 15 minutes",
        "They are tried again by themselves, for up to 72 hours.",
        "The findings above usually say why." if stuck else "",
    )
