"""The processes of one run: started, signalled, replaced when they die, and ended with us however we end."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from devstack import guard
from devstack.ports import HOST
from devstack.version import ROOT

START_SECONDS = 60.0
STOP_SECONDS = 15.0
RESTART_SECONDS = 1.0  # a dyno manager takes about as long to replace a process that died


class StackError(Exception):
    """Something did not start; the text says what, and what to do."""


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


class Family:
    """All children of a run, in a folder that goes away with them."""

    def __init__(self) -> None:
        self.children: dict[str, Child] = {}
        self.services: dict[str, Child] = {}
        self.lock = threading.RLock()
        self.closing = threading.Event()
        self.pipe = -1
        self.folder = Path()
        self.env: dict[str, str] = {}
        self.guard_process: subprocess.Popen[str] | None = None

    def start_guard(self) -> None:
        """Start what ends all others if we are gone, and get the folder from it."""
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

    def start_supervisor(self) -> None:
        """Replace from now on what dies and is wanted."""
        threading.Thread(target=self._replace_the_dead, name="supervisor", daemon=True).start()

    def close(self) -> None:
        """Stop everything, and remove the folder."""
        self.closing.set()
        with self.lock:
            self.end(list(self.children.values()))
            self.end(list(self.services.values()))
        if self.guard_process is not None:
            os.close(self.pipe)  # the guard sees that we are done, finds no group left, and removes the folder
            self.guard_process.communicate()
            self.guard_process = None

    def entering(self, end_signal: signal.Signals, user: str = "") -> list[str]:
        """Give the words before a command that make it known to the guard before it runs."""
        script = [sys.executable, "-I", "-S", guard.__file__, "enter"]
        return [*script, str(self.pipe), str(int(end_signal)), user]

    def strike_out(self, process: subprocess.Popen[Any]) -> None:
        """Kill what a process that ended has left of its group, and tell the guard that it need not."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.write(self.pipe, f"- {process.pid}\n".encode())

    def spawn(self, child: Child) -> subprocess.Popen[bytes]:
        """Start a child in a process group of its own, known to the guard before it is anything else."""
        files: dict[str, Any] = {}
        if not child.in_foreground:
            log = (self.folder / f"{child.name}.log").open("ab")
            files = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
        child.process = subprocess.Popen(
            [*self.entering(child.end_signal, child.user), *child.command],
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

    def end(self, children: Iterable[Child]) -> None:
        """Ask all to end, then insist."""
        children = list(children)
        for child in children:
            child.wanted = False  # also one that died just now, and would be started again
        running = [child for child in children if child.process is not None]
        for child in running:
            self.send_signal(child, child.stop_signal)
        deadline = time.monotonic() + STOP_SECONDS
        for child in running:
            assert child.process is not None
            with suppress(subprocess.TimeoutExpired):
                child.process.wait(max(0.1, deadline - time.monotonic()))
            self.strike_out(child.process)
            child.process = None

    def send_signal(self, child: Child, number: int) -> None:
        """Send a child a signal, if it is there."""
        if child.process is not None:
            with suppress(ProcessLookupError):
                os.kill(child.process.pid, number)

    def owned_folder(self, name: str, user: str) -> Path:
        """Make a folder of the run's that belongs to a user, if one is named."""
        folder = self.folder / name
        folder.mkdir(mode=0o700)
        if user:
            shutil.chown(folder, user)
        return folder

    def wait_for_port(self, port: int, child: Child) -> None:
        """Wait until a child listens.

        :raises StackError: if it ends or takes too long; with its log
        """
        deadline = time.monotonic() + START_SECONDS
        while True:
            with socket.socket() as probe:
                if probe.connect_ex((HOST, port)) == 0:
                    return
            self.still_starting(child, deadline)

    def still_starting(self, child: Child, deadline: float) -> None:
        """Wait a moment for a child that is starting.

        :raises StackError: if it ended, or the time is over; with its log
        """
        assert child.process is not None
        if child.process.poll() is not None or time.monotonic() > deadline:
            raise StackError(f"{child.name} did not start:\n{self.log_of(child.name)}")
        time.sleep(0.02)

    def log_of(self, name: str, lines: int = 15) -> str:
        """Give the end of a child's log."""
        file = self.folder / f"{name}.log"
        return "\n".join(file.read_text(errors="replace").splitlines()[-lines:]) if file.exists() else "(no log)"

    def _replace_the_dead(self) -> None:
        while not self.closing.wait(0.1):
            for child in list(self.children.values()):
                with self.lock:
                    if child.wanted and child.process is not None and child.process.poll() is not None:
                        with (self.folder / f"{child.name}.log").open("a") as log:
                            log.write(f"{child.name} ended with {child.process.returncode} and is started again\n")
                        self.strike_out(child.process)
                        child.process = None
                        threading.Timer(RESTART_SECONDS, self._respawn, [child]).start()

    def _respawn(self, child: Child) -> None:
        with self.lock:
            if child.wanted and child.process is None and not self.closing.is_set():
                self.spawn(child)
