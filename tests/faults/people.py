"""Writes: end users through signed webhooks of our own, as Infobip posts them, and reps through the sandbox."""

import asyncio
import itertools
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp

from benchmarks.load import SIGNATURE_HEADER, sign
from benchmarks.load import user as number
from tests.faults.checker import Sent
from tests.faults.scene import CLOCK_AHEAD, ORGS, USERS, Company, Scene
from tests.faults.schedule import Turn

RETRY_WAITS = (0.3, 0.6, 1.0)  # seconds; Infobip's first is two minutes
AT_ONCE = 20
GREETING_SECONDS = 60.0


class People:
    """The end users and reps of a scene."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.serials = itertools.count(1_000_000)  # of texts that no schedule has planned

    async def greet(self) -> None:
        """Let every end user write once, through the sandbox, so that its phones and its console know them."""
        scene = self.scene

        async def hello(user: int) -> None:
            text = f"inbound {user} 0: hello"
            message = {"from": number(user), "to": scene.company(user).sender, "name": f"User {user}", "text": text}
            begun = scene.now()
            answer = await scene.control("POST", "/control/phone/messages", message)
            taken = all(each["status"] == 200 for each in answer["answers"])
            scene.text_of_entry[answer["messageId"]] = text
            scene.sent[text] = Sent(text, "inbound", user % ORGS, user, begun, scene.now() if taken else None)

        for begin in range(0, USERS, AT_ONCE):
            await asyncio.gather(*(hello(user) for user in range(begin, min(begin + AT_ONCE, USERS))))
        while len(scene.conversations) < USERS:
            await asyncio.sleep(0.1)
            if scene.now() > GREETING_SECONDS:
                raise RuntimeError(f"{USERS - len(scene.conversations)} end users never reached the console")

    async def take(self, turn: Turn) -> None:
        """Write the texts of a turn."""
        if turn.direction == "outbound":
            for text in turn.texts:
                await self.reply(turn.user, text)
        elif turn.manner == "after":
            for text in turn.texts:
                await self.write(turn.user, (text,))
        elif turn.manner == "batch":
            await self.write(turn.user, turn.texts)
        else:  # together or twice
            copies = 2 if turn.manner == "twice" else 1
            await asyncio.gather(*(self.write(turn.user, (text,), copies=copies) for text in turn.texts))

    async def reply(self, user: int, text: str) -> None:
        """Let a rep write."""
        scene, begun = self.scene, self.scene.now()
        reply = {"org": scene.company(user).org, "conversation": scene.conversations[user], "text": text}
        entry = (await scene.control("POST", "/control/console/replies", reply))["entry"]
        scene.text_of_entry[entry] = text
        scene.sent[text] = Sent(text, "outbound", user % ORGS, user, begun, scene.now())

    async def write(self, user: int, texts: Sequence[str], copies: int = 1, **odd: Any) -> None:
        """Let an end user write, with one webhook, whose fields may be ``odd``."""
        scene, company = self.scene, self.scene.company(user)
        results = [{**result(user, company.sender, text), **odd} for text in texts]
        for text, each in zip(texts, results, strict=True):
            scene.sent[text] = Sent(text, "inbound", user % ORGS, user, scene.now(), None)
            scene.text_of_entry[each["messageId"]] = text
        body = json.dumps({"results": results, "messageCount": len(results), "pendingMessageCount": 0}).encode()
        await asyncio.gather(*(self.post_until_taken(company, body) for _ in range(2 if scene.doubling else copies)))
        for text in texts:
            scene.sent[text] = replace(scene.sent[text], accepted=scene.now())

    async def post_until_taken(self, company: Company, body: bytes) -> None:
        """Post a webhook until it is answered 200, as Infobip does."""
        for wait in itertools.chain(RETRY_WAITS, itertools.repeat(RETRY_WAITS[-1])):
            lost, begun = self.scene.losing, time.monotonic()
            if await self.post(company, body) == 200 and not lost:
                return
            if lost:  # the answer never came: the webhook is sent again when its time is over
                await asyncio.sleep(max(0.0, begun + 0.5 - time.monotonic()))
            await asyncio.sleep(wait)

    async def post(self, company: Company, body: bytes) -> int:
        """Post a signed webhook once; gives the status, 0 where there is no answer."""
        headers = {"Content-Type": "application/json", SIGNATURE_HEADER: sign(body, company.secret)}
        with suppress(aiohttp.ClientError, TimeoutError):
            async with self.scene.client.post(company.webhook, data=body, headers=headers) as answer:
                await answer.read()
                return answer.status
        return 0

    async def surge(self, count: int) -> None:
        """Let so many end users and as many reps write at once, of all orgs but the last: a backlog."""
        users = [user for user in range(USERS) if user % ORGS != ORGS - 1][:count]
        serial = next(self.serials)
        replies = [self.reply(user, f"outbound {user} {serial}: one moment please") for user in users]
        await asyncio.gather(*replies, *(self.write(user, (f"inbound {user} {serial}: hello all",)) for user in users))


def result(user: int, sender: str, text: str) -> dict[str, Any]:
    """Write one result of a webhook: https://www.infobip.com/docs/whatsapp/receive-messages"""
    return {
        "from": number(user),
        "to": sender,
        "integrationType": "WHATSAPP",
        # whole seconds, as WhatsApp's, by a clock that is wrong
        "receivedAt": (datetime.now(UTC) + timedelta(seconds=CLOCK_AHEAD)).strftime("%Y-%m-%dT%H:%M:%S.000+0000"),
        "messageId": f"wamid.{text.split(':')[0].replace(' ', '.')}",
        "message": {"type": "TEXT", "text": text},
        "contact": {"name": f"User {user}"},
        "price": {"pricePerMessage": 0, "currency": "EUR"},
    }
