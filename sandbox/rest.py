"""The REST and Tooling APIs: who calls, what is refused, queries, descriptions and limits.

https://developer.salesforce.com/docs/atlas.en-us.api_rest.meta/api_rest/
"""

import urllib.parse
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from sandbox import soql
from sandbox.answers import answer
from sandbox.callers import DATA, TOOLING, Caller
from sandbox.definitions import SetupRefused, metadata_of
from sandbox.ids import record_id as make_id
from sandbox.journal import now_ms
from sandbox.oidc import bearer
from sandbox.records import (
    KINDS,
    RELATIONS,
    Conversation,
    EntityDefinition,
    FlowDefinitionView,
    Group,
    GroupMember,
    MessagingChannel,
    MessagingEndUser,
    MessagingSession,
    Record,
    shown_fields,
)
from sandbox.setup_org import Setup
from sandbox.sobjects import Sobjects
from sandbox.world import World

VERSIONS = {"66.0": "Spring '26", "67.0": "Summer '26", "68.0": "Winter '27"}  # older ones have other field names
BASE = r"/services/data/v{version:\d+\.\d}"
FLOW_DEFINITION = {
    "Id": "id",
    "DeveloperName": "api_name",
    "MasterLabel": "label",
    "ActiveVersionId": "active_version_id",
    "LatestVersionId": "latest_version_id",
}
FIELD_TYPES = {"Text": "string", "LongTextArea": "textarea", "Number": "double", "Checkbox": "boolean"}
EVENT_FIELDS = {"ReplayId": "string", "CreatedDate": "datetime", "CreatedById": "reference", "EventUuid": "string"}


@dataclass(kw_only=True, eq=False)
class UserRecordAccess(Record):
    """What a user may do with a record; it is computed, and never kept."""

    prefix = "000"
    record_id: str
    user_id: str
    has_read_access: bool
    has_edit_access: bool


@dataclass(kw_only=True, eq=False)
class FlowVersion(Record):
    """A version of a flow, which the Tooling API calls a flow; it is computed, and never kept."""

    prefix = "301"
    definition_id: str
    version_number: int


COMPUTED: dict[str, type[Record]] = {"UserRecordAccess": UserRecordAccess, "Flow": FlowVersion}

Act = Callable[[web.Request, Caller], Awaitable[tuple[int, Any]]]


class Rest:
    """The APIs, for all orgs."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.sobjects = Sobjects()

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Register the endpoints."""
        router.add_get("/services/data", self.versions)
        router.add_get("/services/data/", self.versions)
        get, guarded, sobjects = router.add_get, self.guarded, self.sobjects
        get(BASE + "/query", guarded(self.query))
        get(BASE + "/tooling/query", guarded(self.tooling_query))
        get(BASE + "/limits", guarded(self.limits))
        get(BASE + r"/sobjects/{kind:\w+}/describe", guarded(self.describe))
        for place, act in (("/sobjects", sobjects.data), ("/tooling/sobjects", sobjects.tooling)):
            router.add_post(BASE + place + r"/{kind:\w+}", guarded(act))
            router.add_post(BASE + place + r"/{kind:\w+}/", guarded(act))
            for method in ("GET", "PATCH", "DELETE"):
                router.add_route(method, BASE + place + r"/{kind:\w+}/{id:\w{15,18}}", guarded(act))

    def guarded(self, act: Act) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """Return the handler of an endpoint: who calls, errors in the documented form, the count of calls."""

        async def handle(request: web.Request) -> web.StreamResponse:
            arrived, org, error = now_ms(), None, None
            headers: dict[str, str] = {}
            body: Any
            try:
                caller = self.caller(request)
                org = caller.org
                headers = self.count(caller)
                status, body = await act(request, caller)
            except SetupRefused as refusal:
                status, error = refusal.status, f"{refusal.code}: {refusal}"
                body = [{"message": str(refusal), "errorCode": refusal.code}]
                if refusal.fields:
                    body[0]["fields"] = list(refusal.fields)
            place = f"{request.method} {request.path.partition('/services/data/')[2]}"
            took = round(now_ms() - arrived, 2)
            self.world.journal.write(
                "salesforce", "rest", org=org and org.id, text=place, status=status, error=error, ms=took
            )
            return web.Response(status=204, headers=headers) if status == 204 else answer(status, body, headers)

        return handle

    def caller(self, request: web.Request) -> Caller:
        """Return whose token a request has.

        :raises SetupRefused: if it may not call
        """
        token = bearer(request, self.world)
        if token is None or request.host != urllib.parse.urlsplit(token.org.base_url).netloc:
            raise SetupRefused("INVALID_SESSION_ID", "Session expired or invalid", status=401)
        if not token.scopes & {"api", "full"}:
            raise SetupRefused("INVALID_SESSION_ID", "This session is not valid for use with the REST API", status=401)
        if request.match_info.get("version", "68.0") not in VERSIONS:
            raise SetupRefused("NOT_FOUND", "The requested resource does not exist", status=404)
        if not token.org.setup.permits(token.user_id, "ApiEnabled"):
            raise SetupRefused("API_CURRENTLY_DISABLED", "API is disabled for this User", status=403)
        return Caller(token.org, token.user_id)

    @staticmethod
    def count(caller: Caller) -> dict[str, str]:
        """Count a call against the org's allocation and return the header that tells of it.

        :raises SetupRefused: if it is used up
        """
        limit = caller.setup.limits["DailyApiRequests"]
        if limit["Remaining"] <= 0:
            raise SetupRefused("REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.", status=403)
        limit["Remaining"] -= 1
        return {"Sforce-Limit-Info": f"api-usage={limit['Max'] - limit['Remaining']}/{limit['Max']}"}

    async def versions(self, request: web.Request) -> web.StreamResponse:
        """Tell which versions there are, to anybody."""
        return answer(200, [{"label": n, "url": f"/services/data/v{v}", "version": v} for v, n in VERSIONS.items()])

    async def limits(self, request: web.Request, caller: Caller) -> tuple[int, Any]:
        """Tell the org's limits."""
        caller.needs("ViewSetup")
        return 200, caller.setup.limits

    async def describe(self, request: web.Request, caller: Caller) -> tuple[int, Any]:
        """Describe an object; an event is there for those only who may read it, or customize the org."""
        name = request.match_info["kind"]
        event = caller.setup.find(EntityDefinition, qualified_api_name=name)
        if event and (
            caller.setup.may(caller.user_id, "read", name) or caller.setup.permits(caller.user_id, "CustomizeApplication")
        ):
            columns = [{"name": each, "type": kind, "length": 0} for each, kind in EVENT_FIELDS.items()]
            for each, column in event.fields.items():
                kind = FIELD_TYPES.get(column["type"], "string")
                columns.append({"name": each, "label": column["label"], "type": kind, "length": column.get("length", 0)})
            label, prefix, custom = event.label, "e00", True
        elif name in DATA and name in KINDS:
            columns = [{"name": each, "label": each} for each in shown_fields(KINDS[name])]
            label, prefix, custom = name, KINDS[name].prefix, False
        else:
            raise SetupRefused("NOT_FOUND", "The requested resource does not exist", status=404)
        body = {"name": name, "label": label, "keyPrefix": prefix, "custom": custom, "queryable": not custom}
        return 200, body | {"createable": not custom or caller.setup.may(caller.user_id, "create", name), "fields": columns}

    # queries

    async def query(self, request: web.Request, caller: Caller) -> tuple[int, Any]:
        """Answer a query of the data API."""
        return 200, self.answer_query(request, caller, DATA)

    async def tooling_query(self, request: web.Request, caller: Caller) -> tuple[int, Any]:
        """Answer a query of the Tooling API."""
        caller.needs("ViewSetup")
        return 200, self.answer_query(request, caller, TOOLING)

    def answer_query(self, request: web.Request, caller: Caller, offered: set[str]) -> dict[str, Any]:
        """Answer a query over the objects that are offered.

        :raises SetupRefused: if it cannot be read or asks for what does not exist
        """
        try:
            query = soql.read(request.query.get("q", ""))
        except soql.Malformed as exc:
            raise SetupRefused("MALFORMED_QUERY", str(exc)) from exc
        source = next((name for name in offered if name.lower() == query.source.lower()), None)
        if source is None:
            raise SetupRefused("INVALID_TYPE", f"sObject type '{query.source}' is not supported.")
        table = Table(caller.setup, source, tooling=offered is TOOLING)
        for path in (*query.fields, *query.compared, *(name for name, _ in query.order)):
            table.check(path)
        if source == "UserRecordAccess":
            rows = self.access(caller, query)
        elif source == "MessagingSession":
            rows = self.sessions(caller, table)
        else:
            rows = table.rows()
        kept = [row for row in rows if query.where is None or query.where(lambda path, row=row: table.value(row, path))]  # type: ignore[misc]
        for path, backwards in reversed(query.order):
            kept.sort(key=lambda row, path=path: str(table.value(row, path) or ""), reverse=backwards)  # type: ignore[misc]
        kept = kept[: query.limit]
        if len(kept) > 1 and {"metadata", "fullname"} & {name.lower() for name in query.fields}:
            raise SetupRefused("MALFORMED_QUERY", "When retrieving Metadata or FullName, no more than one row is allowed")
        url = f"/services/data/v{request.match_info['version']}{'/tooling' if offered is TOOLING else ''}/sobjects"
        records = [] if query.counts else [table.show(row, query.fields, url) for row in kept]
        return {"size": len(records), "totalSize": len(kept), "done": True, "records": records}

    def sessions(self, caller: Caller, table: "Table") -> list[Record]:
        """Make the records of the org's sessions, and of whom and what they are about."""
        rows: list[Record] = []
        for number, each in enumerate(self.world.sessions.values()):
            talk = each.conversation
            if talk.org is not caller.org:
                continue
            channel = caller.setup.find(MessagingChannel, channel_address_identifier=talk.channel.address)
            about = Conversation(id=make_id("0dw", number), conversation_identifier=talk.id)
            user = MessagingEndUser(id=make_id("0PA", number), name=talk.name, messaging_platform_key=talk.user)
            table.made |= {about.id: about, user.id: user}
            rows.append(
                MessagingSession(
                    id=each.id,
                    status=each.status,
                    start_time=written(each.started),
                    end_time=written(each.ended) if each.ended else None,
                    ended_by_type="Agent" if each.ended else None,
                    conversation_id=about.id,
                    messaging_channel_id=channel.id if channel else None,
                    messaging_end_user_id=user.id,
                )
            )
        return rows

    def access(self, caller: Caller, query: soql.Query) -> list[Record]:
        """Compute what a user may do with records: an administrator all, a member of a queue may read sessions.

        :raises SetupRefused: if the query names no user or no record
        """
        users, records = query.named.get("userid", []), query.named.get("recordid", [])
        if len(users) != 1 or not records:
            raise SetupRefused("MALFORMED_QUERY", "Filter UserRecordAccess by one UserId and by RecordId")
        setup, found = caller.setup, []
        user_id = str(users[0])
        administers = setup.permits(user_id, "CustomizeApplication")
        queues = {row.id for row in setup.rows(Group)}
        works = any(row.user_or_group_id == user_id and row.group_id in queues for row in setup.rows(GroupMember))
        for record_id in map(str, records):
            session = self.world.sessions.get(record_id)
            reads = administers or (works and session is not None)
            exists = setup.by_id(record_id) is not None or (session is not None and session.conversation.org is caller.org)
            found.append(
                UserRecordAccess(
                    record_id=record_id,
                    user_id=user_id,
                    has_read_access=exists and reads,
                    has_edit_access=exists and administers,
                )
            )
        return list(found)


def written(at: float) -> str:
    """Write a time as the REST API does."""
    return datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "+0000"


class Table:
    """The rows of an object as queries see them."""

    def __init__(self, setup: Setup, name: str, *, tooling: bool) -> None:
        self.setup, self.name, self.tooling = setup, name, tooling
        self.made: dict[str, Record] = {}  # related records that no table keeps, by id
        self.kind: type[Record]
        if name == "FlowDefinition":
            self.kind, self.fields = FlowDefinitionView, FLOW_DEFINITION
        else:
            self.kind = COMPUTED.get(name) or KINDS[name]
            self.fields = shown_fields(self.kind)
        self.whole = tooling and name in ("ConversationVendorInfo", "ConversationChannelDefinition")

    def rows(self) -> list[Record]:
        """Return all rows."""
        if self.kind is FlowVersion:
            return [
                FlowVersion(id=version, definition_id=flow.id, version_number=number)
                for flow in self.setup.rows(FlowDefinitionView)
                for number, version in enumerate(flow.versions, start=1)
                if version
            ]
        return list(self.setup.tables[self.kind.__name__])

    def check(self, path: str) -> list[str]:
        """Return a field path in its proper spelling.

        :raises SetupRefused: if there is no such field
        """
        fields, name, proper = self.fields, self.name, []
        *relations, last = path.split(".")
        if relations and relations[0].lower() == self.name.lower():
            relations = relations[1:]
        for relation in relations:
            known = next((each for each in fields if each.lower() == f"{relation}Id".lower()), None)
            kind = known and RELATIONS.get(known.removesuffix("Id"))
            if not known or not kind:
                raise SetupRefused("INVALID_FIELD", f"Didn't understand relationship '{relation}' in field path.")
            proper.append(known.removesuffix("Id"))
            fields, name = shown_fields(kind), kind.__name__
        offered = [*fields, *(("Metadata", "FullName") if self.whole and not relations else ())]
        found = next((each for each in offered if each.lower() == last.lower()), None)
        if found is None:
            raise SetupRefused("INVALID_FIELD", f"No such column '{last}' on entity '{name}'.")
        return [*proper, found]

    def value(self, row: Record, path: str) -> Any:
        """Return the value of a field path of a row."""
        *relations, last = self.check(path)
        found: Record | None = row
        for relation in relations:
            attribute = shown_fields(type(found))[f"{relation}Id"] if found else ""
            related = getattr(found, attribute) if found else None
            found = self.made.get(related or "") or self.setup.by_id(related)
        if found is None:
            return None
        if last == "Metadata":
            return metadata_of(self.setup, found)  # type: ignore[arg-type]
        if last == "FullName":
            return getattr(found, "developer_name", None)
        fields = self.fields if found is row else shown_fields(type(found))
        return self.setup.value(found, fields[last])

    def show(self, row: Record, paths: list[str], url: str) -> dict[str, Any]:
        """Return a row with these fields, those of related rows nested."""
        shown: dict[str, Any] = {"attributes": {"type": self.name, "url": f"{url}/{self.name}/{row.id}"}}
        for path in paths:
            *relations, last = self.check(path)
            place: dict[str, Any] | None = shown
            for depth, relation in enumerate(relations, start=1):
                assert place is not None
                if relation not in place:
                    related = self.value(row, ".".join([*relations[:depth], "Id"]))
                    kind = RELATIONS[relation].__name__
                    here = {"attributes": {"type": kind, "url": f"{url}/{kind}/{related}"}}
                    place[relation] = here if related else None
                place = place[relation]
                if place is None:
                    break
            if place is not None:
                place[last] = self.value(row, path)
        return shown
