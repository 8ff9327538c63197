"""Checks of the connection to the Salesforce org: its login, app, hosts, and what it may still use today."""

from collections.abc import Iterator
from datetime import UTC, datetime

from connector.http import ApiError, AuthenticationFailed, CustomerMustAct
from connector.salesforce.auth import remedy_of
from connector.salesforce.rest import OLDEST_VERSION
from tenants import connecting
from tenants.doctor.checks import Seen, State, check
from tenants.doctor.snapshot import OrgSnapshot
from tenants.encryption import CannotDecrypt, unreadable

CERTIFICATE_DAYS = 30
SCOPES = frozenset({"api", "interaction_api"})  # of a token; what else the app needs, its login asks for
LEAST_LEFT = 0.1  # of an allocation
APP = "ManageExternalClientApplication/home"


@check(
    "Stored credentials",
    expected="all can be decrypted",
    why="Credentials are stored encrypted. What needs one that cannot be decrypted does not work.",
    remedy="Ask your operator to restore the key that encrypted it to FIELD_ENCRYPTION_KEYS. Or create it anew: a key pair "
    "under “Connect your org” (through “Connect again” if nobody can sign in), an API key or a webhook secret under “Add "
    "Infobip accounts”, a hand-over token under “Select senders”.",
)
def credentials_can_be_read(org: OrgSnapshot) -> Iterator[Seen]:
    rows = [
        ("the Salesforce connection", org.connection),
        *((f"Infobip account {each.name}", each) for each in org.accounts),
    ]
    lost = [f"{credential} of {owner}" for owner, row in rows for credential in unreadable(row)]
    yield Seen(ok=not lost, found=f"cannot be decrypted: {'; '.join(lost)}" if lost else "all can be decrypted")


@check(
    "Login to Salesforce",
    expected="a login as the integration user",
    why="Without a login, messages are neither read nor sent.",
)
def login_works(org: OrgSnapshot) -> Iterator[Seen]:
    try:
        org.token  # noqa: B018
    except AuthenticationFailed as exc:
        yield Seen(ok=False, found=exc.message, remedy=remedy_of(exc), page=APP)
    except CannotDecrypt:
        raise  # not Salesforce's doing
    except ApiError as exc:
        remedy = "If this continues, check the My Domain URL, and the status of your org on status.salesforce.com."
        yield Seen(ok=False, found=exc.message, remedy=remedy)
    else:
        yield Seen(ok=True, found=f"logged in as {org.connection.username}")


@check(
    "Org ID",
    why="A token from another org would deliver your customers' messages to that org.",
    remedy="Under “Connect your org”, enter the consumer key of the external client app in this org.",
)
def same_org(org: OrgSnapshot) -> Iterator[Seen]:
    wanted = org.org.salesforce_id
    yield Seen(ok=org.organization[:15] == wanted[:15], found=org.organization, expected=wanted)


@check(
    "OAuth scopes of the external client app",
    expected=", ".join(sorted(SCOPES)),
    why="Without them the login succeeds, but messages (interaction_api) or all other requests (api) are refused.",
    remedy="Add the missing scopes to the OAuth settings of your external client app, and wait up to 30 minutes.",
    page=APP,
)
def app_has_scopes(org: OrgSnapshot) -> Iterator[Seen]:
    granted = org.token.scopes
    if not granted:
        return  # Salesforce did not say
    missing = sorted(SCOPES - granted) if "full" not in granted else sorted({"interaction_api"} - granted)
    yield Seen(ok=not missing, found=f"missing: {', '.join(missing)}" if missing else ", ".join(sorted(SCOPES)))


@check(
    "SCRT URL",
    why="Customers' messages are delivered to this URL. It follows from your My Domain.",
    remedy="Correct the SCRT URL under “Connect your org”, unless Setup really shows a different one.",
    otherwise=State.WARNING,
)
def messaging_host_fits(org: OrgSnapshot) -> Iterator[Seen]:
    derived = connecting.scrt_url_of(org.connection.base_url)
    yield Seen(ok=org.connection.scrt_url == derived, found=org.connection.scrt_url, expected=derived)


@check(
    "Certificate",
    expected=f"valid for more than {CERTIFICATE_DAYS} days",
    why="Once the certificate expires, every login is refused.",
    remedy="Create a new key pair under “Connect your org”, and upload its certificate to your external client app.",
)
def certificate_lasts(org: OrgSnapshot) -> Iterator[Seen]:
    ends = connecting.certificate_ends(org.connection.certificate)
    if ends is None:
        return  # the customer's own key: its certificate is in the org only
    days = (ends - datetime.now(UTC)).days
    bad = State.FAILED if days < 0 else State.WARNING
    yield Seen(ok=days > CERTIFICATE_DAYS, found=f"expires in {days} days", otherwise=bad)


@check(
    "Salesforce API version",
    expected=f"{OLDEST_VERSION} or later",
    why="Earlier versions name the settings of a messaging channel differently.",
    remedy="Wait for your org's next Salesforce release, or ask Salesforce when your org gets it.",
)
def version_is_new_enough(org: OrgSnapshot) -> Iterator[Seen]:
    try:
        version = org.rest.version
    except (AuthenticationFailed, CannotDecrypt):
        raise  # says nothing of the version
    except CustomerMustAct as exc:
        yield Seen(ok=False, found=exc.message)
    else:
        yield Seen(ok=True, found=version)


MORE = "Ask your Salesforce account executive for more, or turn off the typing indicator of the channel."


@check(
    "API requests left today",
    expected=f"more than {LEAST_LEFT:.0%}",
    why="Without API requests, roles, templates and setup data cannot be read.",
    remedy=MORE,
    otherwise=State.WARNING,
)
def requests_left(org: OrgSnapshot) -> Iterator[Seen]:
    yield from _left(org, "DailyApiRequests")


@check(
    "Platform event deliveries left today",
    expected=f"more than {LEAST_LEFT:.0%}",
    why="Each message of a rep is an event. Once they are used up, reps' messages no longer reach customers.",
    remedy=MORE,
    otherwise=State.WARNING,
)
def deliveries_left(org: OrgSnapshot) -> Iterator[Seen]:
    yield from _left(org, "DailyDeliveredPlatformEvents")


def _left(org: OrgSnapshot, name: str) -> Iterator[Seen]:
    limit = org.limits.get(name)
    if limit is None or not limit.most:
        return
    yield Seen(ok=limit.remaining > limit.most * LEAST_LEFT, found=f"{limit.remaining:,} of {limit.most:,}")
