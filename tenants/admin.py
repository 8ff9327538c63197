"""Customers, for our operators: to look at, without secrets."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join

from tenants import doctor
from tenants.cache import old_secret_used_at, refusals_today
from tenants.encryption import readable
from tenants.models import AuditEntry, Channel, Checkup, InfobipAccount, Membership, Org, SalesforceConnection, Sender


class ReadOnly(admin.ModelAdmin):  # type: ignore[type-arg]  # Django's own is no generic when it runs
    """Shows rows and changes none: set-up has its own doors, which check what they are given."""

    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Org)
class OrgAdmin(ReadOnly):
    list_display = ["name", "salesforce_id", "created_at", "disconnected_at"]
    readonly_fields = ["setup_url"]
    search_fields = ["name", "salesforce_id"]


@admin.register(SalesforceConnection)
class SalesforceConnectionAdmin(ReadOnly):
    list_display = ["org", "base_url", "username", "updated_at"]
    list_select_related = ["org"]
    exclude = ["private_key", "next_private_key"]


@admin.register(InfobipAccount)
class InfobipAccountAdmin(ReadOnly):
    list_display = ["name", "org", "base_url", "updated_at", "refused_today"]
    list_select_related = ["org"]
    exclude = ["api_key", "webhook_secret", "previous_webhook_secret", "handover_token"]
    readonly_fields = ["webhook_url", "handover_url", "refused_today", "secret_in_use"]

    @admin.display(description="webhooks refused today")
    def refused_today(self, account: InfobipAccount) -> str:
        """Name what the door turned away, by reason."""
        counts = refusals_today(account.pk)
        return ", ".join(f"{reason}: {count}" for reason, count in sorted(counts.items())) or "none"

    @admin.display(description="webhook secret in use")
    def secret_in_use(self, account: InfobipAccount) -> str:
        """Say whether Infobip has been changed over to the new secret."""
        if not readable(account, "previous_webhook_secret"):
            return "the only one"
        last = old_secret_used_at(account.pk)
        return f"the old one, last at {last}" if last else "the new one; the old one was not used within the last days"


@admin.register(Channel)
class ChannelAdmin(ReadOnly):
    list_display = ["name", "org", "developer_name", "channel_address_identifier"]
    list_select_related = ["org"]


@admin.register(Sender)
class SenderAdmin(ReadOnly):
    list_display = ["number", "org", "account", "channel", "chatbot_first"]
    list_select_related = ["org", "account", "channel"]
    search_fields = ["=number"]


@admin.register(Membership)
class MembershipAdmin(ReadOnly):
    list_display = ["name", "org", "username", "role", "signed_in_at"]
    list_select_related = ["org"]
    search_fields = ["=username"]


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnly):
    list_display = ["at", "org", "who", "what", "detail"]
    list_select_related = ["org"]
    list_filter = ["org"]


@admin.register(Checkup)
class CheckupAdmin(ReadOnly):
    """What the doctor found last, and a button that lets it look again."""

    list_display = ["org", "at", "bad", "warnings"]
    list_select_related = ["org"]
    fields = ["org", "at", "report"]
    readonly_fields = ["report"]
    actions = ["examine_again"]

    @admin.display(description="bad")
    def bad(self, checkup: Checkup) -> int:
        return sum(each["state"] == "bad" for each in checkup.findings)

    @admin.display(description="warnings")
    def warnings(self, checkup: Checkup) -> int:
        return sum(each["state"] == "warning" for each in checkup.findings)

    @admin.display(description="findings")
    def report(self, checkup: Checkup) -> str:
        """List what is not well first."""
        findings = sorted(checkup.findings, key=lambda each: each["state"] == "good")
        lines = ((each["state"], each["title"], each["found"], each["remedy"]) for each in findings)
        return format_html(
            "<table>{}</table>", format_html_join("", "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>", lines)
        )

    @admin.action(description="Examine again")
    def examine_again(self, request: HttpRequest, queryset: Any) -> None:
        for checkup in queryset.select_related("org__salesforce"):
            doctor.examine(checkup.org)
