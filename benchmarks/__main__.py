"""Measure, print a table, and write docs/speed.md with its picture.

python -m benchmarks [--runs 5] [--full] [--stored 10000000] [--rows accept relay …]
"""

import argparse
import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import aiohttp

from benchmarks import processes
from benchmarks.bench import ORGS, Bench, Late, Size
from benchmarks.figures import Row, not_measured
from benchmarks.load import Company
from benchmarks.page import Facts, print_row, say, write_report
from benchmarks.rows import ROWS
from benchmarks.sending import SendingFailed
from benchmarks.stored import store
from devstack.documents import example_documents
from devstack.family import StackError
from devstack.stack import Stack
from devstack.version import ROOT, code_measured

PROCESSES = ("web", "worker", "subscriber")


async def measure(bench: Bench, names: list[str], stored: int) -> list[Row]:
    """Measure the rows that are named, one after the other, beside so many stored messages."""
    rows: list[Row] = []
    await bench.warm_up()
    if stored:
        await asyncio.to_thread(store, bench.stack, stored)
        bench.keep_stored()
    for name in names:
        began, others = time.monotonic(), others_seconds()
        what = (ROWS[name].__doc__ or "").split("\n")[0]
        say(f"\n{name}: {what}")
        try:
            row = await ROWS[name](bench)
        except (Late, SendingFailed, StackError) as exc:
            row = not_measured(name, what.rstrip("."), str(exc))
            await bench.recover()
        rows.append(row)
        row.seconds = time.monotonic() - began
        row.disturbance = (others_seconds() - others) / row.seconds
        print_row(row)
    return rows


def others_seconds() -> float:
    """Give the CPU time of what is not ours: it takes from every figure."""
    return processes.machine_seconds() - processes.cpu_seconds(os.getpid())


def move_in(stack: Stack) -> list[Company]:
    """Set up the orgs, on both sides."""
    companies = []
    for document in example_documents(stack.salesforce_port, stack.infobip_port, orgs=ORGS):
        webhook = stack.provision(document)["infobipAccounts"][0]["webhook"]
        sender = document["channels"][0]["senders"][0]["number"]
        secret = document["infobipAccounts"][0]["webhookSecret"]
        companies.append(Company(document["org"]["orgId"], sender, webhook, secret, document))
    return companies


async def measure_all(stack: Stack, companies: list[Company], options: argparse.Namespace) -> tuple[list[Row], Bench]:
    """Measure on a stack that is up."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as client:
        bench = Bench(stack, companies, client, Size(options.runs, options.size))
        return await measure(bench, options.rows, options.stored), bench


def read_arguments() -> argparse.Namespace:
    """Read the arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure the connector, its floors and peers."
    )
    parser.add_argument("--runs", type=int, default=5, help="of each row")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--full", dest="size", action="store_const", const="full", default="usual", help="an hour or more")
    size.add_argument("--smoke", dest="size", action="store_const", const="smoke", help="too short for figures that count")
    parser.add_argument("--stored", type=int, default=0, help="messages in the database beforehand; 10000000 take 20 GB")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="these only, and no report")
    parser.add_argument("--report", type=Path, help="the folder of speed.md; docs, where all rows are measured")
    return parser.parse_args()


def main() -> int:
    """Read the arguments, measure and report; gives 1 if a must is missed."""
    options = read_arguments()
    for name in ("DATABASE_URL", "REDIS_URL"):
        os.environ.pop(name, None)  # services of its own: their CPU time is measured, and PostgreSQL syncs
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began, measured = time.monotonic(), code_measured()
    with Stack(processes=PROCESSES) as stack:
        stack.manage("migrate", "--no-input")
        stack.start()
        stack.wait_ready()
        companies = move_in(stack)
        rows, bench = asyncio.run(measure_all(stack, companies, options))
    minutes = (time.monotonic() - began) / 60
    say(f"\n{sum(row.holds for row in rows)} of {len(rows)} rows meet their musts; {minutes:.1f} minutes")
    folder = options.report or (ROOT / "docs" if len(rows) == len(ROWS) and options.size != "smoke" else None)
    if folder is not None:
        write_report(folder, rows, Facts(measured, options.runs, options.size, minutes, options.stored, bench.memory))
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except StackError as exc:
        sys.exit(str(exc))
    except KeyboardInterrupt:
        sys.exit(130)
