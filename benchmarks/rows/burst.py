"""A burst: what becomes of thousands of webhooks at once."""

from benchmarks.bench import DISTANCE, Bench, Meter, lost, refused
from benchmarks.figures import Row, Series, Verdict

AT_ONCE = 500


async def burst(bench: Bench) -> Row:
    """Measure what becomes of a burst of webhooks."""
    count = bench.size.of(10_000, smoke=1000)
    accepted, refusals = Series("all accepted after", "s", ours=True), Series("refused or timed out", "", ours=True)
    drained, slowest = Series("all at Salesforce after", "s", ours=True), Series("slowest answer", "s", ours=True)
    shared = "" if count == 10_000 else " The limits are for 10,000 webhooks, and are shared out for fewer."
    row = Row(
        "burst",
        f"Burst of {count:,} webhooks",
        f"As fast as they are taken, {AT_ONCE} connections at once, with Salesforce 50 ms away.{shared}",
        [accepted, slowest, drained, refusals],
        [
            Verdict(refusals, must=0, goal=0, at_least=False),
            Verdict(drained, must=13 * count / 10_000, goal=8.5 * count / 10_000, at_least=False),
        ],
    )
    await bench.set_distance(DISTANCE)
    for _ in range(bench.size.runs):
        load = await bench.load(count, at_once=AT_ONCE)
        newest, mark, meter = bench.newest(), await bench.journal_end(), Meter(bench)
        meter.start()
        sent = await load.send()
        await bench.wait_carried(sent.accepted, newest)
        row.costs.append(meter.stop(count, sent))
        bench.note_memory()
        entries = await bench.taken(mark)
        refused(row, "the door", sent)
        lost(row, "the connector", sent.accepted, entries)
        refusals.values.append(sent.failures)
        accepted.values.append(sent.ended - sent.began)
        slowest.values.append(max(sent.latencies))
        drained.values.append(float(entries[-1]["at"]) / 1000 - sent.began)
    return row
