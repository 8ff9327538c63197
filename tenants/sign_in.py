"""Signing in from a frame inside Salesforce.

The address of a page selects the org and proves nothing. A popup takes the person to their org's own login page (OpenID
Connect with code and PKCE) and hands a code back to the frame, by ``postMessage`` or by typing it. Only the page that began
a sign-in can end it with that code, so that nobody signs in with what somebody else was made to confirm.

Each step proves that it belongs to the one before: the frame's secret, the popup's cookie, the state that went to
Salesforce, the code. Of all of them only hashes are kept.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import structlog
from django.conf import settings
from django.db import transaction
from django.utils import timezone

from connector.http import ApiError
from connector.salesforce import sign_in as openid
from connector.salesforce.rest import soql_text
from tenants import connecting, repeats
from tenants.budget import SIGN_INS_AT_ONCE, place
from tenants.encryption import CannotDecrypt
from tenants.models import Draft, Membership, Org, PendingSignIn, Role, SalesforceConnection, WebSession
from tenants.tenancy import every_org

log = structlog.get_logger(__name__)

PENDING = timedelta(minutes=10)
MOST_TRIES = 5  # of a code of six characters
CODE_ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
POPUP_COOKIE = "__Host-popup"
SCOPES = ("openid", "id")
INSTALL_SCOPES = (*SCOPES, "api")
ADMIN_PERMISSION_SET, REP_PERMISSION_SET = "Infobip_Admin", "Infobip_Agent"


class SignInRefused(Exception):
    """Nobody is signed in; the text says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Begun:
    """What the page that began keeps: which sign-in it is, and the secret that ends it."""

    uuid: UUID
    secret: str


@dataclass(frozen=True, slots=True)
class Started:
    """Where the popup goes, and the cookie by which it is known again."""

    url: str
    browser: str


@dataclass(frozen=True, slots=True)
class Finished:
    """Who is signed in, where, and the token that proves it from now on."""

    org: Org
    member: Membership
    token: str
    admin_token: str  # for an installation; else empty
    undo: bool


def callback_url() -> str:
    """Give the address that the org's external client app must list."""
    return f"{settings.PUBLIC_URL}/sf/callback"


def digest(secret: str) -> str:
    """Hash what proves something, for keeping."""
    return hashlib.sha256(secret.encode()).hexdigest()


def new_token() -> str:
    """Make what proves who a browser is."""
    return secrets.token_urlsafe(32)


def begin(*, org: Org | None = None, draft: Draft | None = None, for_install: bool = False, undo: bool = False) -> Begun:
    """Begin a sign-in for an org, or for a set-up whose org is to be proven by it."""
    secret = new_token()
    with every_org():
        pending = PendingSignIn.objects.create(
            org=org, draft=draft, for_install=for_install, undo=undo, frame_hash=digest(secret)
        )
    return Begun(pending.uuid, secret)


def start(uuid: UUID) -> Started:
    """Send the popup to Salesforce.

    :raises SignInRefused: if it is over or was started already
    """
    browser, state, nonce = new_token(), new_token(), new_token()
    verifier, challenge = openid.new_verifier()
    with every_org():
        # a second popup for the same sign-in would belong to somebody else
        mine = (
            _pending()
            .filter(uuid=uuid, state_hash="")
            .update(browser_hash=digest(browser), state_hash=digest(state), nonce=nonce, verifier=verifier)
        )
        if not mine:
            raise SignInRefused("This sign-in is over. Close this window and choose “Sign in with Salesforce” again.")
        pending = PendingSignIn.objects.select_related("org__salesforce", "draft").get(uuid=uuid)
    connection = _connection(pending)
    url = openid.authorize_url(
        base_url=connection.base_url,
        client_id=connection.consumer_key,
        redirect_uri=callback_url(),
        scopes=INSTALL_SCOPES if pending.for_install else SCOPES,
        state=state,
        nonce=nonce,
        code_challenge=challenge,
        prompt="login" if pending.for_install else "",
    )
    return Started(url, browser)


def complete(*, state: str, code: str, browser: str) -> str:
    """Take what Salesforce sent the popup back with, find out who it is, and give the code for the frame.

    :raises Busy: if too many of that org sign in just now; nothing is used up
    :raises SignInRefused: if this is not the popup that was started, or not a user who may come in
    """
    with every_org():
        pending = (
            _pending().select_related("org__salesforce", "draft").filter(state_hash=digest(state), code_hash="").first()
        )
    if pending is None or not hmac.compare_digest(pending.browser_hash, digest(browser)):
        raise SignInRefused("This window does not belong to a sign-in that is under way. Begin again in Salesforce.")
    try:
        connection = _connection(pending)
        with place(f"sign-in {connection.base_url}", SIGN_INS_AT_ONCE):
            user, admin_token = _identify(pending, connection, code)
    except CannotDecrypt as exc:
        repeats.say(log.error, "sign-in failed", pending.org_id, type(exc).__name__, org=pending.org_id, error=str(exc))
        raise SignInRefused(f"Nobody can sign in here now: {exc.message}.") from exc
    except ApiError as exc:
        repeats.say(log.warning, "sign-in failed", pending.org_id, type(exc).__name__, org=pending.org_id, error=str(exc))
        raise SignInRefused(f"Salesforce did not confirm who you are ({exc.message}). Begin again.") from exc
    shown = "".join(secrets.choice(CODE_ALPHABET) for _ in range(6))
    with every_org():
        won = _pending().filter(pk=pending.pk, code_hash="").update(code_hash=digest(shown), user=user, token=admin_token)
    if not won:
        raise SignInRefused("This sign-in was completed already.")
    return shown


def finish(uuid: UUID, *, secret: str, code: str) -> Finished:
    """Let the page that began come in with the code that its popup handed back.

    :raises SignInRefused: if the code is wrong, was used, or is too old
    """
    with every_org():
        pending = _pending().select_related("org", "draft").filter(uuid=uuid).exclude(code_hash="").first()
        if pending is None or not hmac.compare_digest(pending.frame_hash, digest(secret)):
            raise SignInRefused("This sign-in is over. Begin again.")
        if pending.tries >= MOST_TRIES:
            raise SignInRefused("The code was wrong too often. Begin again.")
        if not PendingSignIn.objects.filter(pk=pending.pk, tries=pending.tries).update(tries=pending.tries + 1):
            raise SignInRefused("The code was handed in twice at once. If you are not signed in now, begin again.")
        if not hmac.compare_digest(pending.code_hash, digest(code.strip().upper())):
            raise SignInRefused("This is not the code that the window shows. Type it again.")
        try:
            admin_token = pending.token
        except CannotDecrypt as exc:
            raise SignInRefused("This sign-in began before our keys were changed. Begin again.") from exc
        with transaction.atomic():
            # the draft before its sign-ins, as when it is deleted with them: another sign-in of it may end just now
            drafts = Draft.objects.select_for_update().filter(pk=pending.draft_id)
            if pending.draft_id is not None and drafts.first() is None:
                raise SignInRefused("Another window finished this set-up: your org is connected now. Begin again there.")
            if not PendingSignIn.objects.filter(pk=pending.pk).delete()[0]:
                raise SignInRefused("This sign-in was used already. Begin again.")
            user = pending.user
            org = pending.org
            if pending.draft is not None:
                org = connecting.promote_draft(
                    pending.draft,
                    organization_id=user["organization_id"],
                    name=user["org_name"],
                    who=user["name"],
                )
            assert org is not None, "a sign-in is for an org or for a draft"
            member, _ = Membership.objects.update_or_create(
                org=org,
                user_id=user["user_id"],
                defaults={
                    "username": user["username"][:200],
                    "name": user["name"][:200],
                    "role": user["role"],
                    "signed_in_at": timezone.now(),
                },
            )
            token = new_token()
            WebSession.objects.create(org=org, member=member, token_hash=digest(token))
            org.audit(member.name, "signed in", f"as {member.role}")
    return Finished(org, member, token, admin_token, pending.undo)


def _pending() -> Any:
    return PendingSignIn.objects.filter(created_at__gte=timezone.now() - PENDING)


def _connection(pending: PendingSignIn) -> SalesforceConnection:
    """Give what reaches the org of a sign-in; of a draft, a connection that is not saved."""
    if pending.draft is not None:
        return connecting.connection_of(pending.draft)
    assert pending.org is not None, "a sign-in is for an org or for a draft"
    return pending.org.salesforce


def _identify(pending: PendingSignIn, connection: SalesforceConnection, code: str) -> tuple[dict[str, str], str]:
    """Ask Salesforce who came, check that they are of this org, and find their role."""
    local = settings.ALLOW_LOCAL_UPSTREAMS
    answer = openid.exchange_code(
        base_url=connection.base_url,
        client_id=connection.consumer_key,
        private_key=connection.private_key,
        redirect_uri=callback_url(),
        code=code,
        verifier=pending.verifier,
        allow_local=local,
    )
    keys = openid.signing_keys(base_url=connection.base_url, allow_local=local)
    openid.check_id_token(
        answer.id_token, base_url=connection.base_url, client_id=connection.consumer_key, nonce=pending.nonce, keys=keys
    )
    user = openid.user_info(base_url=connection.base_url, token=answer.access_token, allow_local=local)
    try:
        if not user.active:
            raise SignInRefused("This Salesforce user is not active.")
        if pending.org is not None and user.organization_id[:15] != pending.org.salesforce_id[:15]:
            raise SignInRefused("You are signed in to another Salesforce org. Sign in with a user of this one.")
        role = role_of(connection, user.user_id)
        if pending.for_install and role is not Role.ADMIN:
            raise SignInRefused("Only an administrator of the org can install. Sign in as one.")
        if pending.draft is not None and role is not Role.ADMIN:
            raise SignInRefused("Setting up needs an administrator of the org. Sign in as one.")
    except BaseException:
        openid.revoke(connection.base_url, answer.access_token, allow_local=local)
        raise
    if not pending.for_install:
        openid.revoke(connection.base_url, answer.access_token, allow_local=local)
    org_name = _name_of_org(connection) if pending.draft is not None else ""
    known = {
        "org_name": org_name,
        "user_id": user.user_id,
        "organization_id": user.organization_id,
        "username": user.username,
        "name": user.name or user.username,
        "role": role.value,
    }
    return known, answer.access_token.value if pending.for_install else ""


def _name_of_org(connection: SalesforceConnection) -> str:
    rows = connection.rest().query("SELECT Name FROM Organization")
    return str(rows[0].get("Name") or "") if rows else ""


def role_of(connection: SalesforceConnection, user_id: str) -> Role:
    """Read a user's role from their permission sets; who may customise the org administers.

    :raises SignInRefused: if they have neither
    """
    rows = connection.rest().query(
        "SELECT PermissionSet.Name, PermissionSet.PermissionsCustomizeApplication FROM PermissionSetAssignment "
        f"WHERE AssigneeId = {soql_text(user_id)}"
    )
    sets = [row.get("PermissionSet") or {} for row in rows]
    names = {each.get("Name") for each in sets}
    if ADMIN_PERMISSION_SET in names or any(each.get("PermissionsCustomizeApplication") for each in sets):
        return Role.ADMIN
    if REP_PERMISSION_SET in names:
        return Role.REP
    raise SignInRefused(
        f"You have no permission set for this yet. Ask an administrator to assign you “{REP_PERMISSION_SET}”."
    )
