import copy
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from django.core.checks import CheckMessage, Tags, registry
from django.db import connection
from pytest_django import Settings

from tenants.checks import (
    database_can_be_used,
    local_upstreams_stay_local,
    public_url_is_answered,
    role_is_bound_by_policies,
    secrets_are_set,
    sessions_are_ours,
)


def test_missing_and_broken_secrets_are_named(settings: Settings) -> None:
    settings.SECRET_KEY, settings.FIELD_ENCRYPTION_KEYS = "insecure-until-set", []
    assert [problem.id for problem in secrets_are_set()] == ["connector.E001", "connector.E002"]
    settings.SECRET_KEY, settings.FIELD_ENCRYPTION_KEYS = "set", ["too short"]
    assert [problem.id for problem in secrets_are_set()] == ["connector.E003"]


@pytest.mark.parametrize(
    ("public_url", "refused"), [("https://connector.example.com", True), ("http://127.0.0.1:8000", False)]
)
def test_local_upstreams_are_refused_beside_a_public_address(settings: Settings, public_url: str, refused: bool) -> None:
    settings.ALLOW_LOCAL_UPSTREAMS, settings.PUBLIC_URL = True, public_url
    assert bool(local_upstreams_stay_local()) is refused
    settings.ALLOW_LOCAL_UPSTREAMS = False
    assert not local_upstreams_stay_local()


@pytest.mark.django_db
def test_the_role_of_the_tests_is_bound_by_the_policies() -> None:
    assert role_is_bound_by_policies(databases=["default"]) == []


@pytest.mark.django_db
def test_a_role_that_sees_everything_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT rolname FROM pg_roles WHERE rolsuper LIMIT 1")
        (superuser,) = cursor.fetchone() or ("",)

    class Cursor:
        def __enter__(self) -> "Cursor":
            return self

        def __exit__(self, *_: object) -> None: ...

        def execute(self, _sql: str) -> None: ...

        def fetchone(self) -> tuple[bool, str]:
            return True, superuser

    monkeypatch.setattr(connection, "cursor", Cursor)
    assert [problem.id for problem in role_is_bound_by_policies(databases=["default"])] == ["connector.E005"]


@pytest.mark.parametrize(
    ("url", "hosts", "found"),
    [
        ("https://connector.example.com", ["connector.example.com"], []),
        ("http://localhost:8000", ["localhost"], []),
        ("https://connector.example.com", ["other.example.com"], ["connector.W001"]),
        ("http://connector.example.com", ["*"], ["connector.W002"]),
    ],
)
def test_an_address_that_nobody_can_use_is_named(settings: Settings, url: str, hosts: list[str], found: list[str]) -> None:
    settings.PUBLIC_URL, settings.ALLOWED_HOSTS = url, hosts
    assert ids(public_url_is_answered()) == found


def ids(problems: list[CheckMessage]) -> list[str | None]:
    return [problem.id for problem in problems]


@contextmanager
def reached(**changes: Any) -> Iterator[None]:
    """Connect in another way to the same server, and as before afterwards."""
    before = connection.settings_dict
    connection.close()
    connection.settings_dict = copy.deepcopy(before)
    connection.settings_dict["OPTIONS"] |= changes.pop("OPTIONS", {})
    connection.settings_dict |= changes
    try:
        yield
    finally:
        connection.close()
        connection.settings_dict = before


@pytest.mark.django_db(transaction=True)
def test_the_tests_own_database_passes_every_check() -> None:
    checks = [check for check in registry.registry.get_checks() if Tags.database in check.tags]
    found = [problem for check in checks for problem in check(app_configs=None, databases=["default"])]
    assert len(checks) > 3 and found == []


@pytest.mark.django_db(transaction=True)
def test_a_server_that_is_too_old_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenants.checks.OLDEST_POSTGRESQL", 99)
    assert ids(database_can_be_used(databases=["default"])) == ["connector.E006"]


@pytest.mark.django_db(transaction=True)
def test_a_database_without_unicode_is_refused() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET statement_timeout = 0")
        cursor.execute("CREATE DATABASE odd_ascii ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    try:
        with reached(NAME="odd_ascii"):
            assert ids(database_can_be_used(databases=["default"])) == ["connector.E007"]
    finally:
        with connection.cursor() as cursor:
            cursor.execute("SET statement_timeout = 0")
            cursor.execute("DROP DATABASE odd_ascii WITH (FORCE)")


@pytest.mark.django_db(transaction=True)
def test_a_database_that_is_read_only_is_refused() -> None:
    with reached(
        OPTIONS={"options": f"{connection.settings_dict['OPTIONS']['options']} -c default_transaction_read_only=on"}
    ):
        assert ids(database_can_be_used(databases=["default"])) == ["connector.E008"]


@pytest.mark.django_db(transaction=True)
def test_a_pooler_that_keeps_our_settings_to_itself_is_refused() -> None:
    with reached(OPTIONS={"options": ""}):
        (problem,) = sessions_are_ours(databases=["default"])
    assert problem.id == "connector.E009"
    assert "lock_timeout" in problem.msg and "plan_cache_mode" in problem.msg


@pytest.mark.django_db(transaction=True)
def test_a_pooler_is_noticed() -> None:
    with _pooler() as port, reached(PORT=port):
        assert ids(sessions_are_ours(databases=["default"])) == ["connector.W003"]


@contextmanager
def _pooler() -> Iterator[int]:
    """Stand before PostgreSQL as PgBouncer does, and name a process of our own invention.

    https://www.postgresql.org/docs/current/protocol-message-formats.html#PROTOCOL-MESSAGE-FORMATS-BACKENDKEYDATA
    """
    settings_dict = connection.settings_dict
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with suppress(OSError):
                client, _ = listening.accept()
                server = socket.create_connection((settings_dict["HOST"], settings_dict["PORT"]))
                threading.Thread(target=pump, args=[client, server], daemon=True).start()
                pump(server, client)

        def pump(source: socket.socket, sink: socket.socket) -> None:
            with suppress(OSError), source, sink:
                while piece := source.recv(65536):
                    head, key_data, rest = piece.partition(b"K\0\0\0\x0c")
                    sink.sendall(head + key_data + (b"\0\0\0\x07" + rest[4:] if key_data else rest))

        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]
