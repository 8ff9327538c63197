"""What streams are opened with: tokens, and the connections that they share."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc.aio
import structlog
from django.conf import settings

from connector.salesforce.auth import AccessToken
from connector.salesforce.pubsub.channel import LARGEST_ALONE, LARGEST_ANSWER, open_channel
from connector.threads import Threads
from messaging.subscriptions import StreamLease

log = structlog.get_logger(__name__)

STREAMS_PER_CHANNEL = 800  # Salesforce allows 1,000 calls on one connection; those for schemas count too
LOGINS_AT_ONCE = 50  # of orgs whose login was well the last time
TROUBLED_LOGINS_AT_ONCE = 25  # of those whose login was not
MOST_UNDER_WAY = 5000  # in threads, those that hang included: one for each stream that a process reads
SLOW_SECONDS = 1.5  # a login that takes longer gives its turn to the next, and goes on in its thread


class Logins:
    """Gets tokens, in threads that wait for Salesforce; an org whose login hangs is waited for by nobody else.

    A login holds its turn for ``SLOW_SECONDS`` at most, so that others follow however many hang; and orgs whose last login
    failed or was slow take turns among themselves.
    """

    def __init__(self) -> None:
        self.turns, self.troubled_turns = asyncio.Semaphore(LOGINS_AT_ONCE), asyncio.Semaphore(TROUBLED_LOGINS_AT_ONCE)
        self.troubled: set[int] = set()  # orgs
        self.threads = Threads(MOST_UNDER_WAY)

    async def token(self, lease: StreamLease, refused: AccessToken | None) -> AccessToken:
        """Give a token, another one than the refused one.

        :raises ApiError: if the login fails
        :raises CannotDecrypt: if no key of ours fits the org's credentials
        """

        def get() -> AccessToken:
            return lease.tokens.current() if refused is None else lease.tokens.renew(refused)

        async with self.troubled_turns if lease.org_id in self.troubled else self.turns:
            self.troubled.add(lease.org_id)
            login = asyncio.create_task(self.threads.run((lease.tokens.key, refused), get))
            await asyncio.wait({login}, timeout=SLOW_SECONDS)
        token = await login
        self.troubled.discard(lease.org_id)
        return token


@dataclass(eq=False, slots=True)
class _Shared:
    channel: grpc.aio.Channel
    streams: int = 0


@dataclass(eq=False, slots=True)
class Channels:
    """Connections to the Pub/Sub API: each carries some hundreds of streams, of many orgs."""

    open: dict[tuple[str, int], list[_Shared]] = field(default_factory=dict)

    @contextmanager
    def share(self, endpoint: str, *, alone: bool) -> Iterator[grpc.aio.Channel]:
        """Lend a connection to a stream; one that takes larger answers where the stream asks for one event alone.

        :raises AddressRefused: if the endpoint is none of Salesforce's
        """
        largest = LARGEST_ALONE if alone else LARGEST_ANSWER
        shared = self.open.setdefault((endpoint, largest), [])
        chosen = min(shared, key=lambda each: each.streams, default=None)
        if chosen is None or chosen.streams >= STREAMS_PER_CHANNEL:
            chosen = _Shared(open_channel(endpoint, plaintext=settings.ALLOW_LOCAL_UPSTREAMS, largest=largest))
            shared.append(chosen)
        chosen.streams += 1
        try:
            yield chosen.channel
        finally:
            chosen.streams -= 1

    async def close(self) -> None:
        """Close all of them."""
        for shared in self.open.values():
            for each in shared:
                await each.channel.close(None)
