"""Sessions end once, and only themselves; a welcome comes before a rep's first word or not at all."""

import threading
from collections.abc import Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest
import responses
from django.db import transaction
from django.utils import timezone

from connector.events import SessionEnded
from connector.http import ServiceUnavailable
from messaging import delivery, housekeeping, retention, sessions
from messaging.claims import Waiting
from messaging.delivery import Result, deliver
from messaging.dispatcher import Dispatcher, Room, Work
from messaging.ingest import ingest
from messaging.ledger import Arrival
from messaging.models import (
    NOTICE,
    Conversation,
    Direction,
    EarlyRep,
    EventSubscription,
    Lane,
    Message,
    Outcome,
    Session,
    Status,
)
from messaging.queue import append_own
from tenants.models import Sender, WelcomeWhen
from tenants.tenancy import every_org
from tests.conftest import World, reply_record
from tests.messaging.test_sessions import CONVERSATION, ID, OTHER, attend, begin, said, tell
from tests.support.happenings import in_another_connection

pytestmark = pytest.mark.django_db
STREAM = "/event/Infobip_Event__e"


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


@pytest.fixture
def dispatcher() -> Dispatcher:
    held = threading.Event()
    held.set()
    return Dispatcher(cast(Any, SimpleNamespace(number=101, held=held, may_judge=lambda: False)), 8, threading.Event())


def take(dispatcher: Dispatcher, direction: Direction) -> list[Work]:
    Lane.objects.exclude(direction=direction).update(due_at=None)
    return list(dispatcher.turn([], Room(8, [])).work)


# records that are gone


class Records:
    """What Salesforce's query of records answers."""

    def __init__(self, salesforce: responses.RequestsMock) -> None:
        self.salesforce = salesforce
        url = "https://acme.my.salesforce.com/services"
        salesforce.get(f"{url}/data/", json=[{"version": "66.0"}])
        token = {"access_token": "t", "instance_url": "https://acme.my.salesforce.com"}
        salesforce.post(f"{url}/oauth2/token", json=token)
        self.url = f"{url}/data/v66.0/query"

    def answer(self, *records: dict[str, str]) -> None:
        self.salesforce.get(self.url, json={"done": True, "records": list(records)})


@pytest.fixture
def records() -> Iterator[Records]:
    with responses.RequestsMock(assert_all_requests_are_fired=False) as salesforce:
        yield Records(salesforce)


def test_a_session_whose_record_was_deleted_ends(acme: World, session: Session, records: Records) -> None:
    attend()
    records.answer({"Id": ID, "Status": "Active"})
    housekeeping.ask(acme.org.pk, [ID])
    records.answer()
    records.answer({"Id": OTHER})  # there are others that we may see
    housekeeping.ask(acme.org.pk, [ID])
    attend()
    assert Session.objects.get().state == Session.State.ENDED and said() == ["Hang tight.", "Goodbye."]


def test_a_session_whose_record_was_never_seen_is_not_taken_for_ended(
    acme: World, session: Session, records: Records
) -> None:
    """The record may be a moment behind the answer that named it."""
    attend()
    records.answer()
    records.answer({"Id": OTHER})
    housekeeping.ask(acme.org.pk, [ID])
    assert Session.objects.get().state == Session.State.OPEN


def test_a_session_that_was_followed_by_another_or_is_a_day_old_needs_not_to_have_been_seen(
    acme: World, session: Session, records: Records
) -> None:
    other = begin(acme, "14155550100", "0Mw5g000000OtherAA")
    sessions.open_sessions([sessions.Opening(acme.org.pk, session.conversation_id, CONVERSATION, OTHER)])
    Session.objects.filter(pk=other.pk).update(opened_at=timezone.now() - timedelta(days=2))
    records.answer()
    records.answer({"Id": "0Mw5g000000ThirdAA"})
    housekeeping.ask(acme.org.pk, [ID, OTHER, other.salesforce_id])
    ended = Session.objects.filter(state=Session.State.ENDED).values_list("salesforce_id", flat=True)
    assert sorted(ended) == sorted([ID, other.salesforce_id])


def test_when_an_org_hides_its_records_no_session_ends_of_that_and_it_is_said(
    acme: World, session: Session, records: Records
) -> None:
    attend()
    records.answer({"Id": ID, "Status": "Active"})
    housekeeping.ask(acme.org.pk, [ID])
    records.answer()
    housekeeping.ask(acme.org.pk, [ID])
    session.refresh_from_db()
    assert session.state == Session.State.OPEN and housekeeping.HIDDEN in session.problem


# who comes before the session is known


def test_a_rep_who_comes_before_the_session_is_known_gets_the_welcome_sent(acme: World) -> None:
    acme.channel.welcome_message, acme.channel.welcome_when = "Hang tight.", WelcomeWhen.JOINED
    acme.channel.save()
    sessions.note_reps(acme.org.pk, CONVERSATION, joined=True, left=False)
    begin(acme)
    attend()
    assert said() == ["Hang tight."]


def test_a_rep_who_came_to_the_session_before_this_one_is_not_taken_for_one_of_this(acme: World) -> None:
    acme.channel.welcome_message, acme.channel.welcome_when = "Hang tight.", WelcomeWhen.JOINED
    acme.channel.save()
    sessions.note_reps(acme.org.pk, CONVERSATION, joined=True, left=False)
    EarlyRep.objects.update(at=timezone.now() - timedelta(minutes=2))
    begin(acme)
    attend()
    assert said() == []


def test_a_rep_to_whom_a_session_is_passed_on_is_not_taken_for_one_of_the_next(acme: World, session: Session) -> None:
    acme.channel.welcome_message, acme.channel.welcome_when = "Hang tight.", WelcomeWhen.JOINED
    acme.channel.save()
    for _ in range(2):  # the second one is passed the session
        sessions.note_reps(acme.org.pk, CONVERSATION, joined=True, left=False)
    attend()
    sessions.end(acme.org.pk, ID)
    sessions.open_sessions([sessions.Opening(acme.org.pk, session.conversation_id, CONVERSATION, OTHER)])
    attend()
    assert said().count("Hang tight.") == 1


def test_a_rep_of_another_org_is_not_taken_for_one_of_this(acme: World, rival: World) -> None:
    acme.channel.welcome_message, acme.channel.welcome_when = "Hang tight.", WelcomeWhen.JOINED
    acme.channel.save()
    sessions.note_reps(rival.org.pk, CONVERSATION, joined=True, left=False)
    begin(acme)
    attend()
    assert said() == []


def test_early_reps_are_forgotten_after_a_day(acme: World) -> None:
    sessions.note_reps(acme.org.pk, CONVERSATION, joined=True, left=False)
    retention.purge()
    assert EarlyRep.objects.exists()
    EarlyRep.objects.update(at=timezone.now() - timedelta(hours=25))
    retention.purge()
    assert not EarlyRep.objects.exists()


# no welcome after a rep's word


def test_there_is_no_welcome_after_a_rep_has_written(acme: World, session: Session) -> None:
    tell(acme, STREAM, reply_record(acme, "How can I help?", entry="e1"))
    attend()
    assert said() == []


def test_what_a_rep_wrote_in_the_session_before_keeps_no_welcome_back(acme: World, session: Session) -> None:
    tell(acme, STREAM, reply_record(acme, "How can I help?", entry="e1"))
    attend()
    sessions.end(acme.org.pk, ID)
    attend()
    sessions.open_sessions([sessions.Opening(acme.org.pk, session.conversation_id, CONVERSATION, OTHER)])
    attend()
    assert said() == ["Goodbye.", "Hang tight."]


def test_nor_while_the_end_of_that_session_is_not_known(acme: World, session: Session) -> None:
    tell(acme, STREAM, reply_record(acme, "How can I help?", entry="e1"))
    Message.objects.filter(source_entry="e1").update(created_at=timezone.now() - timedelta(minutes=1))
    sessions.open_sessions([sessions.Opening(acme.org.pk, session.conversation_id, CONVERSATION, OTHER)])
    Session.objects.filter(salesforce_id=ID).update(greeted_at=timezone.now())
    attend()
    assert said() == ["Hang tight."]


# a chatbot gets back what is over, and nothing else


def test_what_waits_to_be_shown_when_a_session_ends_keeps_the_conversation_from_the_chatbot(
    acme: World, session: Session
) -> None:
    """It opens the next session, and what follows it must not be the chatbot's meanwhile."""
    Message.objects.update(status=Status.PENDING)
    sessions.end(acme.org.pk, ID)
    lane = Lane.objects.get(direction=Direction.INBOUND)
    assert lane.with_rep_since is not None
    Message.objects.update(status=Status.SENT)
    sessions.open_sessions([sessions.Opening(acme.org.pk, session.conversation_id, CONVERSATION, OTHER)])
    sessions.end(acme.org.pk, OTHER)
    lane.refresh_from_db()
    assert lane.with_rep_since is None


@pytest.mark.django_db(transaction=True)
def test_ends_of_sessions_that_come_crosswise_do_not_lock_each_other_out(acme: World) -> None:
    users = [f"38599{n:07d}" for n in range(8)]
    for n, user in enumerate(users):
        begin(acme, user, f"0Mw5g00000{n:08d}")
        Conversation.objects.filter(subject=user).update(identifier=f"conversation {n}")
    failed: list[Exception] = []

    def end_all(numbers: list[int]) -> None:
        for _ in range(6):
            try:
                with transaction.atomic():
                    ingest([ended_arrival(acme, n) for n in numbers])
            except Exception as exc:
                failed.append(exc)

    numbers = list(range(len(users)))
    threads = [in_another_connection(lambda: end_all(numbers)), in_another_connection(lambda: end_all(numbers[::-1]))]
    for thread in threads:
        thread.join()
    assert failed == []


def ended_arrival(world: World, n: int) -> Arrival:
    """The news that the nth session has ended, as if it had come once more."""
    subscription, _ = EventSubscription.objects.get_or_create(
        org=world.org, topic=STREAM, defaults={"since": timezone.now()}
    )
    arrival = Arrival(
        world.org.pk, None, subscription.pk, f"event:{uuid4()}", b"{}", received_at=timezone.now(), kind="end"
    )
    arrival.event = SessionEnded(f"conversation {n}", f"0Mw5g00000{n:08d}")
    return arrival


# a failure's line


def notice_of(session: Session) -> None:
    conversation = session.conversation
    entry = f"{NOTICE}e1"
    append_own(
        conversation.org_id, conversation.pk, conversation.channel_id, Direction.INBOUND, entry, "\u25b8 Not delivered"
    )


class Salesforce:
    """Answers the two calls that a failure's line may lead to, in place of the event loop that makes them."""

    def __init__(self, ended: bool | Exception) -> None:
        self.ended, self.calls = ended, list[str]()

    async def run(self, call: Any, *, seconds: float) -> Any:
        self.calls.append("ask" if call.method == "GET" else "post")
        if call.method == "POST":
            return None
        assert seconds <= delivery.ASK_SECONDS
        if isinstance(self.ended, Exception):
            raise self.ended
        return self.ended


async def deliver_notice(work: Work, salesforce: Salesforce) -> Result:
    assert work.message is not None
    return await deliver(cast(Any, salesforce), work.route, work.claim, work.message, seconds=14.0)


def test_a_failures_line_opens_no_new_session_when_the_end_is_only_not_yet_known(
    session: Session, dispatcher: Dispatcher
) -> None:
    notice_of(session)
    (work,) = take(dispatcher, Direction.INBOUND)
    salesforce = Salesforce(ended=True)
    result = run(deliver_notice(work, salesforce))
    assert salesforce.calls == ["ask"]
    dispatcher.turn([result], None)
    session.refresh_from_db()
    assert session.state == Session.State.ENDED  # the end is known now
    line = Message.objects.get(source_entry=f"{NOTICE}e1")
    assert (line.status, line.error) == (Status.FAILED, delivery.TOO_LATE)
    assert Lane.objects.get(direction=Direction.INBOUND).holder is None


def test_a_failures_line_is_for_an_open_session_only(session: Session, dispatcher: Dispatcher) -> None:
    notice_of(session)
    Conversation.objects.update(session_open=False)
    (work,) = take(dispatcher, Direction.INBOUND)
    salesforce = Salesforce(ended=False)
    assert run(deliver_notice(work, salesforce)).outcome is Outcome.REFUSED and salesforce.calls == []


@pytest.mark.parametrize("answer", [False, ServiceUnavailable("Salesforce", "no answer")])
def test_a_failures_line_is_shown_where_the_session_goes_on_or_nobody_can_tell(
    session: Session, dispatcher: Dispatcher, answer: bool | Exception
) -> None:
    notice_of(session)
    (work,) = take(dispatcher, Direction.INBOUND)
    salesforce = Salesforce(answer)
    assert run(deliver_notice(work, salesforce)).outcome is Outcome.SENT and salesforce.calls == ["ask", "post"]


def test_nobody_is_asked_about_what_an_end_user_wrote(session: Session, dispatcher: Dispatcher) -> None:
    Message.objects.update(status=Status.PENDING)
    (work,) = take(dispatcher, Direction.INBOUND)
    salesforce = Salesforce(ended=True)
    assert run(deliver_notice(work, salesforce)).outcome is Outcome.SENT and salesforce.calls == ["post"]


# replies from before there was a sender


def test_a_reply_from_before_any_sender_was_chosen_leaves_once_one_is(
    acme: World, rival: World, session: Session, dispatcher: Dispatcher
) -> None:
    number, account = acme.sender.number, acme.account
    Conversation.objects.update(last_sender=None)
    Message.objects.update(sender=None)
    acme.sender.delete()
    tell(acme, STREAM, reply_record(acme, "How can I help?", entry="e1"))
    (work,) = take(dispatcher, Direction.OUTBOUND)
    result = run(deliver(cast(Any, Salesforce(ended=False)), work.route, work.claim, message_of(work), seconds=14.0))
    assert result.outcome is Outcome.RETRY and not result.called and "no sender" in result.detail
    dispatcher.turn([result], None)
    sender = Sender.objects.create(org=acme.org, account=account, channel=acme.channel, number=number)
    Lane.objects.filter(direction=Direction.OUTBOUND).update(due_at=timezone.now(), retry_at=None)
    (work,) = take(dispatcher, Direction.OUTBOUND)
    assert work.route.sender == sender and message_of(work).sender_id == sender.pk
    # and so its reports find it
    assert Message.objects.get(source_entry="e1").sender_id == sender.pk


def message_of(work: Work) -> Waiting:
    assert work.message is not None
    return work.message


def run(coroutine: Any) -> Any:
    """Run what calls out to its end: nothing in it waits for anything."""
    try:
        while True:
            coroutine.send(None)
    except StopIteration as done:
        return done.value
