"""Sends a load from a process of its own, with as little of the machine as can be: prepared bytes on plain connections.

python -m benchmarks.loader < JOB      (a job as JSON on one line; it starts with the next line)

It prints ``ready`` when the webhooks are written, and what became of them, as JSON, when they are sent.
"""

import asyncio
import gc
import json
import os
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit

from benchmarks.load import Job, Sent, Target, webhooks

CALL_SECONDS = 10.0  # Infobip gives up on a webhook after some seconds; a refusal and a time-out both count as failures
KEPT_SECONDS = 2.0  # a connection that idled longer is not used again: the door may be closing it
SWEEP_SECONDS = 0.25  # between looks for requests that took too long
CLOSED, TIMED_OUT = "connection closed", "timed out"


class Connection(asyncio.Protocol):
    """One connection, which carries a request at a time. All is done in its callbacks: tasks would cost as much again."""

    def __init__(self, sender: "Sender", url: str) -> None:
        self.sender, self.url = sender, url
        self.transport: asyncio.Transport | None = None
        self.received = b""
        self.busy = False
        self.intended = self.since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what is written to."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def send(self, data: bytes, intended: float) -> None:
        """Send a request."""
        self.received, self.busy, self.intended, self.since = b"", True, intended, time.monotonic()
        if self.transport is None:
            self.end(CLOSED)
        else:
            self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        """Look whether the answer is whole."""
        self.received += data
        head, found, body = self.received.partition(b"\r\n\r\n")
        if found and _is_whole(fields := head.lower(), body):
            if b"connection: close" in fields:
                self.close()
            self.end(head[9:12].decode(errors="replace"))

    def connection_lost(self, exc: Exception | None) -> None:
        """End the request that is under way."""
        self.transport = None
        self.end(CLOSED)

    def end(self, status: str) -> None:
        """Give the status of an answer, or what came instead of one."""
        if self.busy:
            self.busy, self.since = False, time.monotonic()
            self.sender.ended(self, status)

    def close(self) -> None:
        """Close it."""
        if self.transport is not None:
            self.transport.abort()
            self.transport = None


def _is_whole(head: bytes, body: bytes) -> bool:
    _, found, rest = head.partition(b"content-length:")
    if found:
        return len(body) >= int(rest.split(b"\r\n", 1)[0])
    return b"chunked" not in head or body.endswith(b"0\r\n\r\n")


class Sender:
    """Sends a load, and writes down what becomes of it."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.load: list[tuple[Target, bytes]] = webhooks(job)
        self.next = 0
        self.under_way = 0
        self.sent = Sent(first=job.first)
        self.idle: dict[str, list[Connection]] = {target.url: [] for target in job.targets}
        self.connections: set[Connection] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.over = asyncio.Event()

    async def run(self) -> Sent:
        """Send all of it: at times fixed in advance, whatever the answers do, or as fast as it is taken."""
        cpu = time.process_time()
        sweeping = asyncio.create_task(self._sweep())
        self.sent.began = time.time() + (0.05 if self.job.rate else 0.0)
        if self.job.rate:
            self._send_due()
        else:
            for _ in range(min(self.job.at_once, len(self.load))):
                self._send_next(time.time())
        await self.over.wait()
        self.sent.ended = time.time()
        self.sent.cpu = time.process_time() - cpu
        sweeping.cancel()
        return self.sent

    def _send_due(self) -> None:
        """Send what is due, and come again for the next one; a latency counts from the time that was intended."""
        now = time.time()
        while self.next < len(self.load):
            intended = self.sent.began + self.next / self.job.rate
            if intended > now:
                asyncio.get_running_loop().call_later(intended - now, self._send_due)
                return
            self._send_next(intended)

    def _send_next(self, intended: float) -> None:
        target, data = self.load[self.next]
        self.sent.intended += [intended] * min(self.job.size, self.job.count - self.next * self.job.size)
        self.next += 1
        self.under_way += 1
        if (connection := self._free(target.url)) is not None:
            connection.send(data, intended)
            return
        task = asyncio.create_task(self._connect(target.url, data, intended))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def _free(self, url: str) -> Connection | None:
        idle = self.idle[url]
        while idle:
            connection = idle.pop()
            if connection.transport is not None and time.monotonic() - connection.since < KEPT_SECONDS:
                return connection
            connection.close()
            self.connections.discard(connection)
        return None

    async def _connect(self, url: str, data: bytes, intended: float) -> None:
        parts, connection = urlsplit(url), Connection(self, url)
        self.connections.add(connection)
        connection.intended = intended
        try:
            async with asyncio.timeout(CALL_SECONDS):
                await asyncio.get_running_loop().create_connection(
                    lambda: connection, parts.hostname or "", parts.port or 80
                )
        except OSError as exc:  # a time-out is one
            self.ended(connection, type(exc).__name__)
        else:
            connection.send(data, intended)

    def ended(self, connection: Connection, status: str) -> None:
        """Write down what became of a request, and go on."""
        now = time.time()
        self.sent.latencies.append(now - connection.intended)
        self.sent.statuses[status] = self.sent.statuses.get(status, 0) + 1
        self.under_way -= 1
        if connection.transport is not None:
            self.idle[connection.url].append(connection)
        else:
            self.connections.discard(connection)
        left = self.next < len(self.load)
        if left and not self.job.rate and now < self.sent.began + self.job.seconds:
            asyncio.get_running_loop().call_soon(self._send_next_if_left)
        elif not self.under_way and not (left and self.job.rate):
            self.over.set()

    def _send_next_if_left(self) -> None:
        if self.next < len(self.load):
            self._send_next(time.time())
        elif not self.under_way:
            self.over.set()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            for connection in list(self.connections):
                if connection.busy and time.monotonic() - connection.since > CALL_SECONDS:
                    connection.close()
                    connection.end(TIMED_OUT)


def end_with_parent() -> None:
    """End when nobody is there any more who wants to know."""

    def wait() -> None:
        with suppress(OSError):
            while os.read(0, 4096):
                pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def read_line() -> str:
    """Read a line of standard input."""
    return sys.stdin.buffer.readline().decode()


def read_job(words: str) -> Job:
    """Read a job."""
    job: dict[str, Any] = json.loads(words)
    return Job(**job | {"targets": [Target(**each) for each in job["targets"]]})


def read_sent(words: str) -> Sent:
    """Read what became of a load."""
    return Sent(**json.loads(words))


def main() -> None:
    """Prepare, wait for the word, send, and tell."""
    sender = Sender(read_job(read_line()))
    gc.collect()
    gc.freeze()
    gc.disable()  # what is sent is measured, not our own pauses
    print("ready", flush=True)
    read_line()
    end_with_parent()
    print(json.dumps(asdict(asyncio.run(sender.run()))), flush=True)
    os._exit(0)  # the thread that waits for the parent's end would keep us


if __name__ == "__main__":
    main()
