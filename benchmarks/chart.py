"""Draws the table as a picture: a group of bars for each row, in SVG."""

from collections.abc import Sequence
from html import escape

from benchmarks.figures import Row, Series, Verdict

WIDTH, LEFT, RIGHT = 860, 330, 110
BAR, GAP = 16, 5
DASHED = ' stroke-dasharray="4 3"'
INK, PALE, OURS, BAD, GOAL = "#1f2733", "#b8c2cf", "#0b7a75", "#b3261e", "#d98e04"


def draw(rows: Sequence[Row]) -> str:
    """Draw what was measured, a whisker for its spread, and lines for must and goal."""
    shapes: list[str] = []
    top = 34
    for row in rows:
        shapes.append(_text(12, top + 12, row.title, weight=600))
        top += 22
        if not row.verdicts:
            shapes.append(_text(LEFT - 8, top + 12, "not measured", anchor="end"))
            top += BAR + GAP
        for verdict in row.verdicts:
            if verdict.must > 0:
                drawn, top = _group(verdict, top)
                shapes += drawn
        top += 12
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" height="{top}"'
    style = 'font-family="system-ui, sans-serif" font-size="12"'
    paper = f'<rect width="{WIDTH}" height="{top}" fill="#ffffff"/>'
    return "\n".join([f"{head} {style}>", paper, *_legend(), *shapes, "</svg>"]) + "\n"


def _legend() -> list[str]:
    return [
        _text(12, 18, "Bars: medians; whiskers: lowest and highest run", size=11),
        _limit(0, 11, 24, BAD),
        _text(LEFT + 6, 18, "must", size=11),
        _limit(50, 11, 24, GOAL, DASHED),
        _text(LEFT + 56, 18, "goal", size=11),
    ]


def _group(verdict: Verdict, top: int) -> tuple[list[str], int]:
    """Draw a figure and what stands beside it on one scale; gives where the next group begins."""
    bars, must, goal = [*verdict.beside, verdict.series], verdict.must, verdict.goal
    if verdict.scale is not None:  # a ratio is shown by what it is made of
        bars, must, goal = list(verdict.beside), must * verdict.scale.figure, goal * verdict.scale.figure
    limits = [limit for limit in (must, goal) if limit == limit]  # a ratio to what was not measured has none
    drawn = [value for each in bars for value in (*each.values, each.figure) if value == value]
    by = (WIDTH - LEFT - RIGHT) / (max([*limits, *drawn], default=0.0) or 1.0)
    shapes, begin, good = [], top, verdict.reaches(verdict.must)
    for series in bars:
        shapes += _bar(series, top, by, good=good)
        top += BAR + GAP
    if limits:
        shapes += [_limit(must * by, begin, top, BAD), _limit(goal * by, begin, top, GOAL, DASHED)]
    return shapes, top + 4


def _limit(x: float, top: float, bottom: float, color: str, dash: str = "") -> str:
    place = f'x1="{LEFT + x:.1f}" x2="{LEFT + x:.1f}" y1="{top - 3}" y2="{bottom - GAP + 3}"'
    return f'<line {place} stroke="{color}" stroke-width="1.5"{dash}/>'


def _bar(series: Series, top: int, scale: float, *, good: bool) -> list[str]:
    if not series.values:
        return [_text(LEFT - 8, top + 12, f"{series.name}: not measured", anchor="end")]
    color = (OURS if good else BAD) if series.ours else PALE
    length, low, high = (value * scale for value in (series.figure, min(series.values), max(series.values)))
    middle = top + BAR / 2
    whisker = f'x1="{LEFT + low:.1f}" x2="{LEFT + high:.1f}" y1="{middle}" y2="{middle}"'
    return [
        _text(LEFT - 8, top + 12, series.name, anchor="end"),
        f'<rect x="{LEFT}" y="{top}" width="{max(length, 1):.1f}" height="{BAR}" fill="{color}" rx="2"/>',
        f'<line {whisker} stroke="{INK}" stroke-width="1"/>',
        _text(WIDTH - RIGHT + 8, top + 12, series.words),
    ]


def _text(x: float, y: float, words: str, *, anchor: str = "start", weight: int = 400, size: int = 12) -> str:
    style = f'text-anchor="{anchor}" font-weight="{weight}" font-size="{size}" fill="{INK}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(words)}</text>'
