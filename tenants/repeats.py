"""Lines of the log that many requests would write alike: each kind at once, then one in some seconds with their number.

Anybody can have a request refused a thousand times a second, and a line for each would fill the log.
"""

import threading
import time
from collections.abc import Callable, Hashable

QUIET_SECONDS = 10.0  # in which what is of one kind is one line
MOST_KINDS = 10_000

_kinds: dict[Hashable, tuple[float, int]] = {}  # until when a kind is quiet, and how often it came meanwhile; oldest first
_lock = threading.Lock()


def kept_back(*kind: Hashable) -> int | None:
    """Count what is of one kind, and tell whether it is to be logged.

    :param kind: one of few, never something that whoever asks can make up
    :return: how many of the kind were not logged since the last that was; None if this one is not to be logged either
    """
    now = time.monotonic()
    with _lock:
        quiet_until, count = _kinds.get(kind, (0.0, 0))
        if now < quiet_until:
            _kinds[kind] = (quiet_until, count + 1)
            return None
        _kinds.pop(kind, None)
        _kinds[kind] = (now + QUIET_SECONDS, 0)
        if len(_kinds) > MOST_KINDS:
            del _kinds[next(iter(_kinds))]
    return count


def say(write: Callable[..., object], event: str, *kind: Hashable, **facts: object) -> None:
    """Log a line, unless one of its kind was logged just before.

    :param write: a method of a logger
    :param kind: what tells it from others of the same event, as ``kept_back`` takes it
    """
    count = kept_back(event, *kind)
    if count:
        facts["repeated"] = count
    if count is not None:
        write(event, **facts)


def forget_all() -> None:
    """Forget what was logged."""
    with _lock:
        _kinds.clear()
