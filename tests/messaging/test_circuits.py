"""While a far side fails for everybody, one probe goes there instead of all; and nobody waits for a neighbour."""

import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from messaging import circuits, claims
from messaging.circuits import Call, Endpoint
from messaging.claims import Claim, Given, Share
from messaging.limits import FIRST_SHARE, LEAST_SHARE, ConcurrencyLimits
from messaging.models import Circuit, Direction, Lane, Upstream
from tenants.models import Channel, Sender
from tenants.tenancy import every_org
from tests.conftest import World, whatsapp_text
from tests.support.happenings import in_another_connection, receive_webhook

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def see_every_org() -> Iterator[None]:
    with every_org():
        yield


def write(world: World, users: int) -> None:
    results = [
        whatsapp_text("x", to=world.sender.number, user=f"38591{n:07d}", message_id=f"wamid.{uuid4()}")
        for n in range(users)
    ]
    receive_webhook(world.account, results)


def salesforce(world: World) -> Endpoint:
    return Endpoint(world.org.pk, Upstream.SALESFORCE, world.channel.pk)


def claim(most: int, *, holder: int = 101, **shares: Any) -> list[Claim]:
    """Take due lanes, as a worker does."""
    found = claims.lock_due(most, probes=circuits.take_probes(), **shares)
    taken = claims.take([Given(due.id) for due in found], holder=holder)
    return [claim for claim, _ in taken]


def fail(world: World, lane_ids: list[int]) -> None:
    circuits.note([Call(salesforce(world), lane_id, False) for lane_id in lane_ids])


def passes(world: World) -> None:
    circuits.note([Call(salesforce(world), 1, True)])


def opened(world: World) -> Circuit:
    fail(world, [1, 2, 3, 4, 5])
    return Circuit.objects.get(org=world.org)


def test_failures_in_a_row_of_several_lanes_open_the_circuit(acme: World) -> None:
    fail(acme, [1, 2, 3, 4])
    assert Circuit.objects.get().opened_at is None
    fail(acme, [5])
    circuit = Circuit.objects.get()
    assert circuit.opened_at is not None and circuit.upstream == Upstream.SALESFORCE


def test_one_message_that_fails_for_ever_opens_none(acme: World) -> None:
    for _ in range(20):
        fail(acme, [7])
    assert Circuit.objects.get().opened_at is None


def test_a_success_in_between_starts_the_count_anew(acme: World) -> None:
    fail(acme, [1, 2, 3, 4])
    passes(acme)
    fail(acme, [1, 2, 3, 4])
    assert Circuit.objects.get().opened_at is None


def test_what_a_process_knows_of_endpoints_that_are_well_is_bounded(
    acme: World, rival: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circuits, "_fresh", {})
    monkeypatch.setattr(circuits, "MOST_FRESH", 0)
    for world in (acme, acme, rival, rival):
        passes(world)
    assert circuits._fresh.keys() == {salesforce(rival)}


def test_so_does_one_that_is_noted_together_with_failures(acme: World) -> None:
    passes(acme)
    circuits.note([Call(salesforce(acme), lane_id, lane_id == 7) for lane_id in range(1, 8)])
    circuit = Circuit.objects.get()
    assert (circuit.failures, circuit.opened_at) == (0, None)


def test_so_does_one_after_many_of_which_nothing_was_written(acme: World) -> None:
    """A success that says nothing new is not written, but one after failures does say something."""
    passes(acme)
    passes(acme)
    with CaptureQueriesContext(connection) as statements:
        passes(acme)
    assert len(statements) == 0
    fail(acme, [1, 2])
    passes(acme)
    assert Circuit.objects.get().failures == 0


def test_through_an_open_circuit_one_lane_goes_every_ten_seconds(acme: World) -> None:
    write(acme, 5)
    opened(acme)
    assert claim(10) == []
    Circuit.objects.update(probe_at=timezone.now())
    assert len(claim(10)) == 1
    assert claim(10) == []
    next_probe = Circuit.objects.get().probe_at
    assert next_probe is not None and next_probe - timezone.now() > timedelta(seconds=9)


def test_a_probe_does_not_wait_for_the_pause_of_its_lane(acme: World) -> None:
    write(acme, 1)
    later = timezone.now() + timedelta(seconds=60)
    Lane.objects.filter(direction=Direction.INBOUND).update(due_at=later, retry_at=later)
    opened(acme)
    Circuit.objects.update(probe_at=timezone.now())
    assert len(claim(10)) == 1


def test_the_first_success_makes_the_waiting_lanes_due_at_once(acme: World, rival: World) -> None:
    later = timezone.now() + timedelta(seconds=15)
    for world in (acme, rival):
        write(world, 3)
        opened(world)
        Lane.objects.filter(org=world.org, direction=Direction.INBOUND).update(due_at=later, retry_at=later)
    passes(acme)
    claimed = claim(10)
    assert len(claimed) == 3 and {each.org_id for each in claimed} == {acme.org.pk}


@pytest.mark.django_db(transaction=True)
def test_a_lane_that_somebody_is_writing_to_holds_up_no_success(acme: World) -> None:
    write(acme, 3)
    opened(acme)
    later = timezone.now() + timedelta(seconds=15)
    Lane.objects.filter(direction=Direction.INBOUND).update(due_at=later, retry_at=later)
    locked, done = threading.Event(), threading.Event()

    def write_slowly() -> None:
        with transaction.atomic():
            Lane.objects.select_for_update().filter(direction=Direction.INBOUND).order_by("id")[:1].get()
            locked.set()
            done.wait(3)

    writing = in_another_connection(write_slowly)
    assert locked.wait(10)
    with transaction.atomic():
        passes(acme)
        assert len(claim(10)) == 2  # the third wakes when its pause is over
    done.set()
    writing.join()


def test_an_open_circuit_of_one_org_or_side_stops_no_other(acme: World, rival: World) -> None:
    write(acme, 2)
    write(rival, 2)
    opened(acme)
    # receipts go to an endpoint of their own
    Lane.objects.filter(org=acme.org, direction=Direction.RECEIPTS).update(due_at=timezone.now())
    claimed = [(each.org_id, each.direction) for each in claim(10)]
    assert sorted(claimed) == sorted([(acme.org.pk, Direction.RECEIPTS)] * 2 + [(rival.org.pk, Direction.INBOUND)] * 2)


def test_orgs_take_turns_so_that_a_flood_delays_itself_only(acme: World, rival: World) -> None:
    write(acme, 30)
    write(rival, 2)
    claimed = [each.org_id for each in claim(6, share=30)]
    assert claimed.count(rival.org.pk) == 2


def test_who_holds_many_lanes_comes_after_who_holds_few(acme: World, rival: World) -> None:
    write(acme, 10)
    write(rival, 10)
    held = [Share(salesforce(acme), more=10, held=8)]
    claimed = [each.org_id for each in claim(6, shares=held, share=10)]
    assert claimed == [rival.org.pk] * 6


def test_no_org_takes_more_than_its_share(acme: World) -> None:
    write(acme, 10)
    assert len(claim(10, share=3)) == 3
    assert claim(10, shares=[Share(salesforce(acme), more=0, held=3)]) == []


def test_a_share_grows_with_each_answer_and_halves_with_each_failure() -> None:
    limits = ConcurrencyLimits(64)
    known, stranger = Endpoint(7, Upstream.SALESFORCE, 1), Endpoint(8, Upstream.INFOBIP, 2)
    for _ in range(100):
        limits.note(known, well=True)
    assert limits.shares([known]) == [Share(known, more=47, held=1)]
    for _ in range(10):
        limits.note(known, well=False)
    assert limits.shares([]) == [Share(known, more=LEAST_SHARE, held=0)]
    assert Share(stranger, more=FIRST_SHARE - 1, held=1) in limits.shares([stranger])


def test_one_channel_that_is_set_up_wrongly_stops_no_other_of_its_org(acme: World) -> None:
    other = Channel.objects.create(
        org=acme.org,
        name="Other",
        developer_name="Other",
        authorization_context="Other",
        channel_address_identifier="another",
        custom_event_name="Infobip_Event__e",
        custom_event_type_field="EventType__c",
        custom_event_payload_field="Payload__c",
    )
    sender = Sender.objects.create(org=acme.org, account=acme.account, channel=other, number="447700900130")
    write(acme, 2)
    receive_webhook(acme.account, [whatsapp_text("x", to=sender.number, message_id=f"wamid.{uuid4()}")])
    opened(acme)
    (claimed,) = claim(10)
    assert claimed.endpoint == Endpoint(acme.org.pk, Upstream.SALESFORCE, other.pk)


@pytest.mark.django_db(transaction=True)
def test_two_processes_that_note_the_same_circuits_crosswise_do_not_lock_each_other_out(acme: World, rival: World) -> None:
    """One notes a success of the first org and a failure of the second, the other the opposite; both see each other."""

    def notes(passing: World, failing: World) -> None:
        for _ in range(30):
            with transaction.atomic():
                circuits.note([Call(salesforce(passing), 1, True), Call(salesforce(failing), 2, False)])

    errors: list[Exception] = []

    def guarded(passing: World, failing: World) -> None:
        try:
            notes(passing, failing)
        except Exception as exc:
            errors.append(exc)

    both = [in_another_connection(lambda: guarded(acme, rival)), in_another_connection(lambda: guarded(rival, acme))]
    for each in both:
        each.join()
    assert errors == []
