"""What tests of hand-overs do, and what they see."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
import responses
from django.db.models import F
from django.utils import timezone

from connector.events import MARK
from messaging import handover, sessions
from messaging.handover import parse_call
from messaging.models import Direction, Handover, Message, Status
from messaging.sessions import Opening
from tests.conftest import World, whatsapp_text
from tests.support.happenings import receive_webhook

USER = "385991234567"
CONVERSATION = "4461ea29-c09e-4ba8-a751-df86cf0a0eb9"
TOKEN = "t-acme"

URL = f"https://acme.api.infobip.com/ccaas/1/conversations/{CONVERSATION}/messages"
CLOCKS = pytest.mark.parametrize("ahead", [0, -60, 60])  # seconds


def line(text: str, *, by: str = "CUSTOMER", at: datetime | None = None, **more: Any) -> dict[str, Any]:
    """One message of the conversation, as Infobip lists it."""
    inbound = by == "CUSTOMER"
    numbers = (USER, "447700900123")
    return {
        "id": str(uuid4()),
        "channel": "WHATSAPP",
        "from": numbers[0 if inbound else 1],
        "to": numbers[1 if inbound else 0],
        "direction": "INBOUND" if inbound else "OUTBOUND",
        "authorType": by,
        "createdAt": (at or timezone.now() - timedelta(minutes=1)).isoformat(),
        "content": {"text": text},
        "contentType": "TEXT",
        **more,
    }


def tell(infobip: responses.RequestsMock, lines: Sequence[dict[str, Any]]) -> None:
    """Let Infobip give these lines from now on."""
    infobip.remove("GET", URL)
    infobip.get(URL, json={"messages": list(lines), "pagination": {"totalItems": len(lines), "page": 0, "limit": 250}})


def conversation_event(message: dict[str, Any], channel_id: str) -> dict[str, Any]:
    """The signed event with which Infobip tells of a line."""
    told = {
        "id": message["id"],
        "messageId": channel_id,
        "channel": "WHATSAPP",
        "from": message["from"],
        "to": message["to"],
    }
    told |= {"conversationId": CONVERSATION, "createdAt": message["createdAt"], "content": message["content"]}
    payload = {"id": CONVERSATION, "status": "OPEN", "channel": "WHATSAPP", "message": told}
    return {"type": "INBOUND_MESSAGE", "timestamp": message["createdAt"], "payload": payload}


def call(world: World, **more: Any) -> Handover:
    body = {"conversationId": CONVERSATION, "senderNumber": f"+{USER}", **more}
    assert handover.accept(world.account, parse_call(body))
    return Handover.objects.latest("pk")


def step(work: Handover) -> Handover:
    """Do the next step now, whenever it is due."""
    Handover.objects.filter(pk=work.pk).update(due_at=timezone.now())
    (claimed,) = handover.claim(5)
    assert claimed.handover_id == work.pk
    handover.carry_on(claimed)
    work.refresh_from_db()
    return work


def import_all(work: Handover) -> Handover:
    """Carry a hand-over on until its transcript is in the lane; time passes as it must."""
    for _ in range(6):
        if work.state not in (Handover.State.CALLED, Handover.State.READING):
            break
        if work.state == Handover.State.READING:
            Handover.objects.filter(pk=work.pk).update(held_at=timezone.now() - timedelta(seconds=4))
        step(work)
    return work


def waiting() -> list[str]:
    """The inbound texts in the order in which they leave."""
    inbound = Message.objects.filter(direction=Direction.INBOUND, status=Status.PENDING)
    return list(inbound.order_by("lane", "position").values_list("text", flat=True))


def write(world: World, text: str, **more: Any) -> None:
    result = whatsapp_text(text, to=world.sender.number, user=USER, **{"message_id": f"wamid.{uuid4()}", **more})
    receive_webhook(world.account, [result])


def open_session(work: Handover, session: str = "0Mw5g000000AbCdCAK") -> None:
    assert work.conversation_id is not None
    sessions.open_sessions([Opening(work.org_id, work.conversation_id, "c0a2c1b4", session)])


BEGIN, END = f"{MARK} Conversation with the chatbot", f"{MARK} End of the conversation with the chatbot"


def stamp(ahead: float = 0) -> datetime:
    """What a clock shows that tells whole seconds."""
    return (timezone.now() + timedelta(seconds=ahead)).replace(microsecond=0)


def hear(world: World, said: dict[str, Any], channel_id: str) -> None:
    """Let Infobip's event tell of a line."""
    receive_webhook(world.account, [conversation_event(said, channel_id)])


def pass_time(work: Handover, **more: float) -> None:
    """Let the conversation have been the reps' for so much longer."""
    Handover.objects.filter(pk=work.pk).update(held_at=F("held_at") - timedelta(**more))
