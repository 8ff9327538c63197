"""Who may post: accounts by the uuid in their address, or, on the bare path, by what an unproven body says of itself.

An account is read at most once in some seconds, however many requests name it, and what many requests ask for at once is
one query, in a thread. Uuids that nobody has wait together, in a bounded number, behind those that are known.
"""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from uuid import UUID

import structlog
from django.conf import settings
from django.db import Error as DatabaseError
from django.db import InterfaceError, connection

from connector.infobip.webhooks import business_number, reported_message, results_of
from connector.phone import spellings_of
from messaging.door_refusals import Refused
from messaging.models import Message
from messaging.query import query
from tenants import repeats
from tenants.encryption import CannotDecrypt, decrypt
from tenants.models import Sender
from tenants.tenancy import every_org

log = structlog.get_logger(__name__)

KNOWN_SECONDS = 5.0  # for which an account is taken as it was read
ANSWER_SECONDS = 3.0  # for which a request waits until its account is known
TURN_SECONDS = 0.02  # from one query to the next: what comes meanwhile shares it
STATEMENT_SECONDS = 2
MOST_IN_TURN = 500
MOST_WAITING = 1000  # requests for accounts that we do not know yet
MOST_KNOWN = 10_000
MOST_UNKNOWN = 1000

# On the bare path somebody unproven says whose the body is: at most so much of it is looked at.
MOST_CANDIDATES = 5
MOST_RESULTS = 100
MOST_BARE_WAITING = 32
PENALTY = 3.0  # times as long as it took to find out that somebody proves nothing
MOST_PENALTY = 0.5  # seconds


@dataclass(frozen=True, slots=True)
class Account:
    """What the door needs to know of an account.

    :param secrets: the current one and the one of before; None where no key of ours decrypts them
    """

    id: int
    org_id: int
    signature_header: bytes
    secrets: tuple[str, str] | None


Judge = Callable[[Sequence[Account]], Account]


class Accounts:
    """Finds accounts, from an event loop."""

    def __init__(self) -> None:
        # a thread each, so that the bare path keeps nobody from being found on their own
        self._thread = ThreadPoolExecutor(1, "door-accounts")
        self._bare_thread = ThreadPoolExecutor(1, "door-bare-path")
        self._bare_waiting = 0
        self._known: dict[str, tuple[float, Account]] = {}
        self._unknown: dict[str, float] = {}
        self._waiting: dict[str, asyncio.Future[Account | None]] = {}
        self._turns: asyncio.Task[None] | None = None

    async def find(self, uuid: str, *, since: float = 0.0) -> Account | None:
        """Find an account by its uuid; None if nobody has it.

        :param uuid: in its canonical spelling
        :param since: of the monotonic clock: what was read before is read again
        :raises Refused: 503 if it cannot be found out now
        """
        oldest = max(since, time.monotonic() - KNOWN_SECONDS)
        read_at, account = self._known.get(uuid, (0.0, None))
        if read_at >= oldest:
            return account
        if self._unknown.get(uuid, 0.0) >= oldest:
            return None
        answer = self._waiting.get(uuid)
        if answer is None:
            if account is None and len(self._waiting) >= MOST_WAITING:
                raise _cannot_say()
            answer = self._waiting[uuid] = asyncio.get_running_loop().create_future()
            if self._turns is None or self._turns.done():
                self._turns = asyncio.create_task(self._take_turns())
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await asyncio.shield(answer)
        except TimeoutError:
            raise _cannot_say() from None

    async def _take_turns(self) -> None:
        while self._waiting:
            began = time.monotonic()
            # those that were known a moment ago first: no flood of made-up uuids is before them
            names = sorted(self._waiting, key=lambda uuid: uuid not in self._known)[:MOST_IN_TURN]
            turn = {uuid: self._waiting.pop(uuid) for uuid in names}
            try:
                found = await asyncio.get_running_loop().run_in_executor(self._thread, _read_accounts, names)
            except Exception as exc:
                if not isinstance(exc, DatabaseError | InterfaceError):
                    repeats.say(log.exception, "accounts not read", type(exc).__name__)
                for answer in turn.values():
                    answer.set_exception(_cannot_say())
                    answer.exception()  # asked for here, in case nobody waits any more
            else:
                for uuid, answer in turn.items():
                    self._remember(uuid, began, found.get(uuid))
                    answer.set_result(found.get(uuid))
            await asyncio.sleep(max(0.0, began + TURN_SECONDS - time.monotonic()))

    def _remember(self, uuid: str, read_at: float, account: Account | None) -> None:
        self._known.pop(uuid, None)
        self._unknown.pop(uuid, None)
        if account is not None:
            self._known[uuid] = (read_at, account)
        else:
            self._unknown[uuid] = read_at
        for kept, most in ((self._known, MOST_KNOWN), (self._unknown, MOST_UNKNOWN)):
            if len(kept) > most:
                del kept[next(iter(kept))]  # the one that was read longest ago

    async def signer(self, body: bytes, judge: Judge) -> Account:
        """Find out who signed a body on the bare path, among the few accounts that it may come from.

        :param judge: says which of them did, or raises ``Refused``; it runs in a thread
        :raises Refused: 503 if too many wait for that, or it cannot be found out now; and what the judge raises
        """
        if self._bare_waiting >= MOST_BARE_WAITING:
            raise _cannot_say()
        self._bare_waiting += 1
        answer = asyncio.get_running_loop().run_in_executor(self._bare_thread, _find_signer, body, judge)
        answer.add_done_callback(self._bare_done)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await asyncio.shield(answer)
        except (DatabaseError, InterfaceError, TimeoutError):
            raise _cannot_say() from None

    def _bare_done(self, answer: asyncio.Future[Account]) -> None:
        self._bare_waiting -= 1
        answer.exception()  # asked for here, in case nobody waits any more


def _cannot_say() -> Refused:
    return Refused(503, "account not found out", "The message cannot be stored now. Send it again.")


# secrets as ciphertext: one account's that cannot be decrypted must not keep the others of the query out
_ACCOUNT = """SELECT uuid::text, id, org_id, signature_header, webhook_secret, previous_webhook_secret
              FROM tenants_infobipaccount"""


def _connect() -> None:
    """Have a connection that no lock holds up for long; this thread is ours alone, so this is set once."""
    connection.close_if_unusable_or_obsolete()
    if connection.connection is None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET statement_timeout = '{STATEMENT_SECONDS}s'")


def _read_accounts(uuids: Sequence[str]) -> dict[str, Account]:
    try:
        return _select_accounts(uuids)
    except (DatabaseError, InterfaceError):
        connection.close()  # perhaps only this connection was lost
    try:
        return _select_accounts(uuids)
    except (DatabaseError, InterfaceError):
        connection.close()
        raise


def _select_accounts(uuids: Sequence[str]) -> dict[str, Account]:
    with every_org():
        _connect()
        rows = query(f"{_ACCOUNT} WHERE uuid = ANY(%s::uuid[])", [list(uuids)])
    return {uuid: _account(*row) for uuid, *row in rows}


def _account(account_id: int, org_id: int, header: str, secret: str, previous: str) -> Account:
    secrets: tuple[str, str] | None
    try:
        secrets = (decrypt(secret) if secret else "", decrypt(previous) if previous else "")
    except CannotDecrypt:
        facts = {"org": org_id, "account": account_id}
        repeats.say(log.error, "webhook secret cannot be decrypted", account_id, **facts)
        secrets = None
    name = (header or settings.INFOBIP_SIGNATURE_HEADER).strip().lower()
    return Account(account_id, org_id, name.encode("ascii", "replace"), secrets)


def _find_signer(body: bytes, judge: Judge) -> Account:
    began = time.monotonic()
    try:
        return judge(_read_candidates(body))
    except Refused:
        # requests without credentials get a part of this thread's time, and of the interpreter's, whatever they send
        time.sleep(min(MOST_PENALTY, PENALTY * (time.monotonic() - began)))
        raise


def _read_candidates(body: bytes) -> list[Account]:
    numbers, uuids = _names_in(body)
    try:
        with every_org():
            _connect()
            spellings = {each for number in numbers for each in spellings_of(number)}
            ids = set(Sender.objects.filter(number__in=spellings).order_by("pk").values_list("account_id", flat=True)[:100])
            reported = Message.objects.filter(uuid__in=uuids, sender__isnull=False)
            ids |= set(reported.values_list("sender__account_id", flat=True))
            # the oldest first: who claims another's number later cannot crowd it out
            rows = query(f"{_ACCOUNT} WHERE id = ANY(%s) ORDER BY id LIMIT %s", [sorted(ids), MOST_CANDIDATES])
            return [_account(*row) for _, *row in rows]
    except (DatabaseError, InterfaceError):
        connection.close()
        raise


def _names_in(body: bytes) -> tuple[set[str], set[UUID]]:
    """Name the senders, and the messages reported on, that a body speaks of: a handful, whatever it says."""
    numbers: set[str] = set()
    uuids: set[UUID] = set()
    with suppress(ValueError, RecursionError):
        for result in islice(results_of(json.loads(body)), MOST_RESULTS):
            if len(numbers) < MOST_CANDIDATES and (number := business_number(result)):
                numbers.add(number)
            if len(uuids) < MOST_CANDIDATES and (uuid := reported_message(result)):
                uuids.add(uuid)
    return numbers, uuids
