"""Whatever platforms send by chance: no exception, no lost neighbour, no lost words. For long runs see support/fuzz.py."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID, uuid4

import pytest
import responses
from django.test import Client
from django.utils import timezone

from connector.events import MARK, MessageReceived, ReplyWritten, Text, UnexpectedPayload
from connector.infobip import conversations, webhooks
from connector.infobip.client import InfobipClient
from connector.salesforce.platform_events import PlatformEvent, Topic, parse_event
from messaging.intake import StreamBatch, receive_stream_batches, take_inbox
from messaging.models import EventSubscription, Handover, Inbox, Message, ReceivedEvent
from tenants.tenancy import every_org
from tests.conftest import World, reply_record, whatsapp_text
from tests.payloads import load, names
from tests.support import fuzz
from tests.support.odd import replaced

NOW = datetime(2026, 3, 2, 8, 30, tzinfo=UTC)
TOPIC = Topic("/event/Infobip_Event__e", "00D5g00000ABcDE", "EventType__c", "Payload__c")
NUMBER = "447700900123"  # a sender of acme's, and that of the recordings
MARKED = (f"{MARK} More was sent than can be shown here", "this kind of message cannot be shown")

# recording -> where the content is, and the three fields without which nobody can tell whose it is
FORMS: dict[str, tuple[tuple[str, ...], set[tuple[str, ...]]]] = {
    **{f"whatsapp/{name}": (("message",), {("from",), ("to",), ("messageId",)}) for name in names("infobip/whatsapp")},
    **{
        f"messages_api/{name}": (("content",), {("sender",), ("destination",), ("messageId",)})
        for name in names("infobip/messages_api")
        if name != "typing_started"
    },
    "notices/conversation_message": (
        ("payload", "message", "content"),
        {("payload", "message", each) for each in ("from", "to", "messageId")},
    ),
}
# what says which form it is, or that it is no message
DISPATCH = {
    *(("event",), ("integrationType",), ("type",), ("status",), ("seenAt",), ("payload",)),
    *(("payload", "message"), ("payload", "message", "channel"), ("message",), ("content",)),
}


def inside(value: Any, place: tuple[Any, ...]) -> Any:
    for step in place:
        value = value[step]
    return value


def marked(text: str) -> bool:
    return any(each in text for each in MARKED)


# results of webhooks


def make_message(random: Random) -> dict[str, Any]:
    """Make a message with odd side fields and an odd content, in any form; what it holds of words is known by then."""
    name = random.choice(sorted(FORMS))
    place, needed = FORMS[name]
    (result,) = webhooks.results_of(load(f"infobip/{name}"))
    content = fuzz.mutated(random, fuzz.with_words(random, inside(result, place)), most=3)
    kept = DISPATCH | needed
    # no field that is added at the top may make it another form, or a report
    result = fuzz.mutated(random, result, keep=lambda at: at in kept or at[: len(place)] == place or len(at) < 2)
    made = replaced(result, place, content)
    return {"name": name, "result": made}


def reads_all_words(example: dict[str, Any]) -> None:
    name, result = example["name"], example["result"]
    event = webhooks.parse_result(result, received_at=NOW)
    assert isinstance(event, MessageReceived)
    said = fuzz.words_in(inside(result, FORMS[name][0]))
    assert marked(event.text) or not (lost := {word for word in said if word not in event.text}), f"lost: {lost}"


def test_no_word_of_a_message_is_lost_whatever_stands_beside_it() -> None:
    fuzz.check("words", reads_all_words, make_message, examples=800)


def make_result(random: Random) -> Any:
    folder = random.choice(("whatsapp", "messages_api", "reports", "notices"))
    name = random.choice(names(f"infobip/{folder}"))
    (result,) = webhooks.results_of(load(f"infobip/{folder}/{name}"))
    return fuzz.mutated(random, {"result": result}, most=6)


def is_read_or_refused(example: Any) -> None:
    result = example.get("result")
    assert len(webhooks.key_of(result)) <= 300
    assert isinstance(webhooks.business_number(result), str)
    assert isinstance(webhooks.reported_message(result), UUID | None)
    try:
        webhooks.parse_result(result, received_at=NOW)
    except UnexpectedPayload as exc:
        assert exc.__cause__ is None, "refused by a net for our own mistakes"


def test_no_result_raises_anything_but_that_it_cannot_be_read() -> None:
    fuzz.check("results", is_read_or_refused, make_result, examples=1500)


# deliveries and streams, into the ledger


@pytest.fixture
def see_every_org(db: None) -> Iterator[None]:
    with every_org():
        yield


def make_delivery(random: Random) -> dict[str, Any]:
    """Make a delivery of odd results, each of an id of its own, with good ones between."""
    results: list[Any] = []
    for _ in range(random.randint(1, 4)):
        name = random.choice(sorted(FORMS))
        place, _needed = FORMS[name]
        (result,) = webhooks.results_of(load(f"infobip/{name}"))
        result = replaced(result, place, fuzz.with_words(random, inside(result, place)))
        owner = ("payload", "message") if place[0] == "payload" else ()
        for field in ("messageId", "id")[: 1 + len(owner)]:
            result = replaced(result, (*owner, field), f"wamid.{random.getrandbits(60):x}")
        results.append(fuzz.mutated(random, {"result": result}).get("result"))
        results.append(whatsapp_text(fuzz.word(random), to=NUMBER, message_id=f"wamid.{random.getrandbits(60):x}"))
    return {"results": results, "broken": random.choice(("", "", "\xff", "nonsense", "9" * 5000, "[" * 400 + "]" * 400))}


def body_of(delivery: dict[str, Any]) -> bytes:
    """Write a delivery as it would be posted, with something in front that is not JSON."""
    results = [json.dumps(each).encode() for each in delivery["results"]]
    return b'{"results": [' + b",".join([delivery["broken"].encode("latin-1")] * bool(delivery["broken"]) + results) + b"]}"


def test_no_neighbour_of_an_odd_result_and_no_word_is_lost(acme: World, see_every_org: None) -> None:
    deliveries = [make_delivery(Random(f"deliveries {fuzz.SEED} {n}")) for n in range(fuzz.EXAMPLES // 20 or 60)]
    for each in deliveries:
        Inbox.objects.create(org_id=acme.org.pk, account_id=acme.account.pk, body=body_of(each))
    while take_inbox().taken:
        pass
    assert not Inbox.objects.exists()
    read = "\n".join(Message.objects.values_list("text", flat=True))
    odd = [bytes(each) for each in ReceivedEvent.objects.exclude(problem="").values_list("body", flat=True)]
    not_for_reps = ReceivedEvent.objects.filter(
        kind__regex="^(conversation|template|on its way|the answer|Receipt)", problem=""
    )
    kept = b"\n".join([*odd, *(bytes(each) for each in not_for_reps.values_list("body", flat=True))]).decode(
        errors="replace"
    )
    keys = [f"message:{each.source_entry}" for each in Message.objects.all() if marked(each.text)]
    cut_short = b"".join(map(bytes, ReceivedEvent.objects.filter(key__in=keys).values_list("body", flat=True))).decode()
    for delivery in deliveries:
        for result in delivery["results"][1::2]:
            assert result["message"]["text"] in read, f"FUZZ_SEED={fuzz.SEED}: a neighbour is lost beside {delivery}"
        for result in delivery["results"][::2]:
            for said in fuzz.words_in(result):
                assert said in read or said in kept or said in cut_short, f"FUZZ_SEED={fuzz.SEED}: {said} in {result}"


def make_events(random: Random) -> list[dict[str, Any]]:
    """Make platform events of which every second one is a rep's good one."""
    made: list[dict[str, Any]] = []
    for _ in range(random.randint(1, 4)):
        event = load(f"salesforce/events/{random.choice(names('salesforce/events'))}")
        odd = fuzz.mutated(random, {"event": event}, keep=lambda at: at == ("event",))["event"]
        payload = odd.get("Payload__c")
        made.append({**odd, "Payload__c": json.dumps(payload) if random.random() < 0.9 else payload})
    return made


def test_no_neighbour_of_an_odd_platform_event_is_lost(acme: World, see_every_org: None) -> None:
    subscription = EventSubscription.objects.create(
        org=acme.org, topic="/event/Infobip_Event__e", since=timezone.now() - timedelta(hours=1), lease_id=uuid4()
    )
    assert subscription.lease_id is not None
    said: list[str] = []
    for n in range(fuzz.EXAMPLES // 20 or 60):
        random, events = Random(f"events {fuzz.SEED} {n}"), []
        for odd in make_events(random):
            said.append(fuzz.word(random))
            good = reply_record(acme, said[-1], entry=str(uuid4()))
            ids = [random.choice((str(uuid4()), "")) for _ in range(2)]
            events += [PlatformEvent(ids[0], b"raw", odd), PlatformEvent(ids[1], json.dumps(good).encode(), good)]
        place = StreamBatch(
            acme.org.pk, subscription.pk, subscription.lease_id, subscription.since, TOPIC, events, f"place {n}".encode()
        )
        assert receive_stream_batches([place])[0] == {subscription.pk}
    assert set(said) <= set(Message.objects.values_list("text", flat=True)), f"FUZZ_SEED={fuzz.SEED}"


def make_reply(random: Random) -> dict[str, Any]:
    name = random.choice([each for each in names("salesforce/events") if each.startswith("text")])
    event = load(f"salesforce/events/{name}")
    return {"event": fuzz.mutated(random, event, most=5), "name": name}


def test_what_a_rep_wrote_is_sent_as_written_or_known_not_to_be() -> None:
    def promise(example: dict[str, Any]) -> None:
        decoded = example["event"]
        event = PlatformEvent("e-1", b"", {**decoded, "Payload__c": json.dumps(decoded.get("Payload__c"))})
        try:
            parsed = parse_event(event, TOPIC)
        except UnexpectedPayload as exc:
            assert exc.__cause__ is None, "refused by a net for our own mistakes"
            return
        if isinstance(parsed, ReplyWritten) and isinstance(parsed.content, Text):
            assert parsed.content.body.strip() and json.dumps(parsed.content.body)[1:-1] in json.dumps(decoded).replace(
                "\\u0000", ""
            )

    fuzz.check("replies", promise, make_reply, examples=1000)


# transcripts

KEPT_OF_LINES = {("id",), ("direction",), ("authorType",), ("contentType",)}


def make_transcript(random: Random) -> dict[str, Any]:
    messages: list[Any] = []
    for n, each in enumerate(load(f"infobip/transcripts/{random.choice(('messages', 'published'))}")["messages"]):
        odd = {**each, "id": f"odd-{n}", "content": fuzz.with_words(random, each["content"])}
        odd = fuzz.mutated(random, odd, most=3, keep=KEPT_OF_LINES.__contains__)
        good = {**each, "id": f"good-{n}", "contentType": "TEXT", "content": {"text": fuzz.word(random)}}
        messages += [odd, good, random.choice(({}, None, 7, "text", [], {"id": None}))]
    return {"messages": messages, "pagination": random.choice(({"totalItems": len(messages)}, None, {}, []))}


def test_no_line_and_no_word_of_a_transcript_is_lost() -> None:
    client = InfobipClient(base_url="https://xyz.api.infobip.com", api_key="k", allow_local=False)

    def promise(page: dict[str, Any]) -> None:
        def answer(_: Any) -> tuple[int, dict[str, str], str]:
            return 200, {}, json.dumps(page)

        with responses.RequestsMock() as wire:
            wire.add_callback("GET", "https://xyz.api.infobip.com/ccaas/1/conversations/c/messages", answer)
            shown = {line.id: line.text for _, line in conversations.read_page(client, "c", 0).lines}
        for each in page.get("messages", []):
            if isinstance(each, dict) and str(each.get("id")).startswith(("odd-", "good-")):
                text = shown.get(each["id"], "")
                said = fuzz.words_in(each.get("content"))
                assert marked(text) or all(word in text for word in said), f"lost of {each['id']}: {said} in {text!r}"

    fuzz.check("transcripts", promise, make_transcript, examples=150)


# hand-over calls


def make_call(random: Random) -> Any:
    call = {**load("infobip/calls/hand_over"), "language": "en", "topic": fuzz.word(random), "order": 2291}
    return fuzz.mutated(random, {"call": call}, most=5)


@pytest.mark.parametrize("path", ["own", "bare"])
def test_no_call_of_a_chatbot_raises_and_a_good_one_is_taken_afterwards(
    acme: World, see_every_org: None, path: str
) -> None:
    acme.account.handover_token = "t-acme"
    acme.account.save()
    address = "/api/infobip/inbound/answers" + (f"/{acme.account.uuid}" if path == "own" else "")

    def post(body: Any) -> int:
        headers = {"X-Connector-Token": "t-acme"}
        return Client().post(address, json.dumps(body), content_type="application/json", headers=headers).status_code

    def promise(example: Any) -> None:
        assert post(example.get("call")) in ((200, 400) if path == "own" else (400, 401))

    fuzz.check("calls", promise, make_call, examples=40)
    if path == "own":
        assert post({**load("infobip/calls/hand_over"), "conversationId": "the-good-one"}) == 200
        assert Handover.objects.filter(infobip_conversation="the-good-one").count() == 1
