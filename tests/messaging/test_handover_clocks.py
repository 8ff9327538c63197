"""A hand-over compares no clocks: Infobip's is not ours, and WhatsApp's tells whole seconds."""

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import pytest
import responses
from django.db import transaction
from django.db.models import F
from django.utils import timezone
from requests import PreparedRequest

from messaging import claims, due_sessions, handover, handover_steps, results, sessions
from messaging.claims import Given
from messaging.delivery import Result
from messaging.models import Handover, LeftMessage, Message, Outcome, Status, TranscriptLine
from tenants.models import AtEnd, TranscriptForm
from tenants.tenancy import every_org
from tests.conftest import World, whatsapp_text
from tests.messaging.handing_over import (
    BEGIN,
    CONVERSATION,
    END,
    call,
    conversation_event,
    import_all,
    line,
    open_session,
    step,
    tell,
    waiting,
    write,
)
from tests.support.happenings import receive_webhook

pytestmark = pytest.mark.django_db(transaction=True)

URL = f"https://acme.api.infobip.com/ccaas/1/conversations/{CONVERSATION}/messages"
CLOCKS = pytest.mark.parametrize("ahead", [0, -60, 60])  # seconds


@pytest.fixture(autouse=True)
def see_every_org() -> Iterator[None]:
    with every_org():
        yield


def stamp(ahead: float = 0) -> datetime:
    """What a clock shows that tells whole seconds."""
    return (timezone.now() + timedelta(seconds=ahead)).replace(microsecond=0)


def hear(world: World, said: dict[str, Any], channel_id: str) -> None:
    """Let Infobip's event tell of a line."""
    receive_webhook(world.account, [conversation_event(said, channel_id)])


def pass_time(work: Handover, **more: float) -> None:
    """Let the conversation have been the reps' for so much longer."""
    Handover.objects.filter(pk=work.pk).update(held_at=F("held_at") - timedelta(**more))


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


# once more


@CLOCKS
@pytest.mark.parametrize("events", [True, False])
def test_a_second_hand_over_of_the_same_conversation_repeats_nothing_and_leaves_nothing_out(
    chatbot: World, infobip: responses.RequestsMock, ahead: float, events: bool
) -> None:
    chatbot.channel.at_end = AtEnd.LEAVE
    chatbot.channel.save()
    lines: list[dict[str, Any]] = []

    def say(text: str) -> None:
        lines.append(line(text, at=stamp(ahead)))
        if events:
            hear(chatbot, lines[-1], f"wamid.{len(lines)}")
        write(chatbot, text, message_id=f"wamid.{len(lines)}", at=lines[-1]["createdAt"])
        tell(infobip, lines)

    say("Hi")
    work = import_all(call(chatbot))
    open_session(work)
    say("yes")
    say("thank you")
    assert waiting() == [BEGIN, "Hi", END, "yes", "thank you"]
    sessions.end(chatbot.org.pk, "0Mw5g000000AbCdCAK")
    due_sessions.process_due()
    assert step(work).state == Handover.State.ENDED
    Message.objects.update(status=Status.SENT)
    say("me again")
    say("yes")
    assert waiting() == []
    import_all(call(chatbot))
    assert waiting() == [BEGIN, "me again", "yes", END]


@pytest.mark.parametrize("ids_are_kept", [True, False])
def test_a_second_compact_transcript_has_only_what_is_new(
    chatbot: World, infobip: responses.RequestsMock, ids_are_kept: bool
) -> None:
    chatbot.channel.transcript, chatbot.channel.at_end = TranscriptForm.COMPACT, AtEnd.LEAVE
    chatbot.channel.save()
    # where ids are kept, its clock is ahead: by times, what was said would be of after the session
    ahead = 60 if ids_are_kept else -60
    old = [line("Hi", at=stamp(ahead)), line("What can I do for you?", by="BOT", at=stamp(ahead))]
    tell(infobip, old)
    work = import_all(call(chatbot))
    Message.objects.update(status=Status.SENT)
    Handover.objects.filter(pk=work.pk).update(state=Handover.State.ENDED, ended_at=timezone.now())
    sessions.give_to_chatbot(chatbot.org.pk, work.conversation_id or 0)
    if not ids_are_kept:
        TranscriptLine.objects.all().delete()
    tell(infobip, [*old, line("me again", at=stamp(60))])
    import_all(call(chatbot))
    (text,) = waiting()
    assert text.startswith(BEGIN) and text.endswith("me again") and len(text.splitlines()) == 2


def test_lines_of_a_hand_over_of_which_no_ids_are_kept_are_known_by_their_messages_and_times(
    chatbot: World, infobip: responses.RequestsMock
) -> None:
    chatbot.channel.at_end = AtEnd.LEAVE
    chatbot.channel.save()
    first, bot = line("Hi", at=stamp(-60)), line("What can I do for you?", by="BOT", at=stamp(-50))
    tell(infobip, [first, bot])
    work = import_all(call(chatbot))
    Message.objects.update(status=Status.SENT)
    Handover.objects.filter(pk=work.pk).update(state=Handover.State.ENDED, ended_at=timezone.now())
    TranscriptLine.objects.all().delete()
    sessions.give_to_chatbot(chatbot.org.pk, work.conversation_id or 0)
    tell(infobip, [first, bot, line("me again", at=stamp(60))])
    import_all(call(chatbot))
    assert waiting() == [BEGIN, "me again", END]


# long ones


def pages_of(infobip: responses.RequestsMock, lines: list[dict[str, Any]]) -> list[int]:
    """Let Infobip give these lines page by page; gives the pages that are asked for."""
    asked: list[int] = []

    def answer(request: PreparedRequest) -> tuple[int, dict[str, str], str]:
        query = parse_qs(urlsplit(request.url or "").query)
        number, size = int(query["page"][0]), int(query["limit"][0])
        listed = lines[::-1] if query["orderBy"] == ["createdAt:desc"] else lines
        if query["orderBy"] == ["createdAt:asc"]:
            asked.append(number)
        body = {"messages": listed[number * size : (number + 1) * size], "pagination": {"totalItems": len(lines)}}
        return 200, {}, json.dumps(body)

    infobip.remove("GET", URL)
    infobip.add_callback("GET", URL, answer)
    return asked


def test_a_long_transcript_is_read_in_several_steps_and_goes_on_where_it_was(
    chatbot: World, infobip: responses.RequestsMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover_steps, "READ_SECONDS", 0.0)
    texts = [f"line {n:04d}" for n in range(1100)]
    asked = pages_of(infobip, [line(text, at=stamp(n - 2000)) for n, text in enumerate(texts)])
    work = step(call(chatbot))
    for number in range(4):
        assert (step(work).state, work.tries) == (Handover.State.READING, 0)
        assert asked == list(range(number + 1))
    Handover.objects.filter(pk=work.pk).update(due_at=timezone.now())
    (dead,) = handover.claim(1)  # and its worker dies
    Handover.objects.filter(pk=work.pk).update(leased_until=timezone.now() - timedelta(seconds=1))
    for _ in range(12):
        if work.state == Handover.State.RELAYED:
            break
        pass_time(work, seconds=2)
        step(work)
    handover.carry_on(dead)
    assert sorted(asked)[:3] == [0, 1, 2] and asked.count(2) == 1
    assert waiting() == [BEGIN, *texts, END]


def test_a_transcript_is_not_given_up_while_pages_come(chatbot: World, infobip: responses.RequestsMock) -> None:
    tell(infobip, [line("Hi")])
    work = step(call(chatbot))
    step(work)
    pass_time(work, minutes=20)
    infobip.remove("GET", URL)
    infobip.get(URL, status=503)
    assert (step(work).state, work.tries) == (Handover.State.READING, 1)
    Handover.objects.filter(pk=work.pk).update(page_at=timezone.now() - timedelta(minutes=16))
    assert step(work).state == Handover.State.RELAYED


def test_who_lost_the_lease_keeps_no_page(chatbot: World, infobip: responses.RequestsMock) -> None:
    asked = line("A person, please")
    tell(infobip, [asked])
    work = step(call(chatbot))

    def taken_over(_request: PreparedRequest) -> tuple[int, dict[str, str], str]:
        Handover.objects.filter(pk=work.pk).update(lease_id=uuid4())
        return 200, {}, json.dumps({"messages": [asked], "pagination": {"totalItems": 1}})

    infobip.remove("GET", URL)
    infobip.add_callback("GET", URL, taken_over)
    step(work)
    assert not TranscriptLine.objects.exists() and work.page_at is None


def test_the_texts_of_a_transcript_are_not_kept_beside_the_messages(
    chatbot: World, infobip: responses.RequestsMock
) -> None:
    tell(infobip, [line("Hi")])
    import_all(call(chatbot))
    assert [each.text for each in TranscriptLine.objects.all()] == [""]


def test_a_hand_over_that_an_older_release_had_read_to_its_end_is_read_anew(
    chatbot: World, infobip: responses.RequestsMock
) -> None:
    tell(infobip, [line("Hi")])
    work = step(call(chatbot))
    Handover.objects.filter(pk=work.pk).update(found_at=timezone.now(), complete_at=timezone.now())
    pass_time(work, seconds=4)
    assert step(work).state == Handover.State.RELAYED
    assert waiting() == [BEGIN, "Hi", END]
