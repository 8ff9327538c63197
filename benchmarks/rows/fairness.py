"""Fairness: what an org notices of a neighbour's flood and of another one's hanging upstream."""

import asyncio
from collections.abc import Sequence

from benchmarks.bench import DISTANCE, Bench, journeys, lost, refused
from benchmarks.figures import Row, Series, Verdict, percentile
from benchmarks.load import Company, Sent

CALM, FLOOD, HANGING = 10, 300, 20  # webhooks a second
SLICES = 5  # of a load, for the spread


async def fairness(bench: Bench) -> Row:
    """Measure the latency of a quiet org while its neighbours are not."""
    seconds = bench.size.of(100, full=300, smoke=5)
    quiet, loud = Series("99 of 100, neighbours quiet", "ms"), Series("99 of 100, neighbours loud", "ms", ours=True)
    ratio = Series("loud ÷ quiet", "x", ours=True)
    row = Row(
        "fairness",
        "An org at 10/s beside a flood and a hanging upstream",
        f"Open loops for {seconds} s, end to end, 50 ms away: one org at {CALM}/s alone, then while a second org gets "
        f"{FLOOD}/s, and the Salesforce of a third one, which gets {HANGING}/s, takes calls and never answers. "
        f"The figures are of all {CALM * seconds:,} messages together, the spread is that of {SLICES} parts of the time.",
        [quiet, loud],
        [Verdict(ratio, must=2, goal=1.2, at_least=False, scale=quiet, beside=[quiet, loud])],
    )
    calm, flooded, hanging = bench.companies[:3]
    await bench.set_distance(DISTANCE)
    note(quiet, await run(bench, row, quiet.name, calm, seconds))
    hangs = {"where": "interactions", "what": "timeout_before", "org": hanging.org}
    await bench.control("POST", "/control/faults", hangs)
    start = bench.newest()
    neighbours = [(flooded, FLOOD), (hanging, HANGING)]
    loads = [await bench.load(rate * seconds, companies=[each], rate=rate) for each, rate in neighbours]
    others = [asyncio.create_task(load.send()) for load in loads]
    note(loud, await run(bench, row, loud.name, calm, seconds))
    sent = await asyncio.gather(*others)
    for each in sent:
        refused(row, "the neighbours", each)
    await bench.wait_carried(sent[0].accepted, start, org=flooded.org)
    await bench.set_distance(DISTANCE)  # and nothing hangs any more
    await bench.wait_carried(sent[1].accepted, start, org=hanging.org)
    ratio.values = [one / other for one, other in zip(loud.values, quiet.values, strict=True)]
    ratio.pooled = loud.figure / quiet.figure
    return row


async def run(bench: Bench, row: Row, what: str, calm: Company, seconds: int) -> list[float]:
    """Load the quiet org, and give what each of its messages took, in milliseconds."""
    load = await bench.load(CALM * seconds, companies=[calm], rate=CALM)
    newest, mark = bench.newest(), await bench.journal_end()
    sent: Sent = await load.send()
    refused(row, what, sent)
    await bench.wait_carried(sent.accepted, newest, org=calm.org)
    entries = [each for each in await bench.taken(mark) if each["org"] == calm.org]
    lost(row, what, sent.accepted, entries)
    return [took * 1000 for took in journeys(sent, entries)]


def note(series: Series, took: Sequence[float]) -> None:
    """Give the figure of all, and that of each part of the time."""
    series.pooled = percentile(took, 99)
    part = max(1, len(took) // SLICES)
    series.values = [percentile(took[begin : begin + part], 99) for begin in range(0, part * SLICES, part)]
