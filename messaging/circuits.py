"""Circuits: while a far side fails for everybody of an org, one probe every ten seconds goes there instead of all.

What waits keeps its place meanwhile. The first success closes the circuit and makes the waiting lanes due at once.
"""

from collections import defaultdict
from collections.abc import Iterable
from datetime import timedelta
from typing import NamedTuple

import structlog
from django.utils import timezone

from messaging.models import Circuit, Direction, Side
from messaging.query import query

log = structlog.get_logger(__name__)

OPENS_AFTER = 5  # failures in a row
FROM_LANES = 3  # of so many lanes: one message that fails for ever is no outage
PROBE_SECONDS = 10.0
SUCCESS_NOTED_SECONDS = 5.0

SIDE_OF = {Direction.INBOUND: Side.SALESFORCE, Direction.RECEIPTS: Side.RECEIPTS, Direction.OUTBOUND: Side.INFOBIP}


class Call(NamedTuple):
    """A call that was made, and whether the far side did its part (a refusal for good is one too)."""

    org_id: int
    direction: Direction
    lane_id: int
    succeeded: bool


def note(calls: Iterable[Call]) -> None:
    """Count failures in a row by org and far side; open and close circuits."""
    passed: set[tuple[int, str]] = set()
    failed: dict[tuple[int, str], list[int]] = defaultdict(list)
    for call in calls:
        place = (call.org_id, SIDE_OF[call.direction].value)
        if call.succeeded:
            passed.add(place)
        else:
            failed[place].append(call.lane_id)
    if passed:
        _note_success(sorted(passed))
    for place in sorted(set(failed) - passed):
        _note_failure(place, failed[place])


def _note_success(places: list[tuple[int, str]]) -> None:
    """Reset what failed before; a read, unless there is something to reset or the last success was noted long ago."""
    columns = [[org_id for org_id, _ in places], [side for _, side in places]]
    stale = query(
        """SELECT place.org_id, place.side FROM unnest(%s::bigint[], %s::text[]) AS place (org_id, side)
           LEFT JOIN messaging_circuit circuit ON circuit.org_id = place.org_id AND circuit.side = place.side
           WHERE circuit.id IS NULL OR circuit.failures > 0 OR circuit.last_success_at IS NULL
              OR circuit.last_success_at < clock_timestamp() - make_interval(secs => %s)
           ORDER BY 1, 2""",
        [*columns, SUCCESS_NOTED_SECONDS],
    )
    for org_id, side in stale:
        circuit, _ = Circuit.objects.select_for_update().get_or_create(org_id=org_id, side=side)
        was_open = circuit.opened_at is not None
        circuit.failures, circuit.failing_lanes = 0, []
        circuit.opened_at = circuit.probe_at = None
        circuit.last_success_at = timezone.now()
        circuit.save()
        if was_open:
            log.info("circuit closed", org=org_id, side=side)
            _wake(org_id, side)


def _wake(org_id: int, side: str) -> None:
    """Make lanes that pause due; those that somebody is writing to just now wake when their pause is over."""
    directions = [direction.value for direction, of in SIDE_OF.items() if of == side]
    query(
        """UPDATE messaging_lane SET retry_at = NULL, due_at = clock_timestamp() WHERE id IN (
               SELECT id FROM messaging_lane
               WHERE org_id = %s AND direction = ANY(%s) AND due_at IS NOT NULL AND retry_at IS NOT NULL
                 AND lease_id IS NULL
               ORDER BY id FOR NO KEY UPDATE SKIP LOCKED)""",
        [org_id, directions],
    )


def _note_failure(place: tuple[int, str], lane_ids: list[int]) -> None:
    org_id, side = place
    circuit, _ = Circuit.objects.select_for_update().get_or_create(org_id=org_id, side=side)
    circuit.failures += len(lane_ids)
    circuit.failing_lanes = list(dict.fromkeys([*circuit.failing_lanes, *lane_ids]))[:FROM_LANES]
    if circuit.opened_at is None and circuit.failures >= OPENS_AFTER and len(circuit.failing_lanes) >= FROM_LANES:
        circuit.opened_at = timezone.now()
        circuit.probe_at = circuit.opened_at + timedelta(seconds=PROBE_SECONDS)
        log.warning("circuit opened", org=org_id, side=side, failures=circuit.failures)
    circuit.save()


def take_probes() -> list[tuple[int, Side]]:
    """Name the open circuits through which one lane may go now; each is named to one process only."""
    rows = query(
        """UPDATE messaging_circuit SET probe_at = clock_timestamp() + make_interval(secs => %s) WHERE id IN (
               SELECT id FROM messaging_circuit WHERE opened_at IS NOT NULL AND probe_at <= clock_timestamp()
               FOR NO KEY UPDATE SKIP LOCKED)
           RETURNING org_id, side""",
        [PROBE_SECONDS],
    )
    return [(org_id, Side(side)) for org_id, side in rows]
