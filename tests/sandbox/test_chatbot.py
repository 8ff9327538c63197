"""A chatbot leads, hands over and is silent; sessions wait for reps; and the APIs beside it are as strict as published."""

import asyncio
import hashlib
import hmac
import json
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

import pytest

from connector.salesforce import pubsub
from tests.sandbox.far_sides import ANA, CHANNEL, SENDER, TOPIC, FarSides, far_sides, subscribe, text_interaction

KEY = {"Authorization": "App key-acme"}
END_USER = {"subject": ANA, "role": "EndUser", "appType": "custom"}
BOT = {"subject": "bot", "role": "Chatbot", "appType": "custom"}


@asynccontextmanager
async def chatbot() -> AsyncIterator[FarSides]:
    """Far sides whose sender a chatbot has first; hand-over calls come to the door too."""
    async with far_sides() as sides:
        document = sides.document()
        document["channels"][0]["senders"][0]["chatbotFirst"] = True
        addresses = {
            "webhooks": {"main": sides.webhook},
            "handovers": {"main": sides.webhook.replace("messages", "notify")},
        }
        await sides.control("POST", "/control/orgs", {"document": document, **addresses})
        await sides.control("POST", "/control/chatbot", {"lag": 0})
        yield sides


async def ana_writes(sides: FarSides, text: str) -> None:
    await sides.control("POST", "/control/phone/messages", {"from": ANA, "to": SENDER, "name": "Ana Horvat", "text": text})


async def begin(sides: FarSides, *messages: dict[str, Any]) -> str:
    body = {"from": ANA, "to": SENDER, "name": "Ana Horvat", "messages": list(messages)}
    return str((await sides.control("POST", "/control/chatbot/conversations", body))["conversation"])


async def call(sides: FarSides, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    url = f"{sides.infobip}/ccaas/1/conversations/{path}"
    async with sides.client.request(method, url, json=body, headers=headers or KEY) as response:
        return response.status, await response.json()


def arrivals(sides: FarSides, kind: str) -> list[tuple[dict[str, str], bytes]]:
    """Return what came to the door: a hand-over call, a conversation event, or a webhook of WhatsApp."""
    keys = {"handover": "conversationId", "event": "payload", "whatsapp": "results"}
    return [(headers, body) for headers, body in sides.arrived if keys[kind] in json.loads(body)]


def test_the_menu_leads_to_one_call_for_a_person_and_then_the_bot_is_silent() -> None:
    async def scenario() -> None:
        async with chatbot() as sides:
            await ana_writes(sides, "Hi")
            phones = sides.sandbox.world.phones
            (phone,) = phones.values()
            menu = (await sides.until(lambda: [m for m in phone.messages if not m.mine]))[0]
            assert "Talk to a person" in menu.choices
            await ana_writes(sides, "Talk to a person")
            ((headers, body),) = await sides.until(lambda: arrivals(sides, "handover"))
            assert headers["X-Connector-Token"] == "t"
            sent = json.loads(body)
            assert (sent["senderNumber"], sent["customerName"]) == (ANA, "Ana Horvat")
            said = len(phone.messages)
            await ana_writes(sides, "Are you there?")
            await asyncio.sleep(0.5)
            assert len(phone.messages) == said + 1  # her own
            _, listed = await call(sides, "GET", f"{sent['conversationId']}/messages?limit=999&orderBy=createdAt:asc")
            authors = [each["authorType"] for each in listed["messages"]]
            assert authors == ["CUSTOMER", "BOT", "CUSTOMER", "BOT", "CUSTOMER"]
            await call(sides, "PATCH", sent["conversationId"], {"status": "CLOSED"})
            await ana_writes(sides, "Hello again")
            await sides.until(lambda: phone.messages[-1].choices)  # the bot has it again, in a new conversation
            event = json.loads(arrivals(sides, "event")[-1][1])
            assert event["payload"]["id"] != sent["conversationId"]

    asyncio.run(scenario())


def test_a_call_that_is_refused_gives_the_conversation_back_to_the_bot() -> None:
    async def scenario() -> None:
        async with chatbot() as sides:
            sides.door_answers = [200, 200, 503]  # both webhooks of the message, then the call
            await ana_writes(sides, "Talk to a person")
            await sides.until(lambda: arrivals(sides, "handover"))
            (phone,) = sides.sandbox.world.phones.values()
            await sides.until(lambda: "nobody" in phone.messages[-1].text)
            assert (await sides.journal(kind="handover_call"))[0]["status"] == 503
            (row,) = [row for row in sides.sandbox.world.wire.describe() if row["text"] == "The chatbot calls for a person"]
            assert (row["done"], row["trouble"]) == (True, "answered 503")

    asyncio.run(scenario())


@pytest.mark.parametrize("ahead", [0, -60, 60])
def test_its_clock_tells_whole_seconds_and_may_be_wrong(ahead: float) -> None:
    async def scenario() -> None:
        async with chatbot() as sides:
            await sides.control("POST", "/control/clock", {"ahead": ahead})
            before = time.time()
            conversation = await begin(sides)
            await ana_writes(sides, "Hi")
            ((_, event),) = await sides.until(lambda: arrivals(sides, "event"))
            ((_, webhook),) = await sides.until(lambda: arrivals(sides, "whatsapp"))
            _, listed = await call(sides, "GET", f"{conversation}/messages?limit=999&orderBy=createdAt:asc")
            times = [
                json.loads(webhook)["results"][0]["receivedAt"],
                json.loads(event)["payload"]["message"]["createdAt"],
                listed["messages"][0]["createdAt"],
            ]
            told = {datetime.fromisoformat(each).timestamp() for each in times}
            assert len(told) == 1 and all(each % 1 == 0 and -1 <= each - before - ahead < 5 for each in told)

    asyncio.run(scenario())


def test_what_is_written_is_told_in_both_forms_and_signed() -> None:
    async def scenario() -> None:
        async with chatbot() as sides:
            await ana_writes(sides, "Hi")
            ((headers, body),) = await sides.until(lambda: arrivals(sides, "event"))
            signed = hmac.new(b"s3cret", body, hashlib.sha256).hexdigest()
            assert headers["X-Hub-Signature"] == f"SHA256={signed}"
            ((_, webhook),) = arrivals(sides, "whatsapp")
            (result,), event = json.loads(webhook)["results"], json.loads(body)
            assert event["type"] == "INBOUND_MESSAGE"
            message = event["payload"]["message"]
            assert (message["messageId"], message["content"]) == (result["messageId"], {"text": "Hi"})

    asyncio.run(scenario())


def test_the_transcript_is_late_ordered_as_asked_and_paged() -> None:
    async def scenario() -> None:
        async with chatbot() as sides:
            lines = [{"text": f"{n}", "author": "BOT" if n % 2 else "CUSTOMER", "secondsAgo": 60 - n} for n in range(25)]
            conversation = await begin(sides, *lines)
            _, first = await call(sides, "GET", f"{conversation}/messages")
            assert first["pagination"] == {"totalItems": 25, "page": 0, "limit": 10, "orderBy": "id:asc"}
            ids = [each["id"] for each in first["messages"]]
            assert len(ids) == 10 and ids == sorted(ids)
            found: list[dict[str, Any]] = []
            for page in range(4):
                _, listed = await call(sides, "GET", f"{conversation}/messages?page={page}&orderBy=createdAt:asc")
                found += listed["messages"]
            assert [each["content"]["text"] for each in found] == [f"{n}" for n in range(25)]
            _, inbound = await call(sides, "GET", f"{conversation}/messages?direction=INBOUND&limit=999")
            assert {each["authorType"] for each in inbound["messages"]} == {"CUSTOMER"}
            at = found[9]["createdAt"].replace("+00:00", "+0000")
            for bound, count in (("createdAfter", 15), ("createdBefore", 9)):
                _, listed = await call(sides, "GET", f"{conversation}/messages?{urlencode({bound: at})}")
                assert listed["pagination"]["totalItems"] == count
            for query in ("limit=1000", "limit=0", "limit=x", "orderBy=text:asc", "createdAfter=yesterday"):
                assert (await call(sides, "GET", f"{conversation}/messages?{query}"))[0] == 400, query
            await sides.control("POST", "/control/chatbot", {"lag": 0.3})
            await ana_writes(sides, "the newest")
            _, before = await call(sides, "GET", f"{conversation}/messages?limit=999")
            assert before["pagination"]["totalItems"] == 25
            await asyncio.sleep(0.7)
            _, after = await call(sides, "GET", f"{conversation}/messages?limit=999")
            assert "the newest" in [each["content"].get("text") for each in after["messages"]]

    asyncio.run(scenario())


def test_the_conversations_api_refuses_as_published() -> None:
    async def scenario() -> None:
        async with chatbot() as sides:
            conversation = await begin(sides, {"text": "Hi"})
            status, answer = await call(sides, "GET", str(uuid.uuid4()))
            assert (status, answer["requestError"]["serviceException"]["messageId"]) == (400, "NOT_FOUND")
            assert (await call(sides, "GET", conversation, Authorization="App nobody"))[0] == 401
            unusable: list[Any] = [None, [], {"status": "Done"}]
            for body in unusable:
                assert (await call(sides, "PATCH", conversation, body))[0] == 400
            assert (await call(sides, "PUT", f"{conversation}/assignee", {}))[0] == 400
            assert (await call(sides, "PUT", f"{conversation}/assignee", {"agentId": "a"}))[1]["agentId"] == "a"
            assert "agentId" not in (await call(sides, "DELETE", f"{conversation}/assignee"))[1]
            assert (await call(sides, "POST", f"{conversation}/tags", {"tagName": "x"}))[1]["statusCode"] == "SUCCESS"
            assert (await call(sides, "POST", f"{conversation}/notes", {"content": "x"}))[0] == 200
            assert (await call(sides, "PATCH", conversation, {"status": "CLOSED"}))[1]["status"] == "CLOSED"
            assert (await call(sides, "PATCH", conversation, {"status": "OPEN"}))[0] == 400
            assert (await call(sides, "POST", f"{conversation}/tags", {"tagName": "y"}))[0] == 400
            assert (await call(sides, "GET", conversation))[1]["status"] == "CLOSED"
            await sides.control("POST", "/control/faults", {"where": "conversations", "what": "status", "status": 503})
            assert (await call(sides, "GET", conversation))[0] == 503
            for what in ("success_false", "duplicate"):
                await sides.control("POST", "/control/faults", {"where": "conversations", "what": what}, 400)
            await sides.control("DELETE", "/control/faults")
            (account,) = sides.sandbox.world.by_api_key.values()
            account.setup.scopes.discard("conversations:manage")
            assert (await call(sides, "GET", conversation))[0] == 403

    asyncio.run(scenario())


async def service(sides: FarSides, token: str, path: str, body: Any, **headers: str) -> tuple[int, Any]:
    url = f"{sides.salesforce}/api/v1/{path}"
    async with sides.client.post(url, json=body, headers=sides.headers(token) | headers) as response:
        return response.status, await response.json()


async def query(sides: FarSides, token: str, soql: str) -> Any:
    url = f"{sides.salesforce}/services/data/v68.0/query"
    async with sides.client.get(url, params={"q": soql}, headers={"Authorization": f"Bearer {token}"}) as response:
        assert response.status == 200, await response.text()
        return await response.json()


def test_a_conversation_begins_once_and_its_routing_is_written_down() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            token = await sides.token()
            body = {"channelAddressIdentifier": CHANNEL, "participants": [END_USER], "routingAttributes": {"vip": "yes"}}
            status, first = await service(sides, token, "conversation", body)
            assert (status, first["success"]) == (202, True)
            _, again = await service(sides, token, "conversation", body)
            assert again == first
            _, answer = await sides.interact(token, text_interaction("hi", routingAttributes={"vip": "no"}))
            assert answer["workItemIds"] == [first["messagingSessionId"]]
            assert [entry["routing"] for entry in await sides.journal(kind="establish")] == [{"vip": "yes"}] * 2
            assert [entry["routing"] for entry in await sides.journal(kind="interaction")] == [{"vip": "no"}]
            for change, code in (
                ({"participants": []}, 10053),
                ({"participants": [BOT]}, 10037),
                ({"channelAddressIdentifier": "x"}, 10017),
            ):
                status, answer = await service(sides, token, "conversation", body | change)
                assert (status, answer["code"]) == (400, code)

    asyncio.run(scenario())


def history(*entries: tuple[str, dict[str, str], float], **changed: Any) -> dict[str, Any]:
    """Return the body of an import; each entry has its text, its sender, and how many seconds ago it was written."""
    now = int(time.time() * 1000)
    people: list[dict[str, Any]] = [
        {"displayName": "Ana", "participant": END_USER, "joinedTime": now - 10**9},
        {"displayName": "Bot", "participant": BOT, "joinedTime": now - 10**9, "leftTime": now},
    ]
    listed = []
    for text, sender, ago in entries:
        payload = text_interaction(text)["interactions"][0]["payload"]
        listed.append({"clientTimestamp": now - int(ago * 1000), "sender": sender, "entryPayload": payload})
    usual = {
        "channelAddressIdentifier": CHANNEL,
        "conversationParticipants": people,
        "conversationEntries": listed,
        "messagingSession": {"messagingSessionRequestType": "EstablishMessagingSession", "payload": {"startTime": now}},
    }
    return usual | changed


def test_history_is_refused_unless_the_org_permits_it_and_then_lies_in_the_order_of_time() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            token, kind = await sides.token(), {"AuthorizationContextType": "ConversationChannelDefinition"}
            older, newer = history(("one", END_USER, 90), ("two", BOT, 80)), history(("three", END_USER, 70))
            assert (await service(sides, token, "conversationHistory", newer, **kind))[1]["code"] == 10057
            await sides.control("POST", "/control/chatbot", {"takesHistory": True})
            assert (await service(sides, token, "conversationHistory", newer))[1]["code"] == 10016
            status, answer = await service(sides, token, "conversationHistory", newer, **kind)
            assert (status, answer["success"]) == (202, True)
            attach = {"sessionId": answer["messagingSessionId"]}
            older["messagingSession"] = {"messagingSessionRequestType": "AttachMessagingSession", "payload": attach}
            assert (await service(sides, token, "conversationHistory", older, **kind))[1] == answer
            session = sides.sandbox.world.sessions[answer["messagingSessionId"]]
            assert [message.text for message in session.messages] == ["one", "Chatbot: two", "three"]
            assert (await service(sides, token, "conversationHistory", older, **kind))[1]["code"] == 10073

    asyncio.run(scenario())


def people(**changed: Any) -> list[dict[str, Any]]:
    ana, bot = history()["conversationParticipants"]
    kept = {name: value for name, value in (bot | changed).items() if value is not None}
    return [ana, kept]


BAD_HISTORIES: list[tuple[str, dict[str, Any], int]] = [
    ("six entries", history(*[("x", END_USER, 60)] * 6), 10078),
    ("an entry of yesterday", history(("x", END_USER, 25 * 3600)), 10046),
    ("an entry before anybody joined", history(("x", END_USER, 10**7)), 10074),
    ("a sender from outside", history(("x", END_USER | {"subject": "385"}, 60)), 10068),
    ("a bot that never left", history(("x", BOT, 60), conversationParticipants=people(leftTime=None)), 10066),
    ("a bot that left before it came", history(("x", BOT, 60), conversationParticipants=people(leftTime=1)), 10067),
    ("a rep", history(("x", BOT, 60), conversationParticipants=people(participant=BOT | {"role": "Agent"})), 10043),
    ("a bot alone", history(("x", BOT, 60), conversationParticipants=people()[1:]), 10042),
    ("two end users", history(("x", BOT, 60), conversationParticipants=[people()[0]] * 2), 10044),
    ("no session", history(("x", BOT, 60), messagingSession={}), 10072),
    ("entries that are none", history(conversationEntries=["x"]), 10078),
]


@pytest.mark.parametrize(("body", "code"), [row[1:] for row in BAD_HISTORIES], ids=[row[0] for row in BAD_HISTORIES])
def test_a_history_that_breaks_a_rule_is_refused_with_its_code(body: dict[str, Any], code: int) -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            await sides.control("POST", "/control/chatbot", {"takesHistory": True})
            kind = {"AuthorizationContextType": "ConversationChannelDefinition"}
            status, answer = await service(sides, await sides.token(), "conversationHistory", body, **kind)
            assert (status, answer["code"]) == (400, code)
            assert not await sides.journal(kind="history")

    asyncio.run(scenario())


async def read_entries(sides: FarSides, token: str, count: int) -> list[dict[str, Any]]:
    """Return what the platform event says from the beginning on: the entries of so many events."""
    async with sides.channel() as channel:
        request = pubsub.FetchRequest(topic_name=TOPIC, replay_preset=pubsub.EARLIEST, num_requested=count)
        stream = subscribe(channel, sides.metadata(token))
        await stream.write(request)
        found: list[dict[str, Any]] = []
        while len(found) < count:
            response = await asyncio.wait_for(stream.read(), 5)
            for event in response.events:
                start = event.event.payload.index(b'{"conversationIdentifier"')
                found.append(json.loads(event.event.payload[start:].decode())["payload"]["entryPayload"])
        stream.cancel()
        return found


def test_a_session_waits_for_a_rep_who_passes_it_on_and_ends_it() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            await sides.control("POST", "/control/chatbot", {"queues": True})
            token, conversation, session = await sides.ana_and_the_rep()
            asked = (
                "SELECT Id, Status, EndTime, EndedByType, Conversation.ConversationIdentifier, "
                "MessagingEndUser.MessagingPlatformKey, MessagingChannel.ChannelAddressIdentifier "
                "FROM MessagingSession WHERE "
            )
            (row,) = (await query(sides, token, f"{asked} Id IN ('{session}', '0Mw000000000000')"))["records"]
            assert (row["Id"], row["Status"], row["EndTime"]) == (session, "Waiting", None)
            assert row["MessagingEndUser"]["MessagingPlatformKey"] == ANA
            assert row["MessagingChannel"]["ChannelAddressIdentifier"] == CHANNEL
            body = {"conversation": conversation, "text": "too early"}
            await sides.control("POST", "/control/console/replies", body, 409)
            await sides.interact(token, text_interaction("anybody?"))
            for act in ("accept", "transfer", "end"):
                await sides.control("POST", f"/control/console/{act}", {"session": session})
            await sides.control("POST", "/control/console/automatic", {"conversation": conversation, "text": "Bye"})
            entries = await read_entries(sides, token, 6)
            changes = [(e["entries"][0]["operation"], e["entries"][0]["displayName"]) for e in entries if "entries" in e]
            reps = ("Marko Babic", "Petra Novak")
            assert changes == [("add", reps[0]), ("remove", reps[0]), ("add", reps[1]), ("remove", reps[1])]
            assert entries[4]["sessionStatus"] == "Ended"
            assert entries[5]["messageReason"] == "AutomatedResponse"
            where = f"Conversation.ConversationIdentifier = '{conversation}'"
            (row,) = (await query(sides, token, asked + where))["records"]
            assert (row["Status"], row["EndedByType"]) == ("Ended", "Agent") and row["EndTime"]

    asyncio.run(scenario())


def test_an_end_may_be_left_unsaid() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            _, _, session = await sides.ana_and_the_rep()
            await sides.control("POST", "/control/chatbot", {"tellsEnd": False})
            await sides.control("POST", "/control/console/end", {"session": session})
            assert "SessionStatusChanged" not in [entry["text"] for entry in await sides.journal(kind="event_published")]
            assert sides.sandbox.world.sessions[session].status == "Ended"

    asyncio.run(scenario())
