"""The one way out: a process's share of the lanes, carried by threads.

One thread keeps the books. It claims due lanes, notes each try before it is made, and writes down how it ended, many at a
time in one transaction. The others only call the far sides, and hold no database connection. What was noted but not written
down when the process dies is found by whoever claims the lane next.
"""

import queue
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from uuid import NAMESPACE_OID, uuid5

import structlog
from django.db import Error as DatabaseError
from django.db import InterfaceError, OperationalError, connection, transaction

from connector.events import Receipt, clean
from connector.http import TOTAL_SECONDS, ApiError, CustomerMustAct, time_limit
from connector.infobip.client import InfobipClient
from connector.salesforce.interactions import MOST_ACKNOWLEDGEMENTS, Acknowledgement, InteractionClient
from messaging import lanes
from messaging.lanes import Claim, Result, Waiting
from messaging.models import Direction, Outcome, Status
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


@dataclass(slots=True)
class Telling:
    """What Salesforce is to be told about the rep's messages of one conversation, and the rows that this settles."""

    conversation: str
    end_user: str
    channel_id: int
    acknowledgements: list[Acknowledgement]
    settles: list[tuple[int, Status]]  # message ids and the state told
    more: bool = False  # there is more than one call can tell


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
    """How telling went."""

    claim: Claim
    telling: Telling
    again_after: float | None  # seconds; None: settled


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
            going_on = lanes.record(results) if results else []
            self._settle([each for each in ended if isinstance(each, Told)])
            free = self.threads - (len(self.held) - len(ended)) - len(going_on)
            claims = lanes.claim(free) if free > 0 and not self.stopping.is_set() else []
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
        settles = [pair for each in told if each.again_after is None for pair in each.telling.settles]
        if settles:
            lanes.query(
                """UPDATE messaging_message SET told = settled.status
                   FROM unnest(%s::bigint[], %s::text[]) AS settled (id, status)
                   WHERE messaging_message.id = settled.id""",
                [[message_id for message_id, _ in settles], [status.value for _, status in settles]],
            )
        for each in told:
            done = each.again_after is None and not each.telling.more
            lanes.hand_back([each.claim], pause=each.again_after or 0.0, done=done)

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


def untold(conversation_ids: Sequence[int]) -> dict[int, Telling]:
    """Find what Salesforce does not know yet of each conversation: an entry counts once all its parts got so far."""
    if not conversation_ids:
        return {}
    rows = lanes.query(
        """WITH entry AS (
                   SELECT DISTINCT conversation_id, source_entry FROM messaging_message
                   WHERE conversation_id = ANY(%s) AND direction = 'outbound' AND status IN ('delivered', 'read')
                     AND told <> status)
               SELECT part.conversation_id, conversation.identifier, conversation.subject, part.channel_id,
                   part.source_entry, array_agg(part.id), array_agg(part.status), array_agg(part.told),
                   max(part.status_at)
               FROM messaging_message part JOIN entry USING (conversation_id, source_entry)
               JOIN messaging_conversation conversation ON conversation.id = part.conversation_id
               WHERE part.direction = 'outbound' AND conversation.identifier <> ''
               GROUP BY 1, 2, 3, 4, 5 ORDER BY max(part.status_at)""",
        [list(conversation_ids)],
    )
    tellings: dict[int, Telling] = {}
    for conversation_id, identifier, subject, channel_id, entry, ids, states, told, at in rows:
        reached = _state_of_whole(states)
        if reached is None or set(told) == {reached.value}:
            continue
        telling = tellings.setdefault(conversation_id, Telling(identifier, subject, channel_id, [], []))
        if len(telling.acknowledgements) == MOST_ACKNOWLEDGEMENTS:
            telling.more = True
            continue
        receipt = Receipt(reached.value)
        # the same id when it is told again
        acknowledgement_id = uuid5(NAMESPACE_OID, f"{entry} {receipt}")
        telling.acknowledgements.append(Acknowledgement(entry, receipt, at, acknowledgement_id))
        telling.settles += [(each, reached) for each in ids]
    return tellings


def _state_of_whole(states: Iterable[str]) -> Status | None:
    """Say how far a message of several parts got, None while one of them is not there."""
    if not set(states) <= {Status.DELIVERED, Status.READ}:
        return None
    return Status.READ if set(states) == {Status.READ} else Status.DELIVERED


def _send(work: Work) -> Result:
    """Make the call for one message, and put what came of it in our words."""
    message, route = work.message, work.route
    assert message is not None
    began = time.monotonic()
    conversation_identifier = ""
    error: ApiError | None = None
    try:
        with time_limit(WORK_SECONDS):
            if work.claim.direction is Direction.INBOUND:
                channel, salesforce = route.channel, route.salesforce
                if channel is None or salesforce is None:
                    raise CustomerMustAct("Salesforce", route.problem or "the org has no connection")
                conversation_identifier = salesforce.send_text(
                    context=channel.authorization_context,
                    channel_address=channel.channel_address_identifier,
                    end_user=message.subject,
                    text=message.text,
                    message_uuid=message.uuid,
                    at=message.written_at,
                ).conversation
            else:
                sender, infobip = route.sender, route.infobip
                if sender is None or infobip is None:
                    raise CustomerMustAct("Infobip", route.problem or "the channel has no sender")
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
        conversation_identifier=clean(conversation_identifier),
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
    """Acknowledge; what Salesforce refuses for good is settled, since a tick must not be tried for ever."""
    channel, salesforce = work.route.channel, work.route.salesforce
    if channel is None or salesforce is None:
        return Told(work.claim, telling, again_after=lanes.LONGEST_BACKOFF_SECONDS)
    try:
        with time_limit(WORK_SECONDS):
            salesforce.acknowledge(
                context=channel.authorization_context,
                conversation=telling.conversation,
                end_user=telling.end_user,
                acknowledgements=telling.acknowledgements,
            )
    except ApiError as exc:
        given_up = not exc.retryable or (isinstance(exc, CustomerMustAct) and work.claim.failures >= MOST_REFUSALS)
        log.warning("receipts not told", error=str(exc), given_up=given_up)
        pause = lanes.backoff_seconds(work.claim.failures, exc.retry_after)
        return Told(work.claim, telling, again_after=None if given_up else pause)
    log.info("receipts told", count=len(telling.acknowledgements))
    return Told(work.claim, telling, again_after=None)


def _not_tried(work: Work, outcome: Outcome = Outcome.RETRY, detail: str = "given back untried") -> Result | Told:
    if work.message is None:
        assert work.telling is not None
        return Told(work.claim, work.telling, again_after=1.0)
    return Result(work.claim, work.message, work.attempt_id, outcome, detail=detail)


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
