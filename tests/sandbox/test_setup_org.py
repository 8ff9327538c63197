"""An org's set-up: its two ways to be born, what a login needs of it, and how faults are planted in it."""

import asyncio
from typing import Any

import grpc.aio
import pytest

from connector.salesforce import pubsub
from tests.sandbox.far_sides import CHANNEL, CONTEXT, TOPIC, FarSides, far_sides, subscribe, text_interaction
from tests.sandbox.fresh_org import INTEGRATION, FreshOrg, certificate, other_key

OURS = ["ExternalClientApp", "EntityDefinition", "ConversationVendorInfo", "ConversationChannelDefinition"]
OURS += ["MessagingChannel", "CustomMsgChannel", "Group", "FlowDefinitionView", "FlexiPage", "ObjectPermissions"]


async def edit(sides: FarSides, path: str, value: Any, status: int = 200) -> Any:
    return await sides.control("PATCH", f"/control/orgs/{sides.org_id}/setup", {"path": path, "value": value}, status)


async def rows(sides: FarSides, kind: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await sides.control("GET", f"/control/orgs/{sides.org_id}/setup"))["records"][kind]
    return found


def test_an_empty_org_has_people_and_nothing_of_ours() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            org = await FreshOrg(sides).be_born()
            records = (await org.setup())["records"]
            assert [user["Name"] for user in records["User"]] == ["Ada Admin", "Marko Babic", "Infobip Integration"]
            assert not any(records[kind] for kind in OURS)
            own = [row for row in records["PermissionSet"] if not row["IsOwnedByProfile"]]
            assert [(row["NamespacePrefix"], row["Name"]) for row in own] == [("sfdcInternalInt", "sfdc_scrt2")]
            assert [row["DeveloperName"] for row in records["ServiceChannel"]] == ["sfdc_livemessage"]
            state = await sides.control("GET", "/control/state")
            fresh = next(each for each in state["orgs"] if each["orgId"] == org.id)
            assert (fresh["channels"], fresh["senders"]) == ([], ["447700900777"])

    asyncio.run(scenario())


def test_a_connected_org_has_a_working_channel_as_the_document_says() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            channel, definition = (await rows(sides, "MessagingChannel"))[0], (await rows(sides, OURS[3]))[0]
            assert (channel["ChannelAddressIdentifier"], channel["IsActive"]) == (CHANNEL, True)
            assert (definition["DeveloperName"], definition["CustomPlatformEvent"]) == (CONTEXT, "Infobip_Event__e")
            assert channel["ChannelDefinitionId"] == definition["Id"]
            app = (await rows(sides, "ExternalClientApp"))[0]
            assert app["ConsumerKey"] == "3MVG9acme"
            assert app["CallbackUrls"] == [sides.webhook.removesuffix("/messages") + "/sf/callback"]
            await edit(sides, "MessagingChannel.IsActive", False)
            again = {"document": sides.document(), "webhooks": {"main": sides.webhook}}
            await sides.control("POST", "/control/orgs", again)
            assert (await rows(sides, "MessagingChannel"))[0]["IsActive"] is False  # the same document changes nothing
            again["document"]["org"]["consumerKey"] = "3MVG9new"
            await sides.control("POST", "/control/orgs", again)
            assert (await rows(sides, "MessagingChannel"))[0]["IsActive"] is True
            assert (await sides.login())[1]["error"] == "invalid_client_id"
            assert (await sides.login(sides.assertion(iss="3MVG9new")))[0] == 200

    asyncio.run(scenario())


REFUSED_LOGINS = [
    ("ExternalClientApp.ConsumerKey", "3MVG9other", "invalid_client_id", "client identifier invalid"),
    ("ExternalClientApp.Certificate", certificate(other_key()), "invalid_client", "invalid client credentials"),
    ("ExternalClientApp.Certificate", None, "invalid_client", "invalid client credentials"),
    ("ExternalClientApp.PermissionSets", ["Infobip_Admin"], "invalid_grant", "user hasn't approved this consumer"),
    (
        "PermissionSetAssignment[PermissionSet.Name=Infobip_Connector]",
        None,
        "invalid_grant",
        "user hasn't approved this consumer",
    ),
    ("ExternalClientApp.PermittedUsers", "AllSelfAuthorized", "invalid_grant", "user hasn't approved this consumer"),
    (
        "ExternalClientApp.Scopes",
        ["api", "interaction_api"],
        "invalid_request",
        "refresh_token scope is required and the connected app should be installed and preauthorized",
    ),
    ("User[Username=byoc@acme.example].IsActive", False, "invalid_grant", "inactive user"),
    (
        "User[Username=byoc@acme.example].Username",
        "renamed@acme.example",
        "invalid_grant",
        "user hasn't approved this consumer",
    ),
    ("ExternalClientApp.IsEnabled", False, "app_not_found", "External client app is not installed in this org"),
]


@pytest.mark.parametrize(("path", "value", "error", "description"), REFUSED_LOGINS)
def test_a_login_is_checked_against_the_app_of_the_org(path: str, value: Any, error: str, description: str) -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            assert (await sides.login())[0] == 200
            await edit(sides, path, value)
            assert await sides.login() == (400, {"error": error, "error_description": description})

    asyncio.run(scenario())


def test_a_new_certificate_takes_the_place_of_the_old_one() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            key = other_key()
            assert (await sides.login(sides.assertion(key=key)))[1]["error"] == "invalid_client"
            await edit(sides, "ExternalClientApp.Certificate", certificate(key))
            assert (await sides.login(sides.assertion(key=key)))[0] == 200
            assert (await sides.login())[1]["error"] == "invalid_client"

    asyncio.run(scenario())


def test_a_token_tells_its_user_org_and_scopes() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            _, answer = await sides.login()
            user = next(row for row in await rows(sides, "User") if row["Username"] == "byoc@acme.example")
            assert answer["id"].endswith(f"/id/{sides.org_id}/{user['Id']}")
            assert answer["scope"] == "api interaction_api openid id"
            assert (answer["token_type"], answer["instance_url"]) == ("Bearer", sides.salesforce)

    asyncio.run(scenario())


def test_the_channel_works_as_the_set_up_lets_it() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            token, conversation, _ = await sides.ana_and_the_rep()
            reply = {"conversation": conversation, "text": "hello"}
            await sides.control("POST", "/control/console/replies", reply)
            assert len(await sides.journal(kind="event_published")) == 1
            await edit(sides, "ObjectPermissions[PermissionSet.Name=sfdc_scrt2].PermissionsCreate", False)
            await sides.control("POST", "/control/console/replies", reply)
            assert len(await sides.journal(kind="event_published")) == 1
            assert len(await sides.journal(kind="event_lost")) == 1
            await edit(sides, "MessagingChannel.IsActive", False)
            status, answer = await sides.interact(token, text_interaction("hi"))
            assert (status, answer["code"]) == (400, 10031)
            await edit(sides, "MessagingChannel", None)
            assert (await sides.interact(token, text_interaction("hi")))[1]["code"] == 10017
            await edit(sides, "ConversationChannelDefinition", None)
            assert (await sides.interact(token, text_interaction("hi")))[1]["code"] == 10005

    asyncio.run(scenario())


async def topic(sides: FarSides, channel: Any, token: str) -> Any:
    call = channel.unary_unary(
        f"/{pubsub.SERVICE}/GetTopic",
        request_serializer=pubsub.TopicRequest.SerializeToString,
        response_deserializer=pubsub.TopicInfo.FromString,
    )
    return await call(pubsub.TopicRequest(topic_name=TOPIC), metadata=sides.metadata(token))


def test_a_topic_is_for_those_who_may_read_its_event() -> None:
    async def scenario() -> None:
        async with far_sides() as sides, sides.channel() as channel:
            token = await sides.token()

            async def refusal() -> str:
                call = subscribe(channel, sides.metadata(token))
                await call.write(pubsub.FetchRequest(topic_name=TOPIC, num_requested=1))
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call.read()
                trailers: Any = caught.value.trailing_metadata()
                return str(dict(trailers)["error-code"]).removeprefix("sfdc.platform.eventbus.grpc.")

            info = await topic(sides, channel, token)
            assert (info.can_subscribe, info.can_publish) == (True, True)
            mine = "ObjectPermissions[PermissionSet.Name=Infobip_Connector]"
            await edit(sides, f"{mine}.PermissionsCreate", False)
            info = await topic(sides, channel, token)
            assert (info.can_subscribe, info.can_publish) == (True, False)
            await edit(sides, "limits.DailyDeliveredPlatformEvents.Remaining", 0)
            assert await refusal() == "subscription.limit.exceeded"
            await edit(sides, mine, None)
            assert not (await topic(sides, channel, token)).can_subscribe
            assert await refusal() == "subscription.topic.cannot.subscribe"
            await edit(sides, "EntityDefinition", None)
            assert await refusal() == "topic.not.found"

    asyncio.run(scenario())


def test_edits_that_name_nothing_are_refused() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            assert await edit(
                sides, "PermissionSetLicenseAssign[PermissionSetLicense.MasterLabel=Messaging User]", None
            ) == {"changed": [1]}
            assert len(await rows(sides, "PermissionSetLicenseAssign")) == 3
            wrong = ["Nothing", "User.Nothing", "MessagingChannel[DeveloperName=x].IsActive", "switches.x", "limits.x.y"]
            for path in wrong:
                assert "error" in await edit(sides, path, True, 400)
            await sides.control("GET", "/control/orgs/00D000000000000AAA/setup", status=404)

    asyncio.run(scenario())


def test_the_integration_user_of_a_fresh_org_has_no_licences() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            org = await FreshOrg(sides).be_born()
            user = (await org.query(f"SELECT Id, UserPermissionsSupportUser FROM User WHERE Username = '{INTEGRATION}'"))[0]
            assert user["UserPermissionsSupportUser"] is False
            soql = (
                f"SELECT PermissionSetLicense.MasterLabel FROM PermissionSetLicenseAssign WHERE AssigneeId = '{user['Id']}'"
            )
            assert await org.query(soql) == []

    asyncio.run(scenario())
