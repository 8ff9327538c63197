"""People sign in by OpenID Connect, as strictly as the orgs do it."""

import asyncio
import base64
import hashlib
import time
import urllib.parse
from typing import Any

import aiohttp
import jwt
import pytest

from tests.sandbox.far_sides import FarSides, far_sides
from tests.sandbox.fresh_org import ADA, CALLBACK, CHALLENGE, EVERYTHING, KEY, REP, VERIFIER, FreshOrg, other_key

TOKEN = "/services/oauth2/token"
CLIENT_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


class SignIns:
    """A browser and an app of the fresh org."""

    def __init__(self, org: FreshOrg, key: str, secret: str) -> None:
        self.org, self.key, self.secret = org, key, secret
        self.host = org.sides.salesforce
        self.client = org.sides.client

    def address(self, **changed: str | None) -> str:
        usual = {
            "response_type": "code",
            "client_id": self.key,
            "redirect_uri": CALLBACK,
            "scope": "openid api",
            "state": "st",
            "nonce": "no",
            "code_challenge": CHALLENGE,
            "code_challenge_method": "S256",
        }
        query = {name: value for name, value in (usual | changed).items() if value is not None}
        return f"{self.host}/services/oauth2/authorize?{urllib.parse.urlencode(query)}"

    async def open(self, **changed: str | None) -> aiohttp.ClientResponse:
        return await self.client.get(self.address(**changed), allow_redirects=False)

    async def sign_in(
        self, username: str = ADA, form: dict[str, str] | None = None, **changed: str | None
    ) -> dict[str, str]:
        """Say who one is on the page, and return what the app gets in its address."""
        form = form or {"username": username}
        async with self.client.post(self.address(**changed), data=form, allow_redirects=False) as response:
            return self.answer_in(response)

    def answer_in(self, response: aiohttp.ClientResponse) -> dict[str, str]:
        assert response.status == 302, response.status
        address, _, query = response.headers["Location"].partition("?")
        assert address == CALLBACK
        return dict(urllib.parse.parse_qsl(query))

    def assertion(self, key: Any = KEY, **changed: Any) -> str:
        audience = f"{self.host}{TOKEN}"
        claims = {"iss": self.key, "sub": self.key, "aud": audience, "exp": int(time.time()) + 180, "jti": "1"}
        return jwt.encode(claims | changed, key, algorithm="RS256")

    async def exchange(self, code: str, **changed: str | None) -> tuple[int, dict[str, Any]]:
        usual = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": CALLBACK,
            "client_id": self.key,
            "code_verifier": VERIFIER,
            "client_assertion_type": CLIENT_ASSERTION,
            "client_assertion": self.assertion(),
        }
        form = {name: value for name, value in (usual | changed).items() if value is not None}
        async with self.client.post(self.host + TOKEN, data=form) as response:
            return response.status, await response.json()

    async def user_info(self, token: str) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {token}"}
        async with self.client.get(f"{self.host}/services/oauth2/userinfo", headers=headers) as response:
            return response.status, await response.json() if response.status == 200 else await response.text()


async def sign_ins(sides: FarSides) -> SignIns:
    """Return a fresh org with our app, to which Ada is admitted and the rep is not."""
    org = await FreshOrg(sides).be_born()
    assert (await org.deploy(EVERYTHING))["success"]
    await org.assign(ADA, "Infobip_Connector")
    app = (await org.rows("ExternalClientApp"))[0]
    sides.client.cookie_jar.clear()
    return SignIns(org, app["ConsumerKey"], app["ConsumerSecret"])


def test_discovery_says_where_everything_is() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            async with sides.client.get(f"{sides.salesforce}/.well-known/openid-configuration") as response:
                found = await response.json()
            assert found["issuer"] == sides.salesforce
            assert found["authorization_endpoint"] == f"{sides.salesforce}/services/oauth2/authorize"
            assert found["token_endpoint"] == f"{sides.salesforce}/services/oauth2/token"
            assert {"openid", "api", "interaction_api"} <= set(found["scopes_supported"])
            async with sides.client.get(found["jwks_uri"]) as response:
                keys = (await response.json())["keys"]
            assert [(key["kty"], key["alg"], set(key)) for key in keys] == [
                ("RSA", "RS256", {"kty", "alg", "n", "e", "kid", "use"})
            ]

    asyncio.run(scenario())


def test_a_person_signs_in_and_the_app_learns_who_it_is() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            app = await sign_ins(sides)
            page = await app.open()
            text = await page.text()
            assert page.status == 200
            assert page.headers["Content-Security-Policy"] == "frame-ancestors 'none'"
            assert "Ada Admin" in text and "Marko Babic" in text and "Infobip Integration" not in text
            back = await app.sign_in()
            assert set(back) == {"code", "state"} and back["state"] == "st"
            status, answer = await app.exchange(back["code"])
            assert status == 200, answer
            assert set(answer) == {
                "access_token",
                "id_token",
                "id",
                "instance_url",
                "scope",
                "token_type",
                "issued_at",
            }
            assert answer["scope"] == "openid api"
            async with sides.client.get(f"{sides.salesforce}/id/keys") as response:
                key = jwt.PyJWK((await response.json())["keys"][0])
            claims = jwt.decode(answer["id_token"], key, algorithms=["RS256"], audience=app.key, issuer=sides.salesforce)
            assert jwt.get_unverified_header(answer["id_token"])["kid"] == key.key_id
            assert (claims["sub"], claims["nonce"]) == (answer["id"], "no")
            assert claims["exp"] - claims["iat"] == 120
            half = hashlib.sha256(answer["access_token"].encode()).digest()[:16]
            assert claims["at_hash"] == base64.urlsafe_b64encode(half).rstrip(b"=").decode()
            status, info = await app.user_info(answer["access_token"])
            assert (status, info["organization_id"], info["sub"]) == (200, app.org.id, answer["id"])
            assert (info["preferred_username"], info["name"], info["active"]) == (ADA, "Ada Admin", True)
            assert answer["id"].endswith(f"/id/{app.org.id}/{info['user_id']}")
            status, records = await app.org.call(
                "GET", "/query?q=SELECT+Id+FROM+Organization", token=answer["access_token"]
            )
            assert (status, records["records"][0]["Id"]) == (200, app.org.id)

    asyncio.run(scenario())


def test_a_code_is_used_once_and_with_its_verifier_by_its_app() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            app = await sign_ins(sides)

            async def refused(**changed: str | None) -> str:
                status, answer = await app.exchange((await app.sign_in())["code"], **changed)
                assert status == 400
                return str(answer["error"])

            assert await refused(code_verifier="x" * 50) == "invalid_request"
            assert await refused(code_verifier=None) == "invalid_grant"
            assert await refused(redirect_uri=CALLBACK + "/") == "redirect_uri_mismatch"
            assert await refused(client_assertion=app.assertion(other_key())) == "invalid_client"
            assert await refused(client_assertion=app.assertion(aud="https://example.com")) == "invalid_client"
            assert await refused(client_assertion=app.assertion(sub="another")) == "invalid_client"
            assert await refused(client_assertion=app.assertion(exp=1)) == "invalid_client"
            assert await refused(client_assertion=None, client_assertion_type=None) == "invalid_client"
            by_secret = {"client_assertion": None, "client_assertion_type": None, "client_secret": "wrong"}
            assert await refused(**by_secret) == "invalid_client"
            assert await refused(client_id="3MVG9acme") == "invalid_grant"  # another app's
            assert await refused(client_id="3MVG9nobody") == "invalid_client_id"
            code = (await app.sign_in())["code"]
            assert (await app.exchange(code, **by_secret | {"client_secret": app.secret}))[0] == 200
            assert (await app.exchange(code))[1]["error"] == "invalid_grant"
            code = (await app.sign_in())["code"]
            login_host = app.assertion(aud="https://login.salesforce.com")
            assert (await app.exchange(code, client_assertion=login_host))[0] == 200

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"code_challenge": None}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"scope": "openid full"}, "invalid_scope"),
        ({"prompt": "none"}, "immediate_unsuccessful"),
    ],
)
def test_a_request_that_is_not_right_goes_back_with_an_error(changed: dict[str, str | None], error: str) -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            app = await sign_ins(sides)
            back = app.answer_in(await app.open(**changed))
            assert (back["error"], back["state"]) == (error, "st")

    asyncio.run(scenario())


def test_nobody_is_sent_to_an_address_that_the_app_does_not_name() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            app = await sign_ins(sides)
            for changed, error in (
                ({"redirect_uri": "https://evil.example/"}, "redirect_uri_mismatch"),
                ({"redirect_uri": CALLBACK + "/more"}, "redirect_uri_mismatch"),
                ({"client_id": "3MVG9nobody"}, "invalid_client_id"),
            ):
                page = await app.open(**changed)
                assert (page.status, error in await page.text()) == (400, True)
                assert page.headers["Content-Security-Policy"] == "frame-ancestors 'none'"

    asyncio.run(scenario())


def test_who_is_not_admitted_or_does_not_want_goes_back_with_an_error() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            app = await sign_ins(sides)
            assert (await app.sign_in(REP))["error"] == "invalid_app_access"
            assert (await app.sign_in(form={"decision": "cancel"}))["error"] == "access_denied"
            await app.org.edit("ExternalClientApp.PermittedUsers", "AllSelfAuthorized")
            assert set(await app.sign_in(REP)) == {"code", "state"}  # the page asked, and that is the approval
            await app.org.edit("ExternalClientApp.IsEnabled", False)
            assert (await app.sign_in())["error"] == "OAUTH_EC_APP_NOT_FOUND"

    asyncio.run(scenario())


def test_a_browser_that_is_signed_in_passes_without_a_page() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            jar = aiohttp.CookieJar(unsafe=True)  # the sandbox's host is a number
            async with aiohttp.ClientSession(cookie_jar=jar) as browser:
                app = await sign_ins(sides)
                app.client = browser
                await app.sign_in()
                assert "code" in app.answer_in(await app.open())
                assert "code" in app.answer_in(await app.open(prompt="none"))
                page = await app.open(prompt="login", login_hint=REP)
                assert page.status == 200
                text = await page.text()
                assert text.index("Marko Babic") < text.index("Ada Admin")  # the hint comes first
                await app.org.edit(f"User[Username={ADA}].IsActive", False)
                assert (await app.open()).status == 200

    asyncio.run(scenario())


def test_tokens_work_for_their_scopes_until_they_are_revoked() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            app = await sign_ins(sides)
            _, answer = await app.exchange((await app.sign_in(scope="openid"))["code"])
            token = answer["access_token"]
            assert (await app.user_info(token))[0] == 200
            status, body = await app.org.call("GET", "/query?q=SELECT+Id+FROM+User", token=token)
            message = "This session is not valid for use with the REST API"
            assert (status, body) == (401, [{"message": message, "errorCode": "INVALID_SESSION_ID"}])
            assert (await sides.interact(token, {}, headers={"OrgId": app.org.id[:15]}))[1]["code"] == 10004
            _, answer = await app.exchange((await app.sign_in(scope="api"))["code"])
            assert "id_token" not in answer
            token = answer["access_token"]
            assert (await app.org.call("GET", "/query?q=SELECT+Id+FROM+User", token=token))[0] == 200
            revoke = f"{sides.salesforce}/services/oauth2/revoke"
            async with sides.client.post(revoke, data={"token": token}) as response:
                assert response.status == 200
            async with sides.client.post(revoke, data={"token": token}) as response:
                assert (response.status, (await response.json())["error"]) == (400, "invalid_token")
            status, body = await app.org.call("GET", "/query?q=SELECT+Id+FROM+User", token=token)
            assert (status, body) == (401, [{"message": "Session expired or invalid", "errorCode": "INVALID_SESSION_ID"}])
            assert await app.user_info(token) == (403, "Bad_OAuth_Token")
            _, answer = await app.exchange((await app.sign_in())["code"])
            await sides.control("POST", "/control/tokens/expire")
            assert (await app.org.call("GET", "/limits", token=answer["access_token"]))[0] == 401

    asyncio.run(scenario())
