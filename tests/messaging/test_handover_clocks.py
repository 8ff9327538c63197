"""A hand-over compares no clocks: Infobip's is not ours, and WhatsApp's tells whole seconds."""

import json
from collections.abc import Iterator
from datetime import timedelta

import pytest
import responses
from django.db import transaction
from django.utils import timezone

from messaging import claims, handover, results
from messaging.claims import Given
from messaging.delivery import Result
from messaging.models import Handover, LeftMessage, Message, Outcome, TranscriptLine
from tenants.models import TranscriptForm
from tenants.tenancy import every_org
from tests.conftest import World, whatsapp_text
from tests.messaging.handing_over import (
    BEGIN,
    CLOCKS,
    END,
    URL,
    call,
    conversation_event,
    hear,
    import_all,
    line,
    pass_time,
    stamp,
    step,
    tell,
    waiting,
    write,
)
from tests.support.happenings import receive_webhook

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def see_every_org() -> Iterator[None]:
    with every_org():
        yield


# whose a message is


@CLOCKS
def test_what_comes_after_the_conversation_became_the_reps_is_relayed_whatever_its_time(
    chatbot: World, infobip: responses.RequestsMock, ahead: float
) -> None:
    asked = line("A person, please", at=stamp(ahead))
    tell(infobip, [asked])
    work = step(call(chatbot))
    write(chatbot, "during", at=stamp(ahead).isoformat())
    import_all(work)
    write(chatbot, "after", at=stamp(ahead).isoformat())
    assert waiting() == [BEGIN, "A person, please", END, "during", "after"]


@CLOCKS
def test_what_came_before_and_is_not_in_the_transcript_is_relayed_after_it(
    chatbot: World, infobip: responses.RequestsMock, ahead: float
) -> None:
    first = line("Hi", at=stamp(ahead))
    hear(chatbot, first, "wamid.1")
    write(chatbot, "A person, please", at=stamp(ahead).isoformat())
    tell(infobip, [first])
    work = step(call(chatbot))
    write(chatbot, "during", at=stamp(ahead).isoformat())
    for _ in range(2):
        assert step(work).state == Handover.State.READING and work.found_at is None  # it may be late
    pass_time(work, seconds=20)
    step(work)
    assert step(work).state == Handover.State.RELAYED
    assert waiting() == [BEGIN, "Hi", END, "A person, please", "during"]
    late = line("A person, please", at=stamp(ahead))
    hear(chatbot, late, str(Message.objects.get(text="A person, please").source_entry))
    assert waiting() == [BEGIN, "Hi", END, "A person, please", "during"]


@CLOCKS
@pytest.mark.parametrize("events", [True, False])
def test_a_webhook_that_comes_after_its_line_was_shown_is_not_relayed(
    chatbot: World, infobip: responses.RequestsMock, ahead: float, events: bool
) -> None:
    asked = line("yes", at=stamp(ahead))
    tell(infobip, [asked])
    import_all(call(chatbot))
    if events:
        hear(chatbot, asked, "wamid.1")
    write(chatbot, "yes", message_id="wamid.1", at=asked["createdAt"])
    assert waiting() == [BEGIN, "yes", END]
    write(chatbot, "yes", at=stamp(ahead).isoformat())  # the same word, to the rep
    assert waiting() == [BEGIN, "yes", END, "yes"]


def test_an_event_that_names_another_line_shows_that_a_message_was_taken_for_one_that_says_the_same(
    chatbot: World, infobip: responses.RequestsMock
) -> None:
    asked, again = line("yes"), line("yes")
    tell(infobip, [asked])
    import_all(call(chatbot))
    write(chatbot, "yes", message_id="wamid.2")
    assert waiting() == [BEGIN, "yes", END]
    hear(chatbot, again, "wamid.2")
    assert waiting() == [BEGIN, "yes", END, "yes"]
    write(chatbot, "yes", message_id="wamid.1")  # and this is the one of the line
    assert waiting() == [BEGIN, "yes", END, "yes"]


def test_a_line_is_taken_for_a_late_webhook_that_says_the_same_for_an_hour_only(
    chatbot: World, infobip: responses.RequestsMock
) -> None:
    tell(infobip, [line("yes")])
    import_all(call(chatbot))
    TranscriptLine.objects.update(read_at=timezone.now() - timedelta(minutes=61))
    write(chatbot, "yes")
    assert waiting() == [BEGIN, "yes", END, "yes"]


@pytest.mark.parametrize("event_first", [True, False])
def test_what_both_subscriptions_bring_one_before_and_one_after_the_call_is_there_once(
    chatbot: World, infobip: responses.RequestsMock, event_first: bool
) -> None:
    asked = line("A person, please", at=stamp(-60))
    both = [
        lambda: hear(chatbot, asked, "wamid.1"),
        lambda: write(chatbot, "A person, please", message_id="wamid.1", at=asked["createdAt"]),
    ]
    both[0 if event_first else 1]()
    tell(infobip, [line("Hi", at=stamp(-120)), asked])
    work = step(call(chatbot))
    both[1 if event_first else 0]()
    import_all(work)
    assert waiting() == [BEGIN, "Hi", "A person, please", END]


def test_what_is_of_long_ago_or_of_another_conversation_at_infobip_is_not_waited_for_and_not_relayed(
    chatbot: World, infobip: responses.RequestsMock
) -> None:
    write(chatbot, "of yesterday")
    LeftMessage.objects.update(arrived_at=timezone.now() - timedelta(minutes=3))
    other = conversation_event(line("to the bot, which solved it"), "wamid.other")
    other["payload"]["id"] = "another"
    receive_webhook(chatbot.account, [other])
    tell(infobip, [line("Hi")])
    import_all(call(chatbot))
    assert waiting() == [BEGIN, "Hi", END]


def test_two_kinds_of_webhooks_are_each_in_their_own_clocks_order(acme: World) -> None:
    """An event's clock may be a minute behind WhatsApp's: its later message must not come before an earlier one."""
    first = {"message_id": "wamid.1", "at": stamp().isoformat()}
    second = conversation_event(line("second", at=stamp(-60)), "wamid.2")
    result = whatsapp_text("first", to=acme.sender.number, user="385991234567", **first)
    receive_webhook(acme.account, [result, second])
    assert waiting() == ["first", "second"]


# when the transcript is complete


def test_where_no_event_told_of_a_line_the_wait_begins_when_the_conversation_is_the_reps(
    chatbot: World, infobip: responses.RequestsMock
) -> None:
    tell(infobip, [line("Hi")])
    work = call(chatbot)
    Handover.objects.filter(pk=work.pk).update(called_at=timezone.now() - timedelta(seconds=9))
    step(work)
    assert step(work).found_at is None
    pass_time(work, seconds=3)
    assert step(work).found_at is not None


def test_what_was_left_without_an_event_is_waited_for_by_what_it_says(
    chatbot: World, infobip: responses.RequestsMock
) -> None:
    write(chatbot, "A person, please")
    tell(infobip, [line("Hi")])
    work = step(call(chatbot))
    pass_time(work, seconds=5)
    assert step(work).found_at is None
    tell(infobip, [line("Hi"), line("A person, please")])
    assert step(work).found_at is not None


def test_of_a_transcript_that_cannot_be_read_the_end_users_own_words_are_relayed(
    chatbot: World, infobip: responses.RequestsMock
) -> None:
    first, asked = line("Hi"), line("A person, please")
    hear(chatbot, first, "wamid.1")
    hear(chatbot, asked, "wamid.2")
    tell(infobip, [first, asked])
    work = step(call(chatbot))
    write(chatbot, "are you there?")
    infobip.remove("GET", URL)
    infobip.get(URL, status=503)
    pass_time(work, minutes=16)
    assert step(work).state == Handover.State.RELAYED
    assert waiting()[1:] == ["Hi", "A person, please", "are you there?"]


def test_of_a_transcript_that_cannot_be_written_so_are_those_that_were_found_in_it(
    chatbot: World, infobip: responses.RequestsMock
) -> None:
    chatbot.channel.transcript, chatbot.channel.time_zone = TranscriptForm.COMPACT, "Nowhere/Land"
    chatbot.channel.save()
    asked = line("A person, please")
    hear(chatbot, asked, "wamid.1")
    tell(infobip, [asked])
    work = step(call(chatbot))
    for _ in range(handover.MOST_FAILURES + 1):
        step(work)
    assert work.state == Handover.State.RELAYED and work.settled
    assert waiting()[1:] == ["A person, please"]


# order


def test_lines_of_one_second_are_shown_in_the_order_of_infobips_list(
    chatbot: World, infobip: responses.RequestsMock
) -> None:
    at = stamp(-60)
    texts = [f"line {n}" for n in range(9)]
    tell(infobip, [line(text, at=at) for text in texts])
    import_all(call(chatbot))
    assert waiting() == [BEGIN, *texts, END]


def test_a_line_that_appears_late_stands_where_infobip_lists_it_though_its_clock_is_ahead(
    chatbot: World, infobip: responses.RequestsMock
) -> None:
    lines = [line(f"line {n}", at=stamp(30)) for n in range(3)]
    tell(infobip, [lines[0], lines[2]])
    work = step(call(chatbot))
    pass_time(work, seconds=4)
    step(work)
    tell(infobip, lines)
    step(work)
    assert waiting() == [BEGIN, "line 0", "line 1", "line 2", END]
    assert Message.objects.latest("written_at").written_at <= timezone.now()


def test_what_came_late_is_shown_where_it_was_written(chatbot: World, infobip: responses.RequestsMock) -> None:
    first, second = line("first"), line("second")
    hear(chatbot, second, "wamid.2")
    tell(infobip, [first, second])
    work = step(call(chatbot))
    write(chatbot, "first", message_id="wamid.1", at=first["createdAt"])  # Infobip tried its webhook again
    write(chatbot, "third")
    import_all(work)
    assert waiting() == [BEGIN, "first", "second", END, "third"]


def test_salesforces_history_has_a_time_of_its_own_for_each_line_of_one_second(
    chatbot: World, infobip: responses.RequestsMock
) -> None:
    chatbot.channel.transcript = TranscriptForm.NATIVE
    chatbot.channel.save()
    lines = [line(f"line {n}", at=stamp(-60)) for n in range(7)]
    tell(infobip, lines)
    infobip.post("https://acme.my.salesforce.com/services/oauth2/token", json={"access_token": "t"})
    history = "https://acme.my.salesforce-scrt.com/api/v1/conversationHistory"
    taken = {"conversationIdentifier": "c0a2c1b4", "messagingSessionId": "0Mw5g000000AbCdCAK"}
    infobip.post(history, json=taken)
    infobip.post(history, status=503)
    work = step(call(chatbot))
    pass_time(work, seconds=4)
    step(work)
    assert step(work).batches == 1
    tell(infobip, [*lines, line("late", by="BOT", at=stamp(-60))])  # changes nothing of what is under way
    infobip.post(history, json=taken)
    assert step(work).state == Handover.State.RELAYED
    sent = [json.loads(each.request.body or "") for each in infobip.calls if each.request.url == history]
    entries = [*sent[2]["conversationEntries"], *sent[0]["conversationEntries"]]
    texts = [each["entryPayload"]["abstractMessage"]["staticContent"]["text"] for each in entries]
    times = [each["clientTimestamp"] for each in entries]
    assert texts == [f"line {n}" for n in range(7)] and times == sorted(set(times))


def deliver() -> None:
    """Let everything leave, as a worker does."""
    with transaction.atomic():
        taken = claims.take([Given(due.id) for due in claims.lock_due(10)], holder=1)
        while any(message is not None for _, message in taken):
            ended = [
                Result(claim, message, Outcome.SENT, claim.endpoint_id) for claim, message in taken if message is not None
            ]
            taken = claims.take(results.record(ended, holder=1), holder=1)


def test_a_line_of_ours_makes_no_message_late_of_a_clock_that_is_behind(
    chatbot: World, infobip: responses.RequestsMock
) -> None:
    tell(infobip, [line("Hi", at=stamp(-90))])
    import_all(call(chatbot))
    deliver()
    assert waiting() == []
    write(chatbot, "hello?", at=stamp(-60).isoformat())
    assert not Message.objects.get(text="hello?").late
