"""Checks of the platform event, by which reps' messages leave Salesforce."""

from collections.abc import Iterator

from connector.salesforce.rest import Field, soql_text
from tenants.doctor.checks import Seen, check
from tenants.doctor.snapshot import OrgSnapshot
from tenants.models import Channel

TYPE_LENGTH, PAYLOAD_LENGTH = 36, 32_768  # what the fields must hold at least
EVENTS, PERMISSION_SETS = "EventObjects/home", "PermSets/home"
INSTALL = "Install the package under “Set up the BYOC connection”."


def _events(org: OrgSnapshot) -> Iterator[tuple[Channel, dict[str, Field] | None]]:
    seen: set[str] = set()
    for channel in org.channels:
        if channel.custom_event_name not in seen:
            seen.add(channel.custom_event_name)
            yield channel, org.fields(channel.custom_event_name)


def _names(org: OrgSnapshot) -> list[str]:
    return sorted({channel.custom_event_name for channel in org.channels})


@check(
    "Platform event",
    title="Platform event {of}",
    why="Messages that reps write leave Salesforce as this event.",
    remedy=INSTALL,
    page=EVENTS,
)
def event_is_there(org: OrgSnapshot) -> Iterator[Seen]:
    for channel, fields in _events(org):
        wanted = {channel.custom_event_type_field, channel.custom_event_payload_field}
        missing = wanted - set(fields or {})
        if fields is None:
            found = "not found, or not visible to the integration user"
        else:
            found = f"missing: {', '.join(sorted(missing))}" if missing else "found, with both fields"
        expected = f"the event with the fields {' and '.join(sorted(wanted))}"
        yield Seen(of=channel.custom_event_name, ok=not missing, found=found, expected=expected)


@check(
    "Access to the event stream",
    title="Access to the stream of {of}",
    expected="a stream that the integration user can read",
    why="Reps' messages reach us through this stream.",
)
def stream_may_be_read(org: OrgSnapshot) -> Iterator[Seen]:
    for event in _names(org):
        may = org.may_read(event)
        if may is None:
            yield Seen(of=event, ok=False, found="there is no such stream", remedy=INSTALL, page=EVENTS)
            continue
        yield Seen(
            of=event,
            ok=may,
            found="can be read" if may else "the integration user may not read it",
            remedy="Assign the permission set Infobip_Connector to the integration user, or grant Read on the event.",
            page=PERMISSION_SETS,
        )


@check(
    "Fields of the platform event",
    title="Fields of {of}",
    why="A payload that does not fit is not published, and the rep's message is lost.",
    page=EVENTS,
)
def fields_are_long_enough(org: OrgSnapshot) -> Iterator[Seen]:
    for channel, fields in _events(org):
        known = fields or {}
        needed = {channel.custom_event_type_field: TYPE_LENGTH, channel.custom_event_payload_field: PAYLOAD_LENGTH}
        short = [name for name, length in needed.items() if name in known and known[name].length < length]
        yield Seen(
            of=channel.custom_event_name,
            ok=not short,
            found=", ".join(f"{name}: {known[name].length}" for name in needed if name in known) or "no fields",
            expected=", ".join(f"{name}: at least {length}" for name, length in needed.items()),
            remedy=f"Increase the length of {', '.join(short)} in Setup.",
        )


@check(
    "Messaging service access to the platform event",
    title="Messaging service access to {of}",
    expected="Read and Create, through the permission set sfdc_scrt2",
    why="Without it, reps' messages look sent in the console, but no event is ever published.",
    remedy="Choose “Install for me” again, or grant both rights to the permission set SCRT2 Integration User.",
    page=PERMISSION_SETS,
)
def service_may_publish(org: OrgSnapshot) -> Iterator[Seen]:
    sets = org.rest.query("SELECT Id FROM PermissionSet WHERE Name = 'sfdc_scrt2'")
    set_id = str(sets[0]["Id"]) if sets else ""
    for event in _names(org):
        rows = org.rest.query(
            "SELECT Id, PermissionsRead, PermissionsCreate FROM ObjectPermissions "
            f"WHERE ParentId = {soql_text(set_id)} AND SobjectType = {soql_text(event)}"
        )
        read, create = (bool(rows and rows[0].get(f"Permissions{right}")) for right in ("Read", "Create"))
        found = f"read: {'yes' if read else 'no'}, create: {'yes' if create else 'no'}"
        yield Seen(of=event, ok=read and create, found=found)
