"""Checks of what brings a session to a rep, and of what the integration user and the reps may do."""

from collections.abc import Iterator

from connector.salesforce.rest import soql_text
from tenants.doctor.checks import Seen, State, check
from tenants.doctor.snapshot import OrgSnapshot
from tenants.installation import LICENCES

QUEUES, USERS, PERMISSION_SETS = "Queues/home", "ManageUsers/home", "PermSets/home"


@check(
    "Queue for sessions",
    expected="at least one queue that supports messaging sessions",
    why="New sessions are placed in it.",
    remedy="Install the package, or add Messaging Session to the supported objects of a queue.",
    page=QUEUES,
)
def queue_takes_sessions(org: OrgSnapshot) -> Iterator[Seen]:
    yield Seen(ok=bool(org.queues), found=f"{len(org.queues)}" if org.queues else "none")


@check(
    "Routing configuration of the queue",
    expected="a routing configuration",
    why="Omni-Channel only assigns work from queues that have one.",
    remedy="Open the queue in Setup and select “Infobip Routing”.",
    page=QUEUES,
)
def queue_has_routing(org: OrgSnapshot) -> Iterator[Seen]:
    if not org.queues:
        return
    without = [str(queue["DeveloperName"]) for queue in org.queues if not queue.get("QueueRoutingConfigId")]
    found = f"missing for {', '.join(without)}" if without else "set"
    yield Seen(ok=len(without) < len(org.queues), found=found)


@check(
    "Members of the queue",
    expected="the reps who answer",
    why="Sessions wait until a member of the queue is online.",
    remedy="Add your reps to the queue.",
    page=QUEUES,
    otherwise=State.WARNING,
)
def queue_has_members(org: OrgSnapshot) -> Iterator[Seen]:
    if not org.queues:
        return
    ids = ", ".join(soql_text(str(queue["Id"])) for queue in org.queues)
    members = org.rest.query(f"SELECT Id FROM GroupMember WHERE GroupId IN ({ids})")
    yield Seen(ok=bool(members), found=f"{len(members)}" if members else "none")


@check(
    "Routing flow",
    expected="active",
    why="In production orgs, Salesforce deploys flows as inactive, and sessions are then not routed.",
    remedy="Open “Infobip Route Session” in Flows, and choose Activate.",
    page="Flows/home",
)
def flow_is_active(org: OrgSnapshot) -> Iterator[Seen]:
    rows = org.rest.query(
        "SELECT ApiName, ActiveVersionId, ProcessType FROM FlowDefinitionView WHERE ApiName = 'Infobip_Route_Session'"
    )
    if not rows:
        return  # the customer routes with a flow or a queue of their own
    active = bool(rows[0].get("ActiveVersionId"))
    yield Seen(ok=active, found="active" if active else "not active")


@check(
    "Service Cloud User",
    expected="selected for the integration user",
    why="Without it, the Interaction Service refuses messages because of a missing permission.",
    remedy="Edit the user, and select Service Cloud User.",
    page=USERS,
)
def user_is_service_user(org: OrgSnapshot) -> Iterator[Seen]:
    chosen = bool(org.user.get("UserPermissionsSupportUser"))
    yield Seen(ok=chosen, found="selected" if chosen else "not selected", fix="service user")


@check(
    "Permission set licenses of the integration user",
    expected=", ".join(LICENCES),
    why="Salesforce refuses messages from a user without them (errors 15105 and 10099).",
    remedy="Assign them on the user's page, under Permission Set License Assignments.",
    page=USERS,
)
def user_has_licences(org: OrgSnapshot) -> Iterator[Seen]:
    rows = org.rest.query(
        "SELECT PermissionSetLicense.MasterLabel FROM PermissionSetLicenseAssign "
        f"WHERE AssigneeId = {soql_text(str(org.user.get('Id', '')))}"
    )
    held = {str((row.get("PermissionSetLicense") or {}).get("MasterLabel")) for row in rows}
    missing = [name for name in LICENCES if name not in held]
    yield Seen(ok=not missing, found=f"missing: {', '.join(missing)}" if missing else f"all {len(LICENCES)}")


@check(
    "Permission set of the integration user",
    expected="Infobip_Connector",
    why="It lets the user log in through the app, and read the event.",
    remedy="Assign it on the user's page.",
    page=PERMISSION_SETS,
    otherwise=State.WARNING,
)
def user_has_permission_set(org: OrgSnapshot) -> Iterator[Seen]:
    assigned = "Infobip_Connector" in org.permission_sets
    yield Seen(ok=assigned, found="Infobip_Connector" if assigned else "Infobip_Connector is not assigned")


@check(
    "Permission set of the reps",
    expected="assigned to your reps",
    why="It gives them access to the templates panel.",
    remedy="Assign Infobip_Agent to your reps.",
    page=PERMISSION_SETS,
    otherwise=State.WARNING,
)
def reps_have_permission_set(org: OrgSnapshot) -> Iterator[Seen]:
    rows = org.rest.query("SELECT AssigneeId FROM PermissionSetAssignment WHERE PermissionSet.Name = 'Infobip_Agent'")
    yield Seen(ok=bool(rows), found=f"assigned to {len(rows)}" if rows else "nobody has Infobip_Agent")
