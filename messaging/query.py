"""SQL where the ORM has no words for it: locks in order, many rows at once, and what a statement changed."""

from collections.abc import Sequence
from typing import Any

from django.db import connection


def query(sql: str, parameters: Sequence[Any]) -> list[Any]:
    """Run one statement, and give its rows where it has some."""
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchall() if cursor.description else []
