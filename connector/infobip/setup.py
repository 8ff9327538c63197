"""What the set-up and the doctor ask of an Infobip account, and the subscriptions that they keep there.

https://www.infobip.com/docs/cpaas-x/subscriptions-management
"""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from urllib.parse import quote, urlencode

from connector.events import UnexpectedPayload
from connector.http import AuthenticationFailed, RateLimited, RequestRejected, ServiceUnavailable
from connector.infobip.client import InfobipClient, error_of
from connector.payload import parse_time
from connector.phone import address_of

PAUSES = (1.0, 2.0, 4.0)  # seconds before a refused repetition, where Infobip does not say how long
LONGEST_PAUSE = 10.0  # a person waits for the answer
NUMBERS_AT_ONCE, NUMBERS_PAUSE = 2, 1.0  # published for the list of numbers: two calls at once, then one a second
LONGEST_KEY = timedelta(days=36_500)  # a key that ends later is as good as one that never does
SENDERS_AT_ONCE = 100  # published for one question about qualities
SUBSCRIPTIONS = "/subscriptions/1/subscription"
PROFILES = "/subscriptions/1/profiles"
SECURITY = "/subscriptions/1/security"
# the actions of a number with which no message reaches a subscription
OWN_FORWARDING = {"HTTP_FORWARD", "PULL", "MAIL_FORWARD", "SMPP_FORWARD"}
# how a profile delivers: the fewest parallel connections that Infobip takes, and time enough for our door
DELIVERY = {"maxBucketSize": 100, "windowSize": 20, "connectTimeout": 5000, "readTimeout": 10000}


class State(StrEnum):
    """Whether a key may do something; unknown where the answer says neither."""

    GRANTED = "granted"
    MISSING = "missing"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Capability:
    """One thing that the connector does with an account, and the scope to grant for it."""

    name: str
    scope: str
    state: State


@dataclass(frozen=True, slots=True)
class Probe:
    """What a key may do."""

    capabilities: tuple[Capability, ...]

    def state(self, name: str) -> State:
        """Give the state of one capability."""
        return next(each.state for each in self.capabilities if each.name == name)


@dataclass(frozen=True, slots=True)
class OwnedNumber:
    """A number of the account, of whatever kind."""

    key: str
    number: str  # digits
    kind: str
    capabilities: frozenset[str]
    country: str
    country_name: str
    note: str

    @property
    def usable(self) -> bool:
        """Whether it can be a WhatsApp sender; there is no list of senders as such."""
        return self.kind == "WHATSAPP" or "WHATSAPP" in self.capabilities

    @property
    def name(self) -> str:
        """What the admin called it, else the number."""
        return self.note or f"+{self.number}"


@dataclass(frozen=True, slots=True)
class Quality:
    """How WhatsApp sees a sender."""

    status: str  # CONNECTED where all is well
    rating: str
    limit: str


@dataclass(frozen=True, slots=True)
class Subscription:
    """Which events of a channel go to which profile."""

    channel: str
    subscription_id: str
    name: str
    events: frozenset[str]
    profile_id: str
    auth_id: str


@dataclass(frozen=True, slots=True)
class NotificationProfile:
    """Where notifications go, as it stands at Infobip; ``security`` is the kind of authentication, or empty."""

    profile_id: str
    notify_url: str
    auth_id: str
    security: str

    @property
    def signed(self) -> bool:
        """Whether what it posts carries a signature."""
        return self.security == "HMAC"


@dataclass(frozen=True, slots=True)
class ProfileSettings:
    """Where notifications shall go, and the secret that they shall be signed with."""

    profile_id: str
    auth_id: str
    notify_url: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class InboundConfiguration:
    """What happens to the messages of a number, or to those that begin with a keyword."""

    key: str
    keyword: str
    forwarding_type: str
    forwarding_url: str
    conversations: bool
    answers: bool

    @property
    def bypasses_subscription(self) -> bool:
        """Whether messages go another way, unsigned, however the subscription is set."""
        return self.forwarding_type in OWN_FORWARDING


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key of the account: until when it holds, and which addresses may use it."""

    key_id: str
    name: str
    enabled: bool
    valid_to: datetime | None
    allowed_addresses: tuple[str, ...]
    scopes: frozenset[str]
    ours: bool  # certainly the one that asks; where Infobip keeps the secret to itself, none is


@dataclass(frozen=True, slots=True)
class _Question:
    name: str
    scope: str
    method: str
    path: str
    body: object = None
    proven_by_400: bool = False


# checked and never sent: an error in it proves access as well; the numbers are reserved for examples
_EXAMPLE = {
    "messages": [
        {
            "channel": "WHATSAPP",
            "sender": "447700900000",
            "destinations": [{"to": "447700900001"}],
            "content": {"body": {"type": "TEXT", "text": "Hello"}},
        }
    ]
}
# in this order: only the first can tell a bad key from a missing scope
_QUESTIONS = (
    _Question("account", "account-management:manage", "GET", "/account/1/balance"),
    _Question("senders", "numbers:manage", "GET", "/numbers/1/numbers?limit=1"),
    _Question("two-way messaging", "message:send", "POST", "/messages-api/1/messages/validate", _EXAMPLE, True),
    _Question("templates panel", "whatsapp:manage", "GET", "/whatsapp/1/templates?size=1"),
    _Question("transcripts", "conversations:manage", "GET", "/ccaas/1/conversations?limit=1"),
    _Question("subscriptions", "subscriptions:manage", "GET", f"{SUBSCRIPTIONS}/WHATSAPP?size=1"),
)


class SetupClient(InfobipClient):
    """One Infobip account, seen by those who set it up.

    :param pause: how to wait; Infobip bounds how often it may be asked
    """

    def __init__(
        self, *, base_url: str, api_key: str, allow_local: bool, pause: Callable[[float], None] = time.sleep
    ) -> None:
        super().__init__(base_url=base_url, api_key=api_key, allow_local=allow_local)
        self._pause = pause

    # the key

    def probe_scopes(self) -> Probe:
        """Find out what the key may do, without sending anything.

        https://www.infobip.com/docs/essentials/api-essentials/api-authorization#api-scopes

        :raises AuthenticationFailed: if the key itself is not accepted
        :raises ServiceUnavailable: if Infobip cannot be reached at this address, or does not answer
        """
        states = [self._state_of_account(_QUESTIONS[0])]
        for question in _QUESTIONS[1:]:
            try:
                states.append(self._state(question))
            except (AuthenticationFailed, ServiceUnavailable):
                states.append(State.UNKNOWN)
        pairs = zip(_QUESTIONS, states, strict=True)
        return Probe(tuple(Capability(question.name, question.scope, state) for question, state in pairs))

    def _state_of_account(self, question: _Question) -> State:
        try:
            return self._state(question)
        except AuthenticationFailed as exc:
            words = (
                "Infobip does not accept this API key; check that it was copied whole, is enabled and has not expired, "
                "and that the addresses it allows include this server's"
            )
            raise AuthenticationFailed(self.service, words, status=exc.status, code=exc.code) from exc
        except ServiceUnavailable as exc:
            if exc.status is None and not exc.in_doubt:  # no such name, or nobody there who shows Infobip's certificate
                words = f"{exc.message}; the base URL may be wrong: copy it from the home page of Infobip's portal"
                raise ServiceUnavailable(self.service, words) from exc
            raise

    def _state(self, question: _Question) -> State:
        try:
            self._call(question.method, question.path, question.body)
        except AuthenticationFailed as exc:
            if exc.status == 403:
                return State.MISSING
            raise
        except RequestRejected as exc:
            return State.GRANTED if question.proven_by_400 and exc.status == 400 else State.UNKNOWN
        return State.GRANTED

    def api_keys(self) -> list[ApiKey]:
        """List the account's keys, which only some roles may see; nothing where this key may not."""
        try:
            # by no filter: the one by secret would put the key into addresses, and so into logs
            rows = list(self._rows("/settings/2/api-keys", {"size": 100}, "apiKeys", ("paging", "totalCount")))
        except AuthenticationFailed as exc:
            if exc.status == 403:
                return []
            raise
        return [self._api_key(row) for row in rows]

    def _api_key(self, row: Mapping[str, Any]) -> ApiKey:
        return ApiKey(
            _text(row, "id"),
            _text(row, "name"),
            row.get("enabled") is not False,
            parse_time(row.get("validTo"), ahead=LONGEST_KEY),
            _texts(row, "allowedIPs"),
            frozenset(_texts(row, "scopeGuids")),
            self._headers["Authorization"] == f"App {row.get('apiKeySecret')}",
        )

    # the numbers

    def numbers(self, number: str = "") -> list[OwnedNumber]:
        """List the account's numbers, usable or not, no faster than Infobip allows; or look for one of them."""
        query = {"limit": 50, **({"number": number} if number else {})}
        rows = self._rows("/numbers/1/numbers", query, "numbers", ("numberCount",), NUMBERS_AT_ONCE)
        return [_number(row) for row in rows if _text(row, "number")]

    def qualities(self, numbers: Iterable[str]) -> dict[str, Quality]:
        """Ask how WhatsApp sees these senders, by number; nothing where the key may not ask."""
        asked = list(numbers)
        found: dict[str, Quality] = {}
        try:
            for start in range(0, len(asked), SENDERS_AT_ONCE):
                senders = ",".join(asked[start : start + SENDERS_AT_ONCE])
                body = self._get("/whatsapp/1/senders/quality", {"senders": senders})
                for row in _list(body, "results"):
                    quality = Quality(_text(row, "status"), _text(row, "qualityRating"), _text(row, "currentLimit"))
                    found[address_of(_text(row, "sender"))] = quality
        except AuthenticationFailed as exc:
            if exc.status == 403:
                return {}
            raise
        return found

    def inbound_configurations(self, number: str) -> list[InboundConfiguration]:
        """List what happens to a number's WhatsApp messages: one for all of them, one for each keyword.

        https://www.infobip.com/docs/cpaas-x/subscriptions-management/inbound-message-configuration
        """
        query = {"channel": "WHATSAPP", "number": address_of(number)}
        try:
            body = self._get("/resource-management/1/inbound-message-configurations", query)
        except RequestRejected as exc:
            if _is_absent(exc):
                return []
            raise
        return [_inbound_configuration(row) for row in _list(body, "list")]

    # the subscriptions

    def subscriptions(self, channel: str) -> list[Subscription]:
        """List what is subscribed to on a channel."""
        rows = self._rows(f"{SUBSCRIPTIONS}/{channel}", {"size": 100}, "results", ("paging", "totalResults"))
        return [_subscription(channel, row) for row in rows]

    def profile(self, profile_id: str) -> NotificationProfile | None:
        """Look at a profile and how it proves who is posting; None if there is no such profile."""
        found = self._find(f"{PROFILES}/{quote(profile_id, safe='')}")
        if found is None:
            return None
        auth_id = _text(_object(found, "security"), "authId")
        security = self._find(f"{SECURITY}/{quote(auth_id, safe='')}") if auth_id else None
        return NotificationProfile(
            _text(found, "profileId") or profile_id,
            _text(_object(found, "webhook"), "notifyUrl"),
            auth_id,
            _text(security or {}, "type"),
        )

    def ensure_subscription(
        self, *, channel: str, subscription_id: str, name: str, events: Iterable[str], profile: ProfileSettings
    ) -> None:
        """Bring a subscription, its profile and its secret to this state, whatever of them there is already.

        https://www.infobip.com/docs/api/platform/subscriptions-api/create-subscription
        """
        # one by one: inline settings are ignored where a profile of that id exists
        self.set_secret(auth_id=profile.auth_id, secret=profile.secret)
        webhook = {"contentType": "application/json", "notifyUrl": profile.notify_url}
        settings = {"webhook": webhook, "security": {"authId": profile.auth_id}, **DELIVERY}
        self._put_in_place(PROFILES, {"profileId": profile.profile_id}, settings)
        wanted = {"name": name, "events": sorted(events), "profile": {"profileId": profile.profile_id}}
        self._put_in_place(f"{SUBSCRIPTIONS}/{channel}", {"subscriptionId": subscription_id}, wanted)

    def set_secret(self, *, auth_id: str, secret: str) -> None:
        """Let this secret sign from now on."""
        credentials = {"secretKey": secret, "algorithm": "HMAC_SHA_256"}
        self._put_in_place(SECURITY, {"authId": auth_id}, {"type": "HMAC", "credentials": credentials})

    def delete_subscription(self, *, channel: str, subscription_id: str) -> None:
        """End a subscription; its profile, which others may use, stays."""
        try:
            self._call("DELETE", f"{SUBSCRIPTIONS}/{channel}/{quote(subscription_id, safe='')}")
        except RequestRejected as exc:
            if not _is_absent(exc):
                raise

    def _put_in_place(self, collection: str, identity: dict[str, str], body: dict[str, Any]) -> None:
        (item_id,) = identity.values()
        item = f"{collection}/{quote(item_id, safe='')}"
        if self._find(item) is None:
            try:
                self._call("POST", collection, identity | body)
                return
            except RequestRejected as exc:
                # somebody else was faster; the published answers have no code for that
                if exc.status not in (400, 409) or self._find(item) is None:
                    raise
        self._call("PUT", item, body)

    def _find(self, path: str) -> dict[str, Any] | None:
        try:
            return self._get(path)
        except RequestRejected as exc:
            if _is_absent(exc):
                return None
            raise

    # calls

    def _get(self, path: str, query: Mapping[str, object] | None = None) -> dict[str, Any]:
        return self._call("GET", f"{path}?{urlencode(query, safe=',')}" if query else path)

    def _call(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """Call until it is not too early any more: what is refused for its rate was not done.

        :raises ApiError: if it fails for another reason, or would have to wait for too long
        """
        pauses = iter(PAUSES)
        while True:
            answer = self.request(method, path, headers=self._headers, json=body)
            if 200 <= answer.status < 300:
                return answer.body
            error = error_of(answer)
            pause = next(pauses, None) if isinstance(error, RateLimited) else None
            if pause is None or (error.retry_after or 0) > LONGEST_PAUSE:
                raise error
            self._pause(pause if error.retry_after is None else error.retry_after)

    def _rows(
        self, path: str, query: Mapping[str, object], field_name: str, total: tuple[str, ...], at_once: float = math.inf
    ) -> Iterator[dict[str, Any]]:
        """Read page after page, until there were as many rows as the field of ``total`` says, or a page has none."""
        read = 0
        for page in itertools.count():
            if page >= at_once:
                self._pause(NUMBERS_PAUSE)
            body = self._get(path, {**query, "page": page})
            rows = _list(body, field_name)
            yield from rows
            read += len(rows)
            expected: Any = body
            for name in total:
                expected = expected.get(name) if isinstance(expected, dict) else None
            if not rows or (isinstance(expected, int) and read >= expected):
                return


def _is_absent(error: RequestRejected) -> bool:
    # some products answer 400 for what they do not know
    return error.status == 404 or error.code == "NOT_FOUND"


def _number(row: Mapping[str, Any]) -> OwnedNumber:
    return OwnedNumber(
        _text(row, "numberKey"),
        address_of(_text(row, "number")),
        _text(row, "type"),
        frozenset(_texts(row, "capabilities")),
        _text(row, "country"),
        _text(row, "countryName"),
        _text(row, "note"),
    )


def _subscription(channel: str, row: Mapping[str, Any]) -> Subscription:
    listed = row.get("events")
    # an event whose form can be chosen is an object
    events = [
        _text(each, "event") if isinstance(each, dict) else each for each in (listed if isinstance(listed, list) else [])
    ]
    profile = _object(row, "profile")
    return Subscription(
        channel,
        _text(row, "subscriptionId"),
        _text(row, "name"),
        frozenset(event for event in events if isinstance(event, str) and event),
        _text(profile, "profileId"),
        _text(_object(profile, "security"), "authId"),
    )


def _inbound_configuration(row: Mapping[str, Any]) -> InboundConfiguration:
    forwarding = _object(row, "forwarding")
    return InboundConfiguration(
        _text(row, "configurationKey"),
        _text(row, "keyword"),
        _text(forwarding, "type"),
        _text(forwarding, "url"),
        _object(row, "conversations").get("enabled") is True,
        _object(row, "answers").get("enabled") is True,
    )


# almost every field of these answers is optional by the published documents


def _list(body: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    rows = body.get(name)
    if not isinstance(rows, list):
        raise UnexpectedPayload(f"{name} is missing or not a list")
    return [row for row in rows if isinstance(row, dict)]


def _object(source: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = source.get(name)
    return value if isinstance(value, dict) else {}


def _text(source: Mapping[str, Any], name: str) -> str:
    value = source.get(name)
    return value.strip() if isinstance(value, str) else ""


def _texts(source: Mapping[str, Any], name: str) -> tuple[str, ...]:
    values = source.get(name)
    return tuple(value for value in values if isinstance(value, str)) if isinstance(values, list) else ()
