"""Redis may be gone, read-only, refusing, full, silent or full of nonsense: every process lives on."""

import os
import signal
import time
from collections.abc import Iterator

import pytest

from config.celery import app
from tenants.cache import PAUSE_SECONDS
from tests.config.queues import QUEUES
from tests.support.house import ODD_SECONDS, PROCESSES, House, Oddity, during, opened

BACK_SECONDS = 8.0
END_SECONDS = 3.0  # one, and what a busy machine adds: a successor waits for it

ODDITIES: list[Oddity] = []


def odd(function: Oddity) -> Oddity:
    ODDITIES.append(function)
    return function


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with opened(tmp_path_factory.mktemp("ticks")) as house:
        yield house


@odd
def a_replica_of_a_dead_host(house: House) -> Iterator[None]:
    house.redis.execute_command("REPLICAOF", "127.0.0.1", "1")
    yield
    house.redis.execute_command("REPLICAOF", "NO", "ONE")


@odd
def a_replica_that_serves_nothing_stale(house: House) -> Iterator[None]:
    house.redis.config_set("replica-serve-stale-data", "no")
    house.redis.execute_command("REPLICAOF", "127.0.0.1", "1")
    yield
    house.redis.execute_command("REPLICAOF", "NO", "ONE")
    house.redis.config_set("replica-serve-stale-data", "yes")


@odd
def a_user_without_rights(house: House) -> Iterator[None]:
    house.redis.execute_command("ACL", "SETUSER", "default", "-@all")
    yield
    house.redis.execute_command("ACL", "SETUSER", "default", "+@all")


@odd
def a_user_without_the_right_to_write(house: House) -> Iterator[None]:
    house.redis.execute_command("ACL", "SETUSER", "default", "-@write")
    yield
    house.redis.execute_command("ACL", "SETUSER", "default", "+@all")


@odd
def a_password_that_was_changed(house: House) -> Iterator[None]:
    house.redis.execute_command("ACL", "SETUSER", "default", "resetpass", ">another")
    house.redis.execute_command("CLIENT", "KILL", "USER", "default")
    yield
    house.redis.execute_command("ACL", "SETUSER", "default", "nopass")


@odd
def no_memory_left(house: House) -> Iterator[None]:
    house.redis.config_set("maxmemory-policy", "noeviction")
    house.redis.config_set("maxmemory", "1")
    yield
    house.redis.config_set("maxmemory", "0")


@odd
def no_connection_left(house: House) -> Iterator[None]:
    house.redis.config_set("maxclients", "1")
    house.redis.execute_command("CLIENT", "KILL", "USER", "default")
    yield
    house.redis.config_set("maxclients", "10000")


@odd
def keys_of_another_type(house: House) -> Iterator[None]:
    keys = [*QUEUES, *(f"_kombu.binding.{queue}" for queue in QUEUES), "unacked", "unacked_index"]
    house.redis.delete(*keys)
    house.redis.mset(dict.fromkeys(keys, "not a list"))
    yield
    house.redis.delete(*keys)


@odd
def queues_full_of_nonsense(house: House) -> Iterator[None]:
    for queue in QUEUES:
        house.redis.rpush(queue, b"\xff", b"null", b"7", b"[]", b'{"body": 1}')
    yield
    house.redis.delete(*QUEUES)


@odd
def commands_that_hang(house: House) -> Iterator[None]:
    house.redis.execute_command("CLIENT", "PAUSE", int(1500 * ODD_SECONDS), "ALL")
    yield
    house.redis.ping()  # answered when the pause is over, which nothing can end


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
    house.let_the_test_in()


@pytest.mark.parametrize("oddity", ODDITIES)
def test_every_process_lives_through_it_and_its_tasks_run_again(house: House, oddity: Oddity) -> None:
    before = house.running()
    with during(oddity, house):
        time.sleep(ODD_SECONDS)
        assert house.running() == before
        # webhooks are taken without a broker too; and nonsense in a queue keeps no task out
        status, parts = house.ready()
        assert (status, parts["broker"]) == (200, "up" if oddity is queues_full_of_nonsense else "down")
    healed = time.time()
    assert house.wait_for_ticks(healed, BACK_SECONDS) == set(QUEUES)
    time.sleep(max(0.0, healed + PAUSE_SECONDS - time.time()))
    status, parts = house.ready()
    assert (status, parts["broker"]) == (200, "up")
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
