"""What the checks know of an org, each thing read when the first check asks for it."""

from typing import Any

from django.conf import settings
from django.utils.functional import cached_property

from connector.http import ApiError
from connector.infobip.setup import ApiKey, SetupClient
from connector.salesforce.auth import AccessToken
from connector.salesforce.pubsub.channel import may_subscribe
from connector.salesforce.rest import Field, Limit, RestClient, soql_text
from tenants import connecting
from tenants.models import Channel, InfobipAccount, Org, Sender


class OrgSnapshot:
    """An org as it is during one run of the doctor.

    The cached properties are Django's: before Python 3.12 those of functools have one lock for all orgs.
    """

    def __init__(self, org: Org) -> None:
        self.org = org
        self.connection = org.salesforce
        self._keys: dict[int, list[ApiKey]] = {}

    def read_rows(self) -> None:
        """Read all that is wanted of our own rows, so that no connection to the database is held during calls."""
        self.channels, self.accounts, self.senders  # noqa: B018

    @property
    def token(self) -> AccessToken:
        """What a login of now gives; one that failed is not tried again by each check, which would take all the time.

        :raises ApiError: if Salesforce refuses or does not answer
        """
        if isinstance(self._login, ApiError):
            raise self._login.with_traceback(None)
        return self._login

    @cached_property
    def _login(self) -> AccessToken | ApiError:
        try:
            return connecting.log_in(self.connection)
        except ApiError as exc:
            return exc

    @property
    def organization(self) -> str:
        """The id of the org that lets us in."""
        return self.token.org_id

    @cached_property
    def rest(self) -> RestClient:
        self.token  # noqa: B018  # without a login every question would be refused, with a worse reason
        return self.connection.rest()

    @cached_property
    def channels(self) -> list[Channel]:
        return list(self.org.channels.order_by("name"))

    @cached_property
    def accounts(self) -> list[InfobipAccount]:
        return list(self.org.infobip_accounts.order_by("name"))

    @cached_property
    def senders(self) -> list[Sender]:
        return list(self.org.senders.order_by("number"))

    def senders_of(self, account: InfobipAccount) -> list[Sender]:
        """Give the numbers of an account."""
        return [each for each in self.senders if each.account_id == account.pk]

    def has_chatbot(self, account: InfobipAccount) -> bool:
        """Tell whether a chatbot has the first word on one of an account's numbers."""
        return any(each.chatbot_first for each in self.senders_of(account))

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
            f"SELECT Id, UserPermissionsSupportUser FROM User WHERE Username = {soql_text(self.connection.username)}"
        )
        return rows[0] if rows else {}

    @cached_property
    def permission_sets(self) -> set[str]:
        """The names of the integration user's permission sets."""
        rows = self.rest.query(
            "SELECT PermissionSet.Name FROM PermissionSetAssignment "
            f"WHERE AssigneeId = {soql_text(str(self.user.get('Id', '')))}"
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
            self.connection.pubsub_endpoint or settings.SALESFORCE_PUBSUB_ENDPOINT,
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
        """Give the address of a page in the org's Setup."""
        return f"{connecting.setup_host(self.connection.base_url)}/lightning/setup/{path}"
