"""What a campaign will do: who writes what when, and what breaks when. All of it follows from the seed."""

import random
from dataclasses import dataclass, field

from tests.faults.kinds import FOR_ALL, FOR_ONE, Kind

QUIET_SECONDS = 40.0  # at the end: the load goes on and nothing is broken any more
FIRST_SECONDS = 5.0  # before the first fault
LEAST_PAUSE_SECONDS = 2.0
USUAL_PAUSE_SECONDS = 8.0  # between two of a track, in a campaign that has room for several rounds
ROOM_FOR_LONG_ONES = 600.0  # seconds; in a shorter campaign a fault lasts no longer than its kind must
CHAT_SECONDS = 4.0  # between two hand-overs
FIRST_CHATTER = 1_000_000  # among the end users
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


@dataclass(frozen=True, slots=True)
class Chat:
    """One end user talks to a chatbot, and is handed over to a rep.

    :param before: texts that they write to the chatbot, the last one at the moment of the call
    :param during: while the transcript is imported
    :param after: when it usually is
    """

    at: float
    user: int
    before: tuple[str, ...]
    during: tuple[str, ...]
    after: tuple[str, ...]


def plan_chats(seed: int, seconds: float) -> list[Chat]:
    """Let somebody be handed over every few seconds, as long as there is time to end it before the load does."""
    chance, serials = random.Random(f"chats {seed}"), _Serials()

    def texts(user: int, least: int, most: int) -> tuple[str, ...]:
        return tuple(serials.text(chance, "inbound", FIRST_CHATTER + user) for _ in range(chance.randint(least, most)))

    moments = [
        n * CHAT_SECONDS + chance.uniform(0, 1) for n in range(int(max(0.0, seconds - QUIET_SECONDS) / CHAT_SECONDS))
    ]
    return [Chat(round(at, 2), n, texts(n, 2, 4), texts(n, 6, 12), texts(n, 1, 3)) for n, at in enumerate(moments)]


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
