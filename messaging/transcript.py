"""Puts what was said with a chatbot into the form in which a rep reads it, or Salesforce's history takes it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import NAMESPACE_OID, uuid5
from zoneinfo import ZoneInfo

from django.utils import timezone

from connector.events import MARK, split_text, strip_mark
from connector.infobip.conversations import Author
from connector.salesforce.interactions import MOST_PAST_ENTRIES, OLDEST_PAST_ENTRY, TEXT_LIMIT, PastEntry
from messaging.models import Conversation, Handover
from tenants.models import Channel, TranscriptForm


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the transcript that is new to the rep; ``source_entry`` is the same wherever the message comes from."""

    author: Author
    text: str
    at: datetime
    source_entry: str
    infobip_id: str


def messages_of(handover: Handover, conversation: Conversation, entries: Sequence[Entry]) -> list[dict[str, object]]:
    """Write the messages that the rep reads; what is not the end user's own begins with our mark."""
    channel = conversation.channel
    begin = notice(handover, conversation, "begin", "Conversation with the chatbot")
    if channel.transcript == TranscriptForm.COMPACT:
        zone = ZoneInfo(channel.time_zone)
        name = strip_mark(conversation.name) or "Customer"
        script = "\n".join(_compact(each, channel, name, zone) for each in entries)
        parts = split_text(f"{begin['text']}\n{script}", TEXT_LIMIT)
        last_at = entries[-1].at if entries else handover.held_at
        theirs = {**begin, "written_at": last_at, "ours": False}
        messages = [{**theirs, "part": part, "text": text} for part, text in enumerate(parts)]
    else:
        end = notice(handover, conversation, "end", "End of the conversation with the chatbot")
        messages = [
            begin,
            *(
                {
                    **begin,
                    "source_entry": entry.source_entry,
                    "part": part,
                    "text": text,
                    "written_at": entry.at,
                    "ours": False,
                }
                for entry in entries
                for part, text in enumerate(split_text(_shown(entry, channel), TEXT_LIMIT))
            ),
            end,
        ]
    if attributes := _routing_attributes(handover, channel):
        messages[0]["routing_attributes"] = attributes
    return messages


def notice(handover: Handover, conversation: Conversation, which: str, text: str) -> dict[str, object]:
    """Write a line of our own about a hand-over."""
    return {
        "channel_id": conversation.channel_id,
        "sender_id": conversation.last_sender_id,
        "source_entry": f"handover:{handover.pk}:{which}",
        "part": 0,
        "text": f"{MARK} {text}",
        "written_at": handover.held_at,
        "routing_attributes": None,
        "ours": True,
    }


def _shown(line: Entry, channel: Channel) -> str:
    if line.author is Author.END_USER:
        return line.text
    return f"{MARK} {channel.chatbot_name if line.author is Author.CHATBOT else 'Agent'}: {line.text}"


def _compact(line: Entry, channel: Channel, name: str, zone: ZoneInfo) -> str:
    who = f"{name}: {line.text}" if line.author is Author.END_USER else _shown(line, channel)
    return f"{line.at.astimezone(zone):%H:%M} {who}"


def _routing_attributes(handover: Handover, channel: Channel) -> Mapping[str, str]:
    wanted = channel.routing_attributes.items()
    return {name: handover.attributes[field] for field, name in wanted if field in handover.attributes}


def history_of(handover: Handover, entries: Sequence[Entry]) -> list[list[PastEntry]]:
    """Write the batches in which Salesforce's history takes a transcript, newest first, since routing may be faster.

    :return: none where it would not take all of it: the lane takes lines of any age
    """
    oldest = timezone.now() - OLDEST_PAST_ENTRY + timedelta(minutes=5)
    if any(entry.at < oldest for entry in entries):
        return []
    past: list[PastEntry] = []
    for entry in entries:
        for part, text in enumerate(split_text(entry.text, TEXT_LIMIT)):
            # Salesforce orders them by their times, and of what one second brought several lines have the same
            at = max(entry.at, past[-1].at + timedelta(milliseconds=1)) if past else entry.at
            entry_id = uuid5(NAMESPACE_OID, f"{handover.org_id} {handover.account_id} {entry.infobip_id} {part}")
            past.append(PastEntry(entry_id, entry.author is not Author.END_USER, text, at))
    return [past[max(0, end - MOST_PAST_ENTRIES) : end] for end in range(len(past), 0, -MOST_PAST_ENTRIES)]
