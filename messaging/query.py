"""SQL where the ORM has no words for it: locks in order, many rows at once, and what a statement changed."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

from django.db import connection


def query(sql: str, parameters: Sequence[Any]) -> list[Any]:
    """Run one statement, and give its rows where it has some.

    Lists of whole numbers become the text of an array, whose type the statement says: the driver takes many times as long
    for a list, and gives it a type by its values, by which the same statement would be prepared several times.
    """
    with connection.cursor() as cursor:
        cursor.execute(sql, [_text_of_array(each) if _are_ids(each) else each for each in parameters])
        return cursor.fetchall() if cursor.pgresult.nfields else []


def _are_ids(value: object) -> TypeGuard[list[int]]:
    return type(value) is list and all(type(each) is int for each in value)


def _text_of_array(numbers: list[int]) -> str:
    return f"{{{','.join(map(str, numbers))}}}"


def records(rows: Iterable[Mapping[str, object]]) -> str:
    """Put rows into one parameter for ``jsonb_to_recordset``: the driver takes many times as long for an array per column.

    Dates and UUIDs become texts, which PostgreSQL reads as what the statement declares.
    """
    return json.dumps(list(rows), default=str)
