"""A subscriber that runs in the test's own process, against the sandbox and a real PostgreSQL."""

import copy
import itertools
import json
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from django.db import connection
from django.utils import timezone
from pytest_django import Settings

from messaging import subscriber as subscriber_module
from messaging.models import EventSubscription, Message, ReceivedEvent
from messaging.subscriber import Subscriber
from sandbox.topics import CREATED_BY
from tenants import cache
from tenants.models import Channel, Org
from tenants.onboarding import provision
from tenants.tenancy import every_org
from tests.support.bus import Bus
from tests.support.loops import BusServer, Platforms

EVENT = "/event/Infobip_Event__e"
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Company:
    """An org, here and at Salesforce."""

    platforms: Platforms
    org: Org
    channel: Channel

    @property
    def id(self) -> str:
        return str(self.org.salesforce_id)

    def publish(self, payload: str | None, event_type: str | None = "Interaction", **more: Any) -> None:
        event = {"EventType": event_type, "Payload": payload}
        self.platforms.control("POST", "events", {"org": self.id, "event": event, **more})

    def write(self, text: str, **more: Any) -> str:
        """A rep writes; gives the id of the entry."""
        entry = str(uuid4())
        self.publish(json.dumps(self.payload(text, entry)), **more)
        return entry

    def type(self) -> None:
        """A rep is typing."""
        entry = {"entryType": "TypingStartedIndicator", "identifier": str(uuid4()), "sender": {"role": "Agent"}}
        self.publish(json.dumps({"channelAddressIdentifier": self.channel.channel_address_identifier, "payload": entry}))

    def payload(self, text: str, entry: str) -> dict[str, Any]:
        message = {"messageType": "StaticContentMessage", "staticContent": {"formatType": "Text", "text": text}}
        return {
            "conversationIdentifier": f"conversation of {self.id}",
            "channelAddressIdentifier": self.channel.channel_address_identifier,
            "recipient": {"subject": "385991234567"},
            "payload": {
                "identifier": entry,
                "entryType": "Message",
                "sender": {"role": "Agent"},
                "transcriptedTimestamp": int(datetime.now(UTC).timestamp() * 1000),
                "entryPayload": {"abstractMessage": message},
            },
        }

    def record(self, text: str) -> dict[str, Any]:
        """What a text is on the bus."""
        return {
            "CreatedDate": int(datetime.now(UTC).timestamp() * 1000),
            "CreatedById": CREATED_BY,
            "EventType__c": "Interaction",
            "Payload__c": json.dumps(self.payload(text, str(uuid4()))),
        }

    @property
    def subscription(self) -> EventSubscription:
        return EventSubscription.objects.get(org=self.org, topic=EVENT)

    @property
    def texts(self) -> list[str]:
        """What is in the lane, in its order."""
        return list(Message.objects.filter(org=self.org).order_by("lane", "position").values_list("text", flat=True))

    @property
    def ledger(self) -> list[tuple[str, str]]:
        return list(ReceivedEvent.objects.filter(org=self.org).order_by("pk").values_list("kind", "problem"))

    def streams(self) -> int:
        """How many streams of it are open now."""
        opened, ended = (len(self.platforms.seen(kind, org=self.id)) for kind in ("stream_open", "stream_end"))
        return opened - ended

    def misbehave(self, where: str, what: str, **more: Any) -> None:
        self.platforms.control("POST", "faults", {"org": self.id, "where": where, "what": what, **more})


@pytest.fixture(scope="package")
def platforms() -> Iterator[Platforms]:
    running = Platforms()
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def see_every_org(transactional_db: None) -> Iterator[None]:
    with every_org():
        yield


@pytest.fixture
def move_in(platforms: Platforms, settings: Settings) -> Iterator[Callable[[], Company]]:
    settings.ALLOW_LOCAL_UPSTREAMS = True
    settings.SALESFORCE_PUBSUB_ENDPOINT = f"127.0.0.1:{platforms.ports['pubsub']}"

    def move_in(**org: Any) -> Company:
        number = next(_numbers)
        document = copy.deepcopy(platforms.document)
        document["infobipAccounts"][0]["apiKey"] = secrets.token_urlsafe(24)
        document["org"] |= {
            "name": f"Company {number}",
            "orgId": f"00D5g0001{number:06d}EAA",
            "consumerKey": f"3MVG9{secrets.token_urlsafe(24)}",
            "username": f"byoc{number}@company.example",
            **org,
        }
        document["channels"][0]["channelAddressIdentifier"] = f"6f1f4a5e-2f0a-4e1c-9c56-{number:012d}"
        document["channels"][0]["senders"][0]["number"] = str(447700910000 + number)
        platforms.control("POST", "orgs", {"document": document, "webhooks": {}})
        provision(document)
        found = Org.objects.get(salesforce_id=document["org"]["orgId"])
        # numbers of rows come again in each test, and with them what Redis remembers
        cache.with_redis(lambda redis: redis.flushdb(), default=None)
        return Company(platforms, found, Channel.objects.get(org=found))

    yield move_in
    platforms.control("DELETE", "faults")


@pytest.fixture
def acme(move_in: Callable[[], Company]) -> Company:
    return move_in()


@pytest.fixture
def rival(move_in: Callable[[], Company]) -> Company:
    return move_in()


@pytest.fixture
def read_streams(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Subscriber]]:
    """Start subscribers, which end with the test."""
    monkeypatch.setattr(subscriber_module, "LOOK_SECONDS", 0.2)
    started: list[Subscriber] = []

    def start(**options: Any) -> Subscriber:
        started.append(Subscriber(**options))
        started[-1].start()
        return started[-1]

    yield start
    for each in started:
        each.stop()
        assert not each.thread.is_alive()


@pytest.fixture
def serve_bus(settings: Settings) -> Iterator[Callable[[Bus], str]]:
    """Serve a Pub/Sub API of the test's own, and give its endpoint."""
    running: list[BusServer] = []

    def serve(bus: Bus) -> str:
        running.append(BusServer(bus))
        return running[-1].endpoint

    yield serve
    for each in running:
        each.stop()


@contextmanager
def elsewhere() -> Iterator[psycopg.Connection]:
    """Be another session of the database."""
    parameters = connection.get_connection_params()
    known = {"host", "port", "dbname", "user", "password"}
    with psycopg.connect(**{name: value for name, value in parameters.items() if name in known}) as other:
        other.execute("SELECT set_config('connector.org', '*', false)")
        other.commit()
        yield other


@pytest.fixture
def refuse(transactional_db: None) -> Iterator[Callable[[str, str, str], None]]:
    """Let PostgreSQL refuse rows of a table that fulfil a condition, with a SQLSTATE."""
    tables: set[str] = set()

    def forgive() -> None:
        with connection.cursor() as cursor:
            for table in tables:
                cursor.execute(f"DROP TRIGGER refuse ON {table}")
        tables.clear()

    def refuse(table: str, condition: str, sqlstate: str) -> Callable[[], None]:
        with connection.cursor() as cursor:
            cursor.execute(
                f"""CREATE OR REPLACE FUNCTION refuse_{table}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                        RAISE EXCEPTION 'refused' USING ERRCODE = '{sqlstate}'; END $$"""
            )
            cursor.execute(
                f"CREATE TRIGGER refuse BEFORE INSERT ON {table} FOR EACH ROW WHEN ({condition})"
                f" EXECUTE FUNCTION refuse_{table}()"
            )
        tables.add(table)
        return forgive

    yield refuse  # type: ignore[misc]
    forgive()


def until(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
    """Wait until something is so, and give it."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)
    return found


def in_seconds(seconds: float) -> datetime:
    return timezone.now() + timedelta(seconds=seconds)
