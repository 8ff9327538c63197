"""The fault campaign: real processes and services, a load in both directions, everything that can break, and a verdict.

    python -m tests.faults.campaign --seconds 180 --seed 1 --rate 50

The campaign plays Infobip's side of inbound messages itself: it posts signed webhooks to the connector's door, again
until they are answered 200. Reps' replies go through the sandbox, which does not leave out what is repeated.
"""

import argparse
import asyncio
import hashlib
import hmac
import itertools
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
import redis

from sandbox.stack import Stack, code_measured, example_documents
from tests.faults.checker import REACHED, Evidence, Fault, Row, Seen, Sent, check
from tests.faults.report import Facts, Run, write_report
from tests.faults.schedule import Planned, Turn, plan_faults, plan_turns

ORGS = 3
USERS = 200
PROCESSES = ("web", "worker", "subscriber")
RETRY_WAITS = (0.3, 0.6, 1.0)  # seconds; Infobip's first is two minutes
DRAIN_SECONDS = 90.0
STILL_SECONDS = 5.0  # without news, and with nothing left to do in the rows
REPORT = Path(__file__).resolve().parents[2] / "docs" / "correctness.md"
# what the door says while PostgreSQL is down, and Celery while Valkey is
EXPECTED_ERRORS = (
    "webhook not stored",
    "Service Unavailable: /api/infobip/",
    "consumer: Cannot connect to redis://",
    "Couldn't ack",
    "call_soon_ack immediate exec failed",
)


@dataclass(frozen=True)
class Company:
    """One org as the far sides know it."""

    org: str
    sender: str
    webhook: str
    secret: str


def move_in(stack: Stack, document: dict[str, Any]) -> Company:
    """Provision an org."""
    result = stack.provision(document)
    return Company(
        org=document["org"]["orgId"],
        sender=document["channels"][0]["senders"][0]["number"],
        webhook=result["infobipAccounts"][0]["webhook"],
        secret=document["infobipAccounts"][0]["webhookSecret"],
    )


def leaves_doubt(fault: dict[str, Any]) -> bool:
    """Tell whether the connector cannot know if a call that met this fault was taken."""
    unclear = fault["what"] in ("timeout_before", "timeout_after") or fault.get("status", 500) == 500
    return fault["where"] in ("interactions", "send") and fault["what"] not in ("delay", "trickle") and unclear


class Campaign:
    """One run, from the first hello to the last receipt."""

    def __init__(self, stack: Stack, companies: list[Company], client: aiohttp.ClientSession) -> None:
        self.stack, self.companies, self.client = stack, companies, client
        self.began = time.time()
        self.sent: dict[str, Sent] = {}
        self.seen: list[Seen] = []
        self.faults: list[Fault] = []
        self.conversations: dict[int, str] = {}
        self.text_of_uuid: dict[str, str] = {}
        self.text_of_entry: dict[str, str] = {}
        self.reported: dict[str, str] = {}  # by uuid
        self.ticked: dict[str, str] = {}  # by entry
        self.doubling = self.losing = False
        self.last_news = 0.0
        self.read_until = 0
        self.tasks: set[asyncio.Task[None]] = set()

    def now(self) -> float:
        """Give the seconds since the load began."""
        return time.time() - self.began

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something beside."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def control(self, method: str, path: str, body: object = None) -> Any:
        """Call the sandbox's control API."""
        async with self.client.request(method, self.stack.page_url + path, json=body) as answer:
            if answer.status != 200:
                raise RuntimeError(f"{method} {path}: {answer.status} {await answer.text()}")
            return await answer.json()

    def company(self, user: int) -> Company:
        """Say whom an end user writes to."""
        return self.companies[user % ORGS]

    # people

    async def greet(self) -> None:
        """Let every end user write once, through the sandbox, so that its phones and its console know them."""

        async def hello(user: int) -> None:
            text = f"inbound {user} 0: hello"
            message = {"from": number(user), "to": self.company(user).sender, "name": f"User {user}", "text": text}
            begun = self.now()
            answers = (await self.control("POST", "/control/phone/messages", message))["answers"]
            taken = all(answer["status"] == 200 for answer in answers)
            self.sent[text] = Sent(text, "inbound", user % ORGS, user, begun, self.now() if taken else None)

        for users in chunks(USERS, 20):
            await asyncio.gather(*(hello(user) for user in users))
        while len(self.conversations) < USERS:
            await asyncio.sleep(0.1)
            if self.now() > 60:
                raise RuntimeError(f"{USERS - len(self.conversations)} end users never reached the console")

    async def take(self, turn: Turn) -> None:
        """Write the texts of a turn."""
        if turn.direction == "outbound":
            for text in turn.texts:
                await self.reply(turn.user, text)
        elif turn.manner == "after":
            for text in turn.texts:
                await self.write(turn.user, (text,))
        elif turn.manner == "batch":
            await self.write(turn.user, turn.texts)
        else:  # together or twice
            await asyncio.gather(
                *(self.write(turn.user, (text,), copies=2 if turn.manner == "twice" else 1) for text in turn.texts)
            )

    async def reply(self, user: int, text: str) -> None:
        """Let a rep write."""
        begun = self.now()
        reply = {"org": self.company(user).org, "conversation": self.conversations[user], "text": text}
        entry = (await self.control("POST", "/control/console/replies", reply))["entry"]
        self.text_of_entry[entry] = text
        self.sent[text] = Sent(text, "outbound", user % ORGS, user, begun, self.now())

    async def write(self, user: int, texts: tuple[str, ...], copies: int = 1) -> None:
        """Let an end user write, with one webhook."""
        company = self.company(user)
        for text in texts:
            self.sent[text] = Sent(text, "inbound", user % ORGS, user, self.now(), None)
        results = [result(user, company.sender, text) for text in texts]
        await asyncio.gather(*(self.post(company, results, texts) for _ in range(2 if self.doubling else copies)))

    async def post(self, company: Company, results: list[dict[str, Any]], texts: tuple[str, ...]) -> None:
        """Post a webhook until it is answered 200, as Infobip does."""
        body = json.dumps({"results": results, "messageCount": len(results), "pendingMessageCount": 0}).encode()
        signature = "SHA256=" + hmac.new(company.secret.encode(), body, hashlib.sha256).hexdigest()
        headers = {"Content-Type": "application/json", "X-Hub-Signature": signature}
        for wait in itertools.chain(RETRY_WAITS, itertools.repeat(RETRY_WAITS[-1])):
            with suppress(aiohttp.ClientError, TimeoutError):
                lost, begun = self.losing, time.monotonic()
                async with self.client.post(company.webhook, data=body, headers=headers) as answer:
                    await answer.read()
                    if answer.status == 200 and not lost:
                        break
                if lost:  # the answer never came: the webhook is sent again when its time is over
                    await asyncio.sleep(max(0.0, begun + 0.5 - time.monotonic()))
            await asyncio.sleep(wait)
        for text in texts:
            if self.sent[text].accepted is None:
                self.sent[text] = replace(self.sent[text], accepted=self.now())

    # the journal

    async def watch(self) -> None:
        """Read what the far sides saw, for as long as the campaign lasts."""
        while True:
            answer = await self.control("GET", f"/control/journal?after={self.read_until}")
            self.read_until = answer["last"]
            for entry in answer["entries"]:
                self.note(entry)
            await asyncio.sleep(0.3)

    def note(self, entry: dict[str, Any]) -> None:
        """Note what a message or receipt did at a far side."""
        kind, at = entry["kind"], entry["at"] / 1000 - self.began
        if (kind == "interaction" and entry.get("status") == 202 and "text" in entry) or kind == "shown":
            self.seen.append(Seen(entry["text"], entry["id"], at))
            self.text_of_uuid[entry["id"]] = entry["text"]
            if kind == "interaction":
                self.conversations[int(entry["text"].split()[1])] = entry["conversation"]
        elif kind == "report" and entry.get("status") == 200:
            advance(self.reported, entry["id"], {"DELIVERED": "delivered", "SEEN": "read"}[entry["text"]])
        elif kind == "acknowledgement" and entry.get("status") == 200 and "id" in entry:
            advance(self.ticked, entry["id"], {"Delivered": "delivered", "Read": "read"}[entry["text"]])
        else:
            return
        self.last_news = self.now()

    # faults

    async def strike(self, planned: Planned) -> None:
        """Let one fault happen, and write down when it began and ended."""
        await asyncio.sleep(max(0.0, planned.at - self.now()))
        kind, begin = planned.kind, self.now()
        what, _, name = kind.action.partition(" ")
        doubts = 0
        if what == "kill":
            await asyncio.to_thread(self.stack.kill, name)
            end = self.now()
            doubts = await asyncio.to_thread(self.open_tries) if name == "worker" else 0
        elif what == "restart":
            await asyncio.to_thread(self.stack.stop_service, name)
            await asyncio.sleep(planned.seconds)
            await asyncio.to_thread(self.stack.restart_service, name)
            if name == "postgres":
                doubts = await asyncio.to_thread(self.open_tries)
            end = self.now()
        else:
            doubts = await self.misbehave(planned, what)
            end = self.now()
        others = tuple(org for org in range(ORGS) if org != planned.org and planned.org is not None)
        self.faults.append(
            Fault(
                name=kind.name,
                begin=begin,
                end=end,
                # the last org has no faults of its own: it shows best how those for all heal
                orgs=(ORGS - 1,) if planned.org is None else (planned.org,),
                directions=(kind.direction,) if kind.direction else ("inbound", "outbound"),
                others=others[-1:],
                doubts=doubts,
            )
        )
        print(f"  {begin:6.1f} s  {kind.name}" + (f", org {planned.org}" if planned.org is not None else ""), flush=True)

    async def misbehave(self, planned: Planned, what: str) -> int:
        """Have the far sides misbehave; gives how many calls the connector can be in doubt about."""
        if what == "flush":
            await asyncio.to_thread(self.flush)
        if what in ("expire", "relogin"):
            await self.control("POST", "/control/tokens/expire")
        if what == "refuse":
            for _ in self.companies:
                await self.control("POST", "/control/replays/refuse")
        if what in ("cut", "refuse"):
            await self.control("POST", "/control/streams/cut")
        org = {"org": self.companies[planned.org].org} if planned.org is not None else {}
        ids = [(await self.control("POST", "/control/faults", fault | org))["id"] for fault in planned.kind.faults]
        self.doubling, self.losing = what == "double" or self.doubling, what == "lose" or self.losing
        await asyncio.sleep(planned.seconds)
        if what == "double":
            self.doubling = False
        if what == "lose":
            self.losing = False
        doubts = 0
        for fault_id, fault in zip(ids, planned.kind.faults, strict=True):
            used = (await self.control("DELETE", f"/control/faults/{fault_id}"))["used"]
            if leaves_doubt(fault):
                doubts += fault["count"] if used is None else used
        return doubts

    def flush(self) -> None:
        """Empty Valkey."""
        with redis.Redis.from_url(self.stack.env["REDIS_URL"]) as client:
            client.flushall()

    # rows

    def connect(self) -> "psycopg.Connection[Any]":
        """Connect as the connector does, once the database is there, and see all orgs' rows."""
        deadline = time.monotonic() + 30
        while True:
            try:
                connection = psycopg.connect(self.stack.env["DATABASE_URL"], autocommit=True, connect_timeout=2)
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                connection.execute("SET connector.org = '*'")
                return connection

    def open_tries(self) -> int:
        """Count the calls that were under way."""
        with self.connect() as connection:
            row = connection.execute("SELECT count(*) FROM messaging_attempt WHERE outcome = 'open'").fetchone()
        return int(row[0]) if row else 0

    def unfinished(self) -> list[str]:
        """Name the lanes and tries that did not come to rest."""
        with self.connect() as connection:
            lanes = connection.execute(
                """SELECT id, direction, due_at, retry_at, failures, leased_until FROM messaging_lane
                   WHERE due_at IS NOT NULL OR lease_id IS NOT NULL ORDER BY id"""
            ).fetchall()
            tries = connection.execute(
                """SELECT message.uuid, message.status, attempt.started_at FROM messaging_attempt attempt
                   JOIN messaging_message message ON message.id = attempt.message_id
                   WHERE attempt.outcome = 'open' ORDER BY attempt.id"""
            ).fetchall()
        return [
            f"{direction} lane {lane}: due {due}, not before {retry}, {failures} failures, leased until {leased}"
            for lane, direction, due, retry, failures, leased in lanes
        ] + [f"a try of {status} message {uuid} that began {started} is still open" for uuid, status, started in tries]

    def rows(self) -> list[Row]:
        """Read what the connector knows of each message."""
        with self.connect() as connection:
            found = connection.execute(
                """SELECT message.uuid, message.text, message.lane_id, message.position, message.late, message.status,
                       message.error, count(attempt.id) FILTER (WHERE attempt.outcome = 'in doubt')
                   FROM messaging_message message LEFT JOIN messaging_attempt attempt ON attempt.message_id = message.id
                   GROUP BY message.id ORDER BY message.id"""
            ).fetchall()
        return [Row(str(uuid), *others) for uuid, *others in found]

    def wrong_lines(self) -> list[str]:
        """Count the errors that the processes wrote down, and the arrivals that had no effect."""
        lines: Counter[str] = Counter()
        for name in PROCESSES:
            for line in (self.stack.folder / f"{name}.log").read_text(errors="replace").splitlines():
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue
                event = str(entry.get("event")) if isinstance(entry, dict) else ""
                if event and entry.get("level") in ("error", "critical") and not event.startswith(EXPECTED_ERRORS):
                    lines[f"{name}: {event.splitlines()[0][:200]}"] += 1
        with self.connect() as connection:
            for (problem,) in connection.execute("SELECT problem FROM messaging_receivedevent WHERE problem <> ''"):
                lines[f"arrival without effect: {problem}"] += 1
        return [f"{line} ({count} times)" for line, count in sorted(lines.items())]

    def memory(self) -> dict[str, float]:
        """Measure the resident memory of each process with its children, in MiB."""
        found = {}
        for name in PROCESSES:
            child = self.stack.children[name].process
            if child is not None:
                ps = subprocess.run(["ps", "-o", "rss=", "-g", str(child.pid)], capture_output=True, text=True)
                found[name] = sum(int(line) for line in ps.stdout.split()) / 1024
        return found

    # the whole

    async def run(self, turns: list[Turn], faults: list[Planned]) -> tuple[Evidence, Facts]:
        """Greet, load and break, drain, and gather what is left."""
        watching = asyncio.create_task(self.watch())
        await self.control("POST", "/control/reports", {"delivered": 0.0, "seen": 0.2, "auto": True})
        await self.control("POST", "/control/clock", {"retryScale": 0.01})
        await self.greet()
        shift = self.now()
        self.began += shift
        self.sent = {
            text: replace(sent, begun=sent.begun - shift, accepted=sent.accepted and sent.accepted - shift)
            for text, sent in self.sent.items()
        }
        self.seen = [replace(seen, at=seen.at - shift) for seen in self.seen]
        before = self.memory()
        for planned in faults:
            self.spawn(self.strike(planned))
        for turn in turns:
            await asyncio.sleep(max(0.0, turn.at - self.now()))
            self.spawn(self.take(turn))
        loaded = self.now()
        while self.now() < loaded + DRAIN_SECONDS:
            still = not self.tasks and self.now() > self.last_news + STILL_SECONDS
            if still and not await asyncio.to_thread(self.unfinished):
                break
            await asyncio.sleep(0.5)
        watching.cancel()
        evidence = Evidence(
            sent=list(self.sent.values()),
            seen=self.seen,
            rows=self.rows(),
            faults=sorted(self.faults, key=lambda fault: fault.begin),
            reported={self.text_of_uuid[uuid]: state for uuid, state in self.reported.items()},
            ticked={self.text_of_entry[entry]: state for entry, state in self.ticked.items()},
            stuck=self.unfinished(),
            wrong_lines=self.wrong_lines(),
        )
        return evidence, Facts(before, self.memory(), max(0.0, self.last_news - loaded))


def number(user: int) -> str:
    """Give an end user's phone number."""
    return f"38591{user:07d}"


def chunks(count: int, size: int) -> list[range]:
    """Split a range."""
    return [range(begin, min(begin + size, count)) for begin in range(0, count, size)]


def result(user: int, sender: str, text: str) -> dict[str, Any]:
    """Write one result of a webhook: https://www.infobip.com/docs/whatsapp/receive-messages"""
    return {
        "from": number(user),
        "to": sender,
        "integrationType": "WHATSAPP",
        "receivedAt": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "+0000",
        "messageId": f"wamid.{text.split(':')[0].replace(' ', '.')}",
        "message": {"type": "TEXT", "text": text},
        "contact": {"name": f"User {user}"},
        "price": {"pricePerMessage": 0, "currency": "EUR"},
    }


def advance(states: dict[str, str], key: str, state: str) -> None:
    """Keep the furthest state."""
    if REACHED[state] > REACHED.get(states.get(key, ""), 0):
        states[key] = state


async def campaign(
    stack: Stack, companies: list[Company], seed: int, seconds: float, rate: float
) -> tuple[Evidence, Facts]:
    """Run one campaign against a stack that is up."""
    timeout = aiohttp.ClientTimeout(total=10)
    # a kept connection is used again soon or not at all: the door closes those that idle
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as client:
        turns = plan_turns(seed, seconds, rate, USERS)
        return await Campaign(stack, companies, client).run(turns, plan_faults(seed, seconds))


def run_once(seed: int, options: argparse.Namespace) -> Run:
    """Run one campaign on a stack of its own, print its verdict, and give it."""
    with Stack(processes=PROCESSES) as stack:
        stack.manage("migrate", "--no-input")
        documents = example_documents(stack.salesforce_port, stack.infobip_port, orgs=ORGS)
        stack.start()
        stack.wait_ready()
        companies = [move_in(stack, document) for document in documents]
        print(f"{options.rate:g} messages a second for {options.seconds:g} s, seed {seed}", flush=True)
        evidence, facts = asyncio.run(campaign(stack, companies, seed, options.seconds, options.rate))
        if options.keep:
            keep(options.keep / f"seed-{seed}", stack, evidence)
    verdict = check(evidence)
    for promise in verdict.promises:
        print(f"{'kept  ' if promise.kept else 'BROKEN'}  {promise.name}: {promise.counted}", flush=True)
        for finding in promise.findings[:20]:
            print(f"          {finding}", flush=True)
    return Run(seed, verdict, facts)


def keep(folder: Path, stack: Stack, evidence: Evidence) -> None:
    """Keep what was found and the processes' logs, to look into."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evidence.json").write_text(json.dumps(asdict(evidence), indent=1))
    for log in stack.folder.glob("*.log"):
        (folder / log.name).write_bytes(log.read_bytes())


def main() -> int:
    """Run a campaign, write its report, and give 0 if every promise was kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.campaign", description=__doc__)
    parser.add_argument("--seconds", type=float, default=180, help="of load; 180 have room for each kind of fault")
    parser.add_argument("--rate", type=float, default=50, help="messages a second, both directions together")
    parser.add_argument(
        "--seed",
        type=int,
        nargs="+",
        default=[1],
        help="the same seed: the same faults and texts; several: one after another",
    )
    parser.add_argument("--report", type=Path, default=REPORT, help="where the report is written")
    parser.add_argument("--keep", type=Path, help="a folder for what was found and the logs")
    options = parser.parse_args()
    for name in ("DATABASE_URL", "REDIS_URL"):
        os.environ.pop(name, None)  # services of its own: it stops them
    measured = code_measured()
    runs: list[Run] = []
    for seed in options.seed:
        runs.append(run_once(seed, options))
        write_report(options.report, runs, measured=measured, seconds=options.seconds, rate=options.rate)
    return 0 if all(run.verdict.clean for run in runs) else 1


if __name__ == "__main__":
    sys.exit(main())
