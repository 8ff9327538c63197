"""Says why a message waits, for operators: in the order in which what holds it up must end."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.utils import timezone

from messaging.circuits import UPSTREAM_OF
from messaging.models import Attempt, Circuit, Direction, Handover, Message, Status


@dataclass(frozen=True, slots=True)
class Reason:
    """In words, with the row to look at and how that is called, where there is one."""

    words: str
    row: Any = None
    name: str = ""


def why(message: Message) -> Reason | None:
    """Say what a message waits for; None if it does not."""
    lane = message.lane
    if message.status != Status.PENDING:
        return None
    if lane.trying == message.pk:
        return Reason("it is being sent now")
    if lane.hold is not None and message.position > lane.hold:
        reading = Handover.objects.filter(
            org=message.org_id, conversation=message.conversation_id, state=Handover.State.READING
        ).first()
        return Reason("it is held until the chatbot's transcript stands above it", reading, "hand-over")
    ahead = (
        Message.objects.filter(lane=lane, status=Status.PENDING, position__lt=message.position).order_by("position").first()
    )
    if ahead is not None:
        return Reason("another message is ahead in its lane", ahead, str(ahead.uuid))
    upstream = UPSTREAM_OF[Direction(lane.direction)]
    circuit = Circuit.objects.filter(
        org=message.org_id, upstream=upstream, endpoint_id=lane.endpoint_id, opened_at__isnull=False
    ).first()
    if circuit is not None and circuit.opened_at is not None:
        words = f"what it goes to lets nothing through since {_time(circuit.opened_at)}{_last_error(message)}"
        return Reason(words, circuit, "circuit")
    if lane.retry_at is not None and lane.retry_at > timezone.now():
        tries = f"{message.tries} {'try' if message.tries == 1 else 'tries'} in vain"
        return Reason(f"its lane pauses until {_time(lane.retry_at)}, after {tries}{_last_error(message)}", lane, "lane")
    if lane.due_at is None:
        return Reason("its lane is not due, which is a fault of ours", lane, "lane")
    return Reason(f"it is next, and due since {_time(lane.due_at)}: if it stays so, see whether workers run", lane, "lane")


def _last_error(message: Message) -> str:
    last = Attempt.objects.filter(message=message).order_by("-id").first()
    if last is None:
        return ""
    facts = (f"HTTP {last.status}" if last.status else "", last.code, last.detail)
    return f" (the last: {', '.join(filter(None, facts)) or last.outcome})"


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"
