"""Tells a row that cannot be stored or read from a database that cannot do its work now."""

import psycopg
from django.core.exceptions import ValidationError
from django.db import DataError, IntegrityError
from django.db import Error as DjangoDatabaseError

# Classes of SQLSTATE that speak of the values, so that the same row fails again however often it is tried:
# https://www.postgresql.org/docs/current/errcodes-appendix.html
ROWS_CLASSES = {
    "21",  # cardinality: one statement would change the same row twice
    "22",  # data: out of range, not of that type, not of that encoding
    "23",  # constraints
    "54",  # limits of PostgreSQL: a text too long for an index, JSON nested too deep
}
# What Python, Django and psycopg raise over a value before it is sent, or after it came
ROWS_ERRORS = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RecursionError, ValidationError)


def is_rows_fault(exc: BaseException) -> bool:
    """Say whether the row that was in hand is at fault: it fails again, and all others may pass.

    False for all else that comes from the database or the way there: gone, read-only, in recovery, failing over, out of
    connections, memory or disk, locked, too slow, an error that we do not know. Then nothing is decided about the row, and
    it is tried again later. The exception's class does not tell (psycopg's for read-only is InternalError, for a full disk
    OperationalError, for a timestamp it cannot load DataError), so its SQLSTATE does, from behind Django's exceptions:
    https://www.psycopg.org/psycopg3/docs/api/errors.html
    """
    link: BaseException | None = exc
    while link is not None and not isinstance(link, psycopg.Error):
        link = link.__cause__
    if isinstance(link, psycopg.Error):
        if link.sqlstate is not None:
            return link.sqlstate[:2] in ROWS_CLASSES
        return isinstance(link, psycopg.DataError)  # psycopg's own: it cannot load a value, or not send it
    if isinstance(exc, DjangoDatabaseError):
        return isinstance(exc, DataError | IntegrityError)
    return isinstance(exc, ROWS_ERRORS) and not isinstance(exc, OSError)  # a bad certificate is both
