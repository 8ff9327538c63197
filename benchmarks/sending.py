"""Starts the processes that send, and gives what became of what they sent."""

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.load import Company, Job, Sent, reserve, targets_of
from benchmarks.loader import read_sent

ROOM = 1 << 26  # bytes that a line of the answer may have: it holds the time of every message


class SendingFailed(Exception):
    """The process that was to send ended without a word."""


class Helper:
    """A process beside us that prepares itself, waits for the word, and tells what it did."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, module: str, job: dict[str, Any]) -> "Helper":
        """Start a module, and wait until it is ready."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", module, stdin=pipe, stdout=pipe, limit=ROOM)
        helper = cls(process)
        helper.write(json.dumps(job))
        await helper.line()
        return helper

    def write(self, words: str) -> None:
        """Say a line to it."""
        assert self.process.stdin is not None
        self.process.stdin.write(words.encode() + b"\n")

    async def line(self) -> str:
        """Wait for a line of it.

        :raises SendingFailed: if it ended
        """
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        if not line:
            raise SendingFailed(f"the helper ended with {await self.process.wait()}")
        return line.decode()

    async def run(self) -> str:
        """Give the word, and wait for what it tells at the end."""
        self.write("go")
        told = await self.line()
        await self.process.wait()
        return told

    async def close(self) -> str:
        """End its standard input, and wait for what it tells then."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        told = await self.line()
        await self.process.wait()
        return told

    async def end(self) -> None:
        """End it, wherever it is."""
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


class Load:
    """A load that is ready to go."""

    def __init__(self, helper: Helper, job: Job) -> None:
        self.helper, self.job = helper, job

    async def send(self) -> Sent:
        """Send it."""
        try:
            return read_sent(await self.helper.run())
        finally:
            await self.helper.end()


async def prepare(
    companies: Sequence[Company],
    count: int,
    *,
    users: int,
    among: Sequence[Company],
    url: str = "",
    size: int = 1,
    rate: float = 0.0,
    at_once: int = 32,
    seconds: float = 600.0,
) -> Load:
    """Have a load written and signed by a process of its own; see ``Job``.

    :param users: end users of each company; no two companies of ``among`` have the same ones
    :param url: an address in place of the companies' own
    """
    targets = targets_of(companies, users, among=among, url=url)
    job = Job(targets, count, reserve(count), size, rate, at_once, seconds)
    return Load(await Helper.start("benchmarks.loader", asdict(job)), job)
