"""One running sandbox for all tests of the doctor; each test has an org of its own in it, in which all is well."""

import asyncio
import copy
import itertools
import json
import secrets
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from pytest_django import Settings

from devstack.documents import example_documents
from messaging.models import EventSubscription
from sandbox.__main__ import Sandbox
from tenants import cache, doctor
from tenants.models import Channel, InfobipAccount, Org, Sender
from tenants.onboarding import provision
from tenants.tenancy import every_org
from tests.sandbox.far_sides import free_ports

numbers = itertools.count(1)


class FarSide:
    """The sandbox in a thread of its own."""

    def __init__(self) -> None:
        self.ports = free_ports(["page", "salesforce", "infobip", "pubsub"])
        self.document = example_documents(self.ports["salesforce"], self.ports["infobip"])[0]
        self.loop = asyncio.new_event_loop()
        self.sandbox = Sandbox()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        ports = self.ports
        self.run(
            self.sandbox.start(
                page_port=ports["page"],
                salesforce_port=ports["salesforce"],
                infobip_port=ports["infobip"],
                pubsub_port=ports["pubsub"],
            )
        )

    def run(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self.loop).result(20)

    def stop(self) -> None:
        self.run(self.sandbox.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)

    def control(self, method: str, path: str, body: object = None) -> Any:
        url = f"http://127.0.0.1:{self.ports['page']}/control{path}"
        request = urllib.request.Request(
            url, json.dumps(body).encode(), {"Content-Type": "application/json"}, method=method
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)


@dataclass
class Company:
    """An org in which all is well, here and at the far sides, until a test spoils something."""

    far_side: FarSide
    document: dict[str, Any]
    org: Org
    account: InfobipAccount
    channel: Channel
    sender: Sender

    def edit(self, path: str, value: object) -> None:
        """Change the set-up of the org in Salesforce."""
        self.far_side.control("PATCH", f"/orgs/{self.org.salesforce_id}/setup", {"path": path, "value": value})

    def records(self, kind: str) -> list[dict[str, Any]]:
        """Read what the org in Salesforce holds of a kind."""
        found: list[dict[str, Any]] = self.far_side.control("GET", f"/orgs/{self.org.salesforce_id}/setup")["records"][kind]
        return found

    def at_infobip(self, **change: object) -> dict[str, Any]:
        """Change the account at Infobip."""
        found: dict[str, Any] = self.far_side.control("PATCH", f"/infobip/{self.document['org']['orgId']}/main", change)
        return found

    def keep(self, row: Any, **values: object) -> None:
        """Change a row of ours."""
        with every_org():
            type(row).objects.filter(pk=row.pk).update(**values)
            row.refresh_from_db()

    def findings(self) -> dict[str, doctor.Finding]:
        """Run the checks, with nothing remembered; by title."""
        with every_org():
            org = Org.objects.select_related("salesforce").get(pk=self.org.pk)
        findings = doctor.run_checks(org)
        by_title = {each.title: each for each in findings}
        assert len(by_title) == len(findings), "two findings of one title"
        return by_title

    def troubles(self) -> dict[str, doctor.Finding]:
        """Run the checks, and give what did not pass."""
        return {title: each for title, each in self.findings().items() if each.state is not doctor.State.OK}


@pytest.fixture(scope="package")
def far_side() -> Iterator[FarSide]:
    running = FarSide()
    yield running
    running.stop()


@pytest.fixture
def move_in(far_side: FarSide, db: None, settings: Settings) -> Any:
    settings.ALLOW_LOCAL_UPSTREAMS = True
    settings.SALESFORCE_PUBSUB_ENDPOINT = f"127.0.0.1:{far_side.ports['pubsub']}"

    def move_in(name: str) -> Company:
        number = next(numbers)
        document = copy.deepcopy(far_side.document)
        document["infobipAccounts"][0]["apiKey"] = secrets.token_urlsafe(24)
        document["org"] |= {
            "name": name,
            "orgId": f"00D5g0000{number:06d}EAA",
            "consumerKey": f"3MVG9{secrets.token_urlsafe(24)}",
            "username": f"byoc{number}@{name.lower()}.example",
        }
        document["channels"][0]["channelAddressIdentifier"] = f"6f1f4a5e-2f0a-4e1c-9c55-{number:012d}"
        document["channels"][0]["senders"][0]["number"] = str(447700900122 + number)
        kept = provision(document)
        webhooks = {each["name"]: each["webhook"] for each in kept["infobipAccounts"]}
        far_side.control("POST", "/orgs", {"document": document, "webhooks": webhooks})
        with every_org():
            org = Org.objects.select_related("salesforce").get(salesforce_id=document["org"]["orgId"])
            now = timezone.now()
            EventSubscription.objects.create(
                org=org, topic="/event/Infobip_Event__e", since=now - timedelta(days=1), last_answer_at=now
            )
            account, channel, sender = org.infobip_accounts.get(), org.channels.get(), org.senders.get()
        # numbers of rows come again in each test, and with them what Redis remembers
        cache.with_redis(lambda redis: redis.flushdb(), default=None)
        return Company(far_side, document, org, account, channel, sender)

    return move_in


@pytest.fixture
def acme(move_in: Any) -> Company:
    company: Company = move_in("Acme")
    return company


@pytest.fixture
def rival(move_in: Any) -> Company:
    company: Company = move_in("Rival")
    return company
