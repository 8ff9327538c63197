"""Infobip as the wizard and the doctor see it: keys and their scopes, numbers, subscriptions and where they lead."""

import json
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from sandbox.answers import answer
from sandbox.infobip_account import COUNTRIES, Configuration, Number, Profile, Security, Subscription
from sandbox.journal import now_ms
from sandbox.world import Account, World

ERRORS = {
    400: ("BAD_REQUEST", "Bad request"),
    401: ("UNAUTHORIZED", "Invalid login details"),
    403: ("FORBIDDEN", "Forbidden"),
    404: ("NOT_FOUND", "Requested URL not found"),
    429: ("TOO_MANY_REQUESTS", "Too many requests"),
}
CONVERSATION_EVENTS = {
    "CONVERSATION_ASSIGNMENT_UPDATED",
    "CONVERSATION_CREATED",
    "CONVERSATION_MESSAGE_DELETED",
    "CONVERSATION_MESSAGE_RECEIVED",
    "CONVERSATION_MESSAGE_UPDATED",
    "CONVERSATION_STATUS_UPDATED",
}
EVENTS = {
    "WHATSAPP": {
        "ACCOUNT_REGISTRATION",
        "ACCOUNT_UPDATE_NOTIFICATION",
        "BILLING",
        "BUSINESS_APP_CONTACT_SYNC",
        "BUSINESS_APP_MESSAGE_ECHO",
        "BUSINESS_APP_MESSAGE_HISTORY",
        "CLICK",
        "DELIVERY",
        "IDENTITY_CHANGE",
        "INBOUND_MESSAGE",
        "MARKETING_SUBSCRIPTION_UPDATE",
        "PAYMENT_STATUS",
        "SEEN",
        "TEMPLATE_UPDATE",
    },
    "CUSTOMER_ENGAGEMENT": CONVERSATION_EVENTS,
    "AGENT_OS": CONVERSATION_EVENTS,
}
ALGORITHMS = {"HMAC_MD5", "HMAC_SHA_1", "HMAC_SHA_224", "HMAC_SHA_256", "HMAC_SHA_384", "HMAC_SHA_512"}
LIMITS = {
    "maxBucketSize": (1, 2000),
    "windowSize": (20, 10000),
    "connectTimeout": (300, 30000),
    "readTimeout": (1000, 90000),
    "rateLimit": (1, 5000),
}
CREDENTIALS = {"BASIC": ("username", "password"), "HMAC": ("secretKey", "algorithm")}
Violations = dict[str, list[str]]


class Refused(Exception):
    """A call that is answered with an error."""

    def __init__(self, status: int, violations: Violations | None = None) -> None:
        super().__init__(status)
        self.status, self.violations = status, violations


def refuse(status: int, violations: Violations | None = None) -> web.Response:
    """Return an error in the older form, which most of the APIs use."""
    message_id, text = ERRORS.get(status, ("GENERAL_ERROR", "Something went wrong. Please contact support."))
    exception: dict[str, Any] = {"messageId": message_id, "text": text}
    if violations:
        exception["validationErrors"] = violations
    return answer(status, {"requestError": {"serviceException": exception}}, retry_later(status))


def refuse_newly(status: int, violations: Violations | None = None) -> web.Response:
    """Return an error in the newer form."""
    listed = [{"property": path, "violation": each} for path, words in (violations or {}).items() for each in words]
    body: dict[str, Any] = {
        "errorCode": f"E{status}",
        "description": ERRORS.get(status, ("", "Something went wrong."))[1],
        "action": "Check the request and the API key.",
        "violations": listed,
        "resources": [],
    }
    return answer(status, body, retry_later(status))


def retry_later(status: int) -> dict[str, str] | None:
    """Return the header that goes with too many requests."""
    return {"Retry-After": "1"} if status == 429 else None


def caller(world: World, request: web.Request) -> Account | None:
    """Return whose API key a call carries, if the key holds."""
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    account = world.by_api_key.get(key) if scheme == "App" else None
    return account if account and account.setup.accepts_key(request.remote) else None


def check_text(found: Violations, path: str, value: Any, least: int, most: int, *, required: bool = False) -> None:
    """Note what is wrong with a text."""
    if value is None:
        if required:
            found[path] = ["must not be null"]
    elif not isinstance(value, str):
        found[path] = ["must be a string"]
    elif not least <= len(value) <= most:
        found[path] = [f"size must be between {least} and {most}"]


def check_id(found: Violations, path: str, value: Any) -> None:
    """Note what is wrong with an id that becomes a part of an address."""
    check_text(found, path, value, 1, 255, required=True)
    if path not in found and not re.fullmatch(r"[\w.~-]+", value, re.ASCII):
        found[path] = ["must not include characters that require URL encoding"]


def whole_number(request: web.Request, name: str, default: int, most: int | None = None) -> int:
    """Return a number of the query, which begins with 0 if it has no upper bound and with 1 if it has."""
    given = request.query.get(name, str(default))
    if not given.isdecimal() or (most is not None and not 1 <= int(given) <= most):
        raise Refused(400, {name: ["is out of range"]})
    return int(given)


def page_of(request: web.Request, rows: list[Any], size: int) -> tuple[list[Any], dict[str, int]]:
    """Return one page and what is said about it."""
    page = whole_number(request, "page", 0)
    pages = -(-len(rows) // size)
    about = {"page": page, "size": size, "totalPages": pages, "totalResults": len(rows)}
    return rows[page * size : (page + 1) * size], about


class Bucket:
    """A bound on how often something may be asked: so many at once, and so many more each second."""

    def __init__(self, at_once: float, per_second: float) -> None:
        self.at_once, self.per_second = at_once, per_second
        self.left, self.at = at_once, time.monotonic()

    def take(self) -> bool:
        """Take one go if there is one."""
        now = time.monotonic()
        self.left = min(self.at_once, self.left + (now - self.at) * self.per_second)
        self.at = now
        if self.left < 1:
            return False
        self.left -= 1
        return True


@dataclass(frozen=True)
class Call:
    """One call of the API, as it arrived."""

    account: Account
    request: web.Request
    body: dict[str, Any]

    def part(self, name: str) -> str:
        """Return a variable part of the path."""
        return self.request.match_info[name]


Handler = Callable[[Call], web.Response]


@dataclass(frozen=True)
class Operation:
    """What the published documents say about one call; any one of the scopes is enough."""

    method: str
    path: str
    scopes: set[str]
    handler: Handler
    limit: tuple[float, float] | None = None  # at once, and each second
    refuse: Callable[..., web.Response] = refuse


class InfobipSetup:
    """The API's part that is used to set up an account: https://www.infobip.com/docs/api/platform/subscriptions-api"""

    def __init__(self, world: World) -> None:
        self.world = world
        self._buckets: dict[tuple[str, Handler], Bucket] = {}

    def add_routes(self, app: web.Application) -> None:
        """Add everything to an application."""
        account, numbers, subscriptions = {"account-management:manage"}, {"numbers:manage"}, {"subscriptions:manage"}
        whatsapp, reading = {"whatsapp:manage"}, {"conversations:manage", "conversations:read"}
        sending = {"message:send", "messages-api:message:send", "messages-api:manage"}
        subscription, profile, security = (f"/subscriptions/1/{each}" for each in ("subscription", "profiles", "security"))
        inbound, validate = "/resource-management/1/inbound-message-configurations", "/messages-api/1/messages/validate"
        ten, fifteen = (10.0, 10.0), (15.0, 15.0)
        for operation in (
            Operation("GET", "/account/1/balance", account, self.balance),
            Operation("GET", "/settings/2/api-keys", account, self.api_keys, ten, refuse_newly),
            Operation("GET", "/numbers/1/numbers", numbers, self.numbers, (2.0, 1.0)),
            Operation("GET", inbound, numbers, self.inbound_configurations, (2.0, 2.0)),
            Operation("GET", "/whatsapp/1/senders/quality", whatsapp, self.qualities, ten),
            Operation("GET", "/whatsapp/1/templates", whatsapp, self.templates, fifteen, refuse_newly),
            Operation("GET", "/ccaas/1/conversations", reading, self.conversations),
            Operation("POST", validate, sending, self.validate, ten, refuse_newly),
            Operation("GET", f"{subscription}/{{channel}}", subscriptions, self.subscriptions),
            Operation("POST", f"{subscription}/{{channel}}", subscriptions, self.create_subscription),
            Operation("GET", f"{subscription}/{{channel}}/{{id}}", subscriptions, self.subscription),
            Operation("PUT", f"{subscription}/{{channel}}/{{id}}", subscriptions, self.update_subscription),
            Operation("DELETE", f"{subscription}/{{channel}}/{{id}}", subscriptions, self.delete_subscription),
            Operation("POST", profile, subscriptions, self.create_profile),
            Operation("GET", f"{profile}/{{id}}", subscriptions, self.profile),
            Operation("PUT", f"{profile}/{{id}}", subscriptions, self.update_profile),
            Operation("POST", security, subscriptions, self.create_security),
            Operation("GET", f"{security}/{{id}}", subscriptions, self.security),
            Operation("PUT", f"{security}/{{id}}", subscriptions, self.update_security),
        ):
            app.router.add_route(operation.method, operation.path, self.guarded(operation))

    def guarded(self, operation: Operation) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """Return a handler that checks the key, its scopes, the rate and the form before it does what it is for."""

        async def handle(request: web.Request) -> web.StreamResponse:
            arrived = now_ms()
            account = caller(self.world, request)
            raw = await request.read()
            try:
                response = operation.handler(self.admit(operation, account, request, raw))
            except Refused as exc:
                response = operation.refuse(exc.status, exc.violations)
            self.world.journal.write(
                "infobip",
                "setup",
                org=account and account.org.id,
                text=f"{request.method} {request.path}",  # without the query and the body, which may hold secrets
                status=response.status,
                ms=round(now_ms() - arrived, 2),
            )
            return response

        return handle

    def admit(self, operation: Operation, account: Account | None, request: web.Request, raw: bytes) -> Call:
        """Check a call.

        :raises Refused: if it may not go on
        """
        if account is None:
            raise Refused(401)
        if not account.setup.scopes & operation.scopes:
            raise Refused(403)
        if operation.limit:
            bucket = self._buckets.setdefault((account.api_key, operation.handler), Bucket(*operation.limit))
            if not bucket.take():
                raise Refused(429)
        if "application/json" not in request.headers.get("Accept", ""):
            # several products would answer in XML
            raise Refused(400, {"Accept": ["must be application/json"]})
        body: Any = {}
        if operation.method in ("POST", "PUT"):
            try:
                body = json.loads(raw) if request.content_type == "application/json" else None
            except ValueError:
                body = None
            if not isinstance(body, dict):
                raise Refused(400, {"body": ["cannot be read"]})
        return Call(account, request, body)

    # the account

    def balance(self, call: Call) -> web.Response:
        """Return what is left on the account."""
        return answer(200, {"balance": call.account.setup.balance, "currency": "EUR"})

    def api_keys(self, call: Call) -> web.Response:
        """Return the account's one key, without its secret."""
        setup = call.account.setup
        key = {
            "id": setup.key_id,
            "name": call.account.name,
            "allowedIPs": setup.allowed_ips,
            "enabled": setup.enabled,
            "permissions": ["PUBLIC_API"],
            "scopeGuids": sorted(setup.scopes),
        }
        if setup.valid_to:
            key["validTo"] = setup.valid_to.strftime("%Y-%m-%dT%H:%M:%S")  # in UTC, without saying so
        rows, about = page_of(call.request, [key], whole_number(call.request, "size", 20, 1000))
        paging = {"page": about["page"], "pageSize": about["size"], "totalCount": 1, "totalPages": about["totalPages"]}
        return answer(200, {"apiKeys": rows, "paging": paging})

    def validate(self, call: Call) -> web.Response:
        """Check a message without sending it."""
        messages = call.body.get("messages")
        found: Violations = {}
        if not isinstance(messages, list) or not messages:
            found["messages"] = ["must not be empty"]
        for number, message in enumerate(messages if isinstance(messages, list) else []):
            for name in ("channel", "destinations", "content"):
                if not isinstance(message, dict) or not message.get(name):
                    found[f"messages[{number}].{name}"] = ["must not be empty"]
            if isinstance(message, dict) and message.get("sender") not in call.account.senders:
                found[f"messages[{number}].sender"] = ["is not registered"]
        if found:
            violations = [{"property": path, "violation": each[0]} for path, each in found.items()]
            words = {"description": "Request cannot be processed.", "action": "Check the violations."}
            return answer(400, {**words, "violations": violations})
        return answer(200, {"description": "Request should be accepted.", "action": "No action is required."})

    # numbers

    def numbers(self, call: Call) -> web.Response:
        """Return a page of the account's numbers."""
        wanted = call.request.query.get("number", "")
        rows = [number_row(each) for each in call.account.setup.numbers.values() if wanted in each.number]
        shown, _ = page_of(call.request, rows, whole_number(call.request, "limit", 50, 1000))
        return answer(200, {"numbers": shown, "numberCount": len(rows)})

    def inbound_configurations(self, call: Call) -> web.Response:
        """Return what happens to the messages of a number."""
        query, numbers = call.request.query, call.account.setup.numbers
        if not query.get("channel"):
            raise Refused(400, {"channel": ["must not be null"]})
        number = numbers.get(query.get("number", "")) or next(
            (each for each in numbers.values() if each.key == query.get("numberKey")), None
        )
        if number is None:
            return web.Response(status=404)  # published without a body
        rows = number.configurations.values() if query["channel"] == "WHATSAPP" else []
        return answer(200, [configuration_row(each) for each in rows])

    def qualities(self, call: Call) -> web.Response:
        """Return how WhatsApp sees the account's senders; others are passed over."""
        asked = [each for value in call.request.query.getall("senders", []) for each in value.split(",") if each]
        if not 1 <= len(asked) <= 100:
            raise Refused(400, {"senders": ["size must be between 1 and 100"]})
        owned = [call.account.setup.numbers[each] for each in asked if each in call.account.setup.senders()]
        rows = [
            {"sender": each.number, "qualityRating": each.quality, "status": each.status, "currentLimit": "LIMIT_10K"}
            for each in owned
        ]
        return answer(200, {"results": rows})

    # what the set-up only knocks at

    def templates(self, call: Call) -> web.Response:
        """Return the templates of all senders: none."""
        rows, about = page_of(call.request, [], whole_number(call.request, "size", 10, 100))
        return answer(200, {"results": rows, "paging": about})

    def conversations(self, call: Call) -> web.Response:
        """Return the conversations that bots and people of the account have had: none."""
        limit = whole_number(call.request, "limit", 10, 999)
        page = whole_number(call.request, "page", 0)
        pagination = {"totalItems": 0, "page": page, "limit": limit, "orderBy": "id:asc"}
        return answer(200, {"conversations": [], "pagination": pagination})

    # subscriptions

    def subscriptions(self, call: Call) -> web.Response:
        """Return a page of a channel's subscriptions."""
        channel = known_channel(call)
        found = call.account.setup.subscriptions.items()
        rows = [subscription_row(call, key, each) for key, each in found if each.channel == channel]
        shown, about = page_of(call.request, rows, whole_number(call.request, "size", 20, 100))
        return answer(200, {"results": shown, "paging": about})

    def subscription(self, call: Call) -> web.Response:
        """Return one subscription."""
        return answer(200, subscription_row(call, call.part("id"), self.known_subscription(call)))

    def create_subscription(self, call: Call) -> web.Response:
        """Create a subscription, and its profile and security settings where they are given in full."""
        channel, setup = known_channel(call), call.account.setup
        found: Violations = {}
        check_id(found, "subscriptionId", call.body.get("subscriptionId"))
        if not found and call.body["subscriptionId"] in setup.subscriptions:
            found["subscriptionId"] = ["already exists"]
        check_subscription(found, call.body)
        if found:
            raise Refused(400, found)
        given = call.body["profile"]
        if given.keys() != {"profileId"}:
            self.add_profile(call, given)
        elif given["profileId"] not in setup.profiles:
            raise Refused(404)
        key = call.body["subscriptionId"]
        setup.subscriptions[key] = subscription_from(channel, call.body)
        location = {"Location": f"/subscriptions/1/subscription/{channel}/{key}"}
        return answer(201, ids_of(call, key, setup.subscriptions[key]), location)

    def update_subscription(self, call: Call) -> web.Response:
        """Replace what a subscription is made of; its profile is named only."""
        old, setup = self.known_subscription(call), call.account.setup
        found: Violations = {}
        check_subscription(found, call.body)
        if not found and call.body["profile"].keys() != {"profileId"}:
            found["profile"] = ["must be an existing profile's id alone"]
        if found:
            raise Refused(400, found)
        if call.body["profile"]["profileId"] not in setup.profiles:
            raise Refused(404)
        key = call.part("id")
        setup.subscriptions[key] = subscription_from(old.channel, call.body)
        return answer(200, ids_of(call, key, setup.subscriptions[key]))

    def delete_subscription(self, call: Call) -> web.Response:
        """End a subscription; its profile stays."""
        old = self.known_subscription(call)
        del call.account.setup.subscriptions[call.part("id")]
        return answer(200, ids_of(call, call.part("id"), old))

    def known_subscription(self, call: Call) -> Subscription:
        """Return the subscription that a path names."""
        found = call.account.setup.subscriptions.get(call.part("id"))
        if found is None or found.channel != known_channel(call):
            raise Refused(404)
        return found

    # profiles

    def create_profile(self, call: Call) -> web.Response:
        """Create a profile, and its security settings where they are given in full."""
        self.add_profile(call, call.body)
        key = call.body["profileId"]
        return answer(201, profile_ids(call, key), {"Location": f"/subscriptions/1/profiles/{key}"})

    def add_profile(self, call: Call, given: dict[str, Any]) -> None:
        """Take a new profile over."""
        setup = call.account.setup
        found: Violations = {}
        check_id(found, "profileId", given.get("profileId"))
        if not found and given["profileId"] in setup.profiles:
            found["profileId"] = ["already exists"]
        check_profile(found, given)
        security = given.get("security")
        if isinstance(security, dict) and not found:
            check_id(found, "security.authId", security.get("authId"))
            # settings that exist already are used as they are; what is given with their id is ignored
            if not found and security["authId"] not in setup.securities:
                if security.keys() == {"authId"}:
                    raise Refused(404)
                check_security(found, security)
                if not found:
                    setup.securities[security["authId"]] = Security(security["type"], security["credentials"])
        if found:
            raise Refused(400, found)
        setup.profiles[given["profileId"]] = profile_from(given)

    def profile(self, call: Call) -> web.Response:
        """Return one profile."""
        found = call.account.setup.profiles.get(call.part("id"))
        if found is None:
            raise Refused(404)
        security = {"security": {"authId": found.auth_id}} if found.auth_id else {}
        return answer(200, {"profileId": call.part("id"), **found.settings, **security})

    def update_profile(self, call: Call) -> web.Response:
        """Replace what a profile is made of; its security settings are named only."""
        setup = call.account.setup
        if call.part("id") not in setup.profiles:
            raise Refused(404)
        found: Violations = {}
        check_profile(found, call.body)
        security = call.body.get("security")
        if isinstance(security, dict) and not found:
            check_id(found, "security.authId", security.get("authId"))
        if found:
            raise Refused(400, found)
        if security and security["authId"] not in setup.securities:
            raise Refused(404)
        setup.profiles[call.part("id")] = profile_from(call.body)
        return answer(200, profile_ids(call, call.part("id")))

    # security settings

    def create_security(self, call: Call) -> web.Response:
        """Create security settings."""
        securities = call.account.setup.securities
        found: Violations = {}
        check_id(found, "authId", call.body.get("authId"))
        if not found and call.body["authId"] in securities:
            found["authId"] = ["already exists"]
        check_security(found, call.body)
        if found:
            raise Refused(400, found)
        key = call.body["authId"]
        securities[key] = Security(call.body["type"], call.body["credentials"])
        return answer(201, {"authId": key}, {"Location": f"/subscriptions/1/security/{key}"})

    def security(self, call: Call) -> web.Response:
        """Return security settings."""
        found = call.account.setup.securities.get(call.part("id"))
        if found is None:
            raise Refused(404)
        return answer(200, {"authId": call.part("id"), "type": found.type, "credentials": found.credentials})

    def update_security(self, call: Call) -> web.Response:
        """Replace security settings."""
        securities = call.account.setup.securities
        if call.part("id") not in securities:
            raise Refused(404)
        found: Violations = {}
        check_security(found, call.body)
        if found:
            raise Refused(400, found)
        securities[call.part("id")] = Security(call.body["type"], call.body["credentials"])
        return answer(200, {"authId": call.part("id")})


def known_channel(call: Call) -> str:
    """Return the channel that a path names; those that have nothing to do with the connector are not played."""
    channel = call.part("channel")
    if channel not in EVENTS:
        raise Refused(404)
    return channel


def check_subscription(found: Violations, body: dict[str, Any]) -> None:
    """Note what is wrong with a subscription."""
    check_text(found, "name", body.get("name"), 1, 255)
    for name in ("events", "criteria", "resources", "users"):
        value = body.get(name)
        if value is None and name != "events":
            continue
        if not isinstance(value, list) or len(value) > 255:
            found[name] = ["size must be between 0 and 255"]
    profile = body.get("profile")
    if not isinstance(profile, dict):
        found["profile"] = ["must not be null"]
    else:
        check_id(found, "profile.profileId", profile.get("profileId"))


def subscription_from(channel: str, body: dict[str, Any]) -> Subscription:
    """Read a subscription; events that the channel does not have are ignored without a word."""
    events = [event for event in body["events"] if isinstance(event, str) and event in EVENTS[channel]]
    more = {name: body[name] for name in ("name", "criteria", "resources", "users") if body.get(name)}
    return Subscription(channel, events, body["profile"]["profileId"], more)


def subscription_row(call: Call, key: str, subscription: Subscription) -> dict[str, Any]:
    """Write a subscription."""
    return {**ids_of(call, key, subscription), "events": subscription.events, **subscription.more}


def ids_of(call: Call, key: str, subscription: Subscription) -> dict[str, Any]:
    """Write the ids of a subscription and of what it leads to."""
    return {"subscriptionId": key, "profile": profile_ids(call, subscription.profile_id)}


def profile_ids(call: Call, key: str) -> dict[str, Any]:
    """Write the ids of a profile and its security settings."""
    auth_id = call.account.setup.profiles[key].auth_id
    return {"profileId": key, **({"security": {"authId": auth_id}} if auth_id else {})}


def check_profile(found: Violations, body: dict[str, Any]) -> None:
    """Note what is wrong with a profile."""
    webhook = body.get("webhook")
    if not isinstance(webhook, dict):
        found["webhook"] = ["must not be null"]
    else:
        check_text(found, "webhook.notifyUrl", webhook.get("notifyUrl"), 1, 512, required=True)
        check_text(found, "webhook.contentType", webhook.get("contentType"), 0, 255)
        if "webhook.notifyUrl" not in found and not webhook["notifyUrl"].startswith(("http://", "https://")):
            found["webhook.notifyUrl"] = ["must be a URL"]
    for name, (least, most) in LIMITS.items():
        value = body.get(name, least)
        if not isinstance(value, int) or not least <= value <= most:
            found[name] = [f"must be between {least} and {most}"]
    if body.get("security") is not None and not isinstance(body["security"], dict):
        found["security"] = ["must be an object"]


def profile_from(body: dict[str, Any]) -> Profile:
    """Read a profile."""
    settings = {name: body[name] for name in ("webhook", *LIMITS, "headers") if name in body}
    return Profile(settings, (body.get("security") or {}).get("authId"))


def check_security(found: Violations, body: dict[str, Any]) -> None:
    """Note what is wrong with security settings; of the kinds, those for OAuth and others are not played."""
    wanted = CREDENTIALS.get(str(body.get("type")))
    credentials = body.get("credentials")
    if wanted is None:
        found["type"] = [f"must be one of {', '.join(CREDENTIALS)}"]
    elif not isinstance(credentials, dict):
        found["credentials"] = ["must not be null"]
    else:
        for name in wanted:
            check_text(found, f"credentials.{name}", credentials.get(name), 1, 255, required=True)
        if body["type"] == "HMAC" and credentials.get("algorithm") not in ALGORITHMS:
            found["credentials.algorithm"] = ["is not known"]


def number_row(number: Number) -> dict[str, Any]:
    """Write a number."""
    code = next((code for code in sorted(COUNTRIES, key=len, reverse=True) if number.number.startswith(code)), "")
    country = dict(zip(("country", "countryName"), COUNTRIES[code], strict=True)) if code else {}
    return {
        "numberKey": number.key,
        "number": number.number,
        **country,
        "type": number.type,
        "capabilities": number.capabilities,
        "shared": False,
        "price": {"pricePerMonth": 5.0, "setupPrice": 0.0, "initialMonthPrice": 5.0, "currency": "EUR"},
        "keywords": sorted(filter(None, number.configurations)),
        "additionalSetupRequired": False,
        "editPermissions": {"canEditNumber": True, "canEditConfiguration": True},
        **({"note": number.note} if number.note else {}),
    }


def configuration_row(configuration: Configuration) -> dict[str, Any]:
    """Write an inbound configuration."""
    row: dict[str, Any] = {"configurationKey": configuration.key, "channel": "WHATSAPP"}
    if configuration.keyword:
        row["keyword"] = configuration.keyword
    if configuration.forwarding:
        form = {"format": "MO_OTT_CONTACT"} if configuration.forwarding["type"] == "HTTP_FORWARD" else {}
        row["forwarding"] = configuration.forwarding | form
    row["conversations"] = {"enabled": configuration.conversations}
    row["answers"] = {"enabled": configuration.answers}
    return row
