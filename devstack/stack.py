"""The whole system on this machine: services, the sandbox that plays both platforms, and the processes of the Procfile."""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cryptography.fernet import Fernet

from devstack.family import START_SECONDS, Child, Family, StackError
from devstack.ports import HOST, free_port
from devstack.services import start_postgres, start_valkey
from devstack.version import ROOT

ALL_PROCESSES = ("web", "worker", "subscriber", "beat")

_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open  # what we start is on this machine: no proxy


class Stack(Family):
    """PostgreSQL, Valkey, and, after ``start``, the sandbox and processes of the Procfile.

    :param processes: names of the Procfile; ``worker.2`` is a second worker
    :param fsync: off makes a machine crash costly and tests faster
    """

    def __init__(
        self,
        processes: Sequence[str] = ALL_PROCESSES,
        *,
        sandbox: bool = True,
        alive: bool = False,
        fsync: bool = True,
        page_port: int | None = None,
    ) -> None:
        super().__init__()
        self.process_names, self.with_sandbox, self.alive, self.fsync = processes, sandbox, alive, fsync
        self.web_port, self.page_port = free_port(), page_port or free_port()
        self.salesforce_port, self.infobip_port, self.pubsub_port = free_port(), free_port(), free_port()
        self.owner = ""  # how PostgreSQL's owner connects, where it is ours

    @property
    def web_url(self) -> str:
        """Where the connector listens."""
        return f"http://{HOST}:{self.web_port}"

    @property
    def page_url(self) -> str:
        """Where the sandbox's page and its control API are."""
        return f"http://{HOST}:{self.page_port}"

    def __enter__(self) -> Self:
        try:
            self.start_guard()
            database_url = os.environ.get("DATABASE_URL", "")
            if not database_url:
                database_url, self.owner = start_postgres(self, fsync=self.fsync)
            redis_url = os.environ.get("REDIS_URL") or start_valkey(self)
        except BaseException:
            self.close()
            raise
        # a proxy of this machine's user is for the world outside, not for the far sides that run here
        unproxied = ",".join(filter(None, [os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), HOST, "localhost"]))
        self.env = {
            **os.environ,
            "NO_PROXY": unproxied,
            "no_proxy": unproxied,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "PYTHONDONTWRITEBYTECODE": "",  # where it is set, each process would compile the same files again
            "SECRET_KEY": os.environ.get("SECRET_KEY") or secrets.token_urlsafe(40),
            "FIELD_ENCRYPTION_KEYS": os.environ.get("FIELD_ENCRYPTION_KEYS") or Fernet.generate_key().decode(),
            "PUBLIC_URL": self.web_url,
            "ALLOWED_HOSTS": "*",
            "ALLOW_LOCAL_UPSTREAMS": "true",
            "SALESFORCE_PUBSUB_ENDPOINT": f"{HOST}:{self.pubsub_port}",
            "HOST": HOST,
            "PORT": str(self.web_port),
        }
        self.start_supervisor()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def start(self) -> None:
        """Start the sandbox and the processes, which are started again if they die."""
        if self.with_sandbox:
            ports = {"page": self.page_port, "salesforce": self.salesforce_port}
            ports |= {"infobip": self.infobip_port, "pubsub": self.pubsub_port}
            arguments = [part for name, port in ports.items() for part in (f"--{name}-port", str(port))]
            arguments += ["--run-folder", str(self.folder), *(["--alive"] if self.alive else [])]
            self.children["sandbox"] = Child("sandbox", [sys.executable, "-m", "sandbox", *arguments])
        for name in self.process_names:
            self.children[name] = _process(name)
        with self.lock:
            for child in self.children.values():
                self.spawn(child)
                child.wanted = True

    def add(self, name: str, command: Sequence[str], *, port: int | None = None) -> None:
        """Start another process beside ours, which is stopped with them, and wait until it listens."""
        child = self.children[name] = Child(name, list(command))
        with self.lock:
            self.spawn(child)
        if port is not None:
            self.wait_for_port(port, child)

    def add_process(self, name: str) -> None:
        """Start another process of the Procfile, such as ``worker.2``, which is started again if it dies."""
        with self.lock:
            child = self.children[name] = _process(name)
            self.spawn(child)
            child.wanted = True

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to a process, which is replaced a second after it died."""
        with self.lock:
            self.send_signal(self.children[name], number)

    def stop(self, name: str) -> None:
        """Stop a process, and leave it stopped."""
        with self.lock:
            self.end([self.children[name]])

    def restart(self, name: str, **settings: str) -> None:
        """Stop a process and start it again, with these settings beside the stack's."""
        with self.lock:
            self.end([self.children[name]])
            self.children[name].settings = settings
            self.spawn(self.children[name])
            self.children[name].wanted = True

    def stop_service(self, name: str) -> None:
        """Stop PostgreSQL (without ceremony) or Valkey."""
        with self.lock:
            service = self.services[name]
            self.send_signal(service, service.end_signal)
            self.end([service])

    def restart_service(self, name: str) -> None:
        """Stop a service unless it is stopped, and start it again on the same port and data."""
        with self.lock:
            if self.services[name].process is not None:
                self.stop_service(name)
            self.spawn(self.services[name])

    def manage(self, *arguments: str, input: str | None = None, **env: str) -> str:
        """Run manage.py and give what it prints.

        :raises StackError: with its words, if it fails
        """
        with subprocess.Popen(
            [*self.entering(signal.SIGTERM), sys.executable, "manage.py", *arguments],
            pass_fds=[self.pipe],
            start_new_session=True,
            env=self.env | env,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            out, errors = process.communicate(input)
        self.strike_out(process)
        if process.returncode != 0:
            raise StackError(f"manage.py {' '.join(arguments)} failed:\n{errors}{out}")
        return out

    def provision(self, document: dict[str, Any], title: str = "") -> dict[str, Any]:
        """Make an org known on both sides: to the sandbox, whose logins it needs, and to the connector."""
        org = {"document": document, "title": title or document["org"]["name"]}
        self.control("POST", "/control/orgs", {**org, "webhooks": {}})
        result: dict[str, Any] = json.loads(self.manage("provision", "-", input=json.dumps(document)))
        webhooks = {account["name"]: account["webhook"] for account in result["infobipAccounts"]}
        handovers = {account["name"]: account["handover"] for account in result["infobipAccounts"]}
        known = {"webhooks": webhooks, "handovers": handovers, "frame": result["org"]["setup"]}
        self.control("POST", "/control/orgs", {**org, **known})
        return result

    def open_empty_org(self, document: dict[str, Any]) -> None:
        """Make a fresh org known to the sandbox alone: its administrator is to connect it, in the frame of the console."""
        self.control("POST", "/control/orgs", {"document": document, "empty": True, "frame": f"{self.web_url}/"})

    def control(self, method: str, path: str, body: object = None) -> Any:
        """Call the sandbox's control API.

        :raises StackError: with its answer, if it is not 200
        """
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.page_url + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with _open(request, timeout=60) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as exc:
            raise StackError(f"{method} {path}: {exc.code} {exc.read().decode(errors='replace')}") from exc

    def wait_ready(self) -> None:
        """Wait until the web process can work and the sandbox's page is there.

        :raises StackError: if one of them does not get so far; with its log
        """
        deadline = time.monotonic() + START_SECONDS
        pages = {"web": f"{self.web_url}/readyz"} if "web" in self.process_names else {}
        if self.with_sandbox:
            pages["sandbox"] = f"{self.page_url}/"
        for name, url in pages.items():
            while True:
                with suppress(urllib.error.URLError, ConnectionError, TimeoutError), _open(url, timeout=5):
                    break
                if time.monotonic() > deadline:
                    raise StackError(f"{name} does not answer at {url}:\n{self.log_of(name)}")
                time.sleep(0.05)

    def run(self, command: Sequence[str]) -> int:
        """Run a command in the foreground and give its exit code, as a shell does: 128 and the signal that ended it."""
        child = self.children["command"] = Child("command", list(command), in_foreground=True)
        try:
            code = self.spawn(child).wait()
        except KeyboardInterrupt:
            child.stop_signal = signal.SIGINT  # pass it on, so that pytest still says how far it got
            raise
        return code if code >= 0 else 128 - code


def procfile() -> dict[str, str]:
    """Read the Procfile: command by name."""
    lines = (ROOT / "Procfile").read_text().splitlines()
    return dict(line.split(": ", 1) for line in lines if line.strip())


def _process(name: str) -> Child:
    """Make a process of the Procfile; a number behind its name tells it from others of its kind."""
    return Child(name, ["sh", "-c", f"exec env {procfile()[name.partition('.')[0]]}"])
