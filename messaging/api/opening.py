"""Opens a conversation with an end user: queues the template, asks Salesforce for a session, and says where it is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import structlog
from django.db import transaction

from connector.events import clean
from connector.http import AddressRefused, ApiError, CustomerMustAct, time_limit
from connector.phone import spellings_of
from connector.salesforce.interactions import Delivered, InteractionClient
from messaging.api import idempotency
from messaging.api.errors import Refusal
from messaging.api.limits import one_of_few
from messaging.conversations import OutboundConversation, TemplateMessage, start_outbound
from messaging.models import Conversation
from messaging.queue import lock_conversations
from messaging.sessions import Opening, open_sessions
from messaging.wake import wake
from tenants.encryption import CannotDecrypt
from tenants.models import ApiCall, Channel, Org, SalesforceConnection, Sender

log = structlog.get_logger(__name__)

CALL_SECONDS = 12.0  # for Salesforce, a login included
RETRY_SECONDS = 5


@dataclass(frozen=True, slots=True)
class PendingCall:
    """What is in the rows before Salesforce is asked; ``answer`` where the same call was answered before."""

    call: ApiCall | None
    answer: dict[str, str] | None = None
    addressed: OutboundConversation | None = None
    message: UUID | None = None


def open_conversation(org: Org, asked: Mapping[str, Any], key: str) -> dict[str, str]:
    """Queue the template, open the session, and say where.

    :raises Refusal: with what is wrong, and what to do
    """
    if len(key) > 255 or clean(key) != key:
        raise Refusal(400, "bad_key", "The Idempotency-Key is longer than 255 characters.")
    sender = org.senders.select_related("channel").filter(number__in=spellings_of(asked["sender"])).order_by("pk").first()
    if sender is None:
        raise Refusal(
            404,
            "unknown_sender",
            f"{asked['sender']} is not a sender of this org. Choose it on the set-up page “Select senders” first.",
        )
    salesforce = _salesforce(org)
    with one_of_few(org.pk):
        with transaction.atomic():
            begun = _begin(org, sender, asked, key)
        if begun.answer is not None:
            return begun.answer
        assert begun.addressed is not None
        if begun.message is not None:
            wake()
        try:
            delivered = _establish(salesforce, sender.channel, begun.addressed, asked.get("routingAttributes", {}))
            return _keep(org, begun, begun.addressed, delivered)
        except ApiError as exc:
            log.warning("conversation not opened", org=org.pk, conversation=begun.addressed.conversation_id, error=str(exc))
            raise _refusal_of(exc, begun, key) from exc
        finally:
            if begun.call is not None:
                idempotency.release(begun.call)


def _salesforce(org: Org) -> InteractionClient:
    if org.disconnected_at is not None:
        raise Refusal(409, "disconnected", "The org is disconnected. Connect it again on the set-up page.")
    try:
        return org.salesforce.client()
    except SalesforceConnection.DoesNotExist:
        raise Refusal(409, "disconnected", "The org is not connected. Connect it on the set-up page.") from None
    except (ApiError, CannotDecrypt) as exc:
        raise Refusal(502, "set_up", f"The connection cannot be used: {exc}. See the set-up page.") from exc


def _begin(org: Org, sender: Sender, asked: Mapping[str, Any], key: str) -> PendingCall:
    """Note the call, find or begin the conversation, and queue the template, all in the caller's transaction."""
    call = idempotency.claim(org, key, asked) if key else None
    if call is not None and call.answer is not None:
        return PendingCall(call, call.answer)
    template = None
    if "template" in asked and (call is None or call.message_uuid is None):
        template = _content(asked["template"])
    addressed = start_outbound(
        sender,
        asked["to"],
        name=asked.get("name", ""),
        language=asked.get("language", "").lower().replace("_", "-"),
        template=template,
    )
    message = template.uuid if template else call.message_uuid if call else None
    if call is not None and template is not None:
        idempotency.keep_template(call, template.uuid)
    return PendingCall(call, None, addressed, message)


def _content(template: Mapping[str, Any]) -> TemplateMessage:
    """Put a template into Infobip's form, and into words for people."""
    data = template.get("templateData") or {"body": {"placeholders": template.get("placeholders", [])}}
    content = {"templateName": template["name"], "templateData": data, "language": template["language"]}
    values = ", ".join(data["body"]["placeholders"])
    text = f"Template {template['name']} ({template['language']}){': ' if values else ''}{values}"
    return TemplateMessage(uuid4(), content, text)


def _establish(
    salesforce: InteractionClient, channel: Channel, addressed: OutboundConversation, routing_attributes: Mapping[str, str]
) -> Delivered:
    with time_limit(CALL_SECONDS):
        return salesforce.establish(
            context=channel.authorization_context,
            channel_address=channel.channel_address_identifier,
            end_user=addressed.subject,
            routing_attributes=routing_attributes,
        )


def _keep(org: Org, begun: PendingCall, addressed: OutboundConversation, delivered: Delivered) -> dict[str, str]:
    """Write down what Salesforce says of the conversation, and that reps have it now; give the answer."""
    with transaction.atomic():
        lock_conversations([addressed.conversation_id])
        known = Conversation.objects.get(org=org, pk=addressed.conversation_id)
        identifier = clean(delivered.conversation) or known.identifier
        session = clean(delivered.session)[:18]
        open_sessions([Opening(org.pk, known.pk, identifier, session)])
        answer = {"conversationId": identifier, "sessionId": session}
        if begun.message is not None:
            answer["messageId"] = str(begun.message)
        elif not addressed.window_open:
            answer["warning"] = (
                "The end user has not written to this sender within 24 hours: what a rep writes does not reach them "
                "before they do. Give a template, or let a rep send one."
            )
        if begun.call is not None:
            idempotency.keep_answer(begun.call, answer)
    log.info("conversation opened", org=org.pk, conversation=addressed.conversation_id, message=answer.get("messageId"))
    return answer


def _refusal_of(exc: ApiError, begun: PendingCall, key: str) -> Refusal:
    """Say what Salesforce's refusal means for the caller, and what becomes of a template that is queued."""
    on_its_way = ""
    if begun.message is not None:
        on_its_way = " The template goes out all the same; " + (
            "sent again with the same Idempotency-Key, this call sends no second one."
            if key
            else "leave it out when you send this again."
        )
    facts = f"{clean(exc.message)}{f' (code {clean(exc.code)})' if exc.code else ''}"
    if isinstance(exc, CustomerMustAct | AddressRefused):
        words = f"Salesforce does not take it for the org's set-up: {facts}. The doctor on the set-up page says what to do."
        return Refusal(502, "set_up", words + on_its_way, message=begun.message)
    if not exc.retryable:
        return Refusal(422, "refused", f"Salesforce refuses this: {facts}.{on_its_way}", message=begun.message)
    words = f"Salesforce cannot be reached now: {facts}. Send this again later.{on_its_way}"
    wait = max(exc.retry_after or 0, RETRY_SECONDS)
    return Refusal(503, "unavailable", words, retry_after=wait, message=begun.message)
