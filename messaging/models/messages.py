"""What must go out, and how far it got: lanes, messages, tries that failed, circuits."""

from datetime import UTC, datetime
from uuid import uuid4

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Q

from messaging.models.conversations import Conversation
from tenants.models import Channel, Org, Sender

# PostgreSQL stores years that the driver cannot load, and a row that cannot be loaded stops whoever reads many; the parser
# keeps times between 2000 and tomorrow, and this catches what forgets to
BOUNDS_OF_TIME = (datetime(1970, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC))


class Direction(models.TextChoices):
    """What a lane carries; inbound is towards the rep, as Salesforce says it."""

    INBOUND = "inbound"
    OUTBOUND = "outbound"
    RECEIPTS = "receipts"  # not messages: the difference between the state that messages reached and the state reported


class Status(models.TextChoices):
    """How far a message got. It only ever moves forward: receipts come late, twice, and before the answer to the send."""

    PENDING = "pending"
    SENT = "sent"
    DELIVERED = "delivered"
    READ = "read"
    FAILED = "failed"


NOTICE = "failure:"  # begins the entry of a line that tells a rep, in the session, what did not arrive

# FAILED is not the end: a message whose outcome was unknown may be reported delivered after all
MAY_FOLLOW: dict[Status, list[Status]] = {
    Status.SENT: [Status.PENDING],
    Status.DELIVERED: [Status.PENDING, Status.SENT, Status.FAILED],
    Status.READ: [Status.PENDING, Status.SENT, Status.DELIVERED, Status.FAILED],
    Status.FAILED: [Status.PENDING, Status.SENT],
}


class Upstream(models.TextChoices):
    """What we call. Salesforce takes receipts at an endpoint of their own, which may work while the other one does not."""

    SALESFORCE = "salesforce"
    RECEIPTS = "receipts"
    INFOBIP = "infobip"


class Outcome(models.TextChoices):
    """How one try ended."""

    SENT = "sent"
    REFUSED = "refused"  # for good
    RETRY = "retry"  # not taken, to be sent again
    IN_DOUBT = "in doubt"  # perhaps taken: no answer came, or its process died


class Lane(models.Model):
    """One direction of one conversation, a FIFO partition that one process at a time holds; the protocol is in queue.py."""

    org = models.ForeignKey(Org, models.CASCADE, related_name="lanes", db_constraint=False, db_index=False)
    conversation = models.ForeignKey(Conversation, models.CASCADE, related_name="lanes", db_constraint=False)
    direction = models.CharField(max_length=10, choices=Direction.choices)
    endpoint_id = models.BigIntegerField(
        default=0, db_default=0, help_text="of the Infobip account or the channel that it calls"
    )
    position = models.BigIntegerField(default=0, help_text="the last one given to a message")
    version = models.BigIntegerField(default=0, help_text="grows with each arrival; a release compares it")
    hold = models.BigIntegerField(null=True, blank=True, help_text="what stands above it waits for a transcript")
    with_rep_since = models.DateTimeField(
        null=True, blank=True, help_text="when a chatbot handed it over; empty: a chatbot that is first has it"
    )
    due_at = models.DateTimeField(null=True, blank=True, help_text="empty: nothing to do")
    retry_at = models.DateTimeField(null=True, blank=True, help_text="not before; an arrival does not override it")
    failures = models.PositiveIntegerField(default=0, help_text="tries in a row that must be repeated")
    carried_until = models.DateTimeField(null=True, blank=True, help_text="when the youngest that left was written")
    holder = models.IntegerField(
        null=True, blank=True, help_text="number of the worker that carries it now; empty: none does"
    )
    trying = models.BigIntegerField(null=True, blank=True, help_text="id of the message under way")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["org", "conversation", "direction"], name="lane_of_conversation"),
            models.CheckConstraint(condition=Q(trying__isnull=True) | Q(holder__isnull=False), name="lane_trying_is_held"),
        ]
        indexes = [
            models.Index(
                fields=["org", "direction", "endpoint_id", "due_at"],
                condition=Q(due_at__isnull=False, holder__isnull=True),
                name="lane_due",
            ),
            models.Index(fields=["holder"], condition=Q(holder__isnull=False), name="lane_held"),
        ]

    def __str__(self) -> str:
        return f"{self.direction} lane {self.pk}"


class Circuit(models.Model):
    """How an endpoint does for one org: failures in a row, and whether only probes go there; see circuits.py.

    An endpoint is as fine as what is configured: an Infobip account, or a channel's context in Salesforce. One that is set
    up wrongly stops no other.
    """

    org = models.ForeignKey(Org, models.CASCADE, related_name="circuits", db_constraint=False, db_index=False)
    upstream = models.CharField(max_length=10, choices=Upstream.choices)
    endpoint_id = models.BigIntegerField(help_text="of the Infobip account, or of the channel")
    failures = models.PositiveIntegerField(default=0, help_text="in a row, of all lanes")
    failing_lanes = ArrayField(models.BigIntegerField(), default=list, help_text="some of those that failed")
    opened_at = models.DateTimeField(null=True, blank=True, help_text="since when only probes go there")
    probe_at = models.DateTimeField(null=True, blank=True, help_text="when the next one may")
    last_success_at = models.DateTimeField(null=True, blank=True, help_text="accurate to a few seconds")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["org", "upstream", "endpoint_id"], name="circuit_of_endpoint")]
        indexes = [models.Index(fields=["probe_at"], condition=Q(opened_at__isnull=False), name="circuit_open")]

    def __str__(self) -> str:
        return f"{self.upstream} circuit {self.pk}"


class Message(models.Model):
    """One thing to deliver. Long texts are several messages of one source entry."""

    org = models.ForeignKey(Org, models.CASCADE, related_name="messages", db_constraint=False, db_index=False)
    lane = models.ForeignKey(Lane, models.CASCADE, related_name="messages", db_constraint=False, db_index=False)
    conversation = models.ForeignKey(Conversation, models.CASCADE, related_name="messages", db_constraint=False)
    channel = models.ForeignKey(Channel, models.CASCADE, related_name="+", db_constraint=False, db_index=False)
    sender = models.ForeignKey(
        Sender, models.SET_NULL, null=True, blank=True, related_name="+", db_constraint=False, db_index=False
    )
    direction = models.CharField(max_length=10, choices=Direction.choices[:2])
    position = models.BigIntegerField()
    uuid = models.UUIDField(default=uuid4, editable=False, help_text="the id that both platforms see")
    source_entry = models.CharField(max_length=250, help_text="the id given by the platform that it came from")
    part = models.PositiveSmallIntegerField(default=0)
    text = models.TextField()
    written_at = models.DateTimeField()
    created_at = models.DateTimeField()
    late = models.BooleanField(default=False, help_text="younger ones had already gone out when it came")
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.PENDING)
    status_at = models.DateTimeField(help_text="since when it has this status: if it failed, when it was given up")
    tries = models.PositiveIntegerField(default=0)
    failed_at = models.DateTimeField(
        "last try in vain at", null=True, blank=True, help_text="of those that were to be repeated; empty: none was"
    )
    own_failures = models.PositiveIntegerField(
        default=0, db_default=0, help_text="tries in vain while others passed; given up after eight, or 15 minutes of them"
    )
    own_failing_since = models.DateTimeField(null=True, blank=True, help_text="since when others pass and it fails")
    error_code = models.CharField(max_length=100, blank=True)
    error = models.CharField(max_length=300, blank=True)
    reported = models.CharField(
        max_length=10, choices=Status.choices, blank=True, help_text="last state reported to Salesforce"
    )
    ours = models.BooleanField(default=False, db_default=False, help_text="written by us; Salesforce has no entry of it")
    template = models.JSONField(null=True, blank=True, help_text="Infobip's content of a template; then text describes it")
    routing_attributes = models.JSONField(null=True, blank=True, help_text="for the routing of a session that it opens")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["uuid", "org"], name="message_uuid"),
            models.UniqueConstraint(fields=["lane", "position", "org"], name="message_position_in_lane"),
            models.UniqueConstraint(fields=["channel", "source_entry", "part", "org"], name="message_of_entry_once"),
            models.CheckConstraint(condition=Q(written_at__range=BOUNDS_OF_TIME), name="message_written_at_bounded"),
            models.CheckConstraint(condition=Q(status_at__range=BOUNDS_OF_TIME), name="message_status_at_bounded"),
        ]
        indexes = [
            models.Index(fields=["lane", "position"], condition=Q(status="pending"), name="message_waiting"),
            models.Index(
                fields=["conversation"],
                condition=Q(direction="outbound", ours=False, status__in=["delivered", "read", "failed"])
                & ~Q(reported=F("status")),
                name="message_to_report",
            ),
            models.Index(fields=["org", "-created_at"], name="message_newest"),
            models.Index(fields=["-id"], condition=Q(status="failed"), name="message_failed_newest"),
            models.Index(fields=["org", "-id"], condition=Q(status="failed"), name="message_failed_of_org"),
        ]

    def __str__(self) -> str:
        return str(self.uuid)


class Attempt(models.Model):
    """A try that did not simply succeed. One that did has its times on the message."""

    org = models.ForeignKey(Org, models.CASCADE, related_name="attempts", db_constraint=False, db_index=False)
    message = models.ForeignKey(Message, models.CASCADE, related_name="attempts", db_constraint=False)
    started_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)
    outcome = models.CharField(max_length=10, choices=Outcome.choices)
    status = models.PositiveSmallIntegerField("HTTP status", null=True, blank=True)
    code = models.CharField(max_length=100, blank=True)
    detail = models.CharField(max_length=300, blank=True)
    request_id = models.CharField(max_length=100, blank=True)

    def __str__(self) -> str:
        return f"attempt {self.pk}"
