"""Ingest: how fast what the door appended becomes messages in lanes."""

import asyncio
import time

from benchmarks.bench import INBOX, Bench, Meter, refused
from benchmarks.figures import Row, Series, Verdict

HOLD = 6000  # milliseconds that Salesforce takes, so that nothing is relayed meanwhile
SHARE = 0.1  # of the messages at the beginning and at the end that are not counted


async def ingest(bench: Bench) -> Row:
    """Measure how many messages a second become of what the door took."""
    ours, cpu = (
        Series("the connector", "/s", ours=True),
        Series("CPU of worker and PostgreSQL per message", "ms", ours=True),
    )
    count = bench.size.of(15_000, full=60_000, smoke=2000)
    row = Row(
        "ingest",
        "From the inbox into lanes",
        f"The door took {count:,} webhooks of one message each, in {len(bench.companies)} orgs, while the worker was "
        "stopped. It starts, and Salesforce takes its time meanwhile, so that next to nothing is relayed; the rate is "
        "that of the middle eight of ten messages.",
        [ours, cpu],
        [Verdict(ours, must=3000, goal=6000)],
    )
    if not bench.has_table(INBOX):
        return await ingest_in_the_door(bench, row, ours, cpu)
    for _ in range(bench.size.runs):
        bench.stack.stop("worker")
        await bench.set_distance(HOLD)
        newest = bench.newest()
        sent = await (await bench.load(count, at_once=32)).send()
        refused(row, "the door", sent)
        bench.stack.restart("worker")
        meter = Meter(bench)
        first, last = int(count * SHARE), int(count * (1 - SHARE))
        await bench.wait_ingested(first, newest, pause=0.01)
        meter.start()
        began, had = time.monotonic(), bench.newest() - newest
        await bench.wait_ingested(last, newest, pause=0.02)
        took, done = time.monotonic() - began, bench.newest() - newest - had
        cost = meter.stop(done)
        ours.values.append(done / took)
        cpu.values.append(cost["worker"] + cost["postgres"])
        row.costs.append(cost)
        await bench.wait_ingested(sent.accepted, newest)
        await start_afresh(bench)
    await asyncio.sleep(HOLD / 1000)  # what Salesforce still holds must not be counted in the next row
    return row


async def start_afresh(bench: Bench) -> None:
    """Throw the messages away: relaying them is measured elsewhere."""
    bench.stack.kill("worker")  # else it would wait for its calls
    bench.stack.stop("worker")
    bench.empty()
    await bench.set_distance(0)
    bench.stack.restart("worker")
    await bench.warm_up()


async def ingest_in_the_door(bench: Bench, row: Row, ours: Series, cpu: Series) -> Row:
    """Measure code whose door ingests: with webhooks of a hundred messages each."""
    count = bench.size.of(5000, smoke=1000)
    row.how = (
        "The door ingests, before it answers: webhooks of a hundred messages each, four at once, with the worker stopped."
    )
    cpu.name = "CPU of the door and PostgreSQL per message"
    bench.stack.stop("worker")
    for _ in range(bench.size.runs):
        load, meter = await bench.load(count, size=100, at_once=4), Meter(bench)
        meter.start()
        sent = await load.send()
        cost = meter.stop(count, sent)
        refused(row, "the door", sent)
        ours.values.append(count / (sent.ended - sent.began))
        cpu.values.append(cost["web"] + cost["postgres"])
        row.costs.append(cost)
        bench.empty()
    await asyncio.to_thread(bench.stack.restart, "worker")
    await bench.warm_up()
    return row
