"""A rep whose message waits for longer than a minute is told so, once, while the session is open."""

import threading
from collections.abc import Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from django.utils import timezone

from messaging import overdue
from messaging.delivery import Result
from messaging.dispatcher import Dispatcher, Room
from messaging.housekeeping import Housekeeping
from messaging.models import Circuit, Conversation, Direction, Lane, Message, Outcome, Upstream
from messaging.overdue import OpenCircuits
from tenants.models import Channel
from tenants.tenancy import every_org
from tests.conftest import World, reply_record
from tests.messaging.test_ingest import reply
from tests.messaging.test_sessions import tell

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def see_every_org() -> Iterator[None]:
    with every_org():
        yield


@pytest.fixture
def dispatcher() -> Dispatcher:
    held = threading.Event()
    held.set()
    return Dispatcher(cast(Any, SimpleNamespace(number=101, held=held, may_judge=lambda: False)), 8, threading.Event())


def lines() -> list[str]:
    """What was queued for the rep to read."""
    own = Message.objects.filter(direction=Direction.INBOUND, ours=True)
    return list(own.order_by("lane", "position").values_list("text", flat=True))


def wait(message: Message, seconds: float = 61) -> None:
    Message.objects.filter(pk=message.pk).update(created_at=timezone.now() - timedelta(seconds=seconds))


def fail(dispatcher: Dispatcher) -> None:
    """Let a try of the rep's message end in vain."""
    Lane.objects.filter(direction=Direction.OUTBOUND).update(retry_at=None, due_at="2020-01-01T00:00:00Z")
    Lane.objects.exclude(direction=Direction.OUTBOUND).update(due_at=None)
    (work,) = dispatcher.turn([], Room(8, [])).work
    assert work.message is not None
    detail = "the API key cannot be sent"
    dispatcher.turn([Result(work.claim, work.message, Outcome.RETRY, work.claim.endpoint_id, detail=detail)], None)


def test_a_rep_is_told_once_of_what_is_tried_in_vain_for_a_minute(acme: World, dispatcher: Dispatcher) -> None:
    message = reply(acme, "Good day")
    fail(dispatcher)
    assert lines() == []
    wait(message)
    fail(dispatcher)
    fail(dispatcher)
    assert lines() == ["\u25b8 Not sent yet: “Good day” — the API key cannot be sent. It is sent as soon as that is over."]


@pytest.mark.parametrize("what", ["the session has ended", "the channel keeps failures to itself"])
def test_a_rep_is_not_told_where(acme: World, dispatcher: Dispatcher, what: str) -> None:
    wait(reply(acme))
    if what == "the session has ended":
        Conversation.objects.update(session_open=False)
    else:
        Channel.objects.update(show_failures=False)
    fail(dispatcher)
    assert lines() == []


def test_nobody_is_told_of_what_is_ours(acme: World, dispatcher: Dispatcher) -> None:
    wait(reply(acme))
    Message.objects.update(ours=True)
    fail(dispatcher)
    assert lines() == []


@pytest.fixture
def outage(acme: World) -> Circuit:
    """Infobip has answered nobody of this account for two minutes."""
    return Circuit.objects.create(
        org=acme.org,
        upstream=Upstream.INFOBIP,
        endpoint_id=acme.account.pk,
        failures=5,
        opened_at=timezone.now() - timedelta(minutes=2),
        probe_at=timezone.now(),
    )


def write_to(world: World, users: int) -> None:
    for n in range(users):
        record = reply_record(world, f"Good day {n}", entry=f"e{n}", user=f"38591{n:07d}")
        tell(world, "/event/Infobip_Event__e", record)
        wait(Message.objects.get(source_entry=f"e{n}"))


def test_reps_are_told_of_what_waits_behind_an_outage_a_share_at_a_time_and_once(
    acme: World, outage: Circuit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overdue, "LANES_AT_ONCE", 2)
    write_to(acme, users=3)
    looks = OpenCircuits()
    assert [looks.tell_reps() for _ in range(5)] == [2, 1, 0, 0, 0]
    assert sorted(lines()) == [
        f"\u25b8 Not sent yet: “Good day {n}” — {overdue.NO_REASON}. It is sent as soon as that is over." for n in range(3)
    ]


def test_a_short_outage_is_told_nobody(acme: World, outage: Circuit) -> None:
    write_to(acme, users=1)
    Circuit.objects.update(opened_at=timezone.now() - timedelta(seconds=50))
    assert OpenCircuits().tell_reps() == 0 and lines() == []


def test_what_was_written_just_now_behind_an_outage_is_told_in_a_minute(acme: World, outage: Circuit) -> None:
    message = reply(acme)
    looks = OpenCircuits()
    assert looks.tell_reps() == 0
    wait(message)
    assert [looks.tell_reps(), looks.tell_reps()] in ([1, 0], [0, 1])


def test_an_outage_of_another_org_is_told_nobody_here(acme: World, rival: World, outage: Circuit) -> None:
    Circuit.objects.update(org=rival.org, endpoint_id=rival.account.pk)
    write_to(acme, users=1)
    assert OpenCircuits().tell_reps() == 0


def test_several_outages_share_a_look(acme: World, rival: World, outage: Circuit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overdue, "LANES_AT_ONCE", 2)
    Circuit.objects.create(
        org=rival.org,
        upstream=Upstream.INFOBIP,
        endpoint_id=rival.account.pk,
        failures=5,
        opened_at=timezone.now() - timedelta(minutes=2),
        probe_at=timezone.now(),
    )
    write_to(acme, users=3)
    wait(reply(rival))
    assert OpenCircuits().tell_reps() == 2
    assert set(Message.objects.filter(ours=True).values_list("org", flat=True)) == {acme.org.pk, rival.org.pk}


def test_an_outage_of_many_keeps_nobody_else_from_being_told(
    acme: World, rival: World, outage: Circuit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overdue, "LANES_AT_ONCE", 1)
    Circuit.objects.create(
        org=rival.org,
        upstream=Upstream.INFOBIP,
        endpoint_id=rival.account.pk,
        failures=5,
        opened_at=timezone.now() - timedelta(minutes=2),
        probe_at=timezone.now(),
    )
    write_to(acme, users=2)
    for n in range(2):
        tell(rival, "/event/Infobip_Event__e", reply_record(rival, "Hi", entry=f"r{n}", user=f"38592{n:07d}"))
        wait(Message.objects.get(source_entry=f"r{n}"))
    looks = OpenCircuits()
    assert sum(looks.tell_reps() for _ in range(4)) == 4


def test_a_worker_looks_for_them(acme: World, outage: Circuit) -> None:
    write_to(acme, users=1)
    Housekeeping(lambda: None)._overdue()
    assert len(lines()) == 1
