"""The schedule follows from the seed, and a campaign of three minutes keeps every promise."""

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.hostile import KINDS as HOSTILE
from tests.faults.kinds import FOR_ALL, FOR_ONE
from tests.faults.schedule import QUIET_SECONDS, plan_chats, plan_faults, plan_turns


def test_the_same_seed_gives_the_same_faults_and_texts_and_another_one_others() -> None:
    assert plan_faults(1, 180) == plan_faults(1, 180) != plan_faults(2, 180)
    assert plan_turns(1, 60, 50, 200) == plan_turns(1, 60, 50, 200) != plan_turns(2, 60, 50, 200)


@pytest.mark.parametrize("seed", range(20))
def test_three_minutes_have_every_kind_of_fault_that_needs_no_more_and_then_a_quiet_end(seed: int) -> None:
    planned = plan_faults(seed, 180)
    assert {each.kind.name for each in planned} == {kind.name for kind in FOR_ALL + FOR_ONE if not kind.only_long}
    assert max(each.at + each.seconds for each in planned) <= 180 - QUIET_SECONDS
    assert {each.org for each in planned} == {None, 0, 1}  # the third org shows whether its neighbours' faults spare it


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_ten_minutes_have_every_kind_of_fault_and_what_is_gone_is_gone_for_long(seed: int) -> None:
    planned = plan_faults(seed, 600)
    assert {each.kind.name for each in planned} == {kind.name for kind in FOR_ALL + FOR_ONE}
    assert all(each.seconds == (each.kind.long or each.kind.seconds) for each in planned)
    gone = [kind.name for kind in FOR_ALL + FOR_ONE if kind.long == 60]
    assert gone == [
        *("Valkey read-only", "Salesforce down (503)", "Salesforce hangs", "Infobip down (503)", "Infobip hangs")
    ]
    assert max(each.at + each.seconds for each in planned) <= 600 - QUIET_SECONDS


@pytest.mark.parametrize("seed", range(20))
def test_faults_for_all_come_one_after_another(seed: int) -> None:
    planned = [each for each in plan_faults(seed, 600) if each.kind in FOR_ALL]
    assert all(first.at + first.seconds < second.at for first, second in pairwise(planned))


def test_each_hostile_kind_is_one_that_somebody_knows_how_to_send() -> None:
    hostile = {kind.name for kind in FOR_ONE if kind.action == "hostile"}
    assert len(hostile) == 2
    assert hostile <= set(HOSTILE)


def test_each_text_is_written_once_and_half_of_them_go_in_either_direction() -> None:
    turns = plan_turns(3, 120, 50, 200)
    texts = [text for turn in turns for text in turn.texts]
    assert len(set(texts)) == len(texts) == pytest.approx(120 * 50, rel=0.01)
    inbound = sum(len(turn.texts) for turn in turns if turn.direction == "inbound")
    assert inbound == pytest.approx(len(texts) / 2, rel=0.01)


def test_hand_overs_follow_from_the_seed_and_end_before_the_load_does() -> None:
    chats = plan_chats(1, 180)
    assert chats == plan_chats(1, 180) != plan_chats(2, 180)
    assert len(chats) == 35 and max(chat.at for chat in chats) <= 180 - QUIET_SECONDS
    texts = [text for chat in chats for text in (*chat.before, *chat.during, *chat.after)]
    assert len(set(texts)) == len(texts) and not {*texts} & {
        text for turn in plan_turns(1, 180, 50, 200) for text in turn.texts
    }


@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.skipif(not os.environ.get("FAULTS"), reason="takes minutes; set FAULTS")
def test_a_campaign_of_three_minutes_keeps_every_promise(tmp_path: Path) -> None:
    report = tmp_path / "correctness.md"
    # fewer messages than `make faults` sends: whether it is in time again must not depend on what else the machine does
    options = ["--seconds", "180", "--seed", "1", "--rate", "20", "--report", str(report)]
    done = subprocess.run([sys.executable, "-m", "tests.faults.campaign", *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)  # shown by pytest -rP: which faults there were, and what was counted
    assert "every promise was kept" in report.read_text()
