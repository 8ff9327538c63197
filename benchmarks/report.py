"""What was measured, for people: a line on the terminal, docs/speed.md, and a chart."""

import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path


def say(words: str) -> None:
    """Print a line at once."""
    print(words, flush=True)


def percentile(values: Sequence[float], share: float) -> float:
    """Give the value that so many of a hundred do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share / 100))] if ordered else float("nan")


@dataclass(slots=True)
class Series:
    """One figure, measured once a run."""

    name: str
    unit: str
    values: list[float] = field(default_factory=list)
    ours: bool = False

    @property
    def median(self) -> float:
        """Give the median of the runs."""
        return statistics.median(self.values) if self.values else float("nan")

    @property
    def spread(self) -> str:
        """Give the lowest and the highest run."""
        return f"{number(min(self.values))} to {number(max(self.values))}" if self.values else "-"


@dataclass(slots=True)
class Verdict:
    """A figure against what it must be and what it should be."""

    series: Series
    must: float
    goal: float
    at_least: bool = True  # else at most
    scale: Series | None = None  # of a ratio: what it is a ratio to

    def reaches(self, limit: float) -> bool:
        """Tell whether the median is good enough; a figure that is missing is not."""
        return self.series.median >= limit if self.at_least else self.series.median <= limit

    @property
    def words(self) -> str:
        """Say it in two words."""
        if self.reaches(self.goal):
            return "goal reached"
        return "holds" if self.reaches(self.must) else "DOES NOT HOLD"


@dataclass(slots=True)
class Row:
    """One thing that was measured, beside its floor and peers, in the same run."""

    name: str
    title: str
    how: str
    series: list[Series]
    verdicts: list[Verdict]
    notes: list[str] = field(default_factory=list)
    costs: list[dict[str, float]] = field(default_factory=list)  # CPU milliseconds per message, by process, once a run
    problems: list[str] = field(default_factory=list)
    disturbance: float = 0.0  # CPUs that others of this machine used meanwhile

    @property
    def holds(self) -> bool:
        """Tell whether all musts hold and nothing went wrong."""
        return not self.problems and all(each.reaches(each.must) for each in self.verdicts)

    def cost(self) -> dict[str, float]:
        """Give the median cost by process."""
        names = {name: None for cost in self.costs for name in cost}
        return {name: statistics.median(cost.get(name, 0.0) for cost in self.costs) for name in names}


def number(value: float) -> str:
    """Write a figure with as many digits as it deserves."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def print_row(row: Row) -> None:
    """Show a row on the terminal."""
    for series in row.series:
        say(f"    {series.name:<44}{number(series.median):>9} {series.unit:<4} ({series.spread})")
    for each in row.verdicts:
        sign = "≥" if each.at_least else "≤"
        figure = f"{number(each.series.median)} {each.series.unit}".strip()
        limits = f"must {sign} {number(each.must)}, goal {sign} {number(each.goal)}"
        say(f"    {each.words.upper():<14}{each.series.name}: {figure} ({limits})")
    if cost := _cost_words(row):
        say(f"    CPU per message: {cost}")
    for note in (*row.notes, _disturbance_words(row)):
        say(f"    {note}")
    for problem in row.problems:
        say(f"    PROBLEM: {problem}")


def _cost_words(row: Row) -> str:
    return ", ".join(f"{name} {value:.2f} ms" for name, value in row.cost().items() if value >= 0.005)


def _disturbance_words(row: Row) -> str:
    return f"Others on this machine used {row.disturbance:.2f} CPUs meanwhile."


def write_report(
    folder: Path, rows: Sequence[Row], memory: dict[str, float], *, measured: str, runs: int, full: bool, minutes: float
) -> None:
    """Write docs/speed.md and its chart."""
    (folder / "images").mkdir(exist_ok=True)
    (folder / "images" / "speed.svg").write_text(draw(rows))
    (folder / "speed.md").write_text(_page(rows, memory, measured=measured, runs=runs, full=full, minutes=minutes))


def _page(rows: Sequence[Row], memory: dict[str, float], *, measured: str, runs: int, full: bool, minutes: float) -> str:
    cpus, model = _machine()
    missed = sum(not row.holds for row in rows)
    verdict = f"{missed} of {len(rows)} rows do not hold" if missed else "every row holds"
    parts = [
        f"""# Speed

Written by `make bench`{" with `--full`" if full else ""} (measured: {measured})
in {minutes:.0f} minutes, on {cpus} CPUs ({model}), Python {platform.python_version()}, PostgreSQL with fsync on.
Web, one worker, one subscriber, the database, the sandbox that plays both platforms, and the load share these CPUs, so a
figure is worth more beside its floor and peers, measured in the same run, than by itself.
{runs} runs; a figure is the median, in brackets the lowest and the highest.

Latencies are measured with an open loop: the times of sending are fixed in advance, and a latency counts from the time that
was intended, so that a system that stalls cannot hide it. Capacities are measured with a closed loop. Requests are real
signed webhooks, made in advance.

    make bench ARGS="--runs 5"        make bench ARGS="--full"        make bench ARGS="--rows accept relay"

**{verdict[0].upper()}{verdict[1:]}.**

![how each figure stands to its floor, peers, must and goal](images/speed.svg)

| | measured | must | goal | |
|---|---:|---:|---:|---|
"""
    ]
    for row in rows:
        for each in row.verdicts:
            sign = "≥" if each.at_least else "≤"
            figure = f"{number(each.series.median)} {each.series.unit}".strip() + f" ({each.series.spread})"
            words = "DOES NOT COUNT" if row.problems and each.reaches(each.must) else each.words
            limits = f"{sign} {number(each.must)} | {sign} {number(each.goal)}"
            parts.append(f"| {row.title}: {each.series.name} | {figure} | {limits} | {words} |\n")
    for row in rows:
        parts.append(f"\n## {row.title}\n\n{row.how}\n\n| | median | lowest to highest |\n|---|---:|---:|\n")
        parts += [f"| {_strong(each)} | {number(each.median)} {each.unit} | {each.spread} |\n" for each in row.series]
        if cost := _cost_words(row):
            parts.append(f"\nCPU per message: {cost}.\n")
        parts += [f"\n{note}\n" for note in (*row.notes, _disturbance_words(row))]
        parts += [f"\n**Problem:** {problem}\n" for problem in row.problems]
    parts.append("\n## Memory\n\nThe most that each process had, with its children.\n\n| process | MiB |\n|---|---:|\n")
    parts += [f"| {name} | {value:.0f} |\n" for name, value in memory.items()]
    parts.append(
        """
## Not measured here

Jasmin (540/s) and Kannel (4,400/s, without fsync) are SMS gateways that do the relay's kind of work; their figures, and
gunicorn's where it is not installed (810 to 1,770/s), were taken on another
machine of this kind while the product was designed. The limits of the relay at 0 ms, 810/s and 1,620/s, are
1.5 and 3 times Jasmin's. The same figures beside ten million stored messages are not measured yet.
"""
    )
    return "".join(parts)


def _strong(series: Series) -> str:
    return f"**{series.name}**" if series.ours else series.name


def _machine() -> tuple[int, str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return max(1, len(models)), models[0] if models else platform.processor() or platform.machine()


# the chart

WIDTH, LEFT, RIGHT = 860, 300, 110
BAR, GAP = 16, 5
DASHED = ' stroke-dasharray="4 3"'
INK, PALE, OURS, BAD, GOAL = "#1f2733", "#b8c2cf", "#0b7a75", "#b3261e", "#d98e04"


def draw(rows: Sequence[Row]) -> str:
    """Draw a group of bars for each row: what was measured, a whisker for its spread, lines for must and goal."""
    shapes: list[str] = []
    top = 34
    for row in rows:
        shapes.append(_text(12, top + 12, row.title, weight=600))
        top += 22
        for bars, verdicts in _groups(row):
            limits = [(each.must, each.goal) for each in verdicts]
            if scales := [each.scale.median for each in verdicts if each.scale]:
                limits = [(must * by, goal * by) for (must, goal), by in zip(limits, scales, strict=True)]
            most = max([*(limit for pair in limits for limit in pair), *(value for each in bars for value in each.values)])
            by = (WIDTH - LEFT - RIGHT) / most
            begin, good = top, all(each.reaches(each.must) for each in verdicts)
            for series in bars:
                shapes += _bar(series, top, by, good=good)
                top += BAR + GAP
            for must, goal in limits:
                shapes += [_limit(must * by, begin, top, BAD), _limit(goal * by, begin, top, GOAL, DASHED)]
            top += 4
        top += 12
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" height="{top}"'
    legend = [
        _text(12, 18, "Bars: medians; whiskers: lowest and highest run", size=11),
        _limit(0, 11, 24, BAD),
        _text(LEFT + 6, 18, "must", size=11),
        _limit(50, 11, 24, GOAL, DASHED),
        _text(LEFT + 56, 18, "goal", size=11),
    ]
    style = 'font-family="system-ui, sans-serif" font-size="12"'
    paper = f'<rect width="{WIDTH}" height="{top}" fill="#ffffff"/>'
    return "\n".join([f"{head} {style}>", paper, *legend, *shapes, "</svg>"]) + "\n"


def _groups(row: Row) -> list[tuple[list[Series], list[Verdict]]]:
    """Put the bars that share a scale together, and what they are judged by; a ratio is shown by what it is made of."""
    groups: list[tuple[list[Series], list[Verdict]]] = []
    ratios = [each for each in row.verdicts if each.scale is not None]
    if ratios:
        groups.append(([each for each in row.series if ratios[0].scale and each.unit == ratios[0].scale.unit], ratios))
    for verdict in row.verdicts:
        if verdict.scale is None and verdict.must > 0:
            beside = [each for each in row.series if each.unit == verdict.series.unit and not each.ours]
            groups.append(([*beside, verdict.series], [verdict]))
    return groups


def _limit(x: float, top: float, bottom: float, color: str, dash: str = "") -> str:
    place = f'x1="{LEFT + x:.1f}" x2="{LEFT + x:.1f}" y1="{top - 3}" y2="{bottom - GAP + 3}"'
    return f'<line {place} stroke="{color}" stroke-width="1.5"{dash}/>'


def _bar(series: Series, top: int, scale: float, *, good: bool) -> list[str]:
    if not series.values:
        return [_text(LEFT - 8, top + 12, f"{series.name}: not measured", anchor="end")]
    color = (OURS if good else BAD) if series.ours else PALE
    length, low, high = (value * scale for value in (series.median, min(series.values), max(series.values)))
    middle = top + BAR / 2
    whisker = f'x1="{LEFT + low:.1f}" x2="{LEFT + high:.1f}" y1="{middle}" y2="{middle}"'
    return [
        _text(LEFT - 8, top + 12, series.name, anchor="end"),
        f'<rect x="{LEFT}" y="{top}" width="{max(length, 1):.1f}" height="{BAR}" fill="{color}" rx="2"/>',
        f'<line {whisker} stroke="{INK}" stroke-width="1"/>',
        _text(WIDTH - RIGHT + 8, top + 12, f"{number(series.median)} {series.unit}".strip()),
    ]


def _text(x: float, y: float, words: str, *, anchor: str = "start", weight: int = 400, size: int = 12) -> str:
    style = f'text-anchor="{anchor}" font-weight="{weight}" font-size="{size}" fill="{INK}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(words)}</text>'
