"""Our reader of platform events against a server built on Salesforce's own definition of the Pub/Sub API."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc
import grpc.aio
import pytest
from sfprotostash import pubsub_api_pb2, pubsub_api_pb2_grpc

from connector.events import ReplyWritten, Text, UnexpectedPayload
from connector.salesforce import pubsub
from connector.salesforce.platform_events import created_at, parse_event
from connector.salesforce.pubsub.channel import LARGEST_ALONE, LARGEST_ANSWER, Remedy, StreamBroken, open_channel
from connector.salesforce.pubsub.stream import Page, Start, pages
from tests.payloads import record
from tests.support.bus import CREDENTIALS, TOKEN, TOPIC, Bus, encoded, pubsub_address, read, serve


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
        async with aclosing(pages(channel, TOPIC, TOKEN, Start())) as stream:  # type: ignore[type-var]  # a generator
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
        async with aclosing(pages(channel, TOPIC, TOKEN, Start())) as stream:  # type: ignore[type-var]  # a generator
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


def test_an_event_without_an_id_is_known_again_by_what_it_is_and_where() -> None:
    bus = Bus()

    def odd_page() -> Any:
        answer = bus.answer(*[record("text")] * 4)
        for event, odd in zip(answer.events, ["", "x\x00y", "x" * 251, " "], strict=True):
            event.event.id = odd
        return answer

    bus.rounds = [[odd_page(), odd_page()]]
    found, _ = read(bus)
    ids = [[event.id for event in page.events] for page in found]
    assert ids[0] == ids[1] and len(set(ids[0])) == 4
    assert all(each.startswith("sha256:") for each in ids[0])


def test_an_event_without_a_replay_id_stands_where_the_one_before_it_does() -> None:
    bus = Bus()
    answer = bus.answer(*[record("text")] * 3)
    for number in (0, 2):
        answer.events[number].replay_id = b""
    bus.rounds = [[answer, bus.answer(latest=b"")]]
    found, _ = read(bus, b"\x00\x77")
    assert [event.replay_id for event in found[0].events] == [b"\x00\x77", b"\x00\x02", b"\x00\x02"]
    assert [page.replay_id for page in found] == [b"\x00\x02", b"\x00\x02"]


def test_an_answer_that_is_larger_than_we_take_asks_for_fewer_events() -> None:
    big = {**record("text"), "Payload__c": "x" * (LARGEST_ANSWER // 2 + 1)}
    bus = Bus()
    bus.rounds = [[bus.answer(big, big)]]
    found, broken = read(bus)
    assert found == []
    assert broken is not None
    assert (broken.remedy, broken.code) == (Remedy.FEWER_EVENTS, "an answer that is too large")
    bus.rounds = [[bus.answer(big)], [bus.answer(big)]]
    found, broken = read(bus, most=1)
    assert broken is None and [len(page.events) for page in found] == [1, 1]
    assert [request.num_requested for request in bus.requests[1:]] == [1, 2], "and then for more again"


def test_an_answer_of_the_documented_size_is_taken_and_one_above_grpcs_own_limit_too() -> None:
    assert LARGEST_ANSWER > 3_000_000
    bus = Bus()
    bus.rounds = [[bus.answer(*[{**record("text"), "Payload__c": "x" * 1_000_000}] * 5)]]
    ((page,), broken) = read(bus)
    assert broken is None and len(page.events) == 5


def test_a_single_event_may_be_taken_that_is_larger_than_any_should_be() -> None:
    bus = Bus()
    bus.rounds = [[bus.answer({**record("text"), "Payload__c": "x" * (LARGEST_ANSWER + 1)})]]
    lengths: list[int] = []

    async def run() -> None:
        server = grpc.aio.server(options=[("grpc.max_send_message_length", -1)])
        pubsub_api_pb2_grpc.add_PubSubServicer_to_server(bus, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with open_channel(f"127.0.0.1:{port}", plaintext=True, largest=LARGEST_ALONE) as channel:
            page = await anext(pages(channel, TOPIC, TOKEN, Start(most=1)))
            lengths.append(len(page.events[0].payload))
        await server.stop(None)

    asyncio.run(run())
    assert lengths[0] > LARGEST_ANSWER


def test_an_answer_whose_bytes_are_none_asks_for_fewer_events() -> None:
    async def subscribe(requests: AsyncIterator[Any], _context: Any) -> AsyncIterator[bytes]:
        async for _ in requests:
            yield b"\xff\xff\xff"

    async def run() -> None:
        server = grpc.aio.server()
        handler = grpc.stream_stream_rpc_method_handler(subscribe)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(pubsub.SERVICE, {"Subscribe": handler}),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with open_channel(f"127.0.0.1:{port}", plaintext=True) as channel:
            with pytest.raises(StreamBroken) as caught:
                await anext(pages(channel, TOPIC, TOKEN, Start()))
        assert caught.value.remedy is Remedy.FEWER_EVENTS
        await server.stop(None)

    asyncio.run(run())


def test_reading_may_begin_with_what_is_published_from_now_on() -> None:
    bus = Bus()
    bus.rounds = [[bus.answer(latest=b"")]]
    ((page,), _) = read(bus, b"\x00\x07", latest=True)
    (request,) = bus.requests
    assert (request.replay_preset, request.replay_id) == (pubsub_api_pb2.LATEST, b"")
    assert page.replay_id == b"\x00\x07"


def test_each_channel_is_a_connection_of_its_own_since_one_carries_a_thousand_calls_only() -> None:
    bus = Bus()
    bus.rounds = [[bus.answer(latest=b"\x01")], [bus.answer(latest=b"\x02")]]

    async def scenario(channel: grpc.aio.Channel) -> None:
        other = open_channel(pubsub_address(channel), plaintext=True)
        for each in (channel, other):
            await anext(pages(each, TOPIC, TOKEN, Start()))
        assert len(bus.peers) == 2
        await other.close(None)

    serve(bus, scenario)


def test_a_stream_that_is_not_read_on_holds_up_no_other_on_its_connection() -> None:
    bus = Bus()
    full = [bus.answer(*[{**record("text"), "Payload__c": "x" * 900_000}] * 3) for _ in range(30)]
    bus.rounds = [full, [bus.answer(record("text"))]]

    async def scenario(channel: grpc.aio.Channel) -> None:
        stuck = pages(channel, TOPIC, TOKEN, Start())
        await anext(stuck)  # and then no more is read, while as much as the connection takes is on the way
        await asyncio.sleep(0.2)
        page = await asyncio.wait_for(anext(pages(channel, TOPIC, TOKEN, Start())), 3)
        assert len(page.events) == 1

    serve(bus, scenario)


def test_silence_ends_a_stream() -> None:
    bus = Bus(end=(grpc.StatusCode.OK, ""))
    bus.rounds = [[bus.answer(latest=b"\x00\x08")], []]  # the second request never comes, so nothing more does
    found, broken = read(bus, silence_seconds=0.2)
    assert len(found) == 1
    assert broken is not None
    assert (broken.remedy, broken.code) == (Remedy.RECONNECT, "silent for 0 s")


def test_a_server_that_takes_the_connection_and_says_nothing_is_given_up() -> None:
    async def scenario(port: int) -> None:
        async with open_channel(f"127.0.0.1:{port}", plaintext=True) as channel:
            with pytest.raises(StreamBroken) as caught:
                await asyncio.wait_for(anext(pages(channel, TOPIC, TOKEN, Start(), silence_seconds=0.3)), 5)
        assert (caught.value.remedy, caught.value.code) == (Remedy.RECONNECT, "silent for 0 s")

    with socket.create_server(("127.0.0.1", 0)) as mute:
        asyncio.run(scenario(mute.getsockname()[1]))


def test_a_server_that_cannot_be_reached_is_tried_again() -> None:
    async def scenario() -> None:
        async with open_channel("127.0.0.1:1", plaintext=True) as channel:
            with pytest.raises(StreamBroken) as caught:
                await anext(pages(channel, TOPIC, TOKEN, Start()))
        assert (caught.value.remedy, caught.value.code) == (Remedy.RECONNECT, "UNAVAILABLE")

    asyncio.run(scenario())


def test_a_caller_that_leaves_ends_the_stream_at_the_server() -> None:
    bus = Bus()
    bus.rounds = [[bus.answer(latest=b"\x00\x08")]]

    async def scenario(channel: grpc.aio.Channel) -> None:
        stream: Any = pages(channel, TOPIC, TOKEN, Start())
        await anext(stream)
        assert not bus.left.is_set()
        await stream.aclose()
        await asyncio.wait_for(bus.left.wait(), 2)

    serve(bus, scenario)
