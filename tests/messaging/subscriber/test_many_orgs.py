"""What is the matter with one org delays that org alone."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import grpc
import pytest

from connector.salesforce.auth import AccessToken
from messaging import stream_connections
from messaging.models import EventSubscription
from messaging.stream_connections import Channels, Logins
from messaging.subscriber import Subscriber
from messaging.subscriptions import LEASE_SECONDS
from tenants.models import SalesforceConnection
from tests.messaging.subscriber.conftest import Company, elsewhere, until
from tests.support.bus import Bus

Start = Callable[..., Subscriber]
Refuse = Callable[[str, str, str], Callable[[], None]]
POISON = "NEW.text LIKE 'poison%'"
ROWS_FAULT, DATABASES_TROUBLE = "54000", "55P03"


def test_orgs_whose_login_hangs_or_whose_endpoint_does_not_answer_delay_no_other(
    move_in: Callable[..., Company], read_streams: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_connections, "LOGINS_AT_ONCE", 2)
    monkeypatch.setattr(stream_connections, "TROUBLED_LOGINS_AT_ONCE", 2)
    monkeypatch.setattr(stream_connections, "SLOW_SECONDS", 0.3)
    for _ in range(6):
        move_in().misbehave("login", "timeout_before")
    for endpoint in ("127.0.0.1:1", "evil.example:443", "x" * 200):
        move_in(pubsubEndpoint="127.0.0.1:1")
        SalesforceConnection.objects.order_by("-pk").filter(pubsub_endpoint="127.0.0.1:1").update(pubsub_endpoint=endpoint)
    well = move_in()
    began = time.monotonic()
    read_streams()
    until(lambda: well.streams() == 1)
    assert time.monotonic() - began < 8  # one that hangs does so for fourteen
    well.write("on time")
    until(lambda: well.texts == ["on time"], 2)
    assert EventSubscription.objects.exclude(problem="").count() >= 3


class _Tokens:
    """Where the login of an org gives its token only when it is let."""

    def __init__(self, opened: bool = True) -> None:
        self.gate, self.key = threading.Event(), str(uuid4())
        if opened:
            self.gate.set()

    def current(self) -> AccessToken:
        self.gate.wait(20)
        return AccessToken("t", "https://acme.my.salesforce.com")


class _Lease:
    def __init__(self, org_id: int, tokens: _Tokens) -> None:
        self.org_id, self.tokens = org_id, tokens


def test_three_hundred_hanging_logins_hold_up_no_org_that_is_well_for_long() -> None:
    hanging = [_Tokens(opened=False) for _ in range(300)]

    async def scenario() -> float:
        logins: Any = Logins()
        waiting = [asyncio.create_task(logins.token(_Lease(n, tokens), None)) for n, tokens in enumerate(hanging)]
        await asyncio.sleep(0)
        began = time.monotonic()
        await asyncio.wait_for(logins.token(_Lease(1000, _Tokens()), None), 15)
        waited = time.monotonic() - began
        for each in hanging:
            each.gate.set()
        await asyncio.gather(*waiting)
        assert logins.troubled == set()
        return waited

    assert asyncio.run(scenario()) < 12


def test_an_org_whose_login_failed_waits_with_its_like_only() -> None:
    async def scenario() -> None:
        logins: Any = Logins()
        logins.troubled_turns = asyncio.Semaphore(1)
        stuck, other = _Tokens(opened=False), _Tokens()
        logins.troubled |= {1, 2}
        first = asyncio.create_task(logins.token(_Lease(1, stuck), None))
        await asyncio.sleep(0.1)
        second = asyncio.create_task(logins.token(_Lease(2, other), None))
        await asyncio.wait_for(logins.token(_Lease(3, other), None), 1)
        assert not second.done()
        await asyncio.wait_for(second, stream_connections.SLOW_SECONDS + 1)
        assert not first.done()
        stuck.gate.set()
        await first

    asyncio.run(scenario())


def test_streams_are_spread_over_connections_evenly(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    monkeypatch.setattr(stream_connections, "STREAMS_PER_CHANNEL", 2)
    settings.ALLOW_LOCAL_UPSTREAMS = True

    async def scenario() -> None:
        channels = Channels()
        held = [channels.share("127.0.0.1:1", alone=False) for _ in range(5)]
        lent = [each.__enter__() for each in held]
        assert len(set(lent)) == 3
        held[0].__exit__(None, None, None)
        with channels.share("127.0.0.1:1", alone=False) as again:
            assert again in lent[:2] or again is lent[4]
        with channels.share("127.0.0.1:1", alone=True) as alone:
            assert alone not in lent
        assert sum(len(each) for each in channels.open.values()) == 4
        await channels.close()

    asyncio.run(scenario())


def test_a_hanging_schema_of_one_org_delays_no_other(
    move_in: Callable[..., Company], serve_bus: Callable[[Bus], str], read_streams: Start
) -> None:
    bus = Bus()
    bus.schema_hangs = True
    stuck = move_in(pubsubEndpoint=serve_bus(bus))
    bus.rounds = [[bus.answer(stuck.record("waits"))]]
    well = move_in()
    read_streams()
    until(lambda: well.streams() == 1 and bus.schemas_asked)
    well.write("on time")
    until(lambda: well.texts == ["on time"], 2)
    assert stuck.ledger == []


def test_an_event_that_the_database_refuses_is_set_aside_and_all_others_are_saved(
    acme: Company, rival: Company, read_streams: Start, refuse: Refuse
) -> None:
    read_streams()
    until(lambda: acme.streams() == rival.streams() == 1)
    refuse("messaging_message", POISON, ROWS_FAULT)
    for text in ("one", "poison", "two"):
        acme.write(text)
    rival.write("of another org")
    until(lambda: rival.texts == ["of another org"], 5)
    until(lambda: acme.texts == ["one", "two"])
    assert [kind for kind, problem in acme.ledger if problem] == ["unreadable"]
    position = bytes(acme.subscription.replay_id)
    acme.write("three")
    until(lambda: acme.texts == ["one", "two", "three"])
    assert bytes(acme.subscription.replay_id) != position


def test_a_stream_of_which_nothing_can_be_saved_pauses_where_everybody_sees_it_and_others_go_on(
    acme: Company, rival: Company, read_streams: Start, refuse: Refuse
) -> None:
    reading = read_streams()
    until(lambda: acme.streams() == rival.streams() == 1)
    forgive = refuse("messaging_receivedevent", f"NEW.org_id = {acme.org.pk}", ROWS_FAULT)
    acme.write("waits")
    until(lambda: "cannot be saved" in acme.subscription.problem)
    for n in range(3):
        rival.write(f"{n}")
        until(lambda n=n: rival.texts[-1:] == [f"{n}"], 2)  # type: ignore[misc]
    assert bytes(acme.subscription.replay_id) == b""
    forgive()
    reading.look()  # as when somebody has been set up: it need not wait for its time
    until(lambda: acme.texts == ["waits"])


def test_a_row_that_somebody_has_locked_delays_its_org_alone_and_its_stream_goes_on_afterwards(
    acme: Company, rival: Company, read_streams: Start
) -> None:
    read_streams()
    until(lambda: acme.streams() == rival.streams() == 1)
    acme.write("hello")
    until(lambda: acme.texts == ["hello"])
    with elsewhere() as other:
        for table in ("messaging_lane", "messaging_eventsubscription"):
            other.execute(f"SELECT 1 FROM {table} WHERE org_id = %s FOR UPDATE", [acme.org.pk])
        acme.write("waits")
        time.sleep(0.2)
        slowest = 0.0
        begun = time.monotonic()
        while (sent := time.monotonic()) < begun + LEASE_SECONDS + 1:
            rival.write(f"{sent}")
            until(lambda sent=sent: rival.texts[-1:] == [f"{sent}"], 5)  # type: ignore[misc]
            slowest = max(slowest, time.monotonic() - sent)
            time.sleep(0.2)
        assert acme.texts == ["hello"]
        other.rollback()
    until(lambda: acme.texts == ["hello", "waits"], 15)
    assert slowest < 4.5, "once, until the database gave up waiting"
    assert rival.streams() == 1
    assert len(rival.platforms.seen("stream_open", org=rival.id)) == 1, "its lease was never lost"


def test_the_databases_trouble_with_one_org_delays_no_other_and_decides_nothing(
    acme: Company, rival: Company, read_streams: Start, refuse: Refuse
) -> None:
    read_streams()
    until(lambda: acme.streams() == rival.streams() == 1)
    forgive = refuse("messaging_message", POISON, DATABASES_TROUBLE)
    acme.write("poison, it seems")
    for n in range(5):
        rival.write(f"{n}")
        until(lambda n=n: rival.texts[-1:] == [f"{n}"], 2)  # type: ignore[misc]
    assert acme.ledger == []
    forgive()
    until(lambda: acme.texts == ["poison, it seems"])
    assert {problem for _, problem in acme.ledger} == {""}


@pytest.mark.parametrize("spoilt", ["credentials", "no connection"])
def test_an_org_whose_rows_are_spoilt_keeps_no_other_from_being_read(
    acme: Company, rival: Company, read_streams: Start, spoilt: str
) -> None:
    with elsewhere() as other:
        change = {
            "credentials": "UPDATE tenants_salesforceconnection SET private_key = 'no ciphertext' WHERE org_id = %s",
            "no connection": "DELETE FROM tenants_salesforceconnection WHERE org_id = %s",
        }
        other.execute(change[spoilt], [acme.org.pk])
        other.commit()
    read_streams()
    until(lambda: rival.streams() == 1)
    until(lambda: acme.subscription.problem)
    assert {"credentials": "FIELD_ENCRYPTION_KEYS", "no connection": "no connection"}[spoilt] in acme.subscription.problem
    rival.write("read")
    until(lambda: rival.texts == ["read"])


def test_an_org_that_was_let_go_is_read_no_more(acme: Company, read_streams: Start) -> None:
    read_streams()
    until(lambda: acme.streams() == 1)
    type(acme.org).objects.filter(pk=acme.org.pk).update(disconnected_at="2026-03-02T08:00:00Z")
    until(lambda: acme.streams() == 0, 5)
    until(lambda: acme.subscription.lease_id is None, 2)
    time.sleep(0.6)
    assert acme.streams() == 0


def test_a_server_that_refuses_all_is_asked_less_and_less(
    move_in: Callable[..., Company], serve_bus: Callable[[Bus], str], read_streams: Start
) -> None:
    bus = Bus(end=(grpc.StatusCode.UNAVAILABLE, "service.unavailable"))
    move_in(pubsubEndpoint=serve_bus(bus))
    read_streams()
    until(lambda: len(bus.requests) >= 3)
    time.sleep(3)
    assert len(bus.requests) <= 25
