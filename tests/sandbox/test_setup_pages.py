"""The Setup page does what people do by hand, until a message arrives in an org that had nothing."""

import asyncio
from typing import Any

from tests.sandbox.far_sides import ANA, FarSides, far_sides, text_interaction
from tests.sandbox.fresh_org import (
    CALLBACK,
    CONNECTOR,
    CONSOLE,
    DEFINITION,
    EVENT,
    EVERYTHING,
    INTEGRATION,
    KEY,
    VENDOR,
    FreshOrg,
    certificate,
    with_bundle,
)

BY_HAND: dict[str, Any] = {
    "label": "Infobip BYOC",
    "name": "Infobip_BYOC",
    "callback_urls": CALLBACK,
    "certificate": certificate(),
    "scopes": ["api", "refresh_token", "interaction_api", "openid"],
    "policy": "AdminApprovedPreAuthorized",
    "permission_sets": ["Infobip_Connector"],
}


async def id_of(org: FreshOrg, kind: str, **wanted: Any) -> str:
    found = [row for row in await org.rows(kind) if all(row[name] == value for name, value in wanted.items())]
    return str(found[0]["Id"])


async def text_of(org: FreshOrg) -> str:
    async with org.sides.client.get(org.page) as response:
        assert response.status == 200
        return await response.text()


def test_an_org_is_set_up_by_hand_until_a_message_arrives() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            org = await FreshOrg(sides).be_born()
            await org.deploy({EVENT: EVERYTHING[EVENT], CONNECTOR: EVERYTHING[CONNECTOR]})
            await org.press("save_app", **BY_HAND)
            key = await org.consumer_key()
            assert f"<code>{key}</code>" in await text_of(org)
            assertion = sides.assertion(key=KEY, iss=key, sub=INTEGRATION)
            assert (await sides.login(assertion))[1]["error"] == "invalid_grant"
            await org.press(
                "save_user",
                id=await id_of(org, "User", Username=INTEGRATION),
                is_active="1",
                permission_sets=await id_of(org, "PermissionSet", Name="Infobip_Connector"),
            )
            status, login = await sides.login(assertion)
            assert status == 200, login

            await org.deploy({VENDOR: EVERYTHING[VENDOR], DEFINITION: EVERYTHING[DEFINITION]})
            await org.deploy(with_bundle(CONSOLE))
            await org.press("save_scrt", events="Infobip_Event__e")
            tile = await id_of(org, "ConversationChannelDefinition")
            await org.press("new_channel", id=tile, label="WhatsApp UK")
            assert "already" in await org.press("new_channel", 400, id=tile, label="WhatsApp UK")
            channel = (await org.rows("MessagingChannel"))[0]
            address = channel["ChannelAddressIdentifier"]
            assert address in await text_of(org)
            assert (channel["DeveloperName"], channel["IsActive"]) == ("WhatsApp_UK", False)
            assert len(await org.rows("CustomMsgChannel")) == 1

            async def write() -> tuple[int, dict[str, Any]]:
                body = text_interaction("hi", to=address)
                return await sides.interact(login["access_token"], body, headers={"OrgId": org.id[:15]})

            assert (await write())[1]["code"] == 10031
            refused = await org.press("save_channel", 400, id=channel["Id"], is_active="1")
            assert "Choose an Omni-Flow or a queue" in refused
            flow = await id_of(org, "FlowDefinitionView")
            await org.press("save_channel", id=channel["Id"], is_active="1", flow=flow)
            status, answer = await write()
            assert (status, answer["success"]) == (202, True)
            reply = {"org": org.id, "conversation": answer["conversationIdentifier"], "text": "hello"}
            await sides.control("POST", "/control/console/replies", reply)
            topic = sides.sandbox.world.orgs[org.id].topics["/event/Infobip_Event__e"]
            assert topic.end == 1
            assert [row["to"] for row in await sides.journal(kind="reply")] == [ANA]

    asyncio.run(scenario())


def test_the_tile_is_offered_once_the_app_is_complete() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            org = await FreshOrg(sides).be_born()
            await org.deploy(EVERYTHING)
            assert "New Channel: Infobip WhatsApp" in await text_of(org)
            for path, value in (("Certificate", None), ("Scopes", ["api"]), ("PermissionSets", []), ("IsEnabled", False)):
                before = (await org.rows("ExternalClientApp"))[0][path]
                await org.edit(f"ExternalClientApp.{path}", value)
                assert "New Channel" not in await text_of(org), path
                await org.edit(f"ExternalClientApp.{path}", before)

    asyncio.run(scenario())


def test_an_app_by_hand_is_checked_and_its_certificate_stays_where_none_is_pasted() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            org = await FreshOrg(sides).be_born()
            wrong: list[dict[str, Any]] = [
                {"label": ""},
                {"name": "1 app"},
                {"callback_urls": "http://connector.example.com/"},
                {"scopes": []},
                {"certificate": "no certificate"},
            ]
            for changed in wrong:
                page = await org.press("save_app", 400, **(BY_HAND | changed))
                assert 'role="alert"' in page
            assert await org.rows("ExternalClientApp") == []
            await org.press("save_app", **BY_HAND)
            before = (await org.rows("ExternalClientApp"))[0]
            await org.press("save_app", **BY_HAND | {"certificate": "", "label": "Another"})
            after = (await org.rows("ExternalClientApp"))[0]
            assert (after["Label"], after["Certificate"]) == ("Another", before["Certificate"])
            assert after["ConsumerKey"] == before["ConsumerKey"]
            await org.press("delete_app", id=after["Id"])
            assert await org.rows("ExternalClientApp") == []
            await org.press("save_switches", switches=["omni_channel"])
            assert "Opt in" in await org.press("save_app", 400, **BY_HAND)

    asyncio.run(scenario())


def test_ticks_and_switches_are_kept() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            org = await FreshOrg(sides).be_born()
            await org.deploy(with_bundle(CONSOLE))
            await org.press("save_places", places=["session page"])
            await org.press("save_switches", switches=["secrets_by_metadata"])
            await org.press("save_flows")
            setup = await org.setup()
            assert setup["placed"] == ["session page"]
            assert (setup["switches"]["secrets_by_metadata"], setup["switches"]["omni_channel"]) == (True, False)
            assert setup["records"]["FlowDefinitionView"][0]["ActiveVersionId"] is None
            await org.press("save_flows", flows=setup["records"]["FlowDefinitionView"][0]["Id"])
            assert (await org.rows("FlowDefinitionView"))[0]["ActiveVersionId"]
            queue, license_ = (
                await id_of(org, "Group"),
                await id_of(org, "PermissionSetLicense", MasterLabel="Service User"),
            )
            rep = await id_of(org, "User", Name="Marko Babic")
            await org.press("save_user", id=rep, is_active="1", support_user="1", queues=queue, licenses=license_)
            assert [row["UserOrGroupId"] for row in await org.rows("GroupMember")] == [rep]
            assert [row["AssigneeId"] for row in await org.rows("PermissionSetLicenseAssign")] == [rep]
            await org.press("save_user", id=rep, is_active="1")
            assert await org.rows("GroupMember") == []
            own = [row for row in await org.rows("PermissionSetAssignment") if row["AssigneeId"] == rep]
            assert len(own) == 1  # that of the profile stays

    asyncio.run(scenario())


async def location(sides: FarSides, path: str) -> str | None:
    async with sides.client.get(sides.salesforce + path, allow_redirects=False) as response:
        return response.headers.get("Location")


def test_a_deep_link_leads_to_the_section() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            assert (
                await location(sides, "/lightning/setup/LiveMessageSetup/home") == f"/setup/{sides.org_id}#LiveMessageSetup"
            )
            org = await FreshOrg(sides).be_born()
            async with sides.client.get(sides.salesforce + "/lightning/setup/Flows/home") as response:
                text = await response.text()
            assert f"/setup/{org.id}#Flows" in text and f"/setup/{sides.org_id}#Flows" in text
            async with sides.client.get(f"{sides.salesforce}/setup/00D000000000000AAA") as response:
                assert response.status == 404
            for headers, status in (({"Origin": "https://evil.example"}, 403), ({}, 400)):
                async with sides.client.post(org.page, data={"action": "x"}, headers=headers) as response:
                    assert response.status == status

    asyncio.run(scenario())
