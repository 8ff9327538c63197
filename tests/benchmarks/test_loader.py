"""The load comes as it was planned, is signed as Infobip signs, and hides no stall of the one who takes it."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from benchmarks import loader
from benchmarks.load import Company, Job, Sent, Target, targets_of, webhooks
from benchmarks.loader import Sender
from benchmarks.sending import prepare
from connector.infobip.signature import SignatureCheck

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@dataclass
class Door:
    """A server that answers as it is told, and remembers."""

    answer: bytes = OK
    pause: Callable[[int], float] = lambda _: 0.0  # seconds before an answer, by its number
    bodies: list[bytes] = field(default_factory=list)
    connections: int = 0
    under_way: int = 0
    most: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                self.bodies.append(await reader.readexactly(length))
                self.under_way += 1
                self.most = max(self.most, self.under_way)
                await asyncio.sleep(self.pause(len(self.bodies)))
                self.under_way -= 1
                writer.write(self.answer)
                if b"Connection: close" in self.answer:
                    break
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the load is over
        finally:
            writer.close()


@asynccontextmanager
async def opened(door: Door) -> AsyncIterator[Company]:
    server = await asyncio.start_server(door.serve, "127.0.0.1", 0)
    async with server:
        address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
        yield Company("00D", "447700900123", address, "secret", {})


def send(door: Door, **how: float) -> Sent:
    async def run() -> Sent:
        async with opened(door) as company:
            targets = targets_of([company], 10, among=[company])
            return await Sender(Job(targets, first=1, **how)).run()  # type: ignore[arg-type]

    return asyncio.run(run())


def test_webhooks_are_signed_and_hold_each_message_once_with_the_orgs_in_turn() -> None:
    targets = [Target("http://a/x", "one", "1", 0, 2), Target("http://b/x", "two", "2", 2, 2)]
    made = webhooks(Job(targets, count=10, first=100, size=3))
    found = []
    for target, request in made:
        head, _, body = request.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
        assert int(fields["Content-Length"]) == len(body)
        check = SignatureCheck(fields["X-Hub-Signature"], [target.secret])
        check.update(body)
        assert check.fitting() == 0
        found += [(each["to"], each["from"], each["message"]["text"].split(":")[0]) for each in json.loads(body)["results"]]
    assert [target.url for target, _ in made] == ["http://a/x", "http://b/x", "http://a/x", "http://b/x"]
    assert [number for _, _, number in found] == [str(number) for number in range(100, 110)]
    assert {(sender, user) for sender, user, _ in found} == {
        *(("1", f"38591{user:07d}") for user in (0, 1)),
        *(("2", f"38591{user:07d}") for user in (2, 3)),
    }


def test_a_stall_counts_for_all_that_should_have_been_sent_meanwhile() -> None:
    until = 0.0

    def stall(number: int) -> float:
        nonlocal until
        if number == 10:
            until = time.monotonic() + 0.5
        return max(0.0, until - time.monotonic())

    sent = send(Door(pause=stall), count=100, rate=100)
    assert sent.statuses == {"200": 100}
    assert len([latency for latency in sent.latencies if latency > 0.1]) >= 30  # not only the one that came first


def test_what_is_sent_late_counts_from_the_time_that_was_intended() -> None:
    async def run() -> Sent:
        async with opened(Door()) as company:
            sender = Sender(Job(targets_of([company], 10, among=[company]), count=100, first=1, rate=100))
            asyncio.get_running_loop().call_later(0.3, time.sleep, 0.5)  # the machine is busy with something else
            return await sender.run()

    sent = asyncio.run(run())
    assert len([latency for latency in sent.latencies if latency > 0.1]) >= 30
    assert [after - before for before, after in pairwise(sent.intended)] == pytest.approx([0.01] * 99, abs=1e-5)


def test_as_fast_as_it_is_taken_means_so_many_at_once_and_no_more() -> None:
    door = Door(pause=lambda _: 0.01)
    sent = send(door, count=60, at_once=8)
    assert (sent.accepted, sent.failures, len(door.bodies)) == (60, 0, 60)
    assert (door.most, door.connections) == (8, 8)
    assert len(sent.intended) == 60


def test_a_load_that_is_as_fast_as_it_is_taken_ends_in_time() -> None:
    sent = send(Door(pause=lambda _: 0.02), count=10_000, at_once=2, seconds=0.3)
    assert 10 < sent.accepted < 60
    assert len(sent.intended) == sent.accepted


def test_refusals_and_connections_that_are_closed_are_counted_apart() -> None:
    assert send(Door(b"HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno"), count=5, at_once=1).statuses == {"503": 5}
    closing = Door(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    assert send(closing, count=5, at_once=1).statuses == {"200": 5}
    assert closing.connections == 5


def test_an_answer_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "CALL_SECONDS", 0.2)
    sent = send(Door(pause=lambda number: 5.0 if number == 2 else 0.0), count=4, at_once=1)
    assert sent.statuses == {"200": 3, "timed out": 1}


def test_nobody_at_home_is_a_failure_and_no_end() -> None:
    targets = [Target("http://127.0.0.1:9/x", "s", "1", 0, 1)]
    sent = asyncio.run(Sender(Job(targets, count=3, first=1, at_once=1)).run())
    assert sent.failures == 3


def test_a_process_of_its_own_sends_it_and_tells_what_it_cost() -> None:
    async def run() -> tuple[Sent, Door]:
        door = Door()
        async with opened(door) as company:
            load = await prepare([company], 50, users=5, among=[company], at_once=4)
            assert not door.bodies  # it waits for the word
            return await load.send(), door

    sent, door = asyncio.run(run())
    assert (sent.accepted, len(door.bodies)) == (50, 50)
    assert 0 < sent.cpu < 1
