"""Clients as a test builds them, with the addresses that they call."""

from datetime import UTC, datetime
from uuid import UUID

from connector.events import Receipt
from connector.infobip.client import InfobipClient
from connector.infobip.setup import ProfileSettings, SetupClient
from connector.salesforce.auth import AccessToken, TokenSource
from connector.salesforce.interactions import Acknowledgement, Delivered, InteractionClient

CORE = "https://acme.my.salesforce.com"
SCRT = "https://acme.my.salesforce-scrt.com"
TOKEN_URL = f"{CORE}/services/oauth2/token"
INTERACTIONS_URL = f"{SCRT}/api/v1/interactions"
ACKNOWLEDGEMENT_URL = f"{SCRT}/api/v1/acknowledgement"
CONVERSATION_URL = f"{SCRT}/api/v1/conversation"
INFOBIP = "https://k2v9.api.infobip.com"
SEND_URL = f"{INFOBIP}/whatsapp/1/message/text"
TEMPLATE_URL = f"{INFOBIP}/whatsapp/1/message/template"

ORG_ID = "00D5g00000ABcDEEA1"
CHANNEL = "6f1f4a5e-2f0a-4e1c-9c55-0b9b6f9f2d31"
CONTEXT = "Infobip_WhatsApp"
CONVERSATION = "c0a2c1b4-7f0e-4f6c-9a44-5d2f6f0e7b11"
ENTRY = "a4f0e7c9-7b1d-4e55-9d15-2d5b8f6c1a44"
END_USER, SENDER = "385991234567", "447700900123"
MESSAGE = UUID("2d9c7f7e-6a0b-4a53-8c68-3fb0e1a8f901")
TICK = UUID("9d3b1f6e-8f2a-4a7c-b5d4-7e6f5a4b3c08")
AT = datetime(2026, 7, 29, 8, 0, tzinfo=UTC)
ACCOUNT = "0c5e1f0a-6f7e-4b7c-9d53-1a2b3c4d5e6f"
NOTIFY_URL = "https://connector.example.com/api/infobip/inbound/messages/5f1c"


class Tokens:
    """Tokens that count how often they are renewed."""

    def __init__(self) -> None:
        self.renewals = 0
        self.refused: list[AccessToken] = []

    key = "acme"

    def ready(self) -> AccessToken:
        return self.current()

    def current(self) -> AccessToken:
        return AccessToken(f"00D5g00000ABcDE!token{self.renewals}", CORE)

    def renew(self, refused: AccessToken) -> AccessToken:
        self.renewals += 1
        self.refused.append(refused)
        return self.current()


def interaction_client(
    tokens: TokenSource | None = None, *, org_id: str = ORG_ID, scrt_url: str = SCRT, allow_local: bool = False
) -> InteractionClient:
    return InteractionClient(scrt_url=scrt_url, org_id=org_id, tokens=tokens or Tokens(), allow_local=allow_local)


def infobip_client(base_url: str = INFOBIP, *, api_key: str = "key-acme", allow_local: bool = False) -> InfobipClient:
    return InfobipClient(base_url=base_url, api_key=api_key, allow_local=allow_local)


def setup_client(
    base_url: str = INFOBIP, *, api_key: str = "key-acme", pauses: list[float] | None = None, allow_local: bool = False
) -> SetupClient:
    """A client that notes how long it would have waited."""
    noted = pauses if pauses is not None else []
    return SetupClient(base_url=base_url, api_key=api_key, allow_local=allow_local, pause=noted.append)


def subscribe(client: SetupClient, *, secret: str = "s3cret", url: str = NOTIFY_URL, channel: str = "WHATSAPP") -> None:
    client.ensure_subscription(
        channel=channel,
        subscription_id=f"scc-{ACCOUNT}-{channel.lower()}",
        name="Service Cloud Connector",
        events=["INBOUND_MESSAGE", "DELIVERY"] if channel == "WHATSAPP" else ["CONVERSATION_MESSAGE_RECEIVED"],
        profile=ProfileSettings(f"scc-{ACCOUNT}", f"scc-{ACCOUNT}", url, secret),
    )


def send_to_salesforce(client: InteractionClient | None = None, text: str = "Hello, where is my order 4711?") -> Delivered:
    return (client or interaction_client()).send_text(
        context=CONTEXT, channel_address=CHANNEL, end_user=END_USER, text=text, message_uuid=MESSAGE, at=AT
    )


def acknowledge(client: InteractionClient | None = None, count: int = 2) -> None:
    receipts = [Receipt.DELIVERED, Receipt.READ] * count
    acknowledgements = [Acknowledgement(ENTRY, receipt, AT, TICK) for receipt in receipts[:count]]
    (client or interaction_client()).acknowledge(
        context=CONTEXT, conversation=CONVERSATION, end_user=END_USER, acknowledgements=acknowledgements
    )


def send_to_infobip(client: InfobipClient, text: str = "Hello Ana, see https://shop.example.com/track/4711") -> None:
    client.send_text(sender=SENDER, to=END_USER, text=text, message_uuid=MESSAGE, notify_url=NOTIFY_URL)


TEMPLATE = {
    "templateName": "order_update",
    "templateData": {
        "header": {"type": "DOCUMENT", "mediaUrl": "https://files.example.com/1.pdf", "filename": "invoice-2291.pdf"},
        "body": {"placeholders": ["Ada", "2291"]},
        "buttons": [{"type": "QUICK_REPLY", "parameter": "confirm-2291"}, {"type": "URL", "parameter": "orders/2291"}],
    },
    "language": "en_GB",
}


def establish(**attributes: str) -> Delivered:
    return interaction_client().establish(
        context=CONTEXT, channel_address=CHANNEL, end_user=END_USER, routing_attributes=attributes
    )


def send_template(client: InfobipClient) -> None:
    client.send_template(sender=SENDER, to=END_USER, content=TEMPLATE, message_uuid=MESSAGE, notify_url=NOTIFY_URL)
