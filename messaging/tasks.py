"""What Celery does for us: hourly jobs, which no message waits for."""

from typing import Any

import structlog
from celery import current_app, shared_task
from kombu.exceptions import KombuError, OperationalError

from messaging import retention
from tenants import doctor, installation
from tenants.tenancy import every_org

log = structlog.get_logger(__name__)


@shared_task(ignore_result=True)
def purge_received_events(**_: Any) -> None:
    """Delete raw arrivals that can no longer be repeated, and whatever else is kept for a time only."""
    with every_org():
        retention.purge()


@shared_task(ignore_result=True)
def run_doctor(**_: Any) -> None:
    """Run the checks of the orgs whose day is over."""
    doctor.run_due_checks()


@shared_task(ignore_result=True)
def revoke_leftover_tokens(**_: Any) -> None:
    """Revoke what is left of administrators' tokens."""
    installation.revoke_leftover_tokens()


def announce_orgs() -> bool:
    """Tell the subscribers that there are new orgs to read; False if the broker is down and they find out later."""
    try:
        current_app.control.broadcast("read_new_orgs")
    except (KombuError, OperationalError, OSError):
        return False
    return True
