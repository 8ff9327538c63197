"""Each kind of hostile input is what it says; else a door that was never tried would pass for a strong one."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable

import pytest

from benchmarks.hostile import KINDS, Attacker, job_of
from benchmarks.load import Company

# an attack is broken off wherever it is, in the middle of opening a connection too
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class Site:
    """A site that takes all there is, and answers a whole request with 401."""

    def __init__(self) -> None:
        self.connections = 0
        self.paths: Counter[str] = Counter()
        self.bodies: list[bytes] = []
        self.half: list[int] = []  # bytes of each body that have come

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        head = b""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.paths[head.split()[1].decode()] += 1
            length = int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0])
            place, body = len(self.half), bytearray()
            self.half.append(0)
            while len(body) < length and (more := await reader.read(length - len(body))):
                body += more
                self.half[place] = len(body)
            self.bodies.append(bytes(body))
            answer = b"HTTP/1.1 200 OK\r\nset-cookie: sid=7; Secure\r\n" if b"my_domain" in body else b"HTTP/1.1 401 No\r\n"
            writer.write(answer + b"Content-Length: 0\r\nConnection: close\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # it went away, or it is over
        finally:
            writer.close()


def attack(kind: str, enough: Callable[[Site], bool]) -> tuple[Site, Attacker]:
    async def run() -> tuple[Site, Attacker]:
        site = Site()
        server = await asyncio.start_server(site.serve, "127.0.0.1", 0, backlog=1024)
        async with server:
            port = server.sockets[0].getsockname()[1]
            web = f"http://127.0.0.1:{port}"
            company = Company("00D", "447700900123", f"{web}/api/infobip/inbound/messages/7", "never told", {})
            attacker = Attacker(job_of(kind, web, [company]))
            work = asyncio.ensure_future(KINDS[kind](attacker))
            async with asyncio.timeout(30):
                while not enough(site):
                    await asyncio.sleep(0.05)
            work.cancel()
            await asyncio.wait([work])
        await asyncio.sleep(0.2)  # until both ends of each connection are closed
        return site, attacker

    return asyncio.run(run())


def test_sixteen_sockets_send_a_byte_a_second() -> None:
    site, _ = attack("sixteen trickling bodies", lambda site: sum(half >= 2 for half in site.half) == 16)
    assert site.connections == 16
    assert max(site.half) <= 4
    assert set(site.paths.values()) == {8}  # an account's own path, and the one that names none
    assert max(len(body) for body in site.bodies) <= 4  # none was whole


def test_520_connections_stop_in_the_middle_of_their_headers() -> None:
    site, attacker = attack("520 half-sent headers", lambda site: site.connections == 520)
    assert not site.paths
    assert attacker.came["connections"] == 520


def test_twelve_bodies_of_16_mebibytes_are_json_of_millions_of_lists() -> None:
    site, _ = attack("twelve nested lists of 16 MiB", lambda site: len(site.bodies) == 12)
    assert set(site.paths) == {"/api/infobip/inbound/messages"}
    (body,) = set(site.bodies)
    assert 16_000_000 < len(body) <= 16 << 20  # no larger than what is read at all
    assert body.count(b"[]") > 5_000_000
    assert json.loads(body[:1000].rpartition(b",")[0] + body[-5:])  # what is between is the same again and again


def test_a_thousand_different_numbers_come_unsigned_ours_among_them() -> None:
    site, _ = attack("bodies of 1,000 numbers", lambda site: len(site.bodies) > 2)
    numbers = [each["to"] for each in json.loads(site.bodies[0])["results"]]
    assert len(set(numbers)) == 1000
    assert "447700900123" in numbers


def test_65_000_spaces_fit_into_a_hand_over_call() -> None:
    site, _ = attack("65,000 spaces in a hand-over call", lambda site: len(site.bodies) > 1)
    assert set(site.paths) == {"/api/infobip/inbound/answers"}
    assert json.loads(site.bodies[0])["conversationId"].startswith(" " * 65_000)
    assert len(site.bodies[0]) < 1 << 16


def test_account_ids_are_new_each_time() -> None:
    site, _ = attack("random account ids", lambda site: len(site.bodies) > 20)
    assert max(site.paths.values()) == 1


def test_pages_are_asked_for_by_sixteen_at_once_with_the_cookie_that_the_set_up_gave() -> None:
    site, _ = attack("sixteen hanging pages", lambda site: site.paths["/new/"] >= 16)
    assert site.paths["/"] == 1
    assert site.bodies[0].startswith(b"my_domain=http%3A%2F%2F127.0.0.1")


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_says_what_it_is(kind: str) -> None:
    assert (KINDS[kind].__doc__ or "").endswith(".")
