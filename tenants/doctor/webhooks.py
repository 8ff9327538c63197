"""Checks of what Infobip posts to us."""

from collections.abc import Iterator

from tenants.cache import old_secret_used_at, refusals_today
from tenants.doctor.checks import Seen, State, account_check
from tenants.doctor.snapshot import OrgSnapshot
from tenants.encryption import readable
from tenants.models import InfobipAccount


@account_check(
    "Refused webhooks",
    title="Webhooks of {of} refused today",
    expected="none",
    why="Infobip sends refused webhooks again for some hours; after that they are lost.",
    remedy="Compare the secret of the notification profile with the one under “Add Infobip accounts”.",
    otherwise=State.WARNING,
)
def nothing_is_refused(org: OrgSnapshot, account: InfobipAccount) -> Iterator[Seen]:
    counts = refusals_today(account.pk)
    found = ", ".join(f"{reason}: {count}" for reason, count in sorted(counts.items())) or "none"
    yield Seen(of=account.name, ok=not counts, found=found)


@account_check(
    "Webhook secret",
    title="Webhook secret of {of}",
    expected="the new secret only",
    why="A secret that was replaced should not be accepted forever.",
    otherwise=State.WARNING,
)
def new_secret_is_used(org: OrgSnapshot, account: InfobipAccount) -> Iterator[Seen]:
    if not readable(account, "previous_webhook_secret"):
        return
    used = old_secret_used_at(account.pk)
    yield Seen(
        of=account.name,
        ok=False,
        found=f"the old secret was last used {used}" if used else "the old secret is no longer used",
        remedy="Enter the new secret in the notification profile." if used else "Choose “Accept the new one only”.",
    )
