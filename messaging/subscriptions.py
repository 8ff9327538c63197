"""The rows of streams: which topics are to be read, who reads them, how far, and what is the matter."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from django.conf import settings
from django.utils import timezone

from connector.events import clean
from connector.salesforce.platform_events import SESSION_CHANGES, Topic
from messaging.leases import Leases
from messaging.models import EventSubscription
from messaging.query import query
from tenants.database import is_rows_fault
from tenants.encryption import CannotDecrypt
from tenants.models import Channel, SalesforceConnection
from tenants.tokens import OrgTokens

log = structlog.get_logger(__name__)

LEASE_SECONDS = 9.0  # who dies is replaced within ten seconds
PAUSE = timedelta(seconds=30)  # before a stream is opened again whose org must be mended first
OLDEST_AFTER_GAP = timedelta(hours=24)  # an answer to an end user is not wanted later

LEASES = Leases("messaging_eventsubscription", LEASE_SECONDS)


@dataclass(frozen=True, slots=True)
class StreamLease:
    """A stream that this process may read."""

    subscription_id: int
    org_id: int
    lease_id: UUID
    replay_id: bytes
    since: datetime
    topic: Topic
    endpoint: str
    tokens: OrgTokens


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is the matter with a stream."""

    lease: StreamLease
    problem: str


def add_missing() -> int:
    """Give each org's topics a row where they have none, and count the new ones.

    A topic is read from the time on at which its channel was chosen: a rep can answer before anybody has looked here. It
    reads all channels, so it is done every few seconds, not whenever somebody looks for streams.
    """
    rows = query(
        """INSERT INTO messaging_eventsubscription (org_id, topic, replay_id, since, failures, problem)
           SELECT org_id, topic, ''::bytea, min(since), 0, '' FROM (
               SELECT org_id, '/event/' || custom_event_name AS topic, created_at AS since FROM tenants_channel
               UNION ALL
               SELECT org_id, %s, clock_timestamp() FROM tenants_salesforceconnection WHERE session_changes) AS wanted
           WHERE NOT EXISTS (
               SELECT 1 FROM messaging_eventsubscription known
               WHERE known.org_id = wanted.org_id AND known.topic = wanted.topic)
           GROUP BY org_id, topic
           ON CONFLICT DO NOTHING RETURNING id""",
        [SESSION_CHANGES],
    )
    return len(rows)


def claim_streams(most: int) -> list[StreamLease]:
    """Lease streams that nobody reads; one whose rows are spoilt costs the others nothing."""
    held = LEASES.claim(
        """(not_before IS NULL OR not_before <= clock_timestamp())
           AND EXISTS (SELECT 1 FROM tenants_org
                       WHERE tenants_org.id = messaging_eventsubscription.org_id AND disconnected_at IS NULL)
           AND (topic <> %s OR EXISTS (
               SELECT 1 FROM tenants_salesforceconnection connection
               WHERE connection.org_id = messaging_eventsubscription.org_id AND session_changes))""",
        [SESSION_CHANGES],
        most=most,
    )
    if not held:
        return []
    subscriptions = list(EventSubscription.objects.select_related("org").filter(pk__in=held))
    org_ids = {subscription.org_id for subscription in subscriptions}
    connections, fields = _connections_of(org_ids), _fields_of(org_ids)
    leases = []
    for subscription in subscriptions:
        lease_id, connection = held[subscription.pk], connections.get(subscription.org_id)
        try:
            if connection is None:
                _give_up(subscription, lease_id, "the org has no connection to Salesforce")
            elif isinstance(connection, Exception):
                raise connection
            else:
                leases.append(_lease_of(subscription, lease_id, connection, fields))
        except Exception as exc:
            if not _is_of_a_row(exc):
                raise
            known = isinstance(exc, CannotDecrypt)
            _give_up(subscription, lease_id, str(exc) if known else f"its rows cannot be read: {type(exc).__name__}")
    return leases


def _connections_of(org_ids: Iterable[int]) -> Mapping[int, SalesforceConnection | Exception]:
    """Read all at once; where a row cannot be read or its credentials not decrypted, one by one."""
    found = SalesforceConnection.objects.filter(org_id__in=org_ids)
    try:
        return {connection.org_id: connection for connection in found}
    except Exception as exc:
        if not _is_of_a_row(exc):
            raise
    connections: dict[int, SalesforceConnection | Exception] = {}
    for org_id in org_ids:
        try:
            connections |= {each.org_id: each for each in found.filter(org_id=org_id)}
        except Exception as exc:
            if not _is_of_a_row(exc):
                raise
            connections[org_id] = exc
    return connections


def _is_of_a_row(exc: Exception) -> bool:
    return isinstance(exc, CannotDecrypt) or is_rows_fault(exc)


def _fields_of(org_ids: Iterable[int]) -> Mapping[tuple[int, str], tuple[str, str]]:
    """Give the names of the two fields of each org's events; where several channels have one event, the first says."""
    rows = Channel.objects.filter(org_id__in=org_ids).order_by("-pk")
    columns = ("org_id", "custom_event_name", "custom_event_type_field", "custom_event_payload_field")
    return {(org_id, f"/event/{event}"): (kind, payload) for org_id, event, kind, payload in rows.values_list(*columns)}


def _lease_of(
    subscription: EventSubscription,
    lease_id: UUID,
    connection: SalesforceConnection,
    fields: Mapping[tuple[int, str], tuple[str, str]],
) -> StreamLease:
    type_field, payload_field = fields.get((subscription.org_id, subscription.topic), ("", ""))
    return StreamLease(
        subscription_id=subscription.pk,
        org_id=subscription.org_id,
        lease_id=lease_id,
        replay_id=bytes(subscription.replay_id),
        since=subscription.since,
        topic=Topic(
            name=subscription.topic,
            tenant_id=subscription.org.salesforce_id,
            type_field=type_field,
            payload_field=payload_field,
        ),
        endpoint=connection.pubsub_endpoint or settings.SALESFORCE_PUBSUB_ENDPOINT,
        tokens=connection.tokens(),
    )


def _give_up(subscription: EventSubscription, lease_id: UUID, problem: str) -> None:
    log.warning("stream not read", org=subscription.org_id, problem=problem)
    LEASES.change(
        {subscription.pk: lease_id},
        "lease_id = NULL, leased_until = NULL, failures = failures + 1, problem = %s, not_before = %s",
        [problem[:300], timezone.now() + PAUSE],
    )


def renew(leases: Sequence[StreamLease]) -> set[int]:
    """Prolong leases, and name the subscriptions that are no longer to be read: lost, or of a disconnected org."""
    held = _held(leases)
    gone = {
        row_id
        for (row_id,) in query(
            """SELECT subscription.id FROM messaging_eventsubscription subscription
               JOIN tenants_org org ON org.id = subscription.org_id
               WHERE subscription.id = ANY(%s) AND org.disconnected_at IS NOT NULL""",
            [list(held)],
        )
    }
    LEASES.release({row_id: lease_id for row_id, lease_id in held.items() if row_id in gone})
    return gone | LEASES.renew({row_id: lease_id for row_id, lease_id in held.items() if row_id not in gone})


def release(leases: Sequence[StreamLease]) -> set[int]:
    """Let others read these streams at once; gives those that are free now."""
    return LEASES.release(_held(leases))


def start_over(lease: StreamLease) -> datetime | None:
    """Forget a position that Salesforce no longer accepts; None where the row could not be had and nothing was changed.

    Reading begins anew at the earliest event. What is known is recognised; of what is not, nothing old is worth sending,
    and the row says so, for another process may have to go on.

    :return: events created before this are not for us
    """
    held = _held([lease])
    horizon = timezone.now() - OLDEST_AFTER_GAP
    if not LEASES.change(held, "replay_id = ''::bytea, since = GREATEST(since, %s)", [horizon]):
        return None
    return EventSubscription.objects.values_list("since", flat=True).get(pk=lease.subscription_id)


def note_troubles(troubles: Sequence[Trouble]) -> None:
    """Show operators why streams are not read."""
    by_stream = {trouble.lease.subscription_id: trouble for trouble in troubles}
    query(
        """UPDATE messaging_eventsubscription SET failures = failures + 1, problem = found.problem
           FROM unnest(%s::bigint[], %s::text[]) AS found (id, problem)
           WHERE messaging_eventsubscription.id = found.id AND messaging_eventsubscription.id IN (
               SELECT id FROM messaging_eventsubscription WHERE id = ANY(%s) AND lease_id = ANY(%s)
               ORDER BY id FOR NO KEY UPDATE SKIP LOCKED)""",
        [
            list(by_stream),
            # what a login's refusal says comes from outside
            [clean(trouble.problem)[:300] for trouble in by_stream.values()],
            list(by_stream),
            [trouble.lease.lease_id for trouble in by_stream.values()],
        ],
    )


def _held(leases: Sequence[StreamLease]) -> dict[int, UUID]:
    return {lease.subscription_id: lease.lease_id for lease in leases}
