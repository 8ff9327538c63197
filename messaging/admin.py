"""What arrived and what became of it, for our operators: ledgers to look at."""

from typing import Any

from django.contrib import admin

from messaging.models import (
    Address,
    Attempt,
    Circuit,
    Conversation,
    EventSubscription,
    Handover,
    Lane,
    Message,
    ReceivedEvent,
    Session,
)
from messaging.query import query
from tenants.ledgers import MOST_LISTED, Indexed, Ledger, ReadOnly, indexed_filter


class AttemptInline(admin.TabularInline):  # type: ignore[type-arg]  # Django's own is no generic
    model = Attempt
    extra = 0
    can_delete = False
    readonly_fields = ["started_at", "ended_at", "outcome", "status", "code", "detail", "request_id"]
    exclude = ["org"]
    ordering = ["id"]

    def has_add_permission(self, *_: Any) -> bool:
        return False


@admin.register(Message)
class MessageAdmin(Ledger):
    list_display = ["uuid", "org", "direction", "status", "reported", "tries", "error", "created_at"]
    list_filter = [
        indexed_filter(
            waiting=Indexed("status = 'pending'", ["lane", "position"]), failed=Indexed("status = 'failed'", ["-id"])
        )
    ]
    search_fields = ["uuid"]
    search_help_text = "A message's id here, or its id at the platform that it came from."
    newest_of_org = "-created_at"
    inlines = [AttemptInline]

    def find(self, term: str) -> set[int]:
        """Look for a platform's id on each channel, as the index is by channel: it costs by channels, not by messages."""
        found = query(
            """SELECT message.id FROM tenants_channel channel CROSS JOIN LATERAL (
                   SELECT id FROM messaging_message
                   WHERE channel_id = channel.id AND source_entry = %s LIMIT %s) AS message""",
            [term, MOST_LISTED],
        )
        return super().find(term) | {message_id for (message_id,) in found}


@admin.register(Conversation)
class ConversationAdmin(Ledger):
    list_display = ["id", "org", "channel", "name", "identifier", "window_closes_at"]
    search_fields = ["identifier"]
    search_help_text = "Salesforce's id of the conversation, or any address of the end user, as digits."
    newest_of_org = "-id"

    def find(self, term: str) -> set[int]:
        of_address = Address.objects.filter(address=term.removeprefix("+")).values_list("conversation", flat=True)
        return super().find(term) | set(of_address[:MOST_LISTED])


@admin.register(Session)
class SessionAdmin(Ledger):
    list_display = [
        "salesforce_id",
        "org",
        "state",
        "problem",
        "opened_at",
        "joined_at",
        "greeted_at",
        "ended_at",
        "due_at",
    ]
    list_filter = [
        indexed_filter(
            due=Indexed("due_at IS NOT NULL", ["org", "due_at"]),
            with_a_problem=Indexed("problem <> ''", ["org", "-opened_at"]),
        )
    ]
    search_fields = ["salesforce_id"]
    newest_of_org = "-opened_at"


@admin.register(Handover)
class HandoverAdmin(Ledger):
    list_display = ["id", "org", "state", "problem", "lines", "called_at", "complete_at", "ended_at", "due_at"]
    list_filter = [
        indexed_filter(
            due=Indexed("due_at IS NOT NULL", ["org", "due_at"]),
            with_a_problem=Indexed("problem <> ''", ["org", "-called_at"]),
        )
    ]
    search_fields = ["infobip_conversation"]
    newest_of_org = "-called_at"
    exclude = ["attributes"]


@admin.register(Circuit)
class CircuitAdmin(ReadOnly):
    list_display = ["upstream", "endpoint_id", "org", "failures", "opened_at", "probe_at", "last_success_at"]
    list_filter = [("opened_at", admin.EmptyFieldListFilter)]


@admin.register(Lane)
class LaneAdmin(Ledger):
    list_display = ["id", "org", "direction", "due_at", "retry_at", "failures", "holder"]
    list_filter = [
        indexed_filter(
            due=Indexed("due_at IS NOT NULL AND holder IS NULL", ["org", "direction", "endpoint_id", "due_at"]),
            held=Indexed("holder IS NOT NULL", ["holder"]),
        )
    ]
    search_fields = ["id", "conversation"]
    newest_of_org = "conversation"
    shown_of_org = "&state=due"


@admin.register(ReceivedEvent)
class ReceivedEventAdmin(Ledger):
    list_display = ["key", "org", "kind", "problem", "received_at"]
    list_filter = [indexed_filter(with_a_problem=Indexed("problem <> ''", ["-id"], of_org=["-received_at"]))]
    shown_of_org = "&state=with+a+problem"
    search_fields = ["key"]
    heavy = ["body"]
    exclude = ["body"]
    readonly_fields = ["raw"]

    def find(self, term: str) -> set[int]:
        """Look for a key in each account and stream, as the indexes are by these: it costs by accounts, not by arrivals."""
        found = query(
            """SELECT event.id FROM tenants_infobipaccount account CROSS JOIN LATERAL (
                   SELECT id FROM messaging_receivedevent
                   WHERE org_id = account.org_id AND account_id = account.id AND key = %s LIMIT 1) AS event
               UNION ALL
               SELECT event.id FROM messaging_eventsubscription stream CROSS JOIN LATERAL (
                   SELECT id FROM messaging_receivedevent
                   WHERE org_id = stream.org_id AND subscription_id = stream.id AND key = %s LIMIT 1) AS event""",
            [term, term],
        )
        return {event_id for (event_id,) in found}

    @admin.display(description="as it came")
    def raw(self, event: ReceivedEvent) -> str:
        """Show the raw arrival as text."""
        return bytes(event.body).decode(errors="replace")


@admin.register(EventSubscription)
class EventSubscriptionAdmin(ReadOnly):
    list_display = ["topic", "org", "last_answer_at", "leased_until", "failures", "problem"]
    exclude = ["replay_id"]
