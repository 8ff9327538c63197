"""What strangers can do to those who are signed: nothing that is noticed. 50 signed webhooks a second come meanwhile."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPException
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
from django.db import connection, transaction

from benchmarks.hostile import job_of
from devstack.ports import HOST
from messaging.models import Inbox
from tenants.models import Sender
from tenants.tenancy import every_org
from tests.conftest import World, build_world, whatsapp_text
from tests.support.web import BARE, Web, own_path, p99, steady

pytestmark = pytest.mark.django_db(transaction=True)

SECONDS = 4.0  # of an attack
# Which 99 of 100 signed webhooks must not exceed, unless this machine is so busy that they do anyway. The promise is 0.25,
# which the benchmark measures alone; here other tests run on the same cores.
SIGNED_SECONDS = 0.75
MEMORY_MIB = 250
FAKE = {"X-Hub-Signature": "SHA256=" + "0" * 64}
NESTED = b"[" * (8 * 1024 * 1024) + b"]" * (8 * 1024 * 1024)
ANSWERS = "/api/infobip/inbound/answers"

Attack = Callable[[], object]


class Known(NamedTuple):
    """What anybody may know of a company."""

    sender: str
    webhook: str


@pytest.fixture(scope="module")
def web(django_db_setup: None) -> Iterator[Web]:
    with Web() as running:
        yield running


@pytest.fixture(scope="module")
def most_seconds(web: Web, django_db_blocker: Any, private_key: str) -> float:
    """What signed webhooks may take; on a machine that is too busy for that, thrice what they take in peace."""
    with django_db_blocker.unblock(), every_org():
        quiet = build_world("Quiet", "00D5g00000QuIeTEA4", "447700900199", private_key)
        with steady(web, quiet) as seen:
            time.sleep(SECONDS)
        Inbox.objects.all().delete()
    return max(SIGNED_SECONDS, 3 * p99(seen))


@pytest.fixture
def unharmed(web: Web, rival: World, most_seconds: float) -> Iterator[Callable[..., None]]:
    """Runs attacks, as many at once as are named, and says whether the signed webhooks of another company noticed."""

    def run(*attacks: Attack, seconds: float = SECONDS) -> None:
        end = threading.Event()
        most = 0.0

        def repeat(attack: Attack) -> None:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)  # a stranger's CPU is not this machine's
            while not end.is_set():
                with suppress(OSError, HTTPException):  # of its own sockets
                    attack()

        with steady(web, rival) as seen, ThreadPoolExecutor(len(attacks)) as pool:
            running = [pool.submit(repeat, attack) for attack in attacks]
            began = time.monotonic()
            while time.monotonic() - began < seconds:
                most = max(most, web.memory)
                time.sleep(0.05)
            end.set()
        for each in running:
            each.result()
        assert {status for status, _ in seen} == {200} and len(seen) >= 40 * seconds
        assert p99(seen) < most_seconds, f"{p99(seen) * 1000:.0f} ms"
        assert most < MEMORY_MIB, f"{most:.0f} MiB"
        with every_org():
            assert Inbox.objects.count() == Inbox.objects.filter(account_id=rival.account.pk).count()

    yield run


def head(path: str, headers: dict[str, str], *, length: int = 2000, method: str = "POST") -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{method} {path} HTTP/1.1\r\nHost: web\r\n{lines}Content-Length: {length}\r\n\r\n".encode()


def test_sockets_that_send_a_byte_a_second(web: Web, acme: World, unharmed: Callable[..., None]) -> None:
    token = {"X-Connector-Token": "guess"}
    addresses = [(own_path(acme), FAKE), (BARE, FAKE), (f"{ANSWERS}/{acme.account.uuid}", token), ("/sf/start", {})]
    sockets = [web.raw(head(path, headers)) for path, headers in addresses for _ in range(16)]

    def trickle() -> None:
        for each in sockets:
            with suppress(OSError):  # it was given up
                each.sendall(b" ")
        time.sleep(1)

    unharmed(trickle, seconds=6)
    for each in sockets:
        each.close()


def test_headers_that_are_never_sent_to_their_end(web: Web, unharmed: Callable[..., None]) -> None:
    sockets: list[socket.socket] = []

    def begin() -> None:
        if len(sockets) < 1040:
            sockets.extend(
                web.raw(request) for request in (b"", b"POST / HTTP/1.1\r\nHost: web\r\nX-Half: ") for _ in range(40)
            )
        else:
            time.sleep(0.1)

    unharmed(begin, seconds=8)
    assert len(sockets) == 1040
    for each in sockets[:500]:  # they were given up meanwhile
        each.settimeout(0.5)
        with suppress(ConnectionResetError):
            assert each.recv(1000)[:12] in (b"", b"HTTP/1.1 408")
    for each in sockets:
        each.close()


@pytest.mark.parametrize("kind", ["4,600 bodies that never begin", "6,000 connections that stay"])
def test_thousands_of_connections(web: Web, acme: World, unharmed: Callable[..., None], kind: str) -> None:
    known = Known(acme.sender.number, f"http://{HOST}:{web.port}{own_path(acme)}")
    command = [sys.executable, "-m", "benchmarks.hostile"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as attacker:
        assert attacker.stdin is not None
        attacker.stdin.write(json.dumps(job_of(kind, f"http://{HOST}:{web.port}", [known])).encode() + b"\ngo\n")
        attacker.stdin.flush()
        unharmed(lambda: time.sleep(0.1), seconds=10)
        came = attacker.communicate()[0]
    assert json.loads(came.splitlines()[-1])["connections"] > 4000


def test_sixteen_mib_of_brackets_without_a_signature(web: Web, unharmed: Callable[..., None]) -> None:
    def post() -> None:
        assert web.request("POST", BARE, NESTED)[0] == 401

    unharmed(*[post] * 12)


def test_sixteen_mib_of_brackets_with_a_signature_that_is_none(
    web: Web, acme: World, unharmed: Callable[..., None]
) -> None:
    def post_bare() -> None:
        assert web.request("POST", BARE, NESTED, FAKE)[0] == 413

    def post_bare_in_chunks() -> None:
        assert web.request("POST", BARE, (NESTED[at : at + 65536] for at in range(0, 1 << 24, 1 << 16)), FAKE)[0] == 413

    def post() -> None:
        assert web.request("POST", own_path(acme), NESTED, FAKE)[0] in (401, 503)

    unharmed(*[post_bare] * 2, *[post_bare_in_chunks] * 2, *[post] * 6)


def test_quarter_mib_of_brackets_that_is_looked_at(web: Web, unharmed: Callable[..., None]) -> None:
    body = b"[" + b"{}," * (250 * 1024 // 3) + b"{}]"

    def post() -> None:
        assert web.request("POST", BARE, body, FAKE)[0] in (401, 503)

    unharmed(*[post] * 12)


def test_a_thousand_numbers_that_are_known(web: Web, acme: World, unharmed: Callable[..., None]) -> None:
    numbers = [f"4477008{number:05d}" for number in range(1000)]
    with every_org():
        Sender.objects.bulk_create(
            Sender(org=acme.org, account=acme.account, channel=acme.channel, number=number) for number in numbers
        )
    results = [whatsapp_text("x", to=number, message_id="x") for number in numbers]
    body = json.dumps({"results": [{"to": each["to"], "message": {}} for each in results]}).encode()

    def post() -> None:
        assert web.request("POST", BARE, body, FAKE)[0] in (401, 503)

    unharmed(*[post] * 12)


def test_a_hand_over_of_blanks(web: Web, acme: World, unharmed: Callable[..., None]) -> None:
    with every_org():
        acme.account.handover_token = "t-acme"
        acme.account.save()
    call, blanks = {"conversationId": "c", "senderNumber": "385991234567"}, " " * 65_000
    attributes = {f"field{number}": " " * 999 + "x" for number in range(60)}
    calls = [call | {"conversationId": blanks}, call | {"senderNumber": blanks}, call | attributes]
    bodies = [json.dumps(each).encode() for each in calls]

    def post(path: str, body: bytes, headers: dict[str, str]) -> Attack:
        return lambda: web.request("POST", path, body, headers)

    own = f"{ANSWERS}/{acme.account.uuid}"
    attacks = [post(path, body, {}) for path in (own, ANSWERS) for body in bodies]
    began = time.monotonic()
    for body in bodies:
        assert web.request("POST", ANSWERS, body)[0] == 401
        assert web.request("POST", own, body, {"X-Connector-Token": "t-acme"})[0] in (200, 400)
    assert time.monotonic() - began < 3
    unharmed(*attacks)


def test_uuids_that_nobody_has(web: Web, acme: World, unharmed: Callable[..., None]) -> None:
    client = Pipelined(web)

    def ask() -> None:
        assert client.post([f"{BARE}/{uuid4()}" for _ in range(50)], FAKE) <= {401, 503}

    unharmed(*[ask] * 8)
    # and who is new is still found
    body = json.dumps({"results": [whatsapp_text("hello", to=acme.sender.number, message_id="w.1")]}).encode()
    assert web.post(acme, body)[0] == 200


def test_a_flood_of_wrong_signatures(web: Web, acme: World, unharmed: Callable[..., None]) -> None:
    client = Pipelined(web)
    before = len(web.said())

    def ask() -> None:
        assert client.post([own_path(acme)] * 50, FAKE) == {401}

    unharmed(*[ask] * 8)
    assert len(web.said()) - before < 5_000  # the log is not flooded


def test_addresses_that_are_nearly_ours(web: Web, acme: World, unharmed: Callable[..., None]) -> None:
    client = Pipelined(web)

    def ask() -> None:
        assert client.post([f"/api/infobip/inbound/message/{uuid4()}{'/' * 500}" for _ in range(50)], FAKE) == {404}

    unharmed(*[ask] * 8)


def test_pages_that_hang(web: Web, unharmed: Callable[..., None]) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("LOCK TABLE django_migrations IN ACCESS EXCLUSIVE MODE")
        hanging = [web.raw(head("/readyz", {}, length=0, method="GET")) for _ in range(64)]
        unharmed(lambda: time.sleep(0.1))
        assert web.request("GET", "/healthz") == (200, b"ok")
    for each in hanging:
        assert each.recv(1000).startswith(b"HTTP/1.1 ")
        each.close()
    assert web.request("GET", "/readyz")[0] == 200


def test_pages_that_take_all_they_can(web: Web, unharmed: Callable[..., None]) -> None:
    unharmed(*[lambda: web.request("GET", "/admin/login/")] * 8)


def test_calls_and_pages_with_tokens_and_sessions_that_are_made_up(
    web: Web, acme: World, unharmed: Callable[..., None]
) -> None:
    before = len(web.said())
    bearer, page = {"Authorization": "Bearer scc_made-up"}, f"/e/{acme.org.handle}/"
    session = {"Cookie": f"__Host-sid-{acme.org.handle}=made-up"}

    def call() -> None:
        assert web.request("POST", "/api/v1/conversations", b"{}", bearer)[0] in (401, 503)

    def look() -> None:
        assert web.request("GET", page, b"", session)[0] in (401, 503)

    unharmed(*[call] * 8, *[look] * 8)
    assert len(web.said()) - before < 5_000


def test_bodies_in_chunks_of_a_byte(web: Web, acme: World, unharmed: Callable[..., None]) -> None:
    piece = b"1\r\n[\r\n" * 10_000

    def post() -> None:
        chunked = head(own_path(acme), FAKE).replace(b"Content-Length: 2000", b"Transfer-Encoding: chunked")
        with web.raw(chunked) as one:
            for _ in range(200):
                one.sendall(piece)

    unharmed(*[post] * 4)


def test_refusals_while_redis_hangs(acme: World, rival: World) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        Web(REDIS_URL=f"redis://127.0.0.1:{silent.getsockname()[1]}/0") as web,
    ):
        client = Pipelined(web)
        with steady(web, rival) as seen:
            end = time.monotonic() + SECONDS
            while time.monotonic() < end:
                assert client.post([own_path(acme)] * 20, FAKE) == {401}
    assert {status for status, _ in seen} == {200} and p99(seen) < SIGNED_SECONDS


class Pipelined:
    """Sends many requests on one connection before it reads the answers: a stranger need not wait.

    The first refusal ends the connection, and what came behind it is not looked at.
    """

    def __init__(self, web: Web) -> None:
        self.web = web

    def post(self, paths: list[str], headers: dict[str, str]) -> set[int]:
        """Give the statuses."""
        requests = b"".join(head(path, headers, length=2) + b"{}" for path in paths)
        statuses: list[int] = []
        with self.web.raw(requests) as one, one.makefile("rb") as answers:
            one.shutdown(socket.SHUT_WR)
            for _ in paths:
                line = answers.readline()
                if not line:
                    break
                statuses.append(int(line.split()[1]))
                length = 0
                while (header := answers.readline()) not in (b"\r\n", b""):
                    if header.lower().startswith(b"content-length:"):
                        length = int(header.split(b":")[1])
                answers.read(length)
        return set(statuses)
