"""Whatever stands at any place of what platforms send: it is read or refused, soon, and can be stored."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.models import Model

from connector.events import (
    Ignored,
    InfobipMessageRef,
    MessageReceived,
    ReceiptReceived,
    ReplyWritten,
    RepsChanged,
    SessionEnded,
    UnexpectedPayload,
    clean,
)
from connector.infobip import webhooks
from connector.infobip.conversations import Line, parse_line
from connector.payload import DEEPEST, FIRST_TIME, objects_of, parse_json
from connector.salesforce.platform_events import SESSION_CHANGES, PlatformEvent, Topic, created_at, is_typing, parse_event
from messaging.handover import Call, UnusableCall, parse_call
from messaging.models import (
    Address,
    ChatbotMessage,
    Conversation,
    Handover,
    LeftMessage,
    Message,
    ReceivedEvent,
    Session,
    TranscriptLine,
)
from tests.payloads import FOLDER, load, names
from tests.support.odd import LONG, ODD, places, replaced

NOW = datetime(2026, 3, 2, 8, 30, tzinfo=UTC)
TOPIC = Topic("/event/Infobip_Event__e", "00D5g00000ABcDE", "EventType__c", "Payload__c")
CHANGES = Topic(SESSION_CHANGES, "00D5g00000ABcDE", "", "")
MOST_SECONDS = 0.5  # of one thing that came; most take some microseconds
HERE = "\ue000"  # in no recording

Found = list[object]  # what can be stored of one payload


def read_webhook(body: bytes) -> Found:
    """Read a delivery as it is when it came."""
    found: Found = []
    for result in webhooks.results_of(parse_json(body, "the body")):
        found.append((webhooks.key_of(result), ReceivedEvent, "key"))
        found.append(webhooks.business_number(result))
        webhooks.reported_message(result)
        found += _read(lambda result=result: webhooks.parse_result(result, received_at=NOW))  # type: ignore[misc]
    return found


def read_transcript(body: bytes) -> Found:
    page = parse_json(body, "the body")
    messages = objects_of(page, "messages") if isinstance(page, dict) else []
    return [line for message in messages if (line := parse_line(message, after=NOW)) is not None]


def read_call(body: bytes) -> Found:
    """Read a chatbot's call; what cannot be used is told to whoever set the chatbot up."""
    with suppress(UnusableCall):
        call = parse_call(parse_json(body, "the body"))
        return [call, *call.attributes, *call.attributes.values()]
    return []


def read_event(body: bytes) -> Found:
    """Read a platform event; its payload, which the recording spells out, is a text on the bus."""
    record = json.loads(body)
    if not isinstance(record, dict):
        return []
    found: Found = []
    for payload in (record.get("Payload__c"), json.dumps(record.get("Payload__c"))):
        event = PlatformEvent("e-1", b"", {**record, "Payload__c": payload}, received_at=NOW)
        found.append(created_at(event))
        is_typing(event, TOPIC)
        for topic in (TOPIC, CHANGES):
            found += _read(lambda event=event, topic=topic: parse_event(event, topic))  # type: ignore[misc]
    return found


def _read(parse: Callable[[], object]) -> Found:
    try:
        return [parse()]
    except UnexpectedPayload as exc:
        assert exc.__cause__ is None, "refused by a net for our own mistakes"
        assert clean(str(exc)) == str(exc) and "xxxxxxxxxx" not in str(exc), "its text names the field and not the value"
        return [(str(exc), ReceivedEvent, "problem")]


READERS: dict[str, Callable[[bytes], Found]] = {
    "infobip/whatsapp": read_webhook,
    "infobip/messages_api": read_webhook,
    "infobip/reports": read_webhook,
    "infobip/notices": read_webhook,
    "infobip/transcripts": read_transcript,
    "infobip/calls": read_call,
    "salesforce/events": read_event,
}
# what we send, and what answers our calls, which the clients read
NOT_READ_HERE = {"infobip/requests", "salesforce/requests", "infobip/answers", "infobip/errors", "salesforce/answers"}
RECORDINGS = [f"{folder}/{name}" for folder in READERS for name in names(folder)]

# where each field goes
COLUMNS: dict[tuple[type, str], list[tuple[type[Model], str]]] = {
    (MessageReceived, "external_id"): [
        (Message, "source_entry"),
        (ChatbotMessage, "channel_id"),
        (LeftMessage, "source_entry"),
        (TranscriptLine, "channel_id"),
    ],
    (MessageReceived, "sender"): [(ChatbotMessage, "sender")],
    (MessageReceived, "end_user"): [(Conversation, "subject"), (Address, "address"), (ChatbotMessage, "end_user")],
    (MessageReceived, "aliases"): [(Address, "address")],
    (MessageReceived, "name"): [(Conversation, "name")],
    (InfobipMessageRef, "conversation"): [
        (ChatbotMessage, "infobip_conversation"),
        (LeftMessage, "infobip_conversation"),
    ],
    (InfobipMessageRef, "message"): [(ChatbotMessage, "infobip_id")],
    (ReceiptReceived, "code"): [(Message, "error_code")],
    (ReceiptReceived, "reason"): [(Message, "error")],
    (ReplyWritten, "entry"): [(Message, "source_entry")],
    (ReplyWritten, "conversation"): [(Conversation, "identifier")],
    (ReplyWritten, "end_user"): [(Conversation, "subject"), (Address, "address")],
    (RepsChanged, "conversation"): [(Conversation, "identifier")],
    (SessionEnded, "conversation"): [(Conversation, "identifier")],
    (SessionEnded, "session"): [(Session, "salesforce_id")],
    (Ignored, "kind"): [(ReceivedEvent, "kind")],
    (Line, "id"): [(ChatbotMessage, "infobip_id"), (TranscriptLine, "infobip_id")],
    (Call, "conversation"): [(Handover, "infobip_conversation")],
    (Call, "end_user"): [(Handover, "end_user")],
    (Call, "language"): [(Handover, "language")],
}


def longest(model: type[Model], column: str) -> int:
    field: Any = model._meta.get_field(column)
    return int(field.max_length)


def values_of(found: object) -> Iterator[tuple[object, int | None]]:
    """Give all that would be stored, with the longest that its column takes."""
    if isinstance(found, tuple) and len(found) == 3 and isinstance(found[1], type):
        value, model, column = found
        yield value, longest(model, column)
    elif is_dataclass(found):
        for field in fields(found):
            value = getattr(found, field.name)
            columns = COLUMNS.get((type(found), field.name), [])
            most = min((longest(model, name) for model, name in columns), default=None)
            for each in value if isinstance(value, tuple) else (value,):
                yield from values_of(each) if is_dataclass(each) else [(each, most)]
    else:
        yield found, None


def assert_storable(found: object) -> None:
    for value, most in values_of(found):
        if isinstance(value, str):
            assert clean(value) == value
            assert most is None or len(value) <= most, f"{len(value)} characters of at most {most}"
        if isinstance(value, datetime):
            assert value.utcoffset() == timedelta()
            assert FIRST_TIME <= value <= datetime.now(UTC) + timedelta(days=1)


def variants(name: str, values: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], bytes]]:
    """Give a recording with each value at each place; a value is written as JSON once, however many places there are."""
    original, written = load(name), [json.dumps(value).encode() for value in values]
    for place in places(original):
        before, after = json.dumps(replaced(original, place, HERE)).encode().split(json.dumps(HERE).encode())
        for value in written:
            yield place, before + value + after


@pytest.fixture(scope="module", params=RECORDINGS)
def readings(request: pytest.FixtureRequest) -> list[tuple[str, Found | Exception]]:
    """Read a recording with what is odd at each place; where and what came, and what was found or raised."""
    read, readings = READERS[request.param.rpartition("/")[0]], list[tuple[str, Found | Exception]]()
    for place, body in variants(request.param, ODD):
        found: Found | Exception
        try:
            found = read(body)
        except Exception as exc:
            found = exc
        readings.append((f"{place}: {body[:300]!r}", found))
    return readings


def test_each_folder_of_recordings_is_read_here_or_for_a_reason_not() -> None:
    folders = {str(path.relative_to(FOLDER)) for path in FOLDER.glob("*/*") if path.is_dir() and path.name != "__pycache__"}
    assert folders == READERS.keys() | NOT_READ_HERE


def test_whatever_stands_at_any_place_is_read_or_refused_and_can_be_stored(
    readings: list[tuple[str, Found | Exception]],
) -> None:
    for place, read in readings:
        if isinstance(read, Exception):
            raise AssertionError(f"the whole is refused, {type(read).__name__}, for what stands at {place}") from read
        for found in read:
            try:
                assert_storable(found)
            except Exception as exc:
                raise AssertionError(f"{type(exc).__name__} for what stands at {place}") from exc


@pytest.mark.parametrize("name", RECORDINGS)
def test_what_is_long_takes_no_longer_than_it_is(name: str) -> None:
    read = READERS[name.rpartition("/")[0]]
    for place, body in variants(name, LONG):
        began = time.process_time()
        for found in read(body):
            assert_storable(found)
        assert time.process_time() - began < MOST_SECONDS, place


def test_postgresql_and_psycopg_store_and_load_what_is_read(
    readings: list[tuple[str, Found | Exception]], db: None
) -> None:
    read = [found for _, found in readings if not isinstance(found, Exception)]
    assert len(read) == len(readings)
    stored = [value for found in read for each in found for value, _ in values_of(each)]
    texts = sorted({value for value in stored if isinstance(value, str)})
    times = sorted({value for value in stored if isinstance(value, datetime)})
    rows = json.dumps([{"n": n, "text": text} for n, text in enumerate(texts)])
    with connection.cursor() as cursor:
        cursor.execute("SELECT text FROM jsonb_to_recordset(%s::jsonb) AS t (n int, text text) ORDER BY n", [rows])
        assert [row[0] for row in cursor.fetchall()] == texts
        cursor.execute("SELECT text FROM unnest(%s::text[]) WITH ORDINALITY AS t (text, n) ORDER BY n", [texts])
        assert [row[0] for row in cursor.fetchall()] == texts
        cursor.execute(
            "SELECT at, at + interval '24 hours' FROM unnest(%s::timestamptz[]) WITH ORDINALITY AS t (at, n) ORDER BY n",
            [times],
        )
        assert [row[0] for row in cursor.fetchall()] == times


@pytest.mark.parametrize(
    "body",
    [
        *(
            b"",
            b"{",
            b"\xff",
            b"\xff\xfe\x00",
            b"nul",
            b"[" * 200_000,
            b'{"a":' * 200_000,
            b"1" * 5000,
            b'{"a":' + b"9" * 4301,
        ),
        *(b"[" * 200_000 + b"]" * 200_000, b"[" * (DEEPEST + 2) + b"]" * (DEEPEST + 2)),
    ],
)
def test_what_is_no_json_or_nested_too_deep_is_refused(body: bytes) -> None:
    with pytest.raises(UnexpectedPayload, match=r"^the body is (not JSON|nested too deep)$"):
        parse_json(body, "the body")
    with pytest.raises(UnexpectedPayload):
        parse_event(PlatformEvent("e", b"", {"EventType__c": "Interaction", "Payload__c": body.decode("latin-1")}), TOPIC)


def test_as_many_objects_side_by_side_as_one_likes_are_not_deep() -> None:
    body = json.dumps({"results": [{"a": [[]]}] * 1000})
    assert len(parse_json(body, "the body")["results"]) == 1000
    nested = b"[" * DEEPEST + b"]" * DEEPEST
    assert parse_json(nested, "the body")


def test_a_mistake_of_ours_costs_one_event() -> None:
    class Hostile(dict[str, Any]):
        def get(self, *_: object) -> Any:
            raise RuntimeError

    with pytest.raises(UnexpectedPayload, match="the event cannot be read: RuntimeError"):
        parse_event(PlatformEvent("e", b"", Hostile()), TOPIC)
