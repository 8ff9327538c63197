"""The neutral words: texts are cut and cleaned, times and fields are read."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from connector.events import (
    UnexpectedPayload,
    clean,
    object_of,
    parse_milliseconds,
    parse_time,
    split_text,
    text_of,
    unmarked,
)

FAMILY = "\N{MAN}\u200d\N{WOMAN}\u200d\N{GIRL}"  # one character to a reader, five code points


@pytest.mark.parametrize(
    ("text", "limit", "parts"),
    [
        ("", 10, []),
        ("short", 10, ["short"]),
        ("exactly te", 10, ["exactly te"]),
        ("one two three", 10, ["one two", "three"]),
        ("one two\nthree four", 10, ["one two", "three four"]),
        ("0123456789 tail", 10, ["0123456789", "tail"]),  # the space stands just behind the limit
        ("0123456789tail", 10, ["0123456789", "tail"]),
        ("ab 0123456789", 10, ["ab 0123456", "789"]),  # a space in the first half is left alone
        ("x" * 25, 10, ["x" * 10, "x" * 10, "x" * 5]),
        (FAMILY * 3, 12, [FAMILY * 2, FAMILY]),
        ("e\u0301" * 4, 5, ["e\u0301" * 2, "e\u0301" * 2]),
        ("\N{REGIONAL INDICATOR SYMBOL LETTER H}\N{REGIONAL INDICATOR SYMBOL LETTER R}" * 3, 3, None),
    ],
)
def test_a_text_is_cut_at_white_space_or_between_characters(text: str, limit: int, parts: list[str] | None) -> None:
    cut = list(split_text(text, limit))
    assert cut == (parts if parts is not None else [text[:2]] * 3)


@pytest.mark.parametrize(
    "text", ["word " * 3000 + "end", "x" * 12_345, FAMILY * 2000, "line\n" * 2500 + "end", "e\u0301" * 5000]
)
@pytest.mark.parametrize("limit", [4000, 4096, 100, 7])
def test_no_part_is_too_long_and_nothing_is_lost(text: str, limit: int) -> None:
    parts = list(split_text(text, limit))
    assert all(len(part) <= limit for part in parts)
    bare = text.replace(" ", "").replace("\n", "")
    assert "".join(parts).replace(" ", "").replace("\n", "") == bare


def test_a_character_longer_than_the_limit_is_cut_all_the_same() -> None:
    parts = list(split_text("e" + "\u0301" * 50, 10))
    assert all(len(part) <= 10 for part in parts)
    assert "".join(parts) == "e" + "\u0301" * 50


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("plain", "plain"),
        ("a\x00b", "ab"),
        ("a\ud83d", "a"),
        ("\udc00\ud800", ""),
        ("👋 Grüße\n\t\u200f", "👋 Grüße\n\t\u200f"),
    ],
)
def test_only_what_cannot_be_stored_is_dropped(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned
    cleaned.encode()


def test_what_looks_like_our_mark_is_taken_out() -> None:
    assert unmarked("▸ a ▶ b ► c ‣ d ⏵ e > f") == "> a > b > c > d > e > f"


@pytest.mark.parametrize(
    ("value", "at"),
    [
        ("2026-03-02T08:15:30.123+0000", datetime(2026, 3, 2, 8, 15, 30, 123000, UTC)),
        ("2026-03-02T08:15:30.123+00:00", datetime(2026, 3, 2, 8, 15, 30, 123000, UTC)),
        ("2026-03-02T08:15:30Z", datetime(2026, 3, 2, 8, 15, 30, tzinfo=UTC)),
        ("2019-04-09T16:01:56.494-0300", datetime(2019, 4, 9, 16, 1, 56, 494000, timezone(timedelta(hours=-3)))),
        ("2026-03-02T08:15:30", datetime(2026, 3, 2, 8, 15, 30, tzinfo=UTC)),
        (" 2026-03-02T08:15:30Z ", datetime(2026, 3, 2, 8, 15, 30, tzinfo=UTC)),
    ],
)
def test_a_time_is_read_in_each_of_its_spellings(value: str, at: datetime) -> None:
    parsed = parse_time(value, "receivedAt")
    assert parsed == at
    assert parsed.tzinfo is not None


@pytest.mark.parametrize(
    "value", [None, "", "soon", 1785312000000, [], "2026-13-01T00:00:00Z", "2026-03-02T08:15:30+99:00"]
)
def test_another_value_is_no_time(value: object) -> None:
    with pytest.raises(UnexpectedPayload, match="receivedAt"):
        parse_time(value, "receivedAt")


def test_milliseconds_are_read_as_utc() -> None:
    assert parse_milliseconds(1785312000123, "t") == datetime(2026, 7, 29, 8, 0, 0, 123000, UTC)


@pytest.mark.parametrize("value", [None, 0, -1, True, 1.5, "1785312000000", 10**15, 10**30, []])
def test_another_value_is_no_time_in_milliseconds(value: object) -> None:
    with pytest.raises(UnexpectedPayload, match="transcriptedTimestamp"):
        parse_milliseconds(value, "transcriptedTimestamp")


@pytest.mark.parametrize("source", [{}, {"a": None}, {"a": 7}, {"a": ""}, {"a": " \x00 "}, {"a": ["x"]}])
def test_a_text_that_must_be_there_is(source: dict[str, Any]) -> None:
    with pytest.raises(UnexpectedPayload, match=r"^a is missing or not a text$"):
        text_of(source, "a")


def test_a_text_is_taken_cleaned_and_within_its_length() -> None:
    assert text_of({"a": " x\x00y "}, "a", most=2) == "xy"
    with pytest.raises(UnexpectedPayload, match=r"^a is longer than 2 characters$"):
        text_of({"a": "secret"}, "a", most=2)


@pytest.mark.parametrize("source", [{}, {"a": None}, {"a": "{}"}, {"a": []}])
def test_an_object_that_must_be_there_is(source: dict[str, Any]) -> None:
    assert object_of({"a": {}}, "a") == {}
    with pytest.raises(UnexpectedPayload, match=r"^a is missing or not an object$"):
        object_of(source, "a")


@pytest.mark.parametrize("text", ["x" * 4096 + "\n", "x" * 4096 + " " * 5000 + "y", "x" * 4096 + "\n" * 9000])
def test_no_part_is_empty_or_white(text: str) -> None:
    assert all(part.strip() for part in split_text(text, 4096))


def test_what_a_reader_sees_as_one_character_stays_whole() -> None:
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466"  # one family of seven code points
    parts = list(split_text(family * 1000, 4096))
    assert "".join(parts) == family * 1000
    assert all(len(part) % len(family) == 0 for part in parts)
