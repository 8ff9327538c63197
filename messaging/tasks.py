"""The bell: how other processes tell the workers that there is work. A ring that is lost costs a second."""

import threading
import time
from datetime import timedelta
from typing import Any

import structlog
from celery import current_app, shared_task
from django.utils import timezone
from kombu.exceptions import KombuError, OperationalError

from messaging import errands, relay
from messaging.models import ChatbotMessage, ReceivedEvent
from tenants import doctor, installation
from tenants.broker import remember
from tenants.tenancy import every_org

log = structlog.get_logger(__name__)

BELL = "connector:bell"
BELL_SECONDS = 2  # for how long one ring stands for all; workers look by themselves more often than that
KEPT_DAYS = 14  # arrivals are known again for longer than any platform repeats them
PAUSE_SECONDS = 1.0
NEXT_RING_SECONDS = 0.01  # rings in this time are one: at full load each costs as much as a statement


@shared_task(ignore_result=True)
def look_for_work(**_: Any) -> None:
    """Wake the lanes of this process."""
    # the bell is taken down first: who finds it hanging may rely on the look that follows
    remember(lambda redis: redis.delete(BELL), otherwise=0)
    if relay.running is not None:
        relay.running.ring()
    if errands.running is not None:
        errands.running.ring()


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
    """Run the checks of the orgs whose day is over."""
    doctor.run_due_checks()


@shared_task(ignore_result=True)
def give_back_tokens(**_: Any) -> None:
    """Revoke what is left of administrators' tokens."""
    installation.give_back_old_tokens()


class _Ringer:
    """Rings from a thread of its own, since publishing to a broker that is down blocks for a while."""

    def __init__(self) -> None:
        self.rung = threading.Event()
        self.lock = threading.Lock()
        self.thread: threading.Thread | None = None

    def ring(self) -> None:
        self.rung.set()
        if self.thread is None or not self.thread.is_alive():
            with self.lock:
                if self.thread is None or not self.thread.is_alive():
                    self.thread = threading.Thread(target=self._run, name="ringer", daemon=True)
                    self.thread.start()

    def _run(self) -> None:
        while True:
            self.rung.wait()
            self.rung.clear()
            try:
                # where the bell hangs already somebody is on the way, and while Redis is down nobody would hear it
                if remember(lambda redis: redis.set(BELL, 1, nx=True, ex=BELL_SECONDS), otherwise=False):
                    look_for_work.apply_async(retry=False)
            except (KombuError, OperationalError, OSError) as exc:
                log.warning("the bell could not be rung", error=type(exc).__name__)
                time.sleep(PAUSE_SECONDS)
            time.sleep(NEXT_RING_SECONDS)


_ringer = _Ringer()


def ring() -> None:
    """Tell the workers that lanes have work, after the commit that gave it to them. Never raises, never blocks."""
    _ringer.ring()


def announce_orgs() -> bool:
    """Tell the subscribers that there are new orgs to read; False if the broker is down and they find out later."""
    try:
        current_app.control.broadcast("read_new_orgs")
    except (KombuError, OperationalError, OSError):
        return False
    return True
