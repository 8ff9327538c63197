"""The doctor: one check for each trap between Salesforce, Infobip and us: what was found, what must be, why, what to do.

A check yields findings: one for the org, or one for each channel, account or sender. What a check reads is read once,
lazily, and shared. What cannot be read makes its checks say so; it never hides another finding. ``messaging`` registers
its own.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from ipaddress import ip_address, ip_network
from typing import Any

import structlog
from django.conf import settings
from django.utils import timezone
from django.utils.functional import cached_property

from connector.events import UnexpectedPayload
from connector.http import ApiError, AuthenticationFailed, CustomerMustAct, ServiceUnavailable, time_limit
from connector.infobip.setup import ApiKey, SetupClient
from connector.salesforce.auth import AccessToken, remedy_of
from connector.salesforce.pubsub.channel import may_subscribe
from connector.salesforce.rest import OLDEST_VERSION, Field, Limit, RestClient, soql_text
from tenants import connecting
from tenants.cache import automatic_seen_at, old_secret_used_at, refusals_today
from tenants.encryption import CannotDecrypt, unreadable
from tenants.installation import LICENCES
from tenants.models import Channel, Checkup, InfobipAccount, Org, SalesforceConnection, TranscriptForm
from tenants.onboarding import SetupProblem
from tenants.tenancy import every_org, org_scope

log = structlog.get_logger(__name__)

DAY = timedelta(hours=24)
EXAMINATION_SECONDS = 120.0  # for all calls about one org; what is left then counts as not looked at
LONGEST_PASS_SECONDS = 50 * 60.0
CERTIFICATE_DAYS = 30
KEY_DAYS = 30
SCOPES = frozenset({"api", "interaction_api"})  # of a token; what else the app needs, its login asks for
LONGEST_SECONDS = 60.0  # of one org, while the others wait for their turn
LEAST_LEFT = 0.1  # of an allocation
TYPE_LENGTH, PAYLOAD_LENGTH = 36, 32_768  # what the fields must hold at least


class State(StrEnum):
    """How bad it is."""

    GOOD = "good"
    WARNING = "warning"  # works, but not for long or not all of it
    BAD = "bad"
    UNKNOWN = "unknown"  # could not be looked at


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found; ``fix`` names what a button can do about it, ``about`` the row that it is done to."""

    title: str
    state: State
    found: str
    expected: str = ""
    why: str = ""
    remedy: str = ""
    link: str = ""
    fix: str = ""
    about: str = ""


class Facts:
    """What the checks know of an org, each read when the first check asks."""

    def __init__(self, org: Org) -> None:
        self.org = org
        self.way = org.salesforce
        self._keys: dict[int, list[ApiKey]] = {}

    @cached_property
    def _login(self) -> AccessToken | ApiError:
        try:
            return connecting.log_in(self.way)
        except ApiError as exc:
            return exc

    @property
    def token(self) -> AccessToken:
        """What a login of now gives. There is one: where it is refused, or hangs, so would be the next check's."""
        if isinstance(self._login, ApiError):
            raise self._login.with_traceback(None)
        return self._login

    @property
    def organization(self) -> str:
        """The id of the org that lets us in."""
        return self.token.org_id

    @cached_property
    def rest(self) -> RestClient:
        self.token  # noqa: B018  # without a login every question would be refused, with a worse reason
        return self.way.rest()

    @cached_property
    def channels(self) -> list[Channel]:
        return list(self.org.channels.order_by("name"))

    @cached_property
    def accounts(self) -> list[InfobipAccount]:
        return list(self.org.infobip_accounts.order_by("name"))

    @cached_property
    def definitions(self) -> dict[str, dict[str, Any]]:
        rows = self.rest.query(
            "SELECT Id, DeveloperName, RoutingOwner, ConsentOwner, ConversationVendorInfoId, "
            "ConversationVendorInfo.VendorType, CustomPlatformEvent, CustomEventTypeField, CustomEventPayloadField "
            "FROM ConversationChannelDefinition"
        )
        return {str(row["DeveloperName"]): row for row in rows}

    @cached_property
    def messaging_channels(self) -> dict[str, dict[str, Any]]:
        rows = self.rest.query(
            "SELECT Id, DeveloperName, IsActive, ChannelAddressIdentifier, MessagingPlatformKey, ChannelDefinitionId, "
            "RoutingType, SessionHandlerId, TargetQueueId FROM MessagingChannel WHERE MessageType = 'Custom'"
        )
        return {str(row.get("ChannelAddressIdentifier") or row.get("MessagingPlatformKey")): row for row in rows}

    @cached_property
    def custom_channels(self) -> dict[str, dict[str, Any]]:
        rows = self.rest.query(
            "SELECT Id, ChannelDefinitionId, MessagingChannelId, HasInboundReceipts FROM CustomMsgChannel"
        )
        return {str(row["MessagingChannelId"]): row for row in rows}

    @cached_property
    def queues(self) -> list[dict[str, Any]]:
        """The queues that take messaging sessions."""
        rows = self.rest.query("SELECT QueueId FROM QueueSobject WHERE SobjectType = 'MessagingSession'")
        if not rows:
            return []
        ids = ", ".join(soql_text(str(row["QueueId"])) for row in rows)
        return self.rest.query(f"SELECT Id, DeveloperName, QueueRoutingConfigId FROM Group WHERE Id IN ({ids})")

    @cached_property
    def user(self) -> dict[str, Any]:
        rows = self.rest.query(
            f"SELECT Id, UserPermissionsSupportUser FROM User WHERE Username = {soql_text(self.way.username)}"
        )
        return rows[0] if rows else {}

    @cached_property
    def permission_sets(self) -> set[str]:
        """The names of the integration user's permission sets."""
        return self._assigned(str(self.user.get("Id", "")))

    def _assigned(self, user_id: str) -> set[str]:
        rows = self.rest.query(
            f"SELECT PermissionSet.Name FROM PermissionSetAssignment WHERE AssigneeId = {soql_text(user_id)}"
        )
        return {str((row.get("PermissionSet") or {}).get("Name")) for row in rows}

    @cached_property
    def limits(self) -> dict[str, Limit]:
        return self.rest.limits()

    def fields(self, event: str) -> dict[str, Field] | None:
        found = self.rest.describe(event)
        return None if found is None else {each.name: each for each in found}

    def infobip(self, account: InfobipAccount) -> SetupClient:
        return connecting.infobip_setup(account)

    def may_read(self, event: str) -> bool | None:
        """Whether the integration user may read an event's stream; None: there is none."""
        return may_subscribe(
            self.way.pubsub_endpoint or settings.SALESFORCE_PUBSUB_ENDPOINT,
            f"/event/{event}",
            self.organization,
            self.token,
            plaintext=settings.ALLOW_LOCAL_UPSTREAMS,
        )

    def own_keys(self, account: InfobipAccount) -> list[ApiKey]:
        """What an account tells of the key that we use."""
        if account.pk not in self._keys:
            enabled = [key for key in self.infobip(account).api_keys() if key.enabled]
            # Infobip may keep the keys' secrets to itself: then only a single one is certainly ours
            ours = [key for key in enabled if key.ours] or (enabled if len(enabled) == 1 else [])
            self._keys[account.pk] = ours
        return self._keys[account.pk]

    def setup_page(self, path: str) -> str:
        return f"{connecting.setup_host(self.way.base_url)}/lightning/setup/{path}"


Check = Callable[[Facts], Iterable[Finding]]
AccountCheck = Callable[[Facts, InfobipAccount], Iterable[Finding]]
checks: dict[str, Check] = {}


def register(title: str) -> Callable[[Check], Check]:
    """Add a check; its title stands where it cannot look."""

    def add(check: Check) -> Check:
        checks[title] = check
        return check

    return add


def _about(check: AccountCheck, account: InfobipAccount) -> Check:
    return lambda facts: check(facts, account)


def register_for_accounts(title: str) -> Callable[[AccountCheck], AccountCheck]:
    """Add a check that looks at each Infobip account by itself: one that does not answer hides no other."""

    def add(check: AccountCheck) -> AccountCheck:
        @register(title)
        def look_at_all(facts: Facts) -> Iterator[Finding]:
            for account in facts.accounts:
                yield from _look(f"{title}: {account.name}", _about(check, account), facts)

        return check

    return add


def examine(org: Org) -> list[Finding]:
    """Make all checks, and keep what was found; what has not answered by ``LONGEST_SECONDS`` counts as not answering."""
    with org_scope(org.pk), time_limit(LONGEST_SECONDS):
        facts = Facts(org)
        findings = [finding for title, check in checks.items() for finding in _look(title, check, facts)]
        kept = [asdict(each) for each in findings]
        Checkup.objects.update_or_create(org=org, defaults={"at": timezone.now(), "findings": kept})
    log.info("examined", org=org.pk, bad=sum(each.state is State.BAD for each in findings))
    return findings


def examine_due() -> int:
    """Examine the connected orgs that were not within a day; one that fails costs no other. Gives how many there were.

    One at a time and each within a time limit; those that are left when the hour is over are examined in the next one.
    """
    until = time.monotonic() + LONGEST_PASS_SECONDS
    with every_org():
        connected = Org.objects.filter(disconnected_at=None, salesforce__isnull=False)
        ids = list(connected.exclude(checkup__at__gt=timezone.now() - DAY).order_by("?").values_list("pk", flat=True))
    for org_id in ids:
        if time.monotonic() > until:
            break
        try:
            with every_org():
                org = Org.objects.get(pk=org_id)
            with time_limit(EXAMINATION_SECONDS):
                examine(org)
        except Exception:  # whatever is wrong with one org, the others are looked at
            log.exception("examination failed", org=org_id)
    return len(ids)


def _look(title: str, check: Check, facts: Facts) -> Iterator[Finding]:
    try:
        yield from check(facts)
    except ApiError as exc:
        why = "It cannot be looked at until the rest is right." if isinstance(exc, AuthenticationFailed) else ""
        yield Finding(title, State.UNKNOWN, f"not looked at: {exc.message}", why=why)
    except UnexpectedPayload as exc:
        yield Finding(title, State.UNKNOWN, f"not looked at: the answer cannot be read ({exc})")
    except Exception:  # a mistake of ours in one check must not hide what the others find
        log.exception("check failed", org=facts.org.pk, check=title)
        yield Finding(title, State.UNKNOWN, "not looked at: the check itself failed; the operator's log says why")


def state(good: bool, otherwise: State = State.BAD) -> State:
    """Turn a yes into GOOD."""
    return State.GOOD if good else otherwise


# here


@register("Stored credentials")
def credentials_can_be_read(facts: Facts) -> Iterator[Finding]:
    rows = [("the Salesforce connection", facts.way), *((f"Infobip account {each.name}", each) for each in facts.accounts)]
    lost = [f"{credential} of {owner}" for owner, row in rows for credential in unreadable(row)]
    yield Finding(
        "Stored credentials",
        state(not lost),
        f"cannot be decrypted: {'; '.join(lost)}" if lost else "all can be decrypted",
        "a key in FIELD_ENCRYPTION_KEYS for each",
        "They are kept encrypted, and what needs one that no key fits does not work.",
        "Let an operator put the key that wrote it back into FIELD_ENCRYPTION_KEYS, or make it anew: a key pair under "
        "“Connect your org” (by “Connect again” where nobody can sign in), API key and secret under “Add Infobip "
        "accounts”, a hand-over token under “Select senders”."
        if lost
        else "",
    )


# Salesforce: the way in


@register("Login to Salesforce")
def login_works(facts: Facts) -> Iterator[Finding]:
    title, expected = "Login to Salesforce", "a token for the integration user"
    why = "Without it nothing is read or sent."
    link = facts.setup_page("ManageExternalClientApplication/home")
    try:
        facts.token  # noqa: B018
    except AuthenticationFailed as exc:
        yield Finding(title, State.BAD, exc.message, expected, why, remedy_of(exc), link)
    except CannotDecrypt:
        raise  # not Salesforce's doing
    except ApiError as exc:
        remedy = "If it stays so, check the address of My Domain, and Salesforce's status page."
        yield Finding(title, State.BAD, exc.message, expected, why, remedy)
    else:
        yield Finding(title, State.GOOD, f"logged in as {facts.way.username}", expected, why)


@register("The org is the one that was connected")
def same_org(facts: Facts) -> Iterator[Finding]:
    good = facts.organization[:15] == facts.org.salesforce_id[:15]
    yield Finding(
        "The org is the one that was connected",
        state(good),
        facts.organization,
        facts.org.salesforce_id,
        "A token of another org would deliver your customers' messages there.",
        "" if good else "Enter the consumer key of this org's own app under “Connect your org”.",
    )


@register("Scopes of the app")
def app_has_scopes(facts: Facts) -> Iterator[Finding]:
    granted = facts.token.scopes
    if not granted:
        return  # Salesforce did not say
    missing = sorted(SCOPES - granted) if "full" not in granted else sorted({"interaction_api"} - granted)
    yield Finding(
        "Scopes of the app",
        state(not missing),
        f"without {', '.join(missing)}" if missing else ", ".join(sorted(SCOPES)),
        ", ".join(sorted(SCOPES)),
        "A login without them works, and then messages (interaction_api) or everything else (api) are refused.",
        "Add the missing scopes to the OAuth settings of your external client app, and wait up to 30 minutes."
        if missing
        else "",
        facts.setup_page("ManageExternalClientApplication/home") if missing else "",
    )


@register("Address of the messaging service")
def messaging_host_fits(facts: Facts) -> Iterator[Finding]:
    derived = connecting.scrt_url_of(facts.way.base_url)
    good = facts.way.scrt_url == derived
    yield Finding(
        "Address of the messaging service",
        state(good, State.WARNING),
        facts.way.scrt_url,
        derived,
        "Customers' messages are delivered to this address; it follows from your My Domain.",
        "" if good else "Correct the SCRT URL under “Connect your org”, unless Setup really shows this other one.",
    )


@register("Our certificate")
def certificate_lasts(facts: Facts) -> Iterator[Finding]:
    ends = connecting.certificate_ends(facts.way.certificate)
    if ends is None:
        return  # the customer's own key: its certificate is in the org only
    days = (ends - datetime.now(UTC)).days
    good = days > CERTIFICATE_DAYS
    yield Finding(
        "Our certificate",
        state(good, State.BAD if days < 0 else State.WARNING),
        f"{days} days left",
        f"more than {CERTIFICATE_DAYS} days",
        "When it ends, every login is refused.",
        "" if good else "Make a new key pair under “Connect your org”, and put its certificate into your app.",
    )


@register("API version")
def version_is_new_enough(facts: Facts) -> Iterator[Finding]:
    title, expected = "API version", f"{OLDEST_VERSION} or newer"
    why = "Older versions name a channel's switches differently."
    try:
        version = facts.rest.version
    except (AuthenticationFailed, CannotDecrypt):
        raise
    except CustomerMustAct as exc:
        yield Finding(
            title,
            State.BAD,
            exc.message,
            expected,
            why,
            "Wait for the org's next release, or ask Salesforce when it comes.",
        )
    else:
        yield Finding(title, State.GOOD, version, expected, why)


@register("API calls left today")
def calls_left(facts: Facts) -> Iterator[Finding]:
    yield from _left(
        facts, "DailyApiRequests", "API calls left today", "Without them roles, templates and set-up cannot be read."
    )


@register("Event deliveries left today")
def deliveries_left(facts: Facts) -> Iterator[Finding]:
    why = "Each message of a rep is an event; when they are used up, reps' messages stop."
    yield from _left(facts, "DailyDeliveredPlatformEvents", "Event deliveries left today", why)


def _left(facts: Facts, name: str, title: str, why: str) -> Iterator[Finding]:
    limit = facts.limits.get(name)
    if limit is None or not limit.most:
        return
    good = limit.remaining > limit.most * LEAST_LEFT
    remedy = "" if good else "Ask your Salesforce account executive for more, or hide the typing indicator of the channel."
    found = f"{limit.remaining:,} of {limit.most:,}"
    yield Finding(title, state(good, State.WARNING), found, f"more than {LEAST_LEFT:.0%}", why, remedy)


# Salesforce: the event


def _events(facts: Facts) -> Iterator[tuple[Channel, dict[str, Field] | None]]:
    seen: set[str] = set()
    for channel in facts.channels:
        if channel.custom_event_name not in seen:
            seen.add(channel.custom_event_name)
            yield channel, facts.fields(channel.custom_event_name)


@register("Platform event")
def event_is_there(facts: Facts) -> Iterator[Finding]:
    for channel, fields in _events(facts):
        wanted = {channel.custom_event_type_field, channel.custom_event_payload_field}
        missing = wanted - set(fields or {})
        found = (
            "not there, or hidden from our user"
            if fields is None
            else f"without {', '.join(sorted(missing))}"
            if missing
            else "there, with both fields"
        )
        yield Finding(
            f"Platform event {channel.custom_event_name}",
            state(not missing),
            found,
            f"the event with {' and '.join(sorted(wanted))}",
            "What reps write leaves Salesforce as this event.",
            "Install the package under “Set up the BYOC connection”." if missing else "",
            facts.setup_page("EventObjects/home") if missing else "",
        )


@register("Stream of the platform event")
def stream_may_be_read(facts: Facts) -> Iterator[Finding]:
    for event in sorted({channel.custom_event_name for channel in facts.channels}):
        may = facts.may_read(event)
        yield Finding(
            f"Stream of {event}",
            state(bool(may)),
            "may be read" if may else "there is no such stream" if may is None else "our user may not read it",
            "a stream that the integration user may read",
            "By it reps' messages come to us.",
            ""
            if may
            else "Install the package under “Set up the BYOC connection”."
            if may is None
            else "Assign the permission set Infobip_Connector to the integration user, or give it Read on the event.",
            "" if may else facts.setup_page("EventObjects/home" if may is None else "PermSets/home"),
        )


@register("Fields of the platform event")
def fields_are_long_enough(facts: Facts) -> Iterator[Finding]:
    for channel, fields in _events(facts):
        known = fields or {}
        needed = {channel.custom_event_type_field: TYPE_LENGTH, channel.custom_event_payload_field: PAYLOAD_LENGTH}
        short = [name for name, length in needed.items() if name in known and known[name].length < length]
        yield Finding(
            f"Fields of {channel.custom_event_name}",
            state(not short),
            ", ".join(f"{name}: {known[name].length}" for name in needed if name in known) or "no fields",
            ", ".join(f"{name}: {length} or more" for name, length in needed.items()),
            "A payload that does not fit is not published, and the rep's message is gone.",
            f"Lengthen {', '.join(short)} in Setup." if short else "",
            facts.setup_page("EventObjects/home") if short else "",
        )


@register("Access of Salesforce's messaging service to the event")
def service_may_publish(facts: Facts) -> Iterator[Finding]:
    sets = facts.rest.query("SELECT Id FROM PermissionSet WHERE Name = 'sfdc_scrt2'")
    set_id = str(sets[0]["Id"]) if sets else ""
    for event in sorted({channel.custom_event_name for channel in facts.channels}):
        rows = facts.rest.query(
            "SELECT Id, PermissionsRead, PermissionsCreate FROM ObjectPermissions "
            f"WHERE ParentId = {soql_text(set_id)} AND SobjectType = {soql_text(event)}"
        )
        read, create = (bool(rows and rows[0].get(f"Permissions{right}")) for right in ("Read", "Create"))
        good = read and create
        yield Finding(
            f"Access of Salesforce's messaging service to {event}",
            state(good),
            f"read: {'yes' if read else 'no'}, create: {'yes' if create else 'no'}",
            "read and create, by the permission set sfdc_scrt2",
            "Without it reps' messages look sent in the console, and no event ever comes.",
            "" if good else "Choose “Install for me” again, or give the permission set SCRT2 Integration User both rights.",
            "" if good else facts.setup_page("PermSets/home"),
        )


# Salesforce: the channel


@register("Channel definition")
def definition_is_there(facts: Facts) -> Iterator[Finding]:
    for channel in facts.channels:
        good = channel.authorization_context in facts.definitions
        yield Finding(
            f"Channel definition of {channel.name}",
            state(good),
            channel.authorization_context if good else f"{channel.authorization_context} is not there",
            f"one of {', '.join(sorted(facts.definitions)) or 'none yet'}",
            "Each message names it as its authorization context; another word is refused.",
            "" if good else "Correct the authorization context under “Configure the application”, or install the package.",
        )


def _defined(facts: Facts) -> Iterator[tuple[Channel, dict[str, Any]]]:
    for channel in facts.channels:
        if definition := facts.definitions.get(channel.authorization_context):
            yield channel, definition


@register("Vendor of the channel definition")
def vendor_type_fits(facts: Facts) -> Iterator[Finding]:
    for channel, definition in _defined(facts):
        if not definition.get("ConversationVendorInfoId"):
            continue  # the form without a vendor: right for an org's own app
        kind = str((definition.get("ConversationVendorInfo") or {}).get("VendorType"))
        good = kind == "BringYourOwnChannelPartner"
        yield Finding(
            f"Vendor of {channel.authorization_context}",
            state(good),
            kind,
            "BringYourOwnChannelPartner",
            "Another type belongs to another product, and its channels refuse our messages.",
            "" if good else "Delete the vendor info and the channel definition, then install the package again.",
        )


@register("Owners of routing and consent")
def owners_fit(facts: Facts) -> Iterator[Finding]:
    for channel, definition in _defined(facts):
        owners = [str(definition.get("RoutingOwner")), str(definition.get("ConsentOwner"))]
        good = owners == ["Salesforce", "Salesforce"]
        yield Finding(
            f"Owners of routing and consent of {channel.authorization_context}",
            state(good),
            f"routing: {owners[0]}, consent: {owners[1]}",
            "Salesforce for both",
            "Otherwise Salesforce waits for us to route, and no rep ever sees a session.",
            "" if good else "Delete the channel definition and install the package again.",
        )


@register("Event of the channel definition")
def definition_names_event(facts: Facts) -> Iterator[Finding]:
    for channel, definition in _defined(facts):
        event = str(definition.get("CustomPlatformEvent"))
        found = [event, *(_bare(definition.get(f"CustomEvent{part}Field"), event) for part in ("Type", "Payload"))]
        expected = [channel.custom_event_name, channel.custom_event_type_field, channel.custom_event_payload_field]
        good = found == expected
        yield Finding(
            f"Event of {channel.authorization_context}",
            state(good),
            ", ".join(found),
            ", ".join(expected),
            "We listen to this event and read these fields.",
            "" if good else "Save the channel again under “Configure the application”: it takes the names from the org.",
        )


def _bare(name: object, event: str) -> str:
    return str(name or "").removeprefix(f"{event}.")


@register("Messaging channel")
def channel_is_there(facts: Facts) -> Iterator[Finding]:
    link = facts.setup_page("LiveMessageSetup/home")
    if not facts.channels:
        remedy = "Create it in Messaging Settings, then choose it under “Configure the application”."
        yield Finding("Messaging channel", State.BAD, "none is chosen", "one", "Sessions open on it.", remedy, link)
    for channel in facts.channels:
        good = channel.channel_address_identifier in facts.messaging_channels
        yield Finding(
            f"Messaging channel {channel.name}",
            state(good),
            "there" if good else "no custom channel has its address",
            channel.channel_address_identifier,
            "Messages are addressed to it.",
            "" if good else "It was deleted or made anew: choose it again under “Configure the application”.",
            "" if good else link,
        )


def _made(facts: Facts) -> Iterator[tuple[Channel, dict[str, Any]]]:
    for channel in facts.channels:
        if row := facts.messaging_channels.get(channel.channel_address_identifier):
            yield channel, row


@register("Messaging channel is active")
def channel_is_active(facts: Facts) -> Iterator[Finding]:
    for channel, row in _made(facts):
        good = bool(row.get("IsActive"))
        yield Finding(
            f"{channel.name} is active",
            state(good),
            "active" if good else "not active",
            "active",
            "On a channel that is not active a session opens and is never routed: the customer hears nothing.",
            "" if good else "Open the channel in Messaging Settings, and choose Activate.",
            "" if good else facts.setup_page("LiveMessageSetup/home"),
        )


@register("Routing of the channel")
def channel_is_routed(facts: Facts) -> Iterator[Finding]:
    for channel, row in _made(facts):
        good = bool(row.get("SessionHandlerId") or row.get("TargetQueueId"))
        yield Finding(
            f"Routing of {channel.name}",
            state(good),
            str(row.get("RoutingType") or "") or ("set" if good else "not set"),
            "a flow or a queue",
            "Without it sessions wait for ever.",
            "" if good else "Choose the flow “Infobip Route Session” under Omni-Channel Routing of the channel.",
            "" if good else facts.setup_page("LiveMessageSetup/home"),
        )


@register("Record that joins channel and definition")
def custom_channel_is_there(facts: Facts) -> Iterator[Finding]:
    for channel, row in _made(facts):
        good = str(row["Id"]) in facts.custom_channels
        yield Finding(
            f"Record that joins {channel.name} and its definition",
            state(good, State.WARNING),
            "there" if good else "there is no CustomMsgChannel row",
            "one",
            "Setup does not always make it; without it channels were seen to behave erratically.",
            "" if good else "Let us create it.",
            fix="" if good else "join",
            about=channel.channel_address_identifier,
        )


@register("Delivered and read marks")
def receipts_are_on(facts: Facts) -> Iterator[Finding]:
    for channel, row in _made(facts):
        joined = facts.custom_channels.get(str(row["Id"]))
        if joined is None:
            continue
        good = bool(joined.get("HasInboundReceipts"))
        yield Finding(
            f"Delivered and read marks of {channel.name}",
            state(good, State.WARNING),
            "on" if good else "off",
            "on",
            "Otherwise reps do not see whether their messages arrived.",
            "" if good else "Let us switch them on, or do it on the channel's page in Messaging Settings.",
            "" if good else facts.setup_page("LiveMessageSetup/home"),
            "" if good else "receipts",
            channel.channel_address_identifier,
        )


@register("Texts that are sent twice")
def texts_are_not_doubled(facts: Facts) -> Iterator[Finding]:
    """Salesforce tells no API which automatic responses a channel has: those that came are what is known."""
    for channel in facts.channels:
        ours = [name for name, text in (("welcome", channel.welcome_message), ("closing", channel.closing_message)) if text]
        seen = automatic_seen_at(channel.pk)
        good = not (ours and channel.forward_automatic and seen)
        yield Finding(
            f"Texts of {channel.name}",
            state(good, State.WARNING),
            "sent once"
            if good
            else f"our {' and '.join(ours)}, and the channel's own automatic responses (the last one at {seen})",
            "either our texts or the channel's automatic responses",
            "With both, customers are greeted twice.",
            ""
            if good
            else "Switch the automatic responses of the channel off in Messaging Settings, or under “Texts and hand-over” "
            "empty our texts or send on no automatic responses.",
            "" if good else facts.setup_page("LiveMessageSetup/home"),
        )


@register("Conversation history")
def history_may_be_imported(facts: Facts) -> Iterator[Finding]:
    for channel in facts.channels:
        if channel.transcript != TranscriptForm.NATIVE:
            continue
        refused = facts.way.history_refused_at
        yield Finding(
            f"Conversation history of {channel.name}",
            state(refused is None, State.WARNING),
            f"refused by Salesforce on {refused:%d %B %Y}" if refused else "chosen, and not refused",
            "an org that may import history",
            "Until then reps see what was said with the chatbot as one message per line.",
            "Choose another form under “Texts and hand-over”; or, once Salesforce permits it, let us try it again."
            if refused
            else "",
            fix="history" if refused else "",
        )


# Salesforce: routing and people


@register("Queue for sessions")
def queue_takes_sessions(facts: Facts) -> Iterator[Finding]:
    rows = facts.queues
    yield Finding(
        "Queue for sessions",
        state(bool(rows)),
        f"{len(rows)}" if rows else "none",
        "at least one queue that takes messaging sessions",
        "New sessions are put into it.",
        "" if rows else "Install the package, or add Messaging Session to a queue's supported objects.",
        "" if rows else facts.setup_page("Queues/home"),
    )


@register("Routing configuration of the queue")
def queue_has_routing(facts: Facts) -> Iterator[Finding]:
    queues = facts.queues
    if not queues:
        return
    without = [str(queue["DeveloperName"]) for queue in queues if not queue.get("QueueRoutingConfigId")]
    yield Finding(
        "Routing configuration of the queue",
        state(len(without) < len(queues)),
        f"missing for {', '.join(without)}" if without else "there",
        "a routing configuration",
        "Omni-Channel pushes work only from queues that have one.",
        "Open the queue in Setup and choose “Infobip Routing”." if without else "",
        facts.setup_page("Queues/home") if without else "",
    )


@register("Members of the queue")
def queue_has_members(facts: Facts) -> Iterator[Finding]:
    queues = facts.queues
    if not queues:
        return
    ids = ", ".join(soql_text(str(queue["Id"])) for queue in queues)
    members = facts.rest.query(f"SELECT Id FROM GroupMember WHERE GroupId IN ({ids})")
    yield Finding(
        "Members of the queue",
        state(bool(members), State.WARNING),
        f"{len(members)}" if members else "none",
        "the reps who answer",
        "Sessions wait until somebody is a member and online.",
        "" if members else "Add your reps to the queue.",
        "" if members else facts.setup_page("Queues/home"),
    )


@register("Routing flow")
def flow_is_active(facts: Facts) -> Iterator[Finding]:
    rows = facts.rest.query(
        "SELECT ApiName, ActiveVersionId, ProcessType FROM FlowDefinitionView WHERE ApiName = 'Infobip_Route_Session'"
    )
    if not rows:
        return  # the customer routes with a flow or a queue of their own
    good = bool(rows[0].get("ActiveVersionId"))
    yield Finding(
        "Routing flow",
        state(good),
        "active" if good else "not active",
        "active",
        "In production orgs Salesforce deploys flows switched off; sessions are not routed then.",
        "" if good else "Open “Infobip Route Session” in Flows, and choose Activate.",
        "" if good else facts.setup_page("Flows/home"),
    )


@register("Service Cloud User")
def user_is_service_user(facts: Facts) -> Iterator[Finding]:
    good = bool(facts.user.get("UserPermissionsSupportUser"))
    yield Finding(
        "Service Cloud User",
        state(good),
        "ticked" if good else "not ticked",
        "ticked, on the integration user",
        "Without it the Interaction Service refuses messages for a missing permission.",
        "" if good else "Edit the user, and tick Service Cloud User.",
        "" if good else facts.setup_page("ManageUsers/home"),
        "" if good else "service user",
    )


@register("Licences of the integration user")
def user_has_licences(facts: Facts) -> Iterator[Finding]:
    rows = facts.rest.query(
        "SELECT PermissionSetLicense.MasterLabel FROM PermissionSetLicenseAssign "
        f"WHERE AssigneeId = {soql_text(str(facts.user.get('Id', '')))}"
    )
    held = {str((row.get("PermissionSetLicense") or {}).get("MasterLabel")) for row in rows}
    missing = [name for name in LICENCES if name not in held]
    yield Finding(
        "Licences of the integration user",
        state(not missing),
        f"missing: {', '.join(missing)}" if missing else "all four",
        ", ".join(LICENCES),
        "Salesforce refuses messages of a user without them (errors 15105 and 10099).",
        "Assign them on the user's page, under Permission Set License Assignments." if missing else "",
        facts.setup_page("ManageUsers/home") if missing else "",
    )


@register("Permission set of the integration user")
def user_has_permission_set(facts: Facts) -> Iterator[Finding]:
    good = "Infobip_Connector" in facts.permission_sets
    yield Finding(
        "Permission set of the integration user",
        state(good, State.WARNING),
        "Infobip_Connector" if good else "Infobip_Connector is not assigned",
        "Infobip_Connector",
        "It lets the user log in through the app, and read the event.",
        "" if good else "Assign it on the user's page.",
        "" if good else facts.setup_page("PermSets/home"),
    )


@register("Permission set of the reps")
def reps_have_permission_set(facts: Facts) -> Iterator[Finding]:
    rows = facts.rest.query("SELECT AssigneeId FROM PermissionSetAssignment WHERE PermissionSet.Name = 'Infobip_Agent'")
    yield Finding(
        "Permission set of the reps",
        state(bool(rows), State.WARNING),
        f"assigned {len(rows)} times" if rows else "nobody has Infobip_Agent",
        "your reps",
        "It opens the templates panel to them.",
        "" if rows else "Assign Infobip_Agent to your reps.",
        "" if rows else facts.setup_page("PermSets/home"),
    )


# Infobip


@register("Infobip account")
def account_is_there(facts: Facts) -> Iterator[Finding]:
    if not facts.accounts:
        yield Finding(
            "Infobip account",
            State.BAD,
            "none",
            "one",
            "Messages go out through it.",
            "Add it under “Add Infobip accounts”.",
        )


@register_for_accounts("API key of Infobip")
def key_works(facts: Facts, account: InfobipAccount) -> Iterator[Finding]:
    title = f"API key of {account.name}"
    why = "Without it reps cannot answer."
    try:
        probe = facts.infobip(account).probe_scopes()
    except AuthenticationFailed as exc:
        remedy = "It was disabled, has expired, or may be used from other addresses only. Enter another one."
        yield Finding(title, State.BAD, exc.message, "accepted", why, remedy)
        return
    missing = [each for each in probe.capabilities if each.state == "missing"]
    needed = {"two-way messaging"} | ({"transcripts"} if account.senders.filter(chatbot_first=True).exists() else set())
    bad = [each for each in missing if each.name in needed]
    yield Finding(
        title,
        State.BAD if bad else State.WARNING if missing else State.GOOD,
        "; ".join(f"{each.scope} is missing: {connecting.COSTS.get(each.name, each.name)}" for each in missing)
        or "all scopes",
        "the scopes that the features need",
        why,
        "Give the key these scopes in Infobip's portal, Developer tools, API keys." if missing else "",
    )


@register_for_accounts("Life of Infobip's API key")
def key_lasts(facts: Facts, account: InfobipAccount) -> Iterator[Finding]:
    for key in facts.own_keys(account):
        if key.valid_to is None:
            continue
        days = (key.valid_to - datetime.now(UTC)).days
        good = days > KEY_DAYS
        yield Finding(
            f"Life of the API key of {account.name}",
            state(good, State.BAD if days < 0 else State.WARNING),
            f"{days} days left",
            f"more than {KEY_DAYS} days",
            "When it ends, reps cannot answer any more.",
            "" if good else "Make a new key in Infobip's portal, and enter it under “Add Infobip accounts”.",
        )


@register_for_accounts("Addresses of Infobip's API key")
def key_is_open_to_us(facts: Facts, account: InfobipAccount) -> Iterator[Finding]:
    ours = settings.OUTBOUND_ADDRESSES
    for key in facts.own_keys(account):
        allowed = key.allowed_addresses
        outside = [each for each in ours if not _is_among(each, allowed)]
        good = not allowed or (bool(ours) and not outside)
        yield Finding(
            f"Addresses of the API key of {account.name}",
            state(good, State.BAD if outside else State.WARNING),
            f"only {', '.join(allowed)}" if allowed else "any",
            f"any, or at least {', '.join(ours)}" if ours else "any",
            "From an address that is not listed every call is refused, and reps cannot answer.",
            ""
            if good
            else f"Add {', '.join(outside)} to the key's addresses in Infobip's portal."
            if outside
            else "Take the list off the key in Infobip's portal: the addresses that we call from may change at any time.",
        )


def _is_among(address: str, allowed: Iterable[str]) -> bool:
    for each in allowed:
        try:
            if ip_address(address) in ip_network(each, strict=False):
                return True
        except ValueError:  # a form that we do not know
            continue
    return False


@register_for_accounts("Subscription to WhatsApp events")
def events_come_to_us(facts: Facts, account: InfobipAccount) -> Iterator[Finding]:
    client = facts.infobip(account)
    subscriptions = client.subscriptions("WHATSAPP")
    profiles = {name: client.profile(name) for name in sorted({each.profile_id for each in subscriptions})}
    reaching = {
        name: each for name, each in profiles.items() if each is not None and each.notify_url == account.webhook_url
    }
    for_messages = [each for each in subscriptions if "INBOUND_MESSAGE" in each.events]
    ours = [reaching[each.profile_id] for each in for_messages if each.profile_id in reaching]
    yield Finding(
        f"Subscription of {account.name}",
        state(bool(ours)),
        "there" if ours else "its profile posts elsewhere" if for_messages else "none for inbound messages",
        f"inbound messages posted to {account.webhook_url}",
        "Otherwise nothing that customers write arrives.",
        "" if ours else "Let us create the subscription, or create it in Infobip's portal.",
        fix="" if ours else "subscribe",
        about=str(account.uuid),
    )
    if not ours:
        return
    signed = all(each.signed for each in ours)
    yield Finding(
        f"Signature of {account.name}'s events",
        state(signed),
        "HMAC" if signed else "no HMAC authentication",
        "HMAC authentication on the notification profile",
        "Events without a signature could come from anybody; they are refused.",
        ""
        if signed
        else "Add HMAC authentication with our secret to the profile, or let us replace the subscription by a signed one.",
        fix="" if signed else "subscribe",
        about=str(account.uuid),
    )
    events = frozenset[str]().union(*(each.events for each in subscriptions if each.profile_id in reaching))
    lacking = [name for name in ("DELIVERY", "SEEN") if name not in events]
    yield Finding(
        f"Delivery and seen events of {account.name}",
        state(not lacking, State.WARNING),
        f"without {', '.join(lacking)}" if lacking else "both",
        "DELIVERY and SEEN",
        "They are the second way by which reps see ticks.",
        "Let us add them to the subscription." if lacking else "",
        fix="subscribe" if lacking else "",
        about=str(account.uuid),
    )


@register("Senders")
def senders_are_chosen(facts: Facts) -> Iterator[Finding]:
    for channel in facts.channels:
        count = channel.senders.count()
        yield Finding(
            f"Senders of {channel.name}",
            state(bool(count)),
            f"{count}" if count else "none",
            "at least one WhatsApp number",
            "Customers write to it, and answers leave by it.",
            "" if count else "Choose one under “Select senders”.",
        )


@register_for_accounts("Forwarding of the senders")
def numbers_follow_subscription(facts: Facts, account: InfobipAccount) -> Iterator[Finding]:
    for sender in account.senders.order_by("number"):
        ways = facts.infobip(account).inbound_configurations(sender.number)
        bypass = [each for each in ways if each.bypasses_subscription and not each.keyword]
        by_keyword = [each.keyword for each in ways if each.bypasses_subscription and each.keyword]
        good = not bypass and not by_keyword
        where = ", ".join(each.forwarding_url or each.forwarding_type for each in bypass)
        yield Finding(
            f"Forwarding of +{sender.number}",
            state(good, State.BAD if bypass else State.WARNING),
            "follows the subscription"
            if good
            else f"forwarded to {where}"
            if bypass
            else f"messages with {', '.join(by_keyword)} go elsewhere",
            "“Apply subscription”",
            "A forwarding of the number itself wins over the subscription, and nothing arrives here.",
            "" if good else "In Infobip's portal open the number, Forwarding action, and choose “Apply subscription”.",
        )


@register_for_accounts("State of the senders at WhatsApp")
def senders_are_connected(facts: Facts, account: InfobipAccount) -> Iterator[Finding]:
    numbers = list(account.senders.values_list("number", flat=True))
    if not numbers:
        return
    for number, quality in facts.infobip(account).qualities(numbers).items():
        good = quality.status in ("CONNECTED", "UNKNOWN", "")
        yield Finding(
            f"State of +{number} at WhatsApp",
            state(good, State.WARNING),
            f"{quality.status.lower() or 'unknown'}, quality {quality.rating.lower() or 'unknown'}",
            "connected",
            "A sender that is flagged, restricted or disconnected loses messages.",
            "" if good else "Look at the sender in Infobip's portal.",
        )


@register_for_accounts("Chatbot conversations")
def chatbots_tell_us(facts: Facts, account: InfobipAccount) -> Iterator[Finding]:
    if not account.senders.filter(chatbot_first=True).exists():
        return
    mine = facts.infobip(account).subscriptions("CUSTOMER_ENGAGEMENT")
    good = any("CONVERSATION_MESSAGE_RECEIVED" in each.events for each in mine)
    yield Finding(
        f"Chatbot conversations of {account.name}",
        state(good, State.WARNING),
        "subscribed" if good else "no subscription to conversation messages",
        "CONVERSATION_MESSAGE_RECEIVED",
        "By them a conversation is recognised when the chatbot hands it over.",
        "" if good else "Let us create the subscription.",
        fix="" if good else "subscribe",
        about=str(account.uuid),
    )


@register_for_accounts("Hand-over of chatbots")
def chatbots_may_hand_over(facts: Facts, account: InfobipAccount) -> Iterator[Finding]:
    if not account.senders.filter(chatbot_first=True).exists():
        return
    good = bool(account.handover_token)
    yield Finding(
        f"Hand-over token of {account.name}",
        state(good),
        "there" if good else "none",
        "a token, in the chatbot's Call API step",
        "A chatbot's call without it is refused, and nobody is handed over.",
        "" if good else "Make one under “Select senders”, and put it into the step.",
    )


# at our door


@register_for_accounts("Webhooks that were refused")
def nothing_is_refused(facts: Facts, account: InfobipAccount) -> Iterator[Finding]:
    counts = refusals_today(account.pk)
    yield Finding(
        f"Webhooks of {account.name} refused today",
        state(not counts, State.WARNING),
        ", ".join(f"{reason}: {count}" for reason, count in sorted(counts.items())) or "none",
        "none",
        "What is refused comes again for some hours, and is lost then.",
        "Compare the secret of the notification profile with ours under “Add Infobip accounts”." if counts else "",
    )


@register_for_accounts("Webhook secret in use")
def new_secret_is_used(facts: Facts, account: InfobipAccount) -> Iterator[Finding]:
    if not account.previous_webhook_secret:
        return
    used = old_secret_used_at(account.pk)
    yield Finding(
        f"Webhook secret of {account.name}",
        State.WARNING,
        f"the old one was last used {used}" if used else "the old one is not used any more",
        "the new one only",
        "A secret that was changed should not open the door for ever.",
        "Put the new secret into the notification profile." if used else "Choose “Accept the new one only”.",
    )


# what a button can do


def fix(org: Org, name: str, about: str, *, who: str) -> None:
    """Do what the button of a finding offers.

    :raises SetupProblem: if it cannot be done; the text says why
    """
    facts = Facts(org)
    try:
        if name == "subscribe":
            account = next((each for each in facts.accounts if str(each.uuid) == about), None)
            if account is None:
                return
            connecting.subscribe(account, who=who)
        elif name == "history":
            SalesforceConnection.objects.filter(org=org).update(history_refused_at=None)
        elif name == "service user":
            facts.rest.update("User", str(facts.user["Id"]), {"UserPermissionsSupportUser": True})
        elif name == "join":
            row = facts.messaging_channels[about]
            fields = {"MessagingChannelId": row["Id"], "ChannelDefinitionId": row["ChannelDefinitionId"]}
            facts.rest.create("CustomMsgChannel", {**fields, "HasInboundReceipts": True, "HasTypingIndicator": True})
        elif name == "receipts":
            joined = facts.custom_channels[str(facts.messaging_channels[about]["Id"])]
            facts.rest.update("CustomMsgChannel", str(joined["Id"]), {"HasInboundReceipts": True})
        else:
            return
    except KeyError as exc:
        raise SetupProblem({"": "What this was about is no longer there. Look again."}) from exc
    except ServiceUnavailable as exc:
        raise SetupProblem({"": f"Salesforce does not answer now ({exc.message}). Try again in some minutes."}) from exc
    except ApiError as exc:
        raise SetupProblem(
            {"": f"Salesforce does not let our integration user do it ({exc.message}). Follow the remedy by hand."}
        ) from exc
    org.audit(who, "let the doctor mend", name)
