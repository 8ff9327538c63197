"""A scripted conversation through all processes of a demo, which says what it saw."""

import time
from typing import Any

from devstack.documents import CHATBOT_SENDER
from devstack.family import StackError
from devstack.stack import Stack


class Check:
    """A scripted conversation through all processes, which says what it saw."""

    def __init__(self, stack: Stack, document: dict[str, Any]) -> None:
        self.stack = stack
        self.org = stack.control("GET", "/control/state")["orgs"][0]["orgId"]
        self.sender = document["channels"][0]["senders"][0]["number"]
        self.user = "385991234567"

    def run(self) -> int:
        """Talk, break things, and talk again; 0 if all of it arrived."""
        self.stack.control("POST", "/control/reports", {"delivered": 0.1, "seen": 1.0, "auto": True})
        try:
            conversation = self.inbound("Where is my order?")
            self.outbound("One moment, I will look.", conversation, "Delivered", "Read")
            self.stack.kill("worker")
            self.inbound("Are you there?", after="kill -9 of the worker")
            # a dead worker's receipts wait for its lease to end: by then the message is read, and only that is told
            self.outbound("Yes, I am.", conversation, "Read")
            self.stack.control("POST", "/control/streams/cut", {})
            self.outbound("It arrives tomorrow.", conversation, "Read", after="a cut of the stream")
            self.hand_over()
        except StackError as exc:
            print(f"  FAILED: {exc}", flush=True)
            for name in self.stack.children:
                print(f"\n--- {name}\n{self.stack.log_of(name)}", flush=True)
            return 1
        print("  All of it arrived.", flush=True)
        return 0

    def inbound(self, text: str, *, after: str = "") -> str:
        began = time.monotonic()
        message = {"from": self.user, "to": self.sender, "name": "Ana Horvat", "text": text}
        answers = self.stack.control("POST", "/control/phone/messages", message)["answers"]
        if [answer["status"] for answer in answers] != [200]:
            raise StackError(f"the webhook was answered with {answers}")
        entry = self.wait("interaction", text=text)
        self.say(f'the phone wrote "{text}", and the console shows it', began, after)
        return str(entry["conversation"])

    def outbound(self, text: str, conversation: str, *states: str, after: str = "") -> None:
        began = time.monotonic()
        reply = {"org": self.org, "conversation": conversation, "text": text}
        entry = self.stack.control("POST", "/control/console/replies", reply)["entry"]
        self.wait("send", text=text)
        self.say(f'the rep wrote "{text}", and the phone shows it', began, after)
        for state in states:
            self.wait("acknowledgement", id=entry, text=state)
            self.say(f"and the console shows it {state.lower()}", began)

    def hand_over(self) -> None:
        """Talk with the chatbot until it hands over, and end what comes of it."""
        began = time.monotonic()
        user = "385991234560"
        for text in ("Hi", "Talk to a person"):
            message = {"from": user, "to": CHATBOT_SENDER, "name": "Marta Vidal", "text": text}
            self.stack.control("POST", "/control/phone/messages", message)
        last = self.wait("interaction", **{"from": user}, text="\u25b8 End of the conversation with the chatbot")
        self.say("the chatbot handed over, and the console shows what was said", began)
        began = time.monotonic()
        self.stack.control("POST", "/control/console/end", {"session": last["session"]})
        self.wait("send", to=user, text="This conversation has ended. Message us again if you need help.")
        self.wait("conversation_closed", org=self.org)
        self.say("the rep ended the session, the phone shows the farewell, and the chatbot is back", began)

    def wait(self, kind: str, **facts: object) -> dict[str, Any]:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            for entry in self.stack.control("GET", "/control/journal?after=0")["entries"]:
                if entry["kind"] == kind and all(entry.get(name) == value for name, value in facts.items()):
                    return dict(entry)
            time.sleep(0.02)
        raise StackError(f"no {kind} with {facts} within 30 s")

    def say(self, what: str, began: float, after: str = "") -> None:
        print(f"  {f'after {after}, ' if after else ''}{what} ({(time.monotonic() - began) * 1000:.0f} ms)", flush=True)
