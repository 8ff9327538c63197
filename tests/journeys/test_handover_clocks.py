"""A hand-over shows each line once and in order, whatever Infobip's clock says: it tells whole seconds, or is wrong."""

import time
from typing import Any

import pytest

from devstack.stack import Stack
from tests.journeys.chatting import (
    END,
    Chat,
    begin,
    hand_over,
    set_up,
    theirs,
    told,
    wait_for_end_of_transcript,
    write,
    writing_on,
)

CLOCKS = pytest.mark.parametrize("ahead", [0, -60, 60])  # seconds
EVENTS = pytest.mark.parametrize("events", [True, False])  # whether events tell both ids of a message


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


@EVENTS
def test_a_line_that_the_transcript_never_shows_is_relayed_after_it(chat: Chat, events: bool) -> None:
    journey, _, _ = chat
    set_up(chat, ahead=-60, events=events)
    write(chat, "Hi")
    time.sleep(0.5)
    set_up(chat, ahead=-60, events=events, lag=40)
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


@pytest.mark.parametrize(("ahead", "events"), [(0, True), (-60, False), (60, True)])
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
