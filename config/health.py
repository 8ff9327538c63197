"""Whether this process can do its work, said soon, whatever the database does; whether it lives, asgi.py says."""

import select
import time
from functools import cache
from typing import Any

from django.conf import settings
from django.db import Error as DatabaseError
from django.db import InterfaceError, connection
from django.db.migrations.loader import MigrationLoader
from django.http import HttpRequest, JsonResponse
from psycopg import Error as PsycopgError
from psycopg import errors
from psycopg.pq import DiagnosticField, ExecStatus
from psycopg.pq.abc import PGconn, PGresult

from tenants.cache import with_redis
from tenants.database import note_trouble

ANSWER_SECONDS = 1.5  # that a database in order does not need; one that has to be connected to first has two more
# the server gives up as well, or each question would leave a process of its behind for as long as a lock is held
APPLIED = b"SET LOCAL statement_timeout = 1500; SELECT app, name FROM django_migrations"


def ready(_request: HttpRequest) -> JsonResponse:
    """Say what works. 503 without a database that fits this code; a broker that is down does not keep webhooks out."""
    parts = {"database": "up", "migrations": "applied", "broker": "up"}
    try:
        if not _newest_migrations() <= _applied_migrations():
            parts["migrations"] = "missing: run manage.py migrate"
    except (DatabaseError, InterfaceError, PsycopgError, TimeoutError) as exc:
        note_trouble("database down", exc)
        connection.close()
        parts |= {"database": "does not answer" if isinstance(exc, TimeoutError) else "down", "migrations": "unknown"}
    if not with_redis(_takes_tasks, default=False):
        parts["broker"] = "down"
    usable = parts["database"] == "up" and parts["migrations"] == "applied"
    return JsonResponse(parts, status=200 if usable else 503)


def _takes_tasks(redis: Any) -> bool:
    """Try what a broker must be able to do: a replica, a full one, and one that gives us no rights answer PING as well."""
    redis.set("connector:ready", 1, ex=60)
    redis.llen(settings.CELERY_TASK_DEFAULT_QUEUE)
    return True


@cache
def _newest_migrations() -> frozenset[tuple[str, str]]:
    """Name the last migration of each app in this code; it is recorded after all that it builds on."""
    return frozenset(MigrationLoader(None).graph.leaf_nodes())


def _applied_migrations() -> set[tuple[str, str]]:
    """Read which migrations the database has had.

    :raises TimeoutError: if it is busy with something else, or says nothing
    """
    *_, result = _ask(_connected(), APPLIED)
    if result.status == ExecStatus.TUPLES_OK:
        values = [[result.get_value(row, column) or b"" for column in (0, 1)] for row in range(result.ntuples)]
        return {(app.decode(), name.decode()) for app, name in values}
    state = (result.error_field(DiagnosticField.SQLSTATE) or b"").decode()
    if state == errors.UndefinedTable.sqlstate:
        return set()
    if state == errors.QueryCanceled.sqlstate:
        raise TimeoutError
    raise errors.OperationalError(f"the database refused to answer ({state})")


def _connected() -> PGconn:
    """Give a connection that the other end has not closed meanwhile; to ask it would wait where the server is frozen."""
    if connection.connection is not None:
        try:
            for _ in range(2):  # why it ends may come before the end
                connection.connection.pgconn.consume_input()
        except PsycopgError:
            connection.close()
    connection.ensure_connection()
    pgconn: PGconn = connection.connection.pgconn
    return pgconn


def _ask(pgconn: PGconn, statements: bytes) -> list[PGresult]:
    """Send statements and take their results, by a deadline of our own: psycopg itself waits for as long as it takes.

    https://www.postgresql.org/docs/current/libpq-async.html
    """
    deadline, poll, results = time.monotonic() + ANSWER_SECONDS, select.poll(), list[PGresult]()
    poll.register(pgconn.socket, select.POLLIN)
    pgconn.send_query(statements)
    while True:
        while pgconn.is_busy():
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise TimeoutError
            pgconn.consume_input()
        result = pgconn.get_result()
        if result is None:
            return results
        results.append(result)
