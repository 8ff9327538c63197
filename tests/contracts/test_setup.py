"""Setting an Infobip account up fits the published documents: what we ask, and what the sandbox answers."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import responses

from connector.infobip.setup import SetupClient, State
from tests.connector import ACCOUNT, INFOBIP, NOTIFY_URL, ORG_ID, SENDER, setup_client, subscribe
from tests.contracts.published import SETUP, Contract, load
from tests.contracts.test_sandbox import API_KEY, SECRET, Sandbox, door, world

__all__ = ["door", "world"]  # fixtures

# which of the many forms of a subscription is meant stands in the path
SUBSCRIBED = {"WHATSAPP": "Whatsapp", "CUSTOMER_ENGAGEMENT": "CustomerEngagement"}
SUBSCRIPTIONS = "/subscriptions/1/subscription/{channel}"


def described(method: str, url: str) -> tuple[Contract, str, str]:
    """Give the document, the described path and the method of a call."""
    path = re.sub(r"^https?://[^/]+|\?.*$", "", url)
    for name in SETUP:
        contract = load(name)
        if template := contract.path_of(method.lower(), path):
            return contract, template, method.lower()
    raise AssertionError(f"{method} {path} is described nowhere")


def request_problems(request: Any) -> list[str]:
    contract, path, method = described(request.method, request.url)
    found = contract.query_problems(path, method, request.url)
    if request.body is None:
        return found
    assert request.headers["Content-Type"] == "application/json"
    schema = contract.request(path, method=method)
    if path.startswith(SUBSCRIPTIONS):
        channel = next(each for each in SUBSCRIBED if f"/{each}" in request.url)
        schema = contract.named(f"{SUBSCRIBED[channel]}{'NoId' if method == 'put' else ''}SubscriptionRequest")
    return found + contract.problems(schema, json.loads(request.body))


def everything(client: SetupClient) -> None:
    """Make every call that there is."""
    client.probe_scopes()
    client.api_keys()
    client.numbers()
    client.qualities([SENDER])
    client.inbound_configurations(SENDER)
    for channel in SUBSCRIBED:
        subscribe(client, channel=channel)
    client.subscriptions("WHATSAPP")
    client.profile(f"scc-{ACCOUNT}")
    client.set_secret(auth_id=f"scc-{ACCOUNT}", secret="another")
    client.delete_subscription(channel="WHATSAPP", subscription_id=f"scc-{ACCOUNT}-whatsapp")


@responses.activate
@pytest.mark.parametrize("known", [True, False], ids=["of something known", "of something new"])
def test_each_request_of_the_set_up_fits_the_contract(known: bool) -> None:
    load(SETUP[0])  # skips where there is nothing to compare with

    def answer(request: Any) -> tuple[int, dict[str, str], str]:
        if "/resource-management/" in request.url:
            return 200, {}, "[]"
        if not known and request.method == "GET" and "/scc-" in request.url:
            return 404, {}, ""
        lists: dict[str, Any] = {name: [] for name in ("numbers", "results", "apiKeys")}
        return 200, {}, json.dumps(lists | {"profileId": "p", "security": {"authId": "a"}})

    for method in ("GET", "POST", "PUT", "DELETE"):
        responses.add_callback(method, re.compile(f"{INFOBIP}/.*"), answer)
    everything(setup_client())
    made = {described(str(call.request.method), str(call.request.url))[1:] for call in responses.calls}
    assert [problem for call in responses.calls for problem in request_problems(call.request)] == []
    assert (
        "/subscriptions/1/security/{authId}" if known else "/subscriptions/1/security",
        "put" if known else "post",
    ) in made
    assert len(made) == 16


@responses.activate
def test_the_check_of_requests_finds_what_does_not_fit() -> None:
    load(SETUP[0])
    responses.add(responses.POST, re.compile(".*"), json={})
    url = f"{INFOBIP}/subscriptions/1/subscription/WHATSAPP?size=101&pages=1"
    body = {"subscriptionId": "s", "events": ["TYPING"], "profile": {"profileid": "p"}}
    requests.post(url, json=body, timeout=1)
    found = request_problems(responses.calls[0].request)
    assert "size: declared nowhere" in found and "pages: declared nowhere" in found  # nothing to page when creating
    assert any("'TYPING' is not one of" in each for each in found)
    assert "profile: 'profileId' is a required property" in found


# the sandbox


@pytest.fixture
def account(world: Sandbox) -> Iterator[str]:
    """The path under which the account is changed by hand; it is as it was afterwards."""
    path = f"infobip/{ORG_ID}/main"
    was = world.control(path, {}, method="PATCH")
    yield path
    left = world.control(path, {}, method="PATCH")["subscriptions"].keys() - was["subscriptions"].keys()
    kept = {name: was[name] for name in ("scopes", "enabled", "validTo", "allowedIPs", "balance")}
    forwarding = {number: {"forwarding": None} for number in was["numbers"]}
    world.control(path, kept | {"removeSubscriptions": sorted(left), "numbers": forwarding}, method="PATCH")


def call(world: Sandbox, method: str, path: str, body: Any = None, **headers: str) -> requests.Response:
    """Call the sandbox, and check that what it answers is described for that status."""
    usual = {"Authorization": f"App {API_KEY}", "Accept": "application/json"}
    answer = requests.request(method, f"{world.infobip}{path}", json=body, headers=usual | headers, timeout=10)
    contract, template, described_method = described(method, f"{world.infobip}{path}")
    schema = contract.answer(template, answer.status_code, method=described_method)
    if schema is None:
        assert answer.text == ""
    else:
        assert contract.problems(schema, answer.json()) == [], (method, path, answer.status_code)
    return answer


SECURITY = {"authId": "c-auth", "type": "HMAC", "credentials": {"secretKey": "s", "algorithm": "HMAC_SHA_256"}}
PROFILE = {"profileId": "c-profile", "webhook": {"notifyUrl": NOTIFY_URL}, "security": {"authId": "c-auth"}}
SUBSCRIPTION = {"subscriptionId": "c-sub", "events": ["INBOUND_MESSAGE"], "profile": {"profileId": "c-profile"}}
READS = [
    "/account/1/balance",
    "/settings/2/api-keys?size=100&page=0",
    "/numbers/1/numbers?limit=1",
    f"/resource-management/1/inbound-message-configurations?channel=WHATSAPP&number={SENDER}",
    f"/whatsapp/1/senders/quality?senders={SENDER},447700900999",
    "/whatsapp/1/templates?size=1",
    "/ccaas/1/conversations?limit=1",
    "/subscriptions/1/subscription/WHATSAPP?size=1",
    "/subscriptions/1/subscription/CUSTOMER_ENGAGEMENT",
    "/subscriptions/1/profiles/provisioned",
    "/subscriptions/1/security/provisioned",
]


@pytest.mark.parametrize("path", READS)
def test_a_reading_answers_with_the_published_shape(world: Sandbox, account: str, path: str) -> None:
    world.control(account, {"validTo": "2100-01-01T00:00:00+00:00"}, method="PATCH")
    forwarding = {"type": "HTTP_FORWARD", "url": "https://old.example/hook"}
    world.control(account, {"numbers": {SENDER: {"forwarding": forwarding, "note": "Desk"}}}, method="PATCH")
    assert _patiently(world, "GET", path).status_code == 200


@pytest.mark.parametrize("path", READS)
def test_a_reading_is_refused_in_the_published_form(world: Sandbox, account: str, path: str) -> None:
    assert call(world, "GET", path, Authorization="App another").status_code == 401
    world.control(account, {"scopes": []}, method="PATCH")
    assert call(world, "GET", path).status_code == 403
    world.control(account, {"enabled": False}, method="PATCH")
    assert call(world, "GET", path).status_code == 401


def _patiently(world: Sandbox, method: str, path: str) -> requests.Response:
    for _ in range(30):
        answer = call(world, method, path)
        if answer.status_code != 429:
            break
    return answer


def test_too_many_requests_are_refused_in_the_published_form(world: Sandbox) -> None:
    answers = [call(world, "GET", "/numbers/1/numbers") for _ in range(4)]
    assert answers[-1].status_code == 429 and answers[-1].headers["Retry-After"] == "1"
    path, headers = "/whatsapp/1/templates", {"Authorization": f"App {API_KEY}", "Accept": "application/json"}
    with requests.Session() as session:
        replies = (session.get(f"{world.infobip}{path}", headers=headers, timeout=10) for _ in range(200))
        refused = next(reply for reply in replies if reply.status_code == 429)
    contract, template, method = described("GET", path)
    assert contract.problems(contract.answer(template, 429, method=method), refused.json()) == []


def test_validating_answers_with_the_published_shape(world: Sandbox) -> None:
    message = {"channel": "WHATSAPP", "destinations": [{"to": "1"}], "content": {"body": {"type": "TEXT", "text": "x"}}}
    path = "/messages-api/1/messages/validate"
    assert call(world, "POST", path, {"messages": [message | {"sender": SENDER}]}).status_code == 200
    assert call(world, "POST", path, {"messages": [message | {"sender": "447700900000"}]}).status_code == 400


def test_subscriptions_answer_with_the_published_shape(world: Sandbox, account: str) -> None:
    collection = "/subscriptions/1/subscription/WHATSAPP"
    made = [("/subscriptions/1/security", SECURITY), ("/subscriptions/1/profiles", PROFILE), (collection, SUBSCRIPTION)]
    for path, body in made:
        item = f"{path}/{next(iter(body.values()))}"
        rest = dict(list(body.items())[1:])
        created = call(world, "POST", path, body)
        assert (created.status_code, created.headers["Location"]) == (201, item)
        assert call(world, "POST", path, body).status_code == 400
        assert call(world, "POST", path, {}).status_code == 400
        assert call(world, "GET", item).status_code == 200
        assert call(world, "PUT", item, rest).status_code == 200
        assert call(world, "PUT", item, {}).status_code == 400
        assert call(world, "PUT", f"{path}/nothing", rest).status_code == 404
        assert call(world, "GET", f"{path}/nothing").status_code == 404
    assert call(world, "DELETE", f"{collection}/c-sub").status_code == 200
    assert call(world, "DELETE", f"{collection}/c-sub").status_code == 404
    whole = {**SUBSCRIPTION, "profile": {**PROFILE, "profileId": "c-2", "security": {**SECURITY, "authId": "c-2"}}}
    assert call(world, "POST", collection, whole).json()["profile"] == {"profileId": "c-2", "security": {"authId": "c-2"}}


def test_our_client_and_the_sandbox_agree(world: Sandbox, account: str) -> None:
    client = SetupClient(base_url=world.infobip, api_key=API_KEY, allow_local=True)
    assert {each.state for each in client.probe_scopes().capabilities} == {State.GRANTED}
    (number,) = client.numbers()
    assert (number.number, number.usable, number.country) == (SENDER, True, "GB")
    assert client.qualities([SENDER])[SENDER].status == "CONNECTED"
    for _ in range(2):
        subscribe(client, secret=SECRET)
    ours = next(each for each in client.subscriptions("WHATSAPP") if each.subscription_id.startswith("scc-"))
    profile = client.profile(ours.profile_id)
    assert profile and profile.notify_url == NOTIFY_URL and profile.signed
    assert ours.events == {"INBOUND_MESSAGE", "DELIVERY"}
    (key,) = client.api_keys()
    assert "numbers:manage" in key.scopes and key.valid_to is None and not key.ours
    everything(client)
