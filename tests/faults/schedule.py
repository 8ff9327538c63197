"""What a campaign will do: who writes what when, and what breaks when. All of it follows from the seed."""

import random
from dataclasses import dataclass, field
from typing import Any

QUIET_SECONDS = 40.0  # at the end: the load goes on and nothing is broken any more
FIRST_SECONDS = 5.0  # before the first fault
LEAST_PAUSE_SECONDS = 2.0
OUTAGE_SECONDS = 60.0  # of a far side that is gone
ROOM_FOR_OUTAGES = 600.0  # in shorter campaigns it is gone for as long as its kind says
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
class Kind:
    """One kind of fault.

    :param action: what the campaign does, by name; ``far`` turns on ``faults`` at the far sides
    :param seconds: how long it lasts; 0: it is over at once
    :param direction: of the messages that it is about; empty: both
    :param down: a far side that is gone: for a whole minute where the campaign has room for it
    """

    name: str
    action: str
    seconds: float = 0.0
    direction: str = ""
    faults: tuple[dict[str, Any], ...] = ()
    down: bool = False


# The first group strikes everybody. The second strikes one org, so that its neighbours show whether they are spared.
FOR_ALL = (
    Kind("web killed", "kill web"),
    Kind("worker killed", "kill worker"),
    Kind("subscriber killed", "kill subscriber", direction="outbound"),
    Kind("Valkey flushed", "flush"),
    Kind("Valkey stopped and started", "restart valkey", 1.5),
    Kind("PostgreSQL stopped at once and started", "restart postgres", 1.5),
    Kind("streams cut", "cut", direction="outbound"),
    Kind("replay ids refused", "refuse replays", direction="outbound"),
    Kind("tokens expired", "expire"),
    Kind("webhooks doubled", "double", 4, "inbound", ({"where": "webhook", "what": "duplicate"},)),
    Kind("webhook answers lost", "lose", 3, "inbound", ({"where": "webhook", "what": "timeout_after"},)),
    Kind("stream events doubled", "far", 4, "outbound", ({"where": "stream", "what": "duplicate"},)),
)
TICKS = "acknowledgement"
FOR_ONE = (
    Kind(
        "Salesforce answers 500",
        "far",
        4,
        "inbound",
        ({"where": "interactions", "what": "status"}, {"where": TICKS, "what": "status"}),
    ),
    Kind("Salesforce answers 429", "far", 3, "inbound", ({"where": "interactions", "what": "status", "status": 429},)),
    Kind(
        "Salesforce never answers, and takes nothing",
        "far",
        3,
        "inbound",
        ({"where": "interactions", "what": "timeout_before", "count": 3},),
    ),
    Kind(
        "Salesforce takes it, and never answers",
        "far",
        3,
        "inbound",
        ({"where": "interactions", "what": "timeout_after", "count": 3},),
    ),
    Kind(
        "Salesforce takes ticks, and never answers", "far", 3, "", ({"where": TICKS, "what": "timeout_after", "count": 3},)
    ),
    Kind("Salesforce slow", "far", 3, "inbound", ({"where": "interactions", "what": "delay", "seconds": 2.0},)),
    Kind(
        "Salesforce's answers trickle", "far", 3, "inbound", ({"where": "interactions", "what": "trickle", "seconds": 3.0},)
    ),
    Kind("Salesforce refuses logins, and the tokens", "relogin", 3, "", ({"where": "login", "what": "status"},)),
    Kind(
        "Salesforce down (503)",
        "far",
        8,
        "inbound",
        tuple({"where": each, "what": "status", "status": 503} for each in ("login", "interactions", TICKS)),
        down=True,
    ),
    Kind(
        "Salesforce hangs",
        "far",
        8,
        "inbound",
        ({"where": "interactions", "what": "timeout_before"}, {"where": TICKS, "what": "timeout_before"}),
        down=True,
    ),
    Kind("Infobip answers 500", "far", 4, "outbound", ({"where": "send", "what": "status"},)),
    Kind(
        "Infobip answers 429 with Retry-After", "far", 3, "outbound", ({"where": "send", "what": "status", "status": 429},)
    ),
    Kind(
        "Infobip never answers, and takes nothing",
        "far",
        3,
        "outbound",
        ({"where": "send", "what": "timeout_before", "count": 3},),
    ),
    Kind(
        "Infobip takes it, and never answers",
        "far",
        3,
        "outbound",
        ({"where": "send", "what": "timeout_after", "count": 3},),
    ),
    Kind("Infobip slow", "far", 3, "outbound", ({"where": "send", "what": "delay", "seconds": 2.0},)),
    Kind(
        "Infobip's answers trickle, reports come first",
        "far",
        3,
        "outbound",
        ({"where": "send", "what": "trickle", "seconds": 3.0},),
    ),
    Kind("Infobip down (503)", "far", 8, "outbound", ({"where": "send", "what": "status", "status": 503},), down=True),
    Kind("Infobip hangs", "far", 8, "outbound", ({"where": "send", "what": "timeout_before"},), down=True),
)


@dataclass(frozen=True, slots=True)
class Planned:
    """A fault that will be: when, for how long, and whose (None: everybody's)."""

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
    room = seconds - QUIET_SECONDS - FIRST_SECONDS
    roomy = seconds >= ROOM_FOR_OUTAGES
    lasting = {kind.name: OUTAGE_SECONDS if kind.down and roomy else kind.seconds for kind in kinds}
    one_round = sum(lasting.values()) + 10.0 * len(kinds)
    order: list[Kind] = []
    for _ in range(max(1, int(room / one_round))):
        order += chance.sample(kinds, len(kinds))
    while order and sum(lasting[kind.name] + LEAST_PAUSE_SECONDS for kind in order) > room:
        order.pop()  # a short campaign has not all of them
    planned = []
    pause = (room - sum(lasting[kind.name] for kind in order)) / max(1, len(order))
    at = FIRST_SECONDS
    for kind in order:
        begin = at + chance.uniform(0, pause / 4)
        planned.append(
            Planned(kind, round(begin, 2), lasting[kind.name], chance.randrange(2) if kinds is FOR_ONE else None)
        )
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
