"""What we say to end users by ourselves: the right text, in their language, at their hour."""

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tenants import texts
from tenants.models import Channel

ZAGREB = ZoneInfo("Europe/Zagreb")
WEEK = {"mon": [["09:00", "12:00"], ["13:00", "17:00"]], "sat": [["22:00", "24:00"]], "sun": [["00:00", "02:00"]]}


def channel(**values: Any) -> Channel:
    return Channel(
        **{
            "language": "en",
            "welcome_message": "Welcome",
            "closing_message": "Bye",
            "out_of_hours_message": "Closed",
            "translations": {"de": {"welcome": "Willkommen", "closing": "Tschüss"}, "pt-br": {"welcome": "Bem-vindo"}},
            **values,
        }
    )


def monday(time: str, zone: ZoneInfo = ZAGREB) -> datetime:
    return datetime.fromisoformat(f"2026-11-23T{time}").replace(tzinfo=zone)


# when


@pytest.mark.parametrize(
    ("at", "is_open"),
    [
        ("2026-11-23T08:59:59", False),
        ("2026-11-23T09:00:00", True),
        ("2026-11-23T11:59:59", True),
        ("2026-11-23T12:00:00", False),
        ("2026-11-23T13:00:00", True),
        ("2026-11-23T17:00:00", False),
        ("2026-11-24T10:00:00", False),  # no hours on that day
        ("2026-11-28T23:59:59", True),  # to the end of a Saturday
        ("2026-11-29T01:59:59", True),  # and on
        ("2026-11-29T02:00:00", False),
    ],
)
def test_a_channel_is_open_in_its_hours_only(at: str, is_open: bool) -> None:
    of_zagreb = channel(business_hours=WEEK, time_zone="Europe/Zagreb")
    assert texts.is_open(of_zagreb, datetime.fromisoformat(at).replace(tzinfo=ZAGREB)) is is_open


def test_hours_are_those_of_the_channels_time_zone() -> None:
    at = datetime.fromisoformat("2026-11-23T08:30:00+00:00")
    assert texts.is_open(channel(business_hours=WEEK, time_zone="Europe/Zagreb"), at)
    assert not texts.is_open(channel(business_hours=WEEK, time_zone="Europe/London"), at)
    # in summer Zagreb is an hour further
    assert texts.is_open(channel(business_hours=WEEK, time_zone="Europe/Zagreb"), at.replace(month=7, day=20, hour=7))
    # where it is Sunday still
    assert not texts.is_open(channel(business_hours=WEEK, time_zone="Pacific/Honolulu"), at)


@pytest.mark.parametrize("hours", [{}, {"mon": []}])
def test_without_hours_a_channel_is_always_open(hours: dict[str, Any]) -> None:
    assert texts.is_open(channel(business_hours=hours), monday("03:00"))


# which


def test_out_of_hours_another_text_takes_the_place_of_the_welcome() -> None:
    closed = channel(business_hours=WEEK, time_zone="Europe/Zagreb")
    assert texts.opening_text(closed, "", monday("10:00")) == "Welcome"
    assert texts.opening_text(closed, "", monday("20:00")) == "Closed"
    nothing = channel(business_hours=WEEK, time_zone="Europe/Zagreb", out_of_hours_message="")
    assert texts.opening_text(nothing, "", monday("20:00")) == ""  # nobody is promised a rep


@pytest.mark.parametrize(
    ("language", "says"),
    [
        ("de", "Willkommen"),
        ("de-AT", "Willkommen"),
        ("de_AT", "Willkommen"),
        ("pt-br", "Bem-vindo"),
        ("pt", "Welcome"),
        ("en", "Welcome"),
        ("en-gb", "Welcome"),
        ("hr", "Welcome"),
        ("", "Welcome"),
    ],
)
def test_the_text_is_in_the_wanted_language_else_in_the_channels_own(language: str, says: str) -> None:
    assert texts.opening_text(channel(), language, monday("10:00")) == says


def test_what_is_not_translated_is_said_in_the_channels_own_language() -> None:
    assert texts.closing_text(channel(), "de") == "Tschüss"
    assert texts.closing_text(channel(), "pt-br") == "Bye"


def test_the_channels_own_language_wins_over_a_wider_translation() -> None:
    british = channel(language="en-gb", translations={"en": {"welcome": "Howdy"}})
    assert texts.opening_text(british, "en-gb", monday("10:00")) == "Welcome"
    assert texts.opening_text(british, "en-us", monday("10:00")) == "Howdy"


def test_a_text_that_is_off_is_off_in_every_language() -> None:
    off = channel(welcome_message="", closing_message="")
    assert texts.opening_text(off, "de", monday("10:00")) == texts.closing_text(off, "de") == ""


# whose language


@pytest.mark.parametrize(
    ("number", "offered", "best"),
    [
        ("4915112345678", ["en", "de"], "de"),
        ("+4915112345678", ["en", "de"], "de"),
        ("385991234567", ["en", "de"], ""),
        ("447700900123", ["en", "de"], "en"),  # of the numbers that are kept free for films
        ("12125551234", ["es", "en"], "en"),
        ("41791234567", ["it", "fr", "de"], "de"),  # what most speak there
        ("41791234567", ["it", "fr"], "fr"),
        ("5511912345678", ["pt-pt", "pt-br"], "pt-br"),
        ("351912345678", ["pt-br", "pt-pt"], "pt-pt"),
        ("351912345678", ["pt-br"], "pt-br"),
        ("886912345678", ["zh-cn", "zh-tw"], "zh-tw"),
        ("447700900123", ["EN_GB"], "EN_GB"),
        ("4915112345678", [], ""),
        ("HR.1234567890", ["hr"], ""),  # an id of WhatsApp's
        ("٣٨٥٩٩١٢٣٤٥٦٧", ["hr"], ""),
        ("80012345678", ["en"], ""),  # of no country
        ("999", ["en"], ""),
        ("1" * 150, ["en"], ""),
        ("", ["en"], ""),
    ],
)
def test_a_phone_number_suggests_a_language_of_its_country(number: str, offered: list[str], best: str) -> None:
    assert texts.language_of(number, offered) == best


# as typed


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("", []),
        ("09:00-17:00", [["09:00", "17:00"]]),
        ("13:00 \u2013 17.30; 9-12", [["09:00", "12:00"], ["13:00", "17:30"]]),
        ("0-24", [["00:00", "24:00"]]),
    ],
)
def test_hours_are_read_as_people_write_them(typed: str, kept: list[list[str]]) -> None:
    assert texts.read_time_ranges(typed) == kept
    assert texts.read_time_ranges(texts.write_time_ranges(kept)) == kept


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("nine to five", "is not from one time to another"),
        ("9", "is not from one time to another"),
        ("9-25", "“25:00” is not a time of day"),
        ("9:60-10", "“09:60” is not a time of day"),
        ("9-24:30", "“24:30” is not a time of day"),
        ("22-2", "ends before it begins"),
        ("9-9", "ends before it begins"),
        ("9-13, 12-17", "09:00-13:00 and 12:00-17:00 overlap"),
    ],
)
def test_hours_that_cannot_be_are_refused(typed: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        texts.read_time_ranges(typed)


def test_languages_are_named_for_people() -> None:
    assert [texts.language_name(code) for code in ("de", "pt-br", "xx-nonsense-at-all")] == [
        "German",
        "Portuguese (Brazil)",
        "xx-nonsense-at-all",
    ]
