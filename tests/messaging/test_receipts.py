"""What became of a rep's messages is reported to Salesforce: the best that is known, until it is settled, and no longer."""

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest
from django.db import transaction
from django.utils import timezone

from connector.http import ApiError, RequestRejected, ServiceUnavailable
from messaging import claims, results
from messaging.claims import Claim, Given
from messaging.models import Circuit, Conversation, Direction, Lane, Message, Status
from messaging.receipts import ReceiptBatch, ReceiptOutcome, pending_receipts, report_receipts
from messaging.retry import LONGEST_WAIT_SECONDS
from messaging.routes import Route
from tenants.tenancy import every_org
from tests.conftest import World, delivery_report, whatsapp_text
from tests.support.happenings import receive_webhook

pytestmark = pytest.mark.django_db

ME = 101


@pytest.fixture(autouse=True)
def see_every_org() -> Iterator[None]:
    with every_org():
        yield


def replies(world: World, count: int, status: Status) -> list[Message]:
    """Give replies of a rep, of one conversation, which have got so far."""
    receive_webhook(
        world.account,
        [whatsapp_text(f"{n}", to=world.sender.number, message_id=f"wamid.{uuid4()}") for n in range(count)],
    )
    lane = Lane.objects.get(direction=Direction.OUTBOUND)
    Message.objects.update(direction=Direction.OUTBOUND, lane=lane, status=status, sender=world.sender)
    Conversation.objects.update(identifier="c0a2c1b4")
    return list(Message.objects.order_by("pk"))


def pending() -> ReceiptBatch:
    return pending_receipts([Conversation.objects.get().pk])[Conversation.objects.get().pk]


def claim() -> Claim:
    lane = Lane.objects.get(direction=Direction.RECEIPTS)
    with transaction.atomic():
        ((claimed, _),) = claims.take([Given(lane.pk)], holder=ME)
    return claimed


def record(outcome: ReceiptOutcome) -> Lane:
    with transaction.atomic():
        results.record([outcome], holder=ME)
    return Lane.objects.get(pk=outcome.claim.lane_id)


def test_of_reports_that_come_together_the_best_news_counts(acme: World) -> None:
    (message,) = replies(acme, 1, Status.SENT)
    seen = {"messageId": str(message.uuid), "from": "x", "to": "y", "seenAt": timezone.now().isoformat()}
    receive_webhook(acme.account, [seen, delivery_report(str(message.uuid))])
    message.refresh_from_db()
    assert message.status == Status.READ


def test_what_is_reported_again_has_the_id_that_it_had(acme: World) -> None:
    """Salesforce may have taken it, though no answer came."""
    replies(acme, 2, Status.DELIVERED)
    first, second = ({each.uuid for each in pending().acknowledgements} for _ in range(2))
    assert first == second and len(first) == 2


def test_more_than_one_call_can_report_is_reported_in_the_next_at_once(acme: World) -> None:
    replies(acme, 27, Status.DELIVERED)
    batch = pending()
    assert len(batch.acknowledgements) == 25 and batch.more
    lane = record(ReceiptOutcome(claim(), batch, settled=batch.acknowledged))
    assert lane.holder is None and lane.due_at is not None and lane.due_at <= timezone.now()
    rest = pending()
    assert len(rest.acknowledgements) == 2 and not rest.more
    assert record(ReceiptOutcome(claim(), rest, settled=rest.acknowledged)).due_at is None


def test_receipts_that_were_not_even_tried_to_report_say_nothing_of_salesforce(acme: World) -> None:
    """An org without a connection must not open a circuit, which would outlast its being connected."""
    replies(acme, 1, Status.DELIVERED)
    lane = record(ReceiptOutcome(claim(), pending(), again_after=20.0, called=False))
    assert not Circuit.objects.exists() and lane.due_at is not None and lane.due_at > timezone.now()


def report(acme: World, error: ApiError, *, age: float) -> ReceiptOutcome:
    """Report a tick that Salesforce answers with an error."""

    async def refuse(*_: object, **__: object) -> None:
        raise error

    replies(acme, 1, Status.DELIVERED)
    batch = pending()
    batch.age_seconds = age
    route = Route(channel=acme.channel, salesforce=cast(Any, SimpleNamespace(acknowledge_call=lambda **_: None)))
    caller = cast(Any, SimpleNamespace(run=refuse))
    return asyncio.run(report_receipts(caller, route, claim(), batch, seconds=1))


def test_a_tick_waits_for_salesforce_for_72_hours_and_then_no_longer(acme: World) -> None:
    waits = report(acme, ServiceUnavailable("Salesforce", ""), age=LONGEST_WAIT_SECONDS - 1)
    assert waits.settled == [] and waits.again_after is not None


def test_a_tick_older_than_that_is_settled_though_nobody_took_it(acme: World) -> None:
    settled = report(acme, ServiceUnavailable("Salesforce", ""), age=LONGEST_WAIT_SECONDS + 1)
    assert len(settled.settled) == 1 and settled.again_after is None


def test_a_tick_that_salesforce_refuses_for_good_is_not_tried_for_ever(acme: World) -> None:
    settled = report(acme, RequestRejected("Salesforce", ""), age=1)
    assert len(settled.settled) == 1 and settled.again_after is None
