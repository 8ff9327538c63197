"""Judges a campaign by what each end sent, what the other end saw, and the rows that are left. Pure functions.

Times are seconds since the campaign began. A text is written once, so it names its message at both ends.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeVar

Thing = TypeVar("Thing")

NORMAL_SECONDS = 1.0  # a message that took less is not disturbed
WINDOW_SECONDS = 3.0
SHARE_NORMAL = 0.95  # of the new messages of a window: the machine itself hiccups now and then
HEALED_SECONDS = 30.0
REACHED = {"delivered": 1, "read": 2}


@dataclass(frozen=True, slots=True)
class Sent:
    """A text that was written; ``accepted`` is when it was answered 200 or published, None if never."""

    text: str
    direction: str
    org: int
    user: int
    begun: float
    accepted: float | None


@dataclass(frozen=True, slots=True)
class Seen:
    """A text that the other end showed, under the id that the connector gave it."""

    text: str
    uuid: str
    at: float


@dataclass(frozen=True, slots=True)
class Row:
    """What the connector's rows say of a message."""

    uuid: str
    text: str
    lane: int
    position: int
    late: bool
    status: str
    error: str
    doubts: int  # tries whose outcome is in doubt


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that was: whom it struck, and how many calls it can have left in doubt.

    :param orgs: whose new messages show when it is over
    :param others: neighbours that must not notice; none: it struck everybody
    :param limit: seconds after its end in which new messages must be normal again
    :param explains: a pattern of the errors that it explains
    """

    name: str
    begin: float
    end: float
    orgs: tuple[int, ...]
    directions: tuple[str, ...]
    others: tuple[int, ...] = ()
    doubts: int = 0
    limit: float = HEALED_SECONDS
    explains: str = ""


@dataclass(slots=True)
class Evidence:
    """All that a campaign leaves behind."""

    sent: list[Sent]
    seen: list[Seen]
    rows: list[Row]
    faults: list[Fault] = field(default_factory=list)
    reported: dict[str, str] = field(default_factory=dict)  # text: the furthest report that was answered 200
    ticked: dict[str, str] = field(default_factory=dict)  # text: the furthest acknowledgement that Salesforce took
    stuck: list[str] = field(default_factory=list)  # lanes and tries that did not come to rest, in words
    wrong_lines: list[str] = field(default_factory=list)  # of the logs


@dataclass(frozen=True, slots=True)
class Recovery:
    """How long after a fault's end new messages were back to normal; None: never."""

    fault: Fault
    seconds: float | None
    neighbours: float | None  # the latency that 95 of 100 of the neighbours' messages stayed below meanwhile
    allowed: float = HEALED_SECONDS


@dataclass(slots=True)
class Promise:
    """One promise, what was counted, and what speaks against it."""

    name: str
    counted: str
    findings: list[str]

    @property
    def kept(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.findings


@dataclass(slots=True)
class Verdict:
    """What the checker found."""

    promises: list[Promise]
    recoveries: list[Recovery]

    @property
    def clean(self) -> bool:
        """Whether all promises were kept."""
        return all(promise.kept for promise in self.promises)


def check(evidence: Evidence) -> Verdict:
    """Judge a campaign."""
    first_seen: dict[str, float] = {}
    for seen in evidence.seen:
        first_seen[seen.text] = min(seen.at, first_seen.get(seen.text, seen.at))
    recoveries = measure(evidence, first_seen)
    promises = [
        _nothing_lost(evidence, first_seen),
        _nothing_doubled(evidence),
        _doubts_bounded(evidence),
        _in_order(evidence, first_seen),
        _ticks_told(evidence),
        _all_at_rest(evidence),
        _healed(recoveries),
        _neighbours_spared(recoveries),
    ]
    return Verdict(promises, recoveries)


def _nothing_lost(evidence: Evidence, first_seen: Mapping[str, float]) -> Promise:
    rows = {row.text: row for row in evidence.rows}
    accepted = [sent for sent in evidence.sent if sent.accepted is not None]
    findings = [
        f"accepted at {sent.accepted:.1f} s and never seen: {_name(sent.text)}{_fate(rows.get(sent.text))}"
        for sent in accepted
        if sent.text not in first_seen
    ]
    written = {sent.text for sent in evidence.sent}
    findings += [f"seen, and written by nobody: {_name(text)}" for text in first_seen if text not in written]
    refused = len(evidence.sent) - len(accepted)
    counted = f"{len(accepted)} accepted, {len(first_seen)} seen" + (f", {refused} not accepted" if refused else "")
    return Promise("Nothing accepted is lost", counted, findings)


def _fate(row: Row | None) -> str:
    return f" (its row says: {row.status} {row.error})" if row else " (it has no row)"


def _name(text: str) -> str:
    return text.split(":")[0]


def _nothing_doubled(evidence: Evidence) -> Promise:
    """A text may be seen again only under the same id, and only as often as tries of it are in doubt."""
    rows = {row.uuid: row for row in evidence.rows}
    times = Counter((seen.text, seen.uuid) for seen in evidence.seen)
    ids = Counter(text for text, _ in times)
    findings = [f"accepted {count} times, under as many ids: {_name(text)}" for text, count in ids.items() if count > 1]
    explained = 0
    for (text, uuid), count in times.items():
        doubts = rows[uuid].doubts if uuid in rows else 0
        if count - 1 > doubts:
            findings.append(f"seen {count} times with {doubts} tries in doubt: {_name(text)} ({uuid})")
        elif count > 1:
            explained += 1
    return Promise("Shown once, unless a try is in doubt", f"{explained} seen again after a try in doubt", findings)


def _doubts_bounded(evidence: Evidence) -> Promise:
    doubts = sum(row.doubts for row in evidence.rows)
    bound = sum(fault.doubts for fault in evidence.faults)
    findings = [f"{doubts} tries in doubt, but only {bound} calls can have been"] if doubts > bound else []
    return Promise("In doubt only where it must be", f"{doubts} tries in doubt; {bound} calls can have been", findings)


def _in_order(evidence: Evidence, first_seen: Mapping[str, float]) -> Promise:
    """What was accepted before another was begun is seen before it; and what was committed first leaves first."""
    findings = []
    compared = 0
    for conversation in _grouped(evidence.sent, lambda sent: (sent.direction, sent.user)):
        known = sorted((sent for sent in conversation if sent.text in first_seen), key=lambda sent: sent.begun)
        for number, younger in enumerate(known):
            for older in known[:number]:
                if older.accepted is None or older.accepted > younger.begun:
                    continue  # they were under way at the same time: either order is right
                compared += 1
                if first_seen[older.text] > first_seen[younger.text]:
                    findings.append(f"{_name(younger.text)} was seen before {_name(older.text)}, which is older")
    when = {seen.uuid: first_seen[seen.text] for seen in evidence.seen}
    for lane in _grouped(evidence.rows, lambda row: row.lane):
        carried = sorted((row for row in lane if row.uuid in when and not row.late), key=lambda row: row.position)
        for first, second in pairwise(carried):
            compared += 1
            if when[first.uuid] > when[second.uuid]:
                findings.append(f"position {second.position} of lane {first.lane} was seen before {first.position}")
    late = sum(row.late for row in evidence.rows)
    return Promise("In order within a conversation", f"{compared} pairs compared, {late} marked late", findings)


def _grouped(things: Iterable[Thing], key: Callable[[Thing], object]) -> list[list[Thing]]:
    groups: dict[object, list[Thing]] = defaultdict(list)
    for thing in things:
        groups[key(thing)].append(thing)
    return list(groups.values())


def _ticks_told(evidence: Evidence) -> Promise:
    findings = []
    for text, state in evidence.reported.items():
        told = evidence.ticked.get(text)
        if REACHED.get(told or "", 0) < REACHED[state]:
            findings.append(f"{state} at Infobip, {told or 'nothing'} in Salesforce: {_name(text)}")
    return Promise("Each receipt reaches Salesforce", f"{len(evidence.reported)} messages with receipts", findings)


def _all_at_rest(evidence: Evidence) -> Promise:
    findings = list(evidence.stuck)
    waiting = [row for row in evidence.rows if row.status == "pending"]
    findings += [f"still pending: message {row.uuid} {row.error}" for row in waiting]
    findings += [f"given up: message {row.uuid} {row.error}" for row in evidence.rows if row.status == "failed"]
    findings += [f"in the log: {line}" for line in evidence.wrong_lines]
    return Promise("Everything comes to rest by itself", f"{len(evidence.rows)} messages in the rows", findings)


def measure(evidence: Evidence, first_seen: Mapping[str, float]) -> list[Recovery]:
    """Say for each fault from when on new messages were back to normal, and what its neighbours noticed."""
    latencies = [
        (sent, first_seen[sent.text] - sent.begun if sent.text in first_seen else float("inf")) for sent in evidence.sent
    ]
    latencies.sort(key=lambda pair: pair[0].begun)

    def healed_after(fault: Fault) -> float | None:
        struck = [
            (sent.begun, seconds)
            for sent, seconds in latencies
            if sent.org in fault.orgs and sent.direction in fault.directions and sent.begun >= fault.end
        ]
        return _first_normal(struck, fault.end)

    healed = {id(fault): healed_after(fault) for fault in evidence.faults}
    # while a fault that strikes all is on, and in the window by which it counts as healed, of which one in twenty may still
    # be late, the neighbours of another are no measure
    disturbed = [(f.begin, f.end + (healed[id(f)] or 0.0) + WINDOW_SECONDS) for f in evidence.faults if not f.others]
    recoveries = []
    for fault in evidence.faults:
        beside = [
            seconds
            for sent, seconds in latencies
            if sent.org in fault.others
            and fault.begin <= sent.begun <= fault.end
            and not any(begin - WINDOW_SECONDS <= sent.begun <= end for begin, end in disturbed)
        ]
        neighbours = _quantile(beside, SHARE_NORMAL) if beside else None
        recoveries.append(Recovery(fault, healed[id(fault)], neighbours, _allowed(fault, evidence.faults, healed)))
    return recoveries


def _allowed(fault: Fault, faults: Sequence[Fault], healed: Mapping[int, float | None]) -> float:
    """Say how long a recovery may take: until thirty seconds after the last fault that struck the same messages meanwhile.

    A shorter limit is for a fault that is alone: not beside another that struck all.
    """

    def over(each: Fault) -> float:
        seconds = healed[id(each)]
        return float("inf") if seconds is None else each.end + seconds

    others = [other for other in faults if other is not fault]
    beside = [
        each for each in others if each.begin <= fault.end + fault.limit + WINDOW_SECONDS and over(each) >= fault.begin
    ]
    if fault.limit < HEALED_SECONDS and not any(not each.others for each in beside):
        return fault.limit
    meanwhile = [each.end for each in others if _strikes_the_same(each, fault) and fault.end <= each.end < over(fault)]
    return max([fault.end, *meanwhile]) - fault.end + HEALED_SECONDS


def _strikes_the_same(other: Fault, fault: Fault) -> bool:
    harmless = other.orgs == other.others
    touched = not other.others or bool(set(other.orgs) & set(fault.orgs))
    return touched and not harmless and bool(set(other.directions) & set(fault.directions))


def _first_normal(begun_and_seconds: Sequence[tuple[float, float]], end: float) -> float | None:
    """Find how long after the end it takes until, for a while, nearly all new messages take the normal time."""
    for start in [end, *(begun for begun, seconds in begun_and_seconds if seconds >= NORMAL_SECONDS)]:
        after = [seconds for begun, seconds in begun_and_seconds if start < begun < start + WINDOW_SECONDS]
        if after and sum(seconds < NORMAL_SECONDS for seconds in after) >= SHARE_NORMAL * len(after):
            return start - end
    return None


def _quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _healed(recoveries: Sequence[Recovery]) -> Promise:
    findings = []
    for each in recoveries:
        if each.seconds is None or each.seconds > each.allowed:
            took = "never" if each.seconds is None else f"only after {each.seconds:.1f} s, {each.allowed:g} s are allowed"
            findings.append(f"{each.fault.name} (over at {each.fault.end:.1f} s): normal again {took}")
    slowest = max((each.seconds for each in recoveries if each.seconds is not None), default=0.0)
    counted = f"{len(recoveries)} faults, the slowest recovery {slowest:.1f} s"
    for name in dict.fromkeys(each.fault.name for each in recoveries if each.allowed < HEALED_SECONDS):
        short = [each for each in recoveries if each.fault.name == name and each.allowed < HEALED_SECONDS]
        most = max(float("inf") if each.seconds is None else each.seconds for each in short)
        counted += f"; {name} {most:.1f} s of {short[0].allowed:g} ({len(short)} times)"
    return Promise(f"Back to normal within {HEALED_SECONDS:.0f} s", counted, findings)


def _neighbours_spared(recoveries: Sequence[Recovery]) -> Promise:
    measured = [(each.fault, each.neighbours) for each in recoveries if each.neighbours is not None]
    findings = [
        f"{fault.name} (from {fault.begin:.1f} s): 5 of 100 messages of another org took {seconds:.1f} s or more"
        for fault, seconds in measured
        if seconds >= NORMAL_SECONDS
    ]
    worst = max((seconds for _, seconds in measured), default=0.0)
    counted = f"95 of 100 messages of another org took less than {worst:.2f} s during each fault of one org"
    return Promise("Nobody waits for a neighbour", counted, findings)
