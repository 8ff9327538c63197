"""The lane protocol against the real database; where two processes race, two connections do."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection, transaction
from django.utils import timezone

from messaging import lanes
from messaging.ingest import OurTemplate, address, receive_webhook
from messaging.lanes import Claim, Result, Waiting
from messaging.models import Attempt, Circuit, Conversation, Direction, Lane, Message, Outcome, Status
from messaging.relay import untold
from tenants.tenancy import every_org
from tests.conftest import World, whatsapp_text

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def see_every_org() -> Iterator[None]:
    with every_org():
        yield


def write(world: World, *texts: str, user: str = "385991234567") -> None:
    for text in texts:
        result = whatsapp_text(text, to=world.sender.number, user=user, message_id=f"wamid.{uuid4()}")
        receive_webhook(world.account, [result])


def take(most: int = 10) -> list[tuple[Claim, Waiting, int]]:
    """Claim lanes and open the attempt of each one's next message, as a worker does."""
    with transaction.atomic():
        claims = lanes.claim(most)
        heads = lanes.first_waiting([claim.lane_id for claim in claims])
        attempts = lanes.open_attempts([(claim, heads[claim.lane_id]) for claim in claims])
    return [(claim, heads[claim.lane_id], attempts[heads[claim.lane_id].id]) for claim in claims]


def take_any() -> list[tuple[Claim, Waiting, int] | None]:
    """As ``take``, where some lanes may be empty."""
    with transaction.atomic():
        claims = lanes.claim(10)
        heads = lanes.first_waiting([claim.lane_id for claim in claims])
        pairs = [(claim, heads[claim.lane_id]) for claim in claims if claim.lane_id in heads]
        attempts = lanes.open_attempts(pairs)
    return [(claim, message, attempts[message.id]) for claim, message in pairs]


def ended(taken: tuple[Claim, Waiting, int], outcome: Outcome = Outcome.SENT, **more: object) -> Result:
    return Result(*taken, outcome=outcome, **more)  # type: ignore[arg-type]


def record(*results: Result) -> list[tuple[Claim, Waiting]]:
    with transaction.atomic():
        return lanes.record(results)


def let_leases_run_out() -> None:
    Lane.objects.filter(lease_id__isnull=False).update(leased_until=timezone.now() - timedelta(seconds=1))


def inbound_lane() -> Lane:
    return Lane.objects.get(direction=Direction.INBOUND)


def in_another_connection(work: Callable[[], object]) -> threading.Thread:
    def run() -> None:
        with every_org():
            work()
        connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_a_lane_is_claimed_by_one_process_only(acme: World) -> None:
    write(acme, "hello")
    assert len(lanes.claim(10)) == 1
    assert lanes.claim(10) == []


def test_messages_of_a_lane_are_carried_in_order_of_position(acme: World) -> None:
    write(acme, "one", "two", "three")
    (taken,) = take()
    carried = [taken[1].text]
    going_on = record(ended(taken))
    while going_on:
        [(claim, message)] = going_on
        carried.append(message.text)
        attempt = lanes.open_attempts(going_on)[message.id]
        going_on = record(ended((claim, message, attempt)))
    assert carried == ["one", "two", "three"]
    lane = inbound_lane()
    assert lane.due_at is None and lane.lease_id is None
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
        assert len(lanes.record([ended(taken)])) == 1
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
    going_on: list[tuple[Claim, Waiting]] = []
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
        assert lanes.record([ended(taken)]) == []
        arrival = in_another_connection(lambda: write(acme, "two"))
        arrival.join(0.3)
        assert arrival.is_alive(), "the arrival must wait for the release that holds the lane"
    arrival.join()
    assert inbound_lane().due_at is not None
    ((_, message, _),) = take()
    assert message.text == "two"


def test_a_result_under_a_lost_lease_does_not_count(acme: World) -> None:
    write(acme, "one")
    (first,) = take()
    let_leases_run_out()
    (second,) = take()
    assert second[1].id == first[1].id
    record(ended(first, Outcome.REFUSED, detail="from the past"))
    lane = inbound_lane()
    assert lane.lease_id == second[0].lease_id
    assert Message.objects.get().status == Status.PENDING
    record(ended(second))
    assert Message.objects.get().status == Status.SENT


def test_a_try_whose_process_died_is_in_doubt_and_made_again_with_the_same_id(acme: World) -> None:
    write(acme, "one")
    (first,) = take()
    let_leases_run_out()
    (second,) = take()
    assert second[1].uuid == first[1].uuid
    assert list(Attempt.objects.order_by("id").values_list("outcome", flat=True)) == [Outcome.IN_DOUBT, Outcome.OPEN]


def test_a_try_of_the_dead_is_put_in_doubt_even_if_a_report_settled_its_message(acme: World) -> None:
    write(acme, "one")
    take()
    Message.objects.update(status=Status.DELIVERED)
    let_leases_run_out()
    with transaction.atomic():
        assert len(lanes.claim(10)) == 1
    assert Attempt.objects.get().outcome == Outcome.IN_DOUBT


def test_a_heartbeat_prolongs_the_leases_that_are_still_held(acme: World) -> None:
    write(acme, "one")
    write(acme, "hi", user="385997654321")
    kept, lost = take()
    Lane.objects.filter(lease_id__isnull=False).update(leased_until=timezone.now() + timedelta(seconds=1))
    Lane.objects.filter(pk=lost[0].lane_id).update(lease_id=uuid4())
    with transaction.atomic():
        assert lanes.renew([kept[0], lost[0]]) == {kept[0].lane_id}
    ends: dict[int, Any] = dict(Lane.objects.values_list("id", "leased_until"))
    now = timezone.now()
    assert ends[kept[0].lane_id] - now > timedelta(seconds=15)
    assert ends[lost[0].lane_id] - now < timedelta(seconds=2)


def test_a_failure_pauses_the_lane_and_an_arrival_does_not_cut_the_pause_short(acme: World) -> None:
    write(acme, "one")
    (taken,) = take()
    record(ended(taken, Outcome.RETRY, retry_after=60.0))
    lane = inbound_lane()
    assert lane.failures == 1 and lane.retry_at is not None
    assert lane.retry_at - timezone.now() > timedelta(seconds=50)
    write(acme, "two")
    assert lanes.claim(10) == []
    Lane.objects.update(retry_at=timezone.now())
    ((_, message, _),) = take()
    assert message.text == "one", "the message that failed stays in front"


def test_pauses_double_and_stay_below_the_longest() -> None:
    for failures, longest in [(0, 1.0), (1, 2.0), (3, 8.0), (9, 20.0), (1000, 20.0)]:
        pause = lanes.backoff_seconds(failures, None)
        assert longest / 2 <= pause <= longest
    assert lanes.backoff_seconds(0, 45.0) == 45.0


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
    with transaction.atomic():
        claims = lanes.claim(10)
        assert lanes.first_waiting([claim.lane_id for claim in claims]) == {}


def fail_until_hopeless(world: World, *, others_pass: bool) -> Message:
    write(world, "the one that fails")
    failing = Message.objects.get()
    for _ in range(lanes.MOST_TRIES):
        Lane.objects.filter(due_at__isnull=False).update(retry_at=None, due_at=timezone.now())
        (taken,) = (each for each in take(1) if each[1].id == failing.pk)
        record(ended(taken, Outcome.RETRY, detail="internal error", retry_after=0.0))
        if others_pass:
            Circuit.objects.update(last_success_at=timezone.now(), failures=0)
        failing.refresh_from_db()
    return failing


def test_a_message_that_keeps_failing_while_others_pass_is_given_up_and_the_lane_goes_on(acme: World) -> None:
    failing = fail_until_hopeless(acme, others_pass=True)
    assert failing.status == Status.FAILED
    assert failing.error == "it kept failing while other messages passed (internal error)"
    write(acme, "the next one")
    ((_, message, _),) = take()
    assert message.text == "the next one"


def test_while_nothing_passes_all_wait(acme: World) -> None:
    assert fail_until_hopeless(acme, others_pass=False).status == Status.PENDING


def test_nothing_waits_longer_than_72_hours(acme: World) -> None:
    write(acme, "one")
    Message.objects.update(created_at=timezone.now() - timedelta(hours=73))
    (taken,) = take()
    record(ended(taken, Outcome.RETRY))
    assert Message.objects.get().error.startswith("it could not be delivered for 72 hours")


def test_a_reps_text_ends_with_its_window(acme: World) -> None:
    write(acme, "one")
    Lane.objects.filter(direction=Direction.OUTBOUND).update(due_at=timezone.now())
    Message.objects.update(lane=Lane.objects.get(direction=Direction.OUTBOUND), direction=Direction.OUTBOUND)
    Conversation.objects.update(window_closes_at=timezone.now() - timedelta(minutes=1))
    (taken,) = (each for each in take_any() if each is not None)
    record(ended(taken, Outcome.RETRY))
    message = Message.objects.get()
    assert message.status == Status.FAILED and "send a template" in message.error


def test_due_lanes_are_found_through_the_partial_index(acme: World) -> None:
    write(acme, "one")
    with connection.cursor() as cursor:
        cursor.execute("SET enable_seqscan = off")
        cursor.execute("EXPLAIN SELECT id FROM messaging_lane WHERE due_at <= now()")
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
            cursor.execute("SELECT 1 FROM pg_locks WHERE NOT granted")
            if cursor.fetchone():
                return
        time.sleep(0.01)
    raise AssertionError("nobody waits for a lock")


def write_again(world: World, users: list[str]) -> None:
    results = [whatsapp_text("x", to=world.sender.number, user=user, message_id=f"wamid.{uuid4()}") for user in users]
    receive_webhook(world.account, results)


def ring_receipts_lanes(world: World, users: list[str]) -> None:
    ids = [Conversation.objects.get(subject=user).pk for user in users]
    with transaction.atomic():
        lanes.make_due(world.org.pk, Direction.RECEIPTS, ids)


def lock_claims(world: World, users: list[str]) -> None:
    claims = [
        Claim(lane.pk, world.org.pk, lane.conversation_id, Direction.INBOUND, uuid4(), 0, 0)
        for lane in (Lane.objects.get(direction=Direction.INBOUND, conversation__subject=user) for user in users)
    ]
    with transaction.atomic():
        lanes.lock(claims)


@pytest.mark.parametrize(
    ("work", "direction"),
    [
        (write_again, Direction.INBOUND),
        (ring_receipts_lanes, Direction.RECEIPTS),
        (lock_claims, Direction.INBOUND),
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
    first, *others = Lane.objects.filter(direction=direction).order_by("id").values_list("id", flat=True)
    with transaction.atomic():
        Lane.objects.select_for_update().get(pk=first)
        thread = in_another_connection(lambda: work(acme, users))
        wait_until_somebody_waits_for_a_lock()
        free = Lane.objects.select_for_update(skip_locked=True).filter(pk__in=others).order_by("id")
        assert list(free.values_list("id", flat=True)) == others
    thread.join()


def test_positions_are_given_under_the_lock_of_the_lane(acme: World) -> None:
    write(acme, "one")
    arrived, commit = threading.Event(), threading.Event()

    def arrive() -> None:
        with transaction.atomic():
            write(acme, "two")
            arrived.set()
            commit.wait(10)

    first = in_another_connection(arrive)
    assert arrived.wait(10)
    second = in_another_connection(lambda: write(acme, "three"))
    wait_until_somebody_waits_for_a_lock()
    commit.set()
    first.join()
    second.join()
    assert list(Message.objects.order_by("position").values_list("text", "position")) == [
        ("one", 1),
        ("two", 2),
        ("three", 3),
    ]


def queue_template(world: World) -> Message:
    template = OurTemplate(uuid4(), {"templateName": "order_update"}, "Template order_update (en)")
    with transaction.atomic():
        address(world.sender, "385991234567", name="", language="", template=template)
    return Message.objects.get(uuid=template.uuid)


def test_a_template_does_not_end_with_the_window(acme: World) -> None:
    queue_template(acme)
    Conversation.objects.update(window_closes_at=timezone.now() - timedelta(minutes=1))
    ((claim, message, attempt_id),) = take()
    assert message.template is not None and json.loads(message.template) == {"templateName": "order_update"}
    record(ended((claim, message, attempt_id), Outcome.RETRY))
    assert Message.objects.get().status == Status.PENDING


def test_salesforce_is_told_nothing_of_what_it_has_no_entry_of(acme: World) -> None:
    message = queue_template(acme)
    Conversation.objects.update(identifier="c0a2c1b4")
    Message.objects.update(status=Status.DELIVERED)
    assert untold([message.conversation_id]) == {}
    Message.objects.update(ours=False)
    assert untold([message.conversation_id]).keys() == {message.conversation_id}
