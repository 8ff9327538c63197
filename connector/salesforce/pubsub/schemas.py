"""Decoding events by their Avro schemas: what either of the two may be, one event is all that it costs.

https://developer.salesforce.com/docs/platform/pub-sub-api/guide/event-deserialization-considerations.html
"""

import io
from typing import Any

import fastavro
import grpc
import grpc.aio

from connector.events import UnexpectedPayload
from connector.payload import parse_json
from connector.salesforce import pubsub
from connector.salesforce.pubsub.channel import ANSWER_SECONDS, Remedy, StreamBroken, broken_by

SCHEMAS_KEPT = 2000
LONGEST_SCHEMA = 1 << 20  # characters; that of an event with hundreds of fields has some ten thousand
MOST_FIELDS = 5000
MOST_RECORDS = 100  # types with a name, which may lie in each other
PRIMITIVES = {"boolean", "int", "long", "float", "double", "bytes", "string"}  # each takes a byte at least
# what does not change however often it is asked for: an id is the fingerprint of its schema
_FINAL = {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT}

_schemas: dict[str, Any] = {}  # by schema id, and so the same for all orgs


class Undecodable(Exception):
    """An event that cannot be decoded, today or later; the text says why."""


class SchemaUnavailable(StreamBroken):
    """A schema that could not be fetched now: the events that need it wait, and those behind them."""

    def __init__(self, remedy: Remedy, code: str, schema_id: str) -> None:
        super().__init__(remedy, f"schema: {code}")
        self.schema_id = schema_id


async def schema_of(channel: grpc.aio.Channel, metadata: Any, schema_id: str) -> Any:
    """Give the schema of an event, which is fetched once; that takes about a second there.

    :raises Undecodable: if there is no such schema, or none that we decode by
    :raises SchemaUnavailable: if it could not be fetched now
    """
    if not schema_id:
        raise Undecodable("the event names no schema")
    if schema_id not in _schemas:
        schema = parse_schema(await _fetch(channel, metadata, schema_id))
        while len(_schemas) >= SCHEMAS_KEPT:
            del _schemas[next(iter(_schemas))]
        _schemas[schema_id] = schema
    return _schemas[schema_id]


async def _fetch(channel: grpc.aio.Channel, metadata: Any, schema_id: str) -> str:
    get_schema: Any = channel.unary_unary(
        f"/{pubsub.SERVICE}/GetSchema",
        request_serializer=pubsub.SchemaRequest.SerializeToString,
        response_deserializer=pubsub.SchemaInfo.FromString,
    )
    request = pubsub.SchemaRequest(schema_id=schema_id)
    try:
        info = await get_schema(request, metadata=metadata, timeout=ANSWER_SECONDS)
    except grpc.aio.AioRpcError as exc:
        broken = broken_by(exc.code(), exc.trailing_metadata(), exc.details() or "")
        if exc.code() in _FINAL or broken.remedy is Remedy.FEWER_EVENTS:
            raise Undecodable(f"its schema cannot be fetched: {broken.code}") from exc
        raise SchemaUnavailable(broken.remedy, broken.code, schema_id) from exc
    if info is None:  # what gRPC gives where the bytes are no such message
        raise Undecodable("its schema cannot be read")
    return str(info.schema_json)


def parse_schema(text: str) -> Any:
    """Read an Avro schema of a record whose values a few bytes cannot multiply.

    :raises Undecodable: if it is none, or one by which a small event could use up this process's memory or stack
    """
    if len(text) > LONGEST_SCHEMA:
        raise Undecodable("its schema is too long")
    try:
        plain = _without_logical_types(parse_json(text, "its schema"))
        schema: Any = fastavro.parse_schema(plain) if isinstance(plain, dict) else None
        if schema is None or schema["type"] != "record":
            raise Undecodable("its schema is not that of a record")
        _Bounds(schema["__named_schemas"]).check(schema)
    except UnexpectedPayload as exc:
        raise Undecodable(str(exc)) from exc
    except (ValueError, TypeError, LookupError, RecursionError, fastavro.schema.SchemaParseException) as exc:
        raise Undecodable("its schema is not Avro") from exc
    return schema


def _without_logical_types(schema: Any) -> Any:
    """Take out what would turn values into dates and decimals, of which a huge one takes minutes."""
    if isinstance(schema, dict):
        return {key: _without_logical_types(value) for key, value in schema.items() if key != "logicalType"}
    return [_without_logical_types(each) for each in schema] if isinstance(schema, list) else schema


class _Bounds:
    """Counts the values that an event may decode to besides those that take a byte each.

    Platform events and change events have records in each other, and lists of texts. What could grow without bytes is
    refused: a record that holds itself, records that double at each level, a list of nothings.
    """

    def __init__(self, named: dict[str, Any]) -> None:
        self.named, self.known = named, dict.fromkeys((*PRIMITIVES, "null"), 1)

    def check(self, schema: Any) -> None:
        """Refuse a schema without bounds.

        :raises Undecodable: if it has none
        """
        if len(self.named) > MOST_RECORDS or self.count(schema, ()) > MOST_FIELDS:
            raise Undecodable("its schema has too many fields")

    def count(self, schema: Any, inside: tuple[str, ...]) -> int:
        """Count the values of one datum."""
        if isinstance(schema, str):
            if schema in inside:
                raise Undecodable("its schema holds itself")
            if schema not in self.known:
                self.known[schema] = self.count(self.named[schema], inside)
            return self.known[schema]
        if isinstance(schema, list):
            return max(self.count(each, inside) for each in schema)
        kind = schema["type"]
        if kind == "record":
            inner = (*inside, schema["name"])
            return 1 + sum(self.count(each["type"], inner) for each in schema["fields"])
        if kind in ("array", "map"):
            self._check_items(schema["items"] if kind == "array" else schema["values"])
        return 1 if kind in ("array", "map", "enum", "fixed") else self.count(kind, inside)

    def _check_items(self, items: Any) -> None:
        for each in items if isinstance(items, list) else [items]:  # one of several takes a byte to say which
            kind = each["type"] if isinstance(each, dict) else each
            if kind not in PRIMITIVES and not (kind == "null" and isinstance(items, list)):
                raise Undecodable("its schema has a list of more than plain values")


def decode(payload: bytes, schema: Any) -> dict[str, Any]:
    """Decode an event.

    :raises Undecodable: if its bytes do not fit the schema
    """
    rest = io.BytesIO(payload)
    try:
        record = fastavro.schemaless_reader(rest, schema, None)
    except Exception as exc:  # whatever the bytes do to the decoder, it is one event that cannot be read
        raise Undecodable("the event does not fit its Avro schema") from exc
    if not isinstance(record, dict):
        raise Undecodable("the event does not fit its Avro schema")
    return record
