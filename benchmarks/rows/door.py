"""The door: how many webhooks it takes, what each costs, and how long it takes with everything at work."""

import sys
from importlib.util import find_spec
from pathlib import Path

from benchmarks.bench import DISTANCE, Bench, Meter, refused
from benchmarks.figures import Row, Series, Verdict, percentile
from devstack.ports import free_port

AT_ONCE = 32  # requests that a closed loop keeps under way
FLOOR = (
    "granian --interface wsgi --host $HOST --port $PORT --workers 1 --blocking-threads 16 --backpressure 512 --no-ws "
    "benchmarks.floor:application"
)
GUNICORN = f"{sys.executable} -m gunicorn --no-control-socket --bind $HOST:$PORT benchmarks.floor:application"
LIKELY_MOST = 6000  # webhooks a second that are made ready


async def accept(bench: Bench) -> Row:
    """Measure how many webhooks a second the door takes, and what each costs, beside a bare Django view and gunicorn."""
    floor, ours = Series("bare Django view (floor)", "/s"), Series("the door", "/s", ours=True)
    gunicorn, ratio = Series("bare Django view under gunicorn's defaults", "/s"), Series("the door ÷ floor", "x", ours=True)
    floor_cpu = Series("CPU of the floor and PostgreSQL per webhook", "ms")
    cpu = Series("CPU of the door and PostgreSQL per webhook", "ms", ours=True)
    peers = [gunicorn] if find_spec("gunicorn") else []
    row = Row(
        "accept",
        "Webhook accepted",
        "Proof, row committed, 200. A closed loop keeps 32 requests under way; the worker is stopped, so that the door "
        "is measured alone: what it does before its answer, and nothing that comes later. The floor is a bare Django "
        "view that checks the HMAC, parses, and does one INSERT on the same PostgreSQL, served by Granian with 16 "
        "threads.",
        [floor, *peers, ours, floor_cpu, cpu],
        [
            Verdict(ratio, must=1.2, goal=1.7, scale=floor, beside=[floor, *peers, ours]),
            Verdict(cpu, must=0.4, goal=0.2, at_least=False, beside=[floor_cpu]),
        ],
    )
    if not peers:
        row.notes.append("gunicorn is not installed, and was left out.")
    seconds = bench.size.of(4, full=15, smoke=1)
    bench.stack.stop("worker")
    places = {"floor": (floor, start_floor(bench, "floor", FLOOR)), "web": (ours, "")}
    if peers:
        places["gunicorn"] = (gunicorn, start_floor(bench, "gunicorn", GUNICORN))
    for run in range(bench.size.runs):
        for name in list(places) if run % 2 else reversed(list(places)):
            series, url = places[name]
            await measure_door(bench, row, name, series, url, seconds)
        ratio.values.append(ours.values[-1] / floor.values[-1])
        bench.empty()
    for name in places.keys() - {"web"}:
        bench.stack.stop(name)
    bench.stack.restart("worker")
    await bench.warm_up()
    return row


async def measure_door(bench: Bench, row: Row, name: str, series: Series, url: str, seconds: int) -> None:
    """Load one server for some seconds: rate, and CPU of it and of PostgreSQL."""
    one = bench.companies[:1]  # a single secret, as the floor knows only one
    await (await bench.load(200, companies=one, url=url, at_once=AT_ONCE)).send()
    load = await bench.load(seconds * LIKELY_MOST, companies=one, url=url, at_once=AT_ONCE, seconds=seconds)
    meter = Meter(bench)
    meter.start()
    sent = await load.send()
    cost = meter.stop(sent.accepted, sent)
    refused(row, series.name, sent)
    series.values.append(sent.rate)
    if name == "gunicorn":
        return
    place = next(each for each in row.series if each.unit == "ms" and each.ours is series.ours)
    place.values.append(cost[name] + cost["postgres"])
    if series.ours:
        bench.note_memory()
        row.costs.append(cost)


def start_floor(bench: Bench, name: str, command: str) -> str:
    """Start a server of the floor's view, and give its address."""
    port = free_port()
    secret = bench.companies[0].secret
    path = f"{Path(sys.executable).parent}:$PATH"
    script = f"export PORT={port} BENCH_SECRET={secret} PATH={path}; exec env {command}"
    bench.stack.add(name, ["sh", "-c", script], port=port)
    return f"http://127.0.0.1:{port}/"


async def latency(bench: Bench) -> Row:
    """Measure how long the door takes at 320 a second, with the whole system at work."""
    half, most = Series("median", "ms", ours=True), Series("99 of 100", "ms", ours=True)
    seconds = bench.size.of(8, full=30, smoke=2)
    row = Row(
        "latency",
        "Accept latency at 320/s",
        f"An open loop of 320 webhooks a second for {seconds} s; the worker relays them meanwhile, to a "
        "Salesforce that is 50 ms away. Meta's rule for receivers is a median of 250 ms.",
        [half, most],
        [
            Verdict(most, must=30, goal=10, at_least=False),
            Verdict(half, must=250, goal=10, at_least=False),
        ],
    )
    await bench.set_distance(DISTANCE)
    for _ in range(bench.size.runs):
        load = await bench.load(320 * seconds, rate=320)
        mark, meter = bench.newest(), Meter(bench)
        meter.start()
        sent = await load.send()
        await bench.wait_carried(sent.accepted, mark)
        row.costs.append(meter.stop(sent.accepted, sent))
        bench.note_memory()
        refused(row, "the door", sent)
        half.values.append(percentile(sent.latencies, 50) * 1000)
        most.values.append(percentile(sent.latencies, 99) * 1000)
    return row
