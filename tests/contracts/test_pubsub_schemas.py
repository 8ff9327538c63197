"""Events are decoded by schemas that come from outside: whatever those are, it costs their events, and no other."""

import io
import json

import fastavro
import grpc
import pytest

from connector.events import UnexpectedPayload
from connector.salesforce.platform_events import parse_event
from connector.salesforce.pubsub import schemas
from connector.salesforce.pubsub.channel import Remedy
from connector.salesforce.pubsub.schemas import SchemaUnavailable, Undecodable, decode, parse_schema
from tests.payloads import record
from tests.support.bus import TOPIC, Bus, read

NOT_DECODED = "the event does not fit its Avro schema"
BOUNDLESS = {
    "itself": {"type": "record", "name": "A", "fields": [{"name": "a", "type": ["null", "A"]}]},
    "a list of nothing": {
        "type": "record",
        "name": "A",
        "fields": [{"name": "a", "type": {"type": "array", "items": "null"}}],
    },
    "a map of records": {
        "type": "record",
        "name": "A",
        "fields": [{"name": "a", "type": {"type": "map", "values": {"type": "record", "name": "B", "fields": []}}}],
    },
    "doubling": {
        "type": "record",
        "name": "A",
        "fields": [
            {"name": f"f{n}", "type": {"type": "record", "name": f"B{n}", "fields": [
                {"name": side, "type": f"B{n - 1}" if n else "null"} for side in ("a", "b")
            ]}}
            for n in range(30)
        ],
    },
    "a tower": {
        "type": "record",
        "name": "A",
        "fields": [
            {"name": "f", "type": [
                {"type": "record", "name": f"B{n}", "fields": [{"name": "a", "type": f"B{n - 1}" if n else "null"}]}
                for n in range(4000)
            ]}
        ],
    },
}  # fmt: skip


@pytest.mark.parametrize("schema", BOUNDLESS)
def test_a_schema_by_which_few_bytes_become_many_values_is_refused(schema: str) -> None:
    with pytest.raises(Undecodable, match=r"^its schema (holds itself|has )"):
        parse_schema(json.dumps(BOUNDLESS[schema]))


@pytest.mark.parametrize(
    "schema",
    [
        *("", "{", "null", "7", "[]", '"string"', '{"type": "record"}', '{"type": "no such type"}', '{"type": "string"}'),
        *('{"type": "array", "items": "long"}', '{"type": "record", "name": "A", "fields": 7}', "[" * 100_000),
        '{"type": "record", "name": "A", "fields": [{"name": "a", "type": "Unknown"}]}',
        json.dumps({"type": "record", "name": "A", "fields": [], "doc": "x" * schemas.LONGEST_SCHEMA}),
    ],
)
def test_what_is_no_schema_of_a_record_is_refused(schema: str) -> None:
    with pytest.raises(Undecodable, match=r"^its schema"):
        parse_schema(schema)


def test_a_change_event_with_its_lists_and_records_is_decoded_and_its_times_stay_numbers() -> None:
    header = {
        "type": "record",
        "name": "ChangeEventHeader",
        "fields": [
            {"name": "recordIds", "type": {"type": "array", "items": "string"}},
            {"name": "changeType", "type": {"type": "enum", "name": "ChangeType", "symbols": ["CREATE", "UPDATE"]}},
            {"name": "changedFields", "type": {"type": "array", "items": ["null", "string"]}},
            {"name": "commitTimestamp", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        ],
    }
    name = {"type": "record", "name": "Name", "fields": [{"name": "FirstName", "type": ["null", "string"]}]}
    fields = [
        {"name": "ChangeEventHeader", "type": header},
        {"name": "Name", "type": ["null", "string", name]},
        {"name": "Other", "type": ["null", "Name"]},
        {"name": "Price", "type": ["null", {"type": "bytes", "logicalType": "decimal", "precision": 900_000}]},
    ]
    schema = {"type": "record", "name": "MessagingSessionChangeEvent", "namespace": "com.x", "fields": fields}
    told = {"recordIds": ["0Mw1"], "changeType": "UPDATE", "changedFields": [None, "Status"], "commitTimestamp": 7}
    record_ = {"ChangeEventHeader": told, "Name": {"FirstName": "Ada"}, "Other": None, "Price": b"\x7f" * 300_000}
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, parse_schema(json.dumps(schema)), record_)
    assert decode(buffer.getvalue(), parse_schema(json.dumps(schema))) == record_


@pytest.mark.parametrize("count", [2**40, -(2**40), 2**63 - 1])
def test_a_list_that_says_it_is_huge_is_as_long_as_its_bytes(count: int) -> None:
    fields = [{"name": "a", "type": {"type": "array", "items": "boolean"}}]
    schema = parse_schema(json.dumps({"type": "record", "name": "A", "fields": fields}))
    buffer = io.BytesIO()
    fastavro.schemaless_writer(
        buffer, {"type": "record", "name": "L", "fields": [{"name": "n", "type": "long"}]}, {"n": count}
    )
    with pytest.raises(Undecodable, match=NOT_DECODED):
        decode(buffer.getvalue() + b"\x01" * 1000, schema)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (grpc.StatusCode.NOT_FOUND, "schema.validation.failed"),
        (grpc.StatusCode.NOT_FOUND, ""),
        (grpc.StatusCode.INVALID_ARGUMENT, "schema.validation.failed"),
    ],
)
def test_events_of_a_schema_that_there_is_not_are_passed_on_undecoded(status: grpc.StatusCode, code: str) -> None:
    bus = Bus()
    bus.rounds, bus.schema_refusal = [[bus.answer(record("text"), record("text"))]], (status, code)
    ((page,), broken) = read(bus)
    assert broken is None
    assert page.replay_id == b"\x00\x02"
    for event in page.events:
        with pytest.raises(UnexpectedPayload, match=r"^its schema cannot be fetched"):
            parse_event(event, TOPIC)
    assert bus.schemas_asked == 1, "once in a page"


@pytest.mark.parametrize(
    "schema", ["", "{", '{"type": "record"}', '{"type": "no such type"}', json.dumps(BOUNDLESS["itself"])]
)
def test_events_whose_schema_cannot_be_used_are_passed_on_undecoded(schema: str) -> None:
    bus = Bus()
    bus.rounds, bus.schema_json = [[bus.answer(record("text"))], [bus.answer(record("text"))]], schema
    found, broken = read(bus, most=1)
    assert broken is None
    assert [event.record for page in found for event in page.events] == [None, None]
    with pytest.raises(UnexpectedPayload, match=r"^its schema"):
        parse_event(found[0].events[0], TOPIC)


def test_an_event_that_names_no_schema_is_passed_on_undecoded_and_none_is_asked_for() -> None:
    bus = Bus()
    answer = bus.answer(record("text"), record("text"))
    answer.events[0].event.schema_id = ""
    bus.rounds = [[answer]]
    ((page,), broken) = read(bus)
    assert broken is None
    assert page.events[0].record is None and page.events[1].record == record("text")
    assert page.events[0].problem == "the event names no schema"
    assert bus.schemas_asked == 1


@pytest.mark.parametrize(
    ("status", "code", "remedy"),
    [
        (grpc.StatusCode.PERMISSION_DENIED, "schema.meta.permission", Remedy.CUSTOMER_MUST_ACT),
        (grpc.StatusCode.UNAVAILABLE, "schema.api.unavailable", Remedy.RECONNECT),
        (grpc.StatusCode.UNAVAILABLE, "", Remedy.RECONNECT),
        (grpc.StatusCode.UNAUTHENTICATED, "service.auth.error", Remedy.NEW_TOKEN),
    ],
)
def test_events_wait_for_a_schema_that_may_be_fetched_later_but_not_for_ever(
    status: grpc.StatusCode, code: str, remedy: Remedy
) -> None:
    bus = Bus()
    bus.rounds, bus.schema_refusal = [[bus.answer(record("text"))]], (status, code)
    found, broken = read(bus)
    assert found == []
    assert isinstance(broken, SchemaUnavailable)
    assert (broken.remedy, broken.schema_id) == (remedy, bus.schema_id)
    bus.rounds = [[bus.answer(record("text"), record("text"))]]
    bus.schemas_asked = 0
    ((page,), broken) = read(bus, impatient={bus.schema_id})
    assert broken is None
    assert [event.record for event in page.events] == [None, None]
    assert page.events[0].problem.startswith("its schema could not be fetched for too long: ")
    assert bus.schemas_asked == 1, "once in a page"
    bus.rounds, bus.schema_refusal = [[bus.answer(record("text"))]], None
    ((page,), broken) = read(bus, impatient={bus.schema_id})
    assert page.events[0].record == record("text"), "as soon as it can be fetched, events are decoded again"


def test_a_schema_that_hangs_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schemas, "ANSWER_SECONDS", 0.2)
    bus = Bus()
    bus.rounds, bus.schema_hangs = [[bus.answer(record("text"))]], True
    found, broken = read(bus)
    assert found == []
    assert isinstance(broken, SchemaUnavailable) and broken.remedy is Remedy.RECONNECT
