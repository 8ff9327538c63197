"""The writer of the inbox, in a loop of the test's own: what is called stored, and what one batch holds."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from django.db import connection

from messaging import inbox as module
from messaging.inbox import Inbox, NotStored, _Row
from messaging.models import Inbox as Rows
from tenants.tenancy import every_org

pytestmark = pytest.mark.django_db(transaction=True)


def with_inbox(use: Callable[[Inbox], Awaitable[None]]) -> None:
    async def main() -> None:
        inbox = Inbox()
        try:
            await use(inbox)
        finally:
            await inbox.close()

    asyncio.run(main())


def stored() -> list[bytes]:
    with every_org():
        return [bytes(row.body) for row in Rows.objects.order_by("pk")]


def test_what_the_database_dropped_without_a_word_is_not_called_stored() -> None:
    """A trigger that gives NULL, for instance, leaves a row out, and raises nothing."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE FUNCTION leave_out() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
        cursor.execute(
            "CREATE TRIGGER leave_out BEFORE INSERT ON messaging_inbox FOR EACH ROW EXECUTE FUNCTION leave_out()"
        )

    async def use(inbox: Inbox) -> None:
        with pytest.raises(NotStored):
            await inbox.append(1, 1, b"{}")

    try:
        with_inbox(use)
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP TRIGGER leave_out ON messaging_inbox")
            cursor.execute("DROP FUNCTION leave_out")


def test_the_writer_outlives_whatever_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    connect, errors = module._connect, [ValueError("unforeseen")]

    async def connect_or_fail(**options: Any) -> Any:
        if errors:
            raise errors.pop()
        return await connect(**options)

    async def use(inbox: Inbox) -> None:
        await asyncio.sleep(0)
        monkeypatch.setattr(module, "_connect", connect_or_fail)
        with pytest.raises(NotStored):
            await inbox.append(1, 1, b"first")
        async with asyncio.timeout(5):
            await inbox.append(1, 1, b"second")

    with_inbox(use)
    assert stored() == [b"second"]


def test_a_row_whose_sender_was_told_otherwise_is_not_stored_afterwards() -> None:
    """Else it would come in twice, and out of its order."""

    async def use(inbox: Inbox) -> None:
        given_up = asyncio.create_task(inbox.append(1, 1, b"given up"))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)
        await inbox.append(1, 1, b"waited for")

    with_inbox(use)
    assert stored() == [b"waited for"]


@pytest.mark.parametrize(("bound", "most"), [("MOST_ROWS", 2), ("MOST_BYTES", 250)])
def test_a_batch_is_bounded_and_a_giant_comes_alone(monkeypatch: pytest.MonkeyPatch, bound: str, most: int) -> None:
    monkeypatch.setattr(module, bound, most)

    async def use(inbox: Inbox) -> None:
        loop = asyncio.get_running_loop()
        for size in (100, 100, 100, 1000, 100):
            inbox._waiting.append(_Row(1, 1, b"x" * size, loop.time(), loop.create_future()))
        batches = [[len(row.body) for row in inbox._next_batch()] for _ in range(4)]
        expected = {"MOST_ROWS": [[100, 100], [100, 1000], [100], []], "MOST_BYTES": [[100, 100], [100], [1000], [100]]}
        assert batches == expected[bound]

    with_inbox(use)
