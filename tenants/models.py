"""Who our customers are, and how their Salesforce org and their Infobip accounts are reached."""

from uuid import uuid4

from django.conf import settings
from django.db import models
from django.utils.functional import cached_property

from connector.http import check_address
from connector.infobip.client import HOSTS as INFOBIP_HOSTS
from connector.infobip.client import InfobipClient
from connector.salesforce.auth import ORG_HOSTS, SCRT_HOSTS
from connector.salesforce.interactions import InteractionClient
from tenants.encryption import EncryptedField
from tenants.tokens import Credentials, OrgTokens


class Org(models.Model):
    """A customer: exactly one Salesforce org, production or sandbox."""

    salesforce_id = models.CharField("org id", max_length=18, unique=True, help_text="18 characters, as Salesforce says it")
    name = models.CharField(max_length=200)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.name


class SalesforceConnection(models.Model):
    """The hosts of an org, and the credentials of our connected app in it."""

    org = models.OneToOneField(Org, models.CASCADE, related_name="salesforce")
    base_url = models.CharField("base URL", max_length=300)
    scrt_url = models.CharField("SCRT URL", max_length=300)
    pubsub_endpoint = models.CharField("Pub/Sub endpoint", max_length=200, blank=True)
    consumer_key = models.CharField(max_length=300)
    username = models.CharField(max_length=200)
    private_key = EncryptedField()
    updated_at = models.DateTimeField(auto_now=True)

    def __str__(self) -> str:
        return self.base_url

    def tokens(self) -> OrgTokens:
        """Give the source of the org's access tokens."""
        return OrgTokens(
            Credentials(
                org_id=self.org_id,
                base_url=self.base_url,
                consumer_key=self.consumer_key,
                username=self.username,
                private_key=self.private_key,
            )
        )

    def client(self) -> InteractionClient:
        """Build the client of the org's Interaction Service."""
        return InteractionClient(
            scrt_url=self.scrt_url,
            org_id=self.org.salesforce_id,
            tokens=self.tokens(),
            allow_local=settings.ALLOW_LOCAL_UPSTREAMS,
        )

    def check_addresses(self) -> None:
        """Refuse hosts that are not Salesforce's.

        :raises connector.http.AddressRefused: naming the host
        """
        allow_local = settings.ALLOW_LOCAL_UPSTREAMS
        self.base_url = check_address(self.base_url, service="Salesforce", hosts=ORG_HOSTS, allow_local=allow_local)
        self.scrt_url = check_address(self.scrt_url, service="Salesforce", hosts=SCRT_HOSTS, allow_local=allow_local)


class InfobipAccount(models.Model):
    """An Infobip account of a customer: where we send through, and who may post to us."""

    org = models.ForeignKey(Org, models.CASCADE, related_name="infobip_accounts")
    name = models.CharField(max_length=100)
    uuid = models.UUIDField(unique=True, default=uuid4, editable=False, help_text="its part of our webhook addresses")
    base_url = models.CharField("base URL", max_length=300)
    api_key = EncryptedField("API key")
    webhook_secret = EncryptedField()
    previous_webhook_secret = EncryptedField(blank=True, default="", help_text="still accepted after a change")
    signature_header = models.CharField(max_length=100, blank=True)
    handover_token = EncryptedField(blank=True, default="")
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["org", "name"], name="infobip_account_name")]

    def __str__(self) -> str:
        return self.name

    @cached_property
    def senders_by_number(self) -> dict[str, "Sender"]:
        """Give the account's senders, read once for the life of this object."""
        return {sender.number: sender for sender in self.senders.all()}

    @property
    def webhook_secrets(self) -> list[str]:
        return [self.webhook_secret, self.previous_webhook_secret]

    @property
    def header_of_signature(self) -> str:
        return self.signature_header or settings.INFOBIP_SIGNATURE_HEADER

    @property
    def webhook_url(self) -> str:
        return f"{settings.PUBLIC_URL}/api/infobip/inbound/messages/{self.uuid}"

    @property
    def handover_url(self) -> str:
        return f"{settings.PUBLIC_URL}/api/infobip/inbound/answers/{self.uuid}"

    def client(self) -> InfobipClient:
        """Build the client of this account."""
        return InfobipClient(base_url=self.base_url, api_key=self.api_key, allow_local=settings.ALLOW_LOCAL_UPSTREAMS)

    def check_addresses(self) -> None:
        """Refuse hosts that are not Infobip's; an address without a scheme is completed.

        :raises connector.http.AddressRefused: naming the host
        """
        url = self.base_url if "://" in self.base_url else f"https://{self.base_url}"
        allow_local = settings.ALLOW_LOCAL_UPSTREAMS
        self.base_url = check_address(url, service="Infobip", hosts=INFOBIP_HOSTS, allow_local=allow_local)


class Channel(models.Model):
    """One messaging channel of an org, as Salesforce knows it."""

    org = models.ForeignKey(Org, models.CASCADE, related_name="channels")
    name = models.CharField(max_length=200)
    developer_name = models.CharField(max_length=100)
    authorization_context = models.CharField(
        max_length=100, help_text="developer name of the ConversationChannelDefinition"
    )
    channel_address_identifier = models.CharField(max_length=240)
    custom_event_name = models.CharField(max_length=100)
    custom_event_type_field = models.CharField(max_length=100)
    custom_event_payload_field = models.CharField(max_length=100)
    welcome_message = models.TextField(blank=True)
    closing_message = models.TextField(blank=True)
    show_failures = models.BooleanField(default=True, help_text="tell the rep in the conversation what did not arrive")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["org", "channel_address_identifier"], name="channel_address_in_org")]

    def __str__(self) -> str:
        return self.name


class Sender(models.Model):
    """A WhatsApp number of an account, and the channel it feeds."""

    org = models.ForeignKey(Org, models.CASCADE, related_name="senders")
    account = models.ForeignKey(InfobipAccount, models.CASCADE, related_name="senders", db_constraint=False)
    channel = models.ForeignKey(Channel, models.CASCADE, related_name="senders", db_constraint=False)
    number = models.CharField(max_length=24, help_text="digits with the country code, without +")
    chatbot_first = models.BooleanField(default=False, help_text="a chatbot, not a rep, has a conversation at first")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["org", "account", "number"], name="sender_number_in_account")]
        indexes = [models.Index(fields=["number"], name="sender_number")]

    def __str__(self) -> str:
        return self.number
