"""Everything that is ever deleted by itself, and when. What people take away in a page is not here.

Rows go in batches, each in a transaction of its own, the oldest first, so that nobody waits for a table's whole past.
"""

import time
from dataclasses import dataclass
from datetime import timedelta

import structlog
from django.db import transaction
from django.utils import timezone

from messaging.query import query
from tenants.connecting import DRAFT_LIFE
from tenants.database import facts_of
from tenants.models import LONGEST_SESSION
from tenants.sign_in import PENDING

log = structlog.get_logger(__name__)

BATCH = 5_000  # rows that one statement deletes
LONGEST_RUN = timedelta(minutes=10)  # of one pass over all tables; the next hour goes on
ARRIVALS_KEPT = timedelta(days=14)  # they are known again for longer than any platform repeats them
EARLY_REPS_KEPT = timedelta(days=1)  # the session to which they came is known within seconds, or never
API_CALLS_KEPT = timedelta(hours=24)  # how long an idempotency key is known; api.py promises it


@dataclass(frozen=True, slots=True)
class Rule:
    """Which rows of a table go, by their age and, where that is not all, by a condition.

    :param order: by which the oldest are found: ids grow with age, where the age has no index
    """

    table: str
    column: str
    kept: timedelta
    condition: str = "true"
    order: str = ""


RULES = [
    Rule("messaging_receivedevent", "received_at", ARRIVALS_KEPT),
    Rule("messaging_chatbotmessage", "at", ARRIVALS_KEPT),
    Rule("messaging_earlyrep", "at", EARLY_REPS_KEPT),
    Rule("messaging_leftmessage", "arrived_at", ARRIVALS_KEPT),
    Rule("messaging_transcriptline", "read_at", ARRIVALS_KEPT),
    Rule("tenants_apicall", "created_at", API_CALLS_KEPT),
    Rule("tenants_websession", "created_at", LONGEST_SESSION, order="id"),
    # those with an administrator's token wait for its being revoked
    Rule("tenants_pendingsignin", "created_at", PENDING, "token = ''"),
    Rule(
        "tenants_draft",
        "created_at",
        DRAFT_LIFE,
        "NOT EXISTS (SELECT 1 FROM tenants_pendingsignin WHERE tenants_pendingsignin.draft_id = tenants_draft.id)",
    ),
]


def purge() -> dict[str, int]:
    """Delete what is too old, and count it by table; a table that cannot be purged stops no other. Sees all orgs' rows."""
    until = time.monotonic() + LONGEST_RUN.total_seconds()
    counts = {}
    for rule in RULES:
        try:
            counts[rule.table] = _purge(rule, until)
        except Exception as exc:
            log.error("a table was not purged", table=rule.table, **facts_of(exc))
    log.info("purged", **counts)
    return counts


def _purge(rule: Rule, until: float) -> int:
    horizon, count = timezone.now() - rule.kept, 0
    while True:
        with transaction.atomic():
            deleted = len(
                query(
                    # an array, which is looked up by key: a join would read the whole table for each batch; and what
                    # somebody works on just now is left for the next time
                    f"""DELETE FROM {rule.table} WHERE id = ANY(ARRAY(
                            SELECT id FROM {rule.table} WHERE {rule.column} < %s AND {rule.condition}
                            ORDER BY {rule.order or rule.column} LIMIT %s FOR UPDATE SKIP LOCKED))
                        RETURNING 1""",
                    [horizon, BATCH],
                )
            )
        count += deleted
        if deleted < BATCH or time.monotonic() > until:
            return count
