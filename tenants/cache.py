"""The cache in Redis, for callers who must not wait for it, nor fail with it."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import redis
import structlog
from django.conf import settings

log = structlog.get_logger(__name__)
Result = TypeVar("Result")

PAUSE_SECONDS = 2.0  # after Redis did not answer, one call in so long tries again
QUIET_SECONDS = 10.0  # between two lines of the log about the same kind of error


class _Memory:
    """The client, and whether it is worth asking."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.client: Any = None
        self.silent = False  # it did not answer when it was last asked
        self.ask_at = 0.0
        self.logged: dict[str, float] = {}

    def connect(self) -> Any:
        with self.lock:
            if self.client is None:
                # `retry=None` means none: the default repeats for seconds
                self.client = redis.Redis.from_url(
                    settings.REDIS_URL,
                    **settings.REDIS_TLS,
                    socket_connect_timeout=0.3,
                    socket_timeout=0.5,
                    retry=None,
                    decode_responses=True,
                )
            return self.client

    def may_ask(self) -> bool:
        """While Redis does not answer, let one caller find out whether it does again; nobody else waits for it."""
        with self.lock:
            now = time.monotonic()
            if self.silent and now < self.ask_at:
                return False
            self.ask_at = now + PAUSE_SECONDS
            return True

    def report(self, exc: Exception) -> None:
        name = type(exc).__name__
        if time.monotonic() >= self.logged.get(name, 0.0):
            self.logged[name] = time.monotonic() + QUIET_SECONDS
            log.warning("redis fails", error=name)


_memory = _Memory()


def with_redis(call: Callable[[Any], Result], *, default: Result) -> Result:
    """Call with a Redis client, and give ``default`` where that fails; at once while Redis does not answer.

    An error that Redis answers (read-only, full, no permission, a key of another type) comes at once and may concern this
    key alone: it keeps nobody else from asking. So does what ``call`` makes of a value that is not what was expected.
    """
    memory = _memory
    if not memory.may_ask():
        return default
    try:
        result = call(client := memory.connect())
    except (redis.ConnectionError, redis.TimeoutError, OSError) as exc:
        memory.silent = True
        memory.report(exc)
        return default
    except (redis.RedisError, ValueError, TypeError, LookupError, AttributeError) as exc:
        if isinstance(exc, redis.exceptions.ReadOnlyError | redis.exceptions.MasterDownError):
            # the name may lead to another server by now, and connections stay with the one that became a replica
            client.connection_pool.disconnect(inuse_connections=False)
        memory.silent = False
        memory.report(exc)
        return default
    memory.silent = False
    return result


REFUSALS_KEPT_SECONDS = 8 * 24 * 3600
_ENDING = ", number ending in "


def count_refusal(account_id: int | None, reason: str, times: int = 1, *, number: str = "") -> None:
    """Count webhooks that were turned away, so that an operator sees a wrong secret or an attack.

    :param number: of ours, which they were sent to; its last four digits are kept
    """
    if number:
        reason += f"{_ENDING}{number[-4:]}"
    key = f"connector:refused:{datetime.now(UTC):%Y-%m-%d}"

    def count(redis: Any) -> None:
        redis.hincrby(key, f"{account_id or '-'}:{reason}", times)
        redis.expire(key, REFUSALS_KEPT_SECONDS)

    with_redis(count, default=None)


def parse_reason(counted: str) -> tuple[str, str]:
    """Take what refusals are counted by apart: the reason, and the last digits of the number, where they are known."""
    reason, _, digits = counted.partition(_ENDING)
    return reason, digits


def refusals_today(account_id: int | None) -> dict[str, int]:
    """Read today's count of refused webhooks by reason; nothing while Redis is down."""
    key = f"connector:refused:{datetime.now(UTC):%Y-%m-%d}"
    prefix = f"{account_id or '-'}:"

    def read(redis: Any) -> dict[str, int]:
        counts: dict[str, str] = redis.hgetall(key)
        return {field.removeprefix(prefix): int(n) for field, n in counts.items() if field.startswith(prefix)}

    return with_redis(read, default={})


def note_old_secret(account_id: int) -> None:
    """Note that an account still signs with the secret of before its change."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    with_redis(lambda redis: redis.set(f"connector:old-secret:{account_id}", now, ex=REFUSALS_KEPT_SECONDS), default=None)


def old_secret_used_at(account_id: int) -> str:
    """Say when a webhook was last signed with the secret of before; empty if not within the last days."""
    found = with_redis(lambda redis: redis.get(f"connector:old-secret:{account_id}"), default=None)
    return found if isinstance(found, str) else ""


def note_automatic(channel_id: int) -> None:
    """Note that a channel's own automatic response came: Salesforce tells nobody beforehand that it sends some."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    with_redis(lambda redis: redis.set(f"connector:automatic:{channel_id}", now, ex=REFUSALS_KEPT_SECONDS), default=None)


def automatic_seen_at(channel_id: int) -> str:
    """Say when an automatic response of a channel came last; empty if none did within the last days."""
    found = with_redis(lambda redis: redis.get(f"connector:automatic:{channel_id}"), default=None)
    return found if isinstance(found, str) else ""


def allowed(what: str, most: int) -> bool:
    """Count a use within this hour, and tell whether it is still one of so many; while Redis is down, all are."""
    key = f"connector:uses:{what}:{datetime.now(UTC):%Y-%m-%dT%H}"

    def count(redis: Any) -> int:
        used = int(redis.incr(key))
        redis.expire(key, 3600)
        return used

    return with_redis(count, default=0) <= most
