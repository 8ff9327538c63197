"""Reads every org's platform events: one event loop holds the streams, each under a lease, and one writer saves them.

gRPC does not survive a fork and its channels belong to one loop, so all of it lives in a thread of a process that never
forks. Calls to the database and the logins run in threads beside the loop.
"""

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

import grpc.aio
import structlog
from django.conf import settings
from django.db import Error as DatabaseError
from django.db import InterfaceError, connection, transaction
from django.utils import timezone

from connector.http import ApiError, ServiceUnavailable
from connector.salesforce.auth import AccessToken
from connector.salesforce.platform_events import (
    SESSION_CHANGES,
    PlatformEvent,
    Remedy,
    StreamBroken,
    Topic,
    open_channel,
    pages,
)
from messaging.intake import StreamBatch, receive_stream_batches
from messaging.models import EventSubscription
from messaging.wake import wake
from tenants.encryption import CannotDecrypt
from tenants.models import Org, SalesforceConnection
from tenants.tenancy import every_org
from tenants.tokens import OrgTokens

log = structlog.get_logger(__name__)
Value = TypeVar("Value")

LEASE_SECONDS = 9.0  # who dies is replaced within ten seconds
HEARTBEAT_SECONDS = 2.5
LOOK_SECONDS = 1.0  # how often a process looks for streams that nobody reads
MOST_STREAMS = 5000  # of one process
CLAIMED_AT_ONCE = 100  # streams are opened by and by: thousands at once stall
STREAMS_PER_CHANNEL = 800  # Salesforce allows 1,000 calls on one connection
BATCHES_AT_ONCE = 200
LONGEST_PAUSE_SECONDS = 10.0
DRAIN_SECONDS = 10.0
MOST_REFUSED_TOKENS = 3  # ours, the one that another process shared before all were revoked, and a new one
OLDEST_AFTER_GAP = timedelta(hours=24)  # an answer to an end user is not wanted later
PAUSES = {Remedy.SLOW_DOWN: 30.0, Remedy.CUSTOMER_MUST_ACT: 30.0, Remedy.START_OVER: 0.0, Remedy.NEW_TOKEN: 0.0}


@dataclass(frozen=True, slots=True)
class Lease:
    """A stream that this process may read."""

    subscription_id: int
    org_id: int
    lease_id: UUID
    replay_id: bytes
    since: datetime
    topic: Topic
    endpoint: str
    tokens: OrgTokens


def _in_database(work: Callable[[], Value]) -> Value:
    """Run in this thread with the scope of all orgs, and hold no connection afterwards."""
    try:
        with every_org():
            return work()
    finally:
        connection.close()


def claim_streams(most: int) -> list[Lease]:
    """Give each org's topics a row where they have none, and lease streams that nobody reads."""
    with connection.cursor() as cursor:
        cursor.execute(
            """INSERT INTO messaging_eventsubscription (org_id, topic, replay_id, since, failures, problem)
               SELECT DISTINCT org_id, '/event/' || custom_event_name, ''::bytea, clock_timestamp(), 0, ''
               FROM tenants_channel
               UNION SELECT org_id, %s, ''::bytea, clock_timestamp(), 0, '' FROM tenants_salesforceconnection
               WHERE session_changes
               ON CONFLICT DO NOTHING""",
            [SESSION_CHANGES],
        )
        cursor.execute(
            """UPDATE messaging_eventsubscription SET lease_id = gen_random_uuid(),
                   leased_until = clock_timestamp() + make_interval(secs => %s)
               WHERE id IN (
                   SELECT id FROM messaging_eventsubscription
                   WHERE (leased_until IS NULL OR leased_until < clock_timestamp())
                     AND (not_before IS NULL OR not_before <= clock_timestamp())
                     AND EXISTS (SELECT 1 FROM tenants_org WHERE id = messaging_eventsubscription.org_id
                                 AND disconnected_at IS NULL)
                     AND (topic <> %s OR EXISTS (
                         SELECT 1 FROM tenants_salesforceconnection connection
                         WHERE connection.org_id = messaging_eventsubscription.org_id AND session_changes))
                   ORDER BY id LIMIT %s FOR NO KEY UPDATE SKIP LOCKED)
               RETURNING id""",
            [LEASE_SECONDS, SESSION_CHANGES, most],
        )
        ids = [row[0] for row in cursor.fetchall()]
    leases = []
    for subscription in EventSubscription.objects.select_related("org__salesforce").filter(pk__in=ids):
        try:
            leases.append(_lease_of(subscription))
        except (SalesforceConnection.DoesNotExist, CannotDecrypt) as exc:
            subscription.problem = str(exc)[:300]
            subscription.lease_id = subscription.leased_until = None
            subscription.not_before = timezone.now() + timedelta(seconds=PAUSES[Remedy.CUSTOMER_MUST_ACT])
            subscription.save()
    return leases


def _lease_of(subscription: EventSubscription) -> Lease:
    org = subscription.org
    channel = org.channels.filter(custom_event_name=subscription.topic.removeprefix("/event/")).first()
    assert subscription.lease_id is not None
    return Lease(
        subscription_id=subscription.pk,
        org_id=org.pk,
        lease_id=subscription.lease_id,
        replay_id=bytes(subscription.replay_id),
        since=subscription.since,
        topic=Topic(
            name=subscription.topic,
            tenant_id=org.salesforce_id,
            type_field=channel.custom_event_type_field if channel else "",
            payload_field=channel.custom_event_payload_field if channel else "",
        ),
        endpoint=org.salesforce.pubsub_endpoint or settings.SALESFORCE_PUBSUB_ENDPOINT,
        tokens=org.salesforce.tokens(),
    )


def renew(leases: Sequence[Lease]) -> set[int]:
    """Prolong leases, and name the subscriptions that are still held under them; those of disconnected orgs are let go."""
    gone = set(
        Org.objects.filter(pk__in={lease.org_id for lease in leases})
        .exclude(disconnected_at=None)
        .values_list("pk", flat=True)
    )
    release([lease for lease in leases if lease.org_id in gone])
    held = [lease for lease in leases if lease.org_id not in gone]
    return _update_mine(held, "leased_until = clock_timestamp() + make_interval(secs => %s)", [LEASE_SECONDS])


def release(leases: Sequence[Lease]) -> None:
    """Let others read these streams at once."""
    _update_mine(leases, "lease_id = NULL, leased_until = NULL", [])


def start_over(leases: Sequence[Lease]) -> None:
    """Forget a position that Salesforce no longer accepts."""
    _update_mine(leases, "replay_id = ''::bytea", [])


def note_trouble(leases: Sequence[Lease], problem: str) -> None:
    """Show an operator why a stream is not read."""
    _update_mine(leases, "failures = failures + 1, problem = %s", [problem[:300]])


def _update_mine(leases: Sequence[Lease], change: str, parameters: list[Any]) -> set[int]:
    with transaction.atomic(), connection.cursor() as cursor:
        held = {lease.subscription_id: lease.lease_id for lease in leases}
        cursor.execute(
            "SELECT id, lease_id FROM messaging_eventsubscription WHERE id = ANY(%s) ORDER BY id FOR NO KEY UPDATE",
            [sorted(held)],
        )
        mine = [row[0] for row in cursor.fetchall() if row[1] == held[row[0]]]
        cursor.execute(f"UPDATE messaging_eventsubscription SET {change} WHERE id = ANY(%s)", [*parameters, mine])
    return set(mine)


class Subscriber:
    """Reads streams until it is stopped; start it once in a process."""

    def __init__(self) -> None:
        self.reading: dict[int, tuple[Lease, asyncio.Task[None]]] = {}
        self.channels: dict[str, list[grpc.aio.Channel]] = {}
        self.announced = self.woken = self.stopping = asyncio.Event()  # replaced by those of the loop
        self.thread = threading.Thread(target=self._run, name="subscriber", daemon=True)
        self.loop: asyncio.AbstractEventLoop | None = None
        self.books = ThreadPoolExecutor(3, thread_name_prefix="books")
        self.logins = ThreadPoolExecutor(16, thread_name_prefix="login")

    def start(self) -> None:
        """Start reading, in a thread of its own."""
        self.thread.start()

    def look(self) -> None:
        """Look for streams that nobody reads, and try those in trouble again, now; from any thread."""
        if self.loop is not None:
            self.loop.call_soon_threadsafe(self._announce)

    def _announce(self) -> None:
        self.announced.set()  # who waits is woken by this one; who comes later waits for another
        self.announced = asyncio.Event()
        self.woken.set()

    def stop(self) -> None:
        """Stop reading, and give the leases back."""
        if self.loop is not None:
            self.loop.call_soon_threadsafe(self.stopping.set)
            self.loop.call_soon_threadsafe(self.woken.set)
            self.thread.join(DRAIN_SECONDS)

    def _run(self) -> None:
        while True:
            try:
                asyncio.run(self._main())
                return
            except Exception:  # a process that lives on without reading would go unnoticed
                log.exception("subscriber failed; starting again")
                self.reading, self.channels = {}, {}
                time.sleep(LOOK_SECONDS)

    async def _main(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.woken, self.stopping, self.announced = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.batches: asyncio.Queue[tuple[StreamBatch, asyncio.Future[bool]]] = asyncio.Queue()
        beside = [asyncio.create_task(self._write()), asyncio.create_task(self._beat())]
        while not self.stopping.is_set():
            more = await self._claim()
            if not more:
                try:
                    await asyncio.wait_for(self.woken.wait(), LOOK_SECONDS)
                except TimeoutError:
                    continue
                self.woken.clear()
        for _lease, task in self.reading.values():
            task.cancel()
        await asyncio.gather(*(task for _, task in self.reading.values()), return_exceptions=True)
        for task in beside:
            task.cancel()
        leases = [lease for lease, _ in self.reading.values()]
        try:
            await self._books(lambda: release(leases))
        except (DatabaseError, InterfaceError):
            log.warning("leases not given back; they run out by themselves")

    async def _books(self, work: Callable[[], Value]) -> Value:
        return await asyncio.get_running_loop().run_in_executor(self.books, _in_database, work)

    async def _claim(self) -> bool:
        """Take streams that nobody reads; True if there may be more."""
        self._drop_ended()
        most = min(CLAIMED_AT_ONCE, MOST_STREAMS - len(self.reading))
        if most <= 0:
            return False
        try:
            leases = await self._books(lambda: claim_streams(most))
        except (DatabaseError, InterfaceError) as exc:
            log.warning("database trouble", error=type(exc).__name__)
            return False
        for lease in leases:
            self.reading[lease.subscription_id] = (lease, asyncio.create_task(self._read(lease)))
        return len(leases) == most

    def _drop_ended(self) -> None:
        for subscription_id, (lease, task) in list(self.reading.items()):
            if task.done():
                del self.reading[subscription_id]
                if not task.cancelled() and (error := task.exception()) is not None:
                    log.error("reader failed", org=lease.org_id, exc_info=error)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            held = {lease.subscription_id: (lease, task) for lease, task in self.reading.values()}
            try:
                mine = await self._books(lambda held=held: renew([lease for lease, _ in held.values()]))  # type: ignore[misc]
            except (DatabaseError, InterfaceError) as exc:
                log.warning("heartbeat missed", error=type(exc).__name__)
                continue
            for subscription_id, (lease, task) in held.items():
                if subscription_id not in mine:
                    log.warning("lease lost", org=lease.org_id)
                    task.cancel()

    async def _read(self, lease: Lease) -> None:
        """Read one stream, and open it again after whatever breaks it, until the lease is lost."""
        log.info("reading platform events", org=lease.org_id, topic=lease.topic.name)
        refused: AccessToken | None = None
        failures = refusals = 0
        position, since = lease.replay_id, lease.since
        while True:
            token: AccessToken | None = None
            try:
                token = await self._token(lease, refused)
                async for page in pages(self._channel(lease), lease.topic, token, position):
                    refused, failures, refusals = None, 0, 0
                    position = page.replay_id or position
                    if not await self._save(lease, since, page.events, position):
                        return
            except StreamBroken as exc:
                remedy, problem = exc.remedy, str(exc)
            except ApiError as exc:
                remedy = Remedy.RECONNECT if isinstance(exc, ServiceUnavailable) else Remedy.CUSTOMER_MUST_ACT
                problem = str(exc)
            else:
                remedy, problem = Remedy.RECONNECT, "ended by Salesforce"
            log.warning("stream broken", org=lease.org_id, remedy=remedy.value, problem=problem)
            if remedy is Remedy.NEW_TOKEN:
                refused, refusals = token, refusals + 1
                if refusals == MOST_REFUSED_TOKENS:
                    remedy = Remedy.CUSTOMER_MUST_ACT
            if remedy is Remedy.START_OVER:
                # known events are recognised; of those that are not, none is worth sending when it is old
                position = b""
                since = max(since, timezone.now() - OLDEST_AFTER_GAP)
            failures += 1
            await self._note(lease, remedy, problem)
            pause = PAUSES.get(remedy, random.uniform(0.1, min(0.3 * 2**failures, LONGEST_PAUSE_SECONDS)))
            await self._pause(pause)
            if remedy is Remedy.CUSTOMER_MUST_ACT:
                # whoever reads next takes what the customer has changed meanwhile from the rows
                await self._books(lambda: release([lease]))
                return

    async def _pause(self, seconds: float) -> None:
        """Wait, but not longer than until somebody sets up an org: perhaps it is this one."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.announced.wait(), seconds)

    async def _token(self, lease: Lease, refused: AccessToken | None) -> AccessToken:
        get: Callable[[], AccessToken] = lease.tokens.current
        if refused is not None:
            get = lambda: lease.tokens.renew(refused)  # noqa: E731
        return await asyncio.get_running_loop().run_in_executor(self.logins, get)

    def _channel(self, lease: Lease) -> grpc.aio.Channel:
        """Share connections: each carries some hundreds of streams."""
        channels = self.channels.setdefault(lease.endpoint, [])
        number = sum(1 for other, _ in self.reading.values() if other.endpoint == lease.endpoint) // STREAMS_PER_CHANNEL
        while len(channels) <= number:
            channels.append(open_channel(lease.endpoint, plaintext=settings.ALLOW_LOCAL_UPSTREAMS))
        return channels[lease.subscription_id % len(channels)]

    async def _save(self, lease: Lease, since: datetime, events: list[PlatformEvent], position: bytes) -> bool:
        """Have a page written down, and wait for it; False if the lease is lost."""
        batch = StreamBatch(
            org_id=lease.org_id,
            subscription_id=lease.subscription_id,
            lease_id=lease.lease_id,
            since=since,
            topic=lease.topic,
            events=events,
            replay_id=position,
        )
        saved: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.batches.put_nowait((batch, saved))
        return await saved

    async def _write(self) -> None:
        """Write down what streams brought, many of them in one transaction."""
        while True:
            waiting = [await self.batches.get()]
            while not self.batches.empty() and len(waiting) < BATCHES_AT_ONCE:
                waiting.append(self.batches.get_nowait())
            batches = [batch for batch, _ in waiting]
            while True:
                try:
                    saved, work = await self._books(lambda batches=batches: receive_stream_batches(batches))  # type: ignore[misc]
                    break
                except (DatabaseError, InterfaceError) as exc:
                    # the streams wait meanwhile: more is asked for only after a page is saved
                    log.warning("database trouble", error=type(exc).__name__)
                    await asyncio.sleep(0.3)
                except Exception:  # the streams give up their leases, and are read again from where they were
                    log.exception("stream batches not saved")
                    saved, work = set(), False
                    break
            for batch, future in waiting:
                if not future.done():
                    future.set_result(batch.subscription_id in saved)
            if work:
                await self._books(wake)

    async def _note(self, lease: Lease, remedy: Remedy, problem: str) -> None:
        try:
            if remedy is Remedy.START_OVER:
                await self._books(lambda: start_over([lease]))
            await self._books(lambda: note_trouble([lease], problem))
        except (DatabaseError, InterfaceError) as exc:
            log.warning("database trouble", error=type(exc).__name__)


running: Subscriber | None = None  # this process's one, set when it starts
