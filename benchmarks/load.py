"""The load: signed webhooks made in advance, sent as fast as they are taken or at times fixed in advance."""

import asyncio
import hashlib
import hmac
import itertools
import json
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import aiohttp

CALL_SECONDS = 10.0  # Infobip gives up on a webhook after some seconds; a refusal and a time-out both count as failures
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
class Webhook:
    """A request that is ready to go; ``texts`` are the messages in it, each unlike any other of the run."""

    url: str
    body: bytes
    headers: dict[str, str]
    texts: tuple[str, ...]


@dataclass(slots=True)
class Sent:
    """What became of a load; times are seconds of this machine's clock."""

    began: float = 0.0
    ended: float = 0.0
    latencies: list[float] = field(default_factory=list)  # seconds, from the time that was intended
    intended: dict[str, float] = field(default_factory=dict)  # by text
    statuses: Counter[str] = field(default_factory=Counter)

    @property
    def failures(self) -> int:
        """Count what was not answered 200."""
        return self.statuses.total() - self.statuses["200"]

    @property
    def rate(self) -> float:
        """Give how many were accepted a second."""
        return self.statuses["200"] / (self.ended - self.began)


def user(number: int) -> str:
    """Give an end user's phone number."""
    return f"38591{number:07d}"


def result(company: Company, user_number: int) -> dict[str, Any]:
    """Write one result of a webhook: https://www.infobip.com/docs/whatsapp/receive-messages"""
    number = next(_numbers)
    return {
        "from": user(user_number),
        "to": company.sender,
        "integrationType": "WHATSAPP",
        "receivedAt": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "+0000",
        "messageId": f"wamid.bench.{number}",
        "message": {"type": "TEXT", "text": f"{number}: where is the parcel that I ordered last Monday, please?"},
        "contact": {"name": f"User {user_number}"},
        "price": {"pricePerMessage": 0, "currency": "EUR"},
    }


def webhook(company: Company, results: Sequence[dict[str, Any]], url: str = "") -> Webhook:
    """Write and sign a webhook, for the account's own address unless another one is given."""
    body = json.dumps({"results": results, "messageCount": len(results), "pendingMessageCount": 0}).encode()
    signature = "SHA256=" + hmac.new(company.secret.encode(), body, hashlib.sha256).hexdigest()
    headers = {"Content-Type": "application/json", "X-Hub-Signature": signature}
    return Webhook(url or company.webhook, body, headers, tuple(each["message"]["text"] for each in results))


def webhooks(companies: Sequence[Company], count: int, *, users: int, url: str = "") -> list[Webhook]:
    """Write webhooks of one message each: companies in turn, and of each its end users in turn."""
    made = []
    for number in range(count):
        turn, place = divmod(number, len(companies))
        made.append(webhook(companies[place], [result(companies[place], place * users + turn % users)], url))
    return made


def batches(companies: Sequence[Company], count: int, *, users: int, size: int = 50) -> list[Webhook]:
    """Write webhooks of many messages each, for a backlog."""
    made = []
    for place, company in enumerate(companies):
        numbers = range(place, count, len(companies))
        results = [result(company, place * users + turn % users) for turn, _ in enumerate(numbers)]
        made += [webhook(company, results[begin : begin + size]) for begin in range(0, len(results), size)]
    return made


def session() -> aiohttp.ClientSession:
    """Make a client that opens as many connections as are needed, and does not use one that the door may be closing."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2)
    return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=CALL_SECONDS))


async def _post(client: aiohttp.ClientSession, each: Webhook, sent: Sent, intended: float) -> None:
    try:
        async with client.post(each.url, data=each.body, headers=each.headers) as answer:
            await answer.read()
            status = str(answer.status)
    except (aiohttp.ClientError, TimeoutError) as exc:
        status = type(exc).__name__
    sent.latencies.append(time.time() - intended)
    sent.statuses[status] += 1


async def closed_loop(
    client: aiohttp.ClientSession, load: Iterable[Webhook], *, at_once: int, seconds: float = 600
) -> Sent:
    """Keep so many requests under way, each followed by the next one, until the time or the load is over."""
    waiting = iter(load)
    sent = Sent(began=time.time())
    until = time.monotonic() + seconds

    async def post_on() -> None:
        for each in waiting:
            now = time.time()
            sent.intended.update(dict.fromkeys(each.texts, now))
            await _post(client, each, sent, now)
            if time.monotonic() > until:
                return

    await asyncio.gather(*(post_on() for _ in range(at_once)))
    sent.ended = time.time()
    return sent


async def open_loop(client: aiohttp.ClientSession, load: Sequence[Webhook], *, rate: float) -> Sent:
    """Send at times fixed in advance, whatever the answers do; latencies count from the time that was intended."""
    sent = Sent(began=time.time() + 0.05)
    tasks = []
    for number, each in enumerate(load):
        intended = sent.began + number / rate
        sent.intended.update(dict.fromkeys(each.texts, intended))
        await asyncio.sleep(max(0.0, intended - time.time()))
        tasks.append(asyncio.create_task(_post(client, each, sent, intended)))
    await asyncio.gather(*tasks)
    sent.ended = time.time()
    return sent
