"""The relay: how many messages a second a worker carries to Salesforce, beside what others build for the same work."""

import asyncio
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import peers, processes
from benchmarks.bench import DISTANCE, USERS, Bench, Meter, lost, refused, setting_of_calls
from benchmarks.figures import Row, Series, Verdict
from benchmarks.load import Company, user
from benchmarks.sending import Helper

HOLD = 5000  # milliseconds that each call takes until the whole backlog is in the lanes
BINARIES = str(Path(sys.executable).parent)
NO_SETTING = ".env.example names no setting of how many calls are under way at once"


@dataclass(frozen=True, slots=True)
class Backlog:
    """How a backlog was carried."""

    rate: float  # a second
    cpu: float  # milliseconds of worker and PostgreSQL a message
    costs: dict[str, float]


async def relay(bench: Bench) -> Row:
    """Measure the relay with Salesforce 50 ms away, with 64 and with 256 calls under way."""
    few, many = (
        Series("the connector, 64 in flight", "/s", ours=True),
        Series("the connector, 256 in flight", "/s", ours=True),
    )
    bare_few, bare_many = Series("bare asyncio, 64 in flight", "/s"), Series("bare asyncio, 256 in flight", "/s")
    limit = Series("64 in flight, 50 ms each (floor, by arithmetic)", "/s", [1280.0])
    celery = Series("one Celery task per message, 64 threads", "/s")
    floor, ratio = Series("64 in flight ÷ floor", "x", ours=True), Series("256 in flight ÷ Celery", "x", ours=True)
    cpu = Series("CPU of worker and PostgreSQL per message, 256 in flight", "ms", ours=True)
    row = Row(
        "relay",
        "Relay to Salesforce, 50 ms away",
        f"A backlog in {len(bench.companies) * USERS} conversations of {len(bench.companies)} orgs, ingested while "
        f"Salesforce takes {HOLD / 1000:g} s for an answer; then it is 50 ms away, and the rate is that of its answers "
        "from the last slow one to the last one of all: ingesting is not in it. The peers carry the same requests, "
        "without order, leases, or rows.",
        [limit, bare_few, few, bare_many, celery, many, cpu],
        [
            Verdict(floor, must=0.65, goal=0.8, scale=limit, beside=[limit, bare_few, few]),
            Verdict(ratio, must=3, goal=4.5, scale=celery, beside=[bare_many, celery, many]),
            Verdict(cpu, must=0.6, goal=0.4, at_least=False),
        ],
    )
    peer_costs: dict[str, list[float]] = {}
    sizes = [(64, few, bare_few, bench.size.of(3000, full=10_000, smoke=600))]
    sizes.append((256, many, bare_many, bench.size.of(6000, full=20_000, smoke=1500)))
    for _ in range(bench.size.runs):
        await bench.set_distance(DISTANCE)
        bench.stack.stop("worker")
        await measure_celery(bench, row, celery, sizes[0][3] // 3, peer_costs)
        for at_once, _ours, bare, count in sizes:
            await measure_bare(bench, row, bare, count, at_once, peer_costs)
        for at_once, ours, _bare, count in sizes:
            carried = await measure_backlog(bench, row, ours.name, count, DISTANCE, at_once)
            ours.values.append(carried.rate)
        cpu.values.append(carried.cpu)
        row.costs.append(carried.costs)
        floor.values.append(few.values[-1] / limit.figure)
        ratio.values.append(many.values[-1] / celery.values[-1])
    bench.stack.restart("worker")
    note_peers(row, peer_costs)
    return row


async def relay_near(bench: Bench) -> Row:
    """Measure the relay with Salesforce at no distance: what it costs by itself."""
    ours, bare = Series("the connector", "/s", ours=True), Series("bare asyncio, 64 in flight", "/s")
    celery = Series("one Celery task per message, 64 threads", "/s")
    cpu = Series("CPU of worker and PostgreSQL per message", "ms", ours=True)
    row = Row(
        "relay0",
        "Relay to Salesforce, 0 ms away",
        "Likewise without distance, with as many calls under way as the connector has by default. The sandbox, one "
        "process, takes no more than what bare asyncio reaches here; Jasmin's 540/s were taken on another machine of "
        "this kind.",
        [bare, celery, ours, cpu],
        [
            Verdict(ours, must=1900, goal=2900, beside=[bare, celery]),
            Verdict(cpu, must=0.6, goal=0.4, at_least=False),
        ],
    )
    count, peer_costs = bench.size.of(6000, full=20_000, smoke=1500), dict[str, list[float]]()
    for _ in range(bench.size.runs):
        await bench.set_distance(0)
        bench.stack.stop("worker")
        await measure_celery(bench, row, celery, count // 6, peer_costs)
        await measure_bare(bench, row, bare, count, peers.AT_ONCE, peer_costs)
        carried = await measure_backlog(bench, row, ours.name, count, 0, 0)
        ours.values.append(carried.rate)
        cpu.values.append(carried.cpu)
        row.costs.append(carried.costs)
    note_peers(row, peer_costs)
    return row


async def measure_backlog(bench: Bench, row: Row, what: str, count: int, distance: int, at_once: int) -> Backlog:
    """Let the connector carry a backlog that lies in its lanes already.

    :param at_once: calls under way; 0: as many as it has by default
    """
    setting = setting_of_calls()
    if at_once and not setting and NO_SETTING not in row.problems:
        row.problems.append(NO_SETTING)
    bench.stack.restart("worker", **({setting: str(at_once)} if at_once and setting else {}))
    await bench.wait_idle("worker")
    load = await bench.load(count, size=50, at_once=4)
    await bench.set_distance(HOLD)
    newest, mark, began = bench.newest(), await bench.journal_end(), time.monotonic()
    sent = await load.send()
    refused(row, "the door", sent)
    await bench.wait_ingested(count, newest)
    if time.monotonic() > began + HOLD / 1000:
        row.notes.append(f"{what}: the backlog was not whole before the first answers came.")
    await bench.set_distance(distance)
    meter = Meter(bench)
    meter.start()
    await bench.wait_carried(count, newest)
    costs = meter.stop(count)
    bench.note_memory()
    entries = await bench.taken(mark)
    lost(row, what, count, entries)
    return Backlog(rate_after_hold(entries), costs["worker"] + costs["postgres"], costs)


def rate_after_hold(entries: Sequence[dict[str, Any]]) -> float:
    """Give the rate of answers from the last slow one on: until then some calls were still held."""
    slow = [each["at"] for each in entries if each.get("ms", 0.0) > HOLD / 2]
    began = max(slow, default=entries[0]["at"] if entries else 0.0)
    after = [each["at"] for each in entries if each["at"] > began]
    return len(after) * 1000 / (after[-1] - began) if after else 0.0


async def measure_bare(
    bench: Bench, row: Row, series: Series, count: int, at_once: int, costs: dict[str, list[float]]
) -> None:
    """Let bare asyncio carry as many."""
    calls = await peer_calls(bench, count)
    helper = await Helper.start("benchmarks.peers", {"calls": calls, "at_once": at_once})
    mark = await bench.journal_end()
    cpu = float(await helper.run())
    costs.setdefault("bare asyncio", []).append(cpu * 1000 / count)
    series.values.append(rate_of(row, series.name, count, await bench.taken(mark)))


async def measure_celery(bench: Bench, row: Row, series: Series, count: int, costs: dict[str, list[float]]) -> None:
    """Let a Celery worker carry a task for each."""
    calls = await peer_calls(bench, count)
    await asyncio.to_thread(peers.enqueue, bench.stack.env["REDIS_URL"], calls)
    mark = await bench.journal_end()
    bench.stack.add("peer", peers.worker_command(BINARIES))
    costs.setdefault("Celery", []).append(await wait_for_peer(bench, mark, count))
    bench.stack.stop("peer")
    series.values.append(rate_of(row, series.name, count, await bench.taken(mark)))


async def peer_calls(bench: Bench, count: int) -> list[tuple[str, dict[str, str], str]]:
    """Write the requests of a peer: the same orgs and end users as the connector's."""
    companies: list[Company] = bench.companies
    tokens = [await peers.log_in(bench.client, company) for company in companies]
    calls = []
    for number in range(count):
        turn, place = divmod(number, len(companies))
        calls.append(peers.interaction(companies[place], tokens[place], user(place * USERS + turn % USERS)))
    return calls


async def wait_for_peer(bench: Bench, mark: int, count: int) -> float:
    """Wait until Celery has carried so many messages, and give its CPU per message without its start."""
    taken, began, before = 0, 0, 0.0
    until = time.monotonic() + 120
    while taken < count and time.monotonic() < until:
        await asyncio.sleep(0.3)
        taken = len(await bench.taken(mark))
        if taken and not began:
            began, before = taken, processes.cpu_seconds(bench.pid("peer"))
    return (processes.cpu_seconds(bench.pid("peer")) - before) * 1000 / max(1, taken - began)


def rate_of(row: Row, what: str, count: int, entries: Sequence[dict[str, Any]]) -> float:
    """Give the rate of answers from the first to the last."""
    lost(row, what, count, entries)
    if len(entries) < 2:
        return 0.0
    return (len(entries) - 1) * 1000 / float(entries[-1]["at"] - entries[0]["at"])


def note_peers(row: Row, costs: dict[str, list[float]]) -> None:
    """Say what the peers cost."""
    words = ", ".join(f"{name} {statistics.median(values):.2f} ms" for name, values in costs.items())
    row.notes.append(f"CPU of the peers per message, of their own process: {words}.")
