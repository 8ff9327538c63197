"""The rows of streams: leases, positions and troubles, each only under the lease that they are held by."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from django.db import OperationalError, connection
from django.utils import timezone

from connector.salesforce.platform_events import SESSION_CHANGES, PlatformEvent
from messaging import subscriptions
from messaging.intake import StreamBatch, receive_stream_batches
from messaging.models import EventSubscription, Message, ReceivedEvent
from messaging.subscriptions import LEASES, StreamLease, Trouble, add_missing, claim_streams, note_troubles, release, renew
from tenants.models import Channel, SalesforceConnection
from tenants.tenancy import every_org
from tests.conftest import World, reply_record
from tests.support.happenings import SOMEBODY_WAITS

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def see_every_org() -> Iterator[None]:
    with every_org():
        yield


@pytest.fixture
def other() -> Iterator[psycopg.Connection]:
    """Another session of the database."""
    known = {"host", "port", "dbname", "user", "password"}
    parameters = {name: value for name, value in connection.get_connection_params().items() if name in known}
    with psycopg.connect(**parameters) as session:
        session.execute("SELECT set_config('connector.org', '*', false)")
        session.commit()
        yield session


def claim() -> list[StreamLease]:
    add_missing()
    return sorted(claim_streams(100), key=lambda lease: lease.org_id)


def row(lease: StreamLease) -> EventSubscription:
    return EventSubscription.objects.get(pk=lease.subscription_id)


def stolen(lease: StreamLease) -> StreamLease:
    """Give a lease that is held no more."""
    return replace(lease, lease_id=uuid4())


# which topics there are


def test_each_topic_of_an_org_has_one_row_from_now_on(acme: World, rival: World) -> None:
    Channel.objects.create(org=acme.org, name="2", channel_address_identifier="2", custom_event_name="Infobip_Event__e")
    Channel.objects.create(org=acme.org, name="3", channel_address_identifier="3", custom_event_name="Other__e")
    SalesforceConnection.objects.filter(org=rival.org).update(session_changes=True)
    assert add_missing() == 4
    assert add_missing() == 0
    topics = set(EventSubscription.objects.values_list("org_id", "topic"))
    assert topics == {
        (acme.org.pk, "/event/Infobip_Event__e"),
        (acme.org.pk, "/event/Other__e"),
        (rival.org.pk, "/event/Infobip_Event__e"),
        (rival.org.pk, SESSION_CHANGES),
    }
    assert all(
        timezone.now() - since < timedelta(minutes=1) for since in EventSubscription.objects.values_list("since", flat=True)
    )


def test_a_topic_is_read_from_the_time_on_at_which_its_channel_was_chosen(acme: World) -> None:
    """A rep may have answered before anybody looked for new topics."""
    chosen = timezone.now() - timedelta(seconds=40)
    Channel.objects.filter(pk=acme.channel.pk).update(created_at=chosen)
    Channel.objects.create(org=acme.org, name="2", channel_address_identifier="2", custom_event_name="Infobip_Event__e")
    add_missing()
    assert EventSubscription.objects.get().since == chosen


def test_processes_that_find_new_topics_at_once_make_one_row_of_each(acme: World) -> None:
    def add(_: int) -> int:
        try:
            with every_org():
                return add_missing()
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(add, range(4))) == 1


# leases


def test_a_stream_is_leased_to_one_process(acme: World, rival: World) -> None:
    leases = claim()
    assert [lease.org_id for lease in leases] == [acme.org.pk, rival.org.pk]
    assert claim() == []
    assert (leases[0].topic.type_field, leases[0].topic.payload_field) == ("EventType__c", "Payload__c")
    assert leases[0].topic.tenant_id == acme.org.salesforce_id


def test_processes_that_look_at_once_share_the_streams(acme: World, rival: World) -> None:
    add_missing()

    def look(_: int) -> list[int]:
        try:
            with every_org():
                return [lease.subscription_id for lease in claim_streams(1)]
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        claimed = [each for some in pool.map(look, range(4)) for each in some]
    assert sorted(claimed) == sorted(EventSubscription.objects.values_list("pk", flat=True))


def test_changes_of_sessions_are_read_only_as_long_as_the_org_publishes_them(acme: World) -> None:
    """A topic that an org does not publish is refused each time that it is asked for."""
    SalesforceConnection.objects.update(session_changes=True)
    assert {lease.topic.name for lease in claim()} == {"/event/Infobip_Event__e", SESSION_CHANGES}
    EventSubscription.objects.update(lease_id=None, leased_until=None)
    SalesforceConnection.objects.update(session_changes=False)
    assert {lease.topic.name for lease in claim()} == {"/event/Infobip_Event__e"}


def test_where_channels_share_an_event_the_first_says_what_its_fields_are_called(acme: World) -> None:
    Channel.objects.create(
        org=acme.org,
        name="2",
        channel_address_identifier="2",
        custom_event_name="Infobip_Event__e",
        custom_event_type_field="Other__c",
        custom_event_payload_field="Another__c",
    )
    (lease,) = claim()
    assert (lease.topic.type_field, lease.topic.payload_field) == ("EventType__c", "Payload__c")


def test_at_most_as_many_are_claimed_as_are_asked_for(acme: World, rival: World) -> None:
    add_missing()
    assert len(claim_streams(1)) == 1


def test_a_lease_that_ran_out_is_free_and_one_that_is_renewed_is_not(acme: World, rival: World) -> None:
    mine, others = claim()
    EventSubscription.objects.update(leased_until=timezone.now() - timedelta(seconds=1))
    assert renew([mine]) == set()
    (taken,) = claim()
    assert taken.subscription_id == others.subscription_id and taken.lease_id != others.lease_id
    assert renew([mine, others]) == {others.subscription_id}


def test_a_lease_is_given_back_only_by_who_holds_it(acme: World) -> None:
    (lease,) = claim()
    assert release([stolen(lease)]) == set()
    assert row(lease).lease_id == lease.lease_id
    assert release([lease]) == {lease.subscription_id}
    assert row(lease).lease_id is None and row(lease).leased_until is None


def test_a_row_that_is_locked_is_neither_renewed_nor_lost_and_delays_no_other(
    acme: World, rival: World, other: psycopg.Connection
) -> None:
    mine, second = claim()
    EventSubscription.objects.update(leased_until=timezone.now() - timedelta(seconds=1))
    other.execute("SELECT 1 FROM messaging_eventsubscription WHERE id = %s FOR UPDATE", [mine.subscription_id])
    began = time.monotonic()
    assert renew([mine, second]) == set()
    assert row(second).leased_until > timezone.now() > row(mine).leased_until  # type: ignore[operator]
    note_troubles([Trouble(mine, "of the locked one"), Trouble(second, "of the other")])
    assert (row(mine).problem, row(second).problem) == ("", "of the other")
    assert release([mine, second]) == {second.subscription_id}
    assert [lease.subscription_id for lease in claim()] == [second.subscription_id]
    assert subscriptions.start_over(mine) is None
    assert time.monotonic() - began < 1, "nobody waits for it"


def test_a_stream_of_an_org_that_was_let_go_is_given_back(acme: World, rival: World) -> None:
    mine, other = claim()
    type(acme.org).objects.filter(pk=acme.org.pk).update(disconnected_at=timezone.now())
    assert renew([mine, other]) == {mine.subscription_id}
    assert row(mine).lease_id is None and row(other).lease_id == other.lease_id
    assert claim() == []


def test_a_stream_that_is_to_be_opened_later_is_left_alone_till_then(acme: World) -> None:
    add_missing()
    EventSubscription.objects.update(not_before=timezone.now() + timedelta(seconds=0.5))
    assert claim() == []
    time.sleep(0.6)
    assert len(claim()) == 1


def test_credentials_that_cannot_be_decrypted_cost_their_org_its_stream_and_no_other(acme: World, rival: World) -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE tenants_salesforceconnection SET private_key = 'x' WHERE org_id = %s", [acme.org.pk])
    (lease,) = claim()
    assert lease.org_id == rival.org.pk
    spoilt = EventSubscription.objects.get(org=acme.org)
    assert "FIELD_ENCRYPTION_KEYS" in spoilt.problem
    assert spoilt.lease_id is None and spoilt.not_before is not None and spoilt.not_before > timezone.now()


def test_leases_serve_any_table_that_has_their_columns(acme: World) -> None:
    add_missing()
    held = LEASES.claim("org_id = %s", [acme.org.pk], most=5, order="since")
    assert list(held) == [EventSubscription.objects.get().pk]
    assert LEASES.claim("true", [], most=5) == {}
    assert LEASES.change(held, "problem = %s", ["noted"]) == set(held)
    assert LEASES.change({row_id: uuid4() for row_id in held}, "problem = %s", ["not mine"]) == set()
    assert EventSubscription.objects.get().problem == "noted"


# troubles


def test_troubles_are_shown_of_the_streams_that_are_held_whatever_their_text_holds(acme: World, rival: World) -> None:
    mine, lost = claim()
    odd = "a\x00b\ud800" + "x" * 1000
    note_troubles([Trouble(mine, "first"), Trouble(stolen(lost), "not mine"), Trouble(mine, odd)])
    assert row(mine).problem == ("ab" + "x" * 1000)[:300]
    assert (row(mine).failures, row(lost).failures, row(lost).problem) == (1, 0, "")


# positions


def batch(lease: StreamLease, *records: dict[str, Any], position: bytes = b"place 1") -> StreamBatch:
    events = [PlatformEvent(str(uuid4()), b"raw", record) for record in records]
    return StreamBatch(lease.org_id, lease.subscription_id, lease.lease_id, lease.since, lease.topic, events, position)


def test_a_position_is_forgotten_only_under_the_lease_and_the_row_says_from_when_on_events_count(acme: World) -> None:
    (lease,) = claim()
    receive_stream_batches([batch(lease)])
    EventSubscription.objects.update(since=timezone.now() - timedelta(days=3))
    assert subscriptions.start_over(stolen(lease)) is None
    assert bytes(row(lease).replay_id) == b"place 1"
    since = subscriptions.start_over(lease)
    assert since is not None and timedelta(hours=23, minutes=59) < timezone.now() - since < timedelta(hours=24, minutes=1)
    assert (bytes(row(lease).replay_id), row(lease).since) == (b"", since)
    young = timezone.now() - timedelta(hours=1)
    EventSubscription.objects.update(since=young)
    assert subscriptions.start_over(lease) == young, "it is never earlier than it was"


def test_events_and_the_place_behind_them_are_saved_together_or_not_at_all(acme: World, other: psycopg.Connection) -> None:
    (lease,) = claim()
    brought = batch(lease, reply_record(acme, "hello", entry="e1"))
    with connection.cursor() as cursor:
        cursor.execute("SET lock_timeout = '200ms'")
    other.execute("LOCK TABLE messaging_receivedevent IN SHARE MODE")
    with pytest.raises(OperationalError):
        receive_stream_batches([brought])
    assert bytes(row(lease).replay_id) == b""
    other.rollback()
    other.execute("LOCK TABLE messaging_message IN SHARE MODE")  # after the position and the arrival were written
    with pytest.raises(OperationalError):
        receive_stream_batches([brought])
    assert bytes(row(lease).replay_id) == b"" and not ReceivedEvent.objects.exists()
    other.rollback()
    assert receive_stream_batches([brought]) == ({lease.subscription_id}, True)
    assert bytes(row(lease).replay_id) == b"place 1" and Message.objects.get().text == "hello"


def test_who_lost_the_lease_saves_neither_events_nor_a_position(acme: World) -> None:
    (lease,) = claim()
    assert receive_stream_batches([batch(stolen(lease), reply_record(acme, "hello", entry="e1"))]) == (set(), False)
    assert bytes(row(lease).replay_id) == b"" and not ReceivedEvent.objects.exists()


def test_a_lease_cannot_change_hands_while_a_page_is_saved_under_it(
    acme: World, other: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    (lease,) = claim()
    EventSubscription.objects.update(leased_until=timezone.now() - timedelta(seconds=1))
    other.execute("LOCK TABLE messaging_receivedevent IN SHARE MODE")

    def save(_: int) -> tuple[set[int], bool]:
        try:
            with every_org():
                return receive_stream_batches([batch(lease, reply_record(acme, "hello", entry="e1"))])
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as pool:
        saving = pool.map(save, [1])
        until_waits(other)
        assert claim_streams(10) == []
        other.rollback()
        assert next(iter(saving))[0] == {lease.subscription_id}
    assert len(claim_streams(10)) == 1


def until_waits(session: psycopg.Connection) -> None:
    """Wait until somebody waits for a lock."""
    end = time.monotonic() + 5
    while not session.execute(SOMEBODY_WAITS).fetchone():
        assert time.monotonic() < end
        time.sleep(0.02)
