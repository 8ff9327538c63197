"""All our processes with a PostgreSQL and a Valkey of their own, which a test may make odd."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import redis
import requests

from devstack.stack import Stack, procfile
from tests.config.queues import QUEUES

PROCESSES = ("worker", "subscriber", "beat")  # those that must live on, whatever their services do; besides web
ODD_SECONDS = 3.0


class House:
    """The processes, as the Procfile starts them, but with a beat of half a second."""

    def __init__(self, stack: Stack, ticks: Path) -> None:
        self.stack, self.ticks = stack, ticks
        # another user than ours: what is taken from ours is not taken from the test
        url = stack.env["REDIS_URL"].replace("//", "//admin:admin@")
        self.redis: Any = redis.Redis.from_url(url, socket_timeout=10)
        self.let_the_test_in()

    def let_the_test_in(self) -> None:
        """Make the user of the test, whom Valkey forgets when it is restarted."""
        plain: Any = redis.Redis.from_url(self.stack.env["REDIS_URL"])
        everything = {"keys": ["*"], "channels": ["*"], "categories": ["+@all"]}
        for _ in range(200):
            with suppress(redis.ConnectionError):
                plain.acl_setuser("admin", enabled=True, passwords=["+admin"], **everything)
                return
            time.sleep(0.05)

    def running(self) -> dict[str, int | None]:
        """Give the ids of the processes that run."""
        children = {name: self.stack.children[name].process for name in PROCESSES}
        return {name: process.pid for name, process in children.items() if process and process.poll() is None}

    def wait_for_ticks(self, since: float, seconds: float) -> set[str]:
        """Wait until beat's tasks run, and name the queues in which they do."""
        deadline = time.time() + seconds
        while True:
            ticking = {
                queue for queue in QUEUES if (file := self.ticks / queue).exists() and float(file.read_text()) > since
            }
            if len(ticking) == len(QUEUES) or time.time() > deadline:
                return ticking
            time.sleep(0.05)

    def ready(self) -> tuple[int, dict[str, str]]:
        """Ask web whether it can work: its status, and what it says of each part."""
        answer = requests.get(f"{self.stack.web_url}/readyz", timeout=10)
        return answer.status_code, answer.json()

    def start(self) -> None:
        """Start all but web."""
        for name in PROCESSES:
            command = procfile()[name].replace("-A config", "-A tests.config.ticking")
            self.stack.add(name, ["sh", "-c", f"exec env {command}"])

    def end(self) -> dict[str, float]:
        """Tell each process to end, and say how long it took."""
        took = {}
        for name in PROCESSES:
            began = time.monotonic()
            self.stack.stop(name)
            took[name] = time.monotonic() - began
        return took


@contextmanager
def opened(folder: Path) -> Iterator[House]:
    """Start everything, and stop it in the end.

    :param folder: where tasks leave their marks
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in ("DATABASE_URL", "REDIS_URL"):
            patch.delenv(name, raising=False)
        with Stack(processes=(), sandbox=False, fsync=False) as stack:
            stack.env["TICKS"] = str(folder)
            stack.manage("migrate", "--no-input")
            stack.add("web", ["sh", "-c", f"exec env {procfile()['web']}"], port=stack.web_port)
            house = House(stack, folder)
            house.start()
            assert house.wait_for_ticks(0, 60) == set(QUEUES)
            yield house


Oddity = Callable[[House], Iterator[None]]


@contextmanager
def during(oddity: Oddity, house: House) -> Iterator[None]:
    """Make a service odd, and heal it whatever a test finds.

    :param oddity: a generator that does the one before its ``yield``, and the other after it
    """
    halves = oddity(house)
    next(halves)
    try:
        yield
    finally:
        next(halves, None)
