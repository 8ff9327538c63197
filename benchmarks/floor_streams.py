"""The floor of an idle stream: a bare Subscribe call of grpc.aio, which keeps no position and notices no silence.

python -m benchmarks.floor_streams < JOB

It prints ``ready``, opens with the next line so many streams more than four, and tells then what each took, in KiB.
"""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import grpc.aio

from benchmarks.loader import read_line
from benchmarks.processes import PAGE
from connector.salesforce import pubsub

PER_CHANNEL = 800
FEW = 4
SETTLE_SECONDS = 3.0  # after the last stream was asked for


def memory() -> float:
    """Give the resident memory of this process, in KiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 1024


async def open_streams(job: dict[str, Any]) -> float:
    """Open the streams, and give the memory of one."""
    metadata = [(name, job[name]) for name in ("accesstoken", "instanceurl", "tenantid")]
    channels = [grpc.aio.insecure_channel(job["endpoint"]) for _ in range(-(-(job["count"] + FEW) // PER_CHANNEL))]
    reading = []

    async def read(number: int) -> None:
        subscribe: Any = channels[number // PER_CHANNEL].stream_stream(
            f"/{pubsub.SERVICE}/Subscribe",
            request_serializer=pubsub.FetchRequest.SerializeToString,
            response_deserializer=pubsub.FetchResponse.FromString,
        )
        call = subscribe(metadata=metadata)
        await call.write(pubsub.FetchRequest(topic_name=job["topic"], num_requested=1, replay_preset=pubsub.LATEST))
        while await call.read():  # the end of a stream is false
            pass

    async def more(numbers: range) -> float:
        for number in numbers:
            reading.append(asyncio.create_task(read(number)))
            await asyncio.sleep(0.002)
        await asyncio.sleep(SETTLE_SECONDS)
        return memory()

    few = await more(range(FEW))
    many = await more(range(FEW, FEW + job["count"]))
    if ended := [task for task in reading if task.done()]:
        raise SystemExit(f"{len(ended)} streams ended: {ended[0].exception()}")
    return (many - few) / int(job["count"])


def main() -> None:
    """Wait for the word, open, and tell."""
    job = json.loads(read_line())
    print("ready", flush=True)
    read_line()
    asyncio.run(measure_and_leave(job))


async def measure_and_leave(job: dict[str, Any]) -> None:
    """Tell it before the streams are closed: that takes longer than all the rest."""
    print(await open_streams(job), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
