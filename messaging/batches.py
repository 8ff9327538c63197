"""Works on many orgs' rows at once, and on one at a time where that raises: nobody's row stops the others."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import structlog
from django.db import Error as DatabaseError
from django.db import connection, transaction

from messaging.query import query
from tenants.database import facts_of, is_database_trouble, sqlstate

log = structlog.get_logger(__name__)

T = TypeVar("T")
R = TypeVar("R")

LOCK_SECONDS = 2.0  # how long a transaction waits for a row that somebody else holds
DATABASE_USERS = 4  # threads of this process that use the database for a moment, at once; the pool has few connections

# https://www.postgresql.org/docs/current/errcodes-appendix.html
_ONE_ORGS_TROUBLE = ("40001", "40P01", "55P03", "57014")  # somebody holds a lock, or a statement took too long

_users = threading.BoundedSemaphore(DATABASE_USERS)


@contextmanager
def brief_connection() -> Iterator[None]:
    """Use the database for a moment: the connection goes back afterwards, so that nobody holds one while they call."""
    with _users:
        try:
            yield
        finally:
            if not connection.in_atomic_block:
                connection.close()


@contextmanager
def brief_transaction() -> Iterator[None]:
    """Open a transaction that waits for a lock a moment only: who holds one for long must not stop the others."""
    with transaction.atomic():
        query("SELECT set_config('lock_timeout', %s, true)", [f"{round(LOCK_SECONDS * 1000)}ms"])
        yield


def work_on(
    groups: Mapping[int, Sequence[T]], work: Callable[[Sequence[T]], R], *, set_aside: Callable[[T, Exception], None]
) -> list[R]:
    """Work on all at once in one transaction; where that raises, on one org at a time, and then on one row at a time.

    :param groups: the rows by org
    :param work: must not keep anything of what it did in memory: what raises is rolled back and repeated in parts
    :param set_aside: counts the error on the row that raises alone, in a transaction of its own
    :return: what the parts gave
    :raises django.db.Error: if the database is in trouble; what was done until then is committed
    """
    rows = [(org_id, row) for org_id, of_org in groups.items() for row in of_org]
    if not rows:
        return []
    try:
        with brief_transaction():
            return [work([row for _, row in rows])]
    except Exception as exc:
        trouble = is_database_trouble(exc)
        if trouble and sqlstate(exc) not in _ONE_ORGS_TROUBLE:
            raise
        if len(rows) == 1:
            if trouble:  # taken again at the next turn
                log.warning("a row waits for the database", org=rows[0][0], **facts_of(exc))
            else:
                _set_aside(rows[0], exc, set_aside)
            return []
        log.warning("a batch is taken in parts", orgs=len(groups), rows=len(rows), **facts_of(exc))
    parts: list[Mapping[int, Sequence[T]]]
    parts = [{org: of_org} for org, of_org in groups.items()] if len(groups) > 1 else [{org: [row]} for org, row in rows]
    return [result for part in parts for result in work_on(part, work, set_aside=set_aside)]


def _set_aside(row: tuple[int, T], exc: Exception, set_aside: Callable[[T, Exception], None]) -> None:
    log.error("a row is set aside", org=row[0], **facts_of(exc))
    try:
        with brief_transaction():
            set_aside(row[1], exc)
    except Exception as again:
        if is_database_trouble(again):
            raise
        log.error("a row could not be set aside", org=row[0], **facts_of(again))


def in_words(exc: Exception) -> str:
    """Say of an unexpected error what a customer may read: its name, never its text, which may hold what a person wrote."""
    name = type(exc.__cause__ if isinstance(exc, DatabaseError) and exc.__cause__ else exc).__name__
    return f"It failed unexpectedly ({name}); our operators' log says where"
