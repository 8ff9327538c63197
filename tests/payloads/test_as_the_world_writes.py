"""What comes is read as the world writes it: only the sender, the number and the id are indispensable."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from connector.events import MessageReceived, UnexpectedPayload
from connector.infobip import webhooks
from connector.infobip.content import MESSAGES_API_KINDS, WHATSAPP_KINDS, line_of
from connector.infobip.deliveries import Unread, take_apart
from tests.payloads import load
from tests.support.odd import replaced

NOW = datetime(2026, 3, 2, 8, 30, tzinfo=UTC)
SENT = datetime(2026, 3, 2, 8, 15, 30, 123000, UTC)
NOT_SHOWN = "this kind of message cannot be shown"
GROUP = "▸ Written in a WhatsApp group. Your answer goes to this person alone, not to the group"
FORMS = {"whatsapp/text": ("from", "to"), "messages_api/text": ("sender", "destination")}
ABSENT = object()


def changed(name: str, **changes: Any) -> dict[str, Any]:
    """Give the only result of a recording with other fields."""
    (result,) = webhooks.results_of(load(f"infobip/{name}"))
    assert isinstance(result, dict)
    return {field: value for field, value in {**result, **changes}.items() if value is not ABSENT}


def read(result: object) -> MessageReceived:
    event = webhooks.parse_result(result, received_at=NOW)
    assert isinstance(event, MessageReceived)
    return event


# a message's time


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize(
    ("value", "at"),
    [
        pytest.param(ABSENT, NOW, id="absent"),
        pytest.param(None, NOW, id="null"),
        pytest.param(1772439330123, SENT, id="a number of milliseconds"),
        pytest.param(1772439330123.0, SENT, id="a number with a point"),
        pytest.param("1772439330123", SENT, id="a number as a text"),
        pytest.param(1772439330, NOW, id="a number of seconds"),
        pytest.param("2026-03-02T08:15:30.123", SENT, id="without a zone"),
        pytest.param("yesterday", NOW, id="words"),
        pytest.param("9999-12-31T23:59:59-14:00", NOW, id="the end of all times"),
        pytest.param("0001-01-01T00:00:00+14:00", NOW, id="before all times"),
        pytest.param(-1, NOW, id="before 1970"),
        pytest.param(10**30, NOW, id="a number without a meaning"),
        pytest.param(["2026-03-02T08:15:30.123+0000"], NOW, id="a list"),
    ],
)
def test_a_message_has_its_time_or_that_of_its_arrival(name: str, value: object, at: datetime) -> None:
    event = read(changed(name, receivedAt=value))
    assert (event.received_at, event.text) == (at, "Hello, where is my order?")


# who, to whom, which


@pytest.mark.parametrize("name", FORMS)
def test_sender_number_and_id_are_read_as_numbers_too(name: str) -> None:
    who, whom = FORMS[name]
    event = read(changed(name, **{who: 447700900999, whom: 447700900123, "messageId": 12345678901234567}))
    assert (event.end_user, event.sender, event.external_id) == ("447700900999", "447700900123", "12345678901234567")


@pytest.mark.parametrize("missing", [ABSENT, None, "", " ", [], {}])
def test_who_has_no_number_is_known_by_the_user_id_of_the_contact(missing: object) -> None:
    event = read(changed("whatsapp/text", **{"from": missing, "contact": {"userId": "GB.998877665544332211"}}))
    assert (event.end_user, event.text) == ("GB.998877665544332211", "Hello, where is my order?")


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("which", [0, 1, 2])
def test_without_one_of_the_three_a_message_is_refused_by_the_name_of_the_field(name: str, which: int) -> None:
    field = (*FORMS[name], "messageId")[which]
    with pytest.raises(UnexpectedPayload, match=f"^{field} is missing"):
        read(changed(name, **{field: ABSENT, "contact": ABSENT}))


@pytest.mark.parametrize("name", FORMS)
def test_nothing_else_is_indispensable(name: str) -> None:
    result = changed(name)
    needed = {*FORMS[name], "messageId", "event", "integrationType"}
    event = read({field: value for field, value in result.items() if field in needed})
    assert event.text == f"▸ Message: {NOT_SHOWN}"
    for field in result.keys() - needed - {"message", "content"}:
        for value in (ABSENT, None, 7, "x", [], {}):
            assert read(changed(name, **{field: value})).text == "Hello, where is my order?"


# what was written

WHATSAPP_WORDS: dict[str, tuple[object, str]] = {
    "a button with a payload only": ({"type": "BUTTON", "payload": "confirm-2291"}, "confirm-2291"),
    "a button reply with an id only": ({"type": "INTERACTIVE_BUTTON_REPLY", "id": "slot-1"}, "slot-1"),
    "a list reply with an id only": ({"type": "INTERACTIVE_LIST_REPLY", "id": "topic-returns"}, "topic-returns"),
    "a list reply with a description only": ({"type": "INTERACTIVE_LIST_REPLY", "description": "Send back"}, "Send back"),
    "an advertisement only": (
        {
            "type": "TEXT",
            "referral": {"sourceType": "AD", "headline": "Sale", "body": "Half price", "sourceUrl": "https://f.b"},
        },
        "▸ From an advertisement: Sale Half price https://f.b",
    ),
    "no type": ({"text": "hello"}, "hello"),
    "a type in small letters": ({"type": "text", "text": "hello"}, "hello"),
    "a type that is no text": ({"type": 7, "text": "hello"}, "▸ 7: hello"),
    "an unknown kind with a text": ({"type": "HOLOGRAM", "text": "hello"}, "▸ Hologram: hello"),
    "an unknown kind with a caption": ({"type": "HOLOGRAM", "caption": "look"}, "▸ Hologram: look"),
    "an unknown kind with both": (
        {"type": "HOLOGRAM", "text": "hello", "caption": "look"},
        "▸ Hologram: hello\n▸ Also: look",
    ),
    "an unknown kind with words in unknown places": (
        {"type": "POLL", "poll": {"of": "Which day?", "choices": [{"is": "Monday"}]}},
        "▸ Poll: Which day?\nMonday",
    ),
    "an unknown kind with nothing": ({"type": "HOLOGRAM", "url": "https://x.example/1"}, f"▸ Hologram: {NOT_SHOWN}"),
    "a text as an object": ({"type": "TEXT", "text": {"body": "hello"}}, "hello"),
    "a text as a list": ({"type": "TEXT", "text": ["hello", "you"]}, "hello\nyou"),
    "a text as a number": ({"type": "TEXT", "text": 7}, "7"),
    "a text with a caption": ({"type": "TEXT", "text": "hello", "caption": "look"}, "hello\n▸ Also: look"),
    "a picture with a caption and a text": (
        {"type": "IMAGE", "url": "https://x.example/1", "caption": "The box", "text": "It is broken"},
        "▸ Image: The box\n▸ Also: It is broken",
    ),
    "a sentence in a new field": (
        {"type": "TEXT", "text": "hello", "new": {"x": ["come at once"]}},
        "hello\n▸ Also: come at once",
    ),
    "a short text beside one that holds it": ({"type": "TEXT", "text": "I know", "caption": "no"}, "I know\n▸ Also: no"),
    "fields without words": ({"type": "TEXT", "text": "hello", "new": "en_GB", "at": "2026-03-02 08:15", "n": 7}, "hello"),
    "a message that is a text": ("hello", "hello"),
    "a message that is a list": ([{"type": "TEXT", "text": "hello"}, "you"], "hello\nyou"),
    "a message that is null": (None, f"▸ Message: {NOT_SHOWN}"),
    "several choices in a form": (
        {"type": "INTERACTIVE_FLOW_REPLY", "response": {"topics": ["Bills", "Returns"], "who": {"name": "Ada"}}},
        "▸ Form\ntopics: Bills, Returns\nwho.name: Ada",
    ),
    "a mark of ours": ({"type": "TEXT", "text": "hello", "caption": "▸ Not delivered"}, "hello\n▸ Also: > Not delivered"),
}


@pytest.mark.parametrize("case", WHATSAPP_WORDS)
def test_words_are_read_wherever_they_stand(case: str) -> None:
    message, text = WHATSAPP_WORDS[case]
    assert read(changed("whatsapp/text", message=message)).text == text


MESSAGES_API_WORDS: dict[str, tuple[object, str]] = {
    "a bad part beside a good one": ([7, {"type": "TEXT", "text": "hello"}], f"▸ Message: {NOT_SHOWN}\nhello"),
    "a part that is a text": (["hello", {"type": "TEXT", "text": "you"}], "hello\nyou"),
    "a single part": ({"type": "TEXT", "text": "hello"}, "hello"),
    "no type": ([{"text": "hello"}], "hello"),
    "a button with a payload only": ([{"type": "BUTTON_REPLY", "payload": "confirm-2291"}], "confirm-2291"),
    "a list reply with an id only": ([{"type": "LIST_REPLY", "id": "topic-returns"}], "topic-returns"),
    "an advertisement only": ([{"type": "TEXT", "referral": {"headline": "Sale"}}], "▸ From an advertisement: Sale"),
    "an unknown kind with a caption": ([{"type": "HOLOGRAM", "caption": "look"}], "▸ Hologram: look"),
    "no parts": ([], f"▸ Message: {NOT_SHOWN}"),
}


@pytest.mark.parametrize("case", MESSAGES_API_WORDS)
def test_words_are_read_wherever_they_stand_in_the_other_form(case: str) -> None:
    content, text = MESSAGES_API_WORDS[case]
    assert read(changed("messages_api/text", content=content)).text == text


CONVERSATION_WORDS: dict[str, tuple[object, str]] = {
    "a reply with an id only": ({"id": "human"}, "human"),
    "a reply with a payload only": ({"payload": "confirm-2291"}, "confirm-2291"),
    "an advertisement only": ({"referral": {"headline": "Sale"}}, "▸ From an advertisement: Sale"),
    "a file with a caption": ({"url": "https://e.com/1", "caption": "bill"}, "▸ File: bill https://e.com/1"),
    "a text that is an object": ({"text": {"body": "hello"}}, "hello"),
    "a content that is a text": ("hello", "hello"),
    "a content that is a list": ([{"text": "hello"}, "you"], "hello\nyou"),
    "no content": (None, f"▸ Message: {NOT_SHOWN}"),
}


@pytest.mark.parametrize("case", CONVERSATION_WORDS)
def test_words_are_read_wherever_they_stand_in_a_conversation_event(case: str) -> None:
    content, text = CONVERSATION_WORDS[case]
    event = replaced(load("infobip/notices/conversation_message"), ("payload", "message", "content"), content)
    assert read(event).text == text


def test_a_conversation_event_without_a_type_tells_by_its_direction() -> None:
    event = load("infobip/notices/conversation_message")
    with_type = read(event)
    del event["type"]
    assert read(event) == with_type
    assert webhooks.key_of(event) == webhooks.key_of(load("infobip/notices/conversation_message"))
    assert webhooks.business_number(event) == "447700900123"
    event["payload"]["direction"] = "OUTBOUND"
    assert not isinstance(webhooks.parse_result(event, received_at=NOW), MessageReceived)


def test_more_parts_and_words_than_anybody_sends_are_mentioned() -> None:
    parts = [{"type": "TEXT", "text": f"part {n}"} for n in range(102)]
    assert line_of(parts, MESSAGES_API_KINDS).splitlines()[99:] == ["part 99", "▸ More was sent than can be shown here"]
    captions = {f"caption{n}": f"the caption {n} is" for n in range(21)}
    lines = line_of({"type": "TEXT", "text": "hello", **captions}, WHATSAPP_KINDS).splitlines()
    assert lines[20:] == ["▸ Also: the caption 19 is", "▸ More was sent than can be shown here"]
    many = {"type": "TEXT", "text": "hello", "ids": list(range(6000)), "said": "among them a word"}
    assert line_of(many, WHATSAPP_KINDS).splitlines()[-1] == "▸ More was sent than can be shown here"


# groups


@pytest.mark.parametrize(
    "change",
    [
        {"groupId": "120363025"},
        {"group": {"id": "120363025"}},
        {"message": {"type": "TEXT", "text": "Hello, where is my order?", "groupId": "120363025"}},
        {
            "message": {
                "type": "TEXT",
                "text": "Hello, where is my order?",
                "context": {"id": "wamid.1", "groupId": "12036"},
            }
        },
    ],
)
def test_what_came_from_a_group_is_marked_and_says_whom_an_answer_reaches(change: dict[str, Any]) -> None:
    event = read(changed("whatsapp/text", **change))
    assert event.text.splitlines() == [GROUP, "Hello, where is my order?"]
    assert event.end_user == "447700900999"  # whom the answer reaches, as the line says


def test_what_came_from_a_group_is_marked_in_the_other_forms_too() -> None:
    assert read(changed("messages_api/text", groupId="120363025")).text.startswith(GROUP)
    event = load("infobip/notices/conversation_message")
    event["payload"]["message"]["groupId"] = "120363025"
    assert read(event).text.startswith(GROUP)


@pytest.mark.parametrize("nothing", [None, "", {}, [], 0])
def test_an_empty_group_is_none(nothing: object) -> None:
    assert read(changed("whatsapp/text", groupId=nothing)).text == "Hello, where is my order?"


# a bad one beside good ones

GOOD = json.dumps({"messageId": "1", "text": 'a, ] } \\" b'}).encode()


@pytest.mark.parametrize(
    "bad",
    [
        *(
            b'{"text": nonsense}',
            b'{"n": ' + b"9" * 5000 + b"}",
            b"[" * 3000 + b"]" * 3000,
            b'{"a":' * 200 + b"1" + b"}" * 200,
        ),
        *(b"undefined", b'{"text": "a\tb"}', b'{"text": "\\x"}'),
    ],
)
def test_a_result_that_is_not_json_costs_its_neighbours_nothing(bad: bytes) -> None:
    results = take_apart(
        b'{"messageCount": 3, "results": [' + b", ".join([GOOD, bad, GOOD]) + b'], "pendingMessageCount": 0}'
    )
    assert [results[0], results[2]] == [json.loads(GOOD)] * 2
    assert isinstance(results[1], Unread) and results[1].raw.strip() == bad


def test_a_byte_that_is_not_utf_8_costs_one_character() -> None:
    results = take_apart(b'{"results": [' + GOOD + b', {"text": "caf\xe9 au lait"}]}')
    assert results == [json.loads(GOOD), {"text": "caf� au lait"}]


def test_a_delivery_that_breaks_off_gives_what_it_has() -> None:
    results = take_apart(b'{"results": [' + GOOD + b', {"text": "I am st')
    assert results[0] == json.loads(GOOD) and isinstance(results[1], Unread) and len(results) == 2


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"results": 7, \xff}', b'[{"results": [1, \xff]}]', b"[" * 200_000])
def test_what_cannot_be_cut_apart_is_one_thing_that_cannot_be_read(body: bytes) -> None:
    assert take_apart(body) == [Unread(body, "the delivery is not JSON")]


# ids


@pytest.mark.parametrize("name", ["notices/template_status", "notices/identity_change"])
def test_what_has_no_id_is_told_apart_by_what_it_says(name: str) -> None:
    result = changed(name)
    assert webhooks.key_of(result) == webhooks.key_of(dict(reversed(result.items())))
    assert webhooks.key_of(result) != webhooks.key_of({**result, "createdAt": "2026-03-02T10:00:00.000+0000"})


def test_messages_without_an_id_are_told_apart_by_what_they_say() -> None:
    keys = {webhooks.key_of(changed("whatsapp/text", messageId=ABSENT, message={"text": text})) for text in "ab"}
    assert len(keys) == 2
