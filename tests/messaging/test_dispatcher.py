"""A turn of the queue, against the real database: it looks for lanes when some may be due, and only then."""

import threading
from collections.abc import Iterator, Sequence
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from messaging import circuits
from messaging import dispatcher as module
from messaging.circuits import Call
from messaging.claims import Share
from messaging.delivery import Result
from messaging.dispatcher import Dispatcher, Ended, Room, Work
from messaging.models import Circuit, Conversation, Direction, Lane, Message, Outcome, Status
from messaging.receipts import ReceiptOutcome
from tenants.tenancy import every_org
from tests.conftest import World, whatsapp_text
from tests.support.happenings import receive_webhook

pytestmark = pytest.mark.django_db

ROOM = Room(8, [])


@pytest.fixture(autouse=True)
def see_every_org() -> Iterator[None]:
    with every_org():
        yield


@pytest.fixture
def dispatcher() -> Dispatcher:
    held = threading.Event()
    held.set()
    holder = SimpleNamespace(number=101, held=held, may_judge=lambda: False)
    return Dispatcher(cast(Any, holder), 8, threading.Event())


def write(world: World, users: int = 1) -> None:
    results = [
        whatsapp_text("x", to=world.sender.number, user=f"38591{n:07d}", message_id=f"wamid.{uuid4()}")
        for n in range(users)
    ]
    receive_webhook(world.account, results)


def ended(work: Sequence[Work], outcome: Outcome = Outcome.SENT) -> list[Ended]:
    return [Result(each.claim, each.message, outcome, each.claim.endpoint_id) for each in work if each.message is not None]


def looks(statements: CaptureQueriesContext) -> int:
    return sum("due_endpoint" in each["sql"] for each in statements.captured_queries)


def test_after_a_success_nobody_looks_for_lanes(acme: World, dispatcher: Dispatcher) -> None:
    """Whoever makes a lane due says so; at a hundred messages a second each look that is spared is a tenth of the work."""
    write(acme)
    with CaptureQueriesContext(connection) as statements:
        work = dispatcher.turn([], ROOM).work
    assert len(work) == 1 and looks(statements) == 1
    assert not dispatcher.must_look(ended(work))
    with CaptureQueriesContext(connection) as statements:
        assert dispatcher.turn(ended(work), None).work == []
    assert looks(statements) == 0
    assert Lane.objects.get(direction=Direction.INBOUND).holder is None


@pytest.mark.parametrize("outcome", [Outcome.RETRY, Outcome.REFUSED, Outcome.IN_DOUBT])
def test_after_anything_else_somebody_looks_at_once(acme: World, dispatcher: Dispatcher, outcome: Outcome) -> None:
    """A refused reply makes receipts due, a lost message a line about it, and a circuit that closes all that waited."""
    write(acme)
    assert dispatcher.must_look(ended(dispatcher.turn([], ROOM).work, outcome))


def test_after_receipts_somebody_looks_at_once(acme: World, dispatcher: Dispatcher) -> None:
    assert dispatcher.must_look([cast(Any, SimpleNamespace(outcome=Outcome.SENT))])


def test_what_becomes_due_by_time_is_looked_for_though_nobody_says_so(
    acme: World, dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatcher.turn([], ROOM)
    assert not dispatcher.must_look([])
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.0)
    assert dispatcher.must_look([])


def test_a_turn_says_whether_a_bound_kept_lanes_back(acme: World, rival: World, dispatcher: Dispatcher) -> None:
    write(acme, users=3)
    all_taken = dispatcher.turn([], Room(3, []))
    assert len(all_taken.work) == 3 and all_taken.more  # as many as there was room for: there may be a fourth
    assert not dispatcher.turn([], ROOM).more  # there is none
    endpoint = all_taken.work[0].claim.endpoint
    write(acme, users=3)  # to the same three lanes, which are held
    dispatcher.turn(ended(all_taken.work, Outcome.RETRY), None)
    Lane.objects.update(retry_at=None)
    Lane.objects.exclude(due_at=None).update(due_at="2020-01-01T00:00:00Z")
    share = dispatcher.turn([], Room(8, [Share(endpoint, more=2, held=0)]))
    assert len(share.work) == 2 and share.more  # its share, and one is left
    full = dispatcher.turn([], Room(8, [Share(endpoint, more=0, held=2)]))
    assert full.work == [] and full.more
    last = dispatcher.turn([], Room(8, [Share(endpoint, more=2, held=2)]))
    assert len(last.work) == 1 and not last.more


def test_room_that_several_endpoints_filled_together_may_have_kept_some_back_too(
    acme: World, rival: World, dispatcher: Dispatcher
) -> None:
    write(acme, users=2)
    write(rival, users=2)
    turn = dispatcher.turn([], Room(3, []))
    assert len(turn.work) == 3 and turn.more  # neither has its whole share, and one lane is left


def test_a_process_that_has_lost_its_hold_takes_nothing_and_looks_again(acme: World, dispatcher: Dispatcher) -> None:
    write(acme)
    dispatcher.holder.held.clear()
    turn = dispatcher.turn([], ROOM)
    assert turn.work == [] and turn.more
    assert dispatcher.must_look([])


def test_a_process_that_stops_goes_on_with_no_lane(acme: World, dispatcher: Dispatcher) -> None:
    write(acme)
    work = dispatcher.turn([], ROOM).work
    write(acme)  # the next message of the same lane
    dispatcher.stopping.set()
    assert dispatcher.turn(ended(work), None).work == []
    lane = Lane.objects.get(direction=Direction.INBOUND)
    assert lane.holder is None and lane.due_at is not None


def open_circuit(work: Sequence[Work]) -> None:
    circuits.note([Call(work[0].claim.endpoint, lane_id, False) for lane_id in range(5)])


def test_lanes_of_a_process_that_is_gone_are_freed_and_looked_for_at_once(acme: World, dispatcher: Dispatcher) -> None:
    write(acme)
    lane = Lane.objects.get(direction=Direction.INBOUND)
    Lane.objects.filter(pk=lane.pk).update(holder=102)
    dispatcher.holder.may_judge = lambda: True  # type: ignore[method-assign]
    assert dispatcher.turn([], None).more
    assert [each.claim.lane_id for each in dispatcher.turn([], ROOM).work] == [lane.pk]


def test_while_all_take_their_locks_again_nobody_is_taken_for_dead(acme: World, dispatcher: Dispatcher) -> None:
    """After a restart of the database the locks of the living are free for a moment."""
    write(acme)
    Lane.objects.filter(direction=Direction.INBOUND).update(holder=102)
    assert not dispatcher.turn([], None).more
    assert Lane.objects.get(direction=Direction.INBOUND).holder == 102


def test_after_a_turn_that_may_have_been_committed_only_lanes_that_nobody_knows_of_are_freed(
    acme: World, dispatcher: Dispatcher
) -> None:
    """Else a call that is under way is made a second time, and one that has ended is not believed."""
    write(acme, users=4)
    *three, of_another = dispatcher.turn([], ROOM).work
    under_way, unwritten, lost = three
    Lane.objects.filter(pk=of_another.claim.lane_id).update(holder=102)
    dispatcher.uncertain = True
    dispatcher.turn(ended([unwritten]), None, under_way=[under_way])
    holders = dict(Lane.objects.values_list("pk", "holder"))
    assert [holders[each.claim.lane_id] for each in (under_way, lost, of_another)] == [101, None, 102]
    assert [each.claim.lane_id for each in dispatcher.turn([], ROOM).work] == [lost.claim.lane_id]
    assert unwritten.message is not None
    assert Message.objects.get(pk=unwritten.message.id).status == Status.SENT


def test_a_lane_whose_result_was_written_though_the_commit_seemed_to_fail_goes_on(
    acme: World, dispatcher: Dispatcher
) -> None:
    """Its next message is being tried, as far as the row says, and nobody is trying it."""
    for _ in range(2):
        write(acme)
    results = ended(dispatcher.turn([], ROOM).work)
    assert len(dispatcher.turn(results, ROOM).work) == 1  # committed, and the answer is lost:
    dispatcher.uncertain = True
    dispatcher.turn(results, None)
    assert len(dispatcher.turn([], ROOM).work) == 1


def test_what_waited_for_too_long_behind_an_open_circuit_is_given_up(acme: World, dispatcher: Dispatcher) -> None:
    write(acme)
    work = dispatcher.turn([], ROOM).work
    open_circuit(work)
    dispatcher.turn(ended(work, Outcome.RETRY), None)
    Message.objects.update(created_at=timezone.now() - timedelta(hours=73))
    dispatcher.expired_at = 0.0
    dispatcher.turn([], None)
    assert Message.objects.get(ours=False).status == Status.FAILED


def test_through_an_open_circuit_goes_its_probe(acme: World, dispatcher: Dispatcher) -> None:
    write(acme, users=3)
    work = dispatcher.turn([], ROOM).work
    open_circuit(work)
    dispatcher.turn(ended(work, Outcome.RETRY), None)
    Circuit.objects.update(probe_at=timezone.now())
    dispatcher.probed_at = 0.0
    assert len(dispatcher.turn([], ROOM).work) == 1
    dispatcher.probed_at = 0.0
    assert dispatcher.turn([], ROOM).work == []


@pytest.fixture
def receipts_lane(acme: World) -> Lane:
    """Of a conversation in which a rep's message was delivered, of which Salesforce does not know yet."""
    write(acme)
    outbound, receipts = (Lane.objects.get(direction=each) for each in (Direction.OUTBOUND, Direction.RECEIPTS))
    Message.objects.update(direction=Direction.OUTBOUND, lane=outbound, status=Status.DELIVERED, source_entry="e1")
    Conversation.objects.update(identifier="c0a2c1b4")
    Lane.objects.filter(direction=Direction.INBOUND).update(due_at=None)
    Lane.objects.filter(pk=receipts.pk).update(due_at=timezone.now())
    return receipts


def test_a_tick_whose_call_failed_is_not_taken_for_reported(dispatcher: Dispatcher, receipts_lane: Lane) -> None:
    (work,) = dispatcher.turn([], ROOM).work
    assert work.batch is not None and len(work.batch.acknowledged) == 1
    dispatcher.turn([ReceiptOutcome(work.claim, work.batch, again_after=1.0)], None)
    assert Message.objects.get().reported != Status.DELIVERED
    receipts_lane.refresh_from_db()
    assert receipts_lane.holder is None and receipts_lane.due_at is not None


def test_a_report_from_before_a_take_over_settles_nothing_and_lets_nothing_go(
    dispatcher: Dispatcher, receipts_lane: Lane
) -> None:
    (work,) = dispatcher.turn([], ROOM).work
    assert work.batch is not None
    Lane.objects.filter(pk=receipts_lane.pk).update(holder=102)
    dispatcher.turn([ReceiptOutcome(work.claim, work.batch, settled=work.batch.acknowledged)], None)
    assert Message.objects.get().reported == ""
    receipts_lane.refresh_from_db()
    assert receipts_lane.holder == 102


def test_a_lane_with_nothing_to_report_is_let_go(dispatcher: Dispatcher, receipts_lane: Lane) -> None:
    Message.objects.update(reported=Status.DELIVERED)
    assert dispatcher.turn([], ROOM).work == []
    receipts_lane.refresh_from_db()
    assert receipts_lane.holder is None and receipts_lane.due_at is None


def test_a_message_alone_costs_few_statements(acme: World, dispatcher: Dispatcher) -> None:
    """From the inbox to the record of its delivery, with routes that are known."""
    write(acme)
    dispatcher.turn(ended(dispatcher.turn([], ROOM).work), None)
    with CaptureQueriesContext(connection) as statements:
        write(acme)
        work = dispatcher.turn([], ROOM).work
        assert dispatcher.turn(ended(work), None).work == []
    assert len(work) == 1
    ours = [each["sql"] for each in statements.captured_queries if "SAVEPOINT" not in each["sql"]]
    assert len(ours) <= 19, "\n\n".join(ours)
