"""Runs the checks of an org, or of all orgs that are due, and keeps what was found."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import timedelta

import structlog
from django.db import connection
from django.db.models import F
from django.utils import timezone

from connector.http import time_limit
from tenants.database import facts_of
from tenants.doctor.checks import Finding, State, checks, guarded
from tenants.doctor.snapshot import OrgSnapshot
from tenants.models import Checkup, Org
from tenants.tenancy import every_org, org_scope

log = structlog.get_logger(__name__)

DAY = timedelta(hours=24)
LONGEST_SECONDS = 45.0  # of all calls for one org: what is left then is not checked, and holds up neither page nor others
ORGS_AT_ONCE = 4
LONGEST_PASS_SECONDS = 50 * 60.0  # the next one begins after an hour, with those that are left


def run_checks(org: Org, *, between: Callable[[], None] = lambda: None) -> list[Finding]:
    """Run all checks of an org, and keep what was found; takes ``LONGEST_SECONDS`` at most.

    :param between: called whenever the database is not needed for a while
    """
    with org_scope(org.pk), time_limit(LONGEST_SECONDS):
        snapshot = OrgSnapshot(org)
        snapshot.read_rows()
        between()
        findings: list[Finding] = []
        for title, look in checks.items():
            findings += guarded(title, look, snapshot)
            between()
        kept = [asdict(each) for each in findings]
        Checkup.objects.update_or_create(org=org, defaults={"at": timezone.now(), "findings": kept})
    log.info("checks run", org=org.pk, failed=sum(each.state is State.FAILED for each in findings))
    return findings


def run_due_checks() -> int:
    """Run the checks of the connected orgs that had none within a day, some orgs at a time; gives how many were due.

    One that fails, or does not answer, costs no other.
    """
    with every_org():
        ids = due_orgs()
    until = time.monotonic() + LONGEST_PASS_SECONDS
    with ThreadPoolExecutor(ORGS_AT_ONCE, thread_name_prefix="doctor") as threads:
        list(threads.map(lambda org_id: _run(org_id) if time.monotonic() < until else None, ids))
    return len(ids)


def due_orgs() -> list[int]:
    """Name the connected orgs without checks within a day, those first that wait longest."""
    connected = Org.objects.filter(disconnected_at=None, salesforce__isnull=False)
    due = connected.exclude(checkup__at__gt=timezone.now() - DAY).order_by(F("checkup__at").asc(nulls_first=True))
    return list(due.values_list("pk", flat=True))


def _run(org_id: int) -> None:
    try:
        with org_scope(org_id):
            run_checks(Org.objects.select_related("salesforce").get(pk=org_id), between=connection.close)
    except Exception as exc:  # whatever is wrong with one org, the others are checked
        log.error("checks failed", org=org_id, **facts_of(exc))
    finally:
        connection.close()
