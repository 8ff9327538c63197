"""Signing a person in with their Salesforce org: OpenID Connect with a code, PKCE and a nonce.

https://help.salesforce.com/s/articleView?id=sf.remoteaccess_oauth_web_server_flow.htm

We prove who we are with a signed assertion, as in the login of the integration user, so that nobody ever has to paste
the app's consumer secret anywhere.
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlencode
from uuid import uuid4

import jwt

from connector.http import AuthenticationFailed, ServiceUnavailable
from connector.salesforce.auth import (
    SERVICE,
    TOKEN_PATH,
    AccessToken,
    oauth_client,
    read_identity,
    read_token,
    refuse_unless_granted,
    sign,
)

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
LEEWAY_SECONDS = 180  # between Salesforce's clock and ours
LOGIN_HOSTS = ("https://login.salesforce.com", "https://test.salesforce.com")


@dataclass(frozen=True, slots=True)
class SignIn:
    """What a code was exchanged for."""

    access_token: AccessToken
    id_token: str = field(repr=False)

    @property
    def instance_url(self) -> str:
        return self.access_token.instance_url


@dataclass(frozen=True, slots=True)
class IdToken:
    """What a checked ID token says: who signed in, where."""

    issuer: str
    organization_id: str
    user_id: str


@dataclass(frozen=True, slots=True)
class UserInfo:
    """A user, as their own access token shows them."""

    user_id: str
    organization_id: str
    username: str
    name: str
    email: str
    active: bool
    language: str


def new_verifier() -> tuple[str, str]:
    """Make a PKCE verifier, which stays with us, and its challenge, which goes into the address of the popup."""
    verifier = secrets.token_urlsafe(48)
    digest = hashlib.sha256(verifier.encode()).digest()
    return verifier, base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def authorize_url(
    *,
    base_url: str,
    client_id: str,
    redirect_uri: str,
    scopes: Iterable[str],
    state: str,
    nonce: str,
    code_challenge: str,
    prompt: str = "",
    login_hint: str = "",
) -> str:
    """Give the address that a popup opens.

    :param base_url: the org's My Domain, where a browser that is signed in to the org passes without a question
    :param prompt: ``login`` makes the person enter the password again
    """
    query = {
        "response_type": "code",
        "client_id": client_id,
        "redirect_uri": redirect_uri,
        "scope": " ".join(scopes),
        "state": state,
        "nonce": nonce,
        "code_challenge": code_challenge,
        "code_challenge_method": "S256",
        "display": "popup",
        "prompt": prompt,
        "login_hint": login_hint,
    }
    said = {name: value for name, value in query.items() if value}
    return f"{base_url}/services/oauth2/authorize?{urlencode(said)}"


def exchange_code(
    *,
    base_url: str,
    client_id: str,
    private_key: str,
    redirect_uri: str,
    code: str,
    verifier: str,
    allow_local: bool,
) -> SignIn:
    """Exchange the code that came to our callback.

    :param private_key: RSA key in PEM form, whose certificate the app holds
    :raises AuthenticationFailed: if Salesforce refuses; ``auth.remedy_of`` says what to do
    :raises ServiceUnavailable: if Salesforce cannot answer now
    :raises AddressRefused: if the org's or the token's host is not Salesforce's
    """
    client = oauth_client(base_url, allow_local=allow_local)
    claims = {"iss": client_id, "sub": client_id, "aud": client.base_url + TOKEN_PATH, "jti": str(uuid4())}
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": redirect_uri,
        "client_id": client_id,
        "code_verifier": verifier,
        "client_assertion_type": ASSERTION_TYPE,
        "client_assertion": sign(claims, private_key),
    }
    answer = client.request("POST", TOKEN_PATH, headers={"Accept": "application/json"}, data=form)
    token, id_token = read_token(answer, client.base_url), answer.body.get("id_token")
    if not isinstance(id_token, str):
        raise AuthenticationFailed(
            SERVICE, "the answer names nobody: the app needs the scope openid", status=answer.status, code="invalid_scope"
        )
    return SignIn(token, id_token)


def signing_keys(*, base_url: str, allow_local: bool) -> dict[str, jwt.PyJWK]:
    """Fetch the keys that an org signs ID tokens with, by their ids.

    They change without notice, and nobody signs in often, so they are fetched for each sign-in.

    :raises ServiceUnavailable: if there are none to be had
    :raises AddressRefused: if the host is not Salesforce's
    """
    client = oauth_client(base_url, allow_local=allow_local)
    answer = client.request("GET", "/id/keys", headers={"Accept": "application/json"})
    listed = answer.body.get("keys")
    keys = {}
    for each in listed if isinstance(listed, list) else []:
        if isinstance(each, dict) and isinstance(each.get("kid"), str) and each.get("kty") == "RSA":
            try:
                keys[each["kid"]] = jwt.PyJWK(each, algorithm="RS256")
            except jwt.PyJWTError:  # one that we cannot use is no reason not to use another
                continue
    if answer.status != 200 or not keys:
        raise ServiceUnavailable(SERVICE, "the keys that sign-ins are signed with cannot be read", status=answer.status)
    return keys


def check_id_token(token: str, *, base_url: str, client_id: str, nonce: str, keys: Mapping[str, jwt.PyJWK]) -> IdToken:
    """Check that an ID token was made by this org, for our app and for this very sign-in, just now.

    :param keys: what ``signing_keys`` gave
    :raises AuthenticationFailed: saying which of it is not so
    """
    try:
        key = keys.get(str(jwt.get_unverified_header(token).get("kid")))
        if key is None:
            raise _not_valid("is signed with a key that the org does not have")
        claims = jwt.decode(
            token,
            key,
            algorithms=["RS256"],
            audience=client_id,
            leeway=LEEWAY_SECONDS,
            options={"require": ["iss", "sub", "aud", "exp", "iat", "nonce"]},
        )
    except jwt.ExpiredSignatureError as exc:
        raise _not_valid("has expired; sign in again") from exc
    except jwt.ImmatureSignatureError as exc:
        raise _not_valid("comes from the future; the clock of the connector's server may be wrong") from exc
    except jwt.InvalidAudienceError as exc:
        raise _not_valid("is for another app") from exc
    except (jwt.PyJWTError, ValueError) as exc:
        raise _not_valid(f"cannot be trusted ({type(exc).__name__})") from exc
    if claims["aud"] not in (client_id, [client_id]):  # for our app and for others, who could have passed it on
        raise _not_valid("is for other apps as well")
    if not hmac.compare_digest(str(claims["nonce"]).encode(), nonce.encode()):
        raise _not_valid("belongs to another sign-in; start again in this window")
    issuer = str(claims["iss"]).rstrip("/")
    if issuer not in (base_url, *LOGIN_HOSTS):
        raise _not_valid("was made by another host than the org's")
    identity = read_identity(claims["sub"])
    if identity is None:
        raise _not_valid("does not say who signed in")
    return IdToken(issuer, *identity)


def user_info(*, base_url: str, token: AccessToken, allow_local: bool) -> UserInfo:
    """Ask who a token belongs to; ids and ``active`` are what binds it to an org and a person.

    https://help.salesforce.com/s/articleView?id=sf.remoteaccess_using_userinfo_endpoint.htm

    :raises AuthenticationFailed: if the token is not accepted
    :raises ServiceUnavailable: if Salesforce cannot answer now
    """
    client = oauth_client(base_url, allow_local=allow_local)
    headers = {"Authorization": f"Bearer {token.value}", "Accept": "application/json"}
    answer = client.request("GET", "/services/oauth2/userinfo", headers=headers)
    if answer.status in (401, 403):
        raise AuthenticationFailed(
            SERVICE, "the sign-in has ended; sign in again", status=answer.status, code="INVALID_SESSION_ID"
        )
    text = {name: value for name, value in answer.body.items() if isinstance(value, str)}
    if answer.status != 200 or not text.get("user_id") or not text.get("organization_id"):
        raise ServiceUnavailable(SERVICE, "does not say whose sign-in this is", status=answer.status)
    return UserInfo(
        user_id=text["user_id"],
        organization_id=text["organization_id"],
        username=text.get("preferred_username", ""),
        name=text.get("name", ""),
        email=text.get("email", ""),
        active=answer.body.get("active") is True,
        language=text.get("language", ""),
    )


def revoke(base_url: str, token: AccessToken, *, allow_local: bool) -> None:
    """End a token's life; one that has ended already is no error.

    https://help.salesforce.com/s/articleView?id=sf.remoteaccess_revoke_token.htm

    :raises ApiError: if Salesforce did not do so
    """
    client = oauth_client(base_url, allow_local=allow_local)
    headers = {"Accept": "application/json"}
    answer = client.request("POST", "/services/oauth2/revoke", headers=headers, data={"token": token.value})
    if answer.body.get("error") not in ("invalid_token", "unsupported_token_type"):
        refuse_unless_granted(answer)


def _not_valid(what: str) -> AuthenticationFailed:
    return AuthenticationFailed(SERVICE, f"the sign-in {what}", code="invalid_id_token")
