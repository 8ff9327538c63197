"""What a test does and sees of a chatbot that hands over to a rep."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from connector.events import MARK
from tests.journeys.conftest import Company, Entry, Journey

WELCOME, CLOSING = "Hang tight.", "Goodbye."
BEGIN, END = f"{MARK} Conversation with the chatbot", f"{MARK} End of the conversation with the chatbot"

Chat = tuple[Journey, Company, str]


def begin(chat: Chat, messages: list[dict[str, Any]]) -> str:
    """Let a conversation with the chatbot have gone on; gives its id at Infobip."""
    journey, bot, user = chat
    body = {"org": bot.org, "from": user, "to": bot.sender, "name": "Ana", "messages": messages}
    return str(journey.call("POST", "/control/chatbot/conversations", body)["conversation"])


def hand_over(chat: Chat, conversation: str, **more: object) -> list[dict[str, Any]]:
    journey, _, _ = chat
    body = {"conversation": conversation, **more}
    answers: list[dict[str, Any]] = journey.call("POST", "/control/chatbot/handover", body)["answers"]
    return answers


def told(chat: Chat) -> list[str]:
    """What the rep sees of this end user, in order."""
    journey, _, user = chat
    return [entry["text"] for entry in journey.seen("interaction", sender=user) if entry["status"] == 202]


def wait_for_end_of_transcript(chat: Chat, seconds: float = 30) -> Entry:
    journey, _, user = chat
    return journey.wait_for_one("interaction", sender=user, text=END, seconds=seconds)


def sent(chat: Chat, text: str) -> list[Entry]:
    journey, _, user = chat
    return journey.seen("send", to=user, text=text)


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
