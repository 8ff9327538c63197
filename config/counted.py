"""Says together what Django says of each refused request: anybody can have it said a thousand times a second."""

import logging
import threading
from collections import Counter
from typing import Any

import structlog

from tenants import repeats
from tenants.database import facts_of

log = structlog.get_logger(__name__)

FLUSH_SECONDS = 2.0  # in which one line is logged for each reason, with their number
LONGEST_PATH = 100


def _tell_fault(record: logging.LogRecord, exc: BaseException | None) -> None:
    facts = facts_of(exc) if exc is not None else {}
    count = repeats.kept_back("page raised", *facts.values())
    if count:
        log.error("page raised the same again", repeated=count, **facts)
    if count is not None:
        logging.getLogger().handle(record)


class CountedHandler(logging.Handler):
    """Counts the refusals of a logger, without their tracebacks. An exception that is our fault goes on as it is; where it
    comes again it is counted as well, since anybody can ask again for a page that raises.

    https://docs.djangoproject.com/en/5.2/ref/logging/#django-security
    """

    def __init__(self) -> None:
        super().__init__()
        self._counts: Counter[tuple[str, int]] = Counter()
        self._paths: dict[tuple[str, int], str] = {}
        self._timer: threading.Timer | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Count a record; the handler's lock is held."""
        if record.exc_info and record.name == "django.request":
            _tell_fault(record, record.exc_info[1])
            return
        request: Any = getattr(record, "request", None)
        key = (record.name.removeprefix("django.").removeprefix("security."), getattr(record, "status_code", 400))
        self._counts[key] += 1
        self._paths.setdefault(key, str(getattr(request, "path", ""))[:LONGEST_PATH])
        if self._timer is None:
            self._timer = threading.Timer(FLUSH_SECONDS, self.flush)
            self._timer.daemon = True
            self._timer.start()

    def flush(self) -> None:
        """Log what was counted; at the end of the process too."""
        assert self.lock is not None
        with self.lock:
            counts, self._counts = self._counts, Counter()
            paths, self._paths = self._paths, {}
            self._timer = None
        for (reason, status), count in counts.items():
            log.warning("pages refused", status=status, reason=reason, count=count, path=paths[reason, status])
