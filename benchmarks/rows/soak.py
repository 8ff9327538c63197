"""Endurance: what the memory of each process does through many minutes of messages."""

import asyncio
import time

from benchmarks import processes
from benchmarks.bench import DISTANCE, Bench, refused
from benchmarks.figures import Row, Series, Verdict, percentile

RATE = 20  # a second, in each direction


async def soak(bench: Bench) -> Row:
    """Watch the memory of each process through minutes of messages in both directions."""
    minutes = bench.size.of(5, full=30, smoke=1)
    growth = {name: Series(f"{name}: growth in the second half", "MiB", ours=True) for name in bench.stack.process_names}
    row = Row(
        "soak",
        f"Memory through {minutes} minutes",
        f"{RATE} webhooks and {RATE} replies of reps a second for {minutes} minutes, 50 ms away. Each process's memory "
        "is read every ten seconds; the growth is the median of the last quarter less that of the second: what a leak "
        "would add.",
        list(growth.values()),
        [Verdict(each, must=10, goal=2, at_least=False) for each in growth.values()],
    )
    await bench.set_distance(DISTANCE)
    readings: dict[str, list[float]] = {name: [] for name in growth}

    async def write() -> None:
        for _ in range(minutes):  # a minute's webhooks at a time: the load itself must not fill the memory
            refused(row, "the door", await (await bench.load(60 * RATE, rate=RATE)).send())

    load = asyncio.gather(reply(bench, minutes * 60), write())
    while not load.done():
        await asyncio.wait([load], timeout=10)
        for name, values in readings.items():
            values.append(processes.memory_mib(bench.pid(name)))
    await load
    for name, values in readings.items():
        quarter = max(1, len(values) // 4)
        growth[name].values = [percentile(values[-quarter:], 50) - percentile(values[quarter : 2 * quarter], 50)]
        course = ", ".join(f"{value:.0f}" for value in values[:: max(1, len(values) // 10)])
        row.notes.append(f"{name}, MiB: {course}.")
    return row


async def reply(bench: Bench, seconds: int) -> None:
    """Let reps write."""
    conversations = await bench.conversations()
    began = time.monotonic()
    for number in range(seconds * RATE):
        await asyncio.sleep(max(0.0, began + number / RATE - time.monotonic()))
        org, conversation = conversations[number % len(conversations)]
        written = {"org": org, "conversation": conversation, "text": f"Your parcel {number} is on its way."}
        await bench.control("POST", "/control/console/replies", written)
