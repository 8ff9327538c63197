"""A sandbox in the test's own event loop, a connector's door beside it, and calls as a careful client makes them."""

import asyncio
import contextlib
import io
import json
import random
import socket
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import grpc.aio
import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from connector.salesforce import pubsub
from sandbox.__main__ import Sandbox
from sandbox.world import with_checksum

SENDER, ANA = "447700900123", "385991234567"
CHANNEL, CONTEXT = "6f1f4a5e-2f0a-4e1c-9c55-0b9b6f9f2d31", "Infobip_WhatsApp"
TOPIC = "/event/Infobip_Event__e"
_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PRIVATE_KEY = _KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def free_ports(names: list[str]) -> dict[str, int]:
    """Return ports below those that the system gives to clients, which could be taken before a server gets there."""
    found: set[int] = set()
    while len(found) < len(names):
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.add(port)
    return dict(zip(names, found, strict=True))


class FarSides:
    """What a test sees: the sandbox, the webhooks that arrived, and a client."""

    def __init__(self) -> None:
        self.sandbox = Sandbox()
        self.ports = free_ports(["page", "salesforce", "infobip", "pubsub", "door"])
        self.salesforce = f"http://127.0.0.1:{self.ports['salesforce']}"
        self.infobip = f"http://127.0.0.1:{self.ports['infobip']}"
        self.page = f"http://127.0.0.1:{self.ports['page']}"
        self.webhook = f"http://127.0.0.1:{self.ports['door']}/messages"
        self.org_id = with_checksum("00D5g00000ABcDE")
        self.arrived: list[tuple[dict[str, str], bytes]] = []  # headers and body of each webhook
        self.door_answers: list[int] = []  # statuses of the next webhooks; 200 when there are none
        self.client: aiohttp.ClientSession

    def document(self) -> dict[str, Any]:
        return {
            "org": {
                "name": "Acme",
                "orgId": self.org_id,
                "baseUrl": self.salesforce,
                "scrtUrl": self.salesforce,
                "consumerKey": "3MVG9acme",
                "username": "byoc@acme.example",
                "privateKey": PRIVATE_KEY,
            },
            "infobipAccounts": [
                {
                    "name": "main",
                    "baseUrl": self.infobip,
                    "apiKey": "key-acme",
                    "webhookSecret": "s3cret",
                    "handoverToken": "t",
                }
            ],
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

    async def take_webhook(self, request: web.Request) -> web.Response:
        self.arrived.append((dict(request.headers), await request.read()))
        return web.Response(status=self.door_answers.pop(0) if self.door_answers else 200)

    async def control(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        async with self.client.request(method, self.page + path, json=body) as response:
            answer = await response.json()
            assert response.status == status, (response.status, answer)
            return answer

    def assertion(self, key: Any = _KEY, algorithm: str = "RS256", **claims: Any) -> str:
        usual = {
            "iss": "3MVG9acme",
            "sub": "byoc@acme.example",
            "aud": "https://login.salesforce.com",
            "exp": int(time.time()) + 180,
        }
        kept = {name: value for name, value in (usual | claims).items() if value is not None}
        return jwt.encode(kept, key, algorithm=algorithm)

    async def login(self, assertion: str | None = None, **form: Any) -> tuple[int, dict[str, Any]]:
        usual = {
            "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
            "assertion": self.assertion() if assertion is None else assertion,
        }
        async with self.client.post(f"{self.salesforce}/services/oauth2/token", data=usual | form) as response:
            return response.status, await response.json()

    async def token(self) -> str:
        status, answer = await self.login()
        assert status == 200, answer
        return str(answer["access_token"])

    def headers(self, token: str, **changed: str | None) -> dict[str, str]:
        usual = {
            "Authorization": f"Bearer {token}",
            "OrgId": self.org_id[:15],
            "AuthorizationContext": CONTEXT,
            "RequestId": str(uuid.uuid4()),
        }
        return {name: value for name, value in (usual | changed).items() if value is not None}

    async def interact(
        self,
        token: str,
        body: Any,
        *,
        headers: dict[str, str | None] | None = None,
        part: str = "application/json",
        file: tuple[str, str, bytes] | None = None,
    ) -> tuple[int, dict[str, Any]]:
        form = aiohttp.FormData(default_to_multipart=True)
        form.add_field("json", json.dumps(body), content_type=part)
        if file:
            form.add_field("attachments", io.BytesIO(file[2]), filename=file[0], content_type=file[1])
        url = f"{self.salesforce}/api/v1/interactions"
        async with self.client.post(url, data=form, headers=self.headers(token, **(headers or {}))) as response:
            return response.status, await response.json()

    async def acknowledge(self, token: str, body: Any) -> tuple[int, dict[str, Any]]:
        url = f"{self.salesforce}/api/v1/acknowledgement"
        async with self.client.post(url, json=body, headers=self.headers(token)) as response:
            return response.status, await response.json()

    async def send(self, body: Any, kind: str = "text", **headers: str | None) -> tuple[int, dict[str, Any]]:
        usual = {"Authorization": "App key-acme", "Accept": "application/json"}
        kept = {name: value for name, value in (usual | headers).items() if value is not None}
        async with self.client.post(f"{self.infobip}/whatsapp/1/message/{kind}", json=body, headers=kept) as response:
            return response.status, await response.json()

    async def journal(self, **wanted: Any) -> list[dict[str, Any]]:
        entries = (await self.control("GET", "/control/journal"))["entries"]
        return [entry for entry in entries if all(entry.get(name) == value for name, value in wanted.items())]

    async def until(self, condition: Callable[[], Any], seconds: float = 5.0) -> Any:
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < deadline, "it never came"
            await asyncio.sleep(0.01)
        return found

    async def ana_and_the_rep(self) -> tuple[str, str, str]:
        """Let Ana write so that a session is open; return a token, the conversation and the session."""
        await self.control(
            "POST", "/control/phone/messages", {"from": ANA, "to": SENDER, "name": "Ana Horvat", "text": "hi"}
        )
        token = await self.token()
        status, answer = await self.interact(token, text_interaction("hi"))
        assert status == 202
        return token, answer["conversationIdentifier"], answer["workItemIds"][0]

    def channel(self) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(f"127.0.0.1:{self.ports['pubsub']}")

    def metadata(self, token: str, **changed: str) -> tuple[tuple[str, str], ...]:
        usual = {"accesstoken": token, "instanceurl": self.salesforce, "tenantid": self.org_id}
        return tuple((usual | changed).items())


@contextlib.asynccontextmanager
async def far_sides() -> AsyncIterator[FarSides]:
    sides = FarSides()
    ports = sides.ports
    await sides.sandbox.start(
        page_port=ports["page"],
        salesforce_port=ports["salesforce"],
        infobip_port=ports["infobip"],
        pubsub_port=ports["pubsub"],
    )
    door = web.Application()
    door.router.add_post("/messages", sides.take_webhook)
    door.router.add_post("/notify", sides.take_webhook)
    runner = web.AppRunner(door, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", sides.ports["door"]).start()
    sides.client = aiohttp.ClientSession()
    try:
        await sides.control("POST", "/control/orgs", {"document": sides.document(), "webhooks": {"main": sides.webhook}})
        yield sides
    finally:
        await sides.client.close()
        await sides.sandbox.stop()
        await runner.cleanup()


def text_interaction(text: str, **changed: Any) -> dict[str, Any]:
    """Return the body of an interaction with a text, as the reference has it."""
    entry = changed.pop("entry", None) or str(uuid.uuid4())
    content = {"formatType": "Text", "text": text}
    message = {"messageType": "StaticContentMessage", "id": entry, "staticContent": content} | changed.pop("message", {})
    payload = {"id": entry, "entryType": "Message", "abstractMessage": message} | changed.pop("payload", {})
    interaction = {"timestamp": 1785312000000, "interactionType": "EntryInteraction", "payload": payload}
    return {"to": CHANNEL, "from": ANA, "interactions": [interaction | changed.pop("interaction", {})]} | changed


def subscribe(channel: grpc.aio.Channel, metadata: Any) -> Any:
    method: Any = channel.stream_stream(
        f"/{pubsub.SERVICE}/Subscribe",
        request_serializer=pubsub.FetchRequest.SerializeToString,
        response_deserializer=pubsub.FetchResponse.FromString,
    )
    return method(metadata=metadata)
