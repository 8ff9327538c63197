"""What the simulated world holds: orgs with their channels and accounts, conversations in the console, phones."""

import asyncio
import itertools
import secrets
import uuid
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from sandbox.faults import Faults
from sandbox.journal import Journal, now_ms
from sandbox.live import Live
from sandbox.topics import Topic
from sandbox.wire import Wire

REP_NAME = "Marko Babic"
SHOWN_MESSAGES = 100  # of one conversation or chat
SHOWN_SESSIONS = 300
TICKS = {"Delivered": "delivered", "Read": "read"}
_CHECKSUM = "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def with_checksum(short: str) -> str:
    """Turn a record id of 15 characters into one of 18: the case of each group of five becomes one more character."""
    groups = (short[i : i + 5] for i in (0, 5, 10))
    return short + "".join(_CHECKSUM[sum(char.isupper() << k for k, char in enumerate(group))] for group in groups)


def record_id(prefix: str, number: int) -> str:
    """Return a valid record id of 18 characters."""
    digits = ""
    while number:
        number, digit = divmod(number, 62)
        digits = _DIGITS[digit] + digits
    return with_checksum(prefix + "5g" + digits.rjust(10, "0"))


@dataclass
class Channel:
    """A messaging channel of an org."""

    address: str
    context: str  # DeveloperName of the ConversationChannelDefinition
    topic: Topic
    senders: list[str]


@dataclass(eq=False)
class Account:
    """An Infobip account: where its webhooks go and how they are signed."""

    name: str
    api_key: str
    secret: str
    webhook: str
    senders: set[str]
    org: "Org"


@dataclass(eq=False)
class ConsoleMessage:
    """One line in the console; ``acknowledged_at`` is the timestamp of the acknowledgement that is shown."""

    id: str
    mine: bool  # written by the rep
    text: str
    at: float
    conversation: "Conversation"
    session: "Session"
    state: str = "sent"
    acknowledged_at: float = 0.0

    def describe(self) -> dict[str, Any]:
        """Return the line as the page draws it."""
        sender = "Agent" if self.mine else "EndUser"
        return {"id": self.id, "from": sender, "text": self.text, "at": self.at, "state": self.state}


@dataclass(eq=False)
class Session:
    """A MessagingSession: the stretch of a conversation that a rep works on."""

    id: str
    conversation: "Conversation"
    started: float
    status: str = "Active"
    unread: int = 0
    messages: deque[ConsoleMessage] = field(default_factory=lambda: deque(maxlen=SHOWN_MESSAGES))

    def describe(self) -> dict[str, Any]:
        """Return the session as the page draws it."""
        conversation = self.conversation
        return {
            "org": conversation.org.id,
            "session": self.id,
            "conversation": conversation.id,
            "user": conversation.user,
            "name": conversation.name,
            "status": self.status,
            "unread": self.unread,
            "messages": [message.describe() for message in self.messages],
        }


@dataclass(eq=False)
class Conversation:
    """What one end user and one channel have said to each other; its id is stable for the pair."""

    id: str
    org: "Org"
    channel: Channel
    user: str
    name: str
    session: Session | None = None  # the newest


@dataclass(eq=False)
class PhoneMessage:
    """One message in a chat on a phone; ``mine`` is the end user's own."""

    id: str
    mine: bool
    text: str
    at: float
    state: str = "sent"
    notify_url: str = ""  # for what it received: where its reports go
    callback_data: str | None = None

    def describe(self) -> dict[str, Any]:
        """Return the message as the page draws it."""
        return {"id": self.id, "mine": self.mine, "text": self.text, "at": self.at, "state": self.state}


@dataclass(eq=False)
class Phone:
    """The chat of one end user with one sender."""

    org: "Org"
    account: Account
    user: str
    name: str
    sender: str
    written_at: float | None = None  # when the end user last wrote, which opens the 24-hour window
    messages: deque[PhoneMessage] = field(default_factory=lambda: deque(maxlen=SHOWN_MESSAGES))

    def describe(self) -> dict[str, Any]:
        """Return the chat as the page draws it."""
        return {
            "org": self.org.id,
            "user": self.user,
            "name": self.name,
            "sender": self.sender,
            "messages": [message.describe() for message in self.messages],
        }


class Org:
    """One Salesforce org with its Infobip accounts, made from a provision document."""

    def __init__(self, org_id: str) -> None:
        self.id = org_id
        self.short_id = org_id[:15]
        self.logins = 0
        self.conversations: dict[tuple[str, str], Conversation] = {}
        self.conversations_by_id: dict[str, Conversation] = {}
        self.entries: dict[str, ConsoleMessage] = {}  # of reps
        self.arrived: set[str] = set()  # ids of end users' entries
        self.topics: dict[str, Topic] = {}

    def configure(self, document: dict[str, Any], webhooks: dict[str, str], title: str | None) -> None:
        """Take over a provision document; what was said so far stays.

        :raises KeyError: if the document lacks something
        :raises ValueError: if something in it cannot be read
        """
        org = document["org"]
        private_key = load_pem_private_key(org["privateKey"].encode(), password=None)
        if not isinstance(private_key, rsa.RSAPrivateKey):
            raise ValueError("privateKey is not an RSA key")
        self.public_key = private_key.public_key()
        self.title: str = title or org["name"]
        self.base_url: str = org["baseUrl"].rstrip("/")
        self.consumer_key: str = org["consumerKey"]
        self.username: str = org["username"]
        self.user_id = with_checksum("0055g00000IntUs")
        self.accounts = {
            item["name"]: Account(
                item["name"], item["apiKey"], item["webhookSecret"], webhooks.get(item["name"], ""), set(), self
            )
            for item in document["infobipAccounts"]
        }
        self.channels: dict[str, Channel] = {}
        for item in document["channels"]:
            topic = self.topic(item["customEventName"], item["customEventTypeField"], item["customEventPayloadField"])
            senders = [sender["number"] for sender in item["senders"]]
            address = item["channelAddressIdentifier"]
            self.channels[address] = Channel(address, item["authorizationContext"], topic, senders)
            for sender in item["senders"]:
                self.accounts[sender["account"]].senders.add(sender["number"])

    def topic(self, event: str, type_field: str, payload_field: str) -> Topic:
        """Return the topic of a platform event; its log outlives a change of the document."""
        name = f"/event/{event}"
        topic = self.topics.get(name)
        if topic is None or topic.fields != (type_field, payload_field):
            topic = self.topics[name] = Topic(self.id, event, type_field, payload_field)
        return topic

    def account_of(self, sender: str) -> Account | None:
        """Return the account that has that sender."""
        return next((account for account in self.accounts.values() if sender in account.senders), None)

    def describe(self) -> dict[str, Any]:
        """Return the org as the page draws it."""
        senders = [sender for account in self.accounts.values() for sender in sorted(account.senders)]
        return {"orgId": self.id, "title": self.title, "channels": list(self.channels), "senders": senders}


class World:
    """Everything that both platforms and both people share."""

    def __init__(self) -> None:
        self.journal = Journal()
        self.faults = Faults()
        self.live = Live()
        self.wire = Wire(self.live)
        self.orgs: dict[str, Org] = {}
        self.by_token: dict[str, Org] = {}
        self.by_api_key: dict[str, Account] = {}
        self.sessions: dict[str, Session] = {}
        self.phones: dict[tuple[str, str, str], Phone] = {}  # by org, user and sender
        self.open_chat: tuple[str, str] | None = None  # org and user of the chat that the phone shows
        self.org_added = asyncio.Event()
        self._numbers = itertools.count(int(now_ms()) * 1000)

    def add_org(self, document: dict[str, Any], webhooks: dict[str, str], title: str | None) -> Org:
        """Add an org or replace what it is made of."""
        org_id = document["org"]["orgId"]
        if len(org_id) != 18 or with_checksum(org_id[:15]) != org_id:
            raise ValueError("orgId is not a valid id of 18 characters")
        org = self.orgs.get(org_id) or Org(org_id)
        org.configure(document, webhooks, title)
        self.orgs[org_id] = org
        self.by_api_key = {a.api_key: a for each in self.orgs.values() for a in each.accounts.values()}
        for phone in self.phones.values():
            if phone.org is org:
                phone.account = org.account_of(phone.sender) or phone.account
        for conversation in org.conversations.values():
            conversation.channel = org.channels.get(conversation.channel.address, conversation.channel)
        if any(account.webhook for account in org.accounts.values()):
            self.org_added.set()
        return org

    def find_org(self, org_id: str | None) -> Org:
        """Return an org by either form of its id, or the only one.

        :raises KeyError: if there is no such org
        """
        if org_id is None and len(self.orgs) == 1:
            return next(iter(self.orgs.values()))
        return self.orgs[org_id if org_id is not None and len(org_id) != 15 else with_checksum(org_id or "")]

    # the console

    def conversation(self, org: Org, channel: Channel, user: str, name: str | None = None) -> Conversation:
        """Return the conversation of an end user with a channel, new if need be."""
        key = (channel.address, user)
        found = org.conversations.get(key)
        if found is None:
            found = org.conversations[key] = Conversation(
                str(uuid.uuid4()), org, channel, user, name or self.contact_name(org, channel, user)
            )
            org.conversations_by_id[found.id] = found
        elif name:
            found.name = name
        return found

    def contact_name(self, org: Org, channel: Channel, user: str) -> str:
        """Return the name that the org's address book has for a number: the one that its owner's phone shows here."""
        phones = (self.phones.get((org.id, user, sender)) for sender in channel.senders)
        return next((phone.name for phone in phones if phone), user)

    def session(self, conversation: Conversation) -> tuple[Session, bool]:
        """Return the open session of a conversation, and whether it is new."""
        if conversation.session and conversation.session.status == "Active":
            return conversation.session, False
        session = Session(record_id("0Mw", next(self._numbers)), conversation, now_ms())
        self.sessions[session.id] = conversation.session = session
        return session, True

    def show_in_console(self, session: Session, entry: str, text: str, *, mine: bool) -> ConsoleMessage:
        """Add a line to a session."""
        message = ConsoleMessage(entry, mine, text, now_ms(), session.conversation, session)
        session.messages.append(message)
        session.unread = 0 if mine else session.unread + 1
        self.session_changed(session)
        return message

    def session_changed(self, session: Session) -> None:
        """Show the session anew."""
        self.live.changed("session", session.id, session.describe)

    # the phones

    def phone(self, account: Account, user: str, sender: str, name: str | None = None) -> Phone:
        """Return the chat of an end user with a sender, new if need be."""
        key = (account.org.id, user, sender)
        found = self.phones.get(key)
        if found is None:
            found = self.phones[key] = Phone(account.org, account, user, name or user, sender)
            self.phone_changed(found)
        elif name and found.name == user:
            found.name = name
        return found

    def show_on_phone(self, phone: Phone, message: PhoneMessage) -> None:
        """Add a message to a chat."""
        phone.messages.append(message)
        self.phone_changed(phone)

    def phone_changed(self, phone: Phone) -> None:
        """Show the chat anew."""
        self.live.changed("phone", (phone.org.id, phone.user, phone.sender), phone.describe)

    # tokens

    def issue_token(self, org: Org) -> str:
        """Return a new access token of the org's integration user: the short org id, an exclamation mark, and noise."""
        token = f"{org.short_id}!{secrets.token_urlsafe(72)}"
        self.by_token[token] = org
        return token

    def expire_tokens(self) -> None:
        """Forget all tokens."""
        self.by_token.clear()
