"""The door that Infobip posts to: proof, one row, 200. It runs on the web server's event loop, in front of Django.

In this order, so that a request without credentials costs next to nothing: address and method, account, a
signature header before a byte of the body is read, size, the body within bounds of time and memory, its HMAC, and only
then a look at what it is. What it says is found out by ingesting (messaging/ingest.py), once it is stored.
"""

import json
import re
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID
from weakref import WeakValueDictionary

from django.conf import settings

from connector.infobip.signature import SignatureCheck, digests_in
from connector.infobip.webhooks import reported_message, results_of
from messaging.door_accounts import Account, Accounts
from messaging.door_body import ClientGone, Held, Receive, Room, broken, length_of
from messaging.door_refusals import Refused, refusals
from messaging.inbox import Inbox, NotStored
from tenants.report_tokens import PATTERN as TOKEN
from tenants.report_tokens import message_of

# What reading a body costs goes by its values rather than its bytes; a delivery of 2,000 messages, the most that a profile
# can ask for, has some 50,000.
MOST_VALUES = 500_000
LARGEST_BARE = 256 * 1024  # bytes on the bare path, before anything is proven
LARGEST_REPORT = 64 * 1024  # bytes of the reports on one message

_UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_ADDRESS = re.compile(
    f"/api/infobip/inbound/(?:messages(?:/(?P<account>{_UUID}))?|reports/(?P<reporter>{_UUID})/(?P<token>{TOKEN}))"
)
_NEAR = re.compile("api/infobip|infobip/inbound")
_ACCOUNT = re.compile(_UUID)
# What counts as JSON: an object or an array begins, perhaps after a byte order mark. The rest is for ingesting to find
# out: to parse sixteen MiB of brackets takes seconds and half a gigabyte.
_JSON = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\r\n]*[{\[]")

NOT_SIGNED = (
    "The request is not signed for an account that is known here. "
    "Add HMAC authentication to the notification profile, and use the account's own address."
)
WRONG_SIGNATURE = "The signature does not fit. Set the secret of the notification profile's HMAC authentication to ours."
WRONG_ADDRESS = "This address was not given out for reports on this message."
NOT_STORED = "The message cannot be stored now. Send it again."
CLOSE = (b"connection", b"close")

Scope = MutableMapping[str, Any]
Headers = Iterable[tuple[bytes, bytes]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def tidied(path: str) -> str:
    """Take from a path what a slip of the hand adds: capitals, slashes too many, blanks and line breaks at its ends."""
    return "/" + re.sub("/{2,}", "/", path.strip(" \t\r\n/")).lower()


def address_in(path: str) -> re.Match[str] | None:
    """Recognise an address of the door where it is unmistakable.

    :return: a match with the account's uuid as ``account``, None on the bare path; or, for reports on one message, with it
        as ``reporter`` and the message's ``token``
    """
    return _ADDRESS.fullmatch(path) or _ADDRESS.fullmatch(tidied(path))


def is_nearly_ours(path: str) -> bool:
    """Tell whether a path looks like one that Infobip was meant to be given."""
    return _NEAR.search(tidied(path)) is not None


class Door:
    """Takes webhooks, from an event loop: make one when the loop runs.

    https://asgi.readthedocs.io/en/latest/specs/www.html
    """

    def __init__(self) -> None:
        self.inbox = Inbox()
        self.accounts = Accounts()
        self._house = Room(4 * settings.LARGEST_WEBHOOK)
        self._bare_room = Room(16 * LARGEST_BARE, self._house)
        self._rooms: WeakValueDictionary[int, Room] = WeakValueDictionary()  # each for as long as a request is in it

    async def close(self) -> None:
        """End what runs by itself."""
        await self.inbox.close()
        refusals.flush()

    async def take(self, address: re.Match[str], scope: Scope, receive: Receive, send: Send) -> None:
        """Take messages and reports; answer 200 once they are committed.

        400, 401, 405 and 413 say that the same request will never be taken, 408 that it came too slowly; 503 asks Infobip
        to send it again.

        :param address: as ``address_in`` recognised it
        """
        try:
            if scope["method"] != "POST":
                raise Refused(405, "not a POST", "Webhooks are taken by POST only.")
            if address["token"]:
                await self._take_reports(address["reporter"], address["token"], scope["headers"], receive)
            elif address["account"]:
                await self._take_own(address["account"], scope["headers"], receive)
            else:
                await self._take_bare(scope["headers"], receive)
        except Refused as refused:
            await refuse(refused, scope, send)
        except ClientGone:
            await send_refusal(broken(), send)
        else:
            await answer(send, 200)

    async def miss(self, path: str, scope: Scope, send: Send) -> None:
        """Count an address that is nearly ours, for its account where it names one, and answer 404."""
        advice = "There is nothing at this address. Copy it from the senders' step of the set-up page."
        refused = Refused(404, "near miss", advice)
        named = _ACCOUNT.search(path.lower())
        with suppress(Refused):  # where the account cannot be found out it is counted for nobody
            if named and (account := await self.accounts.find(named.group())):
                refused.of(account.org_id, account.id)
        await refuse(refused, scope, send)

    async def _take_own(self, uuid: str, headers: Headers, receive: Receive) -> None:
        began = time.monotonic()
        account = await self.accounts.find(uuid)
        if account is not None and not _header(headers, account):
            account = await self.accounts.find(uuid, since=began)  # perhaps its header has just been named
        if account is None:
            raise Refused(401, "unknown account", NOT_SIGNED)
        try:
            with Held(self._room(account.id)) as held:
                check = _begin_check(headers, account)
                length = length_of(headers, settings.LARGEST_WEBHOOK)
                body = await held.read(receive, length=length, limit=settings.LARGEST_WEBHOOK, update=check.update)
                if not _fits(check, account) and not await self._fits_now(uuid, account, began, headers, body):
                    raise Refused(401, "wrong signature", WRONG_SIGNATURE)
                await self._append(account, body)
        except Refused as refused:
            refused.of(account.org_id, account.id)
            raise

    async def _fits_now(self, uuid: str, account: Account, began: float, headers: Headers, body: bytes) -> bool:
        """Tell whether the signature fits after all, since the account's secret has just been changed."""
        now = await self.accounts.find(uuid, since=began)
        if now is None or now == account:
            return False
        check = _begin_check(headers, now)
        check.update(body)
        return _fits(check, now)

    async def _take_bare(self, headers: Headers, receive: Receive) -> None:
        if not settings.BARE_WEBHOOK_PATH:
            raise Refused(404, "bare path", "Only accounts' own addresses are served here. Use the account's own address.")
        # each account may name its own header, and whose this is only the body can say
        if not any(digests_in(value.decode("latin-1")) for _, value in headers):
            raise Refused(401, "no signature", NOT_SIGNED)
        with Held(self._bare_room) as held:
            limit = min(LARGEST_BARE, settings.LARGEST_WEBHOOK)
            body = await held.read(receive, length=length_of(headers, limit), limit=limit)
            account = await self.accounts.signer(body, lambda accounts: _signer(accounts, headers, body))
            try:
                await self._append(account, body)
            except Refused as refused:
                refused.of(account.org_id, account.id)
                raise

    async def _take_reports(self, uuid: str, token: str, headers: Headers, receive: Receive) -> None:
        """Take the reports on one message, which its address proves; the body may speak of nothing else."""
        message = message_of(UUID(uuid), token)
        account = await self.accounts.find(uuid) if message is not None else None
        if account is None:
            raise Refused(401, "wrong report address", WRONG_ADDRESS)
        try:
            with Held(self._room(account.id)) as held:
                body = await held.read(receive, length=length_of(headers, LARGEST_REPORT), limit=LARGEST_REPORT)
                if not _reports_on(message, body):
                    raise Refused(401, "report on another message", WRONG_ADDRESS)
                await self._append(account, body)
        except Refused as refused:
            refused.of(account.org_id, account.id)
            raise

    async def _append(self, account: Account, body: bytes) -> None:
        if not _JSON.match(body):
            raise Refused(400, "not JSON", "The body is not JSON.")
        if len(body) > MOST_VALUES and sum(body.count(each) for each in (b",", b"[", b"{")) > MOST_VALUES:
            raise Refused(
                413, "too many values", f"The body holds over {MOST_VALUES} values. Send fewer results at a time."
            )
        try:
            await self.inbox.append(account.org_id, account.id, body)
        except NotStored:
            raise Refused(503, "not stored", NOT_STORED) from None

    def _room(self, account_id: int) -> Room:
        room = self._rooms.get(account_id)
        if room is None:
            room = self._rooms[account_id] = Room(2 * settings.LARGEST_WEBHOOK, self._house)
        return room


def _reports_on(message: UUID | None, body: bytes) -> bool:
    with suppress(ValueError, RecursionError):
        return all(reported_message(each) == message for each in results_of(json.loads(body)))
    return False


def _header(headers: Headers, account: Account) -> str:
    """Give the account's signature header; where it came several times, a list, which says the same (RFC 9110, 5.3)."""
    return ",".join(value.decode("latin-1") for name, value in headers if name == account.signature_header)


def _begin_check(headers: Headers, account: Account) -> SignatureCheck:
    """Begin to check a signature.

    :raises Refused: if no body whatever can fit it
    """
    header = _header(headers, account)
    if not header:
        raise Refused(401, "no signature", NOT_SIGNED)
    if account.secrets is None:
        # our fault, not the sender's: what is sent again will be taken once the key is back
        raise Refused(503, "secret cannot be decrypted", NOT_STORED)
    check = SignatureCheck(header, account.secrets)
    if check.hopeless:
        raise Refused(401, "wrong signature", WRONG_SIGNATURE)
    return check


def _fits(check: SignatureCheck, account: Account) -> bool:
    fitting = check.fitting()
    if fitting == 1:
        refusals.note_old_secret(account.id)
    return fitting is not None


def _signer(accounts: Sequence[Account], headers: Headers, body: bytes) -> Account:
    """Find out which of a few accounts signed a body.

    :raises Refused: if none did
    """
    refused = Refused(401, "no signature", NOT_SIGNED)
    for account in accounts:
        try:
            check = _begin_check(headers, account)
            check.update(body)
            if _fits(check, account):
                return account
            refused = Refused(401, "wrong signature", WRONG_SIGNATURE)
        except Refused as exc:
            refused = exc
        if len(accounts) == 1:
            refused.of(account.org_id, account.id)
    raise refused


async def refuse(refused: Refused, scope: Scope, send: Send) -> None:
    """Answer with an error, and note it."""
    refusals.note(refused, (name.decode("latin-1") for name, _ in scope["headers"]))
    await send_refusal(refused, send)


async def send_refusal(refused: Refused, send: Send) -> None:
    """Answer with an error, and close the connection: nobody unproven holds one, nor has more worked on behind it."""
    headers = [(b"content-type", b"application/json"), CLOSE]
    if refused.status == 405:
        headers.append((b"allow", b"POST"))
    await answer(send, refused.status, json.dumps({"error": refused.advice}).encode(), headers)


async def answer(send: Send, status: int, body: bytes = b"", headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """Answer a request."""
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
    await send({"type": "http.response.body", "body": body, "more_body": False})
