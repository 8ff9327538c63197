"""A process that was told to end does: first what must come to an end in order, and then whatever still hangs."""

import subprocess
import sys
import threading
import time

from config.ending import Ending
from devstack.version import ROOT

SCRIPT = """
import time
from celery import signals
from config import ending

ending.STOP_SECONDS, ending.END_SECONDS = 1.0, 0.1
kept = ending.Ending(lambda: print("stopped", flush=True), lambda: time.sleep({seconds}), lambda: print("all", flush=True))
signals.worker_shutting_down.send("test", sig="SIGTERM", how="Warm", exitcode=0)
time.sleep(60)  # as Celery's main thread where the broker does not answer
"""


def end(*, seconds: float) -> tuple[int, list[str], float]:
    """Tell a process to end one of whose parts takes so long to stop.

    :return: its code, what it said, and how long it took
    """
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(seconds=seconds)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    said = process.stdout.readline()
    began = time.monotonic()
    said += process.communicate(timeout=20)[0]
    lines = [line for line in said.splitlines() if line in ("stopped", "all")]
    return process.returncode, lines, time.monotonic() - began


def test_a_process_whose_main_thread_hangs_ends_when_its_work_has_stopped() -> None:
    code, said, took = end(seconds=0.2)
    assert (code, said) == (0, ["stopped", "all"]) and took < 1.0


def test_a_process_whose_work_does_not_stop_ends_all_the_same() -> None:
    code, said, took = end(seconds=60)
    assert (code, said) == (0, ["stopped"]) and took < 5


def test_each_part_is_stopped_once_and_whoever_asks_meanwhile_waits() -> None:
    """Celery's own thread asks too: it must not go on to the end of the process before the work has stopped."""
    order: list[str] = []
    begun = threading.Event()

    def slowly() -> None:
        begun.set()
        time.sleep(0.2)
        order.append("first")

    ending = Ending(slowly, lambda: order.append("second"))
    one = threading.Thread(target=ending.stop)
    one.start()
    begun.wait(5)
    ending.stop()
    assert order == ["first", "second"]
    one.join()
