"""Infobip's conversations and the chatbot that leads them: https://www.infobip.com/docs/api/customer-engagement/conversations"""

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import web

from sandbox.answers import answer, finish, hang
from sandbox.infobip_setup import caller, refuse
from sandbox.journal import now_ms
from sandbox.world import Account, Phone, PhoneMessage, World

if TYPE_CHECKING:
    from sandbox.infobip import Infobip

STATUSES = {"OPEN", "WAITING", "SOLVED", "CLOSED"}
MENU = ["Track my order", "Talk to a person"]
MOST_LISTED = 999


@dataclass
class Said:
    """One message of a conversation; the list shows it late."""

    author: str  # CUSTOMER, BOT, AGENT or SYSTEM
    content_type: str
    content: dict[str, Any]
    at: float
    shown_at: float
    id: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def direction(self) -> str:
        """Which way it went, as Infobip sees it."""
        return "INBOUND" if self.author == "CUSTOMER" else "OUTBOUND"


@dataclass(eq=False)
class BotConversation:
    """A conversation at Infobip; ``bot_silent`` since the chatbot has handed it over."""

    phone: Phone
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    status: str = "OPEN"
    bot_silent: bool = False
    began: float = field(default_factory=now_ms)
    changed: float = field(default_factory=now_ms)
    agent: str | None = None  # the id of who is assigned
    messages: list[Said] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def stamp(at: float) -> str:
    """Write a time as the conversations API does."""
    return datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="milliseconds")


def instant(text: str) -> float:
    """Read a time as the conversations API takes it.

    :raises ValueError: if it cannot be read
    """
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%f%z").timestamp() * 1000


async def read(request: web.Request) -> dict[str, Any]:
    """Return the JSON object of a request, or an empty one, which lacks whatever is asked for."""
    try:
        body = json.loads(await request.read())
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def refuse_in_words(message_id: str, text: str) -> web.Response:
    """Refuse what the API answers with 400 and words of its own."""
    return answer(400, {"requestError": {"serviceException": {"messageId": message_id, "text": text}}})


class Chatbot:
    """Leads conversations on the senders that are its own, and shows them by API."""

    def __init__(self, world: World, infobip: "Infobip") -> None:
        self.world, self.infobip = world, infobip
        self.clock = infobip.clock
        self.lag = 2.5  # seconds until a message is in the list
        self.page_seconds = 0.0  # that a page of the list takes
        self.tells_events = True  # whether subscribers hear of what end users write
        self.conversations: dict[str, BotConversation] = {}
        self._newest: dict[Phone, BotConversation] = {}

    def add_routes(self, app: web.Application) -> None:
        """Serve the API."""
        base = "/ccaas/1/conversations/{id}"
        app.router.add_get(base, self.guarded(self.get_conversation))
        app.router.add_get(base + "/messages", self.guarded(self.get_messages))
        app.router.add_patch(base, self.guarded(self.change))
        app.router.add_put(base + "/assignee", self.guarded(self.assign))
        app.router.add_delete(base + "/assignee", self.guarded(self.assign))
        app.router.add_post(base + "/tags", self.guarded(self.add_tag))
        app.router.add_post(base + "/notes", self.guarded(self.add_note))

    # the API

    def guarded(self, serve: Callable[[web.Request, BotConversation], Awaitable[web.Response]]) -> Any:
        """Check the key and its scope, find the conversation, and misbehave where that is on."""
        faults = self.world.faults

        async def handle(request: web.Request) -> web.StreamResponse:
            account = caller(self.world, request)
            org_id = account.org.id if account else None
            await faults.wait("conversations", org_id)
            fault = faults.take("conversations", org_id) if faults.active else None
            if fault and fault.what == "timeout_before":
                await hang()
            if fault and fault.what == "status":
                return refuse(fault.status)
            if account is None:
                return refuse(401)
            if "conversations:manage" not in account.setup.scopes:
                return refuse(403)
            found = self.conversations.get(request.match_info["id"])
            if found is None or found.phone.account is not account:
                return refuse_in_words("NOT_FOUND", "No conversation of this id exists.")
            if found.status == "CLOSED" and request.method != "GET":
                return refuse_in_words("BAD_REQUEST", "A closed conversation cannot be changed.")
            return await finish(request, await serve(request, found), fault)

        return handle

    async def get_conversation(self, request: web.Request, found: BotConversation) -> web.Response:
        """Return a conversation without its messages."""
        return answer(200, self.describe(found))

    def describe(self, found: BotConversation) -> dict[str, Any]:
        """Return what the API tells of a conversation."""
        times = {"createdAt": self.stamp(found.began), "updatedAt": self.stamp(found.changed)}
        agent = {"agentId": found.agent} if found.agent else {}
        return {"id": found.id, "topic": "", "summary": "", "status": found.status, "priority": "NORMAL", **agent, **times}

    def stamp(self, at: float) -> str:
        """Write a time as Infobip's clock told it."""
        return stamp(self.clock.tell(at))

    async def get_messages(self, request: web.Request, found: BotConversation) -> web.Response:
        """Return a page of what was said; by default ten, in the order of ids that tell nothing."""
        asked = request.query
        try:
            limit, page = int(asked.get("limit", "10")), int(asked.get("page", "0"))
            after, before = (instant(asked[name]) if name in asked else None for name in ("createdAfter", "createdBefore"))
        except ValueError as exc:
            return refuse(400, {"query": [str(exc)]})
        order = asked.get("orderBy", "id:asc")
        name, _, direction = order.partition(":")
        if not 1 <= limit <= MOST_LISTED or page < 0 or name not in ("id", "createdAt") or direction not in ("asc", "desc"):
            return refuse(400, {"limit": ["must be between 1 and 999"]})
        shown = [
            each
            for each in found.messages
            if each.shown_at <= now_ms()
            and asked.get("direction", each.direction) == each.direction
            and asked.get("channel", "WHATSAPP") == "WHATSAPP"
            and (after is None or self.clock.tell(each.at) > after)
            and (before is None or self.clock.tell(each.at) < before)
        ]
        shown.sort(key=lambda each: each.id if name == "id" else self.clock.tell(each.at), reverse=direction == "desc")
        rows = [self.row(found, each) for each in shown[page * limit : (page + 1) * limit]]
        self.world.journal.write(
            "infobip", "transcript_read", org=found.phone.org.id, id=found.id, text=f"{len(rows)} of {len(shown)}"
        )
        await asyncio.sleep(self.page_seconds)
        pagination = {"totalItems": len(shown), "page": page, "limit": limit, "orderBy": order}
        return answer(200, {"messages": rows, "pagination": pagination})

    def row(self, found: BotConversation, said: Said) -> dict[str, Any]:
        """Return one message as the list shows it."""
        phone = found.phone
        numbers = (phone.user, phone.sender) if said.direction == "INBOUND" else (phone.sender, phone.user)
        return {
            "id": said.id,
            "channel": "WHATSAPP",
            **dict(zip(("from", "to"), numbers, strict=True)),
            "direction": said.direction,
            "conversationId": found.id,
            "authorType": said.author,
            "createdAt": self.stamp(said.at),
            "updatedAt": self.stamp(said.at),
            "content": said.content,
            "contentType": said.content_type,
        }

    async def change(self, request: web.Request, found: BotConversation) -> web.Response:
        """Change the status; what is closed cannot be changed any more."""
        status = (await read(request)).get("status")
        if status not in STATUSES:
            return refuse(400, {"status": ["must be one of OPEN, WAITING, SOLVED, CLOSED"]})
        found.status, found.changed = status, now_ms()
        if status == "CLOSED":
            self.world.journal.write("infobip", "conversation_closed", org=found.phone.org.id, id=found.id)
        return answer(200, self.describe(found))

    async def assign(self, request: web.Request, found: BotConversation) -> web.Response:
        """Assign it to a person, which silences the chatbot, or to nobody."""
        agent = None
        if request.method == "PUT":
            agent = (await read(request)).get("agentId")
            if not isinstance(agent, str) or not agent:
                return refuse(400, {"agentId": ["must not be null"]})
            found.bot_silent = True
        found.agent, found.changed = agent, now_ms()
        return answer(200, self.describe(found))

    async def add_tag(self, request: web.Request, found: BotConversation) -> web.Response:
        """Add a tag."""
        name = (await read(request)).get("tagName")
        if not isinstance(name, str) or not name:
            return refuse(400, {"tagName": ["must not be null"]})
        found.tags.append(name)
        return answer(200, {"statusCode": "SUCCESS", "message": "Tag added"})

    async def add_note(self, request: web.Request, found: BotConversation) -> web.Response:
        """Add a note for the company's own people."""
        text = (await read(request)).get("content")
        if not isinstance(text, str) or not text:
            return refuse(400, {"content": ["must not be null"]})
        found.notes.append(text)
        times = {"createdAt": self.stamp(now_ms()), "updatedAt": self.stamp(now_ms())}
        return answer(200, {"id": str(uuid.uuid4()), "content": text, "conversationId": found.id, **times})

    # the chatbot

    def leads(self, phone: Phone) -> bool:
        """Tell whether a chatbot is first on that sender."""
        return phone.sender in phone.org.chatbot_first

    def conversation_of(self, phone: Phone) -> BotConversation:
        """Return the open conversation of an end user with a sender, new if need be."""
        found = self._newest.get(phone)
        if found is None or found.status == "CLOSED":
            found = self._newest[phone] = BotConversation(phone)
            self.conversations[found.id] = found
        return found

    def answers(self, phone: Phone) -> bool:
        """Tell whether the chatbot, and no rep, answers what is written now."""
        return self.leads(phone) and not self.conversation_of(phone).bot_silent

    def say(self, found: BotConversation, author: str, content_type: str, content: dict[str, Any], at: float) -> Said:
        """Add a message to a conversation."""
        said = Said(author, content_type, content, at, now_ms() + self.lag * 1000)
        found.messages.append(said)
        return said

    async def hear(self, phone: Phone, message: dict[str, Any], message_id: str, at: float) -> None:
        """Take what an end user wrote: tell the subscribers, and let the chatbot answer unless it is silent."""
        found = self.conversation_of(phone)
        content = {name: value for name, value in message.items() if name != "type"}
        said = self.say(found, "CUSTOMER", str(message.get("type", "TEXT")), content, at)
        told = {
            "id": said.id,
            "messageId": message_id,
            "channel": "WHATSAPP",
            **{"from": phone.user, "to": phone.sender},
            "conversationId": found.id,
            "createdAt": self.stamp(at),
            "updatedAt": self.stamp(at),
            "content": content,
        }
        payload: dict[str, Any] = {
            "id": found.id,
            "status": found.status,
            "queue": None,
            "priority": "NORMAL",
            "channel": "WHATSAPP",
            "direction": "INBOUND",
            "assignee": None,
            "customer": {"id": str(uuid.uuid4()), "name": phone.name, "personId": "1"},
            "form": None,
            "tags": [],
            "message": told,
            "invoker": {"type": "SYSTEM"},
        }
        body = json.dumps({"type": "INBOUND_MESSAGE", "timestamp": self.stamp(at), "payload": payload}).encode()
        account = phone.account
        subscribed = account.setup.subscribed("CONVERSATION_MESSAGE_RECEIVED", channel="CUSTOMER_ENGAGEMENT")
        for target in subscribed if self.tells_events else []:
            await self.infobip.try_first(
                account, target, body, "conversation_event", "good", None, id=said.id, user=phone.user
            )
        if not found.bot_silent:
            self.infobip.spawn(self.respond(found, str(content.get("text") or content.get("title") or "")))

    async def respond(self, found: BotConversation, heard: str) -> None:
        """Answer as a simple bot does."""
        await asyncio.sleep(0.2)
        match heard.strip().casefold():
            case "track my order":
                self.tell(found, "Your parcel is on its way. It comes tomorrow.")
            case "talk to a person":
                self.tell(found, "One moment, I am calling a colleague.")
                found.bot_silent = True  # while a step runs, and from then on
                status, _ = await self.call(found)
                if status != 200:
                    found.bot_silent = False
                    self.tell(found, "Sorry, nobody can be reached now.")
            case _:
                buttons = [{"id": str(n), "title": title, "type": "BUTTON"} for n, title in enumerate(MENU)]
                question = "Hello, I am Acme's bot. What can I do for you?"
                interactive = {"type": "BUTTON", "body": {"text": question}, "action": {"buttons": buttons}}
                self.tell(found, question, "INTERACTIVE", {"interactive": interactive}, MENU)

    def tell(
        self,
        found: BotConversation,
        text: str,
        content_type: str = "TEXT",
        content: dict[str, Any] | None = None,
        choices: list[str] | None = None,
    ) -> None:
        """Let the bot write: to the conversation, and to the phone."""
        self.say(found, "BOT", content_type, content or {"text": text}, now_ms())
        shown = PhoneMessage(str(uuid.uuid4()), False, text, now_ms(), choices=choices or [])
        self.world.show_on_phone(found.phone, shown)

    async def call(
        self, found: BotConversation, body: dict[str, Any] | None = None, token: str | None = None
    ) -> tuple[int, Any]:
        """Make the Call API step of the flow; return the status and the body of the answer."""
        account: Account = found.phone.account
        sent = {"conversationId": found.id, "senderNumber": found.phone.user, "customerName": found.phone.name}
        begun, status, said = now_ms(), 0, None
        row = self.world.wire.start(
            inbound=True,
            org=account.org.id,
            user=found.phone.user,
            text="The chatbot calls for a person",
            plain=True,
            key=str(uuid.uuid4()),
        )
        self.world.wire.mark(row, "called")
        try:
            async with self.infobip.session().post(
                account.handover,
                json=sent if body is None else body,
                headers={"X-Connector-Token": account.handover_token if token is None else token},
            ) as response:
                status, said = response.status, await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError) as exc:
            said = type(exc).__name__
        if status == 200:
            self.world.wire.mark(row, "call_answered")
        self.world.wire.trouble(row, None if status == 200 else f"answered {status or said}", over=True)
        self.world.journal.write(
            "infobip",
            "handover_call",
            org=account.org.id,
            id=found.id,
            status=status,
            ms=round(now_ms() - begun, 2),
            **{"from": found.phone.user, "to": found.phone.sender},
        )
        return status, said
