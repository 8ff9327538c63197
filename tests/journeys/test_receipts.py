"""What became of a rep's message reaches the rep, from an Infobip that signs no report, also while many are written."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from connector.events import MARK
from tests.journeys.conftest import Journey

RATE = 100  # replies a second
SECONDS = 3
USERS = [f"38598{n:07d}" for n in range(50)]
UNREACHABLE = USERS[:10]  # they last wrote too long ago


@pytest.fixture(autouse=True)
def unsigned(journey: Journey) -> Iterator[None]:
    journey.call("POST", "/control/reports", {"toMessage": "unsigned", "toSubscription": False})
    yield


def test_ticks_read_marks_and_failures_all_come_at_a_hundred_replies_a_second(journey: Journey) -> None:
    hello = f"hello {uuid4()}"
    results = [whatsapp_text(journey, user, hello) for user in USERS]
    journey.call("POST", "/control/phone/batch", {"account": "main", "org": journey.acme.org, "results": results})
    opened = journey.wait_for("interaction", len(USERS), text=hello, status=202, seconds=30)
    conversations = {entry["from"]: entry["conversation"] for entry in opened}
    for user in UNREACHABLE:
        journey.call("POST", "/control/phone/window/close", {"org": journey.acme.org, "user": user})

    written, began = dict[str, str](), time.monotonic()  # entry: end user
    for n in range(RATE * SECONDS):
        time.sleep(max(0.0, began + n / RATE - time.monotonic()))
        user = USERS[n % len(USERS)]
        written[journey.reply(f"reply {n:03d}", conversation=conversations[user])] = user

    reached = {entry for entry, user in written.items() if user not in UNREACHABLE}
    failed = journey.wait_for("failure_report", len(written) - len(reached), seconds=60)
    assert {each["id"] for each in failed} == written.keys() - reached
    read = [each["id"] for each in journey.wait_for("acknowledgement", len(reached), text="Read", seconds=60)]
    assert sorted(read) == sorted(reached)
    # a reply that is read before it could be told that it arrived has the second tick only
    delivered = [each["id"] for each in journey.seen("acknowledgement", text="Delivered")]
    assert len(set(delivered)) == len(delivered) > len(reached) / 2 and set(delivered) <= reached
    for user in UNREACHABLE:
        lines = [each["text"] for each in journey.wait_for("interaction", 1 + SECONDS * RATE // len(USERS), sender=user)]
        assert [line for line in lines if not line.startswith(f"{MARK} Not delivered: “reply ")] == [hello]


def whatsapp_text(journey: Journey, user: str, text: str) -> dict[str, object]:
    """One result of a webhook."""
    return {
        "from": user,
        "to": journey.acme.sender,
        "integrationType": "WHATSAPP",
        "receivedAt": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}.000+0000",
        "messageId": f"wamid.{uuid4()}",
        "message": {"type": "TEXT", "text": text},
        "contact": {"name": "Ana"},
    }
