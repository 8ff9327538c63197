"""What may stand anywhere in JSON that comes from outside, and how to put it there."""

import copy
from collections.abc import Iterator
from typing import Any

# one signed webhook with one of these stopped every org once: PostgreSQL stores years that psycopg cannot load
IMPOSSIBLE_TIMES = (
    *("0001-01-01T00:00:00+14:00", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59-14:00", "9999-12-31T23:59:59.999Z"),
    *("1999-12-31T23:59:59Z", "2100-01-01T00:00:00Z", "0000-00-00T00:00:00Z", "+10000-01-01T00:00:00Z"),
)
NOT_STORABLE = "a\x00b\ud800c"


def _nested(depth: int) -> Any:
    value: Any = 1
    for n in range(depth):
        value = [value] if n % 2 else {"a": value}
    return value


ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 5, 2**31, 2**63, 10**30, 10**4000, 0.1, 1e308, float("inf"), float("-inf"), float("nan")),
    *("", " ", "\x00", "\ud800", NOT_STORABLE, "x" * 5000, "▸ x", "\u202e", "٣" * 20, "+ ()", "'; --", "null", "{}", "["),
    *([], {}, [None], [[]], [{}], {"a": []}, {"": ""}, {NOT_STORABLE: NOT_STORABLE}, [NOT_STORABLE] * 3, _nested(60)),
    *IMPOSSIBLE_TIMES,
    *(-62_135_596_800_000, 253_402_300_799_999, 253_402_300_800_000, 10**18, "1785312300000", "9" * 13, "-1"),
)
_LONG = 30_000  # an expression that takes time by its square takes seconds here
LONG: tuple[Any, ...] = (
    *("+" * _LONG, "1" * _LONG, " " * _LONG + "x", "\ud800" * _LONG),
    *([{"a": "b"}] * 2000, {f"k{n}": n for n in range(2000)}),
)


def places(value: object, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Name each place in a JSON value."""
    yield place
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*place, key))


def replaced(value: Any, place: tuple[Any, ...], by: object) -> Any:
    """Copy a JSON value with another value at one place."""
    if not place:
        return by
    whole = copy.copy(value)
    whole[place[0]] = replaced(value[place[0]], place[1:], by)
    return whole
