"""Circuits: while an endpoint fails for everybody of an org, one probe every ten seconds goes there instead of all.

What waits keeps its place meanwhile. The first success closes the circuit and makes the waiting lanes due at once. All
times are the database's.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import structlog

from messaging.models import Direction, Upstream
from messaging.query import query

log = structlog.get_logger(__name__)

OPENS_AFTER = 5  # failures in a row
FROM_LANES = 3  # of so many lanes: one message that fails for ever is no outage
PROBE_SECONDS = 10.0
SUCCESS_NOTED_SECONDS = 5.0
FRESH_SECONDS = 1.0
MOST_FRESH = 10_000

UPSTREAM_OF = {
    Direction.INBOUND: Upstream.SALESFORCE,
    Direction.RECEIPTS: Upstream.RECEIPTS,
    Direction.OUTBOUND: Upstream.INFOBIP,
}


class Endpoint(NamedTuple):
    """What is called, as fine as what is configured: an Infobip account, or a channel's context in Salesforce."""

    org_id: int
    upstream: Upstream
    endpoint_id: int


def endpoint_of(direction: Direction, *, channel_id: int, account_id: int | None) -> int:
    """Give the id of what a message of a lane calls; 0 where no Infobip account is known."""
    return account_id or 0 if direction is Direction.OUTBOUND else channel_id


# Until when a success says nothing new: its circuit was found closed, without failures, and written just now. Where another
# process counts failures meanwhile, they count a moment longer. It is asked in one thread of a process.
_fresh: dict[Endpoint, float] = {}


class Call(NamedTuple):
    """A call that was made, and whether the endpoint did its part (a refusal for good is one too)."""

    endpoint: Endpoint
    lane_id: int
    succeeded: bool


def note(calls: Iterable[Call]) -> None:
    """Count failures in a row by endpoint; open and close circuits."""
    passed: set[Endpoint] = set()
    failed: dict[Endpoint, list[int]] = defaultdict(list)
    for call in calls:
        if call.succeeded:
            passed.add(call.endpoint)
        else:
            failed[call.endpoint].append(call.lane_id)
    for endpoint in failed:
        _fresh.pop(endpoint, None)
    for endpoint in passed & failed.keys():
        del failed[endpoint]
    if passed or failed:
        _write(_stale(passed), failed)


def _stale(passed: Iterable[Endpoint]) -> list[Endpoint]:
    """Choose the successes that must be written: there is something to reset, or the last was noted long ago."""
    now = time.monotonic()
    listed = sorted(each for each in passed if _fresh.get(each, 0.0) < now)
    if not listed:
        return []
    rows = query(
        """SELECT place.org_id, place.upstream, place.endpoint_id
           FROM unnest(%s::bigint[], %s::text[], %s::bigint[]) AS place (org_id, upstream, endpoint_id)
           LEFT JOIN LATERAL (
               SELECT failures, last_success_at FROM messaging_circuit
               WHERE org_id = place.org_id AND upstream = place.upstream AND endpoint_id = place.endpoint_id
               LIMIT 1) AS circuit ON true
           WHERE circuit.failures IS NULL OR circuit.failures > 0 OR circuit.last_success_at IS NULL
              OR circuit.last_success_at < clock_timestamp() - make_interval(secs => %s)""",
        [*columns(listed), SUCCESS_NOTED_SECONDS],
    )
    stale = [Endpoint(org_id, Upstream(upstream), endpoint_id) for org_id, upstream, endpoint_id in rows]
    if len(_fresh) > MOST_FRESH:
        _fresh.clear()
    _fresh.update({each: now + FRESH_SECONDS for each in listed if each not in stale})
    return stale


def _write(passed: Sequence[Endpoint], failed: dict[Endpoint, list[int]]) -> None:
    """Lock what changes, successes and failures alike, in one order: two processes never wait in a circle."""
    changed = sorted([*passed, *failed])
    if not changed:
        return
    query(
        """INSERT INTO messaging_circuit (org_id, upstream, endpoint_id, failures, failing_lanes)
           SELECT org_id, upstream, endpoint_id, 0, '{}'
           FROM unnest(%s::bigint[], %s::text[], %s::bigint[]) WITH ORDINALITY AS t (org_id, upstream, endpoint_id, n)
           ORDER BY n ON CONFLICT DO NOTHING""",
        columns(changed),
    )
    rows = query(
        """SELECT circuit.id, circuit.org_id, circuit.upstream, circuit.endpoint_id, circuit.failures,
               circuit.failing_lanes, circuit.opened_at IS NOT NULL
           FROM (SELECT * FROM unnest(%s::bigint[], %s::text[], %s::bigint[]) WITH ORDINALITY
                 AS t (org_id, upstream, endpoint_id, n) ORDER BY n OFFSET 0) AS place
           CROSS JOIN LATERAL (
               SELECT * FROM messaging_circuit
               WHERE org_id = place.org_id AND upstream = place.upstream AND endpoint_id = place.endpoint_id
               LIMIT 1 FOR NO KEY UPDATE) AS circuit""",
        columns(changed),
    )
    succeeded = set(passed)
    closed: list[Endpoint] = []
    for circuit_id, org_id, upstream, endpoint_id, failures, lanes, is_open in rows:
        endpoint = Endpoint(org_id, Upstream(upstream), endpoint_id)
        if endpoint in succeeded:
            query(
                """UPDATE messaging_circuit SET failures = 0, failing_lanes = '{}', opened_at = NULL, probe_at = NULL,
                       last_success_at = clock_timestamp() WHERE id = %s""",
                [circuit_id],
            )
            if is_open:
                closed.append(endpoint)
        else:
            _count_failures(circuit_id, endpoint, failures, list(lanes), is_open, failed[endpoint])
    for endpoint in closed:
        log.info("circuit closed", org=endpoint.org_id, upstream=endpoint.upstream.value, endpoint=endpoint.endpoint_id)
        _make_waiting_due(endpoint)


def _count_failures(
    circuit_id: int, endpoint: Endpoint, failures: int, lanes: list[int], is_open: bool, failed: list[int]
) -> None:
    failures += len(failed)
    lanes = list(dict.fromkeys([*lanes, *failed]))[:FROM_LANES]
    opens = not is_open and failures >= OPENS_AFTER and len(lanes) >= FROM_LANES
    query(
        """UPDATE messaging_circuit SET failures = %s, failing_lanes = %s,
               opened_at = CASE WHEN %s THEN clock_timestamp() ELSE opened_at END,
               probe_at = CASE WHEN %s THEN clock_timestamp() + make_interval(secs => %s) ELSE probe_at END
           WHERE id = %s""",
        [failures, lanes, opens, opens, PROBE_SECONDS, circuit_id],
    )
    if opens:
        log.warning(
            "circuit opened",
            org=endpoint.org_id,
            upstream=endpoint.upstream.value,
            endpoint=endpoint.endpoint_id,
            failures=failures,
        )


def _make_waiting_due(endpoint: Endpoint) -> None:
    """Make lanes that pause due; those that somebody is writing to just now wake when their pause is over."""
    directions = [direction.value for direction, upstream in UPSTREAM_OF.items() if upstream is endpoint.upstream]
    query(
        """UPDATE messaging_lane SET retry_at = NULL, due_at = clock_timestamp() WHERE id IN (
               SELECT id FROM messaging_lane
               WHERE org_id = %s AND direction = ANY(%s) AND endpoint_id = %s AND due_at IS NOT NULL AND holder IS NULL
                 AND retry_at IS NOT NULL
               ORDER BY id FOR NO KEY UPDATE SKIP LOCKED)""",
        [endpoint.org_id, directions, endpoint.endpoint_id],
    )


def take_probes() -> list[Endpoint]:
    """Name the open circuits through which one lane may go now; each is named to one process only."""
    rows = query(
        """UPDATE messaging_circuit SET probe_at = clock_timestamp() + make_interval(secs => %s) WHERE id IN (
               SELECT id FROM messaging_circuit WHERE opened_at IS NOT NULL AND probe_at <= clock_timestamp()
               FOR NO KEY UPDATE SKIP LOCKED)
           RETURNING org_id, upstream, endpoint_id""",
        [PROBE_SECONDS],
    )
    return [Endpoint(org_id, Upstream(upstream), endpoint_id) for org_id, upstream, endpoint_id in rows]


def columns(endpoints: Iterable[Endpoint]) -> list[list[int] | list[str]]:
    """Put endpoints into three parameters: org ids, upstreams and endpoint ids."""
    listed = list(endpoints)
    return [
        [each.org_id for each in listed],
        [each.upstream.value for each in listed],
        [each.endpoint_id for each in listed],
    ]
