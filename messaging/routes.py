"""Where messages go: the channel's and sender's rows, and the clients built from their credentials."""

import time
from collections.abc import Iterable
from dataclasses import dataclass

import structlog

from connector.http import ApiError
from connector.infobip.client import InfobipClient
from connector.salesforce.interactions import InteractionClient
from connector.salesforce.rest import RestClient
from tenants.database import facts_of
from tenants.encryption import CannotDecrypt
from tenants.models import Channel, SalesforceConnection, Sender

log = structlog.get_logger(__name__)

KEPT_SECONDS = 5.0  # how soon changed credentials count
MOST_ROUTES = 10_000

Key = tuple[int, int | None]  # channel and sender ids


@dataclass(frozen=True, slots=True)
class Route:
    """How to reach an upstream, or why it cannot be reached."""

    channel: Channel | None = None
    sender: Sender | None = None
    salesforce: InteractionClient | None = None
    records: RestClient | None = None  # of the same org
    infobip: InfobipClient | None = None
    problem: str = ""


class Routes:
    """Kept for some seconds: decrypting and reading them for each message would be dear."""

    def __init__(self) -> None:
        self.known: dict[Key, tuple[float, Route]] = {}

    def find(self, keys: Iterable[Key]) -> dict[Key, Route]:
        """Find the routes of channels and, towards WhatsApp, senders; needs a scope that shows them."""
        wanted = set(keys)
        now = time.monotonic()
        found = {key: route for key in wanted if (kept := self.known.get(key)) and now < kept[0] for route in [kept[1]]}
        missing = wanted - found.keys()
        if missing:
            if len(self.known) > MOST_ROUTES:
                self.known.clear()
            loaded = _load(missing)
            self.known.update({key: (now + KEPT_SECONDS, route) for key, route in loaded.items()})
            found |= loaded
        return found


def _load(keys: set[Key]) -> dict[Key, Route]:
    channels = Channel.objects.select_related("org__salesforce").in_bulk({channel_id for channel_id, _ in keys})
    senders = Sender.objects.select_related("account").in_bulk({sender_id for _, sender_id in keys if sender_id})
    routes = {}
    for key in keys:
        channel_id, sender_id = key
        try:
            routes[key] = _route(channels.get(channel_id), senders.get(sender_id or 0))
        except Exception as exc:  # one org's rows must not stop the others'
            log.error("no route", channel=channel_id, sender=sender_id, **facts_of(exc))
            routes[key] = Route(problem=f"internal error: {type(exc).__name__}")
    return routes


def _route(channel: Channel | None, sender: Sender | None) -> Route:
    if channel is None:
        return Route(problem="the channel is gone")
    if channel.org.disconnected_at is not None:
        return Route(problem="the org is disconnected")
    problems = []
    salesforce = records = infobip = None
    try:
        salesforce, records = channel.org.salesforce.client(), channel.org.salesforce.rest()
    except SalesforceConnection.DoesNotExist:
        problems.append("the org has no connection to Salesforce")
    except (ApiError, CannotDecrypt) as exc:
        problems.append(str(exc))
    if sender is not None and sender.org_id == channel.org_id:
        try:
            infobip = sender.account.client()
        except (ApiError, CannotDecrypt) as exc:
            problems.append(str(exc))
    return Route(channel, sender, salesforce, records, infobip, "; ".join(problems))
