"""Our reader of platform events against a server built on Salesforce's own definition of the Pub/Sub API."""

import asyncio
import io
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import fastavro
import grpc
import grpc.aio
import pytest
from sfprotostash import pubsub_api_pb2, pubsub_api_pb2_grpc

from connector.events import ReplyWritten, Text, UnexpectedPayload
from connector.salesforce import platform_events, pubsub
from connector.salesforce.auth import AccessToken
from connector.salesforce.platform_events import (
    Page,
    Remedy,
    StreamBroken,
    Topic,
    created_at,
    open_channel,
    pages,
    parse_event,
)
from tests.payloads import record

TOPIC = Topic("/event/Infobip_Event__e", "00D5g00000ABcDE", "EventType__c", "Payload__c")
TOKEN = AccessToken("00D5g00000ABcDE!token", "https://acme.my.salesforce.com")
CREDENTIALS = {"accesstoken": TOKEN.value, "instanceurl": TOKEN.instance_url, "tenantid": TOPIC.tenant_id}
SCHEMA = {
    "type": "record",
    "name": "Infobip_Event__e",
    "namespace": "com.sforce.eventbus",
    "fields": [
        {"name": "CreatedDate", "type": "long"},
        {"name": "CreatedById", "type": "string"},
        {"name": "EventType__c", "type": ["null", "string"], "default": None},
        {"name": "Payload__c", "type": ["null", "string"], "default": None},
    ],
}
_numbers = itertools.count()


class Bus(pubsub_api_pb2_grpc.PubSubServicer):  # type: ignore[misc]  # generated code without types
    """A topic that answers each request of a stream with the next round of answers, then as ``end`` says."""

    def __init__(self, *rounds: list[Any], end: tuple[grpc.StatusCode, str] | None = None) -> None:
        self.rounds, self.end = list(rounds), end
        self.schema_id = f"schema-{next(_numbers)}"  # our reader keeps each schema as long as it lives
        self.schema_json = json.dumps(SCHEMA)
        self.schema_refusal = ""
        self.requests: list[Any] = []
        self.metadata: list[dict[str, Any]] = []
        self.schemas_asked = 0
        self.left = asyncio.Event()

    async def Subscribe(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        self.metadata.append(dict(context.invocation_metadata()))
        try:
            async for request in requests:
                self.requests.append(request)
                for answer in self.rounds.pop(0) if self.rounds else []:
                    yield answer
                if not self.rounds and self.end:
                    await self._end(context, *self.end)
                    return
        finally:
            self.left.set()

    async def GetSchema(self, request: Any, context: Any) -> Any:
        self.schemas_asked += 1
        self.metadata.append(dict(context.invocation_metadata()))
        if self.schema_refusal:
            await self._end(context, grpc.StatusCode.PERMISSION_DENIED, self.schema_refusal)
        return pubsub_api_pb2.SchemaInfo(schema_json=self.schema_json, schema_id=request.schema_id, rpc_id="rpc-2")

    async def _end(self, context: Any, status: grpc.StatusCode, code: str) -> None:
        if status is not grpc.StatusCode.OK:
            trailing = (("error-code", f"sfdc.platform.eventbus.grpc.{code}"),) if code else ()
            await context.abort(status, "refused; rpcId: 1", trailing_metadata=trailing)

    def answer(self, *payloads: bytes | dict[str, Any], pending: int = 50, latest: bytes = b"\x00\x99") -> Any:
        """Write an answer with an event for each payload; events are numbered from 1 in each answer."""
        events = [
            pubsub_api_pb2.ConsumerEvent(
                event=pubsub_api_pb2.ProducerEvent(
                    id=f"e-{number}",
                    schema_id=self.schema_id,
                    payload=payload if isinstance(payload, bytes) else encoded(payload),
                ),
                replay_id=bytes([0, number]),
            )
            for number, payload in enumerate(payloads, start=1)
        ]
        return pubsub_api_pb2.FetchResponse(
            events=events, latest_replay_id=latest, rpc_id="rpc-1", pending_num_requested=pending
        )


def encoded(decoded: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, fastavro.parse_schema(SCHEMA), decoded)
    return buffer.getvalue()


def serve(bus: Bus, scenario: Callable[[grpc.aio.Channel], Awaitable[None]]) -> None:
    """Run a scenario while the bus is served."""

    async def run() -> None:
        server = grpc.aio.server()
        pubsub_api_pb2_grpc.add_PubSubServicer_to_server(bus, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with open_channel(f"127.0.0.1:{port}", plaintext=True) as channel:
                await asyncio.wait_for(scenario(channel), 10)
        finally:
            await server.stop(None)

    asyncio.run(run())


def read(bus: Bus, replay_id: bytes = b"") -> tuple[list[Page], StreamBroken | None]:
    """Read what a bus gives until it breaks, at the latest when all its rounds are read."""
    found: list[Page] = []
    broken: list[StreamBroken] = []
    expected = sum(len(each) for each in bus.rounds)

    async def scenario(channel: grpc.aio.Channel) -> None:
        try:
            async with aclosing(pages(channel, TOPIC, TOKEN, replay_id)) as stream:  # type: ignore[type-var]  # a generator
                async for page in stream:
                    found.append(page)
                    if len(found) == expected and not bus.end:
                        return
        except StreamBroken as exc:
            broken.append(exc)

    serve(bus, scenario)
    return found, broken[0] if broken else None


def test_our_messages_are_those_of_the_published_definition() -> None:
    theirs = pubsub_api_pb2.DESCRIPTOR
    for name in pubsub._MESSAGES:
        ours, published = pubsub._class(name).DESCRIPTOR, theirs.message_types_by_name[name]

        def shape(descriptor: Any) -> set[tuple[Any, ...]]:
            return {(each.name, each.number, each.type, each.is_repeated) for each in descriptor.fields}

        assert shape(ours) == shape(published)
    presets = {each.name: each.number for each in theirs.enum_types_by_name["ReplayPreset"].values}
    assert presets == {"LATEST": pubsub.LATEST, "EARLIEST": pubsub.EARLIEST, "CUSTOM": pubsub.CUSTOM}
    assert theirs.services_by_name["PubSub"].full_name == pubsub.SERVICE


def test_events_come_decoded_with_the_place_to_go_on_from() -> None:
    bus = Bus()
    bus.rounds = [[bus.answer(record("text"), record("typing_started"))]]
    ((page,), broken) = read(bus)
    assert broken is None
    assert [event.id for event in page.events] == ["e-1", "e-2"]
    assert page.replay_id == b"\x00\x02"
    event = parse_event(page.events[0], TOPIC)
    assert isinstance(event, ReplyWritten)
    assert event.content == Text("Hello Ana, I am checking order **4711**.")
    created = created_at(page.events[0])
    assert created is not None
    assert created.timestamp() == 1785312300.123


def test_a_first_subscription_begins_at_the_earliest_event_and_carries_the_credentials() -> None:
    bus = Bus()
    bus.rounds = [[bus.answer(record("text"))]]
    read(bus)
    (request,) = bus.requests
    assert (request.topic_name, request.replay_preset, request.replay_id, request.num_requested) == (
        *("/event/Infobip_Event__e", pubsub_api_pb2.EARLIEST),
        *(b"", 100),
    )
    assert len(bus.metadata) == 2  # the stream, and the call for the schema
    assert all(CREDENTIALS.items() <= metadata.items() for metadata in bus.metadata)


def test_a_later_subscription_goes_on_after_the_stored_position() -> None:
    bus = Bus()
    bus.rounds = [[bus.answer(latest=b"\x00\x08")]]
    read(bus, b"\x00\x07")
    (request,) = bus.requests
    assert (request.replay_preset, request.replay_id) == (pubsub_api_pb2.CUSTOM, b"\x00\x07")


def test_a_keep_alive_moves_the_position_and_asks_for_no_schema() -> None:
    bus = Bus()
    bus.rounds = [[bus.answer(latest=b"\x00\x08"), bus.answer(latest=b"\x00\x09")]]
    found, _ = read(bus)
    assert found == [Page([], b"\x00\x08"), Page([], b"\x00\x09")]
    assert bus.schemas_asked == 0


def test_a_schema_is_fetched_once() -> None:
    bus = Bus()
    bus.rounds = [[bus.answer(*[record("text")] * 40, pending=60), bus.answer(*[record("text")] * 40, pending=21)]]
    found, _ = read(bus)
    assert [len(page.events) for page in found] == [40, 40]
    assert bus.schemas_asked == 1


def test_answers_that_lie_unread_are_counted_before_more_is_asked_for() -> None:
    """All of the first hundred lie here before the first is read; each tells what was pending when it was sent."""
    bus = Bus()
    bus.rounds = [
        [bus.answer(*[record("text")] * 20, pending=pending) for pending in (80, 60, 40, 20, 0)],
        [bus.answer(record("text"), pending=79)],
    ]
    read_events: list[int] = []

    async def scenario(channel: grpc.aio.Channel) -> None:
        async with aclosing(pages(channel, TOPIC, TOKEN, b"")) as stream:  # type: ignore[type-var]  # a generator
            async for page in stream:
                await asyncio.sleep(0.05)
                read_events.append(len(page.events))
                if len(read_events) == 6:
                    return

    serve(bus, scenario)
    assert read_events == [20, 20, 20, 20, 20, 1]
    assert [request.num_requested for request in bus.requests] == [100, 80]


def test_more_is_asked_for_before_none_is_left_and_only_when_the_caller_comes_back() -> None:
    bus = Bus()
    bus.rounds = [
        [bus.answer(*[record("text")] * 79, pending=21), bus.answer(record("text"), pending=20)],
        [bus.answer(*[record("text")] * 100, pending=0)],
        [bus.answer(record("text"), pending=99)],
    ]
    asked: list[int] = []

    async def scenario(channel: grpc.aio.Channel) -> None:
        async with aclosing(pages(channel, TOPIC, TOKEN, b"")) as stream:  # type: ignore[type-var]  # a generator
            async for _ in stream:
                await asyncio.sleep(0.1)  # what had been asked for would be there by now
                asked.append(len(bus.requests))
                if len(asked) == 4:
                    return

    serve(bus, scenario)
    assert asked == [1, 1, 2, 3]
    assert [request.num_requested for request in bus.requests] == [100, 80, 100]
    assert all(request.topic_name == TOPIC.name for request in bus.requests)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x02",
        encoded(record("text"))[:-1],
        b"\xff" * 20,
        b"\x02\x06abc\x09",  # a branch that the union does not have
        b"\x02\x02\xff\x00\x00",  # no UTF-8
        b"\x02\xfe\xff\xff\xff\xff\xff\xff\xff\x7f",  # a length beyond all bounds
    ],
)
def test_an_event_that_does_not_fit_its_schema_costs_its_neighbours_nothing(payload: bytes) -> None:
    bus = Bus()
    bus.rounds = [[bus.answer(record("text"), payload, record("text"))]]
    ((page,), broken) = read(bus)
    assert broken is None
    assert page.replay_id == b"\x00\x03"
    first, unreadable, last = page.events
    assert first.record == last.record == record("text")
    assert (unreadable.id, unreadable.payload, unreadable.record) == ("e-2", payload, None)
    assert created_at(unreadable) is None
    with pytest.raises(UnexpectedPayload, match="does not fit its Avro schema"):
        parse_event(unreadable, TOPIC)


@pytest.mark.parametrize(
    ("status", "code", "remedy"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, "service.auth.error", Remedy.NEW_TOKEN),
        (grpc.StatusCode.UNAUTHENTICATED, "", Remedy.NEW_TOKEN),
        (grpc.StatusCode.INVALID_ARGUMENT, "service.auth.headers.invalid", Remedy.CUSTOMER_MUST_ACT),
        (grpc.StatusCode.INVALID_ARGUMENT, "subscription.fetch.replayid.corrupted", Remedy.START_OVER),
        (grpc.StatusCode.INVALID_ARGUMENT, "subscription.fetch.replayid.validation.failed", Remedy.START_OVER),
        (grpc.StatusCode.INVALID_ARGUMENT, "fetch.replayid.corrupted", Remedy.START_OVER),
        (grpc.StatusCode.INVALID_ARGUMENT, "fetch.replayid.validation.failed", Remedy.START_OVER),
        (grpc.StatusCode.INVALID_ARGUMENT, "subscription.fetch.replay.repeated", Remedy.RECONNECT),
        (grpc.StatusCode.UNAVAILABLE, "service.unavailable", Remedy.RECONNECT),
        (grpc.StatusCode.INTERNAL, "subscription.internal.error", Remedy.RECONNECT),
        (grpc.StatusCode.UNAVAILABLE, "", Remedy.RECONNECT),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "service.protection.triggered", Remedy.SLOW_DOWN),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "service.protection.stream.limit.triggered", Remedy.SLOW_DOWN),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "concurrent.client.limit.exceeded", Remedy.CUSTOMER_MUST_ACT),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "subscription.limit.exceeded", Remedy.CUSTOMER_MUST_ACT),
        (grpc.StatusCode.PERMISSION_DENIED, "service.tenant.license", Remedy.CUSTOMER_MUST_ACT),
        (grpc.StatusCode.NOT_FOUND, "topic.not.found", Remedy.CUSTOMER_MUST_ACT),
        (grpc.StatusCode.PERMISSION_DENIED, "topic.meta.permission", Remedy.CUSTOMER_MUST_ACT),
        (grpc.StatusCode.PERMISSION_DENIED, "subscription.topic.cannot.subscribe", Remedy.CUSTOMER_MUST_ACT),
        (grpc.StatusCode.OK, "", Remedy.RECONNECT),
    ],
)
def test_each_end_of_a_stream_names_its_remedy(status: grpc.StatusCode, code: str, remedy: Remedy) -> None:
    bus = Bus(end=(status, code))
    bus.rounds = [[bus.answer(latest=b"\x00\x08")]]
    found, broken = read(bus, b"\x00\x07")
    assert found == [Page([], b"\x00\x08")]
    assert broken is not None
    assert broken.remedy is remedy
    assert broken.code == (f"sfdc.platform.eventbus.grpc.{code}" if code else broken.code)
    assert TOKEN.value not in str(broken)


def test_a_schema_that_may_not_be_read_names_its_remedy() -> None:
    bus = Bus()
    bus.rounds, bus.schema_refusal = [[bus.answer(record("text"))]], "schema.meta.permission"
    found, broken = read(bus)
    assert found == []
    assert broken is not None
    assert broken.remedy is Remedy.CUSTOMER_MUST_ACT


@pytest.mark.parametrize("schema", ["", "{", '{"type": "record"}', '{"type": "no such type"}'])
def test_a_schema_that_cannot_be_read_slows_the_stream_down(schema: str) -> None:
    bus = Bus()
    bus.rounds, bus.schema_json = [[bus.answer(record("text"))]], schema
    found, broken = read(bus)
    assert found == []
    assert broken is not None
    assert broken.remedy is Remedy.SLOW_DOWN


def test_silence_ends_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform_events, "SILENCE_SECONDS", 0.2)
    bus = Bus(end=(grpc.StatusCode.OK, ""))
    bus.rounds = [[bus.answer(latest=b"\x00\x08")], []]  # the second request never comes, so nothing more does
    found, broken = read(bus)
    assert len(found) == 1
    assert broken is not None
    assert (broken.remedy, broken.code) == (Remedy.RECONNECT, "silent for 0 s")


def test_a_server_that_cannot_be_reached_is_tried_again() -> None:
    async def scenario() -> None:
        async with open_channel("127.0.0.1:1", plaintext=True) as channel:
            with pytest.raises(StreamBroken) as caught:
                await anext(pages(channel, TOPIC, TOKEN, b""))
        assert (caught.value.remedy, caught.value.code) == (Remedy.RECONNECT, "UNAVAILABLE")

    asyncio.run(scenario())


def test_a_caller_that_leaves_ends_the_stream_at_the_server() -> None:
    bus = Bus()
    bus.rounds = [[bus.answer(latest=b"\x00\x08")]]

    async def scenario(channel: grpc.aio.Channel) -> None:
        stream: Any = pages(channel, TOPIC, TOKEN, b"")
        await anext(stream)
        assert not bus.left.is_set()
        await stream.aclose()
        await asyncio.wait_for(bus.left.wait(), 2)

    serve(bus, scenario)
