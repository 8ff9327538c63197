"""PostgreSQL may be gone, frozen, read-only, full of connections or locked: no process dies, and all work again soon."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import requests

from devstack.documents import example_documents
from devstack.ports import free_port
from tests.conftest import whatsapp_text
from tests.support.house import ODD_SECONDS, PROCESSES, House, Oddity, during, opened
from tests.support.web import signature

BACK_SECONDS = 30.0
ODDITIES: list[Oddity] = []
LOCKED_SECONDS = 4.0  # longer than a statement waits for a lock


def odd(function: Oddity) -> Oddity:
    ODDITIES.append(function)
    return function


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with opened(tmp_path_factory.mktemp("ticks")) as house:
        yield house


def owner(house: House) -> "psycopg.Connection[Any]":
    """Connect as our role, which owns the database, but with a session that is never read-only."""
    options = "-c default_transaction_read_only=off"
    return psycopg.connect(house.stack.env["DATABASE_URL"], autocommit=True, connect_timeout=5, options=options)


def end_others(connection: "psycopg.Connection[Any]") -> None:
    connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = user AND pid <> pg_backend_pid()"
    )


@odd
def a_server_that_is_gone(house: House) -> Iterator[None]:
    house.stack.stop_service("postgres")
    yield
    house.stack.restart_service("postgres")


@odd
def a_server_that_is_frozen(house: House) -> Iterator[None]:
    postgres = house.stack.services["postgres"].process
    assert postgres is not None
    pids = [postgres.pid, *children_of(postgres.pid)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    yield
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def children_of(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    return [int(child) for child, parent in map(str.split, listed.splitlines()) if int(parent) == pid]


@odd
def a_server_that_ends_every_session(house: House) -> Iterator[None]:
    with owner(house) as connection:
        for _ in range(10):
            end_others(connection)
            time.sleep(0.2)
        yield


@odd
def a_database_that_is_read_only(house: House) -> Iterator[None]:
    with owner(house) as connection:
        connection.execute("ALTER DATABASE connector SET default_transaction_read_only = on")
        end_others(connection)
        yield  # sessions that begin now stay read-only, also when the database is not any more
        connection.execute("ALTER DATABASE connector RESET default_transaction_read_only")


@odd
def no_connection_left(house: House) -> Iterator[None]:
    with owner(house) as connection:
        connection.execute("ALTER DATABASE connector CONNECTION LIMIT 0")
        end_others(connection)
        yield
        connection.execute("ALTER DATABASE connector CONNECTION LIMIT -1")


@odd
def tables_that_somebody_holds(house: House) -> Iterator[None]:
    with owner(house) as connection:
        names = connection.execute(
            "SELECT string_agg(relname, ', ') FROM pg_class WHERE relkind = 'r' AND relname ~ '^messaging_'"
        )
        (tables,) = names.fetchone() or ("",)
        with connection.transaction():
            connection.execute(f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE")
            time.sleep(LOCKED_SECONDS)
            yield


def send_webhook(house: House, account: dict[str, Any], text: str) -> bool:
    """Post a message as Infobip does; tell whether it was taken."""
    document = account["document"]
    number = document["channels"][0]["senders"][0]["number"]
    body = json.dumps({"results": [whatsapp_text(text, to=number, message_id=f"m.{text}")]}).encode()
    signed = {"X-Hub-Signature": signature(body, document["infobipAccounts"][0]["webhookSecret"])}
    path = urlsplit(account["webhook"]).path
    try:
        return requests.post(f"{house.stack.web_url}{path}", body, headers=signed, timeout=10).status_code == 200
    except requests.RequestException:
        return False


def has_message(house: House, text: str) -> bool:
    """Tell whether a worker has made a message of it."""
    with owner(house) as connection:
        connection.execute("SELECT set_config('connector.org', '*', false)")
        found = connection.execute("SELECT count(*) FROM messaging_message WHERE text = %s", [text])
        return found.fetchone() == (1,)


@pytest.fixture(scope="module")
def account(house: House) -> dict[str, Any]:
    """Set up an org; its Salesforce is not there, so that nothing but what is tested here ever ends."""
    (document,) = example_documents(free_port(), free_port())
    result = json.loads(house.stack.manage("provision", "-", input=json.dumps(document)))
    return {"document": document, "webhook": result["infobipAccounts"][0]["webhook"]}


@pytest.mark.parametrize("oddity", ODDITIES)
def test_every_process_lives_through_it_and_what_was_taken_is_a_message_soon(
    house: House, account: dict[str, Any], oddity: Oddity
) -> None:
    before = house.running()
    name = oddity.__name__
    with during(oddity, house):
        taken_during = send_webhook(house, account, f"{name} during")
        time.sleep(ODD_SECONDS)
        assert house.running() == before
    healed = time.monotonic()
    while not send_webhook(house, account, f"{name} after"):
        assert time.monotonic() < healed + BACK_SECONDS, "the door takes nothing"
        time.sleep(0.1)
    expected = [f"{name} after", *([f"{name} during"] if taken_during else [])]
    while not all(has_message(house, text) for text in expected):
        assert time.monotonic() < healed + BACK_SECONDS, "no worker takes it in"
        time.sleep(0.1)
    assert house.ready()[0] == 200
    assert house.running() == before and len(before) == len(PROCESSES)
