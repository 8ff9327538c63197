"""Sessions begin and end once, however often and by whatever way it is told."""

import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
import responses
from django.db import connection, transaction
from django.utils import timezone
from requests import PreparedRequest

from connector.salesforce.auth import AccessToken
from connector.salesforce.platform_events import SESSION_CHANGES, PlatformEvent, Topic
from connector.salesforce.rest import RestClient, static_token
from connector.salesforce.sessions import find_states
from messaging import batches, due_sessions, housekeeping, queue, sessions, subscriptions
from messaging.doctor import sessions_have_no_problem
from messaging.intake import StreamBatch, receive_stream_batches
from messaging.models import Conversation, Direction, EventSubscription, Handover, Lane, Message, Session, Status
from messaging.sessions import Opening
from tenants.cache import automatic_seen_at
from tenants.doctor import OrgSnapshot
from tenants.models import Org, WelcomeWhen
from tenants.tenancy import every_org
from tests.conftest import World, reply_record, whatsapp_text
from tests.support.happenings import receive_webhook

pytestmark = pytest.mark.django_db

ID, OTHER, CONVERSATION = "0Mw5g000000AbCdCAK", "0Mw5g000000ZzZzCAK", "c0a2c1b4-7f0e-4f6c-9a44-5d2f6f0e7b11"


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
    sessions.open_sessions([Opening(world.org.pk, conversation.pk, CONVERSATION, session_id)])
    Message.objects.filter(conversation=conversation, direction=Direction.INBOUND).update(status=Status.SENT)
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
    sessions.open_sessions([Opening(acme.org.pk, session.conversation_id, CONVERSATION, ID)])
    attend()
    attend()
    assert said() == ["Hang tight.", "Goodbye."]
    assert not Conversation.objects.get().session_open
    assert Session.objects.get().due_at is None


def test_the_end_of_a_session_that_was_never_heard_of_is_noted(acme: World, session: Session) -> None:
    Session.objects.all().delete()
    assert sessions.end(acme.org.pk, OTHER, conversation=CONVERSATION)
    attend()
    assert said() == ["Goodbye."]


def test_the_end_of_a_session_that_was_never_heard_of_changes_nothing_for_one_that_is_open(
    acme: World, session: Session
) -> None:
    """It is most likely the one before; the open one is asked about, in case it is not."""
    attend()
    relayed_handover(acme, session)
    become_due(session)
    Session.objects.update(due_at=timezone.now() + timedelta(minutes=5))
    sessions.end(acme.org.pk, OTHER, conversation=CONVERSATION)
    assert attend() == {acme.org.pk: [ID]}
    assert "Goodbye." not in said() and Lane.objects.get(direction=Direction.INBOUND).with_rep_since is not None


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
            "https://acme.my.salesforce.com/services/data/v66.0/query",
            json={"done": True, "records": [{"Id": ID, "Status": "Ended"}, {"Id": OTHER, "Status": "Active"}]},
        )
        tokens = static_token(AccessToken("t", "https://acme.my.salesforce.com"))
        client = RestClient(base_url="https://acme.my.salesforce.com", tokens=tokens, allow_local=False)
        # an id has fifteen characters, or three more that follow from them; what is not found is left out
        assert find_states(client, [ID[:15], OTHER, "it's"]) == {ID[:15]: True, OTHER: False}
        assert "'0Mw5g000000AbCd'" in (asked := str(found.calls[0].request.params["q"])) and r"it\'s" in asked


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
    subscriptions.add_missing()
    topics = {(lease.org_id, lease.topic.name) for lease in subscriptions.claim_streams(10)}
    events = {(world.org.pk, "/event/Infobip_Event__e") for world in (acme, rival)}
    assert topics == events | {(acme.org.pk, SESSION_CHANGES)}
    EventSubscription.objects.update(leased_until=timezone.now() - timedelta(seconds=1))
    acme.org.salesforce.session_changes = False
    acme.org.salesforce.save()
    assert {(lease.org_id, lease.topic.name) for lease in subscriptions.claim_streams(10)} == events


def sessions_of(world: World, count: int, *, prefix: str = "0Mw5g0", **more: Any) -> list[Session]:
    """Many sessions that opened a while ago, were greeted, and are to be asked about now."""
    now = timezone.now()
    conversations = Conversation.objects.bulk_create(
        Conversation(
            org=world.org,
            channel=world.channel,
            subject=f"{prefix[-1]}8591{n:07d}",
            identifier=f"{world.org.pk}-{prefix}-{n}",
            window_closes_at=now + timedelta(hours=20),
        )
        for n in range(count)
    )
    queue.create_lanes([(world.org.pk, each.pk) for each in conversations])
    given = {"opened_at": now - timedelta(minutes=1), "greeted_at": now, "due_at": now - timedelta(seconds=1)} | more
    return Session.objects.bulk_create(
        Session(org=world.org, conversation=each, salesforce_id=f"{prefix}{n:09d}", **given)
        for n, each in enumerate(conversations)
    )


def test_more_sessions_than_one_query_may_name_are_asked_about_each_once_in_as_few_queries(acme: World) -> None:
    known = {each.salesforce_id for each in sessions_of(acme, 450)}
    asked = [attend() for _ in range(5)]
    queries = [found[acme.org.pk] for found in asked if found]
    assert [len(ids) for ids in queries] == [200, 200, 200]  # the last one takes along whose turn comes next
    assert {each for ids in queries for each in ids} == known


def test_an_org_with_many_due_sessions_delays_nobody_elses_text(
    acme: World, session: Session, rival: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(due_sessions, "MOST_OF_TURN", 10)
    monkeypatch.setattr(due_sessions, "MOST_TEXTS_OF_TURN", 2)
    hour_ago = timezone.now() - timedelta(hours=1)
    rival.channel.closing_message = "Goodbye."
    rival.channel.save()
    sessions_of(rival, 50, due_at=hour_ago, state=Session.State.ENDED, ended_at=hour_ago)
    attend()
    assert sorted(said()) == ["Goodbye.", "Hang tight."]


def test_an_org_whose_sessions_all_end_at_once_has_them_closed_in_several_turns(acme: World, session: Session) -> None:
    attend()
    sessions_of(acme, 50, state=Session.State.ENDED, ended_at=timezone.now())
    closed = []
    for _ in range(4):
        attend()
        closed.append(said().count("Goodbye."))
    assert closed == [20, 40, 50, 50]


def test_a_session_that_raises_is_counted_and_stops_nobody_elses(acme: World, rival: World) -> None:
    for world in (acme, rival):
        world.channel.welcome_message = "Hang tight."
        world.channel.save()
    acme.channel.translations = {"hr": None}
    acme.channel.save()
    poisoned, neighbour = begin(acme), begin(acme, "14155550100", "0Mw5g000000OtherAA")
    begin(rival)
    Conversation.objects.filter(pk=neighbour.conversation_id).update(window_closes_at=None)  # needs no text
    for tries in range(1, due_sessions.MOST_FAILURES + 1):
        Session.objects.filter(pk=poisoned.pk).update(due_at=timezone.now())
        attend()
        assert said() == ["Hang tight."]  # the rival's
        neighbour.refresh_from_db()
        assert neighbour.greeted_at is not None and neighbour.problem == ""
        poisoned.refresh_from_db()
        assert "AttributeError" in poisoned.problem and poisoned.due_at is not None
        if tries < due_sessions.MOST_FAILURES:
            assert (poisoned.tries, poisoned.greeted_at) == (tries, None)
            assert timezone.now() < poisoned.due_at < timezone.now() + timedelta(seconds=30)
    assert poisoned.greeted_at is not None and poisoned.due_at is not None
    assert poisoned.due_at - timezone.now() > timedelta(minutes=4)
    become_due(poisoned)
    assert ID in attend()[acme.org.pk]  # it goes on without its text
    poisoned.refresh_from_db()
    assert "AttributeError" in poisoned.problem
    (finding,) = sessions_have_no_problem(OrgSnapshot(acme.org))
    assert "AttributeError" in finding.found and ID in finding.found


def test_a_closing_text_that_raises_does_not_keep_the_conversation_from_its_chatbot(acme: World, session: Session) -> None:
    work = relayed_handover(acme, session)
    attend()
    acme.channel.translations = {"hr": None}
    acme.channel.save()
    sessions.end(acme.org.pk, ID)
    for _ in range(due_sessions.MOST_FAILURES):
        work.refresh_from_db()
        assert work.state == Handover.State.RELAYED
        Session.objects.filter(pk=session.pk).update(due_at=timezone.now())
        attend()
    work.refresh_from_db()
    session.refresh_from_db()
    assert work.state == Handover.State.ENDING and work.due_at is not None
    assert session.due_at is None and "AttributeError" in session.problem
    assert said() == ["Hang tight."]


def relayed_handover(world: World, session: Session) -> Handover:
    return Handover.objects.create(
        org=world.org,
        account=world.account,
        conversation=session.conversation,
        infobip_conversation="c",
        end_user="385991234567",
        state=Handover.State.RELAYED,
        called_at=timezone.now(),
    )


def test_a_row_that_cannot_even_be_read_stops_nobody_elses(acme: World, rival: World) -> None:
    for world in (acme, rival):
        world.channel.welcome_message = "Hang tight."
        world.channel.save()
    poisoned = begin(acme)
    begin(rival)
    with connection.cursor() as cursor:  # PostgreSQL keeps years that Python has not
        cursor.execute("UPDATE messaging_session SET joined_at = '12026-01-01' WHERE id = %s", [poisoned.pk])
    attend()
    assert said() == ["Hang tight."]
    assert Session.objects.values_list("tries", "problem").get(pk=poisoned.pk)[0] == 1


def test_a_disconnected_org_is_neither_asked_nor_greeted_and_its_hand_overs_end(acme: World, session: Session) -> None:
    work = relayed_handover(acme, session)
    Org.objects.filter(pk=acme.org.pk).update(disconnected_at=timezone.now())
    become_due(session)
    assert attend() == {} and said() == []
    sessions.end(acme.org.pk, ID)
    attend()
    work.refresh_from_db()
    assert said() == [] and work.state == Handover.State.ENDING
    Org.objects.filter(pk=acme.org.pk).update(disconnected_at=None)


def test_an_org_that_comes_back_is_asked_about_again(acme: World, session: Session) -> None:
    Org.objects.filter(pk=acme.org.pk).update(disconnected_at=timezone.now())
    become_due(session)
    attend()
    session.refresh_from_db()
    assert session.due_at is not None and session.greeted_at is None
    Org.objects.filter(pk=acme.org.pk).update(disconnected_at=None)
    become_due(session)
    assert attend() == {acme.org.pk: [ID]} and said() == ["Hang tight."]


def test_a_channel_without_a_sender_says_so(acme: World, session: Session) -> None:
    Conversation.objects.update(last_sender=None)
    Message.objects.update(sender=None)
    acme.sender.delete()
    attend()
    session.refresh_from_db()
    assert said() == [] and "no sender" in session.problem and session.greeted_at is not None


def test_the_end_of_an_older_session_that_we_hear_of_late_changes_nothing_for_the_younger_one(
    acme: World, session: Session
) -> None:
    attend()
    sessions.open_sessions([Opening(acme.org.pk, session.conversation_id, CONVERSATION, "0Mw5g000000YoungAA")])
    attend()
    work = relayed_handover(acme, session)
    assert sessions.end(acme.org.pk, ID)
    attend()
    work.refresh_from_db()
    assert "Goodbye." not in said() and work.state == Handover.State.RELAYED
    assert Lane.objects.get(direction=Direction.INBOUND).with_rep_since is not None
    sessions.end(acme.org.pk, "0Mw5g000000YoungAA")
    attend()
    work.refresh_from_db()
    assert said().count("Goodbye.") == 1 and work.state == Handover.State.ENDING
    assert Lane.objects.get(direction=Direction.INBOUND).with_rep_since is None


def test_a_welcome_is_not_said_again_when_the_message_is_gone(session: Session) -> None:
    attend()
    Message.objects.filter(ours=True).delete()
    become_due(session)
    attend()
    assert said() == []


def test_a_text_whose_session_was_not_written_down_is_not_queued_again(acme: World, session: Session) -> None:
    attend()
    Session.objects.update(greeted_at=None, due_at=timezone.now())
    attend()
    sessions.end(acme.org.pk, ID)
    attend()
    Session.objects.update(due_at=timezone.now())
    attend()
    assert said() == ["Hang tight.", "Goodbye."]


@pytest.mark.django_db(transaction=True)
def test_two_workers_say_the_welcome_once(session: Session) -> None:
    together = threading.Barrier(4)

    def work() -> None:
        with every_org():
            together.wait(5)
            due_sessions.process_due()
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert said() == ["Hang tight."]


@pytest.mark.django_db(transaction=True)
def test_who_holds_a_conversations_lanes_for_long_stops_nobody_elses_text(
    acme: World, session: Session, rival: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "LOCK_SECONDS", 0.3)
    rival.channel.welcome_message = "Welcome."
    rival.channel.save()
    begin(rival)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with every_org(), transaction.atomic():
            queue.lock_conversations([session.conversation_id])
            held.set()
            done.wait(10)
        connection.close()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(5)
    try:
        attend()
        assert said() == ["Welcome."]
        session.refresh_from_db()
        assert session.tries == 0  # nobody's fault
    finally:
        done.set()
        thread.join(5)
    attend()
    assert sorted(said()) == ["Hang tight.", "Welcome."]


def test_an_id_that_is_none_of_a_record_spoils_no_query(acme: World, session: Session) -> None:
    odd = begin(acme, "14155550100", "it's no id")
    for each in (session, odd):
        become_due(each)
    assert attend() == {acme.org.pk: [ID]}
    odd.refresh_from_db()
    assert odd.due_at is None and "id" in odd.problem


def test_while_an_org_is_asked_its_other_sessions_wait_a_moment(acme: World, session: Session) -> None:
    become_due(session)
    Session.objects.update(quick_checks=2)
    assert due_sessions.process_due(lambda _org_id: False) == ({}, True)  # the welcome goes out all the same
    session.refresh_from_db()
    assert said() == ["Hang tight."] and session.quick_checks == 2
    assert session.due_at is not None and session.due_at - timezone.now() < timedelta(seconds=5)


def test_what_salesforce_does_not_answer_is_kept_and_forgotten_when_it_does(acme: World, session: Session) -> None:
    attend()
    url = "https://acme.my.salesforce.com/services"
    with responses.RequestsMock() as salesforce:
        salesforce.get(f"{url}/data/", status=503)
        housekeeping.ask(acme.org.pk, [ID])
    session.refresh_from_db()
    assert session.problem.startswith(sessions.NOT_ASKED)
    with responses.RequestsMock() as salesforce:
        salesforce.get(f"{url}/data/", json=[{"version": "66.0"}])
        salesforce.post(f"{url}/oauth2/token", json={"access_token": "t", "instance_url": "https://acme.my.salesforce.com"})
        salesforce.get(f"{url}/data/v66.0/query", json={"done": True, "records": []})
        housekeeping.ask(acme.org.pk, [ID])
    session.refresh_from_db()
    assert (session.problem, session.state) == ("", Session.State.OPEN)


@pytest.mark.django_db(transaction=True)
def test_no_database_connection_is_held_while_salesforce_is_asked(acme: World, session: Session) -> None:
    held: list[bool] = []

    def answer(_request: PreparedRequest) -> tuple[int, dict[str, str], str]:
        held.append(connection.connection is not None)
        return 503, {}, ""

    with responses.RequestsMock() as salesforce:
        salesforce.add_callback("GET", "https://acme.my.salesforce.com/services/data/", answer)
        housekeeping.ask(acme.org.pk, [ID])
    assert held == [False]


def test_an_ended_session_is_closed_by_what_salesforce_answers(acme: World, session: Session) -> None:
    attend()
    url = "https://acme.my.salesforce.com/services"
    with responses.RequestsMock() as salesforce:
        salesforce.get(f"{url}/data/", json=[{"version": "66.0"}])
        salesforce.post(f"{url}/oauth2/token", json={"access_token": "t", "instance_url": "https://acme.my.salesforce.com"})
        records = [{"Id": ID, "Status": "Ended"}, {"Id": "0Mw5g000000UnknwnA", "Status": "Ended"}]
        salesforce.get(f"{url}/data/v66.0/query", json={"done": True, "records": records})
        housekeeping.ask(acme.org.pk, [ID])
    attend()
    assert said() == ["Hang tight.", "Goodbye."]


@pytest.mark.parametrize("forward", [True, False])
def test_automatic_responses_are_sent_on_or_not_and_seen(acme: World, forward: bool) -> None:
    acme.channel.forward_automatic = forward
    acme.channel.save()
    record = reply_record(acme, "We will be with you soon.", entry=str(uuid4()))
    record["Payload__c"] = record["Payload__c"].replace('"messageReason": null', '"messageReason": "AutomatedResponse"')
    tell(acme, "/event/Infobip_Event__e", record)
    assert Message.objects.filter(direction=Direction.OUTBOUND).count() == (1 if forward else 0)
    assert automatic_seen_at(acme.channel.pk) != ""
