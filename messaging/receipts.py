"""Receipts: reports of Infobip move messages forward, and what Salesforce does not know yet is reported to it.

Receipts are not messages. Each message holds the state that it reached and the state that was reported; a lane of their own
per conversation reports the difference, so a stuck message never holds back ticks.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import NAMESPACE_OID, uuid5

import structlog

from connector.aio import Caller
from connector.events import MARK, Receipt, ReceiptReceived
from connector.http import ApiError, Call
from connector.salesforce.interactions import MOST_ACKNOWLEDGEMENTS, Acknowledgement, InteractionClient
from messaging.claims import Claim
from messaging.models import MAY_FOLLOW, Status
from messaging.query import query, records
from messaging.retry import LONGEST_BACKOFF_SECONDS, LONGEST_WAIT_SECONDS, backoff_seconds
from messaging.routes import Route
from tenants.models import Channel

log = structlog.get_logger(__name__)

_STATUS = {Receipt.FAILED: Status.FAILED, Receipt.DELIVERED: Status.DELIVERED, Receipt.READ: Status.READ}
_BETTER_LAST = list(_STATUS)  # of one batch: the better news wins


# what Infobip reports


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """A report of what became of a message, and whose it is."""

    org_id: int
    account_id: int
    event: ReceiptReceived


class ReportedMessage(NamedTuple):
    """The message of a report, with the lanes that it concerns."""

    id: int
    channel_id: int
    account_id: int
    receipts_lane: int
    waiting_lane: int | None  # the message was to be sent again there: its outcome had been in doubt


def find_reported(reports: Sequence[Report]) -> dict[Report, ReportedMessage]:
    """Find the messages that reports are about, each among its own account's; reports of others are left out."""
    if not reports:
        return {}
    rows = query(
        """SELECT reported.n, message.id, message.channel_id, reported.account_id, lane.id,
               CASE WHEN message.status = 'pending' THEN message.lane_id END
           FROM unnest(%s::bigint[], %s::bigint[], %s::uuid[]) WITH ORDINALITY AS reported (org_id, account_id, uuid, n)
           CROSS JOIN LATERAL (
               SELECT id, channel_id, lane_id, status, sender_id, conversation_id FROM messaging_message
               WHERE uuid = reported.uuid AND org_id = reported.org_id AND direction = 'outbound' LIMIT 1) AS message
           CROSS JOIN LATERAL (
               SELECT 1 FROM tenants_sender
               WHERE id = message.sender_id AND account_id = reported.account_id LIMIT 1) AS sender
           CROSS JOIN LATERAL (
               SELECT id FROM messaging_lane
               WHERE org_id = reported.org_id AND conversation_id = message.conversation_id AND direction = 'receipts'
               LIMIT 1) AS lane""",
        [
            [each.org_id for each in reports],
            [each.account_id for each in reports],
            [each.event.message_uuid for each in reports],
        ],
    )
    return {reports[n - 1]: ReportedMessage(*message) for n, *message in rows}


def advance(found: Mapping[Report, ReportedMessage]) -> None:
    """Move messages to the state that reports give; only ever forward. Their lanes are locked."""
    best: dict[int, ReceiptReceived] = {}
    for report, message in sorted(found.items(), key=lambda pair: _BETTER_LAST.index(pair[0].event.receipt)):
        best[message.id] = report.event
    query("SELECT 1 FROM messaging_message WHERE id = ANY(%s) ORDER BY id FOR NO KEY UPDATE", [sorted(best)])
    query(
        """UPDATE messaging_message message SET status = reported.status, status_at = reported.at,
               error_code = reported.code, error = reported.reason
           FROM jsonb_to_recordset(%s::jsonb)
               AS reported (id bigint, status text, at timestamptz, code text, reason text, may_follow text[])
           WHERE message.id = reported.id AND message.id = ANY(%s) AND message.status = ANY(reported.may_follow)""",
        [
            records(
                {
                    "id": message_id,
                    "status": _STATUS[event.receipt],
                    "at": event.at,
                    "code": event.code,
                    "reason": event.reason,
                    "may_follow": MAY_FOLLOW[_STATUS[event.receipt]],
                }
                for message_id, event in best.items()
            ),
            list(best),
        ],
    )


# what Salesforce does not know yet


@dataclass(frozen=True, slots=True)
class Failure:
    """An entry of a rep that did not arrive; ``notice`` is the line that says so in the conversation, or empty."""

    entry: str
    code: str
    reason: str
    message_ids: list[int]
    notice: str


@dataclass(slots=True)
class ReceiptBatch:
    """What is to be reported of the rep's messages of one conversation, and the rows that this settles."""

    conversation: str
    end_user: str
    channel_id: int
    age_seconds: float = 0.0  # of the oldest state in it
    acknowledgements: list[Acknowledgement] = field(default_factory=list)
    acknowledged: list[tuple[int, Status]] = field(default_factory=list)  # message ids, and the state reported
    failures: list[Failure] = field(default_factory=list)
    more: bool = False  # there is more than one pass can report


@dataclass(slots=True)
class ReceiptOutcome:
    """How reporting went: what is settled, and when the rest is tried again."""

    claim: Claim
    batch: ReceiptBatch
    settled: list[tuple[int, Status]] = field(default_factory=list)
    noticed: list[Failure] = field(default_factory=list)
    again_after: float | None = None  # seconds; None: nothing is left
    called: bool = True
    seconds: float = 0.0


def pending_receipts(conversation_ids: Sequence[int]) -> dict[int, ReceiptBatch]:
    """Find what Salesforce does not know yet of each conversation: an entry counts once all its parts got so far."""
    if not conversation_ids:
        return {}
    rows = query(
        """WITH entry AS (
               SELECT DISTINCT conversation_id, channel_id, source_entry FROM messaging_message
               WHERE conversation_id = ANY(%s) AND direction = 'outbound' AND NOT ours
                 AND status IN ('delivered', 'read', 'failed') AND reported <> status)
           SELECT part.conversation_id, conversation.identifier, conversation.subject, part.channel_id,
               conversation.session_open AND channel.show_failures, part.source_entry, array_agg(part.id),
               array_agg(part.status), array_agg(part.reported), max(part.status_at),
               EXTRACT(EPOCH FROM clock_timestamp() - max(part.status_at))::float8,
               max(part.error_code) FILTER (WHERE part.status = 'failed'),
               max(part.error) FILTER (WHERE part.status = 'failed'), min(part.text) FILTER (WHERE part.part = 0)
           FROM entry
           CROSS JOIN LATERAL (
               SELECT * FROM messaging_message
               WHERE channel_id = entry.channel_id AND source_entry = entry.source_entry LIMIT 1000) AS part
           JOIN messaging_conversation conversation ON conversation.id = part.conversation_id
           JOIN tenants_channel channel ON channel.id = part.channel_id
           WHERE part.direction = 'outbound' AND conversation.identifier <> ''
           GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY max(part.status_at)""",
        [list(conversation_ids)],
    )
    batches: dict[int, ReceiptBatch] = {}
    for conversation_id, identifier, subject, channel_id, *entry in rows:
        visibly, name, ids, states, reported, at, age, code, error, text = entry
        reached = _state_of_whole(states)
        if reached is None or set(reported) == {reached.value}:
            continue
        batch = batches.setdefault(conversation_id, ReceiptBatch(identifier, subject, channel_id, age))
        if len(batch.acknowledgements) + len(batch.failures) == MOST_ACKNOWLEDGEMENTS:
            batch.more = True
        elif reached is Status.FAILED:
            reason = error or "no reason was given"
            batch.failures.append(
                Failure(name, code or "FAILED", reason, ids, failure_notice(text, reason) if visibly else "")
            )
        else:
            receipt = Receipt(reached.value)
            # the same id when it is reported again
            batch.acknowledgements.append(Acknowledgement(name, receipt, at, uuid5(NAMESPACE_OID, f"{name} {receipt}")))
            batch.acknowledged += [(each, reached) for each in ids]
    return batches


def failure_notice(text: str, reason: str) -> str:
    """Write the line that shows a rep what did not arrive; the mark is one that no end user's text can hold."""
    return f"{MARK} Not delivered: {quoted(text)} — {reason}."


def quoted(text: str) -> str:
    """Quote the beginning of a message, in one line."""
    begun = " ".join(text.split())
    return f"“{begun[:60]}…”" if len(begun) > 60 else f"“{begun}”" if begun else "Your message"


def _state_of_whole(states: Iterable[str]) -> Status | None:
    """Say how far a message of several parts got: failed if one did, None while one is not there."""
    if Status.FAILED in states:
        return Status.FAILED
    if not set(states) <= {Status.DELIVERED, Status.READ}:
        return None
    return Status.READ if set(states) == {Status.READ} else Status.DELIVERED


async def report_receipts(
    caller: Caller, route: Route, claim: Claim, batch: ReceiptBatch, *, seconds: float
) -> ReceiptOutcome:
    """Acknowledge what arrived and report what did not.

    What Salesforce refuses for good is settled, since a tick must not be tried for ever. A login that is refused, or a
    set-up that is wrong, is no such refusal: the receipts wait until the customer has mended it, for 72 hours.

    :param seconds: the most that one call may take
    """
    outcome = ReceiptOutcome(claim, batch)
    channel, salesforce = route.channel, route.salesforce
    if channel is None or salesforce is None:
        outcome.again_after, outcome.called = LONGEST_BACKOFF_SECONDS, False
        return outcome

    async def made(call: Call[None]) -> None:
        try:
            await caller.run(call, seconds=seconds)
        except ApiError as exc:
            given_up = not exc.retryable or batch.age_seconds > LONGEST_WAIT_SECONDS
            log.warning("receipt refused", error=str(exc), given_up=given_up)
            if not given_up:
                raise

    try:
        if batch.acknowledgements:
            await made(
                salesforce.acknowledge_call(
                    context=channel.authorization_context,
                    conversation=batch.conversation,
                    end_user=batch.end_user,
                    acknowledgements=batch.acknowledgements,
                )
            )
            outcome.settled.extend(batch.acknowledged)
        for failure in batch.failures:
            await made(_failure_call(salesforce, channel, batch, failure))
            outcome.settled.extend((each, Status.FAILED) for each in failure.message_ids)
            if failure.notice:
                outcome.noticed.append(failure)
    except ApiError as exc:
        outcome.again_after = backoff_seconds(claim.failures, exc.retry_after)
    log.info("receipts reported", count=len(outcome.settled), again_after=outcome.again_after)
    return outcome


def _failure_call(client: InteractionClient, channel: Channel, batch: ReceiptBatch, failure: Failure) -> Call[None]:
    return client.failure_call(
        context=channel.authorization_context,
        channel_address=channel.channel_address_identifier,
        end_user=batch.end_user,
        entry=failure.entry,
        code=failure.code,
        reason=failure.reason,
        report_uuid=uuid5(NAMESPACE_OID, f"{failure.entry} failed"),
    )


def settle(settled: Sequence[tuple[int, Status]]) -> None:
    """Note what Salesforce knows now."""
    if settled:
        query(
            """UPDATE messaging_message message SET reported = settled.status
               FROM unnest(%s::bigint[], %s::text[]) AS settled (id, status)
               WHERE message.id = settled.id AND message.id = ANY(%s)""",
            [
                [message_id for message_id, _ in settled],
                [status.value for _, status in settled],
                [message_id for message_id, _ in settled],
            ],
        )
