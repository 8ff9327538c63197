"""Makes odd payloads out of recorded ones by chance, the same ones each time, and boils down what breaks a promise.

For a long run set ``FUZZ_EXAMPLES``, such as 100000: then each run is another one, and a failure names the ``FUZZ_SEED``
with which it comes again.
"""

import copy
import json
import os
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest

from tests.support.odd import ODD, places, replaced

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", 0))
SEED = os.environ.get("FUZZ_SEED") or (str(Random().getrandbits(32)) if EXAMPLES else "1")
MOST_STEPS = 300  # of boiling down
FIELDS = (
    *(
        "text",
        "caption",
        "title",
        "description",
        "name",
        "note",
        "type",
        "id",
        "payload",
        "from",
        "to",
        "sender",
        "message",
    ),
    *("content", "contacts", "interactive", "response", "status", "event", "results", "entryPayload", "something"),
)
# what is no word of anybody's, wherever it stands
TECHNICAL = {
    *("type", "id", "url", "payload", "postbackData", "context", "cleanText", "keyword", "currency", "catalogId", "action"),
    *("productRetailerId", "flow_token", "pageIdentifier", "waId", "countryCode", "format", "language", "referral"),
    *(
        "firstName",
        "lastName",
        "middleName",
        "first_name",
        "last_name",
        "middle_name",
        "templateName",
        "formatType",
        "malware",
    ),
}


def check(name: str, promise: Callable[[Any], None], make: Callable[[Random], Any], *, examples: int) -> None:
    """Try a promise on so many examples; what breaks it is shown as small as it can be made.

    :param make: gives a JSON value
    """
    for n in range(EXAMPLES or examples):
        value = make(Random(f"{name} {SEED} {n}"))
        exc = broken(promise, value)
        if exc is not None:
            small = _boiled_down(promise, value, type(exc))
            pytest.fail(f"FUZZ_SEED={SEED}, example {n}: {exc!r}\n{json.dumps(small, indent=1)[:5000]}")


def broken(promise: Callable[[Any], None], value: Any) -> Exception | None:
    try:
        promise(value)
    except Exception as exc:
        return exc
    return None


def _boiled_down(promise: Callable[[Any], None], value: Any, kind: type[Exception]) -> Any:
    steps, changed = 0, True
    while changed and steps < MOST_STEPS:
        changed = False
        for place in list(places(value))[:0:-1]:
            steps += 1
            smaller = without(value, place)
            if type(broken(promise, smaller)) is kind:
                value, changed = smaller, True
                break
    return value


def without(value: Any, place: tuple[Any, ...]) -> Any:
    """Copy a JSON value without what stands at a place."""
    whole = copy.copy(value)
    if len(place) > 1:
        whole[place[0]] = without(value[place[0]], place[1:])
    else:
        del whole[place[0]]
    return whole


def mutated(random: Random, value: Any, *, most: int = 4, keep: Callable[[tuple[Any, ...]], bool] = lambda _: False) -> Any:
    """Change a JSON value at some places.

    :param keep: says which places, and what is in them, stay as they are
    """
    for _ in range(random.randint(0, most)):
        open_places = [place for place in places(value) if place and not keep(place)]
        if open_places:
            value = _changed(random, value, random.choice(open_places))
    return value


def _changed(random: Random, value: Any, place: tuple[Any, ...]) -> Any:
    there = value
    for step in place:
        there = there[step]
    match random.randrange(7):
        case 0:
            return replaced(value, place, random.choice(ODD))
        case 1:
            return without(value, place)
        case 2:
            return replaced(value, place, [there])
        case 3:
            return replaced(value, place, {random.choice(FIELDS): there})
        case 4 if isinstance(there, dict):
            return replaced(value, place, {**there, random.choice(FIELDS): random.choice(ODD)})
        case 5 if isinstance(there, str | int):
            return replaced(value, place, int(there) if isinstance(there, str) and there.isdecimal() else str(there))
        case _ if isinstance(place[-1], str):
            renamed = random.choice(FIELDS)
            holder: Any = value
            for step in place[:-1]:
                holder = holder[step]
            return replaced(value, place[:-1], {(renamed if name == place[-1] else name): holder[name] for name in holder})
    return value


def with_words(random: Random, content: Any) -> Any:
    """Put words that are nobody else's where somebody's are, and some where the kind has no place for them."""
    for place, said in list(written_in(content)):
        if said and random.random() < 0.7:
            content = replaced(content, place, word(random))
    if isinstance(content, dict) and random.random() < 0.5:
        content = {**content, random.choice(("text", "caption", "title", "note", "novelty")): word(random)}
    return content


def word(random: Random) -> str:
    return f"they said w{random.getrandbits(40):x}w today"


def words_in(content: Any) -> set[str]:
    """Give the words that are there after all."""
    return {said for _, said in written_in(content) if said.startswith("they said w")}


def written_in(content: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Give each text that somebody may have written, with its place."""
    if isinstance(content, str):
        yield place, content
    elif isinstance(content, dict):
        for field, each in content.items():
            if field not in TECHNICAL:
                yield from written_in(each, (*place, field))
    elif isinstance(content, list):
        for n, each in enumerate(content):
            yield from written_in(each, (*place, n))
