"""Whatever breaks, what was accepted arrives once and in order, without anybody's help."""

import time
from uuid import uuid4

import pytest

from devstack.documents import example_documents
from tests.journeys.conftest import Journey, move_in


def test_expired_tokens_are_renewed_with_one_login_each(journey: Journey) -> None:
    conversation = journey.conversation()
    journey.call("POST", "/control/tokens/expire")
    texts = [f"after expiry {n} {uuid4()}" for n in range(10)]
    for n, text in enumerate(texts):
        journey.write(text, user=f"38593{n:07d}")
    for text in texts:
        journey.wait_for_one("interaction", text=text, status=202)
    journey.reply("with a new token", conversation=conversation)
    journey.wait_for_one("send", text="with a new token")
    # one login for the worker and the subscriber together
    assert len(journey.seen("login", org=journey.acme.org, status=200)) == 1


def test_a_stream_outlives_a_shared_token_that_was_revoked_as_well(journey: Journey) -> None:
    """The worker's newer token is refused too: that is no reason to take the customer's set-up for broken."""
    conversation = journey.conversation()
    journey.call("POST", "/control/tokens/expire")
    text = f"the worker logs in {uuid4()}"
    journey.write(text)
    journey.wait_for_one("interaction", text=text, status=202)
    journey.call("POST", "/control/tokens/expire")
    journey.call("POST", "/control/streams/cut")
    reply = f"after both {uuid4()}"
    journey.reply(reply, conversation=conversation)
    journey.wait_for_one("send", text=reply, seconds=10)


def test_a_refused_token_is_replaced_within_the_call(journey: Journey) -> None:
    text = f"401 first {uuid4()}"
    journey.conversation()
    journey.call("POST", "/control/faults", {"where": "interactions", "what": "status", "status": 401, "count": 1})
    journey.write(text)
    arrived = journey.wait_for_one("interaction", text=text, status=202)
    assert arrived["org"] == journey.acme.org


@pytest.mark.parametrize(
    "fault",
    [
        {"what": "status", "status": 500, "code": 500},
        {"what": "status", "status": 400, "code": 10055},
        {"what": "success_false", "code": 10055},
        {"what": "timeout_before"},
    ],
    ids=["500", "10055", "success false", "no answer"],
)
def test_a_failing_salesforce_gets_the_message_later(journey: Journey, fault: dict[str, object]) -> None:
    text, after = f"held up {uuid4()}", f"behind it {uuid4()}"
    journey.conversation()
    journey.call("POST", "/control/faults", {"where": "interactions", "count": 1, **fault})
    journey.write(text)
    journey.write(after)
    journey.wait_for_one("interaction", text=after, status=202, seconds=30)
    order = [entry["text"] for entry in journey.seen("interaction", status=202) if entry.get("text") in (text, after)]
    assert order == [text, after]


def test_a_cut_stream_is_read_on_from_where_it_was(journey: Journey) -> None:
    conversation = journey.conversation()
    journey.reply("before the cut", conversation=conversation)
    journey.wait_for_one("send", text="before the cut")
    journey.call("POST", "/control/streams/cut")
    replies = [f"after the cut {n}" for n in range(5)]
    for text in replies:
        journey.reply(text, conversation=conversation)
    journey.wait_for_one("send", text=replies[-1])
    assert [entry["text"] for entry in journey.seen("send") if entry.get("text") in replies] == replies


def test_a_position_that_is_no_longer_valid_costs_nothing(journey: Journey) -> None:
    conversation = journey.conversation()
    journey.reply("known", conversation=conversation)
    journey.wait_for_one("send", text="known")
    journey.call("POST", "/control/replays/refuse")
    journey.call("POST", "/control/streams/cut")
    journey.reply("after the refusal", conversation=conversation)
    journey.wait_for_one("send", text="after the refusal")
    assert len(journey.seen("send", text="known")) == 1


def test_a_killed_worker_is_replaced_and_nothing_is_lost(journey: Journey) -> None:
    journey.conversation()
    texts = [f"around the kill {n} {uuid4()}" for n in range(20)]
    for text in texts[:10]:
        journey.write(text)
    journey.stack.kill("worker", 9)
    for text in texts[10:]:
        journey.write(text)
    journey.wait_for_one("interaction", text=texts[-1], status=202, seconds=40)
    arrived = [entry["text"] for entry in journey.seen("interaction", status=202) if entry.get("text") in texts]
    assert list(dict.fromkeys(arrived)) == texts, "all of them, in order"
    assert len(arrived) <= len(texts) + 1, "at most the call under way was made again"


def test_a_killed_subscriber_is_replaced_within_seconds(journey: Journey) -> None:
    conversation = journey.conversation()
    journey.stack.kill("subscriber", 9)
    journey.reply("while nobody read", conversation=conversation)
    journey.wait_for_one("send", text="while nobody read", seconds=25)
    assert len(journey.seen("send", text="while nobody read")) == 1


def test_postgresql_restarted_in_the_middle_loses_nothing(journey: Journey) -> None:
    conversation = journey.conversation()
    journey.call("POST", "/control/clock", {"retryScale": 0.005})  # Infobip tries again after a minute, here sooner
    texts = [f"around the restart {n} {uuid4()}" for n in range(10)]
    for text in texts[:5]:
        journey.write(text)
    journey.stack.restart_service("postgres")
    for text in texts[5:]:
        journey.write(text)
    journey.reply("after the restart", conversation=conversation)
    journey.wait_for_one("send", text="after the restart", seconds=30)
    for text in texts:
        journey.wait_for_one("interaction", text=text, status=202, seconds=30)
        assert len(journey.seen("interaction", text=text, status=202)) == 1


def test_valkey_restarted_in_the_middle_loses_nothing(journey: Journey) -> None:
    conversation = journey.conversation()
    journey.stack.restart_service("valkey")
    text = f"after valkey {uuid4()}"
    answer = journey.write(text)["answers"][0]
    assert answer["status"] == 200
    journey.wait_for_one("interaction", text=text, status=202)
    journey.reply("after valkey", conversation=conversation)
    journey.wait_for_one("send", text="after valkey")


def test_with_valkey_down_webhooks_are_taken_at_once_and_relayed(journey: Journey) -> None:
    conversation = journey.conversation()
    journey.stack.stop_service("valkey")
    try:
        texts = [f"without valkey {n} {uuid4()}" for n in range(5)]
        for text in texts:
            answer = journey.write(text)["answers"][0]
            assert answer["status"] == 200 and answer["ms"] < 200
        for text in texts:
            journey.wait_for_one("interaction", text=text, status=202)
        journey.reply("without valkey", conversation=conversation)
        journey.wait_for_one("send", text="without valkey")
    finally:
        journey.stack.restart_service("valkey")


def test_a_new_org_is_read_within_a_second(journey: Journey) -> None:
    document = example_documents(journey.stack.salesforce_port, journey.stack.infobip_port, orgs=3)[2]
    newcomer = move_in(journey.stack, document)
    began = time.monotonic()
    journey.wait_for_one("stream_open", org=newcomer.org, seconds=5)
    assert time.monotonic() - began < 1.5


def test_a_reply_that_infobip_refuses_is_reported_and_shown_to_the_rep(journey: Journey) -> None:
    conversation = journey.conversation()
    journey.call("POST", "/control/faults", {"where": "send", "what": "status", "status": 400, "count": 1})
    text = f"refused {uuid4()}"
    entry = journey.reply(text, conversation=conversation)
    journey.wait_until(lambda: any(entry in report.values() for report in journey.seen("failure_report")))
    line = f"\u25b8 Not delivered: “{text}”"
    journey.wait_until(lambda: any(str(each.get("text")).startswith(line) for each in journey.seen("interaction")))
    journey.reply("the next one passes", conversation=conversation)
    journey.wait_for_one("send", text="the next one passes", status=200)


def test_a_salesforce_that_is_down_is_probed_not_stormed_and_all_arrives_when_it_is_back(journey: Journey) -> None:
    users = [f"38594{n:07d}" for n in range(30)]
    journey.conversation()
    journey.call("POST", "/control/faults", {"where": "interactions", "what": "status", "status": 500, "code": 500})
    texts = [f"during the outage {user} {uuid4()}" for user in users]
    for user, text in zip(users, texts, strict=True):
        journey.write(text, user=user)
    time.sleep(8)
    before = len(journey.seen("refused"))
    time.sleep(11)
    probes = len(journey.seen("refused")) - before
    assert 1 <= probes <= 2, f"{probes} calls within 11 s of an open circuit"
    journey.call("DELETE", "/control/faults")
    began = time.monotonic()
    for text in texts:
        journey.wait_for_one("interaction", text=text, status=202, seconds=30)
    assert time.monotonic() - began < 15
