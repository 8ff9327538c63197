"""The rows of the table: what is measured, how, and what it must be."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from sys import executable
from typing import Any

from benchmarks import peers, processes
from benchmarks.bench import OUTBOUND, USERS, Bench, Meter, lost
from benchmarks.load import Company, Sent, batches, closed_loop, open_loop, user, webhooks
from benchmarks.report import Row, Series, Verdict, percentile
from sandbox.stack import free_port, procfile

AT_ONCE = 32  # requests that a closed loop keeps under way at the door
DISTANCE = 50  # milliseconds
PATIENCE_WITH_STREAMS = 180.0  # seconds
BINARIES = Path(executable).parent


async def accept(bench: Bench) -> Row:
    """Measure how many webhooks a second the door takes, beside a bare Django view and gunicorn."""
    floor, ours = Series("bare Django view (floor)", "/s"), Series("the door", "/s", ours=True)
    gunicorn, ratio = Series("bare Django view under gunicorn's defaults", "/s"), Series("the door ÷ floor", "x", ours=True)
    row = Row(
        "accept",
        "Webhook accepted",
        "Signature checked, rows committed, 200. A closed loop keeps 32 requests under way; the worker is stopped, so that "
        "the door is measured alone. The floor is a bare Django view that checks the HMAC, parses, and does one INSERT on "
        "the same PostgreSQL, served by Granian with the same options.",
        [floor, *([gunicorn] if find_spec("gunicorn") else []), ours],
        [Verdict(ratio, must=0.4, goal=0.7, scale=floor)],
    )
    if not find_spec("gunicorn"):
        row.notes.append("gunicorn is not installed, and was left out.")
    seconds = bench.size.of(4, 15)
    bench.stack.stop("worker")
    places = {floor.name: start_floor(bench, "floor", procfile()["web"].replace("config.wsgi", "benchmarks.floor"))}
    if find_spec("gunicorn"):
        places[gunicorn.name] = start_floor(bench, "gunicorn", "gunicorn --bind $HOST:$PORT benchmarks.floor:application")
    one = bench.companies[:1]  # a single secret, as the floor knows only one
    for run in range(bench.size.runs):
        order = [*places, ours.name]
        for name in order if run % 2 else reversed(order):
            load = webhooks(one, seconds * 4000, users=USERS, url=places.get(name, ""))
            await closed_loop(bench.client, load[:200], at_once=AT_ONCE)
            meter = Meter(bench)
            meter.start()
            sent = await closed_loop(bench.client, load[200:], at_once=AT_ONCE, seconds=seconds)
            cost = meter.stop(sent.statuses["200"])
            refused(row, name, sent)
            series = next(each for each in row.series if each.name == name)
            series.values.append(sent.rate)
            if series is ours:
                bench.note_memory()
                row.costs.append(cost)
        ratio.values.append(ours.values[-1] / floor.values[-1])
        bench.empty()
    for name in ("floor", "gunicorn") if len(places) > 1 else ("floor",):
        bench.stack.stop(name)
    bench.stack.restart("worker")
    await bench.warm_up()
    return row


def start_floor(bench: Bench, name: str, command: str) -> str:
    """Start a server of the floor's view, and give its address."""
    port = free_port()
    secret = bench.companies[0].secret
    bench.stack.add(name, ["sh", "-c", f"export PORT={port} BENCH_SECRET={secret}; exec env {command}"], port=port)
    return f"http://127.0.0.1:{port}/"


def refused(row: Row, what: str, sent: Sent) -> None:
    """Note what was not answered 200."""
    if sent.failures:
        answers = ", ".join(f"{count} x {status}" for status, count in sent.statuses.most_common())
        row.problems.append(f"{what}: {answers}")


async def latency(bench: Bench) -> Row:
    """Measure how long the door takes at 320 a second, with the whole system at work."""
    half, most = Series("median", "ms", ours=True), Series("99 of 100", "ms", ours=True)
    row = Row(
        "latency",
        "Accept latency at 320/s",
        f"An open loop of 320 webhooks a second for {bench.size.of(8, 30)} s; the worker relays them meanwhile, to a "
        "Salesforce that is 50 ms away. Meta's rule for receivers is a median of 250 ms.",
        [half, most],
        [Verdict(most, must=100, goal=50, at_least=False), Verdict(half, must=250, goal=50, at_least=False)],
    )
    await bench.set_distance(DISTANCE)
    for _ in range(bench.size.runs):
        load = webhooks(bench.companies, 320 * bench.size.of(8, 30), users=USERS)
        mark, meter = bench.newest(), Meter(bench)
        meter.start()
        sent = await open_loop(bench.client, load, rate=320)
        await bench.wait_carried(len(load), mark)
        row.costs.append(meter.stop(len(load)))
        bench.note_memory()
        refused(row, "the door", sent)
        half.values.append(percentile(sent.latencies, 50) * 1000)
        most.values.append(percentile(sent.latencies, 99) * 1000)
    return row


async def relay_far(bench: Bench) -> Row:
    """Measure the relay with Salesforce 50 ms away."""
    ours = Series("the connector", "/s", ours=True)
    celery, bare = Series("one Celery task per message", "/s"), Series("bare asyncio, 64 calls under way", "/s")
    limit = Series("64 in flight, 50 ms each (floor, by arithmetic)", "/s", [1280.0])
    floor, ratio = Series("the connector ÷ floor", "x", ours=True), Series("the connector ÷ Celery", "x", ours=True)
    row = Row(
        "relay",
        "Relay to Salesforce, 50 ms away",
        f"The worker drains a backlog of {bench.size.of(3000, 10_000):,} messages in {4 * USERS} conversations of four "
        "orgs; the rate is that of arrivals at Salesforce, from the first to the last.",
        [limit, bare, celery, ours],
        [Verdict(floor, must=0.45, goal=0.85, scale=limit), Verdict(ratio, must=2, goal=2, scale=celery)],
    )
    await measure_relay(bench, row, DISTANCE, ours, celery, bare)
    floor.values = [value / limit.median for value in ours.values]
    ratio.values = [value / peer for value, peer in zip(ours.values, celery.values, strict=True)]
    return row


async def relay_near(bench: Bench) -> Row:
    """Measure the relay with Salesforce at no distance: what it costs by itself."""
    ours = Series("the connector", "/s", ours=True)
    celery, bare = Series("one Celery task per message", "/s"), Series("bare asyncio, 64 calls under way", "/s")
    row = Row(
        "relay0",
        "Relay to Salesforce, 0 ms away",
        "Likewise without distance. The sandbox, one process, takes no more than what bare asyncio reaches here.",
        [bare, celery, ours],
        [Verdict(ours, must=810, goal=1620)],
    )
    await measure_relay(bench, row, 0, ours, celery, bare)
    return row


async def measure_relay(bench: Bench, row: Row, distance: int, ours: Series, celery: Series, bare: Series) -> None:
    """Let the two peers and the connector carry the same kind of backlog, one after the other."""
    await bench.set_distance(distance)
    tokens = [await peers.log_in(bench.client, company) for company in bench.companies]
    count = bench.size.of(3000, 10_000)
    peer_costs: dict[str, list[float]] = {"bare asyncio": [], "Celery": []}
    for _ in range(bench.size.runs):
        bench.stack.stop("worker")
        calls = peer_calls(bench.companies, tokens, count)
        mark, begun = await bench.journal_end(), time.process_time()
        await peers.relay(calls)
        peer_costs["bare asyncio"].append((time.process_time() - begun) * 1000 / count)
        bare.values.append(rate_of(row, bare.name, count, await bench.taken(mark)))

        calls = peer_calls(bench.companies, tokens, count // 3)
        await asyncio.to_thread(peers.enqueue, bench.stack.env["REDIS_URL"], calls)
        mark = await bench.journal_end()
        bench.stack.add("peer", peers.worker_command(str(BINARIES)))
        peer_costs["Celery"].append(await wait_for_peer(bench, mark, len(calls)))
        bench.stack.stop("peer")
        celery.values.append(rate_of(row, celery.name, len(calls), await bench.taken(mark)))

        newest, mark = bench.newest(), await bench.journal_end()
        sent = await closed_loop(bench.client, batches(bench.companies, count, users=USERS), at_once=4)
        refused(row, "the door", sent)
        bench.stack.restart("worker")
        row.costs.append(await drain(bench, count, newest))
        ours.values.append(rate_of(row, ours.name, count, await bench.taken(mark)))
    costs = ", ".join(f"{name} {percentile(values, 50):.2f} ms" for name, values in peer_costs.items())
    row.notes.append(f"CPU of the peers per message, of their own process: {costs}.")


def peer_calls(companies: Sequence[Company], tokens: Sequence[str], count: int) -> list[tuple[str, dict[str, str], str]]:
    """Write the requests of a peer: the same orgs and end users as the connector's."""
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


async def drain(bench: Bench, count: int, newest: int, direction: str = "inbound") -> dict[str, float]:
    """Wait until the connector has carried so many messages, and give what each cost without the start of processes."""
    meter = Meter(bench)
    await bench.wait_carried(1, newest, direction)
    meter.start(bench.carried(newest, direction))
    await bench.wait_carried(count, newest, direction)
    bench.note_memory()
    return meter.stop(count)


def rate_of(row: Row, what: str, count: int, entries: Sequence[dict[str, Any]]) -> float:
    """Give the rate of arrivals from the first to the last."""
    lost(row, what, count, entries)
    if len(entries) < 2:
        return 0.0
    return (len(entries) - 1) * 1000 / float(entries[-1]["at"] - entries[0]["at"])


def journeys(sent: Sent, entries: Sequence[dict[str, Any]]) -> list[float]:
    """Give the seconds from the intended time of each webhook to Salesforce's answer for its message."""
    arrived: dict[str, float] = {}
    for each in entries:
        arrived.setdefault(each["text"], float(each["at"]) / 1000)
    return [arrived[text] - intended for text, intended in sent.intended.items() if text in arrived]


async def end_to_end(bench: Bench) -> Row:
    """Measure the way from the webhook to Salesforce's answer."""
    half, most = Series("median", "ms", ours=True), Series("99 of 100", "ms", ours=True)
    row = Row(
        "journey",
        "End to end at 100/s, 50 ms away",
        f"An open loop of 100 webhooks a second for {bench.size.of(10, 60)} s; from the time that was intended for the "
        "webhook to Salesforce's answer to the interaction, of which 50 ms are the distance.",
        [half, most],
        [Verdict(most, must=500, goal=250, at_least=False)],
    )
    await bench.set_distance(DISTANCE)
    for _ in range(bench.size.runs):
        load = webhooks(bench.companies, 100 * bench.size.of(10, 60), users=USERS)
        newest, mark, meter = bench.newest(), await bench.journal_end(), Meter(bench)
        meter.start()
        sent = await open_loop(bench.client, load, rate=100)
        await bench.wait_carried(len(load), newest)
        row.costs.append(meter.stop(len(load)))
        entries = await bench.taken(mark)
        refused(row, "the door", sent)
        lost(row, "the connector", len(load), entries)
        took = journeys(sent, entries)
        half.values.append(percentile(took, 50) * 1000)
        most.values.append(percentile(took, 99) * 1000)
    return row


async def handover(bench: Bench) -> Row:
    """Measure how soon a rep sees a transcript, once it is complete."""
    first, whole = (
        Series("its first line at Salesforce", "ms", ours=True),
        Series("all of it at Salesforce", "ms", ours=True),
    )
    count, lines = bench.size.of(10, 50), 40
    row = Row(
        "handover",
        "From the transcript is complete to its lines at Salesforce",
        f"A chatbot hands over {count} conversations of {lines} lines, one after the other, with both platforms 50 ms "
        "away; from Infobip's last answer about the transcript to Salesforce's answer to a line; medians.",
        [first, whole],
        [Verdict(first, must=500, goal=250, at_least=False)],
    )
    await bench.set_distance(DISTANCE)
    company = bench.companies[-1]
    document = json.loads(json.dumps(company.document))
    document["channels"][0]["senders"][0]["chatbotFirst"] = True
    await asyncio.to_thread(bench.stack.provision, document)
    await bench.control("POST", "/control/chatbot", {"lag": 0.5})
    for run in range(bench.size.runs):
        begun, ended = [], []
        for number in range(count):
            who = {"org": company.org, "from": user(900_000 + run * count + number), "to": company.sender, "name": "Ana"}
            said = [{"author": ("CUSTOMER", "BOT")[n % 2], "text": f"line {n}", "secondsAgo": 90 - n} for n in range(lines)]
            made = await bench.control("POST", "/control/chatbot/conversations", {**who, "messages": said})
            mark = await bench.journal_end()
            await bench.control("POST", "/control/chatbot/handover", made)
            shown = await bench.lines_of(str(who["from"]), mark, lines + 2)
            read = await bench.last_read(made["conversation"], mark)
            begun.append(shown[0] - read)
            ended.append(shown[-1] - read)
        first.values.append(percentile(begun, 50))
        whole.values.append(percentile(ended, 50))
    await asyncio.to_thread(bench.stack.provision, company.document)
    return row


async def events(bench: Bench) -> Row:
    """Measure the way from platform events to Infobip."""
    count = bench.size.of(3000, 50_000)
    ours = Series("the connector", "/s", ours=True)
    row = Row(
        "events",
        "Platform event to Infobip's 200",
        f"Reps wrote {count:,} messages while the subscriber was stopped. It starts, and the worker sends what it reads to "
        "an Infobip that is 50 ms away; the rate is that of sends, from the first to the last. Reports are held back.",
        [ours],
        [Verdict(ours, must=300, goal=800)],
    )
    await bench.set_distance(DISTANCE)
    await bench.control("POST", "/control/reports", {"delivered": 24 * 3600})
    conversations = await bench.conversations()
    for _ in range(bench.size.runs):
        bench.stack.stop("subscriber")
        newest, waiting = bench.newest(), iter(range(count))

        async def write(waiting: Any = waiting) -> None:
            for number in waiting:
                org, conversation = conversations[number % len(conversations)]
                reply = {"org": org, "conversation": conversation, "text": f"Your parcel {number} arrives tomorrow."}
                await bench.control("POST", "/control/console/replies", reply)

        await asyncio.gather(*(write() for _ in range(16)))
        mark = await bench.journal_end()
        bench.stack.restart("subscriber")
        row.costs.append(await drain(bench, count, newest, OUTBOUND))
        ours.values.append(rate_of(row, ours.name, count, await bench.taken(mark, "send")))
    return row


async def burst(bench: Bench) -> Row:
    """Measure what becomes of a burst of webhooks."""
    count = bench.size.of(2000, 10_000)
    accepted, refusals = Series("all accepted after", "s", ours=True), Series("refused or timed out", "", ours=True)
    drained, slowest = Series("all at Salesforce after", "s", ours=True), Series("slowest answer", "s", ours=True)
    row = Row(
        "burst",
        f"Burst of {count:,} webhooks",
        "As fast as they are taken, 500 connections at once, with Salesforce 50 ms away. The limits of 30 and 10 s are for "
        "10,000 webhooks, and are shared out for fewer.",
        [accepted, slowest, drained, refusals],
        [
            Verdict(refusals, must=0, goal=0, at_least=False),
            Verdict(drained, must=30 * count / 10_000, goal=10 * count / 10_000, at_least=False),
        ],
    )
    await bench.set_distance(DISTANCE)
    for _ in range(bench.size.runs):
        load = webhooks(bench.companies, count, users=USERS)
        newest, mark, meter = bench.newest(), await bench.journal_end(), Meter(bench)
        meter.start()
        sent = await closed_loop(bench.client, load, at_once=500)
        await bench.wait_carried(sent.statuses["200"], newest)
        row.costs.append(meter.stop(count))
        bench.note_memory()
        entries = await bench.taken(mark)
        lost(row, "the connector", sent.statuses["200"], entries)
        refusals.values.append(sent.failures)
        accepted.values.append(sent.ended - sent.began)
        slowest.values.append(max(sent.latencies))
        drained.values.append(float(entries[-1]["at"]) / 1000 - sent.began)
    return row


async def fairness(bench: Bench) -> Row:
    """Measure what an org notices of a neighbour's flood and of another one's dead far side."""
    seconds = bench.size.of(15, 60)
    quiet, loud = Series("99 of 100, neighbours quiet", "ms"), Series("99 of 100, neighbours loud", "ms", ours=True)
    ratio = Series("loud ÷ quiet", "x", ours=True)
    row = Row(
        "fairness",
        "An org at 10/s beside a flood and a dead far side",
        f"Open loops for {seconds} s, end to end, 50 ms away: one org at 10/s alone, then while a second org gets 300/s, "
        "and the Salesforce of a third one, which gets 20/s, takes calls and never answers.",
        [quiet, loud],
        [Verdict(ratio, must=3, goal=1.5, at_least=False, scale=quiet)],
    )
    calm, flooded, dead = bench.companies[:3]
    await bench.set_distance(DISTANCE)

    async def run(series: Series) -> None:
        load = webhooks([calm], 10 * seconds, users=USERS)
        newest, mark = bench.newest(), await bench.journal_end()
        sent = await open_loop(bench.client, load, rate=10)
        refused(row, series.name, sent)
        await bench.wait_carried(len(load), newest, org=calm.org)
        entries = [each for each in await bench.taken(mark) if each["org"] == calm.org]
        lost(row, series.name, len(load), entries)
        series.values.append(percentile(journeys(sent, entries), 99) * 1000)

    for _ in range(bench.size.runs):
        await run(quiet)
    hangs = {"where": "interactions", "what": "timeout_before", "org": dead.org}
    await bench.control("POST", "/control/faults", hangs)
    start = bench.newest()
    for _ in range(bench.size.runs):
        loads = [(webhooks([each], rate * seconds, users=USERS), rate) for each, rate in ((flooded, 300), (dead, 20))]
        others = [asyncio.create_task(open_loop(bench.client, load, rate=rate)) for load, rate in loads]
        await run(loud)
        for other in await asyncio.gather(*others):
            refused(row, "the neighbours", other)
    await bench.wait_carried(300 * seconds * bench.size.runs, start, org=flooded.org)
    await bench.set_distance(DISTANCE)  # and nothing hangs any more
    await bench.wait_carried(20 * seconds * bench.size.runs, start, org=dead.org)
    ratio.values = [one / other for one, other in zip(loud.values, quiet.values, strict=True)]
    return row


async def streams(bench: Bench) -> Row:
    """Measure what idle streams cost one subscriber."""
    count = 2000
    each, whole = (
        Series("memory of one more idle stream", "KiB", ours=True),
        Series("memory of the process", "MiB", ours=True),
    )
    opening, idle = Series("all opened in", "s", ours=True), Series("CPU of the process meanwhile", "%", ours=True)
    row = Row(
        "streams",
        f"{count:,} orgs' idle streams",
        f"Memory of a subscriber that reads {count:,} idle orgs more than four, divided by {count:,}; each process is "
        "measured three seconds after its last stream was opened. A thread per stream takes 83 KiB.",
        [each, whole, opening, idle],
        [
            Verdict(each, must=100, goal=50, at_least=False),
            Verdict(whole, must=300, goal=300, at_least=False),
            Verdict(opening, must=60, goal=60, at_least=False),
        ],
    )
    few = [await read_streams(bench, len(bench.companies)) for _ in range(bench.size.runs)]
    await bench.add_orgs(range(count))
    many = [await read_streams(bench, len(bench.companies) + count) for _ in range(bench.size.runs)]
    each.values = [(with_all.memory - without.memory) * 1024 / count for with_all, without in zip(many, few, strict=True)]
    whole.values = [measured.memory for measured in many]
    opening.values = [measured.seconds for measured in many]
    idle.values = [measured.cpu for measured in many]
    row.problems += [measured.problem for measured in (*few, *many) if measured.problem]
    base = ", ".join(f"{measured.memory:.0f}" for measured in few)
    row.notes.append(f"With four streams the process has {base} MiB.")
    if bench.size.full:
        await bench.add_orgs(range(count, 5000 - len(bench.companies)))
        tried = await read_streams(bench, 5000)  # as many as one process reads
        row.notes.append(
            tried.problem
            or f"5,000 streams: opened in {tried.seconds:.0f} s, {tried.memory:.0f} MiB, {tried.cpu:.0f} % CPU."
        )
    return row


@dataclass(frozen=True, slots=True)
class Streams:
    """What a subscriber took for its streams: seconds to open them, MiB, and per cent of a CPU while they idle."""

    seconds: float
    memory: float
    cpu: float
    problem: str


async def read_streams(bench: Bench, expected: int) -> Streams:
    """Start the subscriber anew and let it open so many streams."""
    mark = await bench.journal_end()
    bench.stack.restart("subscriber")
    began, problem = time.monotonic(), ""
    while len(opened := await bench.taken(mark, "stream_open")) < expected:
        if time.monotonic() > began + PATIENCE_WITH_STREAMS:
            problem = f"{len(opened)} of {expected} streams were opened in {PATIENCE_WITH_STREAMS:.0f} s"
            break
        await asyncio.sleep(0.2)
    await asyncio.sleep(3)
    pid = bench.pid("subscriber")
    memory, cpu = processes.memory_mib(pid), processes.cpu_seconds(pid)
    await asyncio.sleep(4)
    cpu = (processes.cpu_seconds(pid) - cpu) / 4 * 100
    return Streams((opened[-1]["at"] - opened[0]["at"]) / 1000 if opened else 0.0, memory, cpu, problem)


async def soak(bench: Bench) -> Row:
    """Watch the memory of each process through half an hour of messages in both directions."""
    minutes = bench.size.of(5, 30)
    growth = {name: Series(f"{name}: growth in the second half", "MiB", ours=True) for name in bench.stack.process_names}
    row = Row(
        "soak",
        f"Memory through {minutes} minutes",
        f"20 webhooks and 20 replies of reps a second for {minutes} minutes, 50 ms away. Each process's memory is read "
        "every ten seconds; the growth is the median of the last quarter less that of the second: what a leak would add.",
        list(growth.values()),
        [Verdict(each, must=10, goal=2, at_least=False) for each in growth.values()],
    )
    await bench.set_distance(DISTANCE)
    conversations = await bench.conversations()
    readings: dict[str, list[float]] = {name: [] for name in growth}

    async def reply() -> None:
        began = time.monotonic()
        for number in range(minutes * 60 * 20):
            await asyncio.sleep(max(0.0, began + number / 20 - time.monotonic()))
            org, conversation = conversations[number % len(conversations)]
            written = {"org": org, "conversation": conversation, "text": f"Your parcel {number} is on its way."}
            await bench.control("POST", "/control/console/replies", written)

    async def write() -> None:
        for _ in range(minutes):  # a minute's webhooks at a time: the load itself must not fill the memory
            refused(row, "the door", await open_loop(bench.client, webhooks(bench.companies, 1200, users=USERS), rate=20))

    load = asyncio.gather(reply(), write())
    while not load.done():
        await asyncio.wait([load], timeout=10)
        for name, values in readings.items():
            values.append(processes.memory_mib(bench.pid(name)))
    await load
    for name, values in readings.items():
        quarter = len(values) // 4
        growth[name].values = [percentile(values[-quarter:], 50) - percentile(values[quarter : 2 * quarter], 50)]
        course = ", ".join(f"{value:.0f}" for value in values[:: max(1, len(values) // 10)])
        row.notes.append(f"{name}, MiB: {course}.")
    return row


ROWS: dict[str, Callable[[Bench], Awaitable[Row]]] = {
    "accept": accept,
    "latency": latency,
    "relay": relay_far,
    "relay0": relay_near,
    "journey": end_to_end,
    "handover": handover,
    "events": events,
    "burst": burst,
    "fairness": fairness,
    "soak": soak,
    "streams": streams,  # the last one: it leaves thousands of orgs
}
