"""The records that set-up deals with: users, rights, definitions, routing, pages, and the external client app.

Each record is a dataclass named as its SObject, and its attributes are the API's field names in snake case. So queries,
descriptions and the edits of the control API need no further mapping. What no query shows is marked ``hidden``.
"""

import secrets
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, TypeVar

PRE_AUTHORIZED, SELF_AUTHORIZED = "AdminApprovedPreAuthorized", "AllSelfAuthorized"
SCOPES = {  # by their names in metadata
    "Api": "api",
    "RefreshToken": "refresh_token",
    "Interaction": "interaction_api",
    "OpenID": "openid",
    "Basic": "id",
    "Profile": "profile",
    "Email": "email",
    "Web": "web",
    "Full": "full",
    "SCRT": "scrt_api",
}


HIDDEN = {"hidden": True}  # metadata of what no query shows


def api_name(attribute: str) -> str:
    """Return the API's name of an attribute."""
    return "".join(part[:1].upper() + part[1:] for part in attribute.split("_"))


@dataclass(kw_only=True, eq=False)
class Record:
    """One record; ``prefix`` begins its id, and no two records agree in all of ``unique``."""

    prefix: ClassVar[str]
    unique: ClassVar[tuple[str, ...]] = ()
    id: str = ""


@dataclass(kw_only=True, eq=False)
class Permissions(Record):
    """The user permissions that set-up asks for."""

    permissions_api_enabled: bool = False
    permissions_customize_application: bool = False
    permissions_modify_metadata: bool = False
    permissions_view_setup: bool = False
    permissions_manage_users: bool = False


@dataclass(kw_only=True, eq=False)
class Organization(Record):
    prefix = "00D"
    name: str
    organization_type: str = "Enterprise Edition"
    is_sandbox: bool = False
    instance_name: str = "DEU58"
    namespace_prefix: str | None = None


@dataclass(kw_only=True, eq=False)
class Profile(Permissions):
    prefix = "00e"
    unique = ("name",)
    name: str


@dataclass(kw_only=True, eq=False)
class User(Record):
    prefix = "005"
    unique = ("username",)
    username: str
    first_name: str
    last_name: str
    name: str
    email: str
    profile_id: str
    is_active: bool = True
    user_type: str = "Standard"
    user_permissions_support_user: bool = False  # the tick "Service Cloud User"


@dataclass(kw_only=True, eq=False)
class PermissionSet(Permissions):
    """A permission set; one that belongs to a profile shows what the profile permits."""

    prefix = "0PS"
    unique = ("name", "namespace_prefix")
    name: str
    label: str
    namespace_prefix: str | None = None
    is_owned_by_profile: bool = False
    profile_id: str | None = None
    presence_statuses: list[str] = field(default_factory=list, metadata=HIDDEN)


@dataclass(kw_only=True, eq=False)
class PermissionSetAssignment(Record):
    prefix = "0Pa"
    unique = ("assignee_id", "permission_set_id")
    assignee_id: str
    permission_set_id: str


@dataclass(kw_only=True, eq=False)
class PermissionSetLicense(Record):
    prefix = "0PL"
    unique = ("developer_name",)
    developer_name: str
    master_label: str
    status: str = "Active"
    total_licenses: int = 5


@dataclass(kw_only=True, eq=False)
class PermissionSetLicenseAssign(Record):
    prefix = "2LA"
    unique = ("assignee_id", "permission_set_license_id")
    assignee_id: str
    permission_set_license_id: str


@dataclass(kw_only=True, eq=False)
class ObjectPermissions(Record):
    prefix = "110"
    unique = ("parent_id", "sobject_type")
    parent_id: str
    sobject_type: str
    permissions_read: bool = False
    permissions_create: bool = False
    permissions_edit: bool = False
    permissions_delete: bool = False
    permissions_view_all_records: bool = False
    permissions_modify_all_records: bool = False


@dataclass(kw_only=True, eq=False)
class EntityDefinition(Record):
    """A platform event; ``fields`` maps its fields' names to their types and lengths."""

    prefix = "01I"
    unique = ("qualified_api_name",)
    qualified_api_name: str
    developer_name: str
    label: str
    event_type: str = field(default="HighVolume", metadata=HIDDEN)
    publish_behavior: str = field(default="PublishAfterCommit", metadata=HIDDEN)
    fields: dict[str, dict[str, Any]] = field(default_factory=dict, metadata=HIDDEN)


@dataclass(kw_only=True, eq=False)
class ConversationVendorInfo(Record):
    prefix = "0m8"
    unique = ("developer_name",)
    developer_name: str
    master_label: str
    vendor_type: str | None = None
    namespace_prefix: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict, metadata=HIDDEN)


@dataclass(kw_only=True, eq=False)
class ConversationChannelDefinition(Record):
    prefix = "11v"
    unique = ("developer_name",)
    developer_name: str
    master_label: str
    routing_owner: str = "Salesforce"
    consent_owner: str = "Salesforce"
    connected_app_type: str = "Partner"
    conversation_vendor_info_id: str | None = None
    custom_platform_event: str
    custom_event_type_field: str | None = None
    custom_event_payload_field: str
    namespace_prefix: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict, metadata=HIDDEN)


@dataclass(kw_only=True, eq=False)
class MessagingChannel(Record):
    prefix = "0Mj"
    unique = ("developer_name",)
    developer_name: str
    master_label: str
    is_active: bool = False
    message_type: str = "Custom"
    platform_type: str = "Enhanced"
    channel_address_identifier: str
    messaging_platform_key: str
    channel_definition_id: str
    routing_type: str | None = None
    session_handler_id: str | None = None
    target_queue_id: str | None = None


@dataclass(kw_only=True, eq=False)
class MessagingSession(Record):
    """What a query sees of a session in the console; made anew for each."""

    prefix = "0Mw"
    status: str
    start_time: str
    end_time: str | None
    ended_by_type: str | None
    conversation_id: str
    messaging_channel_id: str | None
    messaging_end_user_id: str


@dataclass(kw_only=True, eq=False)
class Conversation(Record):
    """What a query sees of a session's conversation; made anew for each."""

    prefix = "0dw"
    conversation_identifier: str


@dataclass(kw_only=True, eq=False)
class MessagingEndUser(Record):
    """What a query sees of a session's end user; made anew for each."""

    prefix = "0PA"
    name: str
    messaging_platform_key: str
    message_type: str = "Custom"


@dataclass(kw_only=True, eq=False)
class CustomMsgChannel(Record):
    prefix = "17C"
    unique = ("messaging_channel_id",)
    messaging_channel_id: str
    channel_definition_id: str
    has_inbound_receipts: bool = False
    has_typing_indicator: bool = False


@dataclass(kw_only=True, eq=False)
class QueueRoutingConfig(Record):
    prefix = "0K9"
    unique = ("developer_name",)
    developer_name: str
    master_label: str
    routing_model: str = "MOST_AVAILABLE"
    routing_priority: int = 1
    capacity_weight: int | float | None = None


@dataclass(kw_only=True, eq=False)
class Group(Record):
    prefix = "00G"
    unique = ("developer_name", "type")
    developer_name: str
    name: str
    type: str = "Queue"
    queue_routing_config_id: str | None = None


@dataclass(kw_only=True, eq=False)
class QueueSobject(Record):
    prefix = "03g"
    unique = ("queue_id", "sobject_type")
    queue_id: str
    sobject_type: str


@dataclass(kw_only=True, eq=False)
class GroupMember(Record):
    prefix = "011"
    unique = ("group_id", "user_or_group_id")
    group_id: str
    user_or_group_id: str


@dataclass(kw_only=True, eq=False)
class ServiceChannel(Record):
    prefix = "0N9"
    unique = ("developer_name",)
    developer_name: str
    master_label: str
    related_entity: str


@dataclass(kw_only=True, eq=False)
class ServicePresenceStatus(Record):
    prefix = "0N5"
    unique = ("developer_name",)
    developer_name: str
    master_label: str
    channels: list[str] = field(default_factory=list, metadata=HIDDEN)


@dataclass(kw_only=True, eq=False)
class PresenceUserConfig(Record):
    prefix = "0PT"
    unique = ("developer_name",)
    developer_name: str
    master_label: str
    capacity: int = 5


@dataclass(kw_only=True, eq=False)
class FlowDefinitionView(Record):
    """A flow; the Tooling API shows the same as ``FlowDefinition``."""

    prefix = "300"
    unique = ("api_name",)
    api_name: str
    label: str
    process_type: str
    active_version_id: str | None = None
    latest_version_id: str | None = None
    versions: list[str] = field(default_factory=list, metadata=HIDDEN)  # their ids, the first one first
    queue: str | None = field(default=None, metadata=HIDDEN)  # DeveloperName of the queue that it routes to


@dataclass(kw_only=True, eq=False)
class AuraDefinitionBundle(Record):
    prefix = "0Ab"
    unique = ("developer_name",)
    developer_name: str
    master_label: str


@dataclass(kw_only=True, eq=False)
class FlexiPage(Record):
    prefix = "0M0"
    unique = ("developer_name",)
    developer_name: str
    master_label: str
    type: str
    address: str | None = field(default=None, metadata=HIDDEN)  # what the frame in it shows


@dataclass(kw_only=True, eq=False)
class CustomTab(Record):
    prefix = "01r"
    unique = ("developer_name",)
    developer_name: str
    master_label: str
    page: str | None = field(default=None, metadata=HIDDEN)


@dataclass(kw_only=True, eq=False)
class CspTrustedSite(Record):
    prefix = "08y"
    unique = ("developer_name",)
    developer_name: str
    endpoint_url: str
    is_active: bool = True
    is_applicable_to_frame_src: bool = False


@dataclass(kw_only=True, eq=False)
class ExternalClientApp(Record):
    """An external client app with its OAuth settings and policies, which no query shows.

    It has one certificate: a new one replaces the old. Without settings of its own it is known to no token endpoint.
    """

    prefix = "0xI"
    unique = ("name",)
    name: str
    label: str
    consumer_key: str | None = None
    consumer_secret: str | None = None
    certificate: str | None = None  # PEM of the certificate, or of its public key alone
    callback_urls: list[str] = field(default_factory=list)
    scopes: list[str] = field(default_factory=list)
    permitted_users: str = SELF_AUTHORIZED
    permission_sets: list[str] = field(default_factory=list)
    approved_by: list[str] = field(default_factory=list)  # users who allowed it themselves
    is_enabled: bool = True
    is_pkce_required: bool = True
    is_secret_optional: bool = False

    def make_consumer(self) -> None:
        """Generate the key and the secret, once."""
        self.consumer_key = self.consumer_key or "3MVG9" + secrets.token_urlsafe(48)
        self.consumer_secret = self.consumer_secret or secrets.token_hex(32).upper()


AnyRecord = TypeVar("AnyRecord", bound=Record)
KINDS: dict[str, type[Record]] = {
    kind.__name__: kind for parent in (Record, Permissions) for kind in parent.__subclasses__() if kind is not Permissions
}


def shown_fields(kind: type[Record]) -> dict[str, str]:
    """Return the attributes that queries know, by the API's name."""
    return {api_name(each.name): each.name for each in fields(kind) if not each.metadata.get("hidden")}


RELATIONS: dict[str, type[Record]] = {  # what a field ending in Id points at, where its name does not say so
    **KINDS,
    "Assignee": User,
    "Parent": PermissionSet,
    "ChannelDefinition": ConversationChannelDefinition,
    "TargetQueue": Group,
    "Queue": Group,
    "UserOrGroup": User,
    "SessionHandler": FlowDefinitionView,
}
