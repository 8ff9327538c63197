"""The Interaction Service: what we send, and what each answer means for the message."""

import json
from collections.abc import Callable
from email import message_from_bytes
from typing import Any
from uuid import UUID

import pytest
import requests
import responses

from connector.http import (
    AddressRefused,
    ApiError,
    AuthenticationFailed,
    CustomerMustAct,
    RateLimited,
    RequestRejected,
    ServiceUnavailable,
)
from connector.salesforce import interactions
from connector.salesforce.interactions import Delivered
from tests.connector import (
    ACKNOWLEDGEMENT_URL,
    CHANNEL,
    CONTEXT,
    CONVERSATION,
    CONVERSATION_URL,
    CORE,
    END_USER,
    ENTRY,
    INTERACTIONS_URL,
    TICK,
    Tokens,
    acknowledge,
    establish,
    interaction_client,
    send_to_salesforce,
)
from tests.payloads import load

ACCEPTED = load("salesforce/answers/interaction_accepted")["body"]


def posted(call: int = 0) -> Any:
    """Read the JSON part of an interaction that was sent."""
    request: Any = responses.calls[call].request
    whole = b"Content-Type: " + request.headers["Content-Type"].encode() + b"\r\n\r\n" + request.body
    parts: Any = message_from_bytes(whole).get_payload()
    (part,) = parts
    assert part.get_param("name", header="Content-Disposition") == "json"
    assert part.get_content_type() == "application/json"
    return json.loads(part.get_payload(decode=True))


def refusal(status: int, body: object, headers: dict[str, str] | None = None) -> ApiError:
    """Send a text that is answered so, and give what is raised."""
    responses.post(INTERACTIONS_URL, status=status, json=body, headers=headers)
    with pytest.raises(ApiError) as caught:
        send_to_salesforce()
    return caught.value


@responses.activate
def test_a_text_is_sent_as_recorded() -> None:
    responses.post(INTERACTIONS_URL, status=202, json=ACCEPTED)
    assert send_to_salesforce() == Delivered(CONVERSATION, "0Mw5g000000AbCdCAK")
    assert posted() == load("salesforce/requests/interaction")


@responses.activate
@pytest.mark.parametrize("status", [200, 201, 202])
def test_a_conversation_is_opened_as_recorded(status: int) -> None:
    answer = {"conversationIdentifier": CONVERSATION, "messagingSessionId": "0Mw5g000000AbCdCAK", "success": True}
    responses.post(CONVERSATION_URL, status=status, json=answer)
    assert establish(newEndUserName="Ana Horvat") == Delivered(CONVERSATION, "0Mw5g000000AbCdCAK")
    request = responses.calls[0].request
    assert json.loads(request.body or "") == load("salesforce/requests/establish")
    assert request.headers["Content-Type"] == "application/json"
    assert (request.headers["OrgId"], request.headers["AuthorizationContext"]) == ("00D5g00000ABcDE", CONTEXT)


@responses.activate
def test_a_conversation_is_opened_without_attributes() -> None:
    responses.post(CONVERSATION_URL, status=202, json={"success": True})
    assert establish() == Delivered("", "")
    assert "routingAttributes" not in json.loads(responses.calls[0].request.body or "")


@responses.activate
@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, 10055, ServiceUnavailable),
        (400, 10056, ServiceUnavailable),
        (400, 10052, CustomerMustAct),
        (400, 10096, RequestRejected),
        (503, None, ServiceUnavailable),
    ],
)
def test_a_conversation_that_is_refused_says_whether_to_try_again(
    status: int, code: int | None, kind: type[ApiError]
) -> None:
    responses.post(CONVERSATION_URL, status=status, json={"message": "No.", "code": code})
    with pytest.raises(kind) as caught:
        establish()
    assert type(caught.value) is kind


@responses.activate
def test_an_acknowledgement_is_sent_as_recorded() -> None:
    responses.post(ACKNOWLEDGEMENT_URL, json={"success": True})
    acknowledge(count=1)
    assert json.loads(responses.calls[0].request.body or "") == load("salesforce/requests/acknowledgement")


@responses.activate
def test_delivered_and_read_go_in_one_call_in_order() -> None:
    responses.post(ACKNOWLEDGEMENT_URL, json={"success": True})
    acknowledge(count=3)
    body = json.loads(responses.calls[0].request.body or "")
    assert [each["acknowledgementType"] for each in body["acknowledgements"]] == ["Delivered", "Read", "Delivered"]


@responses.activate
def test_a_failed_delivery_is_reported_as_an_entry_of_its_own() -> None:
    responses.post(INTERACTIONS_URL, status=202, json=ACCEPTED)
    interaction_client().report_failure(
        context=CONTEXT,
        channel_address=CHANNEL,
        end_user=END_USER,
        entry=ENTRY,
        code="EC_NO_SESSION",
        reason="No session",
        report_uuid=TICK,
    )
    body = posted()
    assert (body["to"], body["from"]) == (CHANNEL, END_USER)
    assert body["interactions"][0]["payload"] == {
        "id": str(TICK),
        "entryType": "MessageDeliveryFailed",
        "failedConversationEntryIdentifier": ENTRY,
        "recipient": {"appType": "custom", "subject": END_USER, "role": "EndUser"},
        "errorCode": "EC_NO_SESSION",
        "errorMessage": "No session",
    }


@responses.activate
@pytest.mark.parametrize("org_id", ["00D5g00000ABcDE", "00D5g00000ABcDEEA1"])
def test_the_headers_carry_the_short_org_id_and_a_fresh_request_id(org_id: str) -> None:
    responses.post(INTERACTIONS_URL, status=202, json=ACCEPTED)
    client = interaction_client(org_id=org_id)
    send_to_salesforce(client)
    send_to_salesforce(client)
    first, second = (call.request.headers for call in responses.calls)
    assert first["Authorization"] == "Bearer 00D5g00000ABcDE!token0"
    assert first["OrgId"] == "00D5g00000ABcDE"
    assert first["AuthorizationContext"] == CONTEXT
    assert UUID(first["RequestId"]) != UUID(second["RequestId"])


@responses.activate
@pytest.mark.parametrize(
    ("body", "delivered"),
    [
        ({"success": True}, Delivered("", "")),
        ({"success": True, "conversationIdentifier": CONVERSATION}, Delivered(CONVERSATION, "")),
        ({"success": True, "workItemIds": []}, Delivered("", "")),
        ({"success": True, "workItemIds": [None], "conversationIdentifier": 7}, Delivered("", "")),
        ({"success": True, "workItemIds": "0Mw"}, Delivered("", "")),
        ({"conversationIdentifier": CONVERSATION}, Delivered(CONVERSATION, "")),  # the schema promises no field
    ],
)
def test_what_salesforce_does_not_say_is_empty(body: dict[str, Any], delivered: Delivered) -> None:
    responses.post(INTERACTIONS_URL, status=202, json=body)
    assert send_to_salesforce() == delivered


def report_failure() -> None:
    interaction_client().report_failure(
        context=CONTEXT, channel_address=CHANNEL, end_user=END_USER, entry=ENTRY, code="X", reason="x", report_uuid=TICK
    )


NOTHING = [
    "",
    "null",
    "[]",
    "{}",
    "7",
    "<html>Welcome</html>",
    '{"success": tr',
    '{"success": "true"}',
    '{"success": null}',
]


@responses.activate
@pytest.mark.parametrize("body", NOTHING)
@pytest.mark.parametrize("status", [200, 201, 202])
@pytest.mark.parametrize(
    ("url", "call"),
    [
        (INTERACTIONS_URL, send_to_salesforce),
        (INTERACTIONS_URL, report_failure),
        (ACKNOWLEDGEMENT_URL, acknowledge),
        (CONVERSATION_URL, establish),
    ],
)
def test_an_answer_of_success_that_says_nothing_of_the_request_is_in_doubt(
    url: str, call: Callable[[], object], status: int, body: str
) -> None:
    responses.post(url, status=status, body=body)
    with pytest.raises(ServiceUnavailable) as caught:
        call()
    assert (type(caught.value), caught.value.in_doubt, caught.value.status) == (ServiceUnavailable, True, status)
    assert caught.value.request_id


@responses.activate
def test_a_conversation_is_no_proof_of_acknowledgements() -> None:
    responses.post(ACKNOWLEDGEMENT_URL, json={"conversationIdentifier": CONVERSATION})
    with pytest.raises(ServiceUnavailable) as caught:
        acknowledge()
    assert caught.value.in_doubt


CUSTOMER = CustomerMustAct
BY_CODE: dict[int, type[ApiError]] = {
    **dict.fromkeys((500, 10019, 10055, 10056, 10094, 20002, 20004), ServiceUnavailable),
    **dict.fromkeys((10001, 10002, 10003, 10005, 10006, 10016, 10017, 10025, 10026, 10031, 10035, 10052), CUSTOMER),
    **dict.fromkeys((10069, 10070, 10093, 10099, 15102, 15105), CUSTOMER),
    **dict.fromkeys((10007, 10008, 10009, 10010, 10011, 10027, 10028, 10029, 10045, 10047, 10048), RequestRejected),
    **dict.fromkeys((10049, 10050, 10051, 10059, 10060, 10062, 10073, 10095, 10096, 19999), RequestRejected),
    10004: AuthenticationFailed,
}


@responses.activate
@pytest.mark.parametrize("code", BY_CODE)
@pytest.mark.parametrize("status", [200, 400, 403])
def test_the_code_in_the_body_decides_before_the_status(code: int, status: int) -> None:
    error = refusal(status, {"success": False, "errorDetail": {"message": "Not so.", "code": code}})
    assert type(error) is BY_CODE[code]
    assert (error.code, error.status, error.message) == (str(code), status, "Not so.")
    assert error.in_doubt == (type(error) is ServiceUnavailable)
    assert error.retryable == (type(error) is not RequestRejected)


@responses.activate
@pytest.mark.parametrize(
    ("status", "body", "kind", "in_doubt"),
    [
        (200, {"success": False}, ServiceUnavailable, True),
        (202, {"success": False}, ServiceUnavailable, True),
        (202, {"success": "false"}, ServiceUnavailable, True),
        (202, {"success": None}, ServiceUnavailable, True),
        (400, load("salesforce/answers/error_without_code")["body"], RequestRejected, False),
        (400, {}, RequestRejected, False),
        (413, {}, RequestRejected, False),
        (415, {}, RequestRejected, False),
        (401, {}, AuthenticationFailed, False),
        (403, {}, AuthenticationFailed, False),
        (404, {}, CustomerMustAct, False),
        (302, {}, CustomerMustAct, False),
        (429, {}, RateLimited, False),
        (400, {"message": "Interaction request rate limit exceeded", "code": 10060}, RateLimited, False),
        (500, {}, ServiceUnavailable, True),
        (502, {}, ServiceUnavailable, True),
        (503, {}, ServiceUnavailable, False),  # says that it was not taken
        (504, {}, ServiceUnavailable, True),
        (500, {"message": "x", "code": 10060}, ServiceUnavailable, True),  # a 5xx may pass, whatever it carries
        (500, {"message": "x", "code": 10016}, CustomerMustAct, False),
        (400, {"message": None, "code": "10016"}, CustomerMustAct, False),
        (400, {"message": [], "code": []}, RequestRejected, False),
        (400, [{"message": "x", "errorCode": "APEX"}], RequestRejected, False),
    ],
)
def test_an_answer_without_a_telling_code_is_judged_by_its_status(
    status: int, body: object, kind: type[ApiError], in_doubt: bool
) -> None:
    error = refusal(status, body)
    assert type(error) is kind
    assert error.in_doubt == in_doubt


@responses.activate
def test_a_page_in_place_of_json_is_no_success_of_an_error() -> None:
    responses.post(INTERACTIONS_URL, status=500, body="<html>Error</html>")
    with pytest.raises(ServiceUnavailable) as caught:
        send_to_salesforce()
    assert caught.value.in_doubt


@responses.activate
@pytest.mark.parametrize("name", ["error_token_not_valid", "error_session_expired"])
def test_a_refused_token_is_renewed_once_and_the_call_repeated(name: str) -> None:
    recorded, tokens = load(f"salesforce/answers/{name}"), Tokens()
    responses.post(INTERACTIONS_URL, status=recorded["status"], json=recorded["body"])
    responses.post(INTERACTIONS_URL, status=202, json=ACCEPTED)
    assert send_to_salesforce(interaction_client(tokens)).session
    assert [token.value for token in tokens.refused] == ["00D5g00000ABcDE!token0"]
    assert responses.calls[1].request.headers["Authorization"] == "Bearer 00D5g00000ABcDE!token1"
    assert posted(0) == posted(1)  # the ids above all: Salesforce may have taken the first
    assert responses.calls[0].request.headers["RequestId"] != responses.calls[1].request.headers["RequestId"]


@responses.activate
def test_a_token_that_is_refused_again_is_given_up() -> None:
    tokens = Tokens()
    responses.post(INTERACTIONS_URL, status=401, json={"message": "no", "code": 10004})
    with pytest.raises(AuthenticationFailed):
        send_to_salesforce(interaction_client(tokens))
    assert tokens.renewals == 1
    assert len(responses.calls) == 2


@responses.activate
@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
def test_no_other_refusal_costs_a_login(status: int) -> None:
    tokens = Tokens()
    responses.post(INTERACTIONS_URL, status=status, json={})
    with pytest.raises(ApiError):
        send_to_salesforce(interaction_client(tokens))
    assert tokens.renewals == 0
    assert len(responses.calls) == 1


@responses.activate
def test_a_refusal_says_how_long_to_wait_and_which_request_it_was() -> None:
    error = refusal(429, {"message": "x", "code": 1}, headers={"Retry-After": "7"})
    request_id = responses.calls[0].request.headers["RequestId"]
    assert (error.retry_after, error.request_id) == (7.0, request_id)
    assert request_id in str(error)


@responses.activate
def test_an_error_shows_neither_token_nor_text() -> None:
    responses.post(INTERACTIONS_URL, status=400, json={"message": "m" * 5000, "code": 10045})
    with pytest.raises(RequestRejected) as caught:
        send_to_salesforce(text="a private matter")
    assert "token0" not in str(caught.value)
    assert "private" not in str(caught.value)
    assert len(str(caught.value)) < 400


@responses.activate
@pytest.mark.parametrize(
    ("failure", "in_doubt"),
    [
        (requests.ConnectTimeout("slow"), False),
        (requests.exceptions.SSLError("bad record"), True),  # a certificate is looked at while connecting
        (requests.ReadTimeout("slow"), True),
        (requests.ConnectionError("reset by peer"), True),
        (requests.exceptions.ChunkedEncodingError("broken"), True),
    ],
)
def test_a_call_without_an_answer_is_in_doubt_unless_it_never_left(failure: Exception, in_doubt: bool) -> None:
    responses.post(INTERACTIONS_URL, body=failure)
    with pytest.raises(ServiceUnavailable) as caught:
        send_to_salesforce()
    assert caught.value.in_doubt == in_doubt


@pytest.mark.parametrize("scrt_url", ["https://evil.example", CORE, "http://127.0.0.1:1"])
def test_a_client_is_not_built_for_another_host(scrt_url: str) -> None:
    with pytest.raises(AddressRefused):
        interaction_client(scrt_url=scrt_url)


def test_the_classes_of_codes_do_not_overlap() -> None:
    sets = (interactions.TOKEN_REFUSED, interactions.CUSTOMER_MUST_ACT, interactions.TRANSIENT)
    assert sum(len(each) for each in sets) == len(set().union(*sets))
