"""What we say to end users by ourselves: which text, in which language, and whether anybody is there to answer."""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, available_timezones

import phonenumbers
from babel.core import Locale, UnknownLocaleError
from babel.languages import get_official_languages

if TYPE_CHECKING:
    from tenants.models import Channel

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
TEXTS = {"welcome": "welcome_message", "closing": "closing_message", "out_of_hours": "out_of_hours_message"}
LONGEST_TEXT = 4096  # of WhatsApp
# those that WhatsApp knows for templates:
# https://developers.facebook.com/docs/whatsapp/business-management-api/message-templates/supported-languages
# fmt: off
LANGUAGES = (
    "af", "sq", "ar", "az", "bn", "bg", "ca", "zh-cn", "zh-hk", "zh-tw", "hr", "cs", "da", "nl", "en", "en-gb",
    "en-us", "et", "fil", "fi", "fr", "ka", "de", "el", "gu", "ha", "he", "hi", "hu", "id", "ga", "it", "ja", "kn",
    "kk", "rw", "ko", "ky", "lo", "lv", "lt", "mk", "ms", "ml", "mr", "nb", "fa", "pl", "pt-br", "pt-pt", "pa", "ro",
    "ru", "sr", "sk", "sl", "es", "es-ar", "es-es", "es-mx", "sw", "sv", "ta", "te", "th", "tr", "uk", "ur", "uz",
    "vi", "zu",
)
# fmt: on

Hours = dict[str, list[list[str]]]


def is_open(channel: "Channel", at: datetime) -> bool:
    """Tell whether somebody is there to answer; a channel without business hours is always open."""
    hours: Hours = channel.business_hours
    if not any(hours.values()):
        return True
    local = at.astimezone(ZoneInfo(channel.time_zone))
    now = f"{local:%H:%M}"
    return any(begin <= now < end for begin, end in hours.get(DAYS[local.weekday()], []))


def opening_text(channel: "Channel", language: str, at: datetime) -> str:
    """Give what an end user reads when a session begins; empty: nothing is sent."""
    return _text(channel, language, "welcome" if is_open(channel, at) else "out_of_hours")


def closing_text(channel: "Channel", language: str) -> str:
    """Give what an end user reads when a session ends; empty: nothing is sent."""
    return _text(channel, language, "closing")


def _text(channel: "Channel", language: str, name: str) -> str:
    """Choose the translation; a text that the channel itself does not have is off in every language."""
    own: str = getattr(channel, TEXTS[name])
    wanted = tag(language)
    texts = {code: each.get(name, "") for code, each in channel.translations.items()} | {tag(channel.language): own}
    return own and (texts.get(wanted) or texts.get(primary(wanted)) or own)


def language_of(number: str, offered: Iterable[str]) -> str:
    """Give the best of the offered languages for a phone number's country; empty if none is spoken there officially."""
    if not re.fullmatch(r"\+?[0-9]+", number):
        return ""  # an id, from which no country can be told
    try:
        parsed = phonenumbers.parse(f"+{number.removeprefix('+')}")
    except phonenumbers.NumberParseException:
        return ""
    region = phonenumbers.region_code_for_number(parsed) or phonenumbers.region_code_for_country_code(
        parsed.country_code or 0
    )
    by_tag = {tag(code): code for code in offered}
    for spoken in map(tag, get_official_languages(region, de_facto=True)):
        language = primary(spoken)
        akin = [each for each in by_tag if primary(each) == language]
        for best in (f"{language}-{region.lower()}", spoken, language, *akin):
            if best in by_tag:
                return by_tag[best]
    return ""


def tag(language: str) -> str:
    """Write a language as we keep it, such as pt-br."""
    return language.strip().lower().replace("_", "-")


def primary(language: str) -> str:
    """Leave out what a tag says of country and script."""
    return language.partition("-")[0]


@cache
def language_name(language: str) -> str:
    """Give a language's English name, for an administrator."""
    try:
        return str(Locale.parse(language, sep="-").get_display_name("en") or language)
    except (ValueError, UnknownLocaleError):
        return language


@cache
def time_zones() -> Sequence[str]:
    """List the time zones that somebody lives in, by name."""
    return sorted({each for each in available_timezones() if "/" in each and not each.startswith("Etc/")} | {"UTC"})


def read_time_ranges(typed: str) -> list[list[str]]:
    """Read the open hours of a day, such as ``9-12, 13:00-17:30``; none at all: closed.

    :raises ValueError: with what is wrong, for whoever typed it
    """
    found = []
    for part in filter(None, (each.strip() for each in re.split(r"[,;]", typed))):
        match = re.fullmatch(r"(\d{1,2})(?:[:.](\d\d))?\s*[-\u2013]\s*(\d{1,2})(?:[:.](\d\d))?", part)
        if match is None:
            raise ValueError(f"“{part}” is not from one time to another, such as 09:00-17:00.")
        hours, minutes = match.group(1, 3), match.group(2, 4)
        found.append([f"{int(hour):02}:{minute or '00'}" for hour, minute in zip(hours, minutes, strict=True)])
    return check_time_ranges(found)


def check_time_ranges(ranges: Sequence[Sequence[str]]) -> list[list[str]]:
    """Sort the open hours of a day.

    :raises ValueError: if one is not from one time to a later one, or two overlap
    """
    kept: list[list[str]] = []
    for begin, end in sorted(map(list, ranges)):
        for time in (begin, end):
            if not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d|24:00", time):
                raise ValueError(f"“{time}” is not a time of day, such as 09:00.")
        if begin >= end:
            raise ValueError(
                f"{begin}-{end} ends before it begins. A night is two: until 24:00, and from 00:00 on the next day."
            )
        if kept and begin < kept[-1][1]:
            raise ValueError(f"{'-'.join(kept[-1])} and {begin}-{end} overlap.")
        kept.append([begin, end])
    return kept


def write_time_ranges(ranges: Iterable[Sequence[str]]) -> str:
    """Write the open hours of a day as somebody types them."""
    return ", ".join(f"{begin}-{end}" for begin, end in ranges)


def check_attributes(attributes: Mapping[str, str]) -> None:
    """Check which field of a hand-over call becomes which custom parameter.

    :raises ValueError: naming the one that cannot be
    """
    for name in (*attributes, *attributes.values()):
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,79}", name):
            raise ValueError(f"“{name}” is not a name: letters, digits and _ only, a letter first.")
    if len(set(attributes.values())) < len(attributes):
        raise ValueError("Two fields go into the same custom parameter.")
