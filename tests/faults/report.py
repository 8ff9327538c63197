"""The report of a campaign, for people."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from sandbox.stack import ROOT
from tests.faults.checker import HEALED_SECONDS, NORMAL_SECONDS, Promise, Recovery, Verdict

MOST_FINDINGS = 20  # of one promise that are written out


@dataclass(frozen=True, slots=True)
class Facts:
    """What was measured beside the messages."""

    memory_before: dict[str, float]  # MiB by process
    memory_after: dict[str, float]
    drained: float  # seconds after the load's end


def code_measured() -> str:
    """Name the commit that ran, and say so where it is not all that ran."""
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    if commit.returncode != 0:
        return "code that is in no repository, so that nobody can say which it was"
    changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout.strip()
    return f"commit {commit.stdout.strip()}" + (" with uncommitted changes" if changed else ", unchanged")


def write_report(path: Path, verdict: Verdict, facts: Facts, *, seconds: float, rate: float, seed: int) -> None:
    """Write what was done, what was found, and how to do it again."""
    head = f"""# What holds when everything breaks

Written by `make faults`. Three orgs and 200 end users exchange {rate:g} messages a second for {seconds:g} s through real
processes (web, one worker, one subscriber), PostgreSQL with fsync, and Valkey. A schedule that the seed gives breaks all of
them and the far sides; the last 40 s are quiet. The far sides take a second time whatever is repeated, so that nothing done
twice stays hidden. Then a checker compares what each end sent with what the other end saw, and with the rows.

    make faults ARGS="--seconds {seconds:g} --rate {rate:g} --seed {seed}"

The same seed gives the same faults and the same texts; another one, such as `ARGS="--seed 7 --seconds 600"`, another
campaign. `--keep FOLDER` keeps the evidence and the logs. The program ends with 1 if a promise was broken.

Measured: {code_measured()}.

## Verdict: {"every promise was kept" if verdict.clean else "BROKEN"}

| promise | | counted |
|---|---|---|
"""
    parts = [head, *(_promise_line(promise) for promise in verdict.promises)]
    parts += [_findings(promise) for promise in verdict.promises if not promise.kept]
    parts.append(
        f"""
## Faults

Times are seconds since the load began. *Normal again* is how long after the end of the fault it took until new messages
arrived within {NORMAL_SECONDS:g} s again (19 of 20 of those written in the next 3 s); {HEALED_SECONDS:g} s are allowed. It
counts the messages of the org and the direction that the fault strikes, or, where it strikes all, those of the org that has
no faults of its own. Where faults overlap, the time of the one contains the trouble of the other. *Neighbour* is what 95 of
100 messages of the org beside the struck one stayed below meanwhile; empty where a fault for all was on.

| begin | end | fault | normal again | neighbour |
|---:|---:|---|---:|---:|
"""
    )
    parts += [_fault_line(recovery) for recovery in verdict.recoveries]
    parts.append(
        f"""
After the end of the load the last receipt came {facts.drained:.1f} s later.

## Memory

| process | MiB before | MiB after |
|---|---:|---:|
"""
    )
    parts += [
        f"| {name} | {before:.0f} | {facts.memory_after.get(name, 0.0):.0f} |\n"
        for name, before in facts.memory_before.items()
    ]
    path.write_text("".join(parts))


def _promise_line(promise: Promise) -> str:
    return f"| {promise.name} | {'kept' if promise.kept else '**broken**'} | {promise.counted} |\n"


def _findings(promise: Promise) -> str:
    lines = [f"- {finding}" for finding in promise.findings[:MOST_FINDINGS]]
    if len(promise.findings) > MOST_FINDINGS:
        lines.append(f"- and {len(promise.findings) - MOST_FINDINGS} more")
    return "\n".join(["", f"**{promise.name}**", "", *lines, ""])


def _fault_line(recovery: Recovery) -> str:
    fault = recovery.fault
    healed = "never" if recovery.seconds is None else f"{recovery.seconds:.1f} s"
    neighbours = "" if recovery.neighbours is None else f"{recovery.neighbours * 1000:.0f} ms"
    return f"| {fault.begin:.1f} | {fault.end:.1f} | {fault.name} | {healed} | {neighbours} |\n"
