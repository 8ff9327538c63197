"""Idle streams: what thousands of orgs that say nothing cost one subscriber."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from benchmarks import peers, processes
from benchmarks.bench import Bench
from benchmarks.figures import Row, Series, Verdict
from benchmarks.load import user
from benchmarks.sending import Helper
from devstack.version import ROOT

PATIENCE = 180.0  # seconds
MOST = 5000  # streams that one process reads


async def streams(bench: Bench) -> Row:
    """Measure what idle streams cost one subscriber."""
    count = bench.size.of(1000, full=2000, smoke=200)
    floor = Series("memory of a bare stream of grpc.aio (floor)", "KiB")
    each, whole = (
        Series("memory of one more idle stream", "KiB", ours=True),
        Series("memory of the process", "MiB", ours=True),
    )
    opening, idle = Series("all opened in", "s", ours=True), Series("CPU of the process meanwhile", "%", ours=True)
    row = Row(
        "streams",
        f"{count:,} orgs' idle streams",
        f"Memory of a subscriber that reads {count:,} idle orgs more than four, divided by {count:,}; each process is "
        "measured three seconds after its last stream was opened. The floor is as many bare streams of one org, which "
        "keep no position and notice no silence. A thread per stream takes 83 KiB.",
        [floor, each, whole, opening, idle],
        [
            Verdict(each, must=60, goal=40, at_least=False, beside=[floor]),
            Verdict(whole, must=300, goal=300, at_least=False),
            Verdict(opening, must=60, goal=60, at_least=False),
        ],
    )
    floor.values = [await measure_floor(bench, count) for _ in range(bench.size.runs)]
    few = [await read_streams(bench, len(bench.companies)) for _ in range(bench.size.runs)]
    await add_orgs(bench, range(count))
    many = [await read_streams(bench, len(bench.companies) + count) for _ in range(bench.size.runs)]
    each.values = [(with_all.memory - without.memory) * 1024 / count for with_all, without in zip(many, few, strict=True)]
    whole.values = [measured.memory for measured in many]
    opening.values = [measured.seconds for measured in many]
    idle.values = [measured.cpu for measured in many]
    row.problems += [measured.problem for measured in (*few, *many) if measured.problem]
    base = ", ".join(f"{measured.memory:.0f}" for measured in few)
    row.notes.append(f"With four streams the process has {base} MiB.")
    if bench.size.name == "full":
        await add_orgs(bench, range(count, MOST - len(bench.companies)))
        tried = await read_streams(bench, MOST)
        row.notes.append(
            tried.problem
            or f"{MOST:,} streams: opened in {tried.seconds:.0f} s, {tried.memory:.0f} MiB, {tried.cpu:.0f} % CPU."
        )
    return row


@dataclass(frozen=True, slots=True)
class Streams:
    """What a subscriber took for its streams: seconds to open them, MiB, and per cent of a CPU while they idle."""

    seconds: float
    memory: float
    cpu: float
    problem: str


async def measure_floor(bench: Bench, count: int) -> float:
    """Give the memory of a bare stream, in KiB."""
    company = bench.companies[0]
    job = {
        "endpoint": bench.stack.env["SALESFORCE_PUBSUB_ENDPOINT"],
        "accesstoken": await peers.log_in(bench.client, company),
        "instanceurl": company.document["org"]["baseUrl"],
        "tenantid": company.org,
        "topic": f"/event/{company.document['channels'][0]['customEventName']}",
        "count": count,
    }
    return float(await (await Helper.start("benchmarks.floor_streams", job)).run())


async def read_streams(bench: Bench, expected: int) -> Streams:
    """Start the subscriber anew and let it open so many streams."""
    mark = await bench.journal_end()
    bench.stack.restart("subscriber")
    began, problem = time.monotonic(), ""
    while len(opened := await bench.taken(mark, "stream_open")) < expected:
        if time.monotonic() > began + PATIENCE:
            problem = f"{len(opened)} of {expected} streams were opened in {PATIENCE:.0f} s"
            break
        await asyncio.sleep(0.2)
    await asyncio.sleep(3)
    pid = bench.pid("subscriber")
    memory, cpu = processes.memory_mib(pid), processes.cpu_seconds(pid)
    await asyncio.sleep(4)
    cpu = (processes.cpu_seconds(pid) - cpu) / 4 * 100
    return Streams((opened[-1]["at"] - opened[0]["at"]) / 1000 if opened else 0.0, memory, cpu, problem)


async def add_orgs(bench: Bench, numbers: Iterable[int]) -> None:
    """Set up more orgs, on both sides; they share a key, as making one for each takes long."""
    sample = bench.companies[0].document
    documents = [_copy_of(sample, number) for number in numbers]
    for document in documents:
        await bench.control("POST", "/control/orgs", {"document": document, "webhooks": {}})
    command = [sys.executable, "-m", "benchmarks.orgs"]
    await asyncio.to_thread(
        subprocess.run, command, input=json.dumps(documents), text=True, env=bench.stack.env, cwd=ROOT, check=True
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
