"""What the door refuses: why, with what answer, and how it is counted without a cost to those who are let in."""

import threading
import time
from collections import Counter
from collections.abc import Iterable
from typing import Self

import structlog

from tenants.cache import count_refusal, note_old_secret

log = structlog.get_logger(__name__)

FLUSH_SECONDS = 2.0  # in which one line is logged for each account and reason, with their number
MOST_NAMES = 30

_Key = tuple[int | None, int | None, int, str]  # org, account, status, reason


class Refused(Exception):
    """A request that is answered with an error.

    :param status: of HTTP
    :param reason: for us: one of few, since refusals are counted by it
    :param advice: tells the sender what to do about it
    """

    def __init__(self, status: int, reason: str, advice: str) -> None:
        super().__init__(reason)
        self.status, self.reason, self.advice = status, reason, advice
        self.org_id: int | None = None
        self.account_id: int | None = None

    def of(self, org_id: int, account_id: int) -> Self:
        """Say whose address it was: not what an unproven body says."""
        self.org_id, self.account_id = org_id, account_id
        return self


class Refusals:
    """Counts and logs refusals from a thread of its own: noting one is a few microseconds, whatever Redis and the log do.

    What is kept is bounded by the number of accounts and reasons, not by the number of requests.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted = threading.Event()
        self._thread: threading.Thread | None = None
        self._counts: Counter[_Key] = Counter()
        self._names: dict[_Key, list[str]] = {}
        self._old_secrets: set[int] = set()

    def note(self, refused: Refused, header_names: Iterable[str]) -> None:
        """Note a refusal; of the headers only the names, for a signature under another name is the commonest mistake."""
        key = (refused.org_id, refused.account_id, refused.status, refused.reason)
        with self._lock:
            self._counts[key] += 1
            if key not in self._names:
                self._names[key] = sorted(name[:60] for name, _ in zip(header_names, range(MOST_NAMES), strict=False))
        self._wake()

    def note_old_secret(self, account_id: int) -> None:
        """Note that an account still signs with the secret of before its change."""
        with self._lock:
            self._old_secrets.add(account_id)
        self._wake()

    def _wake(self) -> None:
        if not self._wanted.is_set():
            self._wanted.set()
        if self._thread is None or not self._thread.is_alive():  # made here and not at import: servers fork
            with self._lock:
                if self._thread is None or not self._thread.is_alive():
                    self._thread = threading.Thread(target=self._run, name="refusals", daemon=True)
                    self._thread.start()

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            try:
                self.flush()
            except Exception:  # nobody else would count from now on
                log.exception("refusals not counted")
            time.sleep(FLUSH_SECONDS)

    def flush(self) -> None:
        """Count in Redis, and log."""
        with self._lock:
            counts, self._counts = self._counts, Counter()
            all_names, self._names = self._names, {}
            old_secrets, self._old_secrets = self._old_secrets, set()
        for key, count in counts.items():
            org_id, account_id, status, reason = key
            count_refusal(account_id, reason, count)
            about = {"org": org_id, "account": account_id, "headers": all_names[key]}
            log.warning("webhooks refused", status=status, reason=reason, count=count, **about)
        for account_id in old_secrets:
            note_old_secret(account_id)


refusals = Refusals()
