"""Bodies are read within bounds, and what they hold is given back."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import pytest

from messaging import door_body
from messaging.door_body import ROW, ClientGone, Held, Receive, Room
from messaging.door_refusals import Refused


def read(room: Room, parts: list[bytes], *, limit: int) -> bytes:
    """Read a body that comes in chunks."""
    coming = list(parts)

    async def receive() -> Mapping[str, Any]:
        part = coming.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(coming)}

    async def main() -> bytes:
        with Held(room) as held:
            return await held.read(receive, length=None, limit=limit)

    return asyncio.run(main())


def test_a_body_in_chunks_is_refused_where_it_passes_the_limit_and_gives_back_what_it_held() -> None:
    room = Room(1 << 20)
    assert read(room, [b"12345", b"67890"], limit=10) == b"1234567890"
    with pytest.raises(Refused) as refused:
        read(room, [b"12345", b"67890", b"1"], limit=10)
    assert refused.value.status == 413 and room.held == 0 and not room.readers


def test_a_request_costs_memory_before_its_body_comes() -> None:
    house = Room(3 * ROW)
    one, another = Room(2 * ROW, house), Room(1 << 20, house)
    with Held(one), Held(one):
        with pytest.raises(Refused) as refused:
            Held(one).__enter__()
        with Held(another), pytest.raises(Refused):  # of all together there are so many
            Held(another).__enter__()
        assert refused.value.status == 503
    assert one.held == another.held == house.held == 0


def test_a_body_that_gives_way_at_the_moment_when_its_time_is_over_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Among thousands that do not come some are always just running out: who takes their place was answered 500 for it."""
    monkeypatch.setattr(door_body, "FIRST_SECONDS", 0.01)
    room = Room(ROW)

    async def silent() -> Mapping[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def main() -> tuple[BaseException | bytes]:
        took: list[Held] = []
        with Held(room) as oldest:
            reading = asyncio.create_task(oldest.read(silent, length=10, limit=10))
            await asyncio.sleep(0)
            asyncio.get_running_loop().call_later(0.02, lambda: took.append(Held(room).__enter__()))
            time.sleep(0.05)  # both are due now, its end first, and nobody has heard of that yet
            ends = await asyncio.gather(reading, return_exceptions=True)
        assert took, "whoever came next was refused"
        took[0].__exit__()
        return ends

    (refused,) = asyncio.run(main())
    assert isinstance(refused, Refused) and refused.status == 503
    assert room.held == 0 and not room.readers


async def read_from(receive: Receive, room: Room, *, length: int | None = None) -> bytes:
    async with asyncio.timeout(5):
        with Held(room) as held:
            return await held.read(receive, length=length, limit=1 << 20)


def test_a_body_that_breaks_off_is_not_taken_for_whole() -> None:
    coming: list[Mapping[str, Any]] = [
        {"type": "http.request", "body": b'{"results": []}', "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Mapping[str, Any]:
        return coming.pop(0)

    room = Room(1 << 20)
    with pytest.raises(ClientGone):
        asyncio.run(read_from(receive, room))
    assert room.held == 0 and not room.readers


def test_of_a_body_whose_length_is_known_the_end_is_not_waited_for() -> None:
    coming = [b"12345", b"67890"]

    async def receive() -> Mapping[str, Any]:
        if not coming:
            await asyncio.sleep(60)
        return {"type": "http.request", "body": coming.pop(0), "more_body": True}

    assert asyncio.run(read_from(receive, Room(1 << 20), length=10)) == b"1234567890"


def test_a_part_without_a_byte_is_not_the_first_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else whoever sends the beginnings of chunks only holds a connection four times as long."""
    monkeypatch.setattr(door_body, "FIRST_SECONDS", 0.1)
    coming = [b""]

    async def receive() -> Mapping[str, Any]:
        if not coming:
            await asyncio.sleep(60)
        return {"type": "http.request", "body": coming.pop(0), "more_body": True}

    with pytest.raises(Refused) as refused:
        asyncio.run(read_from(receive, Room(1 << 20)))
    assert refused.value.status == 408


def test_a_body_that_gave_way_is_not_read_on_though_its_next_part_is_there() -> None:
    room, others = Room(4 * ROW), []

    async def receive() -> Mapping[str, Any]:
        if room.held > ROW:
            other = Held(room)
            other._take(3 * ROW)  # as a younger one's part does
            others.append(other)
        return {"type": "http.request", "body": b"x" * 100, "more_body": not others}

    with pytest.raises(Refused) as refused:
        asyncio.run(read_from(receive, room))
    assert refused.value.status == 503 and room.held == 3 * ROW
