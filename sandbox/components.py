"""The components of a metadata deploy: how each is read, checked and applied to an org's set-up.

Folders and suffixes: https://github.com/forcedotcom/source-deploy-retrieve (metadata registry).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sandbox import definitions
from sandbox.client_apps import put_app, put_app_policies, put_global_oauth, put_oauth_policies, put_oauth_settings
from sandbox.elements import NAMESPACE, Problem, Xml, put, reference
from sandbox.ids import record_id
from sandbox.records import (
    AuraDefinitionBundle,
    ConversationChannelDefinition,
    ConversationVendorInfo,
    CspTrustedSite,
    CustomTab,
    EntityDefinition,
    ExternalClientApp,
    FlexiPage,
    FlowDefinitionView,
    Group,
    ObjectPermissions,
    PermissionSet,
    PresenceUserConfig,
    QueueRoutingConfig,
    QueueSobject,
    Record,
    ServiceChannel,
    ServicePresenceStatus,
)
from sandbox.setup_org import Setup
from sandbox.sobjects import STANDARD_OBJECTS

USER_PERMISSIONS = {
    "ApiEnabled": "permissions_api_enabled",
    "CustomizeApplication": "permissions_customize_application",
    "ModifyMetadata": "permissions_modify_metadata",
    "ViewSetup": "permissions_view_setup",
    "ManageUsers": "permissions_manage_users",
    "ViewRoles": None,
}


@dataclass
class Component:
    """One component of a zip: its files by their path in the zip, and the API version that it is written for."""

    kind: str
    name: str
    version: str
    files: dict[str, bytes] = field(default_factory=dict)


Apply = Callable[[Setup, str, Xml], None]


@dataclass(frozen=True)
class Kind:
    """A type of component; ``elements`` are all that it may have at the top."""

    folder: str
    suffix: str
    root: str
    elements: set[str]
    apply: Apply
    record: type[Record] | None = None


# event and permissions


def put_event(setup: Setup, name: str, xml: Xml) -> None:
    if not name.endswith("__e"):
        raise Problem("Only platform events are known here; their names end in __e")
    if xml.needed("eventType") != "HighVolume":
        raise Problem("eventType: StandardVolume events can no longer be created")
    if xml.needed("publishBehavior") not in ("PublishAfterCommit", "PublishImmediately"):
        raise Problem(f"publishBehavior: '{xml.text('publishBehavior')}' is not a valid value")
    columns = {}
    for each in xml.all("fields"):
        full_name, kind = each.needed("fullName"), each.needed("type")
        if not full_name.endswith("__c"):
            raise Problem(f"The name of a custom field ends in __c: {full_name}")
        longest = {"Text": (1, 255), "LongTextArea": (256, 131_072)}.get(kind)
        if longest is None:
            raise Problem(f"Field type {kind} is not supported in platform events here")
        length = int(each.needed("length")) if each.needed("length").isdigit() else 0
        if not longest[0] <= length <= longest[1]:
            raise Problem(f"Length must be between {longest[0]} and {longest[1]}: {full_name}")
        if kind == "LongTextArea":
            each.needed("visibleLines")
        columns[full_name] = {"label": each.needed("label"), "type": kind, "length": length}
    label = xml.needed("label")
    xml.needed("pluralLabel")
    put(
        setup,
        EntityDefinition(
            qualified_api_name=name,
            developer_name=name.removesuffix("__e"),
            label=label,
            event_type="HighVolume",
            publish_behavior=xml.needed("publishBehavior"),
            fields=columns,
        ),
    )


def put_permission_set(setup: Setup, name: str, xml: Xml) -> None:
    """Deploy a permission set, which replaces all that it grants."""
    namespace, _, bare = name.rpartition("__")
    row = PermissionSet(name=bare, namespace_prefix=namespace or None, label=xml.needed("label"))
    granted = {each.needed("name") for each in xml.all("userPermissions") if each.flag("enabled")}
    for permission in granted:
        if permission not in USER_PERMISSIONS:
            raise Problem(f"Unknown user permission: {permission}")
        if attribute := USER_PERMISSIONS[permission]:
            setattr(row, attribute, True)
    if "ViewSetup" in granted and "ViewRoles" not in granted:
        raise Problem("Permission ViewSetup depends on permission(s): ViewRoles")
    for each in xml.all("servicePresenceStatusAccesses"):
        status = each.needed("servicePresenceStatus")
        found = setup.find(ServicePresenceStatus, developer_name=status)
        reference(found, "servicePresenceStatus", "ServicePresenceStatus", status)
        if each.flag("enabled"):
            row.presence_statuses.append(status)
    for each in xml.all("tabSettings"):
        tab = each.needed("tab")
        reference(setup.find(CustomTab, developer_name=tab), "tab", "CustomTab", tab)
    rights = [object_permissions(setup, each) for each in xml.all("objectPermissions")]
    put(setup, row)
    kept = setup.tables["ObjectPermissions"]
    kept[:] = [each for each in setup.rows(ObjectPermissions) if each.parent_id != row.id]
    for right in rights:
        right.parent_id = row.id
        setup.add(right)


def object_permissions(setup: Setup, xml: Xml) -> ObjectPermissions:
    """Read what a permission set grants on one object."""
    name = xml.needed("object")
    event = setup.find(EntityDefinition, qualified_api_name=name)
    if name not in STANDARD_OBJECTS:
        reference(event, "object", "CustomObject", name)
    right = ObjectPermissions(
        parent_id="",
        sobject_type=name,
        permissions_read=xml.flag("allowRead"),
        permissions_create=xml.flag("allowCreate"),
        permissions_edit=xml.flag("allowEdit"),
        permissions_delete=xml.flag("allowDelete"),
        permissions_view_all_records=xml.flag("viewAllRecords"),
        permissions_modify_all_records=xml.flag("modifyAllRecords"),
    )
    if not right.permissions_read:
        raise Problem(
            f"Permission {'Create' if right.permissions_create else 'Edit'} {name} depends on permission(s): Read {name}"
        )
    return right


# definitions


def read_metadata(xml: Xml, known: Mapping[str, type]) -> dict[str, Any]:
    """Return the elements of a definition as the Tooling API takes them."""
    kinds: dict[type, Callable[[str], Any]] = {bool: xml.flag, int: lambda name: int(xml.needed(name)), str: xml.text}
    return {name: kinds[known[name]](name) for name in xml.names()}


def put_vendor(setup: Setup, name: str, xml: Xml) -> None:
    row = setup.find(ConversationVendorInfo, developer_name=name)
    definitions.set_vendor(setup, name, read_metadata(xml, definitions.VENDOR_FIELDS), row)


def put_channel_definition(setup: Setup, name: str, xml: Xml) -> None:
    row = setup.find(ConversationChannelDefinition, developer_name=name)
    definitions.set_channel_definition(setup, name, read_metadata(xml, definitions.CHANNEL_FIELDS), row)


# pages


def put_bundle(setup: Setup, name: str, xml: Xml) -> None:
    xml.needed("apiVersion")
    put(setup, AuraDefinitionBundle(developer_name=name, master_label=name))


def put_page(setup: Setup, name: str, xml: Xml) -> None:
    label, kind, address = xml.needed("masterLabel"), xml.needed("type"), None
    for region in xml.all("flexiPageRegions"):
        for item in region.all("itemInstances"):
            for component in item.all("componentInstance"):
                bundle = component.needed("componentName").removeprefix("c:")
                found = setup.find(AuraDefinitionBundle, developer_name=bundle)
                reference(found, "componentName", "AuraDefinitionBundle", bundle)
                properties = {p.needed("name"): p.text("value") for p in component.all("componentInstanceProperties")}
                address = properties.get("src")
    put(setup, FlexiPage(developer_name=name, master_label=label, type=kind, address=address))


def put_tab(setup: Setup, name: str, xml: Xml) -> None:
    page = xml.needed("flexiPage")
    xml.needed("motif")
    reference(setup.find(FlexiPage, developer_name=page), "flexiPage", "FlexiPage", page)
    put(setup, CustomTab(developer_name=name, master_label=xml.text("label") or name, page=page))


def put_trusted_site(setup: Setup, name: str, xml: Xml) -> None:
    url = xml.needed("endpointUrl")
    if not re.fullmatch(r"https?://[\w.*-]+(:\d+)?", url):
        raise Problem(f"endpointUrl: {url} is not valid")
    frames = xml.flag("isApplicableToFrameSrc")
    site = CspTrustedSite(developer_name=name, endpoint_url=url, is_active=xml.flag("isActive"))
    site.is_applicable_to_frame_src = frames
    put(setup, site)


# routing


def put_settings(setup: Setup, name: str, xml: Xml) -> None:
    if name != "OmniChannel":
        raise Problem(f"Settings {name} are not known here")
    setup.switches.omni_channel = xml.flag("enableOmniChannel")


def needs_omni_channel(setup: Setup) -> None:
    """Check that Omni-Channel is on.

    :raises Problem: if it is not
    """
    if not setup.switches.omni_channel:
        raise Problem("Omni-Channel is not enabled in this org")


def put_routing(setup: Setup, name: str, xml: Xml) -> None:
    needs_omni_channel(setup)
    model = xml.needed("routingModel")
    if model not in ("LEAST_ACTIVE", "MOST_AVAILABLE", "EXTERNAL_ROUTING"):
        raise Problem(f"routingModel: '{model}' is not a valid value")
    config = QueueRoutingConfig(developer_name=name, master_label=xml.needed("label"), routing_model=model)
    config.routing_priority = int(xml.needed("routingPriority"))
    config.capacity_weight = float(xml.text("capacityWeight") or 0)
    put(setup, config)


def put_queue(setup: Setup, name: str, xml: Xml) -> None:
    queue = Group(developer_name=name, name=xml.needed("name"))
    if routing := xml.text("queueRoutingConfig"):
        found = setup.find(QueueRoutingConfig, developer_name=routing)
        queue.queue_routing_config_id = reference(found, "queueRoutingConfig", "QueueRoutingConfig", routing).id
    kinds = [each.needed("sobjectType") for each in xml.all("queueSobject")]
    for kind in kinds:
        if kind not in STANDARD_OBJECTS:
            raise Problem(f"In field: sobjectType - no CustomObject named {kind} found")
    put(setup, queue)
    for kind in kinds:
        put(setup, QueueSobject(queue_id=queue.id, sobject_type=kind))


def put_presence_status(setup: Setup, name: str, xml: Xml) -> None:
    needs_omni_channel(setup)
    channels = [each.needed("channel") for each in xml.all("channels")]
    for each in channels:
        reference(setup.find(ServiceChannel, developer_name=each), "channel", "ServiceChannel", each)
    put(setup, ServicePresenceStatus(developer_name=name, master_label=xml.needed("label"), channels=channels))


def put_presence_config(setup: Setup, name: str, xml: Xml) -> None:
    needs_omni_channel(setup)
    put(
        setup,
        PresenceUserConfig(developer_name=name, master_label=xml.needed("label"), capacity=int(xml.needed("capacity"))),
    )


def put_flow(setup: Setup, name: str, xml: Xml) -> None:
    """Deploy a flow as a new version, active only if its status says so and the org has that switched on."""
    kind, label = xml.needed("processType"), xml.needed("label")
    if kind == "RoutingFlow":
        needs_omni_channel(setup)
    for element in xml.element.iter(f"{NAMESPACE}setupReference"):
        channel = element.text or ""
        reference(setup.find(ServiceChannel, developer_name=channel), "setupReference", "ServiceChannel", channel)
    queue = None
    for lookup in xml.all("recordLookups"):
        for each in lookup.all("filters"):
            if each.text("field") == "DeveloperName":
                queue = each.all("value")[0].text("stringValue")
    flow = setup.find(FlowDefinitionView, api_name=name)
    if flow is None:
        flow = setup.add(FlowDefinitionView(api_name=name, label=label, process_type=kind))
    flow.label, flow.process_type, flow.queue = label, kind, queue
    flow.versions.append(record_id("301", setup.next_number()))
    flow.latest_version_id = flow.versions[-1]
    if xml.needed("status") == "Active" and setup.switches.flows_deployed_active:
        flow.active_version_id = flow.latest_version_id


def elements(words: str) -> set[str]:
    """Return a set of names."""
    return set(words.split())


KINDS: dict[str, Kind] = {  # in the order in which the platform deploys them
    "Settings": Kind(
        "settings", "settings", "OmniChannelSettings", elements(
            "enableOmniChannel enableOmniAutoLoginPrompt enableOmniSecondaryRoutingPriority enableOmniSkillsRouting"
            " enableOmniStatusCapacityModel omniAutoLoginOption"), put_settings),
    "CustomObject": Kind(
        "objects", "object", "CustomObject", elements(
            "deploymentStatus description eventType fields label pluralLabel publishBehavior"),
        put_event, EntityDefinition),
    "AuraDefinitionBundle": Kind(
        "aura", "", "AuraDefinitionBundle", elements("apiVersion description"), put_bundle, AuraDefinitionBundle),
    "FlexiPage": Kind(
        "flexipages", "flexipage", "FlexiPage", elements(
            "description flexiPageRegions masterLabel sobjectType template type"), put_page, FlexiPage),
    "CustomTab": Kind(
        "tabs", "tab", "CustomTab", elements("description flexiPage label motif"), put_tab, CustomTab),
    "CspTrustedSite": Kind(
        "cspTrustedSites", "cspTrustedSite", "CspTrustedSite", elements(
            "context description endpointUrl isActive isApplicableToConnectSrc isApplicableToFontSrc isApplicableToFrameSrc"
            " isApplicableToImgSrc isApplicableToMediaSrc isApplicableToStyleSrc"), put_trusted_site, CspTrustedSite),
    "QueueRoutingConfig": Kind(
        "queueRoutingConfigs", "queueRoutingConfig", "QueueRoutingConfig", elements(
            "capacityPercentage capacityType capacityWeight dropAdditionalSkillsTimeout isAttributeBased label pushTimeout"
            " queueOverflowAssignee routingModel routingPriority userOverflowAssignee"), put_routing, QueueRoutingConfig),
    "Queue": Kind(
        "queues", "queue", "Queue", elements(
            "doesSendEmailToMembers email name queueMembers queueRoutingConfig queueSobject"), put_queue, Group),
    "ServicePresenceStatus": Kind(
        "servicePresenceStatuses", "servicePresenceStatus", "ServicePresenceStatus", elements("channels label"),
        put_presence_status, ServicePresenceStatus),
    "PresenceUserConfig": Kind(
        "presenceUserConfigs", "presenceUserConfig", "PresenceUserConfig", elements(
            "assignments capacity declineReasons enableAutoAccept enableDecline enableDeclineReason enableDisconnectSound"
            " enableRequestSound label presenceStatusOnDecline presenceStatusOnPushTimeout"),
        put_presence_config, PresenceUserConfig),
    "PermissionSet": Kind(
        "permissionsets", "permissionset", "PermissionSet", elements(
            "applicationVisibilities classAccesses description hasActivationRequired label license objectPermissions"
            " servicePresenceStatusAccesses tabSettings userPermissions"), put_permission_set, PermissionSet),
    "ExternalClientApplication": Kind(
        "externalClientApps", "eca", "ExternalClientApplication", elements(
            "contactEmail contactPhone description distributionState iconUrl infoUrl isProtected label logoUrl"),
        put_app, ExternalClientApp),
    "ExtlClntAppGlobalOauthSettings": Kind(
        "extlClntAppGlobalOauthSets", "ecaGlblOauth", "ExtlClntAppGlobalOauthSettings", elements(
            "callbackUrl certificate consumerKey consumerSecret externalClientApplication isConsumerSecretOptional"
            " isIntrospectAllTokens isNamedUserJwtEnabled isPkceRequired isSecretRequiredForRefreshToken label"
            " shouldRotateConsumerKey shouldRotateConsumerSecret"), put_global_oauth),
    "ExtlClntAppOauthSettings": Kind(
        "extlClntAppOauthSettings", "ecaOauth", "ExtlClntAppOauthSettings", elements(
            "commaSeparatedOauthScopes externalClientApplication label oauthLink"), put_oauth_settings),
    "ExtlClntAppOauthConfigurablePolicies": Kind(
        "extlClntAppOauthPolicies", "ecaOauthPlcy", "ExtlClntAppOauthConfigurablePolicies", elements(
            "commaSeparatedPermissionSet commaSeparatedProfile externalClientApplication ipRelaxationPolicyType label"
            " permittedUsersPolicyType refreshTokenPolicyType refreshTokenValidityPeriod refreshTokenValidityUnit"
            " requiredSessionLevel sessionTimeoutInMinutes singleLogoutUrl"), put_oauth_policies),
    "ExtlClntAppConfigurablePolicies": Kind(
        "extlClntAppPolicies", "ecaPlcy", "ExtlClntAppConfigurablePolicies", elements(
            "externalClientApplication isEnabled isOauthPluginEnabled label startPage startUrl"), put_app_policies),
    "ConversationVendorInfo": Kind(
        "ConversationVendorInformation", "ConversationVendorInformation", "ConversationVendorInfo",
        set(definitions.VENDOR_FIELDS), put_vendor, ConversationVendorInfo),
    "ConversationChannelDefinition": Kind(
        "conversationChannelDefinitions", "ConversationChannelDefinition", "ConversationChannelDefinition",
        set(definitions.CHANNEL_FIELDS), put_channel_definition, ConversationChannelDefinition),
    "Flow": Kind(
        "flows", "flow", "Flow", elements(
            "actionCalls apiVersion assignments decisions description environments interviewLabel label"
            " processMetadataValues processType recordCreates recordLookups recordUpdates start status variables"),
        put_flow, FlowDefinitionView),
}  # fmt: skip
