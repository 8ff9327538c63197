"""What somebody without credentials may send, each kind of it from a process of its own.

python -m benchmarks.hostile < JOB     (what ``job_of`` gives, as JSON on one line)

It prints ``ready``, begins with the next line, goes on until its standard input ends, and tells then what it could do.
"""

import asyncio
import itertools
import json
import resource
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any, Protocol
from urllib.parse import urlencode, urlsplit
from uuid import uuid4

from benchmarks.load import SIGNATURE_HEADER, request, user
from benchmarks.loader import read_line

BARE = "/api/infobip/inbound/messages"
ANSWERS = "/api/infobip/inbound/answers"
FORGED = "SHA256=" + "5" * 64  # well-formed, so that somebody must look further
AGAIN = 0.2  # seconds before somebody whose connection was closed comes again
PATIENCE = 30.0  # seconds for an answer
STAYS = 5.0  # seconds for which somebody keeps a connection that is not closed
HANGS = 1.0  # seconds after which a page that has not answered counts as one that hangs


class Attacker:
    """Opens connections, and counts what comes of them."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job, self.web = job, str(job["web"])
        parts = urlsplit(self.web)
        self.host, self.port = parts.hostname or "", parts.port or 80
        self.came: Counter[str] = Counter()
        # one address of this machine has too few ports for thousands that come again and again
        self.sources = itertools.cycle([f"127.0.0.{number}" for number in range(2, 52)])

    async def again_and_again(self, what: Callable[[], Awaitable[None]]) -> None:
        """Do something for ever, whatever happens."""
        while True:
            with suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                await what()
            await asyncio.sleep(AGAIN)

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection."""
        source = (next(self.sources), 0) if self.host == "127.0.0.1" else None
        opened = await asyncio.open_connection(self.host, self.port, local_addr=source)
        self.came["connections"] += 1
        return opened

    async def post(self, path: str, body: bytes, headers: dict[str, str] | None = None) -> str:
        """Post something on a connection of its own, and give the whole answer."""
        reader, writer = await self.open()
        try:
            writer.write(request(self.web + path, body, {"Connection": "close", **(headers or {})}))
            async with asyncio.timeout(PATIENCE):
                with suppress(ConnectionError):  # it may be refused before it has come
                    await writer.drain()
                answer = (await reader.read()).decode(errors="replace")
            self.came[f"answers {answer[9:12]}" if answer else "closed without an answer"] += 1
            return answer
        except ConnectionError:
            self.came["closed without an answer"] += 1
            raise
        finally:
            writer.close()

    async def at_rate(self, rate: float, what: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Do something so often a second, whether the ones before have ended or not; at most 64 of them at once."""
        under_way: set[asyncio.Task[Any]] = set()
        while True:
            if len(under_way) < 64:
                task = asyncio.create_task(what())
                under_way.add(task)
                task.add_done_callback(under_way.discard)
                task.add_done_callback(lambda done: None if done.cancelled() else done.exception())  # noted by its absence
            await asyncio.sleep(1 / rate)


async def trickle(attacker: Attacker) -> None:
    """Sixteen sockets send a byte a second of a body, by turns to an account's own path and to the one that names none."""
    urls = itertools.cycle([*attacker.job["webhooks"], attacker.web + BARE])

    async def drip() -> None:
        reader, writer = await attacker.open()
        head = request(next(urls), b" " * 4000, {SIGNATURE_HEADER: FORGED})[:-4000]
        try:
            writer.write(head)
            while not reader.at_eof():
                writer.write(b" ")
                await writer.drain()
                with suppress(TimeoutError):
                    async with asyncio.timeout(1):
                        answer = await reader.read(4096)
                    attacker.came[f"answers {answer[9:12].decode()}"] += 1
                    return
        finally:
            writer.close()

    await asyncio.gather(*(attacker.again_and_again(drip) for _ in range(16)))


async def half_headers(attacker: Attacker) -> None:
    """520 connections send the beginning of a request and wait."""

    async def begin() -> None:
        reader, writer = await attacker.open()
        try:
            writer.write(f"POST {BARE} HTTP/1.1\r\nHost: {attacker.host}\r\nX-Hub-".encode())
            await reader.read()  # until it is closed
            attacker.came["closed"] += 1
        finally:
            writer.close()

    await asyncio.gather(*(attacker.again_and_again(begin) for _ in range(520)))


async def bodies_that_never_begin(attacker: Attacker) -> None:
    """4,600 connections send the whole head of a webhook and no body, and come again when they are closed."""
    urls = itertools.cycle(attacker.job["webhooks"])

    async def begin() -> None:
        head = request(next(urls), b" " * 1000, {SIGNATURE_HEADER: FORGED})[:-1000]
        reader, writer = await attacker.open()
        try:
            writer.write(head)
            answer = await reader.read()
            attacker.came[f"answers {answer[9:12].decode()}" if answer else "closed without an answer"] += 1
        finally:
            writer.close()

    await crowd(attacker, 4600, begin)


async def connections_that_stay(attacker: Attacker) -> None:
    """6,000 connections ask whether the process lives, and stay."""
    asked = f"GET /healthz HTTP/1.1\r\nHost: {attacker.host}\r\n\r\n".encode()

    async def stay() -> None:
        reader, writer = await attacker.open()
        try:
            writer.write(asked)
            async with asyncio.timeout(STAYS):
                await reader.read()
                attacker.came["closed"] += 1
                await asyncio.sleep(STAYS)
        finally:
            writer.close()

    await crowd(attacker, 6000, stay)


async def crowd(attacker: Attacker, count: int, what: Callable[[], Awaitable[None]]) -> None:
    """Do something so many times at once, for ever; they come within a second, since a listener's queue is short."""

    async def come(place: int) -> None:
        await asyncio.sleep(place / count)
        await attacker.again_and_again(what)

    await asyncio.gather(*(come(place) for place in range(count)))


async def nested_lists(attacker: Attacker) -> None:
    """Twelve unsigned bodies of 16 MiB, of millions of lists each, come at once to the path that names no account."""
    body = b'{"results": [' + b"[]," * ((16 << 20) // 3 - 8) + b"[]]}"
    await asyncio.gather(*(attacker.post(BARE, body) for _ in range(12)), return_exceptions=True)
    await asyncio.Event().wait()


async def many_numbers(attacker: Attacker) -> None:
    """Unsigned bodies of a thousand numbers each, ten a second."""
    known: list[str] = attacker.job["senders"]

    async def send() -> None:
        numbers = [known[place] if place < len(known) else user(500_000 + place) for place in range(1000)]
        results = [{"to": number, "from": user(1), "messageId": str(uuid4())} for number in numbers]
        await attacker.post(BARE, json.dumps({"results": results}).encode())

    await attacker.at_rate(10, send)


async def spaces(attacker: Attacker) -> None:
    """Hand-over calls without a token whose conversation is 65,000 spaces and a letter, five a second."""
    body = json.dumps({"conversationId": " " * 65_000 + "x", "senderNumber": user(1)}).encode()
    await attacker.at_rate(5, lambda: attacker.post(ANSWERS, body))


async def random_uuids(attacker: Attacker) -> None:
    """Webhooks to accounts that do not exist, 200 a second."""
    body = json.dumps({"results": [{"messageId": "1", "from": user(1)}]}).encode()
    await attacker.at_rate(200, lambda: attacker.post(f"{BARE}/{uuid4()}", body, {SIGNATURE_HEADER: FORGED}))


async def hanging_pages(attacker: Attacker) -> None:
    """Sixteen requests for a page that asks a server which takes calls and never answers: a set-up whose org is ours."""

    async def hang(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        attacker.came["calls of the connector"] += 1
        with suppress(ConnectionError, asyncio.CancelledError):
            await asyncio.sleep(3600)
        writer.close()

    async with await asyncio.start_server(hang, "127.0.0.1", 0) as server:
        await ask_for_pages(attacker, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")


async def ask_for_pages(attacker: Attacker, ours: str) -> None:
    """Begin a set-up whose org is at an address of ours, and have it tried by sixteen at once."""
    own_page = {"Origin": attacker.web, "Content-Type": "application/x-www-form-urlencoded"}
    begun = await attacker.post("/", urlencode({"my_domain": ours}).encode(), own_page)
    cookies = [line.partition(":")[2] for line in begun.split("\r\n") if line.lower().startswith("set-cookie:")]
    jar = "; ".join(cookie.partition(";")[0].strip() for cookie in cookies)
    form = urlencode({"consumer_key": "3MVG9hanging", "username": "byoc@hanging.example"}).encode()

    async def ask() -> None:
        slow = asyncio.get_running_loop().call_later(HANGS, lambda: attacker.came.update({"pages that hung": 1}))
        try:
            await attacker.post("/new/", form, {**own_page, "Cookie": jar})
        finally:
            slow.cancel()

    await asyncio.gather(*(attacker.again_and_again(ask) for _ in range(16)))


KINDS: dict[str, Callable[[Attacker], Awaitable[None]]] = {
    "sixteen trickling bodies": trickle,
    "520 half-sent headers": half_headers,
    "4,600 bodies that never begin": bodies_that_never_begin,
    "6,000 connections that stay": connections_that_stay,
    "twelve nested lists of 16 MiB": nested_lists,
    "bodies of 1,000 numbers": many_numbers,
    "65,000 spaces in a hand-over call": spaces,
    "random account ids": random_uuids,
    "sixteen hanging pages": hanging_pages,
}


class Known(Protocol):
    """What anybody may know of a company: its number, and where its webhooks go."""

    @property
    def sender(self) -> str: ...

    @property
    def webhook(self) -> str: ...


def job_of(kind: str, web: str, companies: Iterable[Known]) -> dict[str, Any]:
    """Write the job of an attack on a site."""
    known = list(companies)
    senders, webhooks = [each.sender for each in known], [each.webhook for each in known]
    return {"kind": kind, "web": web, "senders": senders, "webhooks": webhooks}


async def attack(job: dict[str, Any]) -> Counter[str]:
    """Go on until standard input ends."""
    attacker = Attacker(job)
    work = asyncio.ensure_future(KINDS[job["kind"]](attacker))
    await asyncio.to_thread(sys.stdin.buffer.read)
    work.cancel()
    with suppress(asyncio.CancelledError, OSError):
        await work
    return attacker.came


def main() -> None:
    """Wait for the word, attack, and tell."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    job = json.loads(read_line())
    print("ready", flush=True)
    if read_line():
        print(json.dumps(asyncio.run(attack(job))), flush=True)


if __name__ == "__main__":
    main()
