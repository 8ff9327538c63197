"""Tells which lines of a transcript a webhook brought as well, and so which of both the rep reads. Pure functions.

By ids, by what the texts say, and by order. Times decide nothing: those of a transcript, of webhooks and of our own
database are three clocks, and WhatsApp's tells whole seconds.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from connector.events import MARK, split_text
from connector.salesforce.interactions import TEXT_LIMIT

_LINK = re.compile(r"[a-z][a-z0-9+.-]{1,20}://\S+", re.IGNORECASE)


class Place(Enum):
    """Where a message of an end user is that a webhook brought."""

    BEFORE = "before"  # relayed before the conversation was handed over
    LEFT = "left"  # nowhere yet: the chatbot had the conversation when it came
    LIVE = "live"  # in the lane, above the hold


@dataclass(frozen=True, slots=True)
class Written:
    """A message of an end user that a webhook brought; ``due``: it is relayed if it is not in the transcript."""

    channel_id: str
    likeness: str
    place: Place
    due: bool = False
    elsewhere: bool = False  # it belongs to another conversation at Infobip


@dataclass(frozen=True, slots=True)
class Said:
    """A line of a transcript; ``known``: the rep has it since an earlier session."""

    id: int
    channel_id: str  # empty: not known
    likeness: str
    by_end_user: bool
    known: bool = False


@dataclass(slots=True)
class Settlement:
    """What of a transcript the rep reads in it."""

    shown: list[int] = field(default_factory=list)  # ids of lines
    left_out: list[int] = field(default_factory=list)
    channel_ids: dict[int, str] = field(default_factory=dict)  # by line, of what webhooks brought
    found: list[str] = field(default_factory=list)  # channel's ids of what was left to the transcript and is in it
    missing: list[str] = field(default_factory=list)  # and of what is not


def likeness_of(text: str) -> str:
    """Give what is the same for a message in a webhook and in a transcript, whose links and captions differ."""
    lines = next(split_text(text, TEXT_LIMIT), "").split("\n")
    # what is ours, such as where an ad is, stands beside somebody's words in one of them only; it never begins theirs
    theirs = [line for line in lines if not line.startswith(MARK)] or lines
    said = " ".join(" ".join(_LINK.sub(" ", line) for line in theirs).split()).rstrip(": ")
    return hashlib.sha256(said.encode()).hexdigest()


def settle(lines: Sequence[Said], written: Sequence[Written], *, move: bool) -> Settlement:
    """Decide which lines the rep reads in the transcript: each message once, and in order.

    What waits above the hold stays there, after the transcript, but for what the end user wrote before something that only
    the transcript holds: its webhook was late.

    :param lines: in order
    :param written: in the order in which it came
    :param move: whether messages above the hold can be shown in the transcript instead
    """
    brought = _match(lines, written)
    places = [brought[line.id].place if line.id in brought else None for line in lines]
    seen_until = max(
        (n for n, line in enumerate(lines) if line.known or (places[n] is Place.BEFORE and line.channel_id)), default=-1
    )
    only_here = max(
        (n for n, line in enumerate(lines) if n > seen_until and line.by_end_user and places[n] in (None, Place.LEFT)),
        default=-1,
    )
    settlement = Settlement(channel_ids={line_id: each.channel_id for line_id, each in brought.items()})
    found = set()
    for n, line in enumerate(lines):
        if line.known:
            found.add(line.channel_id)
        elif n < seen_until or places[n] is Place.BEFORE or (places[n] is Place.LIVE and (n > only_here or not move)):
            settlement.left_out.append(line.id)
        else:
            settlement.shown.append(line.id)
            found.add(settlement.channel_ids.get(line.id, ""))
    for each in written:
        if each.place is Place.LEFT and each.channel_id in found:
            settlement.found.append(each.channel_id)
        elif each.due:
            settlement.missing.append(each.channel_id)
    return settlement


def _match(lines: Sequence[Said], written: Sequence[Written]) -> dict[int, Written]:
    """Say by which webhook lines came, by the lines' ids: by the channel's id, else by what both say, the newest first."""
    by_channel_id = {each.channel_id: each for each in written}
    brought = {line.id: by_channel_id[line.channel_id] for line in lines if line.channel_id in by_channel_id}
    named = {line.channel_id for line in lines}
    alike: dict[str, list[Written]] = defaultdict(list)
    for each in written:
        if each.channel_id not in named and not each.elsewhere:
            alike[each.likeness].append(each)
    for line in reversed(lines):
        if line.by_end_user and not line.channel_id and not line.known and alike[line.likeness]:
            brought[line.id] = alike[line.likeness].pop()
    return brought
