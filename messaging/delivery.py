"""Delivers one message: one call, and what came of it in our words."""

import json
import time
from dataclasses import dataclass

import structlog

from connector.aio import Caller
from connector.events import clean
from connector.http import ApiError, Call, CustomerMustAct
from connector.salesforce.interactions import Delivered
from connector.salesforce.sessions import has_ended_call
from messaging.claims import Claim, Waiting
from messaging.models import Direction, Outcome
from messaging.routes import Route
from tenants.database import facts_of

log = structlog.get_logger(__name__)

ASK_SECONDS = 3.0  # a lane waits so long, at most, to know whether a session goes on
TOO_LATE = "the session had ended; this line would have opened another one"


@dataclass(slots=True)
class Result:
    """How the try of a message ended."""

    claim: Claim
    message: Waiting
    outcome: Outcome
    endpoint_id: int  # of what was called, or would have been
    status: int | None = None
    code: str = ""
    detail: str = ""
    request_id: str = ""
    retry_after: float | None = None
    delivered: Delivered | None = None  # where an interaction arrived
    seconds: float = 0.0  # the call took
    called: bool = True  # False: nothing was sent, so it was no try
    given_up: str = ""  # why it is not tried again, in words for the rep
    waited: float = 0.0  # seconds since it was accepted, where it is to be tried again
    session_over: bool = False  # Salesforce says that the session that the message was for has ended

    @property
    def done(self) -> bool:
        """Tell whether the upstream did its part; a refusal for good is one too."""
        return self.outcome in (Outcome.SENT, Outcome.REFUSED)


async def deliver(caller: Caller, route: Route, claim: Claim, message: Waiting, *, seconds: float) -> Result:
    """Make the call for one message.

    :param seconds: the most that it may take, a login included
    """
    began = time.monotonic()
    result = Result(claim, message, Outcome.SENT, _endpoint_id(route, claim))
    if message.notice and await _is_over(caller, route, message):
        result.outcome, result.detail, result.called, result.session_over = Outcome.REFUSED, TOO_LATE, False, True
        return result
    try:
        if claim.direction is Direction.INBOUND:
            result.delivered = await caller.run(_interaction(route, message), seconds=seconds)
        else:
            await caller.run(_send(route, message), seconds=seconds)
    except _NoRoute as exc:
        result.outcome, result.detail, result.called = Outcome.RETRY, exc.message, False
    except ApiError as exc:
        result.outcome = Outcome.IN_DOUBT if exc.in_doubt else Outcome.RETRY if exc.retryable else Outcome.REFUSED
        result.status, result.retry_after = exc.status, exc.retry_after
        result.code, result.detail, result.request_id = clean(exc.code), clean(exc.message), clean(exc.request_id)
    result.seconds = time.monotonic() - began
    return result


async def _is_over(caller: Caller, route: Route, message: Waiting) -> bool:
    """Ask whether a session has ended of whose end we may not have heard: a line would open another one.

    Where nobody can tell, the line is worth more to the rep than the session that it might open costs.
    """
    if not message.session_open or not message.session or route.records is None:
        return not message.session_open
    try:
        return await caller.run(has_ended_call(route.records, message.session), seconds=ASK_SECONDS)
    except ApiError as exc:
        log.warning("not known whether the session goes on", **facts_of(exc))
        return False


def not_tried(claim: Claim, message: Waiting) -> Result:
    """Give a message back for which no call was made."""
    return Result(claim, message, Outcome.RETRY, claim.endpoint_id, called=False)


class _NoRoute(CustomerMustAct):
    """Nothing can be called."""


def _endpoint_id(route: Route, claim: Claim) -> int:
    if claim.direction is Direction.OUTBOUND and route.sender is not None:
        return route.sender.account_id
    return claim.endpoint_id


def _interaction(route: Route, message: Waiting) -> Call[Delivered]:
    channel, salesforce = route.channel, route.salesforce
    if channel is None or salesforce is None:
        raise _NoRoute("Salesforce", route.problem or "the org has no connection")
    return salesforce.text_call(
        context=channel.authorization_context,
        channel_address=channel.channel_address_identifier,
        end_user=message.subject,
        text=message.text,
        message_uuid=message.uuid,
        at=message.written_at,
        routing_attributes=json.loads(message.routing_attributes or "null"),
    )


def _send(route: Route, message: Waiting) -> Call[None]:
    sender, infobip = route.sender, route.infobip
    if sender is None or infobip is None:
        raise _NoRoute("Infobip", route.problem or "the channel has no sender")
    if message.template is not None:
        return infobip.template_call(
            sender=sender.number,
            to=message.subject,
            content=json.loads(message.template),
            message_uuid=message.uuid,
            notify_url=sender.account.report_url(message.uuid),
        )
    return infobip.text_call(
        sender=sender.number,
        to=message.subject,
        text=message.text,
        message_uuid=message.uuid,
        notify_url=sender.account.report_url(message.uuid),
    )
