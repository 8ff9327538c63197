"""The journal: every arrival and departure at each far side, oldest first."""

import itertools
import time
from collections import deque
from typing import Any

Entry = dict[str, Any]
KEPT = 200_000  # entries; a benchmark of ten minutes fits


def now_ms() -> float:
    """Return the time in milliseconds since 1970, with fractions: hops on one machine take less than one."""
    return time.time() * 1000


class Journal:
    """What happened, in the order of its sequence numbers; only the newest entries are kept.

    ``at`` is when the entry was written, which is when the call was answered; ``ms`` is how long that took.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self.entries: deque[Entry] = deque(maxlen=kept)
        self.last = 0

    def write(self, side: str, kind: str, **fields: Any) -> Entry:
        """Add one entry; fields that are None are left out."""
        self.last += 1
        entry: Entry = {"seq": self.last, "at": now_ms(), "side": side, "kind": kind}
        for name, value in fields.items():
            if value is not None:
                entry[name] = value
        self.entries.append(entry)
        return entry

    def read(self, after: int = 0, side: str | None = None, org: str | None = None) -> list[Entry]:
        """Return what came after that sequence number, of one side or org only if given."""
        first_kept = self.last - len(self.entries)
        newer = itertools.islice(self.entries, max(after - first_kept, 0), None)
        return [e for e in newer if (side is None or e["side"] == side) and (org is None or e.get("org") == org)]
