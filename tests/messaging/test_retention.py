"""What is deleted, when, and in how small parts."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from uuid import uuid4

import pytest
from django.apps import apps
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from messaging import retention, tasks
from messaging.models import (
    ChatbotMessage,
    Conversation,
    EarlyRep,
    Handover,
    LeftMessage,
    ReceivedEvent,
    TranscriptLine,
)
from tenants.models import ApiCall, Draft, Membership, PendingSignIn, WebSession
from tenants.tenancy import every_org
from tests.conftest import World
from tests.support.happenings import in_another_connection

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def see_every_org() -> Iterator[None]:
    with every_org():
        yield


def ago(kept: timedelta, *, more: timedelta = timedelta(minutes=1)) -> datetime:
    return timezone.now() - kept - more


YOUNG = timedelta(minutes=-1)


def fill(world: World, *, more: timedelta) -> None:
    """One row of each kind, by so much older than it is kept."""
    mark = uuid4().hex
    ReceivedEvent.objects.create(
        org=world.org, account=world.account, key=mark, body=b"{}", received_at=ago(retention.ARRIVALS_KEPT, more=more)
    )
    ChatbotMessage.objects.create(
        org=world.org,
        account=world.account,
        infobip_conversation="c",
        infobip_id=mark,
        channel_id="w",
        end_user="1",
        sender="2",
        at=ago(retention.ARRIVALS_KEPT, more=more),
    )
    EarlyRep.objects.create(org=world.org, identifier=mark, at=ago(retention.EARLY_REPS_KEPT, more=more))
    conversation = Conversation.objects.create(org=world.org, channel=world.channel, subject=mark)
    handover = Handover.objects.create(
        org=world.org, account=world.account, infobip_conversation=mark, end_user="1", called_at=timezone.now()
    )
    LeftMessage.objects.create(
        org=world.org,
        conversation=conversation,
        source_entry="w",
        written_at=timezone.now(),
        arrived_at=ago(retention.ARRIVALS_KEPT, more=more),
    )
    TranscriptLine.objects.create(
        org=world.org,
        account=world.account,
        handover=handover,
        conversation=conversation,
        infobip_id=mark,
        at=timezone.now(),
        ordinal=0,
        read_at=ago(retention.ARRIVALS_KEPT, more=more),
    )
    member = Membership.objects.create(
        org=world.org, user_id=mark[:18], username="u", name="n", role="rep", signed_in_at=timezone.now()
    )
    rules = {each.table: each for each in retention.RULES}
    draft = Draft.objects.create(token_hash=mark, base_url="https://new.example", private_key="k", certificate="c")
    rows = [
        ApiCall.objects.create(org=world.org, key=mark, body_hash="x"),
        WebSession.objects.create(org=world.org, member=member, token_hash=mark),
        PendingSignIn.objects.create(org=world.org, frame_hash=mark),
        PendingSignIn.objects.create(draft=draft, frame_hash=mark),
        draft,
    ]
    for row in rows:
        at = ago(rules[row._meta.db_table].kept, more=more)
        type(row)._default_manager.filter(pk=row.pk).update(created_at=at)


def counts() -> dict[str, int]:
    """How many rows there are of all that is ever deleted."""
    tables = {each.table for each in retention.RULES}
    models = [model for model in apps.get_models() if model._meta.db_table in tables]
    return {model._meta.db_table: model._default_manager.count() for model in models}


def test_what_is_too_old_goes_and_what_is_not_stays(acme: World, rival: World) -> None:
    fill(acme, more=timedelta(minutes=1))
    fill(rival, more=timedelta(minutes=1))
    fill(acme, more=YOUNG)
    young = dict.fromkeys(counts(), 1) | {"tenants_pendingsignin": 2}
    assert counts() == {table: 3 * count for table, count in young.items()}
    tasks.purge_received_events()
    assert counts() == young


def test_a_statement_deletes_no_more_than_a_batch(acme: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH", 3)
    for _ in range(8):
        fill(acme, more=timedelta(minutes=1))
    with CaptureQueriesContext(
        connection,
    ) as captured:
        assert retention.purge()["messaging_receivedevent"] == 8
    deleting = [each["sql"] for each in captured if each["sql"].startswith("DELETE FROM messaging_receivedevent")]
    assert len(deleting) == 3 and all("LIMIT 3" in each for each in deleting)


def test_the_oldest_go_first_and_a_pass_ends_in_time(acme: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH", 1)
    for minutes in (3, 9, 5):
        fill(acme, more=timedelta(minutes=minutes))
    oldest = ReceivedEvent.objects.order_by("received_at").values_list("pk", flat=True)[0]
    monkeypatch.setattr(retention, "LONGEST_RUN", timedelta())
    retention.purge()
    assert ReceivedEvent.objects.count() == 2 and not ReceivedEvent.objects.filter(pk=oldest).exists()


def test_a_sign_in_whose_token_is_not_revoked_yet_is_kept_with_its_draft(acme: World) -> None:
    fill(acme, more=timedelta(minutes=1))
    PendingSignIn.objects.filter(draft__isnull=False).update(token="t")
    retention.purge()
    assert PendingSignIn.objects.count() == 1 and Draft.objects.count() == 1


def test_a_table_that_cannot_be_purged_stops_no_other(acme: World, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(acme, more=timedelta(minutes=1))
    broken = retention.Rule("messaging_receivedevent", "no_such_column", timedelta())
    monkeypatch.setattr(retention, "RULES", [broken, *retention.RULES[1:]])
    counted = retention.purge()
    assert "messaging_receivedevent" not in counted and counted["messaging_chatbotmessage"] == 1


@pytest.mark.django_db(transaction=True)
def test_what_somebody_works_on_is_left_for_the_next_time(acme: World) -> None:
    fill(acme, more=timedelta(minutes=1))
    held = ReceivedEvent.objects.get()
    fill(acme, more=timedelta(minutes=1))
    counted: list[dict[str, int]] = []
    with transaction.atomic():
        ReceivedEvent.objects.select_for_update().get(pk=held.pk)
        in_another_connection(lambda: counted.append(retention.purge())).join()
    assert counted[0]["messaging_receivedevent"] == 1 and ReceivedEvent.objects.get() == held
