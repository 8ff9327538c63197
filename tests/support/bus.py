"""A server of the Pub/Sub API, built on Salesforce's own definition of it, that answers as a test wants."""

import asyncio
import io
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import fastavro
import grpc
import grpc.aio
from sfprotostash import pubsub_api_pb2, pubsub_api_pb2_grpc

from connector.salesforce.auth import AccessToken
from connector.salesforce.platform_events import Topic
from connector.salesforce.pubsub.channel import StreamBroken, open_channel
from connector.salesforce.pubsub.stream import Page, Start, pages

TOPIC = Topic("/event/Infobip_Event__e", "00D5g00000ABcDE", "EventType__c", "Payload__c")
TOKEN = AccessToken("00D5g00000ABcDE!token", "https://acme.my.salesforce.com")
CREDENTIALS = {"accesstoken": TOKEN.value, "instanceurl": TOKEN.instance_url, "tenantid": TOPIC.tenant_id}
SCHEMA = {
    "type": "record",
    "name": "Infobip_Event__e",
    "namespace": "com.sforce.eventbus",
    "fields": [
        {"name": "CreatedDate", "type": "long"},
        {"name": "CreatedById", "type": "string"},
        {"name": "EventType__c", "type": ["null", "string"], "default": None},
        {"name": "Payload__c", "type": ["null", "string"], "default": None},
    ],
}
_numbers = itertools.count()


class Bus(pubsub_api_pb2_grpc.PubSubServicer):  # type: ignore[misc]  # generated code without types
    """A topic that answers each request of a stream with the next round of answers, then as ``end`` says."""

    def __init__(self, *rounds: list[Any], end: tuple[grpc.StatusCode, str] | None = None) -> None:
        self.rounds, self.end = list(rounds), end
        self.schema_id = f"schema-{next(_numbers)}"  # our reader keeps each schema as long as it lives
        self.schema_json = json.dumps(SCHEMA)
        self.schema_refusal: tuple[grpc.StatusCode, str] | None = None
        self.refused_schemas: dict[str, grpc.StatusCode] = {}
        self.schema_hangs = False
        self.peers: set[str] = set()
        self.requests: list[Any] = []
        self.metadata: list[dict[str, Any]] = []
        self.schemas_asked = 0
        self.left = asyncio.Event()

    async def Subscribe(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        self.metadata.append(dict(context.invocation_metadata()))
        self.peers.add(context.peer())
        try:
            async for request in requests:
                self.requests.append(request)
                for answer in self.rounds.pop(0) if self.rounds else []:
                    yield answer
                if not self.rounds and self.end:
                    await self._end(context, *self.end)
                    return
        finally:
            self.left.set()

    async def GetSchema(self, request: Any, context: Any) -> Any:
        self.schemas_asked += 1
        self.metadata.append(dict(context.invocation_metadata()))
        if self.schema_hangs:
            await asyncio.sleep(60)
        if request.schema_id in self.refused_schemas:
            await self._end(context, self.refused_schemas[request.schema_id], "")
        if self.schema_refusal:
            await self._end(context, *self.schema_refusal)
        return pubsub_api_pb2.SchemaInfo(schema_json=self.schema_json, schema_id=request.schema_id, rpc_id="rpc-2")

    async def _end(self, context: Any, status: grpc.StatusCode, code: str) -> None:
        if status is not grpc.StatusCode.OK:
            trailing = (("error-code", f"sfdc.platform.eventbus.grpc.{code}"),) if code else ()
            await context.abort(status, "refused; rpcId: 1", trailing_metadata=trailing)

    def answer(self, *payloads: bytes | dict[str, Any], pending: int = 50, latest: bytes = b"\x00\x99") -> Any:
        """Write an answer with an event for each payload; events are numbered from 1 in each answer."""
        events = [
            pubsub_api_pb2.ConsumerEvent(
                event=pubsub_api_pb2.ProducerEvent(
                    id=f"e-{number}",
                    schema_id=self.schema_id,
                    payload=payload if isinstance(payload, bytes) else encoded(payload),
                ),
                replay_id=bytes([0, number]),
            )
            for number, payload in enumerate(payloads, start=1)
        ]
        return pubsub_api_pb2.FetchResponse(
            events=events, latest_replay_id=latest, rpc_id="rpc-1", pending_num_requested=pending
        )


def encoded(decoded: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, fastavro.parse_schema(SCHEMA), decoded)
    return buffer.getvalue()


_addresses: list[str] = []


def pubsub_address(_channel: grpc.aio.Channel) -> str:
    """Say where the bus that is served now listens."""
    return _addresses[-1]


def serve(bus: Bus, scenario: Callable[[grpc.aio.Channel], Awaitable[None]]) -> None:
    """Run a scenario while the bus is served."""

    async def run() -> None:
        server = grpc.aio.server()
        pubsub_api_pb2_grpc.add_PubSubServicer_to_server(bus, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            _addresses.append(f"127.0.0.1:{port}")
            async with open_channel(_addresses[-1], plaintext=True) as channel:
                await asyncio.wait_for(scenario(channel), 10)
        finally:
            await server.stop(None)

    asyncio.run(run())


def read(
    bus: Bus, replay_id: bytes = b"", *, silence_seconds: float = 300.0, **start: Any
) -> tuple[list[Page], StreamBroken | None]:
    """Read what a bus gives until it breaks, at the latest when all its rounds are read."""
    found: list[Page] = []
    broken: list[StreamBroken] = []
    expected = sum(len(each) for each in bus.rounds)

    async def scenario(channel: grpc.aio.Channel) -> None:
        try:
            found_pages = pages(channel, TOPIC, TOKEN, Start(replay_id, **start), silence_seconds=silence_seconds)
            async with aclosing(found_pages) as stream:  # type: ignore[type-var]  # a generator
                async for page in stream:
                    found.append(page)
                    if len(found) == expected and not bus.end:
                        return
        except StreamBroken as exc:
            broken.append(exc)

    serve(bus, scenario)
    return found, broken[0] if broken else None
