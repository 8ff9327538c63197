"""Records how calls ended: the message, its attempt, the circuit, and what the lane does next. Callers own the transaction.

A result whose lane was taken over meanwhile does not count: who holds the lane now found the try in doubt and decides. A
status moves only from pending, since a report can be faster than the answer to the send.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime

import structlog

from connector.events import MARK, clean
from connector.salesforce.interactions import Delivered
from messaging import circuits, claims, overdue, receipts, retry, sessions
from messaging.circuits import UPSTREAM_OF, Call, Endpoint
from messaging.claims import Given, Pause, Waiting
from messaging.delivery import Result
from messaging.models import BOUNDS_OF_TIME, NOTICE, Direction, Outcome, Status
from messaging.overdue import OVERDUE_SECONDS, Overdue
from messaging.query import query, records
from messaging.queue import append_own, mark_due
from messaging.receipts import ReceiptOutcome
from messaging.sessions import Opening

log = structlog.get_logger(__name__)


def record(ended: Sequence[Result | ReceiptOutcome], *, holder: int) -> list[Given]:
    """Write down how calls ended, let go the lanes that must pause, and name those that go on: they are locked."""
    if not ended:
        return []
    results = [each for each in ended if isinstance(each, Result)]
    reported = [each for each in ended if isinstance(each, ReceiptOutcome)]
    tries = {each.claim.lane_id: each.message.id if isinstance(each, Result) else None for each in ended}
    told = [each.claim for each in results if each.outcome is not Outcome.SENT]
    told += [each.claim for each in reported if each.noticed]
    mine = claims.lock_held(tries, holder=holder, neighbours_of=[each.conversation_id for each in told])
    results = sorted((each for each in results if each.claim.lane_id in mine), key=lambda each: each.message.id)
    reported = [each for each in reported if each.claim.lane_id in mine]
    circuits.note(_calls(results, reported))
    _decide([each for each in results if not each.done])
    _keep_attempts([each for each in results if each.called and each.outcome is not Outcome.SENT])
    _advance(results)
    _name_conversations(results)
    _end_sessions(results)
    _tell_reps(results)
    _settle(reported)
    claims.release([_pause(each) for each in results if not each.done and not each.given_up])
    return [Given(each.claim.lane_id, carried=_carried(each)) for each in results if each.done or each.given_up]


def _carried(result: Result) -> datetime:
    """Say when a message was written that has left; our own have the time of our clock, which says nothing of theirs."""
    return BOUNDS_OF_TIME[0] if result.message.ours else result.message.written_at


def _calls(results: Iterable[Result], reported: Iterable[ReceiptOutcome]) -> Iterable[Call]:
    for each in results:
        if each.called:
            endpoint = Endpoint(each.claim.org_id, UPSTREAM_OF[each.claim.direction], each.endpoint_id)
            yield Call(endpoint, each.claim.lane_id, each.done)
    for outcome in reported:
        if outcome.called:
            yield Call(outcome.claim.endpoint, outcome.claim.lane_id, outcome.again_after is None)


COUNT_FAILURES = """
WITH tried AS (
    SELECT * FROM jsonb_to_recordset(%s::jsonb)
        AS tried (id bigint, upstream text, endpoint_id bigint, called bool)),
failing AS (
    UPDATE messaging_message message SET failed_at = clock_timestamp(),
        own_failures = own_failures + judged.others_passed::int,
        own_failing_since = CASE WHEN judged.others_passed
                                 THEN COALESCE(own_failing_since, clock_timestamp()) END
    FROM (
        SELECT tried.id, tried.called AND COALESCE(
            circuit.opened_at IS NULL AND circuit.last_success_at > before.failed_at, false) AS others_passed
        FROM tried
        CROSS JOIN LATERAL (
            SELECT org_id, failed_at FROM messaging_message WHERE id = tried.id LIMIT 1) AS before
        LEFT JOIN LATERAL (
            SELECT opened_at, last_success_at FROM messaging_circuit
            WHERE org_id = before.org_id AND upstream = tried.upstream AND endpoint_id = tried.endpoint_id
            LIMIT 1) AS circuit ON true) AS judged
    WHERE message.id = judged.id AND message.id = ANY(%s) AND message.status = 'pending'
    RETURNING message.*)
SELECT failing.id, EXTRACT(EPOCH FROM clock_timestamp() - failing.created_at)::float8, failing.own_failures,
    COALESCE(EXTRACT(EPOCH FROM clock_timestamp() - failing.own_failing_since), 0)::float8,
    failing.direction = 'outbound' AND failing.template IS NULL
        AND COALESCE(conversation.window_closes_at < clock_timestamp(), false)
FROM failing CROSS JOIN LATERAL (
    SELECT window_closes_at FROM messaging_conversation
    WHERE id = failing.conversation_id LIMIT 1) AS conversation"""


def _decide(failed: Sequence[Result]) -> None:
    """Count tries in vain, and find the messages that are not worth another one; retry.py has the rules.

    A try counts as the message's own failing only if others of its endpoint passed since its try before: an outage is
    nobody's own.
    """
    if not failed:
        return
    rows = query(
        COUNT_FAILURES,
        [
            records(
                {
                    "id": each.message.id,
                    "upstream": UPSTREAM_OF[each.claim.direction].value,
                    "endpoint_id": each.endpoint_id,
                    "called": each.called,
                }
                for each in failed
            ),
            [each.message.id for each in failed],
        ],
    )
    found = {message_id: retry.History(*history) for message_id, *history in rows}
    for each in failed:
        if (history := found.get(each.message.id)) is not None:
            each.given_up, each.waited = retry.why_given_up(history), history.age_seconds


def _keep_attempts(results: Sequence[Result]) -> None:
    if not results:
        return
    query(
        """INSERT INTO messaging_attempt
               (org_id, message_id, started_at, ended_at, outcome, status, code, detail, request_id)
           SELECT org_id, message_id, clock_timestamp() - make_interval(secs => seconds), clock_timestamp(), outcome,
               status, code, detail, request_id
           FROM jsonb_to_recordset(%s::jsonb) AS tried (org_id bigint, message_id bigint, seconds float8, outcome text,
               status int, code text, detail text, request_id text)""",
        [
            records(
                {
                    "org_id": each.claim.org_id,
                    "message_id": each.message.id,
                    "seconds": each.seconds,
                    "outcome": each.outcome.value,
                    "status": each.status,
                    "code": each.code[:100],
                    "detail": each.detail[:300],
                    "request_id": each.request_id[:100],
                }
                for each in results
            )
        ],
    )


def _advance(results: Sequence[Result]) -> None:
    """Move messages forward; ``results`` are in the order of the messages' ids."""
    if not results:
        return
    reached = {Outcome.SENT: Status.SENT.value, Outcome.REFUSED: Status.FAILED.value}
    query(
        """UPDATE messaging_message message SET tries = tries + tried.called::int,
               status = COALESCE(tried.status, message.status),
               status_at = CASE WHEN tried.status IS NULL THEN status_at ELSE clock_timestamp() END,
               error_code = tried.code, error = tried.detail
           FROM jsonb_to_recordset(%s::jsonb) AS tried (id bigint, called bool, status text, code text, detail text)
           WHERE message.id = tried.id AND message.id = ANY(%s) AND message.status = 'pending'""",
        [
            records(
                {
                    "id": each.message.id,
                    "called": each.called,
                    "status": Status.FAILED.value if each.given_up else reached.get(each.outcome),
                    "code": each.code[:100],
                    "detail": (f"{each.given_up} ({each.detail})" if each.given_up else each.detail)[:300],
                }
                for each in results
            ),
            [each.message.id for each in results],
        ],
    )


def _name_conversations(results: Sequence[Result]) -> None:
    """Keep what Salesforce says of a conversation: its id, and the session that is open now."""
    openings = {
        each.claim.conversation_id: Opening(
            each.claim.org_id,
            each.claim.conversation_id,
            clean(each.delivered.conversation),
            clean(each.delivered.session)[:18],
        )
        for each in results
        if each.delivered is not None and each.delivered.conversation and not _is_known(each.message, each.delivered)
    }
    if openings:
        sessions.open_changed(list(openings.values()))


def _is_known(message: Waiting, delivered: Delivered) -> bool:
    """Tell whether the conversation had this session already when the message was taken, as most have."""
    return bool(delivered.session) and (message.identifier, message.session) == (delivered.conversation, delivered.session)


def _end_sessions(results: Iterable[Result]) -> None:
    """Note the ends that came to light because a line would have been for a session that is over."""
    for each in results:
        if each.session_over and each.message.session:
            sessions.end(each.claim.org_id, each.message.session)


def _tell_reps(results: Sequence[Result]) -> None:
    """Make sure that nothing is given up unseen: what a rep wrote is reported as failed, and of what an end user wrote a
    line in the conversation says that it is missing."""
    overdue.tell([_overdue(each) for each in results if _waits_too_long(each)])
    for each in results:
        if each.outcome is not Outcome.REFUSED and not each.given_up:
            continue
        claim, reason = each.claim, each.given_up or each.detail or "no reason was given"
        if claim.direction is Direction.OUTBOUND:
            mark_receipts_due(claim.org_id, claim.conversation_id, each.message.channel_id)
        elif not each.message.ours:
            append_own(
                claim.org_id,
                claim.conversation_id,
                each.message.channel_id,
                Direction.INBOUND,
                f"missing:{each.message.uuid}",
                f"{MARK} A message of {each.message.written_at:%H:%M} UTC could not be shown here — {reason}.",
            )


def _waits_too_long(result: Result) -> bool:
    written_by_rep = result.claim.direction is Direction.OUTBOUND and not result.message.ours
    return written_by_rep and not result.given_up and result.waited > OVERDUE_SECONDS


def _overdue(result: Result) -> Overdue:
    claim, message = result.claim, result.message
    return Overdue(claim.org_id, claim.conversation_id, message.channel_id, message.uuid, message.text, result.detail)


def mark_receipts_due(org_id: int, conversation_id: int, channel_id: int) -> None:
    """Have a conversation's receipts reported; the caller has locked its lanes."""
    rows = query(
        """SELECT id FROM messaging_lane
           WHERE org_id = %s AND conversation_id = %s AND direction = 'receipts' FOR NO KEY UPDATE""",
        [org_id, conversation_id],
    )
    mark_due({lane_id: channel_id for (lane_id,) in rows})


def _settle(reported: Sequence[ReceiptOutcome]) -> None:
    receipts.settle([pair for each in reported for pair in each.settled])
    claims.release(
        [
            Pause(
                each.claim.lane_id,
                each.again_after if each.again_after is not None else 0.0 if each.batch.more else None,
                failures=0 if each.again_after is None else each.claim.failures + 1,
                version=each.claim.version,
            )
            for each in reported
        ]
    )
    for each in reported:
        for failure in each.noticed:
            append_own(
                each.claim.org_id,
                each.claim.conversation_id,
                each.batch.channel_id,
                Direction.INBOUND,
                f"{NOTICE}{failure.entry}",
                failure.notice,
            )


def _pause(result: Result) -> Pause:
    claim = result.claim
    if not result.called and not result.detail:  # it was given back, as the process stops
        return Pause(claim.lane_id, 0.0, failures=claim.failures)
    seconds = retry.pause_seconds(claim.direction, result.outcome, failures=claim.failures, retry_after=result.retry_after)
    return Pause(claim.lane_id, seconds, failures=claim.failures + 1, endpoint_id=result.endpoint_id)
