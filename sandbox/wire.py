"""The wire: one row per message with its hops and where the time went, as far as the far sides can tell."""

import itertools
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from sandbox.journal import now_ms
from sandbox.live import Live

KEPT = 60

# (from mark, to mark, words); a hop is shown when both of its marks are set
INBOUND = [
    ("written", "posted", "phone → Infobip"),
    ("posted", "answered", "webhook 200"),
    ("called", "call_answered", "hand-over call 200"),
    ("answered", "arrived", "connector → Salesforce"),
    ("arrived", "shown", "Salesforce 202"),
]
OUTBOUND = [
    ("written", "published", "rep → platform event"),
    ("published", "delivered", "event → subscriber"),
    ("delivered", "arrived", "connector → Infobip"),
    ("arrived", "shown", "on the phone"),
    # reports come after a pause that is set here, so their hops begin when they are posted
    ("delivery_reported", "delivery_report_answered", "delivered report 200"),
    ("delivery_report_answered", "delivered_tick", "✓✓ delivered in Salesforce"),
    ("seen_reported", "seen_report_answered", "seen report 200"),
    ("seen_report_answered", "read_tick", "✓✓ read in Salesforce"),
]


def is_final(status: int) -> bool:
    """Tell whether sending the same again cannot help; a login can be mended, and a limit passes."""
    return 400 <= status < 500 and status not in (401, 403, 408, 429)


@dataclass(eq=False)
class Row:
    """One message on its way: ``inbound`` is towards the rep, as Salesforce says."""

    id: int
    inbound: bool
    org: str
    user: str
    text: str
    marks: dict[str, float] = field(default_factory=dict)  # point of the way -> epoch ms
    uuid: str | None = None  # the id that the connector gave it
    plain: bool = True  # its text is what the other side will see, as far as one can know
    new_session: bool = False
    failures: int = 0
    trouble: str | None = None
    over: bool = False  # nothing more will come
    forgotten: bool = False  # the pages have dropped it, too
    keys: list[str] = field(default_factory=list)  # the ids it is known by

    def describe(self) -> dict[str, Any]:
        """Return the row as the page draws it."""
        hops = []
        for start, end, words in INBOUND if self.inbound else OUTBOUND:
            if start in self.marks and end in self.marks:
                if end == "shown" and self.new_session:
                    words += ", new session"
                hops.append({"text": words, "ms": round(max(self.marks[end] - self.marks[start], 0.0), 1)})
        shown, written = self.marks.get("shown"), self.marks["written"]
        return {
            "id": self.id,
            "at": written,
            "direction": "in" if self.inbound else "out",
            "org": self.org,
            "user": self.user,
            "text": self.text[:80],
            "total": None if shown is None else round(shown - written, 1),
            "hops": hops,
            "uuid": self.uuid,
            "done": shown is not None or self.over,
            "failed": shown is None and self.over and self.trouble is not None,
            "trouble": self.trouble,
        }


class Wire:
    """The newest rows, and for each org and end user those that the other side has not seen yet."""

    def __init__(self, live: Live) -> None:
        self.rows: deque[Row] = deque()
        self._waiting: dict[tuple[bool, str, str], list[Row]] = {}
        self._by_id: dict[str, Row] = {}  # Infobip's messageId or Salesforce's entry id -> row
        self._numbers = itertools.count(1)
        self._live = live

    def start(self, *, inbound: bool, org: str, user: str, text: str, plain: bool, key: str) -> Row:
        """Open a row for a message that a person just wrote; ``key`` is its id on that person's side."""
        row = Row(next(self._numbers), inbound, org, user, text, {"written": now_ms()}, plain=plain)
        self.rows.append(row)
        self._waiting.setdefault((inbound, org, user), []).append(row)
        self._name(row, key)
        if len(self.rows) > KEPT:
            self._forget(self.rows.popleft())
        self.show(row)
        return row

    def _forget(self, row: Row) -> None:
        self._settle(row)
        row.forgotten = True
        for key in row.keys:
            self._by_id.pop(key, None)

    def _name(self, row: Row, key: str) -> None:
        row.keys.append(key)
        self._by_id[key] = row

    def _settle(self, row: Row) -> None:
        place = (row.inbound, row.org, row.user)
        waiting = self._waiting.get(place, [])
        if row in waiting:
            waiting.remove(row)
        if not waiting:
            self._waiting.pop(place, None)

    def match(self, *, inbound: bool, org: str, user: str, text: str, uuid: str) -> Row | None:
        """Find the row of what arrived: by id, else the oldest with its text, else the oldest that may be it."""
        if row := self._by_id.get(uuid):
            return row
        waiting = self._waiting.get((inbound, org, user), [])
        same_text = (row for row in waiting if row.text == text and row.uuid is None)
        # a file, a location or marked-up text leaves here in words of the connector's own
        other_words = (row for row in waiting if not row.plain and row.uuid is None)
        row = next(same_text, None) or next(other_words, None)
        if row:
            row.uuid = uuid
            self._name(row, uuid)
        return row

    def find(self, key: str) -> Row | None:
        """Return the row with that id on either side."""
        return self._by_id.get(key)

    def mark(self, row: Row | None, point: str, at: float | None = None) -> None:
        """Note that the message passed a point; only the first time counts."""
        if row is None:
            return
        row.marks.setdefault(point, now_ms() if at is None else at)
        if point == "shown":
            row.trouble, row.failures = None, 0
            self._settle(row)
        self.show(row)

    def trouble(self, row: Row | None, words: str | None, *, over: bool = False, count: bool = False) -> None:
        """Say what keeps a message, or with None that it moves again; ``count`` adds how often it was tried."""
        if row is None or "shown" in row.marks:
            return
        row.failures += count
        row.trouble = f"{words}, tried {row.failures} times" if words and count and row.failures > 1 else words
        if over:
            row.over = True
            self._settle(row)
        self.show(row)

    def show(self, row: Row) -> None:
        """Send the row to the pages that are open, while they have room for it."""
        if row.forgotten:
            return
        self._live.changed("wire", row.id, row.describe)

    def describe(self) -> list[dict[str, Any]]:
        """Return all rows, oldest first."""
        return [row.describe() for row in self.rows]
