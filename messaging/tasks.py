"""What Celery does for us: nightly and hourly jobs, none of them on the way of a message."""

from datetime import timedelta
from typing import Any

import structlog
from celery import current_app, shared_task
from django.utils import timezone
from kombu.exceptions import KombuError, OperationalError

from messaging.models import ChatbotMessage, ReceivedEvent
from tenants import doctor, installation
from tenants.tenancy import every_org

log = structlog.get_logger(__name__)

KEPT_DAYS = 14  # arrivals are known again for longer than any platform repeats them


@shared_task(ignore_result=True)
def forget_old_arrivals(**_: Any) -> None:
    """Delete raw arrivals that can no longer be repeated."""
    with every_org():
        horizon = timezone.now() - timedelta(days=KEPT_DAYS)
        count, _by_model = ReceivedEvent.objects.filter(received_at__lt=horizon).delete()
        ChatbotMessage.objects.filter(at__lt=horizon).delete()
    log.info("old arrivals forgotten", count=count)


@shared_task(ignore_result=True)
def examine_orgs(**_: Any) -> None:
    """Let the doctor look at the orgs whose day is over."""
    doctor.examine_due()


@shared_task(ignore_result=True)
def give_back_tokens(**_: Any) -> None:
    """Revoke what is left of administrators' tokens."""
    installation.give_back_old_tokens()


def announce_orgs() -> bool:
    """Tell the subscribers that there are new orgs to read; False if the broker is down and they find out later."""
    try:
        current_app.control.broadcast("read_new_orgs")
    except (KombuError, OperationalError, OSError):
        return False
    return True
