"""With whom: end users and their addresses, the sessions of reps, what a chatbot hands over."""

from django.db import models
from django.db.models import Q

from tenants.models import Channel, InfobipAccount, Org, Sender


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
        indexes = [
            models.Index(fields=["org", "-id"], name="conversation_newest"),
            models.Index(fields=["identifier", "org"], name="conversation_identifier"),
            # for names that begin so: operators know nothing else of whom somebody asks them about
            models.Index(fields=["name"], name="conversation_name", opclasses=["text_pattern_ops"]),
        ]

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
        indexes = [
            models.Index(fields=["address"], name="address_anywhere"),
            models.Index(fields=["conversation"], name="address_of_conversation"),
        ]

    def __str__(self) -> str:
        return f"address {self.pk}"


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
    seen = models.BooleanField(default=False, db_default=False, help_text="Salesforce has shown its record to us")
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
            models.Index(fields=["org", "-opened_at"], name="session_of_org_newest"),
            models.Index(fields=["salesforce_id"], name="session_anywhere"),
        ]

    def __str__(self) -> str:
        return self.salesforce_id


class EarlyRep(models.Model):
    """A rep who came to a conversation before we heard of its session; kept until the session is known."""

    org = models.ForeignKey(Org, models.CASCADE, related_name="+", db_constraint=False, db_index=False)
    identifier = models.CharField(max_length=255, help_text="Salesforce's id of the conversation")
    at = models.DateTimeField(db_index=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["org", "identifier"], name="early_rep_of_conversation")]

    def __str__(self) -> str:
        return f"early rep {self.pk}"


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
    page = models.PositiveIntegerField(default=0, db_default=0, help_text="of the transcript, from which reading goes on")
    page_at = models.DateTimeField(null=True, blank=True, help_text="when a page was read last")
    found_at = models.DateTimeField(null=True, blank=True, help_text="when the transcript held the last line known")
    complete_at = models.DateTimeField(null=True, blank=True, help_text="when the transcript was read to its end")
    settled = models.BooleanField(
        default=False, db_default=False, help_text="it is decided which lines the rep reads in the transcript"
    )
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
            models.Index(fields=["infobip_conversation"], name="handover_anywhere"),
            models.Index(fields=["org", "-called_at"], condition=~Q(problem=""), name="handover_with_problem"),
            models.Index(fields=["conversation", "state"], name="handover_of_conversation"),
        ]

    def __str__(self) -> str:
        return f"hand-over {self.pk}"


class LeftMessage(models.Model):
    """What an end user wrote while a chatbot had the conversation: left to the transcript, else relayed."""

    org = models.ForeignKey(Org, models.CASCADE, related_name="+", db_constraint=False, db_index=False)
    conversation = models.ForeignKey(Conversation, models.CASCADE, related_name="+", db_constraint=False, db_index=False)
    source_entry = models.CharField("channel's id", max_length=250)
    infobip_conversation = models.CharField(max_length=100, blank=True, help_text="empty: no event has told it")
    text = models.TextField()
    written_at = models.DateTimeField()
    arrived_at = models.DateTimeField()
    found = models.BooleanField(default=False, db_default=False, help_text="in the transcript")
    settled = models.BooleanField(default=False, db_default=False, help_text="nothing is left to do about it")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["org", "conversation", "source_entry"], name="left_message_once"),
        ]
        indexes = [
            models.Index(fields=["conversation"], condition=Q(settled=False), name="left_message_unsettled"),
            models.Index(fields=["arrived_at"], name="left_message_age"),
        ]

    def __str__(self) -> str:
        return f"left message {self.pk}"


class TranscriptLine(models.Model):
    """A line of a chatbot's conversation as it was read. Its text goes with the hand-over; its ids are kept longer."""

    class State(models.TextChoices):
        READ = "read"  # nothing is decided about it yet
        SHOWN = "shown"  # the rep reads it in the transcript
        LEFT_OUT = "left out"  # the rep reads it elsewhere, or read it in an earlier session

    org = models.ForeignKey(Org, models.CASCADE, related_name="+", db_constraint=False, db_index=False)
    account = models.ForeignKey(InfobipAccount, models.CASCADE, related_name="+", db_constraint=False, db_index=False)
    handover = models.ForeignKey(Handover, models.CASCADE, related_name="transcript", db_constraint=False, db_index=False)
    conversation = models.ForeignKey(Conversation, models.CASCADE, related_name="+", db_constraint=False, db_index=False)
    infobip_conversation = models.CharField(max_length=100)
    infobip_id = models.CharField(max_length=100)
    channel_id = models.CharField("channel's id", max_length=250, blank=True, help_text="empty: no webhook has told it")
    likeness = models.CharField(max_length=64, help_text="the same for messages that say the same")
    author = models.CharField(max_length=10)
    text = models.TextField(blank=True)
    at = models.DateTimeField()
    ordinal = models.PositiveIntegerField(help_text="its place in Infobip's list")
    state = models.CharField(max_length=10, choices=State.choices, default=State.READ)
    read_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["org", "account", "infobip_id"], name="transcript_line_once"),
        ]
        indexes = [
            models.Index(fields=["handover", "at", "ordinal"], name="transcript_line_in_order"),
            models.Index(fields=["org", "account", "infobip_conversation"], name="transcript_line_of"),
            models.Index(
                fields=["conversation", "likeness", "at", "ordinal"],
                condition=Q(channel_id="", state="shown"),
                name="transcript_line_likeness",
            ),
            models.Index(fields=["conversation", "channel_id"], name="transcript_line_channel_id"),
            models.Index(fields=["read_at"], name="transcript_line_age"),
        ]

    def __str__(self) -> str:
        return self.infobip_id
