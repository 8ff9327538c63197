"""Webhooks that are rightly signed and wrongly filled: with absurd times, shapes and characters."""

import asyncio
import json
from typing import Any
from uuid import uuid4

from tests.faults.people import People, result
from tests.faults.scene import ORGS, USERS

MARK = "poison"  # in each of them that nobody can read; what it becomes is nobody's loss
# fields at the side, which must not cost the message
ODD_FIELDS: tuple[dict[str, Any], ...] = (
    {"receivedAt": "0001-01-01T00:00:00.000+0000"},
    {"receivedAt": "9999-12-31T23:59:59.999+0000"},
    {"receivedAt": "9999-12-31T23:59:59.999-1400"},
    {"receivedAt": "2026-02-30T25:61:00.000+0000"},
    {"receivedAt": "yesterday"},
    {"receivedAt": None},
    {"receivedAt": 12345678901234567890},
    {"receivedAt": ["2026-11-27"]},
    {"contact": {"name": "x" * 10_000}},
    {"contact": {"name": "Ana\u0000\ud800"}},
    {"contact": {"name": {"first": "Ana"}}},
    {"contact": "Ana"},
    {"price": "nothing", "keyword": ["\u0000"]},
    {"integrationType": 7},
)
MESSAGES: tuple[Any, ...] = (
    None,
    [],
    "text",
    {"type": "TEXT"},
    {"type": "TEXT", "text": 17},
    {"type": "TEXT", "text": f"{MARK} \u0000 \ud800 \udfff"},
    {"type": "NOBODY KNOWS", "text": {"text": []}},
    {"type": ["TEXT"], "text": MARK},
    {"type": "LOCATION", "latitude": 1e308, "longitude": "east"},
    {"type": "IMAGE", "url": "javascript:1", "caption": "\u0000"},
)
SHAPES: tuple[Any, ...] = (
    *([], 0, "", None, MARK, {MARK: 1}, {"results": None, MARK: 1}, {"results": {MARK: 1}}),
    {"results": [[], None, 7, "", [[[MARK]]], MARK, {MARK: None}]},
)


def reports() -> list[dict[str, Any]]:
    """Write reports of nothing, at no time."""
    status = {"groupId": 3, "id": 5, "groupName": "DELIVERED", "name": "DELIVERED_TO_HANDSET"}
    times = ("0001-01-01T00:00:00.000+0000", "9999-12-31T23:59:59.999+0000", "", None, -1)
    return [{"messageId": str(uuid4()), "doneAt": at, "sentAt": at, "status": status, MARK: True} for at in times]


def unreadable(user: int, sender: str) -> list[bytes]:
    """Write what nobody can read."""
    plain = result(user, sender, MARK)
    results = [{**plain, "message": message, "messageId": f"{MARK} {uuid4()}"} for message in MESSAGES]
    for odd_id in ("", MARK * 1000, 17, None, ["\u0000"], f"{MARK} \u0000"):
        results.append({**plain, "messageId": odd_id})
    for odd_sender in ("", "9" * 300, None, [MARK], "\u0000", -1):
        results.append({**plain, "from": odd_sender, "messageId": f"{MARK} {uuid4()}"})
    bodies: list[Any] = [{"results": [each], "note": MARK} for each in (*results, *reports())]
    nested = b'{"results": [{"note": "' + MARK.encode() + b'", "message": ' + b"[" * 900 + b"]" * 900 + b"}]}"
    written = [json.dumps(body).encode() for body in (*bodies, *SHAPES, {"results": [*results, *reports()]})]
    return [*written, nested, b"\xff\xfe" + MARK.encode(), b""]


async def spread_poison(people: People, org: int, seconds: float) -> None:
    """Post all of it for one org, within some seconds: what can be read until it is taken, the rest once."""
    scene, company = people.scene, people.scene.companies[org]
    users = [user for user in range(USERS) if user % ORGS == org]
    bodies = unreadable(users[0], company.sender)
    pause = seconds / (len(bodies) + len(ODD_FIELDS))
    writing = []
    for place, odd in enumerate(ODD_FIELDS):
        user = users[place % len(users)]
        text = f"inbound {user} {next(people.serials)}: it should have come"
        writing.append(asyncio.create_task(people.write(user, (text,), **odd)))
        await asyncio.sleep(pause)
    for body in bodies:
        status = str(await people.post(company, body))
        scene.answers[status] = scene.answers.get(status, 0) + 1
        await asyncio.sleep(pause)
    await asyncio.gather(*writing)
