"""Streams follow the Pub/Sub API's rules of flow control, replay and errors."""

import asyncio
import contextlib
import io
import itertools
import json
from typing import Any

import fastavro
import grpc.aio
import pytest

from connector.salesforce import pubsub
from tests.sandbox.far_sides import ANA, CHANNEL, TOPIC, FarSides, far_sides, subscribe

PREFIX = "sfdc.platform.eventbus.grpc."


def fetch(count: int, preset: int = pubsub.EARLIEST, replay_id: bytes = b"", topic: str = TOPIC) -> Any:
    return pubsub.FetchRequest(topic_name=topic, replay_preset=preset, replay_id=replay_id, num_requested=count)


async def publish(sides: FarSides, count: int) -> None:
    for number in range(count):
        event = {"EventType": "Interaction", "Payload": str(number)}
        await sides.control("POST", "/control/events", {"event": event})


def numbers(response: Any, schema: Any) -> list[int]:
    return [int(record["Payload__c"]) for record in decode(response, schema)]


def decode(response: Any, schema: Any) -> list[Any]:
    return [fastavro.schemaless_reader(io.BytesIO(each.event.payload), schema, None) for each in response.events]


async def read_schema(channel: Any, metadata: Any) -> Any:
    call = channel.unary_unary(
        f"/{pubsub.SERVICE}/GetTopic",
        request_serializer=pubsub.TopicRequest.SerializeToString,
        response_deserializer=pubsub.TopicInfo.FromString,
    )
    topic = await call(pubsub.TopicRequest(topic_name=TOPIC), metadata=metadata)
    assert topic.can_subscribe
    call = channel.unary_unary(
        f"/{pubsub.SERVICE}/GetSchema",
        request_serializer=pubsub.SchemaRequest.SerializeToString,
        response_deserializer=pubsub.SchemaInfo.FromString,
    )
    schema = await call(pubsub.SchemaRequest(schema_id=topic.schema_id), metadata=metadata)
    return json.loads(schema.schema_json)


async def failure(call: Any) -> tuple[grpc.StatusCode, str | None]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in call:
            pass
    trailers: Any = caught.value.trailing_metadata()
    code = dict(trailers or ()).get("error-code")
    return caught.value.code(), str(code).removeprefix(PREFIX) if code else None


def test_a_stream_gives_what_was_asked_for_and_no_more() -> None:
    async def scenario() -> None:
        async with far_sides() as sides, sides.channel() as channel:
            metadata = sides.metadata(await sides.token())
            schema = await read_schema(channel, metadata)
            await publish(sides, 7)
            call = subscribe(channel, metadata)
            await call.write(fetch(3))
            response = await call.read()
            assert numbers(response, schema) == [0, 1, 2]
            assert response.pending_num_requested == 0
            assert response.latest_replay_id == response.events[-1].replay_id
            await asyncio.sleep(0.2)
            assert len(await sides.journal(kind="event_delivered")) == 3
            await call.write(pubsub.FetchRequest(num_requested=100))
            response = await call.read()
            assert numbers(response, schema) == [3, 4, 5, 6]
            assert response.pending_num_requested == 96
            await publish(sides, 1)
            assert numbers(await call.read(), schema) == [0]
            call.cancel()
            await sides.until(lambda: not sides.sandbox.pubsub.streams)

    asyncio.run(scenario())


def test_replay_ids_are_opaque_and_say_where_to_go_on() -> None:
    async def scenario() -> None:
        async with far_sides() as sides, sides.channel() as channel:
            metadata = sides.metadata(await sides.token())
            schema = await read_schema(channel, metadata)
            await publish(sides, 5)
            first = subscribe(channel, metadata)
            await first.write(fetch(100))
            events = list((await first.read()).events)
            first.cancel()
            ids = [event.replay_id for event in events]
            assert {len(each) for each in ids} == {10}
            assert all(int.from_bytes(b) - int.from_bytes(a) != 1 for a, b in itertools.pairwise(ids))
            second = subscribe(channel, metadata)
            await second.write(fetch(100, pubsub.CUSTOM, ids[2]))
            assert numbers(await second.read(), schema) == [3, 4]
            second.cancel()
            third = subscribe(channel, metadata)
            await third.write(fetch(100, pubsub.LATEST))
            await sides.until(lambda: sides.sandbox.pubsub.streams)
            await sides.until(lambda: len(sides.sandbox.pubsub.streams) == 1)
            await publish(sides, 1)
            assert numbers(await third.read(), schema) == [0]
            third.cancel()

    asyncio.run(scenario())


def test_bad_requests_end_the_stream_with_their_code() -> None:
    async def scenario() -> None:
        async with far_sides() as sides, sides.channel() as channel:
            token = await sides.token()
            good = sides.metadata(token)
            invalid = grpc.StatusCode.INVALID_ARGUMENT
            cases: list[tuple[Any, list[Any], grpc.StatusCode, str]] = [
                (good[1:], [fetch(1)], invalid, "service.auth.headers.invalid"),
                (sides.metadata("no"), [fetch(1)], grpc.StatusCode.UNAUTHENTICATED, "service.auth.error"),
                (
                    sides.metadata(token, tenantid="00D000000000000AAA"),
                    [fetch(1)],
                    grpc.StatusCode.PERMISSION_DENIED,
                    "service.auth.headers.invalid",
                ),
                (
                    sides.metadata(token, instanceurl="https://example.com"),
                    [fetch(1)],
                    grpc.StatusCode.UNAUTHENTICATED,
                    "service.auth.error",
                ),
                (good, [fetch(1, topic="")], invalid, "topic.validation.empty"),
                (good, [fetch(1, topic="/event/Other__e")], grpc.StatusCode.NOT_FOUND, "topic.not.found"),
                (good, [fetch(0)], invalid, "subscription.fetch.requested.events.invalid"),
                (good, [fetch(101)], invalid, "subscription.fetch.overflow"),
                (good, [fetch(60), fetch(41)], invalid, "subscription.fetch.overflow"),
                (good, [fetch(1), fetch(1, topic="/event/Other__e")], invalid, "subscription.fetch.topic.mismatch"),
                (good, [fetch(1, pubsub.CUSTOM)], invalid, "subscription.fetch.replayid.validation.failed"),
                (
                    good,
                    [fetch(1, pubsub.CUSTOM, b"0123456789")],
                    invalid,
                    "subscription.fetch.replayid.corrupted",
                ),
            ]
            for metadata, requests, status, code in cases:
                call = subscribe(channel, metadata)
                with contextlib.suppress(grpc.aio.AioRpcError):  # it may have ended already, for the reason asked for next
                    for request in requests:
                        await call.write(request)
                assert await failure(call) == (status, code), code
            await sides.until(lambda: not sides.sandbox.pubsub.streams)

    asyncio.run(scenario())


def test_silence_brings_keep_alives_with_a_position() -> None:
    async def scenario() -> None:
        async with far_sides() as sides, sides.channel() as channel:
            metadata = sides.metadata(await sides.token())
            schema = await read_schema(channel, metadata)
            await sides.control("POST", "/control/keepalive", {"seconds": 0.1})
            call = subscribe(channel, metadata)
            await call.write(fetch(10))
            response = await call.read()
            assert not response.events
            assert response.pending_num_requested == 10
            call.cancel()
            await publish(sides, 1)
            again = subscribe(channel, metadata)
            await again.write(fetch(10, pubsub.CUSTOM, response.latest_replay_id))
            assert numbers(await again.read(), schema) == [0]
            again.cancel()

    asyncio.run(scenario())


def test_a_stream_that_asks_for_nothing_is_closed() -> None:
    async def scenario() -> None:
        async with far_sides() as sides, sides.channel() as channel:
            sides.sandbox.pubsub.idle_limit = 0.1
            await publish(sides, 1)
            call = subscribe(channel, sides.metadata(await sides.token()))
            await call.write(fetch(1))
            assert (await failure(call))[0] == grpc.StatusCode.CANCELLED

    asyncio.run(scenario())


def test_streams_end_when_they_are_cut_when_tokens_expire_and_on_faults() -> None:
    async def scenario() -> None:
        async with far_sides() as sides, sides.channel() as channel:

            async def opened(**place: Any) -> Any:
                call = subscribe(channel, sides.metadata(await sides.token()))
                await call.write(fetch(1, **place))
                return call

            call = await opened()
            await sides.until(lambda: sides.sandbox.pubsub.streams)
            assert await sides.control("POST", "/control/streams/cut") == {"cut": 1}
            assert await failure(call) == (grpc.StatusCode.UNAVAILABLE, None)
            call = await opened()
            await sides.until(lambda: sides.sandbox.pubsub.streams)
            await sides.control("POST", "/control/tokens/expire")
            assert await failure(call) == (grpc.StatusCode.UNAUTHENTICATED, "service.auth.error")
            await sides.control("POST", "/control/replays/refuse")
            position = next(iter(sides.sandbox.world.orgs.values())).topics[TOPIC].replay_id_of(0)
            place = {"preset": pubsub.CUSTOM, "replay_id": position}
            assert (await failure(await opened(**place)))[1] == "subscription.fetch.replayid.corrupted"
            await sides.control("POST", "/control/faults", {"where": "stream", "what": "status", "count": 1})
            assert await failure(await opened(**place)) == (grpc.StatusCode.UNAVAILABLE, "service.unavailable")
            ends = [entry["error"] for entry in await sides.journal(kind="stream_end")]
            assert ends == ["UNAVAILABLE", "service.auth.error"]

    asyncio.run(scenario())


def test_a_second_stream_of_an_org_is_written_down_and_events_can_come_twice() -> None:
    async def scenario() -> None:
        async with far_sides() as sides, sides.channel() as channel:
            metadata = sides.metadata(await sides.token())
            calls = [subscribe(channel, metadata) for _ in range(2)]
            for call in calls:
                await call.write(fetch(10))
            await sides.until(lambda: len(sides.sandbox.pubsub.streams) == 2)
            opened = await sides.journal(kind="stream_open")
            assert [entry.get("error") for entry in opened] == [None, "second stream"]
            calls.pop().cancel()
            await sides.until(lambda: len(sides.sandbox.pubsub.streams) == 1)
            await sides.control("POST", "/control/faults", {"where": "stream", "what": "duplicate", "count": 1})
            await publish(sides, 1)
            answer = await calls[0].read()
            assert len(answer.events) == 2 and answer.events[0].event.id == answer.events[1].event.id
            assert answer.pending_num_requested == 8  # a copy counts like any event
            calls[0].cancel()

    asyncio.run(scenario())


def test_a_reply_becomes_an_event_of_the_published_form() -> None:
    async def scenario() -> None:
        async with far_sides() as sides, sides.channel() as channel:
            token, conversation, session = await sides.ana_and_the_rep()
            metadata = sides.metadata(token)
            schema = await read_schema(channel, metadata)
            body = {"org": sides.org_id, "conversation": conversation, "text": "Dobar dan, Ana 🙂"}
            entry = (await sides.control("POST", "/control/console/replies", body))["entry"]
            await sides.control("POST", "/control/console/end", {"org": sides.org_id, "session": session})
            call = subscribe(channel, metadata)
            await call.write(fetch(10))
            response = await call.read()
            call.cancel()
            records = decode(response, schema)
            assert set(records[0]) == {"CreatedDate", "CreatedById", "EventType__c", "Payload__c"}
            assert [record["EventType__c"] for record in records] == ["Interaction"] * 2
            said, ended = (json.loads(record["Payload__c"]) for record in records)
            assert said["conversationIdentifier"] == conversation
            assert said["channelAddressIdentifier"] == CHANNEL
            assert said["recipient"] == {"appType": "custom", "subject": ANA, "role": "EndUser"}
            inner = said["payload"]
            assert (inner["identifier"], inner["entryType"], inner["clientDuration"]) == (entry, "Message", 0)
            assert (inner["senderDisplayName"], inner["sender"]["role"]) == ("Marko Babic", "Agent")
            message = inner["entryPayload"]["abstractMessage"]
            assert message["id"] == inner["entryPayload"]["id"] == entry
            assert message["staticContent"] == {"formatType": "Text", "text": "Dobar dan, Ana 🙂"}
            assert ended["payload"]["entryPayload"]["sessionId"] == session
            assert ended["payload"]["entryPayload"]["sessionStatus"] == "Ended"

    asyncio.run(scenario())
