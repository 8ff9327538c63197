"""The fault campaign: real processes and services, a load in both directions, everything that can break, and a verdict.

    python -m tests.faults.campaign --seconds 180 --seed 1 --rate 50

The campaign plays Infobip's side of inbound messages itself: it posts signed webhooks to the connector's door, again
until they are answered 200. Reps' replies go through the sandbox, which does not leave out what is repeated.
"""

import argparse
import asyncio
import json
import os
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks import processes
from devstack.documents import example_documents
from devstack.stack import Stack
from devstack.version import code_measured
from tests.faults import database
from tests.faults.chats import chatbot_number, talk
from tests.faults.checker import Evidence, check
from tests.faults.logs import wrong_lines
from tests.faults.people import People
from tests.faults.report import Facts, Run, write_report
from tests.faults.scene import CLOCK_AHEAD, ORGS, PROCESSES, USERS, Company, Scene
from tests.faults.schedule import Chat, Planned, Turn, plan_chats, plan_faults, plan_turns
from tests.faults.strikes import Striker

DRAIN_SECONDS = 90.0
STILL_SECONDS = 5.0  # without news, and with nothing left to do in the rows
REPORT = Path(__file__).resolve().parents[2] / "docs" / "correctness.md"


def move_in(stack: Stack, document: dict[str, Any], place: int) -> Company:
    """Provision an org, with a number more, which a chatbot answers first."""
    document["channels"][0]["senders"].append({"account": "main", "number": chatbot_number(place), "chatbotFirst": True})
    result = stack.provision(document)
    return Company(
        org=document["org"]["orgId"],
        sender=document["channels"][0]["senders"][0]["number"],
        webhook=result["infobipAccounts"][0]["webhook"],
        secret=document["infobipAccounts"][0]["webhookSecret"],
    )


async def watch(scene: Scene) -> None:
    """Read what the far sides saw, for as long as the campaign lasts."""
    read_until = 0
    while True:
        answer = await scene.control("GET", f"/control/journal?after={read_until}")
        read_until = answer["last"]
        for entry in answer["entries"]:
            scene.note(entry)
        await asyncio.sleep(0.3)


async def run(scene: Scene, turns: list[Turn], chats: list[Chat], faults: list[Planned]) -> tuple[Evidence, Facts]:
    """Greet, load and break, drain, and gather what is left."""
    watching = asyncio.create_task(watch(scene))
    people = People(scene)
    striker = Striker(scene, people)
    await scene.control("POST", "/control/reports", {"delivered": 0.0, "seen": 0.2, "auto": True})
    await scene.control("POST", "/control/clock", {"retryScale": 0.01, "ahead": CLOCK_AHEAD})
    await people.greet()
    scene.begin()
    before = memory(scene.stack)
    for planned in faults:
        scene.spawn(striker.strike(planned))
    for chat in chats:
        scene.spawn(talk(scene, chat))
    for turn in turns:
        await asyncio.sleep(max(0.0, turn.at - scene.now()))
        scene.spawn(people.take(turn))
    loaded = scene.now()
    while scene.now() < loaded + DRAIN_SECONDS:
        still = not scene.tasks and scene.now() > scene.last_news + STILL_SECONDS
        if still and not await asyncio.to_thread(database.unfinished, scene.stack):
            break
        await asyncio.sleep(0.5)
    watching.cancel()
    drained = max(0.0, scene.last_news - loaded)
    return gather(scene), Facts(before, memory(scene.stack), drained, dict(sorted(scene.answers.items())))


def gather(scene: Scene) -> Evidence:
    """Gather what is left."""
    faults = sorted(scene.faults, key=lambda fault: fault.begin)
    problems = Counter(database.arrivals_without_effect(scene.stack))
    wrong = wrong_lines(scene.stack.folder, PROCESSES, faults, scene.began)
    return Evidence(
        sent=list(scene.sent.values()),
        seen=scene.seen,
        rows=database.rows_of(scene),
        faults=faults,
        reported={scene.text_of_uuid[uuid]: state for uuid, state in scene.reported.items()},
        ticked={scene.text_of_entry[entry]: state for entry, state in scene.ticked.items()},
        stuck=[*scene.failures, *database.unfinished(scene.stack)],
        wrong_lines=wrong + [f"arrival without effect: {what} ({count} times)" for what, count in sorted(problems.items())],
    )


def memory(stack: Stack) -> dict[str, float]:
    """Measure the resident memory of each process with its children, in MiB."""
    running = {name: stack.children[name].process for name in PROCESSES}
    return {name: processes.memory_mib(process.pid) for name, process in running.items() if process is not None}


async def campaign(
    stack: Stack, companies: list[Company], seed: int, seconds: float, rate: float
) -> tuple[Evidence, Facts]:
    """Run one campaign against a stack that is up."""
    timeout = aiohttp.ClientTimeout(total=10)
    # a kept connection is used again soon or not at all: the door closes those that idle
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as client:
        turns = plan_turns(seed, seconds, rate, USERS)
        chats = plan_chats(seed, seconds)
        return await run(Scene(stack, companies, client), turns, chats, plan_faults(seed, seconds))


def run_once(seed: int, options: argparse.Namespace) -> Run:
    """Run one campaign on a stack of its own, print its verdict, and give it."""
    with Stack(processes=PROCESSES) as stack:
        stack.manage("migrate", "--no-input")
        documents = example_documents(stack.salesforce_port, stack.infobip_port, orgs=ORGS)
        stack.start()
        stack.wait_ready()
        companies = [move_in(stack, document, place) for place, document in enumerate(documents)]
        print(f"{options.rate:g} messages a second for {options.seconds:g} s, seed {seed}", flush=True)
        evidence, facts = asyncio.run(campaign(stack, companies, seed, options.seconds, options.rate))
        if options.keep:
            keep(options.keep / f"seed-{seed}", stack, evidence)
    verdict = check(evidence)
    for promise in verdict.promises:
        print(f"{'kept  ' if promise.kept else 'BROKEN'}  {promise.name}: {promise.counted}", flush=True)
        for finding in promise.findings[:20]:
            print(f"          {finding}", flush=True)
    return Run(seed, verdict, facts)


def keep(folder: Path, stack: Stack, evidence: Evidence) -> None:
    """Keep what was found and the processes' logs, to look into."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evidence.json").write_text(json.dumps(asdict(evidence), indent=1))
    for log in stack.folder.glob("*.log"):
        (folder / log.name).write_bytes(log.read_bytes())


def read_arguments() -> argparse.Namespace:
    """Read the arguments."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.campaign", description=__doc__)
    parser.add_argument("--seconds", type=float, default=180, help="of load; 600 have room for each kind of fault")
    parser.add_argument("--rate", type=float, default=50, help="messages a second, both directions together")
    parser.add_argument(
        "--seed",
        type=int,
        nargs="+",
        default=[1],
        help="the same seed: the same faults and texts; several: one after another",
    )
    parser.add_argument("--report", type=Path, default=REPORT, help="where the report is written")
    parser.add_argument("--keep", type=Path, help="a folder for what was found and the logs")
    return parser.parse_args()


def main() -> int:
    """Run a campaign, write its report, and give 0 if every promise was kept."""
    options = read_arguments()
    for name in ("DATABASE_URL", "REDIS_URL"):
        os.environ.pop(name, None)  # services of its own: it stops them
    measured = code_measured()
    runs: list[Run] = []
    for seed in options.seed:
        runs.append(run_once(seed, options))
        write_report(options.report, runs, measured=measured, seconds=options.seconds, rate=options.rate)
    return 0 if all(run.verdict.clean for run in runs) else 1


if __name__ == "__main__":
    sys.exit(main())
