"""What arrived, what must go out, and how far it got. The rows are the queue: nothing else remembers work.

Foreign keys hold the org beside the id (see tenants/tenancy.py), so Django's own constraints are off; so are its indexes
where a constraint's index serves, or nothing searches that way.
"""

from messaging.models.conversations import (
    Address,
    ChatbotMessage,
    Conversation,
    EarlyRep,
    Handover,
    LeftMessage,
    Session,
    TranscriptLine,
)
from messaging.models.messages import (
    BOUNDS_OF_TIME,
    MAY_FOLLOW,
    NOTICE,
    Attempt,
    Circuit,
    Direction,
    Lane,
    Message,
    Outcome,
    Status,
    Upstream,
)
from messaging.models.received import ClockTimestamp, EventSubscription, Inbox, ReceivedEvent

__all__ = [
    "BOUNDS_OF_TIME",
    "MAY_FOLLOW",
    "NOTICE",
    "Address",
    "Attempt",
    "ChatbotMessage",
    "Circuit",
    "ClockTimestamp",
    "Conversation",
    "Direction",
    "EarlyRep",
    "EventSubscription",
    "Handover",
    "Inbox",
    "Lane",
    "LeftMessage",
    "Message",
    "Outcome",
    "ReceivedEvent",
    "Session",
    "Status",
    "TranscriptLine",
    "Upstream",
]
