"""Figures and what is thought of them: series, verdicts, and rows of the table."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field


def percentile(values: Sequence[float], share: float) -> float:
    """Give the value that so many of a hundred do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share / 100))] if ordered else float("nan")


def number(value: float) -> str:
    """Write a figure with as many digits as it deserves."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


@dataclass(slots=True)
class Series:
    """One figure, measured once a run.

    :param pooled: the figure of all runs' samples together, where a single run has too few of them for it
    """

    name: str
    unit: str
    values: list[float] = field(default_factory=list)
    ours: bool = False
    pooled: float | None = None

    @property
    def figure(self) -> float:
        """Give the figure of all samples, or else the median of the runs."""
        if self.pooled is not None:
            return self.pooled
        return statistics.median(self.values) if self.values else float("nan")

    @property
    def spread(self) -> str:
        """Give the lowest and the highest run."""
        return f"{number(min(self.values))} to {number(max(self.values))}" if self.values else "-"

    @property
    def words(self) -> str:
        """Write the figure with its unit."""
        return f"{number(self.figure)} {self.unit}".strip()


@dataclass(slots=True)
class Verdict:
    """A figure against what it must be and what it should be.

    :param scale: of a ratio: what it is a ratio to
    :param beside: what the picture shows with it; of a ratio, what it is made of
    """

    series: Series
    must: float
    goal: float
    at_least: bool = True  # else at most
    scale: Series | None = None
    beside: Sequence[Series] = ()

    def reaches(self, limit: float) -> bool:
        """Tell whether the figure is good enough; one that is missing is not."""
        return self.series.figure >= limit if self.at_least else self.series.figure <= limit

    @property
    def words(self) -> str:
        """Say it in two words."""
        if self.reaches(self.goal):
            return "goal met"
        return "must met" if self.reaches(self.must) else "MISSED"

    @property
    def limits(self) -> tuple[str, str]:
        """Write must and goal."""
        sign = "≥" if self.at_least else "≤"
        return f"{sign} {number(self.must)}", f"{sign} {number(self.goal)}"


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
    seconds: float = 0.0

    @property
    def holds(self) -> bool:
        """Tell whether all musts are met and nothing went wrong."""
        return not self.problems and all(each.reaches(each.must) for each in self.verdicts)

    def cost(self) -> dict[str, float]:
        """Give the median cost by process."""
        names = {name: None for cost in self.costs for name in cost}
        return {name: statistics.median(cost.get(name, 0.0) for cost in self.costs) for name in names}

    def verdict_words(self, verdict: Verdict) -> str:
        """Say what is thought of a figure: one that was measured while something went wrong counts for nothing."""
        return "DOES NOT COUNT" if self.problems and verdict.reaches(verdict.must) else verdict.words


def not_measured(name: str, what: str, why: str) -> Row:
    """Stand in for a row that could not be measured."""
    return Row(name, what, "", [], [], problems=[f"not measured: {why}"])
