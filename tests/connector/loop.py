"""Calls on an event loop, as a test makes them."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

from connector.aio import Caller
from connector.http import ApiClient, ApiError, Call, TokenSource
from tests.connector.upstream import answer, replies

T = TypeVar("T")

LAG = 0.8  # seconds that a busy machine may take to notice that time is over
OK = replies(answer(200, '{"taken": true}'))


def call_to(url: str, *, tokens: TokenSource | None = None, method: str = "POST", path: str = "/a") -> Call[dict[str, Any]]:
    client = ApiClient(url, allow_local="127.0.0.1" in url or "localhost" in url)
    client.tokens = tokens
    return Call(client, method, path, {"Content-Type": "application/json"}, b"{}", lambda answer: answer.body)


def with_caller(work: Callable[[Caller], Awaitable[T]]) -> T:
    async def run() -> T:
        caller = Caller()
        try:
            return await work(caller)
        finally:
            await caller.close()

    return asyncio.run(run())


async def failure(caller: Caller, call: Call[Any], seconds: float = 5.0) -> tuple[ApiError, float]:
    """Make a call that fails, and give the error and how long it took."""
    began = time.monotonic()
    with pytest.raises(ApiError) as caught:
        await caller.run(call, seconds=seconds)
    return caught.value, time.monotonic() - began
