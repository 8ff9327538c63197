"""What was measured, for people: lines on the terminal, and docs/speed.md."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.chart import draw
from benchmarks.figures import Row, Series, number


@dataclass(frozen=True, slots=True)
class Facts:
    """How it was measured."""

    measured: str  # the code
    runs: int
    size: str
    minutes: float
    stored: int  # messages that lay in the database beforehand
    memory: dict[str, float]  # MiB by process


def say(words: str) -> None:
    """Print a line at once."""
    print(words, flush=True)


def print_row(row: Row) -> None:
    """Show a row on the terminal."""
    for series in row.series:
        say(f"    {series.name:<58}{number(series.figure):>9} {series.unit:<4} ({series.spread})")
    for each in row.verdicts:
        must, goal = each.limits
        say(f"    {row.verdict_words(each):<16}{each.series.name}: {each.series.words} (must {must}, goal {goal})")
    if cost := _cost_words(row):
        say(f"    CPU per message: {cost}")
    for note in (*row.notes, _disturbance_words(row)):
        say(f"    {note}")
    for problem in row.problems:
        say(f"    PROBLEM: {problem}")


def _cost_words(row: Row) -> str:
    return ", ".join(f"{name} {value:.2f} ms" for name, value in row.cost().items() if value >= 0.005)


def _disturbance_words(row: Row) -> str:
    return f"Others on this machine used {row.disturbance:.2f} CPUs meanwhile; the row took {row.seconds:.0f} s."


def write_report(folder: Path, rows: Sequence[Row], facts: Facts) -> None:
    """Write docs/speed.md and its picture."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "images" / "speed.svg").write_text(draw(rows))
    (folder / "speed.md").write_text("".join([_head(rows, facts), *_table(rows), *_details(rows), _tail(facts)]))


def _head(rows: Sequence[Row], facts: Facts) -> str:
    cpus, model = _machine()
    missed = sum(not row.holds for row in rows)
    verdict = f"{missed} of {len(rows)} rows miss a must" if missed else "Every must is met"
    option = {"usual": "", "full": " with `--full`", "smoke": " with `--smoke`, too short for figures that count"}[
        facts.size
    ]
    stored = f" The database held {facts.stored:,} messages beforehand." if facts.stored else ""
    return f"""# Speed

Written by `make bench`{option} (measured: {facts.measured})
in {facts.minutes:.0f} minutes, on {cpus} CPUs ({model}), Python {platform.python_version()}, PostgreSQL with fsync on.
Web, one worker, one subscriber, the database, the sandbox that plays both platforms, and the load share these CPUs, so a
figure is worth more beside its floor and peers, measured in the same run, than by itself.{stored}
{facts.runs} runs; a figure is the median, in brackets the lowest and the highest; where it says so, it is of the samples of
all runs together.

Latencies are measured with an open loop: the times of sending are fixed in advance, and a latency counts from the time that
was intended, so that a system that stalls cannot hide it. Capacities are measured with a closed loop. Requests are real
signed webhooks, made in advance and sent by a process of its own. CPU times are those of the system's own count (user and
system, of a process with all its children, for PostgreSQL all its backends); *load* is that of the sending process.

    make bench ARGS="--runs 5"        make bench ARGS="--full"        make bench ARGS="--rows accept relay"

**{verdict}.**

![how each figure stands to its floor, peers, must and goal](images/speed.svg)

"""


def _table(rows: Sequence[Row]) -> list[str]:
    parts = ["| | measured | must | goal | verdict |\n|---|---:|---:|---:|---|\n"]
    for row in rows:
        for each in row.verdicts:
            must, goal = each.limits
            figure = f"{each.series.words} ({each.series.spread})"
            parts.append(f"| {row.title}: {each.series.name} | {figure} | {must} | {goal} | {row.verdict_words(each)} |\n")
        if not row.verdicts:
            parts.append(f"| {row.title} | not measured | | | MISSED |\n")
    return parts


def _details(rows: Sequence[Row]) -> list[str]:
    parts = []
    for row in rows:
        parts.append(f"\n## {row.title}\n\n{row.how}\n" if row.how else f"\n## {row.title}\n")
        if row.series:
            parts.append("\n| | figure | lowest to highest |\n|---|---:|---:|\n")
        parts += [f"| {_strong(each)} | {each.words} | {each.spread} |\n" for each in row.series]
        if cost := _cost_words(row):
            parts.append(f"\nCPU per message: {cost}.\n")
        parts += [f"\n{note}\n" for note in (*row.notes, _disturbance_words(row))]
        parts += [f"\n**Problem:** {problem}\n" for problem in row.problems]
    return parts


def _tail(facts: Facts) -> str:
    memory = "".join(f"| {name} | {value:.0f} |\n" for name, value in facts.memory.items())
    return f"""
## Memory

The most that each process had, with its children.

| process | MiB |
|---|---:|
{memory}
## Not measured here

Jasmin (540/s) and Kannel (4,400/s, without fsync) are SMS gateways that do the relay's kind of work; their figures were
taken on another machine of this kind while the product was designed. `--stored 10000000` measures everything beside ten
million stored messages.
"""


def _strong(series: Series) -> str:
    return f"**{series.name}**" if series.ours else series.name


def _machine() -> tuple[int, str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return max(1, len(models)), models[0] if models else platform.processor() or platform.machine()
