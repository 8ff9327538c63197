"""Sessions of PostgreSQL beside Django's own."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from django.db import connection

Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class Two:
    """Two sessions of the test database, with a table."""

    mine: Connection
    other: Connection
    parameters: dict[str, Any]

    def run(self, *statements: str) -> None:
        for statement in statements:
            self.mine.execute(statement)


@pytest.fixture
def two() -> Iterator[Two]:
    connection.ensure_connection()
    parameters = {**connection.get_connection_params(), "autocommit": True, "cursor_factory": psycopg.Cursor}
    with psycopg.connect(**parameters) as mine, psycopg.connect(**parameters) as other:
        other.execute("CREATE TABLE odd (id int PRIMARY KEY, n int NOT NULL CHECK (n > 0), text text UNIQUE)")
        other.execute("INSERT INTO odd VALUES (1, 1, 'a'), (2, 2, 'b')")
        try:
            yield Two(mine, other, parameters)
        finally:
            mine.close()
            other.execute("DROP TABLE odd")
