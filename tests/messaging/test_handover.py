"""A hand-over against the real database: step by step, with Infobip's answers recorded."""

import json
import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
import responses
from cryptography.fernet import Fernet
from django.db import OperationalError, connection, transaction
from django.test import Client
from django.utils import timezone
from pytest_django import Settings
from requests import PreparedRequest

from connector.events import MARK
from messaging import batches, claims, due_sessions, handover, handover_steps, queue, sessions
from messaging.claims import Given
from messaging.doctor import handovers_succeed
from messaging.handover import UnusableCall, parse_call
from messaging.models import Direction, Handover, Lane, Message, Session, Status
from tenants.doctor import OrgSnapshot
from tenants.models import AtEnd, Org, SalesforceConnection, TranscriptForm
from tenants.tenancy import every_org
from tests.conftest import World
from tests.messaging.handing_over import (
    BEGIN,
    CONVERSATION,
    END,
    TOKEN,
    USER,
    call,
    conversation_event,
    import_all,
    line,
    open_session,
    step,
    tell,
    waiting,
    write,
)
from tests.support.happenings import receive_webhook

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def see_every_org() -> Iterator[None]:
    with every_org():
        yield


def test_while_the_chatbot_has_a_conversation_nothing_is_relayed(chatbot: World) -> None:
    write(chatbot, "track my order")
    assert waiting() == []


def test_a_sender_without_a_chatbot_is_relayed_as_before(acme: World) -> None:
    write(acme, "hello")
    assert waiting() == ["hello"]


def test_the_transcript_comes_first_in_order_and_what_is_written_meanwhile_after_it(
    chatbot: World, infobip: responses.RequestsMock
) -> None:
    began = timezone.now() - timedelta(minutes=3)
    lines = [
        line("Hi", at=began),
        line("What can I do for you?", by="BOT", at=began + timedelta(seconds=2)),
        line(f"{MARK} Bot: pretend", at=began + timedelta(seconds=4)),
        line("joined", by="SYSTEM", at=began + timedelta(seconds=5)),
        line("A person, please", at=began + timedelta(seconds=6)),
    ]
    tell(infobip, lines[::-1])
    work = step(call(chatbot))
    assert work.state == Handover.State.READING
    write(chatbot, "are you there?")
    assert lanes_ready() == []  # it waits behind the barrier
    import_all(work)
    assert work.state == Handover.State.RELAYED and work.problem == ""
    assert waiting() == [
        BEGIN,
        "Hi",
        f"{MARK} Bot: What can I do for you?",
        "> Bot: pretend",
        "A person, please",
        END,
        "are you there?",
    ]
    times = Message.objects.filter(text__in=["Hi", "A person, please"]).order_by("position")
    assert [message.written_at for message in times] == [began, began + timedelta(seconds=6)]


def lanes_ready() -> list[str]:
    with transaction.atomic():
        taken = claims.take([Given(due.id) for due in claims.lock_due(10)], holder=1)
        transaction.set_rollback(True)
    return [message.text for _, message in taken if message is not None]


def test_it_waits_for_the_line_that_asked_for_a_person(chatbot: World, infobip: responses.RequestsMock) -> None:
    first, asked = line("Hi"), line("A person, please")
    receive_webhook(chatbot.account, [conversation_event(first, "wamid.1"), conversation_event(asked, "wamid.2")])
    tell(infobip, [first])
    work = step(call(chatbot))
    for _ in range(3):
        assert step(work).state == Handover.State.READING and work.found_at is None
    tell(infobip, [first, asked])
    assert step(work).found_at is not None  # and is read once more
    late = line("Done.", by="BOT", at=timezone.now())
    tell(infobip, [first, asked, late])
    step(work)
    assert waiting() == [BEGIN, "Hi", "A person, please", f"{MARK} Bot: Done.", END]


def test_a_message_that_both_subscriptions_bring_and_the_transcript_holds_is_shown_once(
    chatbot: World, infobip: responses.RequestsMock
) -> None:
    asked = line("A person, please")
    tell(infobip, [asked])
    work = step(call(chatbot))
    live, unmapped = line("hello?", at=timezone.now()), line("anybody?", at=timezone.now())
    write(chatbot, "hello?", message_id="wamid.7", at=live["createdAt"])
    receive_webhook(chatbot.account, [conversation_event(live, "wamid.7")])
    write(chatbot, "anybody?", message_id="wamid.8", at=unmapped["createdAt"])  # no event tells of this one
    tell(infobip, [asked, live, unmapped])
    import_all(work)
    assert waiting() == [BEGIN, "A person, please", END, "hello?", "anybody?"]


def test_what_came_before_the_hand_over_but_late_is_not_shown_twice(
    chatbot: World, infobip: responses.RequestsMock
) -> None:
    asked = line("A person, please")
    tell(infobip, [asked])
    import_all(call(chatbot))
    write(chatbot, "A person, please", at=asked["createdAt"])  # its webhook was retried
    assert waiting() == [BEGIN, "A person, please", END]


def test_a_second_call_while_it_is_under_way_changes_nothing(chatbot: World, infobip: responses.RequestsMock) -> None:
    call(chatbot)
    assert not handover.accept(chatbot.account, parse_call({"conversationId": CONVERSATION, "senderNumber": USER}))
    assert Handover.objects.count() == 1


def test_a_conversation_without_the_claimed_user_is_refused_and_shows_nothing(
    chatbot: World, infobip: responses.RequestsMock
) -> None:
    stranger = line("my secrets")
    stranger["from"] = "15550001111"
    tell(infobip, [stranger])
    work = call(chatbot)
    Handover.objects.filter(pk=work.pk).update(called_at=timezone.now() - timedelta(seconds=11))
    step(work)
    assert work.state == Handover.State.REFUSED and "senderNumber" in work.problem
    assert Message.objects.count() == 0
    assert not Lane.objects.filter(with_rep_since__isnull=False).exists()


def test_a_number_that_a_rep_answers_first_takes_no_hand_over(chatbot: World, infobip: responses.RequestsMock) -> None:
    chatbot.sender.chatbot_first = False
    chatbot.sender.save()
    tell(infobip, [line("Hi")])
    work = step(call(chatbot))
    assert work.state == Handover.State.REFUSED and "rep first" in work.problem
    assert waiting() == []


def test_a_conversation_that_infobip_does_not_know_is_refused_after_a_while(
    chatbot: World, infobip: responses.RequestsMock
) -> None:
    error = {"requestError": {"serviceException": {"messageId": "NOT_FOUND", "text": "No such entity"}}}
    infobip.get(f"https://acme.api.infobip.com/ccaas/1/conversations/{CONVERSATION}/messages", status=400, json=error)
    work = step(call(chatbot))
    assert work.state == Handover.State.CALLED  # it may have begun just now
    Handover.objects.filter(pk=work.pk).update(called_at=timezone.now() - timedelta(seconds=11))
    assert step(work).state == Handover.State.REFUSED


def test_an_outage_of_infobip_is_waited_for(chatbot: World, infobip: responses.RequestsMock) -> None:
    infobip.get(f"https://acme.api.infobip.com/ccaas/1/conversations/{CONVERSATION}/messages", status=503)
    work = step(call(chatbot))
    assert work.state == Handover.State.CALLED and work.tries == 1 and work.due_at is not None
    tell(infobip, [line("Hi")])
    assert import_all(work).state == Handover.State.RELAYED


def test_a_transcript_that_cannot_be_read_does_not_hold_back_the_customer_for_ever(
    chatbot: World, infobip: responses.RequestsMock
) -> None:
    tell(infobip, [line("Hi")])
    work = step(call(chatbot))
    write(chatbot, "are you there?")
    url = f"https://acme.api.infobip.com/ccaas/1/conversations/{CONVERSATION}/messages"
    infobip.remove("GET", url)
    infobip.get(url, status=503)
    Handover.objects.filter(pk=work.pk).update(held_at=timezone.now() - timedelta(minutes=16))
    assert step(work).state == Handover.State.RELAYED
    assert waiting() == [f"{MARK} The conversation with the chatbot could not be read", "are you there?"]


def test_who_took_the_hand_over_up_meanwhile_decides(chatbot: World, infobip: responses.RequestsMock) -> None:
    tell(infobip, [line("Hi")])
    work = step(call(chatbot))
    Handover.objects.filter(pk=work.pk).update(
        due_at=timezone.now(), found_at=timezone.now(), held_at=timezone.now() - timedelta(seconds=5)
    )
    (lost,) = handover.claim(1)
    Handover.objects.filter(pk=work.pk).update(leased_until=timezone.now() - timedelta(seconds=1))
    (mine,) = handover.claim(1)
    handover.carry_on(lost)
    assert waiting() == []
    handover.carry_on(mine)
    assert waiting() == [BEGIN, "Hi", END]


def test_a_step_that_is_repeated_after_a_death_keeps_the_barrier_where_it_was(
    chatbot: World, infobip: responses.RequestsMock
) -> None:
    asked = line("A person, please")
    tell(infobip, [asked])
    work = step(call(chatbot))
    live = line("hello?", at=timezone.now())
    write(chatbot, "hello?", at=live["createdAt"])
    Handover.objects.filter(pk=work.pk).update(state=Handover.State.CALLED)
    step(work)
    tell(infobip, [asked, live])
    import_all(work)
    assert waiting() == [BEGIN, "A person, please", END, "hello?"]


def test_a_channel_may_show_one_compact_transcript(chatbot: World, infobip: responses.RequestsMock) -> None:
    chatbot.channel.transcript, chatbot.channel.time_zone = TranscriptForm.COMPACT, "Europe/Zagreb"
    chatbot.channel.save()
    at = datetime(2026, 3, 2, 8, 30, tzinfo=UTC)
    tell(infobip, [line("Hi", at=at), line("Which order?", by="BOT", at=at + timedelta(minutes=1))])
    import_all(call(chatbot, customerName="Ana"))
    assert waiting() == [f"{BEGIN}\n09:30 Ana: Hi\n09:31 {MARK} Bot: Which order?"]


def test_fields_of_the_call_reach_the_routing(chatbot: World, infobip: responses.RequestsMock) -> None:
    chatbot.channel.routing_attributes = {"topic": "Topic", "absent": "Absent"}
    chatbot.channel.save()
    tell(infobip, [line("Hi")])
    import_all(call(chatbot, topic="Orders"))
    attributes = Message.objects.order_by("position").values_list("routing_attributes", flat=True)
    assert list(attributes) == [{"Topic": "Orders"}, None, None]


def test_a_second_hand_over_brings_only_what_is_new(chatbot: World, infobip: responses.RequestsMock) -> None:
    first, rep_time = line("Hi"), line("to the rep", at=timezone.now())
    tell(infobip, [first])
    work = import_all(call(chatbot))
    open_session(work)
    write(chatbot, "to the rep")
    sessions.end(chatbot.org.pk, "0Mw5g000000AbCdCAK")
    due_sessions.process_due()
    Message.objects.update(status=Status.SENT)
    again = line("me again", at=timezone.now() + timedelta(seconds=1))
    tell(infobip, [first, rep_time, again])
    chatbot.channel.at_end = AtEnd.LEAVE
    chatbot.channel.save()
    assert step(work).state == Handover.State.ENDED
    import_all(call(chatbot))
    assert waiting() == [BEGIN, "me again", END]


def test_welcome_and_closing_are_sent_once_and_the_chatbot_has_the_next_message(
    chatbot: World, infobip: responses.RequestsMock
) -> None:
    chatbot.channel.welcome_message, chatbot.channel.closing_message = "Hang tight.", "Goodbye."
    chatbot.channel.save()
    tell(infobip, [line("Hi")])
    work = import_all(call(chatbot))
    for _ in range(3):
        open_session(work)
        due_sessions.process_due()
        Session.objects.update(due_at=timezone.now())
    Message.objects.filter(direction=Direction.INBOUND).update(status=Status.SENT)
    for _ in range(3):
        sessions.end(chatbot.org.pk, "0Mw5g000000AbCdCAK", conversation="c0a2c1b4")
        due_sessions.process_due()
    own = Message.objects.filter(direction=Direction.OUTBOUND).order_by("position")
    assert [(message.text, message.ours) for message in own] == [("Hang tight.", True), ("Goodbye.", True)]

    write(chatbot, "and another thing")
    assert "and another thing" not in waiting()
    own.update(status=Status.SENT)
    closed = infobip.patch(f"https://acme.api.infobip.com/ccaas/1/conversations/{CONVERSATION}", json={"status": "CLOSED"})
    assert step(work).state == Handover.State.ENDED
    assert json.loads(closed.calls[0].request.body or "") == {"status": "CLOSED"}


def test_the_conversation_is_closed_only_after_the_closing_text_has_left(
    chatbot: World, infobip: responses.RequestsMock
) -> None:
    chatbot.channel.closing_message = "Goodbye."
    chatbot.channel.save()
    tell(infobip, [line("Hi")])
    work = import_all(call(chatbot))
    open_session(work)
    sessions.end(chatbot.org.pk, "0Mw5g000000AbCdCAK")
    due_sessions.process_due()
    assert (step(work).state, work.problem) == (Handover.State.ENDING, "")
    assert [call.request.method for call in infobip.calls if call.request.method != "GET"] == []
    Message.objects.filter(text="Goodbye.").update(status=Status.SENT)
    infobip.patch(f"https://acme.api.infobip.com/ccaas/1/conversations/{CONVERSATION}", status=400, json={})
    assert step(work).state == Handover.State.ENDED  # closed already is as good


@pytest.mark.parametrize("value", ["{{conversationId}}", "<conversationId>", "", "  ", None, True, {}])
def test_a_placeholder_that_was_not_filled_is_refused_at_once(value: object) -> None:
    with pytest.raises(UnusableCall, match="conversationId"):
        parse_call({"conversationId": value, "senderNumber": USER})


def post(client: Client, path: str, body: object, token: str = "") -> tuple[int, dict[str, Any]]:
    headers = {"X-Connector-Token": token} if token else {}
    answer = client.post(path, json.dumps(body), content_type="application/json", headers=headers)
    return answer.status_code, answer.json()


BODY = {"conversationId": CONVERSATION, "senderNumber": USER}


def test_the_door_takes_a_call_with_the_token_and_says_when_it_is_known(chatbot: World, client: Client) -> None:
    path = f"/api/infobip/inbound/answers/{chatbot.account.uuid}"
    assert post(client, path, BODY, TOKEN) == (200, {"status": "accepted"})
    assert post(client, path, BODY, TOKEN) == (200, {"status": "already accepted"})


@pytest.mark.parametrize("token", ["", "wrong", "t-rival"])
def test_the_door_refuses_whoever_lacks_the_token(chatbot: World, rival: World, client: Client, token: str) -> None:
    rival.account.handover_token = "t-rival"
    rival.account.save()
    for path in (f"/api/infobip/inbound/answers/{chatbot.account.uuid}", "/api/infobip/inbound/answers"):
        status, answer = post(client, path, BODY, token)
        assert status == 401 and "X-Connector-Token" in answer["error"]
    assert Handover.objects.count() == 0


def test_an_account_without_a_token_takes_no_call(acme: World, client: Client) -> None:
    assert acme.account.handover_token == ""
    assert post(client, f"/api/infobip/inbound/answers/{acme.account.uuid}", BODY)[0] == 401


def test_the_bare_address_takes_a_known_conversation_only_where_the_account_allows_it(
    chatbot: World, client: Client
) -> None:
    path = "/api/infobip/inbound/answers"
    receive_webhook(chatbot.account, [conversation_event(line("Hi"), "wamid.1")])
    assert post(client, path, BODY)[0] == 401
    chatbot.account.handover_without_token = True
    chatbot.account.save()
    assert post(client, path, {**BODY, "conversationId": "another"})[0] == 401
    assert post(client, path, {**BODY, "senderNumber": "15550001111"})[0] == 401
    assert post(client, path, BODY)[0] == 200


def test_an_unusable_call_says_what_to_change(chatbot: World, client: Client) -> None:
    path = f"/api/infobip/inbound/answers/{chatbot.account.uuid}"
    status, answer = post(client, path, {"conversationId": "{{conversationId}}", "senderNumber": USER}, TOKEN)
    assert status == 400 and "conversationId" in answer["error"]
    assert post(client, path, [], TOKEN)[0] == 400
    assert client.post(path, "{", content_type="application/json", headers={"X-Connector-Token": TOKEN}).status_code == 400


def test_a_call_that_repeats_at_once_is_one_hand_over(chatbot: World) -> None:
    from threading import Thread

    def again() -> None:
        with every_org():
            handover.accept(chatbot.account, parse_call(BODY))
        connection.close()

    threads = [Thread(target=again) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Handover.objects.count() == 1


# fair, bounded, and nobody's row stops another's


def due(world: World, count: int) -> list[Handover]:
    """Let many conversations be handed over at once."""
    for _ in range(count):
        body = {"conversationId": str(uuid4()), "senderNumber": USER}
        assert handover.accept(world.account, parse_call(body))
    return list(Handover.objects.filter(org=world.org).order_by("pk"))


def test_what_somebody_carries_on_is_nobody_elses_until_the_lease_runs_out(chatbot: World) -> None:
    (work,) = due(chatbot, 1)
    (claimed,) = handover.claim(5)
    assert handover.claim(5) == []
    Handover.objects.filter(pk=work.pk).update(leased_until=timezone.now() - timedelta(seconds=1))
    (again,) = handover.claim(5)
    assert (again.handover_id, again.lease_id != claimed.lease_id) == (work.pk, True)


def test_an_org_has_a_share_of_what_is_under_way_and_orgs_take_turns(chatbot: World, rival: World) -> None:
    due(chatbot, 20)
    due(rival, 20)
    acme_id, rival_id = chatbot.org.pk, rival.org.pk

    def claimed(most: int = 100, **shares: Any) -> list[int]:
        with transaction.atomic():
            taken = handover.claim(most, handover.Shares(**shares))
            transaction.set_rollback(True)
        return sorted(each.org_id for each in taken)

    assert claimed() == sorted([acme_id, rival_id])  # of whom nothing is known, one each
    assert claimed(fast={acme_id}) == sorted([acme_id] * handover.MOST_PER_ORG + [rival_id])
    assert claimed(fast={acme_id, rival_id}, busy={acme_id: handover.MOST_PER_ORG}) == [rival_id] * handover.MOST_PER_ORG
    assert claimed(fast={acme_id}, not_fast=0) == [acme_id] * handover.MOST_PER_ORG
    assert claimed(2, fast={acme_id, rival_id}) == sorted([acme_id, rival_id])
    assert claimed(busy={acme_id: 1, rival_id: 1}) == []


def fail_until_given_up(work: Handover) -> Handover:
    """Carry on a hand-over that cannot go on; each failure is counted, and the next try comes later."""
    for tries in range(1, handover.MOST_FAILURES):
        before = work.state
        step(work)
        assert (work.state, work.tries) == (before, tries) and work.problem
        assert work.due_at is not None and work.due_at > timezone.now() and work.lease_id is None
    return step(work)


def test_a_row_that_raises_is_counted_and_refused_in_words(
    chatbot: World, rival: World, infobip: responses.RequestsMock
) -> None:
    tell(infobip, [line("Hi")])
    work = call(chatbot)
    Handover.objects.filter(pk=work.pk).update(attributes=["no", "object"])
    fail_until_given_up(work)
    assert work.state == Handover.State.REFUSED and "AttributeError" in work.problem and work.due_at is None
    assert not Lane.objects.filter(hold__isnull=False).exists()


def test_a_transcript_that_cannot_be_written_does_not_hold_back_the_customer_for_ever(
    chatbot: World, infobip: responses.RequestsMock
) -> None:
    chatbot.channel.transcript, chatbot.channel.time_zone = TranscriptForm.COMPACT, "Nowhere/Land"
    chatbot.channel.save()
    tell(infobip, [line("Hi")])
    work = step(call(chatbot))
    write(chatbot, "are you there?")
    Handover.objects.filter(pk=work.pk).update(found_at=timezone.now(), held_at=timezone.now() - timedelta(seconds=4))
    fail_until_given_up(work)
    assert work.state == Handover.State.RELAYED and "ZoneInfoNotFoundError" in work.problem
    assert waiting() == [f"{MARK} The conversation with the chatbot could not be read", "are you there?"]


def test_what_the_database_refuses_of_one_hand_over_ends_it_and_lets_the_customer_through(
    chatbot: World, infobip: responses.RequestsMock
) -> None:
    tell(infobip, [line("Hi")])
    work = step(call(chatbot))
    write(chatbot, "are you there?")
    Handover.objects.filter(pk=work.pk).update(found_at=timezone.now(), held_at=timezone.now() - timedelta(seconds=4))
    refuse = "ALTER TABLE messaging_message ADD CONSTRAINT refused CHECK (source_entry NOT LIKE 'handover:%') NOT VALID"
    with connection.cursor() as cursor:
        cursor.execute(refuse)
    try:
        fail_until_given_up(work)
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE messaging_message DROP CONSTRAINT refused")
    assert work.state == Handover.State.RELAYED and "CheckViolation" in work.problem
    assert waiting() == ["are you there?"] and lanes_ready() == ["are you there?"]


def test_credentials_that_no_key_fits_are_counted_and_cost_no_other_org(
    chatbot: World, rival: World, infobip: responses.RequestsMock, settings: Settings
) -> None:
    work = call(chatbot)
    settings.FIELD_ENCRYPTION_KEYS = [Fernet.generate_key().decode()]
    rival.account.save()
    other = due(rival, 1)[0]
    infobip.get(re.compile("https://rival.api.infobip.com/.*"), json={"messages": []})
    for claimed in handover.claim(5):
        handover.carry_on(claimed)
    work.refresh_from_db()
    other.refresh_from_db()
    assert (work.state, work.tries) == (Handover.State.CALLED, 1) and "no key" in work.problem
    assert other.problem == "" and len(infobip.calls) == 1
    Handover.objects.filter(pk=work.pk).update(called_at=timezone.now() - timedelta(minutes=16))
    assert step(work).state == Handover.State.REFUSED


def test_a_conversation_that_cannot_be_closed_is_given_up_after_a_while(
    chatbot: World, infobip: responses.RequestsMock
) -> None:
    tell(infobip, [line("Hi")])
    work = import_all(call(chatbot))
    open_session(work)
    sessions.end(chatbot.org.pk, "0Mw5g000000AbCdCAK")
    due_sessions.process_due()
    infobip.patch(f"https://acme.api.infobip.com/ccaas/1/conversations/{CONVERSATION}", status=503)
    assert (step(work).state, work.tries) == (Handover.State.ENDING, 1)
    Handover.objects.filter(pk=work.pk).update(ended_at=timezone.now() - timedelta(minutes=61))
    assert step(work).state == Handover.State.ENDED and "503" in work.problem


@pytest.mark.parametrize("state", [Handover.State.CALLED, Handover.State.READING, Handover.State.ENDING])
def test_a_disconnected_org_has_nothing_under_way(
    chatbot: World, infobip: responses.RequestsMock, state: Handover.State
) -> None:
    tell(infobip, [line("Hi")])
    work = step(call(chatbot))
    write(chatbot, "are you there?")
    Handover.objects.filter(pk=work.pk).update(state=state, ended_at=timezone.now())
    asked = len(infobip.calls)
    Org.objects.filter(pk=chatbot.org.pk).update(disconnected_at=timezone.now())
    step(work)
    ends = {"called": Handover.State.REFUSED, "reading": Handover.State.RELAYED, "ending": Handover.State.ENDED}
    assert work.state == ends[state] and "disconnected" in work.problem and work.due_at is None
    assert len(infobip.calls) == asked
    if state == Handover.State.READING:
        assert "are you there?" in waiting() and lanes_ready() != []


def test_the_doctor_says_what_became_of_a_hand_over(chatbot: World) -> None:
    work = call(chatbot)
    Handover.objects.filter(pk=work.pk).update(state=Handover.State.ENDED, problem="Infobip: HTTP 503")
    (finding,) = handovers_succeed(OrgSnapshot(chatbot.org))
    assert not finding.ok and "HTTP 503" in finding.found


def test_no_step_holds_a_database_connection_while_it_calls(chatbot: World, infobip: responses.RequestsMock) -> None:
    held: list[bool] = []

    def listing(_request: PreparedRequest) -> tuple[int, dict[str, str], str]:
        held.append(connection.connection is not None)
        messages = [line("Hi"), line("Which order?", by="BOT")]
        return 200, {}, json.dumps({"messages": messages, "pagination": {"totalItems": 2}})

    def taking(_request: PreparedRequest) -> tuple[int, dict[str, str], str]:
        held.append(connection.connection is not None)
        return 200, {}, json.dumps({"success": True, "conversationIdentifier": "c0a2c1b4"})

    def login(_request: PreparedRequest) -> tuple[int, dict[str, str], str]:
        held.append(connection.connection is not None)
        return 200, {}, json.dumps({"access_token": "t", "instance_url": "https://acme.my.salesforce.com"})

    chatbot.channel.transcript = TranscriptForm.NATIVE
    chatbot.channel.save()
    infobip.add_callback("GET", re.compile(".*/messages"), listing)
    infobip.add_callback("POST", re.compile(".*/oauth2/token"), login)
    infobip.add_callback("POST", re.compile("https://acme.my.salesforce-scrt.com/.*"), taking)
    infobip.add_callback("PATCH", re.compile(".*"), taking)
    work = import_all(call(chatbot))
    assert work.state == Handover.State.RELAYED and work.batches == 1
    Handover.objects.filter(pk=work.pk).update(state=Handover.State.ENDING, ended_at=timezone.now())
    assert step(work).state == Handover.State.ENDED
    assert len(infobip.calls) >= 6 and not any(held)


def test_a_conversation_that_somebody_holds_has_its_hand_over_carried_on_in_a_moment(
    chatbot: World, infobip: responses.RequestsMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "LOCK_SECONDS", 0.2)
    tell(infobip, [line("Hi")])
    work = ready(call(chatbot))
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with every_org(), transaction.atomic():
            queue.lock_conversations([work.conversation_id or 0])
            held.set()
            done.wait(10)
        connection.close()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(5)
    try:
        with pytest.raises(OperationalError):
            step(work)
    finally:
        done.set()
        thread.join(5)
    work.refresh_from_db()
    assert (work.state, work.tries, work.lease_id) == (Handover.State.READING, 0, None)
    assert work.due_at is not None and work.due_at - timezone.now() < timedelta(seconds=2)
    assert step(work).state == Handover.State.RELAYED


# sessions that end while a transcript is read


SESSION = "0Mw5g000000AbCdCAK"


@pytest.fixture
def native(chatbot: World, infobip: responses.RequestsMock) -> World:
    """Of whose chatbot's conversations Salesforce's history takes what was said, in two batches."""
    chatbot.channel.transcript, chatbot.channel.closing_message = TranscriptForm.NATIVE, "Goodbye."
    chatbot.channel.save()
    infobip.post(
        re.compile(".*/oauth2/token"), json={"access_token": "t", "instance_url": "https://acme.my.salesforce.com"}
    )
    tell(infobip, [line(f"line {n}", at=timezone.now() - timedelta(seconds=60 - n)) for n in range(8)])
    return chatbot


HISTORY = "https://acme.my.salesforce-scrt.com/api/v1/conversationHistory"
TAKEN = {"conversationIdentifier": "c0a2c1b4", "messagingSessionId": SESSION}


def ready(work: Handover) -> Handover:
    """Bring a hand-over to where its transcript is passed on."""
    step(work)
    Handover.objects.filter(pk=work.pk).update(found_at=timezone.now(), held_at=timezone.now() - timedelta(seconds=4))
    return work


def texts_of_ours() -> list[str]:
    own = Message.objects.filter(direction=Direction.OUTBOUND, ours=True)
    return list(own.order_by("position").values_list("text", flat=True))


def test_a_session_that_ends_while_its_history_is_imported_gives_the_conversation_back_afterwards(
    native: World, infobip: responses.RequestsMock
) -> None:
    work = ready(call(native))
    infobip.post(HISTORY, json=TAKEN)
    infobip.post(HISTORY, status=503)
    assert step(work).state == Handover.State.READING and work.batches == 1
    assert sessions.end(native.org.pk, SESSION)
    for _ in range(2):
        due_sessions.process_due()
    assert texts_of_ours() == ["Goodbye."]
    inbound = Lane.objects.get(direction=Direction.INBOUND)
    assert inbound.with_rep_since is not None and inbound.hold is not None  # a transcript is under way
    infobip.post(HISTORY, json=TAKEN)
    assert step(work).state == Handover.State.ENDING and work.due_at is not None and work.problem == ""
    inbound.refresh_from_db()
    assert inbound.with_rep_since is None and inbound.hold is None
    write(native, "and another thing")
    assert waiting() == []  # the chatbot has it
    Message.objects.update(status=Status.SENT)
    infobip.patch(f"https://acme.api.infobip.com/ccaas/1/conversations/{CONVERSATION}", json={"status": "CLOSED"})
    assert step(work).state == Handover.State.ENDED


def test_what_was_written_while_the_history_was_imported_opens_a_session_even_if_the_first_one_ended(
    native: World, infobip: responses.RequestsMock
) -> None:
    work = ready(call(native))
    infobip.post(HISTORY, json=TAKEN)
    infobip.post(HISTORY, status=503)
    step(work)
    write(native, "are you there?")
    sessions.end(native.org.pk, SESSION)
    due_sessions.process_due()
    infobip.post(HISTORY, json=TAKEN)
    assert step(work).state == Handover.State.RELAYED
    assert waiting() == ["are you there?"] and "are you there?" in lanes_ready()
    open_session(work, "0Mw5g000000SecondA")
    write(native, "hello?")
    assert waiting() == ["are you there?", "hello?"]
    sessions.end(native.org.pk, "0Mw5g000000SecondA")
    due_sessions.process_due()
    work.refresh_from_db()
    assert work.state == Handover.State.ENDING and texts_of_ours() == ["Goodbye.", "Goodbye."]


def test_an_older_session_that_ends_during_the_hold_takes_nothing_from_the_reps(
    chatbot: World, infobip: responses.RequestsMock
) -> None:
    chatbot.channel.closing_message = "Goodbye."
    chatbot.channel.save()
    tell(infobip, [line("A person, please")])
    work = step(call(chatbot))
    open_session(work, "0Mw5g000000OlderAA")
    write(chatbot, "are you there?")
    sessions.end(chatbot.org.pk, "0Mw5g000000OlderAA")
    due_sessions.process_due()
    assert texts_of_ours() == ["Goodbye."]
    write(chatbot, "hello?")
    assert import_all(work).state == Handover.State.RELAYED
    assert waiting() == [BEGIN, "A person, please", END, "are you there?", "hello?"]
    assert Lane.objects.get(direction=Direction.INBOUND).with_rep_since is not None


def test_a_history_that_broke_off_goes_on_where_it_was_and_nothing_is_shown_twice(
    native: World, infobip: responses.RequestsMock
) -> None:
    work = ready(call(native))
    infobip.post(HISTORY, json=TAKEN)
    infobip.post(HISTORY, status=503)
    step(work)
    infobip.post(HISTORY, json=TAKEN)
    assert (step(work).state, work.lines) == (Handover.State.RELAYED, 8)
    assert waiting() == []
    bodies = [json.loads(each.request.body or "") for each in infobip.calls if each.request.url == HISTORY]
    taken = [
        entry["entryPayload"]["abstractMessage"]["staticContent"]["text"] for entry in bodies[2]["conversationEntries"]
    ]
    assert taken == ["line 0", "line 1", "line 2"]


@pytest.mark.parametrize("code", ["10057", "12345"])
def test_a_history_that_is_refused_goes_through_the_lane_at_once(
    native: World, infobip: responses.RequestsMock, code: str
) -> None:
    work = ready(call(native))
    infobip.post(HISTORY, status=400, json={"code": code, "message": "no"})
    assert (step(work).state, work.problem) == (Handover.State.RELAYED, "")
    assert len(waiting()) == 10
    refused = SalesforceConnection.objects.get(org=native.org).history_refused_at
    assert (refused is not None) == (code == "10057")


def test_a_history_of_which_a_part_is_refused_says_so(native: World, infobip: responses.RequestsMock) -> None:
    work = ready(call(native))
    infobip.post(HISTORY, json=TAKEN)
    infobip.post(HISTORY, status=400, json={"code": "12345", "message": "no"})
    assert step(work).state == Handover.State.RELAYED and "a part only" in work.problem
    assert waiting() == [f"{MARK} The conversation with the chatbot could not be read"]


def test_a_long_history_is_imported_in_several_steps(
    native: World, infobip: responses.RequestsMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = ready(call(native))
    monkeypatch.setattr(handover_steps, "IMPORT_SECONDS", 0.0)
    infobip.post(HISTORY, json=TAKEN)
    step(work)
    assert (work.state, work.problem, work.tries) == (Handover.State.READING, "", 0)


def test_a_hand_over_that_was_taken_over_during_a_call_writes_nothing(
    chatbot: World, infobip: responses.RequestsMock
) -> None:
    tell(infobip, [line("A person, please")])
    work = ready(call(chatbot))
    Handover.objects.filter(pk=work.pk).update(due_at=timezone.now())
    (lost,) = handover.claim(1)

    def taken_over(_request: PreparedRequest) -> tuple[int, dict[str, str], str]:
        Handover.objects.filter(pk=work.pk).update(lease_id=uuid4())
        return 200, {}, json.dumps({"messages": [line("A person, please")]})

    url = f"https://acme.api.infobip.com/ccaas/1/conversations/{CONVERSATION}/messages"
    infobip.remove("GET", url)
    infobip.add_callback("GET", url, taken_over)
    handover.carry_on(lost)
    work.refresh_from_db()
    assert (work.state, work.tries) == (Handover.State.READING, 0) and work.lease_id not in (None, lost.lease_id)
    assert waiting() == [] and Lane.objects.get(direction=Direction.INBOUND).hold is not None


def test_a_hand_over_that_was_taken_over_writes_no_batch(native: World, infobip: responses.RequestsMock) -> None:
    work = ready(call(native))
    Handover.objects.filter(pk=work.pk).update(due_at=timezone.now())
    (lost,) = handover.claim(1)

    def taken_over(_request: PreparedRequest) -> tuple[int, dict[str, str], str]:
        Handover.objects.filter(pk=work.pk).update(lease_id=uuid4())
        return 200, {}, json.dumps(TAKEN)

    infobip.add_callback("POST", HISTORY, taken_over)
    handover.carry_on(lost)
    work.refresh_from_db()
    assert (work.state, work.batches) == (Handover.State.READING, 0)
    assert not Session.objects.exists()
