"""What every door of ours promises, whoever stands before it."""

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone

from messaging import door_body
from messaging.door_body import Held, Room
from messaging.door_refusals import Refused
from messaging.models import ChatbotMessage, Handover, Inbox
from tenants.cache import refusals_today
from tenants.tenancy import every_org
from tests.conftest import World, whatsapp_text
from tests.support.happenings import wait_until
from tests.support.web import BARE, Web, signature

pytestmark = pytest.mark.django_db(transaction=True)

USER = "385991234567"
Headers = dict[str, str]


@pytest.fixture(scope="module")
def web(django_db_setup: None) -> Iterator[Web]:
    with Web() as running:
        yield running


class EveryDoor:
    """Promises of a door; a class that inherits says which one.

    ``largest`` is the size of the largest body that it reads.
    """

    address: str
    names_account = True
    not_json = 400  # what is answered to a body that is not JSON, from who can prove whose it is
    largest: int
    said_without_proof: str

    def path(self, world: World) -> str:
        return f"{self.address}/{world.account.uuid}" if self.names_account else self.address

    def body(self, world: World) -> bytes:
        raise NotImplementedError

    def proof(self, world: World, body: bytes) -> Headers:
        raise NotImplementedError

    def rows(self) -> int:
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def chatbots(self, acme: World, rival: World) -> None:
        with every_org():
            for world in (acme, rival):
                world.account.handover_token = f"t-{world.org.name}"
                world.account.save()
                ChatbotMessage.objects.create(
                    org=world.org,
                    account=world.account,
                    infobip_conversation=f"c-{world.org.name}",
                    end_user=USER,
                    at=timezone.now(),
                )

    def stored(self) -> int:
        with every_org():
            return self.rows()

    def test_who_proves_it_is_let_in(self, web: Web, acme: World) -> None:
        body = self.body(acme)
        assert web.request("POST", self.path(acme), body, self.proof(acme, body))[0] == 200
        assert self.stored() == 1

    def test_without_proof_nothing_is_stored(self, web: Web, acme: World) -> None:
        status, said = web.request("POST", self.path(acme), self.body(acme))
        assert status == 401 and self.said_without_proof in json.loads(said)["error"]
        assert self.stored() == 0

    def test_with_a_wrong_proof_nothing_is_stored(self, web: Web, acme: World, rival: World) -> None:
        body = self.body(acme)
        for headers in (self.proof(rival, body), self.proof(acme, body + b" "), dict.fromkeys(self.proof(acme, body), "")):
            if headers != self.proof(acme, body):  # a token is the same for each body
                assert web.request("POST", self.path(acme), body, headers)[0] == 401
        assert self.stored() == 0

    def test_the_proof_of_one_account_opens_no_other_door(self, web: Web, acme: World, rival: World) -> None:
        body = self.body(rival)
        assert web.request("POST", self.path(rival), body, self.proof(acme, body))[0] == 401
        assert self.stored() == 0

    def test_a_header_with_underscores_is_no_proof(self, web: Web, acme: World) -> None:
        body = self.body(acme)
        underscored = {name.replace("-", "_"): value for name, value in self.proof(acme, body).items()}
        assert web.request("POST", self.path(acme), body, underscored)[0] == 401
        assert self.stored() == 0

    @pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"])
    def test_nothing_but_a_post_is_taken(self, web: Web, acme: World, method: str) -> None:
        body = self.body(acme)
        assert web.request(method, self.path(acme), b"", self.proof(acme, body))[0] == 405
        assert self.stored() == 0

    def test_a_body_over_the_limit_is_refused_by_its_length(self, web: Web, acme: World) -> None:
        body = self.body(acme).ljust(self.largest + 1)
        status, said = web.request("POST", self.path(acme), body, self.proof(acme, body))
        assert status == 413 and f"{self.largest} bytes" in json.loads(said)["error"]
        assert self.stored() == 0

    def test_a_body_in_chunks_is_refused_once_it_is_over_the_limit(self, web: Web, acme: World) -> None:
        body = self.body(acme).ljust(self.largest + 1)
        chunks = (body[at : at + 65536] for at in range(0, len(body), 65536))
        status, said = web.request("POST", self.path(acme), chunks, self.proof(acme, body))
        assert status == 413 and f"{self.largest} bytes" in json.loads(said)["error"]
        assert self.stored() == 0

    def test_a_body_of_just_the_limit_is_taken_in_chunks_or_at_once(self, web: Web, acme: World) -> None:
        body = self.body(acme).ljust(self.largest)
        chunks = (body[at : at + 65536] for at in range(0, len(body), 65536))
        assert web.request("POST", self.path(acme), chunks, self.proof(acme, body))[0] == 200
        assert web.request("POST", self.path(acme), body, self.proof(acme, body))[0] == 200

    def test_what_is_not_json_is_told_so_to_who_proved_it(self, web: Web, acme: World) -> None:
        body = b"text"
        assert web.request("POST", self.path(acme), body, self.proof(acme, body))[0] == self.not_json
        assert web.request("POST", self.path(acme), body)[0] in (400, 401)
        assert self.stored() == 0

    def test_slips_in_the_address_are_forgiven(self, web: Web, acme: World) -> None:
        body = self.body(acme)
        for path in (self.path(acme) + "/", self.path(acme) + "%20", self.path(acme) + "%0A", "/" + self.path(acme)):
            assert web.request("POST", path, body, self.proof(acme, body))[0] == 200
        shouted = self.path(acme).upper().replace("/API/INFOBIP/INBOUND", "/api/infobip/inbound")
        assert web.request("POST", shouted, body, self.proof(acme, body))[0] == 200

    def test_a_refusal_is_counted(self, web: Web, acme: World, rival: World) -> None:
        def counted() -> int:
            return sum(sum(refusals_today(each).values()) for each in (None, acme.account.pk))

        time.sleep(2.5)  # until those of the test before are counted
        before, body = counted(), self.body(acme)
        assert web.request("POST", self.path(acme), body, self.proof(rival, body))[0] == 401
        wait_until(lambda: counted() == before + 1)


class TestWebhooks(EveryDoor):
    address = BARE
    largest = 16 * 1024 * 1024
    said_without_proof = "Add HMAC authentication"

    def body(self, world: World) -> bytes:
        result = whatsapp_text("hello", to=world.sender.number, message_id=f"wamid.{uuid4()}")
        return json.dumps({"results": [result]}).encode()

    def proof(self, world: World, body: bytes) -> Headers:
        return {"X-Hub-Signature": signature(body, world.account.webhook_secret)}

    def rows(self) -> int:
        return Inbox.objects.count()


class TestWebhooksOnTheBarePath(TestWebhooks):
    names_account = False
    not_json = 401  # only the body says whose it is
    largest = 256 * 1024


class TestHandOver(EveryDoor):
    address = "/api/infobip/inbound/answers"
    largest = 64 * 1024
    said_without_proof = "Add the header X-Connector-Token"

    def body(self, world: World) -> bytes:
        return json.dumps({"conversationId": f"c-{world.org.name}", "senderNumber": USER}).encode()

    def proof(self, world: World, body: bytes) -> Headers:
        return {"X-Connector-Token": world.account.handover_token}

    def rows(self) -> int:
        return Handover.objects.count()


class TestHandOverOnTheBarePath(TestHandOver):
    names_account = False


def every_door() -> list[Any]:
    """Find the doors that are tested here."""
    found, waiting = [], [EveryDoor]
    while waiting:
        subclasses = waiting.pop().__subclasses__()
        found += subclasses
        waiting += subclasses
    return [each() for each in found]


def test_a_body_that_trickles_is_given_up_at_every_door(web: Web, acme: World) -> None:
    sockets = []
    for door in every_door():
        headers = "".join(f"{name}: {value}\r\n" for name, value in door.proof(acme, b"{}").items())
        head = f"POST {door.path(acme)} HTTP/1.1\r\nHost: web\r\n{headers}Content-Length: 2000\r\n\r\n"
        sockets.append(web.raw(head.encode()))
    began = time.monotonic()
    while time.monotonic() - began < 8:
        for each in sockets:
            each.sendall(b" ")
        time.sleep(1)
    for each in sockets:
        assert each.recv(1000).startswith(b"HTTP/1.1 408 "), each
        each.close()
    assert 9 < time.monotonic() - began < 13


def read_to_the_end(one: socket.socket, seconds: float = 2.0) -> bytes:
    """Read until the other side closes, which it must within these seconds."""
    one.settimeout(seconds)
    said = b""
    while part := one.recv(65536):
        said += part
    return said


def test_a_body_of_which_no_byte_comes_is_given_up_soon(web: Web, acme: World) -> None:
    door = TestWebhooks()
    began = time.monotonic()
    with web.raw(begun(door.path(acme), door.proof(acme, b"{}"), "Content-Length: 2000")) as one:
        said = read_to_the_end(one, 4)
    assert said.startswith(b"HTTP/1.1 408 ") and 2 < time.monotonic() - began < 3.5


def test_a_signature_that_no_body_can_fit_is_refused_before_the_body_comes(web: Web, acme: World) -> None:
    """Else whoever writes any word into that header has us wait for a body, and hash it."""
    with web.raw(begun(TestWebhooks().path(acme), {"X-Hub-Signature": "none"}, "Content-Length: 2000")) as one:
        assert read_to_the_end(one).startswith(b"HTTP/1.1 401 ")


def test_of_bodies_that_do_not_come_the_oldest_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_body, "MOST_READERS", 3)
    busy, quiet = Room(1 << 20, Room(1 << 20)), Room(1 << 20)

    async def wait(room: Room) -> int:
        async def never() -> dict[str, Any]:
            await asyncio.sleep(60)
            return {}

        with pytest.raises(Refused) as refused, Held(room) as held:
            await held.read(never, length=2000, limit=2000)
        return refused.value.status

    async def all_at_once() -> list[int]:
        return await asyncio.gather(*(wait(room) for room in [busy] * 5 + [quiet]))

    assert asyncio.run(all_at_once()) == [503, 503, 408, 408, 408, 408]


@pytest.mark.parametrize(
    ("path", "line", "status"),
    [
        ("/healthz", "", b"200"),
        (BARE, "Content-Length: 2000", b"401"),
        (BARE, "Content-Length: 2000\r\nX-Hub-Signature: SHA256=" + "0" * 64, b"408"),
        (f"{BARE}/00000000-0000-4000-8000-000000000000", "Content-Length: 2000", b"401"),
        (f"{BARE}/00000000-0000-4000-8000-000000000000", "Content-Length: 2000000000", b"401"),
        ("/api/infobip/inbound/nowhere", "Content-Length: 2000", b"404"),
        ("/api/infobip/inbound/answers", "Content-Length: 200000", b"413"),
        ("/api/infobip/inbound/answers", "Content-Length: 0\r\nX-Connector-Token: guess", b"400"),
        ("/nowhere", "Content-Length: 0", b"404"),
    ],
)
def test_after_a_refusal_the_connection_is_closed_whether_the_body_came_or_not(
    web: Web, path: str, line: str, status: bytes
) -> None:
    with web.raw(begun(path, {}, line) if line else b"GET /healthz HTTP/1.1\r\nHost: web\r\n\r\n") as one:
        said = read_to_the_end(one, 4)
    assert said[9:12] == status and b"\r\nconnection: close\r\n" in said


MALFORMED = {
    "size": b"zz\r\na\r\n0\r\n\r\n",
    "huge size": b"ffffffffffffffffff\r\na\r\n0\r\n\r\n",
    "longer than its size": b"1\r\nabc\r\n0\r\n\r\n",
    "trailers": b"1\r\na\r\n0\r\n" + b"t: x\r\n" * 5000 + b"\r\n",
    "extension": b"1;" + b"x" * 100_000 + b"\r\na\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("what", MALFORMED)
@pytest.mark.parametrize("path", ["own", BARE, "/sf/start"])
def test_a_malformed_body_in_chunks_is_refused_without_a_word_in_the_log(
    web: Web, acme: World, path: str, what: str
) -> None:
    door, before = TestWebhooks(), len(web.said())
    address = door.path(acme) if path == "own" else path
    with web.raw(begun(address, door.proof(acme, b"a"), "Transfer-Encoding: chunked") + MALFORMED[what]) as one:
        said = one.recv(1000)
    assert said.startswith(b"HTTP/1.1 400 ") and b"\r\nconnection: close\r\n" in said
    assert "Traceback" not in web.said()[before:]


def begun(path: str, headers: Headers, line: str) -> bytes:
    """Write the head of a POST."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {path} HTTP/1.1\r\nHost: web\r\n{lines}{line}\r\n\r\n".encode()
