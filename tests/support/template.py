"""The tables of a run's test databases, migrated once: each process that migrates has four seconds of work."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from django.core.management import call_command
from django.db import connection
from psycopg import sql

_MAKING = 7_105_219  # an advisory lock of the server: one process at a time makes or drops a template


@contextmanager
def template() -> Iterator[str]:
    """Give the name of a database with all tables and no rows; the run's first process makes it, its last one drops it."""
    run = os.environ["PYTEST_XDIST_TESTRUNUID"]
    name, in_use = f"template_{run}", int(run[:8], 16)  # a lock that all processes of the run share
    parameters = connection.get_connection_params()
    known = {each: parameters[each] for each in ("host", "port", "user", "password", "dbname") if each in parameters}
    with psycopg.connect(**known, autocommit=True) as server:
        server.execute("SELECT pg_advisory_lock(%s)", [_MAKING])
        if server.execute("SELECT FROM pg_database WHERE datname = %s", [name]).fetchone() is None:
            server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
            _migrate(name)
        server.execute("SELECT pg_advisory_lock_shared(%s), pg_advisory_unlock(%s)", [in_use, _MAKING])
        yield name
        server.execute("SELECT pg_advisory_lock(%s), pg_advisory_unlock_shared(%s)", [_MAKING, in_use])
        [(is_last,)] = server.execute("SELECT pg_try_advisory_lock(%s)", [in_use]).fetchall()
        if is_last:
            server.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)))


def _migrate(name: str) -> None:
    before = connection.settings_dict["NAME"]
    connection.close()
    connection.settings_dict["NAME"] = name
    try:
        call_command("migrate", verbosity=0, interactive=False)
    finally:
        connection.close()  # what is copied must have no session
        connection.settings_dict["NAME"] = before
