"""Whether a process lives and can work, said in time: routers and orchestrators ask while something is wrong."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest
from django.db import connection
from django.test import Client
from pytest_django import Settings

from tenants import cache

pytestmark = pytest.mark.django_db
SOON = 5.0  # seconds: below what routers and orchestrators wait, on a busy machine


class Wire:
    """What lies between us and PostgreSQL: it carries on, or holds whatever is sent without a word."""

    def __init__(self, host: str, port: int) -> None:
        self.address, self.held = (host, port), threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.ends: list[socket.socket] = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            far = socket.create_connection(self.address)
            self.ends += [near, far]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self.carry, args=[one, other], daemon=True).start()

    def carry(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                while self.held.is_set():
                    time.sleep(0.02)
                other.sendall(data)
        for each in (one, other):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)  # ends the wait for the next one
        for each in (self.listener, *self.ends):
            each.close()


@pytest.fixture
def wire(transactional_db: None) -> Iterator[Wire]:
    """Lead the connection of this thread over a wire that can be held."""
    before = dict(connection.settings_dict)
    wire = Wire(str(before["HOST"]), int(before["PORT"]))
    connection.close()
    connection.settings_dict |= {"HOST": "127.0.0.1", "PORT": wire.port}
    yield wire
    wire.held.clear()
    connection.close()
    connection.settings_dict |= {"HOST": before["HOST"], "PORT": before["PORT"]}
    wire.close()


def ask(status: int) -> dict[str, str]:
    began = time.monotonic()
    answer = Client().get("/readyz")
    assert time.monotonic() - began < SOON
    assert answer.status_code == status, answer.content
    parts: dict[str, str] = answer.json()
    return parts


def test_a_process_that_can_work_names_its_parts() -> None:
    assert ask(200) == {"database": "up", "migrations": "applied", "broker": "up"}


def test_without_a_broker_webhooks_are_still_routed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    monkeypatch.setattr(cache, "_memory", cache._Memory())
    assert ask(200)["broker"] == "down"


def test_a_broker_that_says_nothing_is_down(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings.REDIS_URL = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        monkeypatch.setattr(cache, "_memory", cache._Memory())
        assert ask(200)["broker"] == "down"


def test_without_a_database_nothing_is_routed(wire: Wire) -> None:
    connection.settings_dict["PORT"] = 1
    assert ask(503) == {"database": "down", "migrations": "unknown", "broker": "up"}


def test_a_database_without_tables_or_with_older_ones_keeps_traffic_away() -> None:
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM django_migrations WHERE id = (SELECT max(id) FROM django_migrations)")
        assert "manage.py migrate" in ask(503)["migrations"]
        cursor.execute("ALTER TABLE django_migrations RENAME TO gone")
        assert "manage.py migrate" in ask(503)["migrations"]


@pytest.mark.django_db(transaction=True)
def test_a_lock_on_the_table_of_migrations_is_not_waited_for() -> None:
    with closing(connection.copy()) as other, other.cursor() as cursor:
        other.set_autocommit(False)
        cursor.execute("LOCK TABLE django_migrations IN ACCESS EXCLUSIVE MODE")
        for _ in range(2):
            assert ask(503)["database"] == "does not answer"
        cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'django_migrations'::regclass")
        assert cursor.fetchall() == [(0,)]  # nobody was left waiting in the server
    assert ask(200)["database"] == "up"


def test_a_database_that_says_nothing_is_not_waited_for(wire: Wire) -> None:
    assert ask(200)["database"] == "up"
    wire.held.set()
    assert ask(503)["database"] == "does not answer"
    assert ask(503)["database"] == "down"  # nor does it take a new connection
    wire.held.clear()
    assert ask(200)["database"] == "up"


@pytest.mark.django_db(transaction=True)
def test_a_connection_that_the_server_ended_meanwhile_is_not_taken_for_a_database_that_is_down() -> None:
    other = connection.copy()
    with connection.cursor() as mine, other.cursor() as cursor:
        mine.execute("SELECT pg_backend_pid()")
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", mine.fetchone())  # milliseconds to wait for its end
    other.close()
    assert ask(200)["database"] == "up"
