"""Limits how many calls an org may make: in a minute, and at once."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView

from messaging.api.errors import Refusal
from tenants.cache import with_redis
from tenants.models import ApiToken

CALLS_A_MINUTE = 300  # of one org
CALLS_AT_ONCE = 4  # of one org in a process: while its Salesforce hangs, others still need threads


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


_calls: Counter[int] = Counter()
_lock = threading.Lock()


@contextmanager
def one_of_few(org_id: int) -> Iterator[None]:
    """Take one of the few threads that an org may hold in this process."""
    with _lock:
        if _calls[org_id] >= CALLS_AT_ONCE:
            words = f"{CALLS_AT_ONCE} calls of this org wait for Salesforce. Send this one again when they are answered."
            raise Refusal(429, "at_once", words, retry_after=1)
        _calls[org_id] += 1
    try:
        yield
    finally:
        with _lock:
            _calls[org_id] -= 1
            if not _calls[org_id]:
                del _calls[org_id]
