"""Text from a phone to the Service Console and back, through all processes."""

import time
from uuid import uuid4

from tests.journeys.conftest import Journey


def test_text_goes_both_ways_and_its_receipts_come_back(journey: Journey) -> None:
    hello = f"Where is my order? {uuid4()}"
    answers = journey.write(hello)["answers"]
    assert [answer["status"] for answer in answers] == [200]
    arrived = journey.wait_for_one("interaction", text=hello)
    assert arrived["status"] == 202 and arrived["from"] == "385991234567"

    entry = journey.reply("One moment 👋", conversation=arrived["conversation"])
    sent = journey.wait_for_one("send", text="One moment 👋")
    assert (sent["from"], sent["to"], sent["status"]) == (journey.acme.sender, "385991234567", 200)
    ticks = journey.wait_for("acknowledgement", 2, id=entry)
    assert [tick["text"] for tick in ticks] == ["Delivered", "Read"]


def test_the_same_webhook_five_times_at_once_is_one_message(journey: Journey) -> None:
    text = f"only once {uuid4()}"
    answers = journey.write(text, copies=5)["answers"]
    assert [answer["status"] for answer in answers] == [200] * 5
    journey.wait_for_one("interaction", text=text)
    time.sleep(1)
    assert len(journey.seen("interaction", text=text)) == 1


def test_a_batch_of_two_hundred_results_of_twenty_users_arrives_whole_and_in_order(journey: Journey) -> None:
    users = [f"38591{n:07d}" for n in range(20)]
    results = [
        {
            "from": users[n % 20],
            "to": journey.acme.sender,
            "integrationType": "WHATSAPP",
            "receivedAt": f"2026-03-02T08:15:{n // 10:02d}.{n % 10}00+0000",
            "messageId": f"wamid.{uuid4()}",
            "message": {"type": "TEXT", "text": f"batch {n:03d}"},
            "contact": {"name": "Ana"},
            "price": {"pricePerMessage": 0, "currency": "EUR"},
        }
        for n in range(200)
    ]
    body = {"account": "main", "org": journey.acme.org, "results": results}
    journey.call("POST", "/control/phone/batch", body)
    for user in users:
        arrived = journey.wait_for("interaction", 10, sender=user)
        assert [entry["text"] for entry in arrived] == [f"batch {n:03d}" for n in range(users.index(user), 200, 20)]


def test_fifty_conversations_of_forty_messages_arrive_in_order(journey: Journey) -> None:
    users = [f"38592{n:07d}" for n in range(50)]

    def talk(some: list[str]) -> None:
        for n in range(40):
            for user in some:
                journey.write(f"{user} {n:02d}", user=user)

    journey.at_once([lambda some=users[i::5]: talk(some) for i in range(5)])  # type: ignore[misc]
    expected = {user: [f"{user} {n:02d}" for n in range(40)] for user in users}
    end = time.monotonic() + 60
    while True:
        arrived: dict[str, list[str]] = {user: [] for user in users}
        for entry in journey.seen("interaction"):
            if entry["from"] in arrived:
                arrived[entry["from"]].append(entry["text"])
        if sum(map(len, arrived.values())) >= 2000 or time.monotonic() > end:
            break
        time.sleep(0.2)
    assert arrived == expected


def test_the_same_number_writing_to_two_companies_does_not_cross(journey: Journey) -> None:
    to_acme, to_rival = f"to acme {uuid4()}", f"to rival {uuid4()}"
    journey.write(to_acme, company=journey.acme)
    journey.write(to_rival, company=journey.rival)
    at_acme = journey.wait_for_one("interaction", text=to_acme)
    at_rival = journey.wait_for_one("interaction", text=to_rival)
    assert (at_acme["org"], at_rival["org"]) == (journey.acme.org, journey.rival.org)

    journey.reply("from acme", conversation=at_acme["conversation"], company=journey.acme)
    journey.reply("from rival", conversation=at_rival["conversation"], company=journey.rival)
    assert journey.wait_for_one("send", text="from acme")["from"] == journey.acme.sender
    assert journey.wait_for_one("send", text="from rival")["from"] == journey.rival.sender


def test_a_long_reply_arrives_in_parts_and_is_acknowledged_once(journey: Journey) -> None:
    conversation = journey.conversation()
    words = " ".join(f"{uuid4().hex[:4]}{n}" for n in range(1100))
    assert 4096 < len(words) < 8192 + 4096
    before = len(journey.seen("send"))
    entry = journey.reply(words, conversation=conversation)
    ticks = journey.wait_for("acknowledgement", 1, id=entry, text="Read")
    parts = [sent["text"] for sent in journey.seen("send")][before:]
    assert " ".join(parts) == words and all(len(part) <= 4096 for part in parts)
    assert len(ticks) == 1


def test_an_image_reaches_the_rep_as_a_line(journey: Journey) -> None:
    caption = f"The broken part {uuid4()}"
    message = {"type": "IMAGE", "url": "https://xyz.api.infobip.com/whatsapp/1/senders/1/media/2", "caption": caption}
    journey.call(
        "POST",
        "/control/phone/messages",
        {"from": "385991234567", "to": journey.acme.sender, "name": "Ana", "message": message},
    )
    journey.wait_for_one("interaction", text=f"\u25b8 Image: {caption}")


def test_the_messages_api_form_is_taken_too(journey: Journey) -> None:
    journey.call("POST", "/control/reports", {"delivered": 0.05, "seen": 0.1, "auto": True, "form": "messages-api"})
    try:
        text = f"other form {uuid4()}"
        journey.write(text, form="messages-api")
        conversation = journey.wait_for_one("interaction", text=text)["conversation"]
        entry = journey.reply("noted", conversation=conversation)
        journey.wait_for("acknowledgement", 2, id=entry)
    finally:
        journey.call("POST", "/control/reports", {"delivered": 0.05, "seen": 0.1, "auto": True, "form": "whatsapp"})


def test_an_event_that_cannot_be_read_does_not_stop_the_stream(journey: Journey) -> None:
    conversation = journey.conversation()
    for payload in ("{", "[]", '{"payload": 7}'):
        journey.call(
            "POST",
            "/control/events",
            {"org": journey.acme.org, "event": {"EventType": "Interaction", "Payload": payload}},
        )
    journey.reply("still here", conversation=conversation)
    journey.wait_for_one("send", text="still here")
