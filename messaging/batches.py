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

LOCK_SECONDS = 1.0  # how long a transaction waits for a row that somebody else holds
MOST_ALONE = 20  # rows of an org that are taken one at a time in one turn
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
    done: list[R] = []
    troubled: list[tuple[int, Sequence[T], Exception]] = []
    rows = [row for of_org in groups.values() for row in of_org]
    if rows and (error := _attempt(rows, work, done)) is not None:
        log.warning("a batch is taken in parts", orgs=len(groups), rows=len(rows), **facts_of(error))
        for org_id, of_org in groups.items():
            if len(groups) == 1 or (error := _attempt(of_org, work, done)) is not None:
                troubled.append((org_id, of_org, error))
    # last, and a few at a time, since nobody else should wait for them; the others are due at the next turn
    for org_id, of_org, of_all in troubled:
        for row in of_org[:MOST_ALONE]:
            alone = of_all if len(of_org) == 1 else _attempt([row], work, done)
            if alone is not None:
                _count(org_id, row, alone, set_aside)
    return done


def _attempt(rows: Sequence[T], work: Callable[[Sequence[T]], R], done: list[R]) -> Exception | None:
    try:
        with brief_transaction():
            result = work(rows)
    except Exception as exc:
        if is_database_trouble(exc) and sqlstate(exc) not in _ONE_ORGS_TROUBLE:
            raise
        return exc
    done.append(result)
    return None


def _count(org_id: int, row: T, exc: Exception, set_aside: Callable[[T, Exception], None]) -> None:
    if is_database_trouble(exc):  # such as a lock that somebody holds: nobody's fault, and taken again at the next turn
        log.warning("a row waits for the database", org=org_id, **facts_of(exc))
        return
    log.error("a row is set aside", org=org_id, **facts_of(exc))
    try:
        with brief_transaction():
            set_aside(row, exc)
    except Exception as again:
        if is_database_trouble(again):
            raise
        log.error("a row could not be set aside", org=org_id, **facts_of(again))


def in_words(exc: Exception) -> str:
    """Say of an unexpected error what a customer may read: its name, never its text, which may hold what a person wrote."""
    name = type(exc.__cause__ if isinstance(exc, DatabaseError) and exc.__cause__ else exc).__name__
    return f"It failed unexpectedly ({name}); our operators' log says where"
