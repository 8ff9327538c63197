"""Salesforce as the connector sees it: the token endpoint, the Interaction Service, and what set-up calls and opens.

The published contract is https://github.com/salesforce-misc/interaction-service-apis; where it leaves something open,
the stricter reading is taken. Status codes of refusals are not published: a client must go by the code in the body.
"""

import json
import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

from aiohttp import web

from sandbox.answers import LARGEST_BODY, answer, finish, hang
from sandbox.journal import now_ms
from sandbox.metadata import Metadata
from sandbox.multipart import Part, read_multipart
from sandbox.oauth import Grant, OAuth, OAuthRefused, is_number
from sandbox.oidc import OpenId
from sandbox.rest import Rest
from sandbox.setup_pages import SetupPages
from sandbox.wire import is_final
from sandbox.world import TICKS, Channel, Conversation, Org, World

LONGEST_ADDRESS = 240
MOST_HISTORY = 5  # entries of one call
LARGEST_FILE = 25 * 1024 * 1024
END_USER_MESSAGES = {"StaticContentMessage", "ChoicesResponseMessage", "FormResponseMessage"}
MESSAGE_TYPES = END_USER_MESSAGES | {"ChoicesMessage", "FormMessage"}
FORMATS_BY_TYPE = {
    "StaticContentMessage": {"Text", "Links", "ExperienceType"},  # a file comes as an AttachmentInteraction
    "ChoicesResponseMessage": {"Selections"},
    "FormResponseMessage": {"Inputs"},
}
FORMATS = {
    "Attachments",
    "RichLink",
    "Media",
    "Buttons",
    "Carousel",
    "QuickReplies",
    "ListPicker",
    "Selections",
    "Links",
    "TimePicker",
    "Application",
    "Result",
    "Inputs",
    "WebView",
    "Text",
    "ExperienceType",
    "Flow",
    "MessageDefinition",
}
CONTENT_FIELDS = {
    "StaticContentMessage": "staticContent",
    "ChoicesResponseMessage": "choicesResponse",
    "FormResponseMessage": "formResponse",
}
ENTRY_TYPES = {"Message", "TypingStartedIndicator", "TypingStoppedIndicator", "MessageDeliveryFailed"}
FILE_TYPES = {"image/jpeg", "image/gif", "image/bmp", "image/png", "application/pdf"} | {
    f"{kind}/{family}" for kind in ("video", "audio") for family in ("3gpp2", "3gpp", "mpeg", "mp4")
}


class Refused(Exception):
    """A request that is answered with an error; without a code the web framework refuses, not the service."""

    def __init__(self, status: int, code: int | None, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


def read_object(raw: bytes) -> dict[str, Any]:
    """Read a JSON object.

    :raises Refused: if it is none
    """
    try:
        body = json.loads(raw)
    except ValueError as exc:
        raise Refused(400, None, "The body cannot be read") from exc
    if not isinstance(body, dict):
        raise Refused(400, None, "The body is not an object")
    return body


def is_uuid(value: Any) -> bool:
    """Tell whether a value is a UUID in its usual spelling."""
    try:
        return isinstance(value, str) and str(UUID(value)) == value.lower()
    except ValueError:
        return False


class Salesforce:
    """All of it on one port, for all orgs."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.oauth = OAuth(world)
        self.open_id = OpenId(world, self.oauth)
        self.rest = Rest(world)
        self.metadata = Metadata(world, self.rest)
        self.pages = SetupPages(world)

    def application(self) -> web.Application:
        """Return the web application."""
        app = web.Application(client_max_size=LARGEST_BODY)
        app.router.add_post("/services/oauth2/token", self.token)
        app.router.add_post("/api/v1/interactions", self.service("interactions", self.take_interaction, 202))
        app.router.add_post("/api/v1/acknowledgement", self.service("acknowledgement", self.take_acknowledgements, 200))
        app.router.add_post("/api/v1/conversation", self.service("establish", self.establish, 202))
        app.router.add_post("/api/v1/conversationHistory", self.service("history", self.take_history, 202))
        for part in (self.open_id, self.rest, self.metadata, self.pages):
            part.add_routes(app.router)
        return app

    # OAuth 2.0

    async def token(self, request: web.Request) -> web.StreamResponse:
        """Exchange a signed assertion, or the code of a sign-in, for an access token."""
        arrived = now_ms()
        form: Any = await request.post() if request.content_type == "application/x-www-form-urlencoded" else {}
        grant: Grant | None = None
        error: str | None = None
        description = ""
        try:
            grant = self.oauth.check(form)
            org: Org | None = grant.org
        except OAuthRefused as refusal:
            org, error, description = refusal.org, refusal.error, str(refusal)
        org_id = org.id if org else None
        await self.world.faults.wait("login", org_id)
        fault = self.world.faults.take("login", org_id)
        status = 400 if error else 200
        if fault and fault.what == "status":
            status, error, description = fault.status, "server_error", "Refused on demand"
        if org and not error and not (fault and fault.what == "timeout_before"):
            org.logins += 1
        self.world.journal.write(
            "salesforce",
            "login",
            org=org_id,
            status=status,
            ms=round(now_ms() - arrived, 2),
            error=error and f"{error}: {description}",
            count=org.logins if org else None,
            fault=fault and fault.what,
        )
        if fault and fault.what == "timeout_before":
            await hang()
        if error or grant is None:
            return answer(status, {"error": error, "error_description": description})
        return await finish(request, answer(200, self.oauth.token(grant)), fault)

    # Interaction Service

    def service(
        self, name: str, take: Callable[[web.Request, bytes, Org, float], dict[str, Any]], status: int
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """Return the handler of an endpoint: faults, the headers of every call, then the endpoint's own rules."""
        journal, faults = self.world.journal, self.world.faults

        async def handle(request: web.Request) -> web.StreamResponse:
            arrived = now_ms()
            raw = await request.read()
            token = self.world.by_token.get(request.headers.get("Authorization", "").removeprefix("Bearer "))
            org = token.org if token and token.scopes & {"interaction_api", "full"} else None
            org_id = org.id if org else None
            await faults.wait(name, org_id)
            fault = faults.take(name, org_id) if faults.active else None
            try:
                if fault and fault.what in ("status", "timeout_before", "success_false"):
                    if fault.what != "status":  # that one is refused below
                        silent = fault.what == "timeout_before"
                        words = "Salesforce does not answer" if silent else "Salesforce answers without success"
                        self.note_failure(org, request.headers.get("Content-Type", ""), raw, words, over=False)
                    if fault.what == "timeout_before":
                        journal.write("salesforce", kind_of(name), org=org_id, fault=fault.what)
                        await hang()
                    if fault.what == "success_false":
                        journal.write("salesforce", kind_of(name), org=org_id, status=status, fault=fault.what)
                        return answer(status, {"success": False})
                    raise Refused(
                        fault.status,
                        fault.code or (10004 if fault.status == 401 else fault.status),
                        "Refused on demand",
                    )
                body = take(request, raw, self.check_headers(request, org), arrived)
            except Refused as refusal:
                words = f"Salesforce answers {refusal.status}" + ("" if fault else f": {refusal}")
                content_type, over = request.headers.get("Content-Type", ""), is_final(refusal.status)
                self.note_failure(org, content_type, raw, words, over=over)
                journal.write(
                    "salesforce",
                    "refused",
                    org=org_id,
                    text=name,
                    status=refusal.status,
                    error=f"{refusal.code or 'no code'}: {refusal}",
                    ms=round(now_ms() - arrived, 2),
                    fault=fault and fault.what,
                )
                return refuse(request, refusal)
            return await finish(request, answer(status, body), fault)

        return handle

    def check_headers(self, request: web.Request, org: Org | None) -> Org:
        """Check the headers that every call needs.

        :raises Refused: if one is missing or not valid
        """
        headers = request.headers
        if org is None or not headers.get("Authorization", "").startswith("Bearer "):
            raise Refused(401, 10004, "INVALID_SESSION_ID: Session expired or invalid")
        request_id = headers.get("RequestId")
        if not request_id:
            raise Refused(400, None, "RequestId header not present")
        # the form of 18 characters was seen to be refused
        if headers.get("OrgId") != org.short_id or not is_uuid(request_id):
            raise Refused(400, 10016, "Enter a valid header.")
        context = headers.get("AuthorizationContext")
        if not context:
            raise Refused(400, 10016, "Enter a valid header.")
        if context not in org.contexts:
            raise Refused(403, 10005, "The authorization context is not valid for this app.")
        return org

    def take_interaction(self, request: web.Request, raw: bytes, org: Org, arrived: float) -> dict[str, Any]:
        """Take one interaction of an end user."""
        try:
            parts = read_multipart(request.headers.get("Content-Type", ""), raw)
        except ValueError as exc:
            raise Refused(400, None, str(exc)) from exc
        by_name = {part.name: part for part in parts}
        if len(by_name) != len(parts) or not set(by_name) <= {"json", "attachments"}:
            raise Refused(400, None, "Unexpected parts")
        if "json" not in by_name or by_name["json"].content_type != "application/json":
            raise Refused(400, None, "Required part 'json' of type application/json is not present")
        try:
            body = json.loads(by_name["json"].body)
        except ValueError as exc:
            raise Refused(400, None, "The part 'json' cannot be read") from exc
        if not isinstance(body, dict):
            raise Refused(400, None, "The part 'json' is not an object")
        channel, user = self.check_addresses(request, org, body)
        interactions = body.get("interactions")
        if not isinstance(interactions, list) or len(interactions) != 1 or not isinstance(interactions[0], dict):
            raise Refused(400, 10029, "Enter exactly one interaction.")
        interaction = interactions[0]
        if not is_number(interaction.get("timestamp")):
            raise Refused(400, None, "timestamp is not a number")
        attributes = body.get("routingAttributes", {})
        if not isinstance(attributes, dict) or not all(isinstance(value, str) for value in attributes.values()):
            raise Refused(400, None, "routingAttributes is not a map of strings")
        name = attributes.get("newEndUserName")
        file = by_name.get("attachments")
        if interaction.get("interactionType") == "AttachmentInteraction":
            entry, text = check_attachment(interaction, file)
        elif interaction.get("interactionType") != "EntryInteraction":
            raise Refused(400, 10029, "The interaction type is not valid.")
        elif file:
            raise Refused(400, 10011, "The number of attachments does not fit the interactions.")
        else:
            payload = interaction.get("payload")
            if not isinstance(payload, dict) or payload.get("entryType") not in ENTRY_TYPES:
                raise Refused(400, 10045, "The entry is not valid.")
            if payload["entryType"] != "Message":
                return self.take_indicator(org, channel, user, payload, arrived)
            entry, text = check_message(payload)
        return self.show(org, channel, user, name, entry, text, arrived, attributes)

    def establish(self, request: web.Request, raw: bytes, org: Org, arrived: float) -> dict[str, Any]:
        """Find or begin a conversation, and open a session without a message."""
        body = read_object(raw)
        people = body.get("participants")
        if not isinstance(people, list) or len(people) != 1 or not isinstance(people[0], dict):
            raise Refused(400, 10053, "Enter exactly one participant.")
        if people[0].get("role") != "EndUser" or people[0].get("appType") != "custom":
            raise Refused(400, 10037, "The participant is not an end user of a custom channel.")
        attributes = body.get("routingAttributes", {})
        if not isinstance(attributes, dict) or not all(isinstance(value, str) for value in attributes.values()):
            raise Refused(400, None, "routingAttributes is not a map of strings")
        address = {"to": body.get("channelAddressIdentifier"), "from": people[0].get("subject")}
        channel, user = self.check_addresses(request, org, address)
        conversation = self.world.conversation(org, channel, user, attributes.get("newEndUserName"))
        session, new = self.world.session(conversation)
        self.world.session_changed(session)
        self.world.journal.write(
            "salesforce",
            "establish",
            **{"from": user, "to": channel.address},
            org=org.id,
            conversation=conversation.id,
            session=session.id,
            status=202,
            routing=attributes or None,
            repeated=None if new else True,
        )
        return {"conversationIdentifier": conversation.id, "messagingSessionId": session.id, "success": True}

    def take_history(self, request: web.Request, raw: bytes, org: Org, arrived: float) -> dict[str, Any]:
        """Take what was said before, where the org permits it.

        :raises Refused: if it does not, or if anything breaks a rule
        """
        if not org.takes_history:
            raise Refused(403, 10057, "The org may not import conversation history.")
        if request.headers.get("AuthorizationContextType") != "ConversationChannelDefinition":
            raise Refused(400, 10016, "Enter a valid header.")
        try:
            return self.import_history(request, read_object(raw), org)
        except (LookupError, TypeError, AttributeError) as exc:  # a field is missing, or something else than it should be
            raise Refused(400, 10078, f"The history payload is not valid: {exc}") from exc

    def import_history(self, request: web.Request, body: dict[str, Any], org: Org) -> dict[str, Any]:
        """Take at most five entries, of one day, written while their senders were there."""
        people, entries = body.get("conversationParticipants"), body.get("conversationEntries")
        if not isinstance(people, list) or not 1 <= len(people) <= 3:
            raise Refused(400, 10078, "Enter one to three participants.")
        roles = [each["participant"]["role"] for each in people]
        if not set(roles) <= {"EndUser", "Chatbot"}:
            raise Refused(400, 10043, "The role must be Chatbot or EndUser.")
        if roles.count("EndUser") != 1:
            raise Refused(400, 10044 if "EndUser" in roles else 10042, "Enter exactly one end user.")
        if len({each["participant"]["subject"] for each in people}) != len(people):
            raise Refused(400, 10101, "A participant is there twice.")
        windows = {}
        for each in people:
            bot = each["participant"]["role"] == "Chatbot"
            if bot != ("leftTime" in each):
                raise Refused(400, 10066 if bot else 10065, "Only a chatbot has a leftTime.")
            joined, left = each["joinedTime"], each.get("leftTime", float("inf"))
            windows[each["participant"]["subject"]] = (joined, left)
            if joined >= left:
                raise Refused(400, 10067, "The joinedTime is not before the leftTime.")
        if not isinstance(entries, list) or not 1 <= len(entries) <= MOST_HISTORY:
            raise Refused(400, 10078, "Enter one to five entries.")
        user = next(each["participant"]["subject"] for each in people if each["participant"]["role"] == "EndUser")
        channel, user = self.check_addresses(request, org, {"to": body.get("channelAddressIdentifier"), "from": user})
        taken: list[tuple[str, str, float, str]] = []
        for each in entries:
            at, subject = each["clientTimestamp"], each["sender"]["subject"]
            if subject not in windows:
                raise Refused(400, 10068, "The sender is no participant.")
            if not windows[subject][0] <= at <= windows[subject][1]:
                raise Refused(400, 10074, "The entry was not written while its sender was there.")
            if at < now_ms() - 24 * 3600 * 1000:
                raise Refused(400, 10046, "The entry is older than a day.")
            entry, text = check_message(each["entryPayload"])
            if entry in org.arrived or entry in [known for known, *_ in taken]:
                raise Refused(400, 10073, "The message id is not unique.")
            taken.append((entry, text, at, each["sender"]["role"]))
        request_type = body.get("messagingSession", {}).get("messagingSessionRequestType")
        conversation = self.world.conversation(org, channel, user)
        if request_type == "AttachMessagingSession":
            session = self.world.sessions.get(body["messagingSession"]["payload"].get("sessionId"))
            if session is None or session.conversation is not conversation or session.status == "Ended":
                raise Refused(400, 10071, "There is no such session.")
        elif request_type == "EstablishMessagingSession":
            session, _ = self.world.session(conversation)
        else:
            raise Refused(400, 10072, "Enter a messagingSession.")
        for entry, text, at, role in taken:
            org.arrived.add(entry)
            line = self.world.show_in_console(session, entry, f"{role}: {text}" if role == "Chatbot" else text, mine=False)
            line.at = at
            session.order_by_time()  # batches come newest first
            self.world.journal.write(
                "salesforce",
                "history",
                org=org.id,
                session=session.id,
                id=entry,
                text=text,
                role=role,
                timestamp=at,
                status=202,
            )
        return {"conversationIdentifier": conversation.id, "messagingSessionId": session.id, "success": True}

    def check_addresses(self, request: web.Request, org: Org, body: dict[str, Any]) -> tuple[Channel, str]:
        """Check to and from.

        :raises Refused: if one is missing, unknown, or not this caller's
        """
        to, user = body.get("to"), body.get("from")
        if not isinstance(to, str) or not 0 < len(to) <= LONGEST_ADDRESS:
            raise Refused(400, 10027, "Enter a valid to.")
        if not isinstance(user, str) or not 0 < len(user) <= LONGEST_ADDRESS:
            raise Refused(400, 10028, "Enter a valid from.")
        channel = org.channels.get(to)
        if channel is None:
            raise Refused(400, 10017, "The channelAddressIdentifier provided does not exist.")
        if channel.context != request.headers["AuthorizationContext"]:
            raise Refused(400, 10001, "The authorization context is not valid for this channel address.")
        if not channel.active:
            raise Refused(400, 10031, "The channel address is not active.")
        return channel, user

    def show(
        self,
        org: Org,
        channel: Channel,
        user: str,
        name: str | None,
        entry: str,
        text: str,
        arrived: float,
        attributes: dict[str, str],
    ) -> dict[str, Any]:
        """Show an end user's message in the console; a repeated id is shown again, as nothing says that it is not."""
        repeated = entry in org.arrived
        if repeated and self.world.faults.take("interactions", org.id, "duplicate"):
            raise Refused(400, 10073, "The message id is not unique.")
        org.arrived.add(entry)
        conversation = self.world.conversation(org, channel, user, name)
        session, new = self.world.session(conversation)
        self.world.show_in_console(session, entry, text, mine=False)
        row = self.world.wire.match(inbound=True, org=org.id, user=user, text=text, uuid=entry)
        if row:
            row.new_session = new
            self.world.wire.mark(row, "arrived", arrived)
            self.world.wire.mark(row, "shown")
        self.world.journal.write(
            "salesforce",
            "interaction",
            **{"from": user, "to": channel.address},
            org=org.id,
            conversation=conversation.id,
            session=session.id,
            id=entry,
            text=text,
            status=202,
            ms=round(now_ms() - arrived, 2),
            repeated=repeated or None,
            routing=attributes or None,
        )
        return {"conversationIdentifier": conversation.id, "workItemIds": [session.id], "success": True}

    def take_indicator(
        self, org: Org, channel: Channel, user: str, payload: dict[str, Any], arrived: float
    ) -> dict[str, Any]:
        """Record a typing indicator or a failure report; neither changes what the rep sees of a message."""
        if not is_uuid(payload.get("id")):
            raise Refused(400, 10059, "The entry id is empty.")
        conversation = org.conversations.get((channel.address, user))
        if conversation is None:
            raise Refused(400, 10025, "There is no conversation for this address.")
        failed = None
        if payload["entryType"] == "MessageDeliveryFailed":
            failed = check_failure_report(org, conversation, payload)
        elif not is_number(payload.get("timestamp")):
            raise Refused(400, 10045, "The indicator has no timestamp.")
        self.world.journal.write(
            "salesforce",
            "failure_report" if failed else "typing",
            **{"from": user, "to": channel.address},
            org=org.id,
            conversation=conversation.id,
            id=failed or payload["id"],
            text=payload["entryType"],
            status=202,
            error=payload.get("errorCode"),
            ms=round(now_ms() - arrived, 2),
        )
        return {"conversationIdentifier": conversation.id, "success": True}

    def take_acknowledgements(self, request: web.Request, raw: bytes, org: Org, arrived: float) -> dict[str, Any]:
        """Take up to 25 ticks for a rep's messages."""
        if request.content_type != "application/json":
            raise Refused(415, None, "Content type is not application/json")
        try:
            body = json.loads(raw)
        except ValueError as exc:
            raise Refused(400, None, "The body cannot be read") from exc
        if not isinstance(body, dict):
            raise Refused(400, None, "The body is not an object")
        conversation = org.conversations_by_id.get(str(body.get("conversationIdentifier")))
        if conversation is None:
            raise Refused(400, 10018, "The conversation identifier is not valid.")
        if conversation.channel.context != request.headers["AuthorizationContext"]:
            raise Refused(400, 10001, "The authorization context is not valid for this channel address.")
        check_end_user(body.get("sender"), conversation.user)
        acknowledgements = body.get("acknowledgements")
        if not isinstance(acknowledgements, list) or not 1 <= len(acknowledgements) <= 25:
            raise Refused(400, 10089, "Enter 1 to 25 acknowledgements.")
        ticks = [check_acknowledgement(org, conversation, item) for item in acknowledgements]
        for message, kind, at in ticks:
            # of several acknowledgements the newest by its timestamp is what is shown
            if at >= message.acknowledged_at:
                message.acknowledged_at, message.state = at, TICKS[kind]
                self.world.session_changed(message.session)
            row = self.world.wire.find(message.id)
            self.world.wire.mark(row, f"{TICKS[kind]}_tick", arrived)
            if row and TICKS[kind] == "failed":
                self.world.wire.trouble(row, row.trouble or "the connector reports it as not delivered", over=True)
            self.world.journal.write(
                "salesforce",
                "acknowledgement",
                org=org.id,
                conversation=conversation.id,
                id=message.id,
                text=kind,
                status=200,
                ms=round(now_ms() - arrived, 2),
            )
        return {"success": True}

    def note_failure(self, org: Org | None, content_type: str, raw: bytes, words: str, *, over: bool) -> None:
        """Say on the wire that a message did not get in; reading it is worth the effort, as refusals are rare."""
        try:
            parts = read_multipart(content_type, raw)
            body = json.loads(next(part.body for part in parts if part.name == "json"))
            interaction = body["interactions"][0]
            payload = interaction.get("payload", interaction)
            content = payload.get("abstractMessage", {}).get("staticContent", payload)
            user, entry, text = body["from"], payload["id"], content.get("text") or ""
        except (ValueError, LookupError, AttributeError, TypeError, StopIteration):
            return  # it says itself what is wrong with it once the fault is over
        if org is None:
            return
        row = self.world.wire.match(inbound=True, org=org.id, user=user, text=text, uuid=entry)
        self.world.wire.trouble(row, words, over=over, count=True)


def kind_of(name: str) -> str:
    """Return the journal's word for a call of an endpoint."""
    return {"interactions": "interaction"}.get(name, name)


def refuse(request: web.Request, refusal: Refused) -> web.Response:
    """Return the error in the shape of the service, or of the framework below it where there is no code."""
    if refusal.code is not None:
        return answer(refusal.status, {"message": str(refusal), "code": refusal.code})
    at = time.strftime("%Y-%m-%dT%H:%M:%S.000+00:00", time.gmtime())
    body = {
        "timestamp": at,
        "status": refusal.status,
        "error": "Bad Request",
        "message": str(refusal),
        "path": request.path,
    }
    return answer(refusal.status, body)


def check_message(payload: dict[str, Any]) -> tuple[str, str]:
    """Return the id and the words of an end user's message.

    :raises Refused: if it is not one that an end user may send
    """
    message = payload.get("abstractMessage")
    if not isinstance(message, dict):
        raise Refused(400, 10045, "The message entry is not valid.")
    entry, inner = payload.get("id"), message.get("id")
    if not entry or not inner:
        raise Refused(400, 10059, "The entry id or message id is empty.")
    if entry != inner:
        raise Refused(400, 10060, "The entry id and the message id differ.")
    if not is_uuid(entry):
        raise Refused(400, 10045, "The entry id is not a UUID.")
    kind = message.get("messageType")
    if kind not in MESSAGE_TYPES:
        raise Refused(400, 10047, "The message type is not valid.")
    if kind not in END_USER_MESSAGES:
        raise Refused(400, 10062, "The message type is not allowed for end users.")
    content = message.get(CONTENT_FIELDS[kind])
    if not isinstance(content, dict) or content.get("formatType") not in FORMATS:
        raise Refused(400, 10048, "The format type is not valid.")
    if content["formatType"] not in FORMATS_BY_TYPE[kind]:
        raise Refused(400, 10049, "The combination of message type and format type is not valid.")
    return str(entry), words_of(kind, content)


def words_of(kind: str, content: dict[str, Any]) -> str:
    """Return what the console shows of a message."""
    if content["formatType"] == "Text":
        if not isinstance(content.get("text"), str):
            raise Refused(400, 10045, "The text is not a string.")
        return str(content["text"])
    if kind == "ChoicesResponseMessage":
        options = content.get("selectedOptions")
        if (
            not isinstance(options, list)
            or not options
            or not all(isinstance(o, dict) and o.get("optionIdentifier") for o in options)
        ):
            raise Refused(400, 10045, "The selected options are not valid.")
        return ", ".join(
            str((option.get("optionTitle") or {}).get("title") or option["optionIdentifier"]) for option in options
        )
    if kind == "FormResponseMessage":
        values = content.get("inputValues")
        if not isinstance(values, list) or not all(isinstance(value, dict) and value.get("inputId") for value in values):
            raise Refused(400, 10045, "The input values are not valid.")
        return "\n".join(f"{value['inputId']}: {value.get('displayValue', '')}" for value in values)
    links = content.get("links")
    if content["formatType"] == "Links" and (
        not isinstance(links, list) or len(links) != 1 or not isinstance(links[0], dict)
    ):
        raise Refused(400, 10045, "Enter exactly one link.")
    return str(links[0].get("url")) if links else str(content.get("text", ""))


def check_attachment(interaction: dict[str, Any], file: Part | None) -> tuple[str, str]:
    """Return the id and the words of a file.

    :raises Refused: if the file is not what it is said to be, or not allowed
    """
    entry = interaction.get("id")
    if not entry:
        raise Refused(400, 10059, "The id is empty.")
    if not is_uuid(entry):
        raise Refused(400, 10045, "The id is not a UUID.")
    if interaction.get("attachmentIndex") != 0 or file is None:
        raise Refused(400, 10011, "The number of attachments does not fit the interactions.")
    if not file.body:
        raise Refused(400, 10009, "The file is empty.")
    if len(file.body) > LARGEST_FILE:
        raise Refused(400, 10008, "The file is larger than 25 MB.")
    if not is_number(interaction.get("contentLength")):
        raise Refused(400, 10010, "The contentLength is empty.")
    if interaction["contentLength"] != len(file.body):
        raise Refused(400, 10051, "The contentLength is not the size of the file.")
    if file.content_type not in FILE_TYPES or not file.file_name:
        raise Refused(400, 10095, "The MIME type of the file cannot be detected.")
    caption = interaction.get("text")
    if caption is not None and not isinstance(caption, str):
        raise Refused(400, 10045, "The text is not a string.")
    return str(entry), caption or f"[{file.file_name}]"


def check_end_user(participant: Any, user: str) -> None:
    """Check that a participant is the conversation's end user.

    :raises Refused: if it is anybody else
    """
    if not isinstance(participant, dict):
        raise Refused(400, 10036, "The participant is not known.")
    if participant.get("appType") != "custom":
        raise Refused(400, 10037, "The appType is not supported.")
    if participant.get("role") != "EndUser":
        raise Refused(400, 10038, "The role is not supported.")
    if participant.get("subject") != user:
        raise Refused(400, 10054, "The participant subject is not valid.")


def check_failure_report(org: Org, conversation: Conversation, payload: dict[str, Any]) -> str:
    """Return the id of the rep's message that a report says has failed.

    :raises Refused: if the report is not valid
    """
    check_end_user(payload.get("recipient"), conversation.user)
    entry = payload.get("failedConversationEntryIdentifier")
    message = org.entries.get(entry) if isinstance(entry, str) else None
    if message is None or message.conversation is not conversation:
        raise Refused(400, 10045, "The failed entry is not known.")
    if not isinstance(payload.get("errorCode"), str):
        raise Refused(400, 10045, "The errorCode is not a string.")
    return message.id


def check_acknowledgement(org: Org, conversation: Conversation, item: Any) -> tuple[Any, str, float]:
    """Return the rep's message, the kind of tick and its timestamp.

    :raises Refused: if the acknowledgement is not valid
    """
    if not isinstance(item, dict) or item.get("acknowledgementType") not in TICKS:
        raise Refused(400, 10089, "The acknowledgementType is not valid.")
    at = item.get("acknowledgementTimestamp")
    # the schema says text, its samples say number
    if not isinstance(at, int | str) or not str(at).isdigit():
        raise Refused(400, 10089, "The acknowledgementTimestamp is not valid.")
    if not is_uuid(item.get("acknowledgmentCreatedConversationEntryIdentifier")):
        raise Refused(400, 10089, "The acknowledgmentCreatedConversationEntryIdentifier is not valid.")
    entry = item.get("acknowledgedConversationEntryIdentifier")
    message = org.entries.get(entry) if isinstance(entry, str) else None
    if message is None or message.conversation is not conversation:
        raise Refused(400, 10089, "The acknowledged entry does not exist.")
    return message, str(item["acknowledgementType"]), float(at)
