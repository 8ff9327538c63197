"""Puts what was said with a chatbot into the form in which a rep reads it, or Salesforce's history takes it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import NAMESPACE_OID, uuid5
from zoneinfo import ZoneInfo

from django.utils import timezone

from connector.events import MARK, split_text, strip_mark
from connector.infobip.conversations import Author, Line
from connector.salesforce.interactions import MOST_PAST_ENTRIES, OLDEST_PAST_ENTRY, TEXT_LIMIT, PastEntry
from messaging.models import ChatbotMessage, Conversation, Direction, Handover, Message
from tenants.models import Channel, TranscriptForm

LAG = timedelta(seconds=3)  # by which a transcript is complete, where no event named its last line
SAME_WITHIN = timedelta(seconds=10)  # two texts that are alike and so close are one message


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the transcript that is new to the rep; ``source_entry`` is the same wherever the message comes from."""

    line: Line
    source_entry: str


def holds_last_known(handover: Handover, lines: Sequence[Line]) -> bool:
    """Tell whether the transcript has caught up with the line that asked for a person."""
    known = (
        ChatbotMessage.objects.filter(
            account_id=handover.account_id, org_id=handover.org_id, infobip_conversation=handover.infobip_conversation
        )
        .filter(at__lte=handover.held_at)
        .order_by("-at")
        .values_list("infobip_id", flat=True)
        .first()
    )
    if known is not None:
        return known in {line.id for line in lines}
    return timezone.now() - handover.called_at >= LAG


def new_entries(handover: Handover, lines: Sequence[Line]) -> list[Entry]:
    """Choose the lines that the rep has not seen: none from before the last session's end, and none that came live."""
    assert handover.conversation_id is not None and handover.held_at is not None
    before = Handover.objects.filter(
        org_id=handover.org_id, conversation_id=handover.conversation_id, ended_at__isnull=False
    )
    seen_until = before.exclude(pk=handover.pk).order_by("-ended_at").values_list("ended_at", flat=True).first()
    ids = [line.id for line in lines]
    of_account = ChatbotMessage.objects.filter(org_id=handover.org_id, account_id=handover.account_id, infobip_id__in=ids)
    channel_ids = dict(of_account.values_list("infobip_id", "channel_id"))
    # live messages of which no event gave the other id: they are known by their text and time
    lane = Message.objects.filter(
        org_id=handover.org_id, conversation_id=handover.conversation_id, direction=Direction.INBOUND
    )
    live = list(lane.filter(created_at__gte=handover.held_at, part=0).values_list("text", "written_at"))
    entries = []
    for line in lines:
        if seen_until is not None and line.at <= seen_until:
            continue
        if line.author is Author.END_USER and line.id not in channel_ids and line.at > handover.held_at:
            twin = next((each for each in live if _is_same(each, line)), None)
            if twin is not None:
                live.remove(twin)
                continue
        entries.append(Entry(line, channel_ids.get(line.id) or f"infobip:{line.id}"))
    return entries


def _is_same(live: tuple[str, datetime], line: Line) -> bool:
    return live[0] == line.text[:TEXT_LIMIT] and abs(live[1] - line.at) < SAME_WITHIN


def messages_of(handover: Handover, conversation: Conversation, entries: Sequence[Entry]) -> list[dict[str, object]]:
    """Write the messages that the rep reads; what is not the end user's own begins with our mark."""
    channel = conversation.channel
    begin = notice(handover, conversation, "begin", "Conversation with the chatbot")
    if channel.transcript == TranscriptForm.COMPACT:
        zone = ZoneInfo(channel.time_zone)
        name = strip_mark(conversation.name) or "Customer"
        script = "\n".join(_compact(each.line, channel, name, zone) for each in entries)
        parts = split_text(f"{begin['text']}\n{script}", TEXT_LIMIT)
        messages = [{**begin, "part": part, "text": text} for part, text in enumerate(parts)]
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
                    "written_at": entry.line.at,
                }
                for entry in entries
                for part, text in enumerate(split_text(_shown(entry.line, channel), TEXT_LIMIT))
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
    }


def _shown(line: Line, channel: Channel) -> str:
    if line.author is Author.END_USER:
        return line.text
    return f"{MARK} {channel.chatbot_name if line.author is Author.CHATBOT else 'Agent'}: {line.text}"


def _compact(line: Line, channel: Channel, name: str, zone: ZoneInfo) -> str:
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
    if any(entry.line.at < oldest for entry in entries):
        return []
    past = [
        PastEntry(
            uuid5(NAMESPACE_OID, f"{handover.org_id} {entry.source_entry} {part}"),
            entry.line.author is not Author.END_USER,
            text,
            entry.line.at + timedelta(milliseconds=part),
        )
        for entry in entries
        for part, text in enumerate(split_text(entry.line.text, TEXT_LIMIT))
    ]
    return [past[max(0, end - MOST_PAST_ENTRIES) : end] for end in range(len(past), 0, -MOST_PAST_ENTRIES)]
