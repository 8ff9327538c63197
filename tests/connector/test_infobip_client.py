"""Sending through Infobip: what we send, and what each answer means for the message."""

import json
from typing import Any

import pytest
import requests
import responses
from responses import matchers

from connector.http import (
    AddressRefused,
    ApiError,
    AuthenticationFailed,
    RateLimited,
    RequestRejected,
    ServiceUnavailable,
)
from connector.infobip.client import is_duplicate
from tests.connector import INFOBIP, SEND_URL, TEMPLATE_URL, infobip_client, send_template, send_to_infobip
from tests.payloads import load

ACCEPTED = load("infobip/answers/accepted")["body"]


def refusal(status: int, body: object, headers: dict[str, str] | None = None) -> ApiError:
    """Send a text that is answered so, and give what is raised."""
    responses.post(SEND_URL, status=status, json=body, headers=headers)
    with pytest.raises(ApiError) as caught:
        send_to_infobip(infobip_client())
    return caught.value


@responses.activate
@pytest.mark.parametrize("base_url", [INFOBIP, f"{INFOBIP}/", INFOBIP.upper().replace("HTTPS", "https")])
def test_a_text_is_sent_as_recorded(base_url: str) -> None:
    expected = {
        "Authorization": "App key-acme",
        "Accept": "application/json",
        "Content-Type": "application/json",
    }
    responses.post(SEND_URL, json=ACCEPTED, match=[matchers.header_matcher(expected)])
    send_to_infobip(infobip_client(base_url))
    assert json.loads(responses.calls[0].request.body or "") == load("infobip/requests/send_text")


@responses.activate
def test_a_template_is_sent_as_recorded() -> None:
    accepted = {"messages": [ACCEPTED], "bulkId": "a28dd97c"}
    headers = {"Authorization": "App key-acme", "Accept": "application/json", "Content-Type": "application/json"}
    responses.post(TEMPLATE_URL, json=accepted, match=[matchers.header_matcher(headers)])
    send_template(infobip_client())
    assert json.loads(responses.calls[0].request.body or "") == load("infobip/requests/send_template")


@responses.activate
def test_a_200_that_rejects_a_template_is_a_failure() -> None:
    status = {"groupId": 5, "groupName": "REJECTED", "id": 12, "name": "REJECTED_NOT_ENOUGH_CREDITS", "description": "x"}
    responses.post(TEMPLATE_URL, json={"messages": [ACCEPTED | {"status": status}]})
    with pytest.raises(RequestRejected) as caught:
        send_template(infobip_client())
    assert caught.value.code == "REJECTED_NOT_ENOUGH_CREDITS"


NOTHING = ["", "null", "[]", "[1]", "{}", "7", "<html>Welcome</html>", '{"messageId": "b0c1', "\x00"]


@responses.activate
@pytest.mark.parametrize("body", NOTHING)
@pytest.mark.parametrize("status", [200, 201, 202])
def test_an_answer_of_success_that_says_nothing_of_the_message_is_in_doubt(status: int, body: str) -> None:
    for url, send in ((SEND_URL, send_to_infobip), (TEMPLATE_URL, send_template)):
        responses.post(url, status=status, body=body)
        with pytest.raises(ServiceUnavailable) as caught:
            send(infobip_client())
        assert (type(caught.value), caught.value.in_doubt, caught.value.status) == (ServiceUnavailable, True, status)


@responses.activate
@pytest.mark.parametrize(
    "change",
    [
        *({"status": None}, {"status": {}}, {"status": "PENDING"}, {"status": {"name": "PENDING_ENROUTE"}}),
        *({"status": {"groupId": None}}, {"status": {"groupId": "1"}}, {"messageId": None}, {"messageId": ""}),
    ],
)
def test_a_200_without_what_is_promised_is_in_doubt(change: dict[str, Any]) -> None:
    responses.post(SEND_URL, json={**ACCEPTED, **change})
    responses.post(TEMPLATE_URL, json={"messages": [{**ACCEPTED, **change}]})
    for send in (send_to_infobip, send_template):
        with pytest.raises(ServiceUnavailable) as caught:
            send(infobip_client())
        assert caught.value.in_doubt


@responses.activate
@pytest.mark.parametrize("body", [{"messages": None}, {"messages": []}, {"messages": [7]}, {"messages": [{}]}])
def test_a_200_that_lists_no_template_is_in_doubt(body: object) -> None:
    responses.post(TEMPLATE_URL, json=body)
    with pytest.raises(ServiceUnavailable) as caught:
        send_template(infobip_client())
    assert caught.value.in_doubt


@responses.activate
def test_a_template_that_was_taken_before_is_a_success() -> None:
    status = {"groupId": 5, "groupName": "REJECTED", "id": 23, "name": "REJECTED_DUPLICATE_MESSAGE_ID"}
    responses.post(TEMPLATE_URL, json={"messages": [ACCEPTED | {"status": status}]})
    send_template(infobip_client())


@responses.activate
def test_an_error_for_a_template_is_read_as_any() -> None:
    responses.post(TEMPLATE_URL, status=429, json={}, headers={"Retry-After": "3"})
    with pytest.raises(RateLimited) as caught:
        send_template(infobip_client())
    assert caught.value.retry_after == 3


@responses.activate
def test_a_repeated_send_is_the_same_but_for_nothing() -> None:
    responses.post(SEND_URL, json=ACCEPTED)
    client = infobip_client()
    send_to_infobip(client)
    send_to_infobip(client)
    first, second = (call.request for call in responses.calls)
    assert first.body == second.body  # with the same messageId, by which Infobip may know it


@responses.activate
@pytest.mark.parametrize(
    ("group_id", "status_id", "name"),
    [
        (2, 9, "UNDELIVERABLE_NOT_DELIVERED"),
        (4, 15, "EXPIRED_EXPIRED"),
        (5, 12, "REJECTED_NOT_ENOUGH_CREDITS"),
        (5, 18, "REJECTED_DESTINATION_NOT_REGISTERED"),
        (5, 20, "REJECTED_FLOODING_FILTER"),
    ],
)
def test_a_200_that_rejects_is_a_failure(group_id: int, status_id: int, name: str) -> None:
    status = {"groupId": group_id, "groupName": "x", "id": status_id, "name": name, "description": "Said so"}
    error = refusal(200, {**ACCEPTED, "status": status})
    assert type(error) is RequestRejected
    assert (error.code, error.message, error.in_doubt) == (name, "Said so", False)


@responses.activate
@pytest.mark.parametrize(
    "status",
    [
        {"groupId": 1, "groupName": "PENDING", "id": 7, "name": "PENDING_ENROUTE"},
        {"groupId": 1, "groupName": "PENDING", "id": 26, "name": "MESSAGE_ACCEPTED"},
        {"groupId": 3, "groupName": "DELIVERED", "id": 5, "name": "DELIVERED_TO_HANDSET"},
        {
            "groupId": 5,
            "groupName": "REJECTED",
            "id": 23,
            "name": "REJECTED_DUPLICATE_MESSAGE_ID",
        },  # an earlier try was taken
    ],
)
def test_any_other_200_is_a_success(status: Any) -> None:
    responses.post(SEND_URL, json={**ACCEPTED, "status": status})
    send_to_infobip(infobip_client())


@pytest.mark.parametrize(
    ("status", "error", "duplicate"),
    [
        ({"id": 23}, {}, True),
        ({"id": 6}, {"id": 7280}, True),
        ({"id": 6}, {"id": 7010}, False),
        ({"id": "23"}, {}, False),
        ({}, {}, False),
    ],
)
def test_a_duplicate_is_known_by_the_status_or_the_error(
    status: dict[str, Any], error: dict[str, Any], duplicate: bool
) -> None:
    assert is_duplicate(status, error) is duplicate


def older(message_id: str, text: str, **more: object) -> object:
    return {"requestError": {"serviceException": {"messageId": message_id, "text": text, **more}}}


def newer(code: str, description: str, *properties: str) -> object:
    violations = [{"property": each, "violation": "must not be empty"} for each in properties]
    return {"errorCode": code, "description": description, "violations": violations}


@responses.activate
@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        (older("BAD_REQUEST", "Bad request"), "BAD_REQUEST", "Bad request"),
        (
            older("BAD_REQUEST", "Bad request", validationErrors={"to": ["x"], "content.text": "must not be null"}),
            *("BAD_REQUEST", "Bad request: content.text, to"),
        ),
        (older("BAD_REQUEST", "Bad request", validationErrors=["to"]), "BAD_REQUEST", "Bad request"),
        (newer("E400", "The request is invalid."), "E400", "The request is invalid."),
        (newer("E400", "The request is invalid.", "to", "from"), "E400", "The request is invalid.: from, to"),
        ({"errorCode": "E400", "description": "No.", "violations": ["x", None]}, "E400", "No."),
        ({"error": "another form"}, "", "refused without a reason"),
        ({"requestError": "x"}, "", "refused without a reason"),
        ({"requestError": {"serviceException": None}}, "", "refused without a reason"),
        ([], "", "refused without a reason"),
        (older("", "x" * 5000), "", "x" * 300),
    ],
)
def test_both_formats_of_errors_name_the_fields_at_fault(body: object, code: str, message: str) -> None:
    error = refusal(400, body)
    assert type(error) is RequestRejected
    assert (error.code, error.message) == (code, message)


@responses.activate
@pytest.mark.parametrize(
    ("status", "kind", "in_doubt", "retryable"),
    [
        (400, RequestRejected, False, False),
        (401, AuthenticationFailed, False, True),
        (403, AuthenticationFailed, False, True),
        (404, RequestRejected, False, False),
        (408, ServiceUnavailable, True, True),
        (429, RateLimited, False, True),
        (500, ServiceUnavailable, True, True),
        (502, ServiceUnavailable, True, True),
        (503, ServiceUnavailable, False, True),  # says that it was not taken
        (504, ServiceUnavailable, True, True),
    ],
)
@pytest.mark.parametrize("body", [older("X", "text"), newer("X", "text")], ids=["older", "newer"])
def test_the_status_says_whether_to_send_again_and_whether_it_may_have_been_taken(
    status: int, kind: type[ApiError], in_doubt: bool, retryable: bool, body: object
) -> None:
    error = refusal(status, body)
    assert type(error) is kind
    assert (error.in_doubt, error.retryable, error.status, error.code) == (in_doubt, retryable, status, "X")


@responses.activate
@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize("body", ["", "<html>Bad gateway</html>", "null", "[1]", "\x00"])
def test_an_answer_of_a_gateway_is_no_surprise(status: int, body: str) -> None:
    responses.post(SEND_URL, status=status, body=body)
    with pytest.raises(ServiceUnavailable) as caught:
        send_to_infobip(infobip_client())
    assert caught.value.status == status


@responses.activate
@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("3", 3.0),
        ("1.5", 1.5),
        ("0", 0.0),
        ("86400", 3600.0),  # nobody waits a day
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
        ("-1", None),
        ("nan", None),
        ("", None),
    ],
)
def test_how_long_to_wait_is_read_from_the_answer(header: str, seconds: float | None) -> None:
    assert refusal(429, older("TOO_MANY_REQUESTS", "x"), {"Retry-After": header}).retry_after == seconds


@responses.activate
@pytest.mark.parametrize(
    ("failure", "in_doubt"),
    [
        (requests.ConnectTimeout("slow"), False),
        (requests.exceptions.SSLError("bad record"), True),  # a certificate is looked at while connecting
        (requests.ReadTimeout("slow"), True),
        (requests.ConnectionError("reset by peer"), True),
    ],
)
def test_a_send_without_an_answer_is_in_doubt_unless_it_never_left(failure: Exception, in_doubt: bool) -> None:
    responses.post(SEND_URL, body=failure)
    with pytest.raises(ServiceUnavailable) as caught:
        send_to_infobip(infobip_client())
    assert caught.value.in_doubt == in_doubt


@responses.activate
def test_an_error_shows_neither_key_nor_text() -> None:
    responses.post(SEND_URL, status=400, json=older("BAD_REQUEST", "Bad request"))
    with pytest.raises(RequestRejected) as caught:
        send_to_infobip(infobip_client(), "a private matter")
    assert str(caught.value) == "Infobip: Bad request (HTTP 400, code BAD_REQUEST)"


@responses.activate
@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_the_key_follows_no_redirect(status: int) -> None:
    responses.post(SEND_URL, status=status, headers={"Location": "https://evil.example/"})
    elsewhere = responses.post("https://evil.example/", json=ACCEPTED)
    with pytest.raises(ApiError):
        send_to_infobip(infobip_client())
    assert elsewhere.call_count == 0


@pytest.mark.parametrize(
    "base_url",
    [
        "https://evil.example",
        "https://infobip.com",  # no account's own address
        "https://portal.infobip.com",  # Infobip's, but no API
        "https://evilapi.infobip.com",
        "https://evilinfobip.com",
        "https://k2v9.api.infobip.com.evil.example",
        "https://k2v9.api.infobip.com@evil.example",
        "http://k2v9.api.infobip.com",
        "http://127.0.0.1:1",
    ],
)
def test_a_client_is_not_built_for_another_host(base_url: str) -> None:
    with pytest.raises(AddressRefused):
        infobip_client(base_url)
