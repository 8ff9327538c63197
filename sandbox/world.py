"""What the simulated world holds: orgs with their channels and accounts, conversations in the console, phones."""

import asyncio
import itertools
import secrets
import uuid
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sandbox import setup_org
from sandbox.faults import Faults
from sandbox.ids import record_id as record_id
from sandbox.ids import with_checksum as with_checksum
from sandbox.infobip_account import Setup
from sandbox.journal import Journal, now_ms
from sandbox.live import Live
from sandbox.records import ConversationChannelDefinition, EntityDefinition, MessagingChannel
from sandbox.topics import Topic
from sandbox.wire import Wire

REP_NAME = "Marko Babic"
SHOWN_MESSAGES = 100  # of one conversation or chat
SHOWN_SESSIONS = 300
TICKS = {"Delivered": "delivered", "Read": "read"}


@dataclass
class Channel:
    """A messaging channel of an org, as its set-up has it."""

    address: str
    context: str  # DeveloperName of the ConversationChannelDefinition
    topic: Topic
    senders: list[str]
    active: bool = True
    publishes: bool = True  # the platform may publish what reps write


@dataclass(eq=False)
class Account:
    """An Infobip account: where its webhooks go and how they are signed."""

    name: str
    api_key: str
    secret: str
    webhook: str
    senders: set[str]
    org: "Org"
    handover: str = ""  # where the chatbot's Call API step goes
    handover_token: str = ""
    setup: Setup = field(default_factory=Setup)


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
    rep: str = ""  # who works on it, where reps accept by hand
    ended: float = 0.0
    unread: int = 0
    messages: deque[ConsoleMessage] = field(default_factory=lambda: deque(maxlen=SHOWN_MESSAGES))

    def order_by_time(self) -> None:
        """Put lines that were written earlier and came later into their place."""
        self.messages = deque(sorted(self.messages, key=lambda message: message.at), maxlen=SHOWN_MESSAGES)

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
            "rep": self.rep,
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
    choices: list[str] = field(default_factory=list)  # buttons of a chatbot's question
    notify_url: str = ""  # for what it received: where its reports go
    callback_data: str | None = None

    def describe(self) -> dict[str, Any]:
        """Return the message as the page draws it."""
        shown = {"id": self.id, "mine": self.mine, "text": self.text, "at": self.at, "state": self.state}
        return {**shown, "choices": self.choices} if self.choices else shown


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
        self.accounts: dict[str, Account] = {}
        self.channels: dict[str, Channel] = {}
        self.contexts: set[str] = set()
        self.chatbot_first: set[str] = set()
        self.queues = False  # sessions wait until a rep accepts them, instead of being active at once
        self.takes_history = False  # the history of a conversation may be imported
        self.tells_end = True  # an event says that a session ended, which Salesforce does not promise
        self.setup: setup_org.Setup
        self._born_of: Any = None

    def configure(
        self,
        document: dict[str, Any],
        webhooks: dict[str, str],
        title: str | None,
        *,
        empty: bool,
        handovers: dict[str, str] | None = None,
    ) -> None:
        """Take over a provision document; what was said so far stays, and the set-up too unless the document changed.

        :param empty: the org is fresh, and the document tells its name, its hosts and the numbers of its accounts
        :raises KeyError: if the document lacks something
        :raises ValueError: if something in it cannot be read
        """
        org, channels = document["org"], [] if empty else document.get("channels", [])
        born_of = (empty or (org, channels, sorted(webhooks.values())), org["name"])
        if born_of != self._born_of:
            self.setup = (
                setup_org.empty(self.id, org["name"], REP_NAME)
                if empty
                else setup_org.connected(document, list(webhooks.values()), REP_NAME)
            )
            self._born_of = born_of
        self.title: str = title or org["name"]
        self.base_url: str = org["baseUrl"].rstrip("/")
        known = self.accounts
        self.accounts = {
            item["name"]: Account(
                item["name"],
                item["apiKey"],
                item.get("webhookSecret", ""),
                webhooks.get(item["name"], ""),
                set(),
                self,
                (handovers or {}).get(item["name"], ""),
                item.get("handoverToken", ""),
            )
            for item in document["infobipAccounts"]
        }
        self._senders = {item["channelAddressIdentifier"]: [s["number"] for s in item["senders"]] for item in channels}
        for sender in (sender for item in channels for sender in item["senders"]):
            self.accounts[sender["account"]].senders.add(sender["number"])
            (self.chatbot_first.add if sender.get("chatbotFirst") else self.chatbot_first.discard)(sender["number"])
        for item in document["infobipAccounts"]:
            account = self.accounts[item["name"]]
            account.setup = known[account.name].setup if account.name in known else account.setup
            chatbot = bool(account.senders & self.chatbot_first)
            account.setup.provision(
                item.get("numbers", []), account.senders, account.webhook, account.secret, chatbot=chatbot
            )
            account.senders = account.setup.senders()
        self.follow_setup()

    def follow_setup(self) -> None:
        """Bring topics and channels in line with the set-up; a topic's log outlives a change."""
        setup = self.setup
        topics = {}
        for event in setup.rows(EntityDefinition):
            if names := setup.event_fields(event):
                topics[f"/event/{event.qualified_api_name}"] = self.topic(event.qualified_api_name, *names)
        self.topics = topics
        definitions = {row.id: row for row in setup.rows(ConversationChannelDefinition)}
        self.contexts = {row.developer_name for row in definitions.values()}
        old, self.channels = self.channels, {}
        for row in setup.rows(MessagingChannel):
            definition = definitions.get(row.channel_definition_id)
            topic = definition and topics.get(f"/event/{definition.custom_platform_event}")
            if not definition or not topic:
                continue  # it was taken apart: nothing goes either way
            address, context = row.channel_address_identifier, definition.developer_name
            senders = self._senders.get(address) or [s for each in self.accounts.values() for s in sorted(each.senders)]
            channel = old.get(address) or Channel(address, context, topic, senders)
            channel.context, channel.topic, channel.senders = context, topic, senders
            channel.active, channel.publishes = row.is_active, setup.platform_publishes(definition.custom_platform_event)
            self.channels[address] = channel

    def topic(self, event: str, type_field: str, payload_field: str) -> Topic:
        """Return the topic of a platform event."""
        name = f"/event/{event}"
        topic = self.topics.get(name)
        if topic is None or topic.fields != (type_field, payload_field):
            topic = Topic(self.id, event, type_field, payload_field)
        return topic

    def account_of(self, sender: str) -> Account | None:
        """Return the account that has that sender."""
        return next((account for account in self.accounts.values() if sender in account.senders), None)

    def describe(self) -> dict[str, Any]:
        """Return the org as the page draws it."""
        senders = [sender for account in self.accounts.values() for sender in sorted(account.senders)]
        return {
            "orgId": self.id,
            "title": self.title,
            "channels": list(self.channels),
            "senders": senders,
            "setupPage": f"{self.base_url}/setup/{self.id}",
        }


@dataclass(frozen=True, slots=True, eq=False)
class Token:
    """What an access token stands for."""

    org: Org
    user_id: str
    scopes: frozenset[str]


class World:
    """Everything that both platforms and both people share."""

    def __init__(self) -> None:
        self.journal = Journal()
        self.faults = Faults()
        self.live = Live()
        self.wire = Wire(self.live)
        self.orgs: dict[str, Org] = {}
        self.by_token: dict[str, Token] = {}
        self.by_api_key: dict[str, Account] = {}
        self.sessions: dict[str, Session] = {}
        self.phones: dict[tuple[str, str, str], Phone] = {}  # by org, user and sender
        self.open_chat: tuple[str, str] | None = None  # org and user of the chat that the phone shows
        self.org_added = asyncio.Event()
        self._numbers = itertools.count(int(now_ms()) * 1000)

    def add_org(
        self,
        document: dict[str, Any],
        webhooks: dict[str, str],
        title: str | None,
        *,
        empty: bool = False,
        handovers: dict[str, str] | None = None,
    ) -> Org:
        """Add an org or replace what it is made of."""
        org_id = document["org"]["orgId"]
        if len(org_id) != 18 or with_checksum(org_id[:15]) != org_id:
            raise ValueError("orgId is not a valid id of 18 characters")
        org = self.orgs.get(org_id) or Org(org_id)
        org.configure(document, webhooks, title, empty=empty, handovers=handovers)
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
        if conversation.session and conversation.session.status != "Ended":
            return conversation.session, False
        session = Session(record_id("0Mw", next(self._numbers)), conversation, now_ms())
        if conversation.org.queues:
            session.status = "Waiting"
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

    def issue_token(self, org: Org, user_id: str, scopes: Iterable[str]) -> str:
        """Return a new access token of a user: the short org id, an exclamation mark, and noise."""
        token = f"{org.short_id}!{secrets.token_urlsafe(72)}"
        self.by_token[token] = Token(org, user_id, frozenset(scopes))
        return token

    def expire_tokens(self) -> None:
        """Forget all tokens."""
        self.by_token.clear()
