"""Django's migrate, without the limits that would cut it."""

from typing import Any

from django.core.management.commands import migrate
from django.db import connections


class Command(migrate.Command):
    """Applies migrations, however long a statement of theirs takes."""

    def handle(self, *args: Any, **options: Any) -> None:
        """Lift the limits for this session, and migrate."""
        with connections[options["database"]].cursor() as cursor:
            # building an index on a large table takes minutes, and what it has done is lost if it is cut
            cursor.execute("SET statement_timeout = 0")
            cursor.execute("SET idle_in_transaction_session_timeout = '5min'")  # one that moves data may think in between
            # Whatever changes a table waits until nobody reads it, and everybody else waits behind it. So it gives up, and
            # `release` is run again, but not before a process that froze in a transaction has lost what it holds.
            cursor.execute("SET lock_timeout = '25s'")
        super().handle(*args, **options)
