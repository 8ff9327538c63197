"""The report of a campaign, for people."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.faults.checker import HEALED_SECONDS, NORMAL_SECONDS, Promise, Recovery, Verdict
from tests.faults.kinds import KILL_LIMIT, OUTAGE_SECONDS, TERM_LIMIT
from tests.faults.scene import CLOCK_AHEAD
from tests.faults.schedule import ROOM_FOR_LONG_ONES

MOST_FINDINGS = 20  # of one promise that are written out


HOW_TO_READ = f"""
## How to read the faults

Times are seconds since the load began. *Normal again* is how long after the end of the fault it took until new messages
arrived within {NORMAL_SECONDS:g} s again (19 of 20 of those written in the next 3 s); {HEALED_SECONDS:g} s are allowed,
{KILL_LIMIT:g} s after kill -9 of one of the two workers and {TERM_LIMIT:g} s after SIGTERM of one, unless another fault for
all was still felt. It counts the messages of the org and the direction that the fault strikes, or, where it strikes all,
those of the org that has no faults of its own. Where others struck the same messages meanwhile, the time contains their
trouble, and the {HEALED_SECONDS:g} s begin with the end of the last of them. *Neighbour* is what 95 of 100 messages of the
org beside the struck one stayed below meanwhile; empty where a fault for all was on.

Under a backlog: a hundred end users and as many reps write at once, and the process is asked to end 0.2 s later. Frozen
(SIGSTOP) and killed workers are allowed as many tries in doubt as calls were under way at that moment, of both workers; a
process that is asked to end has none. Poisonous webhooks are rightly signed and wrongly filled: those that only have absurd
times or fields at the side must arrive as any other, the rest may become anything that harms nobody.

Every few seconds somebody who talks to a chatbot is handed over to a rep, and writes on meanwhile. Infobip's clock tells
whole seconds, and is {-CLOCK_AHEAD} s behind ours.
"""


@dataclass(frozen=True, slots=True)
class Facts:
    """What was measured beside the messages."""

    memory_before: dict[str, float]  # MiB by process
    memory_after: dict[str, float]
    drained: float  # seconds after the load's end
    poison: dict[str, int]  # the door's answers to what nobody can read, by status


@dataclass(frozen=True, slots=True)
class Run:
    """One campaign: its seed, what the checker found, and what was measured beside."""

    seed: int
    verdict: Verdict
    facts: Facts


def write_report(path: Path, runs: Sequence[Run], *, measured: str, seconds: float, rate: float) -> None:
    """Write what was done, what was found, and how to do it again.

    :param measured: the code that ran, as ``code_measured`` named it when it began
    """
    parts = [_head(runs, measured=measured, seconds=seconds, rate=rate)]
    for promises in zip(*(run.verdict.promises for run in runs), strict=True):
        cells = (f" {'kept' if each.kept else '**broken**'}: {each.counted} |" for each in promises)
        parts.append(f"| {promises[0].name} |{''.join(cells)}\n")
    parts.append(HOW_TO_READ)
    for run in runs:
        parts += _run(run)
    path.write_text("".join(parts))


def _head(runs: Sequence[Run], *, measured: str, seconds: float, rate: float) -> str:
    seeds = " ".join(str(run.seed) for run in runs)
    clean = all(run.verdict.clean for run in runs)
    outages = f", for {OUTAGE_SECONDS:g} s where it is gone altogether" if seconds >= ROOM_FOR_LONG_ONES else ""
    return f"""# What holds when everything breaks

Written by `make faults`. Three orgs and 200 end users exchange {rate:g} messages a second for {seconds:g} s through real
processes (web, two workers, one subscriber), PostgreSQL with fsync, and Valkey. A schedule that the seed gives breaks all
of them and the far sides{outages}; the last 40 s are quiet. The far sides take a second time
whatever is repeated, so that nothing done twice stays hidden. Then a checker compares what each end sent with what the
other end saw, and with the rows.

    make faults ARGS="--seconds {seconds:g} --rate {rate:g} --seed {seeds}"

The same seed gives the same faults and the same texts; another one, such as `ARGS="--seed 7 --seconds 600"`, another
campaign. `--keep FOLDER` keeps the evidence and the logs. The program ends with 1 if a promise was broken.

Measured: {measured}.

## Verdict: {"every promise was kept" if clean else "BROKEN"}

| promise |{"".join(f" seed {run.seed} |" for run in runs)}
|---|{"---|" * len(runs)}
"""


def _run(run: Run) -> list[str]:
    parts = [f"\n## Seed {run.seed}\n"]
    parts += [_findings(promise) for promise in run.verdict.promises if not promise.kept]
    parts.append("\n| begin | end | fault | normal again | allowed | neighbour |\n|---:|---:|---|---:|---:|---:|\n")
    parts += [_fault_line(recovery) for recovery in run.verdict.recoveries]
    parts.append(f"\nAfter the end of the load the last receipt came {run.facts.drained:.1f} s later.\n")
    if run.facts.poison:
        answers = ", ".join(f"{count} x {status}" for status, count in run.facts.poison.items())
        parts.append(f"\nThe door's answers to what nobody can read: {answers}.\n")
    parts.append("\n| process | MiB before | MiB after |\n|---|---:|---:|\n")
    parts += [
        f"| {name} | {before:.0f} | {run.facts.memory_after.get(name, 0.0):.0f} |\n"
        for name, before in run.facts.memory_before.items()
    ]
    return parts


def _findings(promise: Promise) -> str:
    lines = [f"- {finding}" for finding in promise.findings[:MOST_FINDINGS]]
    if len(promise.findings) > MOST_FINDINGS:
        lines.append(f"- and {len(promise.findings) - MOST_FINDINGS} more")
    return "\n".join(["", f"**{promise.name}**", "", *lines, ""])


def _fault_line(recovery: Recovery) -> str:
    fault = recovery.fault
    healed = "never" if recovery.seconds is None else f"{recovery.seconds:.1f} s"
    neighbours = "" if recovery.neighbours is None else f"{recovery.neighbours * 1000:.0f} ms"
    return f"| {fault.begin:.1f} | {fault.end:.1f} | {fault.name} | {healed} | {recovery.allowed:g} s | {neighbours} |\n"
