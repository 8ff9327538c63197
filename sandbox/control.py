"""The control API: what the page, the tests and the launcher ask of the simulated world."""

import asyncio
import json
import os
import signal
import urllib.parse
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from sandbox.answers import LARGEST_BODY, answer
from sandbox.console import Console, text_message
from sandbox.infobip import Infobip
from sandbox.infobip_portal import InfobipPortal
from sandbox.journal import now_ms
from sandbox.pubsub import PubSub
from sandbox.setup_control import SetupControl
from sandbox.world import SHOWN_SESSIONS, Account, Org, World

STATIC = Path(__file__).parent / "static"
PROCESS_ORDER = ["web", "worker", "subscriber", "beat"]
LOOK_AT_PROCESSES = 0.5  # seconds
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Wrong(Exception):
    """A request that the control API cannot follow, in words."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer what is wrong in words, and refuse what a page of another site sends."""
    origin = request.headers.get("Origin")
    if origin and urllib.parse.urlsplit(origin).netloc != request.host:
        return answer(403, {"error": "This page belongs to another site."})
    try:
        return await handler(request)
    except Wrong as exc:
        return answer(exc.status, {"error": str(exc)})


async def read(request: web.Request) -> dict[str, Any]:
    """Return the JSON object of a request; an empty body is an empty object."""
    raw = await request.read()
    try:
        body = json.loads(raw) if raw else {}
    except ValueError as exc:
        raise Wrong(400, f"The body is not JSON: {exc}") from exc
    if not isinstance(body, dict):
        raise Wrong(400, "The body is not an object.")
    return body


def number(body: dict[str, Any], name: str, default: float | None = None) -> float:
    """Return a number of a request."""
    value = body.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise Wrong(400, f"{name} is not a number.")
    return value


class Control:
    """The page, its live stream, and the control API."""

    def __init__(self, world: World, pubsub: PubSub, infobip: Infobip, console: Console, run_folder: Path | None) -> None:
        self.world, self.pubsub, self.infobip, self.console = world, pubsub, infobip, console
        self.run_folder = run_folder
        self.processes: list[dict[str, Any]] = []
        self.frame_url = ""  # of the connector's page in the console

    def application(self) -> web.Application:
        """Return the web application."""
        app = web.Application(client_max_size=LARGEST_BODY, middlewares=[guard])
        post, get = app.router.add_post, app.router.add_get
        get("/", self.page)
        get("/control/live", self.live)
        get("/control/state", self.get_state)
        get("/control/journal", self.get_journal)
        post("/control/orgs", self.add_org)
        post("/control/phone/messages", self.phone_writes)
        post("/control/phone/batch", self.post_batch)
        post("/control/phone/open", self.open_chat)
        post("/control/phone/window/close", self.close_window)
        post("/control/console/replies", self.rep_replies)
        post("/control/console/end", self.end_session)
        post("/control/console/delete", self.delete_session)
        post("/control/console/open", self.open_session)
        post("/control/console/accept", self.accept_session)
        post("/control/console/transfer", self.transfer_session)
        post("/control/console/automatic", self.respond_automatically)
        post("/control/chatbot", self.set_chatbot)
        post("/control/chatbot/conversations", self.make_conversation)
        post("/control/chatbot/handover", self.hand_over)
        post("/control/events", self.publish_event)
        get("/control/faults", self.get_faults)
        post("/control/faults", self.add_fault)
        app.router.add_delete("/control/faults", self.clear_faults)
        app.router.add_delete(r"/control/faults/{id:\d+}", self.remove_fault)
        post("/control/streams/cut", self.cut_streams)
        post("/control/tokens/expire", self.expire_tokens)
        post("/control/replays/refuse", self.refuse_replays)
        post("/control/keepalive", self.set_keep_alive)
        post("/control/clock", self.turn_clock)
        post("/control/reports", self.set_reports)
        post("/control/processes/kill", self.kill_process)
        InfobipPortal(self.world).add_routes(app)
        SetupControl(self.world).add_routes(app.router)
        if STATIC.is_dir():
            app.router.add_static("/static/", STATIC)
        return app

    # looking

    async def page(self, request: web.Request) -> web.StreamResponse:
        """Serve the page."""
        index = STATIC / "index.html"
        if not index.is_file():
            raise Wrong(404, "The page is not built in.")
        return web.FileResponse(index, headers={"Cache-Control": "no-cache"})

    async def live(self, request: web.Request) -> web.StreamResponse:
        """Stream what changes to a page."""
        return await self.world.live.stream(request, self.state)

    async def get_state(self, request: web.Request) -> web.StreamResponse:
        """Return all that the page draws."""
        return answer(200, self.state())

    def state(self) -> dict[str, Any]:
        """Describe the whole world, with the newest sessions and chats only."""
        sessions = list(self.world.sessions.values())[-SHOWN_SESSIONS:]
        phones = list(self.world.phones.values())[:SHOWN_SESSIONS]
        return {
            "orgs": [org.describe() for org in self.world.orgs.values()],
            "phones": [phone.describe() for phone in phones],
            "sessions": [session.describe() for session in sessions],
            "wire": self.world.wire.describe(),
            "faults": self.world.faults.describe(),
            "processes": self.processes,
            "adminUrl": self.admin_url(),
            "setupUrl": self.frame_url,
        }

    def admin_url(self) -> str | None:
        """Return where the connector's admin is: on the host that the webhooks go to."""
        for org in self.world.orgs.values():
            for account in org.accounts.values():
                if account.webhook:
                    place = urllib.parse.urlsplit(account.webhook)
                    return f"{place.scheme}://{place.netloc}/admin/"
        return None

    async def get_journal(self, request: web.Request) -> web.StreamResponse:
        """Return what happened after a sequence number."""
        try:
            after = int(request.query.get("after", "0"))
        except ValueError as exc:
            raise Wrong(400, "after is not a number.") from exc
        journal = self.world.journal
        entries = journal.read(after, request.query.get("side"), request.query.get("org"))
        return answer(200, {"entries": entries, "last": journal.last})

    # the world

    def org(self, body: dict[str, Any]) -> Org:
        """Return the org that a request names, or the only one."""
        try:
            return self.world.find_org(body.get("org"))
        except KeyError as exc:
            raise Wrong(404, f"There is no org {body.get('org')!r}.") from exc

    def account_of(self, body: dict[str, Any]) -> Account:
        """Return the account of the sender that an end user writes to."""
        orgs = [self.org(body)] if body.get("org") else list(self.world.orgs.values())
        for org in orgs:
            if account := org.account_of(str(body.get("to"))):
                return account
        raise Wrong(404, f"No account has the sender {body.get('to')!r}.")

    async def add_org(self, request: web.Request) -> web.StreamResponse:
        """Add or replace an org."""
        body = await read(request)
        try:
            org = self.world.add_org(
                body["document"],
                body.get("webhooks") or {},
                body.get("title"),
                empty=body.get("empty") is True,
                handovers=body.get("handovers"),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise Wrong(400, f"The document cannot be used: {type(exc).__name__} {exc}") from exc
        if isinstance(body.get("frame"), str):
            self.frame_url = body["frame"]
        self.world.live.changed("state", 0, self.state)
        return answer(200, {"orgId": org.id})

    async def phone_writes(self, request: web.Request) -> web.StreamResponse:
        """Let an end user write."""
        body = await read(request)
        user = str(body.get("from") or "").lstrip("+")
        if not user:
            raise Wrong(400, "from is missing.")
        message = body.get("message") or {"type": "TEXT", "text": body.get("text")}
        if not isinstance(message, dict) or (message.get("type") == "TEXT" and not isinstance(message.get("text"), str)):
            raise Wrong(400, "There is neither a text nor a message.")
        form, mark = body.get("form", "whatsapp"), body.get("signature", "good")
        if form not in ("whatsapp", "messages-api") or mark not in ("good", "wrong", "none"):
            raise Wrong(400, "form is whatsapp or messages-api, signature is good, wrong or none.")
        account = self.account_of(body)
        phone = self.world.phone(account, user, str(body["to"]), body.get("name"))
        message_id, answers = await self.infobip.write(
            account,
            phone,
            message,
            message_id=body.get("messageId"),
            form=form,
            copies=int(number(body, "copies", 1)),
            signature=mark,
        )
        return answer(200, {"messageId": message_id, "answers": answers})

    async def post_batch(self, request: web.Request) -> web.StreamResponse:
        """Post results as they are given in one webhook."""
        body = await read(request)
        account = self.org(body).accounts.get(body.get("account", "main"))
        if account is None or not isinstance(body.get("results"), list):
            raise Wrong(400, "account is not known, or results is not a list.")
        answers = await self.infobip.post_batch(account, body["results"], int(number(body, "copies", 1)))
        return answer(200, {"answers": answers})

    async def open_chat(self, request: web.Request) -> web.StreamResponse:
        """Show a chat on the phone."""
        body = await read(request)
        org, user = self.org(body), str(body.get("user"))
        phones = [phone for phone in self.world.phones.values() if phone.org is org and phone.user == user]
        if not phones:
            raise Wrong(404, f"There is no phone of {user}.")
        self.world.open_chat = (org.id, user)
        self.infobip.open_chat(phones)
        return answer(200, {})

    async def close_window(self, request: web.Request) -> web.StreamResponse:
        """Let an end user's 24 hours be over: what is sent to them is taken, and then reported as not delivered."""
        body = await read(request)
        org, user = self.org(body), str(body.get("user"))
        for phone in self.world.phones.values():
            if phone.org is org and phone.user == user:
                phone.written_at = None
        return answer(200, {})

    async def rep_replies(self, request: web.Request) -> web.StreamResponse:
        """Let the rep write."""
        body = await read(request)
        conversation = self.org(body).conversations_by_id.get(str(body.get("conversation")))
        if conversation is None:
            raise Wrong(404, "There is no such conversation.")
        message = body.get("abstractMessage")
        if message is None and body.get("text"):
            message = text_message(str(body["text"]))
        if not isinstance(message, dict):
            raise Wrong(400, "There is neither a text nor an abstractMessage.")
        try:
            return answer(200, {"entry": self.console.reply(conversation, message)})
        except ValueError as exc:
            raise Wrong(409, str(exc)) from exc

    async def end_session(self, request: web.Request) -> web.StreamResponse:
        """Let the rep end a session."""
        self.console.end(self.session(await read(request)))
        return answer(200, {})

    async def delete_session(self, request: web.Request) -> web.StreamResponse:
        """Let an administrator delete a session's record, of which nobody is told."""
        self.console.delete(self.session(await read(request)))
        return answer(200, {})

    async def open_session(self, request: web.Request) -> web.StreamResponse:
        """Let the rep read a session."""
        self.console.open(self.session(await read(request)))
        return answer(200, {})

    async def accept_session(self, request: web.Request) -> web.StreamResponse:
        """Let the rep take a session that waits."""
        self.console.accept(self.session(await read(request)))
        return answer(200, {})

    async def transfer_session(self, request: web.Request) -> web.StreamResponse:
        """Let the rep pass a session on."""
        self.console.transfer(self.session(await read(request)))
        return answer(200, {})

    async def respond_automatically(self, request: web.Request) -> web.StreamResponse:
        """Let the channel write by itself."""
        body = await read(request)
        conversation = self.org(body).conversations_by_id.get(str(body.get("conversation")))
        if conversation is None:
            raise Wrong(404, "There is no such conversation.")
        return answer(200, {"entry": self.console.respond_automatically(conversation, str(body.get("text")))})

    # the chatbot, the queue, and what an org permits

    async def set_chatbot(self, request: web.Request) -> web.StreamResponse:
        """Change how late and slow a transcript is, and how an org works; what is not named stays."""
        body = await read(request)
        if "lag" in body:
            self.infobip.chatbot.lag = number(body, "lag")
        if "pageSeconds" in body:
            self.infobip.chatbot.page_seconds = number(body, "pageSeconds")
        if "tellsEvents" in body:
            self.infobip.chatbot.tells_events = bool(body["tellsEvents"])
        changes = {"queues": "queues", "takesHistory": "takes_history", "tellsEnd": "tells_end"}
        for name in changes.keys() & body.keys():
            setattr(self.org(body), changes[name], bool(body[name]))
        return answer(200, {})

    async def make_conversation(self, request: web.Request) -> web.StreamResponse:
        """Make a conversation of a chatbot that has been going on, with messages as they are given."""
        body = await read(request)
        account = self.account_of(body)
        phone = self.world.phone(account, str(body.get("from")), str(body.get("to")), body.get("name"))
        found = self.infobip.chatbot.conversation_of(phone)
        phone.written_at = now_ms()
        for each in body.get("messages", []):
            at = now_ms() - float(each.get("secondsAgo", 0)) * 1000
            content = each.get("content") or {"text": each.get("text")}
            said = self.infobip.chatbot.say(found, each.get("author", "CUSTOMER"), each.get("type", "TEXT"), content, at)
            said.shown_at = at + self.infobip.chatbot.lag * 1000
        return answer(200, {"conversation": found.id})

    async def hand_over(self, request: web.Request) -> web.StreamResponse:
        """Let the chatbot call for a person, at once as often as is said."""
        body = await read(request)
        found = self.infobip.chatbot.conversations.get(str(body.get("conversation")))
        if found is None:
            raise Wrong(404, "There is no such conversation.")
        found.bot_silent = True
        calls = [
            self.infobip.chatbot.call(found, body.get("body"), body.get("token"))
            for _ in range(int(number(body, "copies", 1)))
        ]
        return answer(200, {"answers": [{"status": status, "body": said} for status, said in await asyncio.gather(*calls)]})

    def session(self, body: dict[str, Any]) -> Any:
        """Return the session that a request names."""
        session = self.world.sessions.get(str(body.get("session")))
        if session is None:
            raise Wrong(404, "There is no such session.")
        return session

    async def publish_event(self, request: web.Request) -> web.StreamResponse:
        """Publish a raw platform event."""
        body = await read(request)
        org, event = self.org(body), body.get("event")
        if not isinstance(event, dict):
            raise Wrong(400, "event is not an object.")
        topic = next(iter(org.topics.values()))
        type_field, payload_field = topic.fields
        values = [event.get("EventType", event.get(type_field)), event.get("Payload", event.get(payload_field))]
        if any(value is not None and not isinstance(value, str) for value in values):
            raise Wrong(400, "EventType and Payload are texts or null.")
        created = int(number(body, "createdAt")) if body.get("createdAt") is not None else None
        published = topic.publish(values[0], values[1], created=created)
        self.world.journal.write("pubsub", "event_published", org=org.id, id=published.id, text=values[0])
        return answer(200, {"id": published.id})

    # trouble

    async def get_faults(self, request: web.Request) -> web.StreamResponse:
        """Return the faults that are on."""
        return answer(200, {"faults": self.world.faults.describe()})

    async def add_fault(self, request: web.Request) -> web.StreamResponse:
        """Turn a fault on."""
        try:
            fault = self.world.faults.add(await read(request))
        except ValueError as exc:
            raise Wrong(400, str(exc)) from exc
        self.show_faults()
        return answer(200, {"id": fault.id})

    async def clear_faults(self, request: web.Request) -> web.StreamResponse:
        """Turn all faults off."""
        self.world.faults.clear()
        self.show_faults()
        return answer(200, {})

    async def remove_fault(self, request: web.Request) -> web.StreamResponse:
        """Turn one fault off, and say how often it was used; null if it has been used up already."""
        fault = self.world.faults.remove(int(request.match_info["id"]))
        self.show_faults()
        return answer(200, {"used": fault and fault.used})

    def show_faults(self) -> None:
        """Show the faults anew."""
        self.world.live.changed("faults", 0, self.world.faults.describe)

    async def cut_streams(self, request: web.Request) -> web.StreamResponse:
        """Cut every event stream."""
        return answer(200, {"cut": self.pubsub.cut()})

    async def expire_tokens(self, request: web.Request) -> web.StreamResponse:
        """Make all issued tokens invalid."""
        self.world.expire_tokens()
        self.pubsub.refuse_tokens()
        return answer(200, {})

    async def refuse_replays(self, request: web.Request) -> web.StreamResponse:
        """Refuse the replay id of the next subscription that has one."""
        self.pubsub.refuse_replays += 1
        return answer(200, {})

    async def set_keep_alive(self, request: web.Request) -> web.StreamResponse:
        """Change the interval of keep-alives."""
        self.pubsub.set_keep_alive(number(await read(request), "seconds"))
        return answer(200, {})

    async def turn_clock(self, request: web.Request) -> web.StreamResponse:
        """Change how long webhook retries wait, and what Infobip's clock tells; what is not named stays."""
        body = await read(request)
        if "ahead" in body:
            if isinstance(body["ahead"], bool) or not isinstance(body["ahead"], int | float):
                raise Wrong(400, "ahead is not a number of seconds.")
            self.infobip.clock.ahead = body["ahead"]
        if "retryScale" in body:
            self.infobip.turn_clock(number(body, "retryScale"))
        return answer(200, {})

    async def set_reports(self, request: web.Request) -> web.StreamResponse:
        """Change when and how reports come; what is not named stays."""
        body = await read(request)
        reports = self.infobip.reports
        changed: dict[str, Any] = {name: number(body, name) for name in ("delivered", "seen") if name in body}
        if "auto" in body:
            changed["auto"] = bool(body["auto"])
        if "form" in body:
            if body["form"] not in ("whatsapp", "messages-api"):
                raise Wrong(400, "form is whatsapp or messages-api.")
            changed["form"] = body["form"]
        if "toMessage" in body:
            if body["toMessage"] not in ("unsigned", "signed", "off"):
                raise Wrong(400, "toMessage is unsigned, signed or off.")
            changed["toMessage"] = body["toMessage"]
        if "toSubscription" in body:
            changed["toSubscription"] = bool(body["toSubscription"])
        reports.update(changed)
        return answer(200, reports)

    async def kill_process(self, request: web.Request) -> web.StreamResponse:
        """Send a signal to a process of the connector."""
        body = await read(request)
        name = body.get("name")
        process = next((each for each in self.look_at_processes() if each["name"] == name), None)
        if process is None or not process["alive"]:
            raise Wrong(404, f"There is no process {name!r} running.")
        os.kill(process["pid"], signal.Signals(int(number(body, "signal", 9))))
        self.world.journal.write("control", "kill", text=name)
        return answer(200, {"pid": process["pid"]})

    def look_at_processes(self) -> list[dict[str, Any]]:
        """Return the connector's processes, from the launcher's pid files."""
        found = []
        for name in PROCESS_ORDER if self.run_folder else []:
            try:
                pid = int((Path(self.run_folder or "") / f"{name}.pid").read_text())
            except (OSError, ValueError):
                continue  # not started, or the file is just being written
            try:
                os.kill(pid, 0)
                alive = True
            except OSError:
                alive = False
            found.append({"name": name, "pid": pid, "alive": alive})
        return found

    async def watch_processes(self) -> None:
        """Keep the list of processes fresh."""
        while True:
            found = self.look_at_processes()
            if found != self.processes:
                self.processes = found
                self.world.live.changed("processes", 0, lambda: self.processes)
            await asyncio.sleep(LOOK_AT_PROCESSES)
