"""A Salesforce org for tests of signing in: its login page's answers, by `responses`."""

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
import responses
from cryptography.hazmat.primitives.asymmetric import rsa
from django.test import Client
from jwt.algorithms import RSAAlgorithm

from tests.conftest import World

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OURS: dict[str, Any] = {"HTTP_ORIGIN": "http://testserver", "HTTP_SEC_FETCH_SITE": "same-origin"}


@dataclass
class Person:
    """Who signs in."""

    org_id: str
    user_id: str = "0055g00000AdaAd001"
    name: str = "Ada Admin"
    active: bool = True
    permission_sets: list[str] = field(default_factory=list)
    customizes: bool = False

    @property
    def identity(self) -> str:
        return f"https://login.salesforce.com/id/{self.org_id}/{self.user_id}"


def admin_of(world: World) -> Person:
    return Person(world.org.salesforce_id, customizes=True)


def rep_of(world: World) -> Person:
    return Person(world.org.salesforce_id, "0055g00000RepRe001", "Marko Babic", permission_sets=["Infobip_Agent"])


@contextmanager
def salesforce(base_url: str, client_id: str, person: Person, nonce: str = "") -> Iterator[responses.RequestsMock]:
    """Answer for one org while a sign-in is completed."""
    now = int(time.time())
    claims = {
        "iss": base_url,
        "sub": person.identity,
        "aud": client_id,
        "iat": now,
        "exp": now + 120,
        "nonce": nonce,
    }
    token = {
        "access_token": "00D!the-person",
        "instance_url": base_url,
        "id": person.identity,
        "scope": "openid id",
        "token_type": "Bearer",
        "id_token": jwt.encode(claims, KEY, algorithm="RS256", headers={"kid": "1"}),
    }
    integration = token | {"access_token": "00D!integration", "id_token": None}
    key: dict[str, Any] = json.loads(RSAAlgorithm.to_jwk(KEY.public_key()))

    def exchange(request: Any) -> tuple[int, dict[str, str], str]:
        form = parse_qs(request.body if isinstance(request.body, str) else request.body.decode())
        return 200, {}, json.dumps(token if form["grant_type"] == ["authorization_code"] else integration)

    user = {
        "sub": person.identity,
        "user_id": person.user_id,
        "organization_id": person.org_id,
        "preferred_username": f"{person.name.split()[0].lower()}@acme.example",
        "name": person.name,
        "email": "someone@acme.example",
        "active": person.active,
        "language": "en_US",
    }
    names = [{"PermissionSet": {"Name": name, "PermissionsCustomizeApplication": False}} for name in person.permission_sets]
    names += [{"PermissionSet": {"Name": "X00e", "PermissionsCustomizeApplication": person.customizes}}]
    rows = {"totalSize": len(names), "done": True, "records": names}
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mocked:
        mocked.add_callback("POST", f"{base_url}/services/oauth2/token", exchange, content_type="application/json")
        mocked.add("GET", f"{base_url}/id/keys", json={"keys": [key | {"kid": "1", "use": "sig"}]})
        mocked.add("GET", f"{base_url}/services/oauth2/userinfo", json=user)
        mocked.add("POST", f"{base_url}/services/oauth2/revoke", json={})
        mocked.add("GET", f"{base_url}/services/data/", json=[{"label": "x", "url": "/x", "version": "67.0"}])
        mocked.add("GET", re.compile(re.escape(base_url) + r"/services/data/v67\.0/query.*"), json=rows)
        yield mocked


@dataclass
class SignIn:
    """A sign-in on its way: the frame's part and the popup's."""

    frame: Client
    popup: Client
    world: World
    begun: dict[str, str]
    state: str = ""
    nonce: str = ""

    def start(self) -> None:
        """Send the popup to Salesforce."""
        answer = self.popup.get(self.begun["start"])
        assert answer.status_code == 302, answer.content
        query = parse_qs(urlsplit(answer["Location"]).query)
        self.state, self.nonce = query["state"][0], query["nonce"][0]

    def come_back(self, person: Person, popup: Client | None = None) -> Any:
        """Let Salesforce send the popup back, with somebody signed in."""
        way = self.world.org.salesforce
        with salesforce(way.base_url, way.consumer_key, person, self.nonce):
            return (popup or self.popup).get("/sf/callback", {"state": self.state, "code": "aPrx"})

    def finish(self, code: str, **other: str) -> Any:
        """Hand the code in from the frame."""
        return self.frame.post(
            "/sf/finish", {"id": self.begun["id"], "secret": self.begun["secret"], "code": code} | other, **OURS
        )


def begin(world: World, frame: Client | None = None) -> SignIn:
    """Click the button in the frame."""
    frame = frame or Client()
    answer = frame.post(f"/e/{world.org.handle}/sign-in", **OURS)
    assert answer.status_code == 200, answer.content
    return SignIn(frame, Client(), world, answer.json())


def code_of(page: Any) -> str:
    """Read the code that a popup shows."""
    found = re.search(r'id="shown-code">([A-Z2-9]{6})<', page.content.decode())
    assert found, page.content.decode()
    return found[1]


def signed_in(world: World, person: Person | None = None) -> tuple[Client, str]:
    """Sign somebody in; gives the frame's client, and the token for those without cookies."""
    sign_in = begin(world)
    sign_in.start()
    answer = sign_in.finish(code_of(sign_in.come_back(person or admin_of(world))))
    assert answer.status_code == 200, answer.content
    return sign_in.frame, answer.json()["token"]
