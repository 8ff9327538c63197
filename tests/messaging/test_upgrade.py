"""Rows of before the engine was rebuilt are carried on: nothing that waited is lost, and what was tried is in doubt."""

from collections.abc import Iterator
from uuid import uuid4

import pytest
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone

from messaging.models import Attempt, Circuit, Lane, Message, Outcome, Status
from messaging.worker import Worker
from tenants.tenancy import every_org
from tests.conftest import World
from tests.support.happenings import wait_until

pytestmark = pytest.mark.django_db(transaction=True)

BEFORE = [("messaging", "0005_sessions")]


def migrate(targets: list[tuple[str, str]]) -> None:
    executor = MigrationExecutor(connection)
    executor.migrate(targets)


@pytest.fixture
def before() -> Iterator[None]:
    """The tables as they were; afterwards as they are."""
    with connection.cursor() as cursor:
        cursor.execute("SET statement_timeout = 0")
    migrate(BEFORE)
    yield
    migrate(MigrationExecutor(connection).loader.graph.leaf_nodes())
    connection.close()


def old_rows(world: World, *, trying: bool) -> None:
    """One waiting message towards the rep; its lane is leased by a process, which perhaps was trying it."""
    with connection.cursor() as cursor:
        cursor.execute(
            """INSERT INTO messaging_conversation
                   (org_id, channel_id, subject, name, identifier, session, session_open, last_sender_id, created_at)
               VALUES (%s, %s, '385991234567', '', '', '', false, %s, now()) RETURNING id""",
            [world.org.pk, world.channel.pk, world.sender.pk],
        )
        conversation_id = cursor.fetchone()[0]
        cursor.execute(
            """INSERT INTO messaging_lane
                   (org_id, conversation_id, direction, position, arrivals, due_at, failures, lease_id, leased_until)
               VALUES (%s, %s, 'outbound', 1, 1, now(), 0, %s, now() + interval '20 s') RETURNING id""",
            [world.org.pk, conversation_id, uuid4()],
        )
        lane_id = cursor.fetchone()[0]
        cursor.execute(
            """INSERT INTO messaging_message (org_id, lane_id, conversation_id, channel_id, sender_id, direction, position,
                   uuid, source_entry, part, text, written_at, created_at, late, status, status_at, tries, error_code,
                   error, told)
               VALUES (%s, %s, %s, %s, %s, 'outbound', 1, %s, 'entry', 0, 'hello', '12000-01-01', now(), false, 'pending',
                   now(), 0, '', '', '') RETURNING id""",
            [world.org.pk, lane_id, conversation_id, world.channel.pk, world.sender.pk, uuid4()],
        )
        message_id = cursor.fetchone()[0]
        cursor.execute(
            """INSERT INTO messaging_circuit (org_id, side, failures, failing_lanes, opened_at, probe_at)
               VALUES (%s, 'infobip', 9, '{1,2,3}', now(), now() + interval '1 hour')""",
            [world.org.pk],
        )
        if trying:
            cursor.execute(
                """INSERT INTO messaging_attempt
                       (org_id, message_id, lease_id, started_at, outcome, code, detail, request_id)
                   VALUES (%s, %s, %s, now(), 'open', '', '', '')""",
                [world.org.pk, message_id, uuid4()],
            )


@pytest.mark.parametrize("trying", [False, True])
def test_what_waited_or_was_tried_is_carried_on(acme: World, before: None, trying: bool) -> None:
    with every_org():
        old_rows(acme, trying=trying)
        migrate(MigrationExecutor(connection).loader.graph.leaf_nodes())
        message = Message.objects.get()
        assert abs(message.written_at - timezone.now()).total_seconds() < 60  # a time that nobody could load
        lane = Lane.objects.get()
        assert lane.holder is None and lane.endpoint_id == acme.account.pk and lane.version == 1
        assert not Circuit.objects.exists()
        assert [each.outcome for each in Attempt.objects.all()] == ([Outcome.IN_DOUBT] if trying else [])
        acme.account.base_url = "http://127.0.0.1:1"  # nobody is there, and this machine may not be called
        acme.account.save()
    worker = Worker(4)
    worker.start()
    try:
        with every_org():
            wait_until(lambda: Message.objects.get().failed_at is not None)
            assert Message.objects.get().status == Status.PENDING
    finally:
        worker.stop()
