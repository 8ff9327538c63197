"""A process's share of the lanes: what is in the rows when a far side is called."""

import threading
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from django.db import connection

from connector.salesforce.interactions import Delivered, InteractionClient
from messaging import relay as relay_module
from messaging.ingest import receive_webhook
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
