"""Sessions begin and end once, however often and by whatever way it is told."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
import responses
from django.utils import timezone

from connector.salesforce.auth import AccessToken
from connector.salesforce.platform_events import SESSION_CHANGES, PlatformEvent, Topic
from connector.salesforce.rest import RestClient, static_token
from connector.salesforce.sessions import find_ended
from messaging import due_sessions, lanes, sessions, subscriber
from messaging.ingest import StreamBatch, receive_stream_batches, receive_webhook
from messaging.lanes import Opening
from messaging.models import Conversation, Direction, EventSubscription, Message, Session
from tenants.broker import automatic_seen_at
from tenants.models import WelcomeWhen
from tenants.tenancy import every_org
from tests.conftest import World, reply_record, whatsapp_text

pytestmark = pytest.mark.django_db

ID, CONVERSATION = "0Mw5g000000AbCdCAK", "c0a2c1b4-7f0e-4f6c-9a44-5d2f6f0e7b11"


@pytest.fixture(autouse=True)
def see_every_org() -> Iterator[None]:
    with every_org():
        yield


@pytest.fixture
def session(acme: World) -> Session:
    """An open session of somebody who has just written, with texts on their channel."""
    acme.channel.welcome_message, acme.channel.closing_message = "Hang tight.", "Goodbye."
    acme.channel.save()
    return begin(acme)


def begin(world: World, user: str = "385991234567", session_id: str = ID) -> Session:
    receive_webhook(
        world.account, [whatsapp_text("hello", to=world.sender.number, user=user, message_id=f"wamid.{uuid4()}")]
    )
    conversation = Conversation.objects.get(org=world.org, subject=user)
    lanes.open_sessions([Opening(world.org.pk, conversation.pk, CONVERSATION, session_id)])
    return Session.objects.get(org=world.org, salesforce_id=session_id)


def attend() -> dict[int, list[str]]:
    """Do what is due; gives the sessions to ask about."""
    to_ask, _ = due_sessions.process_due()
    return to_ask


def said() -> list[str]:
    """The texts of our own, in the order in which they leave."""
    own = Message.objects.filter(direction=Direction.OUTBOUND, ours=True)
    return list(own.order_by("lane", "position").values_list("text", flat=True))


def become_due(session: Session, *, opened_ago: timedelta = timedelta(minutes=1)) -> None:
    now = timezone.now()
    Session.objects.filter(pk=session.pk).update(due_at=now, opened_at=now - opened_ago)


def tell(world: World, topic: str, *records: dict[str, Any]) -> None:
    subscription, _ = EventSubscription.objects.get_or_create(
        org=world.org, topic=topic, defaults={"since": timezone.now() - timedelta(hours=1), "lease_id": uuid4()}
    )
    assert subscription.lease_id is not None
    receive_stream_batches(
        [
            StreamBatch(
                org_id=world.org.pk,
                subscription_id=subscription.pk,
                lease_id=subscription.lease_id,
                since=subscription.since,
                topic=Topic(topic, "00D", "EventType__c", "Payload__c"),
                events=[PlatformEvent(str(uuid4()), b"raw", record) for record in records],
                replay_id=b"place 1",
            )
        ]
    )


def test_the_welcome_is_said_once_as_the_session_opens(session: Session) -> None:
    for _ in range(3):
        attend()
        become_due(session)
    assert said() == ["Hang tight."]


def test_the_welcome_may_wait_for_the_first_rep(acme: World, session: Session) -> None:
    acme.channel.welcome_when = WelcomeWhen.JOINED
    acme.channel.save()
    attend()
    assert said() == []
    for _ in range(2):  # the second one is passed the session
        sessions.note_reps(acme.org.pk, CONVERSATION, joined=True, left=False)
        attend()
        become_due(session)
    assert said() == ["Hang tight."]


def test_out_of_hours_other_words_are_said(acme: World) -> None:
    tomorrow = (timezone.now() + timedelta(days=1)).strftime("%a").lower()
    acme.channel.welcome_message, acme.channel.out_of_hours_message = "Hang tight.", "We are closed."
    acme.channel.business_hours = {tomorrow: [["09:00", "17:00"]]}
    acme.channel.save()
    begin(acme)
    attend()
    assert said() == ["We are closed."]


def test_texts_are_in_the_language_of_the_end_users_country(acme: World) -> None:
    acme.channel.welcome_message, acme.channel.translations = "Hang tight.", {"hr": {"welcome": "Trenutak."}}
    acme.channel.save()
    begin(acme, "385991234567", ID)
    begin(acme, "14155550100", "0Mw5g000000AbCdCA2")
    attend()
    assert sorted(said()) == ["Hang tight.", "Trenutak."]


def test_nothing_is_said_to_whom_whatsapp_would_not_bring_it(session: Session) -> None:
    Conversation.objects.update(window_closes_at=timezone.now() - timedelta(seconds=1))
    attend()
    assert said() == []


def test_an_end_is_noted_once_and_an_answer_that_comes_late_does_not_undo_it(acme: World, session: Session) -> None:
    attend()
    assert sessions.end(acme.org.pk, ID, conversation=CONVERSATION) is True
    assert sessions.end(acme.org.pk, ID) is False
    lanes.open_sessions([Opening(acme.org.pk, session.conversation_id, CONVERSATION, ID)])
    attend()
    attend()
    assert said() == ["Hang tight.", "Goodbye."]
    assert not Conversation.objects.get().session_open
    assert Session.objects.get().due_at is None


def test_the_end_of_a_session_that_was_never_heard_of_is_noted(acme: World, session: Session) -> None:
    sessions.end(acme.org.pk, "0Mw5g000000ZzZzCAK", conversation=CONVERSATION)
    attend()
    assert said().count("Goodbye.") == 1


def test_an_end_in_another_org_changes_nothing_here(session: Session, rival: World) -> None:
    assert sessions.end(rival.org.pk, ID, conversation=CONVERSATION) is False
    assert Session.objects.get().state == Session.State.OPEN


def test_a_rep_who_goes_is_asked_about_soon_and_not_for_ever(acme: World, session: Session) -> None:
    attend()
    become_due(session)
    assert attend() == {acme.org.pk: [ID]}
    sessions.note_reps(acme.org.pk, CONVERSATION, joined=False, left=True)
    asked = 0
    for _ in range(5):
        session.refresh_from_db()
        assert session.due_at is not None
        if session.due_at - timezone.now() > timedelta(minutes=1):
            break
        become_due(session)
        asked += len(attend())
    assert asked == sessions.QUICK_CHECKS


def test_one_query_asks_about_all_sessions_of_an_org_and_their_next_turn_is_together(
    acme: World, session: Session, rival: World
) -> None:
    other = begin(acme, "14155550100", "0Mw5g000000OtherAA")
    elsewhere = begin(rival)
    attend()
    for each in (session, other, elsewhere):
        become_due(each)
    Session.objects.filter(pk__in=[other.pk, elsewhere.pk]).update(due_at=timezone.now() + timedelta(minutes=3))
    assert attend() == {acme.org.pk: [ID, "0Mw5g000000OtherAA"]}
    other.refresh_from_db()
    assert other.due_at is not None and other.due_at - timezone.now() > timedelta(minutes=4)


def test_a_session_that_has_just_opened_is_not_asked_about(session: Session) -> None:
    assert attend() == {}


def test_what_ended_is_asked_of_the_record(acme: World) -> None:
    with responses.RequestsMock() as salesforce:
        salesforce.get("https://acme.my.salesforce.com/services/data/", json=[{"version": "66.0"}])
        found = salesforce.get(
            "https://acme.my.salesforce.com/services/data/v66.0/query", json={"done": True, "records": [{"Id": ID}]}
        )
        tokens = static_token(AccessToken("t", "https://acme.my.salesforce.com"))
        client = RestClient(base_url="https://acme.my.salesforce.com", tokens=tokens, allow_local=False)
        assert find_ended(client, [ID, "it's"]) == [ID]
        assert "'0Mw5g000000AbCdCAK'" in (asked := str(found.calls[0].request.params["q"])) and r"it\'s" in asked


def test_a_published_change_of_a_session_has_it_asked_about(acme: World, session: Session) -> None:
    attend()
    header = {"entityName": "MessagingSession", "recordIds": [ID, "0Mw5g000000OtherAA"], "changeType": "UPDATE"}
    Session.objects.update(opened_at=timezone.now() - timedelta(minutes=1))
    tell(acme, SESSION_CHANGES, {"ChangeEventHeader": header, "Status": "Waiting"})
    assert attend() == {}
    tell(acme, SESSION_CHANGES, {"ChangeEventHeader": header, "Status": "Ended"})
    assert attend() == {acme.org.pk: [ID]}


def test_changes_of_sessions_are_read_of_orgs_that_publish_them_only(acme: World, rival: World) -> None:
    acme.org.salesforce.session_changes = True
    acme.org.salesforce.save()
    topics = {(lease.org_id, lease.topic.name) for lease in subscriber.claim_streams(10)}
    events = {(world.org.pk, "/event/Infobip_Event__e") for world in (acme, rival)}
    assert topics == events | {(acme.org.pk, SESSION_CHANGES)}
    EventSubscription.objects.update(leased_until=timezone.now() - timedelta(seconds=1))
    acme.org.salesforce.session_changes = False
    acme.org.salesforce.save()
    assert {(lease.org_id, lease.topic.name) for lease in subscriber.claim_streams(10)} == events


@pytest.mark.parametrize("forward", [True, False])
def test_automatic_responses_are_sent_on_or_not_and_seen(acme: World, forward: bool) -> None:
    acme.channel.forward_automatic = forward
    acme.channel.save()
    record = reply_record(acme, "We will be with you soon.", entry=str(uuid4()))
    record["Payload__c"] = record["Payload__c"].replace('"messageReason": null', '"messageReason": "AutomatedResponse"')
    tell(acme, "/event/Infobip_Event__e", record)
    assert Message.objects.filter(direction=Direction.OUTBOUND).count() == (1 if forward else 0)
    assert automatic_seen_at(acme.channel.pk) != ""
