"""Hostile input: what signed webhooks notice of what somebody without credentials sends."""

import asyncio
import json

from benchmarks import processes
from benchmarks.bench import DISTANCE, Bench, Late, refused
from benchmarks.figures import Row, Series, Verdict, percentile
from benchmarks.hostile import KINDS, job_of
from benchmarks.sending import Helper

RATE = 50
PATIENCE = 30.0  # seconds that the site may take to be itself again
QUIET = "nothing hostile"


async def hostile(bench: Bench) -> Row:
    """Measure what each kind of hostile input costs the webhooks of customers."""
    seconds = bench.size.of(5, full=20, smoke=2)
    quiet = Series(f"99 of 100, {QUIET}", "ms")
    each = {name: Series(f"99 of 100, {name}", "ms", ours=True) for name in KINDS}
    worst = Series("99 of 100, the worst of them", "ms", ours=True)
    memory = Series("memory of web afterwards, more than before", "MiB", ours=True)
    row = Row(
        "hostile",
        "Hostile input without credentials",
        f"{RATE} signed webhooks a second for {seconds} s, in an open loop, while somebody without credentials sends one "
        "kind of hostile input from a process of its own, begun a second before; how long the webhooks take until their "
        "200. The figures are of all runs' webhooks together.",
        [quiet, *each.values(), worst, memory],
        [
            Verdict(worst, must=250, goal=100, at_least=False, beside=[quiet, *each.values()]),
            Verdict(memory, must=200, goal=50, at_least=False),
        ],
    )
    await bench.set_distance(DISTANCE)
    before = processes.memory_mib(bench.pid("web"))
    took: dict[str, list[float]] = {}
    for _ in range(bench.size.runs):
        await measure(bench, row, "", quiet, seconds, took)
        for name, series in each.items():
            await measure(bench, row, name, series, seconds, took)
            await come_back(bench, row, name)
        worst.values.append(max(series.values[-1] for series in each.values()))
        memory.values.append(processes.memory_mib(bench.pid("web")) - before)
    for name, series in {"": quiet, **each}.items():
        series.pooled = percentile(took[name], 99)
    worst.pooled = max(series.figure for series in each.values())
    bench.note_memory()
    return row


async def come_back(bench: Bench, row: Row, name: str) -> None:
    """Wait until the site is there again, and start it anew if it does not come back by itself."""
    try:
        await bench.settle(PATIENCE)
    except Late as exc:
        row.problems.append(f"{name}: {exc} after it had ended")
        await asyncio.to_thread(bench.stack.restart, "web")
        await asyncio.to_thread(bench.stack.wait_ready)


async def measure(bench: Bench, row: Row, name: str, series: Series, seconds: int, took: dict[str, list[float]]) -> None:
    """Load the door while one kind of input comes, or none."""
    load = await bench.load(RATE * seconds, rate=RATE)
    attacker = None
    if name:
        attacker = await Helper.start("benchmarks.hostile", job_of(name, bench.stack.web_url, bench.companies))
        attacker.write("go")
        await asyncio.sleep(1)
    newest = bench.newest()
    sent = await load.send()
    if attacker is not None:
        came = json.loads(await attacker.close())
        note = f"{name}: " + ", ".join(f"{count} {what}" for what, count in sorted(came.items()))
        row.notes = [each for each in row.notes if not each.startswith(f"{name}:")] + [note + "."]
    refused(row, name or QUIET, sent)
    latencies = [latency * 1000 for latency in sent.latencies]
    series.values.append(percentile(latencies, 99))
    took.setdefault(name, []).extend(latencies)
    await bench.wait_carried(sent.accepted, newest)
