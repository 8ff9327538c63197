"""The two definitions of a bring-your-own channel, with all the checks that Tooling and Metadata make of them.

https://developer.salesforce.com/docs/atlas.en-us.api_meta.meta/api_meta/meta_conversationchanneldefinition.htm
"""

from collections.abc import Mapping
from typing import Any

from sandbox.records import (
    ConversationChannelDefinition,
    ConversationVendorInfo,
    EntityDefinition,
    ExternalClientApp,
    MessagingChannel,
)
from sandbox.setup_org import Setup

VENDOR_TYPES = {
    "Amazon_Connect",
    "ServiceCloudVoicePartner",
    "BringYourOwnChannelPartner",
    "BringYourOwnContactCenter",
}
VENDOR_FIELDS = {
    "developerName": str,
    "masterLabel": str,
    "vendorType": str,
    "connectorUrl": str,
    "customIcon": str,
    "namedCredential": str,
    "customConfig": str,
}
CHANNEL_FIELDS = {
    "developerName": str,
    "masterLabel": str,
    "customPlatformEvent": str,
    "customEventPayloadField": str,
    "customEventTypeField": str,
    "conversationVendorInfo": str,
    "routingOwner": str,
    "consentOwner": str,
    "connectedAppType": str,
    "connectedAppOauthLink": str,
    "customerConnectedAppOauthLink": str,
    "customIcon": str,
    "supportsImplicitConsent": bool,
    "supportsExplicitConsent": bool,
    "supportsDoubleOptInConsent": bool,
    "supportsKeywords": bool,
    "supportsIsoCountryCode": bool,
    "supportsCustomChannelParameters": bool,
    "isInboundAcknwOptionExposed": bool,
    "isTypingIndicatorOptionHidden": bool,
    "isProgressIndicatorOptExposed": bool,
    "isRoutingWorkResultSupported": bool,
    "isConferenceSupported": bool,
    "maxParticipantsForCnfrOverride": int,
}
NEEDED = {  # customEventTypeField is needed in practice only
    "ConversationVendorInfo": ("developerName", "masterLabel"),
    "ConversationChannelDefinition": (
        "developerName",
        "masterLabel",
        "customPlatformEvent",
        "customEventPayloadField",
        "customEventTypeField",
    ),
}


class SetupRefused(Exception):
    """A change that the platform does not accept."""

    def __init__(self, code: str, message: str, fields: tuple[str, ...] = (), status: int = 400) -> None:
        super().__init__(message)
        self.code, self.fields, self.status = code, fields, status


def check_form(kind: str, full_name: Any, metadata: Any, known: Mapping[str, type]) -> None:
    """Check names, types and what is needed.

    :raises SetupRefused: if something is not right; names of versions before 66.0 are unknown
    """
    if not isinstance(metadata, dict):
        raise SetupRefused("REQUIRED_FIELD_MISSING", "Required fields are missing: [Metadata]", ("Metadata",))
    for name, value in metadata.items():
        if name not in known:
            raise SetupRefused("JSON_PARSER_ERROR", f'Unrecognized field "{name}" (Class {kind}), not marked as ignorable')
        if value is not None and (not isinstance(value, known[name]) or (known[name] is int and isinstance(value, bool))):
            raise SetupRefused("JSON_PARSER_ERROR", f"Cannot deserialize instance of {known[name].__name__} for {name}")
    if missing := tuple(name for name in NEEDED[kind] if not metadata.get(name)):
        raise SetupRefused("REQUIRED_FIELD_MISSING", f"Required fields are missing: [{', '.join(missing)}]", missing)
    if full_name != metadata["developerName"]:
        raise SetupRefused("FIELD_INTEGRITY_EXCEPTION", "FullName and developerName differ", ("FullName",))


def set_vendor(setup: Setup, full_name: Any, metadata: Any, row: ConversationVendorInfo | None = None) -> Any:
    """Create a vendor info, or change one.

    :raises SetupRefused: if it is not right
    """
    check_form("ConversationVendorInfo", full_name, metadata, VENDOR_FIELDS)
    if not setup.switches.digital_engagement:
        raise SetupRefused("INSUFFICIENT_ACCESS", "The org has no Digital Engagement license", status=403)
    vendor_type = metadata.get("vendorType")
    if vendor_type is not None and vendor_type not in VENDOR_TYPES:
        message = f"vendorType: '{vendor_type}' is not a valid value for the enum 'ConversationVendorType'"
        raise SetupRefused("INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST", message, ("vendorType",))
    check_unique(setup, ConversationVendorInfo, full_name, row)
    values = {"developer_name": full_name, "master_label": metadata["masterLabel"], "vendor_type": vendor_type}
    if row is None:
        return setup.add(ConversationVendorInfo(**values, metadata=dict(metadata)))
    change(row, values, metadata)
    return row


def check_unique(setup: Setup, kind: Any, name: str, row: Any) -> None:
    """Check that no other record has a developer name.

    :raises SetupRefused: if one has
    """
    other = setup.find(kind, developer_name=name)
    if other is not None and other is not row:
        message = f"The developer name {name} is already used on record {other.id}"
        raise SetupRefused("DUPLICATE_DEVELOPER_NAME", message)


def change(row: Any, values: dict[str, Any], metadata: dict[str, Any]) -> None:
    """Give a record its new values."""
    for name, value in values.items():
        setattr(row, name, value)
    row.metadata = dict(metadata)


def set_channel_definition(
    setup: Setup, full_name: Any, metadata: Any, row: ConversationChannelDefinition | None = None
) -> Any:
    """Create a channel definition, or change one.

    :raises SetupRefused: if it is not right
    """
    check_form("ConversationChannelDefinition", full_name, metadata, CHANNEL_FIELDS)
    check_unique(setup, ConversationChannelDefinition, full_name, row)
    for name in ("connectedAppOauthLink", "customerConnectedAppOauthLink"):
        if metadata.get(name):
            raise SetupRefused("FIELD_INTEGRITY_EXCEPTION", f"{name} is generated and can't be set", (name,))
    for name in ("routingOwner", "consentOwner"):
        if metadata.get(name, "Salesforce") != "Salesforce":
            raise SetupRefused("FIELD_INTEGRITY_EXCEPTION", f"{name} must be Salesforce", (name,))
    if metadata.get("supportsImplicitConsent") is not True:
        name = "supportsImplicitConsent"
        raise SetupRefused("FIELD_INTEGRITY_EXCEPTION", f"{name} must be true", (name,))
    if metadata.get("supportsDoubleOptInConsent"):
        name = "supportsDoubleOptInConsent"
        raise SetupRefused("FIELD_INTEGRITY_EXCEPTION", f"{name} is not supported for this channel", (name,))
    app_type = metadata.get("connectedAppType") or "Partner"
    if app_type not in ("Partner", "Customer"):
        message = f"connectedAppType: '{app_type}' is not a valid value for the enum 'ConnectedAppType'"
        raise SetupRefused("INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST", message, ("connectedAppType",))
    vendor = check_vendor(setup, metadata.get("conversationVendorInfo"), app_type)
    event, type_field, payload_field = check_event(setup, metadata)
    check_prefix(setup, full_name)
    values = {
        "developer_name": full_name,
        "master_label": metadata["masterLabel"],
        "routing_owner": "Salesforce",
        "consent_owner": "Salesforce",
        "connected_app_type": app_type,
        "conversation_vendor_info_id": vendor and vendor.id,
        "custom_platform_event": event,
        "custom_event_type_field": type_field,
        "custom_event_payload_field": payload_field,
    }
    if row is None:
        return setup.add(ConversationChannelDefinition(**values, metadata=dict(metadata)))
    change(row, values, metadata)
    return row


def check_vendor(setup: Setup, name: str | None, app_type: str) -> ConversationVendorInfo | None:
    """Return the vendor info that a definition names.

    :raises SetupRefused: if there is none of that name, or it does not go with the kind of app
    """
    fields = ("conversationVendorInfo",)
    if not name:
        if app_type == "Partner":
            raise SetupRefused("REQUIRED_FIELD_MISSING", "Required fields are missing: [conversationVendorInfo]", fields)
        return None
    if app_type == "Customer" and setup.switches.vendor_with_customer_refused:
        message = "conversationVendorInfo can't be set when connectedAppType is Customer"
        raise SetupRefused("FIELD_INTEGRITY_EXCEPTION", message, fields)
    vendor = setup.find(ConversationVendorInfo, developer_name=name)
    if vendor is None:
        message = f"In field: conversationVendorInfo - no ConversationVendorInfo named {name} found"
        raise SetupRefused("INVALID_CROSS_REFERENCE_KEY", message, fields)
    return vendor


def check_event(setup: Setup, metadata: dict[str, Any]) -> tuple[str, str, str]:
    """Return the event that a definition names and its two fields, which may come with the event's name or without.

    :raises SetupRefused: if one does not exist
    """
    name = metadata["customPlatformEvent"]
    event = setup.find(EntityDefinition, qualified_api_name=name)
    if event is None:
        message = f"In field: customPlatformEvent - no CustomObject named {name} found"
        raise SetupRefused("INVALID_CROSS_REFERENCE_KEY", message, ("customPlatformEvent",))
    bare = []
    for each in ("customEventTypeField", "customEventPayloadField"):
        bare.append(metadata[each].removeprefix(f"{name}."))
        if bare[-1] not in event.fields:
            message = f"In field: {each} - no CustomField named {name}.{bare[-1]} found"
            raise SetupRefused("INVALID_CROSS_REFERENCE_KEY", message, (each,))
    return name, bare[0], bare[1]


def check_prefix(setup: Setup, name: str) -> None:
    """Check that an app's name begins as a definition's does, by which Salesforce finds the app.

    :raises SetupRefused: if none does
    """
    prefix, separator, rest = name.partition("_")
    apps = (app.name.partition("_")[0] for app in setup.rows(ExternalClientApp))
    if not separator or not rest or prefix not in apps:
        message = f"developerName {name} does not begin with the prefix of an OAuth app's name"
        raise SetupRefused("FIELD_INTEGRITY_EXCEPTION", message, ("developerName",))


def check_unused(setup: Setup, row: ConversationVendorInfo | ConversationChannelDefinition) -> None:
    """Check that nothing else needs a definition, so that it can be deleted.

    :raises SetupRefused: if something does
    """
    used: Any = (
        setup.find(ConversationChannelDefinition, conversation_vendor_info_id=row.id)
        if isinstance(row, ConversationVendorInfo)
        else setup.find(MessagingChannel, channel_definition_id=row.id)
    )
    if used is not None:
        message = f"This {type(row).__name__} is referenced elsewhere in salesforce.com: {used.developer_name}"
        raise SetupRefused("DELETE_FAILED", message)


def metadata_of(setup: Setup, row: ConversationVendorInfo | ConversationChannelDefinition) -> dict[str, Any]:
    """Return what the Tooling API shows as Metadata, with null for what is not set."""
    values: dict[str, Any] = {"developerName": row.developer_name, "masterLabel": row.master_label}
    if isinstance(row, ConversationVendorInfo):
        return dict.fromkeys(VENDOR_FIELDS) | row.metadata | values | {"vendorType": row.vendor_type}
    vendor = setup.by_id(row.conversation_vendor_info_id)
    values |= {
        "routingOwner": row.routing_owner,
        "consentOwner": row.consent_owner,
        "connectedAppType": row.connected_app_type,
        "conversationVendorInfo": vendor and getattr(vendor, "developer_name", None),
        "customPlatformEvent": row.custom_platform_event,
        "customEventTypeField": f"{row.custom_platform_event}.{row.custom_event_type_field}",
        "customEventPayloadField": f"{row.custom_platform_event}.{row.custom_event_payload_field}",
    }
    flags = {name: False for name, kind in CHANNEL_FIELDS.items() if kind is bool} | {"supportsImplicitConsent": True}
    return dict.fromkeys(CHANNEL_FIELDS) | flags | row.metadata | values
