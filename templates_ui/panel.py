"""What a rep sees of a messaging session: whose it is, by which number answers leave, for how long, and how they fared."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from operator import attrgetter

from django.utils import timezone

from connector.phone import shown
from messaging.models import Conversation, Direction, Message, Session, Status
from tenants.models import Org, Role, Sender
from tenants.onboarding import long_org_id

RECORD_ID = re.compile(r"[A-Za-z0-9]{15}([A-Za-z0-9]{3})?")
SESSION_PREFIX = "0Mw"
SOON = timedelta(hours=1)  # the window's last hour
MOST_SHOWN = 10
MOST_READ = 50  # a long text is several messages
LOOK_BACK = 200  # positions, of which a few may be empty
TEXT_SHOWN = 200
FRESH = timedelta(minutes=2)  # how long a message's state is expected to change
MOST_ADMINISTRATORS = 3


@dataclass(frozen=True, slots=True)
class Window:
    """The 24 hours in which WhatsApp lets a business answer; afterwards only a template arrives."""

    closes_at: datetime | None  # None: the customer has not written

    @property
    def left(self) -> timedelta:
        return self.closes_at - timezone.now() if self.closes_at else timedelta()

    @property
    def is_open(self) -> bool:
        return self.left > timedelta()

    @property
    def closes_soon(self) -> bool:
        return self.is_open and self.left <= SOON

    @property
    def seconds_left(self) -> int:
        return max(0, int(self.left.total_seconds()))

    @property
    def left_in_words(self) -> str:
        hours, minutes = divmod(self.seconds_left // 60, 60)
        return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else "less than a minute"


@dataclass(frozen=True, slots=True)
class Sent:
    """One thing that was written to the customer; a long text arrived once all its parts have."""

    at: datetime
    text: str
    status: Status
    tries: int  # that did not succeed, of what is still to leave
    why: str  # it failed
    kind: str  # who or what wrote it, if it was not a rep

    @property
    def settled(self) -> bool:
        return self.status in (Status.READ, Status.FAILED) or timezone.now() - self.at > FRESH


@dataclass(frozen=True, slots=True)
class Customer:
    """The person at the other end, and how they can be written to."""

    name: str
    address: str
    channel: str
    session_open: bool
    sender: str
    window: Window
    sent: list[Sent]


@dataclass(frozen=True, slots=True)
class Panel:
    """All that the page shows."""

    problem: str  # why there is no customer
    customer: Customer | None
    senders: list[str]  # of the customer's channel, else of the org
    administrators: list[str]
    disconnected: bool

    @property
    def seconds(self) -> int:
        """Say how soon to look again: sooner while something is on its way."""
        moving = self.customer is not None and not all(each.settled for each in self.customer.sent)
        return 3 if moving else 10

    @property
    def version(self) -> str:
        """Fingerprint what is shown; the time that is left runs in the page by itself."""
        shown: list[object] = [self.problem, self.senders, self.administrators, self.disconnected, self.seconds]
        if self.customer is not None:
            shown += [self.customer, self.customer.window.is_open, self.customer.window.closes_soon]
        return hashlib.sha256(repr(shown).encode()).hexdigest()[:16]


def describe(org: Org, record_id: str) -> Panel:
    """Find what is known of the record beside which the panel stands."""
    problem, session = "", None
    if not RECORD_ID.fullmatch(record_id):
        problem = "Open a messaging session, and its customer is shown here."
    elif not record_id.startswith(SESSION_PREFIX):
        problem = "This record is not a messaging session. Add this panel to the Messaging Session record page instead."
    else:
        session = find_session(org, record_id)
        if session is None:
            problem = "This session is not known yet. A WhatsApp session appears here with its first message."
    senders = org.senders.order_by("pk")
    if session is not None:
        senders = senders.filter(channel=session.conversation.channel_id)
    administrators = org.members.filter(role=Role.ADMIN).order_by("-signed_in_at").values_list("name", flat=True)
    return Panel(
        problem=problem,
        customer=_customer(org, session, senders.first()) if session else None,
        senders=[shown(each.number) for each in senders],
        administrators=list(administrators[:MOST_ADMINISTRATORS]),
        disconnected=org.disconnected_at is not None,
    )


def find_session(org: Org, session_id: str) -> Session | None:
    """Find a session among those of the org, by an id of 15 or of 18 characters, with its conversation."""
    ids = {session_id[:15], long_org_id(session_id[:15])}
    sessions = org.sessions.select_related("conversation__channel", "conversation__last_sender")
    return sessions.filter(salesforce_id__in=ids).first()


def _customer(org: Org, session: Session, default: Sender | None) -> Customer:
    conversation = session.conversation
    last = conversation.last_sender
    sender = last if last is not None and last.retired_at is None else default
    return Customer(
        name=conversation.name,
        address=shown(conversation.subject),
        channel=conversation.channel.name,
        session_open=session.state == Session.State.OPEN,
        sender=shown(sender.number) if sender else "",
        # the window is that of the number that the customer wrote to
        window=Window(conversation.window_closes_at if sender == last else None),
        sent=_sent(org, conversation),
    )


def _sent(org: Org, conversation: Conversation) -> list[Sent]:
    """Read what was written to the customer last, newest first."""
    lane = org.lanes.filter(conversation=conversation, direction=Direction.OUTBOUND).first()
    if lane is None:
        return []
    # by positions, since a limit alone lets PostgreSQL read and sort all that was ever written to the customer
    newest = org.messages.filter(lane=lane, position__gt=lane.position - LOOK_BACK)
    rows = list(newest.order_by("-position")[:MOST_READ])
    entries = [_whole(list(parts)) for _, parts in groupby(rows, key=attrgetter("source_entry"))]
    if len(rows) == MOST_READ and len(entries) > 1:
        entries.pop()  # its first parts may not have been read
    return entries[:MOST_SHOWN]


def _whole(parts: list[Message]) -> Sent:
    parts.sort(key=attrgetter("part"))
    first, status = parts[0], state_of_whole(each.status for each in parts)
    spoiled = next((each for each in parts if each.status == Status.FAILED), None)
    text = " ".join(" ".join(each.text for each in parts).split())
    return Sent(
        at=first.created_at,
        text=f"{text[:TEXT_SHOWN].rstrip()}…" if len(text) > TEXT_SHOWN else text,
        status=status,
        tries=max(each.tries for each in parts) if status is Status.PENDING else 0,
        why=spoiled.error if spoiled else "",
        kind="Template" if first.template else "Sent automatically" if first.ours else "",
    )


def state_of_whole(states: Iterable[str]) -> Status:
    """Say how far an entry got: as far as the part that got least far, and nowhere if one has failed."""
    order = [Status.FAILED, Status.PENDING, Status.SENT, Status.DELIVERED, Status.READ]
    return min((Status(each) for each in states), key=order.index)
