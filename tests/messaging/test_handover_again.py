"""A second hand-over of the same conversation repeats nothing, and one of a long conversation goes on where it was."""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import pytest
import responses
from django.utils import timezone
from requests import PreparedRequest

from messaging import due_sessions, handover, handover_steps, sessions
from messaging.models import Direction, Handover, Message, Status, TranscriptLine
from tenants.models import AtEnd, TranscriptForm
from tenants.tenancy import every_org
from tests.conftest import World
from tests.messaging.handing_over import (
    BEGIN,
    CLOCKS,
    END,
    URL,
    call,
    hear,
    import_all,
    line,
    open_session,
    pass_time,
    stamp,
    step,
    tell,
    waiting,
    write,
)

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def see_every_org() -> Iterator[None]:
    with every_org():
        yield


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
    Message.objects.filter(direction=Direction.INBOUND).update(status=Status.SENT)
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
