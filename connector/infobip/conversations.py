"""A conversation at Infobip, as its chatbot led it: https://www.infobip.com/docs/api/customer-engagement/conversations"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from urllib.parse import quote

from connector.http import RequestRejected, ServiceUnavailable
from connector.infobip.client import InfobipClient, error_of
from connector.infobip.content import bounded, conversation_line
from connector.payload import AHEAD, number_as_text, objects_of, optional_object, optional_text, parse_time
from connector.phone import address_of

PAGE = 250  # of at most 999, so that a page of long texts stays far below the longest answer that we read
MOST_PAGES = 100
LONGEST_ID = 100  # our own bound: Infobip's are UUIDs, or as long


class Author(StrEnum):
    """Who wrote a line."""

    END_USER = "end user"
    CHATBOT = "chatbot"
    AGENT = "agent"


SYSTEM = "SYSTEM"  # what Infobip notes, which nobody wrote
_AUTHORS = {"CUSTOMER": Author.END_USER, "BOT": Author.CHATBOT, "AGENT": Author.AGENT}


@dataclass(frozen=True, slots=True)
class Line:
    """One message of a transcript that somebody saw; ``end_user`` and ``sender`` are the two numbers.

    ``at`` is by Infobip's clock, which may be a day ahead of ours.
    """

    id: str
    author: Author
    text: str
    at: datetime
    end_user: str
    sender: str


class ConversationUnknown(RequestRejected):
    """Infobip has no conversation of this id in this account."""


def check_exists(client: InfobipClient, conversation: str) -> None:
    """Find out whether the account has a conversation.

    :raises ConversationUnknown: if it has none
    :raises ApiError: the member of the family says whether to ask again
    """
    _get(client, f"/ccaas/1/conversations/{quote(conversation, safe='')}")


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a transcript: its lines with their places in Infobip's list, and whether more follow."""

    lines: Sequence[tuple[int, Line]]
    more: bool


def read_page(client: InfobipClient, conversation: str, page: int, *, after: datetime | None = None) -> Page:
    """Read a part of what was said, oldest first; what nobody saw (events, typing) is left out.

    The newest lines appear two or three seconds late, then among the others. Times are as exact as Infobip's: of lines
    with the same one its list's order tells which was first.

    :param page: from 0
    :param after: when the last line before this page was written; stands in for times that cannot be read
    :raises ApiError: the member of the family says whether to ask again
    """
    body = _get_messages(client, f"{_path(conversation)}?limit={PAGE}&page={page}&orderBy=createdAt:asc")
    messages: list[object] = body["messages"]
    first = next(
        filter(None, (parse_time(each.get("createdAt"), ahead=AHEAD) for each in objects_of(body, "messages"))), None
    )
    last_at = after or first or datetime.now(UTC)
    lines = []
    for place, message in enumerate(messages, page * PAGE):
        # they come in order, so one whose time cannot be read was written no earlier than the one before
        line = parse_line(message, after=last_at) if isinstance(message, dict) else None
        if line is not None:
            lines.append((place, line))
            last_at = line.at
    total = optional_object(body, "pagination").get("totalItems")
    read = page * PAGE + len(messages)
    return Page(lines, more=bool(messages) and page + 1 < MOST_PAGES and not (isinstance(total, int) and read >= total))


def read_newest(client: InfobipClient, conversation: str) -> list[Line]:
    """Read what was written last by the end user, oldest first: one page, however long the conversation is.

    :raises ApiError: the member of the family says whether to ask again
    """
    body = _get_messages(client, f"{_path(conversation)}?limit={PAGE}&page=0&orderBy=createdAt:desc&direction=INBOUND")
    found = (parse_line(each, after=datetime.now(UTC)) for each in objects_of(body, "messages"))
    lines = [line for line in found if line is not None and line.author is Author.END_USER]
    lines.reverse()  # what has the same time stays in the list's order
    return sorted(lines, key=lambda line: line.at)


def _path(conversation: str) -> str:
    return f"/ccaas/1/conversations/{quote(conversation, safe='')}/messages"


def close(client: InfobipClient, conversation: str) -> None:
    """Close a conversation, so that the end user's next message opens another, with the chatbot.

    One that is closed already is refused, and that is as good.

    :raises ApiError: the member of the family says whether to try again
    """
    path = f"/ccaas/1/conversations/{quote(conversation, safe='')}"
    answer = client.call("PATCH", path, json={"status": "CLOSED"})
    if answer.status not in (200, 204, 400):
        raise error_of(answer)


def _get(client: InfobipClient, path: str) -> dict[str, Any]:
    answer = client.call("GET", path)
    if answer.status != 200:
        error = error_of(answer)
        # an unknown conversation is a 400, not a 404
        if answer.status in (400, 404) and "NOT_FOUND" in (error.code, *error.message.split()):
            raise ConversationUnknown("Infobip", error.message, status=answer.status, code=error.code)
        raise error
    if not answer.body:
        raise ServiceUnavailable("Infobip", "the answer is not JSON", status=answer.status)
    return answer.body


def _get_messages(client: InfobipClient, path: str) -> dict[str, Any]:
    """Read a part of a transcript; an answer without a list of messages does not say that there are none."""
    body = _get(client, path)
    if not isinstance(body.get("messages"), list):
        raise ServiceUnavailable("Infobip", "the answer has no list of messages", status=200)
    return body


def parse_line(message: dict[str, Any], *, after: datetime) -> Line | None:
    """Read one message of a transcript; None for what nobody saw, or that has no id to know it again by.

    :param after: stands in for a time that cannot be read
    """
    message_id = number_as_text(message.get("id"), most=LONGEST_ID) or optional_text(message, "id", most=LONGEST_ID + 1)
    inbound = message.get("direction") == "INBOUND"
    named = optional_text(message, "authorType", most=20)
    author = None if named == SYSTEM else _AUTHORS.get(named, Author.END_USER if inbound else Author.CHATBOT)
    kind, content = optional_text(message, "contentType", most=100), message.get("content")
    text = bounded(conversation_line(kind, content)) if kind or content else ""
    if author is None or not text or not 0 < len(message_id) <= LONGEST_ID:
        return None
    ours, theirs = ("to", "from") if inbound else ("from", "to")
    # also where their clock is ahead of ours: it is their order that times tell
    at = parse_time(message.get("createdAt"), ahead=AHEAD) or after
    return Line(message_id, author, text, at, address_of(message.get(theirs)), address_of(message.get(ours)))
