"""The tolerant readers: what can be read is, and what they give can be stored."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from connector.events import UnexpectedPayload
from connector.payload import (
    id_of,
    object_of,
    objects_of,
    optional_object,
    optional_text,
    parse_json,
    parse_time,
    text_of,
)
from tests.support.odd import IMPOSSIBLE_TIMES

JULY = datetime(2026, 7, 29, 8, 0, 0, 123000, UTC)


@pytest.mark.parametrize(
    ("value", "at"),
    [
        ("2026-03-02T08:15:30.123+0000", datetime(2026, 3, 2, 8, 15, 30, 123000, UTC)),
        ("2026-03-02T08:15:30.123+00:00", datetime(2026, 3, 2, 8, 15, 30, 123000, UTC)),
        ("2026-03-02T08:15:30Z", datetime(2026, 3, 2, 8, 15, 30, tzinfo=UTC)),
        ("2019-04-09T16:01:56.494-0300", datetime(2019, 4, 9, 19, 1, 56, 494000, UTC)),
        ("2026-03-02T08:15:30", datetime(2026, 3, 2, 8, 15, 30, tzinfo=UTC)),
        (" 2026-03-02T08:15:30Z ", datetime(2026, 3, 2, 8, 15, 30, tzinfo=UTC)),
        (1785312000123, JULY),
        (1785312000123.0, JULY),
        ("1785312000123", JULY),
        (" 1785312000123 ", JULY),
        (946_684_800_000, datetime(2000, 1, 1, tzinfo=UTC)),
        ("2000-01-01T00:00:00Z", datetime(2000, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_time_is_read_in_each_of_its_spellings_and_given_in_utc(value: object, at: datetime) -> None:
    parsed = parse_time(value)
    assert parsed == at
    assert parsed.utcoffset() == timedelta()


def test_a_time_without_a_zone_is_utc_wherever_the_process_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        assert parse_time("2026-03-02T08:15:30") == datetime(2026, 3, 2, 8, 15, 30, tzinfo=UTC)
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    "value",
    [
        *IMPOSSIBLE_TIMES,
        *(
            None,
            "",
            "soon",
            [],
            {},
            True,
            False,
            0,
            -1,
            7,
            10**15,
            10**30,
            2**56 * 1000,
            1e400,
            float("nan"),
            946_684_799_999,
        ),
        *("2026-13-01T00:00:00Z", "2026-03-02T08:15:30+99:00", "9" * 13, "9" * 5000, "1" * 12, "\x00", "\ud800"),
        *("2026-03-02T08:15:30Z" + " " * 60, 253_402_300_799_999, -62_135_596_800_000),
    ],
)
def test_another_value_is_no_time(value: object) -> None:
    assert parse_time(value) is None


def test_what_happened_by_a_fast_clock_happened_now() -> None:
    now = datetime.now(UTC)
    for ahead in (timedelta(seconds=2), timedelta(hours=23)):
        at = parse_time((now + ahead).isoformat())
        assert at is not None and now <= at <= datetime.now(UTC)
    assert parse_time((now + timedelta(hours=25)).isoformat()) is None


def test_only_what_is_yet_to_come_lies_ahead() -> None:
    to_come = datetime.now(UTC) + timedelta(days=300)
    assert parse_time(to_come.isoformat(), ahead=timedelta(days=301)) == to_come
    assert parse_time(to_come.isoformat(), ahead=timedelta(days=299)) is None


@pytest.mark.parametrize("source", [{}, {"a": None}, {"a": 7}, {"a": ""}, {"a": " \x00 "}, {"a": ["x"]}])
def test_a_text_that_must_be_there_is(source: dict[str, Any]) -> None:
    with pytest.raises(UnexpectedPayload, match=r"^a is missing or not a text$"):
        text_of(source, "a")
    assert optional_text(source, "a", most=5) == ""


def test_a_text_is_taken_cleaned_and_within_its_length() -> None:
    assert text_of({"a": " x\x00y "}, "a", most=2) == "xy"
    assert optional_text({"a": " x\x00yz "}, "a", most=2) == "xy"
    with pytest.raises(UnexpectedPayload, match=r"^a is longer than 2 characters$"):
        text_of({"a": "secret"}, "a", most=2)


@pytest.mark.parametrize("value", [True, 1.0, 123456, -(10**5), pytest.param(10**5000, id="enormous"), "123456", None])
def test_an_id_that_is_no_text_is_a_whole_number_within_its_length(value: object) -> None:
    assert id_of({"a": 12345}, "a", most=5) == id_of({"a": "12345"}, "a", most=5) == "12345"
    with pytest.raises(UnexpectedPayload, match=r"^a is "):
        id_of({"a": value}, "a", most=5)


@pytest.mark.parametrize("value", [None, 7, [], {}])
def test_what_is_not_even_a_text_is_not_json(value: object) -> None:
    with pytest.raises(UnexpectedPayload, match=r"^the field is not JSON$"):
        parse_json(value, "the field")


@pytest.mark.parametrize("source", [{}, {"a": None}, {"a": "{}"}, {"a": []}])
def test_an_object_that_must_be_there_is(source: dict[str, Any]) -> None:
    assert object_of({"a": {}}, "a") == {}
    with pytest.raises(UnexpectedPayload, match=r"^a is missing or not an object$"):
        object_of(source, "a")
    assert optional_object(source, "a") == {}


@pytest.mark.parametrize("source", [{}, {"a": None}, {"a": "[]"}, {"a": {}}, {"a": [None, 7, [], "x"]}])
def test_only_objects_of_a_list_are_taken(source: dict[str, Any]) -> None:
    assert objects_of({"a": [1, {"b": 2}, "c"]}, "a") == [{"b": 2}]
    assert objects_of(source, "a") == []
