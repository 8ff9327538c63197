"""Credentials of one company that no key fits, beside another one's messages: through all processes, started anew."""

from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest
from cryptography.fernet import Fernet

from tests.journeys.conftest import Journey

LOST = {"tenants_salesforceconnection": ("private_key",), "tenants_infobipaccount": ("api_key", "handover_token")}


def swap(journey: Journey, values: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Write ciphertexts of the rival; gives those that were there."""
    before = {}
    with psycopg.connect(journey.stack.env["DATABASE_URL"]) as connection:
        connection.execute("SELECT set_config('connector.org', '*', false)")
        row = connection.execute("SELECT id FROM tenants_org WHERE salesforce_id = %s", [journey.rival.org]).fetchone()
        for table, columns in LOST.items():
            read = f"SELECT {', '.join(columns)} FROM {table} WHERE org_id = %s"
            before[table] = connection.execute(read, row).fetchone() or ()
            changes = ", ".join(f"{column} = %s" for column in columns)
            connection.execute(f"UPDATE {table} SET {changes} WHERE org_id = %s", [*values[table], *(row or ())])
    return before


@pytest.fixture
def lost(journey: Journey) -> Iterator[dict[str, tuple[str, ...]]]:
    stranger = Fernet(Fernet.generate_key()).encrypt(b"gone").decode()
    before = swap(journey, {table: (stranger,) * len(columns) for table, columns in LOST.items()})
    for name in ("worker", "subscriber"):
        journey.stack.restart(name)  # they read everybody's rows when they begin
    yield before
    swap(journey, before)


def test_messages_of_the_others_go_both_ways_and_its_own_wait_for_the_key(
    journey: Journey, lost: dict[str, tuple[str, ...]]
) -> None:
    waiting, hello = f"waits {uuid4()}", f"goes on {uuid4()}"
    assert [answer["status"] for answer in journey.write(waiting, company=journey.rival)["answers"]] == [200]
    journey.write(hello)
    arrived = journey.wait_for_one("interaction", text=hello, seconds=30)
    answer = f"answer {uuid4()}"
    journey.reply(answer, conversation=arrived["conversation"])
    journey.wait_for_one("send", text=answer, seconds=30)
    assert journey.seen("interaction", text=waiting) == []
    swap(journey, lost)
    journey.wait_for_one("interaction", text=waiting, seconds=60)
