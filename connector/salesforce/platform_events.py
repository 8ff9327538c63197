"""Reading platform events through the Pub/Sub API, and what they say.

https://developer.salesforce.com/docs/platform/pub-sub-api
"""

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

import fastavro
import grpc
import grpc.aio

from connector.events import (
    Event,
    Ignored,
    ReplyWritten,
    RepsChanged,
    SessionEnded,
    SessionTouched,
    Text,
    UnexpectedPayload,
    Unsupported,
    clean,
    object_of,
    parse_milliseconds,
    text_of,
)
from connector.http import AddressRefused, AuthenticationFailed, CustomerMustAct, ServiceUnavailable
from connector.salesforce import pubsub
from connector.salesforce.auth import SERVICE, AccessToken

MOST_OUTSTANDING = 100  # events that one Subscribe call may have under way
TOP_UP_AT = 20  # ask for more before none is left: at 0 the stream falls silent, and is closed after a minute
SILENCE_SECONDS = 300.0  # a live stream says something at least every 270 s
LONGEST_ID = 250
ANSWER_SECONDS = 10.0
# the global one and Germany's: https://developer.salesforce.com/docs/platform/pub-sub-api/guide/pub-sub-endpoints.html
ENDPOINTS = re.compile(r"api(\.deu)?\.pubsub\.salesforce\.com:(443|7443)")
LOCAL_ENDPOINTS = re.compile(r"(localhost|127(\.\d+){3}|\[::1\]):\d+")
SCHEMAS_KEPT = 10_000

AUTOMATIC = {"AutomatedResponse", "Consent"}
SESSION_CHANGES = "/data/MessagingSessionChangeEvent"  # where an org has Change Data Capture on for sessions

_END: Any = grpc.aio.EOF  # type: ignore[attr-defined]  # missing from the published stubs
_ERROR_PREFIX = "sfdc.platform.eventbus.grpc."


class Remedy(Enum):
    """What a broken stream needs: https://developer.salesforce.com/docs/platform/pub-sub-api/guide/handle-errors.html"""

    RECONNECT = "reconnect"
    NEW_TOKEN = "new token"
    START_OVER = "start over from the earliest event"
    SLOW_DOWN = "slow down"
    CUSTOMER_MUST_ACT = "the customer must act"


_REMEDIES = {
    "service.auth.error": Remedy.NEW_TOKEN,
    "service.auth.headers.invalid": Remedy.CUSTOMER_MUST_ACT,
    "service.protection.triggered": Remedy.SLOW_DOWN,
    "service.protection.stream.limit.triggered": Remedy.SLOW_DOWN,
    "concurrent.client.limit.exceeded": Remedy.CUSTOMER_MUST_ACT,
    "service.tenant.license": Remedy.CUSTOMER_MUST_ACT,
    "topic.not.found": Remedy.CUSTOMER_MUST_ACT,
    "topic.validation.empty": Remedy.CUSTOMER_MUST_ACT,
    "topic.meta.permission": Remedy.CUSTOMER_MUST_ACT,
    "schema.meta.permission": Remedy.CUSTOMER_MUST_ACT,
    "subscription.topic.cannot.subscribe": Remedy.CUSTOMER_MUST_ACT,
    "subscription.limit.exceeded": Remedy.CUSTOMER_MUST_ACT,
    # two spellings are published, with and without the word in front
    "subscription.fetch.replayid.corrupted": Remedy.START_OVER,
    "subscription.fetch.replayid.validation.failed": Remedy.START_OVER,
    "fetch.replayid.corrupted": Remedy.START_OVER,
    "fetch.replayid.validation.failed": Remedy.START_OVER,
}


class StreamBroken(Exception):
    """A stream ended; ``remedy`` says what the next one needs, ``code`` is the platform's word for the reason."""

    def __init__(self, remedy: Remedy, code: str) -> None:
        super().__init__(f"{code or 'no code'}: {remedy.value}")
        self.remedy, self.code = remedy, code


@dataclass(frozen=True, slots=True)
class PlatformEvent:
    """One event as it lay on the bus; ``record`` is None where its bytes do not fit the schema."""

    id: str
    payload: bytes
    record: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Page:
    """What one answer brought (nothing, for a keep-alive) and where to go on after it."""

    events: list[PlatformEvent]
    replay_id: bytes


@dataclass(frozen=True, slots=True)
class Topic:
    """One org's topic, and the names of the two fields that its custom event was given."""

    name: str
    tenant_id: str
    type_field: str
    payload_field: str


_schemas: dict[str, Any] = {}  # by schema id, which is a hash of the schema and so the same for all orgs


def open_channel(endpoint: str, *, plaintext: bool) -> grpc.aio.Channel:
    """Open a connection that many streams share; the credentials travel with each call.

    :param plaintext: whether a stand-in on this machine may be spoken to, which is done without TLS
    :raises AddressRefused: if the endpoint is none of Salesforce's
    """
    options = [("grpc.keepalive_time_ms", 60_000), ("grpc.keepalive_timeout_ms", 20_000)]
    if _is_local(endpoint, plaintext):
        return grpc.aio.insecure_channel(endpoint, options=options)
    return grpc.aio.secure_channel(endpoint, grpc.ssl_channel_credentials(), options=options)


def _is_local(endpoint: str, plaintext: bool) -> bool:
    if plaintext and LOCAL_ENDPOINTS.fullmatch(endpoint):
        return True
    if not ENDPOINTS.fullmatch(endpoint):
        raise AddressRefused(SERVICE, f"{endpoint[:100]} is no endpoint of the Pub/Sub API")
    return False


def _credentials(tenant_id: str, token: AccessToken) -> tuple[tuple[str, str], ...]:
    return ("accesstoken", token.value), ("instanceurl", token.instance_url), ("tenantid", tenant_id)


def may_subscribe(endpoint: str, topic: str, tenant_id: str, token: AccessToken, *, plaintext: bool) -> bool | None:
    """Ask whether the user of a token may read a topic; None says that there is no such topic.

    For those who have no event loop: it opens a connection for one question.

    :raises ApiError: if the question is not answered
    """
    local = _is_local(endpoint, plaintext)
    channel = grpc.insecure_channel(endpoint) if local else grpc.secure_channel(endpoint, grpc.ssl_channel_credentials())
    with channel:
        get_topic: Any = channel.unary_unary(
            f"/{pubsub.SERVICE}/GetTopic",
            request_serializer=pubsub.TopicRequest.SerializeToString,
            response_deserializer=pubsub.TopicInfo.FromString,
        )
        request = pubsub.TopicRequest(topic_name=topic)
        try:
            answer = get_topic(request, metadata=_credentials(tenant_id, token), timeout=ANSWER_SECONDS)
        except grpc.RpcError as exc:
            refusal: Any = exc
            return _may_for_all_that(_broken_status(refusal.code(), refusal.trailing_metadata()))
    return bool(answer.can_subscribe)


def _may_for_all_that(refusal: StreamBroken) -> bool | None:
    code = refusal.code.removeprefix(_ERROR_PREFIX)
    if code == "topic.not.found":
        return None
    if code == "topic.meta.permission":
        return False
    if refusal.remedy is Remedy.NEW_TOKEN:
        raise AuthenticationFailed(SERVICE, "the Pub/Sub API does not accept our token", code=code) from refusal
    if refusal.remedy is Remedy.CUSTOMER_MUST_ACT:
        raise CustomerMustAct(SERVICE, "the Pub/Sub API refuses", code=code) from refusal
    raise ServiceUnavailable(SERVICE, "the Pub/Sub API does not answer", code=code) from refusal


async def pages(channel: grpc.aio.Channel, topic: Topic, token: AccessToken, replay_id: bytes) -> AsyncIterator[Page]:
    """Read a topic after ``replay_id``, or from its earliest event where that is empty.

    More is asked for only when the caller comes back for the next page, that is, after it has stored the last one.

    :raises StreamBroken: when the stream ends, for whatever reason
    """
    metadata = _credentials(topic.tenant_id, token)
    subscribe: Any = channel.stream_stream(
        f"/{pubsub.SERVICE}/Subscribe",
        request_serializer=pubsub.FetchRequest.SerializeToString,
        response_deserializer=pubsub.FetchResponse.FromString,
    )
    call = subscribe(metadata=metadata)
    try:
        await call.write(
            pubsub.FetchRequest(
                topic_name=topic.name,
                replay_preset=pubsub.CUSTOM if replay_id else pubsub.EARLIEST,
                replay_id=replay_id,
                num_requested=MOST_OUTSTANDING,
            )
        )
        outstanding = MOST_OUTSTANDING  # asked for and not read yet: our own count, for answers may lie here unread
        while True:
            answer = await _read(call)
            outstanding -= len(answer.events)
            events = [await _decode(channel, metadata, each) for each in answer.events]
            position = answer.events[-1].replay_id if answer.events else answer.latest_replay_id
            yield Page(events, bytes(position))
            if outstanding <= TOP_UP_AT:
                more = MOST_OUTSTANDING - outstanding
                outstanding += more
                await call.write(pubsub.FetchRequest(topic_name=topic.name, num_requested=more))
    except grpc.RpcError as exc:
        raise _broken(exc) from exc
    except (grpc.aio.UsageError, asyncio.InvalidStateError) as exc:  # a write to a stream that has just ended
        raise StreamBroken(Remedy.RECONNECT, "the stream had ended") from exc
    finally:
        call.cancel()


async def _read(call: Any) -> Any:
    try:
        answer = await asyncio.wait_for(call.read(), SILENCE_SECONDS)
    except TimeoutError:
        raise StreamBroken(Remedy.RECONNECT, f"silent for {SILENCE_SECONDS:.0f} s") from None
    if answer is _END:
        if await call.code() is not grpc.StatusCode.OK:
            raise _broken_status(await call.code(), await call.trailing_metadata())
        raise StreamBroken(Remedy.RECONNECT, "ended by Salesforce")
    return answer


def _broken(exc: grpc.RpcError) -> StreamBroken:
    if isinstance(exc, grpc.aio.AioRpcError):
        return _broken_status(exc.code(), exc.trailing_metadata())
    return StreamBroken(Remedy.RECONNECT, type(exc).__name__)


def _broken_status(status: grpc.StatusCode, trailing: Any) -> StreamBroken:
    code = str(dict(trailing or ()).get("error-code", ""))[:200]
    remedy = _REMEDIES.get(code.removeprefix(_ERROR_PREFIX))
    if remedy is None:
        remedy = Remedy.NEW_TOKEN if status is grpc.StatusCode.UNAUTHENTICATED else Remedy.RECONNECT
    return StreamBroken(remedy, code or status.name)


async def _decode(channel: grpc.aio.Channel, metadata: Any, consumed: Any) -> PlatformEvent:
    event = consumed.event
    payload = bytes(event.payload)
    schema = await _schema(channel, metadata, event.schema_id)
    try:
        record = fastavro.schemaless_reader(io.BytesIO(payload), schema, None)
    except Exception:  # whatever the bytes do to the decoder, it is one event that cannot be read
        record = None
    return PlatformEvent(event.id, payload, record if isinstance(record, dict) else None)


async def _schema(channel: grpc.aio.Channel, metadata: Any, schema_id: str) -> Any:
    """Fetch the Avro schema of an event once; it takes about a second there."""
    if schema_id not in _schemas:
        get_schema = channel.unary_unary(
            f"/{pubsub.SERVICE}/GetSchema",
            request_serializer=pubsub.SchemaRequest.SerializeToString,
            response_deserializer=pubsub.SchemaInfo.FromString,
        )
        info = await get_schema(pubsub.SchemaRequest(schema_id=schema_id), metadata=metadata, timeout=20)
        try:
            schema = json.loads(info.schema_json)
            parsed = fastavro.parse_schema(schema) if isinstance(schema, dict) else None
        except (ValueError, TypeError, KeyError, RecursionError, fastavro.schema.SchemaParseException) as exc:
            raise StreamBroken(Remedy.SLOW_DOWN, "the schema cannot be read") from exc
        if parsed is None:
            raise StreamBroken(Remedy.SLOW_DOWN, "the schema is none of a record")
        if len(_schemas) >= SCHEMAS_KEPT:
            _schemas.clear()
        _schemas[schema_id] = parsed
    return _schemas[schema_id]


def created_at(event: PlatformEvent) -> datetime | None:
    """Say when the event was published, None where it does not tell."""
    try:
        return parse_milliseconds((event.record or {}).get("CreatedDate"), "CreatedDate")
    except UnexpectedPayload:
        return None


def parse_event(event: PlatformEvent, topic: Topic) -> Event:
    """Turn one platform event into what it says.

    https://developer.salesforce.com/docs/service/messaging-partner/references

    :raises UnexpectedPayload: if it cannot be read; the text names the field
    """
    if event.record is None:
        raise UnexpectedPayload("the event does not fit its Avro schema")
    if topic.name == SESSION_CHANGES:
        return _parse_session_change(event.record)
    event_type = event.record.get(topic.type_field)
    if not isinstance(event_type, str):
        raise UnexpectedPayload(f"{topic.type_field} is missing")
    if event_type != "Interaction":
        return Ignored(clean(event_type)[:50])
    try:
        payload = json.loads(event.record.get(topic.payload_field) or "")
    except (ValueError, TypeError, RecursionError):
        raise UnexpectedPayload(f"{topic.payload_field} is not JSON") from None
    if not isinstance(payload, dict):
        raise UnexpectedPayload(f"{topic.payload_field} is not an object")
    # one published sample has the entry's fields beside channelAddressIdentifier
    entry = object_of(payload, "payload") if "payload" in payload else payload
    return _parse_entry(payload, entry)


def _parse_session_change(record: dict[str, Any]) -> SessionTouched | Ignored:
    """Read a change of sessions: it holds what changed only, so all that counts is whose, and whether the status did.

    https://developer.salesforce.com/docs/atlas.en-us.change_data_capture.meta/change_data_capture/cdc_event_fields_header.htm
    """
    header = record.get("ChangeEventHeader")
    ids = header.get("recordIds") if isinstance(header, dict) else None
    if record.get("Status") != "Ended" or not isinstance(ids, list):
        return Ignored("session change")
    return SessionTouched(tuple(each[:18] for each in ids if isinstance(each, str)))


def _parse_entry(envelope: dict[str, Any], entry: dict[str, Any]) -> Event:
    entry_type = text_of(entry, "entryType", most=100)
    if entry_type == "SessionStatusChanged":
        return _parse_session_status(_entry_payload(entry))
    if entry_type == "ParticipantChanged":
        return _parse_participants(envelope, _entry_payload(entry))
    if entry_type != "Message":
        return Ignored(entry_type[:50])
    sender = object_of(entry, "sender")
    if sender.get("role") == "EndUser":
        return Ignored("the end user's own message")
    inner = _entry_payload(entry)
    written_at = entry.get("transcriptedTimestamp") or entry.get("clientTimestamp")
    return ReplyWritten(
        entry=text_of(entry, "identifier", most=LONGEST_ID),
        channel_address=text_of(envelope, "channelAddressIdentifier", most=LONGEST_ID),
        conversation=clean(str(envelope.get("conversationIdentifier") or ""))[:LONGEST_ID],
        end_user=text_of(object_of(envelope, "recipient"), "subject", most=LONGEST_ID),
        content=_content(object_of(inner, "abstractMessage")),
        written_at=parse_milliseconds(written_at, "transcriptedTimestamp"),
        automatic=inner.get("messageReason") in AUTOMATIC,
    )


def _parse_participants(envelope: dict[str, Any], payload: dict[str, Any]) -> RepsChanged | Ignored:
    """Read who came and went. That a rep goes does not say that the session ended: it may be passed on."""
    operations = set()
    entries = payload.get("entries")
    for each in entries if isinstance(entries, list) else []:
        participant = each.get("participant") if isinstance(each, dict) else None
        if isinstance(participant, dict) and participant.get("role") == "Agent":
            operations.add(each.get("operation"))
    if not operations & {"add", "remove"}:
        return Ignored("ParticipantChanged")
    conversation = text_of(envelope, "conversationIdentifier", most=LONGEST_ID)
    return RepsChanged(conversation, joined="add" in operations, left="remove" in operations)


def _entry_payload(entry: dict[str, Any]) -> dict[str, Any]:
    inner = entry.get("entryPayload")
    if isinstance(inner, str):  # sibling APIs nest it as text
        try:
            inner = json.loads(inner)
        except (ValueError, RecursionError):
            raise UnexpectedPayload("entryPayload is not JSON") from None
    if not isinstance(inner, dict):
        raise UnexpectedPayload("entryPayload is missing or not an object")
    return inner


def _parse_session_status(payload: dict[str, Any]) -> SessionEnded | Ignored:
    status = text_of(payload, "sessionStatus", most=50)
    if status != "Ended":
        return Ignored("SessionStatusChanged")
    return SessionEnded(
        conversation=text_of(payload, "conversationIdentifier", most=LONGEST_ID),
        session=text_of(payload, "sessionId", most=18),
    )


def _content(message: dict[str, Any]) -> Text | Unsupported:
    message_type = text_of(message, "messageType", most=100)
    if message_type != "StaticContentMessage":
        return Unsupported(message_type)
    content = object_of(message, "staticContent")
    format_type = text_of(content, "formatType", most=100)
    if format_type != "Text":
        return Unsupported(format_type)
    text = content.get("text")
    if not isinstance(text, str) or not clean(text).strip():
        raise UnexpectedPayload("staticContent.text is missing or empty")
    return Text(clean(text))
