"""A number that was taken off its channel: nothing is taken for it, nothing leaves by it, and history goes on naming it."""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from messaging import due_sessions
from messaging.models import Conversation, Direction, Message, ReceivedEvent, Session, Status
from messaging.routes import Routes
from tenants import connecting
from tenants.models import Sender
from tenants.onboarding import keep_sender
from tenants.tenancy import every_org
from tests.conftest import World, delivery_report, whatsapp_text
from tests.messaging.test_ingest import reply
from tests.messaging.test_sessions import begin, said
from tests.support.happenings import receive_webhook

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def see_every_org() -> Iterator[None]:
    with every_org():
        yield


@pytest.fixture
def other(acme: World) -> Sender:
    """A second number of the channel, to which the end user has just written."""
    sender = keep_sender(acme.account, "447700900999", channel=acme.channel, chatbot_first=False)
    write(acme, sender)
    assert Conversation.objects.get().last_sender == sender
    return sender


def write(world: World, sender: Sender) -> None:
    receive_webhook(world.account, [whatsapp_text("hello", to=sender.number, message_id=f"wamid.{uuid4()}")])


def take_off(sender: Sender) -> None:
    connecting.choose_sender(sender.account, sender.number, channel=None, chatbot_first=False, who="Ada")


def test_answers_leave_by_the_channels_first_number_instead(acme: World, other: Sender) -> None:
    assert reply(acme).sender == other
    Message.objects.filter(direction=Direction.OUTBOUND).delete()
    acme.org.event_subscriptions.all().delete()
    take_off(other)
    assert reply(acme).sender == acme.sender


def test_a_number_that_was_the_channels_first_is_no_answers_way_out(acme: World) -> None:
    write(acme, acme.sender)
    keep_sender(acme.account, "447700900999", channel=acme.channel, chatbot_first=False)
    Conversation.objects.update(last_sender=None)
    take_off(acme.sender)
    answer = reply(acme)
    assert answer.sender is not None and answer.sender.number == "447700900999"


def test_texts_of_our_own_leave_by_the_channels_first_number_instead(acme: World, other: Sender) -> None:
    acme.channel.welcome_message = "Hang tight."
    acme.channel.save()
    session: Session = begin(acme)
    Conversation.objects.update(last_sender=other)
    take_off(other)
    due_sessions.process_due()
    assert session.org == acme.org and said() == ["Hang tight."]
    assert Message.objects.get(ours=True).sender == acme.sender


def test_what_waits_for_it_does_not_leave(acme: World, other: Sender) -> None:
    take_off(other)
    route = Routes().find([(acme.channel.pk, other.pk)])[acme.channel.pk, other.pk]
    assert route.sender is None and route.infobip is None


def test_what_is_written_to_it_is_kept_with_the_reason_and_taken_for_nothing(acme: World, other: Sender) -> None:
    before = Message.objects.count()
    take_off(other)
    write(acme, other)
    assert Message.objects.count() == before
    assert "not set up as a sender" in ReceivedEvent.objects.latest("pk").problem


def test_reports_on_what_it_sent_still_count(acme: World, other: Sender) -> None:
    message = reply(acme)
    take_off(other)
    receive_webhook(acme.account, [delivery_report(str(message.uuid))])
    message.refresh_from_db()
    assert message.status == Status.DELIVERED and message.sender == other


def test_chosen_again_it_is_the_same_sender(acme: World, other: Sender) -> None:
    take_off(other)
    assert keep_sender(acme.account, other.number, channel=acme.channel, chatbot_first=True).pk == other.pk
    other.refresh_from_db()
    assert other.retired_at is None and other.chatbot_first
    assert reply(acme).sender == other
