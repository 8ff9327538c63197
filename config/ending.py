"""Ends a process that was told to end, also when Celery is stuck with a broker, or a task with the world."""

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import structlog
from celery import signals

log = structlog.get_logger(__name__)

STOP_SECONDS = 20.0  # at most, for what must come to an end in order; platforms kill after thirty
END_SECONDS = 0.3  # that Celery has after that: it looks for a signal every two seconds only, and a successor waits for us


class Ending:
    """Stops the work of this process, and then the process.

    Celery's main thread notices a signal when its call to the broker comes back, and waits for its tasks without a limit.
    Those may be lost: they are made again. So what must come to an end in order is stopped beside it, as soon as the signal
    is there, and Celery has a moment more.
    """

    def __init__(self, *stops: Callable[[], None]) -> None:
        self._stops, self._lock = list(stops), threading.Lock()
        self._told = threading.Event()
        # started beforehand: a signal's handler may find the main thread inside the locks that starting one takes
        threading.Thread(target=self._run, name="ending", daemon=True).start()
        signals.worker_shutting_down.connect(self._tell)

    def stop(self) -> None:
        """Stop what must come to an end in order, or wait until that is done."""
        with self._lock:
            while self._stops:
                self._stops.pop(0)()

    def _tell(self, **_: Any) -> None:
        self._told.set()

    def _run(self) -> None:
        self._told.wait()
        stopping = threading.Thread(target=self.stop, name="stopping", daemon=True)
        stopping.start()
        stopping.join(STOP_SECONDS)
        time.sleep(END_SECONDS)
        log.info("ended")
        os._exit(0)
