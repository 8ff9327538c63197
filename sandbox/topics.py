"""The log of a platform event: https://developer.salesforce.com/docs/platform/pub-sub-api/guide/event-message-durability.html"""

import asyncio
import hashlib
import io
import json
import secrets
import uuid
from dataclasses import dataclass
from typing import Any

import fastavro

from sandbox.journal import now_ms

KEPT = 200_000  # events; the platform keeps 72 hours
REPLAY_ID_BYTES = 10
CREATED_BY = "0055g00000IntUsrAAA"


@dataclass(slots=True)
class PlatformEvent:
    """One published event; ``entry`` is the conversation entry inside, where there is one."""

    id: str
    replay_id: bytes
    payload: bytes
    published: float
    entry: str | None = None


class Topic:
    """A platform event of one org: its Avro schema and what was published."""

    def __init__(self, org_id: str, event: str, type_field: str, payload_field: str) -> None:
        self.event = event
        self.name = f"/event/{event}"
        self.org_id = org_id
        self.fields = (type_field, payload_field)
        schema: dict[str, Any] = {
            "name": event,
            "namespace": "com.sforce.eventbus",
            "type": "record",
            "fields": [
                {"name": "CreatedDate", "type": "long", "doc": "CreatedDate:DateTime"},
                {"name": "CreatedById", "type": "string", "doc": "CreatedBy:EntityId"},
                {"name": type_field, "type": ["null", "string"], "doc": "Data:Text", "default": None},
                {"name": payload_field, "type": ["null", "string"], "doc": "Data:LongText", "default": None},
            ],
        }
        self.schema_json = json.dumps(schema)
        self.schema_id = hashlib.sha256(self.schema_json.encode()).hexdigest()[:22]
        self._schema = fastavro.parse_schema(schema)
        self._log: list[PlatformEvent] = []
        self._dropped = 0
        self._positions: dict[bytes, int] = {}  # replay id -> number of events up to and with it
        self.listeners: set[asyncio.Event] = set()

    @property
    def start(self) -> int:
        """Return the position of the oldest event that is kept."""
        return self._dropped

    @property
    def end(self) -> int:
        """Return the position after the newest event."""
        return self._dropped + len(self._log)

    def publish(
        self, event_type: str | None, payload: str | None, *, created: int | None = None, entry: str | None = None
    ) -> PlatformEvent:
        """Add an event and wake the streams."""
        record = {
            "CreatedDate": int(now_ms()) if created is None else created,
            "CreatedById": CREATED_BY,
            self.fields[0]: event_type,
            self.fields[1]: payload,
        }
        encoded = io.BytesIO()
        fastavro.schemaless_writer(encoded, self._schema, record)
        event = PlatformEvent(str(uuid.uuid4()), self._new_replay_id(self.end + 1), encoded.getvalue(), now_ms(), entry)
        self._log.append(event)
        if len(self._log) > 2 * KEPT:
            self._drop(len(self._log) - KEPT)
        for listener in self.listeners:
            listener.set()
        return event

    def _drop(self, count: int) -> None:
        self._dropped += count
        del self._log[:count]
        self._positions = {key: position for key, position in self._positions.items() if position >= self._dropped}

    def _new_replay_id(self, position: int) -> bytes:
        # opaque on the platform, so here they are neither contiguous nor comparable
        replay_id = secrets.token_bytes(REPLAY_ID_BYTES)
        self._positions[replay_id] = position
        return replay_id

    def read(self, position: int, count: int) -> list[PlatformEvent]:
        """Return up to ``count`` events from a position on."""
        offset = max(position - self._dropped, 0)
        return self._log[offset : offset + count]

    def position_of(self, replay_id: bytes) -> int | None:
        """Return where to go on after a replay id; None if it is unknown or its events are gone."""
        return self._positions.get(replay_id)

    def replay_id_of(self, position: int) -> bytes:
        """Return a replay id for a position; an own one each time, as the bus is shared and moves on by itself."""
        return self._new_replay_id(position)
