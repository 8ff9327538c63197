"""A chatbot hands over to a rep, through all processes and both platforms."""

import time
from typing import Any
from uuid import uuid4

from connector.events import MARK
from devstack.stack import Stack
from tests.journeys.chatting import (
    BEGIN,
    CLOSING,
    END,
    WELCOME,
    Chat,
    begin,
    hand_over,
    sent,
    told,
    wait_for_end_of_transcript,
)

KINDS: list[tuple[str, dict[str, Any], str]] = [
    ("TEXT", {"text": "word {n}"}, "word {n}"),
    ("IMAGE", {"url": "https://example.com/{n}", "caption": "photo {n}"}, f"{MARK} Image: photo {{n}} https://example.com/{{n}}"),
    ("VOICE", {"url": "https://example.com/{n}"}, f"{MARK} Voice message: https://example.com/{{n}}"),
    ("LOCATION", {"latitude": 45.8, "longitude": 15.9, "locationName": "P {n}"}, f"{MARK} Location: P {{n}} (45.8, 15.9)"),
    ("INTERACTIVE_BUTTON_REPLY", {"title": "choice {n}", "id": "1"}, "choice {n}"),
    ("SOMETHING_NEW", {"of": "{n}"}, f"{MARK} Something new: this kind of message cannot be shown"),
]  # fmt: skip


def test_three_hundred_lines_of_all_kinds_arrive_in_order_and_what_is_written_meanwhile_after_them(chat: Chat) -> None:
    journey, bot, user = chat
    messages: list[dict[str, Any]] = []
    expected: list[str] = []
    for n in range(300):
        kind, content, shown = KINDS[n % len(KINDS)]
        filled = {key: value.format(n=n) if isinstance(value, str) else value for key, value in content.items()}
        author = "BOT" if n % 3 == 1 else "CUSTOMER"
        messages.append({"author": author, "type": kind, "content": filled, "secondsAgo": 400 - n})
        line = shown.format(n=n)
        expected.append(f"{MARK} Bot: {line}" if author == "BOT" else line)
    conversation = begin(chat, messages)
    answers = hand_over(chat, conversation, copies=5)
    assert [answer["status"] for answer in answers] == [200] * 5
    assert sorted(answer["body"]["status"] for answer in answers) == ["accepted", *["already accepted"] * 4]
    live: list[str] = []
    while not journey.seen("interaction", sender=user, text=END):
        live.append(f"are you there? {len(live)}")
        journey.write(live[-1], user=user, company=bot)
        time.sleep(0.4)
        assert len(live) < 100
    journey.wait_for_one("interaction", sender=user, text=live[-1])
    seen = told(chat)
    # what was written before the conversation was known to be genuine still belongs to the transcript
    assert seen.index(END) >= 301 and seen.count(END) == 1
    assert [text for text in seen if text != END] == [BEGIN, *expected, *live]


def test_menu_hand_over_answer_and_end_with_welcome_and_closing_once(chat: Chat) -> None:
    journey, bot, user = chat
    journey.write("Hi", user=user, company=bot)
    journey.wait_until(lambda: bool(journey.seen("conversation_event", sender=user)))
    time.sleep(0.5)
    assert told(chat) == []  # the chatbot has it
    journey.write("Talk to a person", user=user, company=bot)
    session = wait_for_end_of_transcript(chat)
    assert told(chat)[:2] == [BEGIN, "Hi"] and "Talk to a person" in told(chat)
    journey.wait_for_one("send", to=user, text=WELCOME)
    journey.write("It is about my order", user=user, company=bot)
    journey.wait_for_one("interaction", sender=user, text="It is about my order")
    journey.reply("What is its number?", conversation=session["conversation"], company=bot)
    journey.wait_for_one("send", to=user, text="What is its number?")

    journey.call("POST", "/control/console/end", {"session": session["session"]})
    journey.wait_for_one("send", to=user, text=CLOSING)
    closed = journey.wait_for_one("conversation_closed", org=bot.org)
    assert closed["seq"] > sent(chat, CLOSING)[0]["seq"]
    before = len(told(chat))
    journey.write("Hello again", user=user, company=bot)
    time.sleep(1.5)
    assert len(told(chat)) == before  # the chatbot has it again
    assert len(sent(chat, WELCOME)) == len(sent(chat, CLOSING)) == 1

    journey.write("Talk to a person", user=user, company=bot)
    journey.wait_until(lambda: told(chat).count(END) == 2, seconds=30)
    assert told(chat).count("Hi") == 1 and told(chat).count("Hello again") == 1


def test_a_worker_that_dies_in_the_middle_costs_no_line_and_doubles_none(chat: Chat, stack: tuple[Stack, Any]) -> None:
    journey, _, _ = chat
    lines = [{"text": f"line {n:03d}", "secondsAgo": 200 - n} for n in range(120)]
    hand_over(chat, begin(chat, lines))
    journey.wait_until(lambda: len(told(chat)) > 20, seconds=30)
    stack[0].kill("worker")
    wait_for_end_of_transcript(chat, seconds=60)
    expected = [BEGIN, *(line["text"] for line in lines), END]
    shown = told(chat)
    once = list(dict.fromkeys(shown))
    assert once == expected
    assert len(shown) - len(once) <= 1  # the one call that was under way


def test_a_conversation_of_somebody_else_is_not_shown(chat: Chat) -> None:
    journey, _, _ = chat
    conversation = begin(chat, [{"text": "my secrets", "secondsAgo": 60}])
    body = {"conversationId": conversation, "senderNumber": "15550001111"}
    assert hand_over(chat, conversation, body=body)[0]["status"] == 200
    assert hand_over(chat, conversation, token="wrong")[0]["status"] == 401
    time.sleep(13)
    assert told(chat) == [] and journey.seen("interaction", sender="15550001111") == []


def test_a_minute_without_infobip_delays_the_transcript_and_loses_nothing(chat: Chat) -> None:
    journey, bot, user = chat
    conversation = begin(chat, [{"text": "Hi", "secondsAgo": 60}, {"text": "A person, please", "secondsAgo": 30}])
    journey.call("POST", "/control/faults", {"where": "conversations", "what": "status", "status": 503, "org": bot.org})
    hand_over(chat, conversation)
    journey.write("are you there?", user=user, company=bot)
    time.sleep(60)
    assert told(chat) == []
    journey.call("DELETE", "/control/faults")
    wait_for_end_of_transcript(chat, seconds=60)
    journey.wait_until(lambda: "are you there?" in told(chat))
    assert told(chat)[:3] == [BEGIN, "Hi", "A person, please"] and len(told(chat)) == 5


def test_a_transfer_between_reps_is_no_end_and_an_end_without_an_event_is_found(chat: Chat) -> None:
    journey, bot, user = chat
    journey.call("POST", "/control/chatbot", {"org": bot.org, "queues": True, "tellsEnd": False})
    hand_over(chat, begin(chat, [{"text": "Hi", "secondsAgo": 60}]))
    session = wait_for_end_of_transcript(chat)["session"]
    journey.write("hello?", user=user, company=bot)  # opens the 24-hour window as we know it
    journey.call("POST", "/control/console/accept", {"session": session})
    journey.call("POST", "/control/console/transfer", {"session": session})
    time.sleep(6)
    assert sent(chat, CLOSING) == []
    journey.call("POST", "/control/console/end", {"session": session})
    journey.wait_for_one("send", to=user, text=CLOSING, seconds=20)
    time.sleep(1)
    assert len(sent(chat, CLOSING)) == 1


def test_salesforces_own_history_is_used_where_the_org_permits_it_and_the_lane_where_not(
    chat: Chat, stack: tuple[Stack, Any]
) -> None:
    journey, bot, user = chat
    native = f"""
from tenants.models import Channel, SalesforceConnection
from tenants.tenancy import every_org
with every_org():
    Channel.objects.filter(org__salesforce_id="{bot.org}").update(transcript="native")
    SalesforceConnection.objects.filter(org__salesforce_id="{bot.org}").update(history_refused_at=None)
"""
    stack[0].manage("shell", "-c", native)
    lines = [{"author": "BOT" if n % 2 else "CUSTOMER", "text": f"line {n:02d}", "secondsAgo": 90 - n} for n in range(12)]
    try:
        journey.call("POST", "/control/chatbot", {"org": bot.org, "takesHistory": True})
        hand_over(chat, begin(chat, lines))
        journey.wait_for("history", 12, seconds=30, org=bot.org)
        journey.write("and now?", user=user, company=bot)
        journey.wait_for_one("interaction", sender=user, text="and now?")
        assert told(chat) == ["and now?"]
        entries = sorted(journey.seen("history", org=bot.org), key=lambda entry: entry["timestamp"])
        assert [(e["role"], e["text"]) for e in entries] == [
            ("Chatbot" if n % 2 else "EndUser", f"line {n:02d}") for n in range(12)
        ]

        journey.call("POST", "/control/chatbot", {"org": bot.org, "takesHistory": False})
        other = (journey, bot, f"38596{uuid4().int % 10**7:07d}")
        hand_over(other, begin(other, lines))
        wait_for_end_of_transcript(other)
        assert len(told(other)) == 14
    finally:
        stack[0].manage("shell", "-c", native.replace('"native"', '"lines"'))


def test_messages_that_wait_when_the_session_ends_are_not_lost(chat: Chat) -> None:
    journey, bot, user = chat
    hand_over(chat, begin(chat, [{"text": "Hi", "secondsAgo": 60}]))
    session = wait_for_end_of_transcript(chat)["session"]
    journey.call("POST", "/control/faults", {"where": "interactions", "what": "status", "status": 503, "org": bot.org})
    texts = [f"still waiting {n}" for n in range(3)]
    for text in texts:
        journey.write(text, user=user, company=bot)
    time.sleep(0.5)
    journey.call("POST", "/control/console/end", {"session": session})
    journey.wait_for_one("send", to=user, text=CLOSING)
    journey.call("DELETE", "/control/faults")
    journey.wait_for_one("interaction", sender=user, text=texts[-1], seconds=40)
    assert told(chat)[-3:] == texts
    sessions = {entry["session"] for entry in journey.seen("interaction", sender=user) if entry["text"] in texts}
    assert len(sessions) == 1 and session not in sessions  # they opened another one
    journey.write("and this", user=user, company=bot)
    journey.wait_for_one("interaction", sender=user, text="and this")
