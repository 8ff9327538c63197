"""The token endpoint of the orgs: JWT bearer logins, and codes of sign-ins, each against the org's external client app.

https://help.salesforce.com/s/articleView?id=xcloud.remoteaccess_oauth_jwt_flow.htm
https://help.salesforce.com/s/articleView?id=xcloud.remoteaccess_oauth_web_server_flow.htm
"""

import base64
import hashlib
import secrets
import time
from dataclasses import dataclass
from typing import Any, NoReturn, TypeGuard

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate

from sandbox.records import ExternalClientApp, User
from sandbox.world import Org, World

JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
CLIENT_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
LOGIN_HOSTS = {"https://login.salesforce.com", "https://test.salesforce.com"}
LONGEST_ASSERTION = 310  # seconds: clients use 3 to 5 minutes, and clocks differ a little
CODE_SECONDS = 600
ID_TOKEN_SECONDS = 120
REFRESH_SCOPES = {"refresh_token", "offline_access"}


class OAuthRefused(Exception):
    """A login that is answered with an error, in the form of RFC 6749."""

    def __init__(self, error: str, description: str, org: Org | None = None) -> None:
        super().__init__(description)
        self.error, self.org = error, org


@dataclass(frozen=True)
class Grant:
    """A login that is right: who gets a token, and what for; ``nonce`` and ``client`` where an id token comes with it."""

    org: Org
    user: User
    scopes: tuple[str, ...]
    client: str | None = None
    nonce: str | None = None
    signed_in: bool = False  # by a person


@dataclass(frozen=True)
class Code:
    """What an authorization code stands for."""

    grant: Grant
    app: ExternalClientApp
    redirect_uri: str
    challenge: str | None
    expires: float


def is_number(value: Any) -> TypeGuard[int]:
    """Tell whether a value is a JSON integer."""
    return isinstance(value, int) and not isinstance(value, bool)


def url_safe(raw: bytes) -> str:
    """Return base64url without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def identity(org: Org, user_id: str) -> str:
    """Return the identity URL of a user."""
    return f"https://login.salesforce.com/id/{org.id}/{user_id}"


def public_key(app: ExternalClientApp) -> rsa.RSAPublicKey | None:
    """Return the key of the app's one certificate."""
    if not app.certificate:
        return None
    pem = app.certificate.encode()
    key = load_pem_x509_certificate(pem).public_key() if b"CERTIFICATE" in pem else load_pem_public_key(pem)
    return key if isinstance(key, rsa.RSAPublicKey) else None


class OAuth:
    """The grants of all orgs."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.codes: dict[str, Code] = {}
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)  # of id tokens
        self.key_id = secrets.token_hex(4)

    def apps(self, consumer_key: Any) -> list[tuple[Org, ExternalClientApp]]:
        """Return the orgs that know a consumer key, each with its app."""
        found = [(org, org.setup.find(ExternalClientApp, consumer_key=consumer_key)) for org in self.world.orgs.values()]
        return [(org, app) for org, app in found if consumer_key and app]

    def check(self, form: Any) -> Grant:
        """Check a request for a token.

        :raises OAuthRefused: if it gets none
        """
        if form.get("grant_type") == JWT_BEARER:
            return self.check_assertion(form.get("assertion"))
        if form.get("grant_type") == "authorization_code":
            return self.check_code(form)
        raise OAuthRefused("unsupported_grant_type", "grant type not supported")

    def token(self, grant: Grant) -> dict[str, Any]:
        """Return the answer to a request that is right. A JWT login's tells no end, and has no id token."""
        token = self.world.issue_token(grant.org, grant.user.id, grant.scopes)
        body = {
            "access_token": token,
            "scope": " ".join(grant.scopes),
            "instance_url": grant.org.base_url,
            "id": identity(grant.org, grant.user.id),
            "token_type": "Bearer",
        }
        if grant.signed_in:
            body["issued_at"] = str(int(time.time() * 1000))
            if "openid" in grant.scopes:
                body["id_token"] = self.id_token(grant, token)
        return body

    def id_token(self, grant: Grant, token: str) -> str:
        """Return the signed statement of who signed in."""
        now = int(time.time())
        claims = {
            "iss": grant.org.base_url,
            "sub": identity(grant.org, grant.user.id),
            "aud": grant.client,
            "iat": now,
            "exp": now + ID_TOKEN_SECONDS,
            "at_hash": url_safe(hashlib.sha256(token.encode()).digest()[:16]),
        }
        if grant.nonce is not None:
            claims["nonce"] = grant.nonce
        return jwt.encode(claims, self.key, algorithm="RS256", headers={"kid": self.key_id})

    # JWT bearer

    def check_assertion(self, assertion: Any) -> Grant:
        """Check the signed assertion of a server.

        :raises OAuthRefused: if it gets no token
        """
        if not isinstance(assertion, str) or not assertion:
            raise OAuthRefused("invalid_request", "missing required parameters: assertion")
        claims = read_assertion(assertion)
        known = self.apps(claims.get("iss"))
        if not known:
            raise OAuthRefused("invalid_client_id", "client identifier invalid")
        username = claims.get("prn", claims.get("sub"))
        users = [(org, app, org.setup.find(User, username=username)) for org, app in known]
        org, app, user = next((each for each in users if each[2]), users[0])
        if not is_signed(assertion, app):
            raise OAuthRefused("invalid_client", "invalid client credentials", org)
        if not app.is_enabled:
            raise OAuthRefused("app_not_found", "External client app is not installed in this org", org)
        if user is None:
            raise OAuthRefused("invalid_grant", "user hasn't approved this consumer")
        if wrong := wrong_audience_or_time(claims, LOGIN_HOSTS | {org.base_url}):
            raise OAuthRefused("invalid_grant", wrong, org)
        if not user.is_active:
            raise OAuthRefused("invalid_grant", "inactive user", org)
        scopes = tuple(scope for scope in app.scopes if scope not in REFRESH_SCOPES)
        if len(scopes) == len(app.scopes) or not scopes:
            words = "refresh_token scope is required and the connected app should be installed and preauthorized"
            raise OAuthRefused("invalid_request", words, org)
        if not org.setup.is_covered(app, user):
            raise OAuthRefused("invalid_grant", "user hasn't approved this consumer", org)
        return Grant(org, user, scopes)

    # codes of sign-ins

    def issue_code(self, grant: Grant, app: ExternalClientApp, redirect_uri: str, challenge: str | None) -> str:
        """Return a new code, which can be used once."""
        code = "aPrx" + secrets.token_urlsafe(48)
        self.codes[code] = Code(grant, app, redirect_uri, challenge, time.time() + CODE_SECONDS)
        return code

    def check_code(self, form: Any) -> Grant:
        """Check a code, its verifier and the client that shows them. Whatever is wrong, the code is used up.

        :raises OAuthRefused: if it gets no token
        """
        known = self.apps(form.get("client_id"))
        if not known:
            raise OAuthRefused("invalid_client_id", "client identifier invalid")
        code = self.codes.pop(str(form.get("code")), None)
        if code is None or code.grant.client != form.get("client_id"):
            raise OAuthRefused("invalid_grant", "invalid authorization code")
        org = code.grant.org

        def refuse(error: str, description: str) -> NoReturn:
            raise OAuthRefused(error, description, org)

        if code.expires < time.time():
            refuse("invalid_grant", "expired authorization code")
        if form.get("redirect_uri") != code.redirect_uri:
            refuse("redirect_uri_mismatch", "redirect_uri must match configuration")
        verifier = form.get("code_verifier")
        if code.challenge and not verifier:
            refuse("invalid_grant", "invalid code verifier")
        if code.challenge and url_safe(hashlib.sha256(str(verifier).encode()).digest()) != code.challenge:
            refuse("invalid_request", "invalid code verifier")
        if not self.is_client(form, org, code.app):
            refuse("invalid_client", "invalid client credentials")
        return code.grant

    def is_client(self, form: Any, org: Org, app: ExternalClientApp) -> bool:
        """Tell whether a request comes from the app: by its secret, or signed with the key of its certificate."""
        if form.get("client_assertion_type") == CLIENT_ASSERTION:
            assertion = str(form.get("client_assertion"))
            try:
                claims = read_assertion(assertion)
            except OAuthRefused:
                return False
            audiences = LOGIN_HOSTS | {org.base_url, f"{org.base_url}/services/oauth2/token"}
            audiences |= {f"{host}/services/oauth2/token" for host in LOGIN_HOSTS}
            named = claims.get("iss") == claims.get("sub") == app.consumer_key
            return named and is_signed(assertion, app) and not wrong_audience_or_time(claims, audiences)
        given = form.get("client_secret")
        if given is None:
            return app.is_secret_optional
        return secrets.compare_digest(str(given).encode(), str(app.consumer_secret).encode())


def read_assertion(assertion: str) -> dict[str, Any]:
    """Return the claims of a JWT whose signature is still to be checked.

    :raises OAuthRefused: if it is none, or not RS256
    """
    try:
        header = jwt.get_unverified_header(assertion)
        claims: dict[str, Any] = jwt.decode(assertion, options={"verify_signature": False})
    except jwt.InvalidTokenError as exc:
        raise OAuthRefused("invalid_grant", "invalid assertion") from exc
    if header.get("alg") != "RS256":
        raise OAuthRefused("invalid_grant", "invalid assertion: only RS256 is supported")
    return claims


def is_signed(assertion: str, app: ExternalClientApp) -> bool:
    """Tell whether the key of the app's certificate signed a JWT."""
    key = public_key(app)
    try:
        return key is not None and bool(jwt.PyJWS().decode(assertion, key, algorithms=["RS256"]))
    except jwt.InvalidTokenError:
        return False


def wrong_audience_or_time(claims: dict[str, Any], audiences: set[str]) -> str | None:
    """Say what is wrong with whom a JWT is for and how long it is valid."""
    if claims.get("aud") not in audiences:
        return "audience is invalid"
    expires, now = claims.get("exp"), time.time()
    if not is_number(expires) or expires <= now:
        return "expired authorization code: the assertion has no valid exp"
    return "invalid assertion: exp is too far ahead" if expires > now + LONGEST_ASSERTION else None
