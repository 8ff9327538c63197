"""What an org holds besides messages, and its two ways to be born: connected, or empty."""

import json
import re
import urllib.parse
from dataclasses import asdict, dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from sandbox.ids import record_id, with_checksum
from sandbox.records import (
    KINDS,
    PRE_AUTHORIZED,
    AnyRecord,
    AuraDefinitionBundle,
    ConversationChannelDefinition,
    ConversationVendorInfo,
    CspTrustedSite,
    CustomMsgChannel,
    CustomTab,
    EntityDefinition,
    ExternalClientApp,
    FlexiPage,
    FlowDefinitionView,
    Group,
    GroupMember,
    MessagingChannel,
    ObjectPermissions,
    Organization,
    Permissions,
    PermissionSet,
    PermissionSetAssignment,
    PermissionSetLicense,
    PermissionSetLicenseAssign,
    Profile,
    QueueRoutingConfig,
    QueueSobject,
    Record,
    ServiceChannel,
    ServicePresenceStatus,
    User,
    api_name,
    shown_fields,
)

ADMIN_NAME = "Ada Admin"
INTEGRATION_USER, REP_USER = with_checksum("0055g00000IntUs"), with_checksum("0055g00000XyZab")
SCRT_SET = ("sfdc_scrt2", "sfdcInternalInt")  # Name and NamespacePrefix of the set that may publish what reps write
OWNED = {  # the kinds of record that go with another, and how they point at it
    "PermissionSet": {"PermissionSetAssignment": "permission_set_id", "ObjectPermissions": "parent_id"},
    "Group": {"GroupMember": "group_id", "QueueSobject": "queue_id"},
}
MESSAGING_LICENSES = [
    "Messaging for In-App and Web User",
    "Messaging User",
    "Partner Messaging User",
    "Service User",
]


@dataclass
class Switches:
    """What an org has switched on, and two of the platform's open points, either way."""

    external_client_apps: bool = True  # "Opt in to External Client Apps"
    secrets_by_metadata: bool = True  # "Allow access to External Client App consumer secrets via Metadata API"
    omni_channel: bool = True
    digital_engagement: bool = True  # the add-on that vendor infos need
    flows_deployed_active: bool = True  # "Deploy processes and flows as active"
    makes_custom_msg_channel: bool = True  # one implementer found that Setup does not
    vendor_with_customer_refused: bool = False  # one field report says that it is
    deploy_seconds: float | None = None  # how long a deployment runs; None for 2 to 4 s by its size


class Setup:
    """All records of an org, its switches, its limits, and what was placed on pages by hand."""

    def __init__(self, org_id: str, name: str) -> None:
        self.tables: dict[str, list[Record]] = {name: [] for name in KINDS}
        self.switches = Switches()
        self.limits = {
            "DailyApiRequests": {"Max": 101_000, "Remaining": 100_982},
            "DailyDeliveredPlatformEvents": {"Max": 50_000, "Remaining": 49_750},
            "HourlyPublishedPlatformEvents": {"Max": 250_000, "Remaining": 249_990},
        }
        self.placed: list[str] = []  # "console navigation", "session page"
        self._last_number = 0
        self.add(Organization(id=org_id, name=name))

    def next_number(self) -> int:
        """Return a number that no id of the org has yet."""
        self._last_number += 1
        return self._last_number

    def add(self, record: AnyRecord) -> AnyRecord:
        """Add a record and give it an id."""
        record.id = record.id or record_id(record.prefix, self.next_number())
        self.tables[type(record).__name__].append(record)
        return record

    def rows(self, kind: type[AnyRecord]) -> list[AnyRecord]:
        """Return all records of a kind."""
        rows: list[Any] = self.tables[kind.__name__]
        return rows

    def find(self, kind: type[AnyRecord], **wanted: Any) -> AnyRecord | None:
        """Return the first record of a kind with these values."""
        return next(
            (row for row in self.rows(kind) if all(getattr(row, name) == value for name, value in wanted.items())), None
        )

    def by_id(self, record_id: str | None) -> Record | None:
        """Return a record by either form of its id."""
        if not record_id:
            return None
        return next((row for rows in self.tables.values() for row in rows if record_id in (row.id, row.id[:15])), None)

    def twin(self, record: Record) -> Record | None:
        """Return another record that agrees in what must be unique."""
        wanted = {name: getattr(record, name) for name in record.unique}
        others = (row for row in self.rows(type(record)) if row is not record)
        return next((row for row in others if wanted and all(getattr(row, n) == v for n, v in wanted.items())), None)

    def remove(self, record: Record) -> None:
        """Remove a record, and what only says something of it."""
        self.tables[type(record).__name__].remove(record)
        for kind, attribute in OWNED.get(type(record).__name__, {}).items():
            rows = self.tables[kind]
            rows[:] = [row for row in rows if getattr(row, attribute) != record.id]
        if isinstance(record, EntityDefinition):
            permissions = self.tables["ObjectPermissions"]
            permissions[:] = [row for row in self.rows(ObjectPermissions) if row.sobject_type != record.qualified_api_name]

    def value(self, record: Record, attribute: str) -> Any:
        """Return a value of a record; what a profile permits shows on its permission set."""
        if isinstance(record, PermissionSet) and attribute.startswith("permissions_") and record.profile_id:
            return getattr(self.by_id(record.profile_id), attribute)
        return getattr(record, attribute)

    # rights

    def permission_sets_of(self, user_id: str) -> list[PermissionSet]:
        """Return a user's permission sets, with that of the profile."""
        ids = {row.permission_set_id for row in self.rows(PermissionSetAssignment) if row.assignee_id == user_id}
        return [row for row in self.rows(PermissionSet) if row.id in ids]

    def permits(self, user_id: str, permission: str) -> bool:
        """Tell whether a user has a user permission, named as in a query without its prefix."""
        attribute = next(name for shown, name in shown_fields(Permissions).items() if shown == f"Permissions{permission}")
        return any(self.value(each, attribute) for each in self.permission_sets_of(user_id))

    def may(self, user_id: str, right: str, sobject: str) -> bool:
        """Tell whether a user's permission sets give a right (read, create) on an object."""
        parents = {each.id for each in self.permission_sets_of(user_id)}
        rows = (row for row in self.rows(ObjectPermissions) if row.parent_id in parents and row.sobject_type == sobject)
        return any(getattr(row, f"permissions_{right}") for row in rows)

    def platform_publishes(self, event: str) -> bool:
        """Tell whether the platform's own permission set may read and create an event, without which none comes."""
        scrt = self.find(PermissionSet, name=SCRT_SET[0], namespace_prefix=SCRT_SET[1])
        row = scrt and self.find(ObjectPermissions, parent_id=scrt.id, sobject_type=event)
        return bool(row and row.permissions_read and row.permissions_create)

    def is_covered(self, app: ExternalClientApp, user: User) -> bool:
        """Tell whether a user may use an app: by a permission set, or where all may, by having allowed it."""
        if app.permitted_users == PRE_AUTHORIZED:
            return any(each.name in app.permission_sets for each in self.permission_sets_of(user.id))
        return user.id in app.approved_by

    # what the Interaction Service needs of it

    def event_fields(self, event: EntityDefinition) -> tuple[str, str] | None:
        """Return the names of an event's two fields: what a definition says, or the only ones that they can be."""
        for row in self.rows(ConversationChannelDefinition):
            if row.custom_platform_event == event.qualified_api_name and row.custom_event_type_field:
                return row.custom_event_type_field, row.custom_event_payload_field
        by_type = {each["type"]: name for name, each in event.fields.items()}
        return (by_type["Text"], by_type["LongTextArea"]) if {"Text", "LongTextArea"} <= set(by_type) else None

    def describe(self) -> dict[str, Any]:
        """Return all of it as JSON, under the names that the control API's edits use."""
        return {
            "records": {name: [describe(row) for row in rows] for name, rows in self.tables.items()},
            "switches": asdict(self.switches),
            "limits": json.loads(json.dumps(self.limits)),
            "placed": list(self.placed),
        }


def describe(record: Record) -> dict[str, Any]:
    """Return all values of a record, hidden ones too, under the API's names."""
    return {api_name(name): value for name, value in asdict(record).items()}


def empty(org_id: str, name: str, rep_name: str) -> Setup:
    """Return a fresh org: users, profiles, licences and the platform's own permission set, and nothing of ours."""
    setup = Setup(org_id, name)
    host = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    admin = _add_profile(setup, "System Administrator")
    admin.permissions_customize_application = admin.permissions_modify_metadata = True
    admin.permissions_view_setup = admin.permissions_manage_users = True
    standard = _add_profile(setup, "Standard User")
    api_only = _add_profile(setup, "Minimum Access - API Only Integrations")
    _add_user(setup, "", ADMIN_NAME, f"ada@{host}.example", admin)
    _add_user(setup, REP_USER, rep_name, f"{rep_name.lower().replace(' ', '.')}@{host}.example", standard)
    _add_user(setup, INTEGRATION_USER, "Infobip Integration", f"byoc@{host}.example", api_only)
    setup.add(PermissionSet(name=SCRT_SET[0], namespace_prefix=SCRT_SET[1], label="SCRT2 Integration User"))
    for label in MESSAGING_LICENSES:
        setup.add(PermissionSetLicense(developer_name=label.title().replace(" ", "").replace("-", ""), master_label=label))
    setup.add(
        ServiceChannel(developer_name="sfdc_livemessage", master_label="Messaging", related_entity="MessagingSession")
    )
    return setup


def _add_profile(setup: Setup, name: str) -> Profile:
    profile = setup.add(Profile(name=name, permissions_api_enabled=True))
    owned = PermissionSet(name=f"X{profile.id}", label=profile.id, is_owned_by_profile=True, profile_id=profile.id)
    setup.add(owned)
    return profile


def _add_user(setup: Setup, user_id: str, name: str, username: str, profile: Profile) -> User:
    first, _, last = name.rpartition(" ")
    user = setup.add(
        User(
            id=user_id,
            username=username,
            first_name=first,
            last_name=last,
            name=name,
            email=username,
            profile_id=profile.id,
        )
    )
    owned = setup.find(PermissionSet, profile_id=profile.id)
    if owned:
        setup.add(PermissionSetAssignment(assignee_id=user.id, permission_set_id=owned.id))
    return user


def connected(document: dict[str, Any], webhooks: list[str], rep_name: str) -> Setup:
    """Return an org in which everything that a provision document speaks of works.

    :raises KeyError: if the document lacks something
    :raises ValueError: if something in it cannot be read
    """
    org = document["org"]
    setup = empty(org["orgId"], org["name"], rep_name)
    integration = setup.find(User, id=INTEGRATION_USER)
    assert integration
    integration.username, integration.user_permissions_support_user = org["username"], True
    for license_ in setup.rows(PermissionSetLicense):
        setup.add(PermissionSetLicenseAssign(assignee_id=integration.id, permission_set_license_id=license_.id))
    admin = setup.find(User, name=ADMIN_NAME)
    for name, user in (("Infobip_Connector", integration), ("Infobip_Admin", admin), ("Infobip_Agent", None)):
        granted = setup.add(PermissionSet(name=name, label=name.replace("_", " "), permissions_api_enabled=True))
        granted.permissions_view_setup = name == "Infobip_Connector"
        user_id = user.id if user else REP_USER
        setup.add(PermissionSetAssignment(assignee_id=user_id, permission_set_id=granted.id))
    contexts = [item["authorizationContext"] for item in document["channels"]]
    prefix = contexts[0].split("_")[0] if contexts else "Infobip"
    app = ExternalClientApp(
        name=f"{prefix}_BYOC",
        label=f"{prefix} BYOC",
        consumer_key=org["consumerKey"],
        certificate=_public_key(org["privateKey"]),
        callback_urls=sorted({_callback(url) for url in webhooks if url}),
        scopes=["api", "refresh_token", "interaction_api", "openid", "id"],
        permitted_users=PRE_AUTHORIZED,
        permission_sets=["Infobip_Connector", "Infobip_Admin", "Infobip_Agent"],
    )
    app.make_consumer()
    setup.add(app)
    _add_routing(setup)
    _add_pages(setup)
    for item in document["channels"]:
        _add_channel(setup, item)
    return setup


def _public_key(private_key: str) -> str:
    key = load_pem_private_key(private_key.encode(), password=None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ValueError("privateKey is not an RSA key")
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _callback(webhook: str) -> str:
    place = urllib.parse.urlsplit(webhook)
    return f"{place.scheme}://{place.netloc}/sf/callback"


def _add_routing(setup: Setup) -> None:
    config = setup.add(QueueRoutingConfig(developer_name="Infobip_Routing", master_label="Infobip Routing"))
    queue = Group(developer_name="Infobip_Messaging", name="Infobip Messaging", queue_routing_config_id=config.id)
    setup.add(queue)
    setup.add(QueueSobject(queue_id=queue.id, sobject_type="MessagingSession"))
    setup.add(GroupMember(group_id=queue.id, user_or_group_id=REP_USER))
    status = ServicePresenceStatus(developer_name="Infobip_Messaging_Online", master_label="Online for Messaging")
    status.channels = ["sfdc_livemessage"]
    setup.add(status)
    agents = setup.find(PermissionSet, name="Infobip_Agent")
    assert agents
    agents.presence_statuses = [status.developer_name]
    version = record_id("301", setup.next_number())
    setup.add(
        FlowDefinitionView(
            api_name="Infobip_Route_Session",
            label="Infobip Route Session",
            process_type="RoutingFlow",
            active_version_id=version,
            latest_version_id=version,
            versions=[version],
            queue=queue.developer_name,
        )
    )


def _add_pages(setup: Setup) -> None:
    name, label = "Infobip_BYOC_Configuration", "Infobip BYOC Configuration"
    setup.add(AuraDefinitionBundle(developer_name="InfobipFrame", master_label="InfobipFrame"))
    setup.add(FlexiPage(developer_name=name, master_label=label, type="AppPage"))
    setup.add(CustomTab(developer_name=name, master_label="Infobip BYOC", page=name))
    setup.placed = ["console navigation", "session page"]
    app = setup.rows(ExternalClientApp)[0]
    for url in app.callback_urls:
        site = url.removesuffix("/sf/callback")
        setup.add(CspTrustedSite(developer_name="Infobip_Connector", endpoint_url=site, is_applicable_to_frame_src=True))
        break


def _add_channel(setup: Setup, item: dict[str, Any]) -> None:
    """Add the event, the definition and the messaging channel of one channel of a document."""
    event, context = item["customEventName"], item["authorizationContext"]
    type_field, payload_field = item["customEventTypeField"], item["customEventPayloadField"]
    if not setup.find(EntityDefinition, qualified_api_name=event):
        name = event.removesuffix("__e")
        setup.add(
            EntityDefinition(
                qualified_api_name=event,
                developer_name=name,
                label=name.replace("_", " "),
                fields={
                    type_field: {"label": "EventType", "type": "Text", "length": 255},
                    payload_field: {"label": "Payload", "type": "LongTextArea", "length": 131_072},
                },
            )
        )
        for row in setup.rows(PermissionSet):
            if row.name in (SCRT_SET[0], "Infobip_Connector"):
                right = ObjectPermissions(parent_id=row.id, sobject_type=event, permissions_read=True)
                right.permissions_create = True
                setup.add(right)
    definition = setup.find(ConversationChannelDefinition, developer_name=context)
    if definition is None:
        vendor_name = context.split("_")[0]
        vendor = setup.find(ConversationVendorInfo, developer_name=vendor_name) or setup.add(
            ConversationVendorInfo(
                developer_name=vendor_name, master_label=vendor_name, vendor_type="BringYourOwnChannelPartner"
            )
        )
        definition = setup.add(
            ConversationChannelDefinition(
                developer_name=context,
                master_label=context.replace("_", " "),
                connected_app_type="Customer",
                conversation_vendor_info_id=vendor.id,
                custom_platform_event=event,
                custom_event_type_field=type_field,
                custom_event_payload_field=payload_field,
            )
        )
    add_messaging_channel(
        setup, definition, item["developerName"], item["name"], item["channelAddressIdentifier"]
    ).is_active = True


def add_messaging_channel(
    setup: Setup, definition: ConversationChannelDefinition, name: str, label: str, address: str
) -> MessagingChannel:
    """Make a channel as Messaging Settings does from a definition's tile; it is not active yet."""
    flow = setup.find(FlowDefinitionView, process_type="RoutingFlow")
    queue = setup.find(Group, type="Queue")
    channel = setup.add(
        MessagingChannel(
            developer_name=name,
            master_label=label,
            channel_address_identifier=address,
            messaging_platform_key=address,
            channel_definition_id=definition.id,
        )
    )
    if flow and queue:
        channel.routing_type, channel.session_handler_id, channel.target_queue_id = "Flow", flow.id, queue.id
    if setup.switches.makes_custom_msg_channel:
        setup.add(
            CustomMsgChannel(
                messaging_channel_id=channel.id,
                channel_definition_id=definition.id,
                has_inbound_receipts=True,
                has_typing_indicator=True,
            )
        )
    return channel
