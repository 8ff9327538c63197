"""An Infobip account is set up over its API or by hand, which decides where webhooks go and how they are signed."""

import asyncio
import hashlib
import hmac
import uuid
from typing import Any

import pytest

from sandbox.world import with_checksum
from tests.sandbox.far_sides import ANA, SENDER, FarSides, far_sides
from tests.sandbox.test_infobip import text

SUBSCRIPTIONS = "/subscriptions/1/subscription/WHATSAPP"
OTHER = "447700900222"
RIVAL = with_checksum("00D5g00000XYzWV")


async def call(sides: FarSides, method: str, path: str, body: Any = None, *, key: str = "key-acme") -> tuple[int, Any]:
    headers = {"Authorization": f"App {key}", "Accept": "application/json"}
    async with sides.client.request(method, sides.infobip + path, json=body, headers=headers) as response:
        return response.status, (await response.json() if response.content_type == "application/json" else None)


async def change(sides: FarSides, **body: Any) -> dict[str, Any]:
    return dict(await sides.control("PATCH", f"/control/infobip/{sides.org_id}/main", body))


def subscription(sides: FarSides, **changed: Any) -> dict[str, Any]:
    """A subscription with all it needs, which leads to another address than the provisioned one."""
    security = {"authId": "a1", "type": "HMAC", "credentials": {"secretKey": "new", "algorithm": "HMAC_SHA_256"}}
    webhook = {"notifyUrl": sides.webhook.replace("/messages", "/notify")}
    profile = {"profileId": "p1", "webhook": webhook, "security": security}
    return {"subscriptionId": "s1", "events": ["INBOUND_MESSAGE"], "profile": profile} | changed


async def ana_writes(sides: FarSides, words: str = "hi", to: str = SENDER) -> list[int]:
    """Let Ana write, and return the statuses of the webhooks' first tries."""
    sides.arrived.clear()
    answer = await sides.control("POST", "/control/phone/messages", {"from": ANA, "to": to, "text": words})
    return [each["status"] for each in answer["answers"]]


def signed_with(sides: FarSides) -> list[str | None]:
    """Name the secret of each webhook that arrived; None where there is no signature."""
    found: list[str | None] = []
    for headers, body in sides.arrived:
        given = headers.get("X-Hub-Signature")
        secrets = [
            each
            for each in ("s3cret", "new", "newer")
            if given == "SHA256=" + hmac.new(each.encode(), body, hashlib.sha256).hexdigest()
        ]
        found.append(secrets[0] if secrets else given)
    return found


# the key


@pytest.mark.parametrize(
    ("path", "scope", "code"),
    [
        ("/account/1/balance", "account-management:manage", "FORBIDDEN"),
        ("/settings/2/api-keys", "account-management:manage", "E403"),
        ("/numbers/1/numbers?limit=1", "numbers:manage", "FORBIDDEN"),
        ("/resource-management/1/inbound-message-configurations?channel=WHATSAPP", "numbers:manage", "FORBIDDEN"),
        (f"/whatsapp/1/senders/quality?senders={SENDER}", "whatsapp:manage", "FORBIDDEN"),
        ("/whatsapp/1/templates?size=1", "whatsapp:manage", "E403"),
        ("/ccaas/1/conversations?limit=1", "conversations:manage", "FORBIDDEN"),
        (SUBSCRIPTIONS, "subscriptions:manage", "FORBIDDEN"),
    ],
)
def test_each_reading_needs_its_scope(path: str, scope: str, code: str) -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            scopes = (await change(sides))["scopes"]
            await change(sides, scopes=[each for each in scopes if each != scope])
            status, answer = await call(sides, "GET", path)
            exception = answer.get("requestError", {}).get("serviceException", {})
            assert (status, exception.get("messageId") or answer["errorCode"]) == (403, code)
            await change(sides, scopes=[scope])
            assert (await call(sides, "GET", path))[0] in (200, 404)
            assert (await call(sides, "GET", path, key="key-rival"))[0] == 401

    asyncio.run(scenario())


def test_sends_need_a_scope_too() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            await change(sides, scopes=["messages-api:manage"])
            status, answer = await sides.send(text())
            assert (status, answer["requestError"]["serviceException"]["messageId"]) == (403, "FORBIDDEN")
            assert (await call(sides, "POST", "/messages-api/1/messages/validate", {"messages": []}))[0] == 400
            await change(sides, scopes=["message:send"])
            assert (await sides.send(text()))[0] == 200

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "broken", [{"validTo": "2020-01-01T00:00:00+00:00"}, {"enabled": False}, {"allowedIPs": ["203.0.113.10"]}]
)
def test_a_key_that_has_ended_is_not_accepted_anywhere(broken: dict[str, Any]) -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            await change(sides, validTo="2100-01-01T00:00:00+00:00", allowedIPs=["127.0.0.1"])
            _, answer = await call(sides, "GET", "/settings/2/api-keys")
            (key,) = answer["apiKeys"]
            assert (key["validTo"], key["allowedIPs"]) == ("2100-01-01T00:00:00", ["127.0.0.1"])
            await change(sides, **broken)
            assert (await call(sides, "GET", "/account/1/balance"))[0] == 401
            assert (await sides.send(text()))[0] == 401

    asyncio.run(scenario())


# the numbers


def test_an_org_without_channels_has_the_numbers_of_its_document() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            document = sides.document()
            sms = {"number": "447700900333", "type": "VIRTUAL_LONG_NUMBER", "capabilities": ["SMS"], "note": "Old"}
            account = {"name": "main", "apiKey": "key-empty", "numbers": [OTHER, sms]}
            document |= {"channels": [], "infobipAccounts": [account]}
            document["org"]["orgId"] = RIVAL
            await sides.control("POST", "/control/orgs", {"document": document})
            _, answer = await call(sides, "GET", "/numbers/1/numbers", key="key-empty")
            assert [(each["number"], each["type"], each.get("note")) for each in answer["numbers"]] == [
                (OTHER, "WHATSAPP", None),
                ("447700900333", "VIRTUAL_LONG_NUMBER", "Old"),
            ]
            assert answer["numberCount"] == 2
            assert await ana_writes(sides, to=OTHER) == []  # nobody has subscribed
            created = await call(sides, "POST", SUBSCRIPTIONS, subscription(sides), key="key-empty")
            assert created[0] == 201
            assert await ana_writes(sides, to=OTHER) == [200]
            assert signed_with(sides) == ["new"]
            body, headers = text(**{"from": OTHER}), {"Authorization": "App key-empty"}
            assert (await sides.send(body, **headers))[0] == 200
            assert (await sides.send(text(**{"from": "447700900333"}), **headers))[0] == 400

    asyncio.run(scenario())


def test_numbers_are_paged_and_asked_for_no_faster_than_is_published() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            await change(sides, numbers={str(447700900500 + n): {} for n in range(4)})
            pages = [await call(sides, "GET", f"/numbers/1/numbers?limit=3&page={page}") for page in range(3)]
            assert [status for status, _ in pages] == [200, 200, 429]
            assert [len(answer["numbers"]) for _, answer in pages[:2]] == [3, 2]
            await asyncio.sleep(1.1)
            assert (await call(sides, "GET", "/numbers/1/numbers?limit=3&page=2"))[1] == {"numbers": [], "numberCount": 5}

    asyncio.run(scenario())


def test_quality_is_told_of_ones_own_senders_only() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            await change(sides, numbers={SENDER: {"status": "BANNED", "quality": "LOW"}})
            _, answer = await call(sides, "GET", f"/whatsapp/1/senders/quality?senders={SENDER},{OTHER}")
            rows = [(each["sender"], each["status"], each["qualityRating"]) for each in answer["results"]]
            assert rows == [(SENDER, "BANNED", "LOW")]
            assert (await call(sides, "GET", "/whatsapp/1/senders/quality"))[0] == 400

    asyncio.run(scenario())


# where webhooks go


def test_a_subscription_made_over_the_api_gets_messages_and_signs_them() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            assert await ana_writes(sides) == [200]
            assert signed_with(sides) == ["s3cret"]  # what the provision document came with is a subscription as well
            _, listed = await call(sides, "GET", SUBSCRIPTIONS)
            assert [each["subscriptionId"] for each in listed["results"]] == ["provisioned"]
            assert (await call(sides, "POST", SUBSCRIPTIONS, subscription(sides)))[0] == 201
            assert await ana_writes(sides) == [200, 200]
            assert sorted(map(str, signed_with(sides))) == ["new", "s3cret"]
            assert (await call(sides, "DELETE", f"{SUBSCRIPTIONS}/provisioned"))[0] == 200
            assert await ana_writes(sides) == [200]
            assert signed_with(sides) == ["new"]
            settings = {"type": "HMAC", "credentials": {"secretKey": "newer", "algorithm": "HMAC_SHA_256"}}
            assert (await call(sides, "PUT", "/subscriptions/1/security/a1", settings))[0] == 200
            await ana_writes(sides)
            assert signed_with(sides) == ["newer"]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"events": ["DELIVERY"]}, []),
        ({"events": ["INBOUND_MESSAGE", "NOTHING_KNOWN"]}, ["new"]),
        ({"resources": [OTHER]}, []),
        ({"resources": [SENDER]}, ["new"]),
    ],
)
def test_a_subscription_gets_what_it_asks_for(changed: dict[str, Any], expected: list[str]) -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            await change(sides, removeSubscriptions=["provisioned"])
            assert (await call(sides, "POST", SUBSCRIPTIONS, subscription(sides, **changed)))[0] == 201
            await ana_writes(sides)
            assert signed_with(sides) == expected

    asyncio.run(scenario())


def test_a_profile_without_security_does_not_sign() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            await change(sides, removeSubscriptions=["provisioned"])
            body = subscription(sides)
            del body["profile"]["security"]
            assert (await call(sides, "POST", SUBSCRIPTIONS, body))[0] == 201
            await ana_writes(sides)
            assert signed_with(sides) == [None]

    asyncio.run(scenario())


def test_a_forwarding_of_the_number_wins_and_is_not_signed() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            path = f"/resource-management/1/inbound-message-configurations?channel=WHATSAPP&number={SENDER}"
            assert await call(sides, "GET", path) == (200, [])
            forwarding = {"type": "HTTP_FORWARD", "url": sides.webhook}
            await change(sides, numbers={SENDER: {"forwarding": forwarding, "answers": True}})
            _, (row,) = await call(sides, "GET", path)
            assert row["forwarding"] == forwarding | {"format": "MO_OTT_CONTACT"}
            assert (row["answers"], row["conversations"]) == ({"enabled": True}, {"enabled": False})
            assert await ana_writes(sides) == [200]
            assert signed_with(sides) == [None]
            await change(sides, numbers={SENDER: {"forwarding": {"type": "PULL"}}})
            assert await ana_writes(sides) == []
            row = (await sides.control("GET", "/control/state"))["wire"][-1]
            assert "posts it nowhere" in row["trouble"]
            await change(sides, numbers={SENDER: {"forwarding": None}})
            await ana_writes(sides)
            assert signed_with(sides) == ["s3cret"]
            assert (await call(sides, "GET", path))[0] == 429
            await asyncio.sleep(0.6)
            assert "forwarding" not in (await call(sides, "GET", path))[1][0]

    asyncio.run(scenario())


def test_a_keyword_takes_its_messages_another_way() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            forwarding = {"type": "HTTP_FORWARD", "url": sides.webhook.replace("/messages", "/notify")}
            await change(sides, numbers={SENDER: {"keyword": "STOP", "forwarding": forwarding}})
            await ana_writes(sides, "stop it")
            assert signed_with(sides) == [None]
            await ana_writes(sides, "go on")
            assert signed_with(sides) == ["s3cret"]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("settings", "secrets"),
    [
        ({}, [None]),
        ({"toMessage": "signed"}, ["s3cret"]),
        ({"toMessage": "off", "toSubscription": True}, ["s3cret"]),
        ({"toSubscription": True}, ["s3cret", None]),
    ],
)
def test_reports_go_to_the_message_unsigned_or_signed_and_to_who_subscribed(
    settings: dict[str, Any], secrets: list[str | None]
) -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            await sides.control("POST", "/control/reports", {"delivered": 0.01, "seen": 0.01, "auto": False, **settings})
            await ana_writes(sides)
            sides.arrived.clear()
            await sides.send(text(notifyUrl=sides.webhook))
            await sides.until(lambda: len(sides.arrived) == len(secrets))
            assert sorted(signed_with(sides), key=str) == sorted(secrets, key=str)

    asyncio.run(scenario())


def test_what_was_set_up_outlives_a_new_provision_document() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            await call(sides, "POST", SUBSCRIPTIONS, subscription(sides))
            await change(sides, scopes=["subscriptions:manage"], numbers={SENDER: {"note": "Desk"}})
            await sides.control(
                "POST", "/control/orgs", {"document": sides.document(), "webhooks": {"main": sides.webhook}}
            )
            state = await change(sides)
            assert state["subscriptions"].keys() == {"provisioned", "s1"}
            assert state["scopes"] == ["subscriptions:manage"]
            assert state["numbers"][SENDER]["note"] == "Desk"

    asyncio.run(scenario())


# the API of subscriptions


def test_what_breaks_the_published_rules_of_subscriptions_is_refused_with_the_field() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            assert (await call(sides, "POST", SUBSCRIPTIONS, subscription(sides)))[0] == 201
            good = subscription(sides)
            profile, security = good["profile"], good["profile"]["security"]
            fresh = {"profileId": "p2", "webhook": profile["webhook"]}
            credentials = security["credentials"]
            bad: list[tuple[dict[str, Any], str]] = [
                ({"profile": fresh}, "subscriptionId"),  # it is taken
                ({"subscriptionId": "s/2", "profile": fresh}, "subscriptionId"),
                ({"subscriptionId": "s" * 256, "profile": fresh}, "subscriptionId"),
                ({"subscriptionId": "s2", "events": None, "profile": fresh}, "events"),
                ({"subscriptionId": "s2", "profile": {}}, "profile.profileId"),
                ({"subscriptionId": "s2"}, "profileId"),  # it exists, so its id alone may be given
                ({"subscriptionId": "s2", "profile": {"profileId": "p2", "security": security}}, "webhook"),
                ({"subscriptionId": "s2", "profile": fresh | {"webhook": {}}}, "webhook.notifyUrl"),
                ({"subscriptionId": "s2", "profile": fresh | {"webhook": {"notifyUrl": "x"}}}, "webhook.notifyUrl"),
                ({"subscriptionId": "s2", "profile": fresh | {"windowSize": 19}}, "windowSize"),
                ({"subscriptionId": "s2", "profile": fresh | {"security": {"authId": "a2", "type": "KEY"}}}, "type"),
                (
                    {
                        "subscriptionId": "s2",
                        "profile": fresh
                        | {"security": {"authId": "a2", "type": "HMAC", "credentials": credentials | {"algorithm": "MD5"}}},
                    },
                    "credentials.algorithm",
                ),
            ]
            for changed, field in bad:
                status, answer = await call(sides, "POST", SUBSCRIPTIONS, good | changed)
                exception = answer["requestError"]["serviceException"]
                assert (status, exception["messageId"]) == (400, "BAD_REQUEST"), (field, answer)
                assert list(exception["validationErrors"]) == [field]
            for absent in ({"profileId": "nothing"}, fresh | {"security": {"authId": "nothing"}}):
                status, _ = await call(sides, "POST", SUBSCRIPTIONS, good | {"subscriptionId": "s2", "profile": absent})
                assert status == 404
            assert (await call(sides, "POST", "/subscriptions/1/subscription/CARRIER_PIGEON", good))[0] == 404
            assert (await change(sides))["subscriptions"].keys() == {"provisioned", "s1"}

    asyncio.run(scenario())


def test_settings_given_with_the_id_of_existing_ones_are_ignored() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            await change(sides, removeSubscriptions=["provisioned"])
            credentials = {"secretKey": "newer", "algorithm": "HMAC_SHA_256"}
            settings = {"authId": "a1", "type": "HMAC", "credentials": credentials}
            assert (await call(sides, "POST", "/subscriptions/1/security", settings))[0] == 201
            assert (await call(sides, "POST", SUBSCRIPTIONS, subscription(sides)))[0] == 201
            await ana_writes(sides)
            assert signed_with(sides) == ["newer"]

    asyncio.run(scenario())


def test_subscriptions_are_paged_by_channel() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            for number in range(3):
                body = subscription(sides, subscriptionId=f"s{number}", profile={"profileId": "provisioned"})
                assert (await call(sides, "POST", SUBSCRIPTIONS, body))[0] == 201
            _, answer = await call(sides, "GET", f"{SUBSCRIPTIONS}?size=3&page=1")
            assert [each["subscriptionId"] for each in answer["results"]] == ["s2"]
            assert answer["paging"] == {"page": 1, "size": 3, "totalPages": 2, "totalResults": 4}
            assert (await call(sides, "GET", f"{SUBSCRIPTIONS}?size=101"))[0] == 400
            _, answer = await call(sides, "GET", "/subscriptions/1/subscription/CUSTOMER_ENGAGEMENT")
            assert answer["results"] == []

    asyncio.run(scenario())


def test_set_up_calls_are_in_the_journal_without_secrets() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            await call(sides, "POST", SUBSCRIPTIONS, subscription(sides))
            await call(sides, "GET", "/settings/2/api-keys?apiKeySecret=key-acme")
            kept = await sides.journal(kind="setup")
            assert [each["text"] for each in kept] == [f"POST {SUBSCRIPTIONS}", "GET /settings/2/api-keys"]
            assert "new" not in str(kept) and "key-acme" not in str(kept)

    asyncio.run(scenario())


# by hand


async def portal(sides: FarSides, name: str, form: Any = None, status: int = 200) -> str:
    method = "GET" if form is None else "POST"
    async with sides.client.request(method, f"{sides.page}/portal/{name}", data=form) as response:
        assert response.status == status
        return await response.text()


def test_the_portal_does_what_an_admin_does_by_hand() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            page = await portal(sides, "key-ac")
            assert page == await portal(sides, "main")
            assert "provisioned" in page and f"+{SENDER}" in page and 'value="numbers:manage" checked' in page
            assert "s3cret" not in page and "key-acme" not in page
            await portal(sides, "main", {"do": "forward", "number": SENDER, "url": sides.webhook})
            await ana_writes(sides)
            assert signed_with(sides) == [None]
            page = await portal(sides, "main", {"do": "apply", "number": SENDER, "keyword": ""})
            assert "Forward to HTTP" in page and "HTTP_FORWARD" not in page
            await portal(sides, "main", {"do": "delete", "id": "provisioned"})
            await change(sides, numbers={SENDER: {"note": "<b>Desk</b>"}})
            form = {"do": "create", "id": "s1", "channel": "WHATSAPP", "events": "INBOUND_MESSAGE, SEEN"}
            page = await portal(sides, "main", form | {"url": sides.webhook, "secret": "new"})
            assert "&lt;b&gt;Desk" in page and "<b>" not in page
            await portal(sides, "main", form | {"id": "s/2", "url": sides.webhook, "secret": ""}, 400)
            await ana_writes(sides)
            assert signed_with(sides) == ["new"]
            await portal(sides, "main", [("do", "key"), ("validTo", "2100-01-01"), ("scopes", "numbers:manage")])
            state = await change(sides)
            assert (state["scopes"], state["validTo"]) == (["numbers:manage"], "2100-01-01T00:00:00+00:00")
            await portal(sides, "main", {"do": "delete", "id": "nothing"}, 400)
            await portal(sides, "nobody", status=404)

    asyncio.run(scenario())


def test_the_portal_lets_choose_between_accounts_of_one_name() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            document = sides.document()
            document["org"] |= {"orgId": RIVAL, "name": "Rival"}
            document["infobipAccounts"][0]["apiKey"] = f"rival-{uuid.uuid4()}"
            await sides.control("POST", "/control/orgs", {"document": document})
            page = await portal(sides, "main")
            assert f"/portal/main?org={RIVAL}" in page and "Rival" in page
            assert "Rival: Infobip account main" in await portal(sides, f"main?org={RIVAL}")
            assert "Rival: Infobip account main" in await portal(sides, "rival-")

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "body",
    [
        {"validTo": "soon"},
        {"validTo": "2026-01-01T00:00:00"},
        {"removeSubscriptions": ["nothing"]},
        {"numbers": {"447700900999": None}},
        {"numbers": {SENDER: {"forwarding": {"type": "HTTP_FORWARD"}}}},
        {"secrets": {"nothing": "x"}},
        {"scopes": 7},
    ],
)
def test_a_change_that_cannot_be_made_is_named(body: dict[str, Any]) -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            await sides.control("PATCH", f"/control/infobip/{sides.org_id}/main", body, 400)
            await sides.control("PATCH", f"/control/infobip/{sides.org_id}/other", {}, 404)

    asyncio.run(scenario())
