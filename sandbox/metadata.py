"""Metadata deploys by REST: a zip that is really read, checked and applied, over the time that the platform takes.

https://developer.salesforce.com/docs/atlas.en-us.api_meta.meta/api_meta/meta_rest_deploy.htm
"""

import asyncio
import copy
import json
import time
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from sandbox import definitions
from sandbox.callers import Caller
from sandbox.client_apps import app_of, forget
from sandbox.components import KINDS, Component
from sandbox.definitions import SetupRefused
from sandbox.elements import Problem
from sandbox.ids import record_id
from sandbox.multipart import read_multipart
from sandbox.packages import Message, count_components, read_component, unpack
from sandbox.records import (
    ConversationChannelDefinition,
    ConversationVendorInfo,
    CustomTab,
    EntityDefinition,
    ExternalClientApp,
    FlexiPage,
    FlowDefinitionView,
    Group,
    PermissionSet,
    PermissionSetAssignment,
    Record,
)
from sandbox.rest import BASE, Rest
from sandbox.setup_org import SCRT_SET, Setup
from sandbox.world import Org, World

OPTIONS = {
    "allowMissingFiles": False,
    "autoUpdatePackage": False,
    "checkOnly": False,
    "ignoreWarnings": False,
    "performRetrieve": False,
    "purgeOnDelete": False,
    "rollbackOnError": True,
    "runTests": [],
    "singlePackage": False,
    "testLevel": None,
}
LARGEST_ZIP = 39 * 1024 * 1024
SHORTEST, LONGEST, PER_COMPONENT = 2.0, 4.0, 0.15  # seconds of a deployment
ORDER = list(KINDS)
NOT_TOGETHER = (
    "The external client app configured in your global OAuth Settings doesn't have a valid OAuth settings configuration"
)


@dataclass
class Deployment:
    """One deploy request and how far it is."""

    id: str
    org: Org
    options: dict[str, Any]
    archive: bytes
    seconds: float
    total: int
    started: float = field(default_factory=time.monotonic)
    status: str = "Pending"
    messages: list[Message] = field(default_factory=list)
    timer: asyncio.TimerHandle | None = None

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self.status in ("Succeeded", "SucceededPartial", "Failed", "Canceled")

    def describe(self, details: bool) -> dict[str, Any]:
        """Return the status; while it runs, the count of components grows with the time."""
        passed = (time.monotonic() - self.started) / self.seconds if self.seconds else 1.0
        errors = [each for each in self.messages if each.problem is not None and not each.warning]
        right = [each for each in self.messages if each not in errors]
        deployed = len(right) if self.done else min(int(passed * self.total), max(self.total - 1, 0))
        status = "InProgress" if self.status == "Pending" and passed > 0.1 else self.status
        result: dict[str, Any] = {
            "id": self.id,
            "status": status,
            "done": self.done,
            "success": self.status in ("Succeeded", "SucceededPartial"),
            "checkOnly": self.options["checkOnly"],
            "rollbackOnError": self.options["rollbackOnError"],
            "ignoreWarnings": self.options["ignoreWarnings"],
            "numberComponentsTotal": self.total,
            "numberComponentsDeployed": deployed,
            "numberComponentErrors": len(errors),
            "numberTestsTotal": 0,
            "numberTestsCompleted": 0,
            "numberTestErrors": 0,
            "stateDetail": None
            if self.done or status == "Pending"
            else f"Deploying component {deployed + 1} of {self.total}",
        }
        if details:
            result["details"] = {
                "componentFailures": [each.describe() for each in errors],
                "componentSuccesses": [each.describe() for each in right],
                "runTestResult": {"numFailures": 0, "numTestsRun": 0, "successes": [], "failures": []},
            }
        return result


class Metadata:
    """The deploys of all orgs."""

    def __init__(self, world: World, rest: Rest) -> None:
        self.world, self.rest = world, rest
        self.deployments: dict[str, Deployment] = {}

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Register the endpoints."""
        place = BASE + "/metadata/deployRequest"
        router.add_post(place, self.rest.guarded(self.deploy))
        router.add_get(place + r"/{id:\w+}", self.rest.guarded(self.status))
        router.add_route("PATCH", place + r"/{id:\w+}", self.rest.guarded(self.cancel))

    async def deploy(self, request: web.Request, caller: Caller) -> tuple[int, Any]:
        """Take a zip and start to deploy it."""
        caller.needs("ModifyMetadata")
        caller.needs("CustomizeApplication")
        try:
            parts = {p.name: p for p in read_multipart(request.headers.get("Content-Type", ""), await request.read())}
            given = json.loads(parts["json"].body)["deployOptions"]
            archive = parts["file"].body
            typed = parts["json"].content_type == "application/json" and parts["file"].content_type == "application/zip"
        except (ValueError, KeyError, TypeError) as exc:
            raise SetupRefused("MALFORMED_MULTIPART", f"The request has no part of that name or form: {exc}") from exc
        if not typed or not isinstance(given, dict):
            raise SetupRefused("MALFORMED_MULTIPART", "The parts json and file are application/json and application/zip")
        if unknown := [name for name in given if name not in OPTIONS]:
            raise SetupRefused("JSON_PARSER_ERROR", f'Unrecognized field "{unknown[0]}" in deployOptions')
        if len(archive) > LARGEST_ZIP:
            raise SetupRefused("LIMIT_EXCEEDED", "Maximum size of request reached. Maximum size of request is 39 MB.")
        options = OPTIONS | given
        total = count_components(archive)
        seconds = caller.setup.switches.deploy_seconds
        if seconds is None:
            seconds = min(SHORTEST + PER_COMPONENT * total, LONGEST)
        deployment = Deployment(record_id("0Af", len(self.deployments) + 1), caller.org, options, archive, seconds, total)
        self.deployments[deployment.id] = deployment
        deployment.timer = asyncio.get_running_loop().call_later(seconds, self.finish, deployment)
        return 201, {
            "id": deployment.id,
            "validatedDeployRequestId": None,
            "deployOptions": options,
            "deployResult": None,
        }

    def find(self, request: web.Request, caller: Caller) -> Deployment:
        """Return the deployment that a request names.

        :raises SetupRefused: if the org has none of that id
        """
        wanted = request.match_info["id"]
        for deployment in self.deployments.values():
            if wanted in (deployment.id, deployment.id[:15]) and deployment.org is caller.org:
                return deployment
        raise SetupRefused("INVALID_CROSS_REFERENCE_KEY", "invalid cross reference id", status=404)

    async def status(self, request: web.Request, caller: Caller) -> tuple[int, Any]:
        """Tell how far a deployment is."""
        caller.needs("ModifyMetadata")
        deployment = self.find(request, caller)
        details = request.query.get("includeDetails") == "true"
        return 200, {
            "id": deployment.id,
            "validatedDeployRequestId": None,
            "deployOptions": deployment.options,
            "deployResult": deployment.describe(details),
        }

    async def cancel(self, request: web.Request, caller: Caller) -> tuple[int, Any]:
        """Stop a deployment; it is canceled a moment later."""
        caller.needs("ModifyMetadata")
        deployment = self.find(request, caller)
        if deployment.done or deployment.timer is None:
            raise SetupRefused("INVALID_OPERATION", "The deployment has already completed")
        try:
            wanted = json.loads(await request.read())["deployResult"]["status"]
        except (ValueError, KeyError, TypeError) as exc:
            raise SetupRefused("JSON_PARSER_ERROR", "The body names no status") from exc
        if wanted != "Canceling":
            raise SetupRefused("INVALID_FIELD", f"status cannot be set to {wanted}")
        deployment.timer.cancel()
        deployment.status = "Canceling"
        asyncio.get_running_loop().call_later(min(deployment.seconds, 0.3), setattr, deployment, "status", "Canceled")
        return 202, {"id": deployment.id, "deployResult": deployment.describe(False)}

    def finish(self, deployment: Deployment) -> None:
        """Apply it all to a copy of the set-up, which takes the set-up's place unless it may not."""
        org, options = deployment.org, deployment.options
        work, deployment.messages = apply(org.setup, deployment.archive, options)
        failed = [each for each in deployment.messages if each.problem is not None and not each.warning]
        succeeded = [each for each in deployment.messages if each not in failed]
        keeps = not failed or (not options["rollbackOnError"] and succeeded)
        if keeps and not options["checkOnly"]:
            org.setup = work
            org.follow_setup()
        deployment.status = "Succeeded" if not failed else "SucceededPartial" if keeps else "Failed"
        error = f"{failed[0].kind} {failed[0].name}: {failed[0].problem}" if failed else None
        self.world.journal.write("salesforce", "deploy", org=org.id, text=deployment.status, id=deployment.id, error=error)


# applying it


def apply(setup: Setup, archive: bytes, options: dict[str, Any]) -> tuple[Setup, list[Message]]:
    """Return a copy of the set-up with all components that are right, and what became of each one."""
    work = copy.deepcopy(setup)
    try:
        if not options["singlePackage"]:
            raise Problem("No package.xml found: without singlePackage each package is a folder of the zip")
        components, removed, messages = unpack(archive)
    except Problem as exc:
        return work, [Message("", "package.xml", str(exc))]
    for kind, name in sorted(removed, key=lambda member: -ORDER.index(member[0]) if member[0] in ORDER else 0):
        work, message = attempt(work, Message(kind if kind in KINDS else "", name, deleted=True), None)
        messages.append(message)
    of_apps = []
    for component in sorted(components, key=lambda each: ORDER.index(each.kind)):
        work, message = attempt(work, Message(component.kind, component.name), component)
        messages.append(message)
        if component.kind == "ExtlClntAppGlobalOauthSettings":
            of_apps.append((messages[-1], component))
    for message, component in of_apps:
        if message.problem is None and not read_app(work, component).scopes:
            message.problem = NOT_TOGETHER
    return work, messages


def attempt(setup: Setup, message: Message, component: Component | None) -> tuple[Setup, Message]:
    """Return the set-up with one component applied or removed, or as it is where that is refused."""
    work = copy.deepcopy(setup)
    try:
        if component is None:
            message.warning = not remove(work, message.kind, message.name)
            message.problem = f"No {message.kind} named: {message.name} found" if message.warning else None
        else:
            KINDS[component.kind].apply(work, component.name, read_component(component))
    except SetupRefused as refusal:
        message.problem = f"{refusal.code}: {refusal}" if refusal.code.startswith("INVALID_CROSS") else str(refusal)
    except (Problem, ValueError) as exc:
        message.problem = str(exc)
    return (setup, message) if message.problem else (work, message)


def read_app(setup: Setup, component: Component) -> ExternalClientApp:
    """Return the app that a file belongs to, once it is applied."""
    return app_of(setup, read_component(component))


def remove(setup: Setup, kind: str, name: str) -> bool:
    """Remove a component; False if there is none of that name.

    :raises Problem: if something still needs it
    """
    if kind not in KINDS:
        return False
    if kind.startswith("ExtlClntApp"):
        app = setup.find(ExternalClientApp, name=name.rpartition("_")[0])
        if app:
            forget(app, kind)
        return app is not None
    if kind == "Flow":
        return remove_flow(setup, name)
    row = find_row(setup, kind, name)
    if row is None:
        return False
    if isinstance(row, ConversationVendorInfo | ConversationChannelDefinition):
        definitions.check_unused(setup, row)
    if user := user_of(setup, row):
        raise Problem(f"This {kind} is referenced elsewhere in salesforce.com. Remove the usage and try again: {user}")
    setup.remove(row)
    return True


def find_row(setup: Setup, kind: str, name: str) -> Record | None:
    """Return the record of a component."""
    record = KINDS[kind].record
    rows = setup.tables[record.__name__] if record else []
    names = ("qualified_api_name", "developer_name", "name") if kind != "Queue" else ("developer_name",)
    return next((row for row in rows if name in [getattr(row, each, None) for each in names]), None)


def user_of(setup: Setup, row: Record) -> str | None:
    """Return what still needs a record."""
    found: Any = None
    if isinstance(row, EntityDefinition):
        found = setup.find(ConversationChannelDefinition, custom_platform_event=row.qualified_api_name)
    if isinstance(row, FlexiPage):
        found = setup.find(CustomTab, page=row.developer_name)
    if isinstance(row, PermissionSet):
        if row.name == SCRT_SET[0] or row.is_owned_by_profile:
            return "Salesforce"
        found = setup.find(PermissionSetAssignment, permission_set_id=row.id)
        apps = (app for app in setup.rows(ExternalClientApp) if row.name in app.permission_sets)
        found = found or next(apps, None)
    if isinstance(row, Group):
        flows = (f for f in setup.rows(FlowDefinitionView) if f.queue == row.developer_name and f.active_version_id)
        found = next(flows, None)
    return found and str(getattr(found, "developer_name", getattr(found, "name", None)) or found.id)


def remove_flow(setup: Setup, name: str) -> bool:
    """Remove one version of a flow, and the flow with its last one.

    :raises Problem: if the name has no version, or that version is active
    """
    api_name, dash, number = name.rpartition("-")
    if not dash or not number.isdigit():
        raise Problem("insufficient access rights on cross-reference id")
    flow = setup.find(FlowDefinitionView, api_name=api_name)
    if flow is None or not 0 < int(number) <= len(flow.versions) or not flow.versions[int(number) - 1]:
        return False
    if flow.active_version_id == flow.versions[int(number) - 1]:
        raise Problem("insufficient access rights on cross-reference id: the version is active")
    flow.versions[int(number) - 1] = ""  # the others keep their numbers
    flow.latest_version_id = next((version for version in reversed(flow.versions) if version), None)
    if flow.latest_version_id is None:
        setup.remove(flow)
    return True
