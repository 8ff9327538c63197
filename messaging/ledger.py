"""The ledger of arrivals: each is written down once, as it came, and is known again when it is repeated."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog

from connector.events import Event, Ignored, clean
from messaging.query import query, records

log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class Arrival:
    """One thing that came, with what it says, or why it has no effect."""

    org_id: int
    account_id: int | None  # of a webhook
    subscription_id: int | None  # of a stream
    key: str
    body: bytes
    received_at: datetime
    event: Event | None = None
    kind: str = ""
    problem: str = ""
    id: int = 0

    @property
    def source(self) -> tuple[int, int | None, int | None, str]:
        """Give what is the same whenever the same thing comes again."""
        return self.org_id, self.account_id, self.subscription_id, self.key


def kind_of(event: Event) -> str:
    """Name an event for people who look for it."""
    return event.kind if isinstance(event, Ignored) else type(event).__name__


def keep_new(arrivals: Sequence[Arrival]) -> list[Arrival]:
    """Write arrivals down, and give those that were not known."""
    first: dict[tuple[int, int | None, int | None, str], Arrival] = {}
    for arrival in arrivals:
        arrival.id = 0
        first.setdefault(arrival.source, arrival)
    if not first:
        return []
    listed = list(first.values())
    rows = query(
        """INSERT INTO messaging_receivedevent
               (org_id, account_id, subscription_id, key, body, received_at, kind, problem)
           SELECT come.org_id, come.account_id, come.subscription_id, come.key, came.body, come.received_at, come.kind,
               come.problem
           FROM unnest(%s::bytea[]) WITH ORDINALITY AS came (body, n)
           JOIN jsonb_to_recordset(%s::jsonb) AS come (n bigint, org_id bigint, account_id bigint, subscription_id bigint,
               key text, received_at timestamptz, kind text, problem text) USING (n)
           ORDER BY n ON CONFLICT DO NOTHING RETURNING id, org_id, account_id, subscription_id, key""",
        [
            [arrival.body for arrival in listed],
            records(
                {
                    "n": n,
                    "org_id": arrival.org_id,
                    "account_id": arrival.account_id,
                    "subscription_id": arrival.subscription_id,
                    "key": arrival.key[:300],
                    "received_at": arrival.received_at,
                    "kind": arrival.kind[:60],
                    "problem": arrival.problem[:300],
                }
                for n, arrival in enumerate(listed, 1)
            ),
        ],
    )
    for arrival_id, *source in rows:
        org_id, account_id, subscription_id, key = source
        first[org_id, account_id, subscription_id, key].id = arrival_id
    return [arrival for arrival in listed if arrival.id]


def note_problems(arrivals: Sequence[Arrival], known: Sequence[str]) -> None:
    """Write down why arrivals had no effect.

    :param known: the problem that each was written down with
    """
    changed = [each for each, problem in zip(arrivals, known, strict=True) if each.problem != problem]
    if changed:
        query(
            """UPDATE messaging_receivedevent event SET problem = found.problem
               FROM unnest(%s::bigint[], %s::text[]) AS found (id, problem)
               WHERE event.id = found.id AND event.id = ANY(%s)""",
            [
                [each.id for each in changed],
                [clean(each.problem)[:300] for each in changed],
                [each.id for each in changed],
            ],
        )
    for arrival in arrivals:
        if arrival.problem:
            log.warning("arrival without effect", org=arrival.org_id, event_id=arrival.id, problem=arrival.problem)
