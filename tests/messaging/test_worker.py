"""The loop against the real database and a real socket: what is in the rows when an upstream is called."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest
from django.conf import LazySettings
from django.db import OperationalError, connection, transaction
from django.utils import timezone
from psycopg_pool import PoolTimeout

from messaging import intake, results
from messaging.circuits import Endpoint
from messaging.claims import Claim, Waiting
from messaging.conversations import TemplateMessage, start_outbound
from messaging.delivery import Result
from messaging.dispatcher import LOOK_SECONDS, Dispatcher, Room, Turn, Work
from messaging.holder import Holder
from messaging.models import Attempt, Direction, Inbox, Lane, Message, Outcome, Status, Upstream
from messaging.receipts import ReceiptBatch
from messaging.wake import FROM_NO_WORKER, INBOX_CHANNEL, LANES_CHANNEL, wake
from messaging.worker import ENOUGH, MOST_PARKED, STUCK_SECONDS, Flight, Worker
from tenants.tenancy import every_org
from tests.conftest import World, whatsapp_text
from tests.support.happenings import wait_until

pytestmark = pytest.mark.django_db(transaction=True)

Answer = Callable[[dict[str, Any]], tuple[int, object]]


@pytest.fixture(autouse=True)
def see_every_org() -> Iterator[None]:
    with every_org():
        yield


@pytest.fixture
def infobip(acme: World, settings: LazySettings) -> Iterator[list[dict[str, Any]]]:
    """An Infobip on this machine that takes everything; gives what it was sent, with its path."""
    settings.ALLOW_LOCAL_UPSTREAMS = True
    seen: list[dict[str, Any]] = []
    with serving(seen, lambda body: (200, taken(body))) as address:
        acme.account.base_url = address
        acme.account.save()
        yield seen


def taken(body: dict[str, Any]) -> object:
    message = body["messages"][0] if "messages" in body else body
    answer = {
        "to": message["to"],
        "messageId": message["messageId"],
        "status": {"groupId": 1, "groupName": "PENDING", "id": 7, "name": "PENDING_ENROUTE", "description": "x"},
    }
    return {"messages": [answer]} if "messages" in body else answer


@contextmanager
def serving(seen: list[dict[str, Any]], answer: Answer) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append({"path": self.path, **body})
            status, content = answer(body)
            raw = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def working(calls: int = 4) -> Iterator[Worker]:
    worker = Worker(calls)
    worker.start()
    try:
        yield worker
    finally:
        worker.stop()


def queue(world: World, text: str = "Template order_update (en)", user: str = "385991234567") -> TemplateMessage:
    content = {"templateName": "order_update", "templateData": {"body": {"placeholders": ["Ada"]}}, "language": "en"}
    template = TemplateMessage(uuid4(), content, text)
    with transaction.atomic():
        start_outbound(world.sender, user, name="", language="", template=template)
    return template


def test_a_template_leaves_by_the_endpoint_for_templates(acme: World, infobip: list[dict[str, Any]]) -> None:
    template = queue(acme)
    with working():
        wait_until(lambda: Message.objects.get().status == Status.SENT)
    ((sent,),) = (each["messages"] for each in infobip)
    assert infobip[0]["path"] == "/whatsapp/1/message/template"
    assert (sent["to"], sent["content"], sent["messageId"]) == ("385991234567", template.content, str(template.uuid))
    assert sent["notifyUrl"] == acme.account.report_url(template.uuid)


def test_what_is_tried_is_committed_before_the_upstream_is_called(acme: World, settings: LazySettings) -> None:
    """A process that dies during the call leaves a trace, so that the message counts as in doubt and not as untried."""
    settings.ALLOW_LOCAL_UPSTREAMS = True
    found: list[object] = []

    def look(body: dict[str, Any]) -> tuple[int, object]:
        with every_org():  # a connection of its own: what it sees is committed
            lane = Lane.objects.get(trying__isnull=False)
            found.append((lane.trying, lane.holder is not None))
        connection.close()
        return 200, taken(body)

    with serving([], look) as address:
        acme.account.base_url = address
        acme.account.save()
        queue(acme)
        with working():
            wait_until(lambda: Message.objects.get().status == Status.SENT)
    assert found == [(Message.objects.get().pk, True)]


def test_a_result_that_could_not_be_written_is_kept_until_it_can_be(
    acme: World, infobip: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database fails between the answer and the commit: the message is not sent a second time."""
    failing = threading.Event()
    failing.set()
    record = results.record

    def record_or_fail(ended: Any, *, holder: int) -> Any:
        lanes = record(ended, holder=holder)
        if ended and failing.is_set():
            with connection.cursor() as cursor:  # as after the loss of the primary
                cursor.execute("SET TRANSACTION READ ONLY")
                cursor.execute("UPDATE messaging_lane SET version = version")
        return lanes

    monkeypatch.setattr(results, "record", record_or_fail)
    queue(acme)
    with working() as worker:
        wait_until(lambda: len(infobip) == 1 and bool(worker.unwritten))
        time.sleep(1)
        assert Message.objects.get().status == Status.PENDING
        failing.clear()
        wait_until(lambda: Message.objects.get().status == Status.SENT)
    assert len(infobip) == 1 and not Attempt.objects.exists()


def test_a_connection_that_breaks_off_like_a_fault_of_the_row_ends_no_loop(
    acme: World, infobip: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that goes away in the middle of a turn can raise whatever it likes, and again in what follows."""
    record, failures = results.record, [AttributeError("no connection"), OperationalError("gone"), OperationalError("gone")]

    def record_or_fail(ended: Any, *, holder: int) -> Any:
        if ended and failures:
            raise failures.pop(0)
        return record(ended, holder=holder)

    monkeypatch.setattr(results, "record", record_or_fail)
    queue(acme)
    with working():
        wait_until(lambda: Message.objects.get().status == Status.SENT)
    assert len(infobip) == 1 and failures == []


def test_lanes_taken_by_a_commit_that_seemed_to_fail_are_carried_all_the_same(
    acme: World, infobip: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that restarts can commit a turn and not live to say so; the process that took the lanes lives on."""
    turn, lost = Dispatcher.turn, [OperationalError("server closed the connection unexpectedly")]

    def turn_and_lose_the_answer(*arguments: Any, **options: Any) -> Turn:
        done = turn(*arguments, **options)
        if done.work and lost:
            raise lost.pop()
        return done

    monkeypatch.setattr(Dispatcher, "turn", turn_and_lose_the_answer)
    queue(acme)
    with working():
        wait_until(lambda: Message.objects.get().status == Status.SENT, seconds=5)
    assert len(infobip) == 1 and not lost
    assert not Attempt.objects.exists()  # nothing was called, so nothing is in doubt


def test_a_process_that_stops_ends_its_calls_and_lets_go_of_all_lanes_at_once(acme: World, settings: LazySettings) -> None:
    settings.ALLOW_LOCAL_UPSTREAMS = True

    def slowly(body: dict[str, Any]) -> tuple[int, object]:
        time.sleep(0.5)
        return 200, taken(body)

    seen: list[dict[str, Any]] = []
    with serving(seen, slowly) as address:
        acme.account.base_url = address
        acme.account.save()
        for n in range(20):
            queue(acme, f"first {n}", f"38599{n:07d}")
            queue(acme, f"second {n}", f"38599{n:07d}")
        with working(calls=4):
            wait_until(lambda: len(seen) >= 2)
            began = time.monotonic()
        assert time.monotonic() - began < 2
    assert not Lane.objects.filter(holder__isnull=False).exists()
    assert Message.objects.filter(status=Status.SENT).count() == len(seen)
    assert not Attempt.objects.exists()
    waiting = Message.objects.filter(status=Status.PENDING).values("lane_id")
    assert not Lane.objects.filter(pk__in=waiting, due_at=None).exists()


def test_a_call_that_does_not_end_before_the_process_does_is_in_doubt(
    acme: World, settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ALLOW_LOCAL_UPSTREAMS = True
    monkeypatch.setattr("messaging.worker.DRAIN_SECONDS", 0.3)
    release = threading.Event()

    def hang(body: dict[str, Any]) -> tuple[int, object]:
        release.wait(20)
        return 200, taken(body)

    seen: list[dict[str, Any]] = []
    with serving(seen, hang) as address:
        acme.account.base_url = address
        acme.account.save()
        queue(acme)
        with working():
            wait_until(lambda: len(seen) == 1)
            began = time.monotonic()
        assert time.monotonic() - began < 8  # long before the call would have been given up
        release.set()
    assert Attempt.objects.get().outcome == Outcome.IN_DOUBT
    assert Lane.objects.get(direction="outbound").holder is None


def test_a_message_that_cannot_be_read_fails_alone(acme: World, infobip: list[dict[str, Any]]) -> None:
    """A row that raises when the driver loads it, such as a time of the year 10000, must not stop anybody."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE messaging_message DROP CONSTRAINT message_written_at_bounded")
    try:
        queue(acme, "poison", "385990000001")
        queue(acme, "good", "385990000002")
        with connection.cursor() as cursor:
            cursor.execute("UPDATE messaging_message SET written_at = '12000-01-01T00:00:00Z' WHERE text = 'poison'")
        with working():
            wait_until(lambda: Message.objects.filter(text="good", status=Status.SENT).exists())
            wait_until(lambda: Message.objects.filter(text="poison", status=Status.FAILED).exists())
        with connection.cursor() as cursor:
            cursor.execute("UPDATE messaging_message SET written_at = created_at")
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM messaging_attempt")
            cursor.execute("DELETE FROM messaging_message")
            cursor.execute(
                """ALTER TABLE messaging_message ADD CONSTRAINT message_written_at_bounded CHECK
                   (written_at BETWEEN '1970-01-01T00:00:00Z' AND '9000-01-01T00:00:00Z')"""
            )
    assert len(infobip) == 1


def test_a_webhook_is_carried_as_soon_as_it_was_appended(acme: World, infobip: list[dict[str, Any]]) -> None:
    """The door's notification wakes the loop: nobody waits for its next look."""
    connected = acme.org.salesforce
    connected.base_url = connected.scrt_url = "http://127.0.0.1:1"  # nobody listens: each try ends at once, and is counted
    connected.save()
    with working() as worker:
        wait_until(worker.holder.held.is_set)
        began = time.monotonic()
        for n in range(4):  # a fifth one would open the circuit
            result = whatsapp_text("hello", to=acme.sender.number, user=f"38599{n:07d}", message_id=f"wamid.{n}")
            with transaction.atomic(), connection.cursor() as cursor:
                Inbox.objects.create(
                    org_id=acme.org.pk, account_id=acme.account.pk, body=json.dumps({"results": [result]}).encode()
                )
                cursor.execute(f"NOTIFY {INBOX_CHANNEL}")
            wait_until(lambda n=n: Message.objects.filter(failed_at__isnull=False).count() > n)  # type: ignore[misc]
        assert time.monotonic() - began < 4 * LOOK_SECONDS / 2


def test_a_success_alone_is_written_down_though_nobody_looks_for_long(
    acme: World, infobip: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("worker", "dispatcher"):
        monkeypatch.setattr(f"messaging.{module}.LOOK_SECONDS", 30.0)
    queue(acme)
    with working() as worker:
        wait_until(worker.holder.held.is_set)
        worker.wake()
        wait_until(lambda: len(infobip) == 1)
        wait_until(lambda: Message.objects.get().status == Status.SENT, seconds=2)


@pytest.fixture
def idle() -> Iterator[Worker]:
    """A worker with room for four calls whose threads have not begun."""
    worker = Worker(4)
    yield worker
    worker.dispatching.shutdown()
    worker.loop.close()


def call(worker: Worker, *, seconds_ago: float, times: int = 1) -> None:
    """Let calls be under way."""
    work = cast(Any, SimpleNamespace(claim=SimpleNamespace(endpoint=Endpoint(1, Upstream.INFOBIP, 1))))
    worker.flights |= {Flight(work, began_at=time.monotonic() - seconds_ago) for _ in range(times)}


def dispatch(worker: Worker, turn: Turn) -> Room | None:
    """Have a turn that gives this; gives the room that there was for it."""
    rooms: list[Room | None] = []

    def take(_: object, room: Room | None, *, under_way: object) -> Turn:
        rooms.append(room)
        return turn

    worker.dispatcher = cast(Any, SimpleNamespace(must_look=lambda _: False, turn=take))
    worker.loop.run_until_complete(worker._dispatch())
    return rooms[0]


def test_calls_that_take_long_make_room_for_others_up_to_a_bound(idle: Worker) -> None:
    call(idle, seconds_ago=0.0, times=4)
    assert idle._free() == 0
    idle.flights.clear()
    call(idle, seconds_ago=5.0, times=4)
    assert idle._free() == 4
    call(idle, seconds_ago=5.0, times=4 * MOST_PARKED - 5)
    assert idle._free() == 1
    call(idle, seconds_ago=5.0, times=10)
    assert idle._free() == 0


def test_that_lanes_are_due_is_not_forgotten_while_there_is_no_room(idle: Worker) -> None:
    call(idle, seconds_ago=0.0, times=4)
    assert dispatch(idle, Turn()) is None and idle.due
    idle.flights.clear()
    room = dispatch(idle, Turn(more=True))
    assert room is not None and room.free == 4 and idle.due  # a bound kept some back
    assert dispatch(idle, Turn()) is not None and not idle.due
    assert dispatch(idle, Turn()) is None  # nobody said that there are any


def test_who_stops_looks_for_nothing_more(idle: Worker) -> None:
    idle.stopping.set()
    assert dispatch(idle, Turn()) is None


def test_a_few_successes_wait_a_moment_for_their_neighbours_many_do_not(
    idle: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle.calls = 4 * ENOUGH
    idle.dispatcher.looked_at = time.monotonic()
    woken = [succeed(idle, monkeypatch) for _ in range(ENOUGH)]
    assert woken == [False] * (ENOUGH - 1) + [True]


def test_where_half_the_room_is_taken_a_success_is_written_down_at_once(
    idle: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next message of its lane, and of others, waits for that."""
    idle.dispatcher.looked_at = time.monotonic()
    call(idle, seconds_ago=0.0)
    assert not succeed(idle, monkeypatch)
    call(idle, seconds_ago=0.0)
    assert succeed(idle, monkeypatch)


def a_work() -> Work:
    claim = Claim(1, 1, 1, Direction.OUTBOUND, 1, 1, 0)
    message = Waiting(1, 1, 1, uuid4(), "hello", timezone.now(), False, None, None, "385991234567")
    return Work(claim, cast(Any, None), message)


def send(worker: Worker, work: Work, ends: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let a call end in this way; gives what is to be written down of it."""

    async def end(*_: object) -> Any:
        return ends()

    monkeypatch.setattr("messaging.worker._call", end)
    worker.caller = cast(Any, None)
    worker.loop.run_until_complete(worker._send(Flight(work)))
    return worker.unwritten[-1]


def succeed(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Let a call succeed; tells whether the loop is woken for it at once."""
    work = a_work()
    assert work.message is not None
    send(worker, work, lambda: Result(work.claim, cast(Any, work.message), Outcome.SENT, 1), monkeypatch)
    return worker.woken.is_set()


def fail() -> Any:
    raise RuntimeError("not foreseen")


def test_of_a_call_that_fails_in_an_unforeseen_way_nobody_knows_what_came_of_it(
    idle: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message may have left: it is in doubt, and its lane goes on."""
    result = send(idle, a_work(), fail, monkeypatch)
    assert (result.outcome, result.called) == (Outcome.IN_DOUBT, True)


def test_receipts_whose_report_fails_in_an_unforeseen_way_are_reported_again(
    idle: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work(a_work().claim, cast(Any, None), batch=ReceiptBatch("c", "u", 1, acknowledged=[(1, Status.READ)]))
    outcome = send(idle, work, fail, monkeypatch)
    assert outcome.settled == [] and outcome.again_after == 1.0


def test_a_worker_whose_dispatcher_stands_still_does_not_go_on(idle: Worker) -> None:
    assert idle._goes_on()
    idle.turned_at -= STUCK_SECONDS
    assert not idle._goes_on()
    dispatch(idle, Turn())
    assert idle._goes_on()


def test_of_what_another_worker_has_taken_in_only_the_lanes_hear(idle: Worker) -> None:
    """It is messages: sessions and hand-overs have nothing to do."""
    heard: list[str] = []
    idle.wake_also = lambda: heard.append("also")
    idle._hear(LANES_CHANNEL, "102")
    idle._hear(INBOX_CHANNEL, "")
    assert heard == [] and idle.inbox.is_set()
    idle._hear(LANES_CHANNEL, FROM_NO_WORKER)
    assert heard == ["also"]


def test_taking_in_goes_on_after_whatever_it_stumbled_over(
    acme: World, infobip: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    take_inbox, failures = intake.take_inbox, [OperationalError("gone"), RuntimeError("not foreseen")]

    def take_or_fail() -> intake.Turn:
        if failures:
            raise failures.pop()
        return take_inbox()

    monkeypatch.setattr(intake, "take_inbox", take_or_fail)
    result = whatsapp_text("hello", to=acme.sender.number, message_id="wamid.1")
    Inbox.objects.create(org_id=acme.org.pk, account_id=acme.account.pk, body=json.dumps({"results": [result]}).encode())
    with working():
        wait_until(lambda: Message.objects.filter(text="hello").exists())
    assert failures == []


def test_other_workers_are_woken_only_where_there_is_enough_for_them(idle: Worker) -> None:
    heard: list[str] = []
    other = Holder(lambda _, payload: heard.append(payload), lambda: True)
    other.start()
    try:
        wait_until(other.held.is_set)
        idle.due, idle.holder.number = False, 7
        idle._share(intake.Turn(1, work=True))
        idle._share(intake.Turn(9, work=True, more=True))
        idle.due = True  # it has not looked since it was last told
        idle._share(intake.Turn(1, work=True))
        wake(sender=8)
        wait_until(lambda: "8" in heard)
        assert heard == ["7", "7", "8"]
    finally:
        other.stop()


def test_a_pool_that_gives_no_connection_is_made_anew_where_the_database_is_there(
    idle: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[bool] = []
    monkeypatch.setattr(connection, "close_pool", lambda: closed.append(True), raising=False)
    empty, gone = OperationalError("no connection"), OperationalError("gone")
    empty.__cause__ = PoolTimeout("couldn't get a connection")
    idle._drop_connection(empty)  # the database may be gone for all
    idle.holder.held.set()
    idle._drop_connection(gone)
    assert closed == []
    idle._drop_connection(empty)
    assert closed == [True]
