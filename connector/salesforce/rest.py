"""An org's REST, Tooling and Metadata APIs, as far as setting up and looking after a channel needs them.

https://developer.salesforce.com/docs/atlas.en-us.api_rest.meta/api_rest
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote_plus

from connector.http import (
    Answer,
    ApiClient,
    ApiError,
    AuthenticationFailed,
    Call,
    CustomerMustAct,
    RateLimited,
    RequestRejected,
    ServiceUnavailable,
    check_address,
    retry_after,
)
from connector.salesforce.auth import ORG_HOSTS, AccessToken, TokenSource

T = TypeVar("T")

OLDEST_VERSION = 66.0  # Spring '26: the field names of channel definitions that we use are those since then
TESTED_VERSION = 67.0
MOST_PAGES = 50
PAUSE_SECONDS = 900.0  # where an org has used up its calls; Salesforce names no time

_LARGEST_ANSWER = 8 << 20  # a description of an object with many fields has some megabytes
_NAME = re.compile(r"[A-Za-z]\w{0,254}", re.ASCII)
_ID = re.compile(r"[a-zA-Z0-9]{15}([a-zA-Z0-9]{3})?")
_NEXT_PAGE = re.compile(r"/services/data/v\d+\.\d/(tooling/)?query/[\w-]+")
_NOT_FOR_REST = "not valid for use with the rest api"

# https://developer.salesforce.com/docs/atlas.en-us.api_rest.meta/api_rest/errorcodes.htm
_CUSTOMER_MUST_ACT = re.compile(r"INSUFFICIENT_ACCESS.*|API_(CURRENTLY_)?DISABLED.*|FUNCTIONALITY_NOT_ENABLED")
_TRANSIENT = {"SERVER_UNAVAILABLE", "UNABLE_TO_LOCK_ROW", "QUERY_TIMEOUT", "PLATFORM_EVENT_PUBLISHING_UNAVAILABLE"}


@dataclass(frozen=True, slots=True)
class Field:
    """A field of an object."""

    name: str
    type: str
    length: int


@dataclass(frozen=True, slots=True)
class Limit:
    """One of an org's allocations."""

    most: int
    remaining: int


@dataclass(frozen=True, slots=True)
class Usage:
    """How many of its calls of 24 hours an org has used, all its programs together."""

    used: int
    allowed: int


@dataclass(frozen=True, slots=True)
class Failure:
    """A component that was not deployed, and why, in Salesforce's words."""

    type: str
    full_name: str
    problem: str
    line: int | None


@dataclass(frozen=True, slots=True)
class Deployment:
    """How far a deployment is. ``problem`` is what stopped all of it, where that is no component's fault."""

    status: str
    done: bool
    success: bool
    components_total: int
    components_deployed: int
    current: str
    failures: list[Failure]
    problem: str


def soql_text(value: str) -> str:
    """Write a text as a literal of SOQL, quotes included, whatever is in it."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'".replace("\n", "\\n").replace("\r", "\\r")


def is_duplicate(error: ApiError) -> bool:
    """Tell whether Salesforce refuses something because it is there already, which is what was wanted."""
    return error.code.startswith("DUPLICATE_")


class _SignedIn:
    def __init__(self, token: AccessToken) -> None:
        self.token, self.key = token, token.value

    def ready(self) -> AccessToken:
        return self.token

    def current(self) -> AccessToken:
        return self.token

    def renew(self, refused: AccessToken) -> AccessToken:
        raise AuthenticationFailed("Salesforce", "the sign-in has ended; sign in again", code="INVALID_SESSION_ID")


def static_token(token: AccessToken) -> TokenSource:
    """Make a source of the token of a person who signed in, which we cannot renew."""
    return _SignedIn(token)


class RestClient(ApiClient):
    """One org's REST, Tooling and Metadata APIs.

    ``api_usage`` is what the last answer said of the org's calls.

    :param base_url: the org's My Domain, such as ``https://acme.my.salesforce.com``
    """

    service = "Salesforce"
    largest_answer = _LARGEST_ANSWER
    tokens: TokenSource

    def __init__(self, *, base_url: str, tokens: TokenSource, allow_local: bool) -> None:
        address = check_address(base_url, service=self.service, hosts=ORG_HOSTS, allow_local=allow_local)
        super().__init__(address, allow_local=allow_local)
        self.tokens = tokens
        self.api_usage: Usage | None = None
        self._version = ""

    @property
    def version(self) -> str:
        """The version that we speak with this org: the newest that both know.

        :raises CustomerMustAct: if the org's newest is older than what we need
        """
        if not self._version:
            self._version = self._newest_version()
        return self._version

    def _newest_version(self) -> str:
        answer = self.request("GET", "/services/data/", headers={"Accept": "application/json"})
        if answer.status != 200:
            raise _error(answer)
        listed = [str(each.get("version")) for each in _objects(answer.body.get("list"))]
        versions = [float(each) for each in listed if re.fullmatch(r"\d{2,3}\.\d", each)]
        if not versions:
            raise _unreadable(answer)
        newest = max(versions)
        if newest < OLDEST_VERSION:
            raise CustomerMustAct(
                self.service,
                f"the org speaks version {newest} of Salesforce's API at most, and {OLDEST_VERSION} (Spring '26) is "
                "needed; it comes with the org's next upgrade",
                status=answer.status,
            )
        return str(min(newest, TESTED_VERSION))

    def query(self, soql: str) -> list[dict[str, Any]]:
        """Give all records that a query finds; texts in it are written by ``soql_text``.

        https://developer.salesforce.com/docs/atlas.en-us.api_rest.meta/api_rest/resources_query.htm

        :raises ApiError: the member of the family says whether to ask again
        """
        return self._records("/query", soql)

    def query_call(self, soql: str, read: Callable[[list[dict[str, Any]]], T]) -> Call[T]:
        """Build a query that finds few records, for either transport; ``read`` makes of them what is wanted."""
        path = f"/services/data/v{OLDEST_VERSION}/query?q={quote_plus(soql)}"
        return Call(self, "GET", path, {"Accept": "application/json"}, None, lambda answer: read(_records_of(answer)))

    def tooling_query(self, soql: str) -> list[dict[str, Any]]:
        """Give all records that a query of the Tooling API finds.

        https://developer.salesforce.com/docs/atlas.en-us.api_tooling.meta/api_tooling/reference_objects_list.htm

        :raises ApiError: the member of the family says whether to ask again
        """
        return self._records("/tooling/query", soql)

    def describe(self, name: str) -> list[Field] | None:
        """Give the fields of an object, None where there is no such object.

        https://developer.salesforce.com/docs/atlas.en-us.api_rest.meta/api_rest/resources_sobject_describe.htm

        :raises ApiError: the member of the family says whether to ask again
        """
        try:
            answer = self._call("GET", f"/sobjects/{_name(name)}/describe")
        except RequestRejected as exc:
            if exc.status == 404:
                return None
            raise
        if not isinstance(answer.body.get("fields"), list):
            raise _unreadable(answer)
        fields = _objects(answer.body["fields"])
        return [Field(_text(each.get("name")), _text(each.get("type")), _number(each.get("length"))) for each in fields]

    def create(self, name: str, fields: Mapping[str, Any]) -> str:
        """Create a record of an object and give its id.

        https://developer.salesforce.com/docs/atlas.en-us.api_rest.meta/api_rest/dome_sobject_create.htm

        :raises ApiError: the member of the family says whether to try again; see ``is_duplicate``
        """
        return _id_of(self._create(f"/sobjects/{_name(name)}", fields))

    def update(self, name: str, record_id: str, fields: Mapping[str, Any]) -> None:
        """Change fields of a record.

        https://developer.salesforce.com/docs/atlas.en-us.api_rest.meta/api_rest/dome_update_fields.htm

        :raises ApiError: the member of the family says whether to try again
        """
        self._call("PATCH", f"/sobjects/{_name(name)}/{_id(record_id)}", json=dict(fields))

    def delete(self, name: str, record_id: str) -> None:
        """Delete a record.

        https://developer.salesforce.com/docs/atlas.en-us.api_rest.meta/api_rest/dome_delete_record.htm

        :raises ApiError: the member of the family says whether to try again
        """
        self._call("DELETE", f"/sobjects/{_name(name)}/{_id(record_id)}")

    def update_tooling(self, name: str, record_id: str, metadata: Mapping[str, Any]) -> None:
        """Change a piece of set-up by the Tooling API.

        https://developer.salesforce.com/docs/atlas.en-us.api_tooling.meta/api_tooling/intro_rest_resources.htm

        :raises ApiError: the member of the family says whether to try again
        """
        self._call("PATCH", f"/tooling/sobjects/{_name(name)}/{_id(record_id)}", json={"Metadata": dict(metadata)})

    def create_tooling(self, name: str, full_name: str, metadata: Mapping[str, Any]) -> str:
        """Create a piece of set-up by the Tooling API and give its id.

        https://developer.salesforce.com/docs/atlas.en-us.api_tooling.meta/api_tooling/intro_rest_resources.htm

        :raises ApiError: the member of the family says whether to try again; see ``is_duplicate``
        """
        body = {"FullName": full_name, "Metadata": dict(metadata)}
        return _id_of(self._create(f"/tooling/sobjects/{_name(name)}", body))

    def publish_event(self, name: str, fields: Mapping[str, Any]) -> str:
        """Publish a platform event, and give the id under which it comes to those who listen.

        https://developer.salesforce.com/docs/atlas.en-us.platform_events.meta/platform_events/platform_events_publish_api.htm

        :raises ApiError: the member of the family says whether to try again
        """
        answer = self._create(f"/sobjects/{_name(name)}", fields)
        # the id of the answer names nothing; the event's own stands where the errors of a failure would
        queued = (each for each in _objects(answer.body.get("errors")) if each.get("statusCode") == "OPERATION_ENQUEUED")
        return _text(next(queued, {}).get("message"))

    def limits(self) -> dict[str, Limit]:
        """Give the org's allocations by name, such as ``HourlyPublishedPlatformEvents``.

        https://developer.salesforce.com/docs/atlas.en-us.api_rest.meta/api_rest/resources_limits.htm

        :raises CustomerMustAct: if the user may not see them (View Setup and Configuration)
        """
        listed = self._call("GET", "/limits").body.items()
        limits = {name: each for name, each in listed if isinstance(each, dict)}
        return {name: Limit(_number(each.get("Max")), _number(each.get("Remaining"))) for name, each in limits.items()}

    def deploy(self, package: bytes, *, check_only: bool) -> str:
        """Start deploying a zip file with a ``package.xml``, and give the deployment's id.

        https://developer.salesforce.com/docs/atlas.en-us.api_meta.meta/api_meta/meta_rest_deploy.htm

        :param check_only: find out what would happen, and change nothing
        :raises ApiError: the member of the family says whether to try again
        """
        options = {
            "allowMissingFiles": False,
            "autoUpdatePackage": False,
            "checkOnly": check_only,
            "ignoreWarnings": True,
            "performRetrieve": False,
            "purgeOnDelete": False,
            "rollbackOnError": True,
            "runTests": [],
            "singlePackage": True,
            "testLevel": "NoTestRun",
        }
        files = {
            "json": (None, json.dumps({"deployOptions": options}).encode(), "application/json"),
            "file": ("deploy.zip", package, "application/zip"),
        }
        return _id_of(self._call("POST", "/metadata/deployRequest", files=files))

    def deploy_status(self, deployment_id: str) -> Deployment:
        """Say how far a deployment is.

        https://developer.salesforce.com/docs/atlas.en-us.api_meta.meta/api_meta/meta_rest_deploy_checkstatus.htm

        :raises ApiError: the member of the family says whether to ask again
        """
        answer = self._call("GET", f"/metadata/deployRequest/{_id(deployment_id)}?includeDetails=true")
        result = answer.body.get("deployResult")
        if not isinstance(result, dict) or not isinstance(result.get("status"), str):
            raise _unreadable(answer)
        details = result.get("details")
        failures = _objects(details.get("componentFailures")) if isinstance(details, dict) else []
        return Deployment(
            status=result["status"],
            done=_is_true(result.get("done")),
            success=_is_true(result.get("success")),
            components_total=_number(result.get("numberComponentsTotal")),
            components_deployed=_number(result.get("numberComponentsDeployed")),
            current=_text(result.get("stateDetail")),
            failures=[_failure(each) for each in failures if each.get("problemType") != "Warning"],
            problem=_text(result.get("errorMessage")),
        )

    def cancel_deploy(self, deployment_id: str) -> None:
        """Ask for a deployment to be stopped; ``deploy_status`` says when it is.

        https://developer.salesforce.com/docs/atlas.en-us.api_meta.meta/api_meta/meta_rest_deploy_cancel.htm

        :raises ApiError: if it cannot be stopped, as when it has ended already
        """
        body = {"deployResult": {"status": "Canceling"}}
        self._call("PATCH", f"/metadata/deployRequest/{_id(deployment_id)}", json=body)

    def _records(self, path: str, soql: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        answer = self._call("GET", f"{path}?q={quote_plus(soql)}")
        for _ in range(MOST_PAGES):
            found += _records_of(answer)
            if answer.body.get("done") is not False:
                return found
            more = answer.body.get("nextRecordsUrl")
            if not isinstance(more, str) or not _NEXT_PAGE.fullmatch(more):  # it is put behind the host as it is
                raise _unreadable(answer)
            answer = self._call("GET", more)
        raise RequestRejected(self.service, f"the query finds more than {MOST_PAGES} pages of records")

    def _create(self, path: str, body: Mapping[str, Any]) -> Answer:
        answer = self._call("POST", path, json=dict(body))
        if answer.body.get("success") is False:
            raise _error(answer)
        return answer

    def _call(self, method: str, path: str, **content: Any) -> Answer:
        """Call with the org's token; where the token is refused, renew it and repeat once."""
        path = path if path.startswith("/services/data/") else f"/services/data/v{self.version}{path}"
        token = self.tokens.current()
        try:
            return self._attempt(method, path, token, content)
        except AuthenticationFailed as exc:
            # an app or a user that may not use this API gets the same code, and no other token would help it
            if exc.code != "INVALID_SESSION_ID" or _NOT_FOR_REST in exc.description.lower():
                raise
            return self._attempt(method, path, self.tokens.renew(token), content)

    def _attempt(self, method: str, path: str, token: AccessToken, content: Mapping[str, Any]) -> Answer:
        headers = {"Authorization": f"Bearer {token.value}", "Accept": "application/json"}
        answer = self.request(method, path, headers=headers, **content)
        self.api_usage = _usage(answer.headers) or self.api_usage
        if 200 <= answer.status < 300:
            return answer
        raise _error(answer)


def _error(answer: Answer) -> ApiError:
    """Find the class of an error: the code in the body first, the status only without one.

    The body is a list; a record that was not created has the list inside, with another name for the code.
    """
    detail = next(iter(_objects(answer.body.get("list") or answer.body.get("errors"))), {})
    code = _text(detail.get("errorCode") or detail.get("statusCode"))[:100]
    said = _text(detail.get("message"))[:300]
    message = said or "refused without a reason"
    named = detail.get("fields")
    if isinstance(named, list) and named:
        message += f" ({', '.join(str(each) for each in named)[:100]})"
    status = answer.status
    if code == "INVALID_SESSION_ID" or (status == 401 and not code):
        return AuthenticationFailed("Salesforce", message, status=status, code=code, description=said)

    kind: type[ApiError]
    if code == "REQUEST_LIMIT_EXCEEDED" or status == 429:
        kind = RateLimited
    elif code in _TRANSIENT or status >= 500:
        kind = ServiceUnavailable
    elif status in (401, 403) or _CUSTOMER_MUST_ACT.fullmatch(code):
        kind = CustomerMustAct
    elif 300 <= status < 400:
        kind = CustomerMustAct  # the My Domain was renamed
    else:
        kind = RequestRejected
    wait = retry_after(answer.headers)
    return kind(
        "Salesforce",
        message,
        status=status,
        code=code,
        in_doubt=kind is ServiceUnavailable and status >= 500 and status != 503,
        retry_after=wait or PAUSE_SECONDS if kind is RateLimited else wait,
    )


def _records_of(answer: Answer) -> list[dict[str, Any]]:
    if not 200 <= answer.status < 300:
        raise _error(answer)
    if not isinstance(answer.body.get("records"), list):
        raise _unreadable(answer)
    return _objects(answer.body["records"])


def _unreadable(answer: Answer) -> ServiceUnavailable:
    return ServiceUnavailable("Salesforce", "the answer cannot be read", status=answer.status, in_doubt=True)


def _usage(headers: Mapping[str, str]) -> Usage | None:
    """Read such as ``api-usage=25/5000; per-app-api-usage=17/250(appName=infobip)``."""
    found = re.match(r"api-usage=(\d{1,12})/(\d{1,12})", headers.get("Sforce-Limit-Info", ""))
    return Usage(int(found[1]), int(found[2])) if found else None


def _failure(each: Mapping[str, Any]) -> Failure:
    return Failure(
        type=_text(each.get("componentType")),
        full_name=_text(each.get("fullName")),
        problem=_text(each.get("problem")) or "no reason given",
        line=_number(each.get("lineNumber")) or None,
    )


def _id_of(answer: Answer) -> str:
    """Give the id of what was created.

    :raises ServiceUnavailable: if the answer has none; in doubt, for it may be there all the same
    """
    found = answer.body.get("id")
    if not isinstance(found, str) or not _ID.fullmatch(found):
        raise _unreadable(answer)
    return found


def _name(value: str) -> str:
    """Let the name of an object into an address, and nothing else."""
    if not _NAME.fullmatch(value):
        raise RequestRejected("Salesforce", f"{value[:100]!r} cannot be the name of an object")
    return value


def _id(value: str) -> str:
    if not _ID.fullmatch(value):
        raise RequestRejected("Salesforce", f"{value[:100]!r} cannot be an id of Salesforce")
    return value


def _objects(value: object) -> list[dict[str, Any]]:
    """Give the objects of a list; in answers made from XML one alone stands without a list."""
    listed = value if isinstance(value, list) else [value]
    return [each for each in listed if isinstance(each, dict)]


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _number(value: object) -> int:
    """Read a number, which some answers write as a text."""
    return int(value) if isinstance(value, int | str) and re.fullmatch(r"\d{1,15}", str(value)) else 0


def _is_true(value: object) -> bool:
    return value is True or value == "true"
