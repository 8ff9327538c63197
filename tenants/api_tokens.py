"""Tokens of our own API: made and revoked on a page of set-up, shown once, kept as a hash."""

import secrets
from datetime import timedelta

from django.utils import timezone

from tenants.models import ApiToken, Org
from tenants.sign_in import digest
from tenants.tenancy import every_org, org_scope

CONVERSATIONS_WRITE = "conversations:write"
SCOPES = {CONVERSATIONS_WRITE: "Open conversations and send WhatsApp templates"}
MARK = "scc_"  # tells scanners for leaked secrets, and people, what it is
USED_STEP = timedelta(minutes=5)  # how exactly the last use is known


def make(org: Org, *, name: str, scopes: list[str], who: str) -> str:
    """Make a token, and give it: it can never be read again."""
    token = MARK + secrets.token_urlsafe(32)
    made = org.api_tokens.create(
        name=name, scopes=scopes, token_hash=digest(token), prefix=token[: len(MARK) + 6], created_by=who[:200]
    )
    org.audit(who, "made an API token", f"{name} ({made}), {', '.join(scopes)}")
    return token


def revoke(org: Org, token_id: int, *, who: str) -> None:
    """End a token of the org; one that is gone, or another org's, is left alone."""
    found = org.api_tokens.filter(pk=token_id, revoked_at=None).first()
    if found and org.api_tokens.filter(pk=token_id, revoked_at=None).update(revoked_at=timezone.now()):
        org.audit(who, "revoked an API token", f"{found.name} ({found})")


def find(token: str) -> ApiToken | None:
    """Find a token with its org, also one that was revoked, and note that one in force is used."""
    with every_org():
        found = ApiToken.objects.select_related("org").filter(token_hash=digest(token)).first()
    now = timezone.now()
    if found and found.revoked_at is None and (found.last_used_at is None or now - found.last_used_at > USED_STEP):
        with org_scope(found.org_id):
            found.org.api_tokens.filter(pk=found.pk).update(last_used_at=now)
    return found
