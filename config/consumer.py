"""Keeps consuming tasks from a broker that is gone or answers oddly, for as long as the process lives."""

import time
from typing import Any

import structlog
from celery.worker.consumer import Consumer

log = structlog.get_logger(__name__)

PAUSE_SECONDS = 1.0  # between two tries


class PatientConsumer(Consumer):
    """Celery's consumer, to which every failure is a reason to connect again, and none to end the process.

    Kombu divides what Redis answers into errors of the connection, after which Celery connects again, and others, of which
    the worker dies: READONLY and MASTERDOWN of a replica, NOPERM, WRONGTYPE, and whatever a queue can hold that is not a
    message. The lanes and streams that live in this process must not end with them. Of Celery's own remedy
    https://docs.celeryq.dev/en/stable/userguide/configuration.html#broker-channel-error-retry knows some.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.connection_errors = (Exception,)

    def ensure_connected(self, conn: Any) -> Any:
        """Try once: Celery's own loop waits longer each time, up to half a minute after the broker is back."""
        try:
            return conn.ensure_connection(max_retries=0)
        except Exception:
            conn.transport.cycle.poller.close()  # which is left to the garbage collector: a file a second, for hours
            raise

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Pause, and let Celery try again."""
        log.warning("the broker does not let us in", error=type(exc.__cause__ or exc).__name__)  # kombu wraps Redis's
        time.sleep(PAUSE_SECONDS)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Clean up and say so as Celery does, and pause: a broker that refuses does so at once."""
        super().on_connection_error_after_connected(exc)
        time.sleep(PAUSE_SECONDS)
