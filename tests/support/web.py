"""A `web` process of the tests' own, as the Procfile starts it, on the tests' database; and clients that speak to it."""

import asyncio
import hashlib
import hmac
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Self
from urllib.parse import quote

import aiohttp
from django.conf import settings
from django.db import connection

from benchmarks.processes import cpu_seconds, family, memory_mib
from sandbox.stack import HOST, ROOT, free_port, procfile
from tests.conftest import World, whatsapp_text

START_SECONDS = 30.0
BARE = "/api/infobip/inbound/messages"


class Web:
    """The process, until the ``with`` ends."""

    def __init__(self, **environment: str) -> None:
        self.port = free_port()
        self.environment = environment
        self.log = TemporaryFile()  # noqa: SIM115  # as long as the process
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.log.close()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        env = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        env |= {"DATABASE_URL": database_url(), "REDIS_URL": settings.REDIS_URL, "HOST": HOST, "PORT": str(self.port)}
        env |= {"ALLOWED_HOSTS": "*", "PUBLIC_URL": f"http://{HOST}:{self.port}", **self.environment}
        command = ["sh", "-c", f"exec env {procfile()['web']}"]
        self.process = subprocess.Popen(
            command, env=env, cwd=ROOT, stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True
        )
        end = time.monotonic() + START_SECONDS
        while True:
            with suppress(OSError):
                if self.request("GET", "/healthz")[0] == 200:
                    return
            assert self.process.poll() is None and time.monotonic() < end, self.said()
            time.sleep(0.05)

    def kill(self) -> None:
        """Kill it with all its children, at once."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def memory(self) -> float:
        """MiB of the process that serves."""
        return max(memory_mib(pid) for pid in family(self.pid) if pid != self.pid)

    @property
    def cpu(self) -> float:
        """Seconds."""
        return cpu_seconds(self.pid)

    def said(self) -> str:
        """Give what it logged."""
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    def request(
        self, method: str, path: str, body: bytes | Iterable[bytes] = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Make a request; an iterable goes out in chunks."""
        chunked = not isinstance(body, bytes)
        client = http.client.HTTPConnection(HOST, self.port, timeout=30)
        try:
            with suppress(BrokenPipeError, ConnectionResetError):  # refused before all was sent: the answer is there
                client.request(method, path, body or None, headers or {}, encode_chunked=chunked)
            answer = client.getresponse()
            return answer.status, answer.read()
        finally:
            client.close()

    def raw(self, request: bytes) -> socket.socket:
        """Open a socket, and send what may be a part of a request."""
        opened = socket.create_connection((HOST, self.port), timeout=30)
        opened.sendall(request)
        return opened

    def post(
        self,
        world: World,
        body: bytes | Iterable[bytes],
        *,
        path: str = "",
        secret: str | None = None,
        header: str = "X-Hub-Signature",
        signed: bytes = b"",
    ) -> tuple[int, str]:
        """Post a webhook of an account, signed; gives the status and what the error says."""
        whole = body if isinstance(body, bytes) else signed
        headers = {"Content-Type": "application/json", header: signature(whole, secret or world.account.webhook_secret)}
        status, said = self.request("POST", path or own_path(world), body, headers)
        return status, json.loads(said)["error"] if said else ""


@contextmanager
def steady(web: Web, world: World, *, rate: float = 50.0) -> Iterator[list[tuple[int, float]]]:
    """Send signed webhooks at times fixed in advance; gives statuses, and seconds from the time that was intended."""
    seen: list[tuple[int, float]] = []
    stop = threading.Event()
    url, key = f"http://{HOST}:{web.port}{own_path(world)}", world.account.webhook_secret
    number = world.sender.number

    async def send(client: aiohttp.ClientSession, body: bytes, intended: float) -> None:
        try:
            async with client.post(url, data=body, headers={"X-Hub-Signature": signature(body, key)}) as answer:
                await answer.read()
                status = answer.status
        except (aiohttp.ClientError, TimeoutError):
            status = 0
        seen.append((status, time.monotonic() - intended))

    async def send_on() -> None:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=1)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(20)) as client:
            began, tasks = time.monotonic(), []
            while not stop.is_set():
                intended = began + len(tasks) / rate
                await asyncio.sleep(max(0.0, intended - time.monotonic()))
                body = json.dumps({"results": [whatsapp_text("steady", to=number, message_id=f"w.{len(tasks)}")]}).encode()
                tasks.append(asyncio.create_task(send(client, body, intended)))
            await asyncio.gather(*tasks)

    thread = threading.Thread(target=lambda: asyncio.run(send_on()))
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def p99(seen: Sequence[tuple[int, float]]) -> float:
    """Give the latency that 99 of 100 do not exceed, in seconds."""
    return sorted(seconds for _, seconds in seen)[int(len(seen) * 0.99)]


def signature(body: bytes, secret: str) -> str:
    """Sign a body as Infobip does."""
    return "SHA256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def own_path(world: World) -> str:
    """Give the address of a world's account."""
    return f"{BARE}/{world.account.uuid}"


def database_url() -> str:
    """Give the address of the database that the tests use."""
    found: dict[str, Any] = connection.settings_dict
    return f"postgres://{found['USER']}:{quote(found['PASSWORD'])}@{found['HOST']}:{found['PORT']}/{found['NAME']}"
