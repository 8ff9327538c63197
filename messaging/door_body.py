"""Reads bodies within bounds of size, time, number and memory, so that nobody's body keeps another's out.

Memory is counted from a body's first byte until its request is answered: for the account (or whatever else shares a room)
and for the process. Where there is no more, or too many bodies are still coming, the one that has been coming for longest
gives way: an honest sender's is here within milliseconds, so it is hardly ever the oldest.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from messaging.door_refusals import Refused

READ_SECONDS = 10.0  # for the whole of a body
FIRST_SECONDS = 2.5  # for its first byte
MOST_READERS = 4000  # bodies that are still coming: whoever only says that one will come holds a connection all the same
ROW = 1024  # what a request costs besides its body, in bytes

Receive = Callable[[], Awaitable[Mapping[str, Any]]]


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


class Room:
    """The memory and the places that some requests share: those of one account, for instance.

    :param most: bytes
    :param house: what all rooms share
    """

    def __init__(self, most: int, house: "Room | None" = None) -> None:
        self.most, self.house = most, house
        self.held = 0
        self.readers: dict[Held, None] = {}  # oldest first


class Held:
    """One request's body, and the memory it holds; leaving the ``with`` gives it back."""

    def __init__(self, room: Room) -> None:
        self.rooms = [room] if room.house is None else [room, room.house]
        self.size = 0
        self.evicted = False
        self.deadline: asyncio.Timeout | None = None

    def __enter__(self) -> "Held":
        self._take(ROW)
        return self

    def __exit__(self, *_: object) -> None:
        self._give_back()

    async def read(
        self, receive: Receive, *, length: int | None, limit: int, update: Callable[[bytes], None] | None = None
    ) -> bytes:
        """Read the whole body; each part goes to ``update`` as it comes.

        :param length: what Content-Length says; None for a body in chunks
        :param limit: bytes
        :raises Refused: 413, 408 for one that trickles, 503 where memory or places are short
        :raises ClientGone: if the rest will not come, or cannot be read: its chunks are malformed
        """
        if length == 0:
            return b""
        self._begin()
        body = bytearray()
        end = asyncio.get_running_loop().time() + READ_SECONDS
        try:
            async with asyncio.timeout(FIRST_SECONDS) as self.deadline:
                while True:
                    message = await receive()
                    if self.evicted:
                        raise no_memory()
                    if message["type"] != "http.request":
                        raise ClientGone
                    part: bytes = message.get("body", b"")
                    if part and not body:
                        self.deadline.reschedule(end)
                    self._take(len(part))
                    if len(body) + len(part) > limit:
                        raise too_large(limit)
                    if update is not None:
                        update(part)
                    if len(part) == length:
                        return part
                    body += part
                    if not message.get("more_body", False) or len(body) == length:
                        return bytes(body)  # with a length the end need not be waited for
        except TimeoutError:
            if self.evicted:
                raise no_memory() from None
            what, seconds = ("body", READ_SECONDS) if body else ("body's first byte", FIRST_SECONDS)
            raise Refused(408, "trickling body", f"The {what} did not arrive within {seconds:g} seconds.") from None
        finally:
            for room in self.rooms:
                room.readers.pop(self, None)

    def _begin(self) -> None:
        for room in self.rooms:
            room.readers[self] = None
        for room in self.rooms:
            if len(room.readers) > MOST_READERS:
                next(iter(room.readers))._evict()

    def _take(self, count: int) -> None:
        self.size += count
        for room in self.rooms:
            room.held += count
        for room in self.rooms:
            while room.held > room.most:
                oldest = next(iter(room.readers), self)
                if oldest is self:
                    self._give_back()
                    raise no_memory()
                oldest._evict()

    def _evict(self) -> None:
        self.evicted = True
        self._give_back()
        for room in self.rooms:
            room.readers.pop(self, None)
        if self.deadline is not None and not self.deadline.expired():  # its time may be over just now
            self.deadline.reschedule(asyncio.get_running_loop().time())

    def _give_back(self) -> None:
        for room in self.rooms:
            room.held -= self.size
        self.size = 0


def length_of(headers: Iterable[tuple[bytes, bytes]], limit: int) -> int | None:
    """Read Content-Length; None for a body in chunks, 0 where there is none.

    :raises Refused: 413, before a byte is read
    """
    length: int | None = 0
    for name, value in headers:
        if name == b"transfer-encoding":
            return None
        if name == b"content-length":
            length = int(value) if value.isdigit() and len(value) < 20 else limit + 1
    if length is not None and length > limit:
        raise too_large(limit)
    return length


def broken() -> Refused:
    """Say that a body cannot be read to its end; nobody hears it where the client has gone."""
    return Refused(400, "broken body", "The body cannot be read to its end.")


def too_large(limit: int) -> Refused:
    """Say that a body is over the limit."""
    return Refused(413, "too large", f"The body is larger than {limit} bytes. Send fewer results at a time.")


def no_memory() -> Refused:
    """Say that too much is under way."""
    return Refused(503, "too many bodies at once", "Too much is being received now. Send it again.")
