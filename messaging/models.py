"""What arrived, what must go out, and how far it got. The rows are the queue: nothing else remembers work.

Foreign keys hold the org beside the id (see tenants/tenancy.py), so Django's own constraints are off; so are its indexes
where a constraint's index serves, or nothing searches that way.
"""

from datetime import UTC, datetime
from uuid import uuid4

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Q

from tenants.models import Channel, InfobipAccount, Org, Sender

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


class EventSubscription(models.Model):
    """One org's stream of platform events: how far it was read, and which process reads it."""

    org = models.ForeignKey(Org, models.CASCADE, related_name="event_subscriptions", db_constraint=False, db_index=False)
    topic = models.CharField(max_length=200)
    replay_id = models.BinaryField(default=bytes, help_text="opaque; empty before anything was read")
    since = models.DateTimeField(help_text="events created before this are not for us")
    lease_id = models.UUIDField(null=True, blank=True)
    leased_until = models.DateTimeField(null=True, blank=True)
    not_before = models.DateTimeField(null=True, blank=True, help_text="when to open the stream again after trouble")
    failures = models.PositiveIntegerField(default=0)
    problem = models.CharField(max_length=300, blank=True)
    last_answer_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["org", "topic"], name="subscription_topic_in_org")]

    def __str__(self) -> str:
        return self.topic


class ReceivedEvent(models.Model):
    """One raw arrival, kept as it came, and known again when it is repeated."""

    org = models.ForeignKey(Org, models.CASCADE, related_name="received_events", db_constraint=False, db_index=False)
    account = models.ForeignKey(
        InfobipAccount, models.CASCADE, null=True, blank=True, related_name="+", db_constraint=False, db_index=False
    )
    subscription = models.ForeignKey(
        EventSubscription, models.CASCADE, null=True, blank=True, related_name="+", db_constraint=False, db_index=False
    )
    key = models.CharField(max_length=300)
    body = models.BinaryField()
    received_at = models.DateTimeField(db_index=True)
    kind = models.CharField(max_length=60, blank=True)
    problem = models.CharField(max_length=300, blank=True, help_text="why it had no effect; empty if it had")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["org", "account", "key"], name="arrival_of_account_once"),
            models.UniqueConstraint(fields=["org", "subscription", "key"], name="arrival_of_subscription_once"),
            models.CheckConstraint(
                condition=Q(account__isnull=False) ^ Q(subscription__isnull=False), name="arrival_has_one_source"
            ),
        ]
        indexes = [models.Index(fields=["org", "-received_at"], condition=~Q(problem=""), name="arrival_with_problem")]

    def __str__(self) -> str:
        return self.key


class Conversation(models.Model):
    """One end user on one channel."""

    org = models.ForeignKey(Org, models.CASCADE, related_name="conversations", db_constraint=False, db_index=False)
    channel = models.ForeignKey(Channel, models.CASCADE, related_name="conversations", db_constraint=False, db_index=False)
    subject = models.CharField("end user", max_length=150, help_text="the first address seen; Salesforce's `from`")
    name = models.CharField(max_length=200, blank=True)
    identifier = models.CharField(max_length=255, blank=True, help_text="Salesforce's id of it")
    session = models.CharField(max_length=18, blank=True, help_text="the messaging session seen last")
    session_open = models.BooleanField(default=False)
    language = models.CharField(
        max_length=10, blank=True, db_default="", help_text="of our texts; empty: as the number suggests"
    )
    last_sender = models.ForeignKey(
        Sender, models.SET_NULL, null=True, blank=True, related_name="+", db_constraint=False, db_index=False
    )
    window_closes_at = models.DateTimeField(null=True, blank=True, help_text="24 hours after the end user last wrote")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["org", "channel", "subject"], name="conversation_of_end_user")]

    def __str__(self) -> str:
        return f"conversation {self.pk}"


class Address(models.Model):
    """An address of an end user: a phone number or a business-scoped user id, the subject among them."""

    org = models.ForeignKey(Org, models.CASCADE, related_name="addresses", db_constraint=False, db_index=False)
    channel = models.ForeignKey(Channel, models.CASCADE, related_name="+", db_constraint=False, db_index=False)
    conversation = models.ForeignKey(
        Conversation, models.CASCADE, related_name="addresses", db_constraint=False, db_index=False
    )
    address = models.CharField(max_length=150)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["org", "channel", "address"], name="address_on_channel")]

    def __str__(self) -> str:
        return f"address {self.pk}"


class Lane(models.Model):
    """One direction of one conversation, a FIFO partition that one process at a time holds; the protocol is in queue.py."""

    org = models.ForeignKey(Org, models.CASCADE, related_name="lanes", db_constraint=False, db_index=False)
    conversation = models.ForeignKey(Conversation, models.CASCADE, related_name="lanes", db_constraint=False)
    direction = models.CharField(max_length=10, choices=Direction.choices)
    endpoint_id = models.BigIntegerField(default=0, db_default=0, help_text="of what it calls: see circuits.py")
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
    holder = models.IntegerField(null=True, blank=True, help_text="number of the process that carries it; see holder.py")
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
    status_at = models.DateTimeField()
    tries = models.PositiveIntegerField(default=0)
    failed_at = models.DateTimeField(null=True, blank=True, help_text="when it was last tried in vain")
    own_failures = models.PositiveIntegerField(
        default=0, db_default=0, help_text="tries in vain while other messages passed; see retry.py"
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
        ]

    def __str__(self) -> str:
        return str(self.uuid)


class Session(models.Model):
    """A MessagingSession of Salesforce: the stretch of a conversation that reps work on."""

    class State(models.TextChoices):
        OPEN = "open"
        ENDED = "ended"

    org = models.ForeignKey(Org, models.CASCADE, related_name="sessions", db_constraint=False, db_index=False)
    conversation = models.ForeignKey(
        Conversation, models.CASCADE, related_name="sessions", db_constraint=False, db_index=False
    )
    salesforce_id = models.CharField(max_length=18)
    state = models.CharField(max_length=10, choices=State.choices, default=State.OPEN)
    opened_at = models.DateTimeField()
    joined_at = models.DateTimeField(null=True, blank=True, help_text="when the first rep came")
    greeted_at = models.DateTimeField(null=True, blank=True, help_text="when the welcome was queued, or found not wanted")
    ended_at = models.DateTimeField(null=True, blank=True)
    quick_checks = models.PositiveSmallIntegerField(default=0, help_text="still to come, after a rep went")
    due_at = models.DateTimeField(null=True, blank=True, help_text="when to look at it again; empty: it is over")
    tries = models.PositiveIntegerField(default=0, db_default=0, help_text="failed in a row")
    problem = models.CharField(max_length=300, blank=True, db_default="")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["org", "salesforce_id"], name="session_in_org")]
        indexes = [
            models.Index(fields=["org", "due_at"], condition=Q(due_at__isnull=False), name="session_due"),
            models.Index(fields=["conversation", "-opened_at"], name="session_newest"),
            models.Index(fields=["org", "-opened_at"], condition=~Q(problem=""), name="session_with_problem"),
        ]

    def __str__(self) -> str:
        return self.salesforce_id


class ChatbotMessage(models.Model):
    """A message of a conversation at Infobip, by both its ids: its own there, and the channel's, which webhooks name."""

    org = models.ForeignKey(Org, models.CASCADE, related_name="+", db_constraint=False, db_index=False)
    account = models.ForeignKey(InfobipAccount, models.CASCADE, related_name="+", db_constraint=False, db_index=False)
    infobip_conversation = models.CharField(max_length=100)
    infobip_id = models.CharField(max_length=100)
    channel_id = models.CharField("channel's id", max_length=250)
    end_user = models.CharField(max_length=150)
    sender = models.CharField("our number", max_length=24)
    at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["org", "account", "infobip_id"], name="chatbot_message_once")]
        indexes = [
            models.Index(fields=["infobip_conversation", "account", "-at"], name="chatbot_message_newest"),
            models.Index(fields=["at"], name="chatbot_message_age"),
        ]

    def __str__(self) -> str:
        return self.infobip_id


class Handover(models.Model):
    """A conversation that a chatbot hands over to a rep, from the call to the end of the session; see handover.py."""

    class State(models.TextChoices):
        CALLED = "called"  # the call was answered; whether the conversation is what it says is not known yet
        READING = "reading"  # the conversation is ours, live messages wait, the transcript is being read
        RELAYED = "relayed"  # the transcript is in the lane, or in Salesforce
        REFUSED = "refused"
        ENDING = "ending"  # the session ended; the conversation goes back to the chatbot
        ENDED = "ended"

    org = models.ForeignKey(Org, models.CASCADE, related_name="handovers", db_constraint=False, db_index=False)
    account = models.ForeignKey(InfobipAccount, models.CASCADE, related_name="+", db_constraint=False, db_index=False)
    conversation = models.ForeignKey(
        Conversation, models.CASCADE, null=True, blank=True, related_name="handovers", db_constraint=False, db_index=False
    )
    infobip_conversation = models.CharField(max_length=100)
    end_user = models.CharField(max_length=150)
    attributes = models.JSONField(default=dict, blank=True, help_text="further fields of the call")
    language = models.CharField(max_length=10, blank=True)
    state = models.CharField(max_length=10, choices=State.choices, default=State.CALLED)
    called_at = models.DateTimeField()
    held_at = models.DateTimeField(null=True, blank=True, help_text="since when live messages wait for the transcript")
    found_at = models.DateTimeField(null=True, blank=True, help_text="when the transcript held the last line known")
    complete_at = models.DateTimeField(null=True, blank=True, help_text="when the transcript was read to its end")
    ended_at = models.DateTimeField(null=True, blank=True)
    lines = models.PositiveIntegerField(default=0, help_text="of the transcript")
    batches = models.PositiveIntegerField(default=0, help_text="that Salesforce's history took")
    tries = models.PositiveIntegerField(default=0, help_text="failed in a row")
    problem = models.CharField(max_length=300, blank=True)
    due_at = models.DateTimeField(null=True, blank=True, help_text="empty: nothing to do")
    lease_id = models.UUIDField(null=True, blank=True)
    leased_until = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["org", "account", "infobip_conversation"],
                condition=~Q(state__in=["refused", "ending", "ended"]),
                name="handover_under_way_once",
            )
        ]
        indexes = [
            models.Index(fields=["org", "due_at"], condition=Q(due_at__isnull=False), name="handover_due"),
            models.Index(fields=["org", "-called_at"], name="handover_newest"),
            models.Index(fields=["conversation", "state"], name="handover_of_conversation"),
        ]

    def __str__(self) -> str:
        return f"hand-over {self.pk}"


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


class ClockTimestamp(models.Func):
    """The time of this very row, where ``now()`` is that of its transaction."""

    function = "clock_timestamp"
    output_field = models.DateTimeField()


class Inbox(models.Model):
    """What the door took and nobody has ingested yet: appended by inbox.py, deleted by ingest.py, never changed.

    It names org and account without foreign keys: checking them would cost as much as the row, and what is removed
    meanwhile is found out by ingesting.
    """

    org_id = models.BigIntegerField()
    account_id = models.BigIntegerField()
    body = models.BinaryField(help_text="as it came")
    received_at = models.DateTimeField(db_default=ClockTimestamp())

    class Meta:
        verbose_name_plural = "inbox"

    def __str__(self) -> str:
        return f"arrival {self.pk}"
