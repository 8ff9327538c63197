"""Installing what is missing in a customer's org, with an administrator's token that is revoked at the end.

A run is a row with its steps. The page that shows it asks for news, and each such request does the next small thing: start
a deploy, look how far it is, create a record. Whoever leaves the page and comes back finds the run where Salesforce is by
then. Nothing is done twice: what is there already is found first, and one request at a time holds the run.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import structlog
from django.conf import settings
from django.db import connection, transaction
from django.db.models import Q
from django.utils import timezone

from connector.http import ApiError, AuthenticationFailed, CustomerMustAct, RequestRejected, time_limit
from connector.salesforce.auth import AccessToken, remedy_of
from connector.salesforce.rest import Deployment, RestClient, is_duplicate, soql_text, static_token
from connector.salesforce.sign_in import revoke, user_info
from tenants import connecting, package
from tenants.encryption import readable
from tenants.models import Draft, Installation, Org, PendingSignIn, SalesforceConnection
from tenants.package import Part, Settings
from tenants.tenancy import every_org

log = structlog.get_logger(__name__)

TOKEN_LIFE = timedelta(minutes=15)  # of an administrator's token with us
REVOKE_SECONDS = 10.0  # for one token
REVOKING_SECONDS = 50.0  # of one pass; it begins again each minute
MOST_REVOKED = 500
LONGEST_TOKEN = timedelta(hours=24)  # then it has ended by itself: no session of Salesforce's lives longer
LEASE = timedelta(seconds=20)  # longer than a call can take
DEPLOYED = (Part.EVENT_AND_PERMISSIONS, Part.CONSOLE_AND_ROUTING)  # the channel's part is created by the Tooling API
# Reports differ on what Salesforce takes for an org's own app: with a vendor or without, fields with their event or not.
VARIANTS = [(True, True), (False, True), (True, False), (False, False)]


class Failed(Exception):
    """A step that cannot be done; ``problems`` says what and why, one sentence each."""

    def __init__(self, *problems: tuple[str, str]) -> None:
        super().__init__("; ".join(f"{what}: {why}" for what, why in problems))
        self.problems = problems


# what is installed


def package_settings(org: Org) -> Settings:
    """Say what is particular to an org's package."""
    return _settings(org.salesforce, org.setup_url)


def draft_settings(draft: Draft) -> Settings:
    """Say what is particular to the package of an org that nobody has proven yet: its frame asks which org it is in."""
    return _settings(connecting.connection_of(draft), f"{settings.PUBLIC_URL}/")


def _settings(connection: SalesforceConnection, frame_url: str) -> Settings:
    user = connection.username if package.PERSON.fullmatch(connection.username) else "admin@example.com"
    return Settings(
        public_url=settings.PUBLIC_URL,
        frame_url=frame_url,
        certificate_pem=connection.certificate or connecting.certificate_for(connection.private_key),
        contact_email=user,
        integration_username=user,
        org_url=connection.base_url,
    )


def latest(org: Org) -> Installation | None:
    """Give the last run of an org."""
    return org.installations.order_by("-created_at").first()


def succeeded(org: Org) -> bool:
    """Tell whether the package is installed, as far as we did it."""
    run = latest(org)
    return run is not None and run.state == Installation.State.SUCCEEDED and not run.undo


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is."""

    percent: int  # in tens: the page has a width for each
    now: str


def progress(run: Installation | None) -> Progress:
    """Say how far a run is: steps done of steps known, and of the present one the part that Salesforce tells."""
    if run is None or not run.steps:
        return Progress(0, "")
    done = sum(step["state"] == "done" for step in run.steps)
    current = next((step for step in run.steps if step["state"] in ("running", "waiting")), None)
    part = current["done"] / current["total"] if current and current["total"] else 0.0
    percent = int((done + part) / len(run.steps) * 10) * 10
    return Progress(percent, f"{done} of {len(run.steps)} · {current['title']}" if current else "")


def begin(org: Org, *, who: str, token: str, undo: bool) -> Installation:
    """Begin a run. One that is under way goes on with the new token.

    One that was left for too long does not, nor one that does the opposite: what it has done may be undone since.
    """
    now = timezone.now()
    with transaction.atomic():
        Org.objects.select_for_update().get(pk=org.pk)  # of two who begin at once, one begins and the other goes on
        under_way = list(org.installations.filter(state=Installation.State.RUNNING))
        same = next((each for each in under_way if each.undo == undo and now - each.created_at < TOKEN_LIFE), None)
        for each in under_way:
            if each is same:
                Installation.objects.filter(pk=each.pk).update(token=token, created_at=now)
            else:
                _stop(each)
        if same is None:
            steps = _undo_steps() if undo else _steps()
            org.audit(who, "began to take the package back" if undo else "began an installation")
            begun = Installation.objects.create(org=org, who=who, token=token, undo=undo, steps=steps)
    for each in under_way:
        _revoke(each.org, readable(each, "token"))
    return org.installations.get(pk=same.pk) if same else begun


def _stop(run: Installation) -> None:
    """Stop a run for another one; whoever is at it loses it."""
    Installation.objects.filter(pk=run.pk).update(
        state=Installation.State.FAILED, token="", lease_id=None, leased_until=None
    )


def _step(key: str, title: str) -> dict[str, Any]:
    return {"key": key, "title": title, "state": "waiting", "done": 0, "total": 0, "now": "", "problems": []}


def _steps() -> list[dict[str, Any]]:
    return [
        _step("check", "Check what would change"),
        *(_step(part.value, part.heading) for part in DEPLOYED[:1]),
        _step("access", "Access of Salesforce's messaging service to the event"),
        _step("user", "Integration user: permission set, licences, Service Cloud User"),
        _step("channel", Part.CHANNEL.heading),
        *(_step(part.value, part.heading) for part in DEPLOYED[1:]),
        _step("flow", "Routing flow switched on"),
        _step("admin", "Your access to this page"),
    ]


def _undo_steps() -> list[dict[str, Any]]:
    return [
        _step("let go", "Flow switched off, permission sets taken from everybody"),
        _step("undo", "Remove what the package put into the org"),
    ]


# a run goes on


def advance(run: Installation) -> Installation:
    """Do the next small thing of a run, unless another request is at it."""
    lease = uuid4()
    now = timezone.now()
    mine = run.org.installations.filter(pk=run.pk, state=Installation.State.RUNNING).filter(
        Q(leased_until__isnull=True) | Q(leased_until__lt=now)
    )
    if not mine.update(lease_id=lease, leased_until=now + LEASE):
        return run.org.installations.get(pk=run.pk)
    run = run.org.installations.get(pk=run.pk)
    step = next(each for each in run.steps if each["state"] != "done")
    try:
        if not run.token or now - run.created_at > TOKEN_LIFE:
            raise Failed(
                ("Your sign-in", "It was fifteen minutes ago, and we keep it no longer. Choose “Install for me” again.")
            )
        _go_on(run, step)
    except Failed as exc:
        step["state"], step["problems"] = "failed", [{"what": what, "why": why} for what, why in exc.problems]
    except ApiError as exc:
        if not exc.retryable or isinstance(exc, CustomerMustAct) or exc.status == 403:
            why = remedy_of(exc) if isinstance(exc, AuthenticationFailed) else _explain(exc, step)
            step["state"], step["problems"] = "failed", [{"what": step["title"], "why": why}]
        else:
            step["now"] = f"Salesforce does not answer ({exc.message}); trying again"
    if step["state"] == "failed":
        run.state = Installation.State.FAILED
    elif all(each["state"] == "done" for each in run.steps):
        run.state = Installation.State.SUCCEEDED
    # only under our lease: whoever took the run over meanwhile knows better, and needs the token
    kept = run.org.installations.filter(pk=run.pk, lease_id=lease).update(
        steps=run.steps, state=run.state, deployment=run.deployment, lease_id=None, leased_until=None
    )
    if kept and run.state != Installation.State.RUNNING:
        run.org.audit(run.who, f"{'undo' if run.undo else 'installation'} {run.state}", step["title"])
        _give_back(run)
    return run.org.installations.get(pk=run.pk)


def _explain(refusal: ApiError, step: dict[str, Any]) -> str:
    """Say what to do about a refused call; the code often tells more than the words."""
    kind = "ConversationChannelDefinition" if step["key"] == "channel" else ""
    return package.explain(f"{refusal.message} ({refusal.code})" if refusal.code else refusal.message, kind)


def _go_on(run: Installation, step: dict[str, Any]) -> None:
    rest = _admin_client(run)
    given = package_settings(run.org)
    if step["key"] == "check":
        _deploy(run, step, rest, lambda: package.metadata_zip(given, DEPLOYED), check_only=True)
    elif step["key"] == "let go":
        _switch_flow(rest, 0)
        _take_permission_sets(rest)
        step["state"] = "done"
    elif step["key"] == "flow":
        _switch_flow(rest, 1)
        step["state"] = "done"
    elif step["key"] == "admin":
        _assign(rest, _admin_id(run), ADMIN_SETS)
        step["state"] = "done"
    elif step["key"] == "undo":
        _deploy(run, step, rest, lambda: _undo_zip(rest, given), check_only=False)
    elif step["key"] == "access":
        _give_access(rest, given)
        step["state"] = "done"
    elif step["key"] == "user":
        _equip(rest, run.org.salesforce.username)
        step["state"] = "done"
    elif step["key"] == "channel":
        _define_channel(rest, given)
        step["state"] = "done"
    else:
        part = Part(step["key"])
        _deploy(run, step, rest, lambda: package.metadata_zip(given, [part]), check_only=False)


def _admin_client(run: Installation) -> RestClient:
    connection = run.org.salesforce
    tokens = static_token(AccessToken(run.token, connection.base_url))
    return RestClient(base_url=connection.base_url, tokens=tokens, allow_local=settings.ALLOW_LOCAL_UPSTREAMS)


def _deploy(
    run: Installation, step: dict[str, Any], rest: RestClient, content: Callable[[], bytes], *, check_only: bool
) -> None:
    """Start a deploy, or look how far it is."""
    if not run.deployment:
        run.deployment = rest.deploy(content(), check_only=check_only)
        step["state"] = "running"
        return
    found = rest.deploy_status(run.deployment)
    step.update(done=found.components_deployed, total=found.components_total, now=found.current)
    if not found.done:
        return
    run.deployment = ""
    if not found.success:
        raise Failed(*_failures(found))
    step["state"] = "done"


def _failures(found: Deployment) -> list[tuple[str, str]]:
    told = [(f"{each.type} {each.full_name}", package.explain(each.problem, each.type)) for each in found.failures]
    return told or [("Salesforce", package.explain(found.problem, ""))]


def _undo_zip(rest: RestClient, given: Settings) -> bytes:
    """Pack what takes everything back but the app, by which we are there; each installation adds a version of the flow."""
    names = [each.name for each in package.components(given) if each.part is not Part.APP]
    flow = f"SELECT Id FROM FlowDefinition WHERE DeveloperName = {soql_text(FLOW)}"
    ids = _texts([str(row["Id"]) for row in rest.tooling_query(flow)])
    rows = rest.tooling_query(f"SELECT VersionNumber FROM Flow WHERE DefinitionId IN ({ids})") if ids else []
    return package.undo_zip(given, names, flow_versions=[int(row["VersionNumber"]) for row in rows] or [1])


def _give_access(rest: RestClient, given: Settings) -> None:
    """Let Salesforce's messaging service publish our event; without it reps' messages never leave the console."""
    sets = rest.query(package.SCRT2_PERMISSION_SET)
    if not sets:
        raise Failed(
            ("Permission set sfdc_scrt2", "The org does not have it: switch on Messaging in Setup, then install again.")
        )
    set_id = str(sets[0]["Id"])
    rows = rest.query(
        "SELECT Id, PermissionsRead, PermissionsCreate FROM ObjectPermissions "
        f"WHERE ParentId = {soql_text(set_id)} AND SobjectType = {soql_text(given.event)}"
    )
    if not rows:
        rest.create("ObjectPermissions", package.object_permissions_for_scrt2(given, set_id))
    elif not (rows[0].get("PermissionsRead") and rows[0].get("PermissionsCreate")):
        rest.update("ObjectPermissions", str(rows[0]["Id"]), {"PermissionsRead": True, "PermissionsCreate": True})


def _equip(rest: RestClient, username: str) -> None:
    """Give the integration user what it needs; licences that the org has not got are the doctor's to tell."""
    users = rest.query(f"SELECT Id, UserPermissionsSupportUser FROM User WHERE Username = {soql_text(username)}")
    if not users:
        raise Failed((username, "The integration user was not found in the org."))
    user_id = str(users[0]["Id"])
    _assign(rest, user_id, USER_SETS)
    if not users[0].get("UserPermissionsSupportUser"):
        rest.update("User", user_id, {"UserPermissionsSupportUser": True})
    held = rest.query(
        f"SELECT PermissionSetLicenseId FROM PermissionSetLicenseAssign WHERE AssigneeId = {soql_text(user_id)}"
    )
    for row in rest.query(f"SELECT Id FROM PermissionSetLicense WHERE MasterLabel IN ({_texts(LICENCES)})"):
        if row["Id"] not in {each["PermissionSetLicenseId"] for each in held}:
            rest.create("PermissionSetLicenseAssign", {"AssigneeId": user_id, "PermissionSetLicenseId": row["Id"]})


def _texts(values: Sequence[str]) -> str:
    return ", ".join(soql_text(value) for value in values)


def _assign(rest: RestClient, user_id: str, names: Sequence[str]) -> None:
    """Give a user those of these permission sets that they lack."""
    assigned = rest.query(f"SELECT PermissionSetId FROM PermissionSetAssignment WHERE AssigneeId = {soql_text(user_id)}")
    held = {row["PermissionSetId"] for row in assigned}
    for row in rest.query(f"SELECT Id FROM PermissionSet WHERE Name IN ({_texts(names)})"):
        if row["Id"] not in held:
            rest.create("PermissionSetAssignment", {"AssigneeId": user_id, "PermissionSetId": row["Id"]})


def _take_permission_sets(rest: RestClient) -> None:
    """Take our permission sets from everybody: Salesforce keeps one that somebody has."""
    names = [name for rows in package.CONTENTS.values() for kind, name, _ in rows if kind == "PermissionSet"]
    rows = rest.query(f"SELECT Id FROM PermissionSetAssignment WHERE PermissionSet.Name IN ({_texts(names)})")
    for row in rows:
        rest.delete("PermissionSetAssignment", str(row["Id"]))


def _switch_flow(rest: RestClient, version: int) -> None:
    """Switch the routing flow on, which production orgs deploy switched off, or off (version 0).

    https://developer.salesforce.com/docs/atlas.en-us.api_tooling.meta/api_tooling/tooling_api_objects_flowdefinition.htm
    """
    rows = rest.tooling_query(f"SELECT Id, ActiveVersionId FROM FlowDefinition WHERE DeveloperName = {soql_text(FLOW)}")
    if rows and bool(rows[0].get("ActiveVersionId")) != bool(version):
        rest.update_tooling("FlowDefinition", str(rows[0]["Id"]), {"activeVersionNumber": version})


def _admin_id(run: Installation) -> str:
    connection = run.org.salesforce
    token = AccessToken(run.token, connection.base_url)
    return user_info(base_url=connection.base_url, token=token, allow_local=settings.ALLOW_LOCAL_UPSTREAMS).user_id


def _define_channel(rest: RestClient, given: Settings) -> None:
    """Create the vendor info and the channel definition, in the first form that Salesforce takes.

    https://developer.salesforce.com/docs/atlas.en-us.api_tooling.meta/api_tooling/tooling_api_objects_conversationchanneldefinition.htm
    """
    refused = ""
    for vendor, qualified in VARIANTS:
        form = replace(given, vendor_info=vendor, qualified_fields=qualified)
        try:
            if vendor:
                _create(rest, "ConversationVendorInfo", "Infobip", VENDOR)
            _create(rest, "ConversationChannelDefinition", form.channel_definition, _definition(form))
            return
        except RequestRejected as exc:
            refused = refused or exc.message
            log.info("channel definition refused", vendor=vendor, qualified=qualified, code=exc.code)
    raise Failed(
        (f"Channel definition {given.channel_definition}", package.explain(refused, "ConversationChannelDefinition"))
    )


def _create(rest: RestClient, kind: str, name: str, metadata: dict[str, Any]) -> None:
    if rest.tooling_query(f"SELECT Id FROM {kind} WHERE DeveloperName = {soql_text(name)}"):
        return
    try:
        rest.create_tooling(kind, name, metadata)
    except RequestRejected as exc:
        if not is_duplicate(exc):  # somebody else was faster
            raise


# what the integration user needs, or Salesforce answers with the errors 15105 and 10099
LICENCES = (
    "Messaging for In-App and Web User",
    "Messaging User",
    "Partner Messaging User",
    "Service User",
)
USER_SETS = ("Infobip_Connector",)
ADMIN_SETS = ("Infobip_Admin", "Infobip_Configuration")
FLOW = "Infobip_Route_Session"
VENDOR = {"developerName": "Infobip", "masterLabel": "Infobip", "vendorType": "BringYourOwnChannelPartner"}


def _definition(given: Settings) -> dict[str, Any]:
    prefix = f"{given.event}." if given.qualified_fields else ""
    return {
        "developerName": given.channel_definition,
        "masterLabel": given.label,
        "connectedAppType": "Customer",
        **({"conversationVendorInfo": "Infobip"} if given.vendor_info else {}),
        "customPlatformEvent": given.event,
        "customEventTypeField": f"{prefix}EventType__c",
        "customEventPayloadField": f"{prefix}Payload__c",
        "consentOwner": "Salesforce",
        "routingOwner": "Salesforce",
        "supportsImplicitConsent": True,
        "supportsKeywords": True,
        "supportsCustomChannelParameters": True,
        "isInboundAcknwOptionExposed": True,
        "isTypingIndicatorOptionHidden": False,
        "isRoutingWorkResultSupported": False,
    }


# the token


def _give_back(run: Installation) -> bool:
    """Revoke an administrator's token and forget it; False: it could not be revoked, and is kept for another try."""
    run = Installation.objects.select_related("org__salesforce").get(pk=run.pk)
    gone = _revoke(run.org, readable(run, "token")) or timezone.now() - run.created_at > LONGEST_TOKEN
    if gone:
        Installation.objects.filter(pk=run.pk).update(token="")
    return gone


def _revoke(org: Org, token: str) -> bool:
    """End a token's life; False if Salesforce does not answer."""
    try:
        if token:
            connection = org.salesforce
            revoke(connection.base_url, AccessToken(token, connection.base_url), allow_local=settings.ALLOW_LOCAL_UPSTREAMS)
    except SalesforceConnection.DoesNotExist:
        return True  # nobody knows any more whose it was
    except ApiError as exc:
        log.warning("administrator's token not revoked", org=org.pk, error=str(exc))
        return False
    return True


def revoke_leftover_tokens() -> int:
    """Revoke the tokens of runs and sign-ins that somebody left, or that could not be revoked before; gives how many went.

    One at a time, each read by itself and within a time limit, in no order: one that cannot be read, or whose Salesforce
    hangs, keeps nobody else's.
    """
    until, gone = time.monotonic() + REVOKING_SECONDS, 0
    with every_org():
        for model in (Installation, PendingSignIn):
            old = model._default_manager.exclude(token="").filter(created_at__lt=timezone.now() - TOKEN_LIFE)
            for pk in old.order_by("?").values_list("pk", flat=True)[:MOST_REVOKED]:
                if time.monotonic() > until:
                    break
                try:
                    with time_limit(REVOKE_SECONDS):
                        gone += _revoke_left(model, pk)
                except Exception as exc:  # whatever is wrong with one, the others are revoked
                    log.warning("administrator's token not revoked", row=pk, error=type(exc).__name__)
                    ended = model._default_manager.filter(pk=pk, created_at__lt=timezone.now() - LONGEST_TOKEN)
                    gone += ended.update(token="")
    return gone


def _revoke_left(model: type[Installation] | type[PendingSignIn], pk: int) -> bool:
    row = model._default_manager.select_related("org__salesforce").get(pk=pk)
    if not connection.in_atomic_block:
        connection.close()  # nobody holds one while they call
    org = row.org
    gone = org is None or _revoke(org, readable(row, "token")) or timezone.now() - row.created_at > LONGEST_TOKEN
    if gone:
        model._default_manager.filter(pk=pk).update(token="")
    return gone
