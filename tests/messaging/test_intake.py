"""What the door appended and streams brought is taken in many orgs at a time; what raises costs nobody else anything."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import Error as DatabaseError
from django.db import connection, transaction
from django.utils import timezone

from connector.infobip import webhooks
from connector.salesforce.platform_events import PlatformEvent, Topic, parse_event
from messaging import intake
from messaging.intake import StreamBatch, receive_stream_batches, take_inbox
from messaging.models import Conversation, EventSubscription, Inbox, Lane, Message, ReceivedEvent, Status
from tenants.models import InfobipAccount
from tenants.tenancy import every_org
from tests.conftest import World, delivery_report, reply_record, whatsapp_text
from tests.support.happenings import SOMEBODY_WAITS, in_another_connection, wait_until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def see_every_org() -> Iterator[None]:
    with every_org():
        yield


def append(world: World, *results: object, account: InfobipAccount | None = None) -> Inbox:
    body = json.dumps({"results": list(results)}).encode()
    return Inbox.objects.create(org_id=world.org.pk, account_id=(account or world.account).pk, body=body)


def written(world: World, text: str, **more: Any) -> dict[str, Any]:
    return whatsapp_text(text, to=world.sender.number, **{"message_id": f"wamid.{uuid4()}", **more})


def subscribe(world: World, topic: str = "/event/Infobip_Event__e") -> EventSubscription:
    return EventSubscription.objects.create(
        org=world.org, topic=topic, since=timezone.now() - timedelta(hours=1), lease_id=uuid4()
    )


def brought(world: World, subscription: EventSubscription, *texts: str) -> StreamBatch:
    assert subscription.lease_id is not None
    events = [PlatformEvent(str(uuid4()), b"raw", reply_record(world, text, entry=str(uuid4()))) for text in texts]
    topic = Topic("/event/Infobip_Event__e", "00D", "EventType__c", "Payload__c")
    place = f"after {texts[-1]}".encode()
    return StreamBatch(world.org.pk, subscription.pk, subscription.lease_id, subscription.since, topic, events, place)


@contextmanager
def refusing(text: str, code: str) -> Iterator[None]:
    """Let the database raise this SQLSTATE for messages of this text, as a constraint, or a full disk, would."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"""CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                    IF NEW.text = '{text}' THEN RAISE EXCEPTION 'refused' USING ERRCODE = '{code}'; END IF;
                    RETURN NEW; END $$"""
        )
        cursor.execute("CREATE TRIGGER refuse BEFORE INSERT ON messaging_message FOR EACH ROW EXECUTE FUNCTION refuse()")
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP TRIGGER refuse ON messaging_message")
            cursor.execute("DROP FUNCTION refuse")


def texts(status: str = Status.PENDING) -> set[str]:
    return set(Message.objects.filter(status=status).values_list("text", flat=True))


def test_one_that_raises_is_set_aside_and_costs_neither_its_org_nor_another_anything(acme: World, rival: World) -> None:
    append(acme, written(acme, "before"), written(acme, "poison"), written(acme, "after"))
    append(rival, written(rival, "neighbour"))
    with refusing("poison", "22003"):
        assert take_inbox().taken == 2
    assert texts() == {"before", "after", "neighbour"}
    aside = ReceivedEvent.objects.get(kind="unreadable")
    assert aside.org == acme.org and "cannot be taken in" in aside.problem
    assert json.loads(bytes(aside.body))["message"]["text"] == "poison"
    assert ReceivedEvent.objects.filter(problem="").count() == 3
    assert take_inbox().taken == 0  # never tried again by itself


@pytest.mark.parametrize("code", ["53100", "25006", "57014", "XX000"])
def test_trouble_of_the_database_sets_nothing_aside(acme: World, code: str) -> None:
    """A full disk, a primary that became a replica, a statement that took too long: all wait."""
    append(acme, written(acme, "hello"))
    with refusing("hello", code), pytest.raises(DatabaseError):
        take_inbox()
    assert Inbox.objects.count() == 1 and not ReceivedEvent.objects.exists()
    assert take_inbox().taken == 1 and texts() == {"hello"}


def test_what_is_not_json_is_kept_with_its_reason(acme: World) -> None:
    for body in (b"{", b"[" * 200_000, b"\xff\xfe{}", b'{"results": ' + b"9" * 5000 + b"}"):
        Inbox.objects.create(org_id=acme.org.pk, account_id=acme.account.pk, body=body)
    append(acme, written(acme, "hello"))
    assert take_inbox().taken == 5
    assert texts() == {"hello"}
    assert ReceivedEvent.objects.exclude(problem="").count() == 4


ODD_TIMES = [
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59-14:00",
    "9999-12-31T23:59:59.999Z",
    "1969-12-31T23:59:59Z",
    "-0001-01-01T00:00:00Z",
]


@pytest.mark.parametrize("at", ODD_TIMES)
def test_no_time_that_a_webhook_names_stops_anybody(acme: World, rival: World, at: str) -> None:
    message = written(acme, "odd") | {"receivedAt": at}
    report = delivery_report(str(uuid4())) | {"doneAt": at}
    seen = {"messageId": str(uuid4()), "from": "x", "to": "y", "seenAt": at}
    append(acme, message, report, seen)
    append(rival, written(rival, "hello"))
    assert take_inbox().taken == 2
    assert texts() == {"odd", "hello"}
    odd = Message.objects.get(text="odd")
    assert abs(odd.written_at - timezone.now()) < timedelta(minutes=1)  # the time of its arrival stands in
    assert odd.conversation.window_closes_at is not None


def test_a_shape_that_nobody_foresaw_costs_that_result_alone(acme: World, monkeypatch: pytest.MonkeyPatch) -> None:
    parse = webhooks.parse_result

    def parse_or_fail(result: Any, **more: Any) -> Any:
        if result["message"]["text"] == "odd":
            raise KeyError("not foreseen")
        return parse(result, **more)

    monkeypatch.setattr(webhooks, "parse_result", parse_or_fail)
    append(acme, written(acme, "before"), written(acme, "odd"), written(acme, "after"))
    assert take_inbox().taken == 1 and texts() == {"before", "after"}
    assert ReceivedEvent.objects.get(kind="unreadable").problem == "unforeseen: KeyError"


def test_a_shape_that_nobody_foresaw_costs_that_event_alone(acme: World, monkeypatch: pytest.MonkeyPatch) -> None:
    parse = parse_event

    def parse_or_fail(event: PlatformEvent, topic: Topic) -> Any:
        if event.record is not None and "odd" in str(event.record):
            raise KeyError("not foreseen")
        return parse(event, topic)

    monkeypatch.setattr(intake, "parse_event", parse_or_fail)
    subscription = subscribe(acme)
    receive_stream_batches([brought(acme, subscription, "before", "odd", "after")])
    assert texts() == {"before", "after"}
    assert ReceivedEvent.objects.get(kind="unreadable").problem == "unforeseen: KeyError"
    subscription.refresh_from_db()
    assert bytes(subscription.replay_id) == b"after after"


def test_an_account_that_was_removed_meanwhile_stops_nobody(acme: World, rival: World) -> None:
    gone = InfobipAccount.objects.create(
        org=acme.org, name="gone", base_url="https://gone.api.infobip.com", api_key="k", webhook_secret="s"
    )
    append(acme, written(acme, "to nobody"), account=gone)
    gone.delete()
    append(rival, written(rival, "hello"))
    assert take_inbox().taken == 2 and texts() == {"hello"}
    assert not Inbox.objects.exists()


def test_each_org_has_its_share_of_a_turn(acme: World, rival: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "ROWS_OF_ORG", 3)
    for n in range(5):
        append(acme, written(acme, f"flood {n}"))
    append(rival, written(rival, "hello"))
    assert take_inbox().taken == 4 and "hello" in texts()
    assert texts() == {"hello", "flood 0", "flood 1", "flood 2"}  # the oldest first


def test_a_giant_waits_for_a_turn_of_its_own(acme: World, rival: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "BYTES_OF_ORG", 5000)
    append(acme, written(acme, "small"))
    append(acme, written(acme, "giant " * 1000))
    append(rival, written(rival, "hello"))
    assert take_inbox().taken == 2 and texts() == {"small", "hello"}
    assert take_inbox().taken == 1 and len(texts()) > 2


def test_a_delivery_of_many_results_is_taken_in_turns_between_which_others_come(
    acme: World, rival: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one signed webhook of 5,000 results is one transaction of seconds, in which nobody else has a turn."""
    monkeypatch.setattr(intake, "RESULTS_OF_ORG", 4)
    append(acme, *(written(acme, f"{n}", user=f"38591{n:07d}") for n in range(10)))
    append(acme, written(acme, "afterwards"))
    turn = take_inbox()
    assert turn.more and texts() == {"0", "1", "2", "3"}
    append(rival, written(rival, "hello"))
    assert take_inbox().more and texts() == {*"01234567", "hello"}
    assert Inbox.objects.get(org_id=acme.org.pk, taken=8)  # whoever goes on knows how far it got
    assert take_inbox().taken == 2 and texts() == {*"0123456789", "hello", "afterwards"}
    assert not Inbox.objects.exists()
    assert ReceivedEvent.objects.count() == 12


def test_of_all_orgs_together_a_turn_takes_so_many_results(
    acme: World, rival: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "RESULTS_AT_ONCE", 3)
    append(acme, written(acme, "a"), written(acme, "b"))
    append(rival, written(rival, "c"), written(rival, "d"))
    assert take_inbox().more and len(texts()) == 3
    take_inbox()
    assert texts() == {*"abcd"} and not Inbox.objects.exists()


def test_what_found_no_room_in_a_turn_is_taken_in_the_next_at_once(
    acme: World, rival: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "RESULTS_AT_ONCE", 2)
    append(acme, written(acme, "a"), written(acme, "b"))
    append(rival, written(rival, "c"))
    assert take_inbox().more and texts() == {*"ab"}
    assert not take_inbox().more and texts() == {*"abc"}


def test_a_delivery_of_more_results_than_infobip_ever_posts_is_kept_with_that_reason(acme: World) -> None:
    append(acme, *[{}] * 5001)
    take_inbox()
    assert ReceivedEvent.objects.get().problem == "5001 results in one delivery; at most 5000 are read"


@pytest.mark.parametrize("bound", ["ROWS_AT_ONCE", "BYTES_AT_ONCE"])
def test_a_turn_is_bounded_in_all_and_never_empty(
    acme: World, rival: World, bound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many orgs there are; and the first row is taken whatever its size."""
    monkeypatch.setattr(intake, bound, 1)
    append(acme, written(acme, "hello"))
    append(rival, written(rival, "hello too"))
    assert [take_inbox().taken for _ in range(3)] == [1, 1, 0]
    assert texts() == {"hello", "hello too"}


def test_after_a_giant_somebody_looks_at_once(acme: World) -> None:
    append(acme, written(acme, "small"))
    assert not take_inbox().more
    append(acme, written(acme, "giant " * 20_000))
    assert take_inbox().more


def test_a_turn_ends_when_its_time_to_read_is_over_and_never_without_a_result(
    acme: World, rival: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each message is read while everybody's wait, and what one holds may be costly."""
    monkeypatch.setattr(intake, "READ_SECONDS", -1.0)
    append(acme, written(acme, "one"), written(acme, "two"))
    append(rival, written(rival, "theirs"))
    turns = [take_inbox() for _ in range(4)]
    assert [turn.more for turn in turns] == [True, True, False, False]
    assert texts() == {"one", "two", "theirs"} and not Inbox.objects.exists()


def test_a_lane_that_somebody_has_locked_delays_its_org_alone_and_loses_nothing(
    acme: World, rival: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator's open transaction, or a worker that was frozen in the middle of one."""
    append(acme, written(acme, "hello"))
    take_inbox()
    locked, done = threading.Event(), threading.Event()

    def hold() -> None:
        with every_org(), transaction.atomic():
            list(Lane.objects.filter(org=acme.org).select_for_update())
            locked.set()
            done.wait(20)

    thread = in_another_connection(hold)
    assert locked.wait(5)
    try:
        append(acme, written(acme, "mine"))
        append(rival, written(rival, "theirs"))
        assert not take_inbox().more  # or it would be looked at without a pause for as long as the lock is held
        assert "theirs" in texts() and "mine" not in texts()
        append(rival, written(rival, "theirs too"))
        began = time.monotonic()
        take_inbox()  # by now it is known whom to take alone
        assert time.monotonic() - began < 1 and "theirs too" in texts()
    finally:
        done.set()
        thread.join()
    take_inbox()
    assert "mine" in texts() and not Inbox.objects.exists()


def test_one_process_ingests_at_a_time(acme: World) -> None:
    append(acme, written(acme, "hello"))
    locked, done = threading.Event(), threading.Event()

    def ingest_slowly() -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [intake.INGEST_LOCK])
            locked.set()
            done.wait(10)

    other = in_another_connection(ingest_slowly)
    assert locked.wait(10)
    assert take_inbox().taken == 0
    done.set()
    other.join()
    assert take_inbox().taken == 1


def test_streams_of_many_orgs_are_saved_together(acme: World, rival: World) -> None:
    batches = [brought(acme, subscribe(acme), "of acme"), brought(rival, subscribe(rival), "of rival")]
    saved, work = receive_stream_batches(batches)
    assert saved == {batch.subscription_id for batch in batches} and work
    assert texts() == {"of acme", "of rival"}


def test_an_event_that_raises_is_set_aside_and_its_stream_goes_on(acme: World, rival: World) -> None:
    of_acme, of_rival = subscribe(acme), subscribe(rival)
    with refusing("poison", "22003"):
        saved, _ = receive_stream_batches(
            [brought(acme, of_acme, "before", "poison", "after"), brought(rival, of_rival, "neighbour")]
        )
    assert saved == {of_acme.pk, of_rival.pk}
    assert texts() == {"before", "after", "neighbour"}
    of_acme.refresh_from_db()
    assert bytes(of_acme.replay_id) == b"after after"
    assert "cannot be taken in" in ReceivedEvent.objects.get(kind="unreadable").problem


def test_a_stream_whose_event_cannot_even_be_set_aside_waits_and_loses_nothing(acme: World) -> None:
    subscription = subscribe(acme)
    batch = brought(acme, subscription, "hello")
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE messaging_receivedevent ADD CONSTRAINT refuse CHECK (false) NOT VALID")
    try:
        with pytest.raises(DatabaseError):
            receive_stream_batches([batch])
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE messaging_receivedevent DROP CONSTRAINT refuse")
    subscription.refresh_from_db()
    assert bytes(subscription.replay_id) == b""
    receive_stream_batches([batch])
    assert texts() == {"hello"}


def test_streams_are_locked_in_the_order_of_their_ids(acme: World) -> None:
    """Who waits for the first must not hold a later one: else two subscribers wait for each other for ever."""
    subscriptions = [subscribe(acme, f"/event/Infobip_{n}__e") for n in range(8)]
    for each in reversed(subscriptions):
        each.save()  # so that neither the table nor the batches have them in that order by chance, nor a plan
    batches = [brought(acme, each, f"text {each.pk}") for each in reversed(subscriptions)]
    first, *others = [each.pk for each in subscriptions]

    def receive() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET enable_indexscan = off")
            cursor.execute("SET enable_bitmapscan = off")
        receive_stream_batches(batches)

    with transaction.atomic():
        EventSubscription.objects.select_for_update().get(pk=first)
        thread = in_another_connection(receive)
        wait_until(somebody_waits_for_a_lock)
        free = EventSubscription.objects.select_for_update(skip_locked=True).filter(pk__in=others).order_by("id")
        assert list(free.values_list("id", flat=True)) == others
    thread.join()


def somebody_waits_for_a_lock() -> bool:
    with connection.cursor() as cursor:
        cursor.execute(SOMEBODY_WAITS)
        return cursor.fetchone() is not None


def test_a_position_is_saved_with_its_events_or_not_at_all(acme: World) -> None:
    """A process that dies in between reads them again."""
    subscription = subscribe(acme)
    with refusing("hello", "53100"), pytest.raises(DatabaseError):
        receive_stream_batches([brought(acme, subscription, "hello")])
    subscription.refresh_from_db()
    assert bytes(subscription.replay_id) == b"" and not Message.objects.exists()


def test_only_who_has_the_lease_of_a_stream_moves_it(acme: World, rival: World) -> None:
    of_acme, of_rival = subscribe(acme), subscribe(rival)
    lost = brought(acme, of_acme, "lost")
    EventSubscription.objects.filter(pk=of_acme.pk).update(lease_id=uuid4())
    saved, _ = receive_stream_batches([lost, brought(rival, of_rival, "kept")])
    assert saved == {of_rival.pk} and texts() == {"kept"}


def test_what_came_for_a_conversation_in_one_turn_has_one_order(acme: World) -> None:
    at = timezone.now() - timedelta(minutes=1)
    for n in (3, 1, 2):
        append(acme, written(acme, f"{n}", at=(at + timedelta(seconds=n)).isoformat()))
    take_inbox()
    assert list(Message.objects.order_by("position").values_list("text", flat=True)) == ["1", "2", "3"]
    assert Conversation.objects.count() == 1
