"""Lets the same call happen once: a call with an Idempotency-Key is a row, with its answer once there is one."""

import hashlib
import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.utils import timezone

from messaging.api.errors import Refusal
from messaging.query import query
from messaging.retention import API_CALLS_KEPT
from tenants.models import ApiCall, Org

LEASE = timedelta(seconds=20)  # longer than a call can take; after that its process is gone


def claim(org: Org, key: str, asked: Mapping[str, Any]) -> ApiCall:
    """Note that this process works on the call of that key, or find what became of it."""
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    until = timezone.now() + LEASE
    # whoever comes second waits here for the first one's commit
    begun = query(
        """INSERT INTO tenants_apicall AS call (org_id, key, body_hash, created_at, leased_until)
           VALUES (%s, %s, %s, clock_timestamp(), %s)
           ON CONFLICT (org_id, key) DO UPDATE SET body_hash = excluded.body_hash, message_uuid = NULL, answer = NULL,
               created_at = excluded.created_at, leased_until = excluded.leased_until
           WHERE call.created_at < %s RETURNING id""",
        [org.pk, key, digest, until, timezone.now() - API_CALLS_KEPT],
    )
    call = org.api_calls.select_for_update().get(key=key)
    if begun:
        return call
    if call.body_hash != digest:
        words = "This Idempotency-Key came with another body before. Use a new key for what is new."
        raise Refusal(422, "key_reused", words)
    if call.answer is None:
        if call.leased_until is not None and call.leased_until > timezone.now():
            words = "The same call is under way. Send it again in a moment for its answer."
            raise Refusal(409, "under_way", words, retry_after=2, message=call.message_uuid)
        org.api_calls.filter(pk=call.pk).update(leased_until=until)
    return call


def keep_template(call: ApiCall, message_uuid: UUID) -> None:
    """Note which message the call's template became, so that a repeated call sends no second one."""
    ApiCall.objects.filter(org=call.org_id, pk=call.pk).update(message_uuid=message_uuid)


def keep_answer(call: ApiCall, answer: Mapping[str, str]) -> None:
    """Note what the call is answered, whenever it is repeated."""
    ApiCall.objects.filter(org=call.org_id, pk=call.pk).update(answer=answer)


def release(call: ApiCall) -> None:
    """Let the call be repeated at once, not only when the lease runs out."""
    ApiCall.objects.filter(org=call.org_id, pk=call.pk).update(leased_until=None)
