"""The one way out: a process's share of the lanes, carried by threads.

One thread keeps the books. It claims due lanes, notes each try before it is made, and writes down how it ended, many at a
time in one transaction. The others only call the far sides, and hold no database connection. What was noted but not written
down when the process dies is found by whoever claims the lane next.
"""

import json
import queue
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from uuid import NAMESPACE_OID, uuid5

import structlog
from django.db import Error as DatabaseError
from django.db import InterfaceError, OperationalError, connection, transaction

from connector.events import MARK, Receipt, clean
from connector.http import TOTAL_SECONDS, ApiError, CustomerMustAct, time_limit
from connector.infobip.client import InfobipClient
from connector.salesforce.interactions import MOST_ACKNOWLEDGEMENTS, Acknowledgement, Delivered, InteractionClient
from messaging import circuits, lanes
from messaging.circuits import SIDE_OF, Call
from messaging.lanes import Claim, Result, Share, Waiting
from messaging.models import Direction, Outcome, Side, Status
from messaging.query import query
from tenants.encryption import CannotDecrypt
from tenants.models import Channel, SalesforceConnection, Sender
from tenants.tenancy import every_org

log = structlog.get_logger(__name__)

LOOK_SECONDS = 1.0  # how often a process looks for due lanes without being rung
HEARTBEAT_SECONDS = 5.0
WORK_SECONDS = TOTAL_SECONDS + 3  # a login, a call and its repetition together; still below the lease
STALE_SECONDS = lanes.LEASE_SECONDS - WORK_SECONDS  # work that waited longer than this to begin is given back
ROUTE_SECONDS = 5.0  # how soon changed credentials count
DRAIN_SECONDS = 20.0
SLOW_SECONDS = 2.0  # a far side that takes longer gets fewer calls at once
FIRST_SHARE = 8  # calls under way at once to a far side of which nothing is known yet
LEAST_SHARE = 2
MOST_REFUSALS = 2  # how often a receipt is told again while the customer must act
MOST_ROUTES = 10_000


@dataclass(frozen=True, slots=True)
class Route:
    """The way to a far side, or why there is none."""

    channel: Channel | None = None
    sender: Sender | None = None
    salesforce: InteractionClient | None = None
    infobip: InfobipClient | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """An entry of a rep that did not arrive; ``notice`` is the line that says so in the conversation, or empty."""

    entry: str
    code: str
    reason: str
    message_ids: list[int]
    notice: str


@dataclass(slots=True)
class Telling:
    """What Salesforce is to be told about the rep's messages of one conversation, and the rows that this settles."""

    conversation: str
    end_user: str
    channel_id: int
    acknowledgements: list[Acknowledgement] = field(default_factory=list)
    acknowledged: list[tuple[int, Status]] = field(default_factory=list)  # message ids, and the state that they tell
    failures: list[Failure] = field(default_factory=list)
    more: bool = False  # there is more than one pass can tell


@dataclass(slots=True)
class Work:
    """One call to make: a message, or the receipts of a conversation."""

    claim: Claim
    route: Route
    message: Waiting | None = None
    attempt_id: int = 0
    telling: Telling | None = None
    begun_at: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True)
class Told:
    """How telling went: what is settled, and when the rest is tried again."""

    claim: Claim
    telling: Telling
    settled: list[tuple[int, Status]]
    noticed: list[Failure]
    again_after: float | None  # seconds; None: nothing is left
    called: bool = True
    seconds: float = 0.0


class Relay:
    """Carries lanes until it is stopped; start it once in a process.

    :param threads: how many calls may be under way at once
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.held: dict[int, Claim] = {}
        self.held_lock = threading.Lock()
        self.ended: queue.SimpleQueue[Result | Told] = queue.SimpleQueue()
        self.unwritten: list[Result | Told] = []
        self.bell = threading.Event()
        self.stopping = threading.Event()
        self.stopped = threading.Event()
        self.routes = Routes()
        self.flows = Flows(threads)
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="carrier")

    def start(self) -> None:
        """Start the book-keeper and the heartbeat."""
        threading.Thread(target=self._keep_books, name="bookkeeper", daemon=True).start()
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def ring(self) -> None:
        """Say that there may be work; from any thread."""
        self.bell.set()

    def stop(self) -> None:
        """Claim no more, and wait for what is under way; what it leaves, others take when its leases run out."""
        self.stopping.set()
        self.bell.set()
        self.stopped.wait(DRAIN_SECONDS)
        self.pool.shutdown(wait=False, cancel_futures=True)

    def _keep_books(self) -> None:
        while True:
            self.bell.wait(LOOK_SECONDS)
            self.bell.clear()
            while not self.ended.empty():
                self.unwritten.append(self.ended.get())
            try:
                with every_org():
                    work = self._turn()
            except (OperationalError, InterfaceError) as exc:
                # what ended stays in memory and is written when the database is back, if the lease still holds then
                log.warning("database trouble", error=type(exc).__name__)
                connection.close()
                time.sleep(0.3)
                self.bell.set()
                work = []
            except Exception:  # the book-keeper must outlive whatever it stumbles over
                log.exception("book-keeping failed")
                connection.close()
                self._let_go()
                time.sleep(LOOK_SECONDS)
                work = []
            for each in work:
                self.pool.submit(self._carry, each)
            if self.stopping.is_set() and not self.held and not self.unwritten:
                connection.close()
                self.stopped.set()
                return

    def _let_go(self) -> None:
        """Forget what cannot be written down; its lanes are found again, in doubt, when their leases run out."""
        with self.held_lock:
            for each in self.unwritten:
                self.held.pop(each.claim.lane_id, None)
        self.unwritten.clear()

    def _turn(self) -> list[Work]:
        """Write down what ended, take new lanes for the threads that are free, and note what is tried next."""
        ended = list(self.unwritten)
        with transaction.atomic():
            results = [each for each in ended if isinstance(each, Result)]
            told = [each for each in ended if isinstance(each, Told)]
            if ended:
                rung = [each.claim.conversation_id for each in results if each.outcome is not Outcome.SENT]
                rung += [each.claim.conversation_id for each in told if each.noticed]
                lanes.lock([each.claim for each in ended], neighbours_of=rung)
            circuits.note(
                Call(each.claim.org_id, each.claim.direction, each.claim.lane_id, each.again_after is None)
                for each in told
                if each.called
            )
            going_on = lanes.record(results) if results else []
            self._settle(told)
            ended_lanes = {each.claim.lane_id for each in ended}
            with self.held_lock:
                held = [claim for claim in self.held.values() if claim.lane_id not in ended_lanes]
            held += [claim for claim, _ in going_on]
            free = self.threads - len(held)
            claims = []
            if free > 0 and not self.stopping.is_set():
                claims = lanes.claim(free, shares=self.flows.shares(held), share=FIRST_SHARE)
            heads = lanes.first_waiting([each.lane_id for each in claims if each.direction is not Direction.RECEIPTS])
            pairs = going_on + [(claim, heads[claim.lane_id]) for claim in claims if claim.lane_id in heads]
            attempts = lanes.open_attempts(pairs) if pairs else {}
            tellings = self._tellings([each for each in claims if each.direction is Direction.RECEIPTS])
            idle = [each for each in claims if each.lane_id not in heads and each.lane_id not in tellings]
            lanes.hand_back(idle, done=True)
            work = [
                Work(claim, self.routes.of(message.channel_id, message.sender_id), message, attempts[message.id])
                for claim, message in pairs
            ]
            work += [
                Work(claim, self.routes.of(tellings[claim.lane_id].channel_id, None), telling=tellings[claim.lane_id])
                for claim in claims
                if claim.lane_id in tellings
            ]
        del self.unwritten[: len(ended)]  # only now is it committed
        for each in ended:
            if each.called:
                succeeded = each.succeeded if isinstance(each, Result) else each.again_after is None
                self.flows.note(each.claim, succeeded and each.seconds < SLOW_SECONDS)
        for result in results:
            _log_result(result)
        with self.held_lock:
            for each in ended:
                self.held.pop(each.claim.lane_id, None)
            self.held.update({each.claim.lane_id: each.claim for each in work})
        return work

    def _tellings(self, claims: Sequence[Claim]) -> dict[int, Telling]:
        by_conversation = {claim.conversation_id: claim.lane_id for claim in claims}
        return {by_conversation[each]: telling for each, telling in untold(list(by_conversation)).items()}

    def _settle(self, told: Sequence[Told]) -> None:
        settles = [pair for each in told for pair in each.settled]
        if settles:
            query(
                """UPDATE messaging_message SET told = settled.status
                   FROM unnest(%s::bigint[], %s::text[]) AS settled (id, status)
                   WHERE messaging_message.id = settled.id""",
                [[message_id for message_id, _ in settles], [status.value for _, status in settles]],
            )
        lanes.hand_back([each.claim for each in told if each.again_after is None and not each.telling.more], done=True)
        for each in told:
            if each.again_after is not None or each.telling.more:
                lanes.hand_back([each.claim], pause=each.again_after or 0.0)
        for each in told:
            for failure in each.noticed:
                lanes.add_notice(each.claim, each.telling.channel_id, failure.entry, failure.notice)

    def _carry(self, work: Work) -> None:
        claim = work.claim
        with structlog.contextvars.bound_contextvars(org=claim.org_id, conversation=claim.conversation_id):
            try:
                if time.monotonic() - work.begun_at > STALE_SECONDS or claim.lane_id not in self.held:
                    ended = _not_tried(work)
                elif work.telling is not None:
                    ended = _tell(work, work.telling)
                else:
                    ended = _send(work)
            except Exception as exc:
                log.exception("carrying failed")
                ended = _not_tried(work, Outcome.IN_DOUBT, f"internal error: {type(exc).__name__}")
        self.ended.put(ended)
        self.bell.set()

    def _beat(self) -> None:
        while not self.stopped.wait(HEARTBEAT_SECONDS):
            with self.held_lock:
                claims = list(self.held.values())
            if not claims:
                continue
            try:
                with every_org(), transaction.atomic():
                    mine = lanes.renew(claims)
            except (DatabaseError, InterfaceError) as exc:
                log.warning("heartbeat missed", error=type(exc).__name__)
                continue
            finally:
                connection.close()
            with self.held_lock:
                for claim in claims:
                    if claim.lane_id not in mine and self.held.get(claim.lane_id) is claim:
                        log.warning("lease lost", org=claim.org_id, conversation=claim.conversation_id)
                        del self.held[claim.lane_id]


class Flows:
    """How many calls each org may have under way to each far side, in this process.

    One that answers soon gets one more with each answer, up to three quarters of the threads; one that fails or is slow
    has its share halved. So a far side that hangs soon holds few threads, and no flood holds all of them.
    """

    def __init__(self, threads: int) -> None:
        self.most = max(1, threads * 3 // 4)
        self.allowed: dict[tuple[int, Side], int] = {}

    def note(self, claim: Claim, well: bool) -> None:
        """Learn from a call."""
        place = (claim.org_id, SIDE_OF[claim.direction])
        allowed = self.allowed.get(place, FIRST_SHARE)
        if len(self.allowed) > MOST_ROUTES:
            self.allowed.clear()
        self.allowed[place] = min(self.most, allowed + 1) if well else max(LEAST_SHARE, allowed // 2)

    def shares(self, held: Iterable[Claim]) -> list[Share]:
        """Say what is left to each org and side of which something is known."""
        counts = Counter((claim.org_id, SIDE_OF[claim.direction]) for claim in held)
        known = self.allowed.keys() | counts.keys()
        return [
            Share(*place, more=max(0, self.allowed.get(place, FIRST_SHARE) - counts[place]), held=counts[place])
            for place in known
        ]


def untold(conversation_ids: Sequence[int]) -> dict[int, Telling]:
    """Find what Salesforce does not know yet of each conversation: an entry counts once all its parts got so far."""
    if not conversation_ids:
        return {}
    rows = query(
        """WITH entry AS (
               SELECT DISTINCT conversation_id, channel_id, source_entry FROM messaging_message
               WHERE conversation_id = ANY(%s) AND direction = 'outbound' AND NOT ours
                 AND status IN ('delivered', 'read', 'failed') AND told <> status)
           SELECT part.conversation_id, conversation.identifier, conversation.subject, part.channel_id,
               conversation.session_open AND channel.show_failures, part.source_entry, array_agg(part.id),
               array_agg(part.status), array_agg(part.told), max(part.status_at),
               max(part.error_code) FILTER (WHERE part.status = 'failed'),
               max(part.error) FILTER (WHERE part.status = 'failed'), min(part.text) FILTER (WHERE part.part = 0)
           FROM entry
           CROSS JOIN LATERAL (
               SELECT * FROM messaging_message
               WHERE channel_id = entry.channel_id AND source_entry = entry.source_entry LIMIT 1000) AS part
           JOIN messaging_conversation conversation ON conversation.id = part.conversation_id
           JOIN tenants_channel channel ON channel.id = part.channel_id
           WHERE part.direction = 'outbound' AND conversation.identifier <> ''
           GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY max(part.status_at)""",
        [list(conversation_ids)],
    )
    tellings: dict[int, Telling] = {}
    for conversation_id, identifier, subject, channel_id, visibly, entry, ids, states, told, at, code, error, text in rows:
        reached = _state_of_whole(states)
        if reached is None or set(told) == {reached.value}:
            continue
        telling = tellings.setdefault(conversation_id, Telling(identifier, subject, channel_id))
        if len(telling.acknowledgements) + len(telling.failures) == MOST_ACKNOWLEDGEMENTS:
            telling.more = True
        elif reached is Status.FAILED:
            reason = error or "no reason was given"
            notice = _notice(text, reason) if visibly else ""
            telling.failures.append(Failure(entry, code or "FAILED", reason, ids, notice))
        else:
            receipt = Receipt(reached.value)
            # the same id when it is told again
            acknowledgement_id = uuid5(NAMESPACE_OID, f"{entry} {receipt}")
            telling.acknowledgements.append(Acknowledgement(entry, receipt, at, acknowledgement_id))
            telling.acknowledged += [(each, reached) for each in ids]
    return tellings


def _notice(text: str, reason: str) -> str:
    """Write the line that shows a rep what did not arrive; the mark is one that no end user's text can hold."""
    begun = " ".join(text.split())
    quoted = f"“{begun[:60]}…”" if len(begun) > 60 else f"“{begun}”" if begun else "Your message"
    return f"{MARK} Not delivered: {quoted} — {reason}."


def _state_of_whole(states: Iterable[str]) -> Status | None:
    """Say how far a message of several parts got: failed if one did, None while one is not there."""
    if Status.FAILED in states:
        return Status.FAILED
    if not set(states) <= {Status.DELIVERED, Status.READ}:
        return None
    return Status.READ if set(states) == {Status.READ} else Status.DELIVERED


def _send(work: Work) -> Result:
    """Make the call for one message, and put what came of it in our words."""
    message, route = work.message, work.route
    assert message is not None
    began = time.monotonic()
    delivered = Delivered("", "")
    error: ApiError | None = None
    try:
        with time_limit(WORK_SECONDS):
            if work.claim.direction is Direction.INBOUND:
                channel, salesforce = route.channel, route.salesforce
                if channel is None or salesforce is None:
                    raise CustomerMustAct("Salesforce", route.problem or "the org has no connection")
                delivered = salesforce.send_text(
                    context=channel.authorization_context,
                    channel_address=channel.channel_address_identifier,
                    end_user=message.subject,
                    text=message.text,
                    message_uuid=message.uuid,
                    at=message.written_at,
                    routing_attributes=json.loads(message.routing_attributes or "null"),
                )
            else:
                sender, infobip = route.sender, route.infobip
                if sender is None or infobip is None:
                    raise CustomerMustAct("Infobip", route.problem or "the channel has no sender")
                if message.template is not None:
                    infobip.send_template(
                        sender=sender.number,
                        to=message.subject,
                        content=json.loads(message.template),
                        message_uuid=message.uuid,
                        notify_url=sender.account.webhook_url,
                    )
                else:
                    infobip.send_text(
                        sender=sender.number,
                        to=message.subject,
                        text=message.text,
                        message_uuid=message.uuid,
                        notify_url=sender.account.webhook_url,
                    )
    except ApiError as exc:
        error = exc

    outcome = Outcome.SENT
    if error is not None:
        outcome = Outcome.IN_DOUBT if error.in_doubt else Outcome.RETRY if error.retryable else Outcome.REFUSED
    return Result(
        claim=work.claim,
        message=message,
        attempt_id=work.attempt_id,
        outcome=outcome,
        status=error.status if error else None,
        code=clean(error.code) if error else "",
        detail=clean(error.message) if error else "",
        request_id=error.request_id if error else "",
        retry_after=error.retry_after if error else None,
        conversation_identifier=clean(delivered.conversation),
        session=clean(delivered.session),
        seconds=time.monotonic() - began,
    )


def _log_result(result: Result) -> None:
    """Leave a trace of a try; written by the book-keeper alone, since many threads would wait for each other's lines."""
    log.info(
        "message tried",
        org=result.claim.org_id,
        conversation=result.claim.conversation_id,
        message=str(result.message.uuid),
        direction=result.claim.direction.value,
        outcome=result.outcome.value,
        ms=round(result.seconds * 1000),
        **({"status": result.status, "code": result.code, "detail": result.detail} if result.detail else {}),
    )


def _tell(work: Work, telling: Telling) -> Told:
    """Acknowledge what arrived and report what did not.

    What Salesforce refuses for good is settled, since a tick must not be tried for ever.
    """
    channel, salesforce = work.route.channel, work.route.salesforce
    if channel is None or salesforce is None:
        return Told(work.claim, telling, [], [], again_after=lanes.LONGEST_BACKOFF_SECONDS, called=False)
    began = time.monotonic()
    told = Told(work.claim, telling, [], [], again_after=None)
    context = channel.authorization_context
    try:
        with time_limit(WORK_SECONDS):
            if telling.acknowledgements:
                with _given_up_after(work.claim):
                    salesforce.acknowledge(
                        context=context,
                        conversation=telling.conversation,
                        end_user=telling.end_user,
                        acknowledgements=telling.acknowledgements,
                    )
                told.settled.extend(telling.acknowledged)
            for failure in telling.failures:
                with _given_up_after(work.claim):
                    salesforce.report_failure(
                        context=context,
                        channel_address=channel.channel_address_identifier,
                        end_user=telling.end_user,
                        entry=failure.entry,
                        code=failure.code,
                        reason=failure.reason,
                        report_uuid=uuid5(NAMESPACE_OID, f"{failure.entry} failed"),
                    )
                told.settled.extend((each, Status.FAILED) for each in failure.message_ids)
                if failure.notice:
                    told.noticed.append(failure)
    except ApiError as exc:
        pause = lanes.backoff_seconds(work.claim.failures, exc.retry_after)
        told = replace(told, again_after=pause)
    log.info("receipts told", count=len(told.settled), again_after=told.again_after)
    return replace(told, seconds=time.monotonic() - began)


@contextmanager
def _given_up_after(claim: Claim) -> Iterator[None]:
    """Let a refusal for good pass as done, and a customer's fault after some tries; raise what is worth another try."""
    try:
        yield
    except ApiError as exc:
        given_up = not exc.retryable or (isinstance(exc, CustomerMustAct) and claim.failures >= MOST_REFUSALS)
        log.warning("receipt refused", error=str(exc), given_up=given_up)
        if not given_up:
            raise


def _not_tried(work: Work, outcome: Outcome = Outcome.RETRY, detail: str = "given back untried") -> Result | Told:
    if work.message is None:
        assert work.telling is not None
        return Told(work.claim, work.telling, [], [], again_after=1.0, called=False)
    return Result(work.claim, work.message, work.attempt_id, outcome, detail=detail, called=False)


class Routes:
    """The ways to the far sides, kept for some seconds: decrypting and signing on for each message would be dear."""

    def __init__(self) -> None:
        self.known: dict[tuple[int, int | None], tuple[float, Route]] = {}

    def of(self, channel_id: int, sender_id: int | None) -> Route:
        """Find the way for a channel and, towards WhatsApp, a sender; needs a scope that shows them."""
        now = time.monotonic()
        kept_until, route = self.known.get((channel_id, sender_id), (0.0, Route()))
        if now < kept_until:
            return route
        if len(self.known) > MOST_ROUTES:
            self.known.clear()
        route = _find_route(channel_id, sender_id)
        self.known[channel_id, sender_id] = (now + ROUTE_SECONDS, route)
        return route


def _find_route(channel_id: int, sender_id: int | None) -> Route:
    channel = Channel.objects.select_related("org__salesforce").get(pk=channel_id)
    sender = Sender.objects.select_related("account").filter(pk=sender_id or 0, org_id=channel.org_id).first()
    if channel.org.disconnected_at is not None:
        return Route(problem="the org is disconnected")
    problems = []
    salesforce = infobip = None
    try:
        salesforce = channel.org.salesforce.client()
    except SalesforceConnection.DoesNotExist:
        problems.append("the org has no connection to Salesforce")
    except (ApiError, CannotDecrypt) as exc:
        problems.append(str(exc))
    if sender is not None:
        try:
            infobip = sender.account.client()
        except (ApiError, CannotDecrypt) as exc:
            problems.append(str(exc))
    return Route(channel, sender, salesforce, infobip, "; ".join(problems))


running: Relay | None = None  # this process's one, set when it starts
