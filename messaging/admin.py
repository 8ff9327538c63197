"""What arrived and what became of it, for our operators: ledgers to look at."""

from typing import Any

from django.contrib import admin

from messaging.models import (
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
from tenants.admin import ReadOnly


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
class MessageAdmin(ReadOnly):
    list_display = ["uuid", "org", "direction", "status", "reported", "tries", "error", "created_at"]
    list_select_related = ["org"]
    list_filter = ["direction", "status"]
    search_fields = ["=uuid", "=source_entry"]
    ordering = ["-id"]
    inlines = [AttemptInline]


@admin.register(Conversation)
class ConversationAdmin(ReadOnly):
    list_display = ["id", "org", "channel", "name", "identifier", "window_closes_at"]
    list_select_related = ["org", "channel"]
    search_fields = ["=subject", "=identifier"]
    ordering = ["-id"]


@admin.register(Session)
class SessionAdmin(ReadOnly):
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
    list_select_related = ["org"]
    list_filter = ["state", ("problem", admin.EmptyFieldListFilter)]
    search_fields = ["=salesforce_id"]
    ordering = ["-id"]


@admin.register(Handover)
class HandoverAdmin(ReadOnly):
    list_display = ["id", "org", "state", "problem", "lines", "called_at", "complete_at", "ended_at", "due_at"]
    list_select_related = ["org"]
    list_filter = ["state", ("problem", admin.EmptyFieldListFilter)]
    search_fields = ["=infobip_conversation"]
    exclude = ["attributes"]
    ordering = ["-id"]


@admin.register(Circuit)
class CircuitAdmin(ReadOnly):
    list_display = ["upstream", "endpoint_id", "org", "failures", "opened_at", "probe_at", "last_success_at"]
    list_select_related = ["org"]
    list_filter = ["upstream", ("opened_at", admin.EmptyFieldListFilter)]


@admin.register(Lane)
class LaneAdmin(ReadOnly):
    list_display = ["id", "org", "direction", "due_at", "retry_at", "failures", "holder"]
    list_select_related = ["org"]
    list_filter = ["direction"]
    ordering = ["due_at", "id"]


@admin.register(ReceivedEvent)
class ReceivedEventAdmin(ReadOnly):
    list_display = ["key", "org", "kind", "problem", "received_at"]
    list_select_related = ["org"]
    list_filter = [("problem", admin.EmptyFieldListFilter), "kind"]
    search_fields = ["=key"]
    exclude = ["body"]
    readonly_fields = ["raw"]
    ordering = ["-id"]

    @admin.display(description="as it came")
    def raw(self, event: ReceivedEvent) -> str:
        """Show the raw arrival as text."""
        return bytes(event.body).decode(errors="replace")


@admin.register(EventSubscription)
class EventSubscriptionAdmin(ReadOnly):
    list_display = ["topic", "org", "last_answer_at", "leased_until", "failures", "problem"]
    list_select_related = ["org"]
    exclude = ["replay_id"]
