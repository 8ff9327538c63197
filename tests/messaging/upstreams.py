"""Upstreams of the tests over real sockets: one that accepts and never answers, and one that plays a little Infobip."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Upstream:
    """What listens, who is connected, and what was asked."""

    url: str = ""
    connected: int = 0
    paths: list[str] = field(default_factory=list)
    hang_up: Callable[[], None] = lambda: None


@contextmanager
def listening(answer: Callable[[str], Any] | None = None, *, seconds: float = 0.0) -> Iterator[Upstream]:
    """Listen on a port of this machine.

    :param answer: gives the JSON for a path; without it, each request is read and never answered
    :param seconds: how long each answer takes
    """
    upstream, loop, started = Upstream(), asyncio.new_event_loop(), threading.Event()
    writers: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.connected += 1
        writers.add(writer)
        try:
            while line := await reader.readline():
                while (await reader.readline()).strip():
                    pass
                path = line.split()[1].decode()
                upstream.paths.append(path)
                if answer is not None:
                    await asyncio.sleep(seconds)
                    body = json.dumps(answer(path)).encode()
                    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
                    writer.write(head.encode() + body)
        except ConnectionError:
            pass
        finally:
            upstream.connected -= 1
            writers.discard(writer)
            writer.close()

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1000)
        upstream.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        started.set()
        await stopped.wait()
        server.close()
        for writer in list(writers):
            writer.transport.abort()
        await asyncio.sleep(0.05)

    stopped = asyncio.Event()
    upstream.hang_up = lambda: loop.call_soon_threadsafe(stopped.set)  # type: ignore[assignment]
    thread = threading.Thread(target=lambda: loop.run_until_complete(main()), name="upstream")
    thread.start()
    started.wait(5)
    try:
        yield upstream
    finally:
        upstream.hang_up()
        thread.join(5)
        loop.close()
