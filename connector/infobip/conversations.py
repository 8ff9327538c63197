"""A conversation at Infobip, as its chatbot led it: https://www.infobip.com/docs/api/customer-engagement/conversations"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from urllib.parse import quote

from connector.events import UnexpectedPayload, clean, parse_time, text_of
from connector.http import RequestRejected, ServiceUnavailable
from connector.infobip.client import InfobipClient, error_of
from connector.infobip.content import conversation_line

PAGE = 250  # of at most 999, so that a page of long texts stays far below the longest answer that we read
MOST_PAGES = 100


class Author(StrEnum):
    """Who wrote a line."""

    END_USER = "end user"
    CHATBOT = "chatbot"
    AGENT = "agent"


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
        messages = messages if isinstance(messages, list) else []
        read += len(messages)
        lines += [line for message in messages if (line := _line(message)) is not None]
        pagination = body.get("pagination")
        total = pagination.get("totalItems") if isinstance(pagination, dict) else None
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


def _line(message: object) -> Line | None:
    if not isinstance(message, dict):
        return None
    content = message.get("content")
    try:
        message_id, at = text_of(message, "id", most=100), parse_time(message.get("createdAt"), "createdAt")
    except UnexpectedPayload:
        return None
    inbound = message.get("direction") == "INBOUND"
    author_type = message.get("authorType") or ("CUSTOMER" if inbound else "BOT")
    authors = {"CUSTOMER": Author.END_USER, "BOT": Author.CHATBOT, "AGENT": Author.AGENT}
    text = conversation_line(str(message.get("contentType") or ""), content if isinstance(content, dict) else {})
    if author_type not in authors or not text:
        return None
    ours, theirs = (message.get("to"), message.get("from")) if inbound else (message.get("from"), message.get("to"))
    return Line(message_id, authors[author_type], text, at, _digits(theirs), _digits(ours))


def _digits(value: object) -> str:
    return clean(value).strip().lstrip("+")[:150] if isinstance(value, str) else ""
