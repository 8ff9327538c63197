"""A subscriber reads what reps write, once and in order, through whatever breaks a stream."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.utils import timezone

from connector.salesforce.pubsub.channel import Remedy
from messaging import stream_reader, subscriber
from messaging.models import EventSubscription
from messaging.subscriber import Subscriber
from tests.messaging.subscriber.conftest import Company, elsewhere, in_seconds, until

Start = Callable[..., Subscriber]


def test_what_reps_write_comes_in_order_and_once_also_when_another_process_goes_on(
    acme: Company, rival: Company, read_streams: Start
) -> None:
    first = read_streams()
    until(lambda: acme.streams() == rival.streams() == 1)
    texts = [f"text {n}" for n in range(5)]
    for text in texts:
        acme.write(text)
    rival.write("of another org")
    until(lambda: acme.texts == texts and rival.texts == ["of another org"])
    position = bytes(acme.subscription.replay_id)
    assert position
    first.stop()
    acme.write("meanwhile")
    read_streams()
    until(lambda: acme.texts == [*texts, "meanwhile"])
    assert bytes(acme.subscription.replay_id) != position
    assert [kind for kind, _ in acme.ledger] == ["ReplyWritten"] * 6


def test_typing_never_enters_the_ledger_or_a_lane(acme: Company, read_streams: Start) -> None:
    read_streams()
    until(lambda: acme.streams() == 1)
    acme.type()
    acme.write("hello")
    acme.type()
    until(lambda: acme.texts == ["hello"])
    position = bytes(acme.subscription.replay_id)
    acme.type()
    until(lambda: bytes(acme.subscription.replay_id) != position)
    assert acme.ledger == [("ReplyWritten", "")]


def test_an_event_that_cannot_be_read_is_kept_with_its_reason_and_those_behind_it_are_read(
    acme: Company, read_streams: Start
) -> None:
    read_streams()
    until(lambda: acme.streams() == 1)
    for payload in ("{", "[]", None, '{"payload": {"entryType": "Message", "messageReason": []}}', "[" * 5000):
        acme.publish(payload)
    acme.publish("7", event_type=None)
    acme.write("still here")
    until(lambda: acme.texts == ["still here"])
    assert [problem for _, problem in acme.ledger] == [
        "Payload__c is not JSON",
        "Payload__c is not an object",
        "Payload__c is not JSON",
        "sender is missing or not an object",
        "Payload__c is not JSON",
        "EventType__c is missing",
        "",
    ]


def test_a_subscriber_that_is_stopped_gives_its_streams_back_within_a_second(
    acme: Company, rival: Company, read_streams: Start
) -> None:
    rival.misbehave("login", "timeout_before")
    reading = read_streams()
    until(lambda: acme.streams() == 1)
    until(lambda: rival.subscription.lease_id is not None)
    began = time.monotonic()
    reading.stop()
    assert time.monotonic() - began < 1
    assert not EventSubscription.objects.exclude(lease_id=None).exists()
    until(lambda: acme.streams() == 0)


def test_a_page_that_cannot_be_saved_just_now_keeps_no_other_stream_from_being_given_back(
    acme: Company, rival: Company, read_streams: Start
) -> None:
    reading = read_streams()
    until(lambda: acme.streams() == rival.streams() == 1)
    with elsewhere() as other:
        other.execute("LOCK TABLE messaging_receivedevent IN ACCESS EXCLUSIVE MODE")
        acme.write("waits")
        time.sleep(0.3)
        began = time.monotonic()
        reading.stop()
        assert time.monotonic() - began < 1.5
        assert rival.subscription.lease_id is None
    until(lambda: acme.texts == ["waits"])  # by the thread that was at it


def test_a_lease_that_nobody_renews_runs_out(acme: Company, read_streams: Start) -> None:
    # as the row of a process that was killed just now
    EventSubscription.objects.create(
        org=acme.org, topic="/event/Infobip_Event__e", since=timezone.now(), lease_id=uuid4(), leased_until=in_seconds(9)
    )
    began = time.monotonic()
    read_streams()
    until(lambda: acme.streams() == 1, 11)
    assert 8 < time.monotonic() - began < 10.5


def test_who_loses_a_lease_stops_reading_when_a_page_is_refused_and_saves_nothing_more(
    acme: Company, read_streams: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriber, "HEARTBEAT_SECONDS", 60.0)  # which would notice it too
    read_streams()
    until(lambda: acme.streams() == 1)
    acme.write("mine")
    until(lambda: acme.texts == ["mine"])
    EventSubscription.objects.update(lease_id=uuid4(), leased_until=in_seconds(60))
    position = bytes(acme.subscription.replay_id)
    acme.write("another's")
    until(lambda: acme.streams() == 0, 5)
    assert acme.texts == ["mine"] and bytes(acme.subscription.replay_id) == position


def test_an_idle_stream_whose_lease_is_lost_is_closed(acme: Company, read_streams: Start) -> None:
    read_streams()
    until(lambda: acme.streams() == 1)
    EventSubscription.objects.update(lease_id=uuid4(), leased_until=in_seconds(60))
    until(lambda: acme.streams() == 0, 5)


def test_silence_is_noticed_and_the_stream_opened_anew(acme: Company, read_streams: Start) -> None:
    acme.misbehave("stream", "timeout_after", count=1)
    read_streams(silence_seconds=1.0)
    until(lambda: acme.streams() == 1)
    acme.write("after the silence")
    until(lambda: acme.texts == ["after the silence"])
    assert len(acme.platforms.seen("stream_open", org=acme.id)) >= 2


def test_while_postgresql_is_read_only_nothing_is_lost_and_afterwards_it_goes_on(
    acme: Company, read_streams: Start
) -> None:
    read_streams()
    until(lambda: acme.streams() == 1)
    acme.write("before")
    until(lambda: acme.texts == ["before"])
    name = connection.settings_dict["NAME"]  # others of the same role test beside this
    with elsewhere() as other:
        other.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        other.commit()
        try:
            for n in range(3):
                acme.write(f"meanwhile {n}")
            time.sleep(4)  # a heartbeat is missed, too
            assert acme.texts == ["before"]
        finally:
            other.execute("SET default_transaction_read_only = off")
            other.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
            other.commit()
    connection.close()
    began = time.monotonic()
    until(lambda: acme.texts == ["before", *(f"meanwhile {n}" for n in range(3))], 30)
    assert time.monotonic() - began < 10


def test_after_starting_over_what_is_known_is_recognised_and_what_is_old_is_dropped_also_by_the_next_process(
    acme: Company, read_streams: Start
) -> None:
    reading = read_streams()
    until(lambda: acme.streams() == 1)
    acme.write("known")
    until(lambda: acme.texts == ["known"])
    reading.stop()
    EventSubscription.objects.update(since=timezone.now() - timedelta(days=30))
    old = int((timezone.now() - timedelta(hours=25)).timestamp() * 1000)
    young = int((timezone.now() - timedelta(hours=23)).timestamp() * 1000)
    acme.platforms.control("POST", "replays/refuse")
    acme.write("too old", createdAt=old)
    reading = read_streams()
    until(lambda: timezone.now() - acme.subscription.since < timedelta(hours=24, minutes=1))
    until(lambda: acme.streams() == 1)
    reading.stop()
    EventSubscription.objects.update(replay_id=b"")  # as if it had died before it could save anything
    read_streams()
    acme.write("young enough", createdAt=young)
    until(lambda: acme.texts == ["known", "young enough"])


def test_a_stream_is_opened_again_for_hours(acme: Company) -> None:
    reader = stream_reader.StreamReader.__new__(stream_reader.StreamReader)
    for failures in (1, 10, 2000, 10**6):
        reader.failures = failures
        for remedy in Remedy:
            assert 0 <= reader._pause_after(remedy) <= 30


def test_an_org_that_is_announced_is_read_at_once(
    acme: Company, move_in: Callable[..., Company], read_streams: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriber, "NEW_TOPICS_SECONDS", 60.0)
    reading = read_streams()
    until(lambda: acme.streams() == 1)
    newcomer = move_in()
    time.sleep(0.5)
    assert newcomer.streams() == 0
    began = time.monotonic()
    reading.look()
    until(lambda: newcomer.streams() == 1, 3)
    assert time.monotonic() - began < 1.5


def test_a_stream_whose_lease_ran_out_while_the_database_was_away_is_read_once_by_the_process_that_had_it(
    acme: Company, read_streams: Start
) -> None:
    reading = read_streams()
    until(lambda: acme.streams() == 1)
    first = acme.subscription.lease_id
    EventSubscription.objects.update(leased_until=in_seconds(-1))
    until(lambda: acme.subscription.lease_id not in (first, None))
    time.sleep(1)
    assert acme.streams() == 1, "the reader under the old lease was stopped"
    acme.write("hello")
    until(lambda: acme.texts == ["hello"])
    time.sleep(3)  # a heartbeat
    assert acme.streams() == 1 and len(reading.reading) == 1


def test_a_subscriber_that_fails_starts_again_and_lets_its_streams_go_meanwhile(acme: Company, read_streams: Start) -> None:
    reading = read_streams()
    until(lambda: acme.streams() == 1)
    assert reading.loop is not None
    nonsense: Any = None
    reading.loop.call_soon_threadsafe(reading.writer.together.put_nowait, nonsense)
    until(lambda: acme.streams() == 0)
    acme.write("afterwards")
    until(lambda: acme.texts == ["afterwards"], 5)
