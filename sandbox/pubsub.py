"""Salesforce's Pub/Sub API: https://developer.salesforce.com/docs/platform/pub-sub-api/guide/intro.html"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

import grpc
import grpc.aio

from connector.salesforce import pubsub
from sandbox.journal import now_ms
from sandbox.topics import PlatformEvent, Topic
from sandbox.world import Org, Token, World

MOST_OUTSTANDING = 100
MOST_BYTES = 3_000_000  # of one FetchResponse
IDLE_LIMIT = 60.0  # seconds without anything requested, then the stream is closed
KEEP_ALIVE = 270.0  # seconds of silence, then an empty response
PREFIX = "sfdc.platform.eventbus.grpc."
Write = Callable[[Any], Awaitable[None]]


@dataclass(eq=False)
class Stream:
    """One open Subscribe call."""

    org: Org
    topic: Topic
    position: int
    pending: int
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    ending: tuple[grpc.StatusCode, str, str | None] | None = None  # status, words, error code

    def end(self, status: grpc.StatusCode, words: str, code: str | None = None) -> None:
        """End the call soon."""
        self.ending = self.ending or (status, words, code)
        self.wake.set()


class PubSub:
    """The service, for all orgs at once."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.streams: set[Stream] = set()
        self.keep_alive = KEEP_ALIVE
        self.idle_limit = IDLE_LIMIT
        self.refuse_replays = 0

    def handler(self) -> Any:
        """Return the handlers under the service's published name."""
        return grpc.method_handlers_generic_handler(
            pubsub.SERVICE,
            {
                "Subscribe": grpc.stream_stream_rpc_method_handler(
                    self.subscribe,
                    request_deserializer=pubsub.FetchRequest.FromString,
                    response_serializer=pubsub.FetchResponse.SerializeToString,
                ),
                "GetTopic": grpc.unary_unary_rpc_method_handler(
                    self.get_topic,
                    request_deserializer=pubsub.TopicRequest.FromString,
                    response_serializer=pubsub.TopicInfo.SerializeToString,
                ),
                "GetSchema": grpc.unary_unary_rpc_method_handler(
                    self.get_schema,
                    request_deserializer=pubsub.SchemaRequest.FromString,
                    response_serializer=pubsub.SchemaInfo.SerializeToString,
                ),
            },
        )

    # what the control API does to it

    def cut(self) -> int:
        """Cut every stream as a lost connection does; return how many there were."""
        for stream in self.streams:
            stream.end(grpc.StatusCode.UNAVAILABLE, "Stream removed")
        return len(self.streams)

    def refuse_tokens(self) -> None:
        """End every stream as a revoked token does."""
        for stream in self.streams:
            stream.end(grpc.StatusCode.UNAUTHENTICATED, "Authentication exception occurred", "service.auth.error")

    def set_keep_alive(self, seconds: float) -> None:
        """Change the interval of keep-alives, also for open streams."""
        self.keep_alive = seconds
        for stream in self.streams:
            stream.wake.set()

    def is_heard(self, topic: Topic) -> bool:
        """Tell whether anybody listens to a topic."""
        return bool(topic.listeners)

    # calls

    async def refuse(
        self, context: Any, status: grpc.StatusCode, words: str, code: str | None, org: Org | None = None
    ) -> NoReturn:
        """End a call with the platform's code in the trailing metadata, as every error of the platform does."""
        self.world.journal.write("pubsub", "refused", org=org and org.id, status=status.name, error=code or words)
        rpc_id = str(uuid.uuid4())
        trailers = [("rpcid", rpc_id)] + ([("error-code", PREFIX + code)] if code else [])
        await context.abort(status, f"{words}. rpcId: {rpc_id}", tuple(trailers))
        raise AssertionError("abort() raises")

    async def authenticate(self, context: Any) -> Token:
        """Check the three headers of every call and return the token."""
        metadata = dict(context.invocation_metadata() or ())
        missing = [name for name in ("accesstoken", "instanceurl", "tenantid") if not metadata.get(name)]
        if missing:
            words = f"Missing headers: {', '.join(missing)}"
            await self.refuse(context, grpc.StatusCode.INVALID_ARGUMENT, words, "service.auth.headers.invalid")
        token = self.world.by_token.get(metadata["accesstoken"])
        if token is None or not token.scopes & {"api", "full"}:
            await self.refuse(
                context, grpc.StatusCode.UNAUTHENTICATED, "Authentication exception occurred", "service.auth.error"
            )
        org = token.org
        if metadata["tenantid"] not in (org.id, org.short_id):
            words = "Tenant core/prod/undefined is not the token's"
            await self.refuse(context, grpc.StatusCode.PERMISSION_DENIED, words, "service.auth.headers.invalid", org)
        if metadata["instanceurl"].rstrip("/") != org.base_url:
            words = "instanceurl is not the org's"
            await self.refuse(context, grpc.StatusCode.UNAUTHENTICATED, words, "service.auth.error", org)
        return token

    async def topic(self, context: Any, org: Org, name: str) -> Topic:
        """Return a topic of the org."""
        if not name:
            await self.refuse(
                context, grpc.StatusCode.INVALID_ARGUMENT, "Topic name is empty", "topic.validation.empty", org
            )
        topic = org.topics.get(name)
        if topic is None:
            await self.refuse(context, grpc.StatusCode.NOT_FOUND, f"Topic {name} not found", "topic.not.found", org)
        return topic

    async def get_topic(self, request: Any, context: Any) -> Any:
        """Describe a topic."""
        token = await self.authenticate(context)
        org = token.org
        topic = await self.topic(context, org, request.topic_name)
        return pubsub.TopicInfo(
            topic_name=topic.name,
            tenant_guid=f"core/prod/{org.id}",
            can_publish=org.setup.may(token.user_id, "create", topic.event),
            can_subscribe=org.setup.may(token.user_id, "read", topic.event),
            schema_id=topic.schema_id,
            rpc_id=str(uuid.uuid4()),
        )

    async def get_schema(self, request: Any, context: Any) -> Any:
        """Return an Avro schema."""
        org = (await self.authenticate(context)).org
        for topic in org.topics.values():
            if topic.schema_id == request.schema_id:
                return pubsub.SchemaInfo(schema_json=topic.schema_json, schema_id=topic.schema_id, rpc_id=str(uuid.uuid4()))
        await self.refuse(context, grpc.StatusCode.NOT_FOUND, "Schema not found", "schema.validation.failed", org)

    async def subscribe(self, requests: AsyncIterator[Any], context: Any) -> None:
        """Send events as they are asked for, until one side ends."""
        token = await self.authenticate(context)
        org = token.org
        first = await anext(requests, None)
        if first is None:
            return
        topic = await self.topic(context, org, first.topic_name)
        if not org.setup.may(token.user_id, "read", topic.event):
            code = "subscription.topic.cannot.subscribe"
            await self.refuse(context, grpc.StatusCode.PERMISSION_DENIED, f"No Read on {topic.event}", code, org)
        if org.setup.limits["DailyDeliveredPlatformEvents"]["Remaining"] <= 0:
            code = "subscription.limit.exceeded"
            await self.refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "The allocation is used up", code, org)
        fault = self.world.faults.take("stream", org.id, "status", "timeout_before", "timeout_after")
        if fault and fault.what == "status":
            refusals = {
                401: (grpc.StatusCode.UNAUTHENTICATED, "service.auth.error"),
                403: (grpc.StatusCode.PERMISSION_DENIED, "topic.meta.permission"),
            }
            status, code = refusals.get(fault.status, (grpc.StatusCode.UNAVAILABLE, "service.unavailable"))
            await self.refuse(context, status, "Refused on demand", code, org)
        if words := self.wrong_request(first.num_requested, 0):
            await self.refuse(context, grpc.StatusCode.INVALID_ARGUMENT, *words, org)
        position = await self.place(context, org, topic, first)
        stream = Stream(org, topic, position, first.num_requested)
        others = sum(other.org is org and other.topic is topic for other in self.streams)
        self.world.journal.write(
            "pubsub",
            "stream_open",
            org=org.id,
            text=topic.name,
            error="second stream" if others else None,
            streams=others + 1,
        )
        self.streams.add(stream)
        topic.listeners.add(stream.wake)
        reader = asyncio.create_task(self.read(requests, stream))
        why = "cancelled by the client"
        try:
            if fault:
                await self.be_silent(stream)
            await self.send(stream, context.write)
            if stream.ending is None:
                why = "ended by the client"
                return
            status, words_, code_ = stream.ending
            why = code_ or status.name
            await self.refuse(context, status, words_, code_, org)
        finally:
            reader.cancel()
            self.streams.discard(stream)
            topic.listeners.discard(stream.wake)
            self.world.journal.write("pubsub", "stream_end", org=org.id, text=topic.name, error=why)

    @staticmethod
    async def be_silent(stream: Stream) -> None:
        """Keep a stream open and say nothing on it until it is cut; clients must notice the silence."""
        while stream.ending is None:
            stream.wake.clear()
            await stream.wake.wait()

    async def place(self, context: Any, org: Org, topic: Topic, first: Any) -> int:
        """Return where a new stream starts."""
        if first.replay_preset == pubsub.LATEST:
            return topic.end
        if first.replay_preset == pubsub.EARLIEST:
            return topic.start
        if not first.replay_id:
            code = "subscription.fetch.replayid.validation.failed"
            await self.refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "CUSTOM needs a replay id", code, org)
        position = topic.position_of(first.replay_id)
        if self.refuse_replays or position is None:
            self.refuse_replays = max(self.refuse_replays - 1, 0)
            code = "subscription.fetch.replayid.corrupted"
            await self.refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "The replay id is not valid", code, org)
        return position

    @staticmethod
    def wrong_request(asked: int, pending: int) -> tuple[str, str] | None:
        """Say what is wrong with an amount asked for; the platform caps it at 100, here more is an error."""
        if asked <= 0:
            return f"num_requested is {asked}", "subscription.fetch.requested.events.invalid"
        if pending + asked > MOST_OUTSTANDING:
            return f"{pending + asked} events would be outstanding", "subscription.fetch.overflow"
        return None

    async def read(self, requests: AsyncIterator[Any], stream: Stream) -> None:
        """Take the client's further requests."""
        async for request in requests:
            if request.topic_name and request.topic_name != stream.topic.name:
                words: tuple[str, str] | None = ("Another topic", "subscription.fetch.topic.mismatch")
            else:
                words = self.wrong_request(request.num_requested, stream.pending)
            if words:
                stream.end(grpc.StatusCode.INVALID_ARGUMENT, *words)
                return
            stream.pending += request.num_requested
            stream.wake.set()
        stream.pending = -1  # half-closed: nothing more will be asked for
        stream.wake.set()

    async def send(self, stream: Stream, write: Write) -> None:
        """Write responses: events while some are asked for, else keep-alives."""
        spoken = asked = asyncio.get_running_loop().time()
        while stream.ending is None and stream.pending >= 0:
            stream.wake.clear()
            if stream.pending > 0:
                asked = asyncio.get_running_loop().time()
                if events := stream.topic.read(stream.position, stream.pending):
                    await self.deliver(stream, events, write)
                    spoken = asyncio.get_running_loop().time()
                    continue
            due = spoken + self.keep_alive if stream.pending else asked + self.idle_limit
            try:
                await asyncio.wait_for(stream.wake.wait(), max(due - asyncio.get_running_loop().time(), 0))
            except TimeoutError:
                if not stream.pending:
                    stream.end(grpc.StatusCode.CANCELLED, "Nothing was requested for too long")
                    return
                spoken = asyncio.get_running_loop().time()
                latest = stream.topic.replay_id_of(stream.position)
                await write(
                    pubsub.FetchResponse(
                        latest_replay_id=latest, pending_num_requested=stream.pending, rpc_id=str(uuid.uuid4())
                    )
                )

    async def deliver(self, stream: Stream, events: list[PlatformEvent], write: Write) -> None:
        """Write the responses that carry these events, as faults will have it."""
        org, faults = stream.org.id, self.world.faults
        await faults.wait("stream", org)
        trickle = faults.take("stream", org, "trickle")
        copies = 2 if stream.pending > 1 and faults.take("stream", org, "duplicate") else 1
        size = 1 if trickle else MOST_OUTSTANDING
        events = events[: max(stream.pending, 0) // copies]  # a copy counts: more than was asked for never comes
        while events and stream.ending is None:
            batch: list[PlatformEvent] = []
            total = 0
            for event in events[:size]:
                total += len(event.payload)
                if batch and total > MOST_BYTES:
                    break
                batch.append(event)
            events = events[len(batch) :]
            stream.position += len(batch)
            stream.pending -= len(batch) * copies
            response = pubsub.FetchResponse(
                latest_replay_id=batch[-1].replay_id,
                pending_num_requested=max(stream.pending, 0),
                rpc_id=str(uuid.uuid4()),
            )
            for event in batch:
                for _ in range(copies):
                    produced = pubsub.ProducerEvent(id=event.id, schema_id=stream.topic.schema_id, payload=event.payload)
                    response.events.append(pubsub.ConsumerEvent(event=produced, replay_id=event.replay_id))
            await write(response)
            for event in batch:
                self.note(org, event)
            if trickle:
                await asyncio.sleep(trickle.seconds)

    def note(self, org: str, event: PlatformEvent) -> None:
        """Write down that an event was delivered."""
        now = now_ms()
        self.world.journal.write(
            "pubsub", "event_delivered", org=org, id=event.entry or event.id, ms=round(now - event.published, 2)
        )
        if event.entry and (row := self.world.wire.find(event.entry)):
            row.trouble = None
            self.world.wire.mark(row, "delivered", now)


async def serve(service: PubSub, port: int) -> grpc.aio.Server:
    """Start the service on a plaintext port."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((service.handler(),))
    if server.add_insecure_port(f"127.0.0.1:{port}") != port:
        raise OSError(f"port {port} is taken")
    await server.start()
    return server
