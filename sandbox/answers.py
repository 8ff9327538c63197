"""Answers of the simulated APIs, and how a fault spoils them."""

import asyncio
import json
from typing import Any

from aiohttp import web

from sandbox.faults import Fault

LARGEST_BODY = 64 * 1024 * 1024
FOREVER = 3600.0  # seconds; the server drops the call when its caller gives up


def answer(status: int, body: Any, headers: dict[str, str] | None = None) -> web.Response:
    """Return a JSON answer."""
    return web.Response(
        status=status,
        body=json.dumps(body, ensure_ascii=False).encode(),
        content_type="application/json",
        headers=headers,
    )


async def hang() -> None:
    """Never answer."""
    await asyncio.sleep(FOREVER)


async def finish(request: web.Request, response: web.Response, fault: Fault | None) -> web.StreamResponse:
    """Give an answer to something that was accepted, as the fault will have it."""
    if fault and fault.what == "timeout_after":
        await hang()
    if fault and fault.what == "trickle" and isinstance(response.body, bytes):
        return await trickle(request, response, fault.seconds)
    return response


async def trickle(request: web.Request, response: web.Response, seconds: float) -> web.StreamResponse:
    """Send an answer byte by byte over so many seconds, which no time-out between two bytes notices."""
    body = response.body
    assert isinstance(body, bytes)
    slow = web.StreamResponse(
        status=response.status, headers={"Content-Type": "application/json", "Content-Length": str(len(body))}
    )
    await slow.prepare(request)
    for i in range(len(body)):
        await slow.write(body[i : i + 1])
        await asyncio.sleep(seconds / len(body))
    return slow
