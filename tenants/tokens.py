"""The access tokens of orgs: one login at a time per org, shared by all processes through Redis, as ciphertext."""

import hashlib
import threading
import time
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import structlog
from django.conf import settings
from redis.exceptions import ResponseError

from connector.http import ApiError, Broken, seconds_left
from connector.salesforce.auth import AccessToken, login
from connector.salesforce.sign_in import revoke
from tenants import repeats
from tenants.cache import with_redis
from tenants.encryption import CannotDecrypt, decrypt, encrypt

log = structlog.get_logger(__name__)

KEPT_SECONDS = 50 * 60  # below any usual session time-out of an org
LOGIN_SECONDS = 15  # longer than a login can take; how long its lock may be held
OTHERS_LOGIN_SECONDS = 3.0  # how long another process's login is waited for: it may have died of it, or hang
REFUSAL_SECONDS = 5  # how long a refusal is repeated without asking: a user has 3,600 logins an hour


@dataclass(frozen=True, slots=True)
class Credentials:
    """What an org's login is made of."""

    org_id: int
    base_url: str
    consumer_key: str
    username: str
    private_key: str = field(repr=False)

    @property
    def key(self) -> str:
        """Name the place of the token; changed credentials have another one."""
        whole = "\0".join((self.base_url, self.consumer_key, self.username, self.private_key))
        return f"connector:token:{self.org_id}:{hashlib.sha256(whole.encode()).hexdigest()[:24]}"


@dataclass(slots=True)
class _Slot:
    """What this process knows of one org's token."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    token: AccessToken | None = None
    until: float = 0.0
    refusal: ApiError | None = None
    refused_until: float = 0.0


_slots: dict[str, _Slot] = {}


def forget_all() -> None:
    """Forget what this process knows."""
    _slots.clear()


class OrgTokens:
    """The token source of one org's clients."""

    def __init__(self, credentials: Credentials) -> None:
        self.credentials = credentials
        self.key = credentials.key
        self.slot = _slots.setdefault(self.key, _Slot())

    def ready(self) -> AccessToken | None:
        """Give the token that this process holds, without waiting for anything; None where it holds none."""
        token = self.slot.token
        return token if time.monotonic() < self.slot.until else None

    def current(self) -> AccessToken:
        """Give the token in use, logging in where there is none.

        :raises ApiError: if the login fails
        """
        return self.ready() or self._replace(None)

    def renew(self, refused: AccessToken) -> AccessToken:
        """Give another token than the refused one; who else was refused it gets the same.

        :raises ApiError: if the login fails
        """
        return self._replace(refused)

    def revoke(self) -> None:
        """Give the token in use back to Salesforce, and forget it."""
        token = self.slot.token or self._shared(None)
        self.slot.token = None
        with_redis(lambda redis: redis.delete(self.key), default=None)
        if token is not None:
            try:
                revoke(self.credentials.base_url, token, allow_local=settings.ALLOW_LOCAL_UPSTREAMS)
            except ApiError as exc:
                log.warning("token not revoked", org=self.credentials.org_id, error=str(exc))

    def _replace(self, refused: AccessToken | None) -> AccessToken:
        slot = self.slot
        if not slot.lock.acquire(timeout=seconds_left()):  # a login that hangs keeps others no longer than their own time
            raise Broken.NO_TOKEN.error("Salesforce")
        try:
            if slot.token is not None and slot.token != refused and time.monotonic() < slot.until:
                return slot.token  # another thread was faster
            if slot.refusal is not None and time.monotonic() < slot.refused_until:
                raise slot.refusal.with_traceback(None)
            slot.token = self._shared(refused) or self._log_in_alone(refused)
            slot.until = time.monotonic() + KEPT_SECONDS
            return slot.token
        finally:
            slot.lock.release()

    def _log_in_alone(self, refused: AccessToken | None) -> AccessToken:
        """Log in while no other process does, or take what the other one got."""
        mine, lock = str(uuid4()), f"{self.key}:lock"
        give_up, pause = time.monotonic() + OTHERS_LOGIN_SECONDS, 0.05
        while not with_redis(lambda redis: redis.set(lock, mine, nx=True, ex=LOGIN_SECONDS), default=True):
            if time.monotonic() > give_up:  # take the lock over, whatever lies there
                with_redis(lambda redis: redis.set(lock, mine, ex=LOGIN_SECONDS), default=None)
                break
            time.sleep(pause)
            pause = min(2 * pause, 0.4)
            if token := self._shared(refused):
                return token
        try:
            if token := self._shared(refused):  # it was stored between our look and our lock
                return token
            return self._log_in()
        finally:
            with_redis(lambda redis: redis.delete(lock) if _text_under(redis, lock) == mine else None, default=None)

    def _log_in(self) -> AccessToken:
        credentials = self.credentials
        try:
            token = login(
                base_url=credentials.base_url,
                consumer_key=credentials.consumer_key,
                username=credentials.username,
                private_key=credentials.private_key,
                allow_local=settings.ALLOW_LOCAL_UPSTREAMS,
            )
        except ApiError as exc:
            org = credentials.org_id
            repeats.say(log.warning, "login to Salesforce failed", org, type(exc).__name__, org=org, error=str(exc))
            self.slot.refusal, self.slot.refused_until = exc, time.monotonic() + REFUSAL_SECONDS
            raise
        log.info("logged in to Salesforce", org=credentials.org_id)
        self.slot.refusal = None
        with_redis(lambda redis: redis.set(self.key, encrypt(token.value), ex=KEPT_SECONDS), default=None)
        return token

    def _shared(self, refused: AccessToken | None) -> AccessToken | None:
        """Read what another process stored, unless it is the very token that was refused."""
        stored = with_redis(lambda redis: _text_under(redis, self.key), default="")
        if not stored:
            return None
        try:
            value = decrypt(stored)
        except (CannotDecrypt, ValueError):  # written under a key that has gone since, or by nobody of ours
            return None
        if refused is not None and value == refused.value:
            return None
        return AccessToken(value, self.credentials.base_url)


def _text_under(redis: Any, key: str) -> str:
    """Read a text; where something else lies there, drop it: it is not Redis's trouble, and must not count as that."""
    try:
        return redis.get(key) or ""
    except ResponseError as exc:
        if not str(exc).startswith("WRONGTYPE"):
            raise
    except UnicodeDecodeError:
        pass
    redis.delete(key)
    return ""
