"""SQL where the ORM has no words for it: locks in order, many rows at once, and what a statement changed."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from django.db import connection


def query(sql: str, parameters: Sequence[Any]) -> list[Any]:
    """Run one statement, and give its rows where it has some."""
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchall() if cursor.description else []


def records(rows: Iterable[Mapping[str, object]]) -> str:
    """Put rows into one parameter for ``jsonb_to_recordset``: the driver takes many times as long for an array per column.

    Dates and UUIDs become texts, which PostgreSQL reads as what the statement declares.
    """
    return json.dumps(list(rows), default=str)
