"""Keeps what end users write while a chatbot has the conversation: it is left to the transcript until it is found there.

And knows what came by a webhook after a transcript has shown it. The caller has locked the inbound lanes, so that what
is decided here and what a hand-over decides come one after the other.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from connector.events import InfobipMessageRef
from messaging.matching import likeness_of
from messaging.query import query, records

CLAIM_FOR = timedelta(hours=1)  # in which a webhook without Infobip's id may be the late one of a line that says the same


@dataclass(frozen=True, slots=True)
class UserMessage:
    """A message to a sender that a chatbot has first."""

    org_id: int
    account_id: int
    channel_id: int
    conversation_id: int
    source_entry: str
    text: str
    written_at: datetime
    ref: InfobipMessageRef | None


def leave(messages: Sequence[UserMessage]) -> None:
    """Leave messages to the transcript; those that are left already may tell of their conversation at Infobip now."""
    if not messages:
        return
    named = {(each.conversation_id, each.source_entry): each.ref.conversation for each in messages if each.ref is not None}
    first: dict[tuple[int, str], UserMessage] = {}
    for message in messages:  # which may be there in both forms
        first.setdefault((message.conversation_id, message.source_entry), message)
    query(
        """INSERT INTO messaging_leftmessage (org_id, conversation_id, source_entry, infobip_conversation, text, written_at,
               arrived_at)
           SELECT org_id, conversation_id, source_entry, infobip_conversation, text, written_at, clock_timestamp()
           FROM jsonb_to_recordset(%s::jsonb) AS come (n int, org_id bigint, conversation_id bigint, source_entry text,
               infobip_conversation text, text text, written_at timestamptz)
           ORDER BY n ON CONFLICT (org_id, conversation_id, source_entry) DO UPDATE SET infobip_conversation = COALESCE(
               NULLIF(EXCLUDED.infobip_conversation, ''), messaging_leftmessage.infobip_conversation)""",
        [
            records(
                {
                    "n": n,
                    "org_id": each.org_id,
                    "conversation_id": each.conversation_id,
                    "source_entry": each.source_entry,
                    "infobip_conversation": named.get(key, ""),
                    "text": each.text,
                    "written_at": each.written_at,
                }
                for n, (key, each) in enumerate(first.items())
            )
        ],
    )


def find_shown(messages: Sequence[UserMessage]) -> set[int]:
    """Find among messages that came while reps have the conversation those that a transcript shows, or is going to.

    :return: their places
    """
    if not messages:
        return set()
    left = _note_left(messages)
    claims = _Claims(messages)
    shown = set()
    for n, message in enumerate(messages):
        if (message.conversation_id, message.source_entry) in left or claims.claim(message):
            shown.add(n)
    claims.save()
    return shown


def _note_left(messages: Sequence[UserMessage]) -> set[tuple[int, str]]:
    """Name those that are left to a transcript already, and note the conversation at Infobip where it is told now."""
    rows = query(
        """UPDATE messaging_leftmessage kept SET infobip_conversation = COALESCE(
               NULLIF(come.infobip_conversation, ''), kept.infobip_conversation)
           FROM (SELECT org_id, conversation_id, source_entry, max(infobip_conversation) AS infobip_conversation
                 FROM unnest(%s::bigint[], %s::bigint[], %s::text[], %s::text[])
                     AS each (org_id, conversation_id, source_entry, infobip_conversation)
                 GROUP BY org_id, conversation_id, source_entry) AS come
           WHERE kept.org_id = come.org_id AND kept.conversation_id = come.conversation_id
             AND kept.source_entry = come.source_entry AND kept.conversation_id = ANY(%s)
             AND (kept.found OR NOT kept.settled)
           RETURNING kept.conversation_id, kept.source_entry""",
        [
            [each.org_id for each in messages],
            [each.conversation_id for each in messages],
            [each.source_entry for each in messages],
            [each.ref.conversation if each.ref is not None else "" for each in messages],
            [each.conversation_id for each in messages],
        ],
    )
    return {(conversation_id, entry) for conversation_id, entry in rows}


@dataclass(slots=True)
class _Line:
    id: int
    account_id: int
    infobip_id: str
    channel_id: str
    claimable: bool


class _Claims:
    """The lines of transcripts that the reps of some conversations read, and the webhooks that brought them as well."""

    def __init__(self, messages: Sequence[UserMessage]) -> None:
        self.alike: dict[tuple[int, str], deque[_Line]] = defaultdict(deque)
        self.by_ref: dict[tuple[int, str], _Line] = {}
        self.by_channel_id: dict[tuple[int, str], _Line] = {}
        self.changed: dict[int, _Line] = {}
        self.likeness = {each.text: likeness_of(each.text) for each in messages}
        for conversation_id, likeness, line in _shown_lines(messages, self.likeness):
            self.by_ref[line.account_id, line.infobip_id] = line
            if line.channel_id:
                self.by_channel_id[conversation_id, line.channel_id] = line
            else:
                self.alike[conversation_id, likeness].append(line)
        self.relayed = _relayed(messages) if any(self.alike.values()) else set()

    def claim(self, message: UserMessage) -> bool:
        """Tell whether a line shows this message."""
        known = self.by_channel_id.get((message.conversation_id, message.source_entry))
        if message.ref is not None:
            line = self.by_ref.get((message.account_id, message.ref.message))
            if known is not None and known is not line:
                self._set(known, message, "")  # taken for this message by its text
            if line is not None and not line.channel_id:
                self._set(line, message, message.source_entry)
        elif known is not None:
            line = known
        else:
            line = self._alike(message)
        if line is None:
            self.relayed.add((message.conversation_id, message.source_entry))
        return line is not None

    def _alike(self, message: UserMessage) -> _Line | None:
        if (message.conversation_id, message.source_entry) in self.relayed:
            return None
        alike = self.alike[message.conversation_id, self.likeness[message.text]]
        while alike:
            line = alike.popleft()  # one that is not to be claimed now is not later in this turn
            if not line.channel_id and line.claimable:
                self._set(line, message, message.source_entry)
                return line
        return None

    def _set(self, line: _Line, message: UserMessage, channel_id: str) -> None:
        line.channel_id = channel_id
        self.by_channel_id.pop((message.conversation_id, message.source_entry), None)
        if channel_id:
            self.by_channel_id[message.conversation_id, channel_id] = line
        self.changed[line.id] = line

    def save(self) -> None:
        """Keep which webhook brought which line."""
        if self.changed:
            query(
                """UPDATE messaging_transcriptline line SET channel_id = claim.channel_id
                   FROM unnest(%s::bigint[], %s::text[]) AS claim (id, channel_id)
                   WHERE line.id = claim.id AND line.id = ANY(%s)""",
                [list(self.changed), [each.channel_id for each in self.changed.values()], list(self.changed)],
            )


def _shown_lines(messages: Sequence[UserMessage], likeness: Mapping[str, str]) -> list[tuple[int, str, _Line]]:
    """Find what may show these messages: of lines that say the same, as many as there are messages."""
    alike = Counter((each.conversation_id, likeness[each.text]) for each in messages)
    rows = query(
        """SELECT line.conversation_id, line.likeness, line.id, line.account_id, line.infobip_id, line.channel_id,
               line.read_at > clock_timestamp() - %s
           FROM messaging_transcriptline line JOIN (
               SELECT known.id FROM unnest(%s::bigint[], %s::text[], %s::bigint[])
                   AS come (conversation_id, likeness, times)
               CROSS JOIN LATERAL (
                   SELECT id FROM messaging_transcriptline
                   WHERE conversation_id = come.conversation_id AND likeness = come.likeness AND state = 'shown'
                     AND channel_id = '' AND author = 'end user' AND read_at > clock_timestamp() - %s
                   ORDER BY at, ordinal LIMIT come.times) AS known
               UNION
               SELECT known.id FROM unnest(%s::bigint[], %s::text[]) AS come (conversation_id, channel_id)
               CROSS JOIN LATERAL (
                   SELECT id FROM messaging_transcriptline
                   WHERE conversation_id = come.conversation_id AND channel_id = come.channel_id LIMIT 2) AS known
               UNION
               SELECT known.id FROM unnest(%s::bigint[], %s::bigint[], %s::text[]) AS come (org_id, account_id, infobip_id)
               CROSS JOIN LATERAL (
                   SELECT id FROM messaging_transcriptline WHERE org_id = come.org_id AND account_id = come.account_id
                     AND infobip_id = come.infobip_id LIMIT 1) AS known) AS found ON found.id = line.id
           WHERE line.state = 'shown' AND line.author = 'end user' ORDER BY line.at, line.ordinal""",
        [
            CLAIM_FOR,
            [conversation_id for conversation_id, _ in alike],
            [likeness for _, likeness in alike],
            list(alike.values()),
            CLAIM_FOR,
            [each.conversation_id for each in messages],
            [each.source_entry for each in messages],
            [each.org_id for each in messages],
            [each.account_id for each in messages],
            [each.ref.message if each.ref is not None else "" for each in messages],
        ],
    )
    return [(conversation_id, likeness, _Line(*line)) for conversation_id, likeness, *line in rows]


def _relayed(messages: Sequence[UserMessage]) -> set[tuple[int, str]]:
    rows = query(
        """SELECT conversation_id, source_entry FROM messaging_message
           WHERE channel_id = ANY(%s) AND source_entry = ANY(%s) AND part = 0""",
        [[each.channel_id for each in messages], [each.source_entry for each in messages]],
    )
    return {(conversation_id, entry) for conversation_id, entry in rows}
