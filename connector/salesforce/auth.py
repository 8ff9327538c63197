"""Logging in to a Salesforce org: the OAuth 2.0 JWT bearer flow, and what its refusals mean.

https://help.salesforce.com/s/articleView?id=sf.remoteaccess_oauth_jwt_flow.htm
"""

import re
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from connector import http
from connector.http import (
    Answer,
    ApiClient,
    ApiError,
    AuthenticationFailed,
    RateLimited,
    ServiceUnavailable,
    check_address,
)

SERVICE = "Salesforce"
ORG_HOSTS = re.compile(
    r"[a-z0-9][a-z0-9-]*(\.(sandbox|develop|scratch|trailblaze|demo|free|patch|stage))?\.my\.salesforce\.com"
)
SCRT_HOSTS = re.compile(ORG_HOSTS.pattern.replace("my\\.salesforce", "my\\.salesforce-scrt"))
TOKEN_PATH = "/services/oauth2/token"
ASSERTION_SECONDS = 180  # how long the signed request may be used; says nothing of the token's life
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"

_IDENTITY = re.compile(
    r"https?://[^?#]*/id/(00D[a-zA-Z0-9]{12}(?:[a-zA-Z0-9]{3})?)/(005[a-zA-Z0-9]{12}(?:[a-zA-Z0-9]{3})?)"
)


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A bearer token and the host that it is for. It tells no end: Salesforce gives none in this flow.

    ``org_id``, ``user_id`` and ``scopes`` are what the answer of the login said, empty where nobody asked. They make no
    other token of it: one that was read back from a cache is the same without them.
    """

    value: str = field(repr=False)
    instance_url: str
    org_id: str = field(default="", compare=False)
    user_id: str = field(default="", compare=False)
    scopes: frozenset[str] = field(default=frozenset(), compare=False)


class TokenSource(http.TokenSource, Protocol):
    """Where clients take an org's token from."""

    def ready(self) -> AccessToken | None:
        """Give the token in use without waiting for anything; None where that takes a login or a look elsewhere."""

    def current(self) -> AccessToken:
        """Give the token in use, logging in where there is none."""

    def renew(self, refused: AccessToken) -> AccessToken:
        """Give another one after ``refused`` was not accepted; callers at the same time share one login."""


def login(*, base_url: str, consumer_key: str, username: str, private_key: str, allow_local: bool) -> AccessToken:
    """Exchange a signed assertion for an access token.

    :param private_key: RSA key in PEM form, whose certificate the org's connected app holds
    :raises AuthenticationFailed: if Salesforce refuses; the code is its ``error``, ``remedy_of`` says what to do
    :raises ServiceUnavailable: if Salesforce cannot answer now
    :raises AddressRefused: if the org's or the token's host is not Salesforce's
    """
    client = oauth_client(base_url, allow_local=allow_local)
    claims = {"iss": consumer_key, "sub": username, "aud": _audience(client.base_url)}
    form = {"grant_type": GRANT, "assertion": sign(claims, private_key)}
    try:
        answer = client.request("POST", TOKEN_PATH, headers={"Accept": "application/json"}, data=form)
    except ServiceUnavailable as exc:
        exc.in_doubt = False  # whatever became of the login: the call that needed it has not been made
        raise
    return read_token(answer, client.base_url)


def oauth_client(base_url: str, *, allow_local: bool) -> ApiClient:
    """Build the client of an org's OAuth endpoints.

    :raises AddressRefused: if the host is not Salesforce's
    """
    address = check_address(base_url, service=SERVICE, hosts=ORG_HOSTS, allow_local=allow_local)
    client = ApiClient(address, allow_local=allow_local)
    client.service = SERVICE
    return client


def sign(claims: dict[str, Any], private_key: str) -> str:
    """Sign claims that are good for three minutes, with the key whose certificate the org's app holds.

    :raises AuthenticationFailed: if the key cannot sign
    """
    try:
        # each key was checked when it came to us (the wizard makes them, provisioning checks them); doing it again takes
        # 37 ms of CPU, in which nothing else of the process runs, and after a restart all orgs may log in at once
        key = load_pem_private_key(private_key.encode(), password=None, unsafe_skip_rsa_key_validation=True)
        if not isinstance(key, RSAPrivateKey):
            raise TypeError("not an RSA key")
        return jwt.encode({**claims, "exp": int(time.time()) + ASSERTION_SECONDS}, key, algorithm="RS256")
    except (ValueError, TypeError, UnsupportedAlgorithm, jwt.PyJWTError) as exc:
        raise AuthenticationFailed(
            SERVICE, "the private key cannot sign; give an RSA key in PEM form", code="unusable_key"
        ) from exc


def read_token(answer: Answer, base_url: str) -> AccessToken:
    """Read what the token endpoint answered.

    :raises AuthenticationFailed: if Salesforce refuses, or gives a token for another host
    :raises ServiceUnavailable: if Salesforce cannot answer now
    """
    refuse_unless_granted(answer)
    token, instance_url = answer.body.get("access_token"), answer.body.get("instance_url")
    if not isinstance(token, str):
        raise AuthenticationFailed(SERVICE, "login refused: no reason given", status=answer.status)
    # the token goes to the org's own host only, whatever the answer says
    if isinstance(instance_url, str) and instance_url.rstrip("/").lower() != base_url.lower():
        raise AuthenticationFailed(SERVICE, f"the token is for another host than {base_url}", code="another_host")
    org_id, user_id = read_identity(answer.body.get("id")) or ("", "")
    return AccessToken(token, base_url, org_id, user_id, frozenset(str(answer.body.get("scope") or "").split()))


def refuse_unless_granted(answer: Answer) -> None:
    """Raise what an OAuth endpoint's refusal means.

    :raises ApiError: the member of the family says whether trying again can help
    """
    error = str(answer.body.get("error", ""))[:100]
    description = str(answer.body.get("error_description", ""))[:200]
    said = f"{error} {description}".lower()
    if "rate" in said and "exceed" in said:  # 3,600 logins an hour and user
        code = error if "rate" in error.lower() else "LOGIN_RATE_EXCEEDED"
        raise RateLimited(SERVICE, "too many logins", status=answer.status, code=code, retry_after=600)
    if answer.status >= 500 or answer.status == 429:
        raise ServiceUnavailable(SERVICE, "cannot log in now", status=answer.status, code=error)
    if answer.status != 200:
        message = f"login refused: {description or 'no reason given'}"
        raise AuthenticationFailed(SERVICE, message, status=answer.status, code=error, description=description)


def read_identity(url: object) -> tuple[str, str] | None:
    """Read the ids of org and user from an identity URL, with 15 or 18 characters as they stand there."""
    found = _IDENTITY.fullmatch(url) if isinstance(url, str) else None
    return (found[1], found[2]) if found else None


def _audience(base_url: str) -> str:
    """Name whom the assertion is for: it depends on the kind of org, not on the host it is posted to."""
    if not base_url.endswith(".my.salesforce.com"):
        return base_url  # a stand-in on this machine
    return (
        "https://test.salesforce.com" if re.search(r"\.(sandbox|scratch)\.", base_url) else "https://login.salesforce.com"
    )


# What an admin can do about a refusal. Salesforce gives one code to several causes, so that words of its description
# tell them apart; the first row that fits counts: (code or nothing, words, sentence)

_PROPAGATION = "Salesforce takes 2 to 30 minutes to learn of a new or changed app: if it is one, wait and try again."
_START_AGAIN = "Close the window and start signing in again; a sign-in must be finished within ten minutes or so."

REMEDIES: tuple[tuple[str, str, str], ...] = (
    (
        "invalid_client_id",
        "",
        "Salesforce does not know this consumer key in this org. Copy it again from the external client app (Settings, "
        "OAuth Settings, Consumer Key and Secret), and check that the My Domain address is that of the org that holds the "
        f"app: a sandbox has an address of its own. {_PROPAGATION}",
    ),
    (
        "invalid_client",
        "",
        "The signature does not fit the certificate that the app holds. Upload the certificate shown here to the external "
        "client app, under Enable JWT Bearer Flow (on a connected app: Use digital signatures), and save it. "
        f"{_PROPAGATION}",
    ),
    (
        "invalid_grant",
        "approved|approval",
        "The integration user is not pre-authorized for the app, or there is no user of this name. Set the app's policy to "
        "'Admin approved users are pre-authorized', and add to it the user's profile or a permission set that the user "
        "has. Check the username too: it is the login name, not the e-mail address, and in a sandbox it ends with a dot "
        f"and the sandbox's name. {_PROPAGATION}",
    ),
    (
        "invalid_app_access",
        "",
        "The app admits approved users only, and this user is not one of them. Add the user's profile, or a permission set "
        "that the user has, to the app's policies (Manage Profiles or Manage Permission Sets).",
    ),
    (
        "app_not_found|oauth_ec_app_not_found",
        "",
        "The external client app is not installed in this org. Either it belongs to another org (a sandbox does not share "
        "the apps of its production org), or the My Domain address is that of another org. Install or create the app here, "
        "or correct the address or the consumer key.",
    ),
    (
        "",
        "cross-org",
        "The app belongs to another org and admits only that org's users. Create an external client app in this org, or "
        "sign in to the org that holds it.",
    ),
    (
        "invalid_grant",
        "audience",
        "The request was meant for another kind of org. Enter the My Domain address exactly as Setup, My Domain, shows it: "
        "a sandbox has '--name.sandbox' in it, a production org does not.",
    ),
    (
        "invalid_grant",
        "locked",
        "The user is locked out after too many wrong passwords. Unlock the user in Setup, Users, or wait until the lock "
        "ends.",
    ),
    (
        "invalid_grant",
        "inactive|deactivated|frozen",
        "The user is not active. Activate or unfreeze the user in Setup, Users, or give the username of another one.",
    ),
    (
        "invalid_grant",
        r"\bip\b|restricted",
        "The user may not log in from our network. Set IP Relaxation in the app's policies to 'Relax IP restrictions', or "
        "add our addresses to the login IP ranges of the user's profile.",
    ),
    (
        "invalid_grant",
        "hours",
        "The user may not log in at this hour. Clear the login hours of the user's profile: messages come at any time.",
    ),
    (
        "invalid_grant|invalid_request",
        "code verifier|code_verifier|code challenge|code_challenge",
        f"This sign-in was started in another window, or was changed on its way. {_START_AGAIN}",
    ),
    (
        "invalid_grant",
        "expired|assertion|authorization code|authentication failure",
        "What we sent was no longer valid when Salesforce read it. Try again; if it happens twice, the clock of the "
        "connector's server may be wrong, which its operator must correct.",
    ),
    (
        "invalid_request",
        "refresh_token",
        "The app lacks the scope 'Perform requests at any time (refresh_token, offline_access)'. Add it to the app's OAuth "
        f"scopes; logins need it although no refresh token is ever asked for. {_PROPAGATION}",
    ),
    (
        "invalid_scope",
        "",
        "The app does not have a scope that is asked for. It needs api, refresh_token, interaction_api and openid, and for "
        f"signing in id as well. {_PROPAGATION}",
    ),
    (
        "redirect_uri_mismatch|invalid_request",
        "redirect_uri|redirect uri",
        "The app does not list our callback address. Copy the callback URL shown here into the app's OAuth settings, "
        f"letter by letter. {_PROPAGATION}",
    ),
    (
        "access_denied",
        "",
        "The sign-in was declined in the Salesforce window. Start again and choose Allow; if you were not asked, an "
        "administrator must admit you in the app's policies.",
    ),
    (
        "oauth_approval_error_generic",
        "",
        "The app is not installed in this org and you may not approve apps that are not. Let an administrator install it, "
        "or sign in as a user with the permission Approve Uninstalled Connected Apps.",
    ),
    (
        "unsupported_grant_type|unsupported_response_type|invalid_request",
        "",
        "Salesforce does not take the request in this form. There is nothing to change in your org: tell the operator of "
        "this connector.",
    ),
    (
        ".*rate.*exceed.*",
        "",
        "This user has logged in too often: Salesforce allows 3,600 logins an hour. Wait an hour, and look for other "
        "programs that use the same user.",
    ),
    (
        "",
        "not valid for use with the rest api",
        "The app's token does not open the REST API. Add the scope 'Manage user data via APIs (api)' to the app, and the "
        "permission API Enabled to the user.",
    ),
    (
        "invalid_session_id",
        "",
        "The session has ended, or was ended by an administrator. Sign in again; where it goes on, check the app's session "
        "policy and IP restrictions.",
    ),
    (
        "invalid_id_token",
        "",
        "What Salesforce says of the person does not fit this sign-in, so nobody was signed in. Close the window and start "
        "again; if it happens twice, tell the operator of this connector.",
    ),
    (
        "unusable_key",
        "",
        "The private key cannot sign: it must be an RSA key in PEM form, from '-----BEGIN' to the end of its last line.",
    ),
    (
        "another_host",
        "",
        "The login works, but for another address than the one entered. Enter the org's current My Domain address, as "
        "Setup, My Domain, shows it.",
    ),
)


def remedy_of(error: ApiError) -> str:
    """Say to an admin what a failed login means and what to do; honestly so where we do not know the reason."""
    description = error.description if isinstance(error, AuthenticationFailed) else ""
    for code, words, sentence in REMEDIES:
        if re.fullmatch(code or ".*", error.code.lower()) and re.search(words, description.lower()):
            return sentence
    if isinstance(error, ServiceUnavailable):
        return "Salesforce cannot be reached, or is under maintenance (status.salesforce.com). Try again in some minutes."
    said = f"{error.code}: {description}" if error.code and description else error.code or description
    if not said:
        return (
            "Salesforce refused without giving a reason. Check that the My Domain address is right and opens the login "
            "page in a browser, then look at the user's Login History in Setup, which often names the cause."
        )
    return (
        f"Salesforce refuses for a reason that we do not know ({said}). Look at the user's Login History in Setup, which "
        "often names the cause."
    )
