"""Tells what a database error means: for the row in hand, and for the connection that it came from."""

import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import structlog
from django.core.exceptions import ValidationError
from django.db import DataError, IntegrityError
from django.db import Error as DjangoDatabaseError
from django.db.backends.base.base import BaseDatabaseWrapper

from tenants import repeats

log = structlog.get_logger(__name__)

# Classes of SQLSTATE that speak of the values, so that the same row fails again however often it is tried. Not 42 or 0A:
# a table, column or privilege that is missing, or a plan of before a migration, fails all rows until the deploy is done.
# https://www.postgresql.org/docs/current/errcodes-appendix.html
ROWS_CLASSES = {
    "21",  # cardinality: one statement would change the same row twice
    "22",  # data: out of range, not of that type, not of that encoding
    "23",  # constraints
    "54",  # limits of PostgreSQL: a text too long for an index, JSON nested too deep
    "P0",  # raised by a function, such as an operator's trigger, over what it was given
}
MOST_FRAMES = 4  # of our code, in a log line
# What Python, Django and psycopg raise over a value before it is sent, or after it came
ROWS_ERRORS = (
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    RecursionError,
    ValidationError,
)
# SQLSTATEs, or how they begin, after which a connection that still answers is of no use: a new one may find another server,
# other settings or other tables.
SPENT_STATES = (
    "08",  # lost, or not understood
    "0A",  # not supported: what a statement prepared before a migration comes to after it
    "25006",  # read-only: a replica, or a session that began while the database was
    "25P03",  # idle in a transaction for too long
    "26",  # a prepared statement is gone, or
    "42P05",  # is there already: a pooler changed the server behind us
    "57P",  # shutting down, starting, dropped
    "58",  # the server's disk or system
    "XX",  # its own faults
)


def is_rows_fault(exc: BaseException) -> bool:
    """Say whether the row that was in hand is at fault: it fails again, and all others may pass.

    False for all else that comes from the database or the way there: gone, read-only, in recovery, failing over, out of
    connections, memory or disk, locked, too slow, an error that we do not know. Then nothing is decided about the row, and
    it is tried again later. The exception's class does not tell (psycopg's for read-only is InternalError, for a full disk
    OperationalError, for a timestamp it cannot load DataError), so its SQLSTATE does, from behind Django's exceptions:
    https://www.psycopg.org/psycopg3/docs/api/errors.html
    """
    error = _from_psycopg(exc)
    if error is not None:
        if error.sqlstate is not None:
            return error.sqlstate[:2] in ROWS_CLASSES
        return isinstance(error, psycopg.DataError)  # psycopg's own: it cannot load a value, or not send it
    if isinstance(exc, DjangoDatabaseError):
        return isinstance(exc, DataError | IntegrityError)
    return isinstance(exc, ROWS_ERRORS) and not isinstance(exc, OSError)  # a bad certificate is both


def is_database_trouble(exc: BaseException) -> bool:
    """Say whether an error comes from the database and no row is at fault: what was in hand waits, uncounted."""
    return isinstance(exc, DjangoDatabaseError | psycopg.Error) and not is_rows_fault(exc)


def sqlstate(exc: BaseException) -> str:
    """Give PostgreSQL's code of an error, from behind Django's exceptions; empty where there is none."""
    error = _from_psycopg(exc)
    return (error.sqlstate or "") if error is not None else ""


def facts_of(exc: BaseException) -> dict[str, str]:
    """Say what went wrong, and where in our code, for a log: an exception's own words may hold what a person wrote."""
    ours = [each for each in traceback.extract_tb(exc.__traceback__) if "site-packages" not in each.filename]
    at = " > ".join(f"{Path(each.filename).name}:{each.lineno}" for each in ours[-MOST_FRAMES:])
    return {"error": type(exc).__name__, "code": sqlstate(exc), "at": at}


def note_trouble(event: str, exc: BaseException, **about: object) -> None:
    """Log trouble of the database: each kind at once, and while it lasts once in some seconds, with how often it came.

    Who tries again several times a second would fill the log else, in every process at once.
    """
    error = _from_psycopg(exc)
    count = repeats.kept_back(event, type(exc).__name__, sqlstate(exc))
    if count is None:
        return
    facts: dict[str, object] = {**about, **facts_of(exc)}
    if isinstance(error, psycopg.OperationalError) and error.sqlstate is None:  # libpq's words on a connection: no row's
        facts["why"] = str(error).strip().partition("\n")[0][:200]
    if count:
        facts["repeated"] = count
    log.warning(event, **facts)


def is_spent(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any], exc: BaseException) -> bool:
    """Say whether a connection is of no use after an error that came from it, so that it is to be closed."""
    return connection.closed or sqlstate(exc).startswith(SPENT_STATES)


def watch_new_connection(*, connection: BaseDatabaseWrapper, **_: Any) -> None:
    """Receive Django's signal for a connection that was made, or taken from the pool."""
    if _drop_spent not in connection.execute_wrappers:
        connection.execute_wrappers.insert(0, _drop_spent)  # the outermost


def drop_if_spent(wrapper: BaseDatabaseWrapper, exc: BaseException) -> None:
    """Close the connection of this thread if it is of no use after an error, so that the next statement gets another."""
    if wrapper.connection is not None and is_spent(wrapper.connection, exc):
        name = type(exc.__cause__ or exc).__name__
        repeats.say(log.warning, "database connection dropped", name, error=name)
        with suppress(psycopg.Error):
            wrapper.connection.close()  # the pool would hand it out again
        with suppress(DjangoDatabaseError):
            wrapper.close()


def _drop_spent(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: dict[str, Any]) -> Any:
    """Run a statement, and drop the connection over which the database said that it is of no use.

    Django keeps one that is read-only for its whole age, and so does the pool: both only ask whether it answers. One that
    was closed by the other end fails each statement until the end of a request, which outside of web never comes.
    """
    try:
        return execute(sql, params, many, context)
    except DjangoDatabaseError as exc:
        drop_if_spent(context["connection"], exc)
        raise


def _from_psycopg(exc: BaseException) -> psycopg.Error | None:
    """Find what psycopg raised behind an exception."""
    link: BaseException | None = exc
    while link is not None and not isinstance(link, psycopg.Error):
        link = link.__cause__
    return link
