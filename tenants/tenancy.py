"""Whose rows a piece of code sees.

Every table of a customer's data has a policy, forced also on its owner, that compares its org with the connection setting
``connector.org``: the id of an org, ``*`` for all of them, or nothing, which shows no rows. The setting is made here and
nowhere else. It follows the scope of the running thread: set when a scope is entered, taken back when it is left, and set
again on each connection that is made or taken from the pool in between, since a pooled one comes back with the last org.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import psycopg
from django.db import connection, migrations
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg.pq import TransactionStatus

SETTING = "connector.org"
EVERY_ORG = "*"

_scope: ContextVar[str] = ContextVar("scope", default="")


@contextmanager
def org_scope(org_id: int) -> Iterator[None]:
    """See one org's rows."""
    with _scoped(str(org_id)):
        yield


@contextmanager
def every_org() -> Iterator[None]:
    """See all orgs' rows: for finding out whose a request is, for queues that serve all orgs, and for operators."""
    with _scoped(EVERY_ORG):
        yield


@contextmanager
def _scoped(value: str) -> Iterator[None]:
    token = _scope.set(value)
    try:
        _apply()
        yield
    finally:
        _scope.reset(token)
        _apply()


def _apply() -> None:
    """Bring an open connection in line; one that is opened later is brought in line by ``scope_new_connection``."""
    raw = connection.connection
    if raw is None or raw.closed:
        return
    if raw.info.transaction_status == TransactionStatus.INERROR:
        return  # its rollback puts back the setting that it began with
    try:
        _set(connection)
    except psycopg.OperationalError:  # the server went away; the next query opens a connection with the scope of then
        connection.close()


def _set(wrapper: BaseDatabaseWrapper) -> None:
    with wrapper.connection.cursor() as cursor:  # below Django's wrapper, which would open a new connection
        cursor.execute("SELECT set_config(%s, %s, false)", [SETTING, _scope.get()])


def scope_new_connection(*, connection: BaseDatabaseWrapper, **_: Any) -> None:
    """Receive Django's signal for a connection that was made, or taken from the pool."""
    _set(connection)


def isolation(table: str, *, org_column: str = "org_id", references: dict[str, str] | None = None) -> migrations.RunSQL:
    """Make the migration operation that isolates a table by org.

    :param references: foreign key column to the table it points at. Foreign keys bypass policies, so each becomes one on
        org *and* id: a row of one org cannot point at another's
    """
    forward: list[Any] = [
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
        f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY",
        # the sub-selects are read once a query; a setting that was never made is NULL, one taken back an empty text
        f"""CREATE POLICY {table}_org ON {table} USING (
                {org_column} = (SELECT NULLIF(NULLIF(current_setting('{SETTING}', true), ''), '{EVERY_ORG}')::bigint)
                OR (SELECT current_setting('{SETTING}', true)) = '{EVERY_ORG}')""",
    ]
    backward: list[Any] = [
        f"DROP POLICY {table}_org ON {table}",
        f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY",
        f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY",
    ]
    if org_column != "id":
        forward.append(f"ALTER TABLE {table} ADD CONSTRAINT {table}_org_and_id UNIQUE (id, org_id)")
        backward.insert(0, f"ALTER TABLE {table} DROP CONSTRAINT {table}_org_and_id CASCADE")
    for column, target in (references or {}).items():
        name = f"{table}_same_org_{column}"
        forward.append(
            f"ALTER TABLE {table} ADD CONSTRAINT {name} FOREIGN KEY (org_id, {column}) REFERENCES {target} (org_id, id)"
        )
        backward.insert(0, f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {name}")
    return migrations.RunSQL(forward, backward)
