"""A conversation at Infobip is read whole, in order, and each kind of content as a line."""

from collections.abc import Iterator
from datetime import UTC, datetime
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


def test_a_long_transcript_is_read_page_by_page_and_a_line_that_moved_between_two_has_its_id(
    wire: responses.RequestsMock, client: InfobipClient
) -> None:
    page(wire, 0, [message(n) for n in range(250)], 301)
    page(wire, 1, [message(n) for n in range(249, 300)], 301)
    first, second = conversations.read_page(client, "a/b", 0), conversations.read_page(client, "a/b", 1)
    assert first.more and not second.more
    assert [place for place, _ in [*first.lines, *second.lines]] == list(range(301))
    texts = [line.text for _, line in [*first.lines, *second.lines]]
    assert list(dict.fromkeys(texts)) == [f"line {n}" for n in range(300)]


def test_lines_of_one_second_keep_the_order_of_the_list(wire: responses.RequestsMock, client: InfobipClient) -> None:
    rows = [{**message(n), "createdAt": message(0)["createdAt"]} for n in (3, 1, 2)]
    page(wire, 0, rows, 3)
    lines = [line for _, line in conversations.read_page(client, "a/b", 0).lines]
    assert [line.text for line in lines] == ["line 3", "line 1", "line 2"]


def test_a_time_that_cannot_be_read_is_that_of_the_line_before_else_of_the_next(
    wire: responses.RequestsMock, client: InfobipClient
) -> None:
    rows = [{**message(1), "createdAt": "soon"}, message(2), {**message(3), "createdAt": None}]
    page(wire, 0, rows, 3)
    times = [line.at for _, line in conversations.read_page(client, "a/b", 0).lines]
    assert len(set(times)) == 1
    before = datetime(2026, 3, 1, tzinfo=UTC)
    page(wire, 1, rows, 3)
    assert conversations.read_page(client, "a/b", 1, after=before).lines[0][1].at == before


def test_what_the_end_user_wrote_last_is_one_page_whatever_the_length(
    wire: responses.RequestsMock, client: InfobipClient
) -> None:
    query = {"limit": "250", "page": "0", "orderBy": "createdAt:desc", "direction": "INBOUND"}
    outbound = {"direction": "OUTBOUND", "authorType": "BOT"}
    body = {"messages": [message(9), message(8, **outbound), message(7)], "pagination": {"totalItems": 4000}}
    wire.get(URL, json=body, match=[matchers.query_param_matcher(query)])
    assert [line.text for line in conversations.read_newest(client, "a/b")] == ["line 7", "line 9"]


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
    lines = [line for _, line in conversations.read_page(client, "a/b", 0).lines]
    expected = [Author.END_USER, Author.CHATBOT, Author.AGENT, Author.CHATBOT, Author.END_USER]
    assert [line.author for line in lines] == expected
    assert {(line.end_user, line.sender) for line in lines} == {("385991234567", "447700900123")}


def test_an_unknown_conversation_is_told_from_a_wrong_call(wire: responses.RequestsMock, client: InfobipClient) -> None:
    error = {"requestError": {"serviceException": {"messageId": "NOT_FOUND", "text": "No such entity"}}}
    wire.get(URL, status=400, json=error)
    with pytest.raises(ConversationUnknown):
        conversations.read_page(client, "a/b", 0)


def test_an_answer_that_is_no_json_is_asked_for_again(wire: responses.RequestsMock, client: InfobipClient) -> None:
    wire.get(URL, body="<html>")
    with pytest.raises(ServiceUnavailable):
        conversations.read_page(client, "a/b", 0)


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


@pytest.mark.parametrize(
    ("odd", "author", "text"),
    [
        ({"id": 17}, Author.END_USER, "Hi"),
        ({"authorType": "VISITOR"}, Author.END_USER, "Hi"),
        ({"authorType": "AI_AGENT", "direction": "OUTBOUND"}, Author.CHATBOT, "Hi"),
        ({"content": "Hi"}, Author.END_USER, "Hi"),
        ({"content": "Hi", "contentType": None}, Author.END_USER, "Hi"),
    ],
    ids=["a number as id", "an unknown author who writes", "an unknown author who answers", "a text alone", "of no kind"],
)
def test_a_line_is_read_for_its_words(odd: dict[str, Any], author: Author, text: str) -> None:
    message = {
        "id": "m",
        "direction": "INBOUND",
        "authorType": "CUSTOMER",
        "contentType": "TEXT",
        "content": {"text": "Hi"},
    }
    line = conversations.parse_line({**message, **odd}, after=datetime.now(UTC))
    assert line is not None and (line.id, line.author, line.text) == (str(odd.get("id", "m")), author, text)


def test_what_infobip_notes_itself_is_no_line() -> None:
    noted = {"id": "m", "direction": "OUTBOUND", "authorType": "SYSTEM", "contentType": "TEXT", "content": {"text": "x"}}
    assert conversations.parse_line(noted, after=datetime.now(UTC)) is None


@pytest.mark.parametrize("body", ["null", "[]", "{}", '{"messages": null}'])
def test_an_answer_without_a_list_of_messages_does_not_say_that_there_are_none(
    wire: responses.RequestsMock, client: InfobipClient, body: str
) -> None:
    wire.get(URL, body=body)
    with pytest.raises(ServiceUnavailable):
        conversations.read_page(client, "a/b", 0)


def test_a_contact_has_all_of_its_name() -> None:
    card = {"contacts": [{"name": {"firstName": "Ana", "middleName": "M.", "lastName": "Horvat"}}]}
    assert conversation_line("CONTACT", card) == f"{MARK} Contact: Ana M. Horvat"
