"""What cannot be saved with others is saved alone, what cannot be saved alone is set aside, and the order stays."""

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection

from connector.salesforce.platform_events import PlatformEvent
from messaging.intake import StreamBatch
from messaging.models import EventSubscription
from messaging.stream_writer import NotSaved, StreamWriter
from messaging.subscriptions import StreamLease, add_missing, claim_streams
from tenants.tenancy import every_org
from tests.messaging.subscriber.conftest import Company

Refuse = Callable[[str, str, str], Callable[[], None]]
POISON = "NEW.text LIKE 'poison%'"
ROWS_FAULT, DATABASES_TROUBLE = "54000", "25006"  # a limit of PostgreSQL's; it is read-only


def leases() -> dict[int, StreamLease]:
    add_missing()
    return {lease.org_id: lease for lease in claim_streams(10)}


def page(company: Company, lease: StreamLease, *texts: str) -> StreamBatch:
    events = [
        PlatformEvent(str(uuid4()), b"raw", company.record(text), replay_id=f"{n}".encode()) for n, text in enumerate(texts)
    ]
    position = events[-1].replay_id
    return StreamBatch(lease.org_id, lease.subscription_id, lease.lease_id, lease.since, lease.topic, events, position)


def save(*batches: StreamBatch, beside: Callable[[], Any] = lambda: None) -> list[Any]:
    async def scenario() -> list[Any]:
        writer = StreamWriter()
        tasks = [asyncio.create_task(each) for each in writer.work()]
        saving = asyncio.gather(*(writer.save(batch) for batch in batches), return_exceptions=True)
        await asyncio.sleep(0.7)
        await asyncio.get_running_loop().run_in_executor(None, beside)
        results = await asyncio.wait_for(saving, 20)
        for task in tasks:
            task.cancel()
        writer.close()
        return results

    return asyncio.run(scenario())


def test_one_event_that_is_refused_is_set_aside_and_its_neighbours_in_page_and_transaction_are_saved(
    acme: Company, rival: Company, refuse: Refuse
) -> None:
    refuse("messaging_message", POISON, ROWS_FAULT)
    held = leases()
    mine, others = held[acme.org.pk], held[rival.org.pk]
    assert save(page(rival, others, "theirs"), page(acme, mine, "one", "poison", "two")) == [True, True]
    assert (acme.texts, rival.texts) == (["one", "two"], ["theirs"])
    assert sorted(problem for _, problem in acme.ledger) == ["", "", "it cannot be taken in: ProgramLimitExceeded"]
    assert bytes(acme.subscription.replay_id) == b"2"


def test_what_cannot_even_be_set_aside_is_told_to_its_stream_and_nothing_moves(
    acme: Company, rival: Company, refuse: Refuse
) -> None:
    refuse("messaging_receivedevent", f"NEW.org_id = {acme.org.pk}", ROWS_FAULT)
    held = leases()
    mine, others = held[acme.org.pk], held[rival.org.pk]
    refused, saved = save(page(acme, mine, "one"), page(rival, others, "theirs"))
    assert isinstance(refused, NotSaved) and saved is True
    assert rival.texts == ["theirs"] and bytes(acme.subscription.replay_id) == b""


def test_while_the_database_cannot_save_nothing_is_decided_and_afterwards_all_is_saved_in_order(
    acme: Company, refuse: Refuse
) -> None:
    lease = leases()[acme.org.pk]
    forgive = refuse("messaging_message", "true", DATABASES_TROUBLE)

    def mend() -> None:
        with every_org():
            assert acme.ledger == [] and bytes(acme.subscription.replay_id) == b""
            forgive()
        connection.close()

    assert save(page(acme, lease, "one", "poison", "two"), beside=mend) == [True]
    assert acme.texts == ["one", "poison", "two"]
    assert {problem for _, problem in acme.ledger} == {""}


@pytest.mark.parametrize("table", ["messaging_message", "messaging_receivedevent"])
def test_a_page_of_a_lost_lease_is_refused_also_when_it_is_taken_apart(acme: Company, refuse: Refuse, table: str) -> None:
    lease = leases()[acme.org.pk]
    EventSubscription.objects.update(lease_id=uuid4())
    refuse(table, "true", ROWS_FAULT)
    assert save(page(acme, lease, "one", "two")) == [False]
    assert acme.ledger == [] and bytes(acme.subscription.replay_id) == b""
