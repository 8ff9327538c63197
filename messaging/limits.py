"""How many calls each endpoint may have under way in this process, so that nobody waits for a neighbour."""

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from messaging.circuits import Endpoint
from messaging.claims import Share

FIRST_SHARE = 8  # calls under way at once to an endpoint of which nothing is known yet
LEAST_SHARE = 2
SLOW_SECONDS = 2.0  # an endpoint that takes longer gets fewer calls at once
FORGOTTEN_SECONDS = 60.0  # what was learnt of an endpoint that is not called any more


@dataclass(slots=True)
class _Learnt:
    allowed: int
    at: float


class ConcurrencyLimits:
    """One that answers soon gets one more call with each answer, up to three quarters of all; one that fails or is slow
    has its share halved. So an endpoint that hangs soon holds few calls, and no flood holds all of them.

    :param calls: that may be under way in all
    """

    def __init__(self, calls: int) -> None:
        self.most = max(1, calls * 3 // 4)
        self.learnt: dict[Endpoint, _Learnt] = {}

    def note(self, endpoint: Endpoint, *, well: bool) -> None:
        """Learn from a call."""
        known = self.learnt.setdefault(endpoint, _Learnt(FIRST_SHARE, 0.0))
        known.allowed = min(self.most, known.allowed + 1) if well else max(LEAST_SHARE, known.allowed // 2)
        known.at = time.monotonic()

    def shares(self, under_way: Iterable[Endpoint]) -> list[Share]:
        """Say what is left to each endpoint of which something is known."""
        horizon = time.monotonic() - FORGOTTEN_SECONDS
        for endpoint in [each for each, known in self.learnt.items() if known.at < horizon]:
            del self.learnt[endpoint]
        counts = Counter(under_way)
        allowed = {endpoint: known.allowed for endpoint, known in self.learnt.items()}
        return [
            Share(each, more=max(0, allowed.get(each, FIRST_SHARE) - counts[each]), held=counts[each])
            for each in allowed.keys() | counts.keys()
        ]
