"""Sends keep the published limits; webhooks are signed, retried and never de-duplicated."""

import asyncio
import hashlib
import hmac
import json
import uuid
from typing import Any

import pytest

from sandbox.infobip import sign
from tests.sandbox.far_sides import ANA, SENDER, FarSides, far_sides, text_interaction


def text(**changed: Any) -> dict[str, Any]:
    usual = {"from": SENDER, "to": ANA, "messageId": str(uuid.uuid4()), "content": {"text": "Hello Ana"}}
    return {name: value for name, value in (usual | changed).items() if value is not None}


async def ana_writes(sides: FarSides, **body: Any) -> dict[str, Any]:
    usual = {"from": ANA, "to": SENDER, "name": "Ana Horvat", "text": "hi"}
    return dict(await sides.control("POST", "/control/phone/messages", usual | body))


def results(sides: FarSides) -> list[dict[str, Any]]:
    return [result for _, body in sides.arrived for result in json.loads(body)["results"]]


async def wait_for_arrivals(sides: FarSides, count: int) -> None:
    await sides.until(lambda: len(sides.arrived) == count)


def test_sends_that_break_a_limit_are_refused_with_the_field() -> None:
    bad: list[tuple[dict[str, Any], str]] = [
        ({"from": None}, "from"),
        ({"from": "4" * 25}, "from"),
        ({"from": "447700900999"}, "from"),
        ({"to": None}, "to"),
        ({"to": "3" * 151}, "to"),
        ({"to": 385991234567}, "to"),
        ({"messageId": "m" * 201}, "messageId"),
        ({"content": None}, "content"),
        ({"content": {}}, "content.text"),
        ({"content": {"text": ""}}, "content.text"),
        ({"content": {"text": "x" * 4097}}, "content.text"),
        ({"content": {"text": "no link", "previewUrl": True}}, "content.previewUrl"),
        ({"callbackData": "x" * 4001}, "callbackData"),
        ({"notifyUrl": "http://x/" + "x" * 2048}, "notifyUrl"),
        ({"notifyUrl": "nowhere"}, "notifyUrl"),
        ({"context": {}}, "context.replyToMessageId"),
    ]

    async def scenario() -> None:
        async with far_sides() as sides:
            for changed, field in bad:
                status, answer = await sides.send(text(**changed))
                exception = answer["requestError"]["serviceException"]
                assert (status, exception["messageId"]) == (400, "BAD_REQUEST"), field
                assert list(exception["validationErrors"]) == [field]
            assert not await sides.journal(kind="send")

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("headers", "status", "message_id"),
    [
        ({"Authorization": None}, 401, "UNAUTHORIZED"),
        ({"Authorization": "App key-rival"}, 401, "UNAUTHORIZED"),
        ({"Authorization": "Bearer key-acme"}, 401, "UNAUTHORIZED"),
        ({"Accept": "*/*"}, 400, "BAD_REQUEST"),
    ],
)
def test_the_key_and_the_accept_header_are_needed(headers: dict[str, Any], status: int, message_id: str) -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            got, answer = await sides.send(text(), **headers)
            assert (got, answer["requestError"]["serviceException"]["messageId"]) == (status, message_id)

    asyncio.run(scenario())


def test_unknown_addresses_and_faults_have_the_published_error_form() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            url = sides.infobip + "/whatsapp/1/nothing"
            async with sides.client.get(url, headers={"Authorization": "App key-acme"}) as response:
                assert response.status == 404
                assert (await response.json())["requestError"]["serviceException"]["messageId"] == "NOT_FOUND"
            for status, message_id in ((403, "FORBIDDEN"), (429, "TOO_MANY_REQUESTS"), (500, "GENERAL_ERROR")):
                fault = {"where": "send", "what": "status", "status": status, "count": 1}
                await sides.control("POST", "/control/faults", fault)
                got, answer = await sides.send(text())
                assert (got, answer["requestError"]["serviceException"]["messageId"]) == (status, message_id)

    asyncio.run(scenario())


def test_a_send_is_shown_and_reported_to_its_notify_url() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            await ana_writes(sides)
            await sides.control("POST", "/control/reports", {"delivered": 0.01, "seen": 0.01})
            notify = sides.webhook.replace("/messages", "/notify")
            body = text(notifyUrl=notify, callbackData="c=1")
            status, answer = await sides.send(body)
            assert status == 200
            assert answer["to"] == ANA and answer["messageId"] == body["messageId"] and answer["messageCount"] == 1
            assert answer["status"]["name"] == "PENDING_ENROUTE"
            await sides.until(lambda: len(sides.arrived) == 3)
            delivered, seen = results(sides)[1:]
            assert delivered["messageId"] == seen["messageId"] == body["messageId"]
            assert (delivered["status"]["id"], delivered["error"]["id"]) == (5, 0)
            assert delivered["callbackData"] == "c=1"
            assert "seenAt" in seen
            reports = await sides.journal(kind="report")
            assert [(entry["text"], entry["status"]) for entry in reports] == [("DELIVERED", 200), ("SEEN", 200)]
            state = await sides.control("GET", "/control/state")
            assert [(each["mine"], each["text"]) for each in state["phones"][0]["messages"]] == [
                (True, "hi"),
                (False, "Hello Ana"),
            ]

    asyncio.run(scenario())


def test_reports_come_in_the_other_form_and_wait_for_the_chat_to_be_opened() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            await ana_writes(sides)
            settings = {"delivered": 0.01, "seen": 0.01, "auto": False, "form": "messages-api"}
            await sides.control("POST", "/control/reports", settings)
            await sides.send(text())
            await sides.until(lambda: len(sides.arrived) == 2)
            assert results(sides)[1]["event"] == "DELIVERY"
            await asyncio.sleep(0.1)
            assert len(sides.arrived) == 2
            await sides.control("POST", "/control/phone/open", {"org": sides.org_id, "user": ANA})
            await sides.until(lambda: len(sides.arrived) == 3)
            seen = results(sides)[2]
            assert (seen["event"], seen["sender"], seen["destination"]) == ("SEEN", SENDER, ANA)

    asyncio.run(scenario())


def test_outside_the_window_a_send_is_accepted_and_reported_undeliverable() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            await sides.control("POST", "/control/reports", {"delivered": 0.01})
            assert (await sides.send(text()))[0] == 200
            await sides.until(lambda: sides.arrived)
            report = results(sides)[0]
            assert report["status"]["groupName"] == "UNDELIVERABLE"
            assert (report["error"]["id"], report["error"]["permanent"]) == (7010, True)
            assert not await sides.journal(kind="shown")

    asyncio.run(scenario())


ORDER_UPDATE: dict[str, Any] = {
    "templateName": "order_update",
    "templateData": {"body": {"placeholders": ["Ada"]}, "buttons": [{"type": "URL", "parameter": "orders/1"}]},
    "language": "en_GB",
}


def template(**changed: Any) -> dict[str, Any]:
    message = text(content=ORDER_UPDATE | changed.pop("content", {})) | changed
    return {"messages": [{name: value for name, value in message.items() if value is not None}]}


def test_a_template_arrives_outside_the_window_too() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            await sides.control("POST", "/control/reports", {"delivered": 0.01, "seen": 0.01})
            body = template()
            status, answer = await sides.send(body, "template")
            (taken,) = answer["messages"]
            assert (status, taken["messageId"]) == (200, body["messages"][0]["messageId"]) and answer["bulkId"]
            assert taken["status"]["name"] == "PENDING_ENROUTE"
            await sides.until(lambda: len(sides.arrived) == 2)
            assert results(sides)[0]["status"]["id"] == 5
            assert [entry["text"] for entry in await sides.journal(kind="send")] == ["order_update"]
            assert [entry["text"] for entry in await sides.journal(kind="shown")] == ["order_update"]

    asyncio.run(scenario())


def test_templates_that_break_a_limit_are_refused_with_the_field() -> None:
    values = "content.templateData.body.placeholders"
    bad: list[tuple[dict[str, Any], str]] = [
        (template(**{"from": None}), "from"),
        (template(**{"from": "447700900999"}), "from"),
        (template(content={"templateName": None}), "content.templateName"),
        (template(content={"templateName": "Order update"}), "content.templateName"),
        (template(content={"templateName": "x" * 513}), "content.templateName"),
        (template(content={"language": None}), "content.language"),
        (template(content={"templateData": None}), values),
        (template(content={"templateData": {"body": {"placeholders": [""]}}}), values),
        (template(content={"templateData": {"body": {"placeholders": [None]}}}), values),
        (
            template(content={"templateData": {"body": {"placeholders": []}, "buttons": [{}]}}),
            "content.templateData.buttons[0].type",
        ),
        (text(), "body"),
        ({"messages": []}, "body"),
    ]

    async def scenario() -> None:
        async with far_sides() as sides:
            for body, field in bad:
                status, answer = await sides.send(body, "template")
                assert status == 400, field
                assert list(answer["requestError"]["serviceException"]["validationErrors"]) == [field]
            assert not await sides.journal(kind="send")

    asyncio.run(scenario())


def test_a_repeated_message_id_is_shown_twice_unless_it_is_asked_to_notice() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            await ana_writes(sides)
            body = text()
            for _ in range(2):
                assert (await sides.send(body))[1]["status"]["groupName"] == "PENDING"
            assert [entry.get("repeated") for entry in await sides.journal(kind="send")] == [None, True]
            await sides.until(lambda: len(next(iter(sides.sandbox.world.phones.values())).messages) == 3)
            await sides.control("POST", "/control/faults", {"where": "send", "what": "duplicate"})
            status, answer = await sides.send(body)
            assert (status, answer["status"]["name"]) == (200, "REJECTED_DUPLICATE_MESSAGE_ID")
            await sides.control("POST", "/control/faults", {"where": "send", "what": "success_false", "count": 1})
            assert (await sides.send(text()))[1]["status"]["groupName"] == "REJECTED"

    asyncio.run(scenario())


def test_the_signature_is_that_of_the_published_example() -> None:
    expected = "SHA256=9fdd3132cc32c13b3e3fc2a1fb57c78ed406f2c07806da479f0daa631f13125c"
    assert sign("f2b1c8d04c0e4f6a9b3d", b'{"results":[]}') == expected


def test_webhooks_are_signed_over_the_bytes_that_are_sent() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            for signature in ("good", "wrong", "none"):
                await ana_writes(sides, text="dobar dan 🙂", signature=signature)
            signed = []
            for headers, body in sides.arrived:
                good = "SHA256=" + hmac.new(b"s3cret", body, hashlib.sha256).hexdigest()
                found = headers.get("X-Hub-Signature")
                signed.append("good" if found == good else "wrong" if found else "none")
            assert signed == ["good", "wrong", "none"]
            assert results(sides)[0]["message"] == {"type": "TEXT", "text": "dobar dan 🙂"}
            assert results(sides)[0]["contact"]["name"] == "Ana Horvat"

    asyncio.run(scenario())


def test_the_messages_api_form_has_other_names() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            image = {"type": "IMAGE", "url": "http://127.0.0.1/x", "caption": "The broken part"}
            await ana_writes(sides, form="messages-api", message=image, messageId="wamid.B2")
            result = results(sides)[0]
            assert (result["event"], result["sender"], result["destination"]) == ("MO", ANA, SENDER)
            assert result["content"] == [{"type": "IMAGE", "url": "http://127.0.0.1/x", "text": "The broken part"}]
            assert result["messageId"] == "wamid.B2"

    asyncio.run(scenario())


def test_a_webhook_that_is_not_taken_comes_again_with_the_same_bytes() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            sides.door_answers = [503, 500, 200]
            answer = await ana_writes(sides)
            assert [each["status"] for each in answer["answers"]] == [503]
            row = (await sides.control("GET", "/control/state"))["wire"][0]
            assert row["trouble"] == "webhook answered 503, again in 2 min"
            await asyncio.sleep(0.1)
            assert len(sides.arrived) == 1
            await sides.control("POST", "/control/clock", {"retryScale": 0.0001})  # also for the wait that has begun
            await sides.until(lambda: len(sides.arrived) == 3)
            assert len({body for _, body in sides.arrived}) == 1
            await sides.until(lambda: sides.sandbox.world.wire.describe()[0]["trouble"] is None)
            tries = [(entry["status"], entry.get("attempt")) for entry in await sides.journal(kind="webhook")]
            assert tries == [(503, None), (500, 2), (200, 3)]

    asyncio.run(scenario())


def test_webhook_faults_lose_answers_and_double_deliveries() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            await sides.control("POST", "/control/clock", {"retryScale": 0.0001})
            arrivals = {"timeout_before": 1, "timeout_after": 2, "duplicate": 2, "trickle": 1}
            for what, count in arrivals.items():
                sides.arrived.clear()
                fault = {"where": "webhook", "what": what, "count": 1, "seconds": 0.1}
                await sides.control("POST", "/control/faults", fault)
                await ana_writes(sides, text=what)
                await wait_for_arrivals(sides, count)
                assert {result["message"]["text"] for result in results(sides)} == {what}

    asyncio.run(scenario())


def test_copies_and_batches_arrive_as_they_are_given() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            answer = await ana_writes(sides, copies=3)
            assert [each["status"] for each in answer["answers"]] == [200, 200, 200]
            assert len({body for _, body in sides.arrived}) == 1
            raw = [{"anything": 1}, {"from": ANA, "to": SENDER, "messageId": "m", "message": {"type": "TEXT", "text": "x"}}]
            await sides.control("POST", "/control/phone/batch", {"account": "main", "org": sides.org_id, "results": raw})
            assert json.loads(sides.arrived[-1][1])["results"] == raw
            await sides.control("POST", "/control/phone/messages", {"from": ANA, "to": "1", "text": "x"}, 404)
            await sides.control("POST", "/control/phone/messages", {"from": ANA, "to": SENDER}, 400)

    asyncio.run(scenario())


def test_the_wire_shows_every_hop_of_a_message_both_ways() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            await sides.control("POST", "/control/reports", {"delivered": 0.01, "seen": 0.01})
            token, conversation, _ = await sides.ana_and_the_rep()
            reply = {"conversation": conversation, "text": "Hello Ana"}
            await sides.control("POST", "/control/console/replies", reply)
            body = text()
            await sides.send(body)
            await sides.until(lambda: len(sides.arrived) == 3)
            inbound, outbound = (await sides.control("GET", "/control/state"))["wire"]
            assert [hop["text"] for hop in inbound["hops"]] == [
                "phone → Infobip",
                "webhook 200",
                "connector → Salesforce",
                "Salesforce 202, new session",
            ]
            assert inbound["done"] and inbound["total"] > 0 and inbound["direction"] == "in"
            assert outbound["uuid"] == body["messageId"] and outbound["done"]
            assert outbound["hops"][0]["text"] == "rep → platform event"
            assert outbound["hops"][-1]["text"] == "seen report 200"
            await sides.control("POST", "/control/faults", {"where": "interactions", "what": "status", "count": 2})
            await ana_writes(sides, text="still there?")
            again = text_interaction("still there?")
            for _ in range(2):
                assert (await sides.interact(token, again))[0] == 500
            row = (await sides.control("GET", "/control/state"))["wire"][-1]
            assert row["trouble"] == "Salesforce answers 500, tried 2 times"
            assert (await sides.interact(token, again))[0] == 202
            row = (await sides.control("GET", "/control/state"))["wire"][-1]
            assert (row["trouble"], row["done"]) == (None, True)

    asyncio.run(scenario())
