"""Reads what the processes wrote down: an error that no fault explains is a finding."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

from tests.faults.checker import Fault

# what the door says while PostgreSQL is down, and Celery while Valkey is
EXPECTED_ERRORS = (
    "webhook not stored",
    "Service Unavailable: /api/infobip/",
    "consumer: Cannot connect to redis://",
    "Couldn't ack",
    "call_soon_ack immediate exec failed",
)
LINGERS = 10.0  # seconds after a fault in which it may still be spoken of
MOST = 200  # characters of a line that are shown


def unexplained(lines: Iterable[str], faults: Sequence[Fault], began: float) -> list[str]:
    """Name the errors among log lines that no fault explains.

    :param began: when the load began, in seconds since 1970
    """
    found = []
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        event = str(entry.get("event")) if isinstance(entry, dict) else ""
        if not event or entry.get("level") not in ("error", "critical") or event.startswith(EXPECTED_ERRORS):
            continue
        if not any(_explains(fault, line, _at(entry.get("timestamp"), began)) for fault in faults):
            raised = str(entry.get("exception", "")).strip().splitlines()[-1:]
            found.append(": ".join([event.splitlines()[0], *raised])[:MOST])
    return found


def _at(stamp: object, began: float) -> float:
    try:
        return datetime.fromisoformat(str(stamp)).timestamp() - began
    except ValueError:
        return float("nan")


def _explains(fault: Fault, line: str, at: float) -> bool:
    return bool(fault.explains) and fault.begin <= at <= fault.end + LINGERS and bool(re.search(fault.explains, line))


def wrong_lines(folder: Path, processes: Sequence[str], faults: Sequence[Fault], began: float) -> list[str]:
    """Count the unexplained errors in the processes' logs."""
    counted: Counter[str] = Counter()
    for name in processes:
        lines = (folder / f"{name}.log").read_text(errors="replace").splitlines()
        counted.update(f"{name}: {each}" for each in unexplained(lines, faults, began))
    return [f"{line} ({count} times)" for line, count in sorted(counted.items())]
