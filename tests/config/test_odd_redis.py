"""Redis may be gone, read-only, refusing, full, silent or full of nonsense: every process lives on."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import redis
import requests

from config.celery import app
from sandbox.stack import Stack, procfile
from tenants.cache import PAUSE_SECONDS
from tests.config.ticking import QUEUES

PROCESSES = ("worker", "subscriber", "beat")
ODD_SECONDS = 3.0
BACK_SECONDS = 8.0
END_SECONDS = 10.0  # five, and what a busy machine adds


class House:
    """Our processes with a Valkey of their own, which may be made odd."""

    def __init__(self, stack: Stack, ticks: Path) -> None:
        self.stack, self.ticks = stack, ticks
        # another user than ours: what is taken from ours is not taken from the test
        url = stack.env["REDIS_URL"].replace("//", "//admin:admin@")
        self.admin: Any = redis.Redis.from_url(url, socket_timeout=10)

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

    def ready(self) -> tuple[int, str]:
        """Ask web whether it can work: its status, and what it says of the broker."""
        answer = requests.get(f"{self.stack.web_url}/readyz", timeout=10)
        return answer.status_code, answer.json()["broker"]

    def start(self) -> None:
        """Start the processes as the Procfile does, but with a beat of half a second."""
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


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with pytest.MonkeyPatch.context() as patch, contextmanager(_stack)(patch) as stack:
        ticks = tmp_path_factory.mktemp("ticks")
        stack.env["TICKS"] = str(ticks)
        _let_the_test_in(stack)
        stack.manage("migrate", "--no-input")
        built = House(stack, ticks)
        stack.add("web", ["sh", "-c", f"exec env {procfile()['web']}"], port=stack.web_port)
        built.start()
        assert built.wait_for_ticks(0, 60) == set(QUEUES)
        yield built


def _stack(patch: pytest.MonkeyPatch) -> Iterator[Stack]:
    for name in ("DATABASE_URL", "REDIS_URL"):
        patch.delenv(name, raising=False)
    with Stack(processes=(), sandbox=False, fsync=False) as stack:
        yield stack


Oddity = Callable[[House], Iterator[None]]
ODDITIES: list[Oddity] = []


def odd(function: Oddity) -> Oddity:
    ODDITIES.append(function)
    return function


@contextmanager
def during(oddity: Oddity, house: House) -> Iterator[None]:
    """Make Redis odd, and heal it whatever a test finds."""
    halves = oddity(house)
    next(halves)
    try:
        yield
    finally:
        next(halves, None)


@odd
def a_replica_of_a_dead_host(house: House) -> Iterator[None]:
    house.admin.execute_command("REPLICAOF", "127.0.0.1", "1")
    yield
    house.admin.execute_command("REPLICAOF", "NO", "ONE")


@odd
def a_replica_that_serves_nothing_stale(house: House) -> Iterator[None]:
    house.admin.config_set("replica-serve-stale-data", "no")
    house.admin.execute_command("REPLICAOF", "127.0.0.1", "1")
    yield
    house.admin.execute_command("REPLICAOF", "NO", "ONE")
    house.admin.config_set("replica-serve-stale-data", "yes")


@odd
def a_user_without_rights(house: House) -> Iterator[None]:
    house.admin.execute_command("ACL", "SETUSER", "default", "-@all")
    yield
    house.admin.execute_command("ACL", "SETUSER", "default", "+@all")


@odd
def a_user_without_the_right_to_write(house: House) -> Iterator[None]:
    house.admin.execute_command("ACL", "SETUSER", "default", "-@write")
    yield
    house.admin.execute_command("ACL", "SETUSER", "default", "+@all")


@odd
def a_password_that_was_changed(house: House) -> Iterator[None]:
    house.admin.execute_command("ACL", "SETUSER", "default", "resetpass", ">another")
    house.admin.execute_command("CLIENT", "KILL", "USER", "default")
    yield
    house.admin.execute_command("ACL", "SETUSER", "default", "nopass")


@odd
def no_memory_left(house: House) -> Iterator[None]:
    house.admin.config_set("maxmemory-policy", "noeviction")
    house.admin.config_set("maxmemory", "1")
    yield
    house.admin.config_set("maxmemory", "0")


@odd
def no_connection_left(house: House) -> Iterator[None]:
    house.admin.config_set("maxclients", "1")
    house.admin.execute_command("CLIENT", "KILL", "USER", "default")
    yield
    house.admin.config_set("maxclients", "10000")


@odd
def keys_of_another_type(house: House) -> Iterator[None]:
    keys = [*QUEUES, *(f"_kombu.binding.{queue}" for queue in QUEUES), "unacked", "unacked_index"]
    house.admin.delete(*keys)
    house.admin.mset(dict.fromkeys(keys, "not a list"))
    yield
    house.admin.delete(*keys)


@odd
def queues_full_of_nonsense(house: House) -> Iterator[None]:
    for queue in QUEUES:
        house.admin.rpush(queue, b"\xff", b"null", b"7", b"[]", b'{"body": 1}')
    yield
    house.admin.delete(*QUEUES)


@odd
def commands_that_hang(house: House) -> Iterator[None]:
    house.admin.execute_command("CLIENT", "PAUSE", int(1500 * ODD_SECONDS), "ALL")
    yield
    house.admin.ping()  # answered when the pause is over, which nothing can end


@odd
def a_frozen_process(house: House) -> Iterator[None]:
    valkey = house.stack.services["valkey"].process
    assert valkey is not None
    os.kill(valkey.pid, signal.SIGSTOP)
    yield
    os.kill(valkey.pid, signal.SIGCONT)


@odd
def a_process_that_is_gone(house: House) -> Iterator[None]:
    house.stack.stop_service("valkey")
    yield
    house.stack.restart_service("valkey")
    _let_the_test_in(house.stack)  # a restart forgets users


def _let_the_test_in(stack: Stack) -> None:
    plain: Any = redis.Redis.from_url(stack.env["REDIS_URL"])
    for _ in range(200):
        with suppress(redis.ConnectionError):
            plain.acl_setuser("admin", enabled=True, passwords=["+admin"], keys=["*"], channels=["*"], categories=["+@all"])
            return
        time.sleep(0.05)


@pytest.mark.parametrize("oddity", ODDITIES)
def test_every_process_lives_through_it_and_its_tasks_run_again(house: House, oddity: Oddity) -> None:
    before = house.running()
    with during(oddity, house):
        time.sleep(ODD_SECONDS)
        assert house.running() == before
        # webhooks are taken without a broker too; and nonsense in a queue keeps no task out
        assert house.ready() == (200, "up" if oddity is queues_full_of_nonsense else "down")
    healed = time.time()
    assert house.wait_for_ticks(healed, BACK_SECONDS) == set(QUEUES)
    time.sleep(max(0.0, healed + PAUSE_SECONDS - time.time()))
    assert house.ready() == (200, "up")
    assert house.running() == before and len(before) == len(PROCESSES)


@pytest.mark.parametrize(
    "oddity", [a_replica_of_a_dead_host, a_user_without_rights, a_frozen_process, a_process_that_is_gone]
)
def test_every_process_ends_and_starts_during_it(house: House, oddity: Oddity) -> None:
    with during(oddity, house):
        time.sleep(1)
        took = house.end()
        house.start()
        time.sleep(ODD_SECONDS)
        assert len(house.running()) == len(PROCESSES)
    healed = time.time()
    assert max(took.values()) < END_SECONDS, took
    assert house.wait_for_ticks(healed, 2 * BACK_SECONDS) == set(QUEUES)


def test_a_task_that_hangs_does_not_hold_up_the_end(house: House) -> None:
    with app.connection_for_write(house.stack.env["REDIS_URL"]) as connection:
        app.send_task("hang", queue="connector", connection=connection)
    deadline = time.monotonic() + BACK_SECONDS
    while not (house.ticks / "hanging").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert max(house.end().values()) < END_SECONDS
    house.start()
    assert house.wait_for_ticks(time.time(), 2 * BACK_SECONDS) == set(QUEUES)
