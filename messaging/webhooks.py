"""Where a chatbot hands a conversation over: Infobip's Call API step posts here. Messages come through door.py."""

import json
from collections.abc import Sequence
from contextlib import suppress
from uuid import UUID

from django.db import Error as DatabaseError
from django.db import InterfaceError, connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils.crypto import constant_time_compare
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from connector.phone import spellings_of
from messaging import handover
from messaging.door_refusals import Refused, refusals
from messaging.models import ChatbotMessage
from messaging.wake import wake
from tenants import known
from tenants.database import note_trouble
from tenants.encryption import CannotDecrypt
from tenants.models import InfobipAccount
from tenants.tenancy import every_org, org_scope

LARGEST_CALL = 1 << 16
TOKEN_HEADER = "X-Connector-Token"
MOST_CANDIDATES = 5


@csrf_exempt
@require_POST
def inbound_answers(request: HttpRequest, account_uuid: UUID | None = None) -> HttpResponse:
    """Take a chatbot's call that hands a conversation over; answer 200 once it is committed, with what became of it.

    Whether the conversation exists and the end user takes part in it is found out afterwards: while a chatbot waits for
    this answer it hears nobody. 400 and 401 say what to change in the Call API step; 503 asks for a repetition.
    """
    try:
        return _take_own(request, account_uuid) if account_uuid is not None else _take_bare(request)
    except Refused as refused:
        refusals.note(refused, request.headers)
        return JsonResponse({"error": refused.advice}, status=refused.status)
    except (DatabaseError, InterfaceError, CannotDecrypt) as exc:
        connection.close()
        note_trouble("hand-over not stored", exc)
        return JsonResponse({"error": "The call cannot be stored now. Repeat it."}, status=503)


def _take_own(request: HttpRequest, account_uuid: UUID) -> HttpResponse:
    """Check the token before anything is made of what the call says."""
    with every_org():
        account = InfobipAccount.objects.filter(uuid=account_uuid).first()
    try:
        caller = _caller(request, [] if account is None else [account])
        return _accept(caller, _parse(_read(request)))
    except Refused as refused:
        if account is not None:
            refused.of(account.org_id, account.pk)
        raise


def _take_bare(request: HttpRequest) -> HttpResponse:
    """Let the call itself say whose it is: a signed event named its conversation before."""
    value = _read(request)
    accounts: list[InfobipAccount] = []
    with suppress(handover.UnusableCall), every_org():
        call = handover.parse_call(value)
        spellings = spellings_of(call.end_user)
        named = ChatbotMessage.objects.filter(infobip_conversation=call.conversation, end_user__in=spellings)
        accounts += InfobipAccount.objects.filter(pk__in=named.values("account_id"))[:MOST_CANDIDATES]
    return _accept(_caller(request, accounts, token_is_needed=False), _parse(value))


def _caller(request: HttpRequest, accounts: Sequence[InfobipAccount], *, token_is_needed: bool = True) -> InfobipAccount:
    """Find the account whose hand-over token the call carries. The step cannot sign, so the token is the proof.

    Without a token only a conversation is taken that a signed event named before, where the account allows it.
    """
    token = request.headers.get(TOKEN_HEADER, "")
    for account in accounts:
        if token and account.handover_token and constant_time_compare(token, account.handover_token):
            known.note(token)
            return account
        if not token and not token_is_needed and account.handover_without_token:
            return account
    if not token:
        raise Refused(401, "no hand-over token", f"Add the header {TOKEN_HEADER} to the Call API step.")
    advice = f"{TOKEN_HEADER} does not fit. Copy the address and the token from the senders' step of the set-up page."
    raise Refused(401, "wrong hand-over token", advice)


def _read(request: HttpRequest) -> object:
    """Read the body, whose length is known by now (config/pages.py)."""
    if len(request.body) > LARGEST_CALL:
        raise Refused(413, "too large", f"The body is larger than {LARGEST_CALL} bytes. Send fewer results at a time.")
    try:
        return json.loads(request.body)
    except (ValueError, RecursionError):
        raise Refused(400, "not JSON", "The body is not JSON.") from None


def _parse(value: object) -> handover.Call:
    try:
        return handover.parse_call(value)
    except handover.UnusableCall as exc:
        raise Refused(400, "unusable call", str(exc)) from None


def _accept(account: InfobipAccount, call: handover.Call) -> HttpResponse:
    with org_scope(account.org_id):
        new = handover.accept(account, call)
    wake()
    return JsonResponse({"status": "accepted" if new else "already accepted"})
