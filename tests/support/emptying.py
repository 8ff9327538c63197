"""Empties the database after a test whose rows were committed: what it wrote, not each table there is.

Django truncates all sixty tables, of which each and each of its indexes becomes a new file, and then makes the names of all
models and permissions again: a tenth of a second, while most tests write a dozen rows.
"""

from functools import cache

from django.db import connection, transaction
from django.test import TransactionTestCase

from tenants.tenancy import every_org

KEPT = {"django_content_type", "auth_permission"}  # what migrations write, and no test changes
MANY_BYTES = 4 * 1024 * 1024  # of one table; to delete so much takes longer than to truncate everything


@cache
def tables() -> list[str]:
    """Name the tables of all models."""
    return sorted(set(connection.introspection.django_table_names(include_views=False)) - KEPT)


def empty_tables(_: TransactionTestCase) -> None:
    """Leave no row that a test may have committed; refused, as truncating is, while others are still at work."""
    names = {name: connection.ops.quote_name(name) for name in tables()}
    with every_org(), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"LOCK TABLE {', '.join(names.values())} IN ACCESS EXCLUSIVE MODE")
        cursor.execute(
            """SELECT name, pg_relation_size(name::regclass) FROM unnest(%s::text[]) AS name
               WHERE pg_relation_size(name::regclass) > 0""",
            [list(names)],
        )
        sizes = dict(cursor.fetchall())
        if any(size > MANY_BYTES for size in sizes.values()):
            cursor.execute(f"TRUNCATE {', '.join(names.values())}")
        elif sizes:
            # in one statement, at whose end foreign keys are looked at, the order does not matter
            *first, last = [f"DELETE FROM {names[name]}" for name in sizes]
            parts = ", ".join(f"part_{number} AS ({delete})" for number, delete in enumerate(first))
            cursor.execute(f"WITH {parts} {last}" if first else last)
