"""Operators see every company's rows; nobody sees a secret."""

from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.test import Client

from messaging.models import Message, ReceivedEvent
from tenants.tenancy import every_org
from tests.conftest import World, whatsapp_text
from tests.support.happenings import receive_webhook

pytestmark = pytest.mark.django_db

LISTS = [
    "tenants/org",
    "tenants/salesforceconnection",
    "tenants/infobipaccount",
    "tenants/channel",
    "tenants/sender",
    "messaging/message",
    "messaging/conversation",
    "messaging/session",
    "messaging/handover",
    "messaging/lane",
    "messaging/circuit",
    "messaging/receivedevent",
    "messaging/eventsubscription",
]


@pytest.fixture
def message(acme: World) -> Message:
    with every_org():
        result = whatsapp_text("Where is my order?", to=acme.sender.number, message_id=f"wamid.{uuid4()}")
        receive_webhook(acme.account, [result])
        return Message.objects.get()


@pytest.mark.parametrize("place", LISTS)
def test_every_list_opens_and_offers_no_change(operator: Client, message: Message, rival: World, place: str) -> None:
    assert operator.get(f"/admin/{place}/").status_code == 200
    assert operator.get(f"/admin/{place}/add/").status_code == 403


def test_a_message_is_found_by_its_id_and_shows_its_text(operator: Client, message: Message) -> None:
    listed = operator.get(f"/admin/messaging/message/?uuid__exact={message.uuid}")
    assert str(message.uuid) in listed.content.decode() and "1 message" in listed.content.decode()
    shown = operator.get(f"/admin/messaging/message/{message.pk}/change/").content.decode()
    assert "Where is my order?" in shown


def test_an_arrival_shows_its_raw_form(operator: Client, message: Message) -> None:
    with every_org():
        event = ReceivedEvent.objects.get()
    shown = operator.get(f"/admin/messaging/receivedevent/{event.pk}/change/").content.decode()
    assert "integrationType" in shown


def test_secrets_are_not_shown(operator: Client, acme: World) -> None:
    account = operator.get(f"/admin/tenants/infobipaccount/{acme.account.pk}/change/").content.decode()
    with every_org():
        connection = acme.org.salesforce
    salesforce = operator.get(f"/admin/tenants/salesforceconnection/{connection.pk}/change/").content.decode()
    assert "acme.api.infobip.com" in account and "byoc@acme.example" in salesforce
    for secret in ("key-acme", "s-acme", "PRIVATE KEY"):
        assert secret not in account + salesforce


def test_who_is_not_staff_sees_the_login_only(acme: World) -> None:
    client = Client()
    client.force_login(User.objects.create_user("somebody"))
    assert client.get("/admin/tenants/org/").status_code == 302
