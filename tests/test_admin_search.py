"""Operators paste what somebody sent them, and find it; a conversation leads to all that is kept of it."""

import re
from collections.abc import Callable
from html import unescape
from uuid import UUID, uuid4

import pytest
from django.test import Client

from messaging.models import Address, Circuit, Conversation, Lane, Message, ReceivedEvent, Upstream
from tenants.models import InfobipAccount, Sender
from tenants.tenancy import every_org
from tests.conftest import World, delivery_report, whatsapp_text
from tests.support.happenings import receive_webhook
from tests.templates_ui.test_panel import SESSION, converse, send

pytestmark = pytest.mark.django_db


def rows(client: Client, place: str, **query: str | int) -> list[int]:
    """Give the ids of the rows that a list shows."""
    answer = client.get(f"/admin/messaging/{place}/", query)
    assert answer.status_code == 200
    return [each.pk for each in answer.context["cl"].result_list]


@pytest.mark.parametrize(
    "typed",
    [
        "+385 99 123 4567",
        "00385 99 123-4567",
        "385991234567",
        "+385 (99) 123.45.67",
        "(+385) 99/123-4567",
        "(385) 99/123-4567",
        "\u202a+385\u00a099\u2011123\u20114567\u202c",
        "Ana Horvat",
        "ana horvat",
        "Ana",
    ],
)
def test_an_end_user_is_found_as_people_write_numbers_and_names(
    operator: Client,
    acme: World,
    rival: World,
    typed: str,
) -> None:
    with every_org():
        receive_webhook(acme.account, [whatsapp_text("Hi", to=acme.sender.number, message_id="wamid.1")])
        other = whatsapp_text("Hi", to=rival.sender.number, user="385991234568", message_id="wamid.2")
        receive_webhook(rival.account, [other | {"contact": {"name": "Ben"}}])
        mine = Message.objects.get(source_entry="wamid.1").conversation_id
    assert rows(operator, "conversation", q=typed) == [mine]


def test_a_name_that_looks_like_a_pattern_is_none(operator: Client, acme: World) -> None:
    converse(acme)
    assert rows(operator, "conversation", q="%") == rows(operator, "conversation", q="_na") == []


@pytest.mark.parametrize("typed", [SESSION, SESSION[:15]])
def test_a_session_is_found_by_either_form_of_its_id(operator: Client, acme: World, typed: str) -> None:
    converse(acme)
    assert len(rows(operator, "session", q=typed)) == 1
    assert rows(operator, "session", q=typed[:14] + "x") == []


def test_a_sender_is_found_as_people_write_numbers(operator: Client, acme: World) -> None:
    with every_org():
        number = Sender.objects.get(pk=acme.sender.pk).number
    answer = operator.get("/admin/tenants/sender/", {"q": f"+{number[:2]} {number[2:6]}-{number[6:]}"})
    assert [each.number for each in answer.context["cl"].result_list] == [number]


@pytest.fixture
def sent(acme: World) -> Message:
    """A message that failed at last, and of which Infobip reported twice; and one of somebody else's."""
    conversation = converse(acme)
    message, other = send(conversation, "One moment"), send(converse(acme, session="", subject="49301234567"), "Hello")
    with every_org():
        for each in (message, other):
            seen = {
                "messageId": str(each.uuid),
                "from": "447700900101",
                "to": "385991234567",
                "seenAt": "2026-05-04T12:00:00Z",
            }
            receive_webhook(acme.account, [delivery_report(str(each.uuid)), seen])
        failed = delivery_report(str(message.uuid), status_id=12, group_id=5)
        receive_webhook(acme.account, [failed])
    return message


@pytest.mark.parametrize("spell", [str, lambda uuid: str(uuid).upper(), lambda uuid: f"{{{uuid}}}"])
def test_what_infobip_reported_of_a_message_is_found_by_its_uuid(
    operator: Client, sent: Message, spell: Callable[[UUID], str]
) -> None:
    found = rows(operator, "receivedevent", q=spell(sent.uuid))
    with every_org():
        keys = set(ReceivedEvent.objects.filter(pk__in=found).values_list("key", flat=True))
    assert keys == {f"delivery:{sent.uuid}:5", f"delivery:{sent.uuid}:12", f"seen:{sent.uuid}"}


def test_an_arrival_is_found_by_its_wamid_also_where_it_had_no_effect(operator: Client, acme: World) -> None:
    with every_org():
        receive_webhook(acme.account, [whatsapp_text("Hello?", to="447700900042", message_id="wamid.lost")])
        (event,) = ReceivedEvent.objects.all()
    assert rows(operator, "receivedevent", q="wamid.lost") == rows(operator, "receivedevent", q=event.key) == [event.pk]


def test_a_message_to_a_channels_second_account_is_found_by_its_wamid_too(operator: Client, acme: World) -> None:
    with every_org():
        other = InfobipAccount.objects.create(
            org=acme.org, name="other", base_url="https://other.api.infobip.com", api_key="k", webhook_secret="s"
        )
        second = Sender.objects.create(org=acme.org, account=other, channel=acme.channel, number="447700900555")
        receive_webhook(other, [whatsapp_text("Hi", to=second.number, message_id="wamid.9")])
        message = Message.objects.get()
    assert rows(operator, "message", q="wamid.9") == [message.pk]
    assert len(rows(operator, "receivedevent", conversation=message.conversation_id)) == 1


def test_a_report_on_a_message_that_nobody_knows_is_found_by_its_uuid(operator: Client, acme: World) -> None:
    stray = uuid4()
    with every_org():
        receive_webhook(acme.account, [delivery_report(str(stray))])
    assert len(rows(operator, "receivedevent", q=str(stray))) == 1


def test_a_conversation_leads_to_all_that_is_kept_of_it_and_to_nothing_else(
    operator: Client,
    sent: Message,
) -> None:
    page = operator.get(f"/admin/messaging/conversation/{sent.conversation_id}/change/").content.decode()
    links = dict(re.findall(r'href="/admin/messaging/(\w+)/\?(conversation=\d+)"', page))
    assert set(links) == {"message", "session", "handover", "lane", "receivedevent"}
    assert set(links.values()) == {f"conversation={sent.conversation_id}"}
    of = {"conversation": sent.conversation_id}
    assert rows(operator, "message", **of) == [sent.pk]
    assert len(rows(operator, "session", **of)) == 1
    assert sent.lane_id in rows(operator, "lane", **of)
    with every_org():
        keys = ReceivedEvent.objects.filter(pk__in=rows(operator, "receivedevent", **of)).values_list("key", flat=True)
        assert keys and all(str(sent.uuid) in key for key in keys)


@pytest.mark.parametrize("value", ["", "x", "-1", "1 OR 1=1", "9" * 30, "²"])
def test_a_conversation_that_cannot_be_leads_to_nothing(operator: Client, sent: Message, value: str) -> None:
    for place in ("message", "session", "lane", "receivedevent"):
        assert rows(operator, place, conversation=value) == []


def test_a_message_names_its_end_user_and_the_list_leads_there(operator: Client, sent: Message) -> None:
    page = operator.get("/admin/messaging/message/").content.decode()
    assert f'<a href="/admin/messaging/conversation/{sent.conversation_id}/change/">Ana Horvat 385991234567</a>' in page


def keep_address(conversation: Conversation) -> None:
    with every_org():
        Address.objects.create(
            org_id=conversation.org_id,
            channel_id=conversation.channel_id,
            conversation=conversation,
            address=conversation.subject,
        )


@pytest.mark.parametrize("place", ["message", "session", "handover", "lane", "receivedevent"])
@pytest.mark.parametrize("typed", ["+385 99 123-4567", "Ana"])
def test_a_number_or_a_name_that_is_looked_for_elsewhere_leads_to_the_conversations(
    operator: Client, sent: Message, place: str, typed: str
) -> None:
    keep_address(sent.conversation)
    page = operator.get(f"/admin/messaging/{place}/", {"q": typed}).content.decode()
    (link,) = re.findall(r'href="(/admin/messaging/conversation/\?q=[^"]+)"', page)
    assert f'href="/admin/messaging/conversation/{sent.conversation_id}/' in operator.get(unescape(link)).content.decode()
    for found in ("", str(sent.uuid), str(uuid4())):
        assert "conversation/?q=" not in operator.get(f"/admin/messaging/{place}/", {"q": found}).content.decode()


@pytest.mark.parametrize("place", ["message", "conversation", "session", "handover", "lane", "receivedevent"])
def test_every_search_says_what_it_looks_for(operator: Client, place: str) -> None:
    assert 'id="searchbar_helptext"' in operator.get(f"/admin/messaging/{place}/").content.decode()


def test_times_have_seconds_and_a_zone_and_no_is_a_word(operator: Client, sent: Message) -> None:
    written = f"{sent.written_at:%Y-%m-%d %H:%M:%S} UTC"
    page = operator.get(f"/admin/messaging/message/{sent.pk}/change/").content.decode()
    assert written in page and written in operator.get("/admin/messaging/message/").content.decode()
    assert "icon-no.svg" not in page and "written by us; Salesforce has no entry of it" in page
    assert "icon-no.svg" not in operator.get("/admin/tenants/sender/").content.decode()


def test_a_circuit_and_a_lane_say_what_they_call(operator: Client, acme: World, sent: Message) -> None:
    with every_org():
        to_infobip = Circuit.objects.create(org=acme.org, upstream=Upstream.INFOBIP, endpoint_id=acme.account.pk)
        Circuit.objects.create(org=acme.org, upstream=Upstream.SALESFORCE, endpoint_id=acme.channel.pk)
        Lane.objects.filter(pk=sent.lane_id).update(endpoint_id=acme.account.pk)
    account = f'Infobip account <a href="/admin/tenants/infobipaccount/{acme.account.pk}/change/">{acme.account.name}</a>'
    listed = operator.get("/admin/messaging/circuit/").content.decode()
    channel = f'channel <a href="/admin/tenants/channel/{acme.channel.pk}/change/">{acme.channel.name}</a>'
    assert account in listed and channel in listed
    for place in (f"circuit/{to_infobip.pk}", f"lane/{sent.lane_id}"):
        page = operator.get(f"/admin/messaging/{place}/change/").content.decode()
        assert account in page and "Endpoint id" not in page and ".py" not in page
