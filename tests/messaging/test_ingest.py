"""What arrives is written down once, and has its effect once."""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone

from connector.salesforce.platform_events import PlatformEvent, Topic
from messaging.intake import StreamBatch, receive_stream_batches
from messaging.models import Conversation, Direction, EventSubscription, Lane, LeftMessage, Message, ReceivedEvent, Status
from messaging.receipts import pending_receipts
from tenants.models import Channel, InfobipAccount, Sender
from tenants.tenancy import every_org
from tests.conftest import World, delivery_report, reply_record, whatsapp_text
from tests.support.happenings import receive_webhook

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def see_every_org() -> Iterator[None]:
    with every_org():
        yield


def text(world: World, body: str, **more: Any) -> dict[str, Any]:
    return whatsapp_text(body, to=world.sender.number, **{"message_id": f"wamid.{uuid4()}", **more})


@pytest.fixture
def subscription(acme: World) -> EventSubscription:
    return subscribe(acme)


def subscribe(world: World) -> EventSubscription:
    return EventSubscription.objects.create(
        org=world.org, topic="/event/Infobip_Event__e", since=timezone.now() - timedelta(hours=1), lease_id=uuid4()
    )


def batch(subscription: EventSubscription, *records: dict[str, Any] | None, **more: Any) -> StreamBatch:
    events = [PlatformEvent(str(uuid4()), b"raw", record) for record in records]
    fields = {
        "org_id": subscription.org_id,
        "subscription_id": subscription.pk,
        "lease_id": subscription.lease_id,
        "since": subscription.since,
        "topic": Topic("/event/Infobip_Event__e", "00D", "EventType__c", "Payload__c"),
        "events": events,
        "replay_id": b"place 1",
    }
    return StreamBatch(**{**fields, **more})


def reply(world: World, body: str = "One moment") -> Message:
    receive_stream_batches([batch(subscribe(world), reply_record(world, body, entry=str(uuid4())))])
    return Message.objects.get(org=world.org, direction=Direction.OUTBOUND)


def test_a_repeated_webhook_is_one_message(acme: World) -> None:
    result = text(acme, "hello")
    assert receive_webhook(acme.account, [result, result]) is True
    assert receive_webhook(acme.account, [result]) is False
    assert ReceivedEvent.objects.count() == Message.objects.count() == 1


def test_two_accounts_of_a_channel_with_one_message_id_are_two_messages(acme: World) -> None:
    other = InfobipAccount.objects.create(
        org=acme.org, name="other", base_url="https://other.api.infobip.com", api_key="k", webhook_secret="s"
    )
    second = Sender.objects.create(org=acme.org, account=other, channel=acme.channel, number="447700900555")
    receive_webhook(acme.account, [whatsapp_text("to the one", to=acme.sender.number, message_id="same")])
    theirs = whatsapp_text("to the other", to=second.number, message_id="same")
    for _ in range(2):
        receive_webhook(other, [theirs])
    assert sorted(Message.objects.values_list("text", flat=True)) == ["to the one", "to the other"]


def test_the_longest_id_of_a_channels_second_account_fits(acme: World) -> None:
    other = InfobipAccount.objects.create(
        org=acme.org, name="other", base_url="https://other.api.infobip.com", api_key="k", webhook_secret="s"
    )
    second = Sender.objects.create(
        org=acme.org, account=other, channel=acme.channel, number="447700900555", chatbot_first=True
    )
    for last in ("1", "2"):
        receive_webhook(other, [whatsapp_text("Hi", to=second.number, message_id="x" * 249 + last)])
    assert LeftMessage.objects.count() == 2


def test_what_is_written_to_a_chatbot_opens_the_window(acme: World) -> None:
    Sender.objects.update(chatbot_first=True)
    receive_webhook(acme.account, [text(acme, "hello")])
    assert not Message.objects.exists()
    conversation = Conversation.objects.get()
    assert conversation.last_sender == acme.sender and conversation.window_closes_at is not None
    assert conversation.window_closes_at > timezone.now() + timedelta(hours=23)


def test_a_message_waits_in_the_lane_of_its_end_user(acme: World) -> None:
    receive_webhook(acme.account, [text(acme, "hello")])
    message = Message.objects.get()
    conversation = message.conversation
    assert (message.text, message.status, message.position) == ("hello", Status.PENDING, 1)
    assert (conversation.subject, conversation.name) == ("385991234567", "Ana Horvat")
    assert conversation.last_sender == acme.sender
    assert conversation.window_closes_at == message.written_at + timedelta(hours=24)
    lane = Lane.objects.get(direction=Direction.INBOUND)
    assert lane.due_at is not None and lane.version == 1


def test_what_comes_together_is_put_in_the_order_of_its_times(acme: World) -> None:
    later = text(acme, "second", at="2026-03-02T08:15:31.000+0000")
    earlier = text(acme, "first", at="2026-03-02T08:15:30.123+0000")
    receive_webhook(acme.account, [later, earlier])
    assert list(Message.objects.order_by("position").values_list("text", flat=True)) == ["first", "second"]


def test_a_message_older_than_what_already_left_is_marked_late(acme: World) -> None:
    receive_webhook(acme.account, [text(acme, "second", at="2026-03-02T08:15:31+0000")])
    Lane.objects.update(carried_until=Message.objects.get().written_at)
    receive_webhook(acme.account, [text(acme, "first", at="2026-03-02T08:15:30+0000")])
    assert Message.objects.get(text="first").late and not Message.objects.get(text="second").late


def test_the_same_number_writing_to_two_orgs_has_two_conversations(acme: World, rival: World) -> None:
    receive_webhook(acme.account, [text(acme, "to acme")])
    receive_webhook(rival.account, [text(rival, "to rival")])
    assert Conversation.objects.count() == 2
    assert Message.objects.get(text="to acme").org == acme.org


def test_a_business_scoped_id_leads_to_the_conversation_of_its_number(acme: World) -> None:
    first = text(acme, "by number")
    first["contact"]["userId"] = "HR.1234567890"
    receive_webhook(acme.account, [first])
    receive_webhook(acme.account, [text(acme, "by id", user="HR.1234567890")])
    assert Conversation.objects.get().subject == "385991234567"
    assert Message.objects.count() == 2


def test_one_that_cannot_be_read_is_kept_and_costs_its_neighbours_nothing(acme: World) -> None:
    broken = text(acme, "no sender")
    del broken["to"]
    receive_webhook(acme.account, [text(acme, "before"), broken, {"news": 1}, text(acme, "after")])
    assert set(Message.objects.values_list("text", flat=True)) == {"before", "after"}
    unreadable = ReceivedEvent.objects.exclude(problem="").order_by("id")
    assert [event.problem for event in unreadable] == [
        "to is missing or not an address",
        "neither a message nor a report: no message, event, status or seenAt",
    ]
    assert json.loads(bytes(unreadable[0].body)) == broken


def test_a_number_that_is_not_set_up_is_kept_with_its_reason(acme: World) -> None:
    receive_webhook(acme.account, [text(acme, "hello") | {"to": "447700900555"}])
    assert not Message.objects.exists()
    assert "ending in 0555 is not set up" in ReceivedEvent.objects.get().problem


@pytest.mark.parametrize(
    ("written", "relayed"),
    [
        ("a\x00b", "ab"),
        ("half \ud83d emoji", "half  emoji"),
        ("שלום 👨‍👩‍👧‍👦 مرحبا", "שלום 👨‍👩‍👧‍👦 مرحبا"),
        ("  spaces  ", "spaces"),
    ],
)
def test_odd_texts_are_relayed_whole_or_cleaned(acme: World, written: str, relayed: str) -> None:
    receive_webhook(acme.account, [text(acme, written)])
    assert Message.objects.get().text == relayed


def test_a_long_text_becomes_several_messages_in_order(acme: World) -> None:
    words = " ".join(f"word{n}" for n in range(1200))
    receive_webhook(acme.account, [text(acme, words)])
    parts = list(Message.objects.order_by("position").values_list("text", flat=True))
    assert len(parts) == 3 and all(len(part) <= 4000 for part in parts)
    assert " ".join(parts) == words


@pytest.mark.parametrize("odd", [[], {}, "\x00", "\ud800", 10**30, None])
def test_whatever_stands_in_a_report_costs_its_neighbours_nothing(acme: World, odd: object) -> None:
    message = reply(acme)
    bad_group, bad_id = delivery_report(str(message.uuid)), delivery_report(str(message.uuid))
    bad_group["status"]["groupId"], bad_id["status"]["id"] = odd, odd
    receive_webhook(acme.account, [bad_group, text(acme, "good"), bad_id])
    assert Message.objects.filter(text="good").exists()


def test_an_address_that_is_too_long_to_be_one_costs_the_message_nothing(acme: World) -> None:
    written = text(acme, "hello")
    written["contact"]["userId"] = "x" * 5000
    receive_webhook(acme.account, [written])
    assert Message.objects.get().text == "hello"


def test_other_kinds_reach_the_rep_as_a_line_and_are_kept_raw(acme: World) -> None:
    image = text(acme, "")
    image["message"] = {"type": "IMAGE", "url": "https://x.api.infobip.com/media/1", "caption": "The broken part"}
    receive_webhook(acme.account, [image])
    assert Message.objects.get().text == "\u25b8 Image: The broken part"
    assert json.loads(bytes(ReceivedEvent.objects.get().body))["message"]["url"] == "https://x.api.infobip.com/media/1"


def test_a_reply_waits_for_whatsapp_and_moves_the_position_of_its_stream(
    acme: World, subscription: EventSubscription
) -> None:
    receive_webhook(acme.account, [text(acme, "hello")])
    saved, work = receive_stream_batches([batch(subscription, reply_record(acme, "One moment", entry="e1"))])
    assert (saved, work) == ({subscription.pk}, True)
    message = Message.objects.get(direction=Direction.OUTBOUND)
    assert (message.text, message.source_entry, message.sender) == ("One moment", "e1", acme.sender)
    assert message.conversation.identifier == "c0a2c1b4-7f0e-4f6c-9a44-5d2f6f0e7b11"
    subscription.refresh_from_db()
    assert bytes(subscription.replay_id) == b"place 1"


def test_an_event_that_comes_again_is_one_message(acme: World, subscription: EventSubscription) -> None:
    again = batch(subscription, reply_record(acme, "One moment", entry="e1"))
    receive_stream_batches([again])
    receive_stream_batches([again])
    other_event_same_entry = batch(subscription, reply_record(acme, "One moment", entry="e1"))
    receive_stream_batches([other_event_same_entry])
    assert Message.objects.count() == 1


def test_who_lost_the_lease_of_a_stream_saves_neither_events_nor_position(
    acme: World, subscription: EventSubscription
) -> None:
    lost = batch(subscription, reply_record(acme, "One moment", entry="e1"), lease_id=uuid4())
    assert receive_stream_batches([lost]) == (set(), False)
    subscription.refresh_from_db()
    assert bytes(subscription.replay_id) == b"" and not Message.objects.exists()


def test_an_unreadable_event_moves_on_and_is_kept(acme: World, subscription: EventSubscription) -> None:
    not_json = reply_record(acme, "", entry="e0") | {"Payload__c": "{"}
    good = reply_record(acme, "still here", entry="e2")
    receive_stream_batches([batch(subscription, None, not_json, good)])
    assert Message.objects.get().text == "still here"
    problems = list(ReceivedEvent.objects.exclude(problem="").order_by("id").values_list("problem", flat=True))
    assert problems == ["the event does not fit its Avro schema", "Payload__c is not JSON"]


def test_events_older_than_the_subscription_are_dropped(acme: World, subscription: EventSubscription) -> None:
    old = reply_record(acme, "from before", entry="e1") | {"CreatedDate": 1_700_000_000_000}
    receive_stream_batches([batch(subscription, old)])
    assert not Message.objects.exists() and not ReceivedEvent.objects.exists()


def test_a_reply_of_more_than_text_is_failed_with_its_reason(acme: World, subscription: EventSubscription) -> None:
    record = reply_record(acme, "", entry="e1", formatType="Attachments", attachments=[])
    receive_stream_batches([batch(subscription, record)])
    message = Message.objects.get()
    assert message.status == Status.FAILED
    assert message.error == "A file cannot be sent to WhatsApp yet; nothing was sent"


def test_receipts_move_a_message_forward_only(acme: World) -> None:
    message = reply(acme)
    seen = {"messageId": str(message.uuid), "from": "x", "to": "y", "seenAt": timezone.now().isoformat()}
    for result, status in [(seen, Status.READ), (delivery_report(str(message.uuid)), Status.READ)]:
        receive_webhook(acme.account, [result])
        message.refresh_from_db()
        assert message.status == status


@pytest.mark.parametrize(
    ("status_id", "group_id", "status"),
    [(5, 3, "delivered"), (2, 3, "pending"), (7, 1, "pending"), (9, 2, "failed"), (15, 4, "failed"), (23, 5, "pending")],
)
def test_the_status_id_decides_what_a_report_says(acme: World, status_id: int, group_id: int, status: str) -> None:
    message = reply(acme)
    receive_webhook(acme.account, [delivery_report(str(message.uuid), status_id=status_id, group_id=group_id)])
    message.refresh_from_db()
    assert message.status == status


def test_a_failure_keeps_infobips_code_and_reason(acme: World) -> None:
    message = reply(acme)
    error = {"groupId": 1, "id": 7010, "name": "EC_NO_SESSION", "description": "No session", "permanent": True}
    receive_webhook(acme.account, [delivery_report(str(message.uuid), status_id=9, group_id=2, **error)])
    message.refresh_from_db()
    assert (message.status, message.error_code) == (Status.FAILED, "EC_NO_SESSION")
    assert message.error == "the customer has not written to this number in the last 24 hours; send a template"


def test_a_report_on_another_orgs_message_has_no_effect(acme: World, rival: World) -> None:
    message = reply(rival)
    receive_webhook(acme.account, [delivery_report(str(message.uuid))])
    message.refresh_from_db()
    assert message.status == Status.PENDING
    assert ReceivedEvent.objects.get(org=acme.org).problem == "no message of this account has this messageId"


def test_a_report_through_another_account_of_the_same_org_has_no_effect(acme: World) -> None:
    message = reply(acme)
    other = InfobipAccount.objects.create(
        org=acme.org, name="other", base_url="https://other.api.infobip.com", api_key="k", webhook_secret="s"
    )
    receive_webhook(other, [delivery_report(str(message.uuid))])
    message.refresh_from_db()
    assert message.status == Status.PENDING


def test_a_long_reply_is_reported_once_and_only_when_all_its_parts_arrived(acme: World) -> None:
    receive_stream_batches([batch(subscribe(acme), reply_record(acme, "x " * 3000, entry="long"))])
    first, second = Message.objects.order_by("position")
    receive_webhook(acme.account, [delivery_report(str(first.uuid))])
    assert pending_receipts([first.conversation_id]) == {}
    receive_webhook(acme.account, [delivery_report(str(second.uuid))])
    pending = pending_receipts([first.conversation_id])[first.conversation_id]
    assert [(each.entry, each.receipt) for each in pending.acknowledgements] == [("long", "delivered")]
    Message.objects.update(reported=Status.DELIVERED)
    assert pending_receipts([first.conversation_id]) == {}


def test_a_failure_is_reported_with_a_line_for_the_rep_while_the_session_is_open(acme: World) -> None:
    message = reply(acme, "Your parcel left the depot this morning, and it will be there by tomorrow noon.")
    error = {"groupId": 1, "id": 7002, "name": "EC_UNKNOWN_USER", "description": "Unknown user", "permanent": True}
    receive_webhook(acme.account, [delivery_report(str(message.uuid), status_id=9, group_id=2, **error)])
    pending = pending_receipts([message.conversation_id])[message.conversation_id]
    (failure,) = pending.failures
    assert (failure.entry, failure.code) == (message.source_entry, "EC_UNKNOWN_USER")
    assert failure.notice == (
        "\u25b8 Not delivered: “Your parcel left the depot this morning, and it will be ther…” "
        "— the number is not on WhatsApp."
    )
    Conversation.objects.update(session_open=False)
    assert pending_receipts([message.conversation_id])[message.conversation_id].failures[0].notice == ""


def test_a_channel_may_keep_failures_out_of_the_conversation(acme: World) -> None:
    message = reply(acme)
    receive_webhook(acme.account, [delivery_report(str(message.uuid), status_id=9, group_id=2)])
    Channel.objects.update(show_failures=False)
    assert pending_receipts([message.conversation_id])[message.conversation_id].failures[0].notice == ""


def test_the_end_of_a_session_is_noted(acme: World, subscription: EventSubscription) -> None:
    receive_stream_batches([batch(subscription, reply_record(acme, "One moment", entry="e1"))])
    assert Conversation.objects.get().session_open
    record = reply_record(acme, "", entry="e2")
    payload = json.loads(record["Payload__c"])
    payload["payload"]["entryType"] = "SessionStatusChanged"
    payload["payload"]["entryPayload"] = {
        "sessionId": "0Mw5g000000AbCdCAK",
        "conversationIdentifier": payload["conversationIdentifier"],
        "sessionStatus": "Ended",
    }
    receive_stream_batches([batch(subscription, record | {"Payload__c": json.dumps(payload)})])
    assert not Conversation.objects.get().session_open


@pytest.mark.parametrize("mark", ["\u25b8", "\u25b6", "\u25ba", "\u2023", "\u23f5"])
def test_what_an_end_user_writes_cannot_pass_for_our_own_marks(acme: World, mark: str) -> None:
    image = text(acme, "")
    image["message"] = {"type": "IMAGE", "url": "https://x.api.infobip.com/media/1", "caption": f"{mark} Not delivered"}
    receive_webhook(acme.account, [text(acme, f"{mark} Not delivered: hello"), image])
    assert set(Message.objects.values_list("text", flat=True)) == {
        "> Not delivered: hello",
        "\u25b8 Image: > Not delivered",
    }


def test_answers_leave_by_the_sender_last_written_to(acme: World, subscription: EventSubscription) -> None:
    other = Sender.objects.create(org=acme.org, account=acme.account, channel=acme.channel, number="447700900130")
    receive_webhook(acme.account, [text(acme, "hello")])
    receive_webhook(acme.account, [text(acme, "hello again") | {"to": other.number}])
    receive_stream_batches([batch(subscription, reply_record(acme, "One moment", entry="e1"))])
    assert Message.objects.get(direction=Direction.OUTBOUND).sender == other


# one person under several spellings


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("5511987654321", "551187654321"),
        ("551187654321", "5511987654321"),
        ("5215512345678", "525512345678"),
        ("541123456789", "5491123456789"),
        ("385991234567", "+385 99 123\u00a04567"),
        ("385991234567", 385991234567),
    ],
)
@pytest.mark.parametrize("together", [True, False])
def test_an_end_user_has_one_conversation_whichever_spelling_came_first(
    acme: World, first: str, then: object, together: bool
) -> None:
    one, two = text(acme, "one") | {"from": first}, text(acme, "two") | {"from": then}
    for batch in [[one, two]] if together else [[one], [two]]:
        receive_webhook(acme.account, batch)
    conversation = Conversation.objects.get()
    assert conversation.subject == first
    assert list(Message.objects.order_by("position").values_list("text", flat=True)) == ["one", "two"]


def test_our_own_number_is_known_under_each_of_its_spellings(acme: World) -> None:
    Sender.objects.filter(pk=acme.sender.pk).update(number="5511987654321")
    receive_webhook(acme.account, [text(acme, "hello") | {"to": "551187654321"}])
    assert Message.objects.get().sender_id == acme.sender.pk


def test_words_arrive_though_from_is_missing_where_the_contact_names_the_writer(acme: World) -> None:
    written = text(acme, "hello") | {"contact": {"name": "Ana", "userId": "HR.1234567890"}}
    del written["from"]
    receive_webhook(acme.account, [written])
    assert Conversation.objects.get().subject == "HR.1234567890"


def test_a_window_is_never_longer_than_a_day_from_now_and_a_fast_clock_makes_nothing_late(acme: World) -> None:
    ahead = (timezone.now() + timedelta(hours=20)).isoformat()
    receive_webhook(acme.account, [text(acme, "from the future") | {"receivedAt": ahead}])
    closes = Conversation.objects.get().window_closes_at
    assert closes is not None and closes <= timezone.now() + timedelta(hours=24)
    Lane.objects.filter(direction=Direction.INBOUND).update(carried_until=Message.objects.get().written_at)
    receive_webhook(acme.account, [text(acme, "afterwards")])
    assert not Message.objects.get(text="afterwards").late


def test_a_message_whose_id_is_a_number_is_one_however_often_it_comes(acme: World) -> None:
    for _ in range(2):
        receive_webhook(acme.account, [text(acme, "hello") | {"messageId": 12345678901234567890}])
    assert Message.objects.get().source_entry == "12345678901234567890"
