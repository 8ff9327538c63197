"""The Celery app as it is, with a beat of half a second whose task shows in a file that it ran."""

import os
import time
from pathlib import Path

from celery import shared_task

from config.celery import app
from tests.config.queues import QUEUES

app.conf.beat_schedule = {
    queue: {"task": "tick", "schedule": 0.5, "kwargs": {"queue": queue}, "options": {"queue": queue}} for queue in QUEUES
}


@shared_task(name="tick", ignore_result=True)
def tick(queue: str) -> None:
    """Write down when this task of a queue ran last."""
    mark = Path(os.environ["TICKS"], queue)
    mark.with_suffix(".new").write_text(str(time.time()))
    mark.with_suffix(".new").rename(mark)


@shared_task(name="hang", ignore_result=True)
def hang() -> None:
    """Begin, and do not come to an end."""
    Path(os.environ["TICKS"], "hanging").touch()
    time.sleep(3600)
