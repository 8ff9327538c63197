"""REST, Tooling and Metadata APIs: what we ask an org, and what each answer means."""

import json
from collections.abc import Callable
from email import message_from_bytes
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import responses
from responses.matchers import header_matcher, json_params_matcher, query_param_matcher

from connector.http import (
    AddressRefused,
    ApiError,
    AuthenticationFailed,
    CustomerMustAct,
    RateLimited,
    RequestRejected,
    ServiceUnavailable,
)
from connector.salesforce import rest
from connector.salesforce.auth import AccessToken, TokenSource
from connector.salesforce.rest import (
    Deployment,
    Failure,
    Field,
    Limit,
    RestClient,
    Usage,
    is_duplicate,
    soql_text,
    static_token,
)
from tests.connector import CORE, SCRT, Tokens

DATA = f"{CORE}/services/data/v67.0"
EVENT = "Infobip_Event__e"
SET, USER, DEPLOYMENT = "0PS5g000000AbCdEAE", "0055g00000XyZabAAF", "0Af5g00000AbCdEFGH"
DEFINITION = {"developerName": "Infobip_WhatsApp", "masterLabel": "Infobip WhatsApp", "routingOwner": "Salesforce"}

pytestmark = pytest.mark.usefixtures("wire")


@pytest.fixture
def wire() -> Any:
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        yield mock


def knows(mock: responses.RequestsMock, *versions: str) -> None:
    mock.get(
        f"{CORE}/services/data/",
        json=[{"label": "x", "url": f"/services/data/v{each}", "version": each} for each in versions],
    )


@pytest.fixture
def org(wire: responses.RequestsMock) -> responses.RequestsMock:
    """An org that speaks the newest version."""
    knows(wire, "65.0", "66.0", "67.0", "68.0")
    return wire


def client(tokens: TokenSource | None = None, *, base_url: str = CORE, allow_local: bool = False) -> RestClient:
    return RestClient(base_url=base_url, tokens=tokens or Tokens(), allow_local=allow_local)


def found(*records: Any, more: str = "") -> dict[str, Any]:
    return {"totalSize": 9, "done": not more, "records": list(records), **({"nextRecordsUrl": more} if more else {})}


def refusal(code: str, message: str = "Not so.", *fields: str) -> list[dict[str, Any]]:
    return [{"message": message, "errorCode": code, "fields": list(fields)}]


# versions


@pytest.mark.parametrize(
    ("known", "spoken"),
    [
        (("65.0", "66.0", "67.0", "68.0"), "67.0"),
        (("66.0", "67.0"), "67.0"),
        (("65.0", "66.0"), "66.0"),
        (("68.0", "9.0", "100.0"), "67.0"),
    ],
)
def test_the_newest_version_that_both_know_is_spoken(
    wire: responses.RequestsMock, known: tuple[str, ...], spoken: str
) -> None:
    knows(wire, *known)
    wire.get(f"{CORE}/services/data/v{spoken}/limits", json={})
    caller = client()
    caller.limits()
    caller.limits()
    assert caller.version == spoken
    assert [call.request.url for call in wire.calls].count(f"{CORE}/services/data/") == 1
    assert "Authorization" not in wire.calls[0].request.headers


def test_an_org_that_is_too_old_is_named(wire: responses.RequestsMock) -> None:
    knows(wire, "64.0", "65.0")
    with pytest.raises(CustomerMustAct, match=r"version 65\.0 .* 66\.0 \(Spring '26\) is needed"):
        client().limits()


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, [], ServiceUnavailable),
        (200, {}, ServiceUnavailable),
        (200, [{"version": "new"}, {}, 7], ServiceUnavailable),
        (503, {}, ServiceUnavailable),
        (302, {}, CustomerMustAct),
        (404, refusal("URL_NOT_RESET"), RequestRejected),
    ],
)
def test_without_a_version_nothing_is_asked(
    wire: responses.RequestsMock, status: int, body: object, kind: type[ApiError]
) -> None:
    wire.get(f"{CORE}/services/data/", status=status, json=body)
    tokens = Tokens()
    for _ in range(2):  # and what was not found out is asked again
        with pytest.raises(ApiError) as caught:
            client(tokens).limits()
        assert type(caught.value) is kind
    assert len(wire.calls) == 2


# queries


@pytest.mark.parametrize(("method", "path"), [("query", "query"), ("tooling_query", "tooling/query")])
def test_a_query_gives_the_records_of_all_pages(org: responses.RequestsMock, method: str, path: str) -> None:
    soql = "SELECT Id, Name FROM PermissionSet WHERE Name = 'a+b & c'"
    org.get(
        f"{DATA}/{path}",
        json=found({"Id": "1"}, {"Id": "2"}, more=f"/services/data/v67.0/{path}/01g5g000000AbCd-2000"),
        match=[
            query_param_matcher({"q": soql}),
            header_matcher({"Authorization": "Bearer 00D5g00000ABcDE!token0", "Accept": "application/json"}),
        ],
    )
    org.get(
        f"{DATA}/{path}/01g5g000000AbCd-2000",
        json=found({"Id": "3"}),
        match=[header_matcher({"Authorization": "Bearer 00D5g00000ABcDE!token0"})],
    )
    assert getattr(client(), method)(soql) == [{"Id": "1"}, {"Id": "2"}, {"Id": "3"}]


@pytest.mark.parametrize(
    "more",
    [
        *("https://evil.example/query/1", "@evil.example/services/data/v67.0/query/1", "//evil.example/query/1"),
        *("/services/data/v67.0/query/../../../id", "/services/data/v67.0/query/1?x=1", "/services/apexrest/x"),
        *("/services/data/v67.0/sobjects/User", ".evil.example/services/data/v67.0/query/1"),
    ],
)
def test_the_next_page_is_one_of_the_same_host_and_api(org: responses.RequestsMock, more: str) -> None:
    org.get(f"{DATA}/query", json=found({"Id": "1"}, more=more))
    with pytest.raises(ServiceUnavailable, match="cannot be read"):
        client().query("SELECT Id FROM User")
    assert len(org.calls) == 2


def test_pages_have_an_end(org: responses.RequestsMock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "MOST_PAGES", 3)
    more = "/services/data/v67.0/query/01g-2000"
    org.get(f"{DATA}/query", json=found({"Id": "1"}, more=more))
    org.get(f"{CORE}{more}", json=found({"Id": "1"}, more=more))
    with pytest.raises(RequestRejected, match="more than 3 pages"):
        client().query("SELECT Id FROM User")
    assert len(org.calls) == 5


@pytest.mark.parametrize("body", [{}, [], {"records": None}, {"records": "x"}, "text", None])
def test_an_answer_without_records_is_not_an_empty_one(org: responses.RequestsMock, body: object) -> None:
    org.get(f"{DATA}/query", json=body)
    with pytest.raises(ServiceUnavailable, match="cannot be read"):
        client().query("SELECT Id FROM User")
    org.replace(responses.GET, f"{DATA}/query", json=found())
    assert client().query("SELECT Id FROM User") == []


@pytest.mark.parametrize(
    ("value", "literal"),
    [
        ("Infobip_WhatsApp", "'Infobip_WhatsApp'"),
        ("O'Brien", r"'O\'Brien'"),
        ("x' OR Name != '", r"'x\' OR Name != \''"),
        ("ends with \\", r"'ends with \\'"),
        ("\\' OR Name != '", r"'\\\' OR Name != \''"),
        ("two\nlines\r", r"'two\nlines\r'"),
        ("", "''"),
    ],
)
def test_whatever_is_in_a_text_stays_in_its_literal(value: str, literal: str) -> None:
    assert soql_text(value) == literal


# objects and records


def test_an_object_is_described_by_its_fields(org: responses.RequestsMock) -> None:
    fields = [
        {"name": "EventType__c", "type": "string", "length": 255, "label": "EventType"},
        {"name": "Payload__c", "type": "textarea", "length": 32768},
        {"name": "CreatedDate", "type": "datetime", "length": 0},
    ]
    org.get(f"{DATA}/sobjects/{EVENT}/describe", json={"name": EVENT, "fields": fields})
    assert client().describe(EVENT) == [
        Field("EventType__c", "string", 255),
        Field("Payload__c", "textarea", 32768),
        Field("CreatedDate", "datetime", 0),
    ]


def test_an_object_that_is_not_there_is_none_and_no_error(org: responses.RequestsMock) -> None:
    body = refusal("NOT_FOUND", "The requested resource does not exist")
    org.get(f"{DATA}/sobjects/{EVENT}/describe", status=404, json=body)
    assert client().describe(EVENT) is None


@pytest.mark.parametrize(("status", "body"), [(200, {}), (200, {"fields": {}}), (400, refusal("INVALID_TYPE")), (500, {})])
def test_what_is_not_said_to_be_missing_may_be_there(org: responses.RequestsMock, status: int, body: object) -> None:
    org.get(f"{DATA}/sobjects/{EVENT}/describe", status=status, json=body)
    with pytest.raises(ApiError):
        client().describe(EVENT)


def test_a_description_of_several_megabytes_is_read() -> None:
    assert client().largest_answer == 8 << 20


def test_a_record_is_created(org: responses.RequestsMock) -> None:
    fields = {"ParentId": SET, "SobjectType": EVENT, "PermissionsRead": True, "PermissionsCreate": True}
    org.post(
        f"{DATA}/sobjects/ObjectPermissions",
        status=201,
        json={"id": "1105g000000AbCdAAI", "success": True, "errors": []},
        match=[json_params_matcher(fields), header_matcher({"Content-Type": "application/json"})],
    )
    assert client().create("ObjectPermissions", fields) == "1105g000000AbCdAAI"


def test_a_record_is_changed(org: responses.RequestsMock) -> None:
    org.patch(f"{DATA}/sobjects/User/{USER}", status=204, match=[json_params_matcher({"UserPermissionsSupportUser": True})])
    client().update("User", USER, {"UserPermissionsSupportUser": True})
    assert len(org.calls) == 2


def test_a_piece_of_set_up_is_created_with_its_metadata(org: responses.RequestsMock) -> None:
    org.post(
        f"{DATA}/tooling/sobjects/ConversationChannelDefinition",
        status=201,
        json={"id": "11v5g0000004DeFAAU", "success": True, "errors": [], "warnings": [], "infos": []},
        match=[json_params_matcher({"FullName": "Infobip_WhatsApp", "Metadata": DEFINITION})],
    )
    created = client().create_tooling("ConversationChannelDefinition", "Infobip_WhatsApp", DEFINITION)
    assert created == "11v5g0000004DeFAAU"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, refusal("DUPLICATE_DEVELOPER_NAME", "The developer name is in use.")),
        (400, refusal("DUPLICATE_VALUE", "duplicate value found")),
        (201, {"id": None, "success": False, "errors": [{"statusCode": "DUPLICATE_VALUE", "message": "x", "fields": []}]}),
    ],
)
def test_what_is_there_already_is_recognised(org: responses.RequestsMock, status: int, body: object) -> None:
    org.post(f"{DATA}/tooling/sobjects/ConversationVendorInfo", status=status, json=body)
    with pytest.raises(RequestRejected) as caught:
        client().create_tooling("ConversationVendorInfo", "Infobip", {})
    assert is_duplicate(caught.value)


def test_nothing_else_is_taken_for_a_duplicate() -> None:
    for code in ("", "INVALID_FIELD", "DUPLICATES_DETECTED"):
        assert not is_duplicate(RequestRejected("x", "x", code=code))


@pytest.mark.parametrize("body", [{}, [], {"success": True}, {"id": "x", "success": True}, {"id": 7, "success": True}])
def test_a_creation_without_an_id_is_in_doubt(org: responses.RequestsMock, body: object) -> None:
    org.post(f"{DATA}/sobjects/GroupMember", status=201, json=body)
    with pytest.raises(ServiceUnavailable) as caught:
        client().create("GroupMember", {})
    assert caught.value.in_doubt


def test_an_event_is_published_and_known_by_its_own_id(org: responses.RequestsMock) -> None:
    # https://developer.salesforce.com/docs/atlas.en-us.platform_events.meta/platform_events/platform_events_publish_api.htm
    queued = {"statusCode": "OPERATION_ENQUEUED", "message": "232fd30e-0a71-42bd-a97b-be0e329b2ded", "fields": []}
    fields = {"EventType__c": "Ping", "Payload__c": "{}"}
    org.post(
        f"{DATA}/sobjects/{EVENT}",
        status=201,
        json={"id": "e01xx0000000001AAA", "success": True, "errors": [queued]},
        match=[json_params_matcher(fields)],
    )
    assert client().publish_event(EVENT, fields) == "232fd30e-0a71-42bd-a97b-be0e329b2ded"


def test_an_event_without_an_id_of_its_own_is_published_all_the_same(org: responses.RequestsMock) -> None:
    org.post(f"{DATA}/sobjects/{EVENT}", status=201, json={"id": "e01xx0000000001AAA", "success": True, "errors": []})
    assert client().publish_event(EVENT, {}) == ""


def test_an_event_that_was_not_published_is_an_error(org: responses.RequestsMock) -> None:
    failed = {"statusCode": "PLATFORM_EVENT_PUBLISHING_UNAVAILABLE", "message": "Try again later.", "fields": []}
    org.post(f"{DATA}/sobjects/{EVENT}", status=201, json={"id": None, "success": False, "errors": [failed]})
    with pytest.raises(ServiceUnavailable, match="Try again later"):
        client().publish_event(EVENT, {})


@pytest.mark.parametrize("name", ["", "User/005", "../limits", "User?x", "User ", "Us\ner", "Ü__c", "1User", "a" * 256])
def test_what_cannot_name_an_object_goes_into_no_address(org: responses.RequestsMock, name: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: client().describe(name),
        lambda: client().create(name, {}),
        lambda: client().update(name, USER, {}),
        lambda: client().create_tooling(name, "x", {}),
        lambda: client().publish_event(name, {}),
    ]
    for call in calls:
        with pytest.raises(RequestRejected, match="cannot be the name"):
            call()
    assert not org.calls


@pytest.mark.parametrize(
    "record_id", ["", "005", "../../limits/xx", "0055g00000XyZabAAF?x", "0055g00000XyZabAA", "\u0660" * 18]
)
def test_what_cannot_be_an_id_goes_into_no_address(org: responses.RequestsMock, record_id: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: client().update("User", record_id, {}),
        lambda: client().deploy_status(record_id),
        lambda: client().cancel_deploy(record_id),
    ]
    for call in calls:
        with pytest.raises(RequestRejected, match="cannot be an id"):
            call()
    assert not org.calls


def test_limits_are_given_by_name(org: responses.RequestsMock) -> None:
    org.get(
        f"{DATA}/limits",
        json={
            "DailyApiRequests": {"Max": 15000, "Remaining": 14998, "Ant Migration Tool": {"Max": 0, "Remaining": 0}},
            "HourlyPublishedPlatformEvents": {"Max": 50000, "Remaining": 49999},
            "Strange": 7,
        },
    )
    assert client().limits() == {
        "DailyApiRequests": Limit(15000, 14998),
        "HourlyPublishedPlatformEvents": Limit(50000, 49999),
    }


# deployments


@pytest.mark.parametrize("check_only", [True, False])
def test_a_package_is_deployed_as_two_parts(org: responses.RequestsMock, check_only: bool) -> None:
    org.post(f"{DATA}/metadata/deployRequest", status=201, json={"id": DEPLOYMENT, "validatedDeployRequestId": None})
    package = b"PK\x03\x04\r\n--\xff\x00"
    assert client().deploy(package, check_only=check_only) == DEPLOYMENT
    request: Any = org.calls[1].request
    whole = b"Content-Type: " + request.headers["Content-Type"].encode() + b"\r\n\r\n" + request.body
    parts: Any = message_from_bytes(whole).get_payload()
    options, file = parts
    assert [part.get_param("name", header="Content-Disposition") for part in parts] == ["json", "file"]
    assert [part.get_content_type() for part in parts] == ["application/json", "application/zip"]
    assert file.get_filename() == "deploy.zip"
    assert file.get_payload(decode=True) == package
    assert json.loads(options.get_payload(decode=True)) == {
        "deployOptions": {
            "allowMissingFiles": False,
            "autoUpdatePackage": False,
            "checkOnly": check_only,
            "ignoreWarnings": True,
            "performRetrieve": False,
            "purgeOnDelete": False,
            "rollbackOnError": True,
            "runTests": [],
            "singlePackage": True,
            "testLevel": "NoTestRun",
        }
    }


def status_of(org: responses.RequestsMock, result: object) -> Deployment:
    org.get(
        f"{DATA}/metadata/deployRequest/{DEPLOYMENT}",
        json={"id": DEPLOYMENT, "deployResult": result},
        match=[query_param_matcher({"includeDetails": "true"})],
    )
    return client().deploy_status(DEPLOYMENT)


def test_a_deployment_under_way_says_how_far_it_is(org: responses.RequestsMock) -> None:
    result = {
        "status": "InProgress",
        "done": False,
        "success": False,
        "numberComponentsTotal": 14,
        "numberComponentsDeployed": 5,
        "stateDetail": "Processing Type: PermissionSet",
        "errorMessage": None,
        "details": {"componentFailures": [], "componentSuccesses": [{"fullName": EVENT}]},
    }
    assert status_of(org, result) == Deployment("InProgress", False, False, 14, 5, "Processing Type: PermissionSet", [], "")


def test_a_deployment_that_failed_names_each_fault_but_no_warning(org: responses.RequestsMock) -> None:
    failures = [
        {
            "componentType": "PermissionSet",
            "fullName": "Infobip_Connector",
            "problem": "In field: object - no CustomObject named Infobip_Event__e found",
            "problemType": "Error",
            "lineNumber": 12,
        },
        {"componentType": "Flow", "fullName": "Infobip_Route", "problem": "x", "problemType": "Error", "lineNumber": "7"},
        {"componentType": "Queue", "fullName": "Infobip", "problem": None, "problemType": "Error", "lineNumber": None},
        {"componentType": "AuraDefinitionBundle", "fullName": "x", "problem": "old", "problemType": "Warning"},
    ]
    result = {
        "status": "Failed",
        "done": True,
        "success": False,
        "numberComponentsTotal": 3,
        "numberComponentsDeployed": 0,
        "details": {"componentFailures": failures},
    }
    deployment = status_of(org, result)
    assert (deployment.done, deployment.success) == (True, False)
    assert deployment.failures == [
        Failure(
            "PermissionSet", "Infobip_Connector", "In field: object - no CustomObject named Infobip_Event__e found", 12
        ),
        Failure("Flow", "Infobip_Route", "x", 7),
        Failure("Queue", "Infobip", "no reason given", None),
    ]


def test_a_deployment_may_fail_as_a_whole_and_tell_numbers_as_texts(org: responses.RequestsMock) -> None:
    # as in https://developer.salesforce.com/docs/atlas.en-us.api_meta.meta/api_meta/meta_rest_deploy_cancel.htm
    result = {
        "status": "Failed",
        "done": "true",
        "success": "false",
        "numberComponentsTotal": "1032",
        "numberComponentsDeployed": "10",
        "errorMessage": "UNKNOWN_EXCEPTION: An unexpected error occurred.",
        "details": {"componentFailures": {"componentType": "Flow", "fullName": "x", "problem": "y"}},
    }
    assert status_of(org, result) == Deployment(
        *("Failed", True, False, 1032, 10, ""),
        [Failure("Flow", "x", "y", None)],
        "UNKNOWN_EXCEPTION: An unexpected error occurred.",
    )


@pytest.mark.parametrize("result", [None, [], {}, {"status": 7}])
def test_a_deployment_without_a_status_is_asked_for_again(org: responses.RequestsMock, result: object) -> None:
    with pytest.raises(ServiceUnavailable, match="cannot be read"):
        status_of(org, result)


def test_a_deployment_is_cancelled(org: responses.RequestsMock) -> None:
    org.patch(
        f"{DATA}/metadata/deployRequest/{DEPLOYMENT}",
        status=202,
        json={"id": DEPLOYMENT, "deployResult": {"status": "Canceling"}},
        match=[json_params_matcher({"deployResult": {"status": "Canceling"}})],
    )
    client().cancel_deploy(DEPLOYMENT)
    assert len(org.calls) == 2


# errors


@pytest.mark.parametrize(
    ("status", "code", "kind", "in_doubt"),
    [
        *((400, code, RequestRejected, False) for code in ("MALFORMED_QUERY", "INVALID_FIELD", "REQUIRED_FIELD_MISSING")),
        *((400, code, RequestRejected, False) for code in ("DUPLICATE_VALUE", "JSON_PARSER_ERROR", "INVALID_TYPE")),
        (400, "", RequestRejected, False),
        (404, "NOT_FOUND", RequestRejected, False),
        (405, "METHOD_NOT_ALLOWED", RequestRejected, False),
        (415, "UNSUPPORTED_MEDIA_TYPE", RequestRejected, False),
        (401, "INVALID_SESSION_ID", AuthenticationFailed, False),
        (401, "", AuthenticationFailed, False),
        (401, "INVALID_AUTH_HEADER", CustomerMustAct, False),
        (403, "INSUFFICIENT_ACCESS", CustomerMustAct, False),
        (400, "INSUFFICIENT_ACCESS_OR_READONLY", CustomerMustAct, False),
        (400, "INSUFFICIENT_ACCESS_ON_CROSS_REFERENCE_ENTITY", CustomerMustAct, False),
        (403, "API_DISABLED_FOR_ORG", CustomerMustAct, False),
        (403, "API_CURRENTLY_DISABLED", CustomerMustAct, False),
        (403, "FUNCTIONALITY_NOT_ENABLED", CustomerMustAct, False),
        (403, "", CustomerMustAct, False),
        (302, "", CustomerMustAct, False),
        (403, "REQUEST_LIMIT_EXCEEDED", RateLimited, False),
        (429, "", RateLimited, False),
        (400, "UNABLE_TO_LOCK_ROW", ServiceUnavailable, False),
        (400, "QUERY_TIMEOUT", ServiceUnavailable, False),
        (500, "UNKNOWN_EXCEPTION", ServiceUnavailable, True),
        (502, "", ServiceUnavailable, True),
        (503, "SERVER_UNAVAILABLE", ServiceUnavailable, False),
    ],
)
def test_each_error_is_of_its_kind(
    org: responses.RequestsMock, status: int, code: str, kind: type[ApiError], in_doubt: bool
) -> None:
    org.post(f"{DATA}/sobjects/GroupMember", status=status, json=refusal(code) if code else {})
    with pytest.raises(ApiError) as caught:
        client(static_token(AccessToken("secret", CORE))).create("GroupMember", {"UserOrGroupId": USER})
    error = caught.value
    assert type(error) is kind
    assert error.code == code
    assert error.in_doubt == in_doubt
    assert error.retry_after == (900 if kind is RateLimited else None)


def test_an_error_says_what_is_wrong_and_where_but_no_token(org: responses.RequestsMock) -> None:
    body = refusal("INVALID_FIELD", f"No such column 'Foo__c' {'x' * 5000}", "Foo__c", "Bar__c")
    org.post(f"{DATA}/sobjects/GroupMember", status=400, json=body)
    with pytest.raises(RequestRejected, match=r"No such column 'Foo__c' .* \(Foo__c, Bar__c\)") as caught:
        client().create("GroupMember", {"Foo__c": "a private matter"})
    assert len(str(caught.value)) < 500
    assert "token0" not in str(caught.value)
    assert "private" not in str(caught.value)


@pytest.mark.parametrize("body", ["<html>Down for maintenance</html>", "", "[]", "[7]", "null", '[{"errorCode": 7}]'])
def test_a_page_in_place_of_an_error_is_judged_by_its_status(org: responses.RequestsMock, body: str) -> None:
    org.get(f"{DATA}/limits", status=503, body=body)
    with pytest.raises(ServiceUnavailable, match="refused without a reason"):
        client().limits()


# tokens


EXPIRED = refusal("INVALID_SESSION_ID", "Session expired or invalid")


def test_a_refused_token_is_renewed_once_and_the_call_repeated(org: responses.RequestsMock) -> None:
    tokens = Tokens()
    org.post(f"{DATA}/sobjects/GroupMember", status=401, json=EXPIRED)
    org.post(f"{DATA}/sobjects/GroupMember", status=201, json={"id": USER, "success": True, "errors": []})
    assert client(tokens).create("GroupMember", {"a": 1}) == USER
    assert [token.value for token in tokens.refused] == ["00D5g00000ABcDE!token0"]
    first, second = org.calls[1].request, org.calls[2].request
    assert second.headers["Authorization"] == "Bearer 00D5g00000ABcDE!token1"
    assert first.body == second.body


def test_a_token_that_is_refused_again_is_given_up(org: responses.RequestsMock) -> None:
    tokens = Tokens()
    org.get(f"{DATA}/limits", status=401, json=EXPIRED)
    with pytest.raises(AuthenticationFailed) as caught:
        client(tokens).limits()
    assert caught.value.description == "Session expired or invalid"
    assert tokens.renewals == 1
    assert len(org.calls) == 3


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (401, refusal("INVALID_SESSION_ID", "This session is not valid for use with the REST API")),
        (403, refusal("INVALID_SESSION_ID", "This Session is not valid for use with the REST API")),
        (401, refusal("INVALID_AUTH_HEADER")),
        (401, {}),
        (403, refusal("INSUFFICIENT_ACCESS")),
        (400, refusal("INVALID_FIELD")),
        (403, refusal("REQUEST_LIMIT_EXCEEDED")),
        (500, refusal("UNKNOWN_EXCEPTION")),
    ],
)
def test_no_other_refusal_costs_a_login(org: responses.RequestsMock, status: int, body: object) -> None:
    tokens = Tokens()
    org.get(f"{DATA}/limits", status=status, json=body)
    with pytest.raises(ApiError):
        client(tokens).limits()
    assert tokens.renewals == 0
    assert len(org.calls) == 2


def test_the_token_of_a_person_is_never_renewed(org: responses.RequestsMock) -> None:
    org.get(f"{DATA}/limits", status=401, json=EXPIRED)
    with pytest.raises(AuthenticationFailed, match="sign in again"):
        client(static_token(AccessToken("secret", CORE))).limits()
    assert len(org.calls) == 2
    assert org.calls[1].request.headers["Authorization"] == "Bearer secret"


@pytest.mark.parametrize("base_url", ["https://evil.example", SCRT, "http://127.0.0.1:1", "http://acme.my.salesforce.com"])
def test_a_client_is_not_built_for_another_host(base_url: str) -> None:
    with pytest.raises(AddressRefused):
        client(base_url=base_url)
    assert client(base_url="http://127.0.0.1:1", allow_local=True).base_url == "http://127.0.0.1:1"


# how much an org has used


@pytest.mark.parametrize(
    ("header", "usage"),
    [
        ("api-usage=18/5000", Usage(18, 5000)),
        ("api-usage=25/5000; per-app-api-usage=17/250(appName=infobip)", Usage(25, 5000)),
        ("per-app-api-usage=17/250(appName=infobip)", None),
        ("api-usage=many", None),
        ("", None),
    ],
)
def test_each_answer_says_how_many_calls_the_org_has_used(
    org: responses.RequestsMock, header: str, usage: Usage | None
) -> None:
    org.get(f"{DATA}/limits", json={}, headers={"Sforce-Limit-Info": header})
    caller = client()
    assert caller.api_usage is None
    caller.limits()
    assert caller.api_usage == usage


def test_a_refusal_says_it_too_and_silence_changes_nothing(org: responses.RequestsMock) -> None:
    org.get(
        f"{DATA}/limits",
        status=403,
        json=refusal("REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded."),
        headers={"Sforce-Limit-Info": "api-usage=5001/5000"},
    )
    org.get(f"{DATA}/query", json=found())
    caller = client()
    with pytest.raises(RateLimited, match="TotalRequests"):
        caller.limits()
    caller.query("SELECT Id FROM User")
    assert caller.api_usage == Usage(5001, 5000)
    (query,) = parse_qs(urlsplit(str(org.calls[2].request.url)).query)["q"]
    assert query == "SELECT Id FROM User"
