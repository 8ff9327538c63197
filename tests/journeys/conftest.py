"""The whole system, as in production: real processes, real sockets, both platforms played by the sandbox."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest

from devstack.documents import example_documents
from devstack.stack import Stack

Entry = dict[str, Any]


@dataclass(frozen=True)
class Company:
    """One org with its sender, as the far sides know it."""

    org: str
    channel_address: str
    sender: str
    webhook: str
    secret: str


class Journey:
    """What a test does at the far ends, and what it sees there since it began."""

    def __init__(self, stack: Stack, companies: list[Company]) -> None:
        self.stack, self.companies = stack, companies
        self.acme, self.rival = companies[:2]
        self.read_until: int = self.call("GET", "/control/journal?after=0")["last"]
        self.entries: list[Entry] = []

    def call(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        answer: dict[str, Any] = self.stack.control(method, path, body)
        return answer

    def write(self, text: str, *, user: str = "385991234567", company: Company | None = None, **more: object) -> Entry:
        """An end user writes; the answers of our door come back."""
        to = (company or self.acme).sender
        body = {"from": user, "to": to, "name": "Ana Horvat", "text": text, **more}
        return self.call("POST", "/control/phone/messages", body)

    def reply(self, text: str, *, conversation: str, company: Company | None = None) -> str:
        """A rep writes; gives the id of the entry."""
        body = {"org": (company or self.acme).org, "conversation": conversation, "text": text}
        return str(self.call("POST", "/control/console/replies", body)["entry"])

    def conversation(self, user: str = "385991234567", company: Company | None = None) -> str:
        """Give Salesforce's id of the conversation, beginning it where it has not begun."""
        company = company or self.acme
        hello = f"hello {time.time_ns()}"
        self.write(hello, user=user, company=company)
        return str(self.wait_for_one("interaction", text=hello)["conversation"])

    def seen(self, kind: str, **facts: object) -> list[Entry]:
        """Give the journal's entries of a kind since the test began, oldest first; `sender` stands for its `from`."""
        facts = {"from" if name == "sender" else name: value for name, value in facts.items()}
        journal = self.call("GET", f"/control/journal?after={self.read_until}")  # what was read before does not change
        self.entries += journal["entries"]
        self.read_until = journal["last"]
        return [
            entry
            for entry in self.entries
            if entry["kind"] == kind and all(entry.get(name) == value for name, value in facts.items())
        ]

    def wait_for(self, kind: str, count: int, *, seconds: float = 15, **facts: object) -> list[Entry]:
        """Wait until that many entries are there; then, since more would be too many, a little longer."""
        end = time.monotonic() + seconds
        while len(found := self.seen(kind, **facts)) < count:
            assert time.monotonic() < end, f"{len(found)} of {count} entries of the kind {kind} with {facts}"
            time.sleep(0.02)
        return found

    def wait_until(self, true: Callable[[], bool], *, seconds: float = 15) -> None:
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, "it did not come true"
            time.sleep(0.02)

    def wait_for_one(self, kind: str, *, seconds: float = 15, **facts: object) -> Entry:
        return self.wait_for(kind, 1, seconds=seconds, **facts)[0]

    def at_once(self, work: list[Callable[[], Any]]) -> list[Any]:
        with ThreadPoolExecutor(len(work)) as pool:
            return [future.result() for future in [pool.submit(each) for each in work]]


def move_in(stack: Stack, document: dict[str, Any]) -> Company:
    """Provision a company, and give what the far sides know of it."""
    result = stack.provision(document)
    channel, account = document["channels"][0], document["infobipAccounts"][0]
    return Company(
        org=document["org"]["orgId"],
        channel_address=channel["channelAddressIdentifier"],
        sender=channel["senders"][0]["number"],
        webhook=result["infobipAccounts"][0]["webhook"],
        secret=account["webhookSecret"],
    )


@pytest.fixture(scope="package")
def stack() -> Iterator[tuple[Stack, list[Company]]]:
    with pytest.MonkeyPatch.context() as environment:
        # services of its own: these tests stop and restart them
        environment.delenv("DATABASE_URL", raising=False)
        environment.delenv("REDIS_URL", raising=False)
        with Stack(processes=("web", "worker", "subscriber"), sandbox=True) as running:
            running.manage("migrate", "--no-input")
            documents = example_documents(running.salesforce_port, running.infobip_port, orgs=2)
            running.start()
            running.wait_ready()
            companies = [move_in(running, document) for document in documents]
            running.control("POST", "/control/reports", {"delivered": 0.05, "seen": 0.1, "auto": True})
            yield running, companies


@pytest.fixture
def journey(stack: tuple[Stack, list[Company]]) -> Iterator[Journey]:
    running, companies = stack
    yield Journey(running, companies)
    running.control("DELETE", "/control/faults")


@pytest.fixture(scope="package")
def bot(stack: tuple[Stack, list[Company]]) -> Company:
    """A company whose sender a chatbot has first."""
    running, _ = stack
    document = example_documents(running.salesforce_port, running.infobip_port, orgs=4)[3]
    document["channels"][0] |= {"welcomeMessage": "Hang tight.", "closingMessage": "Goodbye."}
    document["channels"][0]["senders"][0]["chatbotFirst"] = True
    return move_in(running, document)


@pytest.fixture
def chat(journey: Journey, bot: Company) -> Iterator[tuple[Journey, Company, str]]:
    """A journey at that company, with an end user of its own."""
    journey.call("POST", "/control/chatbot", {"org": bot.org, "lag": 0.3, "queues": False, "tellsEnd": True})
    yield journey, bot, f"38595{uuid4().int % 10**7:07d}"
    journey.call("POST", "/control/clock", {"ahead": 0})
    usual = {"lag": 2.5, "queues": False, "takesHistory": False, "pageSeconds": 0, "tellsEvents": True}
    journey.call("POST", "/control/chatbot", {"org": bot.org, **usual})
