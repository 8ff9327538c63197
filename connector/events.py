"""The neutral words: what can arrive from either platform, and what a message can contain."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import regex


class UnexpectedPayload(Exception):
    """A payload that cannot be read; the text names the field and what is wrong with it, never its value."""


class Receipt(StrEnum):
    """What became of a message on the end user's side."""

    DELIVERED = "delivered"
    READ = "read"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Text:
    """Text that can be relayed as it is."""

    body: str


@dataclass(frozen=True, slots=True)
class Unsupported:
    """Content that we do not render; ``kind`` is the platform's word for it."""

    kind: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where a message stands in a conversation at Infobip: ids of its own, which no other webhook tells."""

    conversation: str
    message: str


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """An end user wrote to one of our senders."""

    external_id: str  # the platform's id, the same on each repetition
    sender: str  # our number, digits
    end_user: str  # digits, or a business-scoped user id
    aliases: tuple[str, ...]  # further addresses of the same end user
    name: str  # the WhatsApp profile name, or empty
    text: str  # what the rep reads; other kinds than text as one readable line
    received_at: datetime
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class ReceiptReceived:
    """The fate of a message that we sent."""

    message_uuid: UUID
    receipt: Receipt
    at: datetime
    code: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ReplyWritten:
    """Somebody on the Salesforce side (rep, bot, automation) wrote to an end user."""

    entry: str  # Salesforce's id of the conversation entry
    channel_address: str
    conversation: str  # Salesforce's conversation identifier
    end_user: str
    content: Text | Unsupported
    written_at: datetime
    automatic: bool = False  # nobody wrote it: a response that the channel sends by itself


@dataclass(frozen=True, slots=True)
class RepsChanged:
    """A rep joined a conversation, or left it: at the end, but also when it is passed on to another."""

    conversation: str
    joined: bool
    left: bool


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """A messaging session ended."""

    conversation: str
    session: str


@dataclass(frozen=True, slots=True)
class SessionTouched:
    """The records of sessions changed: whether they ended is to be asked."""

    sessions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ignored:
    """Something that we understand and need not act upon."""

    kind: str


Event = MessageReceived | ReceiptReceived | ReplyWritten | RepsChanged | SessionEnded | SessionTouched | Ignored


MARK = "\u25b8"  # a small triangle; begins each line that is ours, not an end user's
_LIKE_THE_MARK = "\u25b8\u25b6\u25ba\u2023\u23f5"


def unmarked(text: str) -> str:
    """Take out of an end user's text what could pass for our mark."""
    return re.sub(f"[{_LIKE_THE_MARK}]", ">", text)


def clean(text: str) -> str:
    """Drop what neither PostgreSQL nor UTF-8 can hold: NUL characters and lone surrogates."""
    return re.sub("[\x00\ud800-\udfff]", "", text)


def split_text(text: str, limit: int) -> Iterator[str]:
    """Cut a text into parts of at most ``limit`` characters, at white space where there is some.

    Parts that would hold nothing to read are left out, since the far sides refuse them. Where there is no white space,
    what a reader sees as one character (an emoji of several code points, a letter with its accents) stays whole.
    """
    while len(text) > limit:
        # the separator itself may stand just behind the limit, hence + 1
        cut = max(text.rfind(space, limit // 2, limit + 1) for space in (" ", "\n"))
        if cut > 0:
            head, text = text[:cut], text[cut + 1 :]
        else:
            cut = _last_grapheme_end(text, limit)
            head, text = text[:cut], text[cut:]
        if head.strip():
            yield head
    if text.strip():
        yield text


def _last_grapheme_end(text: str, limit: int) -> int:
    ends = [match.end() for match in regex.finditer(r"\X", text[max(0, limit - 200) : limit + 200])]
    fitting = [end + max(0, limit - 200) for end in ends if end + max(0, limit - 200) <= limit]
    return fitting[-1] if fitting else limit


def parse_time(value: object, field: str) -> datetime:
    """Read an ISO 8601 time in any of the spellings the platforms use; without a zone it is UTC."""
    if isinstance(value, str):
        try:
            at = datetime.fromisoformat(value.strip())
        except ValueError:
            raise UnexpectedPayload(f"{field} is not a time") from None
        return at if at.tzinfo else at.replace(tzinfo=UTC)
    raise UnexpectedPayload(f"{field} is missing or not a time")


def parse_milliseconds(value: object, field: str) -> datetime:
    """Read a time in milliseconds since 1970."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 253_402_300_800_000:  # the year 10000
        return datetime.fromtimestamp(value / 1000, tz=UTC)
    raise UnexpectedPayload(f"{field} is missing or not a time in milliseconds")


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


def object_of(source: dict[str, Any], field: str) -> dict[str, Any]:
    """Take an object that must be there.

    :raises UnexpectedPayload: if it is missing or something else
    """
    value = source.get(field)
    if not isinstance(value, dict):
        raise UnexpectedPayload(f"{field} is missing or not an object")
    return value
