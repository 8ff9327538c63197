"""The world of the tests: two orgs, so that a leak from one to the other shows."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from django.conf import settings
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client, TransactionTestCase
from whitenoise.middleware import WhiteNoiseMiddleware

from devstack.version import ROOT
from tenants import repeats, tokens
from tenants.models import Channel, InfobipAccount, Org, SalesforceConnection, Sender
from tenants.tenancy import every_org
from tests.support.emptying import empty_tables
from tests.support.template import template

TransactionTestCase._fixture_teardown = empty_tables  # type: ignore[attr-defined]

if worker := os.environ.get("PYTEST_XDIST_WORKER"):  # each has a database of its own in Valkey, as in PostgreSQL
    settings.REDIS_URL = f"{settings.REDIS_URL.rpartition('/')[0]}/{int(worker.removeprefix('gw')) + 1}"

_static_files: dict[str, Any] = {}


def _look_for_static_files_once(
    self: WhiteNoiseMiddleware, look: Callable[[WhiteNoiseMiddleware], None] = WhiteNoiseMiddleware.add_files_from_finders
) -> None:
    if not _static_files:
        look(self)
        _static_files.update(self.files)
    self.files = _static_files


# each client of a test makes the middleware anew, and would list and open the two hundred files that packages bring
WhiteNoiseMiddleware.add_files_from_finders = _look_for_static_files_once


def pytest_collection() -> None:
    """Import a share of the tests first: what pytest makes of a file is kept, so that one process has that work."""
    if worker:
        files = sorted(Path(__file__).parent.rglob("test_*.py"))
        for file in files[int(worker.removeprefix("gw")) :: int(os.environ["PYTEST_XDIST_WORKER_COUNT"])]:
            with suppress(Exception):  # who collects it says so
                import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))


START_PROCESSES = ("tests/journeys/", "tests/browser/", "tests/config/test_odd_", "tests/plans/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run first what starts processes and waits for them: a long file that began last would keep all others waiting."""
    items.sort(key=lambda item: not item.nodeid.startswith(START_PROCESSES))


UNLIMITED = " -c statement_timeout=0"


@pytest.fixture(scope="session")
def django_db_modify_db_settings(
    django_db_modify_db_settings_parallel_suffix: None, django_db_blocker: Any
) -> Iterator[None]:
    """Let the making of the tests' database take as long as it takes: several runs may make theirs at once."""
    connection.settings_dict["OPTIONS"]["options"] += UNLIMITED
    with ExitStack() as as_long:
        if worker:
            with django_db_blocker.unblock():
                connection.settings_dict["TEST"]["TEMPLATE"] = as_long.enter_context(template())
        yield


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """Then have the limits that `web` has. At the end, sessions that threads left open do not keep it."""
    connection.settings_dict["OPTIONS"]["options"] = connection.settings_dict["OPTIONS"]["options"].removesuffix(UNLIMITED)
    connection.close()
    yield
    with django_db_blocker.unblock(), connection.cursor() as cursor:
        cursor.execute(
            """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE datname = current_database() AND pid <> pg_backend_pid()"""
        )


@dataclass(frozen=True)
class World:
    """One org with all that it needs."""

    org: Org
    account: InfobipAccount
    channel: Channel
    sender: Sender


@pytest.fixture(scope="session")
def private_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pem.decode()


def build_world(name: str, salesforce_id: str, number: str, private_key: str) -> World:
    org = Org.objects.create(name=name, salesforce_id=salesforce_id)
    host = name.lower()
    SalesforceConnection.objects.create(
        org=org,
        base_url=f"https://{host}.my.salesforce.com",
        scrt_url=f"https://{host}.my.salesforce-scrt.com",
        consumer_key=f"3MVG9{name}",
        username=f"byoc@{host}.example",
        private_key=private_key,
    )
    account = InfobipAccount.objects.create(
        org=org, name="main", base_url=f"https://{host}.api.infobip.com", api_key=f"key-{host}", webhook_secret=f"s-{host}"
    )
    channel = Channel.objects.create(
        org=org,
        name="WhatsApp",
        developer_name="Infobip_WhatsApp",
        authorization_context="Infobip_WhatsApp",
        channel_address_identifier=f"6f1f4a5e-2f0a-4e1c-9c55-{salesforce_id[:12].lower()}",
        custom_event_name="Infobip_Event__e",
        custom_event_type_field="EventType__c",
        custom_event_payload_field="Payload__c",
    )
    sender = Sender.objects.create(org=org, account=account, channel=channel, number=number)
    return World(org, account, channel, sender)


@pytest.fixture
def acme(db: None, private_key: str) -> World:
    with every_org():
        return build_world("Acme", "00D5g00000ABcDEEA4", "447700900123", private_key)


@pytest.fixture
def rival(db: None, private_key: str) -> World:
    with every_org():
        return build_world("Rival", "00D5g00000XYzWVEA4", "447700900124", private_key)


@pytest.fixture(autouse=True)
def no_token_outlives_its_test() -> Iterator[None]:
    yield
    tokens.forget_all()


@pytest.fixture(autouse=True)
def no_line_of_the_log_is_kept_back_by_another_test() -> None:
    repeats.forget_all()


@pytest.fixture
def operator(db: None) -> Client:
    """Somebody who is signed in to the admin."""
    client = Client()
    client.force_login(User.objects.create_superuser("operator"))
    return client


def whatsapp_text(text: str, *, to: str, user: str = "385991234567", message_id: str, at: str = "") -> dict[str, Any]:
    """One result of a webhook in the WhatsApp form."""
    return {
        "from": user,
        "to": to,
        "integrationType": "WHATSAPP",
        "receivedAt": at or datetime.now(UTC).isoformat(),
        "messageId": message_id,
        "message": {"type": "TEXT", "text": text},
        "contact": {"name": "Ana Horvat"},
        "price": {"pricePerMessage": 0, "currency": "EUR"},
    }


def delivery_report(message_id: str, *, status_id: int = 5, group_id: int = 3, **error: Any) -> dict[str, Any]:
    """One delivery report in the WhatsApp form."""
    return {
        "messageId": message_id,
        "to": "385991234567",
        "doneAt": datetime.now(UTC).isoformat(),
        "status": {"groupId": group_id, "groupName": "X", "id": status_id, "name": "X", "description": "x"},
        "error": error or {"groupId": 0, "id": 0, "name": "NO_ERROR", "description": "No Error"},
    }


def reply_record(world: World, text: str, *, entry: str, user: str = "385991234567", **static: Any) -> dict[str, Any]:
    """The decoded record of a platform event with which a rep writes."""
    content = static or {"formatType": "Text", "text": text}
    message = {"messageType": "StaticContentMessage", "id": entry, "staticContent": content}
    payload = {
        "conversationIdentifier": "c0a2c1b4-7f0e-4f6c-9a44-5d2f6f0e7b11",
        "channelAddressIdentifier": world.channel.channel_address_identifier,
        "recipient": {"appType": "custom", "subject": user, "role": "EndUser"},
        "payload": {
            "identifier": entry,
            "entryType": "Message",
            "entryPayload": {"entryType": "Message", "id": entry, "abstractMessage": message, "messageReason": None},
            "sender": {"appType": "agent", "subject": "0055g00000XyZab", "role": "Agent"},
            "transcriptedTimestamp": int(datetime.now(UTC).timestamp() * 1000),
            "clientTimestamp": 1785312300000,
            "clientDuration": 0,
        },
    }
    created = int(datetime.now(UTC).timestamp() * 1000)
    return {"CreatedDate": created, "CreatedById": "005", "EventType__c": "Interaction", "Payload__c": json.dumps(payload)}
