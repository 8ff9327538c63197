"""The live stream of the page: what changed, gathered for a moment and sent as server-sent events."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from aiohttp import web

GATHER = 0.04  # seconds; many changes of one object within them are sent once
PING = 5.0


class Live:
    """Tells every open page what changed; costs next to nothing while no page is open."""

    def __init__(self) -> None:
        self.pages: set[asyncio.Queue[bytes]] = set()
        self.first_page = asyncio.Event()
        self._dirty: dict[tuple[str, Any], Callable[[], Any]] = {}
        self._sender: asyncio.Task[None] | None = None

    def changed(self, event: str, key: Any, describe: Callable[[], Any]) -> None:
        """Note that one object changed; ``describe`` is called when it is sent."""
        if not self.pages:
            return
        self._dirty[event, key] = describe
        if self._sender is None:
            self._sender = asyncio.get_running_loop().create_task(self._send())

    async def _send(self) -> None:
        await asyncio.sleep(GATHER)
        self._sender = None
        dirty, self._dirty = self._dirty, {}
        for (event, _), describe in dirty.items():
            line = encode(event, describe())
            for page in self.pages:
                page.put_nowait(line)

    async def stream(self, request: web.Request, state: Callable[[], Any]) -> web.StreamResponse:
        """Answer one page: first the whole state, then every change, and a comment when nothing happens."""
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        changes: asyncio.Queue[bytes] = asyncio.Queue()
        self.pages.add(changes)
        self.first_page.set()
        try:
            await response.write(encode("state", state()))
            while True:
                try:
                    line = await asyncio.wait_for(changes.get(), PING)
                except TimeoutError:
                    line = b": still here\n\n"
                await response.write(line)
        except ConnectionError:
            return response  # the page was closed
        finally:
            self.pages.discard(changes)


def encode(event: str, data: Any) -> bytes:
    """Write one server-sent event: https://html.spec.whatwg.org/multipage/server-sent-events.html"""
    return f"event: {event}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()
