"""The door that Infobip posts to: check, find the account, hand on, answer."""

import json
from collections.abc import Sequence
from uuid import UUID

import structlog
from django.conf import settings
from django.db import Error as DatabaseError
from django.db import InterfaceError, connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from connector.infobip.webhooks import business_number, reported_message, results_of, signature_matches
from messaging.ingest import receive_webhook
from messaging.models import Message
from messaging.tasks import ring
from tenants.broker import count_refusal
from tenants.models import InfobipAccount, Sender
from tenants.tenancy import every_org, org_scope

log = structlog.get_logger(__name__)

CHUNK = 1 << 16


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
        body = _read(request)
        with every_org():
            account, results = _identify(request, body, account_uuid)
            results = _own_results(account, results)
        with org_scope(account.org_id):
            work = receive_webhook(account, results) if results else False
    except _Refused as refused:
        return _refuse(request, refused)
    except (DatabaseError, InterfaceError) as exc:
        log.error("webhook not stored", error=type(exc).__name__)
        connection.close()
        return JsonResponse({"error": "The message cannot be stored now. Send it again."}, status=503)
    if work:
        ring()
    return HttpResponse()


def _read(request: HttpRequest) -> bytes:
    """Read the body, at most as much as is allowed, whether its length was announced or not."""
    limit = settings.LARGEST_WEBHOOK
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
        accounts = list(InfobipAccount.objects.select_related("org").filter(uuid=account_uuid))
        account = _signer(request, body, accounts)
        return account, results_of(_parse(body, account))
    results = results_of(_parse(body, None))
    return _signer(request, body, _candidates(results)), results


def _parse(body: bytes, account: InfobipAccount | None) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise _Refused(400, "not JSON", "The body is not JSON.", account) from None


def _candidates(results: Sequence[object]) -> list[InfobipAccount]:
    """Name the accounts that a body on the bare path may come from: by senders, and by the messages reported on."""
    numbers = {number for number in map(business_number, results) if number}
    uuids = {uuid for uuid in map(reported_message, results) if uuid}
    ids = set(Sender.objects.filter(number__in=numbers).values_list("account_id", flat=True))
    ids |= set(Message.objects.filter(uuid__in=uuids, sender__isnull=False).values_list("sender__account_id", flat=True))
    return list(InfobipAccount.objects.select_related("org").filter(pk__in=ids))


def _signer(request: HttpRequest, body: bytes, accounts: Sequence[InfobipAccount]) -> InfobipAccount:
    signed = False
    for account in accounts:
        header = request.headers.get(account.header_of_signature, "")
        signed = signed or bool(header)
        if signature_matches(header, body, account.webhook_secrets):
            return account
    advice = (
        "The signature does not fit. Set the secret of the notification profile's HMAC authentication to ours."
        if signed
        else "The request is not signed for an account that is known here. Add HMAC authentication to the notification "
        "profile, and use the account's own address."
    )
    known = accounts[0] if len(accounts) == 1 else None
    raise _Refused(401, "wrong signature" if signed else "no signature", advice, known)


def _own_results(account: InfobipAccount, results: Sequence[object]) -> list[object]:
    """Leave out results that belong to another account: a signature speaks for its own account only."""
    numbers = {number for number in map(business_number, results) if number}
    owners: dict[str, set[int]] = {}
    for number, account_id in Sender.objects.filter(number__in=numbers).values_list("number", "account_id"):
        owners.setdefault(number, set()).add(account_id)
    uuids = {uuid for uuid in map(reported_message, results) if uuid}
    reported = dict(Message.objects.filter(uuid__in=uuids).values_list("uuid", "sender__account_id")) if uuids else {}
    own = []
    for result in results:
        owner_of_number = owners.get(business_number(result), set())
        uuid = reported_message(result)
        owner_of_message = reported.get(uuid, account.pk) if uuid else account.pk
        if (owner_of_number and account.pk not in owner_of_number) or owner_of_message != account.pk:
            count_refusal(account.pk, "another account's result")
            log.warning("result of another account refused", org=account.org_id, account=account.pk)
        else:
            own.append(result)
    return own


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
