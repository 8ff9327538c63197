"""A `web` process of the tests' own, as the Procfile starts it, on the tests' database; and clients that speak to it."""

import hashlib
import hmac
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Self
from urllib.parse import quote

from django.conf import settings
from django.db import connection

from benchmarks.processes import cpu_seconds, family, memory_mib
from devstack.ports import HOST, free_port
from devstack.stack import procfile
from devstack.version import ROOT
from tests.conftest import World

START_SECONDS = 30.0
BARE = "/api/infobip/inbound/messages"


class Web:
    """The process, until the ``with`` ends.

    :param module: what it serves instead of the connector
    """

    def __init__(self, module: str = "config.asgi", **environment: str) -> None:
        self.port, self.module = free_port(), module
        self.environment = environment
        self.log = TemporaryFile()  # noqa: SIM115  # as long as the process
        self.process: subprocess.Popen[bytes] | None = None
        self.sockets: list[socket.socket] = []

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.log.close()
        for each in self.sockets:
            each.close()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        env = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        env |= {"DATABASE_URL": database_url(), "REDIS_URL": settings.REDIS_URL, "HOST": HOST, "PORT": str(self.port)}
        env |= {"ALLOWED_HOSTS": "*", "PUBLIC_URL": f"http://{HOST}:{self.port}", **self.environment}
        command = ["sh", "-c", "exec env " + procfile()["web"].replace("config.asgi", self.module)]
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
        self.sockets.append(opened)
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
    """Send signed webhooks meanwhile, from a process of its own, at times fixed in advance.

    Gives, when it is over, the status of each, and the seconds from the time that was intended.
    """
    seen: list[tuple[int, float]] = []
    url = f"http://{HOST}:{web.port}{own_path(world)}"
    command = [sys.executable, str(Path(__file__).with_name("steady.py"))]
    arguments = [url, world.account.webhook_secret, world.sender.number, str(rate)]
    with subprocess.Popen([*command, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as sender:
        assert sender.stdout is not None and sender.stdout.readline() == b"begun\n"
        try:
            yield seen
        finally:
            out, _ = sender.communicate()  # closing its input ends it
            seen += [(status, seconds) for status, seconds in json.loads(out)]


def p99(seen: Sequence[tuple[int, float]]) -> float:
    """Give the latency that 99 of 100 do not exceed, in seconds."""
    return sorted(seconds for _, seconds in seen)[int(len(seen) * 0.99)]


def signature(body: bytes, secret: str) -> str:
    """Sign a body as Infobip does."""
    return "SHA256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def own_path(world: World) -> str:
    """Give the address of a world's account."""
    return f"{BARE}/{world.account.uuid}"


def database_url(*, port: int | None = None) -> str:
    """Give the address of the database that the tests use, by way of another port where one is given."""
    found: dict[str, Any] = connection.settings_dict
    host = f"{found['HOST']}:{found['PORT']}" if port is None else f"{HOST}:{port}"
    return f"postgresql://{found['USER']}:{quote(found['PASSWORD'])}@{host}/{found['NAME']}"
