"""Signing a person in: what the popup asks for, how we prove who we are, and whom we believe."""

import base64
import hashlib
import hmac
import time
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import jwt
import pytest
import responses
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from connector.http import AddressRefused, ApiError, AuthenticationFailed, RateLimited, ServiceUnavailable
from connector.salesforce.auth import AccessToken, remedy_of
from connector.salesforce.sign_in import (
    IdToken,
    SignIn,
    UserInfo,
    authorize_url,
    check_id_token,
    exchange_code,
    new_verifier,
    revoke,
    signing_keys,
    user_info,
)
from tests.connector import CORE, TOKEN_URL

CLIENT_ID, CALLBACK = "3MVG9kZcDemoConsumerKey.0aBcD", "https://connector.example.com/sf/callback"
ORG, USER = "00D5g00000ABcDEEA4", "0055g00000XyZabAAF"
IDENTITY = f"https://login.salesforce.com/id/{ORG}/{USER}"
TOKEN = AccessToken("00D5g00000ABcDE!admin", CORE)
KEYS_URL, USER_INFO_URL = f"{CORE}/id/keys", f"{CORE}/services/oauth2/userinfo"
REVOKE_URL = f"{CORE}/services/oauth2/revoke"

# the answer of https://help.salesforce.com/s/articleView?id=sf.remoteaccess_using_userinfo_endpoint.htm
USER_INFO = {
    "sub": IDENTITY,
    "user_id": USER,
    "organization_id": ORG,
    "preferred_username": "ada@acme.example",
    "nickname": "ada",
    "name": "Ada Admin",
    "email": "ada.admin@acme.example",
    "email_verified": True,
    "zoneinfo": "Europe/Zagreb",
    "language": "en_US",
    "active": True,
    "user_type": "STANDARD",
    "urls": {"rest": f"{CORE}/services/data/v{{version}}/"},
}


def exchange(private_key: str, base_url: str = CORE, *, allow_local: bool = False) -> SignIn:
    return exchange_code(
        base_url=base_url,
        client_id=CLIENT_ID,
        private_key=private_key,
        redirect_uri=CALLBACK,
        code="aPrx.code",
        verifier="v" * 64,
        allow_local=allow_local,
    )


# the popup


def test_the_popup_asks_for_a_code_with_pkce_and_nonce() -> None:
    url = authorize_url(
        base_url=CORE,
        client_id=CLIENT_ID,
        redirect_uri=CALLBACK,
        scopes=["openid", "id"],
        state="8d1f",
        nonce="4be0",
        code_challenge="Zk3v",
    )
    parts = urlsplit(url)
    assert f"{parts.scheme}://{parts.netloc}{parts.path}" == f"{CORE}/services/oauth2/authorize"
    assert dict(parse_qsl(parts.query, strict_parsing=True)) == {
        "response_type": "code",
        "client_id": CLIENT_ID,
        "redirect_uri": CALLBACK,
        "scope": "openid id",
        "state": "8d1f",
        "nonce": "4be0",
        "code_challenge": "Zk3v",
        "code_challenge_method": "S256",
        "display": "popup",
    }


def test_the_popup_may_ask_for_the_password_again_and_name_the_person() -> None:
    url = authorize_url(
        base_url=CORE,
        client_id=CLIENT_ID,
        redirect_uri=CALLBACK,
        scopes=["openid"],
        state="s",
        nonce="n",
        code_challenge="c",
        prompt="login",
        login_hint="ada&prompt=none@acme.example",
    )
    query = parse_qs(urlsplit(url).query, strict_parsing=True)
    assert query["prompt"] == ["login"]
    assert query["login_hint"] == ["ada&prompt=none@acme.example"]


def test_a_verifier_is_new_each_time_and_its_challenge_fits() -> None:
    verifier, challenge = new_verifier()
    assert verifier != new_verifier()[0]
    assert 43 <= len(verifier) <= 128
    digest = base64.urlsafe_b64decode(challenge + "=")
    assert digest == hashlib.sha256(verifier.encode()).digest()
    assert "=" not in challenge


# the code


def granted(**changes: Any) -> dict[str, Any]:
    body = {
        "access_token": "00D5g00000ABcDE!admin",
        "id_token": "a.b.c",
        "scope": "api openid id",
        "instance_url": CORE,
        "id": IDENTITY,
        "token_type": "Bearer",
        "issued_at": "1785312300000",
        **changes,
    }
    return {name: value for name, value in body.items() if value is not None}


@responses.activate
def test_a_code_is_exchanged_with_a_signed_assertion_in_place_of_a_secret(private_key: str) -> None:
    responses.post(TOKEN_URL, json=granted())
    signed_in = exchange(private_key)
    assert signed_in == SignIn(TOKEN, "a.b.c")
    assert (signed_in.instance_url, signed_in.access_token.org_id, signed_in.access_token.user_id) == (CORE, ORG, USER)

    request: Any = responses.calls[0].request
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
    form = parse_qs(request.body.decode(), strict_parsing=True)
    (assertion,) = form.pop("client_assertion")
    assert form == {
        "grant_type": ["authorization_code"],
        "code": ["aPrx.code"],
        "redirect_uri": [CALLBACK],
        "client_id": [CLIENT_ID],
        "code_verifier": ["v" * 64],
        "client_assertion_type": ["urn:ietf:params:oauth:client-assertion-type:jwt-bearer"],
    }
    public_key: Any = load_pem_private_key(private_key.encode(), None).public_key()
    claims = jwt.decode(assertion, public_key, algorithms=["RS256"], audience=TOKEN_URL)
    assert (claims["iss"], claims["sub"], claims["aud"]) == (CLIENT_ID, CLIENT_ID, TOKEN_URL)
    assert 170 <= claims["exp"] - time.time() <= 180
    exchange(private_key)
    again: Any = responses.calls[1].request
    (other,) = parse_qs(again.body.decode())["client_assertion"]
    assert jwt.decode(other, public_key, algorithms=["RS256"], audience=TOKEN_URL)["jti"] != claims["jti"]


def test_neither_token_shows_itself() -> None:
    shown = repr(SignIn(AccessToken("secret", CORE), "secret"))
    assert "secret" not in shown


@responses.activate
@pytest.mark.parametrize(
    ("status", "error", "description", "kind"),
    [
        (400, "invalid_grant", "expired authorization code", AuthenticationFailed),
        (400, "invalid_grant", "invalid code verifier", AuthenticationFailed),
        (400, "invalid_client", "invalid client credentials", AuthenticationFailed),
        (400, "redirect_uri_mismatch", "redirect_uri must match configuration", AuthenticationFailed),
        (400, "LOGIN_RATE_EXCEEDED", "login rate exceeded", RateLimited),
        (503, "", "", ServiceUnavailable),
    ],
)
def test_a_code_that_is_refused_says_why(
    private_key: str, status: int, error: str, description: str, kind: type[ApiError]
) -> None:
    responses.post(TOKEN_URL, status=status, json={"error": error, "error_description": description})
    with pytest.raises(ApiError) as caught:
        exchange(private_key)
    assert (type(caught.value), caught.value.code) == (kind, error)
    assert "aPrx.code" not in str(caught.value)
    assert "do not know" not in remedy_of(caught.value)


@responses.activate
@pytest.mark.parametrize("id_token", [None, 7, {}])
def test_an_answer_that_names_nobody_is_no_sign_in(private_key: str, id_token: object) -> None:
    responses.post(TOKEN_URL, json=granted(id_token=id_token))
    with pytest.raises(AuthenticationFailed, match="openid") as caught:
        exchange(private_key)
    assert "openid" in remedy_of(caught.value)


@responses.activate
def test_a_token_for_another_host_is_refused(private_key: str) -> None:
    responses.post(TOKEN_URL, json=granted(instance_url="https://rival.my.salesforce.com"))
    with pytest.raises(AuthenticationFailed, match="another host"):
        exchange(private_key)


@responses.activate
@pytest.mark.parametrize("base_url", ["https://evil.example", "http://acme.my.salesforce.com", "http://127.0.0.1:8100"])
def test_nothing_of_a_sign_in_goes_to_a_host_that_is_not_salesforces(private_key: str, base_url: str) -> None:
    for call in (
        lambda: exchange(private_key, base_url),
        lambda: signing_keys(base_url=base_url, allow_local=False),
        lambda: user_info(base_url=base_url, token=TOKEN, allow_local=False),
        lambda: revoke(base_url, TOKEN, allow_local=False),
    ):
        with pytest.raises(AddressRefused):
            call()
    assert not responses.calls


@responses.activate
def test_a_stand_in_on_this_machine_signs_people_in_where_that_is_allowed(private_key: str) -> None:
    local = "http://127.0.0.1:8100"
    responses.post(f"{local}/services/oauth2/token", json=granted(instance_url=local))
    assert exchange(private_key, local, allow_local=True).instance_url == local


# the ID token


@pytest.fixture(scope="module")
def signer() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def jwk(key: rsa.RSAPrivateKey, kid: str) -> dict[str, Any]:
    return {**jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, "use": "sig", "alg": "RS256"}


def made(signer: Any, *, algorithm: str = "RS256", kid: str = "218", **changes: Any) -> str:
    """Make an ID token as Salesforce does, with other claims where a test says so; None leaves one out."""
    now = int(time.time())
    claims = {
        "iss": CORE,
        "sub": IDENTITY,
        "aud": CLIENT_ID,
        "iat": now,
        "exp": now + 120,
        "nonce": "4be0",
        "at_hash": "x",
        **changes,
    }
    said = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(said, signer, algorithm=algorithm, headers={"kid": kid})


@responses.activate
def keys_of(*listed: Any) -> dict[str, jwt.PyJWK]:
    responses.get(KEYS_URL, json={"keys": list(listed)})
    return signing_keys(base_url=CORE, allow_local=False)


def check(token: str, signer: rsa.RSAPrivateKey, *, nonce: str = "4be0") -> IdToken:
    keys = keys_of(jwk(signer, "218"))
    return check_id_token(token, base_url=CORE, client_id=CLIENT_ID, nonce=nonce, keys=keys)


@pytest.mark.parametrize("issuer", [CORE, f"{CORE}/", "https://login.salesforce.com", "https://test.salesforce.com"])
def test_an_id_token_of_the_org_says_who_signed_in(signer: rsa.RSAPrivateKey, issuer: str) -> None:
    assert check(made(signer, iss=issuer), signer) == IdToken(issuer.rstrip("/"), ORG, USER)


@pytest.mark.parametrize("audience", [CLIENT_ID, [CLIENT_ID]])
def test_an_audience_of_one_may_stand_in_a_list(signer: rsa.RSAPrivateKey, audience: object) -> None:
    assert check(made(signer, aud=audience), signer).user_id == USER


def test_the_clocks_may_differ_by_three_minutes(signer: rsa.RSAPrivateKey) -> None:
    now = int(time.time())
    check(made(signer, iat=now + 170, exp=now + 290), signer)
    check(made(signer, iat=now - 290, exp=now - 170), signer)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"iat": time.time() - 900, "exp": time.time() - 300}, "has expired"),
        ({"iat": time.time() + 86_400, "exp": time.time() + 90_000}, "comes from the future"),
        ({"aud": "3MVG9other"}, "is for another app"),
        ({"aud": [CLIENT_ID, "3MVG9other"]}, "is for other apps as well"),
        ({"nonce": "other"}, "belongs to another sign-in"),
        ({"nonce": ""}, "belongs to another sign-in"),
        ({"iss": "https://rival.my.salesforce.com"}, "was made by another host"),
        ({"iss": f"{CORE}.evil.example"}, "was made by another host"),
        ({"sub": "https://login.salesforce.com/id/nobody"}, "does not say who signed in"),
        *(({name: None}, "cannot be trusted") for name in ("iss", "sub", "aud", "exp", "iat", "nonce")),
    ],
)
def test_an_id_token_that_does_not_fit_is_refused_with_the_reason(
    signer: rsa.RSAPrivateKey, changes: dict[str, Any], why: str
) -> None:
    changes = {name: int(value) if isinstance(value, float) else value for name, value in changes.items()}
    with pytest.raises(AuthenticationFailed, match=why) as caught:
        check(made(signer, **changes), signer)
    assert "nobody was signed in" in remedy_of(caught.value)
    assert "4be0" not in str(caught.value)


def test_an_id_token_of_another_key_is_refused(signer: rsa.RSAPrivateKey) -> None:
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    with pytest.raises(AuthenticationFailed, match="cannot be trusted"):
        check(made(other), signer)
    with pytest.raises(AuthenticationFailed, match="a key that the org does not have"):
        check(made(signer, kid="219"), signer)


def test_an_id_token_that_is_not_signed_with_rs256_is_refused(signer: rsa.RSAPrivateKey) -> None:
    # the public key, which everybody knows, taken for a secret
    public = signer.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    signed = made("x" * 32, algorithm="HS256").rpartition(".")[0]
    forged = hmac.digest(public, signed.encode(), "sha256")
    for token in (
        made(None, algorithm="none"),
        f"{signed}.{base64.urlsafe_b64encode(forged).rstrip(b'=').decode()}",
        made(signer, algorithm="RS512"),
        made(signer, algorithm="PS256"),
        *("", "a.b.c", made(signer)[:-4] + "AAAA"),
    ):
        with pytest.raises(AuthenticationFailed, match="cannot be trusted"):
            check(token, signer)


def test_the_right_one_of_several_keys_is_used_and_strange_ones_are_passed_over(signer: rsa.RSAPrivateKey) -> None:
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    strange = [None, {}, {"kty": "oct", "kid": "218", "k": "AAAA"}, {"kty": "RSA", "kid": "1"}, {"kty": "RSA", "kid": 7}]
    strange += [{"kty": "RSA", "kid": "2", "n": "\u00fc", "e": "AQAB"}, {"kty": "RSA", "kid": "3", "n": 7, "e": "AQAB"}]
    keys = keys_of(jwk(other, "217"), *strange, jwk(signer, "218"))
    assert keys.keys() == {"217", "218"}
    check_id_token(made(signer), base_url=CORE, client_id=CLIENT_ID, nonce="4be0", keys=keys)


@responses.activate
@pytest.mark.parametrize(
    ("status", "body"), [(200, {}), (200, {"keys": []}), (200, {"keys": "x"}), (200, []), (503, {}), (404, {}), (302, {})]
)
def test_without_keys_nobody_signs_in_for_now(status: int, body: object) -> None:
    responses.get(KEYS_URL, status=status, json=body)
    with pytest.raises(ServiceUnavailable, match="cannot be read"):
        signing_keys(base_url=CORE, allow_local=False)


# who it is


@responses.activate
def test_a_token_says_whose_it_is() -> None:
    responses.get(
        USER_INFO_URL,
        json=USER_INFO,
        match=[responses.matchers.header_matcher({"Authorization": "Bearer 00D5g00000ABcDE!admin"})],
    )
    assert user_info(base_url=CORE, token=TOKEN, allow_local=False) == UserInfo(
        user_id=USER,
        organization_id=ORG,
        username="ada@acme.example",
        name="Ada Admin",
        email="ada.admin@acme.example",
        active=True,
        language="en_US",
    )


@responses.activate
@pytest.mark.parametrize("active", [False, None, "true", 1])
def test_only_who_is_said_to_be_active_is(active: object) -> None:
    responses.get(USER_INFO_URL, json={**USER_INFO, "active": active})
    assert not user_info(base_url=CORE, token=TOKEN, allow_local=False).active


@responses.activate
def test_what_a_token_may_not_show_is_empty() -> None:
    responses.get(USER_INFO_URL, json={"user_id": USER, "organization_id": ORG, "email": None})
    assert user_info(base_url=CORE, token=TOKEN, allow_local=False) == UserInfo(USER, ORG, "", "", "", False, "")


@responses.activate
@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, {}, AuthenticationFailed),
        (403, "Bad_OAuth_Token", AuthenticationFailed),
        (500, {}, ServiceUnavailable),
        (302, {}, ServiceUnavailable),
        (200, [], ServiceUnavailable),
        (200, {"user_id": USER}, ServiceUnavailable),
        (200, {"organization_id": ORG, "user_id": ""}, ServiceUnavailable),
    ],
)
def test_a_token_that_names_nobody_is_no_sign_in(status: int, body: object, kind: type[ApiError]) -> None:
    responses.get(USER_INFO_URL, status=status, json=body)
    with pytest.raises(ApiError) as caught:
        user_info(base_url=CORE, token=TOKEN, allow_local=False)
    assert type(caught.value) is kind
    assert "admin" not in str(caught.value)


@responses.activate
@pytest.mark.parametrize(
    ("status", "body"),
    [(200, {}), (400, {"error": "invalid_token", "error_description": "invalid token: expired"})],
)
def test_a_token_is_revoked_and_one_that_has_ended_is_no_error(status: int, body: object) -> None:
    responses.post(REVOKE_URL, status=status, json=body)
    revoke(CORE, TOKEN, allow_local=False)
    request: Any = responses.calls[0].request
    assert parse_qs(request.body.decode()) == {"token": ["00D5g00000ABcDE!admin"]}


@responses.activate
@pytest.mark.parametrize(("status", "kind"), [(503, ServiceUnavailable), (400, AuthenticationFailed)])
def test_a_token_that_was_not_revoked_is_told(status: int, kind: type[ApiError]) -> None:
    responses.post(REVOKE_URL, status=status, json={})
    with pytest.raises(ApiError) as caught:
        revoke(CORE, TOKEN, allow_local=False)
    assert type(caught.value) is kind
