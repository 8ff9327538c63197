"""Reading a topic, page by page: https://developer.salesforce.com/docs/platform/pub-sub-api/guide/flow-control.html"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Container, Iterable
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from connector.events import clean
from connector.salesforce import pubsub
from connector.salesforce.auth import AccessToken
from connector.salesforce.platform_events import LONGEST_ID, PlatformEvent, Topic
from connector.salesforce.pubsub.channel import Remedy, StreamBroken, broken_by, credentials_of
from connector.salesforce.pubsub.schemas import SchemaUnavailable, Undecodable, decode, schema_of

MOST_OUTSTANDING = 100  # events that one Subscribe call may have under way
TOP_UP_AT = 20  # ask for more before none is left: at 0 the stream falls silent, and is closed after a minute
SILENCE_SECONDS = 300.0  # a live stream says something at least every 270 s

_END: Any = grpc.aio.EOF  # type: ignore[attr-defined]  # missing from the published stubs


@dataclass(frozen=True, slots=True)
class Start:
    """Where to begin to read: after ``replay_id``, or at the earliest event where that is empty.

    ``latest`` begins with what is published from now on; ``most`` is the number of events asked for at first.
    ``impatient`` names schemas that nothing waits for any more: where one cannot be fetched, its events come undecoded.
    """

    replay_id: bytes = b""
    latest: bool = False
    most: int = MOST_OUTSTANDING
    impatient: Container[str] = ()

    @property
    def preset(self) -> int:
        """The number that the protocol has for it."""
        if self.latest:
            return pubsub.LATEST
        return pubsub.CUSTOM if self.replay_id else pubsub.EARLIEST


@dataclass(frozen=True, slots=True)
class Page:
    """What one answer brought (nothing, for a keep-alive) and where to go on after it."""

    events: list[PlatformEvent]
    replay_id: bytes


async def pages(
    channel: grpc.aio.Channel,
    topic: Topic,
    token: AccessToken,
    start: Start,
    *,
    silence_seconds: float = SILENCE_SECONDS,
) -> AsyncIterator[Page]:
    """Read a topic.

    More is asked for only when the caller comes back for the next page, that is, after it has stored the last one. Where it
    began with few events at a time, it asks for twice as many after each page.

    :raises StreamBroken: when the stream ends, for whatever reason
    """
    metadata = credentials_of(topic.tenant_id, token)
    subscribe: Any = channel.stream_stream(
        f"/{pubsub.SERVICE}/Subscribe",
        request_serializer=pubsub.FetchRequest.SerializeToString,
        response_deserializer=pubsub.FetchResponse.FromString,
    )
    call = subscribe(metadata=metadata)
    position, most = start.replay_id, start.most
    try:
        await asyncio.wait_for(call.write(_first_request(topic, start)), silence_seconds)
        outstanding = most  # asked for and not read yet: our own count, for answers may lie here unread
        while True:
            answer = await _read(call, silence_seconds)
            outstanding = max(outstanding - len(answer.events), 0)
            decoder = _Decoder(channel, metadata, start.impatient)
            events = [event async for event in decoder.decode(answer.events, position)]
            position = (events[-1].replay_id if events else bytes(answer.latest_replay_id)) or position
            yield Page(events, position)
            if events:
                most = min(2 * most, MOST_OUTSTANDING)
            if outstanding <= min(TOP_UP_AT, most - 1):
                more = pubsub.FetchRequest(topic_name=topic.name, num_requested=most - outstanding)
                await asyncio.wait_for(call.write(more), silence_seconds)
                outstanding = most
    except TimeoutError:
        raise StreamBroken(Remedy.RECONNECT, f"silent for {silence_seconds:.0f} s") from None
    except grpc.RpcError as exc:
        raise _broken(exc) from exc
    except (grpc.aio.UsageError, asyncio.InvalidStateError) as exc:  # a write to a stream that has just ended
        raise StreamBroken(Remedy.RECONNECT, "the stream had ended") from exc
    finally:
        call.cancel()


def _first_request(topic: Topic, start: Start) -> Any:
    return pubsub.FetchRequest(
        topic_name=topic.name,
        replay_preset=start.preset,
        replay_id=b"" if start.latest else start.replay_id,
        num_requested=start.most,
    )


async def _read(call: Any, silence_seconds: float) -> Any:
    answer = await asyncio.wait_for(call.read(), silence_seconds)
    if answer is _END:
        if await call.code() is not grpc.StatusCode.OK:
            raise broken_by(await call.code(), await call.trailing_metadata(), await call.details() or "")
        raise StreamBroken(Remedy.RECONNECT, "ended by Salesforce")
    if answer is None:  # what gRPC gives where the bytes are no such message
        raise StreamBroken(Remedy.FEWER_EVENTS, "an answer that cannot be read")
    return answer


def _broken(exc: grpc.RpcError) -> StreamBroken:
    if isinstance(exc, grpc.aio.AioRpcError):
        return broken_by(exc.code(), exc.trailing_metadata(), exc.details() or "")
    return StreamBroken(Remedy.RECONNECT, type(exc).__name__)


class _Decoder:
    """Decodes the events of one answer; a schema that fails is asked for once in it."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Any, impatient: Container[str]) -> None:
        self.channel, self.metadata, self.impatient = channel, metadata, impatient
        self.failed: dict[str, str] = {}

    async def decode(self, events: Iterable[Any], position: bytes) -> AsyncIterator[PlatformEvent]:
        """Decode events; each has the place to go on from, which is that of the one before it where it has none itself."""
        for each in events:
            position = bytes(each.replay_id) or position
            payload, record, problem = bytes(each.event.payload), None, ""
            try:
                record = decode(payload, await self._schema_of(each.event.schema_id))
            except StreamBroken:
                raise
            except Undecodable as exc:
                problem = str(exc)
            except Exception as exc:  # whatever it is, it costs one event, not all that come behind it
                problem = f"the event cannot be decoded: {type(exc).__name__}"
            yield PlatformEvent(_id_of(each, position), payload, record, problem, position)

    async def _schema_of(self, schema_id: str) -> Any:
        if schema_id in self.failed:
            raise Undecodable(self.failed[schema_id])
        try:
            return await schema_of(self.channel, self.metadata, schema_id)
        except SchemaUnavailable as exc:
            if schema_id not in self.impatient:
                raise
            self.failed[schema_id] = f"its schema could not be fetched for too long: {exc.code}"
            raise Undecodable(self.failed[schema_id]) from exc
        except Undecodable as exc:
            self.failed[schema_id] = str(exc)
            raise


def _id_of(consumed: Any, position: bytes) -> str:
    """Give the id by which an event is known again; where it has none that can be stored, what it is and where."""
    event_id: str = consumed.event.id
    if event_id.strip() and len(event_id) <= LONGEST_ID and clean(event_id) == event_id:
        return event_id
    return "sha256:" + hashlib.sha256(position + bytes(consumed.event.payload)).hexdigest()
