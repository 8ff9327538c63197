"""Wakes the loops of workers: PostgreSQL's NOTIFY, which needs no broker. What is missed costs a second."""

from django.db import Error, InterfaceError, connection, transaction

from tenants.database import note_trouble

INBOX_CHANNEL = "connector_inbox"  # the door has appended
FROM_NO_WORKER = "0"  # the payload of who holds no lanes
LANES_CHANNEL = "connector_lanes"  # lanes, sessions or hand-overs have something due


def wake(*, sender: int = 0) -> None:
    """Tell the workers that there is work, after the commit that made it. Never raises.

    The notification's own commit waits for no disk: NOTIFY holds a lock of the whole server until its commit is done.

    :param sender: the holder's number of a worker that knows already
    """
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET LOCAL synchronous_commit = off")
            cursor.execute("SELECT pg_notify(%s, %s)", [LANES_CHANNEL, str(sender)])
    except (Error, InterfaceError) as exc:
        note_trouble("workers not woken", exc)
        if not connection.in_atomic_block:
            connection.close()
