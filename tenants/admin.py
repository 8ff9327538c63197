"""Customers, for our operators: to look at, without secrets."""

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join

from connector.http import time_limit
from connector.phone import digits_of
from tenants import budget, doctor
from tenants.cache import old_secret_used_at, refusals_today
from tenants.encryption import readable
from tenants.ledgers import OF_ORG, Ledger, ReadOnly, heading
from tenants.models import AuditEntry, Channel, Checkup, InfobipAccount, Membership, Org, SalesforceConnection, Sender


@admin.register(Org)
class OrgAdmin(ReadOnly):
    list_display = ["name", "salesforce_id", "created_at", "disconnected_at"]
    readonly_fields = ["setup_url", "kept"]
    search_fields = ["name", "salesforce_id"]

    @admin.display(description="what is kept of it")
    def kept(self, org: Org) -> str:
        """Link to the org's rows in each ledger."""
        ledgers = [
            (model, each)
            for model, each in self.admin_site._registry.items()
            if isinstance(each, Ledger) and (each.newest_of_org or each.shown_of_org)
        ]
        links = ((_list(model), OF_ORG, org.pk, each.shown_of_org, heading(model)) for model, each in ledgers)
        return format_html_join(" · ", '<a href="{}?{}={}{}">{}</a>', links)


def _list(model: Any) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")


@admin.register(SalesforceConnection)
class SalesforceConnectionAdmin(ReadOnly):
    list_display = ["org", "base_url", "username", "updated_at"]
    exclude = ["private_key", "next_private_key"]
    heavy = exclude


@admin.register(InfobipAccount)
class InfobipAccountAdmin(ReadOnly):
    list_display = ["name", "org", "base_url", "updated_at"]
    exclude = ["api_key", "webhook_secret", "previous_webhook_secret", "handover_token"]
    heavy = exclude
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


@admin.register(Sender)
class SenderAdmin(ReadOnly):
    list_display = ["number", "org", "account", "channel", "chatbot_first", "retired_at"]
    search_fields = ["number__exact"]
    search_help_text = "A whole number with its country code."

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        return super().get_search_results(request, queryset, digits_of(search_term) or search_term)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Show those that were taken off, too: messages name them."""
        return Sender.ever.order_by(*self.ordering).prefetch_related(*self._named())


@admin.register(Membership)
class MembershipAdmin(Ledger):
    list_display = ["name", "org", "username", "role", "signed_in_at"]
    search_fields = ["username"]
    search_help_text = "A whole Salesforce user name."


@admin.register(AuditEntry)
class AuditEntryAdmin(Ledger):
    list_display = ["at", "org", "who", "what", "detail"]
    newest_of_org = "-at"


@admin.register(Checkup)
class CheckupAdmin(ReadOnly):
    """What the doctor found last, and a button that runs the checks again."""

    list_display = ["org", "at", "failed", "warnings"]
    fields = ["org", "at", "report"]
    readonly_fields = ["report"]
    actions = ["run_checks_again"]

    @admin.display(description="failed")
    def failed(self, checkup: Checkup) -> int:
        return sum(each["state"] == doctor.State.FAILED for each in checkup.findings)

    @admin.display(description="warnings")
    def warnings(self, checkup: Checkup) -> int:
        return sum(each["state"] == doctor.State.WARNING for each in checkup.findings)

    @admin.display(description="findings")
    def report(self, checkup: Checkup) -> str:
        """List what did not pass first."""
        findings = sorted(checkup.findings, key=lambda each: each["state"] == doctor.State.OK)
        lines = ((each["state"], each["title"], each["found"], each["remedy"]) for each in findings)
        return format_html("<ul>{}</ul>", format_html_join("", "<li><b>{}</b> {}: {}<br>{}</li>", lines))

    @admin.action(description="Run checks again")
    def run_checks_again(self, request: HttpRequest, queryset: QuerySet[Checkup]) -> None:
        orgs = list(Org.objects.filter(pk__in=queryset.values_list("org_id", flat=True), salesforce__isnull=False)[:2])
        if len(orgs) > 1:
            words = "Choose one org at a time: its checks take a while. All run once a day."
            self.message_user(request, words, messages.WARNING)
            return
        with time_limit(budget.CALL_SECONDS):
            for org in orgs:
                doctor.run_checks(org)
