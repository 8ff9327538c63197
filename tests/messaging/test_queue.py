"""The lane protocol against the real database; where two processes race, two connections do."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import OperationalError, connection, transaction
from django.utils import timezone

from connector.salesforce.interactions import Delivered
from messaging import circuits, claims, results, retry
from messaging.circuits import UPSTREAM_OF, Call, Endpoint
from messaging.claims import Claim, Given, Pause, Waiting
from messaging.conversations import TemplateMessage, start_outbound
from messaging.delivery import Result
from messaging.expiry import expire_waiting
from messaging.models import Attempt, Circuit, Conversation, Direction, Lane, Message, Outcome, Status
from messaging.queue import NewMessage, append, mark_due
from messaging.receipts import pending_receipts
from tenants.tenancy import every_org
from tests.conftest import World, delivery_report, whatsapp_text
from tests.support.happenings import SOMEBODY_WAITS, in_another_connection, receive_webhook, wait_until

pytestmark = pytest.mark.django_db(transaction=True)

ME, ANOTHER = 101, 102  # holders, of which nobody lives: no session keeps their locks

Taken = tuple[Claim, Waiting]


@pytest.fixture(autouse=True)
def see_every_org() -> Iterator[None]:
    with every_org():
        yield


def write(world: World, *texts: str, user: str = "385991234567") -> None:
    for text in texts:
        result = whatsapp_text(text, to=world.sender.number, user=user, message_id=f"wamid.{uuid4()}")
        receive_webhook(world.account, [result])


def take(most: int = 10, holder: int = ME) -> list[Taken]:
    """Claim lanes and take the next message of each, as a worker does."""
    with transaction.atomic():
        taken = claims.take([Given(due.id) for due in claims.lock_due(most)], holder=holder)
    return [(claim, message) for claim, message in taken if message is not None]


def ended(taken: Taken, outcome: Outcome = Outcome.SENT, **more: Any) -> Result:
    claim, message = taken
    return Result(claim, message, outcome, claim.endpoint_id, **more)


def record(*ended: Result, holder: int = ME) -> list[Taken]:
    """Record results, and take what the lanes carry next."""
    with transaction.atomic():
        taken = claims.take(results.record(ended, holder=holder), holder=holder)
    return [(claim, message) for claim, message in taken if message is not None]


def find_the_dead(me: int = ANOTHER) -> int:
    with transaction.atomic():
        return claims.mark_abandoned_attempts_in_doubt(me=me)


def inbound_lane() -> Lane:
    return Lane.objects.get(direction=Direction.INBOUND)


def test_a_lane_is_claimed_by_one_process_only(acme: World) -> None:
    write(acme, "hello")
    assert len(take()) == 1
    assert take(holder=ANOTHER) == []


def test_lanes_that_another_process_is_taking_are_passed_over(acme: World) -> None:
    """Nobody waits for them, and nobody takes them twice."""
    write(acme, "hello")
    seen: list[list[claims.Due]] = []

    def look() -> None:
        with transaction.atomic():
            seen.append(claims.lock_due(10))

    with transaction.atomic():
        assert len(claims.lock_due(10)) == 1
        in_another_connection(look).join(5)
        assert seen == [[]]


def test_messages_of_a_lane_are_carried_in_order_of_position(acme: World) -> None:
    write(acme, "one", "two", "three")
    (taken,) = take()
    carried = [taken[1].text]
    going_on = record(ended(taken))
    while going_on:
        (taken,) = going_on
        carried.append(taken[1].text)
        going_on = record(ended(taken))
    assert carried == ["one", "two", "three"]
    lane = inbound_lane()
    assert lane.due_at is None and lane.holder is None and lane.trying is None
    assert set(Message.objects.values_list("status", flat=True)) == {Status.SENT}


def test_what_arrived_while_the_last_message_was_under_way_keeps_the_lane(acme: World) -> None:
    write(acme, "one")
    (taken,) = take()
    write(acme, "two")  # after the look, before the release
    [(_, message)] = record(ended(taken))
    assert message.text == "two"


def test_a_record_that_was_rolled_back_is_made_again_as_if_for_the_first_time(acme: World) -> None:
    """A book-keeper keeps what ended in memory until it is committed, and records it again where the database failed."""
    write(acme, "one")
    (taken,) = take()
    write(acme, "two")
    with pytest.raises(RuntimeError), transaction.atomic():
        assert len(results.record([ended(taken)], holder=ME)) == 1
        raise RuntimeError("the database went away before the commit")
    [(_, message)] = record(ended(taken))
    assert message.text == "two"


def test_an_arrival_that_commits_during_the_release_is_not_forgotten(acme: World) -> None:
    """The arrival holds the lane while the release waits for it; the counter tells the release that something came."""
    write(acme, "one")
    (taken,) = take()
    arrived, commit = threading.Event(), threading.Event()

    def arrive() -> None:
        with transaction.atomic():
            write(acme, "two")
            arrived.set()
            commit.wait(10)

    arrival = in_another_connection(arrive)
    assert arrived.wait(10)
    going_on: list[Taken] = []
    release = in_another_connection(lambda: going_on.extend(record(ended(taken))))
    release.join(0.3)
    assert release.is_alive(), "the release must wait for the arrival that holds the lane"
    commit.set()
    arrival.join()
    release.join()
    assert [message.text for _, message in going_on] == ["two"]


def test_an_arrival_that_waits_for_the_release_makes_the_lane_due_again(acme: World) -> None:
    write(acme, "one")
    (taken,) = take()
    with transaction.atomic():
        assert claims.take(results.record([ended(taken)], holder=ME), holder=ME) == []
        arrival = in_another_connection(lambda: write(acme, "two"))
        arrival.join(0.3)
        assert arrival.is_alive(), "the arrival must wait for the release that holds the lane"
    arrival.join()
    assert inbound_lane().due_at is not None
    ((_, message),) = take()
    assert message.text == "two"


def test_the_message_under_way_is_committed_with_its_holder_before_anything_is_called(acme: World) -> None:
    write(acme, "one")
    ((_, message),) = take()
    lane = inbound_lane()
    assert (lane.holder, lane.trying) == (ME, message.id)


def test_a_result_of_a_lane_that_was_taken_over_does_not_count(acme: World) -> None:
    write(acme, "one")
    (first,) = take()
    assert find_the_dead() == 1
    (second,) = take(holder=ANOTHER)
    assert second[1].id == first[1].id
    record(ended(first, Outcome.REFUSED, detail="from the past"))
    assert inbound_lane().holder == ANOTHER
    assert Message.objects.get().status == Status.PENDING
    record(ended(second), holder=ANOTHER)
    assert Message.objects.get().status == Status.SENT


def test_a_result_of_another_message_than_the_one_under_way_does_not_count(acme: World) -> None:
    write(acme, "one", "two")
    (first,) = take()
    (second,) = record(ended(first))
    record(ended(first, Outcome.REFUSED, detail="comes a second time"))
    assert inbound_lane().trying == second[1].id
    assert Message.objects.get(text="one").status == Status.SENT


def test_a_try_from_before_lets_go_of_no_lane_in_which_the_next_is_under_way(acme: World) -> None:
    write(acme, "one", "two")
    (first,) = take()
    (second,) = record(ended(first))
    Message.objects.filter(pk=first[1].id).update(status=Status.PENDING)
    assert record(ended(first, Outcome.RETRY)) == []
    lane = inbound_lane()
    assert (lane.holder, lane.trying) == (ME, second[1].id)


def test_a_try_whose_process_died_is_in_doubt_and_made_again_with_the_same_id(acme: World) -> None:
    write(acme, "one")
    (first,) = take()
    find_the_dead()
    (second,) = take(holder=ANOTHER)
    assert second[1].uuid == first[1].uuid
    assert Attempt.objects.get().outcome == Outcome.IN_DOUBT and Message.objects.get().tries == 1


def test_a_try_of_the_dead_is_not_in_doubt_if_a_report_settled_its_message(acme: World) -> None:
    write(acme, "one")
    take()
    Message.objects.update(status=Status.DELIVERED)
    assert find_the_dead() == 1
    assert not Attempt.objects.exists() and take(holder=ANOTHER) == []


def test_a_send_whose_process_died_waits_a_moment_for_a_report(acme: World) -> None:
    queue_template(acme)
    take()
    find_the_dead()
    assert take(holder=ANOTHER) == []
    lane = Lane.objects.get(direction=Direction.OUTBOUND)
    assert lane.retry_at is not None and lane.retry_at - timezone.now() < timedelta(seconds=1.1)


def test_lanes_of_a_process_that_lives_are_left_alone(acme: World) -> None:
    write(acme, "one")
    take()
    locked, done = threading.Event(), threading.Event()

    def live() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s::int, %s::int)", [claims.HOLDER_LOCKS, ME])
        locked.set()
        done.wait(10)

    life = in_another_connection(live)
    assert locked.wait(10)
    assert find_the_dead() == 0 and inbound_lane().holder == ME
    done.set()
    life.join()
    wait_until(lambda: find_the_dead() == 1)
    assert inbound_lane().holder is None


def test_a_process_never_takes_its_own_lanes_for_those_of_the_dead(acme: World) -> None:
    write(acme, "one")
    take()
    assert find_the_dead(me=ME) == 0


def test_one_without_a_route_is_not_tried_and_is_never_given_up_for_that(acme: World) -> None:
    write(acme, "one")
    for _ in range(10):
        Lane.objects.update(retry_at=None)
        Lane.objects.filter(due_at__isnull=False).update(due_at=timezone.now())
        (taken,) = take()
        record(ended(taken, Outcome.RETRY, detail="the org is disconnected", called=False))
    message = Message.objects.get()
    assert (message.tries, message.status, message.error) == (0, Status.PENDING, "the org is disconnected")
    assert not Attempt.objects.exists() and not Circuit.objects.exists()


def test_a_success_leaves_no_attempt_behind(acme: World) -> None:
    write(acme, "one")
    (taken,) = take()
    record(ended(taken))
    message = Message.objects.get()
    assert message.tries == 1 and not Attempt.objects.exists()
    assert message.status_at >= message.created_at


def test_the_session_that_an_answer_names_is_noted_and_so_is_the_next(acme: World) -> None:
    write(acme, "one", "two")
    (taken,) = take()
    (taken,) = record(ended(taken, delivered=Delivered("c0a2c1b4", "0Mw000000000001")))
    known = Conversation.objects.get()
    assert (known.identifier, known.session, known.session_open) == ("c0a2c1b4", "0Mw000000000001", True)
    record(ended(taken, delivered=Delivered("c0a2c1b4", "0Mw000000000002")))
    assert Conversation.objects.get().session == "0Mw000000000002"


def test_a_result_that_cannot_be_recorded_sets_its_lane_aside_in_doubt(acme: World) -> None:
    write(acme, "one")
    ((claim, _),) = take()
    claims.set_aside(claim.lane_id, holder=ME)
    assert Attempt.objects.get().outcome == Outcome.IN_DOUBT
    assert inbound_lane().holder is None and take() == []


def test_a_process_sets_no_lane_aside_that_another_holds(acme: World) -> None:
    """It was frozen meanwhile: what its successor tries is not in doubt."""
    write(acme, "one")
    ((claim, message),) = take(holder=ANOTHER)
    claims.set_aside(claim.lane_id, holder=ME)
    assert (inbound_lane().holder, inbound_lane().trying) == (ANOTHER, message.id)
    assert not Attempt.objects.exists()


def test_trouble_of_the_database_is_no_fault_of_the_message_that_is_read_just_then(
    acme: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(acme, "one")

    def be_gone(*_: object, **__: object) -> None:
        raise OperationalError("server closed the connection unexpectedly")

    with monkeypatch.context() as patched, transaction.atomic():
        patched.setattr(claims, "take", be_gone)
        with pytest.raises(OperationalError):
            claims.set_unreadable_aside(10)
    assert Message.objects.get().status == Status.PENDING


def test_an_end_users_message_that_is_refused_leaves_a_line_for_the_rep(acme: World) -> None:
    write(acme, "one")
    (taken,) = take()
    ((_, message),) = record(ended(taken, Outcome.REFUSED, detail="format not valid"))
    assert message.text.endswith("could not be shown here — format not valid.") and message.ours
    assert record(ended((_, message), Outcome.REFUSED, detail="format not valid")) == []


def test_an_outage_does_not_count_as_a_messages_own_failing(acme: World) -> None:
    """Twenty minutes of outage, and then one 429: the message is not given up at its second try."""
    write(acme, "one")
    Message.objects.update(created_at=timezone.now() - timedelta(minutes=21))
    (taken,) = take()
    record(ended(taken, Outcome.RETRY, retry_after=0.0))
    Message.objects.update(failed_at=timezone.now() - timedelta(minutes=20))
    make_due()
    Circuit.objects.update(last_success_at=timezone.now(), failures=0)  # others pass again
    (taken,) = take()
    record(ended(taken, Outcome.RETRY, status=429, retry_after=0.0))
    message = Message.objects.get()
    assert (message.status, message.own_failures) == (Status.PENDING, 1)


def make_due() -> None:
    Lane.objects.filter(due_at__isnull=False).update(retry_at=None, due_at=timezone.now())


def test_a_failure_pauses_the_lane_and_an_arrival_does_not_cut_the_pause_short(acme: World) -> None:
    write(acme, "one")
    (taken,) = take()
    record(ended(taken, Outcome.RETRY, retry_after=60.0))
    lane = inbound_lane()
    assert lane.failures == 1 and lane.retry_at is not None
    assert lane.retry_at - timezone.now() > timedelta(seconds=50)
    paused_until = lane.retry_at
    write(acme, "two")
    due_at = inbound_lane().due_at
    assert due_at is not None and due_at >= paused_until, "nor is it looked at in vain meanwhile"
    assert take() == []
    make_due()
    ((_, message),) = take()
    assert message.text == "one", "the message that failed stays in front"


def test_what_a_process_that_stops_gives_back_is_due_at_once_and_has_not_failed(acme: World) -> None:
    write(acme, "one")
    (taken,) = take()
    record(ended(taken, Outcome.RETRY, called=False))
    lane = inbound_lane()
    assert (lane.holder, lane.failures, lane.retry_at) == (None, 0, None)
    assert lane.due_at is not None and lane.due_at <= timezone.now()


def test_a_lane_that_waits_stays_with_the_endpoint_of_what_is_first_in_it(acme: World) -> None:
    """Else each arrival takes a lane out from behind the circuit that its first message waits for."""
    write(acme, "one")
    lane = inbound_lane()
    with transaction.atomic():
        append([_another(lane, endpoint_id=lane.endpoint_id + 1)])
    assert inbound_lane().endpoint_id == lane.endpoint_id
    Lane.objects.update(due_at=None)
    with transaction.atomic():
        append([_another(lane, endpoint_id=lane.endpoint_id + 1)])
    assert inbound_lane().endpoint_id == lane.endpoint_id + 1


def _another(lane: Lane, *, endpoint_id: int) -> NewMessage:
    return NewMessage(
        org_id=lane.org_id,
        lane_id=lane.pk,
        conversation_id=lane.conversation_id,
        direction=Direction.INBOUND,
        channel_id=lane.conversation.channel_id,
        sender_id=None,
        endpoint_id=endpoint_id,
        source_entry=str(uuid4()),
        text="another",
        written_at=timezone.now(),
    )


def test_pauses_double_and_stay_below_the_longest() -> None:
    for failures, longest in [(0, 1.0), (1, 2.0), (3, 8.0), (9, 20.0), (1000, 20.0)]:
        pause = retry.backoff_seconds(failures, None)
        assert longest / 2 <= pause <= longest
    assert retry.backoff_seconds(0, 45.0) == 45.0


def test_a_message_refused_for_good_does_not_hold_up_the_next(acme: World) -> None:
    write(acme, "one", "two")
    (taken,) = take()
    [(_, message)] = record(ended(taken, Outcome.REFUSED, code="10048", detail="format not valid"))
    assert message.text == "two"
    refused = Message.objects.get(text="one")
    assert (refused.status, refused.error_code, refused.error) == (Status.FAILED, "10048", "format not valid")


def test_the_answer_to_a_send_does_not_undo_a_report_that_was_faster(acme: World) -> None:
    write(acme, "one")
    (taken,) = take()
    Message.objects.update(status=Status.DELIVERED)
    record(ended(taken))
    assert Message.objects.get().status == Status.DELIVERED


def test_a_try_in_vain_gives_up_nothing_that_a_report_settled_meanwhile(acme: World) -> None:
    write(acme, "one")
    (taken,) = take()
    Message.objects.update(status=Status.DELIVERED, created_at=timezone.now() - timedelta(hours=73))
    record(ended(taken, Outcome.RETRY))
    message = Message.objects.get()  # no line says that it is missing
    assert (message.status, message.failed_at) == (Status.DELIVERED, None)


def test_what_became_of_a_send_in_doubt_is_waited_for(acme: World) -> None:
    write(acme, "one")
    Lane.objects.filter(direction=Direction.INBOUND).update(due_at=None)
    Lane.objects.filter(direction=Direction.OUTBOUND).update(due_at=timezone.now())
    Message.objects.update(lane=Lane.objects.get(direction=Direction.OUTBOUND), direction=Direction.OUTBOUND)
    (taken,) = take()
    record(ended(taken, Outcome.IN_DOUBT))
    lane = Lane.objects.get(direction=Direction.OUTBOUND)
    assert lane.retry_at is not None and lane.retry_at - timezone.now() > timedelta(seconds=9)
    Message.objects.update(status=Status.DELIVERED)  # the report that was waited for
    Lane.objects.filter(pk=lane.pk).update(retry_at=timezone.now())
    assert take() == []


def fail_until_hopeless(world: World, *, others_pass: bool) -> Message:
    write(world, "the one that fails")
    failing = Message.objects.get()
    for _ in range(retry.MOST_OWN_FAILURES + 1):
        Lane.objects.filter(due_at__isnull=False).update(retry_at=None, due_at=timezone.now())
        (taken,) = (each for each in take(1) if each[1].id == failing.pk)
        record(ended(taken, Outcome.RETRY, detail="internal error", retry_after=0.0))
        if others_pass:
            Circuit.objects.update(last_success_at=timezone.now(), failures=0)
        failing.refresh_from_db()
        if failing.status == Status.FAILED:
            break
    return failing


def test_a_message_that_keeps_failing_while_others_pass_is_given_up_and_the_lane_goes_on(acme: World) -> None:
    failing = fail_until_hopeless(acme, others_pass=True)
    assert failing.status == Status.FAILED
    assert failing.error == "it kept failing while other messages passed (internal error)"
    write(acme, "the next one")
    find_the_dead()
    (taken,) = take()
    assert taken[1].ours  # the line that tells the rep
    ((_, message),) = record(ended(taken))
    assert message.text == "the next one"


def test_while_nothing_passes_all_wait(acme: World) -> None:
    assert fail_until_hopeless(acme, others_pass=False).status == Status.PENDING


def test_nothing_waits_longer_than_72_hours(acme: World) -> None:
    write(acme, "one")
    Message.objects.update(created_at=timezone.now() - timedelta(hours=73))
    (taken,) = take()
    record(ended(taken, Outcome.RETRY))
    assert Message.objects.get(ours=False).error.startswith("it could not be delivered for 72 hours")


def test_nothing_waits_longer_than_72_hours_behind_an_open_circuit_either(acme: World, rival: World) -> None:
    """Nothing is tried there, so nothing ends by itself."""
    write(acme, "old", "old too")
    write(acme, "another's", user="385997654321")
    template = queue_template(rival)
    Message.objects.exclude(text="another's").update(created_at=timezone.now() - timedelta(hours=73))
    write(acme, "young")
    for lane in Lane.objects.filter(due_at__isnull=False).distinct():
        endpoint = Endpoint(lane.org_id, UPSTREAM_OF[Direction(lane.direction)], lane.endpoint_id)
        circuits.note([Call(endpoint, number, False) for number in range(5)])
    assert expire_waiting() == 3
    assert set(Message.objects.filter(status=Status.PENDING, ours=False).values_list("text", flat=True)) == {
        "another's",
        "young",
    }
    line = Message.objects.get(org=acme.org, ours=True)
    assert line.text.endswith("2 messages could not be shown here — it could not be delivered for 72 hours.")
    template.refresh_from_db()
    assert (template.status, template.error) == (Status.FAILED, "it could not be delivered for 72 hours")
    assert Lane.objects.get(conversation=template.conversation_id, direction=Direction.RECEIPTS).due_at is not None
    assert expire_waiting() == 0


def test_a_reps_text_ends_with_its_window(acme: World) -> None:
    write(acme, "one")
    Lane.objects.filter(direction=Direction.OUTBOUND).update(due_at=timezone.now())
    Message.objects.update(lane=Lane.objects.get(direction=Direction.OUTBOUND), direction=Direction.OUTBOUND)
    Conversation.objects.update(window_closes_at=timezone.now() - timedelta(minutes=1))
    (taken,) = take()
    record(ended(taken, Outcome.RETRY))
    message = Message.objects.get()
    assert message.status == Status.FAILED and "send a template" in message.error


def test_due_lanes_are_found_through_the_partial_index(acme: World) -> None:
    write(acme, "one")
    with connection.cursor() as cursor:
        cursor.execute("SET enable_seqscan = off")
        cursor.execute("EXPLAIN SELECT id FROM messaging_lane WHERE due_at <= now() AND holder IS NULL")
        assert "lane_due" in " ".join(row[0] for row in cursor.fetchall())
        cursor.execute("RESET enable_seqscan")


def test_batches_that_touch_the_same_lanes_crosswise_do_not_lock_each_other_out(acme: World) -> None:
    users = [f"38599{n:07d}" for n in range(12)]

    def batch(order: list[str]) -> None:
        for _ in range(8):
            receive_webhook(
                acme.account,
                [whatsapp_text("x", to=acme.sender.number, user=u, message_id=f"wamid.{uuid4()}") for u in order],
            )

    threads = [in_another_connection(lambda: batch(users)), in_another_connection(lambda: batch(users[::-1]))]
    for thread in threads:
        thread.join()
    assert Message.objects.count() == 12 * 8 * 2
    for lane in Lane.objects.filter(direction=Direction.INBOUND):
        positions = list(lane.messages.order_by("position").values_list("position", flat=True))
        assert positions == list(range(1, 17))


def wait_until_somebody_waits_for_a_lock() -> None:
    until = time.monotonic() + 10
    while time.monotonic() < until:
        with connection.cursor() as cursor:
            cursor.execute(SOMEBODY_WAITS)
            if cursor.fetchone():
                return
        time.sleep(0.01)
    raise AssertionError("nobody waits for a lock")


def write_again(world: World, users: list[str]) -> None:
    results = [whatsapp_text("x", to=world.sender.number, user=user, message_id=f"wamid.{uuid4()}") for user in users]
    receive_webhook(world.account, results)


def report_on(world: World, users: list[str]) -> None:
    """Receipts of messages to these users, whose lanes for receipts become due."""
    receive_webhook(world.account, [delivery_report(str(outbound(user).uuid)) for user in users])


def outbound(user: str) -> Message:
    return Message.objects.get(conversation__subject=user, direction=Direction.OUTBOUND)


def record_results(world: World, users: list[str]) -> None:
    """Of lanes that this process holds; some fail, so that the lanes beside theirs are written to as well."""
    lanes = [Lane.objects.get(direction=Direction.INBOUND, conversation__subject=user) for user in users]
    with transaction.atomic():
        claims.lock_held({lane.pk: 0 for lane in lanes}, holder=ME, neighbours_of=[lane.conversation_id for lane in lanes])


@pytest.mark.parametrize(
    ("work", "direction"),
    [
        (write_again, Direction.INBOUND),
        (report_on, Direction.RECEIPTS),
        (record_results, Direction.INBOUND),
    ],
)
def test_lanes_are_locked_in_the_order_of_their_ids(
    acme: World, work: Callable[[World, list[str]], None], direction: Direction
) -> None:
    """Who waits for the first lane must not hold a later one: else two of them wait for each other for ever.

    The users' addresses are in the opposite order of their lanes, so that no other order passes by chance.
    """
    users = [f"38599{number:07d}" for number in range(8)]
    for user in reversed(users):
        write(acme, "hello", user=user)
        queue_template(acme, user)
    first, *others = Lane.objects.filter(direction=direction).order_by("id").values_list("id", flat=True)
    with transaction.atomic():
        Lane.objects.select_for_update().get(pk=first)
        thread = in_another_connection(lambda: work(acme, users))
        wait_until_somebody_waits_for_a_lock()
        free = Lane.objects.select_for_update(skip_locked=True).filter(pk__in=others).order_by("id")
        assert list(free.values_list("id", flat=True)) == others
    thread.join()


def test_who_fails_messages_holds_no_later_lane_while_it_waits_for_their_receipts(acme: World) -> None:
    for number in range(4):
        queue_template(acme, f"38599{number:07d}")
    failed = [ended(each, Outcome.REFUSED, detail="format not valid") for each in take()]
    first = Lane.objects.filter(direction=Direction.RECEIPTS).earliest("id").pk
    later = list(Lane.objects.filter(pk__gt=first).order_by("id").values_list("id", flat=True))
    with transaction.atomic():
        Lane.objects.select_for_update().get(pk=first)
        thread = in_another_connection(lambda: record(*failed))
        wait_until_somebody_waits_for_a_lock()
        free = Lane.objects.select_for_update(skip_locked=True).filter(pk__in=later).order_by("id")
        assert len(failed) == 4 and list(free.values_list("id", flat=True)) == later
    thread.join()


def test_positions_are_given_under_the_lock_of_the_lane(acme: World) -> None:
    write(acme, "one")
    arrived, commit = threading.Event(), threading.Event()

    def arrive() -> None:
        with transaction.atomic():
            queue_template(acme, text="two")
            arrived.set()
            commit.wait(10)

    queue_template(acme, text="one")
    first = in_another_connection(arrive)
    assert arrived.wait(10)
    second = in_another_connection(lambda: queue_template(acme, text="three"))
    wait_until_somebody_waits_for_a_lock()
    commit.set()
    first.join()
    second.join()
    sent = Message.objects.filter(direction=Direction.OUTBOUND).order_by("position")
    assert list(sent.values_list("text", "position")) == [
        ("one", 1),
        ("two", 2),
        ("three", 3),
    ]


def queue_template(world: World, user: str = "385991234567", text: str = "Template order_update (en)") -> Message:
    template = TemplateMessage(uuid4(), {"templateName": "order_update"}, text)
    with transaction.atomic():
        start_outbound(world.sender, user, name="", language="", template=template)
    return Message.objects.get(uuid=template.uuid)


def test_a_template_does_not_end_with_the_window(acme: World) -> None:
    queue_template(acme)
    Conversation.objects.update(window_closes_at=timezone.now() - timedelta(minutes=1))
    ((claim, message),) = take()
    assert message.template is not None and json.loads(message.template) == {"templateName": "order_update"}
    record(ended((claim, message), Outcome.RETRY))
    assert Message.objects.get().status == Status.PENDING


def test_a_tick_that_comes_while_receipts_are_reported_is_not_forgotten(acme: World) -> None:
    write(acme, "one")
    lane = Lane.objects.get(direction=Direction.RECEIPTS)
    with transaction.atomic():
        mark_due({lane.pk: acme.channel.pk})
        ((claim, message),) = claims.take([Given(lane.pk)], holder=ME)
        mark_due({lane.pk: acme.channel.pk})
        claims.release([Pause(lane.pk, None, version=claim.version)])
    lane.refresh_from_db()
    assert message is None and lane.holder is None and lane.due_at is not None


def test_salesforce_is_told_nothing_of_what_it_has_no_entry_of(acme: World) -> None:
    message = queue_template(acme)
    Conversation.objects.update(identifier="c0a2c1b4")
    Message.objects.update(status=Status.DELIVERED)
    assert pending_receipts([message.conversation_id]) == {}
    Message.objects.update(ours=False)
    assert pending_receipts([message.conversation_id]).keys() == {message.conversation_id}
