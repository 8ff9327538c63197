"""Queries cost by what is due or shown, never by what is stored: on a large site, whatever the planner knows of it.

Another piece of code is another line in ``LOOPS`` or in ``CALLS``.
"""

import re
from collections.abc import Callable, Iterator
from html import unescape
from typing import Any
from uuid import uuid4

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.utils import timezone

from connector.events import InfobipMessageRef
from connector.infobip.conversations import Author, Line, Page
from connector.salesforce.platform_events import PlatformEvent, Topic
from messaging import claims, due_sessions, handover, left, results, retention, sessions, settling, subscriptions
from messaging import doctor as messaging_doctor
from messaging.admin import OfConversation
from messaging.claims import Given
from messaging.conversations import start_outbound
from messaging.delivery import Result
from messaging.expiry import expire_waiting
from messaging.intake import StreamBatch, receive_stream_batches
from messaging.left import UserMessage
from messaging.models import EventSubscription, Handover, Message, Outcome
from messaging.overdue import OpenCircuits
from messaging.receipts import pending_receipts
from messaging.sessions import Opening
from templates_ui import panel
from tenants import connecting, doctor
from tenants.doctor.report import due_orgs
from tenants.models import Org, Role, SalesforceConnection, Sender, TranscriptForm
from tenants.tenancy import every_org, org_scope
from tests.conftest import World, delivery_report, reply_record, whatsapp_text
from tests.plans import rows
from tests.plans.measure import check, forget_plans
from tests.set_up.pages import signed_in
from tests.support.happenings import receive_webhook

pytestmark = [pytest.mark.django_db, pytest.mark.timeout(300)]

UNKNOWN = "0Mw5g00000Unkno"


@pytest.fixture(scope="module")
def stored(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    with django_db_blocker.unblock():
        rows.fill_all()
    yield
    with django_db_blocker.unblock():
        rows.empty_all()


@pytest.fixture(scope="module", params=["not analysed", "analysed"])
def large_site(stored: None, django_db_blocker: Any, request: pytest.FixtureRequest) -> None:
    """The planner knows as much as soon after the tables grew, and then as much as it ever will."""
    if request.param == "analysed":
        with django_db_blocker.unblock(), connection.cursor() as cursor:
            cursor.execute("ANALYZE " + ", ".join(model._meta.db_table for model in rows.tables()))
    forget_plans()


@pytest.fixture
def org(large_site: None) -> Iterator[Org]:
    """The org that has most rows."""
    with every_org():
        org = Org.objects.select_related("salesforce").get(pk=rows.BIG_ORG)
    with org_scope(org.pk):
        yield org


def finds(look: Callable[[doctor.OrgSnapshot], Any]) -> Callable[[Org], list[doctor.Seen]]:
    return lambda org: list(look(doctor.OrgSnapshot(org)))


def webhook(org: Org) -> bool:
    """Let customers write who have written before, one who has not, and a report come on what was sent."""
    account = org.infobip_accounts.get()
    to, wrote = org.senders.get().number, [rows.address(n) for n in (1, 2, 3)]
    results = [whatsapp_text("hello", to=to, user=user, message_id=f"wamid.{user}") for user in [*wrote, "15550001111"]]
    with every_org():
        return receive_webhook(account, [*results, delivery_report(str(rows.message_uuid(rows.CONVERSATIONS + 1)))])


def to_a_chatbot(org: Org) -> list[UserMessage]:
    """Let customers write to a chatbot's sender, by a webhook and by an event."""
    ids = org.infobip_accounts.get().pk, org.channels.get().pk
    conversations = org.conversations.order_by("pk").values_list("pk", flat=True)[:3]
    refs = [None, InfobipMessageRef("infobip conversation 1", "infobip id 1")]
    return [
        UserMessage(org.pk, *ids, conversation_id, f"wamid.{conversation_id}", "hello", timezone.now(), ref)
        for conversation_id in conversations
        for ref in refs
    ]


def read_on(org: Org) -> bool:
    """Keep a page of a transcript, and see whether it is complete."""
    work = org.handovers.filter(state=Handover.State.READING, conversation__isnull=False).order_by("pk")[0]
    work.lease_id, work.held_at = uuid4(), timezone.now()
    work.save(update_fields=["lease_id", "held_at"])
    said = Line("infobip id 1", Author.END_USER, "hello", timezone.now(), rows.address(1), "447700900123")
    settling.keep_page(work, 0, Page([(0, said)], more=False))
    settling.settle_lines(work, TranscriptForm.LINES)
    assert settling.entries_of(work)
    return settling.is_complete(work)


def event(org: Org) -> Message:
    """Let a rep write."""
    world = World(org, org.infobip_accounts.get(), org.channels.get(), org.senders.get())
    entry, topic = str(uuid4()), Topic("/event/Infobip_Event__e", "00D", "EventType__c", "Payload__c")
    subscription = org.event_subscriptions.get()
    EventSubscription.objects.update(lease_id=uuid4(), leased_until=timezone.now())
    subscription.refresh_from_db()
    assert subscription.lease_id is not None
    written = PlatformEvent(entry, b"raw", reply_record(world, "One moment", entry=entry, user=rows.address(1)))
    with every_org():
        receive_stream_batches(
            [
                StreamBatch(
                    org_id=org.pk,
                    subscription_id=subscription.pk,
                    lease_id=subscription.lease_id,
                    since=subscription.since,
                    topic=topic,
                    events=[written],
                    replay_id=b"place 1",
                )
            ]
        )
    return Message.objects.get(source_entry=entry, channel=world.channel)


def carry(outcome: Outcome) -> list[Given]:
    """Claim what is due, and record how it went."""
    taken = claims.take([Given(due.id) for due in claims.lock_due(64)], holder=1)
    ended = [Result(claim, message, outcome, claim.endpoint_id) for claim, message in taken if message is not None]
    assert len(ended) >= rows.DUE // 2
    return results.record(ended, holder=1)


def free_the_dead() -> None:
    claims.take([Given(due.id) for due in claims.lock_due(8)], holder=999)
    assert claims.mark_abandoned_attempts_in_doubt(me=1) > 0


# in the scope of all orgs, as the workers see them
LOOPS: dict[str, Callable[[], Any]] = {
    "claiming and recording successes": lambda: carry(Outcome.SENT),
    "claiming and recording failures": lambda: carry(Outcome.RETRY),
    "claiming and recording refusals": lambda: carry(Outcome.REFUSED),
    "freeing the lanes of the dead": free_the_dead,
    "setting unreadable messages aside": lambda: claims.set_unreadable_aside(8),
    "expiring what waits behind open circuits": expire_waiting,
    "telling reps of what waits behind open circuits": lambda: OpenCircuits().tell_reps(),
    "reading receipts": lambda: pending_receipts(list(range(1, 2 * rows.DUE))),
    "attending to sessions": due_sessions.process_due,
    "claiming hand-overs": lambda: handover.claim(8),
    "finding streams": subscriptions.add_missing,
    "claiming streams": lambda: subscriptions.claim_streams(8),
    "purging": retention.purge,
    "finding the orgs to check": due_orgs,
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_turn_of_a_loop_costs_by_what_is_due(large_site: None, name: str) -> None:
    with every_org():
        check(LOOPS[name])


# in the scope of one org
CALLS: dict[str, Callable[[Org], Any]] = {
    "ingesting a webhook": webhook,
    "ingesting a rep's message": event,
    "leaving messages to a transcript": lambda org: left.leave(to_a_chatbot(org)),
    "finding what a transcript shows": lambda org: left.find_shown(to_a_chatbot(org)),
    "reading on in a transcript": read_on,
    "opening sessions": lambda org: sessions.open_sessions([Opening(org.pk, 1, "conversation 1", "0Mw5g00000Newer")]),
    "ending a session": lambda org: sessions.end(org.pk, rows.session(1), conversation="conversation 1"),
    "ending a session that nobody knew": lambda org: sessions.end(org.pk, UNKNOWN, conversation="conversation 1"),
    "noting a rep": lambda org: sessions.note_reps(org.pk, "conversation 1", joined=True, left=False),
    "asking about sessions soon": lambda org: sessions.check_soon(org.pk, [rows.session(1), UNKNOWN]),
    "beginning a conversation": lambda org: start_outbound(
        org.senders.get(), rows.address(1), name="Ana", language="en", template=None
    ),
    "the panel": lambda org: panel.describe(org, rows.session(1)),
    "the panel at an unknown session": lambda org: panel.describe(org, UNKNOWN),
    "the doctor's look at streams": finds(messaging_doctor.stream_is_read),
    "the doctor's look at connections": finds(messaging_doctor.connections_work),
    "the doctor's look at hand-overs": finds(messaging_doctor.handovers_succeed),
    "the doctor's look at what waits": finds(messaging_doctor.nothing_waits_long),
    "the doctor's look at what could not be read": finds(messaging_doctor.everything_is_read),
    "the doctor's own rows": lambda org: doctor.OrgSnapshot(org).read_rows(),
    "taking a sender off": lambda org: connecting.choose_sender(
        org.infobip_accounts.get(), org.senders.get().number, channel=None, chatbot_first=False, who="Ada"
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_it_costs_by_what_is_due_or_shown(org: Org, name: str) -> None:
    check(lambda: CALLS[name](org))


def test_the_doctor_finds_the_few_messages_that_wait_among_all_that_are_stored(org: Org) -> None:
    (seen,) = check(lambda: CALLS["the doctor's look at what waits"](org))
    assert seen.found.startswith(f"{rows.DUE * 4 // 5} conversations wait")


def test_the_doctor_finds_the_few_unreadable_arrivals_among_all_that_are_stored(org: Org) -> None:
    (seen,) = check(lambda: CALLS["the doctor's look at what could not be read"](org))
    assert not seen.ok and "a problem" in seen.found


def test_a_sender_that_is_taken_off_is_still_named_by_its_messages(org: Org) -> None:
    sender = org.senders.get()
    CALLS["taking a sender off"](org)
    assert not Sender.objects.filter(org=org).exists()
    assert Message.objects.select_related("sender").get(pk=1).sender == sender


LOST = {
    "arrival_unreadable": "the doctor's look at what could not be read",
    "lane_due": "the doctor's look at what waits",
    "conversation_identifier": "noting a rep",
    "message_newest": "/admin/messaging/message/?org__id__exact=1",
    "conversation_name": "/admin/messaging/conversation/?q=ana",
}


@pytest.mark.parametrize("index", LOST)
def test_a_query_that_has_lost_its_index_is_refused(org: Org, operator: Client, index: str) -> None:
    """The measure itself; the end of the test's transaction brings the index back."""

    def call() -> Any:
        if LOST[index].startswith("/"):
            return operator.get(LOST[index])
        return CALLS[LOST[index]](org)

    check(call)
    with connection.cursor() as cursor:
        cursor.execute(f"DROP INDEX {index}")
    with pytest.raises(AssertionError, match="pages"):
        check(call)


# pages


STEPS = ("connect", "byoc", "texts", "summary")  # that ask nobody else


@pytest.mark.parametrize("page", [*(f"setup/{step}" for step in STEPS), "api-access", f"templates?id={rows.session(1)}"])
def test_a_page_of_an_org_costs_by_what_is_shown(org: Org, page: str, private_key: str) -> None:
    client = signed_in(org, Role.ADMIN)
    SalesforceConnection.objects.filter(org=org).update(private_key=private_key)
    answer = check(lambda: client.get(f"/e/{org.handle}/{page}"))
    assert answer.status_code == 200


PAGES = {
    each._meta.label_lower: model_admin
    for each, model_admin in admin.site._registry.items()
    if each._meta.app_label in ("tenants", "messaging")
}
OF_CONVERSATION = [name for name, each in PAGES.items() if OfConversation in each.list_filter]
SEARCHES = {
    "messaging.message": ["entry 7"],
    "messaging.conversation": ["conversation 7", rows.address(7), "+385 91-000-0007", "Ana 7", "ana"],
    "messaging.session": [rows.session(7)],
    "messaging.handover": ["conversation 7"],
    "messaging.lane": ["7"],
    "messaging.receivedevent": ["key 7", str(rows.message_uuid(rows.CONVERSATIONS + 1)), "entry 1"],
    "tenants.membership": ["user 7"],
    "tenants.org": ["Org 7"],
    "tenants.sender": ["447700000007", "+44 7700 000 007"],
}


@pytest.fixture
def operator(large_site: None) -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("operator"))
    return client


def look(operator: Client, path: str) -> Any:
    answer = check(lambda: operator.get(path))
    assert answer.status_code == 200, path
    return answer


def list_of(name: str) -> str:
    return f"/admin/{name.replace('.', '/')}/"


@pytest.mark.parametrize("name", PAGES)
def test_each_list_of_the_admin_costs_by_what_is_shown(operator: Client, name: str) -> None:
    first = look(operator, list_of(name)).context["cl"]
    offered = [choice["query_string"] for spec in first.filter_specs for choice in spec.choices(first)]
    for query in [f"?p={first.paginator.num_pages}", "?o=1", "?o=-3.2", "?all=", "?_facets=True", *offered]:
        look(operator, list_of(name) + query)


@pytest.mark.parametrize("name", PAGES)
def test_each_search_of_the_admin_finds_its_row_by_an_index(operator: Client, name: str) -> None:
    if not PAGES[name].search_fields:
        assert name not in SEARCHES
        return
    for term in SEARCHES[name]:
        assert look(operator, f"{list_of(name)}?q={term}").context["cl"].result_count, term
    for nothing in ("nothing", "x" * 400, "-1", "9" * 40, "9b1c-", "00D"):
        look(operator, f"{list_of(name)}?q={nothing}")


@pytest.mark.parametrize("name", PAGES)
def test_each_row_of_the_admin_costs_by_what_is_shown(operator: Client, name: str) -> None:
    for row in (1, 2, rows.ORGS):
        for page in ("change", "history"):
            look(operator, f"{list_of(name)}{row}/{page}/")


@pytest.mark.parametrize("org_id", [rows.BIG_ORG, 2, rows.ORGS])
def test_each_list_of_one_orgs_rows_costs_by_what_is_shown(operator: Client, org_id: int) -> None:
    links = re.findall(r'href="([^"]*org__id__exact=[^"]*)"', look(operator, f"/admin/tenants/org/{org_id}/change/").text)
    assert len(links) >= 7
    for link in map(unescape, links):
        shown = look(operator, link).context["cl"]
        assert all(each.org_id == org_id for each in shown.result_list) and (shown.result_list or "state=" in link)
        for query in [choice["query_string"] for spec in shown.filter_specs for choice in spec.choices(shown)]:
            look(operator, link.partition("?")[0] + query)


@pytest.mark.parametrize("conversation_id", [1, 2, rows.CONVERSATIONS, 9 * 10**17])
def test_each_list_of_one_conversations_rows_costs_by_what_is_shown(operator: Client, conversation_id: int) -> None:
    """The first conversation has more messages than are listed."""
    links = [f"{list_of(name)}?conversation={conversation_id}" for name in OF_CONVERSATION]
    if conversation_id <= rows.CONVERSATIONS:
        page = look(operator, f"/admin/messaging/conversation/{conversation_id}/change/").text
        assert set(re.findall(r'href="([^"]*\?conversation=[^"]*)"', page)) == set(links)
    for name, link in zip(OF_CONVERSATION, links, strict=True):
        shown = look(operator, link).context["cl"]
        if name != "messaging.receivedevent":
            assert all(each.conversation_id == conversation_id for each in shown.result_list)
            assert bool(shown.result_list) == (conversation_id <= rows.CONVERSATIONS) or name == "messaging.handover"
        for query in [choice["query_string"] for spec in shown.filter_specs for choice in spec.choices(shown)]:
            look(operator, link.partition("?")[0] + query)


def test_a_long_list_shows_the_newest_rows_and_says_that_there_are_more(operator: Client) -> None:
    page = look(operator, "/admin/messaging/message/")
    assert [each.pk for each in page.context["cl"].result_list][:2] == [
        rows.MESSAGES + rows.LONG,
        rows.MESSAGES + rows.LONG - 1,
    ]
    assert "the newest 500 messages; search for others" in page.text
    waiting = look(operator, "/admin/messaging/message/?state=waiting")
    assert waiting.context["cl"].result_count == rows.DUE and f"{rows.DUE} messages" in waiting.text


# what the database itself does


def test_a_row_that_others_point_at_is_found_from_there_by_an_index(large_site: None) -> None:
    """PostgreSQL looks for rows that point at one that is deleted; so does whoever deletes an org or an end user."""
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT conrelid::regclass::text, array_agg(attname::text ORDER BY attname)
               FROM pg_constraint JOIN pg_attribute ON attrelid = conrelid AND attnum = ANY(conkey)
               WHERE contype = 'f' AND conrelid = ANY(%s::regclass[]) GROUP BY pg_constraint.oid, conrelid""",
            [[model._meta.db_table for model in rows.tables()]],
        )
        pointing = [(table, set(columns)) for table, columns in cursor.fetchall()]
        cursor.execute(
            """SELECT indrelid::regclass::text, array_agg(attname::text ORDER BY place)
               FROM pg_index CROSS JOIN LATERAL unnest(indkey) WITH ORDINALITY AS part (number, place)
               JOIN pg_attribute ON attrelid = indrelid AND attnum = number
               WHERE indpred IS NULL GROUP BY indexrelid, indrelid"""
        )
        indexes = cursor.fetchall()
    # senders and accounts are not deleted but with their org, after what names them: see tenants.models.Sender
    kept = [
        ("messaging_message", {"org_id", "sender_id"}),
        ("messaging_conversation", {"org_id", "last_sender_id"}),
        ("messaging_handover", {"org_id", "account_id"}),
    ]
    assert len(pointing) > 30 and all(each in pointing for each in kept)
    for table, columns in pointing:
        narrow = columns - {"org_id"} if len(columns) > 1 else columns
        served = any(of == table and (set(led[: len(columns)]) == columns or led[0] in narrow) for of, led in indexes)
        assert served or (table, columns) in kept, (table, columns)
