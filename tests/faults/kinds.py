"""The kinds of faults: what breaks, for whom, and for how long."""

from dataclasses import dataclass
from typing import Any

TICKS = "acknowledgement"
OUTAGE_SECONDS = 60.0  # of what is gone altogether, where a campaign has room for it
KILL_LIMIT = 4.0  # seconds after kill -9 of one of two workers in which new messages must be normal again
TERM_LIMIT = 1.0  # and after SIGTERM of one
# what a process may write while what it stands on is gone, or it was just killed
OF_SERVICES = (
    r"(?i)database|postgres|psycopg|sql|operationalerror|interfaceerror|internalerror|connection|read.?only|redis|valkey"
    r"|broker|kombu|consumer|lock|holder|pool"
)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault.

    :param action: what the campaign does, by name and object; ``far`` turns on ``faults`` at the far sides
    :param seconds: how long it lasts; 0: it is over at once
    :param long: how long where a campaign has room for it
    :param direction: of the messages that it is about; empty: both
    :param only_long: campaigns without room for it leave it out
    :param limit: seconds in which new messages must be normal again; 0: those of any fault
    :param harmless: nobody may notice it
    :param explains: a pattern of the errors that may be logged meanwhile
    """

    name: str
    action: str
    seconds: float = 0.0
    direction: str = ""
    faults: tuple[dict[str, Any], ...] = ()
    long: float = 0.0
    only_long: bool = False
    limit: float = 0.0
    harmless: bool = False
    explains: str = ""


def _far(
    name: str, seconds: float, direction: str, *faults: dict[str, Any], long: float = 0.0, only_long: bool = False
) -> Kind:
    return Kind(name, "far", seconds, direction, faults, long, only_long)


def _at(where: str, what: str, **more: Any) -> dict[str, Any]:
    return {"where": where, "what": what, **more}


# These strike everybody.
FOR_ALL = (
    Kind("web killed", "kill web", explains=OF_SERVICES),
    Kind("worker killed", "kill worker", limit=KILL_LIMIT, explains=OF_SERVICES),
    Kind("subscriber killed", "kill subscriber", direction="outbound", explains=OF_SERVICES),
    Kind("web asked to end, under a backlog", "terminate web", explains=OF_SERVICES),
    Kind("worker asked to end, under a backlog", "terminate worker.2", limit=TERM_LIMIT, explains=OF_SERVICES),
    Kind("subscriber asked to end, under a backlog", "terminate subscriber", direction="outbound", explains=OF_SERVICES),
    Kind("worker frozen", "freeze worker.2", 20, only_long=True, explains=OF_SERVICES),
    Kind("Valkey flushed", "flush", explains=OF_SERVICES),
    Kind("Valkey stopped and started", "restart valkey", 1.5, explains=OF_SERVICES),
    Kind("Valkey read-only", "valkey-read-only", 5, long=OUTAGE_SECONDS, explains=OF_SERVICES),
    Kind("PostgreSQL stopped at once and started", "restart postgres", 1.5, explains=OF_SERVICES),
    Kind("PostgreSQL read-only", "postgres-read-only", 5, long=10, explains=OF_SERVICES),
    Kind("streams cut", "cut", direction="outbound"),
    Kind("replay ids refused", "refuse replays", direction="outbound"),
    Kind("tokens expired", "expire"),
    Kind("webhooks doubled", "double", 3, "inbound", (_at("webhook", "duplicate"),)),
    Kind("webhook answers lost", "lose", 3, "inbound", (_at("webhook", "timeout_after"),)),
    Kind("stream events doubled", "far", 3, "outbound", (_at("stream", "duplicate"),)),
)
# These strike one org, so that its neighbours show whether they are spared, or nobody at all.
FOR_ONE = (
    _far("Salesforce answers 500", 4, "inbound", _at("interactions", "status"), _at(TICKS, "status")),
    _far("Salesforce answers 429", 3, "inbound", _at("interactions", "status", status=429)),
    _far("Salesforce never answers, and takes nothing", 3, "inbound", _at("interactions", "timeout_before", count=3)),
    _far("Salesforce takes it, and never answers", 3, "inbound", _at("interactions", "timeout_after", count=3)),
    _far("Salesforce takes ticks, and never answers", 3, "", _at(TICKS, "timeout_after", count=3)),
    _far("Salesforce slow", 3, "inbound", _at("interactions", "delay", seconds=2.0), only_long=True),
    _far("Salesforce's answers trickle", 3, "inbound", _at("interactions", "trickle", seconds=3.0)),
    Kind("Salesforce refuses logins, and the tokens", "relogin", 3, "", (_at("login", "status"),)),
    _far(
        "Salesforce down (503)",
        6,
        "inbound",
        *(_at(where, "status", status=503) for where in ("login", "interactions", TICKS)),
        long=OUTAGE_SECONDS,
    ),
    _far(
        "Salesforce hangs",
        6,
        "inbound",
        *(_at(where, "timeout_before") for where in ("interactions", TICKS)),
        long=OUTAGE_SECONDS,
    ),
    _far("Infobip answers 500", 4, "outbound", _at("send", "status")),
    _far("Infobip answers 429 with Retry-After", 3, "outbound", _at("send", "status", status=429)),
    _far("Infobip never answers, and takes nothing", 3, "outbound", _at("send", "timeout_before", count=3)),
    _far("Infobip takes it, and never answers", 3, "outbound", _at("send", "timeout_after", count=3)),
    _far("Infobip slow", 3, "outbound", _at("send", "delay", seconds=2.0), only_long=True),
    _far("Infobip's answers trickle, reports come first", 3, "outbound", _at("send", "trickle", seconds=3.0)),
    _far("Infobip down (503)", 6, "outbound", _at("send", "status", status=503), long=OUTAGE_SECONDS),
    _far("Infobip hangs", 6, "outbound", _at("send", "timeout_before"), long=OUTAGE_SECONDS),
    Kind("poisonous webhooks", "poison", 3, explains=r"(?i)set aside|unreadable|cannot be read|arrival"),
    Kind("credentials that no key fits", "scramble", 4, long=10, explains=r"(?i)decrypt|credential|key|secret"),
    Kind("sixteen trickling bodies", "hostile", 4, harmless=True),
    Kind("sixteen hanging pages", "hostile", 4, harmless=True),
)
