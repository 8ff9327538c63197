"""The Interaction Service: what end users write enters Salesforce here, and what became of a rep's message.

https://developer.salesforce.com/docs/service/interaction-service-api/references
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

from connector.events import Receipt
from connector.http import (
    Answer,
    ApiClient,
    ApiError,
    AuthenticationFailed,
    Call,
    Content,
    CustomerMustAct,
    RateLimited,
    RequestRejected,
    ServiceUnavailable,
    at_once,
    check_address,
    json_content,
    multipart_content,
    retry_after,
    says_nothing,
)
from connector.salesforce.auth import SCRT_HOSTS, TokenSource

T = TypeVar("T")

TEXT_LIMIT = 4000  # not published; WhatsApp's 4,096 fit all samples, so a little less is safe
MOST_ACKNOWLEDGEMENTS = 25
MOST_PAST_ENTRIES = 5  # by the documentation; the schema says 25
OLDEST_PAST_ENTRY = timedelta(hours=24)
HISTORY_REFUSED = {"10057", "10063", "10078", "10099"}
NOT_UNIQUE = "10073"  # entries that Salesforce has already

# Classes of error codes: https://github.com/salesforce-misc/interaction-service-apis (ERRORCODES.md). HTTP statuses per
# code are not published, so the code decides first.
TOKEN_REFUSED = {10004}
CUSTOMER_MUST_ACT = {
    *(10001, 10002, 10003, 10005, 10006, 10016, 10017, 10025, 10026, 10031, 10035, 10052),
    *(10069, 10070, 10093, 10099, 15102, 15105),
}
TRANSIENT = {500, 10019, 10055, 10056, 10094, 20002, 20004}


@dataclass(frozen=True, slots=True)
class Delivered:
    """Where an interaction arrived; both are empty where Salesforce did not say."""

    conversation: str
    session: str


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """One state that a rep's message reached; ``uuid`` is the id of this acknowledgement itself."""

    entry: str
    receipt: Receipt
    at: datetime
    uuid: UUID


@dataclass(frozen=True, slots=True)
class PastEntry:
    """Something that was said before the session."""

    uuid: UUID
    by_chatbot: bool
    text: str
    at: datetime


class HistoryRefused(RequestRejected):
    """Salesforce takes no history for this org or channel: it grants that to some products only."""


class InteractionClient(ApiClient):
    """One org's Interaction Service.

    :param scrt_url: the org's SCRT host, such as ``https://acme.my.salesforce-scrt.com``
    :param org_id: of 15 or 18 characters; the service takes the short form only
    """

    service = "Salesforce"
    tokens: TokenSource
    request_id_header = "RequestId"  # each request is to have a fresh one, a repetition too
    settings_in_headers = {"AuthorizationContext": "the authorization context", "Authorization": "the access token"}

    def __init__(self, *, scrt_url: str, org_id: str, tokens: TokenSource, allow_local: bool) -> None:
        address = check_address(scrt_url, service=self.service, hosts=SCRT_HOSTS, allow_local=allow_local)
        super().__init__(address, allow_local=allow_local)
        self.org_id, self.tokens = org_id[:15], tokens

    def text_call(
        self,
        *,
        context: str,
        channel_address: str,
        end_user: str,
        text: str,
        message_uuid: UUID,
        at: datetime,
        routing_attributes: Mapping[str, str] | None = None,
    ) -> Call[Delivered]:
        """Build the adding of an end user's text to the conversation; Salesforce opens a session where none is open.

        https://developer.salesforce.com/docs/service/interaction-service-api/references/interaction-service-reference/interaction-type-message.html

        :param routing_attributes: values of the channel's custom parameters, for the routing of a session that this opens
        """
        entry = _message_entry(message_uuid, text)
        content = _interaction(channel_address, end_user, at, entry, routing_attributes)
        return self._call("/api/v1/interactions", context, content, _read_delivered)

    send_text = at_once(text_call)

    def establish_call(
        self, *, context: str, channel_address: str, end_user: str, routing_attributes: Mapping[str, str] | None = None
    ) -> Call[Delivered]:
        """Build the opening of a session with an end user who has not written; one that is open already is found.

        https://developer.salesforce.com/docs/service/interaction-service-api/references/interaction-service-reference/api-conversation.html

        :param routing_attributes: values of the channel's custom parameters, for the routing
        """
        body = {
            "channelAddressIdentifier": channel_address,
            "participants": [{"subject": end_user, "role": "EndUser", "appType": "custom"}],
            **({"routingAttributes": dict(routing_attributes)} if routing_attributes else {}),
        }
        # JSON, though a page names multipart: so say the schema and the samples
        return self._call("/api/v1/conversation", context, json_content(body), _read_delivered)

    establish = at_once(establish_call)

    def failure_call(
        self,
        *,
        context: str,
        channel_address: str,
        end_user: str,
        entry: str,
        code: str,
        reason: str,
        report_uuid: UUID,
    ) -> Call[None]:
        """Build the report that a rep's message did not reach the end user.

        Salesforce records it; it promises no visible warning.

        https://developer.salesforce.com/docs/service/interaction-service-api/references/interaction-service-reference/interaction-type-message-delivery-failed.html
        """
        failure = {
            "id": str(report_uuid),
            "entryType": "MessageDeliveryFailed",
            "failedConversationEntryIdentifier": entry,
            "recipient": {"appType": "custom", "subject": end_user, "role": "EndUser"},
            "errorCode": code,
            "errorMessage": reason,
        }
        content = _interaction(channel_address, end_user, datetime.now(UTC), failure)
        return self._call("/api/v1/interactions", context, content, _read_taken)

    report_failure = at_once(failure_call)

    def acknowledge_call(
        self, *, context: str, conversation: str, end_user: str, acknowledgements: Sequence[Acknowledgement]
    ) -> Call[None]:
        """Build the report of what became of a rep's messages, at most 25 at a time.

        https://developer.salesforce.com/docs/service/interaction-service-api/references/interaction-service-reference/api-acknowledgment.html
        """
        words = {Receipt.DELIVERED: "Delivered", Receipt.READ: "Read"}
        body = {
            "conversationIdentifier": conversation,
            "sender": {"appType": "custom", "subject": end_user, "role": "EndUser"},
            "acknowledgements": [
                {
                    # a text in the published schema, a number in its examples; the examples are what is known to work
                    "acknowledgementTimestamp": _milliseconds(each.at),
                    "acknowledgementType": words[each.receipt],
                    "acknowledgedConversationEntryIdentifier": each.entry,
                    "acknowledgmentCreatedConversationEntryIdentifier": str(each.uuid),
                }
                for each in acknowledgements
            ],
        }
        return self._call("/api/v1/acknowledgement", context, json_content(body), _read_acknowledged)

    acknowledge = at_once(acknowledge_call)

    def history_call(
        self,
        *,
        context: str,
        channel_address: str,
        end_user: str,
        end_user_name: str,
        chatbot_name: str,
        entries: Sequence[PastEntry],
        began: datetime,
        ended: datetime,
        session: str,
    ) -> Call[Delivered]:
        """Build the adding of what was said before to the conversation, at most five entries at a time.

        https://developer.salesforce.com/docs/service/interaction-service-api/references/interaction-service-reference/conversation-history.html

        :param began: when both came; :param ended: when the chatbot went, later than its last entry
        :param session: to which it belongs; empty: a new one
        The call raises ``HistoryRefused`` if this org, or this conversation, has no history.
        """
        people = {
            False: {"subject": end_user, "role": "EndUser", "appType": "custom"},
            True: {"subject": "infobip-chatbot", "role": "Chatbot", "appType": "custom"},
        }
        times = {"joinedTime": _milliseconds(began)}
        body = {
            "channelAddressIdentifier": channel_address,
            "conversationParticipants": [
                {"displayName": end_user_name or end_user, "participant": people[False], **times},
                {
                    "displayName": chatbot_name,
                    "participant": people[True],
                    **times,
                    "leftTime": _milliseconds(ended),
                },
            ],
            "conversationEntries": [
                {
                    "clientTimestamp": _milliseconds(entry.at),
                    "sender": people[entry.by_chatbot],
                    "entryPayload": _message_entry(entry.uuid, entry.text),
                }
                for entry in entries
            ],
            "messagingSession": {
                "messagingSessionRequestType": "AttachMessagingSession",
                "payload": {"sessionId": session},
            }
            if session
            else {
                "messagingSessionRequestType": "EstablishMessagingSession",
                "payload": {"startTime": _milliseconds(began)},
            },
        }
        extra = {"AuthorizationContextType": "ConversationChannelDefinition"}
        return self._call("/api/v1/conversationHistory", context, json_content(body), _read_history, extra)

    import_history = at_once(history_call)

    def _call(
        self,
        path: str,
        context: str,
        content: Content,
        read: Callable[[Answer], T],
        extra: Mapping[str, str] | None = None,
    ) -> Call[T]:
        headers = {
            "OrgId": self.org_id,
            "AuthorizationContext": context,
            "Accept": "application/json",
            "Content-Type": content.type,
            **(extra or {}),
        }
        return Call(self, "POST", path, headers, content.body, read)


def _interaction(
    channel_address: str,
    end_user: str,
    at: datetime,
    entry: Mapping[str, Any],
    routing_attributes: Mapping[str, str] | None = None,
) -> Content:
    body = {
        "to": channel_address,
        "from": end_user,
        **({"routingAttributes": dict(routing_attributes)} if routing_attributes else {}),
        "interactions": [{"timestamp": _milliseconds(at), "interactionType": "EntryInteraction", "payload": entry}],
    }
    # multipart even without a file, its part typed as JSON: there is no plain JSON form
    return multipart_content({"json": (None, json.dumps(body).encode(), "application/json")})


def _message_entry(message_uuid: UUID, text: str) -> dict[str, Any]:
    message = {
        "messageType": "StaticContentMessage",
        "id": str(message_uuid),  # must equal the entry's (error 10060)
        "staticContent": {"formatType": "Text", "text": text},
    }
    return {"id": str(message_uuid), "entryType": "Message", "abstractMessage": message}


# what the published schemas promise with a status of success is little: each of these is at least one field that no
# gateway's page has, and without it nobody knows what became of the request


def _read_delivered(answer: Answer) -> Delivered:
    _check_taken(answer, promised="conversationIdentifier")
    listed = answer.body.get("workItemIds")
    session = answer.body.get("messagingSessionId") or (listed[0] if isinstance(listed, list) and listed else "")
    return Delivered(_short_text(answer.body.get("conversationIdentifier")), _short_text(session))


def _read_taken(answer: Answer) -> None:
    _check_taken(answer, promised="conversationIdentifier")


def _read_acknowledged(answer: Answer) -> None:
    _check_taken(answer)


def _read_history(answer: Answer) -> Delivered:
    try:
        return _read_delivered(answer)
    except ApiError as exc:
        if exc.code in HISTORY_REFUSED:
            raise HistoryRefused(exc.service, exc.message, status=exc.status, code=exc.code) from exc
        raise


def _check_taken(answer: Answer, *, promised: str = "") -> None:
    """Look whether an answer says that the request was taken: by ``success``, or where that is absent by an id.

    :raises ApiError: if it was refused, or if nothing is said, which is in doubt
    """
    success = answer.body.get("success")
    if not 200 <= answer.status < 300 or success is False or answer.body.get("errorDetail"):
        raise _error(answer)
    if success is not True and not (success is None and _short_text(answer.body.get(promised))):
        raise says_nothing("Salesforce", answer)


def _error(answer: Answer) -> ApiError:
    """Find the class of an error: the code in the body first, the status only without one."""
    detail = answer.body.get("errorDetail")
    detail = detail if isinstance(detail, dict) else answer.body
    code = detail.get("code")
    code = int(code) if isinstance(code, int | str) and str(code).isdecimal() else None
    message = _short_text(detail.get("message")) or "refused without a reason"
    limited = answer.status == 429 or "rate limit exceeded" in message.lower()

    kind: type[ApiError]
    if limited:
        kind = RateLimited
    elif code in TOKEN_REFUSED:
        kind = AuthenticationFailed
    elif code in TRANSIENT:
        kind = ServiceUnavailable
    elif code in CUSTOMER_MUST_ACT:
        kind = CustomerMustAct
    elif code is not None and answer.status < 500:
        kind = RequestRejected
    elif answer.status in (401, 403):
        kind = AuthenticationFailed
    elif answer.status in (400, 413, 415, 422):
        kind = RequestRejected
    elif answer.status == 404 or 300 <= answer.status < 400:
        kind = CustomerMustAct  # the SCRT host is not the org's
    else:
        kind = ServiceUnavailable
    return kind(
        "Salesforce",
        message,
        status=answer.status,
        code="" if code is None else str(code),
        request_id=answer.request_id,
        in_doubt=kind is ServiceUnavailable and answer.status != 503,
        retry_after=retry_after(answer.headers),
    )


def _short_text(value: object) -> str:
    return value[:255] if isinstance(value, str) else ""


def _milliseconds(at: datetime) -> int:
    return int(at.timestamp() * 1000)
