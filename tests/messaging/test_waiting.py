"""An operator sees at a waiting message why it waits, and gets from there to what holds it up."""

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from messaging.models import Attempt, Circuit, Direction, Handover, Lane, Message, Outcome, Status, Upstream
from tenants.tenancy import every_org
from tests.conftest import World
from tests.templates_ui.test_panel import converse, send

pytestmark = pytest.mark.django_db
NOW = timezone.now()
SOON = NOW + timedelta(minutes=5)


@pytest.fixture
def message(acme: World) -> Message:
    kept = send(converse(acme), "One moment", Status.PENDING, tries=3)
    lane(kept, due_at=NOW, endpoint_id=acme.account.pk)
    with every_org():
        facts: dict[str, Any] = {"org": acme.org, "message": kept, "started_at": NOW, "outcome": Outcome.RETRY}
        Attempt.objects.create(**facts, status=429)
        Attempt.objects.create(**facts, status=503, code="BUSY", detail="it is on fire")
    return kept


def lane(message: Message, **values: Any) -> None:
    with every_org():
        Lane.objects.filter(pk=message.lane_id).update(**values)


def page(operator: Client, message: Message) -> str:
    answer = operator.get(f"/admin/messaging/message/{message.pk}/change/")
    assert answer.status_code == 200
    return answer.content.decode()


def test_one_that_is_next_says_since_when(operator: Client, message: Message) -> None:
    assert f"it is next, and due since {NOW:%Y-%m-%d %H:%M:%S} UTC" in page(operator, message)


def test_one_that_is_under_way_says_so(operator: Client, message: Message) -> None:
    lane(message, holder=7, trying=message.pk)
    assert "it is being sent now" in page(operator, message)


def test_one_behind_another_leads_to_that(operator: Client, message: Message) -> None:
    lane(message, holder=7, trying=message.pk, retry_at=SOON)
    behind = send(message.conversation, "And?", Status.PENDING)
    shown = page(operator, behind)
    assert "another message is ahead in its lane" in shown and f"/admin/messaging/message/{message.pk}/change/" in shown


def test_one_whose_lane_pauses_says_until_when_and_what_the_last_try_said(operator: Client, message: Message) -> None:
    lane(message, retry_at=SOON)
    shown = page(operator, message)
    assert f"its lane pauses until {SOON:%Y-%m-%d %H:%M:%S} UTC, after 3 tries in vain" in shown
    assert (
        "in vain (the last: HTTP 503, BUSY, it is on fire)" in shown
        and f"/admin/messaging/lane/{message.lane_id}/change/" in shown
    )


def test_one_at_an_open_circuit_leads_there(operator: Client, message: Message, acme: World, rival: World) -> None:
    lane(message, retry_at=SOON)
    with every_org():
        there = {"upstream": Upstream.INFOBIP, "endpoint_id": acme.account.pk}
        Circuit.objects.create(org=rival.org, **there, opened_at=NOW)
        circuit = Circuit.objects.create(org=acme.org, **there, opened_at=NOW)
    shown = page(operator, message)
    assert "lets nothing through since" in shown and "it is on fire)" in shown
    assert f"/admin/messaging/circuit/{circuit.pk}/change/" in shown


def test_one_that_waits_for_a_transcript_leads_to_the_hand_over(operator: Client, message: Message, acme: World) -> None:
    lane(message, hold=0, direction=Direction.INBOUND)
    with every_org():
        handover = Handover.objects.create(
            org=acme.org,
            account=acme.account,
            conversation=message.conversation,
            state=Handover.State.READING,
            called_at=NOW,
        )
    shown = page(operator, message)
    assert "held until the chatbot" in shown and f"/admin/messaging/handover/{handover.pk}/change/" in shown


def test_one_in_a_lane_that_nobody_made_due_is_called_a_fault(operator: Client, message: Message) -> None:
    lane(message, due_at=None)
    assert "its lane is not due, which is a fault of ours" in page(operator, message)


def test_one_that_went_out_waits_for_nothing(operator: Client, message: Message) -> None:
    with every_org():
        Message.objects.filter(pk=message.pk).update(status=Status.SENT)
    assert "Waits because" not in page(operator, message)
