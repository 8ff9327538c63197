"""The control API of an org's set-up: tests look at it, plant single faults, and get an administrator's token.

    GET   /control/orgs/{id}/setup       all records with all their values, the switches, the limits, what is placed
    PATCH /control/orgs/{id}/setup       one edit, or a list of them: {"path": …, "value": …}
    POST  /control/orgs/{id}/tokens      {"username": …, "scopes": [...]}: a token as the Salesforce CLI would have one

A path begins with the name of an object, and conditions in brackets choose records; all of the chosen ones are changed:

    {"path": "MessagingChannel[DeveloperName=Infobip_WhatsApp].IsActive", "value": false}
    {"path": "ObjectPermissions[SobjectType=Infobip_Event__e,PermissionSet.Name=sfdc_scrt2]", "value": null}    removes
    {"path": "PermissionSetLicenseAssign[PermissionSetLicense.MasterLabel=Messaging User]", "value": null}      removes
    {"path": "ConversationVendorInfo.VendorType", "value": "BringYourOwnContactCenter"}                         all of them
    {"path": "FlowDefinitionView.ActiveVersionId", "value": null}
    {"path": "EntityDefinition.Fields", "value": {"EventType__c": {"label": "EventType", "type": "Text", "length": 36}}}
    {"path": "GroupMember", "value": {"GroupId": "00G…", "UserOrGroupId": "005…"}}                              adds

or with one of the other parts:

    {"path": "switches.vendor_with_customer_refused", "value": true}
    {"path": "limits.DailyDeliveredPlatformEvents.Remaining", "value": 0}
    {"path": "placed", "value": []}
"""

import re
from typing import Any

from aiohttp import web

from sandbox.answers import answer
from sandbox.records import KINDS, RELATIONS, Record, User, api_name
from sandbox.setup_org import Setup, describe
from sandbox.world import Org, World

PATH = re.compile(r"(?P<kind>[A-Za-z]+)(\[(?P<conditions>[^\]]*)\])?(\.(?P<field>[A-Za-z]+))?")
ADMIN_SCOPES = ["api", "openid", "id", "web", "refresh_token"]


class Unusable(Exception):
    """An edit that cannot be made, in words."""


class SetupControl:
    """The routes."""

    def __init__(self, world: World) -> None:
        self.world = world

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Register the routes."""
        router.add_get("/control/orgs/{id}/setup", self.show)
        router.add_route("PATCH", "/control/orgs/{id}/setup", self.edit)
        router.add_post("/control/orgs/{id}/tokens", self.token)

    def org(self, request: web.Request) -> Org | None:
        """Return the org of a request."""
        try:
            return self.world.find_org(request.match_info["id"])
        except KeyError:
            return None

    async def show(self, request: web.Request) -> web.StreamResponse:
        """Return all of the set-up."""
        org = self.org(request)
        return answer(200, org.setup.describe()) if org else answer(404, {"error": "There is no such org."})

    async def edit(self, request: web.Request) -> web.StreamResponse:
        """Make edits, in their order, and say how many records each one changed."""
        org = self.org(request)
        if org is None:
            return answer(404, {"error": "There is no such org."})
        try:
            body = await request.json()
            edits = body if isinstance(body, list) else [body]
            changed = [edit(org.setup, each["path"], each["value"]) for each in edits]
        except (Unusable, ValueError, KeyError, TypeError) as exc:
            return answer(400, {"error": f"The edit cannot be used: {type(exc).__name__} {exc}"})
        finally:
            org.follow_setup()
        return answer(200, {"changed": changed})

    async def token(self, request: web.Request) -> web.StreamResponse:
        """Give a token of a user, which needs no external client app."""
        org, body = self.org(request), await request.json()
        user = org and org.setup.find(User, username=body.get("username"))
        if org is None or user is None:
            return answer(404, {"error": "There is no such org or user."})
        return answer(200, {"accessToken": self.world.issue_token(org, user.id, body.get("scopes") or ADMIN_SCOPES)})


def edit(setup: Setup, path: str, value: Any) -> int:
    """Make one edit and return how many records it changed.

    :raises Unusable: if it names nothing
    """
    first, _, rest = path.partition(".")
    if first == "switches" and hasattr(setup.switches, rest):
        setattr(setup.switches, rest, value)
        return 1
    if first == "limits":
        name, _, part = rest.partition(".")
        setup.limits[name][part] = int(value)
        return 1
    if path == "placed":
        setup.placed = list(value)
        return 1
    found = PATH.fullmatch(path)
    if not found or found["kind"] not in KINDS:
        raise Unusable(f"no such path: {path}")
    kind = KINDS[found["kind"]]
    if isinstance(value, dict) and not found["field"]:
        setup.add(kind(**{attribute_of(kind, name): each for name, each in value.items()}))
        return 1
    rows = [row for row in setup.tables[kind.__name__] if fits(setup, row, found["conditions"])]
    if not rows:
        raise Unusable(f"nothing fits {path}")
    for row in rows:
        if found["field"]:
            setattr(row, attribute_of(kind, found["field"]), value)
        elif value is None:
            setup.remove(row)
        else:
            raise Unusable("value is null to remove records")
    return len(rows)


def attribute_of(kind: type[Record], field: str) -> str:
    """Return the attribute of a field.

    :raises Unusable: if there is none
    """
    found = next((name for name in kind.__dataclass_fields__ if api_name(name) == field), None)
    if found is None:
        raise Unusable(f"{kind.__name__} has no {field}")
    return str(found)


def fits(setup: Setup, row: Record, conditions: str | None) -> bool:
    """Tell whether a record fits conditions such as ``DeveloperName=x,PermissionSet.Name=y``."""
    for condition in conditions.split(",") if conditions else []:
        path, _, wanted = condition.partition("=")
        relation, dot, name = path.partition(".")
        record: Record | None = row
        if dot:
            pointing = (n for n in describe(row) if n.endswith("Id") and target(n) == relation)
            record = setup.by_id(getattr(row, attribute_of(type(row), next(pointing, relation))))
        else:
            name = path
        if record is None or str(describe(record).get(name)) != wanted:
            return False
    return True


def target(field: str) -> str | None:
    """Return the kind of record that a field such as ParentId points at."""
    kind = RELATIONS.get(field.removesuffix("Id"))
    return kind.__name__ if kind else None
