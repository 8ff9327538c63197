"""Misbehaviour on demand: what each far side does wrong, how often, and for whom."""

import asyncio
from dataclasses import asdict, dataclass
from typing import Any

PLACES = {"login", "interactions", "acknowledgement", "establish", "history", "send", "conversations", "stream", "webhook"}
# success_false: the answer's status is a success and its body says otherwise.
# duplicate: a stream or webhook delivers everything twice; an API refuses an id that it has seen before.
KINDS = {"status", "timeout_before", "timeout_after", "delay", "trickle", "success_false", "duplicate"}
MEANINGLESS = {
    ("webhook", "success_false"),
    ("stream", "success_false"),
    ("login", "duplicate"),
    ("login", "success_false"),
    ("conversations", "success_false"),
    ("conversations", "duplicate"),
}


@dataclass
class Fault:
    """One thing that goes wrong at one place; ``count`` None means until it is cleared."""

    id: int
    where: str
    what: str
    status: int = 500
    code: int | None = None
    seconds: float = 2.0
    count: int | None = None
    org: str | None = None
    used: int = 0


class Faults:
    """The faults that are on."""

    def __init__(self) -> None:
        self.active: list[Fault] = []
        self._last_id = 0

    def add(self, body: dict[str, Any]) -> Fault:
        """Turn one fault on.

        :raises ValueError: if such a fault has no meaning
        """
        where, what = body.get("where"), body.get("what")
        if where not in PLACES or what not in KINDS:
            raise ValueError(f"where is one of {sorted(PLACES)}, what is one of {sorted(KINDS)}")
        if (where, what) in MEANINGLESS:
            raise ValueError(f"{what} means nothing at {where}")
        given = {k: body[k] for k in ("status", "code", "seconds", "count", "org") if body.get(k) is not None}
        if wrong := [k for k, value in given.items() if not isinstance(value, str if k == "org" else int | float)]:
            raise ValueError(f"{', '.join(wrong)} cannot be read")
        self._last_id += 1
        fault = Fault(id=self._last_id, where=where, what=what, **given)
        self.active.append(fault)
        return fault

    def remove(self, fault_id: int) -> Fault | None:
        """Turn one fault off; None if it has been used up."""
        found = next((fault for fault in self.active if fault.id == fault_id), None)
        self.active = [fault for fault in self.active if fault is not found]
        return found

    def clear(self) -> None:
        """Turn everything off; calls that a time-out holds end when their caller gives up."""
        self.active.clear()

    def take(self, where: str, org: str | None, *kinds: str) -> Fault | None:
        """Use up one go of the first fault of these kinds (of any that spoils the call if none is named)."""
        for fault in self.active:
            if fault.where != where or fault.org not in (None, org):
                continue
            if fault.what not in kinds if kinds else fault.what in ("delay", "duplicate"):
                continue
            fault.used += 1
            if fault.count is not None and fault.used >= fault.count:
                self.active.remove(fault)
            return fault
        return None

    async def wait(self, where: str, org: str | None) -> None:
        """Wait as long as a delay fault says, which goes together with any other fault."""
        if self.active and (fault := self.take(where, org, "delay")):
            await asyncio.sleep(fault.seconds)

    def describe(self) -> list[dict[str, Any]]:
        """Return the active faults as the control API shows them."""
        return [asdict(fault) for fault in self.active]
