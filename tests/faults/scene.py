"""What a campaign knows while it goes on: who lives in it, what was written, and what was seen."""

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp

from devstack.stack import Stack
from tests.faults.checker import REACHED, Fault, Seen, Sent

ORGS = 3
USERS = 200
CLOCK_AHEAD = -60  # seconds by which Infobip's clock is ahead of ours
PROCESSES = ("web", "worker", "worker.2", "subscriber")


@dataclass(frozen=True)
class Company:
    """One org as the far sides know it."""

    org: str
    sender: str
    webhook: str
    secret: str


@dataclass(slots=True)
class Scene:
    """The stack, its orgs, and all that has happened; times are seconds since the load began."""

    stack: Stack
    companies: list[Company]
    client: aiohttp.ClientSession
    began: float = field(default_factory=time.time)
    sent: dict[str, Sent] = field(default_factory=dict)  # by text
    seen: list[Seen] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    conversations: dict[int, str] = field(default_factory=dict)  # by user
    text_of_uuid: dict[str, str] = field(default_factory=dict)
    text_of_entry: dict[str, str] = field(default_factory=dict)  # by the id of the platform where it was written
    reported: dict[str, str] = field(default_factory=dict)  # by uuid
    ticked: dict[str, str] = field(default_factory=dict)  # by entry
    answers: dict[str, int] = field(default_factory=dict)  # of the door to what nobody can read, by status
    failures: list[str] = field(default_factory=list)  # of the campaign, not of what it tries
    doubling: bool = False
    losing: bool = False
    last_news: float = 0.0
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)  # that must end before the campaign does

    def now(self) -> float:
        """Give the seconds since the load began."""
        return time.time() - self.began

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something beside."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            self.failures.append(f"the campaign itself failed: {type(exc).__name__}: {exc}")

    def begin(self) -> None:
        """Let the load begin now: what was before has negative times."""
        shift = self.now()
        self.began += shift
        for text, sent in self.sent.items():
            accepted = sent.accepted and sent.accepted - shift
            self.sent[text] = Sent(text, sent.direction, sent.org, sent.user, sent.begun - shift, accepted)
        self.seen = [Seen(seen.text, seen.uuid, seen.at - shift) for seen in self.seen]

    async def control(self, method: str, path: str, body: object = None) -> Any:
        """Call the sandbox's control API."""
        async with self.client.request(method, self.stack.page_url + path, json=body) as answer:
            if answer.status != 200:
                raise RuntimeError(f"{method} {path}: {answer.status} {await answer.text()}")
            return await answer.json()

    def company(self, user: int) -> Company:
        """Say whom an end user writes to."""
        return self.companies[user % ORGS]

    def note(self, entry: dict[str, Any]) -> None:
        """Note what a message or receipt did at a far side, by an entry of the sandbox's journal."""
        kind, at = entry["kind"], entry["at"] / 1000 - self.began
        if (kind == "interaction" and entry.get("status") == 202 and "text" in entry) or kind == "shown":
            if not is_planned(entry["text"]):
                return  # what became of poison
            self.seen.append(Seen(entry["text"], entry["id"], at))
            self.text_of_uuid[entry["id"]] = entry["text"]
            if kind == "interaction":
                self.conversations[int(entry["text"].split()[1])] = entry["conversation"]
        elif kind == "report" and entry.get("status") == 200:
            advance(self.reported, entry["id"], {"DELIVERED": "delivered", "SEEN": "read"}[entry["text"]])
        elif kind == "acknowledgement" and entry.get("status") == 200 and "id" in entry:
            advance(self.ticked, entry["id"], {"Delivered": "delivered", "Read": "read"}[entry["text"]])
        elif kind == "webhook" and entry.get("status") == 200 and self.text_of_entry.get(entry.get("id", "")) in self.sent:
            text = self.text_of_entry[entry["id"]]
            if self.sent[text].accepted is None:  # at a later try
                self.sent[text] = replace(self.sent[text], accepted=at)
        else:
            return
        self.last_news = self.now()


def is_planned(text: str) -> bool:
    """Tell a text that the campaign waits for, such as ``inbound 7 12: where is it``, from all others."""
    words = text.split(" ", 2)
    return words[0] in ("inbound", "outbound") and len(words) == 3 and words[1].isdecimal()


def advance(states: dict[str, str], key: str, state: str) -> None:
    """Keep the furthest state."""
    if REACHED[state] > REACHED.get(states.get(key, ""), 0):
        states[key] = state
