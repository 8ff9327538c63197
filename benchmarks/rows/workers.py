"""Two workers, one of which ends: how long the slowest message takes."""

import asyncio
import signal
from collections import Counter

from benchmarks.bench import DISTANCE, Bench, journeys, refused
from benchmarks.figures import Row, Series, Verdict, percentile

SECOND = "worker.2"
RATE = 100
BEFORE = 3  # seconds of load before the end of the worker


async def kill(bench: Bench) -> Row:
    """Measure what a killed worker costs the slowest message."""
    row, slowest = new_row(bench, "kill", "kill -9 of one of two workers", "killed")
    row.verdicts.append(Verdict(slowest, must=4, goal=1, at_least=False))
    return await measure(bench, row, slowest, signal.SIGKILL)


async def terminate(bench: Bench) -> Row:
    """Measure what a worker that is asked to end costs the slowest message."""
    row, slowest = new_row(bench, "terminate", "SIGTERM of one of two workers", "asked to end")
    row.verdicts.append(Verdict(slowest, must=1, goal=0.5, at_least=False))
    return await measure(bench, row, slowest, signal.SIGTERM)


def new_row(bench: Bench, name: str, title: str, what: str) -> tuple[Row, Series]:
    """Describe it."""
    slowest = Series("slowest message", "s", ours=True)
    how = (
        f"An open loop of {RATE} webhooks a second for {BEFORE + bench.size.of(9, full=20, smoke=5)} s with two workers, "
        f"end to end, 50 ms away. After {BEFORE} s one of them is {what}, by turns the one and the other; it is started "
        "again after a second. Doubles are allowed only for calls that were under way."
    )
    before = Series("slowest before", "s")
    return Row(name, title, how, [before, slowest, Series("99 of 100 afterwards", "s", ours=True)], []), slowest


async def measure(bench: Bench, row: Row, slowest: Series, number: signal.Signals) -> Row:
    """Let it happen, once a run."""
    seconds = BEFORE + bench.size.of(9, full=20, smoke=5)
    await bench.set_distance(DISTANCE)
    bench.stack.add_process(SECOND)
    doubled = doubts = 0
    for run in range(bench.size.runs):
        for name in ("worker", SECOND):
            await bench.wait_idle(name)
        load = await bench.load(RATE * seconds, rate=RATE)
        newest, mark = bench.newest(), await bench.journal_end()
        sending = asyncio.create_task(load.send())
        await asyncio.sleep(BEFORE)
        bench.stack.kill(("worker", SECOND)[run % 2], number)
        sent = await sending
        await bench.wait_carried(sent.accepted, newest)
        refused(row, "the door", sent)
        entries = await bench.taken(mark)
        times = Counter(str(each["id"]) for each in entries)
        if len(times) != sent.accepted:
            row.problems.append(f"{sent.accepted} accepted, {len(times)} arrived")
        doubled += sum(count - 1 for count in times.values())
        doubts += bench.number_of(
            "SELECT count(*) FROM messaging_attempt WHERE outcome = 'in doubt' AND message_id > %s", newest
        )
        took = journeys(sent, entries)
        edge = RATE * BEFORE
        row.series[0].values.append(max(took[: edge - RATE]))
        slowest.values.append(max(took[edge - RATE :]))
        row.series[2].values.append(percentile(took[edge - RATE :], 99))
    row.notes.append(f"Arrived more than once: {doubled}; tries in doubt: {doubts}.")
    if doubled > doubts:
        row.problems.append(f"{doubled} arrived more than once, with only {doubts} tries in doubt")
    bench.stack.stop(SECOND)
    del bench.stack.children[SECOND]
    return row
