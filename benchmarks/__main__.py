"""Measure, print a table, and write docs/speed.md with its chart.

python -m benchmarks [--runs 5] [--full] [--rows accept relay …]
"""

import argparse
import asyncio
import os
import signal
import sys
import time
from pathlib import Path

from benchmarks import processes
from benchmarks.bench import ORGS, Bench, Late, Size
from benchmarks.load import Company, session
from benchmarks.report import Row, print_row, say, write_report
from benchmarks.rows import ROWS
from sandbox.stack import ROOT, Stack, StackError, code_measured, example_documents

PROCESSES = ("web", "worker", "subscriber")


async def measure(
    stack: Stack, companies: list[Company], names: list[str], size: Size
) -> tuple[list[Row], dict[str, float]]:
    """Measure the rows that are named, one after the other."""
    rows: list[Row] = []
    async with session() as client:
        bench = Bench(stack, companies, client, size)
        await bench.warm_up()
        for name in names:
            began, others = time.monotonic(), others_seconds()
            say(f"\n{name}: {ROWS[name].__doc__}")
            try:
                row = await ROWS[name](bench)
            except Late as exc:
                say(f"    PROBLEM: {exc}; the rest is not measured")
                return [], {}
            rows.append(row)
            row.disturbance = (others_seconds() - others) / (time.monotonic() - began)
            print_row(row)
            say(f"    ({time.monotonic() - began:.0f} s)")
    return rows, bench.memory


def others_seconds() -> float:
    """Give the CPU time of what is not ours: it takes from every figure."""
    return processes.machine_seconds() - processes.cpu_seconds(os.getpid())


def main() -> int:
    """Read the arguments, measure and report; gives 1 if a must does not hold."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure the connector, its floors and peers."
    )
    parser.add_argument("--runs", type=int, default=3, help="of each row")
    parser.add_argument("--full", action="store_true", help="larger backlogs and longer loads: an hour or more")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="these only, and no report")
    parser.add_argument("--report", type=Path, default=ROOT / "docs", help="the folder of speed.md")
    options = parser.parse_args()
    for name in ("DATABASE_URL", "REDIS_URL"):
        os.environ.pop(name, None)  # services of its own: their CPU time is measured, and PostgreSQL syncs
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began, measured = time.monotonic(), code_measured()
    with Stack(processes=PROCESSES) as stack:
        stack.manage("migrate", "--no-input")
        documents = example_documents(stack.salesforce_port, stack.infobip_port, orgs=ORGS)
        stack.start()
        stack.wait_ready()
        companies = []
        for document in documents:
            webhook = stack.provision(document)["infobipAccounts"][0]["webhook"]
            sender = document["channels"][0]["senders"][0]["number"]
            secret = document["infobipAccounts"][0]["webhookSecret"]
            companies.append(Company(document["org"]["orgId"], sender, webhook, secret, document))
        rows, memory = asyncio.run(measure(stack, companies, options.rows, Size(options.runs, options.full)))
    minutes = (time.monotonic() - began) / 60
    say(f"\n{sum(row.holds for row in rows)} of {len(options.rows)} rows hold; {minutes:.1f} minutes")
    if len(rows) == len(ROWS):
        write_report(options.report, rows, memory, measured=measured, runs=options.runs, full=options.full, minutes=minutes)
    return 0 if len(rows) == len(options.rows) and all(row.holds for row in rows) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except StackError as exc:
        sys.exit(str(exc))
    except KeyboardInterrupt:
        sys.exit(130)
