"""A metadata deploy is really read and checked, takes its time, and changes all or nothing."""

import asyncio
from typing import Any

import pytest

from tests.sandbox.far_sides import far_sides
from tests.sandbox.fresh_org import (
    APP,
    CONNECTOR,
    CONSOLE,
    DEFINITION,
    EVENT,
    EVERYTHING,
    FLOW,
    PAGE,
    PERMISSION_SET,
    PRESENCE,
    QUEUE,
    REP,
    VENDOR,
    Files,
    FreshOrg,
    certificate,
    manifest,
    other_key,
    pack,
    package,
    tags,
    with_bundle,
    wrap,
)

ECA, GLOBAL, OAUTH, POLICY = APP


def test_a_deploy_shows_its_progress_and_then_its_effect() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            org = await FreshOrg(sides).be_born()
            await org.edit("switches.deploy_seconds", 0.6)
            status, started = await org.start_deploy(package(EVERYTHING))
            assert (status, started["id"][:3], len(started["id"])) == (201, "0Af", 18)
            counts, seen = [], set()
            while not (result := await org.deploy_status(started["id"]))["done"]:
                counts.append(result["numberComponentsDeployed"])
                seen.add(result["status"])
                assert (result["numberComponentsTotal"], result["success"]) == (len(EVERYTHING), False)
                assert await org.rows("ExternalClientApp") == []
                await asyncio.sleep(0.03)
            assert seen == {"Pending", "InProgress"}
            assert counts == sorted(counts) and len(set(counts)) > 3
            assert (result["status"], result["success"]) == ("Succeeded", True)
            assert result["numberComponentsDeployed"] == len(EVERYTHING)
            assert {each["fullName"] for each in result["details"]["componentSuccesses"]} == {key[1] for key in EVERYTHING}
            assert (await org.consumer_key()).startswith("3MVG9")
            rows = await org.query("SELECT DeveloperName FROM ConversationChannelDefinition")
            assert [row["DeveloperName"] for row in rows] == ["Infobip_WhatsApp"]
            again = await org.deploy(EVERYTHING)  # the same again changes nothing
            assert again["success"] and len(await org.rows("ConversationVendorInfo")) == 1

    asyncio.run(scenario())


def test_a_deploy_takes_some_seconds_by_its_size() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            org = await FreshOrg(sides).be_born()
            await org.edit("switches.deploy_seconds", None)
            _, started = await org.start_deploy(package(EVERYTHING))
            found = sides.sandbox.world.orgs[org.id]
            assert found.setup.switches.deploy_seconds is None
            result = await org.deploy_status(started["id"])
            assert not result["done"]
            await asyncio.sleep(2.0)
            assert not (await org.deploy_status(started["id"]))["done"]
            await asyncio.sleep(2.1)
            assert (await org.deploy_status(started["id"]))["done"]

    asyncio.run(scenario())


def test_a_check_changes_nothing() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            org = await FreshOrg(sides).be_born()
            result = await org.deploy(EVERYTHING, checkOnly=True)
            assert (result["success"], result["checkOnly"]) == (True, True)
            assert await org.rows("EntityDefinition") == []

    asyncio.run(scenario())


def test_a_deploy_can_be_canceled_until_it_has_ended() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            org = await FreshOrg(sides).be_born()
            await org.edit("switches.deploy_seconds", 1.0)
            _, started = await org.start_deploy(package(EVERYTHING))
            path, body = f"/metadata/deployRequest/{started['id']}", {"deployResult": {"status": "Canceling"}}
            status, answer = await org.call("PATCH", path, body)
            assert (status, answer["deployResult"]["status"]) == (202, "Canceling")
            while not (result := await org.deploy_status(started["id"]))["done"]:
                await asyncio.sleep(0.05)
            await asyncio.sleep(1.0)  # when it would have ended
            result = await org.deploy_status(started["id"])
            assert (result["status"], result["success"]) == ("Canceled", False)
            assert await org.rows("EntityDefinition") == []
            assert (await org.call("PATCH", path, body))[0] == 400
            assert (await org.call("GET", "/metadata/deployRequest/0Af5g0000000099AAA"))[0] == 404

    asyncio.run(scenario())


def test_who_may_not_deploy_is_refused_and_so_is_a_body_that_cannot_be_read() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            org = await FreshOrg(sides).be_born()
            status, answer = await org.start_deploy(package(EVERYTHING), token=await org.token(REP))
            assert (status, answer[0]["errorCode"]) == (403, "INSUFFICIENT_ACCESS")
            assert (await org.call("POST", "/metadata/deployRequest", {"deployOptions": {}}))[0] == 400
            assert (await org.start_deploy(package(EVERYTHING), other=True))[0] == 400

    asyncio.run(scenario())


def but(key: tuple[str, str, str], body: str | None) -> Files:
    """Return everything with one file changed, or without it."""
    changed = EVERYTHING | ({key: body} if body is not None else {})
    return {each: text for each, text in changed.items() if each != key or body is not None}


FAILURES: list[tuple[Files | bytes, str]] = [
    (b"no zip", "cannot be read"),
    (pack({"x/package.xml": manifest([])}), "No package.xml found"),
    (pack({"package.xml": "<Package>"}), "Error parsing file"),
    (
        package(EVERYTHING, package_xml=manifest([("CustomObject", "Other__e")])),
        "is in the zip but not named in package.xml",
    ),
    (
        package(EVERYTHING, package_xml=manifest([*[key[:2] for key in EVERYTHING], ("CustomObject", "Other__e")])),
        "An object 'Other__e' of type CustomObject was named in package.xml, but was not found in zipped directory",
    ),
    (pack({"package.xml": manifest([("ApexClass", "X")])}), "Unknown type name 'ApexClass'"),
    (pack({"package.xml": manifest([]), "README.md": "x"}), "Unexpected file"),
    (
        package({("CustomObject", "Infobip_Event__e", "objects/Infobip_Event__e.xml"): ""}),
        "Unexpected file",
    ),
    (pack({"package.xml": manifest([EVENT[:2]]), EVENT[2]: wrap("CustomTab", "")}), "is not CustomObject"),
    (pack({"package.xml": manifest([EVENT[:2]]), EVENT[2]: "<CustomObject/>"}), "is not CustomObject"),
    (pack({"package.xml": manifest([EVENT[:2]]), EVENT[2]: "<CustomObject"}), "Error parsing file"),
    (but(EVENT, EVERYTHING[EVENT] + "<colour>red</colour>"), "Property 'colour' not valid in version 67.0"),
    (but(EVENT, EVERYTHING[EVENT].replace("HighVolume", "StandardVolume")), "StandardVolume"),
    (but(EVENT, EVERYTHING[EVENT].replace("131072", "131073")), "Length must be between 256 and 131072"),
    (but(EVENT, EVERYTHING[EVENT].replace("<label>Infobip Event</label>", "")), "Required field is missing: label"),
    (but(EVENT, None), "no CustomObject named Infobip_Event__e found"),
    (but(CONNECTOR, PERMISSION_SET.replace("ApiEnabled", "ViewSetup")), "depends on permission(s): ViewRoles"),
    (but(CONNECTOR, PERMISSION_SET.replace("ApiEnabled", "Nothing")), "Unknown user permission"),
    (but(CONNECTOR, PERMISSION_SET.replace("<allowRead>true", "<allowRead>false")), "depends on permission(s): Read"),
    (but(CONNECTOR, PERMISSION_SET + tags(tabSettings=tags(tab="X"))), "no CustomTab named X found"),
    (but(CONNECTOR, None), "no PermissionSet named Infobip_Connector found"),
    (but(ECA, None), "INVALID_CROSS_REFERENCE_KEY"),
    (but(OAUTH, None), "doesn't have a valid OAuth settings configuration"),
    (but(GLOBAL, APP[GLOBAL].replace("<certificate>MII", "<certificate>AAA")), "Invalid certificate"),
    (but(GLOBAL, APP[GLOBAL].replace(">Infobip_BYOC<", ">Other<")), "INVALID_CROSS_REFERENCE_KEY"),
    (but(OAUTH, APP[OAUTH].replace("Interaction", "interaction_api")), "is not a valid scope"),
    (but(VENDOR, None), "no ConversationVendorInfo named Infobip found"),
    (but(DEFINITION, EVERYTHING[DEFINITION].replace("EventType__c", "Other__c")), "no CustomField named"),
    (but(DEFINITION, EVERYTHING[DEFINITION] + tags(isInboundReceiptsEnabled="true")), "not valid in version"),
    (CONSOLE, "no AuraDefinitionBundle named InfobipFrame found"),
    ({QUEUE: CONSOLE[QUEUE]}, "no QueueRoutingConfig named Routing found"),
    ({PRESENCE: CONSOLE[PRESENCE].replace("sfdc_livemessage", "other")}, "no ServiceChannel named other found"),
    (with_bundle({}, **{"aura/InfobipFrame/InfobipFrame.cmp": "<aura:component>"}), "Error parsing markup"),
]


@pytest.mark.parametrize(("files", "problem"), FAILURES, ids=[problem for _, problem in FAILURES])
def test_what_is_not_right_fails_and_nothing_is_changed(files: Files | bytes, problem: str) -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            org = await FreshOrg(sides).be_born()
            before = (await org.setup())["records"]
            assert problem in await org.problem(files)
            assert (await org.setup())["records"] == before

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("switch", "files", "kind", "problem"),
    [
        ("external_client_apps", EVERYTHING, "ExternalClientApplication", "not enabled"),
        ("secrets_by_metadata", EVERYTHING, "ExtlClntAppGlobalOauthSettings", "consumer secrets via Metadata API"),
        ("digital_engagement", EVERYTHING, "ConversationVendorInfo", "license"),
        ("omni_channel", {PRESENCE: CONSOLE[PRESENCE]}, "ServicePresenceStatus", "Omni-Channel is not enabled"),
    ],
)
def test_a_switch_that_is_off_fails_its_component(switch: str, files: Files, kind: str, problem: str) -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            org = await FreshOrg(sides).be_born()
            await org.edit(f"switches.{switch}", False)
            result = await org.deploy(files)
            failure = result["details"]["componentFailures"][0]
            assert (failure["componentType"], failure["problemType"], problem in failure["problem"]) == (
                kind,
                "Error",
                True,
            )

    asyncio.run(scenario())


def test_a_vendor_can_be_refused_beside_an_app_of_the_org() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            org = await FreshOrg(sides).be_born()
            await org.edit("switches.vendor_with_customer_refused", True)
            assert "conversationVendorInfo can't be set" in await org.problem(EVERYTHING)
            without = EVERYTHING[DEFINITION].replace(tags(conversationVendorInfo="Infobip"), "")
            assert (await org.deploy(but(DEFINITION, without)))["success"]

    asyncio.run(scenario())


def test_without_rollback_what_is_right_stays() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            org = await FreshOrg(sides).be_born()
            result = await org.deploy(but(DEFINITION, tags(developerName="Infobip_WhatsApp")), rollbackOnError=False)
            assert result["status"] == "SucceededPartial"
            assert (result["numberComponentErrors"], result["numberComponentsDeployed"]) == (1, len(EVERYTHING) - 1)
            assert len(await org.rows("EntityDefinition")) == 1

    asyncio.run(scenario())


def test_an_app_loses_what_a_later_deploy_leaves_out() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            org = await FreshOrg(sides).be_born()
            without_policy = {key: body for key, body in EVERYTHING.items() if key != POLICY}
            await org.deploy(without_policy)
            app = (await org.rows("ExternalClientApp"))[0]
            assert app["PermittedUsers"] == "AllSelfAuthorized"  # the platform's own policy, where none comes along
            body = "".join(certificate(other_key()).strip().splitlines()[1:-1])
            another = APP[GLOBAL].replace(APP[GLOBAL].split("certificate>")[1].removesuffix("</"), body)
            await org.deploy(but(GLOBAL, another))
            replaced = (await org.rows("ExternalClientApp"))[0]
            assert replaced["ConsumerKey"] == app["ConsumerKey"]
            assert replaced["Certificate"] not in (None, app["Certificate"])
            bare = APP[GLOBAL].replace(tags(certificate=APP[GLOBAL].split("certificate>")[1].removesuffix("</")), "")
            await org.deploy(but(GLOBAL, bare))
            assert (await org.rows("ExternalClientApp"))[0]["Certificate"] is None

    asyncio.run(scenario())


def test_pages_and_routing_are_deployed_and_taken_back() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            org = await FreshOrg(sides).be_born()
            await org.edit("switches.flows_deployed_active", False)
            result = await org.deploy(with_bundle(CONSOLE))
            assert result["success"], result["details"]["componentFailures"]
            flow = (await org.rows("FlowDefinitionView"))[0]
            assert (flow["ActiveVersionId"], flow["Queue"]) == (None, "Infobip_Messaging")
            assert (await org.rows("FlexiPage"))[0]["Address"] == "https://connector.example.com/e/x/"
            await org.edit("switches.flows_deployed_active", True)
            assert (await org.deploy({FLOW: CONSOLE[FLOW]}))["success"]
            flow = (await org.rows("FlowDefinitionView"))[0]
            assert flow["ActiveVersionId"] == flow["Versions"][1]

            def undo(*members: tuple[str, str]) -> bytes:
                return pack({"package.xml": manifest([]), "destructiveChanges.xml": manifest(list(members))})

            assert "insufficient access rights" in await org.problem(undo(("Flow", "Infobip_Route_Session")))
            assert "active" in await org.problem(undo(("Flow", "Infobip_Route_Session-2")))
            assert "referenced elsewhere" in await org.problem(undo(("Queue", "Infobip_Messaging")))
            assert "referenced elsewhere" in await org.problem(undo(("FlexiPage", PAGE[1])))
            await org.edit("FlowDefinitionView.ActiveVersionId", None)
            members = [("AuraDefinitionBundle", "InfobipFrame"), *[key[:2] for key in CONSOLE if key != FLOW]]
            members += [("Flow", "Infobip_Route_Session-1"), ("Flow", "Infobip_Route_Session-2"), ("Queue", "Nothing")]
            result = await org.deploy(undo(*members))
            assert result["success"], result["details"]["componentFailures"]
            warnings = [each for each in result["details"]["componentSuccesses"] if each["problemType"] == "Warning"]
            assert [each["problem"] for each in warnings] == ["No Queue named: Nothing found"]
            for kind in ("FlowDefinitionView", "FlexiPage", "CustomTab", "Group", "QueueSobject", "AuraDefinitionBundle"):
                assert await org.rows(kind) == [], kind

    asyncio.run(scenario())


def test_everything_of_ours_is_taken_back_once_nobody_needs_it() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            org = await FreshOrg(sides).be_born()
            await org.deploy(EVERYTHING)
            await org.assign("byoc@fresh.example", "Infobip_Connector")
            members: list[Any] = [key[:2] for key in EVERYTHING]
            undo = pack({"package.xml": manifest([]), "destructiveChanges.xml": manifest(members)})
            assert "referenced elsewhere" in await org.problem(undo)
            assert len(await org.rows("ExternalClientApp")) == 1
            await org.edit("PermissionSetAssignment[PermissionSet.Name=Infobip_Connector]", None)
            result = await org.deploy(undo)
            assert result["success"], result["details"]["componentFailures"]
            records = (await org.setup())["records"]
            for kind in ("ExternalClientApp", "EntityDefinition", "ConversationVendorInfo", "ObjectPermissions"):
                assert records[kind] == []

    asyncio.run(scenario())
