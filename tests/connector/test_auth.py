"""Logging in to Salesforce: what we sign, what is refused, and where a token may be used."""

import time
from typing import Any
from urllib.parse import parse_qs

import jwt
import pytest
import responses
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from connector.http import (
    AddressRefused,
    ApiError,
    AuthenticationFailed,
    CustomerMustAct,
    RateLimited,
    ServiceUnavailable,
)
from connector.salesforce.auth import REMEDIES, AccessToken, login, remedy_of, sign
from tests.connector import CORE, TOKEN_URL
from tests.payloads import load

CONSUMER_KEY, USERNAME = "3MVG9kZcDemoConsumerKey.0aBcD", "byoc.integration@acme.example"


def log_in(private_key: str, base_url: str = CORE, *, allow_local: bool = False) -> AccessToken:
    return login(
        base_url=base_url,
        consumer_key=CONSUMER_KEY,
        username=USERNAME,
        private_key=private_key,
        allow_local=allow_local,
    )


@responses.activate
@pytest.mark.parametrize(
    ("base_url", "audience"),
    [
        (CORE, "https://login.salesforce.com"),
        ("https://acme-dev-ed.develop.my.salesforce.com", "https://login.salesforce.com"),
        ("https://sandbox.my.salesforce.com", "https://login.salesforce.com"),  # an org of that name
        ("https://acme--uat.sandbox.my.salesforce.com", "https://test.salesforce.com"),
        ("https://acme--x1.scratch.my.salesforce.com", "https://test.salesforce.com"),
        ("http://127.0.0.1:8100", "http://127.0.0.1:8100"),  # a stand-in on this machine
    ],
)
def test_a_login_sends_an_assertion_for_the_right_audience(private_key: str, base_url: str, audience: str) -> None:
    answer = {**load("salesforce/answers/token")["body"], "instance_url": base_url}
    responses.post(f"{base_url}/services/oauth2/token", json=answer)
    token = log_in(private_key, base_url, allow_local=True)
    assert token == AccessToken("00D5g00000ABcDE!AQEAQDemoOpaqueTokenValue", base_url)

    request: Any = responses.calls[0].request
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
    form = parse_qs(request.body.decode(), strict_parsing=True)
    assert form.keys() == {"grant_type", "assertion"}
    assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
    (assertion,) = form["assertion"]
    assert jwt.get_unverified_header(assertion)["alg"] == "RS256"
    key = load_pem_private_key(private_key.encode(), None).public_key()
    public_key = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    claims = jwt.decode(assertion, public_key, algorithms=["RS256"], audience=audience)
    assert {name: claims[name] for name in ("iss", "sub", "aud")} == {
        "iss": CONSUMER_KEY,
        "sub": USERNAME,
        "aud": audience,
    }
    assert 170 <= claims["exp"] - time.time() <= 180


@responses.activate
@pytest.mark.parametrize(
    ("url", "ids"),
    [
        (
            "https://login.salesforce.com/id/00D5g00000ABcDEEA4/0055g00000XyZabAAF",
            ("00D5g00000ABcDEEA4", "0055g00000XyZabAAF"),
        ),
        ("https://test.salesforce.com/id/00D5g00000ABcDE/0055g00000XyZab", ("00D5g00000ABcDE", "0055g00000XyZab")),
        ("http://127.0.0.1:8100/id/00D5g00000ABcDE/0055g00000XyZab", ("00D5g00000ABcDE", "0055g00000XyZab")),
        ("https://login.salesforce.com/id/00D5g00000ABcDEEA/0055g00000XyZabAAF", ("", "")),
        ("https://login.salesforce.com/id/0055g00000XyZabAAF/00D5g00000ABcDEEA4", ("", "")),
        ("https://login.salesforce.com/id/00D5g00000ABcDEEA4", ("", "")),
        ("https://evil.example/?/id/00D5g00000ABcDEEA4/0055g00000XyZabAAF", ("", "")),
        (None, ("", "")),
        (7, ("", "")),
    ],
)
def test_a_login_says_which_org_and_which_user_it_is_of(private_key: str, url: object, ids: tuple[str, str]) -> None:
    responses.post(TOKEN_URL, json={**load("salesforce/answers/token")["body"], "id": url})
    token = log_in(private_key)
    assert (token.org_id, token.user_id) == ids


def test_a_token_is_the_same_one_without_its_ids() -> None:
    known = AccessToken("secret", CORE, "00D5g00000ABcDEEA4", "0055g00000XyZabAAF")
    assert known == AccessToken("secret", CORE)  # as a cache gives it back: nobody must take it for a new one
    assert known != AccessToken("other", CORE, "00D5g00000ABcDEEA4", "0055g00000XyZabAAF")


def test_a_token_does_not_show_itself() -> None:
    assert "secret" not in repr(AccessToken("secret", CORE))


@responses.activate
@pytest.mark.parametrize(
    ("status", "error", "description", "kind"),
    [
        (400, "invalid_client_id", "client identifier invalid", AuthenticationFailed),
        (400, "invalid_client", "invalid client credentials", AuthenticationFailed),
        (401, "invalid_client", "invalid client credentials", AuthenticationFailed),
        (400, "invalid_grant", "user hasn't approved this consumer", AuthenticationFailed),
        (400, "invalid_grant", "audience is invalid", AuthenticationFailed),
        (400, "invalid_grant", "expired authorization code", AuthenticationFailed),
        (400, "invalid_grant", "inactive user", AuthenticationFailed),
        (400, "invalid_app_access", "user is not admin approved to access this app", AuthenticationFailed),
        (400, "app_not_found", "External client app is not installed in this org", AuthenticationFailed),
        (400, "invalid_request", "refresh_token scope is required", AuthenticationFailed),
        (400, "unsupported_grant_type", "grant type not supported", AuthenticationFailed),
        (400, "LOGIN_RATE_EXCEEDED", "login rate exceeded", RateLimited),
        (400, "login rate exceeded", "", RateLimited),
        (429, "", "", ServiceUnavailable),
        (500, "server_error", "", ServiceUnavailable),
    ],
)
def test_each_refusal_of_a_login_is_understood(
    private_key: str, status: int, error: str, description: str, kind: type[ApiError]
) -> None:
    responses.post(TOKEN_URL, status=status, json={"error": error, "error_description": description})
    with pytest.raises(ApiError) as caught:
        log_in(private_key)
    assert type(caught.value) is kind
    assert (caught.value.service, caught.value.status, caught.value.code) == ("Salesforce", status, error)
    assert caught.value.retryable
    if isinstance(caught.value, AuthenticationFailed):
        assert isinstance(caught.value, CustomerMustAct)
        assert description in str(caught.value)
        assert caught.value.description == description
    if kind is RateLimited:
        assert caught.value.retry_after == 600  # every exchange is a login, and a user has 3,600 an hour


@responses.activate
def test_maintenance_pages_are_waited_out(private_key: str) -> None:
    responses.post(TOKEN_URL, status=503, body="<html>Down for maintenance</html>", content_type="text/html")
    with pytest.raises(ServiceUnavailable) as caught:
        log_in(private_key)
    assert caught.value.status == 503


@responses.activate
@pytest.mark.parametrize(
    "instance_url",
    [
        "https://evil.example",
        "https://rival.my.salesforce.com",
        "http://acme.my.salesforce.com",
        "https://acme.my.salesforce.com.evil.example",
        "https://acme.my.salesforce.com@evil.example",
    ],
)
def test_a_token_for_another_host_is_refused(private_key: str, instance_url: str) -> None:
    responses.post(TOKEN_URL, json={**load("salesforce/answers/token")["body"], "instance_url": instance_url})
    with pytest.raises(AuthenticationFailed, match="another host"):
        log_in(private_key)


@responses.activate
@pytest.mark.parametrize("instance_url", [None, CORE, f"{CORE}/", CORE.upper()])
def test_a_token_is_used_on_the_orgs_own_host_only(private_key: str, instance_url: str | None) -> None:
    responses.post(TOKEN_URL, json={**load("salesforce/answers/token")["body"], "instance_url": instance_url})
    assert log_in(private_key, f"{CORE}/").instance_url == CORE


@responses.activate
@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_login_follows_no_redirect(private_key: str, status: int) -> None:
    responses.post(TOKEN_URL, status=status, headers={"Location": "https://evil.example/services/oauth2/token"})
    elsewhere = responses.post("https://evil.example/services/oauth2/token", json={"access_token": "x"})
    with pytest.raises(AuthenticationFailed):
        log_in(private_key)
    assert elsewhere.call_count == 0


@responses.activate
@pytest.mark.parametrize("body", ["", "[]", "null", "<html>", '{"access_token": null}', '{"access_token": 7}', "{}"])
def test_an_answer_without_a_token_is_a_refusal(private_key: str, body: str) -> None:
    responses.post(TOKEN_URL, body=body, content_type="application/json")
    with pytest.raises(AuthenticationFailed):
        log_in(private_key)


@responses.activate
@pytest.mark.parametrize("base_url", ["https://evil.example", "http://acme.my.salesforce.com", "http://127.0.0.1:8100"])
def test_no_assertion_goes_to_a_host_that_is_not_salesforces(private_key: str, base_url: str) -> None:
    with pytest.raises(AddressRefused):
        log_in(private_key, base_url)
    assert not responses.calls


@responses.activate
def test_a_key_that_cannot_sign_is_named_before_anything_is_sent() -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    elliptic = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    for key in ("", "no key", elliptic):
        with pytest.raises(AuthenticationFailed, match="private key"):
            log_in(key)
    assert not responses.calls


# what an admin is told

# status, error, description -> words that only the right sentence has
REFUSALS = {
    (400, "invalid_client_id", "client identifier invalid"): "does not know this consumer key",
    (400, "invalid_client", "invalid client credentials"): "signature does not fit the certificate",
    (400, "invalid_grant", "user hasn't approved this consumer"): "sandbox it ends with a dot",
    (400, "invalid_app_access", "user is not admin approved to access this app"): "admits approved users only",
    (400, "app_not_found", "External client app is not installed in this org"): "not installed in this org. Either",
    (400, "OAUTH_EC_APP_NOT_FOUND", ""): "not installed in this org. Either",
    (
        *(400, "invalid_request"),
        "Cross-org OAuth flows are not supported for this external client app",
    ): "admits only that org's users",
    (400, "invalid_grant", "audience is invalid"): "another kind of org",
    (400, "invalid_grant", "Audience validation failed"): "another kind of org",
    (400, "invalid_grant", "user is locked"): "locked out",
    (400, "invalid_grant", "inactive user"): "is not active",
    (400, "invalid_grant", "ip restricted"): "IP Relaxation",
    (400, "invalid_grant", "invalid login hours"): "Clear the login hours",
    (400, "invalid_grant", "invalid code verifier"): "another window",
    (400, "invalid_request", "invalid code_challenge"): "another window",
    (400, "invalid_grant", "expired authorization code"): "clock of the connector's server",
    (400, "invalid_grant", "invalid assertion"): "clock of the connector's server",
    (
        *(400, "invalid_request"),
        "refresh_token scope is required and the connected app should be installed and preauthorized",
    ): "lacks the scope 'Perform requests at any time",
    (400, "invalid_scope", "the requested scope is not allowed"): "interaction_api and openid",
    (400, "redirect_uri_mismatch", "redirect_uri must match configuration"): "callback address",
    (400, "access_denied", "end-user denied authorization"): "declined in the Salesforce window",
    (400, "OAUTH_APPROVAL_ERROR_GENERIC", ""): "Approve Uninstalled Connected Apps",
    (400, "unsupported_grant_type", "grant type not supported"): "nothing to change in your org",
    (400, "invalid_request", "something else"): "nothing to change in your org",
    (400, "LOGIN_RATE_EXCEEDED", ""): "3,600 logins an hour",
    (400, "invalid_grant", "login rate exceeded"): "3,600 logins an hour",
    (503, "", ""): "under maintenance",
    (400, "brand_new_error", "of a kind unheard of"): "do not know (brand_new_error: of a kind unheard of)",
    (400, "invalid_grant", ""): "do not know (invalid_grant)",
    (302, "", ""): "without giving a reason",
}
UNWIRED = {  # what does not come from the token endpoint
    AuthenticationFailed("x", "x", code="INVALID_SESSION_ID", description="Session expired or invalid"): "has ended",
    AuthenticationFailed(
        *("x", "x"), code="INVALID_SESSION_ID", description="This session is not valid for use with the REST API"
    ): "Manage user data via APIs",
    AuthenticationFailed("x", "x", code="invalid_id_token"): "nobody was signed in",
}


@responses.activate
@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: " ".join(map(str, refusal)))
def test_each_refusal_has_its_remedy(private_key: str, refusal: tuple[int, str, str]) -> None:
    status, error, description = refusal
    responses.post(TOKEN_URL, status=status, json={"error": error, "error_description": description})
    with pytest.raises(ApiError) as caught:
        log_in(private_key)
    assert REFUSALS[refusal] in remedy_of(caught.value)


@pytest.mark.parametrize("error", UNWIRED, ids=lambda error: f"{error.code} {error.description}")
def test_each_end_of_a_sign_in_has_its_remedy(error: AuthenticationFailed) -> None:
    assert UNWIRED[error] in remedy_of(error)


@responses.activate
def test_what_we_refuse_ourselves_has_its_remedy(private_key: str) -> None:
    with pytest.raises(AuthenticationFailed) as caught:
        log_in("no key")
    assert "RSA key in PEM form" in remedy_of(caught.value)
    other = {**load("salesforce/answers/token")["body"], "instance_url": "https://rival.my.salesforce.com"}
    responses.post(TOKEN_URL, json=other)
    with pytest.raises(AuthenticationFailed) as caught:
        log_in(private_key)
    assert "current My Domain address" in remedy_of(caught.value)


def test_no_remedy_is_without_a_test() -> None:
    told = [*REFUSALS.values(), *UNWIRED.values(), "RSA key in PEM form", "current My Domain address"]
    for code, _, sentence in REMEDIES:
        assert any(words in sentence for words in told), code
    assert all(sum(words in sentence for _, _, sentence in REMEDIES) <= 1 for words in told)


@pytest.mark.parametrize(
    "words", ["invalid_client_id", "invalid_client", "invalid_request refresh_token", "invalid_grant approved"]
)
def test_who_changed_the_app_just_now_is_told_to_wait(words: str) -> None:
    code, _, description = words.partition(" ")
    assert "2 to 30 minutes" in remedy_of(AuthenticationFailed("x", "x", code=code, description=description))


def test_a_login_costs_next_to_no_time_of_the_processor(private_key: str) -> None:
    """After a restart hundreds of orgs may log in at once, and what signs for them holds everybody else up."""
    sign({"iss": "x"}, private_key)
    began = time.thread_time()
    for _ in range(10):
        sign({"iss": "x"}, private_key)
    assert time.thread_time() - began < 0.1  # to check the key each time would take four times as long
