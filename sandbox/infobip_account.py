"""What an Infobip account is made of besides its senders: the key's scopes, numbers, subscriptions and where they lead."""

import hashlib
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

# what the product guide lets a customer grant, and what the published document asks for besides
SCOPES = (
    "account-management:manage",
    "answers:manage",
    "conversations:manage",
    "inbound-message:read",
    "message:send",
    "messages-api:manage",
    "messages-api:message:send",
    "numbers:manage",
    "subscriptions:manage",
    "whatsapp:manage",
)
COUNTRIES = {"1": ("US", "United States"), "44": ("GB", "United Kingdom"), "385": ("HR", "Croatia")}
PROVISIONED = "provisioned"  # the id of what exists already because a provision document came with a webhook


@dataclass
class Configuration:
    """What happens to the messages of a number, or to those that begin with a keyword."""

    keyword: str = ""
    forwarding: dict[str, str] | None = None  # type and url; None: the subscription decides
    conversations: bool = False
    answers: bool = False
    key: str = field(default_factory=lambda: uuid.uuid4().hex.upper())


@dataclass
class Number:
    """A number of the account."""

    number: str
    type: str = "WHATSAPP"
    capabilities: list[str] = field(default_factory=lambda: ["WHATSAPP"])
    note: str = ""
    status: str = "CONNECTED"
    quality: str = "HIGH"
    configurations: dict[str, Configuration] = field(default_factory=dict)  # by keyword

    @property
    def key(self) -> str:
        """The id that Infobip gives it."""
        return hashlib.md5(self.number.encode(), usedforsecurity=False).hexdigest().upper()

    @property
    def is_sender(self) -> bool:
        """Whether WhatsApp messages can be sent from it."""
        return self.type == "WHATSAPP" or "WHATSAPP" in self.capabilities

    def configure(self, keyword: str = "") -> Configuration:
        """Return the configuration for a keyword, or for all messages, new if need be."""
        return self.configurations.setdefault(keyword, Configuration(keyword))

    def configuration_of(self, text: str) -> Configuration | None:
        """Return what applies to a text: the configuration of the keyword that it begins with, else the general one."""
        words = text.lower()
        for keyword, configuration in self.configurations.items():
            if keyword and words.startswith(keyword.lower()):
                return configuration
        return self.configurations.get("")


@dataclass
class Security:
    """How a webhook proves where it comes from."""

    type: str
    credentials: dict[str, str]


@dataclass
class Profile:
    """Where notifications go, and how."""

    settings: dict[str, Any]  # the webhook and the limits, as they were given
    auth_id: str | None


@dataclass
class Subscription:
    """Which events of a channel go to which profile."""

    channel: str
    events: list[str]
    profile_id: str
    more: dict[str, Any] = field(default_factory=dict)  # name, criteria, resources and users


@dataclass(frozen=True)
class Target:
    """One address that a webhook goes to; without settings it is not signed."""

    url: str
    security: Security | None = None


@dataclass
class Setup:
    """The state of one account."""

    key_id: str = field(default_factory=lambda: uuid.uuid4().hex.upper())
    scopes: set[str] = field(default_factory=lambda: set(SCOPES))
    enabled: bool = True
    valid_to: datetime | None = None
    allowed_ips: list[str] = field(default_factory=list)
    balance: float = 412.75
    numbers: dict[str, Number] = field(default_factory=dict)
    subscriptions: dict[str, Subscription] = field(default_factory=dict)  # by id; likewise the next two
    profiles: dict[str, Profile] = field(default_factory=dict)
    securities: dict[str, Security] = field(default_factory=dict)

    def provision(
        self, numbers: Iterable[Any], senders: set[str], webhook: str, secret: str, *, chatbot: bool = False
    ) -> None:
        """Take over what a provision document says; what was set up by other means stays."""
        for item in numbers:
            given = {"number": item} if isinstance(item, str) else item
            self.numbers.setdefault(given["number"], Number(**given))
        for sender in senders:
            self.numbers.setdefault(sender, Number(sender))
        if webhook:
            self.securities[PROVISIONED] = Security("HMAC", {"secretKey": secret, "algorithm": "HMAC_SHA_256"})
            self.profiles[PROVISIONED] = Profile({"webhook": {"notifyUrl": webhook}}, PROVISIONED)
            events = ["INBOUND_MESSAGE", "DELIVERY", "SEEN"]
            self.subscriptions[PROVISIONED] = Subscription("WHATSAPP", events, PROVISIONED)
            if chatbot:
                told = ["CONVERSATION_MESSAGE_RECEIVED"]
                self.subscriptions[f"{PROVISIONED}-chatbot"] = Subscription("CUSTOMER_ENGAGEMENT", told, PROVISIONED)

    def accepts_key(self, address: str | None) -> bool:
        """Tell whether the key still holds, and for a caller at this address."""
        if not self.enabled or (self.valid_to and self.valid_to <= datetime.now(UTC)):
            return False
        return not self.allowed_ips or address in self.allowed_ips

    def senders(self) -> set[str]:
        """Return the numbers that WhatsApp messages can be sent from."""
        return {number.number for number in self.numbers.values() if number.is_sender}

    def targets_of(self, sender: str, text: str) -> list[Target]:
        """Return where a message to a number goes: its own forwarding wins over all subscriptions and is not signed."""
        number = self.numbers.get(sender)
        configuration = number.configuration_of(text) if number else None
        if configuration and configuration.forwarding:
            forwarding = configuration.forwarding
            return [Target(forwarding["url"])] if forwarding["type"] == "HTTP_FORWARD" else []
        return self.subscribed("INBOUND_MESSAGE", sender)

    def subscribed(self, event: str, sender: str | None = None, channel: str = "WHATSAPP") -> list[Target]:
        """Return where an event goes, of one sender if it is named."""
        return [
            self.target(subscription.profile_id)
            for subscription in self.subscriptions.values()
            if subscription.channel == channel
            and event in subscription.events
            and (sender is None or sender in (subscription.more.get("resources") or [sender]))
        ]

    def target(self, profile_id: str) -> Target:
        """Return the address of a profile."""
        profile = self.profiles[profile_id]
        return Target(profile.settings["webhook"]["notifyUrl"], self.securities.get(profile.auth_id or ""))

    def describe(self) -> dict[str, Any]:
        """Return everything but secrets."""
        return {
            "scopes": sorted(self.scopes),
            "enabled": self.enabled,
            "validTo": self.valid_to and self.valid_to.isoformat(),
            "allowedIPs": self.allowed_ips,
            "balance": self.balance,
            "numbers": {number.number: describe_number(number) for number in self.numbers.values()},
            "subscriptions": {
                subscription_id: {
                    "channel": subscription.channel,
                    "events": subscription.events,
                    "profileId": subscription.profile_id,
                    "notifyUrl": self.target(subscription.profile_id).url,
                    "security": security.type if (security := self.target(subscription.profile_id).security) else None,
                }
                for subscription_id, subscription in self.subscriptions.items()
            },
        }


def describe_number(number: Number) -> dict[str, Any]:
    """Return a number with what happens to its messages, by keyword."""
    return {
        "type": number.type,
        "capabilities": number.capabilities,
        "note": number.note,
        "status": number.status,
        "quality": number.quality,
        "configurations": {
            configuration.keyword: {
                "forwarding": configuration.forwarding,
                "conversations": configuration.conversations,
                "answers": configuration.answers,
            }
            for configuration in number.configurations.values()
        },
    }
