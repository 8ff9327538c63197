"""The rows of the table: what is measured, how, and what it must be. Each file measures one part of the way."""

from collections.abc import Awaitable, Callable

from benchmarks.bench import Bench
from benchmarks.figures import Row
from benchmarks.rows.burst import burst
from benchmarks.rows.door import accept, latency
from benchmarks.rows.fairness import fairness
from benchmarks.rows.handover import handover
from benchmarks.rows.hostile import hostile
from benchmarks.rows.ingest import ingest
from benchmarks.rows.journey import end_to_end, events
from benchmarks.rows.relay import relay, relay_near
from benchmarks.rows.soak import soak
from benchmarks.rows.streams import streams
from benchmarks.rows.workers import kill, terminate

ROWS: dict[str, Callable[[Bench], Awaitable[Row]]] = {
    "accept": accept,
    "latency": latency,
    "ingest": ingest,
    "relay": relay,
    "relay0": relay_near,
    "journey": end_to_end,
    "events": events,
    "burst": burst,
    "fairness": fairness,
    "kill": kill,
    "terminate": terminate,
    "hostile": hostile,
    "handover": handover,
    "soak": soak,
    "streams": streams,  # the last one: it leaves thousands of orgs
}
