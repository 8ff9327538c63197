"""Checks of the WhatsApp numbers."""

from collections.abc import Iterator

from tenants.doctor.checks import Seen, State, account_check, check
from tenants.doctor.snapshot import OrgSnapshot
from tenants.encryption import readable
from tenants.models import InfobipAccount


@check(
    "Senders",
    title="Senders of {of}",
    expected="at least one WhatsApp number",
    why="Customers write to it, and answers are sent from it.",
    remedy="Select one under “Select senders”.",
)
def senders_are_chosen(org: OrgSnapshot) -> Iterator[Seen]:
    for channel in org.channels:
        count = sum(each.channel_id == channel.pk for each in org.senders)
        yield Seen(of=channel.name, ok=bool(count), found=f"{count}" if count else "none")


@account_check(
    "Forwarding of the senders",
    title="Forwarding of +{of}",
    expected="“Apply subscription”",
    why="A forwarding action of the number itself takes precedence over the subscription, and nothing arrives here.",
    remedy="Open the number in the Infobip portal, and choose “Apply subscription” as its forwarding action.",
)
def numbers_follow_subscription(org: OrgSnapshot, account: InfobipAccount) -> Iterator[Seen]:
    for sender in org.senders_of(account):
        configured = org.infobip(account).inbound_configurations(sender.number)
        forwarded = [each for each in configured if each.bypasses_subscription]
        always = [each for each in forwarded if not each.keyword]
        where = ", ".join(each.forwarding_url or each.forwarding_type for each in always)
        found = "follows the subscription"
        if forwarded:
            keywords = ", ".join(each.keyword for each in forwarded)
            found = f"forwarded to {where}" if always else f"messages with the keyword {keywords} are forwarded elsewhere"
        bad = State.FAILED if always else State.WARNING
        yield Seen(of=sender.number, ok=not forwarded, found=found, otherwise=bad)


@account_check(
    "WhatsApp status of the senders",
    title="WhatsApp status of +{of}",
    expected="connected",
    why="A flagged, restricted or disconnected sender loses messages.",
    remedy="Check the sender in the Infobip portal.",
    otherwise=State.WARNING,
)
def senders_are_connected(org: OrgSnapshot, account: InfobipAccount) -> Iterator[Seen]:
    numbers = [each.number for each in org.senders_of(account)]
    if not numbers:
        return
    for number, quality in org.infobip(account).qualities(numbers).items():
        connected = quality.status in ("CONNECTED", "UNKNOWN", "")
        found = f"{quality.status.lower() or 'unknown'}, quality {quality.rating.lower() or 'unknown'}"
        yield Seen(of=number, ok=connected, found=found)


@account_check(
    "Hand-over token",
    title="Hand-over token of {of}",
    expected="a token, in the Call API element of the chatbot",
    why="A chatbot's call without the token is refused, and no conversation is handed over.",
    remedy="Create one under “Select senders”, and add it to the Call API element.",
)
def chatbots_may_hand_over(org: OrgSnapshot, account: InfobipAccount) -> Iterator[Seen]:
    if not org.has_chatbot(account):
        return
    there = bool(readable(account, "handover_token"))
    yield Seen(of=account.name, ok=there, found="set" if there else "none")
