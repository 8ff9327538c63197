"""The shared, forgettable memory in Redis, for callers who must not wait for it when it is down."""

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

PAUSE_SECONDS = 2.0  # after a failure nobody tries again for so long


class _Memory:
    def __init__(self) -> None:
        self.client: Any = None
        self.closed_until = 0.0
        self.lock = threading.Lock()


_memory = _Memory()


def remember(call: Callable[[Any], Result], *, otherwise: Result) -> Result:
    """Call with a Redis client; while Redis does not answer, give ``otherwise`` at once."""
    if time.monotonic() < _memory.closed_until:
        return otherwise
    try:
        return call(_client())
    except redis.RedisError as exc:
        _memory.closed_until = time.monotonic() + PAUSE_SECONDS
        log.warning("redis does not answer", error=type(exc).__name__)
        return otherwise


def _client() -> Any:
    with _memory.lock:
        if _memory.client is None:
            # `retry=None` means none: the default repeats for seconds
            _memory.client = redis.Redis.from_url(
                settings.REDIS_URL, socket_connect_timeout=0.3, socket_timeout=0.5, retry=None, decode_responses=True
            )
        return _memory.client


REFUSALS_KEPT_SECONDS = 8 * 24 * 3600


def count_refusal(account_id: int | None, reason: str, times: int = 1) -> None:
    """Count webhooks that were turned away, so that an operator sees a wrong secret or an attack."""
    key = f"connector:refused:{datetime.now(UTC):%Y-%m-%d}"

    def count(redis: Any) -> None:
        redis.hincrby(key, f"{account_id or '-'}:{reason}", times)
        redis.expire(key, REFUSALS_KEPT_SECONDS)

    remember(count, otherwise=None)


def refusals_today(account_id: int | None) -> dict[str, int]:
    """Read today's count of refused webhooks by reason; nothing while Redis is down."""
    key = f"connector:refused:{datetime.now(UTC):%Y-%m-%d}"
    counts: dict[str, str] = remember(lambda redis: redis.hgetall(key), otherwise={})
    prefix = f"{account_id or '-'}:"
    return {field.removeprefix(prefix): int(n) for field, n in counts.items() if field.startswith(prefix)}


def note_old_secret(account_id: int) -> None:
    """Note that an account still signs with the secret of before its change."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    remember(lambda redis: redis.set(f"connector:old-secret:{account_id}", now, ex=REFUSALS_KEPT_SECONDS), otherwise=None)


def old_secret_used_at(account_id: int) -> str:
    """Say when a webhook was last signed with the secret of before; empty if not within the last days."""
    found = remember(lambda redis: redis.get(f"connector:old-secret:{account_id}"), otherwise=None)
    return found if isinstance(found, str) else ""


def note_automatic(channel_id: int) -> None:
    """Note that a channel's own automatic response came: Salesforce tells nobody beforehand that it sends some."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    remember(lambda redis: redis.set(f"connector:automatic:{channel_id}", now, ex=REFUSALS_KEPT_SECONDS), otherwise=None)


def automatic_seen_at(channel_id: int) -> str:
    """Say when an automatic response of a channel came last; empty if none did within the last days."""
    found = remember(lambda redis: redis.get(f"connector:automatic:{channel_id}"), otherwise=None)
    return found if isinstance(found, str) else ""


def allowed(what: str, most: int) -> bool:
    """Count a use within this hour, and tell whether it is still one of so many; while Redis is down, all are."""
    key = f"connector:uses:{what}:{datetime.now(UTC):%Y-%m-%dT%H}"

    def count(redis: Any) -> int:
        used = int(redis.incr(key))
        redis.expire(key, 3600)
        return used

    return remember(count, otherwise=0) <= most
