"""One stack under measurement: what every row needs to load it, to wait for it, and to see what it cost."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import psycopg

from benchmarks import processes
from benchmarks.load import Company, result, user
from benchmarks.report import Row, say
from sandbox.stack import ROOT, Stack

ORGS = 4
USERS = 150  # of each org
PATIENCE = 180.0  # seconds that a backlog may take before the run is given up, and a hundredth more per message
DOORS = ("interactions", "acknowledgement", "send", "conversations")
FLOOR_TABLE = "CREATE TABLE IF NOT EXISTS bench_arrival (id bigserial PRIMARY KEY, key text UNIQUE, body bytea NOT NULL)"
INBOUND, OUTBOUND = "inbound", "outbound"


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured: enough for a figure in minutes, or for those who have half an hour."""

    runs: int
    full: bool

    def of(self, short: int, full: int) -> int:
        """Choose."""
        return full if self.full else short


class Late(Exception):
    """What was to happen did not, in all the time that was given."""


@dataclass(slots=True)
class Meter:
    """CPU time of all processes while something runs."""

    bench: "Bench"
    before: dict[str, float] = field(default_factory=dict)
    count_before: int = 0

    def start(self, count: int = 0) -> None:
        """Begin, when so many messages were done already."""
        self.before, self.count_before = self.bench.cpu_seconds(), count

    def stop(self, count: int) -> dict[str, float]:
        """End when so many were done, and give milliseconds of CPU per message by process."""
        after = self.bench.cpu_seconds()
        done = max(1, count - self.count_before)
        return {name: (after[name] - self.before[name]) * 1000 / done for name in after if name in self.before}


class Bench:
    """The stack, its orgs, and hands for both ends."""

    def __init__(self, stack: Stack, companies: Sequence[Company], client: aiohttp.ClientSession, size: Size) -> None:
        self.stack, self.companies, self.client, self.size = stack, list(companies), client, size
        self.rows = psycopg.connect(stack.env["DATABASE_URL"], autocommit=True)
        self.rows.execute("SET connector.org = '*'")
        self.rows.execute(FLOOR_TABLE)
        self.memory: dict[str, float] = {}

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
        for door in DOORS if milliseconds else ():
            await self.control("POST", "/control/faults", {"where": door, "what": "delay", "seconds": milliseconds / 1000})

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
        return self._number("SELECT COALESCE(max(id), 0) FROM messaging_message")

    def carried(self, newer_than: int, direction: str, org: str = "") -> int:
        """Count the messages that arrived at their far side, or failed for good."""
        return self._number(
            """SELECT count(*) FROM messaging_message WHERE id > %s AND direction = %s AND status <> 'pending'
               AND (%s = '' OR org_id IN (SELECT id FROM tenants_org WHERE salesforce_id = %s))""",
            newer_than,
            direction,
            org,
            org,
        )

    def _number(self, statement: str, *parameters: object) -> int:
        row = self.rows.execute(statement, parameters).fetchone()
        return int(row[0]) if row else 0

    async def wait_carried(self, count: int, newer_than: int, direction: str = INBOUND, org: str = "") -> None:
        """Wait until so many messages have been carried.

        :raises Late: if it takes too long
        """
        until = time.monotonic() + PATIENCE + count / 100
        while (carried := await asyncio.to_thread(self.carried, newer_than, direction, org)) < count:
            if time.monotonic() > until:
                raise Late(f"{carried} of {count} {direction} messages were carried in time")
            await asyncio.sleep(0.1)

    def empty(self) -> None:
        """Forget all that was received, so that each run begins alike."""
        tables = ("message", "attempt", "lane", "address", "conversation", "receivedevent")
        self.rows.execute(f"TRUNCATE {', '.join(f'messaging_{name}' for name in tables)}, bench_arrival CASCADE")

    # processes

    def pid(self, name: str) -> int:
        """Give the pid of a process, 0 if it does not run."""
        child = self.stack.children.get(name) or self.stack.services.get(name)
        return child.process.pid if child is not None and child.process is not None else 0

    def cpu_seconds(self) -> dict[str, float]:
        """Read the CPU time of every process that runs, and of this one."""
        names = [name for name in (*self.stack.children, *self.stack.services) if self.pid(name)]
        return {"load": time.process_time()} | {name: processes.cpu_seconds(self.pid(name)) for name in names}

    def note_memory(self) -> None:
        """Remember how much memory each process of the connector had at most."""
        for name in self.stack.process_names:
            if pid := self.pid(name):
                self.memory[name] = max(self.memory.get(name, 0.0), processes.memory_mib(pid))

    async def warm_up(self) -> None:
        """Have every end user write once, through the sandbox, so that no later row pays for the first time."""
        mark = self.newest()
        for place, company in enumerate(self.companies):
            numbers = range(place * USERS, (place + 1) * USERS)
            for begin in range(0, USERS, 50):
                results = [result(company, number) for number in numbers[begin : begin + 50]]
                await self.control("POST", "/control/phone/batch", {"org": company.org, "results": results})
        await self.wait_carried(ORGS * USERS, mark)

    async def conversations(self) -> list[tuple[str, str]]:
        """Name the org and id of each conversation that Salesforce knows: orgs in turn."""
        rows = self.rows.execute(
            """SELECT org.salesforce_id, conversation.identifier FROM messaging_conversation conversation
               JOIN tenants_org org ON org.id = conversation.org_id WHERE conversation.identifier <> ''
               ORDER BY row_number() OVER (PARTITION BY org.id ORDER BY conversation.id), org.id"""
        )
        return [(str(org), str(identifier)) for org, identifier in rows.fetchall()]

    async def add_orgs(self, numbers: Iterable[int]) -> None:
        """Set up more orgs, on both sides; they share a key, as making one for each takes long."""
        sample = self.companies[0].document
        documents = [_copy_of(sample, number) for number in numbers]
        for document in documents:
            await self.control("POST", "/control/orgs", {"document": document, "webhooks": {}})
        command = [sys.executable, "-m", "benchmarks.orgs"]
        await asyncio.to_thread(
            subprocess.run, command, input=json.dumps(documents), text=True, env=self.stack.env, cwd=ROOT, check=True
        )


def _copy_of(document: dict[str, Any], number: int) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(document))
    copy["org"] |= {
        "name": f"Idle {number}",
        "orgId": f"00D5g0001{number:06d}EAA",
        "consumerKey": f"3MVG9idle{number}",
        "username": f"byoc@idle-{number}.example",
    }
    copy["infobipAccounts"][0]["apiKey"] = f"idle {number}"
    copy["channels"][0]["channelAddressIdentifier"] = f"6f1f4a5e-2f0a-4e1c-9c56-{number:012d}"
    copy["channels"][0]["senders"][0]["number"] = user(number)
    return copy


def lost(row: Row, what: str, expected: int, entries: Sequence[dict[str, Any]]) -> None:
    """Note in a row what did not arrive, or more than once: a figure counts for nothing then."""
    ids = {str(each.get("id")) for each in entries}
    if len(ids) != expected:
        row.problems.append(f"{what}: {expected} expected, {len(ids)} arrived")
    if len(entries) != len(ids):
        say(f"    {what}: {len(entries) - len(ids)} arrived more than once")
