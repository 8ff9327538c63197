"""What reps write, what a transcript holds and how a chatbot calls is read as the world writes it."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from connector.events import Event, ReplyWritten, Text
from connector.infobip.content import conversation_line
from connector.infobip.conversations import Author, parse_line
from connector.payload import objects_of
from connector.salesforce.platform_events import PlatformEvent, Topic, parse_event
from messaging.handover import Call, parse_call
from tests.payloads import load

NOW = datetime(2026, 3, 2, 8, 30, tzinfo=UTC)
TOPIC = Topic("/event/Infobip_Event__e", "00D5g00000ABcDE", "EventType__c", "Payload__c")
ABSENT = object()


# what reps write


def reply(*path: str, value: object) -> Event:
    """Read the text of a rep with another value at a place."""
    record = load("salesforce/events/text")
    place = record["Payload__c"]
    for step in path[:-1]:
        place = place[step]
    place.pop(path[-1], None)
    if value is not ABSENT:
        place[path[-1]] = value
    return parse_event(PlatformEvent("e-1", b"", {**record, "Payload__c": json.dumps(record["Payload__c"])}), TOPIC)


HELLO = Text("Hello Ana, I am checking order **4711**.")
WRITTEN = datetime.fromtimestamp(1785312300, UTC)


@pytest.mark.parametrize(
    ("value", "at"),
    [
        pytest.param(1785312300500, WRITTEN + timedelta(milliseconds=500), id="a number"),
        pytest.param(1785312300500.0, WRITTEN + timedelta(milliseconds=500), id="a number with a point"),
        pytest.param("1785312300500", WRITTEN + timedelta(milliseconds=500), id="a number as a text"),
        pytest.param("2026-07-29T08:05:00.500Z", WRITTEN + timedelta(milliseconds=500), id="a time as a text"),
        pytest.param(ABSENT, WRITTEN, id="absent: the client's"),
        pytest.param(None, WRITTEN, id="null: the client's"),
        pytest.param("soon", WRITTEN, id="words: the client's"),
    ],
)
def test_a_reps_time_is_read_in_each_of_its_spellings(value: object, at: datetime) -> None:
    event = reply("payload", "transcriptedTimestamp", value=value)
    assert isinstance(event, ReplyWritten)
    assert (event.written_at, event.content) == (at, HELLO)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("payload", "entryType"), ABSENT),
        (("payload", "entryType"), None),
        (("payload", "sender"), {"role": None}),
        (("payload", "clientTimestamp"), ABSENT),
        (("payload", "senderDisplayName"), ["Marko"]),
        (("payload", "entryPayload", "messageReason"), 7),
        (("payload", "entryPayload", "entryType"), ABSENT),
        (("conversationIdentifier",), ABSENT),
        (("recipient", "role"), ABSENT),
        (("recipient", "subject"), 385991234567),
    ],
)
def test_a_reps_words_are_not_lost_for_a_side_field(path: tuple[str, ...], value: object) -> None:
    event = reply(*path, value=value)
    assert isinstance(event, ReplyWritten)
    assert (event.content, event.end_user) == (HELLO, "385991234567")


def test_ids_of_a_reps_words_are_read_as_numbers_too() -> None:
    event = reply("payload", "identifier", value=4711)
    assert isinstance(event, ReplyWritten) and event.entry == "4711"
    event = reply("channelAddressIdentifier", value=4711)
    assert isinstance(event, ReplyWritten) and event.channel_address == "4711"


def test_an_entry_that_is_nested_as_a_text_is_read() -> None:
    entry = load("salesforce/events/text")["Payload__c"]["payload"]
    event = reply("payload", value=json.dumps(entry))
    assert isinstance(event, ReplyWritten) and event.content == HELLO


# transcripts and hand-over calls

TRANSCRIPT = [
    (Author.END_USER, "Where is my order?"),
    (Author.CHATBOT, "What can I do for you?\n• Track order\n• Talk to agent"),
    (Author.END_USER, "Talk to agent"),
    (Author.END_USER, "▸ Image: https://media.example.com/c/1.jpg"),
]


def test_the_published_transcript_reads_as_its_lines() -> None:
    lines = [parse_line(each, after=NOW) for each in objects_of(load("infobip/transcripts/published"), "messages")]
    assert [(line.author, line.text) for line in lines if line] == TRANSCRIPT
    assert {(line.end_user, line.sender) for line in lines if line} == {("447700900999", "447700900123")}


@pytest.mark.parametrize(
    ("kind", "content", "text"),
    [
        ("INTERACTIVE_BUTTON_REPLY", {"id": "human"}, "human"),
        ("QUICK_REPLY", {"payload": "confirm-2291"}, "confirm-2291"),
        ("POSTBACK", {"text": "Yes", "payload": "yes"}, "Yes"),
        ("UNKNOWN", {"text": "hello"}, "hello"),
        ("UNKNOWN", {}, ""),
        ("EMPTY", "hello", "hello"),
        ("CLOSE_CONVERSATION", None, ""),
        ("TYPING_INDICATOR", {"text": "hello"}, ""),
        ("INTERACTIVE_FLOW_REPLY", {"title": "Sent", "response": {"name": "Ada"}}, "Sent\nname: Ada"),
        ("TEXT", "hello", "hello"),
        ("TEXT", {"text": "hello", "caption": "look"}, "hello\n▸ Also: look"),
        (
            "INTERACTIVE",
            {
                "interactive": {
                    "action": {"sections": [{"title": "Orders", "rows": [{"title": "A", "description": "b c"}]}]}
                }
            },
            "• A: b c\n▸ Also: Orders",
        ),
    ],
)
def test_words_are_read_wherever_they_stand_in_a_transcript(kind: str, content: object, text: str) -> None:
    assert conversation_line(kind, content) == text


@pytest.mark.parametrize("number", ["447700900999", 447700900999, "+44 7700 900999"])
def test_the_published_call_of_a_chatbot_is_read_whatever_its_number_is_written_as(number: object) -> None:
    call = {**load("infobip/calls/hand_over"), "senderNumber": number}
    assert parse_call(call) == Call("4461ea29-c09e-4ba8-a751-df86cf0a0eb9", "447700900999", "", {})
