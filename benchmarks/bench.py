"""One stack under measurement: what every row needs to load it, to wait for it, and to see what it cost."""

import asyncio
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
from psycopg import sql

from benchmarks import processes
from benchmarks.figures import Row
from benchmarks.load import Company, Sent, reserve, result
from benchmarks.page import say
from benchmarks.sending import Load, prepare
from devstack.stack import Stack
from devstack.version import ROOT

ORGS = 4
USERS = 150  # of each org
PATIENCE = 180.0  # seconds that a backlog may take before the run is given up, and a hundredth more per message
DISTANCE = 50  # milliseconds
UPSTREAMS = ("interactions", "acknowledgement", "send", "conversations")
FLOOR_TABLE = "CREATE TABLE IF NOT EXISTS bench_arrival (id bigserial PRIMARY KEY, key text UNIQUE, body bytea NOT NULL)"
INBOUND, OUTBOUND = "inbound", "outbound"
INBOX = "messaging_inbox"  # where there is one, the door only appends
# what a run leaves behind
LEFT_BEHIND = [
    *("bench_arrival", INBOX, "messaging_attempt", "messaging_message", "messaging_receivedevent", "messaging_session"),
    *("messaging_lane", "messaging_address", "messaging_conversation"),
]
KEPT = LEFT_BEHIND[-3:]  # where there are stored messages, which need them
AT_REST = {"due_at": "NULL", "retry_at": "NULL", "failures": "0", "holder": "NULL", "trying": "NULL"}  # of a lane


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured: enough for a figure in minutes, for those who have an hour, or only to see that it runs."""

    runs: int
    name: str = "usual"  # or full, or smoke

    def of(self, usual: int, *, full: int | None = None, smoke: int | None = None) -> int:
        """Choose."""
        chosen = {"usual": usual, "full": full, "smoke": smoke}[self.name]
        return usual if chosen is None else chosen


class Late(Exception):
    """What was to happen did not, in all the time that was given."""


@dataclass(slots=True)
class Meter:
    """CPU time of all processes while something runs."""

    bench: "Bench"
    before: dict[str, float] = field(default_factory=dict)

    def start(self) -> None:
        """Begin."""
        self.before = self.bench.cpu_seconds()

    def stop(self, count: int, sent: Sent | None = None) -> dict[str, float]:
        """End when so many messages were done, and give milliseconds of CPU per message by process."""
        after = self.bench.cpu_seconds()
        spent = {name: after[name] - self.before[name] for name in after if name in self.before}
        if sent is not None:
            spent["load"] = sent.cpu
        return {name: seconds * 1000 / max(1, count) for name, seconds in spent.items()}


class Bench:
    """The stack, its orgs, and hands for both ends."""

    def __init__(self, stack: Stack, companies: Sequence[Company], client: aiohttp.ClientSession, size: Size) -> None:
        self.stack, self.companies, self.client, self.size = stack, list(companies), client, size
        self.rows = psycopg.connect(stack.env["DATABASE_URL"], autocommit=True)
        self.rows.execute("SET connector.org = '*'")
        self.rows.execute(FLOOR_TABLE)
        self.memory: dict[str, float] = {}
        self.stored: dict[str, int] = {}  # the last row of each table that stays

    # the load

    async def load(self, count: int, *, companies: Sequence[Company] = (), users: int = USERS, **how: Any) -> Load:
        """Have a load made ready, to the orgs that are named or to all; ``how`` is what ``prepare`` takes."""
        return await prepare(companies or self.companies, count, users=users, among=self.companies, **how)

    async def settle(self, seconds: float = 60.0) -> None:
        """Wait until signed webhooks are taken quickly again.

        :raises Late: if they are not in so long
        """
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            sent = await (await self.load(5, rate=10)).send()
            if not sent.failures and max(sent.latencies) < 1:
                return
        raise Late(f"signed webhooks were not taken quickly again in {seconds:.0f} s")

    # far sides

    async def control(self, method: str, path: str, body: object = None) -> Any:
        """Call the sandbox's control API."""
        async with self.client.request(method, self.stack.page_url + path, json=body) as answer:
            if answer.status != 200:
                raise Late(f"{method} {path}: {answer.status} {await answer.text()}")
            return await answer.json()

    async def set_distance(self, milliseconds: int) -> None:
        """Put both platforms so far away: each of their answers takes so long."""
        await self.control("DELETE", "/control/faults")
        for name in UPSTREAMS if milliseconds else ():
            await self.control("POST", "/control/faults", {"where": name, "what": "delay", "seconds": milliseconds / 1000})

    async def journal_end(self) -> int:
        """Say where the journal ends now."""
        return int((await self.control("GET", f"/control/journal?after={1 << 60}"))["last"])

    async def taken(self, after: int, kind: str = "interaction") -> list[dict[str, Any]]:
        """Give what a far side took since, oldest first."""
        side = {"interaction": "salesforce", "send": "infobip", "stream_open": "pubsub"}[kind]
        entries = (await self.control("GET", f"/control/journal?after={after}&side={side}"))["entries"]
        good = {"interaction": 202, "send": 200, "stream_open": None}[kind]
        return [each for each in entries if each["kind"] == kind and each.get("status") == good]

    async def lines_of(self, end_user: str, after: int, count: int) -> list[float]:
        """Wait for so many lines of an end user at Salesforce, and give their times in milliseconds.

        :raises Late: if they do not come in time
        """
        until = time.monotonic() + PATIENCE
        while len(lines := [each for each in await self.taken(after) if each.get("from") == end_user]) < count:
            if time.monotonic() > until:
                raise Late(f"{len(lines)} of {count} lines came in time")
            await asyncio.sleep(0.1)
        return [float(each["at"]) for each in lines]

    async def last_read(self, conversation: str, after: int) -> float:
        """Say when a transcript was read last, in milliseconds."""
        entries = (await self.control("GET", f"/control/journal?after={after}&side=infobip"))["entries"]
        reads = [each for each in entries if each["kind"] == "transcript_read" and each["id"] == conversation]
        return float(reads[-1]["at"])

    # rows

    def newest(self) -> int:
        """Name the newest message."""
        return self.number_of("SELECT COALESCE(max(id), 0) FROM messaging_message")

    def carried(self, newer_than: int, direction: str, org: str = "") -> int:
        """Count the messages that arrived at their far side, or failed for good."""
        return self.number_of(
            """SELECT count(*) FROM messaging_message WHERE id > %s AND direction = %s AND status <> 'pending'
               AND (%s = '' OR org_id IN (SELECT id FROM tenants_org WHERE salesforce_id = %s))""",
            newer_than,
            direction,
            org,
            org,
        )

    def number_of(self, statement: str, *parameters: object) -> int:
        """Give the one number that a statement asks for."""
        row = self.rows.execute(statement.encode(), parameters).fetchone()
        return int(row[0]) if row else 0

    def has_table(self, name: str) -> bool:
        """Tell whether the code that is measured has a table."""
        return bool(self.number_of("SELECT count(*) FROM pg_tables WHERE tablename = %s", name))

    async def wait_carried(self, count: int, newer_than: int, direction: str = INBOUND, org: str = "") -> None:
        """Wait until so many messages have been carried.

        :raises Late: if it takes too long
        """
        until = time.monotonic() + PATIENCE + count / 100
        while (carried := await asyncio.to_thread(self.carried, newer_than, direction, org)) < count:
            if time.monotonic() > until:
                raise Late(f"{carried} of {count} {direction} messages were carried in time")
            await asyncio.sleep(0.2)  # counting costs PostgreSQL some milliseconds

    async def wait_ingested(self, count: int, newer_than: int, pause: float = 0.1) -> None:
        """Wait until the accepted webhooks have become so many messages. The newest id says it, which is cheap to read.

        :raises Late: if it takes too long
        """
        until = time.monotonic() + PATIENCE
        while (became := await asyncio.to_thread(self.newest) - newer_than) < count:
            if time.monotonic() > until:
                raise Late(f"{became} of {count} messages were ingested in time")
            await asyncio.sleep(pause)

    def empty(self) -> None:
        """Forget all that was received, so that each run begins alike; stored messages stay."""
        there = [name for name in LEFT_BEHIND if self.has_table(name)]
        if not self.stored:
            self.rows.execute(sql.SQL("TRUNCATE {} CASCADE").format(sql.SQL(", ").join(map(sql.Identifier, there))))
            return
        for name in there:
            if name not in KEPT:
                newer = sql.SQL("DELETE FROM {} WHERE id > %s").format(sql.Identifier(name))
                self.rows.execute(newer, [self.stored.get(name, 0)])
        known = "SELECT column_name FROM information_schema.columns WHERE table_name = 'messaging_lane'"
        columns = {str(name) for (name,) in self.rows.execute(known)}
        rest = [
            sql.SQL("{} = {}").format(sql.Identifier(name), sql.SQL(AT_REST[name])) for name in AT_REST.keys() & columns
        ]
        self.rows.execute(sql.SQL("UPDATE messaging_lane SET {}").format(sql.SQL(", ").join(rest)))

    def keep_stored(self) -> None:
        """Let what there is now stay to the end."""
        for name in LEFT_BEHIND:
            if name not in KEPT and self.has_table(name):
                last = sql.SQL("SELECT COALESCE(max(id), 0) FROM {}").format(sql.Identifier(name)).as_string()
                self.stored[name] = self.number_of(last)

    # processes

    def pid(self, name: str) -> int:
        """Give the pid of a process, 0 if it does not run."""
        child = self.stack.children.get(name) or self.stack.services.get(name)
        return child.process.pid if child is not None and child.process is not None else 0

    def cpu_seconds(self) -> dict[str, float]:
        """Read the CPU time of every process that runs."""
        names = [name for name in (*self.stack.children, *self.stack.services) if self.pid(name)]
        return {name: processes.cpu_seconds(self.pid(name)) for name in names}

    def note_memory(self) -> None:
        """Remember how much memory each process of the connector had at most."""
        for name in self.stack.process_names:
            if pid := self.pid(name):
                self.memory[name] = max(self.memory.get(name, 0.0), processes.memory_mib(pid))

    async def wait_idle(self, name: str) -> None:
        """Wait until a process that was started has done with starting: until it uses no more than a tenth of a CPU.

        :raises Late: if it never does
        """
        until = time.monotonic() + 60
        while time.monotonic() < until:
            pid = self.pid(name)
            before = processes.cpu_seconds(pid)
            await asyncio.sleep(1)
            if pid and pid == self.pid(name) and before > 0.3 and processes.cpu_seconds(pid) - before < 0.1:
                return
        raise Late(f"{name} did not come to rest")

    async def warm_up(self) -> None:
        """Have every end user write once, through the sandbox, so that no later row pays for the first time."""
        mark = self.newest()
        for place, company in enumerate(self.companies):
            numbers = range(place * USERS, (place + 1) * USERS)
            for begin in range(0, USERS, 50):
                results = [result(company.sender, number, reserve(1)) for number in numbers[begin : begin + 50]]
                await self.control("POST", "/control/phone/batch", {"org": company.org, "results": results})
        await self.wait_carried(ORGS * USERS, mark)

    async def recover(self) -> None:
        """Bring everything back to where a row begins, after one that went wrong."""
        await self.set_distance(0)
        for name in list(self.stack.children):
            if name in self.stack.process_names:
                await asyncio.to_thread(self.stack.restart, name)
            elif name != "sandbox":
                await asyncio.to_thread(self.stack.stop, name)
        await asyncio.to_thread(self.stack.wait_ready)
        self.empty()
        await self.warm_up()

    async def conversations(self) -> list[tuple[str, str]]:
        """Name the org and id of each conversation that Salesforce knows: orgs in turn."""
        rows = self.rows.execute(
            """SELECT org.salesforce_id, conversation.identifier FROM messaging_conversation conversation
               JOIN tenants_org org ON org.id = conversation.org_id WHERE conversation.identifier <> ''
               ORDER BY row_number() OVER (PARTITION BY org.id ORDER BY conversation.id), org.id"""
        )
        return [(str(org), str(identifier)) for org, identifier in rows.fetchall()]


def setting_of_calls(example: Path = ROOT / ".env.example") -> str:
    """Find the setting that says how many calls a worker has under way; empty if there is none."""
    found = re.search(r"^#[^\n]*\bunder way\b[^\n]*\n([A-Z_]+)=", example.read_text(), re.MULTILINE)
    return found[1] if found else ""


def lost(row: Row, what: str, expected: int, entries: Sequence[dict[str, Any]]) -> None:
    """Note in a row what did not arrive, or more than once: a figure counts for nothing then."""
    ids = {str(each.get("id")) for each in entries}
    if len(ids) != expected:
        row.problems.append(f"{what}: {expected} expected, {len(ids)} arrived")
    if len(entries) != len(ids):
        say(f"    {what}: {len(entries) - len(ids)} arrived more than once")


def refused(row: Row, what: str, sent: Sent) -> None:
    """Note in a row what was not answered 200."""
    if sent.failures:
        answers = ", ".join(f"{count} x {status}" for status, count in sorted(sent.statuses.items()))
        row.problems.append(f"{what}: {answers}")


def journeys(sent: Sent, entries: Iterable[dict[str, Any]]) -> list[float]:
    """Give the seconds from the intended time of each webhook to Salesforce's answer for its message."""
    arrived: dict[str, float] = {}
    for each in entries:
        arrived.setdefault(each["text"], float(each["at"]) / 1000)
    return [arrived[text] - intended for text, intended in sent.intended_by_text().items() if text in arrived]
