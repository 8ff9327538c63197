"""The checker sees what it is there for: each planted fault is reported under its promise, and only there."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.faults.checker import Evidence, Fault, Row, Seen, Sent, check
from tests.faults.logs import unexplained
from tests.faults.report import Facts, Run, write_report

FAULT = Fault("worker killed", 10.0, 10.0, (0, 1), ("inbound", "outbound"), doubts=1)


def clean() -> Evidence:
    """Two conversations, one in each direction, with a message a second; nothing goes wrong."""
    evidence = Evidence([], [], [], [FAULT])
    for lane, (direction, user) in enumerate([("inbound", 1), ("outbound", 2)]):
        for second in range(30):
            text, uuid = f"{direction} {user} {second}: hello", f"uuid {lane} {second}"
            evidence.sent.append(Sent(text, direction, lane, user, second, second + 0.01))
            evidence.seen.append(Seen(text, uuid, second + 0.05))
            evidence.rows.append(Row(uuid, text, lane, second, late=False, status="sent", error="", doubts=0))
            if direction == "outbound":
                evidence.reported[text] = evidence.ticked[text] = "read"
    return evidence


def stalled(begin: float, end: float) -> Evidence:
    """What would have been seen in between is seen at the end, in order."""
    evidence = clean()
    evidence.seen = [replace(seen, at=end + seen.at / 1e6) if begin < seen.at < end else seen for seen in evidence.seen]
    return evidence


def findings(evidence: Evidence) -> dict[str, list[str]]:
    return {promise.name: promise.findings for promise in check(evidence).promises if not promise.kept}


def test_a_clean_campaign_keeps_every_promise() -> None:
    verdict = check(clean())
    assert verdict.clean
    assert [recovery.seconds for recovery in verdict.recoveries] == [0.0]
    assert "60 accepted, 60 seen" in [promise.counted for promise in verdict.promises]


def test_a_message_that_was_accepted_and_never_seen_is_lost() -> None:
    evidence = clean()
    lost = evidence.seen.pop(5)
    assert findings(evidence) == {
        "Nothing accepted is lost": ["accepted at 5.0 s and never seen: inbound 1 5 (its row says: sent )"]
    }
    assert lost.text.startswith("inbound 1 5:")


def test_a_message_that_was_never_accepted_is_not_lost() -> None:
    evidence = clean()
    del evidence.seen[5], evidence.rows[5]
    evidence.sent[5] = replace(evidence.sent[5], accepted=None)
    assert findings(evidence) == {}


def test_a_text_that_nobody_wrote_is_reported() -> None:
    evidence = clean()
    evidence.seen.append(Seen("inbound 9 1: from nowhere", "uuid", 3.0))
    assert findings(evidence) == {"Nothing accepted is lost": ["seen, and written by nobody: inbound 9 1"]}


def test_a_message_seen_twice_without_a_try_in_doubt_is_doubled() -> None:
    evidence = clean()
    evidence.seen.append(replace(evidence.seen[7], at=20.0))
    assert findings(evidence) == {
        "Shown once, unless a try is in doubt": ["seen 2 times with 0 tries in doubt: inbound 1 7 (uuid 0 7)"]
    }


def test_a_message_seen_twice_after_a_try_in_doubt_is_as_promised() -> None:
    evidence = clean()
    evidence.seen.append(replace(evidence.seen[7], at=20.0))
    evidence.rows[7] = replace(evidence.rows[7], doubts=1)
    assert findings(evidence) == {}


def test_an_arrival_that_became_two_messages_is_doubled_whatever_the_tries_say() -> None:
    evidence = clean()
    evidence.seen.append(Seen(evidence.seen[7].text, "another uuid", 7.1))
    evidence.rows.append(replace(evidence.rows[7], uuid="another uuid", lane=9, doubts=1))
    assert findings(evidence) == {
        "Shown once, unless a try is in doubt": ["accepted 2 times, under as many ids: inbound 1 7"]
    }


def test_more_tries_in_doubt_than_calls_can_have_been_are_reported() -> None:
    evidence = clean()
    for number in (3, 4):
        evidence.rows[number] = replace(evidence.rows[number], doubts=1)
    assert findings(evidence) == {"In doubt only where it must be": ["2 tries in doubt, but only 1 calls can have been"]}


def test_messages_that_changed_places_are_inverted_at_both_ends_and_in_the_rows() -> None:
    evidence = clean()
    evidence.seen[5], evidence.seen[6] = replace(evidence.seen[5], at=6.05), replace(evidence.seen[6], at=6.04)
    assert findings(evidence) == {
        "In order within a conversation": [
            "inbound 1 6 was seen before inbound 1 5, which is older",
            "position 6 of lane 0 was seen before 5",
        ]
    }


def test_messages_under_way_at_the_same_time_may_come_in_either_order() -> None:
    evidence = clean()
    evidence.sent[5] = replace(evidence.sent[5], accepted=6.03)  # its first answer was lost
    evidence.seen[5] = replace(evidence.seen[5], at=6.07)
    evidence.rows[5], evidence.rows[6] = replace(evidence.rows[5], position=6), replace(evidence.rows[6], position=5)
    evidence.faults.clear()
    assert findings(evidence) == {}


def test_a_message_marked_late_may_leave_after_younger_ones() -> None:
    evidence = clean()
    evidence.sent[5] = replace(evidence.sent[5], accepted=8.02)
    evidence.seen[5] = replace(evidence.seen[5], at=8.06)
    evidence.rows[5] = replace(evidence.rows[5], late=True)
    assert findings(evidence) == {}


@pytest.mark.parametrize("told", [None, "delivered"])
def test_a_receipt_that_salesforce_never_heard_of_is_reported(told: str | None) -> None:
    evidence = clean()
    text = evidence.sent[40].text
    del evidence.ticked[text]
    if told:
        evidence.ticked[text] = told
    assert findings(evidence) == {
        "Each receipt reaches Salesforce": [f"read at Infobip, {told or 'nothing'} in Salesforce: outbound 2 10"]
    }


def test_what_does_not_come_to_rest_is_reported() -> None:
    evidence = clean()
    evidence.rows[29] = replace(evidence.rows[29], status="pending")
    evidence.stuck.append("lane 0 is due since 30 s")
    assert findings(evidence) == {
        "Everything comes to rest by itself": ["lane 0 is due since 30 s", "still pending: message uuid 0 29 "]
    }


def test_a_stall_after_a_fault_is_measured_and_reported_when_it_is_too_long() -> None:
    evidence = stalled(10.0, 17.5)
    assert check(evidence).clean
    assert check(evidence).recoveries[0].seconds == 6.0
    assert findings(stalled(10.0, 60.0)) == {
        "Back to normal within 30 s": ["worker killed (over at 10.0 s): normal again never"]
    }


def test_a_recovery_that_is_slower_than_its_own_limit_is_reported() -> None:
    evidence = stalled(10.0, 17.5)
    evidence.faults = [replace(FAULT, limit=4.0)]
    assert findings(evidence) == {
        "Back to normal within 30 s": ["worker killed (over at 10.0 s): normal again only after 6.0 s, 4 s are allowed"]
    }
    evidence.faults = [replace(FAULT, limit=7.0)]
    assert findings(evidence) == {}


def test_a_short_limit_is_for_a_fault_that_is_alone() -> None:
    evidence = stalled(10.0, 17.5)
    killed = replace(FAULT, limit=4.0)
    neighbours = Fault("Salesforce hangs", 9.0, 12.0, (0,), ("inbound",), others=(1,))
    for other in (Fault("web killed", 9.0, 9.0, (0, 1), ("inbound",)), Fault("flushed", 12.0, 12.0, (0, 1), ("inbound",))):
        evidence.faults = [killed, other]
        assert "Back to normal within 30 s" not in findings(evidence)
    evidence.faults = [killed, neighbours]
    assert "Back to normal within 30 s" in findings(evidence)
    evidence.faults = [killed, Fault("web killed", 2.0, 2.0, (0, 1), ("inbound", "outbound"))]  # healed long before
    assert "Back to normal within 30 s" in findings(evidence)


def test_the_thirty_seconds_begin_with_the_end_of_the_last_fault_that_struck_the_same_messages() -> None:
    evidence = stalled(1.0, 60.0)
    first = Fault("Infobip hangs", 0.5, 1.0, (0,), ("inbound",), others=(1,))
    second = Fault("Salesforce hangs", 3.0, 27.0, (0,), ("inbound",), others=(1,))
    elsewhere = [
        Fault("Salesforce hangs", 3.0, 27.0, (1,), ("inbound",), others=(0,)),
        Fault("Salesforce hangs", 3.0, 27.0, (0,), ("outbound",), others=(1,)),
        Fault("sixteen hanging pages", 3.0, 27.0, (0,), ("inbound",), others=(0,)),
    ]
    for faults, allowed in (([first], 30.0), ([first, second], 56.0), *(([first, each], 30.0) for each in elsewhere)):
        evidence.faults = faults
        assert check(evidence).recoveries[0].allowed == allowed


def test_an_error_in_a_log_is_reported_unless_a_fault_of_that_moment_explains_it() -> None:
    began = datetime(2026, 11, 27, 12, 0, 0, tzinfo=UTC)
    broken = Fault("PostgreSQL read-only", 10.0, 20.0, (1,), ("inbound",), explains="(?i)read.?only")

    def log(second: float, event: str, level: str = "error") -> str:
        at = (began + timedelta(seconds=second)).isoformat().replace("+00:00", "Z")
        exception = "Traceback:\n  File ...\nKeyError: 'lane'\n" if event == "turn failed" else ""
        return json.dumps({"event": event, "level": level, "timestamp": at, "exception": exception})

    lines = [
        log(15, "cannot execute INSERT in a read-only transaction"),
        log(25, "cannot execute INSERT in a read-only transaction"),
        log(35, "cannot execute INSERT in a read-only transaction"),
        log(15, "turn failed"),
        log(15, "read-only", "warning"),
        "no JSON",
    ]
    found = unexplained(lines, [broken], began.timestamp())
    assert found == ["cannot execute INSERT in a read-only transaction", "turn failed: KeyError: 'lane'"]


def test_a_neighbour_that_waits_is_reported() -> None:
    evidence = stalled(13.0, 18.0)
    evidence.faults = [Fault("Salesforce hangs", 12.5, 17.5, (0,), ("inbound",), others=(1,))]
    assert findings(evidence) == {
        "Nobody waits for a neighbour": [
            "Salesforce hangs (from 12.5 s): 5 of 100 messages of another org took 5.0 s or more"
        ]
    }
    evidence.seen = clean().seen
    assert findings(evidence) == {}


def test_the_report_says_what_was_allowed_and_what_the_door_answered(tmp_path: Path) -> None:
    evidence = stalled(10.0, 17.5)
    evidence.faults = [replace(FAULT, limit=4.0)]
    facts = Facts({"web": 150.0}, {"web": 151.0}, 0.4, {"200": 7, "400": 2})
    write_report(tmp_path / "report.md", [Run(7, check(evidence), facts)], measured="commit 1", seconds=180, rate=50)
    report = (tmp_path / "report.md").read_text()
    assert "## Verdict: BROKEN" in report
    assert "| 10.0 | 10.0 | worker killed | 6.0 s | 4 s |  |" in report
    assert "what nobody can read: 7 x 200, 2 x 400." in report
