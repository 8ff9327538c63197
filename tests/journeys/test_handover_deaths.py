"""A hand-over whose worker dies, or that takes longer than a lease, goes on where it was."""

import time
from typing import Any

import pytest

from devstack.stack import Stack
from tests.journeys.chatting import (
    BEGIN,
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


def test_a_worker_that_is_killed_during_the_import_costs_no_line_and_no_order(chat: Chat, stack: tuple[Stack, Any]) -> None:
    journey, _, _ = chat
    set_up(chat, ahead=-60)
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
