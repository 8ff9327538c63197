"""What a platform event of the Interaction Service says.

https://developer.salesforce.com/docs/service/messaging-partner/references
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from connector.events import (
    Event,
    Ignored,
    ReplyWritten,
    RepsChanged,
    SessionEnded,
    SessionTouched,
    Text,
    Typing,
    UnexpectedPayload,
    Unsupported,
    clean,
)
from connector.payload import id_of, object_of, objects_of, optional_object, optional_text, parse_json, parse_time, text_of

LONGEST_ID = 250
LONGEST_ADDRESS = 150  # of an end user
MOST_SESSIONS = 1000  # that one change names

UNREADABLE = "unreadable"  # the kind of content that we cannot make out
AUTOMATIC = {"AutomatedResponse", "Consent"}
TYPING = {"TypingStartedIndicator", "TypingStoppedIndicator"}
SESSION_CHANGES = "/data/MessagingSessionChangeEvent"  # where an org has Change Data Capture on for sessions


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class PlatformEvent:
    """One event as it lay on the bus.

    ``record`` is None where it cannot be decoded; ``problem`` then says why. ``replay_id`` is where to go on after it.
    """

    id: str
    payload: bytes
    record: dict[str, Any] | None
    problem: str = ""
    replay_id: bytes = b""
    received_at: datetime = field(default_factory=_now)


@dataclass(frozen=True, slots=True)
class Topic:
    """One org's topic, and the names of the two fields that its custom event was given."""

    name: str
    tenant_id: str
    type_field: str
    payload_field: str


def created_at(event: PlatformEvent) -> datetime | None:
    """Say when the event was published, None where it does not tell."""
    return parse_time((event.record or {}).get("CreatedDate"))


def is_typing(event: PlatformEvent, topic: Topic) -> bool:
    """Tell whether an event says no more than that somebody is typing."""
    payload = event.record.get(topic.payload_field) if event.record is not None else None
    if not isinstance(payload, str) or not any(kind in payload for kind in TYPING):  # most need not be read for that
        return False
    try:
        return isinstance(parse_event(event, topic), Typing)
    except UnexpectedPayload:
        return False


def parse_event(event: PlatformEvent, topic: Topic) -> Event:
    """Turn one platform event into what it says.

    :raises UnexpectedPayload: if it cannot be read, whatever is the matter with it; the text names the field
    """
    if event.record is None:
        raise UnexpectedPayload(event.problem or "the event does not fit its Avro schema")
    try:
        return _parse_record(event, event.record, topic)
    except UnexpectedPayload:
        raise
    except Exception as exc:  # a mistake of ours costs one event, not all that come behind it
        raise UnexpectedPayload(f"the event cannot be read: {type(exc).__name__}") from exc


def _parse_record(event: PlatformEvent, record: dict[str, Any], topic: Topic) -> Event:
    if topic.name == SESSION_CHANGES:
        return _parse_session_change(record)
    event_type = record.get(topic.type_field)
    if not isinstance(event_type, str):
        raise UnexpectedPayload(f"{topic.type_field} is missing")
    if event_type != "Interaction":
        return Ignored(clean(event_type)[:50])
    payload = parse_json(record.get(topic.payload_field), topic.payload_field)
    if not isinstance(payload, dict):
        raise UnexpectedPayload(f"{topic.payload_field} is not an object")
    # one published sample has the entry's fields beside channelAddressIdentifier
    entry = _object_or_text(payload, "payload") if "payload" in payload else payload
    return _parse_entry(payload, entry, created_at(event) or event.received_at)


def _parse_session_change(record: dict[str, Any]) -> SessionTouched | Ignored:
    """Read a change of sessions: it holds what changed only, so all that counts is whose, and whether the status did.

    https://developer.salesforce.com/docs/atlas.en-us.change_data_capture.meta/change_data_capture/cdc_event_fields_header.htm
    """
    ids = optional_object(record, "ChangeEventHeader").get("recordIds")
    if record.get("Status") != "Ended" or not isinstance(ids, list):
        return Ignored("session change")
    return SessionTouched(tuple(clean(each[:18]) for each in ids[:MOST_SESSIONS] if isinstance(each, str)))


def _parse_entry(envelope: dict[str, Any], entry: dict[str, Any], published_at: datetime) -> Event:
    # what it holds says the same once more
    entry_type = optional_text(entry, "entryType", most=100) or text_of(_entry_payload(entry), "entryType", most=100)
    if entry_type in TYPING:
        return Typing()
    if entry_type == "SessionStatusChanged":
        return _parse_session_status(_entry_payload(entry))
    if entry_type == "ParticipantChanged":
        return _parse_participants(envelope, _entry_payload(entry))
    if entry_type != "Message":
        return Ignored(entry_type[:50])
    if object_of(entry, "sender").get("role") == "EndUser":
        return Ignored("the end user's own message")
    inner = _entry_payload(entry)
    written_at = parse_time(entry.get("transcriptedTimestamp")) or parse_time(entry.get("clientTimestamp"))
    return ReplyWritten(
        entry=id_of(entry, "identifier", most=LONGEST_ID),
        channel_address=id_of(envelope, "channelAddressIdentifier", most=LONGEST_ID),
        conversation=optional_text(envelope, "conversationIdentifier", most=LONGEST_ID),
        end_user=id_of(object_of(envelope, "recipient"), "subject", most=LONGEST_ADDRESS),
        content=_content(optional_object(inner, "abstractMessage")),
        written_at=written_at or published_at,
        automatic=optional_text(inner, "messageReason", most=50) in AUTOMATIC,
    )


def _parse_participants(envelope: dict[str, Any], payload: dict[str, Any]) -> RepsChanged | Ignored:
    """Read who came and went. That a rep goes does not say that the session ended: it may be passed on."""
    operations = {
        optional_text(each, "operation", most=20)
        for each in objects_of(payload, "entries")
        if optional_object(each, "participant").get("role") == "Agent"
    }
    if not operations & {"add", "remove"}:
        return Ignored("ParticipantChanged")
    conversation = text_of(envelope, "conversationIdentifier", most=LONGEST_ID)
    return RepsChanged(conversation, joined="add" in operations, left="remove" in operations)


def _entry_payload(entry: dict[str, Any]) -> dict[str, Any]:
    return _object_or_text(entry, "entryPayload")


def _object_or_text(source: dict[str, Any], field: str) -> dict[str, Any]:
    """Take an object that must be there; sibling APIs nest some as texts."""
    value = source.get(field)
    if isinstance(value, str):
        value = parse_json(value, field)
    return object_of({field: value}, field)


def _parse_session_status(payload: dict[str, Any]) -> SessionEnded | Ignored:
    status = text_of(payload, "sessionStatus", most=50)
    if status != "Ended":
        return Ignored("SessionStatusChanged")
    return SessionEnded(
        conversation=text_of(payload, "conversationIdentifier", most=LONGEST_ID),
        session=text_of(payload, "sessionId", most=18),
    )


def _content(message: dict[str, Any]) -> Text | Unsupported:
    """Read what was written; what we cannot read we cannot send, and the rep then sees that it did not leave."""
    kind = optional_text(message, "messageType", most=100)
    if kind == "StaticContentMessage":
        content = optional_object(message, "staticContent")
        kind = optional_text(content, "formatType", most=100)
        if kind == "Text":
            text = content.get("text")
            text = clean(text) if isinstance(text, str) else ""
            return Text(text) if text.strip() else Unsupported(UNREADABLE)
    return Unsupported(kind or UNREADABLE)
