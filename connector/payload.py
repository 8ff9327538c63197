"""The only tolerant readers: what a platform sent becomes a value of ours, or ``UnexpectedPayload`` names what is wrong.

What they give can be stored: texts hold nothing that PostgreSQL refuses, times lie where it and psycopg agree, and what is
nested so deep that whoever walks it would run out of stack is refused here.
"""

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

from connector.events import UnexpectedPayload, clean

FIRST_TIME = datetime(2000, 1, 1, tzinfo=UTC)  # nothing that either platform tells of is older
AHEAD = timedelta(days=1)  # by which a clock may be wrong
DEEPEST = 100  # objects and lists in each other; the platforms' own have some ten
LONGEST_TIME = 50  # characters

_MILLISECONDS = re.compile(r"\d{12,14}")


def parse_json(text: object, what: str) -> Any:
    """Read JSON.

    :param what: the name of the field, or of the body, for the error's text
    :raises UnexpectedPayload: if it is none, is nested too deep, or has numbers of thousands of digits
    """
    if not isinstance(text, str | bytes):
        raise UnexpectedPayload(f"{what} is not JSON")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise UnexpectedPayload(f"{what} is not JSON") from None
    opened = text.count("[") + text.count("{") if isinstance(text, str) else text.count(b"[") + text.count(b"{")
    if opened > DEEPEST and _is_deeper(value, DEEPEST):
        raise UnexpectedPayload(f"{what} is nested too deep")
    return value


def _is_deeper(value: object, most: int) -> bool:
    level = [value]
    for _ in range(most + 1):
        level = [
            inner
            for each in level
            for inner in (each.values() if isinstance(each, dict) else each if isinstance(each, list) else ())
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def parse_time(value: object, *, ahead: timedelta | None = None) -> datetime | None:
    """Read a time: ISO 8601 in any of the platforms' spellings (without a zone it is UTC), or milliseconds since 1970.

    None where it is none, or lies before the year 2000 or too far ahead: PostgreSQL stores years that psycopg cannot load,
    and a day more may step over the edge. Whoever asks then takes the time of arrival. What is said to have happened a
    little ahead of now happened now, by a clock that is fast: nothing opens a window for longer than it lasts, or makes
    what comes afterwards late.

    :param ahead: how far ahead it may lie, for what is yet to come
    """
    try:
        at = _time_of(value)
    except (ValueError, OverflowError):
        return None
    now = datetime.now(UTC)
    if at is None or not FIRST_TIME <= at <= now + (ahead or AHEAD):
        return None
    return at if ahead is not None else min(at, now)


def _time_of(value: object) -> datetime | None:
    if isinstance(value, str) and len(value) <= LONGEST_TIME:
        text = value.strip()
        if _MILLISECONDS.fullmatch(text):
            return _time_of(int(text))
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
    if isinstance(value, int | float) and 0 < value < 253_402_300_800_000:  # the year 10000
        return datetime.fromtimestamp(value / 1000, tz=UTC)
    return None


def text_of(source: dict[str, Any], field: str, *, most: int | None = None) -> str:
    """Take a text that must be there.

    :raises UnexpectedPayload: if it is missing, empty, not a text, or longer than ``most`` characters
    """
    value = source.get(field)
    if not isinstance(value, str) or not (value := clean(value).strip()):
        raise UnexpectedPayload(f"{field} is missing or not a text")
    if most is not None and len(value) > most:
        raise UnexpectedPayload(f"{field} is longer than {most} characters")
    return value


def id_of(source: dict[str, Any], field: str, *, most: int) -> str:
    """Take an id that must be there: a text, or the number that some write instead.

    :raises UnexpectedPayload: if it is missing, empty, or longer than ``most`` characters
    """
    return number_as_text(source.get(field), most=most) or text_of(source, field, most=most)


def number_as_text(value: object, *, most: int) -> str:
    """Write a whole number of at most so many digits as a text; empty for all else."""
    return str(value) if type(value) is int and abs(value) < 10**most else ""


def optional_text(source: dict[str, Any], field: str, *, most: int) -> str:
    """Take a text of which ``most`` characters are enough; empty where there is none."""
    value = source.get(field)
    return clean(value).strip()[:most] if isinstance(value, str) else ""


def object_of(source: dict[str, Any], field: str) -> dict[str, Any]:
    """Take an object that must be there.

    :raises UnexpectedPayload: if it is missing or something else
    """
    value = source.get(field)
    if not isinstance(value, dict):
        raise UnexpectedPayload(f"{field} is missing or not an object")
    return value


def optional_object(source: dict[str, Any], field: str) -> dict[str, Any]:
    """Take an object; an empty one where there is none."""
    value = source.get(field)
    return value if isinstance(value, dict) else {}


def objects_of(source: dict[str, Any], field: str) -> list[dict[str, Any]]:
    """Take the objects of a list; none where there is no list."""
    values = source.get(field)
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []
