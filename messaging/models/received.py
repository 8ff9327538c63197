"""What arrived: streams and how far they are read, the door's inbox, the ledger."""

from django.db import models
from django.db.models import Q

from tenants.models import InfobipAccount, Org


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
        indexes = [
            models.Index(fields=["org", "-received_at"], condition=~Q(problem=""), name="arrival_with_problem"),
            models.Index(fields=["-id"], condition=~Q(problem=""), name="arrival_problem_newest"),
            models.Index(fields=["org", "-received_at"], condition=Q(kind="unreadable"), name="arrival_unreadable"),
        ]

    def __str__(self) -> str:
        return self.key


class ClockTimestamp(models.Func):
    """The time of this very row, where ``now()`` is that of its transaction."""

    function = "clock_timestamp"
    output_field = models.DateTimeField()


class Inbox(models.Model):
    """What the door took and nobody has ingested yet: appended by inbox.py, deleted by intake.py.

    It names org and account without foreign keys: checking them would cost as much as the row, and what is removed
    meanwhile is found out by ingesting.
    """

    org_id = models.BigIntegerField()
    account_id = models.BigIntegerField()
    body = models.BinaryField(help_text="as it came")
    received_at = models.DateTimeField(db_default=ClockTimestamp())
    taken = models.PositiveIntegerField(
        default=0, db_default=0, help_text="results that are ingested; the rest waits its turn"
    )

    class Meta:
        verbose_name_plural = "inbox"

    def __str__(self) -> str:
        return f"arrival {self.pk}"
