"""Sessions end once, and only themselves, through all processes, whatever dies meanwhile."""

import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from connector.events import MARK
from devstack.documents import example_documents
from devstack.stack import Stack
from tests.journeys.conftest import Company, Entry, Journey, move_in

WELCOME, CLOSING = "Hang tight.", "Goodbye."


@pytest.fixture(scope="module")
def shop(stack: tuple[Stack, list[Company]]) -> Company:
    """A company with texts of its own."""
    running, _ = stack
    document = example_documents(running.salesforce_port, running.infobip_port, orgs=6)[5]
    document["channels"][0] |= {"welcomeMessage": WELCOME, "closingMessage": CLOSING}
    return move_in(running, document)


class Chat:
    """An end user of that company."""

    def __init__(self, journey: Journey, shop: Company) -> None:
        self.journey, self.shop = journey, shop
        self.user = f"38597{uuid4().int % 10**7:07d}"

    def write(self, text: str) -> Entry:
        """Write, and wait until the rep sees it."""
        self.journey.write(text, user=self.user, company=self.shop)
        return self.journey.wait_for_one("interaction", sender=self.user, text=text, status=202, seconds=30)

    def console(self, action: str, session: str) -> None:
        self.journey.call("POST", f"/control/console/{action}", {"session": session})

    def received(self, text: str) -> list[Entry]:
        return self.journey.seen("send", to=self.user, text=text)

    def shown(self) -> list[str]:
        """What the rep sees, in order."""
        return [each["text"] for each in self.journey.seen("interaction", sender=self.user) if each["status"] == 202]


@pytest.fixture
def chat(journey: Journey, shop: Company) -> Iterator[Chat]:
    # nobody tells the ends of sessions: they are found
    journey.call("POST", "/control/chatbot", {"org": shop.org, "queues": False, "tellsEnd": False})
    yield Chat(journey, shop)
    journey.call("POST", "/control/reports", {"delivered": 0.05, "seen": 0.1, "auto": True})
    journey.call("POST", "/control/chatbot", {"org": shop.org, "queues": False, "tellsEnd": True})


def test_a_failures_line_opens_no_new_session_before_the_end_is_known(chat: Chat) -> None:
    first = chat.write("hello")
    chat.journey.wait_for_one("send", to=chat.user, text=WELCOME)
    chat.journey.call("POST", "/control/faults", {"where": "send", "what": "delay", "seconds": 0.7, "count": 1})
    chat.journey.call("POST", "/control/faults", {"where": "send", "what": "status", "status": 400, "count": 1})
    entry = chat.journey.reply("too late", conversation=first["conversation"], company=chat.shop)
    chat.console("end", first["session"])  # before Infobip refuses the reply; and nobody tells us
    chat.journey.wait_until(lambda: any(entry in report.values() for report in chat.journey.seen("failure_report")))
    chat.journey.wait_for_one("send", to=chat.user, text=CLOSING)
    time.sleep(1)
    assert chat.shown() == ["hello"]
    again = chat.write("hello again")
    assert again["session"] != first["session"]
    assert not any(text.startswith(MARK) for text in chat.shown())


def test_a_session_whose_record_was_deleted_ends(chat: Chat, stack: tuple[Stack, Any]) -> None:
    others, first = Chat(chat.journey, chat.shop).write("hi"), chat.write("hello")
    chat.journey.wait_for_one("send", to=chat.user, text=WELCOME)
    ask_now = f"""
import time
from datetime import timedelta
from django.utils import timezone
from messaging.models import Session
from tenants.tenancy import every_org
with every_org():
    session = Session.objects.filter(salesforce_id__startswith="{first["session"][:15]}")
    session.update(due_at=timezone.now(), opened_at=timezone.now() - timedelta(minutes=1))
    for _ in range(100):
        if session.filter(seen=True):
            break
        time.sleep(0.1)
"""
    stack[0].manage("shell", "-c", ask_now)
    chat.console("delete", first["session"])
    stack[0].manage("shell", "-c", ask_now)
    assert others["session"] != first["session"]
    chat.journey.wait_for_one("send", to=chat.user, text=CLOSING, seconds=20)
    assert len(chat.received(CLOSING)) == 1


@pytest.mark.parametrize("how", ["by an event", "by the record"])
def test_a_worker_that_dies_as_a_session_ends_closes_it_once(chat: Chat, stack: tuple[Stack, Any], how: str) -> None:
    chat.journey.call("POST", "/control/chatbot", {"org": chat.shop.org, "queues": True, "tellsEnd": how == "by an event"})
    first = chat.write("hello")
    chat.console("accept", first["session"])
    chat.journey.wait_for_one("send", to=chat.user, text=WELCOME)
    chat.console("end", first["session"])
    stack[0].kill("worker")
    stack[0].restart("worker")
    chat.journey.wait_for_one("send", to=chat.user, text=CLOSING, seconds=40)
    second = chat.write("one more thing")
    assert second["session"] != first["session"]
    chat.console("accept", second["session"])
    chat.journey.wait_until(lambda: len(chat.received(WELCOME)) == 2)
    time.sleep(6)  # longer than the questions about a session that just opened
    assert len(chat.received(CLOSING)) == 1 and chat.shown() == ["hello", "one more thing"]
