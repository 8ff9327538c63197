"""The Celery app, and the two steps that make a Celery worker a sender of messages or a reader of streams.

Both are steps of the *worker* blueprint: they start before the broker is looked for, and live through its loss.
"""

import os
import signal
from typing import Any

import click
from celery import Celery, bootsteps, signals
from celery.worker.control import control_command
from kombu.transport.redis import QoS

from config.ending import Ending

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

# A worker that loses the broker while a task is not acknowledged dies of kombu's putting it back, on a connection that is
# gone by then. Nothing needs it back: what a lost task stood for is in the rows, and beat makes its tasks again.
QoS.restore_at_shutdown = False

app = Celery("connector")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
app.user_options["worker"].add(
    click.Option(["--subscriptions"], is_flag=True, default=False, help="Read platform events instead of carrying lanes.")
)
# Celery's event loop acknowledges a task after the broker's loss on a connection that is gone, and the worker dies of it.
# The plain loop does not; it blocks on the queue, while our own threads do the work.
app.user_options["worker"].add(click.Option(["--use-eventloop"], is_flag=True, default=False, hidden=True))
app.conf.beat_schedule = {
    # hourly, for what is due each day: an interval of a day would begin anew with each restart of beat; and what no worker
    # took up in its hour is not done twice in the next
    "purge received events": {
        "task": "messaging.tasks.purge_received_events",
        "schedule": 3600.0,
        "options": {"expires": 3600},
    },
    "run doctor": {"task": "messaging.tasks.run_doctor", "schedule": 3600.0, "options": {"expires": 3600}},
    "revoke leftover tokens": {
        "task": "messaging.tasks.revoke_leftover_tokens",
        "schedule": 60.0,
        "options": {"expires": 60},
    },
}


@signals.setup_logging.connect
def keep_our_logging(**_: Any) -> None:
    """Keep Celery from replacing the logging that settings.py sets up."""


@signals.beat_init.connect
def end_beat_at_once(**_: Any) -> None:
    """Let beat end when it is told to: it keeps nothing, and where Redis hangs its goodbye takes a quarter of a minute."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))


class CarryLanes(bootsteps.StartStopStep):
    """Carries lanes for as long as the worker lives; no broker is needed."""

    def __init__(self, parent: Any, subscriptions: bool = False, **options: Any) -> None:
        super().__init__(parent, **options)
        self.enabled = not subscriptions

    def start(self, parent: Any) -> None:
        from django.conf import settings  # Celery imports this module before Django is set up

        from messaging import housekeeping, worker

        worker.running = worker.Worker(settings.CALLS_UNDER_WAY)
        housekeeping.running = housekeeping.Housekeeping(worker.running.wake)
        worker.running.start(also=housekeeping.running.wake)
        housekeeping.running.start()
        # lanes first: others wait for them
        self.ending = Ending(housekeeping.running.stopping.set, worker.running.stop, housekeeping.running.stop)

    def stop(self, parent: Any) -> None:
        self.ending.stop()


class ReadStreams(bootsteps.StartStopStep):
    """Reads platform events for as long as the worker lives."""

    def __init__(self, parent: Any, subscriptions: bool = False, **options: Any) -> None:
        super().__init__(parent, **options)
        self.enabled = subscriptions

    def start(self, parent: Any) -> None:
        from messaging import subscriber

        subscriber.running = subscriber.Subscriber()
        subscriber.running.start()
        self.ending = Ending(subscriber.running.stop)

    def stop(self, parent: Any) -> None:
        self.ending.stop()


app.steps["worker"].add(CarryLanes)
app.steps["worker"].add(ReadStreams)


@control_command()
def read_new_orgs(_state: Any) -> dict[str, str]:
    """Look for orgs that nobody reads, now: sent when one has been set up."""
    from messaging import subscriber

    if subscriber.running is not None:
        subscriber.running.look()
    return {"ok": "looking"}
