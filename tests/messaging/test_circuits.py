"""While a far side fails for everybody, one probe goes there instead of all; and nobody waits for a neighbour."""

from collections.abc import Iterator
from datetime import timedelta
from uuid import uuid4

import pytest
from django.utils import timezone

from messaging import circuits, lanes
from messaging.circuits import Call
from messaging.ingest import receive_webhook
from messaging.lanes import Claim, Share
from messaging.models import Circuit, Direction, Lane, Side
from messaging.relay import FIRST_SHARE, LEAST_SHARE, Flows
from tenants.tenancy import every_org
from tests.conftest import World, whatsapp_text

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


def fail(world: World, lane_ids: list[int]) -> None:
    circuits.note([Call(world.org.pk, Direction.INBOUND, lane_id, False) for lane_id in lane_ids])


def passes(world: World) -> None:
    circuits.note([Call(world.org.pk, Direction.INBOUND, 1, True)])


def opened(world: World) -> Circuit:
    fail(world, [1, 2, 3, 4, 5])
    return Circuit.objects.get(org=world.org)


def test_failures_in_a_row_of_several_lanes_open_the_circuit(acme: World) -> None:
    fail(acme, [1, 2, 3, 4])
    assert Circuit.objects.get().opened_at is None
    fail(acme, [5])
    circuit = Circuit.objects.get()
    assert circuit.opened_at is not None and circuit.side == Side.SALESFORCE


def test_one_message_that_fails_for_ever_opens_none(acme: World) -> None:
    for _ in range(20):
        fail(acme, [7])
    assert Circuit.objects.get().opened_at is None


def test_a_success_in_between_starts_the_count_anew(acme: World) -> None:
    fail(acme, [1, 2, 3, 4])
    passes(acme)
    fail(acme, [1, 2, 3, 4])
    assert Circuit.objects.get().opened_at is None


def test_through_an_open_circuit_one_lane_goes_every_ten_seconds(acme: World) -> None:
    write(acme, 5)
    opened(acme)
    assert lanes.claim(10) == []
    Circuit.objects.update(probe_at=timezone.now())
    assert len(lanes.claim(10)) == 1
    assert lanes.claim(10) == []
    next_probe = Circuit.objects.get().probe_at
    assert next_probe is not None and next_probe - timezone.now() > timedelta(seconds=9)


def test_a_probe_does_not_wait_for_the_pause_of_its_lane(acme: World) -> None:
    write(acme, 1)
    later = timezone.now() + timedelta(seconds=60)
    Lane.objects.filter(direction=Direction.INBOUND).update(due_at=later, retry_at=later)
    opened(acme)
    Circuit.objects.update(probe_at=timezone.now())
    assert len(lanes.claim(10)) == 1


def test_the_first_success_makes_the_waiting_lanes_due_at_once(acme: World, rival: World) -> None:
    later = timezone.now() + timedelta(seconds=15)
    for world in (acme, rival):
        write(world, 3)
        opened(world)
        Lane.objects.filter(org=world.org, direction=Direction.INBOUND).update(due_at=later, retry_at=later)
    passes(acme)
    claimed = lanes.claim(10)
    assert len(claimed) == 3 and {claim.org_id for claim in claimed} == {acme.org.pk}


def test_an_open_circuit_of_one_org_or_side_stops_no_other(acme: World, rival: World) -> None:
    write(acme, 2)
    write(rival, 2)
    opened(acme)
    Lane.objects.filter(org=acme.org, direction=Direction.OUTBOUND).update(due_at=timezone.now())
    claimed = [(claim.org_id, claim.direction) for claim in lanes.claim(10)]
    assert sorted(claimed) == sorted([(acme.org.pk, Direction.OUTBOUND)] * 2 + [(rival.org.pk, Direction.INBOUND)] * 2)


def test_orgs_take_turns_so_that_a_flood_delays_itself_only(acme: World, rival: World) -> None:
    write(acme, 30)
    write(rival, 2)
    claimed = [claim.org_id for claim in lanes.claim(6, share=30)]
    assert claimed.count(rival.org.pk) == 2


def test_who_holds_many_lanes_comes_after_who_holds_few(acme: World, rival: World) -> None:
    write(acme, 10)
    write(rival, 10)
    held = [Share(acme.org.pk, Side.SALESFORCE, more=10, held=8)]
    claimed = [claim.org_id for claim in lanes.claim(6, shares=held, share=10)]
    assert claimed == [rival.org.pk] * 6


def test_no_org_takes_more_than_its_share(acme: World) -> None:
    write(acme, 10)
    assert len(lanes.claim(10, share=3)) == 3
    assert lanes.claim(10, shares=[Share(acme.org.pk, Side.SALESFORCE, more=0, held=3)]) == []


def test_a_share_grows_with_each_answer_and_halves_with_each_failure() -> None:
    flows = Flows(64)
    claim = Claim(1, 7, 1, Direction.INBOUND, uuid4(), 0, 0)
    for _ in range(100):
        flows.note(claim, well=True)
    assert flows.shares([claim]) == [Share(7, Side.SALESFORCE, more=47, held=1)]
    for _ in range(10):
        flows.note(claim, well=False)
    assert flows.shares([]) == [Share(7, Side.SALESFORCE, more=LEAST_SHARE, held=0)]
    stranger = Claim(2, 8, 2, Direction.OUTBOUND, uuid4(), 0, 0)
    assert Share(8, Side.INFOBIP, more=FIRST_SHARE - 1, held=1) in flows.shares([stranger])
