"""Signing people in: OpenID Connect as the orgs offer it.

https://help.salesforce.com/s/articleView?id=xcloud.remoteaccess_using_openid_discovery_endpoint.htm
"""

import json
import secrets
import time
import urllib.parse
from typing import Any

from aiohttp import web
from jwt.algorithms import RSAAlgorithm

from sandbox.answers import answer
from sandbox.markup import e, page
from sandbox.oauth import Grant, OAuth, identity
from sandbox.records import PRE_AUTHORIZED, SCOPES, ExternalClientApp, User
from sandbox.world import Org, Token, World

PERSONS = {"System Administrator", "Standard User"}  # profiles whose users sign in by a page
USER_INFO_SCOPES = {"openid", "id", "profile", "full", "api"}


class SignInRefused(Exception):
    """A sign-in that goes back to the app with an error."""

    def __init__(self, error: str, description: str) -> None:
        super().__init__(description)
        self.error = error


class OpenId:
    """Discovery, keys, the sign-in page, and what a token tells of its user."""

    def __init__(self, world: World, oauth: OAuth) -> None:
        self.world, self.oauth = world, oauth
        self.browsers: dict[str, tuple[str, str]] = {}  # cookie -> ids of org and user

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Register the endpoints."""
        router.add_get("/.well-known/openid-configuration", self.configuration)
        router.add_get("/id/keys", self.keys)
        router.add_get("/services/oauth2/authorize", self.authorize)
        router.add_post("/services/oauth2/authorize", self.authorize)
        router.add_get("/services/oauth2/userinfo", self.user_info)
        router.add_get(r"/id/{org:00D\w+}/{user:005\w+}", self.user_info)
        router.add_post("/services/oauth2/revoke", self.revoke)

    async def configuration(self, request: web.Request) -> web.StreamResponse:
        """Say where everything is."""
        host = f"{request.scheme}://{request.host}"
        body = {
            "issuer": host,
            "authorization_endpoint": f"{host}/services/oauth2/authorize",
            "token_endpoint": f"{host}/services/oauth2/token",
            "revocation_endpoint": f"{host}/services/oauth2/revoke",
            "userinfo_endpoint": f"{host}/services/oauth2/userinfo",
            "jwks_uri": f"{host}/id/keys",
            "scopes_supported": [*SCOPES.values(), "offline_access"],
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "display_values_supported": ["page", "popup", "touch"],
            "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt"],
            "claims_supported": ["sub", "user_id", "organization_id", "preferred_username", "name", "email", "active"],
        }
        return answer(200, body)

    async def keys(self, request: web.Request) -> web.StreamResponse:
        """Return the key that signs id tokens."""
        key = json.loads(RSAAlgorithm.to_jwk(self.oauth.key.public_key()))
        fields = {name: key[name] for name in ("kty", "n", "e")}
        return answer(200, {"keys": [{**fields, "kid": self.oauth.key_id, "alg": "RS256", "use": "sig"}]})

    # signing in

    async def authorize(self, request: web.Request) -> web.StreamResponse:
        """Show the sign-in page, or pass a browser that is signed in; then go back to the app.

        What is wrong with the app or its address stays on a page of ours, as nobody may be sent to an unknown address.
        """
        query = request.query
        known = self.oauth.apps(query.get("client_id"))
        if not known:
            return wrong("invalid_client_id", "client identifier invalid")
        org, app = known[0]
        redirect_uri = query.get("redirect_uri", "")
        if redirect_uri not in app.callback_urls:
            return wrong("redirect_uri_mismatch", "redirect_uri must match configuration")
        form = await request.post()
        try:
            scopes = check_request(query, app)
            if form.get("decision") == "cancel":
                raise SignInRefused("access_denied", "end-user denied authorization")
            user = self.who(request, form, org, app)
            if user is None:
                if query.get("prompt") == "none" or query.get("immediate") == "true":
                    raise SignInRefused("immediate_unsuccessful", "the user is not signed in")
                return sign_in_page(request, org, app)
            if form.get("username") and app.permitted_users != PRE_AUTHORIZED and user.id not in app.approved_by:
                app.approved_by.append(user.id)
            if not org.setup.is_covered(app, user):
                raise SignInRefused("invalid_app_access", "user is not admin approved to access this app")
        except SignInRefused as refusal:
            self.note(org, None, f"{refusal.error}: {refusal}")
            answered = {"error": refusal.error, "error_description": str(refusal)}
            return go_back(redirect_uri, {**answered, "state": query.get("state")})
        grant = Grant(org, user, scopes, client=app.consumer_key, nonce=query.get("nonce"), signed_in=True)
        code = self.oauth.issue_code(grant, app, redirect_uri, query.get("code_challenge"))
        self.note(org, user, None)
        response = go_back(redirect_uri, {"code": code, "state": query.get("state")})
        cookie = secrets.token_urlsafe(32)
        self.browsers[cookie] = (org.id, user.id)
        response.set_cookie(cookie_name(org), cookie, httponly=True, samesite="Lax")
        return response

    def who(self, request: web.Request, form: Any, org: Org, app: ExternalClientApp) -> User | None:
        """Return who signs in: whom the page says, or whom the browser remembers; None if the page must ask."""
        if form.get("username"):
            user = org.setup.find(User, username=form["username"])
            return user if user and user.is_active else None
        org_id, user_id = self.browsers.get(request.cookies.get(cookie_name(org), ""), ("", ""))
        user = org.setup.find(User, id=user_id)
        if org_id != org.id or user is None or not user.is_active or request.query.get("prompt") in ("login", "consent"):
            return None
        needs_approval = app.permitted_users != PRE_AUTHORIZED and user.id not in app.approved_by
        return None if needs_approval else user

    def note(self, org: Org, user: User | None, error: str | None) -> None:
        """Write down that somebody signed in, or could not."""
        self.world.journal.write("salesforce", "sign_in", org=org.id, text=user and user.name, error=error)

    # what tokens tell

    async def user_info(self, request: web.Request) -> web.StreamResponse:
        """Tell who a token's user is."""
        token = bearer(request, self.world)
        if token is None or not token.scopes & USER_INFO_SCOPES:
            return web.Response(status=403, text="Bad_OAuth_Token")
        org, user = token.org, token.org.setup.find(User, id=token.user_id)
        if user is None or request.match_info.get("user", user.id) != user.id:
            return web.Response(status=403, text="Bad_Id")
        if request.match_info.get("org", org.id) != org.id:
            return web.Response(status=403, text="Wrong_Org")
        utc = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        data = f"{org.base_url}/services/data/v{{version}}/"
        body: dict[str, Any] = {
            "sub": identity(org, user.id),
            "user_id": user.id,
            "organization_id": org.id,
            "preferred_username": user.username,
            "nickname": user.username.split("@")[0],
            "name": user.name,
            "given_name": user.first_name,
            "family_name": user.last_name,
            "zoneinfo": "Europe/Zagreb",
            "locale": "en_US",
            "language": "en_US",
            "utcOffset": 3_600_000,
            "active": user.is_active,
            "user_type": user.user_type.upper(),
            "is_salesforce_integration_user": False,
            "urls": {"rest": data, "sobjects": f"{data}sobjects/"},
            "updated_at": utc,
        }
        if token.scopes & {"email", "full", "api"}:
            body.update({"email": user.email, "email_verified": True})
        if "org" in request.match_info:
            body["username"] = user.username
        return answer(200, body)

    async def revoke(self, request: web.Request) -> web.StreamResponse:
        """End a token."""
        form = await request.post() if request.method == "POST" else request.query
        if self.world.by_token.pop(str(form.get("token")), None) is None:
            return answer(400, {"error": "invalid_token", "error_description": "invalid token"})
        return web.Response(status=200)


def bearer(request: web.Request, world: World) -> Token | None:
    """Return what the token of a request stands for."""
    kind, _, value = request.headers.get("Authorization", "").partition(" ")
    return world.by_token.get(value) if kind in ("Bearer", "OAuth") else None


def check_request(query: Any, app: ExternalClientApp) -> tuple[str, ...]:
    """Check what an app asks for and return the scopes.

    :raises SignInRefused: if it may not have that
    """
    if not app.is_enabled:
        raise SignInRefused("OAUTH_EC_APP_NOT_FOUND", "External client app is not installed in this org")
    if query.get("response_type") != "code":
        raise SignInRefused("unsupported_response_type", "response type not supported")
    if app.is_pkce_required and not query.get("code_challenge"):
        raise SignInRefused("invalid_request", "missing required code challenge")
    if query.get("code_challenge") and query.get("code_challenge_method") != "S256":
        raise SignInRefused("invalid_request", "code challenge method must be S256")
    allowed = set(app.scopes) | ({"offline_access"} if "refresh_token" in app.scopes else set())
    asked = query.get("scope", "").split() or app.scopes
    if not set(asked) <= allowed:
        raise SignInRefused("invalid_scope", "the requested scope is not allowed")
    return tuple(scope for scope in dict.fromkeys(asked) if scope not in ("refresh_token", "offline_access"))


def cookie_name(org: Org) -> str:
    """Return the name of the cookie that remembers who is signed in to an org."""
    return f"sid_{org.short_id}"


def go_back(address: str, values: dict[str, str | None]) -> web.Response:
    """Send the browser back to the app."""
    query = urllib.parse.urlencode({name: value for name, value in values.items() if value is not None})
    separator = "&" if urllib.parse.urlsplit(address).query else "?"
    return web.Response(status=302, headers={"Location": f"{address}{separator}{query}", "Cache-Control": "no-store"})


def wrong(error: str, description: str) -> web.Response:
    """Show what is wrong on a page of ours."""
    words = urllib.parse.urlencode({"error": error, "error_description": description})
    return page("Something is wrong", f'<p class="wrong">{e(words)}</p>', status=400, narrow=True)


def sign_in_page(request: web.Request, org: Org, app: ExternalClientApp) -> web.Response:
    """Let a person say who they are."""
    hint = request.query.get("login_hint")
    profiles = {row.id for row in org.setup.tables["Profile"] if getattr(row, "name", "") in PERSONS}
    users = [user for user in org.setup.rows(User) if user.profile_id in profiles and user.is_active]
    users.sort(key=lambda user: user.username != hint)
    buttons = "".join(
        f'<button name="username" value="{e(user.username)}" class="{"" if user.username == hint else "plain"}"'
        f"{' autofocus' if user.username == hint else ''}>{e(user.name)}<br><small>{e(user.username)}</small></button>"
        for user in users
    )
    note = "" if app.permitted_users == PRE_AUTHORIZED else f"<p>{e(app.label)} asks for: {e(', '.join(app.scopes))}</p>"
    body = (
        f'<div class="card"><h2>{e(org.title)}</h2><p class="note">Sign in to go on to {e(app.label)}.</p>{note}'
        f'<form class="person" method="post" action="{e(request.path_qs)}">{buttons}'
        f'<button name="decision" value="cancel" class="plain">Cancel</button></form></div>'
    )
    return page("Log in", body, narrow=True)
