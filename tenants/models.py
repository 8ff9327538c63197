"""Who our customers are, who may sign in for them, and how their Salesforce org and their Infobip accounts are reached."""

import secrets
from datetime import timedelta
from uuid import UUID, uuid4

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.functional import cached_property

from connector.http import check_address
from connector.infobip.client import HOSTS as INFOBIP_HOSTS
from connector.infobip.client import InfobipClient
from connector.salesforce.auth import ORG_HOSTS, SCRT_HOSTS
from connector.salesforce.interactions import InteractionClient
from connector.salesforce.rest import RestClient
from tenants.encryption import EncryptedField, readable
from tenants.report_tokens import token_for
from tenants.tokens import Credentials, OrgTokens

HANDLE_ALPHABET = "abcdefghjkmnpqrstuvwxyzABCDEFGHJKMNPQRSTUVWXYZ23456789"  # nothing that looks like something else


def new_handle() -> str:
    """Make the part of our addresses that names an org: it selects, and proves nothing."""
    return "".join(secrets.choice(HANDLE_ALPHABET) for _ in range(8))


class Org(models.Model):
    """A customer: exactly one Salesforce org, production or sandbox."""

    handle = models.CharField(max_length=16, unique=True, default=new_handle, editable=False)

    salesforce_id = models.CharField("org id", max_length=18, unique=True, help_text="18 characters, as Salesforce says it")
    name = models.CharField(max_length=200)
    created_at = models.DateTimeField(auto_now_add=True)
    disconnected_at = models.DateTimeField(null=True, blank=True, help_text="since when nothing is read or sent for it")

    def __str__(self) -> str:
        return self.name

    @property
    def setup_url(self) -> str:
        """Give the address of the wizard, for the frame in Salesforce."""
        return f"{settings.PUBLIC_URL}/e/{self.handle}/"

    @property
    def panel_url(self) -> str:
        """Give the address of the reps' templates panel, for the frame beside a conversation."""
        return f"{settings.PUBLIC_URL}/e/{self.handle}/templates"

    def audit(self, who: str, what: str, detail: str = "") -> None:
        """Write down who changed what; never a secret."""
        AuditEntry.objects.create(org=self, who=who[:200], what=what[:200], detail=detail[:1000])


class SalesforceConnection(models.Model):
    """The hosts of an org, and the credentials of our connected app in it."""

    org = models.OneToOneField(Org, models.CASCADE, related_name="salesforce")
    base_url = models.CharField("base URL", max_length=300)
    scrt_url = models.CharField("SCRT URL", max_length=300)
    pubsub_endpoint = models.CharField("Pub/Sub endpoint", max_length=200, blank=True)
    consumer_key = models.CharField(max_length=300)
    username = models.CharField(max_length=200)
    private_key = EncryptedField()
    certificate = models.TextField(blank=True, help_text="ours, in PEM form; empty if the customer made the key")
    next_private_key = EncryptedField(blank=True, default="", help_text="of a change of keys that is under way")
    next_certificate = models.TextField(blank=True)
    history_refused_at = models.DateTimeField(
        null=True, blank=True, help_text="when Salesforce said that this org may not import history"
    )
    session_changes = models.BooleanField(
        default=False, help_text="the org publishes changes of Messaging Session (Change Data Capture)"
    )
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

    def rest(self) -> RestClient:
        """Build the client of the org's REST API, as the integration user."""
        return RestClient(base_url=self.base_url, tokens=self.tokens(), allow_local=settings.ALLOW_LOCAL_UPSTREAMS)

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
    handover_without_token = models.BooleanField(
        default=False,
        help_text="take a chatbot's call without its token, for a conversation that a signed event named before",
    )
    capabilities = models.JSONField(default=dict, blank=True, help_text="what its API key may do, by name")
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
        """Give the secrets that a webhook may be signed with; empty: it is signed with none."""
        return [readable(self, "webhook_secret"), readable(self, "previous_webhook_secret")]

    @property
    def header_of_signature(self) -> str:
        return self.signature_header or settings.INFOBIP_SIGNATURE_HEADER

    @property
    def webhook_url(self) -> str:
        return f"{settings.PUBLIC_URL}/api/infobip/inbound/messages/{self.uuid}"

    def report_url(self, message: UUID) -> str:
        """Give the address for the reports on one message, which proves itself."""
        return f"{settings.PUBLIC_URL}/api/infobip/inbound/reports/{self.uuid}/{token_for(self.uuid, message)}"

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


class WelcomeWhen(models.TextChoices):
    """When the welcome is sent."""

    OPENED = "opened", "As soon as the session opens"
    JOINED = "joined", "When the first rep joins"


class TranscriptForm(models.TextChoices):
    """How a rep sees what was said with the chatbot."""

    LINES = "lines", "One message per line"
    COMPACT = "compact", "One compact transcript"
    NATIVE = "native", "Salesforce's conversation history"


class AtEnd(models.TextChoices):
    """What becomes of the Infobip conversation when its session ends."""

    CLOSE = "close", "Is closed: the chatbot starts anew"
    LEAVE = "leave", "Is left as it is"


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
    language = models.CharField(max_length=10, default="en", help_text="of the texts that follow, such as en or pt-br")
    welcome_message = models.TextField(blank=True, help_text="when a session begins; empty: none")
    welcome_when = models.CharField(max_length=10, choices=WelcomeWhen.choices, default=WelcomeWhen.OPENED)
    closing_message = models.TextField(blank=True, help_text="when a session ends; empty: none")
    out_of_hours_message = models.TextField(blank=True, help_text="instead of the welcome, out of business hours")
    translations = models.JSONField(
        default=dict, blank=True, help_text="by language: the texts welcome, closing and out_of_hours"
    )
    time_zone = models.CharField(max_length=60, default="UTC", help_text="of the business hours")
    business_hours = models.JSONField(
        default=dict,
        blank=True,
        help_text="mon to sun: from and to, such as 09:00 and 17:00; empty: always open",
    )
    forward_automatic = models.BooleanField(
        "forward automatic responses", default=True, help_text="send on what Salesforce itself writes to an end user"
    )
    transcript = models.CharField(max_length=10, choices=TranscriptForm.choices, default=TranscriptForm.LINES)
    chatbot_name = models.CharField(max_length=50, default="Bot", help_text="begins the chatbot's lines in a transcript")
    routing_attributes = models.JSONField(
        default=dict, blank=True, help_text="field of the hand-over call: custom parameter of the messaging channel"
    )
    at_end = models.CharField(max_length=10, choices=AtEnd.choices, default=AtEnd.CLOSE)
    show_failures = models.BooleanField(default=True, help_text="tell the rep in the conversation what did not arrive")
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [models.UniqueConstraint(fields=["org", "channel_address_identifier"], name="channel_address_in_org")]

    def __str__(self) -> str:
        return self.name


class CurrentSenders(models.Manager["Sender"]):
    """The senders in use: those that were taken off are there only for the messages that name them."""

    def get_queryset(self) -> models.QuerySet["Sender"]:
        return super().get_queryset().filter(retired_at=None)


class Sender(models.Model):
    """A WhatsApp number of an account, and the channel it feeds.

    One that is taken off keeps its row, to which any number of messages may point: history goes on saying by which number
    they went, and nothing has to be rewritten. Nothing leaves by it, nothing is taken for it, and a conversation that
    it had last counts as one without. It is taken into use again by the same row.
    """

    org = models.ForeignKey(Org, models.CASCADE, related_name="senders")
    account = models.ForeignKey(InfobipAccount, models.CASCADE, related_name="senders", db_constraint=False)
    channel = models.ForeignKey(Channel, models.CASCADE, related_name="senders", db_constraint=False)
    number = models.CharField(max_length=24, help_text="digits with the country code, without +")
    chatbot_first = models.BooleanField(default=False, help_text="a chatbot, not a rep, has a conversation at first")
    retired_at = models.DateTimeField(null=True, blank=True, help_text="since when it is not used; empty: it is")

    objects = CurrentSenders()
    ever = models.Manager["Sender"]()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["org", "account", "number"], name="sender_number_in_account")]
        indexes = [models.Index(fields=["number"], name="sender_number")]

    def __str__(self) -> str:
        return self.number


class Role(models.TextChoices):
    """What somebody may do here."""

    ADMIN = "admin"  # set up
    REP = "rep"  # answer customers


class Membership(models.Model):
    """A Salesforce user who signed in, with the role that their permissions gave them then."""

    org = models.ForeignKey(Org, models.CASCADE, related_name="members")
    user_id = models.CharField(max_length=18)
    username = models.CharField(max_length=200)
    name = models.CharField(max_length=200)
    role = models.CharField(max_length=10, choices=Role.choices)
    signed_in_at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["org", "user_id"], name="member_of_org")]
        indexes = [
            models.Index(fields=["org", "role", "-signed_in_at"], name="member_newest"),
            models.Index(fields=["username"], name="member_username"),
        ]

    def __str__(self) -> str:
        return self.name


IDLE = timedelta(minutes=60)
LONGEST_SESSION = timedelta(hours=10)


class WebSession(models.Model):
    """Somebody who is signed in to our pages in one browser; only a hash of what proves it is kept."""

    org = models.ForeignKey(Org, models.CASCADE, related_name="web_sessions")
    member = models.ForeignKey(Membership, models.CASCADE, related_name="web_sessions")
    token_hash = models.CharField(max_length=64, unique=True)
    created_at = models.DateTimeField(auto_now_add=True)
    seen_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"session {self.pk}"

    @property
    def over(self) -> bool:
        """Tell whether it was left alone too long, or is as old as a session may be."""
        now = timezone.now()
        return now - self.seen_at > IDLE or now - self.created_at > LONGEST_SESSION


class ApiToken(models.Model):
    """By which a customer's own systems call our API; only a hash of it is kept."""

    org = models.ForeignKey(Org, models.CASCADE, related_name="api_tokens")
    name = models.CharField(max_length=100)
    scopes = ArrayField(models.CharField(max_length=40))
    token_hash = models.CharField(max_length=64, unique=True)
    prefix = models.CharField(max_length=12, help_text="its first characters, by which people know it")
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.CharField(max_length=200)
    last_used_at = models.DateTimeField(null=True, blank=True, help_text="accurate to a few minutes")
    revoked_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"{self.prefix}…"


class ApiCall(models.Model):
    """A call of our API that named an idempotency key: what it began, and its answer once it succeeded."""

    org = models.ForeignKey(Org, models.CASCADE, related_name="api_calls")
    key = models.CharField(max_length=255)
    body_hash = models.CharField(max_length=64)
    message_uuid = models.UUIDField(null=True, blank=True, help_text="of the template that it queued")
    answer = models.JSONField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    leased_until = models.DateTimeField(null=True, blank=True, help_text="a process works on it; empty: none does")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["org", "key"], name="api_call_once")]
        indexes = [models.Index(fields=["org", "created_at"], name="api_call_age")]

    def __str__(self) -> str:
        return f"API call {self.pk}"


class Draft(models.Model):
    """A set-up whose org nobody has proven yet. It blocks nobody, is shown to nobody, and is soon forgotten."""

    token_hash = models.CharField(max_length=64, unique=True)
    base_url = models.CharField(max_length=300)
    private_key = EncryptedField()
    certificate = models.TextField()
    consumer_key = models.CharField(max_length=300, blank=True)
    username = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)

    def __str__(self) -> str:
        return f"draft {self.pk}"


class PendingSignIn(models.Model):
    """A sign-in between the click in the frame and the session: each step proves that it belongs to the one before.

    ``frame_hash``: known to the page that began. ``browser_hash``: a cookie of the popup. ``state_hash``: went to
    Salesforce and back. ``code_hash``: shown by the popup at the end, to the page that opened it or to a person.
    """

    uuid = models.UUIDField(unique=True, default=uuid4, editable=False)
    org = models.ForeignKey(Org, models.CASCADE, null=True, blank=True, related_name="+")
    draft = models.ForeignKey(Draft, models.CASCADE, null=True, blank=True, related_name="+")
    for_install = models.BooleanField(default=False, help_text="asks for a token that may change the org")
    undo = models.BooleanField(default=False, help_text="takes back what was installed")
    frame_hash = models.CharField(max_length=64)
    browser_hash = models.CharField(max_length=64, blank=True)
    state_hash = models.CharField(max_length=64, blank=True, db_index=True)
    nonce = models.CharField(max_length=64, blank=True)
    verifier = EncryptedField(blank=True, default="")
    code_hash = models.CharField(max_length=64, blank=True)
    tries = models.PositiveSmallIntegerField(default=0, help_text="of typing the code")
    user = models.JSONField(default=dict, blank=True, help_text="who Salesforce says it is")
    token = EncryptedField(blank=True, default="", help_text="of an administrator who installs")
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)

    def __str__(self) -> str:
        return str(self.uuid)


class AuditEntry(models.Model):
    """Who changed what, when."""

    org = models.ForeignKey(Org, models.CASCADE, related_name="audit_entries")
    at = models.DateTimeField(auto_now_add=True)
    who = models.CharField(max_length=200)
    what = models.CharField(max_length=200)
    detail = models.CharField(max_length=1000, blank=True)

    class Meta:
        indexes = [models.Index(fields=["org", "-at"], name="audit_newest")]
        verbose_name_plural = "audit entries"

    def __str__(self) -> str:
        return self.what


class Installation(models.Model):
    """What we do in an org for its administrator, step by step, with a token of theirs that is soon revoked."""

    class State(models.TextChoices):
        RUNNING = "running"
        SUCCEEDED = "succeeded"
        FAILED = "failed"

    org = models.ForeignKey(Org, models.CASCADE, related_name="installations")
    who = models.CharField(max_length=200)
    undo = models.BooleanField(default=False)
    state = models.CharField(max_length=10, choices=State.choices, default=State.RUNNING)
    steps = models.JSONField(default=list, help_text="title, state and problems of each step")
    deployment = models.CharField(max_length=18, blank=True, help_text="the one that Salesforce works on now")
    token = EncryptedField(blank=True, default="")
    created_at = models.DateTimeField(auto_now_add=True)
    lease_id = models.UUIDField(null=True, blank=True)
    leased_until = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"installation {self.pk}"


class Checkup(models.Model):
    """What the doctor found last in an org."""

    org = models.OneToOneField(Org, models.CASCADE, related_name="checkup")
    at = models.DateTimeField()
    findings = models.JSONField(default=list)

    def __str__(self) -> str:
        return f"checkup {self.pk}"
