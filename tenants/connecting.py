"""Connecting an org step by step: each answer is tried against the live API before it is kept.

The pages of set-up call these; each changes one thing, says who did it, and raises what is wrong with its remedy.
"""

import hashlib
import json
import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import NameOID
from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils import timezone
from django.utils.text import capfirst

from connector.http import (
    AddressRefused,
    ApiError,
    AuthenticationFailed,
    CustomerMustAct,
    ServiceUnavailable,
    check_address,
)
from connector.infobip.setup import ProfileSettings, SetupClient, State
from connector.phone import shown
from connector.salesforce.auth import ORG_HOSTS, AccessToken, login, remedy_of
from tenants import cache
from tenants.encryption import CannotDecrypt, readable
from tenants.models import Channel, Draft, InfobipAccount, Org, SalesforceConnection, Sender
from tenants.onboarding import SMALLEST_KEY, UNSENDABLE_KEY, SetupProblem, check_addresses, keep_sender, long_org_id
from tenants.tenancy import every_org

CERTIFICATE_LIFE = timedelta(days=2 * 365)
DRAFT_LIFE = timedelta(hours=24)
LONGEST_LABEL = 63  # of what stands between two dots of a host


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A private key for us, and its certificate for the org's external client app; both in PEM form."""

    private_key: str
    certificate: str


def new_key_pair(host: str) -> KeyPair:
    """Make a key pair for the logins to one org."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=SMALLEST_KEY)
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return KeyPair(private.decode(), _self_signed(key, host))


def certificate_for(private_key: str) -> str:
    """Make a certificate for a key that a customer gave us without one."""
    key = load_pem_private_key(private_key.encode(), password=None)
    assert isinstance(key, RSAPrivateKey), "checked when it was kept"
    return _self_signed(key, "org")


def _self_signed(key: RSAPrivateKey, host: str) -> str:
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Service Cloud Connector"),
            x509.NameAttribute(NameOID.COMMON_NAME, host[:64]),
        ]
    )
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + CERTIFICATE_LIFE)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def certificate_ends(pem: str) -> datetime | None:
    """Say until when a certificate is valid; None where there is none of ours."""
    return x509.load_pem_x509_certificate(pem.encode()).not_valid_after_utc if pem else None


def my_domain(typed: str) -> str:
    """Turn what somebody typed or pasted into the address of their org's My Domain.

    A name alone, a Lightning address from the browser, and the address itself are all understood.

    :raises SetupProblem: if it is none of these
    """
    text = typed.strip().rstrip("/")
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*(\.(sandbox|develop|scratch|trailblaze|demo|free|patch|stage))?", text):
        text = f"https://{text}.my.salesforce.com"
    try:
        address = _org_address(text)
        return check_address(address, service="Salesforce", hosts=ORG_HOSTS, allow_local=settings.ALLOW_LOCAL_UPSTREAMS)
    except (AddressRefused, ValueError) as exc:
        raise SetupProblem(
            {
                "my_domain": "This is not a Salesforce org's address. It looks like https://acme.my.salesforce.com; "
                "find yours in Setup under My Domain."
            }
        ) from exc


def _org_address(text: str) -> str:
    """Bring an address of one of an org's hosts to that of its My Domain; a user or a port stays, and is refused.

    :raises ValueError: if it is no address, or holds letters that only look like those of one
    """
    if not text.isascii():
        raise ValueError("a My Domain has plain letters only")
    parts = urlsplit(text if "://" in text else f"https://{text}")
    if settings.ALLOW_LOCAL_UPSTREAMS and parts.hostname in ("localhost", "127.0.0.1", "::1"):
        return f"{parts.scheme}://{parts.netloc}"
    host = parts.netloc.lower()
    for suffix in (".lightning.force.com", ".my.salesforce-setup.com", ".my.salesforce-scrt.com"):
        if host.endswith(suffix):
            host = host.removesuffix(suffix) + ".my.salesforce.com"
    if any(len(label) > LONGEST_LABEL for label in host.split(".")):
        raise ValueError("no host has so long a name")
    return f"https://{host}"


def scrt_url_of(base_url: str) -> str:
    """Derive the address of an org's Interaction Service from its My Domain."""
    return base_url.replace(".my.salesforce.com", ".my.salesforce-scrt.com")


def begin_draft(base_url: str, token_hash: str) -> Draft:
    """Begin a set-up whose org nobody has proven yet, with a key pair of its own."""
    pair = new_key_pair(urlsplit(base_url).hostname or "org")
    with every_org():
        return Draft.objects.create(
            token_hash=token_hash, base_url=base_url, private_key=pair.private_key, certificate=pair.certificate
        )


def find_draft(token_hash: str) -> Draft | None:
    """Find a draft by what its owner's browser keeps."""
    with every_org():
        return Draft.objects.filter(token_hash=token_hash, created_at__gte=timezone.now() - DRAFT_LIFE).first()


def connection_of(draft: Draft) -> SalesforceConnection:
    """Give the connection that a draft will become."""
    return SalesforceConnection(
        org_id=0,
        base_url=draft.base_url,
        scrt_url=scrt_url_of(draft.base_url),
        consumer_key=draft.consumer_key,
        username=draft.username,
        private_key=draft.private_key,
        certificate=draft.certificate,
    )


def log_in(connection: SalesforceConnection) -> AccessToken:
    """Log in once, beside the tokens that are kept.

    :raises ApiError: if Salesforce refuses or does not answer
    """
    return login(
        base_url=connection.base_url,
        consumer_key=connection.consumer_key,
        username=connection.username,
        private_key=connection.private_key,
        allow_local=settings.ALLOW_LOCAL_UPSTREAMS,
    )


def try_login(connection: SalesforceConnection) -> str:
    """Log in once, and give the id of the org that let us in.

    :raises SetupProblem: with the remedy of what Salesforce said
    """
    try:
        token = log_in(connection)
    except AuthenticationFailed as exc:
        raise SetupProblem({_field_of(exc): remedy_of(exc)}) from exc
    except AddressRefused as exc:
        raise SetupProblem({"my_domain": str(exc)}) from exc
    except CannotDecrypt as exc:
        raise SetupProblem({"": f"{capfirst(exc.message)}."}) from exc
    except ServiceUnavailable as exc:
        raise SetupProblem({"": f"{connection.base_url} does not answer ({exc.message}). Try again."}) from exc
    return token.org_id


def _field_of(refusal: AuthenticationFailed) -> str:
    """Name the field that a refused login is about; the certificate, the address and the clock are in none."""
    code = refusal.code.lower()
    if code == "invalid_app_access" or (
        code == "invalid_grant" and not re.search("audience|assertion|expired", refusal.description.lower())
    ):
        return "username"
    return "consumer_key" if code in ("invalid_client_id", "app_not_found", "oauth_ec_app_not_found") else ""


def connect_draft(draft: Draft, *, consumer_key: str, username: str) -> None:
    """Try the external client app, and keep what it needs in the draft.

    :raises SetupProblem: with the remedy of what Salesforce said; nothing is kept then
    """
    draft.consumer_key, draft.username = consumer_key, username
    try_login(connection_of(draft))
    with every_org():
        Draft.objects.filter(pk=draft.pk).update(consumer_key=consumer_key, username=username)


def promote_draft(draft: Draft, *, organization_id: str, name: str, who: str) -> Org:
    """Make a draft the org that a sign-in has proven, or bring the org that is known already up to date with it.

    The same proof lets an org back in whose My Domain was renamed.
    """
    long_id = organization_id if len(organization_id) == 18 else long_org_id(organization_id)
    with every_org(), transaction.atomic():
        orgs = Org.objects.filter(salesforce_id__startswith=long_id[:15])
        known = orgs.exists()
        if not known:  # another browser may prove the same org just now: then it is there when this returns
            Org.objects.bulk_create([Org(salesforce_id=long_id, name=name[:200] or "your org")], ignore_conflicts=True)
        org = orgs.select_for_update(no_key=True).get()  # rows that point at it may be written meanwhile
        connection = SalesforceConnection.objects.filter(org=org).first() or SalesforceConnection(org=org)
        connection.base_url, connection.scrt_url = draft.base_url, scrt_url_of(draft.base_url)
        connection.consumer_key, connection.username = draft.consumer_key, draft.username
        connection.private_key, connection.certificate = draft.private_key, draft.certificate
        connection.next_private_key = connection.next_certificate = ""
        connection.save()
        Org.objects.filter(pk=org.pk).update(disconnected_at=None)
        org.audit(who, "connected the org again" if known else "connected the org", connection.base_url)
        Draft.objects.filter(pk=draft.pk).delete()
        return org


def change_connection(org: Org, *, consumer_key: str, username: str, scrt_url: str, who: str) -> None:
    """Try another external client app or user, and keep it; an org that was disconnected is connected again by it.

    :raises SetupProblem: with the remedy; nothing is changed then
    """
    before, connection = org.salesforce, copy(org.salesforce)
    connection.consumer_key, connection.username, connection.scrt_url = consumer_key, username, scrt_url
    check_addresses(connection, "scrt_url")
    _check_same_org(org, try_login(connection))
    with transaction.atomic():
        # these only: somebody else may have begun a change of keys meanwhile
        connection.save(update_fields=["consumer_key", "username", "scrt_url", "updated_at"])
        if (before.consumer_key, before.username, before.scrt_url) != (consumer_key, username, connection.scrt_url):
            org.audit(who, "changed the Salesforce connection", connection.username)
        if Org.objects.filter(pk=org.pk).exclude(disconnected_at=None).update(disconnected_at=None):
            org.audit(who, "connected the org again", connection.base_url)


def _check_same_org(org: Org, organization_id: str) -> None:
    if organization_id[:15] != org.salesforce_id[:15]:
        raise SetupProblem({"consumer_key": "This consumer key belongs to another org. Copy it from the app of this org."})


def begin_key_change(org: Org, *, who: str) -> None:
    """Make the next key pair; the present one goes on working until the new one does.

    One that was made already stays: its certificate may be on its way into the org.
    """
    pair = new_key_pair(urlsplit(org.salesforce.base_url).hostname or "org")
    with transaction.atomic():
        begun = SalesforceConnection.objects.filter(org=org, next_certificate="").update(
            next_private_key=pair.private_key, next_certificate=pair.certificate
        )
        if begun:
            org.audit(who, "made a new key pair")


def finish_key_change(org: Org, *, who: str) -> None:
    """Try the next key pair, and use it from now on.

    :raises SetupProblem: if the org does not take it yet; the present one stays in use
    """
    connection = copy(org.salesforce)
    if not readable(connection, "next_private_key"):
        same = SalesforceConnection.objects.filter(org=org, next_certificate=connection.next_certificate)
        same.update(next_private_key="", next_certificate="")
        raise SetupProblem({"": "There is no new key pair, or we can no longer read it. Make a new one."})
    connection.private_key, connection.certificate = connection.next_private_key, connection.next_certificate
    _check_same_org(org, try_login(connection))
    with transaction.atomic():
        # somebody else may have put it to use meanwhile, and have made another pair since
        used = SalesforceConnection.objects.filter(org=org, next_certificate=connection.certificate).update(
            private_key=connection.private_key, certificate=connection.certificate, next_private_key="", next_certificate=""
        )
        if used:
            org.audit(who, "put the new key pair to use")


def setup_host(base_url: str) -> str:
    """Name the host whose pages are Setup's."""
    return base_url.replace(".my.salesforce.com", ".my.salesforce-setup.com")


@dataclass(frozen=True, slots=True)
class FoundChannel:
    """A messaging channel that is there in the org."""

    id: str
    name: str
    developer_name: str
    active: bool
    address: str
    definition: str  # developer name of its ConversationChannelDefinition
    event: str
    event_type_field: str
    event_payload_field: str


def find_channels(org: Org) -> list[FoundChannel]:
    """Read the custom messaging channels of an org, with the definitions that they are made from.

    :raises ApiError: if Salesforce does not answer
    """
    rest = org.salesforce.rest()
    definitions = {
        row["Id"]: row
        for row in rest.query(
            "SELECT Id, DeveloperName, CustomPlatformEvent, CustomEventTypeField, CustomEventPayloadField "
            "FROM ConversationChannelDefinition"
        )
    }
    rows = rest.query(
        "SELECT Id, DeveloperName, MasterLabel, IsActive, ChannelAddressIdentifier, MessagingPlatformKey, "
        "ChannelDefinitionId FROM MessagingChannel WHERE MessageType = 'Custom'"
    )
    found = []
    for row in rows:
        definition = definitions.get(row.get("ChannelDefinitionId")) or {}
        event = str(definition.get("CustomPlatformEvent") or "Infobip_Event__e")
        found.append(
            FoundChannel(
                id=str(row["Id"]),
                name=str(row.get("MasterLabel") or row["DeveloperName"]),
                developer_name=str(row["DeveloperName"]),
                active=bool(row.get("IsActive")),
                # the page in Setup shows this one under the name of the other: either is taken, this one is kept
                address=str(row.get("ChannelAddressIdentifier") or row.get("MessagingPlatformKey") or ""),
                definition=str(definition.get("DeveloperName") or ""),
                event=event,
                event_type_field=_plain_field(definition.get("CustomEventTypeField"), event) or "EventType__c",
                event_payload_field=_plain_field(definition.get("CustomEventPayloadField"), event) or "Payload__c",
            )
        )
    return found


def _plain_field(name: object, event: str) -> str:
    """Leave out the event's name, with which a definition may write its fields."""
    return str(name or "").removeprefix(f"{event}.")


# what a new channel says, until somebody changes it
WELCOME = "Hang tight, an agent will join the chat in just a moment."
CLOSING = "This conversation has ended. Message us again if you need help."


def keep_channel(org: Org, found: FoundChannel, *, context: str, who: str) -> Channel:
    """Keep a channel that was found, or what was changed about it; its texts stay as they are."""
    values = {
        "name": found.name,
        "developer_name": found.developer_name,
        "authorization_context": context,
        "custom_event_name": found.event,
        "custom_event_type_field": found.event_type_field,
        "custom_event_payload_field": found.event_payload_field,
    }
    with transaction.atomic():
        channel, created = Channel.objects.update_or_create(
            org=org,
            channel_address_identifier=found.address,
            defaults=values,
            create_defaults=values | {"welcome_message": WELCOME, "closing_message": CLOSING},
        )
        org.audit(who, "added a channel" if created else "changed a channel", channel.name)
    return channel


Changes = Mapping[str, tuple[Any, Any]]  # by field: what somebody saw, and what they want

MEANWHILE = "Somebody else changed this meanwhile. Save again to keep yours, or open the page anew to see theirs."


def change_texts(org: Org, channel_id: int, changes: Changes, *, who: str) -> None:
    """Keep what somebody changed about a channel's texts and hand-over, and leave what others changed since.

    :raises SetupProblem: at each field that somebody else has changed to another value; nothing is kept then
    """
    with transaction.atomic():
        channel = org.channels.select_for_update().get(pk=channel_id)
        kept = {name: getattr(channel, name) for name in changes}
        wanted = _wanted(kept, changes)
        if wanted.get("language") in channel.translations:
            raise SetupProblem({"language": "There is a translation into this language. Remove it first."})
        if wanted:
            for name, value in wanted.items():
                setattr(channel, name, value)
            channel.save(update_fields=list(wanted))
            what = ", ".join(name.replace("_", " ") for name in wanted)
            org.audit(who, "changed the texts or the hand-over of a channel", f"{channel.name}: {what}")


def _wanted(kept: Mapping[str, Any], changes: Changes) -> dict[str, Any]:
    wanted = {name: new for name, (_, new) in changes.items() if new != kept.get(name, "")}
    if meanwhile := {name: MEANWHILE for name in wanted if changes[name][0] != kept.get(name, "")}:
        raise SetupProblem(meanwhile)
    return wanted


def change_translation(org: Org, channel_id: int, language: str, changes: Changes, *, who: str, new: bool = False) -> None:
    """Keep what somebody changed about a channel's texts in a language, or those in a new one.

    :raises SetupProblem: if somebody else has changed them meanwhile, or the language is the channel's own
    """
    with transaction.atomic():
        channel = org.channels.select_for_update().get(pk=channel_id)
        kept: dict[str, str] = channel.translations.get(language, {})
        if language == channel.language:
            raise SetupProblem({"language": "The texts above are in this language already."})
        if new and kept and any(wanted != kept.get(name, "") for name, (_, wanted) in changes.items()):
            raise SetupProblem({"language": "There are texts in this language already. Change those."})
        if wanted := {} if new and kept else _wanted(kept, changes):
            channel.translations[language] = {name: text for name, text in (kept | wanted).items() if text}
            channel.save(update_fields=["translations"])
            org.audit(who, "added a translation" if new else "changed a translation", f"{channel.name}: {language}")


def remove_translation(org: Org, channel_id: int, language: str, *, who: str) -> None:
    """Drop a channel's texts in a language: its end users read the channel's own."""
    with transaction.atomic():
        channel = org.channels.select_for_update().get(pk=channel_id)
        if channel.translations.pop(language, None) is not None:
            channel.save(update_fields=["translations"])
            org.audit(who, "removed a translation", f"{channel.name}: {language}")


def follow_session_changes(org: Org, on: bool, *, who: str) -> None:
    """Say whether the org publishes changes of its messaging sessions, so that we listen to them."""
    with transaction.atomic():
        if SalesforceConnection.objects.filter(org=org, session_changes=not on).update(session_changes=on):
            org.audit(who, "let us follow session changes" if on else "ended following session changes")


def infobip_setup(account: InfobipAccount) -> SetupClient:
    """Build the client that asks Infobip about an account."""
    return SetupClient(base_url=account.base_url, api_key=account.api_key, allow_local=settings.ALLOW_LOCAL_UPSTREAMS)


UNREADABLE_KEY = "We can no longer read the API key that is kept here. Enter it again."
NAME_TAKEN = "There is an account of this name already."


def connect_infobip(
    org: Org, *, name: str, base_url: str, api_key: str, who: str, account: InfobipAccount | None = None
) -> InfobipAccount:
    """Try an API key, find out what it may do, and keep it; what each missing scope costs is shown, not refused.

    :param account: one that is changed; an empty key leaves the present one
    :raises SetupProblem: if Infobip does not take the key, or the address is not Infobip's
    """
    account = account or InfobipAccount(
        org=org, webhook_secret=secrets.token_urlsafe(32), handover_token=secrets.token_urlsafe(32)
    )
    account.name, account.base_url = name, base_url or "https://api.infobip.com"
    if api_key:
        account.api_key = api_key
    check_addresses(account, "base_url")
    try:
        capabilities = infobip_setup(account).probe_scopes().capabilities
    except CannotDecrypt as exc:
        raise SetupProblem({"api_key": UNREADABLE_KEY}) from exc
    except AuthenticationFailed as exc:
        raise SetupProblem({"api_key": f"{exc.message}."}) from exc
    except CustomerMustAct as exc:  # a key that was kept before such were refused
        raise SetupProblem({"api_key": UNSENDABLE_KEY}) from exc
    except ApiError as exc:
        raise SetupProblem({"base_url": f"Infobip does not answer there: {exc.message}"}) from exc
    account.capabilities = {each.name: each.state.value for each in capabilities}
    if org.infobip_accounts.filter(name=name).exclude(pk=account.pk).exists():
        raise SetupProblem({"name": NAME_TAKEN})
    created = account.pk is None
    # of one that is there these only: somebody else may have made a new webhook secret meanwhile
    changed = None if created else ["name", "base_url", "api_key", "capabilities", "updated_at"]
    try:
        with transaction.atomic():
            account.save(update_fields=changed)
            org.audit(who, "added an Infobip account" if created else "changed an Infobip account", account.name)
    except IntegrityError as exc:  # pressed twice, or by two administrators
        raise SetupProblem({"name": NAME_TAKEN}) from exc
    return account


WHATSAPP_EVENTS = ("INBOUND_MESSAGE", "DELIVERY", "SEEN", "TEMPLATE_UPDATE")
CHATBOT_EVENTS = ("CONVERSATION_MESSAGE_RECEIVED",)


def subscribe(account: InfobipAccount, *, who: str) -> None:
    """Let Infobip send what comes for an account to us, signed with the account's secret.

    :raises SetupProblem: if the key may not, or Infobip refuses
    """
    name = f"scc-{account.uuid}"
    if not readable(account, "webhook_secret"):
        raise SetupProblem({"": "We can no longer read this account's secret. Make a new one first."})
    profile = ProfileSettings(profile_id=name, auth_id=name, notify_url=account.webhook_url, secret=account.webhook_secret)
    wanted: list[tuple[str, str, str, tuple[str, ...]]] = [
        ("WHATSAPP", f"{name}-whatsapp", "WhatsApp messages", WHATSAPP_EVENTS)
    ]
    if account.senders.filter(chatbot_first=True).exists():
        wanted.append(("CUSTOMER_ENGAGEMENT", f"{name}-conversations", "Chatbot conversations", CHATBOT_EVENTS))
    try:
        client = infobip_setup(account)
        for channel, subscription_id, title, events in wanted:
            client.ensure_subscription(
                channel=channel,
                subscription_id=subscription_id,
                name=f"Service Cloud Connector: {title}",
                events=events,
                profile=profile,
            )
        _end_unsigned(client, account, keep=f"{name}-whatsapp")
    except AuthenticationFailed as exc:
        raise SetupProblem(
            {
                "": "This API key may not manage subscriptions. Give it the scope subscriptions:manage, "
                "or set the subscription up by hand as shown."
            }
        ) from exc
    except CannotDecrypt as exc:
        raise SetupProblem({"": UNREADABLE_KEY}) from exc
    except ApiError as exc:
        raise SetupProblem({"": f"Infobip did not take the subscription: {exc.message}"}) from exc
    account.org.audit(who, "subscribed to Infobip's events", account.name)


def _end_unsigned(client: SetupClient, account: InfobipAccount, *, keep: str) -> None:
    """End other subscriptions that post to our address without a signature: all that they post is refused."""
    for each in client.subscriptions("WHATSAPP"):
        if each.subscription_id == keep:
            continue
        profile = client.profile(each.profile_id)
        if profile is not None and profile.notify_url == account.webhook_url and not profile.signed:
            client.delete_subscription(channel="WHATSAPP", subscription_id=each.subscription_id)


def change_webhook_secret(account: InfobipAccount, *, who: str) -> None:
    """Make a new webhook secret; the present one stays valid beside it until Infobip has been changed over.

    While a change is under way there is no other one: Infobip may still sign with the secret of before.
    """
    with transaction.atomic():
        mine = InfobipAccount.objects.select_for_update().get(pk=account.pk)
        if not readable(mine, "previous_webhook_secret"):
            mine.previous_webhook_secret = readable(mine, "webhook_secret")
            mine.webhook_secret = secrets.token_urlsafe(32)
            mine.save(update_fields=["previous_webhook_secret", "webhook_secret", "updated_at"])
            mine.org.audit(who, "made a new webhook secret", mine.name)


def digest_of_token(account: InfobipAccount) -> str:
    """Name a hand-over token without telling it."""
    return hashlib.sha256(readable(account, "handover_token").encode()).hexdigest()


def change_handover_token(account: InfobipAccount, *, seen: str, who: str) -> None:
    """Make another hand-over token; the present one ends at once.

    :param seen: the digest of the one that is to end: who presses twice ends one only
    """
    with transaction.atomic():
        mine = InfobipAccount.objects.select_for_update().get(pk=account.pk)
        if digest_of_token(mine) == seen:
            mine.handover_token = secrets.token_urlsafe(32)
            mine.save(update_fields=["handover_token", "updated_at"])
            mine.org.audit(who, "made a new hand-over token", mine.name)


def handover_body(channel: Channel) -> str:
    """Give the body of a chatbot's call, with Infobip's placeholders, for an administrator to copy.

    https://www.infobip.com/docs/answers/chatbot-elements/core-elements
    """
    fields = dict.fromkeys(("conversationId", "senderNumber", "customerName", "language", *channel.routing_attributes))
    return json.dumps({name: f"{{{{{name}}}}}" for name in fields}, indent=2)


def retire_old_secret(account: InfobipAccount, *, who: str) -> None:
    """Accept the new webhook secret only."""
    with transaction.atomic():
        ended = InfobipAccount.objects.filter(pk=account.pk).exclude(previous_webhook_secret="")
        if ended.update(previous_webhook_secret=""):
            account.org.audit(who, "ended the old webhook secret", account.name)


def choose_sender(account: InfobipAccount, number: str, *, channel: Channel | None, chatbot_first: bool, who: str) -> None:
    """Put a number on a channel, or take it off all of them; the messages that it carried go on naming it.

    :raises SetupProblem: if the number is not a sender of the account
    """
    org = account.org
    if not re.fullmatch(r"[1-9]\d{5,19}", number):
        raise SetupProblem({"number": "Give the number with its country code, such as 447700900123."})
    if channel is not None and not account.senders.filter(number=number).exists():
        _check_number(account, number)
    with transaction.atomic():
        if channel is None:
            if org.senders.filter(account=account, number=number).update(retired_at=timezone.now()):
                org.audit(who, "took a sender off", number[-4:])
            return
        before = org.senders.filter(account=account, number=number).first()
        sender = keep_sender(account, number, channel=channel, chatbot_first=chatbot_first)
        if before is None or (before.channel_id, before.chatbot_first) != (channel.pk, chatbot_first):
            org.audit(who, "chose a sender", f"{sender.number[-4:]} on {channel.name}")


def _check_number(account: InfobipAccount, number: str) -> None:
    """Refuse a number that is no WhatsApp sender of the account; a key that may not list them has any number taken."""
    try:
        listed = {each.number for each in infobip_setup(account).numbers(number) if each.usable}
    except AuthenticationFailed:
        return
    except ApiError as exc:
        raise SetupProblem({"number": f"Infobip does not list the numbers of this account: {exc.message}"}) from exc
    if number not in listed:
        raise SetupProblem({"number": "This is not a WhatsApp sender of this account."})


# what each missing scope costs: https://www.infobip.com/docs/essentials/api-essentials/api-authorization#api-scopes
COSTS = {
    "two-way messaging": "reps cannot answer",
    "senders": "numbers are not listed here; type them in",
    "account": "the account's state is not checked",
    "templates panel": "reps cannot send templates",
    "transcripts": "a chatbot's conversation cannot be shown to the rep",
    "subscriptions": "the subscription is set up by hand",
}


@dataclass(frozen=True, slots=True)
class CapabilityView:
    """What an API key may do, and what it costs if it may not."""

    name: str
    scope: str
    granted: bool
    cost: str


@dataclass(frozen=True, slots=True)
class AccountView:
    """An Infobip account with what the page shows of it."""

    account: InfobipAccount
    capabilities: list[CapabilityView]
    subscribed: bool | None  # None: not known
    problem: str
    old_secret_used: str  # when a webhook was last signed with the secret of before a change


SCOPES = {
    "two-way messaging": "message:send",
    "senders": "numbers:manage",
    "account": "account-management:manage",
    "templates panel": "whatsapp:manage",
    "transcripts": "conversations:manage",
    "subscriptions": "subscriptions:manage",
}


def describe_account(account: InfobipAccount) -> AccountView:
    """Say what an account's key may do, and whether its events come to us."""
    capabilities = [
        CapabilityView(name, SCOPES.get(name, ""), state != State.MISSING, COSTS.get(name, ""))
        for name, state in account.capabilities.items()
    ]
    subscribed, problem = None, ""
    try:
        mine = infobip_setup(account).subscriptions("WHATSAPP")
        subscribed = any("INBOUND_MESSAGE" in each.events for each in mine)
    except CannotDecrypt:
        problem = UNREADABLE_KEY
    except AuthenticationFailed:
        pass  # the key may not tell
    except ApiError as exc:
        problem = f"Infobip does not answer: {exc.message}"
    return AccountView(account, capabilities, subscribed, problem, cache.old_secret_used_at(account.pk))


@dataclass(frozen=True, slots=True)
class SenderView:
    """A number of an account: on which channel it is, and what its forwarding does."""

    number: str
    name: str
    sender: Sender | None
    bypasses: str  # where its messages go instead of to the subscription; empty where they come


@dataclass(frozen=True, slots=True)
class AccountSenders:
    """The numbers of an account."""

    account: InfobipAccount
    senders: list[SenderView]
    listed: bool  # else they are typed in
    problem: str
    bodies: dict[str, str]  # of the call by which a chatbot hands over, with the numbers that each is for
    chatbots_subscribed: bool | None  # whether a subscription to their conversations comes to us; None: not known
    token_digest: str


def describe_senders(account: InfobipAccount) -> AccountSenders:
    """List an account's usable numbers, and those that are chosen though Infobip does not list them."""
    chosen = {sender.number: sender for sender in account.senders.select_related("channel")}
    problem, may_list, listed = "", True, []
    try:
        client = infobip_setup(account)
    except CannotDecrypt:
        kept = [SenderView(number, "", sender, "") for number, sender in sorted(chosen.items())]
        return AccountSenders(account, kept, False, UNREADABLE_KEY, {}, None, digest_of_token(account))
    try:
        listed = [each for each in client.numbers() if each.usable]
    except AuthenticationFailed as exc:
        may_list, problem = False, f"Infobip does not list the numbers of this account: {exc.message}"
    except ApiError as exc:
        problem = f"Infobip does not list the numbers of this account: {exc.message}"
    known = {each.number: each for each in listed}
    views = [
        SenderView(
            number, known[number].note if number in known else "", chosen.get(number), _bypass(client, number, chosen)
        )
        for number in sorted(known.keys() | chosen.keys())
    ]
    bodies: dict[str, str] = {}
    for number, sender in sorted(chosen.items()):
        if sender.chatbot_first:
            body = handover_body(sender.channel)
            bodies[body] = f"{bodies[body]}, {shown(number)}" if body in bodies else shown(number)
    subscribed = _chatbots_subscribed(client) if bodies else None
    return AccountSenders(account, views, may_list, problem, bodies, subscribed, digest_of_token(account))


def _chatbots_subscribed(client: SetupClient) -> bool | None:
    try:
        return any(set(CHATBOT_EVENTS) <= each.events for each in client.subscriptions("CUSTOMER_ENGAGEMENT"))
    except ApiError:
        return None


def _bypass(client: SetupClient, number: str, chosen: dict[str, Sender]) -> str:
    """Say where a chosen number's messages go instead of to us: its own forwarding wins over subscriptions."""
    if number not in chosen:
        return ""
    try:
        ways = [each for each in client.inbound_configurations(number) if each.bypasses_subscription]
    except ApiError:
        return ""
    return ways[0].forwarding_url or ways[0].forwarding_type if ways else ""


def disconnect(org: Org, *, who: str) -> None:
    """Stop reading and sending for an org, and end everybody's session; its history stays."""
    with transaction.atomic():
        Org.objects.filter(pk=org.pk).update(disconnected_at=timezone.now())
        org.web_sessions.all().delete()
        org.audit(who, "disconnected the org")
    with suppress(CannotDecrypt):  # then no token can be ours
        org.salesforce.tokens().revoke()
