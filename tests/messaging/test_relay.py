"""A process's share of the lanes: what is in the rows when a far side is called."""

import json
import threading
import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
import responses
from django.db import connection, transaction

from connector.salesforce.interactions import Delivered, InteractionClient
from messaging import relay as relay_module
from messaging.ingest import OurTemplate, address, receive_webhook
from messaging.models import Attempt, Message, Outcome, Status
from messaging.relay import Relay
from tenants.tenancy import every_org
from tests.conftest import World, whatsapp_text

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def see_every_org() -> Iterator[None]:
    with every_org():
        yield


def test_a_try_is_committed_before_the_far_side_is_called(acme: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies during the call leaves a trace, so that the message counts as in doubt and not as untried."""
    seen: list[tuple[str, str]] = []
    called = threading.Event()

    def call(self: InteractionClient, *, message_uuid: UUID, **others: Any) -> Delivered:
        # a carrier's thread has a connection of its own: what it sees is committed
        with every_org():
            seen.extend(Attempt.objects.filter(message__uuid=message_uuid).values_list("outcome", "message__text"))
        connection.close()
        called.set()
        return Delivered("c0a2c1b4-7f0e-4f6c-9a44-5d2f6f0e7b11", "")

    monkeypatch.setattr(InteractionClient, "send_text", call)
    monkeypatch.setattr(relay_module, "HEARTBEAT_SECONDS", 60.0)
    receive_webhook(acme.account, [whatsapp_text("hello", to=acme.sender.number, message_id="wamid.1")])
    relay = Relay(threads=2)
    relay.start()
    relay.ring()
    assert called.wait(10)
    relay.stop()
    assert seen == [(Outcome.OPEN, "hello")]
    assert Message.objects.get().status == Status.SENT


def test_a_template_leaves_through_the_door_for_templates(acme: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "HEARTBEAT_SECONDS", 60.0)
    content = {"templateName": "order_update", "templateData": {"body": {"placeholders": ["Ada"]}}, "language": "en"}
    template = OurTemplate(uuid4(), content, "Template order_update (en): Ada")
    with transaction.atomic():
        address(acme.sender, "385991234567", name="", language="", template=template)
    with responses.RequestsMock() as infobip:
        taken = {"messageId": "m", "status": {"groupId": 1, "groupName": "PENDING"}}
        infobip.post("https://acme.api.infobip.com/whatsapp/1/message/template", json={"messages": [taken]})
        relay = Relay(threads=2)
        relay.start()
        relay.ring()
        end = time.monotonic() + 10
        while Message.objects.get().status != Status.SENT and time.monotonic() < end:
            time.sleep(0.02)
        relay.stop()
        (message,) = json.loads(infobip.calls[0].request.body or "")["messages"]
    assert Message.objects.get().status == Status.SENT
    assert (message["to"], message["content"], message["messageId"]) == ("385991234567", content, str(template.uuid))
    assert message["notifyUrl"] == acme.account.webhook_url
