"""Nobody waits for a neighbour: hand-overs and sessions of many orgs at once, over real sockets."""

import functools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from django.db import connection
from django.utils import timezone

from messaging import handover, housekeeping, sessions
from messaging.batches import DATABASE_USERS, brief_connection
from messaging.handover import Call
from messaging.housekeeping import Housekeeping, Kind, UnderWay
from messaging.models import ChatbotMessage, Conversation, Handover, Message, Session
from messaging.sessions import Opening
from tenants.models import InfobipAccount, SalesforceConnection, TranscriptForm
from tenants.tenancy import every_org
from tests.conftest import World, build_world, whatsapp_text
from tests.messaging.upstreams import Upstream, listening
from tests.support.happenings import receive_webhook

pytestmark = pytest.mark.django_db(transaction=True)

USER = "385991234567"
HANGING = 60


@pytest.fixture(autouse=True)
def see_every_org() -> Iterator[None]:
    with every_org():
        yield


def wait_until(true: Callable[[], bool], seconds: float) -> float:
    """Wait until something is true, at most so long; gives how long it took."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, f"it did not come true within {seconds} s"
        time.sleep(0.02)
    return time.monotonic() - began


@contextmanager
def at_work(*hanging: Upstream) -> Iterator[Housekeeping]:
    """Run the housekeeping of a process; at the end the upstreams hang up, so that its threads are done."""
    running = Housekeeping(lambda: None)
    running.start()
    try:
        yield running
    finally:
        running.stop()
        for upstream in hanging:
            upstream.hang_up()
        running.pool.shutdown(wait=True)


def settle(world: World, *, infobip: str, salesforce: str) -> None:
    """Give an org a chatbot, texts, and these addresses."""
    InfobipAccount.objects.filter(pk=world.account.pk).update(base_url=infobip)
    SalesforceConnection.objects.filter(org=world.org).update(base_url=salesforce, scrt_url=salesforce)
    world.sender.chatbot_first = True
    world.sender.save()
    world.channel.welcome_message = "Hang tight."
    world.channel.save()


def call(world: World, conversation: str = "") -> Handover:
    """A chatbot hands a conversation over, of which an event has told."""
    conversation = conversation or str(uuid4())
    ChatbotMessage.objects.create(
        org=world.org,
        account=world.account,
        infobip_conversation=conversation,
        infobip_id=f"{conversation}-1",
        channel_id=f"wamid.{conversation}",
        end_user=USER,
        sender=world.sender.number,
        at=timezone.now() - timedelta(seconds=5),
    )
    assert handover.accept(world.account, Call(conversation, USER, "", {}))
    return Handover.objects.get(org=world.org, infobip_conversation=conversation)


def open_session(world: World, user: str, *, opened_ago: timedelta = timedelta()) -> Session:
    """A session opens; one that opened a while ago is to be asked about now."""
    result = whatsapp_text("hello", to=world.sender.number, user=user, message_id=f"wamid.{uuid4()}")
    receive_webhook(world.account, [result])
    known = Conversation.objects.get(org=world.org, subject=user)
    Conversation.objects.filter(pk=known.pk).update(window_closes_at=timezone.now() + timedelta(hours=24))
    session_id = f"0Mw5g{uuid4().int % 10**10:010d}CAK"
    sessions.open_sessions([Opening(world.org.pk, known.pk, str(uuid4()), session_id)])
    session = Session.objects.get(org=world.org, salesforce_id=session_id)
    if opened_ago:
        now = timezone.now()
        Session.objects.filter(pk=session.pk).update(opened_at=now - opened_ago, greeted_at=now)
    return session


def transcript(world: World) -> Callable[[str], Any]:
    """Answer as Infobip: each conversation has one line."""

    def answer(path: str) -> dict[str, Any]:
        conversation = path.split("/conversations/")[1].split("/")[0]
        line = {
            "id": f"{conversation}-1",
            "direction": "INBOUND",
            "authorType": "CUSTOMER",
            "from": USER,
            "to": world.sender.number,
            "createdAt": (timezone.now() - timedelta(seconds=5)).isoformat(),
            "content": {"text": "A person, please"},
            "contentType": "TEXT",
        }
        return {"messages": [line], "pagination": {"totalItems": 1, "page": 0, "limit": 250}}

    return answer


def connections_in_use() -> int:
    """Count this test's connections to the database, the one that counts left out."""
    wanted = connection.settings_dict
    with psycopg.connect(
        host=wanted["HOST"],
        port=wanted["PORT"],
        user=wanted["USER"],
        password=wanted["PASSWORD"],
        dbname=wanted["NAME"],
    ) as other:
        found = other.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchone()
    assert found is not None
    return int(found[0])


@pytest.fixture
def hanging() -> Iterator[Upstream]:
    with listening() as upstream:
        yield upstream


def _relayed(work: Handover) -> bool:
    return Handover.objects.filter(pk=work.pk, state=Handover.State.RELAYED).exists()


def _greeted(session: Session) -> bool:
    return Message.objects.filter(source_entry=f"welcome:{session.salesforce_id}").exists()


def test_sixty_orgs_whose_upstreams_hang_delay_nobody(acme: World, hanging: Upstream, private_key: str) -> None:
    for n in range(HANGING):
        world = build_world(f"Hang{n}", f"00D5g00000{n:03d}HhEAA", f"4477008{n:05d}", private_key)
        settle(world, infobip=hanging.url, salesforce=hanging.url)
        for _ in range(3):
            call(world)
        open_session(world, USER, opened_ago=timedelta(minutes=1))
    with listening(transcript(acme)) as infobip:
        settle(acme, infobip=infobip.url, salesforce=hanging.url)
        with at_work(hanging):
            wait_until(lambda: hanging.connected >= 2 * HANGING, 30)  # a hand-over and a query of each
            for _ in range(3):
                work = call(acme)
                session = open_session(acme, f"38595{uuid4().int % 10**7:07d}")
                wait_until(functools.partial(_greeted, session), 2)
                wait_until(functools.partial(_relayed, work), 2)
            assert hanging.connected == 2 * HANGING  # they hung all the time
            assert connections_in_use() <= 8  # and held no connection


def test_more_hanging_orgs_than_there_are_threads_delay_none_whose_upstreams_answer(
    acme: World, hanging: Upstream, private_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "THREADS", 6)
    monkeypatch.setattr(housekeeping, "MOST_NOT_FAST", 4)
    with listening(transcript(acme)) as infobip:
        settle(acme, infobip=infobip.url, salesforce=hanging.url)
        with at_work(hanging):
            wait_until(functools.partial(_relayed, call(acme)), 5)  # so it is known to be fast
            for n in range(12):
                world = build_world(f"Hang{n}", f"00D5g00000{n:03d}HhEAA", f"4477008{n:05d}", private_key)
                settle(world, infobip=hanging.url, salesforce=hanging.url)
                call(world)
            wait_until(lambda: hanging.connected >= 4, 10)
            for _ in range(2):
                wait_until(functools.partial(_relayed, call(acme)), 2)
            assert hanging.connected == 4


def test_an_org_has_one_query_under_way_and_proves_itself_before_it_has_two_hand_overs() -> None:
    under_way = UnderWay()
    first = under_way.try_to_ask(1)
    assert first is not None and under_way.try_to_ask(1) is None and under_way.try_to_ask(2) is not None
    assert 1 not in under_way.shares().fast
    under_way.end(first)
    assert 1 in under_way.shares().fast
    ticket = under_way.begin(Kind.HANDOVER, 1)
    assert under_way.shares().busy == {1: 1}
    under_way.running[ticket] = (Kind.HANDOVER, 1, time.monotonic() - housekeeping.SLOW_SECONDS - 0.1)
    assert 1 not in under_way.shares().fast  # at once, not only when the call has ended
    under_way.end(ticket)
    assert 1 not in under_way.fast and under_way.shares().busy == {}


def test_orgs_that_have_proven_nothing_share_some_threads_also_for_their_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "MOST_NOT_FAST", 2)
    under_way = UnderWay()
    first, second = under_way.try_to_ask(1), under_way.try_to_ask(2)
    assert first is not None and second is not None and under_way.try_to_ask(3) is None
    under_way.end(first)
    assert under_way.try_to_ask(3) is not None
    assert under_way.try_to_ask(4) is None and under_way.try_to_ask(1) is not None  # which is fast


def test_a_few_threads_use_the_database_at_once_however_many_there_are() -> None:
    inside, most, lock = 0, 0, threading.Lock()

    def use() -> None:
        nonlocal inside, most
        with brief_connection():
            with lock:
                inside += 1
                most = max(most, inside)
            time.sleep(0.05)
            with lock:
                inside -= 1

    with ThreadPoolExecutor(4 * DATABASE_USERS) as threads:
        for each in [threads.submit(use) for _ in range(4 * DATABASE_USERS)]:
            each.result()
    assert most == DATABASE_USERS


def step(work: Handover) -> Handover:
    Handover.objects.filter(pk=work.pk).update(due_at=timezone.now())
    (claimed,) = handover.claim(1)
    handover.carry_on(claimed)
    work.refresh_from_db()
    return work


def test_a_step_is_bounded_however_many_calls_it_takes(acme: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "STEP_SECONDS", 1.0)

    def endless(path: str) -> dict[str, Any]:
        return {**transcript(acme)(path), "pagination": {"totalItems": 10_000}}

    with listening(endless, seconds=0.2) as infobip:
        settle(acme, infobip=infobip.url, salesforce=infobip.url)
        work = step(call(acme))
        began = time.monotonic()
        step(work)
        assert time.monotonic() - began < 2.5
        assert len(infobip.paths) > 2 and work.tries == 1 and work.lease_id is None


def test_a_login_counts_for_the_step_that_needs_it(acme: World, hanging: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    acme.channel.transcript = TranscriptForm.NATIVE
    acme.channel.save()
    with listening(transcript(acme)) as infobip:
        settle(acme, infobip=infobip.url, salesforce=hanging.url)
        work = step(step(call(acme)))
        assert work.found_at is not None
        monkeypatch.setattr(handover, "STEP_SECONDS", 1.0)
        began = time.monotonic()
        step(work)
        assert time.monotonic() - began < 2.5
        assert any("token" in path for path in hanging.paths)
        assert (work.state, work.tries) == (Handover.State.READING, 1) and "Salesforce" in work.problem
