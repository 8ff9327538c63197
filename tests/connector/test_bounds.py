"""What one message or delivery can cost is bounded, whatever it holds: everybody's messages wait while it is read."""

import json
import time
from typing import Any

import pytest

from connector.infobip.content import LONGEST_TEXT, MESSAGES_API_KINDS, MORE, WHATSAPP_KINDS, bounded, line_of
from connector.infobip.deliveries import Unread, take_apart
from connector.infobip.webhooks import MOST_RESULTS

SECONDS = 0.5  # on a machine that is busy

FORM: Any = {f"a{n}": n for n in range(100_000)}
LONG = "a" * 100_000
CARD = {"name": {"formattedName": LONG}, "emails": [{"email": "aa"}] * 5_000}
COSTLY: dict[str, dict[str, Any]] = {
    "a long name of many fields": {"type": "FLOW_RESPONSE", "response": {"K" * 100_000: FORM}},
    "the beginnings of words": {"type": "TEXT", "text": LONG, "values": ["a" * (1 + n % 50) for n in range(5_000)]},
    "the same short text": {"type": "TEXT", "text": LONG, "values": ["aa"] * 5_000},
    "cards": {"type": "CONTACT", "contacts": [CARD]},
}


@pytest.mark.parametrize("content", COSTLY.values(), ids=COSTLY)
@pytest.mark.parametrize("kinds", [WHATSAPP_KINDS, MESSAGES_API_KINDS], ids=["whatsapp", "messages api"])
def test_a_message_is_read_in_no_time(content: dict[str, Any], kinds: Any) -> None:
    began = time.process_time()
    text = line_of(content, kinds)
    assert time.process_time() - began < SECONDS
    assert len(text) <= len(json.dumps(content)) + 50_000


def test_of_a_longer_message_than_anybody_writes_the_rest_is_mentioned() -> None:
    assert bounded("x" * LONGEST_TEXT) == "x" * LONGEST_TEXT
    assert bounded("x" * (LONGEST_TEXT + 1)) == f"{'x' * LONGEST_TEXT}\n{MORE}"


def test_of_a_form_with_more_fields_than_any_has_the_rest_is_mentioned() -> None:
    text = line_of({"type": "FLOW_RESPONSE", "response": FORM}, MESSAGES_API_KINDS)
    assert "a0: 0" in text and text.endswith(MORE)


def test_a_delivery_of_too_many_results_is_not_taken_apart() -> None:
    body = b'{"results":[' + b",".join([b"[]"] * 200_000) + b',"\xff"]}'
    began = time.process_time()
    (whole,) = take_apart(body)
    assert time.process_time() - began < SECONDS and isinstance(whole, Unread)
    assert len(take_apart(b'{"results":[' + b",".join([b"1"] * MOST_RESULTS) + b',"\xff"]}')) == 1
