"""The published examples are read by our parsers, and our recorded payloads fit the published schemas."""

from datetime import UTC, datetime
from typing import Any

import pytest

from connector.events import Event, Ignored, MessageReceived, ReceiptReceived, Typing, UnexpectedPayload
from connector.infobip import webhooks
from tests import payloads
from tests.contracts.published import COMMON_ASSETS, EVENTS, INTERACTIONS, MESSAGES_API, WHATSAPP, load, without_nulls

NOW = datetime(2026, 3, 2, 8, 30, tzinfo=UTC)
NOT_OURS = "messageId is not an id of ours"  # the ids of these examples are no UUIDs, and ours all are
UNKNOWN = "neither a message nor a report"

# operation -> what each result of its examples is read as, or why it is refused on purpose
READ_AS: dict[tuple[str, str], type[Event] | str] = {
    (WHATSAPP, "receive-whatsapp-inbound-messages"): MessageReceived,
    (WHATSAPP, "receive-whatsapp-delivery-reports"): ReceiptReceived,
    (WHATSAPP, "receive-whatsapp-seen-reports"): NOT_OURS,
    (WHATSAPP, "receive-whatsapp-message-template-update-events"): Ignored,
    # payments, the marketing opt-out and changed identities are nothing that we subscribe to; an operator would see them
    (WHATSAPP, "receive-whatsapp-payment-notification"): UNKNOWN,
    (WHATSAPP, "receive-whatsapp-marketing-update-notification"): UNKNOWN,
    (WHATSAPP, "receive-whatsapp-identity-change-notification"): UNKNOWN,
    (MESSAGES_API, "receive-messages-api-incoming-messages"): MessageReceived,
    (MESSAGES_API, "receive-messages-api-delivery-reports"): NOT_OURS,
    (MESSAGES_API, "receive-messages-api-seen-reports"): NOT_OURS,
}
READ_OTHERWISE: dict[str, type[Event] | str] = {
    "Received typing started event example": Typing,
    "Received typing stopped event example": Typing,
    # another channel's addresses, longer than any of WhatsApp
    "Received form response example": "destination is longer than 24 characters",
}


def _read(result: object) -> type[Event] | str:
    try:
        return type(webhooks.parse_result(result, received_at=NOW))
    except UnexpectedPayload as exc:
        return str(exc)


@pytest.mark.parametrize(("document", "operation"), READ_AS)
def test_the_published_examples_of_a_webhook_are_read(document: str, operation: str) -> None:
    examples = load(document).examples(operation)
    assert examples
    for name, body in examples.items():
        expected = READ_OTHERWISE.get(name, READ_AS[document, operation])
        for result in webhooks.results_of(body):
            read = _read(result)
            assert read.startswith(expected) if isinstance(read, str) and isinstance(expected, str) else read is expected, (
                name
            )


@pytest.mark.parametrize("document", [WHATSAPP, MESSAGES_API])
def test_every_published_webhook_is_considered(document: str) -> None:
    assert load(document).webhooks() == {operation for each, operation in READ_AS if each == document}


@pytest.mark.parametrize(("document", "operation"), [pair for pair, expected in READ_AS.items() if expected is not UNKNOWN])
def test_each_result_of_the_published_examples_has_a_key_of_its_own_that_stays(document: str, operation: str) -> None:
    for body in load(document).examples(operation).values():
        results: list[Any] = webhooks.results_of(body)
        keys = [webhooks.key_of(result) for result in results]
        assert len(set(keys)) == len(keys)
        assert keys == [webhooks.key_of(dict(reversed(list(result.items())))) for result in results]


# where the platforms' own examples do not fit their schemas, ours, which follow the examples, do not either
DEVIATIONS = {
    "infobip/whatsapp/interactive_flow_reply": "is not of type 'object'",  # values of a free form, described as objects
    "infobip/messages_api/flow_response": "is not of type 'object'",
    "infobip/whatsapp/interactive_payment_acknowledgement": "INTERACTIVE_PAYMENT_ACKNOWLEDGEMENT",  # example without schema
    "salesforce/events/participant_changed": "'participant' is a required property",  # a property that is defined nowhere
    "salesforce/events/routing_work_result": "no schema for entryType RoutingWorkResult",  # in the other document only
    "salesforce/events/text_with_entry_payload_as_string": "is not of type 'object'",  # the form of sibling APIs
    "salesforce/events/text_without_inner_payload": "is a required property",  # the form of one published sample
}


def _published(name: str) -> tuple[str, Any, Any]:
    """Give the document of a recording, its schema there, and the body."""
    body = payloads.load(name)
    _, folder, kind = name.split("/")
    if folder == "events":
        contract = load(EVENTS)
        schema = "RoutingRequested" if kind == "routing_requested" else "InteractionEvent"
        return EVENTS, contract.schema(schema), without_nulls(body["Payload__c"])
    if folder == "messages_api" or kind.startswith("messages_api_"):
        operation = "incoming-messages" if folder == "messages_api" else _report(kind)
        return MESSAGES_API, load(MESSAGES_API).webhook(f"receive-messages-api-{operation}"), body
    operations = {
        "template_status": "receive-whatsapp-message-template-update-events",
        "identity_change": "receive-whatsapp-identity-change-notification",
    }
    operation = "inbound-messages" if folder == "whatsapp" else _report(kind)
    if kind == "conversation_message":
        return COMMON_ASSETS, load(COMMON_ASSETS).webhook("conversation-event-webhook"), body
    return WHATSAPP, load(WHATSAPP).webhook(operations.get(kind, f"receive-whatsapp-{operation}")), body


def _report(kind: str) -> str:
    return "seen-reports" if kind.endswith("_seen") else "delivery-reports"


POSTED = [
    f"{folder}/{name}"
    for folder in ("infobip/whatsapp", "infobip/messages_api", "infobip/reports", "infobip/notices", "salesforce/events")
    for name in payloads.names(folder)
]


@pytest.mark.parametrize("name", POSTED)
def test_a_recorded_payload_fits_the_published_schema(name: str) -> None:
    document, schema, body = _published(name)
    problems = load(document).problems(schema, body)
    if name in DEVIATIONS:
        assert problems
        assert all(DEVIATIONS[name] in problem for problem in problems), problems
    else:
        assert problems == []


@pytest.mark.parametrize(
    ("name", "document", "path"),
    [
        *((f"infobip/answers/{name}", WHATSAPP, "/whatsapp/1/message/text") for name in payloads.names("infobip/answers")),
        *(
            (
                f"infobip/errors/{name}",
                *(
                    (MESSAGES_API, "/messages-api/1/messages")
                    if name.startswith("api_error")
                    else (WHATSAPP, "/whatsapp/1/message/text")
                ),
            )
            for name in payloads.names("infobip/errors")
        ),
        ("salesforce/answers/interaction_accepted", INTERACTIONS, "/interactions"),
        ("salesforce/answers/acknowledged", INTERACTIONS, "/acknowledgement"),
        ("salesforce/answers/error_header_not_valid", INTERACTIONS, "/interactions"),
        ("salesforce/answers/error_channel_address_unknown", INTERACTIONS, "/capabilities"),
        ("salesforce/answers/error_token_not_valid", INTERACTIONS, "/interactions"),
        ("salesforce/answers/error_precondition_failed", INTERACTIONS, "/interactions"),
        ("salesforce/answers/error_entry_and_message_id_differ", INTERACTIONS, "/interactions"),
        ("salesforce/answers/error_rate_limit", INTERACTIONS, "/interactions"),
    ],
)
def test_a_recorded_answer_fits_the_published_schema(name: str, document: str, path: str) -> None:
    answer, contract = payloads.load(name), load(document)
    method = "patch" if path == "/capabilities" else "post"
    schema = contract.answer(path, answer["status"], method=method)
    assert contract.problems(schema, answer["body"]) == []
