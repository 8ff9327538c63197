"""The door that Infobip posts to: check, find the account, hand on, answer."""

import json
import time
from collections.abc import Sequence
from uuid import UUID

import structlog
from django.conf import settings
from django.db import Error as DatabaseError
from django.db import InterfaceError, connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils.crypto import constant_time_compare
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from connector.infobip.webhooks import business_number, reported_message, results_of, signature_matches
from messaging import handover
from messaging.models import ChatbotMessage, Inbox, Message
from messaging.wake import wake
from tenants.broker import count_refusal, note_old_secret
from tenants.models import InfobipAccount, Sender
from tenants.tenancy import every_org, org_scope

log = structlog.get_logger(__name__)

CHUNK = 1 << 16
LARGEST_CALL = 1 << 16
TOKEN_HEADER = "X-Connector-Token"
MOST_CANDIDATES = 5
KNOWN_SECONDS = 5.0
MOST_KNOWN = 10_000


class _Refused(Exception):
    """A request that is answered with an error; the text tells the sender what to do about it."""

    def __init__(self, status: int, reason: str, advice: str, account: InfobipAccount | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.advice, self.account = status, reason, advice, account


@csrf_exempt
@require_POST
def inbound_messages(request: HttpRequest, account_uuid: UUID | None = None) -> HttpResponse:
    """Take messages and reports; answer 200 once they are committed.

    400, 401 and 413 say that the same request will never be taken; 503 asks Infobip to send it again.
    """
    try:
        body = _read(request, settings.LARGEST_WEBHOOK)
    except _Refused as refused:
        return _refuse(request, refused)
    try:
        return _take(request, body, account_uuid)
    except (DatabaseError, InterfaceError):
        connection.close()  # perhaps only this connection was lost; what was committed is recognised when it comes again
    try:
        return _take(request, body, account_uuid)
    except (DatabaseError, InterfaceError) as exc:
        connection.close()
        log.error("webhook not stored", error=type(exc).__name__)
        return JsonResponse({"error": "The message cannot be stored now. Send it again."}, status=503)


@csrf_exempt
@require_POST
def inbound_answers(request: HttpRequest, account_uuid: UUID | None = None) -> HttpResponse:
    """Take a chatbot's call that hands a conversation over; answer 200 once it is committed, with what became of it.

    Whether the conversation exists and the end user takes part in it is found out afterwards: while a chatbot waits for
    this answer it hears nobody. 400 and 401 say what to change in the Call API step; 503 asks for a repetition.
    """
    try:
        try:
            return _take_call(request, account_uuid)
        except _Refused as refused:
            return _refuse(request, refused)
    except (DatabaseError, InterfaceError) as exc:
        connection.close()
        log.error("hand-over not stored", error=type(exc).__name__)
        return JsonResponse({"error": "The call cannot be stored now. Repeat it."}, status=503)


def _take_call(request: HttpRequest, account_uuid: UUID | None) -> HttpResponse:
    body = _read(request, LARGEST_CALL)
    try:
        call = handover.parse_call(_parse(body, None))
        unusable = ""
    except handover.UnusableCall as exc:
        call, unusable = None, str(exc)
    account = _caller(request, account_uuid, call)
    if call is None:
        raise _Refused(400, "unusable call", unusable, account)
    with org_scope(account.org_id):
        new = handover.accept(account, call)
    wake()
    return JsonResponse({"status": "accepted" if new else "already accepted"})


def _caller(request: HttpRequest, account_uuid: UUID | None, call: handover.Call | None) -> InfobipAccount:
    """Find the account whose hand-over token the call carries. The step cannot sign, so the token is the proof.

    Without a token only a conversation is taken that a signed event told us of before, where the account allows it.
    """
    token = request.headers.get(TOKEN_HEADER, "")
    with every_org():
        if account_uuid is not None:
            accounts = list(InfobipAccount.objects.filter(uuid=account_uuid))
        else:
            told = ChatbotMessage.objects.filter(
                infobip_conversation=call.conversation if call else "", end_user=call.end_user if call else ""
            )
            accounts = list(InfobipAccount.objects.filter(pk__in=told.values("account_id"))[:MOST_CANDIDATES])
    for account in accounts:
        if token and account.handover_token and constant_time_compare(token, account.handover_token):
            return account
        if not token and account_uuid is None and account.handover_without_token:
            return account
    known = accounts[0] if account_uuid is not None and accounts else None
    if not token:
        raise _Refused(401, "no hand-over token", f"Add the header {TOKEN_HEADER} to the Call API step.", known)
    advice = f"{TOKEN_HEADER} does not fit. Copy the address and the token from the senders' step of the set-up page."
    raise _Refused(401, "wrong hand-over token", advice, known)


def _take(request: HttpRequest, body: bytes, account_uuid: UUID | None) -> HttpResponse:
    try:
        account, results = _identify(request, body, account_uuid)
        account, results = _own_results(account, results)
        work = False
        if results:
            with org_scope(account.org_id):
                Inbox.objects.create(org_id=account.org_id, account_id=account.pk, body=body)
                work = True
    except _Refused as refused:
        return _refuse(request, refused)
    if work:
        wake()
    return HttpResponse()


def _read(request: HttpRequest, limit: int) -> bytes:
    """Read the body, at most as much as is allowed, whether its length was announced or not."""
    too_large = _Refused(413, "too large", f"The body is larger than {limit} bytes. Send fewer results at a time.")
    if request.headers.get("Transfer-Encoding", "").lower() == "chunked":
        # Django takes a body without a length for an empty one
        stream, chunks, size = request.META["wsgi.input"], [], 0
        while chunk := stream.read(CHUNK):
            size += len(chunk)
            if size > limit:
                raise too_large
            chunks.append(chunk)
        return b"".join(chunks)
    length = request.headers.get("Content-Length", "")
    if length.isdecimal() and int(length) > limit:
        raise too_large
    return request.body


def _identify(request: HttpRequest, body: bytes, account_uuid: UUID | None) -> tuple[InfobipAccount, Sequence[object]]:
    """Find whose request this is by its signature; nothing else proves it.

    :raises _Refused: if no account's secret fits, or the body is not JSON
    """
    if account_uuid is not None:
        account = _known.get(account_uuid)
        if account is None or not _signed_by(request, body, account):
            account = _signer(request, body, [found] if (found := _known.load(account_uuid)) else [])
        return account, results_of(_parse(body, account))
    results = results_of(_parse(body, None))
    return _signer(request, body, _candidates(results)), results


class _KnownAccounts:
    """Accounts that were used lately, with their senders: the door decrypts and reads them once in some seconds.

    Only what fits is taken from here. Where a signature or a sender does not, the rows are read again.
    """

    def __init__(self) -> None:
        self.kept: dict[UUID, tuple[float, InfobipAccount]] = {}

    def get(self, uuid: UUID) -> InfobipAccount | None:
        until, account = self.kept.get(uuid, (0.0, None))
        return account if time.monotonic() < until else None

    def load(self, uuid: UUID) -> InfobipAccount | None:
        with every_org():
            account = InfobipAccount.objects.filter(uuid=uuid).first()
            if account is not None:
                len(account.senders_by_number)  # read here, where they can be seen
                if len(self.kept) > MOST_KNOWN:
                    self.kept.clear()
                self.kept[uuid] = (time.monotonic() + KNOWN_SECONDS, account)
        return account


_known = _KnownAccounts()


def _parse(body: bytes, account: InfobipAccount | None) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise _Refused(400, "not JSON", "The body is not JSON.", account) from None


def _candidates(results: Sequence[object]) -> list[InfobipAccount]:
    """Name the accounts that a body on the bare path may come from: by senders, and by the messages reported on."""
    numbers = {number for number in map(business_number, results) if number}
    uuids = {uuid for uuid in map(reported_message, results) if uuid}
    with every_org():
        ids = set(Sender.objects.filter(number__in=numbers).values_list("account_id", flat=True))
        reported = Message.objects.filter(uuid__in=uuids, sender__isnull=False)
        ids |= set(reported.values_list("sender__account_id", flat=True))
        account_uuids = InfobipAccount.objects.filter(pk__in=ids).values_list("uuid", flat=True)
        return [account for uuid in account_uuids if (account := _known.load(uuid)) is not None]


def _signed_by(request: HttpRequest, body: bytes, account: InfobipAccount) -> bool:
    header = request.headers.get(account.header_of_signature, "")
    if signature_matches(header, body, [account.webhook_secret]):
        return True
    if not signature_matches(header, body, [account.previous_webhook_secret]):
        return False
    note_old_secret(account.pk)
    return True


def _signer(request: HttpRequest, body: bytes, accounts: Sequence[InfobipAccount]) -> InfobipAccount:
    for account in accounts:
        if _signed_by(request, body, account):
            return account
    known = accounts[0] if len(accounts) == 1 else None
    if any(request.headers.get(account.header_of_signature) for account in accounts):
        advice = "The signature does not fit. Set the secret of the notification profile's HMAC authentication to ours."
        raise _Refused(401, "wrong signature", advice, known)
    advice = (
        "The request is not signed for an account that is known here. "
        "Add HMAC authentication to the notification profile, and use the account's own address."
    )
    raise _Refused(401, "no signature", advice, known)


def _own_results(account: InfobipAccount, results: Sequence[object]) -> tuple[InfobipAccount, Sequence[object]]:
    """Leave out results about another account's sender: a signature speaks for its own account only.

    A report names no sender. It finds its message among the account's own, or none. The account comes back as it is
    now, for it may have got a new sender.
    """
    strange = {number for number in map(business_number, results) if number and number not in account.senders_by_number}
    if not strange:
        return account, results
    account = _known.load(account.uuid) or account
    with every_org():
        others = set(Sender.objects.filter(number__in=strange).values_list("number", flat=True))
    others -= set(account.senders_by_number)
    foreign = [result for result in results if business_number(result) in others]
    for _ in foreign:
        count_refusal(account.pk, "another account's result")
        log.warning("result of another account refused", org=account.org_id, account=account.pk)
    return account, [result for result in results if business_number(result) not in others]


def _refuse(request: HttpRequest, refused: _Refused) -> HttpResponse:
    account = refused.account
    count_refusal(account.pk if account else None, refused.reason)
    log.warning(
        "webhook refused",
        status=refused.status,
        reason=refused.reason,
        org=account.org_id if account else None,
        headers=sorted(request.headers),  # names only: a signature under another name is the commonest mistake
    )
    return JsonResponse({"error": refused.advice}, status=refused.status)
