"""Django's migrate, without the limits that would cut it."""

from contextlib import suppress
from typing import Any

from django.core.management.commands import migrate
from django.db import Error, connections

LIMITS = {
    "statement_timeout": "0",  # building a large index takes minutes, and what it has done is lost if it is cut
    "idle_in_transaction_session_timeout": "5min",  # one that moves rows may think in between
    # Whatever changes a table waits until nobody reads it, and everybody else waits behind it. So it gives up, and
    # `release` is run again; but not before a process that froze in a transaction has lost what it holds.
    "lock_timeout": "25s",
}


class Command(migrate.Command):
    """Applies migrations, however long a statement of theirs takes."""

    def handle(self, *args: Any, **options: Any) -> None:
        """Lift the limits for this session, and migrate."""
        connection = connections[options["database"]]
        with connection.cursor() as cursor:
            for name, value in LIMITS.items():
                cursor.execute("SELECT set_config(%s, %s, false)", [name, value])
        try:
            super().handle(*args, **options)
        finally:
            with suppress(Error), connection.cursor() as cursor:
                for name in LIMITS:
                    cursor.execute(f"RESET {name}")
