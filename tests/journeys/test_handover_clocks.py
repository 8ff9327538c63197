"""A hand-over shows each line once and in order, whatever Infobip's clock says: it tells whole seconds, or is wrong."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from connector.events import MARK
from devstack.stack import Stack
from tests.journeys.chatting import BEGIN, END, Chat, begin, hand_over, told, wait_for_end_of_transcript

CLOCKS = pytest.mark.parametrize("ahead", [0, -60, 60])  # seconds
EVENTS = pytest.mark.parametrize("events", [True, False])  # whether events tell both ids of a message


def set_up(chat: Chat, *, ahead: float, events: bool = True, **more: object) -> None:
    journey, bot, _ = chat
    journey.call("POST", "/control/clock", {"ahead": ahead})
    journey.call("POST", "/control/chatbot", {"org": bot.org, "tellsEvents": events, **more})


def write(chat: Chat, text: str) -> str:
    journey, bot, user = chat
    journey.write(text, user=user, company=bot)
    return text


def theirs(chat: Chat) -> list[str]:
    """What the end user wrote, as the rep sees it."""
    return [text for text in told(chat) if not text.startswith(MARK)]


@contextmanager
def writing_on(chat: Chat, written: list[str]) -> Iterator[None]:
    """Let the end user write one line after the other meanwhile."""
    done = threading.Event()

    def write_on() -> None:
        while not done.wait(0.05):
            written.append(write(chat, f"line {len(written)}"))

    thread = threading.Thread(target=write_on)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(10)


@EVENTS
@CLOCKS
def test_what_is_written_just_before_during_and_just_after_the_import_is_there_once_and_in_order(
    chat: Chat, ahead: float, events: bool
) -> None:
    journey, _, _ = chat
    set_up(chat, ahead=ahead, events=events)
    written = [write(chat, "Hi"), write(chat, "yes"), write(chat, "yes")]
    with writing_on(chat, written):
        time.sleep(0.5)
        hand_over(chat, begin(chat, []))
        wait_for_end_of_transcript(chat)
        time.sleep(0.5)
    journey.wait_until(lambda: theirs(chat)[-1:] == written[-1:])
    time.sleep(0.5)  # what comes twice would come now
    assert theirs(chat) == written


@CLOCKS
def test_a_worker_that_is_killed_during_the_import_costs_no_line_and_no_order(
    chat: Chat, stack: tuple[Stack, Any], ahead: float
) -> None:
    journey, _, _ = chat
    set_up(chat, ahead=ahead)
    written = [write(chat, "Hi")]
    with writing_on(chat, written):
        time.sleep(0.3)
        hand_over(chat, begin(chat, []))
        journey.wait_until(lambda: bool(journey.seen("transcript_read", org=chat[1].org)))
        stack[0].kill("worker")
        time.sleep(1)
        journey.wait_until(lambda: len(told(chat)) > 3, seconds=60)
        stack[0].kill("worker")
        wait_for_end_of_transcript(chat, seconds=60)
    journey.wait_until(lambda: theirs(chat)[-1:] == written[-1:], seconds=60)
    assert list(dict.fromkeys(theirs(chat))) == written
    assert len(theirs(chat)) - len(written) <= 2  # the calls that were under way


@EVENTS
@CLOCKS
def test_a_line_that_the_transcript_never_shows_is_relayed_after_it(chat: Chat, ahead: float, events: bool) -> None:
    journey, _, _ = chat
    set_up(chat, ahead=ahead, events=events)
    write(chat, "Hi")
    time.sleep(0.5)
    set_up(chat, ahead=ahead, events=events, lag=40)
    write(chat, "A person, please")
    time.sleep(0.2)
    hand_over(chat, begin(chat, []))
    write(chat, "are you there?")
    wait_for_end_of_transcript(chat, seconds=40)
    journey.wait_until(lambda: "are you there?" in told(chat))
    assert theirs(chat) == ["Hi", "A person, please", "are you there?"]
    assert told(chat).index("A person, please") > told(chat).index(END)


@EVENTS
def test_a_webhook_that_comes_after_its_line_was_shown_shows_nothing_again(chat: Chat, events: bool) -> None:
    journey, bot, _ = chat
    set_up(chat, ahead=-60, events=events)
    write(chat, "Hi")
    lost = {"where": "webhook", "what": "status", "status": 503, "org": bot.org}
    journey.call("POST", "/control/faults", {**lost, "what": "timeout_before"})
    try:
        write(chat, "yes")
        time.sleep(0.5)
        hand_over(chat, begin(chat, []))
        time.sleep(1)
    finally:
        journey.call("DELETE", "/control/faults")
    wait_for_end_of_transcript(chat)
    assert theirs(chat) == ["Hi", "yes"]
    journey.call("POST", "/control/clock", {"retryScale": 0.001})
    try:
        time.sleep(1)
        assert theirs(chat) == ["Hi", "yes"]
        write(chat, "yes")  # again, and this time to the rep
        journey.wait_until(lambda: theirs(chat) == ["Hi", "yes", "yes"])
    finally:
        journey.call("POST", "/control/clock", {"retryScale": 1})


@EVENTS
@CLOCKS
def test_a_second_hand_over_of_the_same_conversation_repeats_nothing(
    chat: Chat, stack: tuple[Stack, Any], ahead: float, events: bool
) -> None:
    journey, bot, _ = chat
    leave = f"""
from tenants.models import Channel
from tenants.tenancy import every_org
with every_org():
    Channel.objects.filter(org__salesforce_id="{bot.org}").update(at_end="leave")
"""
    stack[0].manage("shell", "-c", leave)
    try:
        set_up(chat, ahead=ahead, events=events)
        written = [write(chat, "Hi"), write(chat, "A person, please")]
        hand_over(chat, conversation := begin(chat, []))
        session = wait_for_end_of_transcript(chat)["session"]
        written += [write(chat, "yes"), write(chat, "thank you")]
        journey.wait_until(lambda: theirs(chat) == written)
        journey.call("POST", "/control/console/end", {"session": session})
        journey.wait_for_one("send", to=chat[2], text="Goodbye.")
        time.sleep(0.5)  # the conversation is the chatbot's again
        written += [write(chat, "me again"), write(chat, "yes")]
        assert begin(chat, []) == conversation
        hand_over(chat, conversation)
        journey.wait_until(lambda: told(chat).count(END) == 2, seconds=30)
        written.append(write(chat, "hello?"))
        journey.wait_until(lambda: theirs(chat)[-1:] == ["hello?"])
        assert theirs(chat) == written
    finally:
        stack[0].manage("shell", "-c", leave.replace('"leave"', '"close"'))


@pytest.mark.timeout(180)
def test_a_transcript_that_takes_longer_to_read_than_a_lease_goes_on_where_it_was(
    chat: Chat, stack: tuple[Stack, Any]
) -> None:
    journey, bot, _ = chat
    lines = [{"text": f"line {n:03d}", "secondsAgo": 2000 - n} for n in range(900)]
    conversation = begin(chat, lines)
    set_up(chat, ahead=-60, pageSeconds=9)
    hand_over(chat, conversation)

    def pages() -> list[str]:
        return [entry["text"] for entry in journey.seen("transcript_read", org=bot.org, id=conversation)]

    journey.wait_until(lambda: len(pages()) >= 3, seconds=40)  # the newest lines, and two pages
    stack[0].kill("worker")
    journey.wait_until(lambda: "150 of 900" in pages(), seconds=90)
    journey.call("POST", "/control/chatbot", {"pageSeconds": 0})
    read = pages()[: pages().index("150 of 900") + 1]
    assert len(read) <= 1 + 4 + 1  # what was being read when the worker died is read again
    wait_for_end_of_transcript(chat, seconds=60)
    shown = told(chat)
    assert list(dict.fromkeys(shown)) == [BEGIN, *(line["text"] for line in lines), END]
    assert len(shown) <= 902 + 1
