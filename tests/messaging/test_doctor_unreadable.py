"""The doctor says what could not be read: how much, of which kind, why, and what to do."""

from datetime import timedelta

import pytest
from django.utils import timezone

from connector.salesforce.platform_events import PlatformEvent, Topic
from messaging.doctor import ASK_SUPPORT, EVENT_FIELDS, MOST_COUNTED, everything_is_read
from messaging.intake import StreamBatch, receive_stream_batches
from messaging.models import EventSubscription, ReceivedEvent
from tenants.doctor import OrgSnapshot, Seen, State
from tenants.models import InfobipAccount
from tenants.tenancy import every_org
from tests.conftest import World, delivery_report, whatsapp_text
from tests.support.happenings import receive_webhook

pytestmark = pytest.mark.django_db(transaction=True)


def look(world: World) -> list[Seen]:
    with every_org():
        return list(everything_is_read(OrgSnapshot(world.org)))


def receive(account: InfobipAccount, *results: object) -> None:
    with every_org():
        receive_webhook(account, results)


def test_there_is_nothing_to_say_where_all_was_read(acme: World) -> None:
    receive(acme.account, whatsapp_text("hello", to=acme.sender.number, message_id="wamid.1"))
    # read, and for somebody else: that is another finding
    receive(acme.account, whatsapp_text("hello", to="447700900777", message_id="wamid.2"))
    (seen,) = look(acme)
    assert (seen.ok, seen.found) == (True, "none in the last 7 days")


def test_what_could_not_be_read_is_counted_by_account_kind_and_reason_with_its_remedy(acme: World, rival: World) -> None:
    with every_org():
        second = InfobipAccount.objects.create(
            org=acme.org, name="second", base_url="https://second.api.infobip.com", api_key="k", webhook_secret="s"
        )
    nobody = [{**whatsapp_text("hi", to="447700900123", message_id=f"wamid.{n}"), "from": None} for n in range(3)]
    receive(acme.account, *nobody, {**delivery_report("not an id of ours")})
    receive(second, {"something": "else"})
    receive(rival.account, {"something": "else"})
    with every_org():
        ReceivedEvent.objects.filter(key="message:wamid.0").update(received_at=timezone.now() - timedelta(days=2))
        ReceivedEvent.objects.filter(key="message:wamid.1").update(received_at=timezone.now() - timedelta(days=8))
    first, other = look(acme)
    assert (first.of, first.ok, first.otherwise) == ("main", False, None)
    assert first.found == (
        "2 in the last day, 3 in the last 7 days: 2 messages (from is missing or not an address), "
        "1 delivery reports (messageId is not an id of ours)"
    )
    assert first.remedy == ASK_SUPPORT
    assert other.of == "second" and other.found.startswith(
        "1 in the last day, 1 in the last 7 days: 1 webhooks of no known"
    )
    assert "Subscribe our address to messages, reports" in other.remedy


def test_what_is_over_for_a_day_is_a_note(acme: World) -> None:
    receive(acme.account, 7)
    with every_org():
        ReceivedEvent.objects.update(received_at=timezone.now() - timedelta(days=2))
    (seen,) = look(acme)
    assert seen.otherwise is State.NOTE and "0 in the last day, 1 in the last 7 days" in seen.found
    assert seen.remedy.startswith("Let the subscription")


def test_what_salesforce_published_and_nobody_could_read_names_the_event(acme: World) -> None:
    with every_org():
        stream = EventSubscription.objects.create(
            org=acme.org,
            topic="/event/Infobip_Event__e",
            since=timezone.now(),
            lease_id="6f1f4a5e-2f0a-4e1c-9c55-0b9b6f9f2d31",
        )
        stream.refresh_from_db()
        assert stream.lease_id is not None
        events = [PlatformEvent(each, each.encode(), {"Wrong__c": "Interaction"}) for each in ("e-1", "")]
        topic = Topic(stream.topic, "00D", "EventType__c", "Payload__c")
        receive_stream_batches([StreamBatch(acme.org.pk, stream.pk, stream.lease_id, stream.since, topic, events, b"1")])
    (seen,) = look(acme)
    assert (seen.of, seen.remedy) == ("Salesforce", EVENT_FIELDS)
    assert "2 platform events (EventType__c is missing)" in seen.found


def test_a_flood_is_counted_up_to_a_bound(acme: World) -> None:
    with every_org():
        ReceivedEvent.objects.bulk_create(
            ReceivedEvent(
                org=acme.org,
                account=acme.account,
                key=f"sha256:{n}",
                body=b"{}",
                received_at=timezone.now(),
                kind="unreadable",
                problem=f"it cannot be taken in: Error{n % 7}",
            )
            for n in range(MOST_COUNTED + 5)
        )
    (seen,) = look(acme)
    assert seen.found.startswith("1,000 or more in the last day") and seen.found.endswith(", others")
    assert seen.remedy.startswith("This is our fault")
