"""The panel beside a conversation: whose it is, how long it can be answered, what became of what was sent."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client
from django.utils import timezone

from messaging.models import Conversation, Direction, Lane, Message, Session, Status
from tenants import connecting
from tenants.models import Org, Role, Sender
from tenants.onboarding import long_org_id
from tenants.tenancy import every_org, org_scope
from tests.conftest import World
from tests.set_up.pages import alerts, signed_in
from tests.tenants.salesforce import OURS, rep_of
from tests.tenants.salesforce import signed_in as sign_in_at_salesforce

pytestmark = pytest.mark.django_db
SESSION = long_org_id("0Mw5g00000AcMe1")  # of 18 characters
HOUR = timedelta(hours=1)


def converse(world: World, *, session: str = SESSION, subject: str = "385991234567", **values: Any) -> Conversation:
    """Let a customer have written twelve hours ago, and a session be open."""
    given = {"name": "Ana Horvat", "last_sender": world.sender, "window_closes_at": timezone.now() + 12 * HOUR}
    with every_org():
        conversation = Conversation.objects.create(
            org=world.org, channel=world.channel, subject=subject, session=session, session_open=True, **given | values
        )
        Session.objects.create(
            org=world.org, conversation=conversation, salesforce_id=session, opened_at=timezone.now() - HOUR
        )
    return conversation


def send(conversation: Conversation, text: str, status: Status = Status.SENT, **values: Any) -> Message:
    """Let a rep have written."""
    now = timezone.now()
    with every_org():
        lane, _ = Lane.objects.get_or_create(
            org_id=conversation.org_id, conversation=conversation, direction=Direction.OUTBOUND
        )
        lane.position += 1
        lane.save()
        given = {"source_entry": str(uuid4()), "written_at": now, "created_at": now, "status_at": now}
        return Message.objects.create(
            org_id=conversation.org_id,
            lane=lane,
            conversation=conversation,
            channel_id=conversation.channel_id,
            direction=Direction.OUTBOUND,
            position=lane.position,
            text=text,
            status=status,
            **given | values,
        )


def answer(client: Client, org: Org, query: str = f"?id={SESSION}", **headers: str) -> Any:
    return client.get(f"/e/{org.handle}/templates{query}", headers=headers)


def look(client: Client, org: Org, query: str = f"?id={SESSION}") -> str:
    """Read the panel, as words."""
    page = answer(client, org, query)
    assert page.status_code == 200, page.content.decode()
    return " ".join(page.content.decode().split())


@pytest.fixture
def rep(acme: World) -> Client:
    return signed_in(acme.org, Role.REP, name="Marko Babic")


def change(row: Any, **values: Any) -> None:
    with every_org():
        type(row).objects.filter(pk=row.pk).update(**values)


# whose it is


@pytest.mark.parametrize("record", [SESSION, SESSION[:15]])
def test_a_rep_sees_who_the_customer_is_and_by_which_number_answers_leave(acme: World, rep: Client, record: str) -> None:
    converse(acme)
    page = look(rep, acme.org, f"?id={record}")
    for words in ("Ana Horvat", "+385 99 123 4567", "+44 7700 900123", "WhatsApp"):
        assert words in page
    assert "Nothing yet. Your messages appear here" in page


def test_a_customer_without_a_name_or_a_phone_number_is_shown_by_the_id_that_is_known(acme: World, rep: Client) -> None:
    converse(acme, name="", subject="HR.13491208655302741918")
    page = look(rep, acme.org)
    assert "HR.13491208655302741918" in page and "+HR." not in page


def test_a_session_that_ended_says_so(acme: World, rep: Client) -> None:
    conversation = converse(acme)
    assert "This session has ended" not in look(rep, acme.org)
    with every_org():
        conversation.sessions.update(state=Session.State.ENDED)
    page = look(rep, acme.org)
    assert "This session has ended" in page and "You can answer" not in page and "Closes in" not in page


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("", "Open a messaging session"),
        ("?id=", "Open a messaging session"),
        ("?id=undefined", "Open a messaging session"),
        ("?id=null", "Open a messaging session"),
        ("?id=%00", "Open a messaging session"),
        (f"?id={'0' * 4000}", "Open a messaging session"),
        ("?id=5005g00000XyZabAAA", "This record is not a messaging session"),
        ("?id=0Mw5g00000Other1AA", "This session is not known yet"),
    ],
)
def test_without_a_session_that_is_known_the_panel_says_so_and_names_the_companys_numbers(
    acme: World, rep: Client, query: str, words: str
) -> None:
    converse(acme)
    page = look(rep, acme.org, query)
    assert words in page and "+44 7700 900123" in page and "Ana Horvat" not in page


def test_a_session_appears_by_itself_once_it_is_known(acme: World, rep: Client) -> None:
    look(rep, acme.org)
    converse(acme)
    assert "Ana Horvat" in look(rep, acme.org)


def test_a_session_of_another_org_is_as_unknown_as_one_that_is_not_there(acme: World, rival: World, rep: Client) -> None:
    theirs = converse(rival, name="Somebody Else")
    send(theirs, "A secret of the rival")
    page = look(rep, acme.org)
    assert "This session is not known yet" in page
    for words in ("Somebody Else", "385991234567", "A secret of the rival", rival.sender.number, "Rival"):
        assert words not in page
    mine = converse(acme, subject="385990000001", name="Ana Horvat")  # the same id, in another org
    send(mine, "Good day")
    page = look(rep, acme.org)
    assert "Ana Horvat" in page and "Good day" in page and "A secret of the rival" not in page


# for how long


def test_the_time_to_answer_runs_and_warns_in_its_last_hour(acme: World, rep: Client) -> None:
    conversation = converse(acme)
    page = look(rep, acme.org)
    assert "You can answer for" in page and "11 h 59 min" in page and 'data-left="431' in page
    change(conversation, window_closes_at=timezone.now() + timedelta(minutes=42, seconds=30))
    page = look(rep, acme.org)
    assert "notice warn" in page and "Closes in" in page and "42 min" in page
    change(conversation, window_closes_at=timezone.now() - timedelta(seconds=1))
    page = look(rep, acme.org)
    assert "notice bad" in page and "Closed since" in page and "data-left" not in page
    change(conversation, window_closes_at=None)
    assert "The customer has not written to <bdi>+44 7700 900123</bdi> yet" in look(rep, acme.org)


# by which number


def test_answers_leave_by_the_number_written_to_last_else_by_the_channels_first(acme: World, rep: Client) -> None:
    with every_org():
        other = Sender.objects.create(org=acme.org, account=acme.account, channel=acme.channel, number="447700900999")
    conversation = converse(acme, last_sender=other)
    assert "+44 7700 900999" in look(rep, acme.org)
    change(conversation, last_sender=None)
    page = look(rep, acme.org)
    assert "+44 7700 900123" in page and "+44 7700 900999" not in page


def test_nothing_leaves_by_a_number_that_was_taken_off(acme: World, rep: Client) -> None:
    with every_org():
        other = Sender.objects.create(org=acme.org, account=acme.account, channel=acme.channel, number="447700900999")
    converse(acme, last_sender=other)
    with org_scope(acme.org.pk):
        connecting.choose_sender(acme.account, other.number, channel=None, chatbot_first=False, who="Ada")
    # WhatsApp has a window for each number, and this customer has not written to the one that is left
    assert "The customer has not written to <bdi>+44 7700 900123</bdi> yet" in look(rep, acme.org)
    for query in (f"?id={SESSION}", ""):
        page = look(rep, acme.org, query)
        assert "+44 7700 900123" in page and "+44 7700 900999" not in page


def test_without_a_number_the_panel_says_so_and_who_can_change_it(acme: World, rep: Client) -> None:
    converse(acme, last_sender=None)
    with every_org():
        Sender.objects.filter(org=acme.org).delete()
    ada = signed_in(acme.org, name="Ada Admin")
    for query in (f"?id={SESSION}", ""):
        page = look(rep, acme.org, query)
        assert "no WhatsApp number" in page and "An administrator can choose one: <bdi>Ada Admin</bdi>" in page
        assert "/setup/senders" not in page
        assert f"/e/{acme.org.handle}/setup/senders" in look(ada, acme.org, query)


def test_a_disconnected_org_says_so(acme: World) -> None:
    change(acme.org, disconnected_at=timezone.now())
    assert "This org is disconnected" in look(signed_in(acme.org, Role.REP), acme.org)


# what became of what was sent


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (Status.PENDING, "On its way"),
        (Status.SENT, "Sent"),
        (Status.DELIVERED, "Delivered"),
        (Status.READ, "Read"),
        (Status.FAILED, "Not delivered"),
    ],
)
def test_each_message_shows_how_far_it_got(acme: World, rep: Client, status: Status, words: str) -> None:
    send(converse(acme), "Good day", status)
    page = look(rep, acme.org)
    assert "Good day" in page and f"{words}</span>" in page


def test_a_message_that_failed_says_why(acme: World, rep: Client) -> None:
    conversation = converse(acme)
    send(
        conversation, "Good day", Status.FAILED, error="the customer has blocked this number", error_code="EC_BLOCKED_USER"
    )
    page = look(rep, acme.org)
    assert "The customer has blocked this number." in page and "EC_BLOCKED_USER" not in page
    send(conversation, "Again", Status.FAILED)
    assert "No reason was given." in look(rep, acme.org)


def test_a_message_that_waits_says_that_it_is_tried_again(acme: World, rep: Client) -> None:
    send(converse(acme), "Good day", Status.PENDING, tries=2, error="a gateway said no")
    page = look(rep, acme.org)
    assert "sent again automatically" in page and "gateway" not in page


def test_the_newest_comes_first_and_only_the_last_ten_are_shown(acme: World, rep: Client) -> None:
    conversation = converse(acme)
    for number in range(12):
        send(conversation, f"Message {number:02}")
    page = look(rep, acme.org)
    assert page.index("Message 11") < page.index("Message 10") < page.index("Message 02")
    assert "Message 01" not in page


@pytest.mark.parametrize(
    ("states", "words"),
    [
        ((Status.READ, Status.DELIVERED), "Delivered"),
        ((Status.DELIVERED, Status.PENDING), "On its way"),
        ((Status.READ, Status.FAILED), "Not delivered"),
    ],
)
def test_a_long_text_is_one_message_and_got_as_far_as_its_slowest_part(
    acme: World, rep: Client, states: tuple[Status, ...], words: str
) -> None:
    conversation = converse(acme)
    for part, status in enumerate(states):
        send(conversation, f"Part {part}", status, source_entry="entry-1", part=part, error="too late")
    page = look(rep, acme.org)
    assert "Part 0 Part 1" in page and page.count('class="message"') == 1 and f"{words}</span>" in page


def test_what_customers_wrote_is_not_repeated_here(acme: World, rep: Client) -> None:
    conversation = converse(acme)
    message = send(conversation, "Where is my order?")
    with every_org():
        Lane.objects.filter(pk=message.lane_id).update(direction=Direction.INBOUND)
    assert "Where is my order?" not in look(rep, acme.org)


def test_names_and_texts_with_marks_in_them_are_shown_as_they_are(acme: World, rep: Client) -> None:
    send(converse(acme, name="<b>Ana</b>"), '"><script>alert(1)</script>', Status.FAILED, error="<i>no</i>")
    page = look(rep, acme.org)
    assert "&lt;b&gt;Ana" in page and "<b>Ana" not in page and "<script>alert" not in page and "<i>no" not in page


# looking again


def test_a_page_that_looks_again_is_answered_only_if_something_changed(acme: World, rep: Client) -> None:
    conversation = converse(acme)
    message = send(conversation, "Good day")
    page = look(rep, acme.org)
    again = page.partition('hx-get="')[2].partition('"')[0].replace("&amp;", "&")
    assert rep.get(again).status_code == 200  # whoever opens this address sees the page
    assert rep.get(again, headers={"HX-Request": "true"}).status_code == 204
    for moved in (
        lambda: change(message, status=Status.DELIVERED),
        lambda: change(conversation, window_closes_at=timezone.now() + timedelta(minutes=59)),
        lambda: change(conversation, window_closes_at=timezone.now() - timedelta(minutes=1)),
        lambda: send(conversation, "One more"),
        lambda: change(acme.sender, number="447700900777"),
    ):
        moved()
        changed = rep.get(again, headers={"HX-Request": "true"})
        assert changed.status_code == 200
        again = changed.content.decode().partition('hx-get="')[2].partition('"')[0].replace("&amp;", "&")
        assert rep.get(again, headers={"HX-Request": "true"}).status_code == 204


def test_while_something_is_on_its_way_the_page_looks_sooner(acme: World, rep: Client) -> None:
    conversation = converse(acme)
    assert 'hx-trigger="every 10s, refresh"' in look(rep, acme.org)
    message = send(conversation, "Good day")
    assert 'hx-trigger="every 3s, refresh"' in look(rep, acme.org)
    change(message, created_at=timezone.now() - timedelta(minutes=3))
    assert 'hx-trigger="every 10s, refresh"' in look(rep, acme.org)


# who may


def test_a_rep_signs_in_from_the_panel_and_comes_back_to_their_session(acme: World) -> None:
    converse(acme)
    door = answer(Client(), acme.org)
    page = door.content.decode()
    assert door.status_code == 401 and "Sign in with Salesforce" in page and "Ana Horvat" not in page
    assert f'data-wanted="/e/{acme.org.handle}/templates?id={SESSION}"' in page
    assert "external client app" not in page  # an administrator's business
    client, _ = sign_in_at_salesforce(acme, rep_of(acme))
    assert "Ana Horvat" in look(client, acme.org)
    assert client.get(f"/e/{acme.org.handle}/").status_code == 403


def test_only_the_orgs_own_hosts_may_frame_the_panel(acme: World, rep: Client) -> None:
    for client in (rep, Client()):
        ancestors = answer(client, acme.org)["Content-Security-Policy"].split("frame-ancestors ")[1]
        assert "https://acme.lightning.force.com" in ancestors and "rival" not in ancestors


# the bare address


@pytest.mark.parametrize("query", ["", "?id=", "?id=undefined", "?id=null", f"?id={SESSION}"])
def test_the_bare_address_asks_for_the_org_and_keeps_the_record(acme: World, query: str) -> None:
    page = Client().get(f"/templates{query}")
    assert page.status_code == 200 and "frame-ancestors 'none'" not in page["Content-Security-Policy"]
    assert 'data-remember="yes"' in page.content.decode() and f'action="/templates{query}"' in page.content.decode()
    went = Client().post(f"/templates{query}", {"my_domain": "acme"}, **OURS)
    record = query.removeprefix("?id=")
    assert (went.status_code, went["Location"]) == (302, f"/e/{acme.org.handle}/templates?id={record}")


def test_an_org_that_is_not_connected_is_told_at_the_field_and_nothing_is_begun(db: None) -> None:
    for typed, words in (
        ("nobody", "not connected yet"),
        ("https://evil.example", "not a Salesforce org"),
        ("", "required"),
    ):
        page = Client().post("/templates", {"my_domain": typed}, **OURS)
        assert page.status_code == 200 and words in alerts(page.content.decode())["my_domain"]


def test_another_sites_page_cannot_choose_the_org(acme: World) -> None:
    page = Client().post("/templates", {"my_domain": "acme"}, headers={"Origin": "https://evil.example"})
    assert page.status_code == 403
