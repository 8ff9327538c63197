"""What is printed and drawn says what was measured, and does not praise what went wrong."""

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from benchmarks.bench import setting_of_calls
from benchmarks.chart import draw
from benchmarks.figures import Row, Series, Verdict, not_measured, percentile
from benchmarks.page import Facts, write_report
from benchmarks.rows import ROWS
from benchmarks.rows.relay import HOLD, rate_after_hold

FACTS = Facts("commit 1234567, unchanged", 2, "usual", 12.0, 0, {"web": 150.0})


def row(value: float) -> Row:
    floor, ours = Series("floor", "/s", [1000.0]), Series("the door", "/s", [value * 1000], ours=True)
    ratio, cpu = Series("the door ÷ floor", "x", [value]), Series("CPU", "ms", [0.5, 0.3], ours=True)
    verdicts = [
        Verdict(ratio, must=1.2, goal=1.7, scale=floor, beside=[floor, ours]),
        Verdict(cpu, must=0.4, goal=0.2, at_least=False),
    ]
    return Row("accept", "Webhook accepted", "So and so.", [floor, ours, cpu], verdicts)


def test_a_percentile_is_a_value_that_was_measured() -> None:
    assert percentile(list(range(1, 101)), 99) == 100
    assert percentile([5.0], 99) == 5.0
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0


@pytest.mark.parametrize(("value", "words"), [(1.8, "goal met"), (1.3, "must met"), (1.0, "MISSED")])
def test_a_figure_is_judged_by_must_and_goal(value: float, words: str) -> None:
    measured = row(value)
    assert measured.verdict_words(measured.verdicts[0]) == words
    assert measured.holds is (value > 1.2)


def test_a_figure_that_is_missing_reaches_nothing() -> None:
    assert Verdict(Series("nothing", "s"), must=5, goal=1, at_least=False).words == "MISSED"
    assert Verdict(Series("nothing", "s"), must=5, goal=1).words == "MISSED"


def test_a_good_figure_counts_for_nothing_where_something_went_wrong() -> None:
    measured = row(1.8)
    measured.problems.append("the door: 3 x 503")
    assert not measured.holds
    assert measured.verdict_words(measured.verdicts[0]) == "DOES NOT COUNT"


def test_samples_of_all_runs_together_come_before_the_median_of_runs() -> None:
    assert Series("p99", "ms", [1.0, 2.0, 9.0]).figure == 2.0
    assert Series("p99", "ms", [1.0, 2.0, 9.0], pooled=8.5).figure == 8.5


def test_the_page_says_each_verdict_and_which_code_it_was(tmp_path: Path) -> None:
    write_report(tmp_path, [row(1.3), not_measured("burst", "What becomes of a burst", "nobody came")], FACTS)
    page = (tmp_path / "speed.md").read_text()
    assert "(measured: commit 1234567, unchanged)" in page
    assert "| Webhook accepted: the door ÷ floor | 1.30 x (1.30 to 1.30) | ≥ 1.20 | ≥ 1.70 | must met |" in page
    assert "| Webhook accepted: CPU | 0.40 ms (0.30 to 0.50) | ≤ 0.40 | ≤ 0.20 | must met |" in page
    assert "| What becomes of a burst | not measured | | | MISSED |" in page
    assert "1 of 2 rows miss a must" in page
    ET.fromstring((tmp_path / "images" / "speed.svg").read_text())


def test_the_picture_shows_bars_limits_and_what_is_missing() -> None:
    drawn = draw([row(1.3), not_measured("burst", "Burst <of> & webhooks", "nobody came")])
    texts = ["".join(each.itertext()) for each in ET.fromstring(drawn).iter("{http://www.w3.org/2000/svg}text")]
    assert {"Webhook accepted", "floor", "the door", "CPU", "Burst <of> & webhooks", "not measured"} <= set(texts)
    nothing = Row("x", "X", "", [], [Verdict(Series("s", "ms", ours=True), must=5, goal=1)])
    assert "s: not measured" in draw([nothing])


def test_a_backlogs_rate_counts_from_where_no_call_is_held_any_more() -> None:
    held = [{"at": 1000.0 + place, "ms": HOLD} for place in range(64)]
    fast = [{"at": 1063.0 + 10 * place, "ms": 50.0} for place in range(1, 101)]
    assert rate_after_hold([*held, *fast]) == pytest.approx(100)
    assert rate_after_hold([]) == 0.0


def test_a_setting_says_how_many_calls_are_under_way_so_that_64_and_256_can_be_measured() -> None:
    assert setting_of_calls()


@pytest.mark.parametrize("name", ROWS)
def test_each_row_says_what_it_measures(name: str) -> None:
    assert (ROWS[name].__doc__ or "").startswith(("Measure ", "Watch "))
