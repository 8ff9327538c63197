"""A plain Setup page for what stays manual: Setup -> External Client Apps, Messaging Settings, and so on, on one page."""

import re
import urllib.parse
import uuid
from typing import Any

from aiohttp import web

from sandbox.client_apps import read_certificate
from sandbox.elements import Problem
from sandbox.markup import choice, e, field, form, page, tick
from sandbox.oauth import public_key
from sandbox.oidc import cookie_name
from sandbox.records import (
    PRE_AUTHORIZED,
    SCOPES,
    SELF_AUTHORIZED,
    ConversationChannelDefinition,
    EntityDefinition,
    ExternalClientApp,
    FlowDefinitionView,
    Group,
    GroupMember,
    MessagingChannel,
    ObjectPermissions,
    PermissionSet,
    PermissionSetAssignment,
    PermissionSetLicense,
    PermissionSetLicenseAssign,
    Profile,
    Record,
    User,
)
from sandbox.setup_org import SCRT_SET, Setup, add_messaging_channel
from sandbox.world import Org, World

API_NAME = re.compile(r"[A-Za-z](_?[A-Za-z0-9])*")
SWITCHES = {
    "external_client_apps": "Opt in to External Client Apps",
    "secrets_by_metadata": "Allow access to External Client App consumer secrets via Metadata API",
    "omni_channel": "Enable Omni-Channel",
    "digital_engagement": "Digital Engagement add-on",
    "flows_deployed_active": "Deploy processes and flows as active",
}
PLACES = {
    "console navigation": "Infobip BYOC among the navigation items of the Service Console",
    "session page": "Infobip iFrame on the Messaging Session page",
}


class SetupPages:
    """The page of each org."""

    def __init__(self, world: World) -> None:
        self.world = world

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Register the pages."""
        router.add_get(r"/lightning/setup/{section}/home", self.deep_link)
        router.add_get(r"/setup/{org:00D\w+}", self.show)
        router.add_post(r"/setup/{org:00D\w+}", self.act)

    async def deep_link(self, request: web.Request) -> web.StreamResponse:
        """Go to a section of the org that the browser is signed in to, or let the person choose where there are several."""
        orgs = [org for org in self.world.orgs.values() if cookie_name(org) in request.cookies]
        orgs = orgs or list(self.world.orgs.values())
        section = request.match_info["section"]
        if len(orgs) == 1:
            raise web.HTTPFound(f"/setup/{orgs[0].id}#{urllib.parse.quote(section)}")
        links = "".join(f'<p><a href="/setup/{org.id}#{e(section)}">{e(org.title)}</a></p>' for org in orgs)
        return page("Setup", f'<div class="card">{links}</div>')

    def org(self, request: web.Request) -> Org:
        """Return the org of a page."""
        try:
            return self.world.find_org(request.match_info["org"])
        except KeyError as exc:
            raise web.HTTPNotFound from exc

    async def show(self, request: web.Request) -> web.StreamResponse:
        """Show all sections."""
        return render(self.org(request))

    async def act(self, request: web.Request) -> web.StreamResponse:
        """Do what a form says, and come back to its section."""
        origin = request.headers.get("Origin")
        if origin and urllib.parse.urlsplit(origin).netloc != request.host:
            raise web.HTTPForbidden
        org, given = self.org(request), await request.post()
        action = str(given.get("action"))
        section, do = ACTIONS.get(action, ("", None))
        if do is None:
            raise web.HTTPBadRequest
        try:
            do(org.setup, given)
        except Problem as exc:
            return render(org, problem=str(exc))
        org.follow_setup()
        self.world.journal.write("salesforce", "setup", org=org.id, text=action)
        raise web.HTTPSeeOther(f"/setup/{org.id}#{section}")


# what the forms do


def text(given: Any, name: str) -> str:
    """Return a field of a form."""
    return str(given.get(name) or "").strip()


def needed(given: Any, name: str, label: str) -> str:
    """Return a field of a form that must be filled in.

    :raises Problem: if it is not
    """
    if not (value := text(given, name)):
        raise Problem(f"Fill in: {label}")
    return value


def named(setup: Setup, kind: Any, given: Any) -> Any:
    """Return the record that a form is about.

    :raises Problem: if it is gone
    """
    row = setup.by_id(text(given, "id"))
    if not isinstance(row, kind):
        raise Problem("It is gone; load the page again")
    return row


def save_app(setup: Setup, given: Any) -> None:
    """Create an app or change one; an empty certificate keeps the one that is there."""
    if not setup.switches.external_client_apps:
        raise Problem("Opt in to External Client Apps first")
    label, name = needed(given, "label", "Label"), needed(given, "name", "API name")
    if not API_NAME.fullmatch(name):
        raise Problem("The API name can only contain letters, digits and single underscores")
    callbacks = needed(given, "callback_urls", "Callback URL").split()
    if any(not re.match(r"https://|http://(localhost|127\.0\.0\.1)", url) for url in callbacks):
        raise Problem("A callback URL begins with https://")
    scopes = [scope for scope in SCOPES.values() if scope in given.getall("scopes", [])]
    if not scopes:
        raise Problem("Choose at least one scope")
    certificate = read_certificate(text(given, "certificate")) if text(given, "certificate") else None
    app = setup.find(ExternalClientApp, name=name) or setup.add(ExternalClientApp(name=name, label=label))
    app.label, app.callback_urls, app.scopes = label, callbacks, scopes
    app.certificate = certificate or app.certificate
    app.permitted_users = PRE_AUTHORIZED if text(given, "policy") == PRE_AUTHORIZED else SELF_AUTHORIZED
    app.permission_sets = list(given.getall("permission_sets", []))
    app.make_consumer()


def delete_app(setup: Setup, given: Any) -> None:
    setup.remove(named(setup, ExternalClientApp, given))


def new_channel(setup: Setup, given: Any) -> None:
    """Make a channel from a definition's tile."""
    definition = named(setup, ConversationChannelDefinition, given)
    label = needed(given, "label", "Channel name")
    name = re.sub(r"\W+", "_", label).strip("_")
    if setup.find(MessagingChannel, developer_name=name):
        raise Problem("There is a channel of this name already")
    channel = add_messaging_channel(setup, definition, name, label, str(uuid.uuid4()))
    channel.routing_type = channel.session_handler_id = channel.target_queue_id = None


def save_channel(setup: Setup, given: Any) -> None:
    """Choose a channel's routing and switch it on or off."""
    channel = named(setup, MessagingChannel, given)
    flow = setup.by_id(text(given, "flow"))
    queue = setup.by_id(text(given, "queue"))
    if isinstance(flow, FlowDefinitionView) and not flow.active_version_id:
        raise Problem(f"{flow.label} is not active")
    if given.get("is_active") and not isinstance(flow, FlowDefinitionView) and not isinstance(queue, Group):
        raise Problem("Choose an Omni-Flow or a queue before you activate the channel")
    channel.routing_type = "Flow" if flow else "Queue" if queue else None
    channel.session_handler_id = flow.id if flow else None
    channel.target_queue_id = queue.id if queue else None
    channel.is_active = bool(given.get("is_active"))


def save_flows(setup: Setup, given: Any) -> None:
    for flow in setup.rows(FlowDefinitionView):
        flow.active_version_id = flow.latest_version_id if flow.id in given.getall("flows", []) else None


def save_places(setup: Setup, given: Any) -> None:
    setup.placed = [place for place in PLACES if place in given.getall("places", [])]


def save_switches(setup: Setup, given: Any) -> None:
    for name in SWITCHES:
        setattr(setup.switches, name, name in given.getall("switches", []))


def save_user(setup: Setup, given: Any) -> None:
    """Give a user exactly the permission sets, licences and queues that are ticked."""
    user = named(setup, User, given)
    user.is_active, user.user_permissions_support_user = bool(given.get("is_active")), bool(given.get("support_user"))
    profile = setup.find(PermissionSet, profile_id=user.profile_id)
    sets = [*given.getall("permission_sets", []), profile.id if profile else ""]
    tie(setup, PermissionSetAssignment, "assignee_id", user.id, "permission_set_id", sets)
    licenses = given.getall("licenses", [])
    tie(setup, PermissionSetLicenseAssign, "assignee_id", user.id, "permission_set_license_id", licenses)
    tie(setup, GroupMember, "user_or_group_id", user.id, "group_id", given.getall("queues", []))


def tie(setup: Setup, kind: Any, one: str, this: str, other: str, wanted: list[str]) -> None:
    """Keep the rows between one record and others that are wanted, and add those that lack."""
    rows = setup.tables[kind.__name__]
    rows[:] = [row for row in rows if getattr(row, one) != this or getattr(row, other) in wanted]
    have = {getattr(row, other) for row in rows if getattr(row, one) == this}
    for each in wanted:
        if each and each not in have:
            setup.add(kind(**{one: this, other: each}))


def save_scrt(setup: Setup, given: Any) -> None:
    """Give the platform's own permission set Read and Create on the events that are ticked."""
    scrt = setup.find(PermissionSet, name=SCRT_SET[0])
    rows = setup.tables["ObjectPermissions"]
    rows[:] = [row for row in setup.rows(ObjectPermissions) if scrt is None or row.parent_id != scrt.id]
    for name in given.getall("events", []) if scrt else []:
        right = ObjectPermissions(parent_id=scrt.id if scrt else "", sobject_type=name, permissions_read=True)
        right.permissions_create = True
        setup.add(right)


ACTIONS: dict[str, tuple[str, Any]] = {
    "save_app": ("ManageExternalClientApplication", save_app),
    "delete_app": ("ManageExternalClientApplication", delete_app),
    "new_channel": ("LiveMessageSetup", new_channel),
    "save_channel": ("LiveMessageSetup", save_channel),
    "save_flows": ("Flows", save_flows),
    "save_places": ("NavigationMenus", save_places),
    "save_switches": ("Switches", save_switches),
    "save_user": ("ManageUsers", save_user),
    "save_scrt": ("PermSets", save_scrt),
}


# what the page shows


def render(org: Org, problem: str = "") -> web.Response:
    """Return the page, with what is wrong at its top."""
    setup, address = org.setup, f"/setup/{org.id}"
    sections = [
        ("ManageExternalClientApplication", "External Client Apps", apps_section(setup, address)),
        ("LiveMessageSetup", "Messaging Settings", channels_section(setup, address)),
        ("Flows", "Flows", flows_section(setup, address)),
        ("NavigationMenus", "Lightning pages and navigation items", places_section(setup, address)),
        ("Switches", "Org settings", switches_section(setup, address)),
        ("PermSets", "Permission set SCRT2 Integration User", scrt_section(setup, address)),
        ("ManageUsers", "Users", users_section(setup, address)),
    ]
    wrong = f'<p class="wrong" role="alert">{e(problem)}</p>' if problem else ""
    body = "".join(f'<section id="{name}"><h2>{e(title)}</h2>{content}</section>' for name, title, content in sections)
    return page(f"Setup: {org.title}", wrong + body, status=400 if problem else 200)


def of(row: Record) -> str:
    """Return the hidden field that says which record a form is about."""
    return f'<input type="hidden" name="id" value="{e(row.id)}">'


def own_sets(setup: Setup) -> list[PermissionSet]:
    """Return the permission sets that can be assigned to people."""
    return [row for row in setup.rows(PermissionSet) if not row.is_owned_by_profile and not row.namespace_prefix]


def apps_section(setup: Setup, address: str) -> str:
    parts = []
    for app in setup.rows(ExternalClientApp):
        key = "yes" if public_key(app) else "none"
        parts.append(
            f"<p>Consumer key of {e(app.label)}: <code>{e(app.consumer_key or 'none yet')}</code>"
            f' <span class="note">certificate: {key}, {"enabled" if app.is_enabled else "disabled"}</span></p>'
            + app_form(setup, address, app)
            + form(address, "delete_app", of(app), "Delete")
        )
    return "".join(parts) + "<h2>New External Client App</h2>" + app_form(setup, address, None)


def app_form(setup: Setup, address: str, app: ExternalClientApp | None) -> str:
    scopes = "".join(tick(each, "scopes", each, bool(app and each in app.scopes)) for each in SCOPES.values())
    covering = [(row.label, row.name) for row in own_sets(setup)]
    # a profile covers its users by the permission set that belongs to it
    for profile in setup.rows(Profile):
        owned = setup.find(PermissionSet, profile_id=profile.id)
        covering += [(f"Profile {profile.name}", owned.name)] if owned else []
    sets = "".join(
        tick(label, "permission_sets", name, bool(app and name in app.permission_sets)) for label, name in covering
    )
    policies = [
        (PRE_AUTHORIZED, "Admin approved users are pre-authorized"),
        (SELF_AUTHORIZED, "All users may self-authorize"),
    ]
    body = (
        field("Label", "label", app.label if app else "")
        + field("API name", "name", app.name if app else "")
        + field("Callback URLs", "callback_urls", "\n".join(app.callback_urls) if app else "", long=True)
        + field("Certificate (PEM)", "certificate", "", long=True)
        + f"<div>{scopes}</div>"
        + choice("Permitted users", "policy", policies, app.permitted_users if app else None)
        + f"<div>{sets}</div>"
    )
    return form(address, "save_app", body, "Save" if app else "Create")


def offers_tile(setup: Setup) -> bool:
    """Tell whether a channel can be made: an app is complete, or the screen does not offer the tile."""
    scopes = {"api", "refresh_token", "interaction_api"}
    return any(
        public_key(app) and scopes <= set(app.scopes) and app.permission_sets and app.is_enabled
        for app in setup.rows(ExternalClientApp)
    )


def channels_section(setup: Setup, address: str) -> str:
    parts = []
    flows = [("", "none"), *((row.id, row.label) for row in setup.rows(FlowDefinitionView))]
    queues = [("", "none"), *((row.id, row.name) for row in setup.rows(Group))]
    for channel in setup.rows(MessagingChannel):
        body = (
            of(channel)
            + choice("Omni-Flow", "flow", flows, channel.session_handler_id)
            + choice("Queue", "queue", queues, channel.target_queue_id)
            + tick("Active", "is_active", "1", channel.is_active)
        )
        parts.append(
            f"<h2>{e(channel.master_label)}</h2><p>Messaging Platform Key: <code>{e(channel.channel_address_identifier)}"
            f"</code></p>{form(address, 'save_channel', body, 'Save')}"
        )
    tiles = setup.rows(ConversationChannelDefinition) if offers_tile(setup) else []
    for row in tiles:
        body = of(row) + field("Channel name", "label", row.master_label)
        parts.append(f"<h2>New Channel: {e(row.master_label)}</h2>" + form(address, "new_channel", body, "Create channel"))
    return "".join(parts) or '<p class="note">No tile: there is no channel definition, or its app is incomplete.</p>'


def flows_section(setup: Setup, address: str) -> str:
    ticks = (tick(row.label, "flows", row.id, bool(row.active_version_id)) for row in setup.rows(FlowDefinitionView))
    return form(address, "save_flows", "".join(ticks), "Activate the ticked ones")


def places_section(setup: Setup, address: str) -> str:
    ticks = (tick(label, "places", name, name in setup.placed) for name, label in PLACES.items())
    return form(address, "save_places", "".join(ticks), "Save")


def switches_section(setup: Setup, address: str) -> str:
    ticks = (tick(label, "switches", name, getattr(setup.switches, name)) for name, label in SWITCHES.items())
    return form(address, "save_switches", "".join(ticks), "Save")


def scrt_section(setup: Setup, address: str) -> str:
    events = [row.qualified_api_name for row in setup.rows(EntityDefinition)]
    ticks = (tick(f"Read and Create on {name}", "events", name, setup.platform_publishes(name)) for name in events)
    return form(address, "save_scrt", "".join(ticks), "Save")


def users_section(setup: Setup, address: str) -> str:
    parts = []
    for user in setup.rows(User):
        have = {row.permission_set_id for row in setup.rows(PermissionSetAssignment) if row.assignee_id == user.id}
        licensed = {
            row.permission_set_license_id for row in setup.rows(PermissionSetLicenseAssign) if row.assignee_id == user.id
        }
        queues = {row.group_id for row in setup.rows(GroupMember) if row.user_or_group_id == user.id}
        body = (
            of(user)
            + tick("Active", "is_active", "1", user.is_active)
            + tick("Service Cloud User", "support_user", "1", user.user_permissions_support_user)
            + "<br>"
            + "".join(tick(row.label, "permission_sets", row.id, row.id in have) for row in own_sets(setup))
            + "<br>"
            + "".join(
                tick(row.master_label, "licenses", row.id, row.id in licensed) for row in setup.rows(PermissionSetLicense)
            )
            + "<br>"
            + "".join(tick(f"Queue {row.name}", "queues", row.id, row.id in queues) for row in setup.rows(Group))
        )
        parts.append(f"<h2>{e(user.name)}</h2><p>{e(user.username)}</p>" + form(address, "save_user", body, "Save"))
    return "".join(parts)
