"""The REST and Tooling APIs answer what set-up asks, and refuse the rest as documented."""

import asyncio
import urllib.parse
from typing import Any

import pytest

from tests.sandbox.far_sides import CHANNEL, CONTEXT, FarSides, far_sides
from tests.sandbox.fresh_org import ADA, CHANNEL_DEFINITION, EVENT, EVERYTHING, INTEGRATION, REP, FreshOrg

CVI, CCD = "/tooling/sobjects/ConversationVendorInfo/", "/tooling/sobjects/ConversationChannelDefinition/"
VENDOR = {"developerName": "Infobip", "masterLabel": "Infobip", "vendorType": "BringYourOwnChannelPartner"}
QUERIES = [  # what the wizard asks of an org that works
    "SELECT Id, Name, OrganizationType, IsSandbox, InstanceName, NamespacePrefix FROM Organization",
    "SELECT Id, DeveloperName, MasterLabel, RoutingOwner, ConsentOwner, ConversationVendorInfoId, CustomPlatformEvent,"
    " CustomEventTypeField, CustomEventPayloadField, NamespacePrefix FROM ConversationChannelDefinition"
    " WHERE DeveloperName = 'Infobip_WhatsApp'",
    "SELECT Id, DeveloperName, ConversationVendorInfo.VendorType FROM ConversationChannelDefinition"
    " WHERE ConversationVendorInfo.VendorType = 'BringYourOwnChannelPartner'",
    "SELECT Id, DeveloperName, MasterLabel, IsActive, ChannelAddressIdentifier, MessagingPlatformKey, ChannelDefinitionId,"
    " RoutingType, TargetQueueId FROM MessagingChannel WHERE MessageType = 'Custom' AND IsActive = true",
    f"SELECT Id FROM MessagingChannel WHERE ChannelAddressIdentifier = '{CHANNEL}' AND MessageType = 'Custom'",
    "SELECT Id, ChannelDefinitionId, MessagingChannelId, HasInboundReceipts, HasTypingIndicator FROM CustomMsgChannel",
    "SELECT Id, Name, NamespacePrefix FROM PermissionSet WHERE Name = 'sfdc_scrt2'",
    "SELECT Id, PermissionsRead, PermissionsCreate FROM ObjectPermissions WHERE Parent.Name = 'sfdc_scrt2'"
    " AND SobjectType = 'Infobip_Event__e'",
    "SELECT UserPermissionsSupportUser FROM User WHERE Username = 'byoc@acme.example'",
    "SELECT Id, DeveloperName, QueueRoutingConfigId FROM Group WHERE Type = 'Queue'"
    " AND DeveloperName = 'Infobip_Messaging'",
    "SELECT Id, DeveloperName, MasterLabel, RelatedEntity FROM ServiceChannel WHERE DeveloperName = 'sfdc_livemessage'",
    "SELECT ApiName, ActiveVersionId, ProcessType FROM FlowDefinitionView WHERE ApiName = 'Infobip_Route_Session'",
    "SELECT Id, Profile.Name FROM User WHERE Profile.Name LIKE 'System%' LIMIT 1",
    "SELECT Id FROM QueueSobject WHERE Queue.DeveloperName = 'Infobip_Messaging' AND SobjectType = 'MessagingSession'",
    "SELECT QualifiedApiName FROM EntityDefinition WHERE QualifiedApiName IN ('Infobip_Event__e', 'Other__e')",
]


async def query(sides: FarSides, token: str, soql: str, path: str = "query") -> tuple[int, Any]:
    url = f"{sides.salesforce}/services/data/v67.0/{path}?{urllib.parse.urlencode({'q': soql})}"
    async with sides.client.get(url, headers={"Authorization": f"Bearer {token}"}) as response:
        return response.status, await response.json()


def test_versions_are_told_to_anybody() -> None:
    async def scenario() -> None:
        async with far_sides() as sides, sides.client.get(f"{sides.salesforce}/services/data/") as response:
            versions = await response.json()
            assert [each["version"] for each in versions] == ["66.0", "67.0", "68.0"]
            assert versions[-1] == {"label": "Winter '27", "url": "/services/data/v68.0", "version": "68.0"}

    asyncio.run(scenario())


def test_every_query_of_the_wizard_finds_the_working_channel() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            token = await sides.token()
            found = {}
            for soql in QUERIES:
                status, answer = await query(sides, token, soql)
                assert (status, answer.get("totalSize"), answer.get("done")) == (200, 1, True), (soql, answer)
                found[soql] = answer["records"][0]
            assert found[QUERIES[0]]["Id"] == sides.org_id
            assert found[QUERIES[0]]["attributes"]["type"] == "Organization"
            definition = found[QUERIES[2]]
            assert definition["ConversationVendorInfo"]["VendorType"] == "BringYourOwnChannelPartner"
            assert definition["ConversationVendorInfo"]["attributes"]["type"] == "ConversationVendorInfo"
            right = found[QUERIES[7]]
            assert (right["PermissionsRead"], right["PermissionsCreate"]) == (True, True)
            user = "SELECT PermissionSetLicense.MasterLabel FROM PermissionSetLicenseAssign WHERE Assignee.Username = '{}'"
            _, answer = await query(sides, token, user.format("byoc@acme.example"))
            assert {row["PermissionSetLicense"]["MasterLabel"] for row in answer["records"]} == {
                "Messaging for In-App and Web User",
                "Messaging User",
                "Partner Messaging User",
                "Service User",
            }
            admins = (
                "SELECT Id FROM PermissionSetAssignment WHERE Assignee.Name = '{}'"
                " AND (PermissionSet.PermissionsCustomizeApplication = true OR PermissionSet.Name IN ('Nothing'))"
            )
            assert (await query(sides, token, admins.format("Ada Admin")))[1]["totalSize"] == 1
            assert (await query(sides, token, admins.format("Marko Babic")))[1]["totalSize"] == 0
            ordered = (await query(sides, token, "SELECT Name FROM User ORDER BY Name DESC LIMIT 2"))[1]["records"]
            assert [row["Name"] for row in ordered] == ["Marko Babic", "Infobip Integration"]
            assert (await query(sides, token, "SELECT COUNT() FROM User"))[1]["totalSize"] == 3

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("soql", "code"),
    [
        ("SELECT Id FROM Nothing", "INVALID_TYPE"),
        ("SELECT ConsumerKey FROM ExternalClientApp", "INVALID_TYPE"),
        ("SELECT ConsumerKey FROM ExtlClntAppOauthConsumer", "INVALID_TYPE"),
        ("SELECT Nothing FROM User", "INVALID_FIELD"),
        ("SELECT Id FROM MessagingChannel WHERE Nothing = 'x'", "INVALID_FIELD"),
        ("SELECT Nothing.Name FROM User", "INVALID_FIELD"),
        ("SELECT Id FROM User WHERE Name = 'O'Brien'", "MALFORMED_QUERY"),
        ("SELECT FROM User", "MALFORMED_QUERY"),
        ("SELECT Id FROM User LIMIT x", "MALFORMED_QUERY"),
        ("", "MALFORMED_QUERY"),
    ],
)
def test_a_query_that_is_not_right_is_refused_in_the_documented_form(soql: str, code: str) -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            token = await (await FreshOrg(sides).be_born()).token()  # without a row that would show what is wrong
            for path in ("query", "tooling/query"):
                status, answer = await query(sides, token, soql, path)
                if code == "INVALID_FIELD" and path == "tooling/query" and "MessagingChannel" in soql:
                    continue  # no object of the Tooling API
                assert (status, [each["errorCode"] for each in answer]) == (400, [code])
                assert answer[0]["message"]

    asyncio.run(scenario())


def test_texts_in_queries_are_unescaped() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            org = await FreshOrg(sides).be_born()
            await org.edit(f"User[Username={REP}].Name", "Pat O'Brien \\ Co")
            assert len(await org.query("SELECT Id FROM User WHERE Name = 'Pat O\\'Brien \\\\ Co'")) == 1

    asyncio.run(scenario())


def test_rights_are_checked_and_calls_are_counted() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            org = await FreshOrg(sides).be_born()
            rep = await org.token(REP)
            for method, path, body in (
                ("GET", "/limits", None),
                ("GET", "/tooling/query?q=SELECT+Id+FROM+FlexiPage", None),
                ("POST", CVI, {"FullName": "Infobip", "Metadata": VENDOR}),
                ("POST", "/sobjects/PermissionSetAssignment", {}),
                ("PATCH", "/sobjects/User/0055g00000XyZab", {"UserPermissionsSupportUser": True}),
            ):
                status, answer = await org.call(method, path, body, token=rep)
                assert (status, answer[0]["errorCode"]) == (403, "INSUFFICIENT_ACCESS"), path
            status, limits = await org.call("GET", "/limits")
            assert status == 200 and set(limits["DailyDeliveredPlatformEvents"]) == {"Max", "Remaining"}
            headers = {"Authorization": f"Bearer {rep}"}
            async with sides.client.get(f"{org.data}/query?q=SELECT+Id+FROM+User", headers=headers) as response:
                assert response.headers["Sforce-Limit-Info"].startswith("api-usage=")
            await org.edit("limits.DailyApiRequests.Remaining", 0)
            status, answer = await org.call("GET", "/limits")
            assert (status, answer[0]["errorCode"]) == (403, "REQUEST_LIMIT_EXCEEDED")
            await org.edit("limits.DailyApiRequests.Remaining", 9)
            await org.edit("Profile[Name=Standard User].PermissionsApiEnabled", False)
            status, answer = await org.call("GET", "/query?q=SELECT+Id+FROM+User", token=rep)
            assert (status, answer[0]["errorCode"]) == (403, "API_CURRENTLY_DISABLED")
            status, answer = await org.call("GET", f"{sides.salesforce}/services/data/v59.0/query?q=SELECT+Id+FROM+User")
            assert (status, answer[0]["errorCode"]) == (404, "NOT_FOUND")

    asyncio.run(scenario())


def test_records_are_created_changed_and_deleted() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            org = await FreshOrg(sides).be_born()
            await org.deploy({EVENT: EVERYTHING[EVENT]})
            scrt = (await org.query("SELECT Id FROM PermissionSet WHERE Name = 'sfdc_scrt2'"))[0]["Id"]
            body = {"ParentId": scrt, "SobjectType": "Infobip_Event__e", "PermissionsRead": True, "PermissionsCreate": True}

            async def refused(path: str, body: dict[str, Any], method: str = "POST") -> tuple[str, list[str]]:
                status, answer = await org.call(method, path, body)
                assert status == 400, answer
                return answer[0]["errorCode"], answer[0].get("fields", [])

            place = "/sobjects/ObjectPermissions"
            assert await refused(place, body | {"SobjectType": "Other__e"}) == (
                "INVALID_CROSS_REFERENCE_KEY",
                ["SobjectType"],
            )
            assert await refused(place, body | {"ParentId": org.id}) == ("INVALID_CROSS_REFERENCE_KEY", ["ParentId"])
            assert (await refused(place, body | {"PermissionsRead": False}))[0] == "FIELD_INTEGRITY_EXCEPTION"
            assert await refused(place, {"ParentId": scrt}) == ("REQUIRED_FIELD_MISSING", ["SobjectType"])
            assert await refused(place, body | {"Nothing": 1}) == ("INVALID_FIELD", ["Nothing"])
            assert (await refused(place, body | {"PermissionsRead": "true"}))[0] == "JSON_PARSER_ERROR"
            status, created = await org.call("POST", place, body)
            assert (status, created["success"], created["errors"]) == (201, True, [])
            assert (await refused(place, body))[0] == "DUPLICATE_VALUE"
            record = f"{place}/{created['id']}"
            assert await org.call("PATCH", record, {"PermissionsCreate": False}) == (204, None)
            status, found = await org.call("GET", record)
            assert (status, found["PermissionsCreate"], found["attributes"]["type"]) == (200, False, "ObjectPermissions")
            assert await org.call("DELETE", record) == (204, None)
            assert (await org.call("GET", record))[0] == 404

            user = (await org.query(f"SELECT Id FROM User WHERE Username = '{INTEGRATION}'"))[0]["Id"]
            await org.call("PATCH", f"/sobjects/User/{user}", {"UserPermissionsSupportUser": True})
            soql = f"SELECT UserPermissionsSupportUser FROM User WHERE Id = '{user}'"
            assert (await org.query(soql))[0]["UserPermissionsSupportUser"] is True
            license_ = (await org.query("SELECT Id FROM PermissionSetLicense WHERE MasterLabel = 'Service User'"))[0]["Id"]
            await org.edit("PermissionSetLicense.TotalLicenses", 0)
            assigned = {"AssigneeId": user, "PermissionSetLicenseId": license_}
            assert (await refused("/sobjects/PermissionSetLicenseAssign", assigned))[0] == "LICENSE_LIMIT_EXCEEDED"
            await org.edit("PermissionSetLicense.TotalLicenses", 1)
            assert (await org.call("POST", "/sobjects/PermissionSetLicenseAssign", assigned))[0] == 201

            status, queue = await org.call("POST", "/sobjects/Group", {"DeveloperName": "Q", "Name": "Q", "Type": "Queue"})
            assert status == 201
            for name, body in (
                ("QueueSobject", {"QueueId": queue["id"], "SobjectType": "MessagingSession"}),
                ("GroupMember", {"GroupId": queue["id"], "UserOrGroupId": user}),
            ):
                assert (await org.call("POST", f"/sobjects/{name}", body))[0] == 201
            assert (await refused("/sobjects/MessagingChannel", {"MasterLabel": "x"}))[0].startswith("CANNOT_INSERT")
            assert (await org.call("POST", "/sobjects/Nothing", {}))[0] == 404

    asyncio.run(scenario())


def test_an_event_is_described_and_published_for_those_who_may() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            org = await FreshOrg(sides).be_born()
            assert (await org.call("GET", "/sobjects/Infobip_Event__e/describe"))[0] == 404
            await org.deploy({key: EVERYTHING[key] for key in EVERYTHING if key[0] in ("CustomObject", "PermissionSet")})
            status, described = await org.call("GET", "/sobjects/Infobip_Event__e/describe")
            fields = {each["name"]: (each["type"], each["length"]) for each in described["fields"]}
            assert (fields["EventType__c"], fields["Payload__c"]) == (("string", 255), ("textarea", 131_072))
            mine = await org.token(INTEGRATION)
            ping = {"EventType__c": "Ping", "Payload__c": "{}"}
            assert (await org.call("POST", "/sobjects/Infobip_Event__e", ping, token=mine))[0] == 404
            assert (await org.call("GET", "/sobjects/Infobip_Event__e/describe", token=mine))[0] == 404
            await org.assign(INTEGRATION, "Infobip_Connector")
            status, published = await org.call("POST", "/sobjects/Infobip_Event__e", ping, token=mine)
            assert (status, published["success"]) == (201, True)
            assert published["errors"][0]["statusCode"] == "OPERATION_ENQUEUED"
            topic = sides.sandbox.world.orgs[org.id].topics["/event/Infobip_Event__e"]
            assert [event.id for event in topic.read(0, 9)] == [published["errors"][0]["message"]]
            status, answer = await org.call("POST", "/sobjects/Infobip_Event__e", {"Other__c": "x"}, token=mine)
            assert (status, answer[0]["errorCode"]) == (400, "INVALID_FIELD")

    asyncio.run(scenario())


async def with_event_and_app(sides: FarSides) -> FreshOrg:
    org = await FreshOrg(sides).be_born()
    wanted = {key: body for key, body in EVERYTHING.items() if not key[0].startswith("Conversation")}
    assert (await org.deploy(wanted))["success"]
    return org


def test_definitions_are_made_by_tooling() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            org = await with_event_and_app(sides)
            status, vendor = await org.call("POST", CVI, {"FullName": "Infobip", "Metadata": VENDOR})
            assert (status, vendor["success"], vendor["id"][:3]) == (201, True, "0m8")
            assert (await org.call("POST", CVI, {"FullName": "Infobip", "Metadata": VENDOR}))[1][0]["errorCode"] == (
                "DUPLICATE_DEVELOPER_NAME"
            )
            body = {"FullName": CONTEXT, "Metadata": CHANNEL_DEFINITION}
            status, definition = await org.call("POST", CCD, body)
            assert (status, definition["id"][:3]) == (201, "11v"), definition
            assert (await org.call("POST", CCD, body))[1][0]["errorCode"] == "DUPLICATE_DEVELOPER_NAME"
            soql = f"SELECT CustomEventTypeField, ConversationVendorInfo.VendorType FROM {CCD.split('/')[3]}"
            row = (await org.query(soql))[0]
            assert (row["CustomEventTypeField"], row["ConversationVendorInfo"]["VendorType"]) == (
                "EventType__c",
                "BringYourOwnChannelPartner",
            )
            whole = await org.query(f"SELECT FullName, Metadata FROM {CCD.split('/')[3]}", tooling=True)
            assert whole[0]["FullName"] == CONTEXT
            assert whole[0]["Metadata"]["customEventTypeField"] == "Infobip_Event__e.EventType__c"
            status, read = await org.call("GET", CCD + definition["id"])
            assert (status, read["Metadata"]["connectedAppType"]) == (200, "Customer")
            changed = {"Metadata": CHANNEL_DEFINITION | {"masterLabel": "Another", "customEventTypeField": "EventType__c"}}
            assert await org.call("PATCH", CCD + definition["id"], changed) == (204, None)
            status, answer = await org.call("DELETE", CVI + vendor["id"])
            assert (status, answer[0]["errorCode"]) == (400, "DELETE_FAILED")
            assert await org.call("DELETE", CCD + definition["id"]) == (204, None)
            assert await org.call("DELETE", CVI + vendor["id"]) == (204, None)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"masterLabel": None}, "REQUIRED_FIELD_MISSING"),
        ({"customEventTypeField": None}, "REQUIRED_FIELD_MISSING"),
        ({"customPlatformEvent": "Other__e"}, "INVALID_CROSS_REFERENCE_KEY"),
        ({"customEventPayloadField": "Infobip_Event__e.Other__c"}, "INVALID_CROSS_REFERENCE_KEY"),
        ({"conversationVendorInfo": "Other"}, "INVALID_CROSS_REFERENCE_KEY"),
        ({"conversationVendorInfo": None, "connectedAppType": "Partner"}, "REQUIRED_FIELD_MISSING"),
        ({"connectedAppType": "Other"}, "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST"),
        ({"routingOwner": "Partner"}, "FIELD_INTEGRITY_EXCEPTION"),
        ({"consentOwner": "Partner"}, "FIELD_INTEGRITY_EXCEPTION"),
        ({"supportsImplicitConsent": False}, "FIELD_INTEGRITY_EXCEPTION"),
        ({"supportsImplicitConsent": None}, "FIELD_INTEGRITY_EXCEPTION"),
        ({"supportsDoubleOptInConsent": True}, "FIELD_INTEGRITY_EXCEPTION"),
        ({"connectedAppOauthLink": "x"}, "FIELD_INTEGRITY_EXCEPTION"),
        ({"developerName": "Other_WhatsApp", "FullName": "Other_WhatsApp"}, "FIELD_INTEGRITY_EXCEPTION"),
        ({"developerName": "Infobip_Other"}, "FIELD_INTEGRITY_EXCEPTION"),  # not the full name
        ({"isInboundReceiptsEnabled": True}, "JSON_PARSER_ERROR"),
        ({"isTypingIndicatorDisabled": True}, "JSON_PARSER_ERROR"),
        ({"supportsKeywords": "true"}, "JSON_PARSER_ERROR"),
    ],
)
def test_a_channel_definition_that_is_not_right_is_refused(changed: dict[str, Any], code: str) -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            org = await with_event_and_app(sides)
            await org.call("POST", CVI, {"FullName": "Infobip", "Metadata": VENDOR})
            name = changed.get("FullName", CONTEXT)
            metadata = {key: value for key, value in (CHANNEL_DEFINITION | changed).items() if key != "FullName"}
            status, answer = await org.call("POST", CCD, {"FullName": name, "Metadata": metadata})
            assert (status, answer[0]["errorCode"]) == (400, code), answer
            assert await org.rows("ConversationChannelDefinition") == []

    asyncio.run(scenario())


def test_a_vendor_beside_an_app_of_the_org_can_be_refused() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            org = await with_event_and_app(sides)
            await org.call("POST", CVI, {"FullName": "Infobip", "Metadata": VENDOR})
            await org.edit("switches.vendor_with_customer_refused", True)
            status, answer = await org.call("POST", CCD, {"FullName": CONTEXT, "Metadata": CHANNEL_DEFINITION})
            assert (status, answer[0]["fields"]) == (400, ["conversationVendorInfo"])
            without = CHANNEL_DEFINITION | {"conversationVendorInfo": None}
            assert (await org.call("POST", CCD, {"FullName": CONTEXT, "Metadata": without}))[0] == 201

    asyncio.run(scenario())


def test_vendors_need_the_add_on_and_a_known_type() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            org = await FreshOrg(sides).be_born()
            body = {"FullName": "Infobip", "Metadata": VENDOR | {"vendorType": "Other"}}
            status, answer = await org.call("POST", CVI, body)
            assert (status, answer[0]["errorCode"]) == (400, "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST")
            status, answer = await org.call("POST", CVI, {"developerName": "Infobip"})
            assert (status, answer[0]["errorCode"]) == (400, "INVALID_FIELD")
            await org.edit("switches.digital_engagement", False)
            status, answer = await org.call("POST", CVI, {"FullName": "Infobip", "Metadata": VENDOR})
            assert (status, answer[0]["errorCode"]) == (403, "INSUFFICIENT_ACCESS")

    asyncio.run(scenario())


def test_access_to_records_is_told() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            token, _, session = await sides.ana_and_the_rep()
            users = {
                row["Name"]: row["Id"] for row in (await query(sides, token, "SELECT Id, Name FROM User"))[1]["records"]
            }
            soql = "SELECT RecordId, HasReadAccess FROM UserRecordAccess WHERE UserId = '{}' AND RecordId = '{}'"
            for name, reads in (("Ada Admin", True), ("Marko Babic", True), ("Infobip Integration", False)):
                _, answer = await query(sides, token, soql.format(users[name], session))
                assert [row["HasReadAccess"] for row in answer["records"]] == [reads], name
            _, answer = await query(sides, token, "SELECT RecordId FROM UserRecordAccess")
            assert answer[0]["errorCode"] == "MALFORMED_QUERY"

    asyncio.run(scenario())


def test_a_flow_is_activated_by_tooling() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            path = f"/control/orgs/{sides.org_id}"
            token = (await sides.control("POST", f"{path}/tokens", {"username": "ada@acme.example"}))["accessToken"]
            await sides.control("PATCH", f"{path}/setup", {"path": "FlowDefinitionView.ActiveVersionId", "value": None})
            soql = (
                "SELECT Id, ActiveVersionId, LatestVersionId FROM FlowDefinition"
                " WHERE DeveloperName = 'Infobip_Route_Session'"
            )
            _, answer = await query(sides, token, soql, "tooling/query")
            flow = answer["records"][0]
            assert flow["ActiveVersionId"] is None
            url = f"{sides.salesforce}/services/data/v67.0/tooling/sobjects/FlowDefinition/{flow['Id']}"
            headers = {"Authorization": f"Bearer {token}"}
            for number, status in ((9, 400), (1, 204)):
                body = {"Metadata": {"activeVersionNumber": number}}
                async with sides.client.patch(url, json=body, headers=headers) as response:
                    assert response.status == status
            _, answer = await query(sides, token, soql, "tooling/query")
            assert answer["records"][0]["ActiveVersionId"] == flow["LatestVersionId"]

    asyncio.run(scenario())


def test_a_token_is_for_its_own_org() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            org = await FreshOrg(sides).be_born()
            assert [row["Username"] for row in await org.query("SELECT Username FROM User WHERE Name = 'Ada Admin'")] == [
                ADA
            ]
            headers = {"Authorization": f"Bearer {await org.token()}", "Host": "other.example"}
            async with sides.client.get(f"{org.data}/limits", headers=headers) as response:
                assert (response.status, (await response.json())[0]["errorCode"]) == (401, "INVALID_SESSION_ID")

    asyncio.run(scenario())
