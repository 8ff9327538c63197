"""Checks of what Infobip posts to us."""

from collections.abc import Iterator

from tenants.cache import old_secret_used_at, parse_reason, refusals_today
from tenants.doctor.checks import Seen, State, account_check
from tenants.doctor.refusals import REFUSALS, UNFORESEEN
from tenants.doctor.snapshot import OrgSnapshot
from tenants.encryption import readable
from tenants.models import InfobipAccount


@account_check(
    "Refused webhooks",
    title="Webhooks of {of}",
    expected="none",
    why="What is refused reaches no rep before it is sent again.",
    otherwise=State.WARNING,
)
def nothing_is_refused(org: OrgSnapshot, account: InfobipAccount) -> Iterator[Seen]:
    counts = refusals_today(account.pk)
    for counted, count in sorted(counts.items()):
        reason, number = parse_reason(counted)
        refusal = REFUSALS.get(reason, UNFORESEEN)
        sender = f"the number ending in {number}" if number else "that number"
        yield Seen(
            of=f"{account.name} today: {counted}",
            ok=False,
            found=f"{count}. {refusal.happened}",
            why=refusal.then,
            remedy=refusal.remedy.format(number=sender),
            otherwise=State.NOTE if refusal.ours else None,
        )
    if not counts:
        yield Seen(of=f"{account.name} refused today", ok=True, found="none")


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
