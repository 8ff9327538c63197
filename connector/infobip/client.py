"""Infobip's WhatsApp channel API: https://www.infobip.com/docs/api/channels/whatsapp"""

import re
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from connector.http import (
    Answer,
    ApiClient,
    ApiError,
    AuthenticationFailed,
    RateLimited,
    RequestRejected,
    ServiceUnavailable,
    check_address,
    retry_after,
)

HOSTS = re.compile(r"([a-z0-9-]+\.)+infobip\.com")
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

    def __init__(self, *, base_url: str, api_key: str, allow_local: bool) -> None:
        address = check_address(base_url, service=self.service, hosts=HOSTS, allow_local=allow_local)
        super().__init__(address, allow_local=allow_local)
        self._headers = {"Authorization": f"App {api_key}", "Accept": "application/json"}

    def send_text(self, *, sender: str, to: str, text: str, message_uuid: UUID, notify_url: str) -> None:
        """Send a text; reports about it come to ``notify_url``.

        https://www.infobip.com/docs/api/channels/whatsapp/whatsapp-outbound-messages/send-whatsapp-text-message

        :raises ApiError: the member of the family says whether and when to send it again
        """
        body = {
            "from": sender,
            "to": to,
            "messageId": str(message_uuid),
            "content": {"text": text},
            "notifyUrl": notify_url,
            # both are on where nothing is said, and would rewrite the links of a rep's text
            "urlOptions": {"shortenUrl": False, "trackClicks": False},
        }
        answer = self.request("POST", "/whatsapp/1/message/text", headers=self._headers, json=body)
        if answer.status != 200:
            raise error_of(answer)
        _refuse_if_rejected(answer.body)

    def send_template(
        self, *, sender: str, to: str, content: Mapping[str, Any], message_uuid: UUID, notify_url: str
    ) -> None:
        """Send a template, which arrives also outside the 24-hour window.

        https://www.infobip.com/docs/api/channels/whatsapp/whatsapp-outbound-messages/send-whatsapp-template-message

        :param content: Infobip's ``templateName``, ``language`` and ``templateData``
        :raises ApiError: the member of the family says whether and when to send it again
        """
        message = {
            "from": sender,
            "to": to,
            "messageId": str(message_uuid),
            "content": dict(content),
            "notifyUrl": notify_url,
            "urlOptions": {"shortenUrl": False, "trackClicks": False},
        }
        answer = self.request("POST", "/whatsapp/1/message/template", headers=self._headers, json={"messages": [message]})
        if answer.status != 200:
            raise error_of(answer)
        listed = answer.body.get("messages")
        _refuse_if_rejected(listed[0] if isinstance(listed, list) and listed and isinstance(listed[0], dict) else {})

    def call(self, method: str, path: str, json: object | None = None) -> Answer:
        """Make one call as this account."""
        return self.request(method, path, headers=self._headers, json=json)


def is_duplicate(status: dict[str, Any], error: dict[str, Any]) -> bool:
    """Tell whether Infobip refuses a repetition because it took the message before, which is a success."""
    return status.get("id") == DUPLICATE_STATUS or error.get("id") == DUPLICATE_ERROR


def _refuse_if_rejected(message: Mapping[str, Any]) -> None:
    """A 200 may still carry the group REJECTED or UNDELIVERABLE."""
    status = message.get("status")
    if not isinstance(status, dict) or is_duplicate(status, {}):
        return
    group_id = status.get("groupId")
    if isinstance(group_id, int) and group_id in FAILED_GROUPS:
        reason = str(status.get("description") or status.get("name") or "refused")[:200]
        raise RequestRejected("Infobip", reason, status=200, code=str(status.get("name", ""))[:100])


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

    kind: type[ApiError]
    if answer.status in (401, 403):
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
