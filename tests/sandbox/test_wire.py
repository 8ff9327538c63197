"""A row of the wire ends: where the message arrives, where it is refused for good, and where it makes room."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from sandbox.live import Live
from sandbox.wire import KEPT, Wire, is_final
from tests.sandbox.far_sides import ANA, SENDER, far_sides, text_interaction
from tests.sandbox.test_infobip import text


async def row_of_reply(sides: Any, fault: dict[str, Any] | None, **change: Any) -> dict[str, Any]:
    """Let the rep reply and the connector send it, with a fault or with something wrong in it; gives its row."""
    _, conversation, _ = await sides.ana_and_the_rep()
    if fault:
        await sides.control("POST", "/control/faults", {"where": "send", "count": 1, **fault})
    body = text() | change
    await sides.control("POST", "/control/console/replies", {"conversation": conversation, "text": "Hello Ana"})
    await sides.send(body)
    row: dict[str, Any] = (await sides.control("GET", "/control/state"))["wire"][-1]
    return row


@pytest.mark.parametrize(
    ("fault", "change", "words"),
    [
        ({"what": "success_false"}, {}, "Infobip rejects it: not enough credits"),
        ({"what": "status", "status": 400}, {}, "Infobip answers 400"),
        (None, {"messageId": "x" * 500}, "Infobip answers 400: "),
    ],
)
def test_what_infobip_refuses_for_good_ends_the_row_with_the_reason(
    fault: dict[str, Any] | None, change: dict[str, Any], words: str
) -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            row = await row_of_reply(sides, fault, **change)
            assert row["trouble"].startswith(words) and row["failed"] and row["done"]

    asyncio.run(scenario())


def test_what_salesforce_refuses_for_good_ends_the_row_and_what_may_pass_does_not() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            token, hello = await sides.token(), text_interaction("hi")
            await sides.control("POST", "/control/phone/messages", {"from": ANA, "to": SENDER, "text": "hi"})
            for status, failed in ((429, False), (401, False), (503, False), (400, True)):
                await sides.control(
                    "POST", "/control/faults", {"where": "interactions", "what": "status", "status": status, "count": 1}
                )
                assert (await sides.interact(token, hello))[0] == status
                (row,) = (await sides.control("GET", "/control/state"))["wire"]
                assert (row["failed"], row["done"]) == (failed, failed), status
            await sides.interact(token, hello)  # somebody tried again after all
            (row,) = (await sides.control("GET", "/control/state"))["wire"]
            assert (row["failed"], row["done"], row["trouble"]) == (False, True, None)

    asyncio.run(scenario())


def test_a_row_that_made_room_is_told_no_more() -> None:
    class Page:
        def __init__(self) -> None:
            self.told: list[int] = []

        def changed(self, _event: str, key: int, _describe: Callable[[], Any]) -> None:
            self.told.append(key)

    page = Page()
    wire = Wire(cast(Live, page))
    rows = [wire.start(inbound=True, org="o", user=ANA, text="hi", plain=True, key=str(n)) for n in range(KEPT + 1)]
    page.told.clear()
    for row in rows[:2]:
        wire.mark(row, "posted")
        wire.trouble(row, "webhook answered 503")
    assert set(page.told) == {rows[1].id}


def test_a_login_and_a_limit_are_not_the_end() -> None:
    assert [status for status in (200, 302, 400, 401, 403, 404, 408, 413, 429, 500, 503) if is_final(status)] == [
        400,
        404,
        413,
    ]


def test_a_reply_in_a_session_that_waits_says_that_it_waits() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            await sides.control("POST", "/control/chatbot", {"queues": True})
            _, answer = await sides.interact(await sides.token(), text_interaction("hi"))
            reply = {"conversation": answer["conversationIdentifier"], "text": "Hello"}
            refusal = await sides.control("POST", "/control/console/replies", reply, 409)
            assert refusal == {"error": "The session waits for a rep. Accept it first."}

    asyncio.run(scenario())
