"""What a campaign will do: who writes what when, and what breaks when. All of it follows from the seed."""

import random
from dataclasses import dataclass, field

from tests.faults.kinds import FOR_ALL, FOR_ONE, Kind

QUIET_SECONDS = 40.0  # at the end: the load goes on and nothing is broken any more
FIRST_SECONDS = 5.0  # before the first fault
LEAST_PAUSE_SECONDS = 2.0
USUAL_PAUSE_SECONDS = 8.0  # between two of a track, in a campaign that has room for several rounds
ROOM_FOR_LONG_ONES = 600.0  # seconds; in a shorter campaign a fault lasts no longer than its kind must
WORDS = [
    "where",
    "is",
    "my",
    "order",
    "it",
    "should",
    "have",
    "come",
    "thank",
    "you",
    "one",
    "moment",
    "please",
    "I",
    "look",
]


@dataclass(frozen=True, slots=True)
class Planned:
    """A fault that will be: when, for how long, and whose (None: everybody's, or nobody's)."""

    kind: Kind
    at: float
    seconds: float
    org: int | None = None


def plan_faults(seed: int, seconds: float) -> list[Planned]:
    """Spread every kind over the campaign, again and again if it is long, in an order that the seed gives.

    Faults for all and faults of single orgs go on beside each other; the last org has none of its own.
    """
    chance = random.Random(f"faults {seed}")
    both = [_spread(chance, FOR_ALL, seconds), _spread(chance, FOR_ONE, seconds)]
    return sorted((each for track in both for each in track), key=lambda each: each.at)


def _spread(chance: random.Random, kinds: tuple[Kind, ...], seconds: float) -> list[Planned]:
    roomy = seconds >= ROOM_FOR_LONG_ONES
    kinds = tuple(kind for kind in kinds if roomy or not kind.only_long)
    lasting = {kind.name: kind.long if roomy and kind.long else kind.seconds for kind in kinds}
    room = seconds - QUIET_SECONDS - FIRST_SECONDS
    one_round = sum(lasting.values()) + USUAL_PAUSE_SECONDS * len(kinds)
    order: list[Kind] = []
    for _ in range(max(1, int(room / one_round))):
        order += chance.sample(kinds, len(kinds))
    while order and sum(lasting[kind.name] + LEAST_PAUSE_SECONDS for kind in order) > room:
        order.pop()  # a short campaign has not all of them
    planned = []
    pause = (room - sum(lasting[kind.name] for kind in order)) / max(1, len(order))
    at, struck = FIRST_SECONDS, chance.randrange(2)
    for kind in order:
        begin = at + chance.uniform(0, pause / 4)
        struck = 1 - struck  # by turns: each has time to recover
        org = None if kind in FOR_ALL or kind.harmless else struck
        planned.append(Planned(kind, round(begin, 2), lasting[kind.name], org))
        at += lasting[kind.name] + pause
    return planned


@dataclass(frozen=True, slots=True)
class Turn:
    """One end user or rep writes one or more texts.

    :param manner: inbound: ``after`` one another; ``together`` in a webhook each, at once; ``batch``, in one webhook;
        ``twice``, the same webhook at once. Outbound: always after one another
    """

    at: float
    direction: str
    user: int
    texts: tuple[str, ...]
    manner: str = "after"


@dataclass(slots=True)
class _Serials:
    last: dict[tuple[str, int], int] = field(default_factory=dict)

    def text(self, chance: random.Random, direction: str, user: int) -> str:
        serial = self.last[direction, user] = self.last.get((direction, user), 0) + 1
        words = " ".join(chance.choices(WORDS, k=chance.randint(2, 12)))
        return f"{direction} {user} {serial}: {words}"


def plan_turns(seed: int, seconds: float, rate: float, users: int) -> list[Turn]:
    """Let people write so many messages a second, half of them in either direction; each text is written once."""
    chance = random.Random(f"turns {seed}")
    serials = _Serials()
    turns: list[Turn] = []
    for direction in ("inbound", "outbound"):
        manners = ["after"] * 7 + (["together", "batch", "twice"] if direction == "inbound" else [])
        at, written = 0.0, 0
        while True:
            at = written / (rate / 2) + chance.uniform(0, 0.1)
            if at >= seconds:
                break
            user, manner = chance.randrange(users), chance.choice(manners)
            count = 1 if manner == "twice" else 2 if manner == "together" else chance.choice([1, 1, 1, 2, 3, 4])
            texts = tuple(serials.text(chance, direction, user) for _ in range(count))
            turns.append(Turn(round(at, 3), direction, user, texts, manner))
            written += count
    return sorted(turns, key=lambda turn: turn.at)
