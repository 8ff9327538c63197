"""Every request that we build fits the published document of the API that it goes to."""

import json
from email import message_from_bytes
from typing import Any

import pytest
import responses

from connector.events import split_text
from connector.infobip import client as infobip
from connector.infobip import webhooks
from connector.salesforce import interactions
from tests.connector import (
    ACKNOWLEDGEMENT_URL,
    CHANNEL,
    CONTEXT,
    CONVERSATION_URL,
    END_USER,
    ENTRY,
    INTERACTIONS_URL,
    SEND_URL,
    TEMPLATE_URL,
    TICK,
    acknowledge,
    establish,
    infobip_client,
    interaction_client,
    send_template,
    send_to_infobip,
    send_to_salesforce,
)
from tests.contracts.published import INTERACTIONS, WHATSAPP, Contract, load
from tests.payloads import load as recorded

TEXTS = ["Hello, where is my order 4711?", 'Grüße 👋\n\u200f\ttabs "quotes" and \\ back', "x" * interactions.TEXT_LIMIT]


def _multipart(request: Any) -> dict[str | None, tuple[str, bytes]]:
    """Take a multipart body apart as an independent reader does: name -> type and content of each part."""
    whole = b"Content-Type: " + request.headers["Content-Type"].encode() + b"\r\n\r\n" + request.body
    parts: Any = message_from_bytes(whole).get_payload()
    assert isinstance(parts, list)
    return {
        str(part.get_param("name", header="Content-Disposition")): (part.get_content_type(), part.get_payload(decode=True))
        for part in parts
    }


def _check_headers(contract: Contract, path: str, request: Any) -> None:
    for each in contract.document["paths"][path]["post"]["parameters"]:
        if each["in"] == "header" and each.get("required"):
            assert request.headers.get(each["name"]), each["name"]


@responses.activate
@pytest.mark.parametrize("text", TEXTS)
def test_an_interaction_fits_the_contract(text: str) -> None:
    contract = load(INTERACTIONS)
    responses.post(INTERACTIONS_URL, status=202, json={"success": True})
    send_to_salesforce(text=text)
    request: Any = responses.calls[0].request
    parts = _multipart(request)
    assert parts.keys() == {"json"}
    kind, content = parts["json"]
    assert kind == "application/json"
    body = {"json": json.loads(content)}
    assert contract.problems(contract.request("/interactions"), body) == []
    assert body["json"]["interactions"][0]["payload"]["abstractMessage"]["staticContent"]["text"] == text
    _check_headers(contract, "/interactions", request)


@responses.activate
@pytest.mark.parametrize("count", [1, 2, interactions.MOST_ACKNOWLEDGEMENTS])
def test_acknowledgements_fit_the_contract_but_for_their_time(count: int) -> None:
    contract = load(INTERACTIONS)
    responses.post(ACKNOWLEDGEMENT_URL, json={"success": True})
    acknowledge(count=count)
    request: Any = responses.calls[0].request
    assert request.headers["Content-Type"] == "application/json"
    _check_headers(contract, "/acknowledgement", request)
    body, schema = json.loads(request.body), contract.request("/acknowledgement")
    # the schema says text, all published samples say number: we follow the samples
    assert contract.problems(schema, body) == [
        f"acknowledgements[{n}].acknowledgementTimestamp: 1785312000000 is not of type 'string'" for n in range(count)
    ]
    for each in body["acknowledgements"]:
        each["acknowledgementTimestamp"] = str(each["acknowledgementTimestamp"])
    assert contract.problems(schema, body) == []


@responses.activate
def test_a_report_of_a_failed_delivery_fits_the_contract() -> None:
    contract = load(INTERACTIONS)
    responses.post(INTERACTIONS_URL, status=202, json={"success": True})
    interaction_client().report_failure(
        context=CONTEXT,
        channel_address=CHANNEL,
        end_user=END_USER,
        entry=ENTRY,
        code="EC_NO_SESSION",
        reason="the customer has not written to this number in the last 24 hours; send a template",
        report_uuid=TICK,
    )
    request: Any = responses.calls[0].request
    body = {"json": json.loads(_multipart(request)["json"][1])}
    assert contract.problems(contract.request("/interactions"), body) == []
    _check_headers(contract, "/interactions", request)


@responses.activate
@pytest.mark.parametrize("text", [*TEXTS, "x" * infobip.TEXT_LIMIT])
def test_a_send_fits_the_contract(text: str) -> None:
    contract = load(WHATSAPP)
    responses.post(SEND_URL, json=recorded("infobip/answers/accepted")["body"])
    send_to_infobip(infobip_client(), text)
    request: Any = responses.calls[0].request
    assert request.headers["Content-Type"] == "application/json"
    body = json.loads(request.body)
    assert contract.problems(contract.request("/whatsapp/1/message/text"), body) == []
    assert body["content"]["text"] == text


@responses.activate
def test_a_template_fits_the_contract() -> None:
    contract = load(WHATSAPP)
    responses.post(TEMPLATE_URL, json={"messages": [recorded("infobip/answers/accepted")["body"]]})
    send_template(infobip_client())
    body = json.loads(responses.calls[0].request.body or "")
    assert contract.problems(contract.request("/whatsapp/1/message/template"), body) == []


@responses.activate
@pytest.mark.parametrize("attributes", [{}, {"newEndUserName": "Ana Horvat"}])
def test_an_opened_conversation_fits_the_contract(attributes: dict[str, str]) -> None:
    contract = load(INTERACTIONS)
    responses.post(CONVERSATION_URL, status=202, json={"success": True})
    establish(**attributes)
    request: Any = responses.calls[0].request
    assert contract.problems(contract.request("/conversation"), json.loads(request.body)) == []
    _check_headers(contract, "/conversation", request)


@pytest.mark.parametrize(
    "name", ["salesforce/requests/interaction", "salesforce/requests/acknowledgement", "infobip/requests/send_text"]
)
def test_a_recorded_request_fits_the_contract(name: str) -> None:
    body = recorded(name)
    if name.startswith("infobip/"):
        contract, schema = load(WHATSAPP), load(WHATSAPP).request("/whatsapp/1/message/text")
    elif name.endswith("/interaction"):
        contract, schema, body = load(INTERACTIONS), load(INTERACTIONS).request("/interactions"), {"json": body}
    else:
        contract, schema = load(INTERACTIONS), load(INTERACTIONS).request("/acknowledgement")
        body["acknowledgements"][0]["acknowledgementTimestamp"] = "1785312000000"
    assert contract.problems(schema, body) == []


def test_our_limits_are_the_published_ones() -> None:
    whatsapp, service = load(WHATSAPP), load(INTERACTIONS)
    message = whatsapp.resolve(whatsapp.request("/whatsapp/1/message/text"))["properties"]
    assert whatsapp.resolve(message["content"])["properties"]["text"]["maxLength"] == infobip.TEXT_LIMIT
    assert message["to"]["maxLength"] == webhooks.LONGEST_ADDRESS
    acknowledgements = service.resolve(service.request("/acknowledgement"))["properties"]["acknowledgements"]
    assert acknowledgements["maxItems"] == interactions.MOST_ACKNOWLEDGEMENTS


@responses.activate
def test_each_part_of_a_long_text_fits_the_contract() -> None:
    contract = load(WHATSAPP)
    responses.post(SEND_URL, json=recorded("infobip/answers/accepted")["body"])
    for part in split_text("word " * 2000, infobip.TEXT_LIMIT):
        send_to_infobip(infobip_client(), part)
    assert len(responses.calls) == 3
    for call in responses.calls:
        body = json.loads(call.request.body or "")
        assert contract.problems(contract.request("/whatsapp/1/message/text"), body) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"from": None}, "from: None is not of type 'string'"),
        ({"content": {}}, "content: 'text' is a required property"),
        ({"content": {"text": ""}}, "content.text: '' should be non-empty"),
        ({"notifyurl": "https://x.example"}, "notifyurl: declared nowhere"),
        ({"urlOptions": {"shortenUrls": False}}, "urlOptions.shortenUrls: declared nowhere"),
    ],
)
def test_the_check_finds_what_does_not_fit(change: dict[str, Any], problem: str) -> None:
    contract = load(WHATSAPP)
    body = {**recorded("infobip/requests/send_text"), **change}
    assert contract.problems(contract.request("/whatsapp/1/message/text"), body) == [problem]


def test_the_check_follows_what_a_field_selects() -> None:
    contract = load(INTERACTIONS)
    body = {"json": recorded("salesforce/requests/interaction")}
    message = body["json"]["interactions"][0]["payload"]["abstractMessage"]
    del message["staticContent"]["text"]
    (problem,) = contract.problems(contract.request("/interactions"), body)
    assert problem.endswith("staticContent: 'text' is a required property")
    message["messageType"] = "Telegram"
    assert any("there is no schema" in each for each in contract.problems(contract.request("/interactions"), body))
