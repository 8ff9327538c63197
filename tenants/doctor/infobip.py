"""Checks of the Infobip accounts: their API keys, and the subscriptions by which events come to us."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network

from django.conf import settings

from connector.http import AuthenticationFailed
from tenants import connecting
from tenants.doctor.checks import Seen, State, account_check, check
from tenants.doctor.snapshot import OrgSnapshot
from tenants.models import InfobipAccount

KEY_DAYS = 30


@check(
    "Infobip account",
    expected="at least one",
    why="Messages to customers are sent through it.",
    remedy="Add one under “Add Infobip accounts”.",
)
def account_is_there(org: OrgSnapshot) -> Iterator[Seen]:
    if not org.accounts:
        yield Seen(ok=False, found="none")


@account_check(
    "Infobip API key",
    title="API key of {of}",
    expected="the scopes that your features need",
    why="Without a valid key, reps cannot answer.",
    remedy="Add these scopes to the key in the Infobip portal, under Developer Tools, API Keys.",
)
def key_works(org: OrgSnapshot, account: InfobipAccount) -> Iterator[Seen]:
    try:
        probe = org.infobip(account).probe_scopes()
    except AuthenticationFailed as exc:
        remedy = "It is disabled, has expired, or may not be used from our addresses. Enter a valid key."
        yield Seen(of=account.name, ok=False, found=exc.message, expected="accepted", remedy=remedy)
        return
    missing = [each for each in probe.capabilities if each.state == "missing"]
    needed = {"two-way messaging"} | ({"transcripts"} if org.has_chatbot(account) else set())
    bad = State.FAILED if any(each.name in needed for each in missing) else State.WARNING
    costs = "; ".join(f"{each.scope} is missing: {connecting.COSTS.get(each.name, each.name)}" for each in missing)
    yield Seen(of=account.name, ok=not missing, found=costs or "all scopes", otherwise=bad)


@account_check(
    "Expiry of the Infobip API key",
    title="Expiry of the API key of {of}",
    expected=f"valid for more than {KEY_DAYS} days",
    why="Once the key expires, reps can no longer answer.",
    remedy="Create a new key in the Infobip portal, and enter it under “Add Infobip accounts”.",
)
def key_lasts(org: OrgSnapshot, account: InfobipAccount) -> Iterator[Seen]:
    for key in org.own_keys(account):
        if key.valid_to is None:
            continue
        days = (key.valid_to - datetime.now(UTC)).days
        bad = State.FAILED if days < 0 else State.WARNING
        yield Seen(of=account.name, ok=days > KEY_DAYS, found=f"expires in {days} days", otherwise=bad)


@account_check(
    "Allowed IP addresses of the Infobip API key",
    title="Allowed IP addresses of the API key of {of}",
    why="Calls from any other address are refused, and reps cannot answer.",
)
def key_is_open_to_us(org: OrgSnapshot, account: InfobipAccount) -> Iterator[Seen]:
    ours = settings.OUTBOUND_ADDRESSES
    for key in org.own_keys(account):
        allowed = key.allowed_addresses
        outside = [each for each in ours if not _is_among(each, allowed)]
        yield Seen(
            of=account.name,
            ok=not allowed or (bool(ours) and not outside),
            found=f"only {', '.join(allowed)}" if allowed else "any",
            expected=f"any, or at least {', '.join(ours)}" if ours else "any",
            otherwise=State.FAILED if outside else State.WARNING,
            remedy=f"Add {', '.join(outside)} to the allowed IP addresses of the key in the Infobip portal."
            if outside
            else "Clear the allowed IP addresses of the key in the Infobip portal: the addresses that we call from may "
            "change at any time.",
        )


def _is_among(address: str, allowed: Iterable[str]) -> bool:
    for each in allowed:
        try:
            if ip_address(address) in ip_network(each, strict=False):
                return True
        except ValueError:  # a form that we do not know
            continue
    return False


@account_check("Subscription to WhatsApp events", title="Subscription of {of}")
def events_come_to_us(org: OrgSnapshot, account: InfobipAccount) -> Iterator[Seen]:
    client = org.infobip(account)
    subscriptions = client.subscriptions("WHATSAPP")
    profiles = {name: client.profile(name) for name in sorted({each.profile_id for each in subscriptions})}
    reaching = {
        name: each for name, each in profiles.items() if each is not None and each.notify_url == account.webhook_url
    }
    for_messages = [each for each in subscriptions if "INBOUND_MESSAGE" in each.events]
    ours = [reaching[each.profile_id] for each in for_messages if each.profile_id in reaching]
    elsewhere = "its notification profile posts to another URL" if for_messages else "none for inbound messages"
    yield Seen(
        of=account.name,
        ok=bool(ours),
        found="found" if ours else elsewhere,
        expected=f"inbound messages posted to {account.webhook_url}",
        why="Otherwise nothing that customers write arrives.",
        remedy="Let us create the subscription, or create it in the Infobip portal.",
        fix="subscribe",
        about=str(account.uuid),
    )
    if not ours:
        return
    signed = all(each.signed for each in ours)
    yield Seen(
        title="Signature of the events of {of}",
        of=account.name,
        ok=signed,
        found="HMAC" if signed else "no HMAC authentication",
        expected="HMAC authentication on the notification profile",
        why="Unsigned events could come from anyone, so they are refused.",
        remedy="Add HMAC authentication with our secret to the profile, or let us create a signed subscription.",
        fix="subscribe",
        about=str(account.uuid),
    )
    events = frozenset[str]().union(*(each.events for each in subscriptions if each.profile_id in reaching))
    lacking = [name for name in ("DELIVERY", "SEEN") if name not in events]
    yield Seen(
        title="Delivery and seen events of {of}",
        of=account.name,
        ok=not lacking,
        found=f"missing: {', '.join(lacking)}" if lacking else "both",
        expected="DELIVERY and SEEN",
        why="They are the second way in which delivery and read receipts reach reps.",
        remedy="Let us add them to the subscription.",
        otherwise=State.WARNING,
        fix="subscribe",
        about=str(account.uuid),
    )


@account_check(
    "Subscription to chatbot conversations",
    title="Subscription to chatbot conversations of {of}",
    expected="CONVERSATION_MESSAGE_RECEIVED",
    why="With it, a conversation is recognized when the chatbot hands it over.",
    remedy="Let us create the subscription.",
    otherwise=State.WARNING,
)
def chatbots_tell_us(org: OrgSnapshot, account: InfobipAccount) -> Iterator[Seen]:
    if not org.has_chatbot(account):
        return
    mine = org.infobip(account).subscriptions("CUSTOMER_ENGAGEMENT")
    subscribed = any("CONVERSATION_MESSAGE_RECEIVED" in each.events for each in mine)
    found = "found" if subscribed else "no subscription to conversation messages"
    yield Seen(of=account.name, ok=subscribed, found=found, fix="subscribe", about=str(account.uuid))
