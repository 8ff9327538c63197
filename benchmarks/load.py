"""The load: what is to be sent, and signed webhooks made in advance."""

import hashlib
import hmac
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

SIGNATURE_HEADER = "X-Hub-Signature"
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Company:
    """One org as the far sides know it."""

    org: str
    sender: str
    webhook: str
    secret: str
    document: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Target:
    """Where the webhooks of a load go, who signs them, and which end users write."""

    url: str
    secret: str
    sender: str
    first_user: int
    users: int


@dataclass(frozen=True, slots=True)
class Job:
    """A load: how many messages, how many of them in a webhook, and when they are sent.

    :param first: the number of the first message; a text begins with its message's number
    :param rate: webhooks a second at times fixed in advance; 0: as fast as they are taken
    :param at_once: requests under way, where they are sent as fast as they are taken
    :param seconds: when such a load ends, though messages are left
    """

    targets: list[Target]
    count: int
    first: int
    size: int = 1
    rate: float = 0.0
    at_once: int = 32
    seconds: float = 600.0


@dataclass(slots=True)
class Sent:
    """What became of a load; times are seconds of this machine's clock."""

    began: float = 0.0
    ended: float = 0.0
    cpu: float = 0.0  # seconds that the process that sent it used meanwhile
    first: int = 0
    latencies: list[float] = field(default_factory=list)  # seconds, from the time that was intended
    intended: list[float] = field(default_factory=list)  # by message
    statuses: dict[str, int] = field(default_factory=dict)

    @property
    def accepted(self) -> int:
        """Count what was answered 200."""
        return self.statuses.get("200", 0)

    @property
    def failures(self) -> int:
        """Count what was not."""
        return sum(self.statuses.values()) - self.accepted

    @property
    def rate(self) -> float:
        """Give how many were accepted a second."""
        return self.accepted / (self.ended - self.began)

    def intended_by_text(self) -> dict[str, float]:
        """Give when each message was to be sent, by its text."""
        return {text_of(self.first + place): at for place, at in enumerate(self.intended)}


def user(number: int) -> str:
    """Give an end user's phone number."""
    return f"38591{number:07d}"


def reserve(count: int) -> int:
    """Give the first of so many numbers that no other message has."""
    first = next(_numbers)
    for _ in range(count - 1):
        next(_numbers)
    return first


def text_of(number: int) -> str:
    """Write the text of a message, unlike any other of the run."""
    return f"{number}: where is the parcel that I ordered last Monday, please?"


def result(sender: str, user_number: int, number: int) -> dict[str, Any]:
    """Write one result of a webhook: https://www.infobip.com/docs/whatsapp/receive-messages"""
    return {
        "from": user(user_number),
        "to": sender,
        "integrationType": "WHATSAPP",
        "receivedAt": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "+0000",
        "messageId": f"wamid.bench.{number}",
        "message": {"type": "TEXT", "text": text_of(number)},
        "contact": {"name": f"User {user_number}"},
        "price": {"pricePerMessage": 0, "currency": "EUR"},
    }


def targets_of(companies: Sequence[Company], users: int, *, among: Sequence[Company], url: str = "") -> list[Target]:
    """Give the targets of companies, at their own addresses or at another one; each has end users of its own."""
    places = [each.org for each in among]
    return [
        Target(url or each.webhook, each.secret, each.sender, places.index(each.org) * users, users) for each in companies
    ]


def sign(body: bytes, secret: str) -> str:
    """Sign a body as Infobip does: https://www.infobip.com/docs/notification-profile/webhook-security"""
    return "SHA256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def request(url: str, body: bytes, headers: dict[str, str]) -> bytes:
    """Write a request as it goes over the wire."""
    parts = urlsplit(url)
    lines = [f"POST {parts.path or '/'} HTTP/1.1", f"Host: {parts.netloc}"]
    lines += [f"{name}: {value}" for name, value in ({"Content-Type": "application/json"} | headers).items()]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def webhooks(job: Job) -> list[tuple[Target, bytes]]:
    """Write and sign the webhooks of a load: targets in turn, and of each its end users in turn."""
    turns, written = [0] * len(job.targets), 0
    made: list[tuple[Target, bytes]] = []
    while written < job.count:
        place = len(made) % len(job.targets)
        target, results = job.targets[place], []
        for number in range(written, min(written + job.size, job.count)):
            results.append(result(target.sender, target.first_user + turns[place] % target.users, job.first + number))
            turns[place] += 1
        written += len(results)
        body = json.dumps({"results": results, "messageCount": len(results), "pendingMessageCount": 0}).encode()
        made.append((target, request(target.url, body, {SIGNATURE_HEADER: sign(body, target.secret)})))
    return made
