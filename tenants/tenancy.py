"""Whose rows a piece of code sees.

Every table of a customer's data has a policy, forced also on its owner, that compares its org with the connection setting
``connector.org``: the id of an org, ``*`` for all of them, or nothing, which shows no rows. The setting is made here and
nowhere else. It follows the scope of the running thread: before each statement the connection is brought in line where
it is not, so that a persistent connection, or one from the pool, that comes back with the last org shows it to nobody.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from django.db import Error, connection, migrations
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg.pq import TransactionStatus

from tenants.database import drop_if_spent

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
        if connection.connection is not None and not connection.in_atomic_block:
            try:
                _guard_of(connection).align()
            except Error as exc:  # the server went away; the next statement says so, or opens a new connection
                drop_if_spent(connection, exc)
        yield
    finally:
        _scope.reset(token)


class _Guard:
    """Brings a connection in line with the scope of the running thread, before each of its statements."""

    def __init__(self, wrapper: BaseDatabaseWrapper) -> None:
        self.wrapper = wrapper
        self.applied: str | None = None  # what the connection is set to; None: not known

    def __call__(self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: dict[str, Any]) -> Any:
        if self.applied != _scope.get():
            self.align()
        return execute(sql, params, many, context)

    def align(self) -> None:
        scope = _scope.get()
        if self.applied == scope or self.wrapper.connection.info.transaction_status == TransactionStatus.INERROR:
            return  # in a failed transaction nothing passes but its rollback
        self.applied = None
        with self.wrapper.wrap_database_errors, self.wrapper.connection.cursor() as cursor:
            cursor.execute("SELECT set_config(%s, %s, false)", [SETTING, scope])
        # what is set inside a transaction may go back with its rollback, so it is not relied upon
        self.applied = None if self.wrapper.in_atomic_block else scope


def _guard_of(wrapper: BaseDatabaseWrapper) -> _Guard:
    guards = [each for each in wrapper.execute_wrappers if isinstance(each, _Guard)]
    if not guards:
        guards = [_Guard(wrapper)]
        wrapper.execute_wrappers.append(guards[0])
    return guards[0]


def guard_new_connection(*, connection: BaseDatabaseWrapper, **_: Any) -> None:
    """Receive Django's signal for a connection that was made, or taken from the pool with whatever scope it came back."""
    guard = _guard_of(connection)
    guard.applied = None
    guard.align()


def isolation(
    table: str,
    *,
    org_column: str = "org_id",
    unique: str = "id, org_id",
    references: dict[str, str] | None = None,
) -> migrations.RunSQL:
    """Make the migration operation that isolates a table by org.

    :param unique: the columns of the constraint that foreign keys can point at, in the order that its index is read in
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
        forward.append(f"ALTER TABLE {table} ADD CONSTRAINT {table}_org_and_id UNIQUE ({unique})")
        backward.insert(0, f"ALTER TABLE {table} DROP CONSTRAINT {table}_org_and_id CASCADE")
    for column, target in (references or {}).items():
        name = f"{table}_same_org_{column}"
        forward.append(
            f"ALTER TABLE {table} ADD CONSTRAINT {name} FOREIGN KEY (org_id, {column}) REFERENCES {target} (org_id, id)"
        )
        backward.insert(0, f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {name}")
    return migrations.RunSQL(forward, backward)


def hidden(table: str) -> migrations.RunSQL:
    """Make the migration operation for a table that belongs to no org yet: code sees it with the wide scope only."""
    return migrations.RunSQL(
        [
            f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
            f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY",
            f"CREATE POLICY {table}_hidden ON {table} USING ((SELECT current_setting('{SETTING}', true)) = '{EVERY_ORG}')",
        ],
        [
            f"DROP POLICY {table}_hidden ON {table}",
            f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY",
            f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY",
        ],
    )
