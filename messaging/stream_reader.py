"""Reads one org's stream, and opens it again after whatever breaks it."""

import asyncio
import hashlib
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any

import structlog

from connector.http import ApiError, ServiceUnavailable
from connector.salesforce.auth import AccessToken
from connector.salesforce.platform_events import PlatformEvent, is_typing
from connector.salesforce.pubsub.channel import Remedy, StreamBroken
from connector.salesforce.pubsub.schemas import SchemaUnavailable
from connector.salesforce.pubsub.stream import MOST_OUTSTANDING, SILENCE_SECONDS, Page, Start, pages
from messaging.intake import StreamBatch
from messaging.stream_connections import Channels, Logins
from messaging.stream_writer import NotSaved, StreamWriter
from messaging.subscriptions import StreamLease, Trouble
from tenants.database import facts_of
from tenants.encryption import CannotDecrypt

log = structlog.get_logger(__name__)

LONGEST_PAUSE_SECONDS = 10.0
MOST_REFUSED_TOKENS = 3  # ours, the one that another process shared before all were revoked, and a new one
PAUSES = {Remedy.SLOW_DOWN: 30.0, Remedy.CUSTOMER_MUST_ACT: 30.0}
AT_ONCE = {Remedy.START_OVER, Remedy.NEW_TOKEN}  # the first time, these are no reason to wait
SCHEMA_SECONDS = 900.0  # for as long events wait for a schema that cannot be fetched, and those behind them


@dataclass(slots=True)
class SchemaTroubles:
    """Since when schemas cannot be fetched, by stream: readers come and go, so this is the process's."""

    seconds: float = SCHEMA_SECONDS
    since: dict[tuple[int, str], float] = field(default_factory=dict)

    def note(self, subscription_id: int, schema_id: str) -> None:
        """Note that a schema could not be fetched."""
        self.since.setdefault((subscription_id, schema_id), time.monotonic())

    def forget(self, subscription_id: int) -> None:
        """Note that a stream goes on; what is not waited for any more stays so, until its schema can be fetched."""
        now = time.monotonic()
        for (stream, schema_id), since in list(self.since.items()):
            if stream == subscription_id and now - since < self.seconds:
                del self.since[stream, schema_id]

    def impatient(self, subscription_id: int) -> frozenset[str]:
        """Name the schemas that a stream waits for no longer."""
        now = time.monotonic()
        return frozenset(
            schema_id
            for (stream, schema_id), since in self.since.items()
            if stream == subscription_id and now - since >= self.seconds
        )


@dataclass(frozen=True, slots=True)
class Means:
    """What the readers of a process share.

    ``wait`` pauses so many seconds, but not longer than until somebody sets up an org: perhaps it is this one.
    """

    logins: Logins
    channels: Channels
    writer: StreamWriter
    schemas: SchemaTroubles
    wait: Callable[[float], Awaitable[Any]]
    silence_seconds: float = SILENCE_SECONDS


class StreamReader:
    """Reads one stream, under a lease, from where its row says."""

    def __init__(self, lease: StreamLease, means: Means) -> None:
        self.lease, self.means = lease, means
        self.position, self.since = lease.replay_id, lease.since
        self.latest = False  # whether to begin with what is published from now on
        self.most, self.alone = MOST_OUTSTANDING, False  # events asked for at a time; one that is too large for others
        self.token: AccessToken | None = None
        self.refused: AccessToken | None = None
        self.failures = self.refusals = 0

    async def read(self) -> None:
        """Read until the lease is lost, or the customer must act first."""
        log.info("reading platform events", org=self.lease.org_id, topic=self.lease.topic.name)
        while True:
            try:
                if await self._read_pages():
                    continue
                return
            except StreamBroken as exc:
                remedy, problem = exc.remedy, str(exc)
                if isinstance(exc, SchemaUnavailable):
                    self.means.schemas.note(self.lease.subscription_id, exc.schema_id)
            except ApiError as exc:
                remedy = Remedy.RECONNECT if isinstance(exc, ServiceUnavailable) else Remedy.CUSTOMER_MUST_ACT
                problem = str(exc)
            except CannotDecrypt as exc:
                remedy, problem = Remedy.CUSTOMER_MUST_ACT, str(exc)
            except NotSaved as exc:
                remedy, problem = Remedy.SLOW_DOWN, f"what it brought cannot be saved: {exc}"
            except Exception as exc:  # this stream only, and where everybody sees it
                remedy, problem = Remedy.SLOW_DOWN, f"failed: {type(exc).__name__}"
                log.error("reader failed", org=self.lease.org_id, **facts_of(exc))
            if not await self._mend(remedy, problem):
                return

    async def _read_pages(self) -> bool:
        """Read until the stream breaks; False if the lease is lost, True to open it again at once."""
        lease, means = self.lease, self.means
        self.token = await means.logins.token(lease, self.refused)
        start = Start(self.position, self.latest, self.most, means.schemas.impatient(lease.subscription_id))
        with means.channels.share(lease.endpoint, alone=self.alone) as channel:
            stream: Any = pages(channel, lease.topic, self.token, start, silence_seconds=means.silence_seconds)
            async with aclosing(stream):
                async for page in stream:
                    if not await self._save(page):
                        return False
                    self._note_success(page)
                    if self.alone:  # behind the large one, events are read as before
                        self.alone = False
                        return True
        return True

    async def _save(self, page: Page) -> bool:
        # typing is over before it could reach anybody
        events = [event for event in page.events if not is_typing(event, self.lease.topic)]
        if not await self.means.writer.save(self._batch(events, page.replay_id)):
            return False
        self.position = page.replay_id
        return True

    def _batch(self, events: list[PlatformEvent], replay_id: bytes) -> StreamBatch:
        lease = self.lease
        return StreamBatch(
            org_id=lease.org_id,
            subscription_id=lease.subscription_id,
            lease_id=lease.lease_id,
            since=self.since,
            topic=lease.topic,
            events=events,
            replay_id=replay_id,
        )

    def _note_success(self, page: Page) -> None:
        self.refused, self.failures, self.refusals, self.latest = None, 0, 0, False
        if page.events:
            self.most = MOST_OUTSTANDING
            self.means.schemas.forget(self.lease.subscription_id)

    async def _mend(self, remedy: Remedy, problem: str) -> bool:
        """Do what a broken stream needs; False if that is up to the customer."""
        lease = self.lease
        log.warning("stream broken", org=lease.org_id, remedy=remedy.value, problem=problem)
        self.failures += 1
        if remedy is Remedy.NEW_TOKEN:
            self.refused, self.refusals = self.token, self.refusals + 1
            if self.refusals >= MOST_REFUSED_TOKENS:
                remedy = Remedy.CUSTOMER_MUST_ACT
        elif remedy is Remedy.START_OVER:
            await self._start_over()
        elif remedy is Remedy.FEWER_EVENTS:
            await self._ask_for_fewer(problem)
        self.means.writer.note(Trouble(lease, problem))
        await self.means.wait(self._pause_after(remedy))
        if remedy is Remedy.CUSTOMER_MUST_ACT:
            # whoever reads next takes what the customer has changed meanwhile from the rows
            await self.means.writer.release(lease)
            return False
        return True

    def _pause_after(self, remedy: Remedy) -> float:
        if remedy in PAUSES:
            return PAUSES[remedy]
        if remedy in AT_ONCE and self.failures <= MOST_REFUSED_TOKENS:
            return 0.0
        return random.uniform(0.1, min(0.3 * 2 ** min(self.failures, 10), LONGEST_PAUSE_SECONDS))

    async def _start_over(self) -> None:
        while (since := await self.means.writer.start_over(self.lease)) is None:
            await asyncio.sleep(0.3)  # the database is away, or the lease is lost: then this reader is stopped soon
        self.position, self.since = b"", since

    async def _ask_for_fewer(self, problem: str) -> None:
        """Ask for one event at a time, then for one that may be larger than any should be, and then go on without it."""
        if self.most > 1:
            self.most = 1
        elif not self.alone:
            self.alone = True
        else:
            # nobody can tell where the next event begins, so reading goes on with what is published from now on
            event = PlatformEvent(
                id=f"unfetched:{hashlib.sha256(self.position).hexdigest()}",
                payload=b"",
                record=None,
                problem=f"{problem}; reading went on with what was published afterwards",
                replay_id=self.position,
            )
            with suppress(NotSaved):  # then it is tried again: nothing is passed over that nobody can see
                await self.means.writer.save(self._batch([event], self.position))
                self.alone, self.latest = False, True
