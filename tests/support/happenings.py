"""What many tests need: things that happen to the system, done as they happen to it."""

import json
import threading
import time
from collections.abc import Callable, Sequence

from django.db import connection

from messaging.intake import take_inbox
from messaging.models import Inbox
from tenants.models import InfobipAccount
from tenants.tenancy import every_org

# whether a session of this database waits for a lock; other test processes have theirs on the same server
SOMEBODY_WAITS = """SELECT 1 FROM pg_locks WHERE NOT granted AND pid IN (
    SELECT pid FROM pg_locks held JOIN pg_database ON pg_database.oid = held.database WHERE datname = current_database())"""


def receive_webhook(account: InfobipAccount, results: Sequence[object]) -> bool:
    """Append a webhook to the inbox, as the door does, and ingest it; True if there is something to do then."""
    row = Inbox.objects.create(
        org_id=account.org_id, account_id=account.pk, body=json.dumps({"results": list(results)}).encode()
    )
    return take_in(row)


def take_in(row: Inbox) -> bool:
    """Ingest until a row of the inbox is gone; another connection may hold the ingesters' lock meanwhile."""
    work = False
    end = time.monotonic() + 30
    while Inbox.objects.filter(pk=row.pk).exists():
        assert time.monotonic() < end, "the inbox is not taken in"
        turn = take_inbox()
        work = work or turn.work
        if not turn.taken:
            time.sleep(0.01)
    return work


def in_another_connection(work: Callable[[], object]) -> threading.Thread:
    """Run beside the test, as another process would."""

    def run() -> None:
        with every_org():
            work()
        connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def wait_until(true: Callable[[], bool], *, seconds: float = 15) -> None:
    """Wait until something has come true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.02)
