"""A conversation at Infobip, as its chatbot led it: https://www.infobip.com/docs/api/customer-engagement/conversations"""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from urllib.parse import quote

from connector.http import RequestRejected, ServiceUnavailable
from connector.infobip.client import InfobipClient, error_of
from connector.infobip.content import conversation_line
from connector.payload import objects_of, optional_object, optional_text, parse_time
from connector.phone import address_of

PAGE = 250  # of at most 999, so that a page of long texts stays far below the longest answer that we read
MOST_PAGES = 100
LONGEST_ID = 100  # our own bound: Infobip's are UUIDs, or as long


class Author(StrEnum):
    """Who wrote a line."""

    END_USER = "end user"
    CHATBOT = "chatbot"
    AGENT = "agent"


_AUTHORS = {"CUSTOMER": Author.END_USER, "BOT": Author.CHATBOT, "AGENT": Author.AGENT}


@dataclass(frozen=True, slots=True)
class Line:
    """One message of a transcript that somebody saw; ``end_user`` and ``sender`` are the two numbers."""

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


def read_transcript(client: InfobipClient, conversation: str) -> list[Line]:
    """Read all that was said, in the order in which it was; what nobody saw (events, typing) is left out.

    The newest lines appear two or three seconds late.

    :raises ApiError: the member of the family says whether to ask again
    """
    lines: list[Line] = []
    path = f"/ccaas/1/conversations/{quote(conversation, safe='')}/messages"
    read = 0
    for page in range(MOST_PAGES):
        body = _get(client, f"{path}?limit={PAGE}&page={page}&orderBy=createdAt:asc")
        messages = body.get("messages")
        read += len(messages) if isinstance(messages, list) else 0
        for message in objects_of(body, "messages"):
            # they come in order, so one whose time cannot be read was written no earlier than the one before
            line = parse_line(message, after=lines[-1].at if lines else datetime.now(UTC))
            if line is not None:
                lines.append(line)
        total = optional_object(body, "pagination").get("totalItems")
        if not messages or (isinstance(total, int) and read >= total):
            break
    # a message that is written between two pages moves the others: each counts once
    return sorted({line.id: line for line in lines}.values(), key=lambda line: (line.at, line.id))


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


def parse_line(message: dict[str, Any], *, after: datetime) -> Line | None:
    """Read one message of a transcript; None for what nobody saw, or that has no id to know it again by.

    :param after: stands in for a time that cannot be read
    """
    message_id = optional_text(message, "id", most=LONGEST_ID + 1)
    inbound = message.get("direction") == "INBOUND"
    author = _AUTHORS.get(optional_text(message, "authorType", most=20) or ("CUSTOMER" if inbound else "BOT"))
    kind, content = optional_text(message, "contentType", most=100), optional_object(message, "content")
    text = conversation_line(kind, content) if kind or content else ""
    if author is None or not text or not 0 < len(message_id) <= LONGEST_ID:
        return None
    ours, theirs = ("to", "from") if inbound else ("from", "to")
    at = parse_time(message.get("createdAt")) or after
    return Line(message_id, author, text, at, address_of(message.get(theirs)), address_of(message.get(ours)))
