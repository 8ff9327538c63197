"""Appends what the door took to the inbox: one writer a process, one statement and one commit for all that wait.

While a commit is under way the next batch gathers, so that a commit costs the less a row the more there is to do. It runs
on the door's event loop, on a connection of its own: a thread would hand the GIL to and fro for each batch.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, takewhile
from typing import Any

import psycopg
import structlog
from django.db import connection

from messaging.wake import INBOX_CHANNEL
from tenants.database import is_spent

log = structlog.get_logger(__name__)

# Each limit is inside the one before it. When the first is over, Infobip is asked to send again; that the row is committed
# after all then does no harm, since a repeated arrival is recognised.
WAIT_SECONDS = 5.0  # for which a request waits for its batch, accurate to half a second
STORE_SECONDS = 4.5  # for a batch, a second try included; then its connection is given up
LOOK_SECONDS = 0.5
STATEMENT_SECONDS = 3.5
LOCK_SECONDS = 3.0

BATCH_SECONDS = 0.003  # from the beginning of one batch to that of the next, unless nothing waits
FAILED_SECONDS = 0.05  # the same after one that was not stored
MOST_ROWS = 500
MOST_BYTES = 4 * 1024 * 1024  # of bodies in a batch of more than one
NOTIFY_SECONDS = 0.005  # from one NOTIFY to the next
PAUSE_SECONDS = 1.0  # after one that failed: the worker looks by itself meanwhile
LOG_SECONDS = 10.0

# ids come from the sequence in the order of the rows, and rows are committed before anything that comes later gets its id
APPEND = """INSERT INTO messaging_inbox (org_id, account_id, body)
            SELECT * FROM unnest(%s::bigint[], %s::bigint[], %b::bytea[])"""


@dataclass(slots=True)
class _Row:
    org_id: int
    account_id: int
    body: bytes
    since: float
    stored: asyncio.Future[bool]


class NotStored(Exception):
    """The row is not known to be committed."""


def _tell(rows: Iterable[_Row], *, stored: bool) -> None:
    for row in rows:
        if not row.stored.done():
            row.stored.set_result(stored)


def _older(rows: Iterable[_Row], *, than: float) -> Iterable[_Row]:
    return takewhile(lambda row: row.since < than, rows)


class Inbox:
    """The inbox, for those who append to it from one event loop."""

    def __init__(self) -> None:
        self._waiting: deque[_Row] = deque()
        self._wanted = asyncio.Event()
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._notifier = _Notifier()
        self._abandoned: set[asyncio.Task[bool]] = set()
        self._failed_at: float | None = None
        self._writer = asyncio.create_task(self._write_on())

    async def append(self, org_id: int, account_id: int, body: bytes) -> None:
        """Append a row, and return when it is committed.

        :raises NotStored: if it is not known to be within five seconds
        """
        loop = asyncio.get_running_loop()
        row = _Row(org_id, account_id, body, loop.time(), loop.create_future())
        self._waiting.append(row)
        self._wanted.set()
        if not await row.stored:
            raise NotStored

    async def close(self) -> None:
        """Stop writing; whoever still waits is told that it is not stored."""
        self._writer.cancel()
        await self._notifier.close()
        _tell(self._waiting, stored=False)
        if self._connection is not None:
            await self._connection.close()

    async def _write_on(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wanted.wait()
            began = loop.time()
            batch = self._next_batch()
            if not batch:
                self._wanted.clear()
                continue
            try:
                stored = await self._store(batch)
            except Exception:  # the loop outlives whatever it is
                log.exception("inbox not written")
                stored = False
            _tell(batch, stored=stored)
            if stored:
                self._notifier.notify()
            await asyncio.sleep(max(0.0, began + (BATCH_SECONDS if stored else FAILED_SECONDS) - loop.time()))

    def _next_batch(self) -> list[_Row]:
        batch: list[_Row] = []
        size = 0
        while self._waiting and len(batch) < MOST_ROWS:
            if self._waiting[0].stored.done():  # answered already: it waited too long, or its client is gone
                self._waiting.popleft()
                continue
            size += len(self._waiting[0].body)
            if batch and size > MOST_BYTES:
                break
            batch.append(self._waiting.popleft())
        return batch

    async def _store(self, batch: Sequence[_Row]) -> bool:
        """Store a batch; False if it is not known to be stored in time."""
        loop = asyncio.get_running_loop()
        task, until = asyncio.create_task(self._try_twice(batch)), loop.time() + STORE_SECONDS
        while not task.done() and (left := until - loop.time()) > 0:
            await asyncio.wait([task], timeout=min(left, LOOK_SECONDS))
            if not task.done():
                _tell(_older(chain(batch, self._waiting), than=loop.time() - WAIT_SECONDS), stored=False)
        if task.done():
            return task.result()
        # Where the server does not answer, ending a statement takes longer still: that goes on by itself.
        self._connection = None
        self._abandoned.add(task)
        task.add_done_callback(self._abandoned.discard)
        task.cancel()
        self._failed("no answer")
        return False

    async def _try_twice(self, batch: Sequence[_Row]) -> bool:
        orgs = "{" + ",".join([str(row.org_id) for row in batch]) + "}"
        accounts = "{" + ",".join([str(row.account_id) for row in batch]) + "}"
        bodies = [row.body for row in batch]
        used = self._connection
        while True:
            own = used
            try:
                if own is None:
                    own = await _connect(statement_timeout=STATEMENT_SECONDS, lock_timeout=LOCK_SECONDS)
                    self._connection = own
                cursor = await own.execute(APPEND, (orgs, accounts, bodies))
                if cursor.rowcount != len(batch):
                    raise psycopg.DataError(f"{cursor.rowcount} rows inserted")
            except BaseException as exc:
                # after any error a new connection is the better one: to a server that is the primary, for instance
                lost = own is not None and is_spent(own, exc)
                if own is not None:
                    own.pgconn.finish()
                if self._connection is own:
                    self._connection = None
                if not isinstance(exc, psycopg.Error):
                    raise
                if lost and used is not None:
                    used = None  # it had been idle, perhaps for long: once more on a new one
                    continue
                self._failed(type(exc).__name__)
                return False
            if self._failed_at is not None:
                self._failed_at = None
                log.info("inbox written again")
            return True

    def _failed(self, error: str) -> None:
        now = asyncio.get_running_loop().time()
        if self._failed_at is None or now - self._failed_at >= LOG_SECONDS:
            self._failed_at = now
            log.error("inbox not written", error=error)


class _Notifier:
    """Tells the workers that there is something in the inbox, after the commits, and never in anybody's way.

    On a connection of its own, without a flush: in the batch's own transaction NOTIFY would hold a lock of the whole
    cluster until the commit is on disk. Those that come at once are one.
    """

    def __init__(self) -> None:
        self._wanted = asyncio.Event()
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._task = asyncio.create_task(self._notify_on())

    def notify(self) -> None:
        self._wanted.set()

    async def close(self) -> None:
        self._task.cancel()
        if self._connection is not None:
            await self._connection.close()

    async def _notify_on(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                async with asyncio.timeout(STORE_SECONDS):
                    if self._connection is None:
                        self._connection = await _connect(statement_timeout=STATEMENT_SECONDS, synchronous_commit="off")
                    await self._connection.execute(f"NOTIFY {INBOX_CHANNEL}")
            except (psycopg.Error, TimeoutError) as exc:
                log.warning("workers not notified", error=type(exc).__name__)
                if self._connection is not None:
                    self._connection.pgconn.finish()
                    self._connection = None
                await asyncio.sleep(PAUSE_SECONDS)
            else:
                await asyncio.sleep(NOTIFY_SECONDS)


async def _connect(*, synchronous_commit: str = "on", **seconds: float) -> psycopg.AsyncConnection[Any]:
    """Connect as Django does, with limits of our own, and with no scope: that is who may append to the inbox."""
    parameters = connection.get_connection_params()
    for name in ("context", "cursor_factory", "prepare_threshold"):
        parameters.pop(name, None)
    limits = {name: f"{int(value * 1000)}ms" for name, value in seconds.items()}
    limits |= {"idle_in_transaction_session_timeout": "5s", "synchronous_commit": synchronous_commit}
    options = [parameters.pop("options", ""), *(f"-c {name}={value}" for name, value in limits.items())]
    parameters |= {"options": " ".join(options).strip(), "application_name": "connector inbox"}
    return await psycopg.AsyncConnection.connect(**parameters, autocommit=True, prepare_threshold=0)
