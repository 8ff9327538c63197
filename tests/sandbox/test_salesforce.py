"""The token endpoint and the Interaction Service are as strict as their published contract."""

import asyncio
import time
import uuid
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from sandbox.salesforce import LARGEST_FILE
from sandbox.world import record_id, with_checksum
from tests.sandbox.far_sides import ANA, CHANNEL, FarSides, far_sides, text_interaction

OTHER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.mark.parametrize(
    ("claims", "error"),
    [
        ({"iss": "3MVG9other"}, "invalid_client_id"),
        ({"key": OTHER_KEY}, "invalid_client"),
        ({"key": "a secret that is long enough for it", "algorithm": "HS256"}, "invalid_grant"),
        ({"sub": "nobody@acme.example"}, "invalid_grant"),
        ({"aud": "https://example.com"}, "invalid_grant"),
        ({"exp": None}, "invalid_grant"),
        ({"exp": int(time.time()) - 1}, "invalid_grant"),
        ({"exp": int(time.time()) + 3600}, "invalid_grant"),
        ({"exp": int(time.time() * 1000) + 180_000}, "invalid_grant"),  # milliseconds
    ],
)
def test_an_assertion_that_is_not_right_is_refused(claims: dict[str, Any], error: str) -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            status, answer = await sides.login(sides.assertion(**claims))
            assert (status, answer["error"]) == (400, error)
            assert set(answer) == {"error", "error_description"}

    asyncio.run(scenario())


def test_a_login_is_answered_as_published_and_counted_in_the_journal() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            for audience in ("https://login.salesforce.com", "https://test.salesforce.com", sides.salesforce):
                status, answer = await sides.login(sides.assertion(aud=audience))
                assert status == 200
                assert set(answer) == {"access_token", "scope", "instance_url", "id", "token_type"}  # no expires_in
                assert answer["access_token"].startswith(sides.org_id[:15] + "!")
                assert answer["instance_url"] == sides.salesforce
            assert [entry["count"] for entry in await sides.journal(kind="login")] == [1, 2, 3]
            assert (await sides.login(grant_type="password"))[1]["error"] == "unsupported_grant_type"
            assert (await sides.login(assertion=""))[1]["error"] == "invalid_request"
            async with sides.client.post(sides.salesforce + "/services/oauth2/token", json={}) as response:
                assert response.status == 400

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Authorization": None}, 401, 10004),
        ({"Authorization": "Bearer 00D5g00000ABcDE!nonsense"}, 401, 10004),
        ({"OrgId": None}, 400, 10016),
        ({"OrgId": with_checksum("00D5g00000ABcDE")}, 400, 10016),
        ({"OrgId": "00D5g00000ABcDF"}, 400, 10016),
        ({"RequestId": None}, 400, None),
        ({"RequestId": "7"}, 400, 10016),
        ({"AuthorizationContext": None}, 400, 10016),
        ({"AuthorizationContext": "Somebody_Else"}, 403, 10005),
    ],
)
def test_every_header_is_checked(headers: dict[str, str | None], status: int, code: int | None) -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            token = await sides.token()
            got, answer = await sides.interact(token, text_interaction("hi"), headers=headers)
            assert (got, answer.get("code")) == (status, code)
            assert not await sides.journal(kind="interaction")

    asyncio.run(scenario())


ENTRY = "2d9c7f7e-6a0b-4a53-8c68-3fb0e1a8f901"
END_USER = {"appType": "custom", "subject": ANA, "role": "EndUser"}
BAD_INTERACTIONS: list[tuple[str, dict[str, Any], int | None]] = [
    ("an empty to", {"to": ""}, 10027),
    ("an unknown to", {"to": "6f1f4a5e-0000-4e1c-9c55-0b9b6f9f2d31"}, 10017),
    ("no from", {"from": None}, 10028),
    ("a from of 241 characters", {"from": "3" * 241}, 10028),
    ("no interactions", {"interactions": []}, 10029),
    ("two interactions", {"interactions": text_interaction("a")["interactions"] * 2}, 10029),
    ("no timestamp", {"interaction": {"timestamp": None}}, None),
    ("a timestamp in words", {"interaction": {"timestamp": "2026-03-02"}}, None),
    ("an unknown interaction type", {"interaction": {"interactionType": "Other"}}, 10029),
    ("attributes that are no texts", {"routingAttributes": {"vip": True}}, None),
    ("an unknown entry type", {"payload": {"entryType": "ReadAcknowledgement"}}, 10045),
    ("an empty entry id", {"payload": {"id": ""}}, 10059),
    ("no message id", {"message": {"id": None}}, 10059),
    ("two ids that differ", {"message": {"id": str(uuid.uuid4())}}, 10060),
    ("an id that is no UUID", {"entry": "wamid.1"}, 10045),
    ("an unknown message type", {"message": {"messageType": "Text"}}, 10047),
    ("a message type of reps", {"message": {"messageType": "ChoicesMessage"}}, 10062),
    ("an unknown format", {"message": {"staticContent": {"formatType": "Html", "text": "x"}}}, 10048),
    ("a format of another type", {"message": {"staticContent": {"formatType": "Buttons", "text": "x"}}}, 10049),
    ("files without a file", {"message": {"staticContent": {"formatType": "Attachments"}}}, 10049),
    ("a text that is none", {"message": {"staticContent": {"formatType": "Text", "text": 7}}}, 10045),
]


def test_interactions_that_break_a_rule_are_refused_with_its_code() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            token = await sides.token()
            for what, changed, code in BAD_INTERACTIONS:
                status, answer = await sides.interact(token, text_interaction("hi", **changed))
                assert (status, answer.get("code")) == (400, code), what
            assert not await sides.journal(kind="interaction")
            assert len(await sides.journal(kind="refused")) == len(BAD_INTERACTIONS)

    asyncio.run(scenario())


def test_only_multipart_with_a_json_part_of_that_type_is_read() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            token = await sides.token()
            status, answer = await sides.interact(token, text_interaction("hi"), part="text/plain")
            assert (status, answer.get("code"), answer["path"]) == (400, None, "/api/v1/interactions")
            url = sides.salesforce + "/api/v1/interactions"
            async with sides.client.post(url, json=text_interaction("hi"), headers=sides.headers(token)) as response:
                assert response.status == 400
                assert "code" not in await response.json()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("changed", "file", "code"),
    [
        ({}, None, 10011),
        ({"attachmentIndex": 1}, ("box.jpg", "image/jpeg", b"123"), 10011),
        ({}, ("box.jpg", "image/jpeg", b""), 10009),
        ({"contentLength": None}, ("box.jpg", "image/jpeg", b"123"), 10010),
        ({"contentLength": 4}, ("box.jpg", "image/jpeg", b"123"), 10051),
        ({"id": ""}, ("box.jpg", "image/jpeg", b"123"), 10059),
        ({}, ("note.ogg", "audio/ogg", b"123"), 10095),
        ({"contentLength": LARGEST_FILE + 1}, ("box.jpg", "image/jpeg", bytes(LARGEST_FILE + 1)), 10008),
        ({}, ("box.jpg", "image/jpeg", b"1\r\n"), None),
    ],
)
def test_a_file_is_what_it_is_said_to_be(
    changed: dict[str, Any], file: tuple[str, str, bytes] | None, code: int | None
) -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            token = await sides.token()
            interaction = {
                "interactionType": "AttachmentInteraction",
                "timestamp": 1785312005000,
                "id": ENTRY,
                "attachmentIndex": 0,
                "contentLength": 3,
                "text": "Photo",
            }
            body = {"to": CHANNEL, "from": ANA, "interactions": [interaction | changed]}
            status, answer = await sides.interact(token, body, file=file)
            assert (status, answer.get("code")) == (202 if code is None else 400, code)

    asyncio.run(scenario())


def test_a_conversation_stays_and_a_new_session_follows_one_that_ended() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            token, conversation, session = await sides.ana_and_the_rep()
            assert session.startswith("0Mw") and with_checksum(session[:15]) == session
            _, again = await sides.interact(token, text_interaction("are you there?"))
            assert again == {"conversationIdentifier": conversation, "workItemIds": [session], "success": True}
            await sides.control("POST", "/control/console/end", {"session": session})
            reply = {"conversation": conversation, "text": "too late"}
            assert "ended" in (await sides.control("POST", "/control/console/replies", reply, 409))["error"]
            _, after = await sides.interact(token, text_interaction("hello?"))
            assert after["conversationIdentifier"] == conversation
            assert after["workItemIds"][0] != session
            state = await sides.control("GET", "/control/state")
            assert [(each["status"], each["unread"]) for each in state["sessions"]] == [("Ended", 2), ("Active", 1)]

    asyncio.run(scenario())


def test_a_repeated_entry_id_is_shown_twice_unless_it_is_asked_to_notice() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            token = await sides.token()
            body = text_interaction("once", entry=ENTRY)
            assert (await sides.interact(token, body))[0] == 202
            assert (await sides.interact(token, body))[0] == 202
            assert [entry.get("repeated") for entry in await sides.journal(kind="interaction")] == [None, True]
            state = await sides.control("GET", "/control/state")
            assert [message["id"] for message in state["sessions"][0]["messages"]] == [ENTRY, ENTRY]
            await sides.control("POST", "/control/faults", {"where": "interactions", "what": "duplicate"})
            assert (await sides.interact(token, body))[1]["code"] == 10073

    asyncio.run(scenario())


async def reply(sides: FarSides, conversation: str, text: str = "Hello Ana") -> str:
    answer = await sides.control("POST", "/control/console/replies", {"conversation": conversation, "text": text})
    return str(answer["entry"])


def acknowledgement(entry: str, kind: str, at: int = 1785312310000) -> dict[str, Any]:
    return {
        "acknowledgementTimestamp": at,
        "acknowledgementType": kind,
        "acknowledgedConversationEntryIdentifier": entry,
        "acknowledgmentCreatedConversationEntryIdentifier": str(uuid.uuid4()),
    }


def test_acknowledgements_become_ticks_and_the_newest_by_timestamp_is_shown() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            token, conversation, _ = await sides.ana_and_the_rep()
            entry = await reply(sides, conversation)
            body = {"conversationIdentifier": conversation, "sender": END_USER}
            ticks = [acknowledgement(entry, "Read", 2000), acknowledgement(entry, "Delivered", 1000)]
            assert await sides.acknowledge(token, body | {"acknowledgements": ticks}) == (200, {"success": True})
            state = await sides.control("GET", "/control/state")
            assert state["sessions"][0]["messages"][-1]["state"] == "read"
            assert [each["text"] for each in await sides.journal(kind="acknowledgement")] == ["Read", "Delivered"]

    asyncio.run(scenario())


def test_acknowledgements_that_break_a_rule_are_refused() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            token, conversation, _ = await sides.ana_and_the_rep()
            entry = await reply(sides, conversation)
            good = acknowledgement(entry, "Delivered")
            body = {"conversationIdentifier": conversation, "sender": END_USER, "acknowledgements": [good]}
            bad: list[tuple[dict[str, Any], int]] = [
                ({"conversationIdentifier": str(uuid.uuid4())}, 10018),
                ({"sender": END_USER | {"appType": "agent"}}, 10037),
                ({"sender": END_USER | {"role": "Agent"}}, 10038),
                ({"sender": END_USER | {"subject": "1"}}, 10054),
                ({"acknowledgements": []}, 10089),
                ({"acknowledgements": [good] * 26}, 10089),
                ({"acknowledgements": [good | {"acknowledgementType": "Seen"}]}, 10089),
                ({"acknowledgements": [good | {"acknowledgementTimestamp": None}]}, 10089),
                ({"acknowledgements": [good, acknowledgement(str(uuid.uuid4()), "Read")]}, 10089),
            ]
            for changed, code in bad:
                status, answer = await sides.acknowledge(token, body | changed)
                assert (status, answer["code"]) == (400, code), changed
            assert (await sides.acknowledge(token, body))[0] == 200

    asyncio.run(scenario())


def test_a_failure_report_is_recorded_and_not_shown() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            token, conversation, _ = await sides.ana_and_the_rep()
            entry = await reply(sides, conversation)
            report = {
                "id": str(uuid.uuid4()),
                "entryType": "MessageDeliveryFailed",
                "failedConversationEntryIdentifier": entry,
                "recipient": END_USER,
                "errorCode": "7010",
                "abstractMessage": None,
            }
            status, answer = await sides.interact(token, text_interaction("", payload=report))
            assert (status, answer) == (202, {"conversationIdentifier": conversation, "success": True})
            assert (await sides.journal(kind="failure_report"))[0]["id"] == entry
            state = await sides.control("GET", "/control/state")
            assert state["sessions"][0]["messages"][-1]["state"] == "sent"
            for changed, code in (({"errorCode": 7010}, 10045), ({"recipient": END_USER | {"role": "Agent"}}, 10038)):
                _, answer = await sides.interact(token, text_interaction("", payload=report | changed))
                assert answer["code"] == code

    asyncio.run(scenario())


def test_expired_tokens_are_refused_until_the_next_login() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            token = await sides.token()
            await sides.control("POST", "/control/tokens/expire")
            status, answer = await sides.interact(token, text_interaction("hi"))
            assert (status, answer["code"]) == (401, 10004)
            assert (await sides.interact(await sides.token(), text_interaction("hi")))[0] == 202

    asyncio.run(scenario())


def test_faults_spoil_calls_as_often_as_they_say() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            token = await sides.token()

            async def fault(**body: Any) -> None:
                await sides.control("POST", "/control/faults", {"where": "interactions"} | body)

            await fault(what="status", status=503, code=10055, count=1)
            status, answer = await sides.interact(token, text_interaction("a"))
            assert (status, answer["code"]) == (503, 10055)
            await fault(what="success_false", count=1)
            assert await sides.interact(token, text_interaction("b")) == (202, {"success": False})
            assert not await sides.journal(kind="interaction", text="b")
            for what, accepted in (("timeout_before", 0), ("timeout_after", 1)):
                await fault(what=what, count=1)
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(sides.interact(token, text_interaction(what)), 0.2)
                assert len(await sides.journal(kind="interaction", text=what)) == accepted
            await fault(what="delay", seconds=0.2)
            await fault(what="trickle", seconds=0.2, count=1)
            begun = time.monotonic()
            assert (await sides.interact(token, text_interaction("slow")))[0] == 202
            assert time.monotonic() - begun > 0.4
            await sides.control("DELETE", "/control/faults")
            assert (await sides.control("GET", "/control/faults")) == {"faults": []}
            assert (await sides.interact(token, text_interaction("z")))[0] == 202
            await sides.control("POST", "/control/faults", {"where": "moon", "what": "status"}, 400)

    asyncio.run(scenario())


def test_record_ids_are_valid_and_differ() -> None:
    assert with_checksum("00Dxx0000001gER") == "00Dxx0000001gEREAY"
    assert len({record_id("0Mw", n) for n in range(1000)}) == 1000
