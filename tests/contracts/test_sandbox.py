"""What the sandbox answers and posts has the published shapes, seen over its real sockets as the connector sees it."""

import asyncio
import json
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import uuid4

import pytest
import requests

from connector.events import MessageReceived, Receipt, ReceiptReceived, ReplyWritten, SessionEnded, Text
from connector.http import ApiError, CustomerMustAct
from connector.infobip import webhooks
from connector.infobip.signature import SignatureCheck
from connector.salesforce.auth import AccessToken, login
from connector.salesforce.interactions import Acknowledgement, Delivered, InteractionClient
from connector.salesforce.platform_events import PlatformEvent, Topic, parse_event
from connector.salesforce.pubsub.channel import open_channel
from connector.salesforce.pubsub.stream import Start, pages
from tests.connector import (
    AT,
    CHANNEL,
    CONTEXT,
    END_USER,
    ORG_ID,
    SENDER,
    TICK,
    infobip_client,
    send_to_salesforce,
)
from tests.contracts.published import (
    COMMON_ASSETS,
    CONVERSATIONS,
    EVENTS,
    INTERACTIONS,
    MESSAGES_API,
    PROJECT,
    WHATSAPP,
    load,
    without_nulls,
)
from tests.payloads import load as recorded

SECRET, API_KEY = "s3cret", "key-acme"
TOPIC = Topic("/event/Infobip_Event__e", ORG_ID, "EventType__c", "Payload__c")


@dataclass
class Sandbox:
    """A running sandbox with one org, and the door that its webhooks come to."""

    page: str
    salesforce: str
    infobip: str
    pubsub: str
    door: str
    private_key: str
    arrived: list[tuple[str, bytes]]
    tokens: list[AccessToken] = field(default_factory=list)

    def control(self, path: str, body: object, method: str = "POST") -> Any:
        answer = requests.request(method, f"{self.page}/control/{path}", json=body, timeout=10)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def login(self) -> AccessToken:
        return login(
            base_url=self.salesforce,
            consumer_key="3MVG9acme",
            username="byoc@acme.example",
            private_key=self.private_key,
            allow_local=True,
        )

    key = "acme"

    def ready(self) -> AccessToken | None:
        """Be a source of tokens."""
        return self.tokens[-1] if self.tokens else None

    def current(self) -> AccessToken:
        if not self.tokens:
            self.tokens.append(self.login())
        return self.tokens[-1]

    def renew(self, refused: AccessToken) -> AccessToken:
        self.tokens.append(self.login())
        return self.tokens[-1]

    def client(self) -> InteractionClient:
        return InteractionClient(scrt_url=self.salesforce, org_id=ORG_ID, tokens=self, allow_local=True)

    def post(self, path: str, body: object, **headers: str) -> requests.Response:
        """Call the Interaction Service as it is described, with other headers where a test says so."""
        usual = {
            "Authorization": f"Bearer {self.current().value}",
            "OrgId": ORG_ID[:15],
            "AuthorizationContext": CONTEXT,
            "RequestId": str(uuid4()),
        }
        content: Any = {"json": body}
        if path == "/interactions":
            content = {"files": {"json": (None, json.dumps(body), "application/json")}}
        return requests.post(f"{self.salesforce}/api/v1{path}", headers=usual | headers, timeout=10, **content)

    def wait_for_webhooks(self, count: int) -> list[Any]:
        """Take the bodies of the next webhooks, whose signatures must fit."""
        _until(lambda: len(self.arrived) >= count)
        taken, self.arrived[:] = self.arrived[:count], self.arrived[count:]
        for signature, body in taken:
            check = SignatureCheck(signature, [SECRET])
            check.update(body)
            assert check.fitting() == 0
        return [json.loads(body) for _, body in taken]


def _until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def _free_ports(count: int) -> list[int]:
    """Find ports below those that the system gives to clients, which could be taken before a server gets there."""
    found: set[int] = set()
    while len(found) < count:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.add(port)
    return list(found)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def door() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    arrived: list[tuple[str, bytes]] = []

    class Door(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/messages":
                arrived.append((self.headers.get("X-Hub-Signature", ""), body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/messages", arrived
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def world(door: tuple[str, list[tuple[str, bytes]]], private_key: str) -> Iterator[Sandbox]:
    load(WHATSAPP)  # skips where there is nothing to compare with
    names = ["page", "salesforce", "infobip", "pubsub"]
    ports = dict(zip(names, _free_ports(len(names)), strict=True))
    command = [sys.executable, "-m", "sandbox"]
    for name, port in ports.items():
        command += [f"--{name}-port", str(port)]
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL)
    try:
        _until(lambda: _answers(ports["page"]))
        urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
        sandbox = Sandbox(
            page=urls["page"],
            salesforce=urls["salesforce"],
            infobip=urls["infobip"],
            pubsub=f"127.0.0.1:{ports['pubsub']}",
            door=door[0],
            private_key=private_key,
            arrived=door[1],
        )
        sandbox.control("orgs", {"document": _document(sandbox), "webhooks": {"main": sandbox.door}, "title": "Acme"})
        yield sandbox
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(autouse=True)
def nothing_is_left_of_the_test_before(world: Sandbox) -> Iterator[None]:
    yield
    world.control("faults", None, method="DELETE")
    world.arrived.clear()


def _document(sandbox: Sandbox) -> dict[str, Any]:
    return {
        "org": {
            "name": "Acme",
            "orgId": ORG_ID,
            "baseUrl": sandbox.salesforce,
            "scrtUrl": sandbox.salesforce,
            "consumerKey": "3MVG9acme",
            "username": "byoc@acme.example",
            "privateKey": sandbox.private_key,
        },
        "infobipAccounts": [{"name": "main", "baseUrl": sandbox.infobip, "apiKey": API_KEY, "webhookSecret": SECRET}],
        "channels": [
            {
                "name": "WhatsApp",
                "developerName": CONTEXT,
                "authorizationContext": CONTEXT,
                "channelAddressIdentifier": CHANNEL,
                "customEventName": "Infobip_Event__e",
                "customEventTypeField": "EventType__c",
                "customEventPayloadField": "Payload__c",
                "senders": [{"account": "main", "number": SENDER}],
            }
        ],
    }


def _write(world: Sandbox, text: str, **more: object) -> None:
    body = {"from": END_USER, "to": SENDER, "name": "Ana Horvat", "text": text, **more}
    (answer,) = world.control("phone/messages", body)["answers"]
    assert answer["status"] == 200


# Salesforce


def test_a_login_answers_with_the_published_fields(world: Sandbox) -> None:
    token = world.login()
    assert token.instance_url == world.salesforce
    assert token.value.startswith(f"{ORG_ID[:15]}!")


def test_a_refused_login_answers_as_the_token_endpoint_does(world: Sandbox) -> None:
    form = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": "a.b.c"}
    answer = requests.post(f"{world.salesforce}/services/oauth2/token", data=form, timeout=10)
    assert answer.status_code == 400
    assert answer.json().keys() == {"error", "error_description"}
    assert answer.json()["error"] == "invalid_grant"


def test_an_interaction_answers_with_the_published_shape(world: Sandbox) -> None:
    contract = load(INTERACTIONS)
    body = {**recorded("salesforce/requests/interaction"), "to": CHANNEL, "from": END_USER}
    answer = world.post("/interactions", body)
    assert answer.status_code == 202
    assert contract.problems(contract.answer("/interactions", 202), answer.json()) == []
    assert answer.json().keys() == recorded("salesforce/answers/interaction_accepted")["body"].keys()


@pytest.mark.parametrize(
    ("code", "change", "headers"),
    [
        (10004, {}, {"Authorization": "Bearer 00D5g00000ABcDE!another"}),
        (10005, {}, {"AuthorizationContext": "Another_Channel"}),
        (10016, {}, {"OrgId": ORG_ID}),  # the form of 18 characters
        (10016, {}, {"RequestId": "no-uuid"}),
        (10017, {"to": "00000000-0000-4000-8000-000000000000"}, {}),
        (10027, {"to": ""}, {}),
        (10028, {"from": ""}, {}),
        (10029, {"interactions": []}, {}),
        (10060, "other id", {}),
    ],
)
def test_a_refused_interaction_answers_with_the_published_error(
    world: Sandbox, code: int, change: Any, headers: dict[str, str]
) -> None:
    contract = load(INTERACTIONS)
    body = recorded("salesforce/requests/interaction")
    if change == "other id":
        body["interactions"][0]["payload"]["id"] = str(uuid4())
    else:
        body |= change
    answer = world.post("/interactions", body, **headers)
    assert answer.status_code >= 400
    assert contract.problems(contract.answer("/interactions", answer.status_code), answer.json()) == []
    assert answer.json()["code"] == code


def test_an_acknowledgement_answers_with_the_published_shape(world: Sandbox) -> None:
    contract = load(INTERACTIONS)
    delivered, entry = _session_with_a_reply(world)
    body = recorded("salesforce/requests/acknowledgement")
    body["conversationIdentifier"] = delivered.conversation
    body["acknowledgements"][0]["acknowledgedConversationEntryIdentifier"] = entry
    answer = world.post("/acknowledgement", body)
    assert answer.status_code == 200
    assert contract.problems(contract.answer("/acknowledgement", 200), answer.json()) == []
    # a text, as the schema has it, is taken as well
    body["acknowledgements"][0]["acknowledgementTimestamp"] = "1785312400000"
    assert contract.problems(contract.request("/acknowledgement"), body) == []
    assert world.post("/acknowledgement", body).json() == {"success": True}


def test_a_refused_acknowledgement_carries_a_code(world: Sandbox) -> None:
    # the schema has no place for a code here, other endpoints have one: the sandbox takes the form of /interactions
    contract = load(INTERACTIONS)
    body = {**recorded("salesforce/requests/acknowledgement"), "conversationIdentifier": str(uuid4())}
    answer = world.post("/acknowledgement", body)
    assert contract.problems(contract.schema("Error"), answer.json()) == []
    assert answer.json()["code"] == 10018


def test_our_clients_and_the_sandbox_agree(world: Sandbox) -> None:
    delivered, entry = _session_with_a_reply(world)
    world.client().acknowledge(
        context=CONTEXT,
        conversation=delivered.conversation,
        end_user=END_USER,
        acknowledgements=[
            Acknowledgement(entry, Receipt.DELIVERED, AT, TICK),
            Acknowledgement(entry, Receipt.READ, datetime.now(UTC), uuid4()),
        ],
    )
    sessions = requests.get(f"{world.page}/control/state", timeout=10).json()["sessions"]
    (message,) = [each for session in sessions for each in session["messages"] if each["id"] == entry]
    assert message["state"] == "read"


def test_an_expired_token_is_renewed_once(world: Sandbox) -> None:
    send_to_salesforce(world.client())
    logins = len(world.tokens)
    world.control("tokens/expire", {})
    assert send_to_salesforce(world.client()).session
    assert len(world.tokens) == logins + 1


@pytest.mark.parametrize(("status", "code", "kind"), [(400, 10026, CustomerMustAct), (400, 10055, ApiError)])
def test_a_fault_of_the_sandbox_answers_with_the_published_error(
    world: Sandbox, status: int, code: int, kind: type[ApiError]
) -> None:
    contract = load(INTERACTIONS)
    fault = {"where": "interactions", "what": "status", "status": status, "code": code, "count": 2}
    world.control("faults", fault)
    answer = world.post("/interactions", recorded("salesforce/requests/interaction"))
    assert answer.status_code == status
    assert contract.problems(contract.answer("/interactions", status), answer.json()) == []
    with pytest.raises(kind) as caught:
        send_to_salesforce(world.client())
    assert caught.value.code == str(code)


def test_platform_events_have_the_published_shape(world: Sandbox) -> None:
    contract = load(EVENTS)
    delivered, entry = _session_with_a_reply(world)
    world.control("console/end", {"org": ORG_ID, "session": delivered.session})

    async def read() -> list[PlatformEvent]:
        found: list[PlatformEvent] = []
        async with open_channel(world.pubsub, plaintext=True) as channel:
            token = await asyncio.to_thread(world.login)
            async with aclosing(pages(channel, TOPIC, token, Start())) as stream:  # type: ignore[type-var]  # a generator
                async for page in stream:
                    found += page.events
                    if '"Ended"' in str(found[-1].record):
                        return found
        return found

    events = asyncio.run(asyncio.wait_for(read(), 10))
    for event in events:
        assert event.record is not None
        assert event.record["EventType__c"] == "Interaction"
        payload = without_nulls(json.loads(event.record["Payload__c"]))
        if payload["payload"]["entryType"] != "ParticipantChanged":  # its schema requires what no schema describes
            assert contract.problems(contract.schema("InteractionEvent"), payload) == []
    read_as = [parse_event(event, TOPIC) for event in events]
    (reply,) = [each for each in read_as if isinstance(each, ReplyWritten) and each.entry == entry]
    assert (reply.channel_address, reply.conversation, reply.end_user) == (CHANNEL, delivered.conversation, END_USER)
    assert reply.content == Text("Hello Ana")
    assert SessionEnded(delivered.conversation, delivered.session) in read_as


def test_a_conversation_of_a_chatbot_has_the_published_shape(world: Sandbox) -> None:
    contract, place = load(CONVERSATIONS), "/ccaas/1/conversations/{conversationId}"
    document = _document(world)
    document["channels"][0]["senders"][0]["chatbotFirst"] = True
    world.control("orgs", {"document": document, "webhooks": {"main": world.door}, "title": "Acme"})
    world.control("chatbot", {"lag": 0})
    try:
        world.control("phone/messages", {"from": END_USER, "to": SENDER, "name": "Ada Winter", "text": "Where is it?"})
        (event,) = [body for body in world.wait_for_webhooks(2) if "payload" in body]
        # nobody is assigned and no form is filled: null is the likely word for that, though no schema says so
        unused = {name: {"id": str(uuid4()), "name": name} for name, value in event["payload"].items() if value is None}
        described = {**event, "payload": event["payload"] | unused}
        assert load(COMMON_ASSETS).problems(load(COMMON_ASSETS).webhook("conversation-event-webhook"), described) == []
        url = f"{world.infobip}/ccaas/1/conversations/{event['payload']['id']}"

        def call(method: str, path: str, body: Any = None) -> Any:
            headers = {"Authorization": f"App {API_KEY}", "Accept": "application/json"}
            answer = requests.request(method, url + path, json=body, headers=headers, timeout=10)
            assert answer.status_code == 200, answer.text
            described = contract.answer(place + path.partition("?")[0], 200, method=method.lower())
            assert contract.problems(described, answer.json()) == []
            return answer.json()

        _until(lambda: len(call("GET", "/messages?limit=999&orderBy=createdAt:asc")["messages"]) == 2)
        call("PUT", "/assignee", {"agentId": str(uuid4())})
        call("DELETE", "/assignee")
        call("POST", "/tags", {"tagName": "order"})
        call("POST", "/notes", {"content": "Handed over"})
        assert call("GET", "")["status"] == "OPEN"
        assert call("PATCH", "", {"status": "CLOSED"})["status"] == "CLOSED"
    finally:
        world.control("orgs", {"document": _document(world), "webhooks": {"main": world.door}, "title": "Acme"})


def test_a_conversation_without_a_message_begins_with_the_published_shape(world: Sandbox) -> None:
    contract = load(INTERACTIONS)
    person = {"subject": "15550002222", "role": "EndUser", "appType": "custom"}
    answer = world.post("/conversation", {"channelAddressIdentifier": CHANNEL, "participants": [person]})
    assert answer.status_code == 202
    assert contract.problems(contract.answer("/conversation", 202), answer.json()) == []
    refused = world.post("/conversationHistory", {})
    assert refused.json()["code"] == 10057
    assert contract.problems(contract.answer("/conversationHistory", refused.status_code), refused.json()) == []


def _session_with_a_reply(world: Sandbox) -> tuple[Delivered, str]:
    delivered = send_to_salesforce(world.client())
    reply = {"org": ORG_ID, "conversation": delivered.conversation, "text": "Hello Ana"}
    return delivered, str(world.control("console/replies", reply)["entry"])


# Infobip


@pytest.mark.parametrize(
    ("status", "change", "headers", "fault"),
    [
        (200, {}, {}, None),
        (200, {}, {}, {"what": "success_false"}),
        (400, {"from": None}, {}, None),
        (400, {"from": "447700900999"}, {}, None),
        (400, {"content": {"text": ""}}, {}, None),
        (400, {"content": {"text": "x" * 4097}}, {}, None),
        (400, {"to": "1" * 151}, {}, None),
        (401, {}, {"Authorization": "App another"}, None),
        (401, {}, {"Authorization": API_KEY}, None),
        (403, {}, {}, {"what": "status", "status": 403}),
        (429, {}, {}, {"what": "status", "status": 429}),
        (500, {}, {}, {"what": "status", "status": 500}),
    ],
)
def test_a_send_answers_with_the_published_shape(
    world: Sandbox, status: int, change: dict[str, Any], headers: dict[str, str], fault: dict[str, Any] | None
) -> None:
    contract = load(WHATSAPP)
    if fault:
        world.control("faults", {"where": "send", "count": 1, **fault})
    body = {
        **recorded("infobip/requests/send_text"),
        "messageId": str(uuid4()),
        "notifyUrl": f"{world.door}/unread",
        **change,
    }
    usual = {"Authorization": f"App {API_KEY}", "Accept": "application/json"}
    url = f"{world.infobip}/whatsapp/1/message/text"
    answer = requests.post(url, json=body, headers=usual | headers, timeout=10)
    assert answer.status_code == status
    schema = contract.answer("/whatsapp/1/message/text", status)
    assert contract.problems(schema, answer.json()) == []
    if status == 200:
        assert answer.json()["messageId"] == body["messageId"]
        assert answer.json()["status"]["groupName"] == ("REJECTED" if fault else "PENDING")


@pytest.mark.parametrize(
    ("status", "change"), [(200, {}), (400, {"from": None}), (400, {"content": {"templateName": "order_update"}})]
)
def test_a_template_answers_with_the_published_shape(world: Sandbox, status: int, change: dict[str, Any]) -> None:
    contract = load(WHATSAPP)
    (message,) = recorded("infobip/requests/send_template")["messages"]
    body = {"messages": [message | {"messageId": str(uuid4()), "notifyUrl": f"{world.door}/unread"} | change]}
    headers = {"Authorization": f"App {API_KEY}", "Accept": "application/json"}
    answer = requests.post(f"{world.infobip}/whatsapp/1/message/template", json=body, headers=headers, timeout=10)
    assert answer.status_code == status
    assert contract.problems(contract.answer("/whatsapp/1/message/template", status), answer.json()) == []


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ({"type": "TEXT", "text": "hi"}, "hi"),
        (
            {"type": "IMAGE", "url": "https://k2v9.api.infobip.com/m/1", "caption": "The broken part"},
            "▸ Image: The broken part",
        ),
        ({"type": "LOCATION", "latitude": 51.5, "longitude": -0.1}, "▸ Location: 51.5, -0.1"),
    ],
)
@pytest.mark.parametrize("form", ["whatsapp", "messages-api"])
def test_a_webhook_has_the_published_shape(world: Sandbox, form: str, message: dict[str, Any], line: str) -> None:
    contract = load(WHATSAPP if form == "whatsapp" else MESSAGES_API)
    operation = "receive-whatsapp-inbound-messages" if form == "whatsapp" else "receive-messages-api-incoming-messages"
    _write(world, "", message=message, form=form)
    (body,) = world.wait_for_webhooks(1)
    # the counts beside the results belong to the WhatsApp form only; the sandbox writes them in both
    published = body if form == "whatsapp" else {"results": body["results"]}
    assert contract.problems(contract.webhook(operation), published) == []
    (result,) = webhooks.results_of(body)
    event = webhooks.parse_result(result, received_at=AT)
    assert isinstance(event, MessageReceived)
    assert (event.sender, event.end_user, event.text) == (SENDER, END_USER, line)


@pytest.mark.parametrize("form", ["whatsapp", "messages-api"])
def test_reports_have_the_published_shape(world: Sandbox, form: str) -> None:
    contract = load(WHATSAPP if form == "whatsapp" else MESSAGES_API)
    world.control("reports", {"delivered": 0.01, "seen": 0.05, "auto": True, "form": form, "toMessage": "signed"})
    _write(world, "hi")  # opens the window in which an answer is delivered
    message = uuid4()
    infobip_client(world.infobip, api_key=API_KEY, allow_local=True).send_text(
        sender=SENDER, to=END_USER, text="Hello Ana", message_uuid=message, notify_url=world.door
    )
    _, delivery, seen = world.wait_for_webhooks(3)
    for report, kind, receipt in ((delivery, "delivery", Receipt.DELIVERED), (seen, "seen", Receipt.READ)):
        assert contract.problems(contract.webhook(f"receive-{form}-{kind}-reports"), report) == []
        (event,) = [webhooks.parse_result(result, received_at=AT) for result in webhooks.results_of(report)]
        assert isinstance(event, ReceiptReceived)
        assert (event.message_uuid, event.receipt) == (message, receipt)


@pytest.mark.parametrize("form", ["whatsapp", "messages-api"])
def test_a_report_of_a_failure_has_the_published_shape(world: Sandbox, form: str) -> None:
    contract = load(WHATSAPP if form == "whatsapp" else MESSAGES_API)
    world.control("reports", {"delivered": 0.01, "seen": 0.05, "auto": True, "form": form, "toMessage": "signed"})
    message = uuid4()
    infobip_client(world.infobip, api_key=API_KEY, allow_local=True).send_text(
        sender=SENDER, to="385990000000", text="Outside the window", message_uuid=message, notify_url=world.door
    )
    (report,) = world.wait_for_webhooks(1)
    assert contract.problems(contract.webhook(f"receive-{form}-delivery-reports"), report) == []
    (event,) = [webhooks.parse_result(result, received_at=AT) for result in webhooks.results_of(report)]
    assert isinstance(event, ReceiptReceived)
    assert (event.receipt, event.code) == (Receipt.FAILED, "EC_NO_SESSION")
