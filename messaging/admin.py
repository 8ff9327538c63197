"""What arrived and what became of it, for our operators: ledgers to look at."""

from collections.abc import Collection
from typing import Any
from urllib.parse import urlencode

from django.contrib import admin
from django.db.models import Case, OuterRef, Q, QuerySet, Subquery, When
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join

from connector.phone import digits_of
from messaging import finding, waiting
from messaging.models import (
    Attempt,
    Circuit,
    Conversation,
    Direction,
    EventSubscription,
    Handover,
    Lane,
    Message,
    ReceivedEvent,
    Session,
    Status,
    Upstream,
)
from tenants.ledgers import MOST_LISTED, Indexed, Ledger, OfOne, ReadOnly, heading, indexed_filter
from tenants.models import Channel, InfobipAccount


class OfConversation(OfOne):
    title = "conversation"
    parameter_name = "conversation"

    def ids(self, pk: int) -> Collection[int]:
        return self.model_admin.ids_of_conversation(pk)  # type: ignore[no-any-return]


class BesideConversations(Ledger):
    """Rows without a person's number or name, which are looked up among the conversations."""

    def look_elsewhere(self, term: str) -> str:
        if not digits_of(term) and any(each.isdigit() for each in term):
            return ""  # an id
        where = f"{_page(Conversation, 'changelist')}?{urlencode({'q': term})}"
        words = "A phone number or a name is looked up among the conversations, which lead to all that is kept of them."
        return format_html('{} <a href="{}">Search the conversations for “{}”</a>', words, where, term)


class OfEndUser(BesideConversations):
    """Rows that belong to a conversation, and say whose it is."""

    named = ["conversation"]

    @admin.display(description="end user")
    def end_user(self, row: Any) -> str:
        """Link to the conversation."""
        return link_to(row.conversation, f"{row.conversation.name} {row.conversation.subject}".strip())

    def ids_of_conversation(self, pk: int) -> Collection[int]:
        """Give the rows of a conversation, of which there are few."""
        rows = self.model._base_manager.filter(conversation=pk)
        return list(rows.values_list("pk", flat=True)[:MOST_LISTED])


def link_to(row: Any, words: str) -> str:
    """Link to what the admin shows of a row."""
    return format_html('<a href="{}">{}</a>', _page(type(row), "change", row.pk), words)


def _page(model: Any, page: str, *of: Any) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}", args=of)


def with_endpoint(rows: QuerySet[Any], at_infobip: Q) -> QuerySet[Any]:
    """Add the names of what rows call, each read by its key."""
    named = [
        Subquery(each._base_manager.filter(pk=OuterRef("endpoint_id")).values("name")) for each in (InfobipAccount, Channel)
    ]
    found: QuerySet[Any] = rows.annotate(endpoint_name=Case(When(at_infobip, then=named[0]), default=named[1]))
    return found


def endpoint_link(row: Any, *, at_infobip: bool) -> str:
    """Say what a row calls, and lead there."""
    kind, model = ("Infobip account", InfobipAccount) if at_infobip else ("channel", Channel)
    if row.endpoint_name is None:
        return f"{kind}: not known"
    return format_html('{} <a href="{}">{}</a>', kind, _page(model, "change", row.endpoint_id), row.endpoint_name)


class AttemptInline(admin.TabularInline):  # type: ignore[type-arg]  # Django's own is no generic
    model = Attempt
    extra = 0
    can_delete = False
    readonly_fields = ["started_at", "ended_at", "outcome", "status", "code", "detail", "request_id"]
    exclude = ["org"]
    ordering = ["id"]
    template = "admin/messaging/attempts.html"

    def has_add_permission(self, *_: Any) -> bool:
        return False


@admin.register(Message)
class MessageAdmin(OfEndUser):
    list_display = ["uuid", "org", "end_user", "direction", "status", "reported", "tries", "error", "created_at"]
    list_filter = [
        indexed_filter(
            waiting=Indexed("status = 'pending'", ["lane", "position"]), failed=Indexed("status = 'failed'", ["-id"])
        ),
        OfConversation,
    ]
    search_fields = ["uuid"]
    search_help_text = "A message's id here (a uuid), or its id at the platform that it came from (such as wamid…)."
    readonly_fields = ["waits_because"]
    newest_of_org = "-created_at"
    inlines = [AttemptInline]

    def get_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        """Show why it waits only where it does, beside its status."""
        fields = [each for each in super().get_fields(request, obj) if each != "waits_because"]
        if obj is not None and obj.status == Status.PENDING:
            fields.insert(fields.index("status") + 1, "waits_because")
        return fields

    @admin.display(description="waits because")
    def waits_because(self, message: Message) -> str:
        """Name what holds it up, and lead there."""
        reason = waiting.why(message)
        if reason is None or reason.row is None:
            return reason.words if reason else ""
        return format_html("{}: {}", reason.words, link_to(reason.row, reason.name))

    def find(self, term: str) -> set[int]:
        return super().find(term) | finding.find_messages(term)

    def ids_of_conversation(self, pk: int) -> Collection[int]:
        return finding.messages_of(pk)


@admin.register(Conversation)
class ConversationAdmin(Ledger):
    list_display = ["id", "org", "channel", "name", "identifier", "window_closes_at"]
    search_fields = ["identifier"]
    search_help_text = (
        "A phone number with its country code, how the end user's name begins, or Salesforce's id of the conversation."
    )
    readonly_fields = ["kept"]
    newest_of_org = "-id"

    def find(self, term: str) -> set[int]:
        return super().find(term) | finding.find_conversations(term)

    @admin.display(description="what is kept of it")
    def kept(self, conversation: Conversation) -> str:
        """Link to the conversation's rows in each ledger."""
        ledgers = (model for model, each in self.admin_site._registry.items() if OfConversation in each.list_filter)
        links = (
            (_page(model, "changelist"), OfConversation.parameter_name, conversation.pk, heading(model))
            for model in ledgers
        )
        return format_html_join(" · ", '<a href="{}?{}={}">{}</a>', links)


@admin.register(Session)
class SessionAdmin(OfEndUser):
    list_display = [
        "salesforce_id",
        "org",
        "end_user",
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
        ),
        OfConversation,
    ]
    search_fields = ["salesforce_id"]
    search_help_text = "Salesforce's id of the session, of 15 or of 18 characters."
    newest_of_org = "-opened_at"

    def find(self, term: str) -> set[int]:
        return finding.find_sessions(term)


@admin.register(Handover)
class HandoverAdmin(OfEndUser):
    named = []
    list_display = ["id", "org", "state", "problem", "lines", "called_at", "complete_at", "ended_at", "due_at"]
    list_filter = [
        indexed_filter(
            due=Indexed("due_at IS NOT NULL", ["org", "due_at"]),
            with_a_problem=Indexed("problem <> ''", ["org", "-called_at"]),
        ),
        OfConversation,
    ]
    search_fields = ["infobip_conversation"]
    search_help_text = "Infobip's id of the conversation."
    newest_of_org = "-called_at"
    exclude = ["attributes"]


@admin.register(Circuit)
class CircuitAdmin(ReadOnly):
    list_display = ["upstream", "endpoint", "org", "failures", "opened_at", "probe_at", "last_success_at"]
    list_filter = [("opened_at", admin.EmptyFieldListFilter)]
    exclude = ["endpoint_id"]
    readonly_fields = ["endpoint"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return with_endpoint(super().get_queryset(request), Q(upstream=Upstream.INFOBIP))

    @admin.display(description="of")
    def endpoint(self, circuit: Circuit) -> str:
        """Say which account or channel it is about."""
        return endpoint_link(circuit, at_infobip=circuit.upstream == Upstream.INFOBIP)


@admin.register(Lane)
class LaneAdmin(OfEndUser):
    list_display = ["id", "org", "end_user", "direction", "due_at", "retry_at", "failures", "holder"]
    list_filter = [
        indexed_filter(
            due=Indexed("due_at IS NOT NULL AND holder IS NULL", ["org", "direction", "endpoint_id", "due_at"]),
            held=Indexed("holder IS NOT NULL", ["holder"]),
        ),
        OfConversation,
    ]
    search_fields = ["id", "conversation"]
    search_help_text = "The number of a lane, or of a conversation, in this admin."
    newest_of_org = "conversation"
    shown_of_org = "&state=due"
    exclude = ["endpoint_id"]
    readonly_fields = ["endpoint"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return with_endpoint(super().get_queryset(request), Q(direction=Direction.OUTBOUND))

    @admin.display(description="calls")
    def endpoint(self, lane: Lane) -> str:
        """Say which account or channel its messages go to."""
        return endpoint_link(lane, at_infobip=lane.direction == Direction.OUTBOUND)


@admin.register(ReceivedEvent)
class ReceivedEventAdmin(BesideConversations):
    list_display = ["key", "org", "kind", "problem", "received_at"]
    list_filter = [
        indexed_filter(with_a_problem=Indexed("problem <> ''", ["-id"], of_org=["-received_at"])),
        OfConversation,
    ]
    shown_of_org = "&state=with+a+problem"
    search_fields = ["key"]
    search_help_text = (
        "The whole key; or a message's id here (a uuid), at WhatsApp (such as wamid…) or in Salesforce's event."
    )
    heavy = ["body"]
    exclude = ["body"]
    readonly_fields = ["raw"]

    def find(self, term: str) -> set[int]:
        return finding.find_arrivals(term)

    def ids_of_conversation(self, pk: int) -> Collection[int]:
        return finding.arrivals_of(pk)

    @admin.display(description="as it came")
    def raw(self, event: ReceivedEvent) -> str:
        """Show the raw arrival as text."""
        return bytes(event.body).decode(errors="replace")


@admin.register(EventSubscription)
class EventSubscriptionAdmin(ReadOnly):
    list_display = ["topic", "org", "last_answer_at", "leased_until", "failures", "problem"]
    exclude = ["replay_id"]
