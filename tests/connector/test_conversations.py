"""A conversation at Infobip is read whole, in order, and each kind of content as a line."""

from collections.abc import Iterator
from typing import Any

import pytest
import responses
from responses import matchers

from connector.events import MARK
from connector.http import ServiceUnavailable
from connector.infobip import conversations
from connector.infobip.client import InfobipClient
from connector.infobip.content import conversation_line
from connector.infobip.conversations import Author, ConversationUnknown

HOST = "https://xyz.api.infobip.com"
URL = f"{HOST}/ccaas/1/conversations/a%2Fb/messages"


@pytest.fixture
def wire() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock() as mock:
        yield mock


@pytest.fixture
def client() -> InfobipClient:
    return InfobipClient(base_url=HOST, api_key="k", allow_local=False)


def message(number: int, **more: Any) -> dict[str, Any]:
    return {
        "id": f"m-{number:04d}",
        "from": "385991234567",
        "to": "447700900123",
        "direction": "INBOUND",
        "authorType": "CUSTOMER",
        "createdAt": f"2026-03-02T08:{number // 60 % 60:02d}:{number % 60:02d}.000+0000",
        "content": {"text": f"line {number}"},
        "contentType": "TEXT",
        **more,
    }


def page(wire: responses.RequestsMock, number: int, messages: list[Any], total: int) -> None:
    query = {"limit": "250", "page": str(number), "orderBy": "createdAt:asc"}
    body = {"messages": messages, "pagination": {"totalItems": total}}
    wire.get(URL, json=body, match=[matchers.query_param_matcher(query)])


def test_all_pages_are_read_and_a_line_that_moved_between_two_counts_once(
    wire: responses.RequestsMock, client: InfobipClient
) -> None:
    page(wire, 0, [message(n) for n in range(250)], 301)
    page(wire, 1, [message(n) for n in range(249, 300)], 301)
    lines = conversations.read_transcript(client, "a/b")
    assert [line.text for line in lines] == [f"line {n}" for n in range(300)]


def test_who_wrote_is_told_apart_and_what_nobody_saw_is_left_out(
    wire: responses.RequestsMock, client: InfobipClient
) -> None:
    outbound: dict[str, Any] = {"direction": "OUTBOUND", "from": "447700900123", "to": "385991234567"}
    rows = [
        message(1),
        message(2, **outbound, authorType="BOT"),
        message(3, **outbound, authorType="AGENT"),
        message(4, authorType="SYSTEM"),
        message(5, contentType="TYPING_INDICATOR"),
        message(6, **outbound, authorType=None),
        message(7, authorType=None),
        {"id": "broken"},
        "nonsense",
    ]
    page(wire, 0, rows, len(rows))
    lines = conversations.read_transcript(client, "a/b")
    expected = [Author.END_USER, Author.CHATBOT, Author.AGENT, Author.CHATBOT, Author.END_USER]
    assert [line.author for line in lines] == expected
    assert {(line.end_user, line.sender) for line in lines} == {("385991234567", "447700900123")}


def test_an_unknown_conversation_is_told_from_a_wrong_call(wire: responses.RequestsMock, client: InfobipClient) -> None:
    error = {"requestError": {"serviceException": {"messageId": "NOT_FOUND", "text": "No such entity"}}}
    wire.get(URL, status=400, json=error)
    with pytest.raises(ConversationUnknown):
        conversations.read_transcript(client, "a/b")


def test_an_answer_that_is_no_json_is_asked_for_again(wire: responses.RequestsMock, client: InfobipClient) -> None:
    wire.get(URL, body="<html>")
    with pytest.raises(ServiceUnavailable):
        conversations.read_transcript(client, "a/b")


@pytest.mark.parametrize(
    ("kind", "content", "shown"),
    [
        ("TEXT", {"text": "Hi"}, "Hi"),
        ("TEXT", {"text": f"{MARK} Bot: pretend"}, "> Bot: pretend"),
        ("IMAGE", {"url": "https://e.com/1", "caption": None}, f"{MARK} Image: https://e.com/1"),
        ("DOCUMENT", {"url": "https://e.com/1", "caption": "bill"}, f"{MARK} Document: bill https://e.com/1"),
        ("LOCATION", {"latitude": 1.5, "longitude": 2, "address": "Here 1"}, f"{MARK} Location: Here 1 (1.5, 2)"),
        (
            "CONTACT",
            {"contacts": [{"name": {"formatted_name": "Ana"}, "phones": [{"phone": "123"}]}]},
            f"{MARK} Contact: Ana, 123",
        ),
        (
            "INTERACTIVE",
            {
                "interactive": {
                    "type": "LIST",
                    "body": {"text": "Which?"},
                    "action": {"sections": [{"rows": [{"title": "A"}]}]},
                }
            },
            "Which?\n• A",
        ),
        ("INTERACTIVE_BUTTON_REPLY", {"title": "Talk to a person", "id": "1"}, "Talk to a person"),
        ("MEDIA_TEMPLATE", {"templateName": "hello", "body": {"placeholders": ["Ana"]}}, f"{MARK} Template: hello Ana"),
        ("WHATSAPP_PRODUCT", {"body": {"text": "Shoes"}}, "Shoes"),
        ("NEVER_SEEN", {"anything": 1}, f"{MARK} Never seen: this kind of message cannot be shown"),
        ("EMPTY", {}, ""),
        ("", {"url": "https://e.com/1"}, f"{MARK} File: https://e.com/1"),
        ("", {"interactive": {"body": {"text": "Hello"}}}, "Hello"),
        ("", {"title": "Yes", "id": "1"}, "Yes"),
    ],
)
def test_each_kind_reads_as_a_line(kind: str, content: dict[str, Any], shown: str) -> None:
    assert conversation_line(kind, content) == shown


@pytest.mark.parametrize("odd", [None, 7, [], {"text": []}, {"interactive": 7}, {"contacts": "x"}, {"body": None}])
@pytest.mark.parametrize("kind", ["TEXT", "INTERACTIVE", "CONTACT", "LOCATION", "MEDIA_TEMPLATE", "ORDER", ""])
def test_no_content_whatever_it_holds_stops_a_transcript(kind: str, odd: Any) -> None:
    content = odd if isinstance(odd, dict) else {"text": odd}
    assert isinstance(conversation_line(kind, content), str)


@pytest.mark.parametrize("status", [200, 400])
def test_a_conversation_that_is_closed_already_is_closed(
    wire: responses.RequestsMock, client: InfobipClient, status: int
) -> None:
    wire.patch(f"{HOST}/ccaas/1/conversations/a%2Fb", status=status, json={})
    conversations.close(client, "a/b")
