"""Each recorded payload is run through its parser and compared with the event that it stands for."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
import responses

from connector.events import (
    Event,
    Ignored,
    InfobipMessageRef,
    MessageReceived,
    Receipt,
    ReceiptReceived,
    ReplyWritten,
    RepsChanged,
    SessionEnded,
    Text,
    Typing,
    UnexpectedPayload,
    Unsupported,
)
from connector.http import (
    ApiError,
    AuthenticationFailed,
    CustomerMustAct,
    RateLimited,
    RequestRejected,
    ServiceUnavailable,
)
from connector.infobip import content, webhooks
from connector.infobip.reasons import REASONS
from connector.salesforce.interactions import Delivered
from connector.salesforce.platform_events import PlatformEvent, Topic, parse_event
from tests.connector import (
    ACKNOWLEDGEMENT_URL,
    INTERACTIONS_URL,
    SEND_URL,
    acknowledge,
    infobip_client,
    send_to_infobip,
    send_to_salesforce,
)
from tests.payloads import load, names, record

NOW = datetime(2026, 3, 2, 8, 30, tzinfo=UTC)
USER, USER_ID, SENDER = "447700900999", "GB.998877665544332211", "447700900123"
LONG_ID = "wamid.HBgMNDQ3NzAwOTAwOTk5FQIAEhggQUM3RjE5RDA4QjRDMkUx"
MESSAGE = UUID("b0c1f0de-8a2e-4f4b-9e5c-0a1b2c3d4e5f")
NOT_SHOWN = "this kind of message cannot be shown"

# recording -> id, minute, second, and what the rep reads
WHATSAPP: dict[str, tuple[str, int, float, str]] = {
    "text": (LONG_ID, 15, 30.123, "Hello, where is my order?"),
    "text_from_user_id": ("wamid.A0", 15, 40, "It is me, without a number"),
    "image": ("wamid.A1", 16, 0, "▸ Image: The broken part"),
    "document": ("wamid.A2", 16, 10, "▸ Document: invoice-2291.pdf"),
    "voice": ("wamid.A3", 16, 20, "▸ Voice message"),
    "location": (
        *("wamid.A4", 16, 30),
        "▸ Location: Clock tower, London SW1A 0AA (51.5007, -0.1246) https://maps.example.com/p/1",
    ),
    "contact": (
        "wamid.A5",
        16,
        40,
        "▸ Contact: Max Frost, +44 7700 900555, max@example.com, Frost Ltd, Stores, Buyer, 1 High Street, Leeds, LS1 1AA, "
        "United Kingdom, https://frost.example.com, 1990-05-01",
    ),
    "button": ("wamid.A6", 16, 50, "Yes, please"),
    "interactive_button_reply": ("wamid.A7", 17, 0, "Morning"),
    "interactive_list_reply": ("wamid.A8", 17, 10, "Returns\nSend something back"),
    "order": ("wamid.A9", 17, 20, "▸ Order: 2 of sku-9 Gift wrap please"),
    "reaction": ("wamid.A10", 17, 30, "▸ Reaction: 👍"),
    "unsupported": ("wamid.A11", 17, 40, "▸ A message of a kind that WhatsApp does not pass on"),
    "reaction_removed": ("wamid.A12", 17, 45, "▸ Reaction removed"),
    "video": ("wamid.A13", 18, 0, "▸ Video: It rattles"),
    "audio": ("wamid.A14", 18, 10, "▸ Audio"),
    "sticker": ("wamid.A15", 18, 20, "▸ Sticker"),
    "interactive_flow_reply": ("wamid.A16", 18, 30, "▸ Form: Sent\nrating: 5\ncomment: All good\nflow_token: f-1"),
    "infected_content": ("wamid.A17", 18, 40, "▸ A file was withheld because it holds malware"),
    "interactive_payment_confirmation": ("wamid.A18", 18, 50, f"▸ Interactive payment confirmation: {NOT_SHOWN}"),
    "interactive_payment_acknowledgement": ("wamid.A19", 19, 0, f"▸ Interactive payment acknowledgement: {NOT_SHOWN}"),
    "interactive_call_permission_reply": ("wamid.A20", 19, 10, "▸ Interactive call permission reply: ACCEPT"),
    "interactive_in_thread_authentication_reply": (
        *("wamid.A21", 19, 20),
        f"▸ Interactive in thread authentication reply: {NOT_SHOWN}",
    ),
}
MESSAGES_API: dict[str, tuple[str, int, float, str]] = {
    "text": (LONG_ID, 15, 30.123, "Hello, where is my order?"),
    "image": ("wamid.B2", 16, 0, "▸ Image: The broken part"),
    "button_reply": ("wamid.B3", 16, 50, "Yes, please"),
    "list_reply": ("wamid.B4", 17, 10, "Returns\nRepairs"),
    "location": ("wamid.B5", 16, 30, "▸ Location: 51.5007, -0.1246"),
    "subject": ("wamid.B6", 18, 0, "Order 2291\nWhere is it?"),
    "video": ("wamid.B7", 18, 10, "▸ Video: It rattles"),
    "audio": ("wamid.B8", 18, 20, "▸ Audio"),
    "document": ("wamid.B9", 18, 30, "▸ Document: invoice-2291.pdf"),
    "file": ("wamid.B10", 18, 40, "▸ File\n▸ File: And the back"),
    "url": ("wamid.B11", 18, 50, "▸ Link: https://shop.example.com/track/2291"),
    "reaction": ("wamid.B12", 19, 0, "▸ Reaction: 👍"),
    "flow_response": ("wamid.B13", 19, 10, "▸ Form\nrating: 5\ncomment: All good"),
    "form_response": ("wamid.B14", 19, 20, "▸ Form\nYour name\nName: Ada"),
    "authentication_response": ("wamid.B15", 19, 30, f"▸ Authentication response: {NOT_SHOWN}"),
    "payment_response": ("wamid.B16", 19, 40, f"▸ Payment response: {NOT_SHOWN}"),
}
# whose contact, beside the address that the message came from, names others
ALIASES = {"text": (USER_ID,), "text_from_user_id": (USER,)}


def _whatsapp(name: str) -> MessageReceived:
    message_id, minute, second, text = WHATSAPP[name]
    end_user = USER_ID if name in ("text_from_user_id", "unsupported") else USER
    return MessageReceived(message_id, SENDER, end_user, ALIASES.get(name, ()), "Ada Winter", text, _at(minute, second))


def _messages_api(name: str) -> MessageReceived:
    message_id, minute, second, text = MESSAGES_API[name]
    return MessageReceived(message_id, SENDER, USER, (), "", text, _at(minute, second))


def _at(minute: int, second: float) -> datetime:
    whole = int(second)
    return datetime(2026, 3, 2, 8, minute, whole, round((second - whole) * 1_000_000), tzinfo=UTC)


_DONE, _SEEN = _at(20, 1.25), _at(21, 12)


def _failed(code: str) -> ReceiptReceived:
    return ReceiptReceived(MESSAGE, Receipt.FAILED, _DONE, code, REASONS[code])


_NO_SESSION = _failed("EC_NO_SESSION")
INFOBIP: dict[str, Event] = {
    **{f"whatsapp/{name}": _whatsapp(name) for name in WHATSAPP},
    **{f"messages_api/{name}": _messages_api(name) for name in MESSAGES_API},
    "messages_api/typing_started": Typing(),
    "reports/whatsapp_delivered": ReceiptReceived(MESSAGE, Receipt.DELIVERED, _DONE),
    # its group says delivered, yet it only reached the provider
    "reports/whatsapp_delivered_to_operator": Ignored("on its way"),
    "reports/whatsapp_pending": Ignored("on its way"),
    "reports/whatsapp_undeliverable": _NO_SESSION,
    "reports/whatsapp_expired": ReceiptReceived(
        MESSAGE, Receipt.FAILED, _DONE, "EXPIRED_EXPIRED", REASONS["EXPIRED_EXPIRED"]
    ),
    "reports/whatsapp_rejected": _failed("REJECTED_NOT_ENOUGH_CREDITS"),
    "reports/whatsapp_duplicate_message_id": Ignored("the answer to a repeated send"),
    "reports/whatsapp_duplicate_request": Ignored("the answer to a repeated send"),
    "reports/whatsapp_seen": ReceiptReceived(MESSAGE, Receipt.READ, _SEEN),
    "reports/messages_api_delivered": ReceiptReceived(MESSAGE, Receipt.DELIVERED, _DONE),
    "reports/messages_api_undeliverable": _NO_SESSION,
    "reports/messages_api_seen": ReceiptReceived(MESSAGE, Receipt.READ, _SEEN),
    "notices/template_status": Ignored("template change"),
    "notices/conversation_message": MessageReceived(
        external_id="wamid.HBgMNDQ3NzAwOTAwOTk5FQIAEhggQUM3RjE5RDA4QjRDMkUx",
        sender="447700900123",
        end_user="447700900999",
        aliases=(),
        name="Ada Winter",
        text="I still have no parcel",
        received_at=datetime(2026, 3, 2, 8, 30, 5, tzinfo=UTC),
        ref=InfobipMessageRef("4461ea29-c09e-4ba8-a751-df86cf0a0eb9", "25774a87-078a-4fe7-8d43-127809479964"),
    ),
}
INFOBIP_FOLDERS = ("whatsapp", "messages_api", "reports", "notices")


@pytest.mark.parametrize("name", INFOBIP)
def test_a_recorded_webhook_reads_as_its_event(name: str) -> None:
    results = webhooks.results_of(load(f"infobip/{name}"))
    assert [webhooks.parse_result(result, received_at=NOW) for result in results] == [INFOBIP[name]]


@pytest.mark.parametrize("name", [name for name in INFOBIP if not name.startswith("notices/")])
def test_a_recorded_webhook_names_the_account_it_is_for(name: str) -> None:
    (result,) = webhooks.results_of(load(f"infobip/{name}"))
    if name.startswith("reports/"):
        assert webhooks.reported_message(result) == MESSAGE
    else:
        assert webhooks.reported_message(result) is None
    names_no_number = name.startswith("reports/whatsapp_") or name == "messages_api/typing_started"
    assert webhooks.business_number(result) == ("" if names_no_number else SENDER)


def test_an_identity_change_is_refused_so_that_somebody_looks_at_it() -> None:
    (result,) = webhooks.results_of(load("infobip/notices/identity_change"))
    with pytest.raises(UnexpectedPayload, match="neither a message nor a report"):
        webhooks.parse_result(result, received_at=NOW)


def test_every_recorded_webhook_has_an_expectation() -> None:
    recorded = {f"{folder}/{name}" for folder in INFOBIP_FOLDERS for name in names(f"infobip/{folder}")}
    assert recorded == INFOBIP.keys() | {"notices/identity_change"}


def test_every_kind_that_is_rendered_has_a_recording() -> None:
    whatsapp = {load(f"infobip/whatsapp/{name}")["results"][0]["message"]["type"] for name in WHATSAPP}
    messages_api = {
        content["type"]
        for name in MESSAGES_API
        for content in load(f"infobip/messages_api/{name}")["results"][0]["content"]
    }
    assert whatsapp >= content.WHATSAPP_KINDS.keys()
    assert messages_api >= content.MESSAGES_API_KINDS.keys()


# Salesforce

TOPIC = Topic("/event/Infobip_Event__e", "00D5g00000ABcDE", "EventType__c", "Payload__c")
CHANNEL, CONVERSATION = "6f1f4a5e-2f0a-4e1c-9c55-0b9b6f9f2d31", "c0a2c1b4-7f0e-4f6c-9a44-5d2f6f0e7b11"


def _reply(
    entry: str, content: Text | Unsupported, client_timestamp: int, conversation: str = CONVERSATION
) -> ReplyWritten:
    written_at = datetime.fromtimestamp((client_timestamp + 100) / 1000, UTC)  # the transcript's time, 100 ms later
    return ReplyWritten(entry, CHANNEL, conversation, "385991234567", content, written_at)


_ENTRY = "a4f0e7c9-7b1d-4e55-9d15-2d5b8f6c1a44"
_HELLO = Text("Hello Ana, I am checking order **4711**.")
EVENTS: dict[str, Event] = {
    "text": _reply(_ENTRY, _HELLO, 1785312300000),
    "text_with_entry_payload_as_string": _reply(_ENTRY, _HELLO, 1785312300000),
    "text_without_inner_payload": _reply(_ENTRY, _HELLO, 1785312300000, conversation=""),
    "text_from_chatbot": _reply("b4f0e7c9-7b1d-4e55-9d15-2d5b8f6c1a45", Text("How can I help?"), 1785312305000),
    "text_as_automated_response": replace(
        _reply("c4f0e7c9-7b1d-4e55-9d15-2d5b8f6c1a46", Text("We will be with you soon."), 1785312306000), automatic=True
    ),
    "text_of_the_end_user": Ignored("the end user's own message"),
    "attachments": _reply("80bb78b1-0000-4e22-ac55-5d517231ca1e", Unsupported("Attachments"), 1785312360800),
    "choices": _reply("b5a1f8da-3333-4f66-8e26-3e6c9f7d2b55", Unsupported("ChoicesMessage"), 1785312400800),
    "rich_link": _reply("c6b2a9eb-ffff-4e3f-8a4b-5c6d7e8f9a86", Unsupported("RichLink"), 1785312420800),
    "form": _reply("d2b1a0f9-2f3e-4d4c-8b5a-1a2b3c4d5e55", Unsupported("FormMessage"), 1785312450800),
    "typing_started": Typing(),
    "typing_stopped": Typing(),
    "read_acknowledgement": Ignored("ReadAcknowledgement"),
    "delivery_acknowledgement": Ignored("DeliveryAcknowledgement"),
    "message_updated": Ignored("MessageUpdated"),
    "participant_changed": RepsChanged(CONVERSATION, joined=True, left=False),
    "session_status_changed": SessionEnded(CONVERSATION, "0Mw5g000000AbCdCAK"),
    "routing_work_result": Ignored("RoutingWorkResult"),
    "routing_requested": Ignored("RoutingRequested"),
    "routing_result": Ignored("RoutingResult"),
    "end_user_consent_updated": Ignored("EndUserConsentUpdated"),
    "progress_indicator": Ignored("ProgressIndicator"),
    "queue_position": Ignored("QueuePosition"),
}


@pytest.mark.parametrize("name", EVENTS)
def test_a_recorded_platform_event_reads_as_what_it_says(name: str) -> None:
    assert parse_event(PlatformEvent("e-1", b"", record(name)), TOPIC) == EVENTS[name]


def test_every_recorded_platform_event_has_an_expectation() -> None:
    assert set(names("salesforce/events")) == EVENTS.keys()


# recording -> error, its code, whether it may have been taken all the same; None where it is a success
SALESFORCE_ANSWERS: dict[str, tuple[type[ApiError], str, bool] | None] = {
    "interaction_accepted": None,
    "acknowledged": None,
    "error_header_not_valid": (CustomerMustAct, "10016", False),
    "error_channel_address_unknown": (CustomerMustAct, "10017", False),
    "error_token_not_valid": (AuthenticationFailed, "10004", False),
    "error_session_expired": (AuthenticationFailed, "", False),
    "error_precondition_failed": (ServiceUnavailable, "10055", True),
    "error_entry_and_message_id_differ": (RequestRejected, "10060", False),
    "error_rate_limit": (RateLimited, "500", False),
    "error_without_code": (RequestRejected, "", False),
}
INFOBIP_ANSWERS: dict[str, tuple[type[ApiError], str, bool] | None] = {
    "answers/accepted": None,
    "answers/duplicate": None,
    "answers/rejected": (RequestRejected, "REJECTED_NOT_ENOUGH_CREDITS", False),
    "errors/service_exception_bad_request": (RequestRejected, "BAD_REQUEST", False),
    "errors/service_exception_unauthorized": (AuthenticationFailed, "UNAUTHORIZED", False),
    "errors/service_exception_forbidden": (AuthenticationFailed, "FORBIDDEN", False),
    "errors/service_exception_too_many_requests": (RateLimited, "TOO_MANY_REQUESTS", False),
    "errors/service_exception_general_error": (ServiceUnavailable, "GENERAL_ERROR", True),
    "errors/api_error_bad_request": (RequestRejected, "E400", False),
    "errors/api_error_unauthorized": (AuthenticationFailed, "E401", False),
    "errors/api_error_server_error": (ServiceUnavailable, "E500", True),
}


@responses.activate
@pytest.mark.parametrize("name", SALESFORCE_ANSWERS)
def test_a_recorded_answer_of_salesforce_is_understood(name: str) -> None:
    recorded, expected = load(f"salesforce/answers/{name}"), SALESFORCE_ANSWERS[name]
    responses.post(INTERACTIONS_URL, status=recorded["status"], json=recorded["body"])
    responses.post(ACKNOWLEDGEMENT_URL, status=recorded["status"], json=recorded["body"])
    if expected:
        for call in (send_to_salesforce, acknowledge):
            _check(call, expected)
    elif name == "acknowledged":
        acknowledge()
    else:
        assert send_to_salesforce() == Delivered(CONVERSATION, "0Mw5g000000AbCdCAK")


@responses.activate
@pytest.mark.parametrize("name", INFOBIP_ANSWERS)
def test_a_recorded_answer_of_infobip_is_understood(name: str) -> None:
    recorded, expected = load(f"infobip/{name}"), INFOBIP_ANSWERS[name]
    responses.post(SEND_URL, status=recorded["status"], json=recorded["body"])
    if expected:
        _check(lambda: send_to_infobip(infobip_client()), expected)
    else:
        send_to_infobip(infobip_client())


def test_every_recorded_answer_has_an_expectation() -> None:
    assert set(names("salesforce/answers")) == SALESFORCE_ANSWERS.keys() | {"token"}
    assert {
        f"{folder}/{name}" for folder in ("answers", "errors") for name in names(f"infobip/{folder}")
    } == INFOBIP_ANSWERS.keys()


def _check(call: Any, expected: tuple[type[ApiError], str, bool]) -> None:
    with pytest.raises(ApiError) as caught:
        call()
    assert (type(caught.value), caught.value.code, caught.value.in_doubt) == expected
