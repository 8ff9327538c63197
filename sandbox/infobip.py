"""Infobip as the connector sees it: sends, reports and signed webhooks: https://www.infobip.com/docs/api/channels/whatsapp"""

import asyncio
import functools
import hmac
import json
import re
import time
import uuid
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

import aiohttp
from aiohttp import web

from sandbox.answers import LARGEST_BODY, answer, finish, hang
from sandbox.chatbot import Chatbot
from sandbox.clock import Clock
from sandbox.infobip_account import Target
from sandbox.infobip_setup import ERRORS, InfobipSetup, caller, check_text, refuse
from sandbox.journal import now_ms
from sandbox.wire import Row, is_final
from sandbox.world import Account, Phone, PhoneMessage, World

WEBHOOK_TIMEOUT = 10.0  # seconds
SENDING = {"message:send", "whatsapp:message:send", "whatsapp:manage"}  # scopes, of which one is enough
MOST_RETRIES = 24  # their waits add up to three days
WINDOW = 24 * 3600 * 1000  # milliseconds
ENROUTE = {
    "groupId": 1,
    "groupName": "PENDING",
    "id": 7,
    "name": "PENDING_ENROUTE",
    "description": "Message sent to next instance",
}
DELIVERED = {
    "groupId": 3,
    "groupName": "DELIVERED",
    "id": 5,
    "name": "DELIVERED_TO_HANDSET",
    "description": "Message delivered to handset",
}
UNDELIVERED = {
    "groupId": 2,
    "groupName": "UNDELIVERABLE",
    "id": 9,
    "name": "UNDELIVERABLE_NOT_DELIVERED",
    "description": "Message sent not delivered",
}
DUPLICATE = {
    "groupId": 5,
    "groupName": "REJECTED",
    "id": 23,
    "name": "REJECTED_DUPLICATE_MESSAGE_ID",
    "description": "Duplicate message id",
}
NO_CREDITS = {
    "groupId": 5,
    "groupName": "REJECTED",
    "id": 12,
    "name": "REJECTED_NOT_ENOUGH_CREDITS",
    "description": "Not enough credits",
}
NO_ERROR = {"groupId": 0, "groupName": "OK", "id": 0, "name": "NO_ERROR", "description": "No Error", "permanent": False}
NO_SESSION = {
    "groupId": 1,
    "groupName": "HANDSET_ERRORS",
    "id": 7010,
    "name": "EC_NO_SESSION",
    "description": "No session",
    "permanent": True,
}


def instant(at: float) -> str:
    """Write a time as Infobip does, with a zone that has no colon."""
    return datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "+0000"


def sign(secret: str, body: bytes, digest: str = "sha256") -> str:
    """Return the signature header's value over exactly the bytes that are sent."""
    return f"{digest.upper()}={hmac.new(secret.encode(), body, digest).hexdigest()}"


def signature_of(target: Target, body: bytes, quality: str) -> dict[str, str]:
    """Return the header that proves who is posting, as the address's settings and a test will have it."""
    if quality == "none" or target.security is None or target.security.type != "HMAC":
        return {}
    secret, algorithm = target.security.credentials["secretKey"], target.security.credentials["algorithm"]
    digest = algorithm.removeprefix("HMAC_").replace("_", "").lower()
    return {"X-Hub-Signature": sign(secret if quality == "good" else secret + "?", body, digest)}


def is_template(body: dict[str, Any]) -> bool:
    """Tell a template from a text."""
    return isinstance(body.get("content"), dict) and "templateName" in body["content"]


def text_of_send(body: dict[str, Any]) -> Any:
    """Return what a send says: a text, or the name of a template."""
    content = body.get("content")
    return content.get("templateName" if is_template(body) else "text") if isinstance(content, dict) else None


def find_template_violations(content: dict[str, Any]) -> dict[str, list[str]]:
    """Check a template's content against the published limits."""
    found: dict[str, list[str]] = {}
    check_text(found, "content.templateName", content.get("templateName"), 1, 512, required=True)
    if "content.templateName" not in found and not re.fullmatch("[a-z0-9_]+", content["templateName"]):
        found["content.templateName"] = ["must hold lower case letters, digits and underscores only"]
    check_text(found, "content.language", content.get("language"), 1, 20, required=True)
    data = content.get("templateData")
    body = data.get("body") if isinstance(data, dict) else None
    values = body.get("placeholders") if isinstance(body, dict) else None
    if not isinstance(values, list) or not all(isinstance(each, str) and each for each in values):
        found["content.templateData.body.placeholders"] = ["must hold texts, none of them empty"]
    for n, button in enumerate(data.get("buttons") or [] if isinstance(data, dict) else []):
        if not isinstance(button, dict) or not isinstance(button.get("type"), str):
            found[f"content.templateData.buttons[{n}].type"] = ["must not be null"]
    return found


def find_violations(body: dict[str, Any], senders: set[str], *, template: bool) -> dict[str, list[str]]:
    """Check a message against the published limits; fields that are not published are let pass."""
    found: dict[str, list[str]] = {}
    check_length = functools.partial(check_text, found)
    content = body.get("content")
    check_length("from", body.get("from"), 1, 24, required=True)
    check_length("to", body.get("to"), 1, 150, required=True)
    for name, most in (
        ("messageId", 200),
        ("callbackData", 4000),
        ("notifyUrl", 2048),
        ("entityId", 255),
        ("applicationId", 255),
    ):
        check_length(name, body.get(name), 0, most)
    if "from" not in found and body["from"] not in senders:
        found["from"] = ["sender is not registered"]
    if not isinstance(content, dict):
        return found | {"content": ["must not be null"]}
    notify_url = body.get("notifyUrl")
    if notify_url and "notifyUrl" not in found and not notify_url.startswith(("http://", "https://")):
        found["notifyUrl"] = ["must be a URL"]
    if template:
        return found | find_template_violations(content)
    check_length("content.text", content.get("text"), 1, 4096, required=True)
    preview = content.get("previewUrl", False)
    if not isinstance(preview, bool):
        found["content.previewUrl"] = ["must be a boolean"]
    elif (
        preview and "content.text" not in found and not any(scheme in content["text"] for scheme in ("http://", "https://"))
    ):
        found["content.previewUrl"] = ["the text must contain a URL"]
    context = body.get("context")
    if context is not None and not (isinstance(context, dict) and isinstance(context.get("replyToMessageId"), str)):
        found["context.replyToMessageId"] = ["must not be null"]
    return found


class Infobip:
    """The API on one port, and the webhooks that go out."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.clock = Clock()
        self.chatbot = Chatbot(world, self)
        self.retry_scale = 1.0
        self.reports: dict[str, Any] = {
            "delivered": 0.3,
            "seen": 0.5,
            "auto": True,
            "form": "whatsapp",
            "toMessage": "unsigned",  # how they come to a message's own notifyUrl: unsigned, signed or not at all
            "toSubscription": False,  # whether subscriptions tell of such a message as well
        }
        self._sent_ids: set[tuple[str, str]] = set()  # API key and messageId
        self._clock_turned = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._session: aiohttp.ClientSession | None = None

    def application(self) -> web.Application:
        """Return the web application."""
        app = web.Application(client_max_size=LARGEST_BODY)
        app.router.add_post("/whatsapp/1/message/text", self.send_text)
        self.chatbot.add_routes(app)
        app.router.add_post("/whatsapp/1/message/template", self.send_template)
        InfobipSetup(self.world).add_routes(app)
        app.router.add_route("*", "/{path:.*}", self.unknown)
        return app

    async def close(self) -> None:
        """Stop everything that is under way."""
        for task in self._tasks:
            task.cancel()
        if self._session:
            await self._session.close()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run something in the background."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def stamp(self, at: float) -> str:
        """Write a time as Infobip's clock told it."""
        return instant(self.clock.tell(at))

    def turn_clock(self, scale: float) -> None:
        """Multiply the waits of retries, also those that have begun."""
        self.retry_scale = scale
        self._clock_turned.set()
        self._clock_turned = asyncio.Event()

    # sends

    async def unknown(self, request: web.Request) -> web.StreamResponse:
        """Answer anything else."""
        return refuse(404 if caller(self.world, request) else 401)

    async def send_text(self, request: web.Request) -> web.StreamResponse:
        """Send a text: https://www.infobip.com/docs/api/channels/whatsapp/whatsapp-outbound-messages/send-whatsapp-text-message"""
        return await self.take(request, template=False)

    async def send_template(self, request: web.Request) -> web.StreamResponse:
        """Send a template, one in a call: https://www.infobip.com/docs/api/channels/whatsapp/whatsapp-outbound-messages/send-whatsapp-template-message"""
        return await self.take(request, template=True)

    async def take(self, request: web.Request, *, template: bool) -> web.StreamResponse:
        """Check a send, and carry it to the phone."""
        arrived = now_ms()
        raw = await request.read()
        account = caller(self.world, request)
        org_id = account.org.id if account else None
        await self.world.faults.wait("send", org_id)
        fault = self.world.faults.take("send", org_id) if self.world.faults.active else None
        try:
            body = json.loads(raw)
        except ValueError:
            body = None
        if template:  # the one endpoint whose messages come in a list
            listed = body.get("messages") if isinstance(body, dict) else None
            body = listed[0] if isinstance(listed, list) and len(listed) == 1 else None
        if fault and fault.what in ("status", "timeout_before"):
            refusal = fault.status if fault.what == "status" else None
            words = f"Infobip answers {refusal}" if refusal else "Infobip does not answer"
            self.note_failure(account, body, words, over=refusal is not None and is_final(refusal))
            self.journal_send(account, body, arrived, status=refusal, fault=fault.what)
            if refusal is None:
                await hang()
            return refuse(fault.status)
        if account is None:
            return self.refuse_send(account, body, arrived, 401, None)
        if not account.setup.scopes & SENDING:
            return self.refuse_send(account, body, arrived, 403, None)
        if "application/json" not in request.headers.get("Accept", ""):
            # several products would answer in XML
            return self.refuse_send(account, body, arrived, 400, {"Accept": ["must be application/json"]})
        if request.content_type != "application/json" or not isinstance(body, dict):
            return self.refuse_send(account, body, arrived, 400, {"body": ["cannot be read"]})
        if violations := find_violations(body, account.senders, template=template):
            return self.refuse_send(account, body, arrived, 400, violations)
        message_id = body.get("messageId") or str(uuid.uuid4())
        repeated = (account.api_key, message_id) in self._sent_ids
        status = ENROUTE
        if fault and fault.what == "success_false":
            status = NO_CREDITS
            self.note_failure(account, body, "Infobip rejects it: not enough credits", over=True)
        elif repeated and self.world.faults.take("send", org_id, "duplicate"):
            status = DUPLICATE
        else:
            self._sent_ids.add((account.api_key, message_id))
            self.spawn(self.carry(account, body, message_id, arrived, repeated=repeated))
        self.journal_send(
            account,
            body | {"messageId": message_id},
            arrived,
            status=200,
            error=None if status is ENROUTE else status["name"],
            repeated=repeated or None,
            fault=fault and fault.what,
        )
        taken = {"to": body["to"], "messageCount": 1, "messageId": message_id, "status": status}
        return await finish(
            request,
            answer(200, {"messages": [taken], "bulkId": str(uuid.uuid4())} if template else taken),
            fault,
        )

    def refuse_send(
        self, account: Account | None, body: Any, arrived: float, status: int, violations: dict[str, list[str]] | None
    ) -> web.Response:
        """Refuse a send and write it down."""
        error = json.dumps(violations) if violations else ERRORS[status][0]
        self.journal_send(account, body, arrived, kind="refused", status=status, error=error)
        words = f"Infobip answers {status}: {error}" if violations else f"Infobip answers {status}"
        self.note_failure(account, body, words, over=is_final(status))
        return refuse(status, violations)

    def journal_send(
        self, account: Account | None, body: Any, arrived: float, *, kind: str = "send", **fields: Any
    ) -> None:
        """Write down a send with what can be read of it."""
        body = body if isinstance(body, dict) else {}
        self.world.journal.write(
            "infobip",
            kind,
            org=account and account.org.id,
            **{"from": body.get("from"), "to": body.get("to")},
            id=body.get("messageId"),
            text=text_of_send(body),
            ms=round(now_ms() - arrived, 2),
            **fields,
        )

    def row_of(self, account: Account, body: dict[str, Any], message_id: str) -> Row | None:
        """Return the row of a send on the wire."""
        return self.world.wire.match(
            inbound=False, org=account.org.id, user=body["to"], text=text_of_send(body), uuid=message_id
        )

    def note_failure(self, account: Account | None, body: Any, words: str, *, over: bool) -> None:
        """Say on the wire that a send did not get in, and with ``over`` that it never will."""
        if account and isinstance(body, dict) and isinstance(body.get("to"), str):
            row = self.row_of(account, body, str(body.get("messageId") or ""))
            self.world.wire.trouble(row, words, over=over, count=True)

    async def carry(
        self, account: Account, body: dict[str, Any], message_id: str, arrived: float, *, repeated: bool
    ) -> None:
        """Bring a message to the phone, then report; outside the 24-hour window only report, but for templates."""
        row = self.row_of(account, body, message_id)
        self.world.wire.mark(row, "arrived", arrived)
        phone = self.world.phone(account, body["to"], body["from"])
        text = text_of_send(body)
        message = PhoneMessage(
            message_id,
            False,
            text,
            now_ms(),
            notify_url=body.get("notifyUrl") or "",
            callback_data=body.get("callbackData"),
        )
        reachable = is_template(body) or (phone.written_at is not None and now_ms() - phone.written_at < WINDOW)
        if reachable:
            self.world.show_on_phone(phone, message)
            self.world.wire.mark(row, "shown", message.at)
            self.world.journal.write(
                "phone",
                "shown",
                org=account.org.id,
                **{"from": body["from"], "to": body["to"]},
                id=message_id,
                text=text,
                repeated=repeated or None,
            )
        else:
            self.world.wire.trouble(row, "not delivered: outside the 24-hour window (7010)", over=True)
        await asyncio.sleep(self.reports["delivered"])
        status, error = (DELIVERED, NO_ERROR) if reachable else (UNDELIVERED, NO_SESSION)
        self.world.wire.mark(row, "delivery_reported")
        report = self.delivery_report(phone, message, status, error)
        name = str(status["groupName"])
        if await self.report(account, message, "DELIVERY", report, text=name, user=phone.user) == 200:
            self.world.wire.mark(row, "delivery_report_answered")
        if reachable:
            message.state = "delivered"
            if self.reports["auto"] or self.world.open_chat == (phone.org.id, phone.user):
                await self.see(phone, message)

    async def see(self, phone: Phone, message: PhoneMessage) -> None:
        """Report that the end user saw a message, once."""
        if message.state == "seen":
            return
        message.state = "seen"
        await asyncio.sleep(self.reports["seen"])
        row = self.world.wire.find(message.id)
        self.world.wire.mark(row, "seen_reported")
        report = self.seen_report(phone, message)
        if await self.report(phone.account, message, "SEEN", report, text="SEEN", user=phone.user) == 200:
            self.world.wire.mark(row, "seen_report_answered")

    def open_chat(self, phones: list[Phone]) -> None:
        """Show these chats; what they received and did not see yet is seen now."""
        for phone in phones:
            for message in phone.messages:
                if not message.mine and message.state == "delivered":
                    self.spawn(self.see(phone, message))

    def delivery_report(
        self, phone: Phone, message: PhoneMessage, status: dict[str, Any], error: dict[str, Any]
    ) -> dict[str, Any]:
        """Write a delivery report in the form that is set."""
        sent = {
            "sentAt": self.stamp(message.at),
            "doneAt": self.stamp(now_ms()),
            "messageCount": 1,
            "bulkId": str(uuid.uuid4()),
            "messageId": message.id,
        }
        outcome: dict[str, Any] = {"status": status, "error": error}
        if message.callback_data is not None:
            outcome["callbackData"] = message.callback_data
        if self.reports["form"] == "messages-api":
            who = {"event": "DELIVERY", "channel": "WHATSAPP", "sender": phone.sender, "destination": phone.user}
            return {"results": [{**who, **sent, **outcome}]}
        contact = {"name": phone.name, "phoneNumber": phone.user}
        return {
            "results": [
                {
                    **sent,
                    "to": phone.user,
                    "price": {"pricePerMessage": 0.0, "currency": "EUR"},
                    **outcome,
                    "contact": contact,
                }
            ]
        }

    def seen_report(self, phone: Phone, message: PhoneMessage) -> dict[str, Any]:
        """Write a seen report in the form that is set."""
        when = {"messageId": message.id, "sentAt": self.stamp(message.at), "seenAt": self.stamp(now_ms())}
        if self.reports["form"] == "messages-api":
            who = {
                "event": "SEEN",
                "channel": "WHATSAPP",
                "sender": phone.sender,
                "destination": phone.user,
                "bulkId": str(uuid.uuid4()),
            }
            return {"results": [{**who, **when}]}
        return {"results": [{"from": phone.user, "to": phone.sender, **when}]}

    # webhooks

    async def write(
        self,
        account: Account,
        phone: Phone,
        message: dict[str, Any],
        *,
        message_id: str | None = None,
        form: str = "whatsapp",
        copies: int = 1,
        signature: str = "good",
    ) -> tuple[str, list[dict[str, Any]]]:
        """Let an end user write: the phone shows it, the webhook goes out; return the id and the first answers."""
        message_id = message_id or f"wamid.{uuid.uuid4().hex.upper()}"
        kind = str(message.get("type", "TEXT"))
        text = words_of(message)
        shown = PhoneMessage(message_id, True, text, now_ms())
        row = self.world.wire.start(
            inbound=True, org=account.org.id, user=phone.user, text=text, plain=kind == "TEXT", key=message_id
        )
        phone.written_at = now_ms()
        self.world.show_on_phone(phone, shown)
        who = {"from": phone.user, "to": phone.sender}
        self.world.journal.write("phone", "phone_message", org=account.org.id, **who, id=message_id, text=text)
        if form == "messages-api":
            result = inbound_messages_api(phone, message, message_id, self.stamp(shown.at))
        else:
            result = inbound_whatsapp(phone, message, message_id, self.stamp(shown.at))
        body = json.dumps({"results": [result], "messageCount": 1, "pendingMessageCount": 0}, ensure_ascii=False).encode()
        if self.chatbot.leads(phone):
            self.spawn(self.chatbot.hear(phone, message, message_id, shown.at))
        targets = account.setup.targets_of(phone.sender, text)
        if not targets:
            self.world.wire.trouble(row, "Infobip posts it nowhere: no subscription, or another forwarding", over=True)
        elif self.chatbot.answers(phone):
            self.world.wire.trouble(row, None, over=True)  # nobody waits for it: a transcript may show it later
        answers = await asyncio.gather(
            *(
                self.try_first(account, target, body, "webhook", signature, row, id=message_id, text=text, user=phone.user)
                for target in targets
                for _ in range(copies)
            )
        )
        if any(200 <= each["status"] < 300 for each in answers):
            shown.state = "delivered"
            self.world.phone_changed(phone)
        return message_id, list(answers)

    async def post_batch(self, account: Account, results: list[Any], copies: int) -> list[dict[str, Any]]:
        """Post one signed webhook with results as they are given."""
        body = json.dumps(
            {"results": results, "messageCount": len(results), "pendingMessageCount": 0}, ensure_ascii=False
        ).encode()
        for result in results:
            user, sender = (result.get("from"), result.get("to")) if isinstance(result, dict) else (None, None)
            if isinstance(user, str) and isinstance(sender, str) and isinstance(result.get("message"), dict):
                phone = self.world.phone(account, user, sender, (result.get("contact") or {}).get("name"))
                phone.written_at = now_ms()
                shown = PhoneMessage(str(result.get("messageId")), True, words_of(result["message"]), now_ms())
                self.world.show_on_phone(phone, shown)
                self.world.journal.write(
                    "phone",
                    "phone_message",
                    org=account.org.id,
                    **{"from": user, "to": sender},
                    id=shown.id,
                    text=shown.text,
                )
        tries = (
            self.try_first(account, target, body, "webhook", "good", None, text=f"{len(results)} results")
            for target in account.setup.subscribed("INBOUND_MESSAGE")
            for _ in range(copies)
        )
        return list(await asyncio.gather(*tries))

    async def report(
        self, account: Account, message: PhoneMessage, event: str, report: dict[str, Any], **about: Any
    ) -> int:
        """Post a report to the message's own address, or to who subscribed; return the first try's status or 0.

        Whether Infobip signs what comes to a message's own address is not published; projects report that it does not.
        """
        url, how = message.notify_url, self.reports["toMessage"]
        subscribed = account.setup.subscribed(event)
        targets = subscribed if self.reports["toSubscription"] or not url else []
        if url and how != "off":
            targets = [*targets, Target(url, subscribed[0].security if how == "signed" and subscribed else None)]
        body = json.dumps(report, ensure_ascii=False).encode()
        tries = (self.try_first(account, each, body, "report", "good", None, id=message.id, **about) for each in targets)
        return max([int(each["status"]) for each in await asyncio.gather(*tries)], default=0)

    async def try_first(
        self, account: Account, target: Target, body: bytes, kind: str, signature: str, row: Row | None, **about: Any
    ) -> dict[str, Any]:
        """Post a webhook; if it is not taken, try again later in the background."""
        faults, org_id, url = self.world.faults, account.org.id, target.url
        headers = {"Content-Type": "application/json", **signature_of(target, body, signature)}
        first = await self.try_once(account, url, body, headers, kind, 1, row, about)
        if signature == "good":
            if not first["taken"]:
                self.spawn(self.retry(account, url, body, headers, kind, row, about))
            if faults.active and faults.take("webhook", org_id, "duplicate"):
                self.spawn(self.try_once(account, url, body, headers, kind, 1, row, about))
        elif row:
            self.world.wire.trouble(row, f"webhook {first['status']}, signature {signature}", over=True)
        return {"status": first["status"], "ms": first["ms"]}

    async def retry(
        self,
        account: Account,
        url: str,
        body: bytes,
        headers: dict[str, str],
        kind: str,
        row: Row | None,
        about: dict[str, Any],
    ) -> None:
        """Try a webhook again after 1 min + n² min: 2, 5, 10, 17 … minutes, which is published for notify URLs."""
        for n in range(1, MOST_RETRIES + 1):
            begun = time.monotonic()
            while (left := begun + 60 * (1 + n * n) * self.retry_scale - time.monotonic()) > 0:
                try:
                    await asyncio.wait_for(self._clock_turned.wait(), left)
                except TimeoutError:
                    break
            if (await self.try_once(account, url, body, headers, kind, n + 1, row, about))["taken"]:
                return
        self.world.journal.write("infobip", kind, org=account.org.id, error="given up", **without_user(about))
        self.world.wire.trouble(row, "webhook given up", over=True)

    async def try_once(
        self,
        account: Account,
        url: str,
        body: bytes,
        headers: dict[str, str],
        kind: str,
        number: int,
        row: Row | None,
        about: dict[str, Any],
    ) -> dict[str, Any]:
        """Post a webhook once; anything but a 2xx within ten seconds counts as not taken."""
        faults, org_id = self.world.faults, account.org.id
        fault = None
        if faults.active:
            await faults.wait("webhook", org_id)
            fault = faults.take("webhook", org_id)
        self.world.wire.mark(row, "posted")
        begun = now_ms()
        status, error = 0, None
        if fault and fault.what == "timeout_before":
            error = "lost on the way"
        else:
            try:
                slow = trickle(body, fault.seconds) if fault and fault.what == "trickle" else None
                async with self.session().post(url, data=slow() if slow else body, headers=headers) as response:
                    status = response.status
                    await response.read()
            except (aiohttp.ClientError, TimeoutError, ValueError) as exc:  # ValueError: no such address
                error = type(exc).__name__
        if fault and fault.what == "timeout_after":
            error, status = "answer lost", 0
        if fault and fault.what == "status":
            error, status = "answer replaced", fault.status
        ended = now_ms()
        taken = 200 <= status < 300
        self.world.journal.write(
            "infobip",
            kind,
            org=org_id,
            status=status,
            ms=round(ended - begun, 2),
            attempt=number if number > 1 else None,
            error=error,
            fault=fault and fault.what,
            **without_user(about),
        )
        if row and taken:
            self.world.wire.mark(row, "answered", ended)
            self.world.wire.trouble(row, None)
        elif row:
            minutes = (1 + number * number) * self.retry_scale
            again = f"{minutes:g} min" if minutes >= 1 else f"{minutes * 60:.2g} s"
            what = f"webhook answered {status}" if status else "webhook not reachable"
            self.world.wire.trouble(row, f"{what}, again in {again}")
        return {"status": status, "ms": round(ended - begun, 2), "taken": taken}

    def session(self) -> aiohttp.ClientSession:
        """Return the one client session."""
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=WEBHOOK_TIMEOUT)
            # a kept connection is used again soon or not at all: the door closes those that idle
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2)
            self._session = aiohttp.ClientSession(timeout=timeout, connector=connector)
        return self._session


def without_user(about: dict[str, Any]) -> dict[str, Any]:
    """Return journal fields with the end user under the journal's name for where a webhook comes from."""
    return {"from" if name == "user" else name: value for name, value in about.items()}


def trickle(body: bytes, seconds: float) -> Callable[[], Any]:
    """Return a generator that sends a body slowly."""

    async def pieces() -> Any:
        for i in range(0, len(body), 64):
            yield body[i : i + 64]
            await asyncio.sleep(seconds * 64 / len(body))

    return pieces


def words_of(message: dict[str, Any]) -> str:
    """Return what the phone shows of a WhatsApp message."""
    for name in ("text", "caption", "title", "emoji", "name"):
        if isinstance(message.get(name), str) and message[name]:
            return str(message[name])
    return f"[{str(message.get('type', 'message')).lower()}]"


def inbound_whatsapp(phone: Phone, message: dict[str, Any], message_id: str, at: str) -> dict[str, Any]:
    """Write one inbound message in the WhatsApp form."""
    return {
        "from": phone.user,
        "to": phone.sender,
        "integrationType": "WHATSAPP",
        "receivedAt": at,
        "messageId": message_id,
        "message": message,
        "contact": {
            "name": phone.name,
            **({"phoneNumber": phone.user} if phone.user.isdigit() else {"userId": phone.user}),
        },
        "price": {"pricePerMessage": 0, "currency": "EUR"},
    }


def inbound_messages_api(phone: Phone, message: dict[str, Any], message_id: str, at: str) -> dict[str, Any]:
    """Write one inbound message in the Messages API form, which has no profile name and other names for some types."""
    kinds = {
        "BUTTON": "BUTTON_REPLY",
        "INTERACTIVE_BUTTON_REPLY": "BUTTON_REPLY",
        "INTERACTIVE_LIST_REPLY": "LIST_REPLY",
        "VOICE": "AUDIO",
    }
    item = {name: value for name, value in message.items() if name not in ("caption", "title", "context")}
    item["type"] = kinds.get(str(message.get("type")), message.get("type"))
    words = message.get("text") or message.get("caption") or message.get("title")
    if words:
        item["text"] = words
    if item["type"] == "TEXT":
        item["cleanText"] = words
    return {
        "event": "MO",
        "channel": "WHATSAPP",
        "sender": phone.user,
        "destination": phone.sender,
        "content": [item],
        "receivedAt": at,
        "messageId": message_id,
        "messageCount": 1,
    }
