"""Setting an Infobip account up: what a key may do, which numbers there are, and subscriptions kept as they shall be."""

import json
import re
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NoReturn

import pytest
import requests
import responses
from responses import matchers

from connector.events import UnexpectedPayload
from connector.http import ApiError, AuthenticationFailed, RateLimited, RequestRejected, ServiceUnavailable
from connector.infobip.setup import ApiKey, InboundConfiguration, NotificationProfile, OwnedNumber, Quality, State
from connector.infobip.setup import Subscription as Subscribed
from tests.connector import ACCOUNT, INFOBIP, NOTIFY_URL, SENDER, setup_client, subscribe
from tests.connector.upstream import Behaviour, Upstream, replies

HEADERS = {"Authorization": "App key-acme", "Accept": "application/json"}
BALANCE, NUMBERS = f"{INFOBIP}/account/1/balance", f"{INFOBIP}/numbers/1/numbers"
VALIDATE, TEMPLATES = f"{INFOBIP}/messages-api/1/messages/validate", f"{INFOBIP}/whatsapp/1/templates"
CONVERSATIONS = f"{INFOBIP}/ccaas/1/conversations"
SUBSCRIPTIONS = f"{INFOBIP}/subscriptions/1/subscription/WHATSAPP"
KEYS, QUALITY = f"{INFOBIP}/settings/2/api-keys", f"{INFOBIP}/whatsapp/1/senders/quality"
CONFIGURATIONS = f"{INFOBIP}/resource-management/1/inbound-message-configurations"
SECURITY, PROFILES = f"{INFOBIP}/subscriptions/1/security", f"{INFOBIP}/subscriptions/1/profiles"
PROBED = [BALANCE, NUMBERS, VALIDATE, TEMPLATES, CONVERSATIONS, SUBSCRIPTIONS]
NAMES = ["account", "senders", "two-way messaging", "templates panel", "transcripts", "subscriptions"]


def older(status: int, message_id: str = "X", text: str = "said so") -> dict[str, Any]:
    return {"status": status, "json": {"requestError": {"serviceException": {"messageId": message_id, "text": text}}}}


def newer(status: int) -> dict[str, Any]:
    body = {"errorCode": f"E{status}", "description": "said so", "action": "", "violations": [], "resources": []}
    return {"status": status, "json": body}


def answer_probes(**others: Any) -> None:
    """Answer every question of a probe with 200, except for the named capabilities."""
    for name, url in zip(NAMES, PROBED, strict=True):
        answer = others.get(name.replace("-", "_").replace(" ", "_"), {"json": {}})
        method = "POST" if url == VALIDATE else "GET"
        responses.add(method, url, match=[matchers.header_matcher(HEADERS)], **answer)


def states() -> dict[str, State]:
    return {each.name: each.state for each in setup_client().probe_scopes().capabilities}


# the key


@responses.activate
def test_a_key_with_every_scope_may_do_everything_and_nothing_is_sent() -> None:
    answer_probes()
    probe = setup_client().probe_scopes()
    assert [each.name for each in probe.capabilities] == NAMES
    assert {each.state for each in probe.capabilities} == {State.GRANTED}
    assert probe.state("transcripts") is State.GRANTED
    asked = [(call.request.method, str(call.request.url).split("?")[0]) for call in responses.calls]
    assert asked == [("POST" if url == VALIDATE else "GET", url) for url in PROBED]


@responses.activate
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", [older, newer])
def test_a_403_is_a_missing_scope_and_of_that_capability_alone(name: str, form: Callable[[int], Any]) -> None:
    answer_probes(**{name.replace("-", "_").replace(" ", "_"): form(403)})
    missing = [each for each in setup_client().probe_scopes().capabilities if each.state is not State.GRANTED]
    assert [(each.name, each.state) for each in missing] == [(name, State.MISSING)]
    assert re.fullmatch(r"[a-z-]+:(manage|send)", missing[0].scope)


@responses.activate
def test_a_message_that_would_be_refused_proves_that_sending_is_allowed() -> None:
    bad = {"description": "x", "action": "x", "violations": [{"property": "messages[0].sender", "violation": "x"}]}
    answer_probes(two_way_messaging={"status": 400, "json": bad}, templates_panel=newer(400))
    assert states() == dict.fromkeys(NAMES, State.GRANTED) | {"templates panel": State.UNKNOWN}


@responses.activate
@pytest.mark.parametrize(
    "answer",
    [
        older(401),
        older(404),
        older(500),
        older(503),
        {"body": requests.ReadTimeout("slow")},
        {"status": 502, "body": "<html>"},
    ],
)
def test_what_cannot_be_told_is_unknown(answer: dict[str, Any]) -> None:
    answer_probes(transcripts=answer)
    assert states() == dict.fromkeys(NAMES, State.GRANTED) | {"transcripts": State.UNKNOWN}


@responses.activate
def test_a_401_on_the_first_call_is_a_bad_key_and_ends_the_probe() -> None:
    answer_probes(account=older(401, "UNAUTHORIZED", "Invalid login details"))
    with pytest.raises(AuthenticationFailed) as caught:
        setup_client().probe_scopes()
    assert (caught.value.status, caught.value.code) == (401, "UNAUTHORIZED")
    assert all(word in caught.value.message for word in ("copied whole", "expired", "addresses"))
    assert "key-acme" not in str(caught.value)
    assert len(responses.calls) == 1


@responses.activate
def test_an_address_where_nobody_answers_may_be_wrong() -> None:
    responses.get(BALANCE, body=requests.ConnectTimeout("slow"))
    with pytest.raises(ServiceUnavailable, match="the base URL may be wrong"):
        setup_client().probe_scopes()


def test_a_name_that_nobody_has_may_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(ServiceUnavailable, match="no connection; the base URL may be wrong"):
        setup_client().probe_scopes()


def test_a_host_without_a_certificate_of_infobips_may_be_wrong(upstream: Callable[[Behaviour], Upstream]) -> None:
    plain = upstream(replies(b"HTTP/1.1 400 Plain\r\n\r\n"))
    plain.read = lambda connection: connection.recv(65536)
    with pytest.raises(ServiceUnavailable, match="no connection; the base URL may be wrong"):
        setup_client(plain.url.replace("http:", "https:"), allow_local=True).probe_scopes()


@responses.activate
@pytest.mark.parametrize("answer", [older(500), older(503), {"body": requests.ReadTimeout("slow")}])
def test_an_infobip_in_trouble_is_no_wrong_address(answer: dict[str, Any]) -> None:
    responses.get(BALANCE, **answer)
    with pytest.raises(ServiceUnavailable) as caught:
        setup_client().probe_scopes()
    assert "base URL" not in str(caught.value)


@responses.activate
def test_keys_are_listed_with_their_end_and_addresses_and_none_is_in_an_address() -> None:
    key = {"id": "5A7C", "apiKeySecret": "key-acme", "name": "connector", "allowedIPs": ["203.0.113.10"]}
    more = {"validTo": "2027-01-01T00:00:00", "enabled": True, "scopeGuids": ["numbers:manage"]}
    pages = [
        {"apiKeys": [key | more], "paging": {"page": 0, "totalCount": 2}},
        {"apiKeys": [{"name": "other", "validTo": "?", "enabled": False}], "paging": {"page": 1, "totalCount": 2}},
    ]
    for page, body in enumerate(pages):
        query = {"size": "100", "page": str(page)}
        responses.get(KEYS, json=body, match=[matchers.header_matcher(HEADERS), matchers.query_param_matcher(query)])
    ends = datetime(2027, 1, 1, tzinfo=UTC)
    assert setup_client().api_keys() == [
        ApiKey("5A7C", "connector", True, ends, ("203.0.113.10",), frozenset({"numbers:manage"}), True),
        ApiKey("", "other", False, None, (), frozenset(), False),
    ]
    assert all("key-acme" not in str(call.request.url) for call in responses.calls)


@responses.activate
def test_keys_that_may_not_be_seen_are_none() -> None:
    responses.get(KEYS, **newer(403))
    assert setup_client().api_keys() == []


@responses.activate
def test_keys_that_cannot_be_asked_for_are_an_error() -> None:
    responses.get(KEYS, **newer(401))
    with pytest.raises(AuthenticationFailed):
        setup_client().api_keys()


# the numbers


def number_page(first: int, count: int, total: int | None = None) -> dict[str, Any]:
    rows = [
        {"numberKey": f"K{n}", "number": str(447700900100 + n), "type": "WHATSAPP", "capabilities": []}
        for n in range(first, first + count)
    ]
    return {"numbers": rows} if total is None else {"numbers": rows, "numberCount": total}


@responses.activate
def test_all_pages_of_numbers_are_read_two_at_once_and_then_one_a_second() -> None:
    for page in range(5):
        query = {"limit": "50", "page": str(page)}
        matching = [matchers.header_matcher(HEADERS), matchers.query_param_matcher(query)]
        responses.get(NUMBERS, json=number_page(page * 50, 50 if page < 4 else 7, 207), match=matching)
    pauses: list[float] = []
    numbers = setup_client(pauses=pauses).numbers()
    assert [each.number for each in numbers] == [str(447700900100 + n) for n in range(207)]
    assert pauses == [1.0, 1.0, 1.0]


@responses.activate
def test_numbers_without_a_count_end_with_an_empty_page() -> None:
    responses.get(NUMBERS, json=number_page(0, 2))
    responses.get(NUMBERS, json=number_page(0, 0))
    assert len(setup_client().numbers()) == 2


@responses.activate
@pytest.mark.parametrize(
    ("kind", "capabilities", "usable"),
    [
        ("VIRTUAL_LONG_NUMBER", ["SMS", "WHATSAPP"], True),
        ("WHATSAPP", [], True),
        ("VIRTUAL_LONG_NUMBER", ["SMS", "WHATSAPP_VOICE"], False),
        ("SHORT_CODE", [], False),
        ("SOMETHING_NEW", ["WHATSAPP", "TELEPATHY"], True),
    ],
)
def test_a_number_is_usable_by_its_kind_or_its_capabilities(kind: str, capabilities: list[str], usable: bool) -> None:
    row = {"numberKey": "6FED", "number": "+44 7700 900123", "type": kind, "capabilities": capabilities, "country": "GB"}
    responses.get(NUMBERS, json={"numbers": [row | {"countryName": "United Kingdom", "note": "Desk"}], "numberCount": 1})
    (number,) = setup_client().numbers()
    expected = OwnedNumber("6FED", SENDER, kind, frozenset(capabilities), "GB", "United Kingdom", "Desk")
    assert (number, number.usable, number.name) == (expected, usable, "Desk")


@responses.activate
def test_a_number_without_a_note_is_called_by_its_digits_and_one_without_digits_is_none() -> None:
    rows = [{"number": SENDER, "note": None}, {"numberKey": "FACEBOOK"}, "?"]
    responses.get(NUMBERS, json={"numbers": rows, "numberCount": 3})
    responses.get(NUMBERS, json={"numbers": [], "numberCount": 3})
    (number,) = setup_client().numbers()
    assert (number.name, number.usable) == (f"+{SENDER}", False)


@responses.activate
@pytest.mark.parametrize(
    ("headers", "waited"), [({"Retry-After": "3"}, [3.0, 3.0]), ({}, [1.0, 2.0]), ({"Retry-After": "0"}, [0.0, 0.0])]
)
def test_too_many_requests_are_repeated_when_infobip_says(headers: dict[str, str], waited: list[float]) -> None:
    for _ in range(2):
        responses.get(NUMBERS, headers=headers, **older(429))
    responses.get(NUMBERS, json=number_page(0, 1, 1))
    pauses: list[float] = []
    assert len(setup_client(pauses=pauses).numbers()) == 1
    assert pauses == waited


@responses.activate
@pytest.mark.parametrize(("headers", "calls"), [({"Retry-After": "60"}, 1), ({}, 4)])
def test_nobody_waits_for_long(headers: dict[str, str], calls: int) -> None:
    responses.get(NUMBERS, headers=headers, **older(429))
    with pytest.raises(RateLimited):
        setup_client().numbers()
    assert len(responses.calls) == calls


@responses.activate
@pytest.mark.parametrize("body", ["<html>", "[]", "{}", '{"numbers": {}}'])
def test_an_answer_of_another_shape_names_the_field(body: str) -> None:
    responses.get(NUMBERS, body=body)
    with pytest.raises(UnexpectedPayload, match="numbers is missing or not a list"):
        setup_client().numbers()


@responses.activate
def test_qualities_are_asked_for_a_hundred_senders_at_a_time() -> None:
    senders = [str(447700900000 + n) for n in range(150)]
    for part in (senders[:100], senders[100:]):
        rows = [
            {"sender": each, "qualityRating": "HIGH", "status": "CONNECTED", "currentLimit": "LIMIT_10K"} for each in part
        ]
        query = {"senders": ",".join(part)}
        matching = [matchers.header_matcher(HEADERS), matchers.query_param_matcher(query)]
        responses.get(QUALITY, json={"results": rows}, match=matching)
    assert setup_client().qualities(senders) == dict.fromkeys(senders, Quality("CONNECTED", "HIGH", "LIMIT_10K"))


@responses.activate
def test_qualities_that_may_not_be_seen_are_none_and_nobody_is_asked_about_nothing() -> None:
    responses.get(QUALITY, **older(403))
    assert setup_client().qualities([SENDER]) == {}
    assert setup_client().qualities([]) == {}
    assert len(responses.calls) == 1


@responses.activate
@pytest.mark.parametrize(
    ("forwarding", "bypasses"),
    [
        ({"type": "HTTP_FORWARD", "url": "https://old.example/hook", "format": "MO_OTT_CONTACT"}, True),
        ({"type": "PULL"}, True),
        ({"type": "MAIL_FORWARD", "mail": "x@example.com"}, True),
        ({"type": "SMPP_FORWARD"}, True),
        ({"type": "FORWARD_TO_SUBSCRIPTION"}, False),
        (None, False),
    ],
)
def test_a_forwarding_of_its_own_bypasses_the_subscription(forwarding: Any, bypasses: bool) -> None:
    query = {"channel": "WHATSAPP", "number": SENDER}
    row = {"configurationKey": "E9FC", "channel": "WHATSAPP", "keyword": "HELP", "answers": {"enabled": True}}
    matching = [matchers.header_matcher(HEADERS), matchers.query_param_matcher(query)]
    responses.get(CONFIGURATIONS, json=[row | ({"forwarding": forwarding} if forwarding else {})], match=matching)
    (found,) = setup_client().inbound_configurations(f"+{SENDER}")
    kind, url = (forwarding or {}).get("type", ""), (forwarding or {}).get("url", "")
    assert found == InboundConfiguration("E9FC", "HELP", kind, url, False, True)
    assert found.bypasses_subscription is bypasses


@responses.activate
def test_a_number_that_has_no_configuration_follows_the_subscription() -> None:
    responses.get(CONFIGURATIONS, json=[])
    responses.get(CONFIGURATIONS, status=404)
    assert setup_client().inbound_configurations(SENDER) == []
    assert setup_client().inbound_configurations(SENDER) == []
    assert len(responses.calls) == 2


# the subscriptions


@responses.activate
def test_all_pages_of_subscriptions_are_read_and_both_forms_of_an_event() -> None:
    row = {
        "subscriptionId": "s1",
        "name": "One",
        "events": ["INBOUND_MESSAGE", {"event": "SEEN", "format": "X"}, {}, 7],
        "profile": {"profileId": "p", "security": {"authId": "a"}},
    }
    for page, rows in enumerate(([row], [{"subscriptionId": "s2"}])):
        query = {"size": "100", "page": str(page)}
        body = {"results": rows, "paging": {"page": page, "size": 1, "totalPages": 2, "totalResults": 2}}
        matching = [matchers.header_matcher(HEADERS), matchers.query_param_matcher(query)]
        responses.get(SUBSCRIPTIONS, json=body, match=matching)
    assert setup_client().subscriptions("WHATSAPP") == [
        Subscribed("WHATSAPP", "s1", "One", frozenset({"INBOUND_MESSAGE", "SEEN"}), "p", "a"),
        Subscribed("WHATSAPP", "s2", "", frozenset(), "", ""),
    ]


@responses.activate
@pytest.mark.parametrize(("kind", "signed"), [("HMAC", True), ("BASIC", False)])
def test_a_profile_says_where_it_leads_and_whether_it_signs(kind: str, signed: bool) -> None:
    profile = {"profileId": "p", "webhook": {"notifyUrl": NOTIFY_URL}, "security": {"authId": "a/b"}}
    responses.get(f"{PROFILES}/p", json=profile, match=[matchers.header_matcher(HEADERS)])
    responses.get(f"{SECURITY}/a%2Fb", json={"authId": "a/b", "type": kind, "credentials": {"secretKey": "s3cret"}})
    found = setup_client().profile("p")
    assert found == NotificationProfile("p", NOTIFY_URL, "a/b", kind)
    assert found.signed is signed and "s3cret" not in repr(found)


@responses.activate
def test_a_profile_without_security_is_not_signed_and_one_that_is_not_there_is_none() -> None:
    responses.get(f"{PROFILES}/p", json={"webhook": {"notifyUrl": NOTIFY_URL}})
    responses.get(f"{PROFILES}/q", **older(404, "NOT_FOUND"))
    assert setup_client().profile("p") == NotificationProfile("p", NOTIFY_URL, "", "")
    assert setup_client().profile("q") is None


class Store:
    """Infobip's subscriptions as their pages describe them: POST creates, PUT changes what is there."""

    def __init__(self, duplicate: int = 400) -> None:
        self.items: dict[str, Any] = {}
        self.calls: list[str] = []
        self.duplicate = duplicate
        self.hidden: set[str] = set()  # what looks absent once, as if somebody else created it just now
        for method in ("GET", "POST", "PUT", "DELETE"):
            matching = [matchers.header_matcher(HEADERS)]
            responses.add_callback(method, re.compile(f"{INFOBIP}/subscriptions/1/.*"), self.answer, match=matching)

    def answer(self, request: Any) -> tuple[int, dict[str, str], str]:
        path = request.path_url.removeprefix("/subscriptions/1/")
        self.calls.append(f"{request.method} {path}")
        body: Any = json.loads(request.body) if request.body else None
        status = 200
        if request.method == "POST":
            path = f"{path}/{next(value for name, value in body.items() if name.endswith('Id'))}"
            status = self.duplicate if path in self.items else 201
        elif path not in self.items or path in self.hidden:
            self.hidden.discard(path)
            status = 404
        if status >= 400:
            return status, {}, json.dumps(older(status, "BAD_REQUEST" if status != 404 else "NOT_FOUND")["json"])
        if body is not None:
            self.items[path] = body
        if request.method == "DELETE":
            del self.items[path]
        return status, {}, json.dumps(self.items.get(path, {}))


SETTINGS = {"maxBucketSize": 100, "windowSize": 20, "connectTimeout": 5000, "readTimeout": 10000}
SECURITY_BODY = {"type": "HMAC", "credentials": {"secretKey": "s3cret", "algorithm": "HMAC_SHA_256"}}
PROFILE_BODY = {
    "webhook": {"contentType": "application/json", "notifyUrl": NOTIFY_URL},
    "security": {"authId": f"scc-{ACCOUNT}"},
    **SETTINGS,
}
SUBSCRIPTION_BODY = {
    "name": "Service Cloud Connector",
    "events": ["DELIVERY", "INBOUND_MESSAGE"],
    "profile": {"profileId": f"scc-{ACCOUNT}"},
}
ITEMS = [f"security/scc-{ACCOUNT}", f"profiles/scc-{ACCOUNT}", f"subscription/WHATSAPP/scc-{ACCOUNT}-whatsapp"]


@responses.activate
def test_a_subscription_is_created_with_its_profile_and_its_secret() -> None:
    store = Store()
    subscribe(setup_client())
    assert store.items == {
        ITEMS[0]: {"authId": f"scc-{ACCOUNT}", **SECURITY_BODY},
        ITEMS[1]: {"profileId": f"scc-{ACCOUNT}", **PROFILE_BODY},
        ITEMS[2]: {"subscriptionId": f"scc-{ACCOUNT}-whatsapp", **SUBSCRIPTION_BODY},
    }
    assert [call.split()[0] for call in store.calls] == ["GET", "POST"] * 3


@responses.activate
def test_what_is_there_is_brought_up_to_date() -> None:
    store = Store()
    subscribe(setup_client(), secret="old", url="https://old.example/hook")
    store.calls.clear()
    subscribe(setup_client())
    assert store.items == dict(zip(ITEMS, [SECURITY_BODY, PROFILE_BODY, SUBSCRIPTION_BODY], strict=True))
    assert store.calls == [f"{method} {item}" for item in ITEMS for method in ("GET", "PUT")]


@responses.activate
@pytest.mark.parametrize("missing", range(3))
def test_a_set_up_that_broke_off_is_completed(missing: int) -> None:
    store = Store()
    subscribe(setup_client())
    complete = {item: set(body) for item, body in store.items.items()}
    del store.items[ITEMS[missing]]
    subscribe(setup_client())
    assert store.items.keys() == complete.keys()
    assert store.items[ITEMS[missing]].keys() == complete[ITEMS[missing]]


@responses.activate
@pytest.mark.parametrize("duplicate", [400, 409])
@pytest.mark.parametrize("item", ITEMS)
def test_somebody_who_was_faster_is_no_error(duplicate: int, item: str) -> None:
    store = Store(duplicate)
    subscribe(setup_client(), secret="theirs", url="https://old.example/hook")
    store.hidden.add(item)
    store.calls.clear()
    subscribe(setup_client())
    assert store.items == dict(zip(ITEMS, [SECURITY_BODY, PROFILE_BODY, SUBSCRIPTION_BODY], strict=True))
    assert [call.split()[0] for call in store.calls].count("POST") == 1


@responses.activate
@pytest.mark.parametrize("status", [400, 403, 500])
def test_a_refused_creation_is_an_error_and_the_secret_is_not_in_it(status: int) -> None:
    responses.get(f"{SECURITY}/scc-{ACCOUNT}", **older(404, "NOT_FOUND"))
    responses.post(SECURITY, **older(status))
    with pytest.raises(ApiError) as caught:
        subscribe(setup_client())
    assert caught.value.status == status and "s3cret" not in str(caught.value)


@responses.activate
def test_a_secret_is_changed_without_touching_anything_else() -> None:
    store = Store()
    subscribe(setup_client(), secret="old")
    store.calls.clear()
    setup_client().set_secret(auth_id=f"scc-{ACCOUNT}", secret="s3cret")
    assert store.items[ITEMS[0]] == SECURITY_BODY
    assert {call.split()[1] for call in store.calls} == {ITEMS[0]}


@responses.activate
def test_a_subscription_is_deleted_and_one_that_is_not_there_is_deleted_already() -> None:
    store = Store()
    subscribe(setup_client())
    for _ in range(2):
        setup_client().delete_subscription(channel="WHATSAPP", subscription_id=f"scc-{ACCOUNT}-whatsapp")
    assert store.items.keys() == set(ITEMS[:2])


@responses.activate
def test_a_deletion_that_is_refused_is_an_error() -> None:
    responses.delete(f"{SUBSCRIPTIONS}/x", **older(400))
    with pytest.raises(RequestRejected):
        setup_client().delete_subscription(channel="WHATSAPP", subscription_id="x")
