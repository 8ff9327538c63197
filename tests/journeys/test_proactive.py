"""A customer's system opens a conversation: the template reaches the phone, and a rep has the session."""

from typing import Any
from uuid import uuid4

import requests

from tests.journeys.conftest import Company, Journey

BORIS = "385981112223"  # who has never written


def open_conversation(journey: Journey, token: str, key: str, **more: Any) -> requests.Response:
    return requests.post(
        f"{journey.stack.web_url}/api/v1/conversations",
        json={"sender": journey.acme.sender, "to": BORIS, "name": "Boris Kovač", **more},
        headers={"Authorization": f"Bearer {token}", "Idempotency-Key": key},
        timeout=20,
    )


def make_token(journey: Journey, company: Company) -> str:
    return journey.stack.manage("make_api_token", company.org, "Order reminders").strip()


def test_a_template_reaches_who_never_wrote_and_a_rep_has_the_session(journey: Journey) -> None:
    token, key = make_token(journey, journey.acme), str(uuid4())
    template = {"name": "order_update", "language": "en_GB", "placeholders": ["Boris", "2291"]}
    answers = journey.at_once([lambda: open_conversation(journey, token, key, template=template)] * 5)
    assert {answer.status_code for answer in answers} <= {201, 409, 429}
    answer = open_conversation(journey, token, key, template=template)
    assert answer.status_code == 201, answer.text
    opened = answer.json()
    assert opened["sessionId"].startswith("0Mw") and "warning" not in opened

    shown = journey.wait_for_one("shown", to=BORIS, id=opened["messageId"])
    assert shown["text"] == "order_update"
    assert len(journey.seen("send", to=BORIS)) == 1

    # what the end user answers comes into the same conversation, and the rep's answer leaves
    reply = f"Thank you {uuid4()}"
    journey.write(reply, user=BORIS)
    assert journey.wait_for_one("interaction", text=reply)["conversation"] == opened["conversationId"]
    journey.reply("You are welcome", conversation=opened["conversationId"])
    sent = journey.wait_for_one("send", text="You are welcome")
    assert (sent["from"], sent["to"]) == (journey.acme.sender, BORIS)


def test_another_companys_token_opens_nothing(journey: Journey) -> None:
    answer = open_conversation(journey, make_token(journey, journey.rival), str(uuid4()))
    assert answer.status_code == 404
