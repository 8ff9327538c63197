"""Our own API: a customer's system opens a conversation with an end user, and may send a template first."""

import hashlib
import json
import math
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import structlog
from django.contrib.auth.models import AnonymousUser
from django.db import InterfaceError, OperationalError, connection, transaction
from django.utils import timezone
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import APIException, AuthenticationFailed, ParseError, ValidationError
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView, exception_handler

from connector.events import clean
from connector.http import AddressRefused, ApiError, CustomerMustAct, time_limit
from connector.salesforce.interactions import Delivered, InteractionClient
from messaging.conversations import OutboundConversation, TemplateMessage, start_outbound
from messaging.models import Conversation
from messaging.query import query
from messaging.queue import lock_conversations
from messaging.retention import API_CALLS_KEPT
from messaging.sessions import Opening, open_sessions
from messaging.wake import wake
from tenants import api_tokens
from tenants.cache import with_redis
from tenants.encryption import CannotDecrypt
from tenants.models import ApiCall, ApiToken, Channel, Org, SalesforceConnection
from tenants.tenancy import org_scope

log = structlog.get_logger(__name__)

CALL_SECONDS = 12.0  # for Salesforce, a login included
LEASE = timedelta(seconds=20)  # longer than a call can take; after that its process is gone
CALLS_A_MINUTE = 300  # of one org
CALLS_AT_ONCE = 4  # of one org in a process: while its Salesforce hangs, others still need threads
LARGEST_BODY = 64 * 1024
RETRY_SECONDS = 5
MANNERLESS = re.compile(r"[\s+()./-]")  # what people write between the digits of a number


class Refusal(APIException):
    """A call that is answered with an error; the words say what is wrong, and what to do."""

    def __init__(
        self, status: int, code: str, words: str, *, retry_after: float | None = None, message: UUID | None = None
    ) -> None:
        super().__init__(words, code)
        self.status_code, self.code, self.retry_after, self.message = status, code, retry_after, message


# what comes and goes


class _Strict(serializers.Serializer[Any]):
    """Refuses fields that it does not know: a misspelt one would be lost without a word."""

    def to_internal_value(self, data: Any) -> Any:
        unknown = sorted(set(data) - set(self.fields)) if isinstance(data, Mapping) else []
        wrong: Any = {name: ["This field is not known here."] for name in unknown}
        try:
            value = super().to_internal_value(data)
        except ValidationError as exc:
            if not isinstance(exc.detail, dict):
                raise
            wrong |= exc.detail
        if wrong:
            raise ValidationError(wrong)
        return value


class _Digits(serializers.CharField):
    """A phone number, however it is written."""

    def to_internal_value(self, data: Any) -> str:
        number = MANNERLESS.sub("", super().to_internal_value(data))
        if not re.fullmatch(r"[1-9][0-9]{5,19}", number):
            raise ValidationError("This is not a number with its country code, such as 385991234567.")
        return number


class _EndUser(_Digits):
    """A phone number, or a business-scoped user id such as HR.1234567890."""

    def to_internal_value(self, data: Any) -> str:
        if isinstance(data, str) and re.fullmatch(r"[A-Z]{2}\.[A-Za-z0-9.]{1,140}", data.strip()):
            return data.strip()
        return super().to_internal_value(data)


class _Json(serializers.JSONField):
    """JSON that PostgreSQL can hold."""

    def to_internal_value(self, data: Any) -> Any:
        value = super().to_internal_value(data)
        text = json.dumps(value, ensure_ascii=False)
        if clean(text) != text or "\\u0000" in text:
            raise ValidationError("This holds characters that are none.")
        return value


class Template(_Strict):
    """An approved template of the sender, with what fills it."""

    name = serializers.RegexField(r"^[a-z0-9_]{1,512}$", help_text="As in Infobip's portal.")
    language = serializers.RegexField(r"^[A-Za-z0-9_]{2,12}$", help_text="Exactly as in the template, such as en_GB.")
    placeholders = serializers.ListField(
        child=serializers.CharField(max_length=1024), max_length=100, required=False, help_text="Of the body, in order."
    )
    templateData = _Json(
        required=False,
        help_text="Infobip's own form, instead of placeholders, for a template whose header or buttons take values too.",
    )

    def validate(self, attrs: Any) -> Any:
        if "templateData" not in attrs:
            return attrs
        if "placeholders" in attrs:
            raise ValidationError({"templateData": ["Give either this or placeholders."]})
        data = attrs["templateData"]
        body = data.get("body") if isinstance(data, dict) else None
        values = body.get("placeholders") if isinstance(body, dict) else None
        if not isinstance(values, list) or not all(isinstance(each, str) and each for each in values):
            words = "This must hold body.placeholders, a list of texts, none of them empty; [] where the body has none."
            raise ValidationError({"templateData": [words]})
        return attrs


class ConversationRequest(_Strict):
    """With whom a conversation is opened, and by which sender."""

    sender = _Digits(help_text="A WhatsApp number of yours that is set up here.")
    to = _EndUser(help_text="The end user: a number with its country code, or a business-scoped user id.")
    name = serializers.CharField(max_length=200, required=False, help_text="Of the end user, for your reps.")
    language = serializers.RegexField(
        r"^[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,6})?$", required=False, help_text="Of the channel's own texts, such as en."
    )
    routingAttributes = serializers.DictField(
        child=serializers.CharField(max_length=4000, allow_blank=True),
        required=False,
        help_text="Values of the channel's custom parameters in Salesforce, for the routing.",
    )
    template = Template(required=False)

    def validate_routingAttributes(self, given: dict[str, str]) -> dict[str, str]:
        if len(given) > 50 or not all(re.fullmatch(r"[A-Za-z]\w{0,79}", name, re.ASCII) for name in given):
            raise ValidationError("These are at most 50, named as the channel's custom parameters are.")
        return given


class ConversationOpened(serializers.Serializer[Any]):
    """Where the conversation is in Salesforce."""

    conversationId = serializers.CharField(help_text="Salesforce's conversation identifier.")
    sessionId = serializers.CharField(help_text="The messaging session; empty where Salesforce names none.")
    messageId = serializers.UUIDField(required=False, help_text="Of the template, at Infobip too.")
    warning = serializers.CharField(required=False, help_text="What will not work, though the conversation is open.")


class Problem(serializers.Serializer[Any]):
    """What is wrong, and what to do."""

    error = serializers.CharField(help_text="For people.")
    code = serializers.CharField(help_text="For programs.")
    fields = serializers.DictField(child=serializers.CharField(), required=False)  # type: ignore[assignment]
    messageId = serializers.UUIDField(required=False, help_text="Of the template, which goes out all the same.")


def explain(exc: Exception, context: dict[str, Any]) -> Response | None:
    """Put what went wrong into the one form that errors have here."""
    if isinstance(exc, OperationalError | InterfaceError):
        connection.close()  # perhaps only this connection was lost
        log.error("API call not stored", error=type(exc).__name__)
        exc = Refusal(503, "not_stored", "This cannot be stored now. Send it again in a moment.", retry_after=1)
    if isinstance(exc, RecursionError | UnicodeError):
        exc = ParseError("The body is not JSON that can be read.")
    response = exception_handler(exc, context)
    if response is None or not isinstance(exc, APIException):
        return response
    if isinstance(exc, ValidationError):
        fields = dict(_flat(exc.detail))
        words = " ".join(f"{path}: {each}" if path else each for path, each in fields.items())
        response.status_code = 422
        response.data = {"error": f"The body does not fit. {words}", "code": "invalid", "fields": fields}
    else:
        response.data = {"error": str(exc.detail), "code": str(exc.get_codes())}
    if isinstance(exc, Refusal):
        if exc.message is not None:
            response.data["messageId"] = str(exc.message)
        if exc.retry_after is not None:
            response["Retry-After"] = str(math.ceil(exc.retry_after))
    token = getattr(context.get("request"), "auth", None) if response.status_code != 401 else None
    log.info(
        "API call refused",
        org=token.org_id if isinstance(token, ApiToken) else None,
        status=response.status_code,
        code=response.data["code"],
    )
    return response


def _flat(detail: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Name each field that is wrong by its path, with a sentence."""
    if isinstance(detail, Mapping):
        for name, inner in detail.items():
            yield from _flat(inner, path if name == "non_field_errors" else f"{path}.{name}".strip("."))
    elif isinstance(detail, list):
        yield path, " ".join(words for each in detail for _, words in _flat(each))
    else:
        yield path, str(detail)


# who may


class TokenAuthentication(BaseAuthentication):
    """Knows a caller by the org's API token."""

    def authenticate(self, request: Request) -> tuple[AnonymousUser, ApiToken] | None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            return None
        found = api_tokens.find(token.strip())
        if found is None:
            raise AuthenticationFailed("This token is not known. Make one on the set-up page “API access”.")
        if found.revoked_at is not None:
            raise AuthenticationFailed(
                f"This token was revoked on {found.revoked_at:%Y-%m-%d}. Make another on the set-up page “API access”."
            )
        return AnonymousUser(), found

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class TokenScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """Names the token in the OpenAPI document."""

    target_class = TokenAuthentication
    name = "apiToken"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        return {"type": "http", "scheme": "bearer", "description": "Made on the set-up page “API access”."}


class MayWriteConversations(BasePermission):
    """Lets in tokens with that scope."""

    message = f"This token lacks the scope {api_tokens.CONVERSATIONS_WRITE}. Make one that has it."

    def has_permission(self, request: Request, view: APIView) -> bool:
        return isinstance(request.auth, ApiToken) and api_tokens.CONVERSATIONS_WRITE in request.auth.scopes


class OrgThrottle(BaseThrottle):
    """Lets an org call so many times a minute; while Redis is down, any number."""

    def allow_request(self, request: Request, view: APIView) -> bool:
        assert isinstance(request.auth, ApiToken)
        key = f"connector:api:{request.auth.org_id}:{int(time.time() // 60)}"

        def count(redis: Any) -> int:
            used = int(redis.incr(key))
            redis.expire(key, 120)
            return used

        return with_redis(count, default=0) <= CALLS_A_MINUTE

    def wait(self) -> float:
        return 60 - time.time() % 60


# the call


class ApiView(APIView):
    """What all calls have in common."""

    authentication_classes = [TokenAuthentication]
    throttle_classes = [OrgThrottle]

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        length = request.headers.get("Content-Length", "")
        if length.isdecimal() and int(length) > LARGEST_BODY:
            raise Refusal(413, "too_large", f"The body is larger than {LARGEST_BODY} bytes.")

    def get_exception_handler(self) -> Any:
        return explain


REFUSALS = dict.fromkeys((400, 401, 403, 404, 409, 413, 422, 429, 502, 503), Problem)


class Conversations(ApiView):
    """Conversations of the org."""

    permission_classes = [MayWriteConversations]

    @extend_schema(
        operation_id="openConversation",
        summary="Open a conversation",
        request=ConversationRequest,
        parameters=[
            OpenApiParameter(
                "Idempotency-Key",
                location=OpenApiParameter.HEADER,
                description="A text of yours, such as an order's number. The same call with the same key, within 24 "
                "hours, happens once and has the same answer.",
            )
        ],
        responses={201: ConversationOpened, **REFUSALS},
    )
    def post(self, request: Request) -> Response:
        """Open a conversation with an end user who need not have written, and a session with your reps.

        A template goes out first, also where the 24-hour window is closed.
        """
        token = request.auth
        assert isinstance(token, ApiToken)
        with org_scope(token.org_id):
            form = ConversationRequest(data=request.data)
            form.is_valid(raise_exception=True)
            answer = open_conversation(token.org, form.validated_data, request.headers.get("Idempotency-Key", "").strip())
        return Response(answer, status=201)


@dataclass(frozen=True, slots=True)
class Beginning:
    """What is in the rows before Salesforce is asked; ``answer`` where the same call was answered before."""

    call: ApiCall | None
    answer: dict[str, str] | None = None
    addressed: OutboundConversation | None = None
    message: UUID | None = None


def open_conversation(org: Org, asked: Mapping[str, Any], key: str) -> dict[str, str]:
    """Queue the template, open the session, and say where.

    :raises Refusal: with what is wrong, and what to do
    """
    if len(key) > 255 or clean(key) != key:
        raise Refusal(400, "bad_key", "The Idempotency-Key is longer than 255 characters.")
    sender = org.senders.select_related("channel").filter(number=asked["sender"]).order_by("pk").first()
    if sender is None:
        raise Refusal(
            404,
            "unknown_sender",
            f"{asked['sender']} is not a sender of this org. Choose it on the set-up page “Select senders” first.",
        )
    salesforce = _salesforce(org)
    with _place(org.pk):
        with transaction.atomic():
            begun = _begin(org, sender, asked, key)
        if begun.answer is not None:
            return begun.answer
        assert begun.addressed is not None
        if begun.message is not None:
            wake()
        try:
            delivered = _establish(salesforce, sender.channel, begun.addressed, asked.get("routingAttributes", {}))
            return _keep(org, begun, begun.addressed, delivered)
        except ApiError as exc:
            log.warning("conversation not opened", org=org.pk, conversation=begun.addressed.conversation_id, error=str(exc))
            raise _refusal_of(exc, begun, key) from exc
        finally:
            if begun.call is not None:  # whatever happened: the next try need not wait for the lease to run out
                org.api_calls.filter(pk=begun.call.pk).update(leased_until=None)


def _salesforce(org: Org) -> InteractionClient:
    if org.disconnected_at is not None:
        raise Refusal(409, "disconnected", "The org is disconnected. Connect it again on the set-up page.")
    try:
        return org.salesforce.client()
    except SalesforceConnection.DoesNotExist:
        raise Refusal(409, "disconnected", "The org is not connected. Connect it on the set-up page.") from None
    except (ApiError, CannotDecrypt) as exc:
        raise Refusal(502, "set_up", f"The connection cannot be used: {exc}. See the set-up page.") from exc


_places: Counter[int] = Counter()
_places_lock = threading.Lock()


@contextmanager
def _place(org_id: int) -> Iterator[None]:
    """Take one of the few threads that an org may hold in this process."""
    with _places_lock:
        if _places[org_id] >= CALLS_AT_ONCE:
            words = f"{CALLS_AT_ONCE} calls of this org wait for Salesforce. Send this one again when they are answered."
            raise Refusal(429, "at_once", words, retry_after=1)
        _places[org_id] += 1
    try:
        yield
    finally:
        with _places_lock:
            _places[org_id] -= 1
            if not _places[org_id]:
                del _places[org_id]


def _begin(org: Org, sender: Any, asked: Mapping[str, Any], key: str) -> Beginning:
    """Note the call, find or begin the conversation, and queue the template, all in the caller's transaction."""
    call = _claim(org, key, asked) if key else None
    if call is not None and call.answer is not None:
        return Beginning(call, call.answer)
    template = None
    if "template" in asked and (call is None or call.message_uuid is None):
        template = _content(asked["template"])
    addressed = start_outbound(
        sender,
        asked["to"],
        name=asked.get("name", ""),
        language=asked.get("language", "").lower().replace("_", "-"),
        template=template,
    )
    message = template.uuid if template else call.message_uuid if call else None
    if call is not None and template is not None:
        org.api_calls.filter(pk=call.pk).update(message_uuid=message)
    return Beginning(call, None, addressed, message)


def _claim(org: Org, key: str, asked: Mapping[str, Any]) -> ApiCall:
    """Note that this process works on the call of that key, or find what became of it."""
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    until = timezone.now() + LEASE
    # whoever comes second waits here for the first one's commit
    begun = query(
        """INSERT INTO tenants_apicall AS call (org_id, key, body_hash, created_at, leased_until)
           VALUES (%s, %s, %s, clock_timestamp(), %s)
           ON CONFLICT (org_id, key) DO UPDATE SET body_hash = excluded.body_hash, message_uuid = NULL, answer = NULL,
               created_at = excluded.created_at, leased_until = excluded.leased_until
           WHERE call.created_at < %s RETURNING id""",
        [org.pk, key, digest, until, timezone.now() - API_CALLS_KEPT],
    )
    call = org.api_calls.select_for_update().get(key=key)
    if begun:
        return call
    if call.body_hash != digest:
        words = "This Idempotency-Key came with another body before. Use a new key for what is new."
        raise Refusal(422, "key_reused", words)
    if call.answer is None:
        if call.leased_until is not None and call.leased_until > timezone.now():
            words = "The same call is under way. Send it again in a moment for its answer."
            raise Refusal(409, "under_way", words, retry_after=2, message=call.message_uuid)
        org.api_calls.filter(pk=call.pk).update(leased_until=until)
    return call


def _content(template: Mapping[str, Any]) -> TemplateMessage:
    """Put a template into Infobip's form, and into words for people."""
    data = template.get("templateData") or {"body": {"placeholders": template.get("placeholders", [])}}
    content = {"templateName": template["name"], "templateData": data, "language": template["language"]}
    values = ", ".join(data["body"]["placeholders"])
    text = f"Template {template['name']} ({template['language']}){': ' if values else ''}{values}"
    return TemplateMessage(uuid4(), content, text)


def _establish(
    salesforce: InteractionClient, channel: Channel, addressed: OutboundConversation, routing_attributes: Mapping[str, str]
) -> Delivered:
    with time_limit(CALL_SECONDS):
        return salesforce.establish(
            context=channel.authorization_context,
            channel_address=channel.channel_address_identifier,
            end_user=addressed.subject,
            routing_attributes=routing_attributes,
        )


def _keep(org: Org, begun: Beginning, addressed: OutboundConversation, delivered: Delivered) -> dict[str, str]:
    """Write down what Salesforce says of the conversation, and that reps have it now; give the answer."""
    with transaction.atomic():
        lock_conversations([addressed.conversation_id])
        known = Conversation.objects.get(org=org, pk=addressed.conversation_id)
        identifier = clean(delivered.conversation) or known.identifier
        session = clean(delivered.session)[:18] or known.session
        open_sessions([Opening(org.pk, known.pk, identifier, session)])
        answer = {"conversationId": identifier, "sessionId": session}
        if begun.message is not None:
            answer["messageId"] = str(begun.message)
        elif not addressed.window_open:
            answer["warning"] = (
                "The end user has not written to this sender within 24 hours: what a rep writes does not reach them "
                "before they do. Give a template, or let a rep send one."
            )
        if begun.call is not None:
            org.api_calls.filter(pk=begun.call.pk).update(answer=answer)
    log.info("conversation opened", org=org.pk, conversation=addressed.conversation_id, message=answer.get("messageId"))
    return answer


def _refusal_of(exc: ApiError, begun: Beginning, key: str) -> Refusal:
    """Say what Salesforce's refusal means for the caller, and what becomes of a template that is queued."""
    on_its_way = ""
    if begun.message is not None:
        on_its_way = " The template goes out all the same; " + (
            "sent again with the same Idempotency-Key, this call sends no second one."
            if key
            else "leave it out when you send this again."
        )
    facts = f"{clean(exc.message)}{f' (code {clean(exc.code)})' if exc.code else ''}"
    if isinstance(exc, CustomerMustAct | AddressRefused):
        words = f"Salesforce does not take it for the org's set-up: {facts}. The doctor on the set-up page says what to do."
        return Refusal(502, "set_up", words + on_its_way, message=begun.message)
    if not exc.retryable:
        return Refusal(422, "refused", f"Salesforce refuses this: {facts}.{on_its_way}", message=begun.message)
    words = f"Salesforce cannot be reached now: {facts}. Send this again later.{on_its_way}"
    wait = max(exc.retry_after or 0, RETRY_SECONDS)
    return Refusal(503, "unavailable", words, retry_after=wait, message=begun.message)
