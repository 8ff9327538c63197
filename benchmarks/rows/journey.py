"""The whole way: from a webhook to Salesforce's answer, and from a rep's message to Infobip's."""

import asyncio
from collections.abc import Iterable

from benchmarks.bench import DISTANCE, OUTBOUND, Bench, Meter, journeys, lost, refused
from benchmarks.figures import Row, Series, Verdict, percentile
from benchmarks.rows.relay import rate_of

AT_ONCE = 16  # reps who write at once


async def end_to_end(bench: Bench) -> Row:
    """Measure the way from the webhook to Salesforce's answer, and what a message costs where there is no backlog."""
    half, most = Series("median", "ms", ours=True), Series("99 of 100", "ms", ours=True)
    cpu = Series("CPU of worker and PostgreSQL per message", "ms", ours=True)
    seconds = bench.size.of(10, full=60, smoke=2)
    row = Row(
        "journey",
        "End to end at 100/s, 50 ms away",
        f"An open loop of 100 webhooks a second for {seconds} s; from the time that was intended for the "
        "webhook to Salesforce's answer to the interaction, of which 50 ms are the distance. PostgreSQL's part of the CPU "
        "has the door's in it.",
        [half, most, cpu],
        [
            Verdict(most, must=100, goal=75, at_least=False),
            Verdict(cpu, must=7, goal=4, at_least=False),
        ],
    )
    await bench.set_distance(DISTANCE)
    for _ in range(bench.size.runs):
        load = await bench.load(100 * seconds, rate=100)
        newest, mark, meter = bench.newest(), await bench.journal_end(), Meter(bench)
        meter.start()
        sent = await load.send()
        await bench.wait_carried(sent.accepted, newest)
        cost = meter.stop(sent.accepted, sent)
        row.costs.append(cost)
        entries = await bench.taken(mark)
        refused(row, "the door", sent)
        lost(row, "the connector", sent.accepted, entries)
        took = journeys(sent, entries)
        half.values.append(percentile(took, 50) * 1000)
        most.values.append(percentile(took, 99) * 1000)
        cpu.values.append(cost["worker"] + cost["postgres"])
    return row


async def events(bench: Bench) -> Row:
    """Measure the way from platform events to Infobip."""
    count = bench.size.of(3000, full=50_000, smoke=500)
    ours = Series("the connector", "/s", ours=True)
    row = Row(
        "events",
        "Platform event to Infobip's 200",
        f"Reps wrote {count:,} messages while the subscriber was stopped. It starts, and the worker sends what it reads to "
        "an Infobip that is 50 ms away; the rate is that of sends, from the first to the last. Reports are held back.",
        [ours],
        [Verdict(ours, must=1300, goal=2000)],
    )
    await bench.set_distance(DISTANCE)
    await bench.control("POST", "/control/reports", {"delivered": 24 * 3600})
    conversations = await bench.conversations()

    async def write(waiting: Iterable[int]) -> None:
        for number in waiting:
            org, conversation = conversations[number % len(conversations)]
            reply = {"org": org, "conversation": conversation, "text": f"Your parcel {number} arrives tomorrow."}
            await bench.control("POST", "/control/console/replies", reply)

    for _ in range(bench.size.runs):
        bench.stack.stop("subscriber")
        newest, waiting = bench.newest(), iter(range(count))
        await asyncio.gather(*(write(waiting) for _ in range(AT_ONCE)))
        mark, meter = await bench.journal_end(), Meter(bench)
        bench.stack.restart("subscriber")
        await bench.wait_carried(1, newest, OUTBOUND)
        meter.start()
        begun = bench.carried(newest, OUTBOUND)
        await bench.wait_carried(count, newest, OUTBOUND)
        row.costs.append(meter.stop(count - begun))
        ours.values.append(rate_of(row, ours.name, count, await bench.taken(mark, "send")))
    return row
