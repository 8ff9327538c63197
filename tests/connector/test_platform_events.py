"""Platform events that are not as they should be, and the fields that a custom event may be given."""

import json
from typing import Any

import pytest

from connector.events import Ignored, ReplyWritten, Text, UnexpectedPayload, Unsupported
from connector.salesforce.platform_events import PlatformEvent, Topic, created_at, parse_event
from tests.payloads import load, record

TOPIC = Topic("/event/Infobip_Event__e", "00D5g00000ABcDE", "EventType__c", "Payload__c")


def event(decoded: dict[str, Any] | None) -> PlatformEvent:
    return PlatformEvent("e-1", b"", decoded)


def changed(place: str, value: Any) -> PlatformEvent:
    """Give the text of a rep with another value at a place such as ``payload.sender``; None takes it out."""
    decoded = load("salesforce/events/text")
    *path, last = place.split(".")
    inner = decoded["Payload__c"]
    for step in path:
        inner = inner[step]
    inner.pop(last)
    if value is not None:
        inner[last] = value
    return event({**decoded, "Payload__c": json.dumps(decoded["Payload__c"])})


def test_the_fields_carry_the_names_that_they_were_given() -> None:
    topic = Topic("/event/ns__Chat__e", "00D5g00000ABcDE", "ns__Kind__c", "ns__Body__c")
    decoded = record("text")
    renamed = {"ns__Kind__c": decoded["EventType__c"], "ns__Body__c": decoded["Payload__c"]}
    assert isinstance(parse_event(event(renamed), topic), ReplyWritten)
    with pytest.raises(UnexpectedPayload, match="ns__Kind__c is missing"):
        parse_event(event(decoded), topic)


@pytest.mark.parametrize("payload", [None, "", "{", "[]", "7", "null", '"text"', '{"payload": []}', '{"payload": "x"}'])
def test_a_payload_that_is_no_object_is_refused(payload: str | None) -> None:
    with pytest.raises(UnexpectedPayload):
        parse_event(event({**record("text"), "Payload__c": payload}), TOPIC)


@pytest.mark.parametrize("event_type", ["RoutingRequested", "SomethingNew", "x" * 5000])
def test_another_type_of_event_is_ignored(event_type: str) -> None:
    assert parse_event(event({**record("text"), "EventType__c": event_type}), TOPIC) == Ignored(event_type[:50])


_MESSAGE = "payload.entryPayload.abstractMessage"


@pytest.mark.parametrize(
    ("place", "value", "problem"),
    [
        ("channelAddressIdentifier", None, "channelAddressIdentifier is missing"),
        ("recipient", None, "recipient is missing"),
        ("recipient", {"role": "EndUser"}, "subject is missing"),
        ("payload.entryType", None, "entryType is missing"),
        ("payload.sender", None, "sender is missing"),
        ("payload.identifier", None, "identifier is missing"),
        ("payload.identifier", "x" * 251, "identifier is longer than 250"),
        ("payload.entryPayload", None, "entryPayload is missing"),
        ("payload.entryPayload", "{", "entryPayload is not JSON"),
        ("payload.entryPayload", "[]", "entryPayload is missing or not an object"),
        ("payload.transcriptedTimestamp", "soon", "transcriptedTimestamp is missing or not a time"),
        (_MESSAGE, None, "abstractMessage is missing"),
        (f"{_MESSAGE}.messageType", 7, "messageType is missing"),
        (f"{_MESSAGE}.staticContent", None, "staticContent is missing"),
        (f"{_MESSAGE}.staticContent.formatType", None, "formatType is missing"),
        (f"{_MESSAGE}.staticContent.text", None, "staticContent.text is missing or empty"),
        (f"{_MESSAGE}.staticContent.text", " \n", "staticContent.text is missing or empty"),
    ],
)
def test_a_reply_that_cannot_be_read_names_the_field(place: str, value: Any, problem: str) -> None:
    with pytest.raises(UnexpectedPayload) as caught:
        parse_event(changed(place, value), TOPIC)
    assert problem in str(caught.value)
    assert "4711" not in str(caught.value)


def test_the_transcripts_time_is_that_of_the_reply_else_the_clients() -> None:
    reply = parse_event(changed("payload.transcriptedTimestamp", None), TOPIC)
    assert isinstance(reply, ReplyWritten)
    assert reply.written_at.timestamp() == 1785312300


@pytest.mark.parametrize(
    ("place", "value", "content"),
    [
        (f"{_MESSAGE}.messageType", "SomethingNew", Unsupported("SomethingNew")),
        (f"{_MESSAGE}.staticContent", {"formatType": "WebView", "url": "https://x.example"}, Unsupported("WebView")),
        (f"{_MESSAGE}.staticContent.text", "a\x00b\ud800 👋", Text("ab 👋")),
        (f"{_MESSAGE}.staticContent.text", "x" * 40_000, Text("x" * 40_000)),
    ],
)
def test_content_is_text_or_named(place: str, value: Any, content: Text | Unsupported) -> None:
    reply = parse_event(changed(place, value), TOPIC)
    assert isinstance(reply, ReplyWritten)
    assert reply.content == content


@pytest.mark.parametrize("created", [None, "soon", -1, True, 10**20])
def test_an_event_may_not_tell_when_it_was_published(created: object) -> None:
    assert created_at(event({**record("text"), "CreatedDate": created})) is None
    assert created_at(event(None)) is None
