"""Infobip's WhatsApp channel API: https://www.infobip.com/docs/api/channels/whatsapp"""

import re
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from connector.http import (
    Answer,
    ApiClient,
    ApiError,
    AuthenticationFailed,
    Call,
    CustomerMustAct,
    RateLimited,
    RequestRejected,
    ServiceUnavailable,
    at_once,
    check_address,
    json_content,
    retry_after,
    says_nothing,
)

HOSTS = re.compile(r"([a-z0-9-]+\.)*api\.infobip\.com")
TEXT_LIMIT = 4096

# https://www.infobip.com/docs/essentials/api-essentials/response-status-and-error-codes
FAILED_GROUPS = {2, 4, 5}  # UNDELIVERABLE, EXPIRED, REJECTED
DUPLICATE_STATUS = 23  # REJECTED_DUPLICATE_MESSAGE_ID: an earlier try of the same message was taken
DUPLICATE_ERROR = 7280  # EC_DUPLICATE_REQUEST: likewise


class InfobipClient(ApiClient):
    """One Infobip account.

    :param base_url: the account's own address, such as ``https://xyz.api.infobip.com``
    """

    service = "Infobip"
    largest_answer = 8 << 20  # a page of a transcript
    settings_in_headers = {"Authorization": "the API key"}

    def __init__(self, *, base_url: str, api_key: str, allow_local: bool) -> None:
        address = check_address(base_url, service=self.service, hosts=HOSTS, allow_local=allow_local)
        super().__init__(address, allow_local=allow_local)
        self._headers = {"Authorization": f"App {api_key}", "Accept": "application/json"}

    def text_call(self, *, sender: str, to: str, text: str, message_uuid: UUID, notify_url: str) -> Call[None]:
        """Build the sending of a text; reports about it come to ``notify_url``.

        https://www.infobip.com/docs/api/channels/whatsapp/whatsapp-outbound-messages/send-whatsapp-text-message
        """
        body = _message(sender, to, {"text": text}, message_uuid, notify_url)
        return self._sending("/whatsapp/1/message/text", body, _read_text)

    send_text = at_once(text_call)

    def template_call(
        self, *, sender: str, to: str, content: Mapping[str, Any], message_uuid: UUID, notify_url: str
    ) -> Call[None]:
        """Build the sending of a template, which arrives also outside the 24-hour window.

        https://www.infobip.com/docs/api/channels/whatsapp/whatsapp-outbound-messages/send-whatsapp-template-message

        :param content: Infobip's ``templateName``, ``language`` and ``templateData``
        """
        body = {"messages": [_message(sender, to, dict(content), message_uuid, notify_url)]}
        return self._sending("/whatsapp/1/message/template", body, _read_template)

    send_template = at_once(template_call)

    def _sending(self, path: str, body: Mapping[str, Any], read: Callable[[Answer], None]) -> Call[None]:
        content = json_content(body)
        return Call(self, "POST", path, {**self._headers, "Content-Type": content.type}, content.body, read)

    def call(self, method: str, path: str, json: object | None = None) -> Answer:
        """Make one call as this account."""
        return self.request(method, path, headers=self._headers, json=json)


def is_duplicate(status: dict[str, Any], error: dict[str, Any]) -> bool:
    """Tell whether Infobip refuses a repetition because it took the message before, which is a success."""
    return status.get("id") == DUPLICATE_STATUS or error.get("id") == DUPLICATE_ERROR


def _message(sender: str, to: str, content: Mapping[str, Any], message_uuid: UUID, notify_url: str) -> dict[str, Any]:
    return {
        "from": sender,
        "to": to,
        "messageId": str(message_uuid),
        "content": content,
        "notifyUrl": notify_url,
        # both are on where nothing is said, and would rewrite the links of a rep's text
        "urlOptions": {"shortenUrl": False, "trackClicks": False},
    }


def _read_text(answer: Answer) -> None:
    if answer.status != 200:
        raise error_of(answer)
    _check_taken(answer, answer.body)


def _read_template(answer: Answer) -> None:
    if answer.status != 200:
        raise error_of(answer)
    listed = answer.body.get("messages")
    _check_taken(answer, listed[0] if isinstance(listed, list) and listed else None)


def _check_taken(answer: Answer, message: object) -> None:
    """Read what became of a message: a 200 may still carry the group REJECTED or UNDELIVERABLE.

    :raises RequestRejected: if it was refused
    :raises ServiceUnavailable: if nothing is said of a message and its status; in doubt, for it may have been taken
    """
    message = message if isinstance(message, dict) else {}
    status = message.get("status")
    status = status if isinstance(status, dict) else {}
    if is_duplicate(status, {}):
        return
    group_id, message_id = status.get("groupId"), message.get("messageId")
    if isinstance(group_id, int) and group_id in FAILED_GROUPS:
        reason = str(status.get("description") or status.get("name") or "refused")[:200]
        raise RequestRejected("Infobip", reason, status=200, code=str(status.get("name", ""))[:100])
    if not isinstance(group_id, int) or not isinstance(message_id, str) or not message_id:
        raise says_nothing("Infobip", answer)


def error_of(answer: Answer) -> ApiError:
    """Read an error in either of the two formats.

    The older one is ``requestError.serviceException``, the newer one ``errorCode`` and ``description``:
    https://www.infobip.com/docs/essentials/api-essentials/response-status-and-error-codes
    """
    outer = answer.body.get("requestError")
    inner = outer.get("serviceException") if isinstance(outer, dict) else None
    if isinstance(inner, dict):
        code, message = inner.get("messageId"), inner.get("text")
        violations = inner.get("validationErrors")
        fields = sorted(violations) if isinstance(violations, dict) else []
    else:
        code, message = answer.body.get("errorCode"), answer.body.get("description")
        violations = answer.body.get("violations")
        listed = violations if isinstance(violations, list) else []
        fields = sorted(str(each.get("property")) for each in listed if isinstance(each, dict))
    text = (message if isinstance(message, str) else "") or "refused without a reason"
    if fields:
        text = f"{text}: {', '.join(fields)}"

    if answer.status < 300:  # of success, but not the promised one
        return says_nothing("Infobip", answer)
    kind: type[ApiError]
    if answer.status < 400:
        kind = CustomerMustAct  # the base URL is not the account's; no redirect is followed, which could take the key along
    elif answer.status in (401, 403):
        kind = AuthenticationFailed
    elif answer.status == 429:
        kind = RateLimited
    elif answer.status == 408 or answer.status >= 500:
        kind = ServiceUnavailable
    else:
        kind = RequestRejected
    return kind(
        "Infobip",
        text[:300],
        status=answer.status,
        code=str(code or "")[:100],
        # 503 and 429 say that the request was not taken; another 5xx does not
        in_doubt=kind is ServiceUnavailable and answer.status != 503,
        retry_after=retry_after(answer.headers),
    )
