"""The neutral words: what can arrive from either platform, and what a message can contain."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
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
class InfobipMessageRef:
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
    ref: InfobipMessageRef | None = None


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
class Typing:
    """Somebody is typing, or stopped. It is worth nothing seconds later and nobody relays it, so it is never stored."""


@dataclass(frozen=True, slots=True)
class Ignored:
    """Something that we understand and need not act upon."""

    kind: str


Event = MessageReceived | ReceiptReceived | ReplyWritten | RepsChanged | SessionEnded | SessionTouched | Typing | Ignored


MARK = "\u25b8"  # a small triangle; begins each line that is ours, not an end user's
_LIKE_THE_MARK = "\u25b8\u25b6\u25ba\u2023\u23f5"


def strip_mark(text: str) -> str:
    """Take out of an end user's text what could pass for our mark."""
    return re.sub(f"[{_LIKE_THE_MARK}]", ">", text)


def clean(text: str) -> str:
    """Drop what neither PostgreSQL nor UTF-8 can hold: NUL characters and lone surrogates."""
    return re.sub("[\x00\ud800-\udfff]", "", text)


def split_text(text: str, limit: int) -> Iterator[str]:
    """Cut a text into parts of at most ``limit`` characters, at white space where there is some.

    Parts that would hold nothing to read are left out, since both platforms refuse them. Where there is no white space,
    what a reader sees as one character (an emoji of several code points, a letter with its accents) stays whole.
    """
    begin = 0  # cutting what is left off the text each time would take minutes where it has megabytes
    while len(text) - begin > limit:
        # the separator itself may stand just behind the limit, hence + 1
        cut = max(text.rfind(space, begin + limit // 2, begin + limit + 1) for space in (" ", "\n"))
        if cut > begin:
            part, begin = text[begin:cut], cut + 1
        else:
            end = _last_grapheme_end(text, begin, limit)
            part, begin = text[begin:end], end
        if part.strip():
            yield part
    if (rest := text[begin:]).strip():
        yield rest


def _last_grapheme_end(text: str, begin: int, limit: int) -> int:
    """Find the last place up to ``limit`` characters behind ``begin`` where a character, as readers see it, ends."""
    at = max(begin, begin + limit - 200)
    ends = [at + match.end() for match in regex.finditer(r"\X", text[at : begin + limit + 200])]
    return max((end for end in ends if end <= begin + limit), default=begin + limit)
