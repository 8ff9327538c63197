"""Records by the REST and Tooling APIs: created, changed, read and deleted one at a time."""

import dataclasses
import typing
from typing import Any

from aiohttp import web

from sandbox import definitions
from sandbox.callers import DATA, Caller, read_body
from sandbox.definitions import SetupRefused
from sandbox.ids import record_id
from sandbox.records import (
    KINDS,
    RELATIONS,
    EntityDefinition,
    FlowDefinitionView,
    ObjectPermissions,
    PermissionSetLicense,
    PermissionSetLicenseAssign,
    Record,
    api_name,
    shown_fields,
)
from sandbox.setup_org import Setup

CONFIGURES, MANAGES_USERS = "CustomizeApplication", "ManageUsers"
WRITABLE = {  # and the permission that it takes; channels are made in Setup
    "ObjectPermissions": CONFIGURES,
    "CustomMsgChannel": CONFIGURES,
    "Group": CONFIGURES,
    "GroupMember": CONFIGURES,
    "QueueSobject": CONFIGURES,
    "QueueRoutingConfig": CONFIGURES,
    "CspTrustedSite": CONFIGURES,
    "PermissionSetAssignment": MANAGES_USERS,
    "PermissionSetLicenseAssign": MANAGES_USERS,
    "User": MANAGES_USERS,
}
DEFINITIONS: dict[str, Any] = {
    "ConversationVendorInfo": definitions.set_vendor,
    "ConversationChannelDefinition": definitions.set_channel_definition,
}
STANDARD_OBJECTS = {"MessagingSession", "MessagingEndUser", "Contact", "Case", "Account", "Lead"}
CREATED: dict[str, Any] = {"success": True, "errors": []}


class Sobjects:
    """The endpoints of single records."""

    async def data(self, request: web.Request, caller: Caller) -> tuple[int, Any]:
        """Serve one record of the data API."""
        name, setup = request.match_info["kind"], caller.setup
        if request.method == "POST" and name.endswith("__e"):
            return self.publish(caller, name, await read_body(request))
        if name not in DATA or name not in KINDS:
            raise SetupRefused("NOT_FOUND", "The requested resource does not exist", status=404)
        kind = KINDS[name]
        if request.method == "GET":
            return 200, self.show(setup, find(setup, kind, request), f"/services/data/v{request.match_info['version']}")
        if name not in WRITABLE or (name == "User" and request.method != "PATCH"):
            message = f"entity type {name} does not support {request.method}"
            raise SetupRefused("CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY", message)
        caller.needs(WRITABLE[name])
        if request.method == "POST":
            record = create(setup, kind, await read_body(request))
            caller.org.follow_setup()
            return 201, {"id": record.id, **CREATED}
        record = find(setup, kind, request)
        if request.method == "PATCH":
            update(setup, record, await read_body(request))
        else:
            setup.remove(record)
        caller.org.follow_setup()
        return 204, None

    def publish(self, caller: Caller, name: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Publish a platform event."""
        event, setup = caller.setup.find(EntityDefinition, qualified_api_name=name), caller.setup
        if event is None or not setup.may(caller.user_id, "create", name):
            raise SetupRefused("NOT_FOUND", "The requested resource does not exist", status=404)
        for field, value in body.items():
            if field not in event.fields:
                raise SetupRefused("INVALID_FIELD", f"No such column '{field}' on sobject of type {name}", (field,))
            if len(str(value or "")) > event.fields[field].get("length", 255):
                raise SetupRefused("STRING_TOO_LONG", f"{field}: data value too large", (field,))
        topic = caller.org.topics.get(f"/event/{name}")
        if topic is None:
            raise SetupRefused("UNKNOWN_EXCEPTION", f"{name} cannot be published", status=500)
        published = topic.publish(*(body.get(field) for field in topic.fields))
        # the id of the answer names nothing: the event's own stands where the errors of a failure would
        queued = {"statusCode": "OPERATION_ENQUEUED", "message": published.id, "fields": []}
        return 201, {"id": record_id("e00", topic.end), "success": True, "errors": [queued]}

    def show(self, setup: Setup, record: Record, url: str) -> dict[str, Any]:
        """Return all fields of a record."""
        name = type(record).__name__
        values = {field: setup.value(record, attribute) for field, attribute in shown_fields(type(record)).items()}
        return {"attributes": {"type": name, "url": f"{url}/sobjects/{name}/{record.id}"}, **values}

    async def tooling(self, request: web.Request, caller: Caller) -> tuple[int, Any]:
        """Serve one record of the Tooling API."""
        name, setup = request.match_info["kind"], caller.setup
        caller.needs(CONFIGURES)
        if name == "FlowDefinition" and request.method == "PATCH":
            flow = find(setup, FlowDefinitionView, request)
            activate(flow, await read_body(request))
            return 204, None
        if name not in DEFINITIONS:
            raise SetupRefused("NOT_FOUND", "The requested resource does not exist", status=404)
        if request.method == "POST":
            body = await read_body(request)
            check_names(body)
            record = DEFINITIONS[name](setup, body.get("FullName"), body.get("Metadata"))
            caller.org.follow_setup()
            return 201, {"id": record.id, **CREATED, "warnings": [], "infos": []}
        record = find(setup, KINDS[name], request)
        if request.method == "GET":
            url = f"/services/data/v{request.match_info['version']}/tooling"
            whole = {"FullName": record.developer_name, "Metadata": definitions.metadata_of(setup, record)}
            return 200, self.show(setup, record, url) | whole
        if request.method == "PATCH":
            body = await read_body(request)
            check_names(body)
            DEFINITIONS[name](setup, body.get("FullName", record.developer_name), body.get("Metadata"), record)
        else:
            definitions.check_unused(setup, record)
            setup.remove(record)
        caller.org.follow_setup()
        return 204, None


def find(setup: Setup, kind: type[Record], request: web.Request) -> Any:
    """Return the record that a request names.

    :raises SetupRefused: if there is none
    """
    record = setup.by_id(request.match_info["id"])
    if not isinstance(record, kind):
        raise SetupRefused("NOT_FOUND", "Provided external ID field does not exist or is not accessible", status=404)
    return record


def check_names(body: dict[str, Any]) -> None:
    """Check that a body holds a full name and metadata only; flat fields cannot be set by the Tooling API.

    :raises SetupRefused: if there is something else
    """
    for name in body:
        if name not in ("FullName", "Metadata"):
            raise SetupRefused("INVALID_FIELD", f"The field {name} can't be set; use Metadata", (name,))


def activate(flow: FlowDefinitionView, body: dict[str, Any]) -> None:
    """Make a version of a flow the active one, or none.

    :raises SetupRefused: if there is no such version
    """
    metadata = body.get("Metadata")
    if not isinstance(metadata, dict) or "activeVersionNumber" not in metadata:
        raise SetupRefused("REQUIRED_FIELD_MISSING", "Required fields are missing: [Metadata]", ("Metadata",))
    number = metadata["activeVersionNumber"]
    if number not in (None, *range(len(flow.versions) + 1)):
        raise SetupRefused("FIELD_INTEGRITY_EXCEPTION", f"The flow has no version {number}", ("activeVersionNumber",))
    flow.active_version_id = flow.versions[number - 1] if number else None


def take(setup: Setup, kind: type[Record], body: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes that a body sets.

    :raises SetupRefused: if a field is unknown, of another type, or points at nothing
    """
    types, known, values = typing.get_type_hints(kind), shown_fields(kind), {}
    for field, value in body.items():
        if field not in known or field == "Id":
            raise SetupRefused("INVALID_FIELD", f"No such column '{field}' on sobject of type {kind.__name__}", (field,))
        attribute = known[field]
        if not isinstance(value, types[attribute]) or (isinstance(value, bool) and types[attribute] is not bool):
            message = f"Cannot deserialize instance of {types[attribute]} from {type(value).__name__} value"
            raise SetupRefused("JSON_PARSER_ERROR", message, (field,))
        target = RELATIONS.get(field.removesuffix("Id")) if field.endswith("Id") and value is not None else None
        if target:
            related = setup.by_id(value)
            if not isinstance(related, target):
                raise SetupRefused("INVALID_CROSS_REFERENCE_KEY", "invalid cross reference id", (field,))
            value = related.id
        values[attribute] = value
    return values


def create(setup: Setup, kind: type[Record], body: dict[str, Any]) -> Record:
    """Create a record.

    :raises SetupRefused: if it is not right
    """
    values = take(setup, kind, body)
    needed = (
        each.name
        for each in dataclasses.fields(kind)
        if each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
    )
    if missing := tuple(api_name(name) for name in needed if values.get(name) in (None, "")):
        raise SetupRefused("REQUIRED_FIELD_MISSING", f"Required fields are missing: [{', '.join(missing)}]", missing)
    record = kind(**values)
    check(setup, record)
    return setup.add(record)


def update(setup: Setup, record: Record, body: dict[str, Any]) -> None:
    """Change a record.

    :raises SetupRefused: if it would not be right
    """
    changed = dataclasses.replace(record, **take(setup, type(record), body))
    rows = setup.tables[type(record).__name__]
    place = rows.index(record)
    rows[place] = changed
    try:
        check(setup, changed)
    except SetupRefused:
        rows[place] = record
        raise


def check(setup: Setup, record: Record) -> None:
    """Check what concerns more than one field.

    :raises SetupRefused: if it is not right
    """
    if twin := setup.twin(record):
        names = ", ".join(api_name(name) for name in record.unique)
        raise SetupRefused(
            "DUPLICATE_VALUE", f"duplicate value found: {names} duplicates value on record with id: {twin.id}"
        )
    if isinstance(record, ObjectPermissions):
        event = setup.find(EntityDefinition, qualified_api_name=record.sobject_type)
        if event is None and record.sobject_type not in STANDARD_OBJECTS:
            message = f"{record.sobject_type} is not a valid object"
            raise SetupRefused("INVALID_CROSS_REFERENCE_KEY", message, ("SobjectType",))
        if not record.permissions_read:
            message = "Permission Create depends on permission(s): Read" if record.permissions_create else "Grant Read"
            raise SetupRefused("FIELD_INTEGRITY_EXCEPTION", message, ("PermissionsRead",))
    if isinstance(record, PermissionSetLicenseAssign):
        license_ = setup.by_id(record.permission_set_license_id)
        rows = setup.rows(PermissionSetLicenseAssign)
        used = sum(row.permission_set_license_id == record.permission_set_license_id for row in rows)
        if isinstance(license_, PermissionSetLicense) and used >= license_.total_licenses and record not in rows:
            raise SetupRefused("LICENSE_LIMIT_EXCEEDED", "license limit exceeded")
