"""What Infobip posts to us, turned into events; its signature is in signature.py.

https://www.infobip.com/docs/cpaas-x/subscriptions-management
"""

import hashlib
import json
from datetime import datetime
from typing import Any
from uuid import UUID

from connector.events import (
    Event,
    Ignored,
    InfobipMessageRef,
    MessageReceived,
    Receipt,
    ReceiptReceived,
    Typing,
    UnexpectedPayload,
    clean,
)
from connector.infobip.client import FAILED_GROUPS, is_duplicate
from connector.infobip.content import (
    MESSAGES_API_KINDS,
    WHATSAPP_KINDS,
    bounded,
    conversation_line,
    group_line,
    line_of,
    lines_of,
)
from connector.infobip.reasons import REASONS
from connector.payload import id_of, number_as_text, object_of, optional_object, optional_text, parse_time, text_of
from connector.phone import address_of, aliases_of

LONGEST_ID = 250
LONGEST_CONVERSATION = 100  # our own bound: Infobip's ids are UUIDs, or as long
LONGEST_ADDRESS = 150  # a business-scoped user id; published for `to` of a send
LONGEST_NAME = 200
LONGEST_NUMBER = 24  # a sender of ours
MOST_RESULTS = 5000  # of one delivery; Infobip posts some hundreds at most
INBOUND = "INBOUND_MESSAGE"  # the conversation event that tells what an end user wrote
DELIVERED_TO_HANDSET = 5  # the only success: the group DELIVERED also holds "reached the operator" (2)


def results_of(body: object) -> list[object]:
    """Take a delivery apart into what is dealt with one by one; a body of another shape is one such thing.

    So is one of more results than Infobip ever posts: millions of them would be hours of work before anybody else's turn.
    """
    results = body.get("results") if isinstance(body, dict) else None
    return results if isinstance(results, list) and 0 < len(results) <= MOST_RESULTS else [body]


def business_number(result: object) -> str:
    """Name the number of ours that a result is about; empty where it names none, as most reports do."""
    if not isinstance(result, dict):
        return ""
    event = result.get("event")
    if _is_conversation_event(result):
        message = result["payload"].get("message")
        return address_of(message.get("to")) if isinstance(message, dict) and _is_inbound(result) else ""
    if event == "MO":
        field = "destination"
    elif event in ("DELIVERY", "SEEN"):
        field = "sender"
    elif _is_whatsapp_message(result):
        field = "to"
    else:
        return ""
    return address_of(result.get(field))


def reported_message(result: object) -> UUID | None:
    """Name the message that a report is about, None for everything else."""
    if not isinstance(result, dict) or not (_is_delivery_report(result) or _is_seen_report(result)):
        return None
    try:
        return UUID(result.get("messageId"))
    except (ValueError, TypeError, AttributeError):
        return None


def key_of(result: object) -> str:
    """Give what is the same whenever Infobip posts the same thing again, and differs otherwise."""
    if isinstance(result, dict):
        if _is_conversation_event(result) and _is_inbound(result):
            message = result["payload"].get("message")
            own_id = message.get("id") if isinstance(message, dict) else None
            if isinstance(own_id, str) and 0 < len(own_id) <= LONGEST_ID and clean(own_id) == own_id:
                return f"conversation:{own_id}"
        message_id = result.get("messageId")
        message_id = number_as_text(message_id, most=LONGEST_ID) or message_id
        if isinstance(message_id, str) and 0 < len(message_id) <= LONGEST_ID and clean(message_id) == message_id:
            if _is_delivery_report(result) and isinstance(status_id := result["status"].get("id"), int):
                return f"delivery:{message_id}:{str(status_id)[:20]}"
            if _is_seen_report(result):
                return f"seen:{message_id}"
            if result.get("event") == "MO" or _is_whatsapp_message(result):
                return f"message:{message_id}"
    return f"sha256:{hashlib.sha256(json.dumps(result, sort_keys=True).encode()).hexdigest()}"


def parse_result(result: object, *, received_at: datetime) -> Event:
    """Turn one result into an event.

    :param received_at: when it was posted; stands in for times that are missing or cannot be
    :raises UnexpectedPayload: if it cannot be read; the text names the field
    """
    if not isinstance(result, dict):
        raise UnexpectedPayload("the result is not an object")
    if isinstance(listed := result.get("results"), list) and len(listed) > MOST_RESULTS:
        raise UnexpectedPayload(f"{len(listed)} results in one delivery; at most {MOST_RESULTS} are read")
    if _is_delivery_report(result):
        return _parse_delivery_report(result, received_at)
    if _is_seen_report(result):
        return ReceiptReceived(_message_uuid(result), Receipt.READ, parse_time(result.get("seenAt")) or received_at)
    if result.get("event") == "MO":
        return _parse_messages_api_message(result, received_at)
    if optional_text(result, "event", most=100).startswith("TYPING_"):
        return Typing()
    if _is_conversation_event(result):
        return _parse_conversation_event(result, received_at)
    if _is_whatsapp_message(result):
        return _parse_whatsapp_message(result, received_at)
    if "messageTemplateId" in result:
        return Ignored("template change")
    raise UnexpectedPayload("neither a message nor a report: no message, event, status or seenAt")


def _is_conversation_event(result: dict[str, Any]) -> bool:
    payload = result.get("payload")
    return isinstance(payload, dict) and (isinstance(result.get("type"), str) or isinstance(payload.get("message"), dict))


def _is_inbound(event: dict[str, Any]) -> bool:
    """Tell whether a conversation event is what an end user wrote; one without a type tells by its direction."""
    if isinstance(kind := event.get("type"), str):
        return kind == INBOUND
    return bool(event["payload"].get("direction") == "INBOUND")


def _is_whatsapp_message(result: dict[str, Any]) -> bool:
    """Tell a message by what only messages have, whatever it holds: one that says nothing is still from somebody."""
    return "message" in result or ("integrationType" in result and "event" not in result)


def _is_delivery_report(result: dict[str, Any]) -> bool:
    if "event" in result:
        return result["event"] == "DELIVERY" and isinstance(result.get("status"), dict)
    return isinstance(result.get("status"), dict) and "message" not in result


def _is_seen_report(result: dict[str, Any]) -> bool:
    return result.get("event") == "SEEN" or ("event" not in result and "seenAt" in result and "message" not in result)


def _message_uuid(result: dict[str, Any]) -> UUID:
    try:
        return UUID(text_of(result, "messageId"))
    except ValueError:
        raise UnexpectedPayload("messageId is not an id of ours") from None


def _parse_delivery_report(result: dict[str, Any], received_at: datetime) -> ReceiptReceived | Ignored:
    status = object_of(result, "status")
    error = optional_object(result, "error")
    at = parse_time(result.get("doneAt")) or parse_time(result.get("sentAt")) or received_at
    if is_duplicate(status, error):
        return Ignored("the answer to a repeated send")
    if status.get("id") == DELIVERED_TO_HANDSET:
        return ReceiptReceived(_message_uuid(result), Receipt.DELIVERED, at)
    group_id = status.get("groupId")
    if not isinstance(group_id, int):
        raise UnexpectedPayload("status.groupId is missing or not a number")
    if group_id in FAILED_GROUPS:
        known = error if error.get("id") else status
        code = optional_text(known, "name", most=100)
        reason = REASONS.get(code) or optional_text(known, "description", most=200)
        return ReceiptReceived(_message_uuid(result), Receipt.FAILED, at, code, reason)
    return Ignored("on its way")


def _parse_whatsapp_message(result: dict[str, Any], received_at: datetime) -> MessageReceived:
    contact, message = optional_object(result, "contact"), result.get("message")
    addresses = _addresses(result.get("from"), contact.get("phoneNumber"), contact.get("userId"))
    if not addresses:
        raise UnexpectedPayload("from is missing or not an address")
    return MessageReceived(
        external_id=id_of(result, "messageId", most=LONGEST_ID),
        sender=_required_address(result, "to", most=LONGEST_NUMBER),
        end_user=addresses[0],
        aliases=tuple(addresses[1:]),
        name=optional_text(contact, "name", most=LONGEST_NAME),
        text=_in_group(line_of(message, WHATSAPP_KINDS), result, message, contact),
        received_at=parse_time(result.get("receivedAt")) or received_at,
    )


def _parse_conversation_event(result: dict[str, Any], received_at: datetime) -> MessageReceived | Ignored:
    """Read what a conversation at Infobip tells: an end user's message; other events are of no use here.

    https://www.infobip.com/docs/api/customer-engagement/common-assets/customer-engagement-webhooks/conversation-event-webhook
    """
    if not _is_inbound(result):
        return Ignored(f"conversation: {optional_text(result, 'type', most=100) or 'no type'}"[:50])
    payload = result["payload"]
    message = object_of(payload, "message")
    if optional_text(message, "channel", most=50).upper() not in ("", "WHATSAPP"):
        return Ignored("conversation: another channel")
    ref = InfobipMessageRef(
        conversation=optional_text(payload, "id", most=LONGEST_ID), message=optional_text(message, "id", most=LONGEST_ID)
    )
    complete = 0 < len(ref.conversation) <= LONGEST_CONVERSATION and 0 < len(ref.message) <= LONGEST_CONVERSATION
    return MessageReceived(
        external_id=id_of(message, "messageId", most=LONGEST_ID),
        sender=_required_address(message, "to", most=LONGEST_NUMBER),
        end_user=(end_user := _required_address(message, "from")),
        aliases=aliases_of(end_user),
        name=optional_text(optional_object(payload, "customer"), "name", most=LONGEST_NAME),
        text=_in_group(conversation_line("", message.get("content")), message, message.get("content")),
        received_at=parse_time(message.get("createdAt")) or parse_time(result.get("timestamp")) or received_at,
        ref=ref if complete else None,
    )


def _parse_messages_api_message(result: dict[str, Any], received_at: datetime) -> MessageReceived:
    """Read the other form: the end user is ``sender`` here, our number ``destination``, and the content is a list.

    https://www.infobip.com/docs/api/platform/messages-api/messages-api-incoming-messages
    """
    given = result.get("content")
    contents = given if isinstance(given, list) and given else [given]  # one published sample has a single object
    return MessageReceived(
        external_id=id_of(result, "messageId", most=LONGEST_ID),
        sender=_required_address(result, "destination", most=LONGEST_NUMBER),
        end_user=(end_user := _required_address(result, "sender")),
        aliases=aliases_of(end_user),
        name="",
        text=_in_group(lines_of(contents, MESSAGES_API_KINDS), result, *contents),
        received_at=parse_time(result.get("receivedAt")) or received_at,
    )


def _in_group(text: str, *sources: object) -> str:
    return bounded("\n".join(filter(None, (group_line(*sources), text))))


def _addresses(*values: object) -> list[str]:
    """Read the addresses of one end user, the first that there is before the others, each spelling once."""
    found = [address for value in values if (address := address_of(value)) and len(address) <= LONGEST_ADDRESS]
    return list(dict.fromkeys([*found, *(alias for address in found for alias in aliases_of(address))]))


def _required_address(result: dict[str, Any], field: str, *, most: int = LONGEST_ADDRESS) -> str:
    address = address_of(result.get(field))
    if not address:
        raise UnexpectedPayload(f"{field} is missing or not an address")
    if len(address) > most:
        raise UnexpectedPayload(f"{field} is longer than {most} characters")
    return address
