"""What a page or an event may be like: the stream goes on behind it, and nothing is passed over that nobody can see."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from sfprotostash import pubsub_api_pb2

from connector.salesforce.pubsub import schemas
from connector.salesforce.pubsub.channel import LARGEST_ALONE, LARGEST_ANSWER
from messaging import stream_connections, stream_reader, subscriber
from messaging.models import ReceivedEvent
from messaging.subscriber import Subscriber
from tests.messaging.subscriber.conftest import Company, until
from tests.support.bus import Bus

Start = Callable[..., Subscriber]
Serve = Callable[[Bus], str]


class Log(Bus):
    """A topic that keeps what it is given, and gives as much of it at a time as it is asked for, all in one answer."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Any] = []
        self.asked: list[tuple[int, int]] = []  # preset, number

    def publish(self, *payloads: Any, **more: Any) -> None:
        events = list(self.answer(*payloads).events)
        for number, event in enumerate(events, len(self.events) + 1):
            event.event.id, event.replay_id = f"e-{number}", bytes([1, number])
            for name, value in more.items():
                setattr(event.event, name, value)
        self.events += events  # at once, so that one answer has them all

    async def Subscribe(self, requests: Any, context: Any) -> Any:
        at = None
        async for request in requests:
            if at is None:
                preset = request.replay_preset
                at = {0: len(self.events), 1: 0, 2: int(request.replay_id[-1] if request.replay_id else 0)}[preset]
                self.asked.append((preset, request.num_requested))
            else:
                self.asked.append((-1, request.num_requested))
            wanted = request.num_requested
            while wanted:
                page = self.events[at : at + wanted]
                if not page:
                    yield pubsub_api_pb2.FetchResponse(latest_replay_id=bytes([1, at]), pending_num_requested=wanted)
                    while len(self.events) == at:
                        await asyncio.sleep(0.02)
                    continue
                at, wanted = at + len(page), wanted - len(page)
                yield pubsub_api_pb2.FetchResponse(events=page, pending_num_requested=wanted)


@pytest.fixture
def topic(move_in: Callable[..., Company], serve_bus: Serve) -> tuple[Company, Log]:
    log = Log()
    return move_in(pubsubEndpoint=serve_bus(log)), log


def test_a_page_that_is_too_large_is_fetched_in_smaller_ones_and_nothing_of_it_is_lost(
    topic: tuple[Company, Log], read_streams: Start
) -> None:
    acme, log = topic
    read_streams()
    until(lambda: log.asked)
    # of which six fit into one answer; their texts are short, for what is large about them does not matter
    records = [{**acme.record(f"{n}"), "CreatedById": "x" * 1_000_000} for n in range(12)]
    log.publish(*records)
    until(lambda: len(acme.texts) == 12, 30)
    assert acme.texts == [f"{n}" for n in range(12)]
    assert {problem for _, problem in acme.ledger} == {""}
    begun = [(preset, number) for preset, number in log.asked if preset != -1]
    assert [number for _, number in begun[:2]] == [100, 1]


def test_an_event_larger_than_any_should_be_is_fetched_alone(topic: tuple[Company, Log], read_streams: Start) -> None:
    acme, log = topic
    read_streams()
    until(lambda: log.asked)
    log.publish(acme.record("before"))
    log.publish(acme.record("x" * LARGEST_ANSWER))
    log.publish(acme.record("after"))
    until(lambda: len(acme.ledger) == 3, 20)
    assert {problem for _, problem in acme.ledger} == {""}
    assert acme.texts[0] == "before" and acme.texts[-1] == "after"


def test_an_event_that_cannot_be_fetched_at_all_is_set_aside_where_everybody_sees_it(
    topic: tuple[Company, Log], read_streams: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_connections, "LARGEST_ALONE", LARGEST_ANSWER + 1000)
    acme, log = topic
    read_streams()
    until(lambda: log.asked)
    log.publish(acme.record("before"))
    until(lambda: acme.texts == ["before"])
    log.publish(acme.record("x" * (LARGEST_ANSWER + 2000)))
    until(lambda: (pubsub_api_pb2.LATEST, 1) in log.asked, 20)
    log.publish(acme.record("after"))
    until(lambda: acme.texts == ["before", "after"])
    (problem,) = [problem for _, problem in acme.ledger if problem]
    assert problem == (
        "an answer that is too large: ask for fewer events at a time; reading went on with what was published afterwards"
    )
    assert LARGEST_ALONE > LARGEST_ANSWER


@pytest.mark.parametrize("schema_id", ["", "another"])
def test_an_event_without_a_schema_is_kept_with_its_reason_and_the_stream_goes_on(
    topic: tuple[Company, Log], read_streams: Start, schema_id: str
) -> None:
    acme, log = topic
    if schema_id:
        log.refused_schemas = {schema_id: grpc.StatusCode.NOT_FOUND}
    read_streams()
    until(lambda: log.asked)
    log.publish(acme.record("lost"), schema_id=schema_id)
    log.publish(acme.record("after"))
    until(lambda: acme.texts == ["after"])
    (event,) = ReceivedEvent.objects.exclude(problem="")
    assert "schema" in event.problem
    assert b"lost" in bytes(event.body), "it is kept as it came"


@pytest.mark.parametrize("what", ["hangs", "refused"])
def test_events_wait_for_a_schema_that_cannot_be_fetched_for_a_while_and_then_the_stream_goes_on(
    topic: tuple[Company, Log], read_streams: Start, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(schemas, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(stream_reader, "PAUSES", {})
    monkeypatch.setattr(stream_reader, "LONGEST_PAUSE_SECONDS", 0.3)
    monkeypatch.setattr(subscriber, "SchemaTroubles", lambda: stream_reader.SchemaTroubles(seconds=3.0))
    acme, log = topic
    if what == "hangs":
        log.schema_hangs = True
    else:
        log.schema_refusal = (grpc.StatusCode.PERMISSION_DENIED, "schema.meta.permission")
    read_streams()
    until(lambda: log.asked)
    log.publish(acme.record("waits in vain"))
    until(lambda: "schema" in acme.subscription.problem)
    time.sleep(1)
    assert acme.ledger == []
    until(lambda: [kind for kind, _ in acme.ledger] == ["unreadable"], 15)
    log.schema_hangs, log.schema_refusal = False, None
    log.publish(acme.record("is read again"))
    until(lambda: acme.texts == ["is read again"])


def test_events_wait_for_a_schema_that_comes_soon(
    topic: tuple[Company, Log], read_streams: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_reader, "LONGEST_PAUSE_SECONDS", 0.3)
    acme, log = topic
    log.schema_refusal = (grpc.StatusCode.UNAVAILABLE, "schema.api.unavailable")
    read_streams()
    until(lambda: log.asked)
    log.publish(acme.record("waits"))
    until(lambda: "schema.api.unavailable" in acme.subscription.problem)
    log.schema_refusal = None
    until(lambda: acme.texts == ["waits"])
    assert acme.ledger == [("ReplyWritten", "")] and acme.subscription.problem == ""


def test_more_is_asked_for_only_when_a_page_is_saved(topic: tuple[Company, Log], read_streams: Start, refuse: Any) -> None:
    acme, log = topic
    read_streams()
    until(lambda: log.asked)
    forgive = refuse("messaging_receivedevent", "true", "55P03")  # the database's trouble
    for n in range(100):
        log.publish(acme.record(f"{n}"))
    time.sleep(1.5)
    assert log.asked == [(pubsub_api_pb2.EARLIEST, 100)]
    forgive()
    until(lambda: len(acme.ledger) == 100, 20)
    until(lambda: sum(count for _, count in log.asked[1:]) == 100)  # at once, or page by page as they came
    assert {place for place, _ in log.asked[1:]} == {-1}
