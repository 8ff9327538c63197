"""Logging in to a Salesforce org: the OAuth 2.0 JWT bearer flow.

https://help.salesforce.com/s/articleView?id=sf.remoteaccess_oauth_jwt_flow.htm
"""

import re
import time
from dataclasses import dataclass, field
from typing import Protocol

import jwt

from connector.http import ApiClient, AuthenticationFailed, RateLimited, ServiceUnavailable, check_address

SERVICE = "Salesforce"
ORG_HOSTS = re.compile(
    r"[a-z0-9][a-z0-9-]*(\.(sandbox|develop|scratch|trailblaze|demo|free|patch|stage))?\.my\.salesforce\.com"
)
SCRT_HOSTS = re.compile(ORG_HOSTS.pattern.replace("my\\.salesforce", "my\\.salesforce-scrt"))
ASSERTION_SECONDS = 180  # how long the signed request may be used; says nothing of the token's life
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A bearer token and the host that it is for. It tells no end: Salesforce gives none in this flow."""

    value: str = field(repr=False)
    instance_url: str


class TokenSource(Protocol):
    """Where clients take an org's token from."""

    def current(self) -> AccessToken:
        """Give the token in use, logging in where there is none."""

    def renew(self, refused: AccessToken) -> AccessToken:
        """Give another one after ``refused`` was not accepted; callers at the same time share one login."""


def login(*, base_url: str, consumer_key: str, username: str, private_key: str, allow_local: bool) -> AccessToken:
    """Exchange a signed assertion for an access token.

    :param private_key: RSA key in PEM form, whose certificate the org's connected app holds
    :raises AuthenticationFailed: if Salesforce refuses; the code is its ``error``
    :raises ServiceUnavailable: if Salesforce cannot answer now
    :raises AddressRefused: if the org's or the token's host is not Salesforce's
    """
    client = ApiClient(check_address(base_url, service=SERVICE, hosts=ORG_HOSTS, allow_local=allow_local))
    client.service = SERVICE
    claims = {
        "iss": consumer_key,
        "sub": username,
        "aud": _audience(client.base_url),
        "exp": int(time.time()) + ASSERTION_SECONDS,
    }
    try:
        assertion = jwt.encode(claims, private_key, algorithm="RS256")
    except (ValueError, TypeError, jwt.PyJWTError) as exc:
        raise AuthenticationFailed(SERVICE, "the private key cannot sign; give an RSA key in PEM form") from exc
    form = {"grant_type": GRANT, "assertion": assertion}
    answer = client.request("POST", "/services/oauth2/token", headers={"Accept": "application/json"}, data=form)

    error = str(answer.body.get("error", ""))[:100]
    said = f"{error} {answer.body.get('error_description', '')}".lower()
    if "rate" in said and "exceed" in said:  # 3,600 logins an hour and user
        raise RateLimited(SERVICE, "too many logins", status=answer.status, code=error, retry_after=600)
    if answer.status >= 500 or answer.status == 429:
        raise ServiceUnavailable(SERVICE, "cannot log in now", status=answer.status, code=error)
    token, instance_url = answer.body.get("access_token"), answer.body.get("instance_url")
    if answer.status != 200 or not isinstance(token, str):
        why = str(answer.body.get("error_description", "no reason given"))[:200]
        raise AuthenticationFailed(SERVICE, f"login refused: {why}", status=answer.status, code=error)
    # the token goes to the org's own host only, whatever the answer says
    if isinstance(instance_url, str) and instance_url.rstrip("/").lower() != client.base_url.lower():
        raise AuthenticationFailed(SERVICE, f"the token is for another host than {client.base_url}")
    return AccessToken(token, client.base_url)


def _audience(base_url: str) -> str:
    """Name whom the assertion is for: it depends on the kind of org, not on the host it is posted to."""
    if not base_url.endswith(".my.salesforce.com"):
        return base_url  # a stand-in on this machine
    return (
        "https://test.salesforce.com" if re.search(r"\.(sandbox|scratch)\.", base_url) else "https://login.salesforce.com"
    )
