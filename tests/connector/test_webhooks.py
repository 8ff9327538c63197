"""What Infobip posts: its keys, and payloads that are not as they should be."""

from datetime import UTC, datetime
from typing import Any

import pytest

from connector.events import Ignored, MessageReceived, UnexpectedPayload
from connector.infobip import webhooks
from connector.infobip.webhooks import key_of, parse_result, results_of
from tests.payloads import load
from tests.support.odd import IMPOSSIBLE_TIMES, replaced

NOW = datetime(2026, 3, 2, 8, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("body", "results"),
    [
        ({"results": [1, 2]}, [1, 2]),
        ({"results": []}, [{"results": []}]),
        ({"results": {}}, [{"results": {}}]),
        ({"type": "INBOUND_MESSAGE"}, [{"type": "INBOUND_MESSAGE"}]),
        ([], [[]]),
        (None, [None]),
    ],
)
def test_a_delivery_is_taken_apart_and_never_to_nothing(body: object, results: list[object]) -> None:
    assert results_of(body) == results


# keys


def result(name: str) -> dict[str, Any]:
    (only,) = results_of(load(f"infobip/{name}"))
    assert isinstance(only, dict)
    return only


def test_the_same_message_has_the_same_key_in_both_forms() -> None:
    assert key_of(result("whatsapp/text")) == key_of(result("messages_api/text"))
    assert key_of(result("reports/whatsapp_seen")) == key_of(result("reports/messages_api_seen"))
    assert key_of(result("reports/whatsapp_delivered")) == key_of(result("reports/messages_api_delivered"))


def test_a_repetition_has_the_same_key_whatever_else_changed() -> None:
    first = result("whatsapp/text")
    again = {**first, "receivedAt": "2026-03-02T09:00:00.000+0000", "price": None, "pairedMessageId": None}
    assert key_of(again) == key_of(first)
    report = result("reports/whatsapp_delivered")
    assert key_of({**report, "doneAt": "2027-01-01T00:00:00.000+0000"}) == key_of(report)


def test_each_state_of_a_message_has_a_key_of_its_own() -> None:
    reports = [f"whatsapp_{name}" for name in ("pending", "delivered_to_operator", "delivered", "seen", "expired")]
    keys = {key_of(result(f"reports/{name}")) for name in reports}
    message = {**result("whatsapp/text"), "messageId": "b0c1f0de-8a2e-4f4b-9e5c-0a1b2c3d4e5f"}
    assert len(keys | {key_of(message)}) == 6


def test_what_has_no_id_is_known_by_its_content() -> None:
    notice = result("notices/template_status")
    assert key_of(notice) == key_of(dict(reversed(list(notice.items()))))
    assert key_of(notice).startswith("sha256:")
    assert key_of(notice) != key_of({**notice, "timestamp": "2026-03-03T09:00:00.000+0000"})


@pytest.mark.parametrize("message_id", [None, 7.5, "", [], "x" * 251, "a\x00b", "a\ud800b"])
def test_an_id_that_cannot_be_stored_is_no_key(message_id: object) -> None:
    key = key_of({**result("whatsapp/text"), "messageId": message_id})
    assert key.startswith("sha256:")
    assert key == key_of({**result("whatsapp/text"), "messageId": message_id})


@pytest.mark.parametrize("odd", [None, 7, "text", [], [1], True, 1.5, {}])
def test_anything_has_a_key(odd: object) -> None:
    assert key_of(odd).startswith("sha256:")


# addresses


@pytest.mark.parametrize(
    ("sender", "contact", "end_user", "aliases"),
    [
        ("447700900999", {}, "447700900999", ()),
        ("+44 7700 900-999", {}, "447700900999", ()),
        ("447700900999", {"userId": "GB.998877665544332211"}, "447700900999", ("GB.998877665544332211",)),
        ("447700900999", {"phoneNumber": "+44 (7700) 900999"}, "447700900999", ()),
        ("GB.998877665544332211", {"userId": "GB.998877665544332211"}, "GB.998877665544332211", ()),
        ("GB.998877665544332211", {"phoneNumber": "447700900999"}, "GB.998877665544332211", ("447700900999",)),
        ("GB.998877665544332211", {"phoneNumber": None, "userId": 7}, "GB.998877665544332211", ()),
        ("GB.ENT.776655443322", {"userId": " "}, "GB.ENT.776655443322", ()),
    ],
)
def test_an_end_user_is_known_by_number_and_by_user_id(
    sender: str, contact: dict[str, Any], end_user: str, aliases: tuple[str, ...]
) -> None:
    event = parse_result({**result("whatsapp/text"), "from": sender, "contact": contact}, received_at=NOW)
    assert isinstance(event, MessageReceived)
    assert (event.end_user, event.aliases) == (end_user, aliases)


@pytest.mark.parametrize("contact", [None, [], "Ada", {"name": None}, {"name": 7}, {}])
def test_a_contact_may_be_missing(contact: object) -> None:
    event = parse_result({**result("whatsapp/text"), "contact": contact}, received_at=NOW)
    assert isinstance(event, MessageReceived)
    assert (event.name, event.text) == ("", "Hello, where is my order?")


# what is not as it should be


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        ("whatsapp/text", {"from": None, "contact": None}, "from is missing or not an address"),
        ("whatsapp/text", {"from": "+ ()", "contact": {}}, "from is missing or not an address"),
        ("whatsapp/text", {"from": "x" * 151, "contact": {}}, "from is missing or not an address"),
        ("whatsapp/text", {"to": 447700900123.0}, "to is missing or not an address"),
        ("whatsapp/text", {"messageId": "x" * 251}, "messageId is longer than 250 characters"),
        ("whatsapp/text", {"to": "x" * 25}, "to is longer than 24 characters"),
        ("messages_api/text", {"destination": None}, "destination is missing or not an address"),
        ("messages_api/text", {"event": "MT"}, "neither a message nor a report"),
        ("reports/whatsapp_delivered", {"messageId": "wamid.1"}, "messageId is not an id of ours"),
        ("reports/whatsapp_delivered", {"messageId": None}, "messageId is missing or not a text"),
        ("reports/whatsapp_delivered", {"status": {"id": 7}}, "status.groupId is missing or not a number"),
    ],
)
def test_what_cannot_be_read_names_the_field(name: str, change: dict[str, Any], problem: str) -> None:
    with pytest.raises(UnexpectedPayload) as caught:
        parse_result({**result(name), **change}, received_at=NOW)
    assert problem in str(caught.value)


@pytest.mark.parametrize("odd", [None, 7, "text", [], True])
def test_what_is_no_object_is_refused(odd: object) -> None:
    with pytest.raises(UnexpectedPayload, match="not an object"):
        parse_result(odd, received_at=NOW)


@pytest.mark.parametrize("missing", ["doneAt", "error", "sentAt", "price", "contact", "bulkId", "to"])
def test_a_report_needs_little(missing: str) -> None:
    report = result("reports/whatsapp_delivered")
    del report[missing]
    event: Any = parse_result(report, received_at=NOW)
    assert str(event.message_uuid) == report["messageId"]
    del report["messageId"]
    with pytest.raises(UnexpectedPayload):
        parse_result(report, received_at=NOW)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("whatsapp/text", "receivedAt"),
        ("messages_api/text", "receivedAt"),
        ("reports/whatsapp_delivered", "doneAt"),
        ("reports/whatsapp_seen", "seenAt"),
    ],
)
@pytest.mark.parametrize("value", [*IMPOSSIBLE_TIMES, None, "", "yesterday", 7, -1, 1e400, [], {}, True, "9" * 5000])
def test_what_has_no_possible_time_happened_when_it_was_posted(name: str, field: str, value: object) -> None:
    odd = {**result(name), field: value}
    odd.pop("sentAt", None)
    event: Any = parse_result(odd, received_at=NOW)
    assert (event.received_at if isinstance(event, MessageReceived) else event.at) == NOW


@pytest.mark.parametrize(
    ("name", "change", "text"),
    [
        ("whatsapp/text", {"message": {}}, "▸ Message: this kind of message cannot be shown"),
        ("whatsapp/text", {"message": {"type": "TEXT"}}, "▸ Text: this kind of message cannot be shown"),
        ("whatsapp/text", {"message": {"type": ["TEXT"], "text": "hello"}}, "hello"),
        ("whatsapp/text", {"message": {"type": "TEXT", "text": 7}}, "7"),
        (
            *("whatsapp/text", {"message": {"type": "INTERACTIVE_BUTTON_REPLY", "title": []}}),
            "▸ Interactive button reply: this kind of message cannot be shown",
        ),
        ("messages_api/text", {"content": []}, "▸ Message: this kind of message cannot be shown"),
        ("messages_api/text", {"content": ["x", {"type": "TEXT", "text": "hello"}]}, "x\nhello"),
        (
            *("messages_api/text", {"content": [7, {"type": "TEXT", "text": "hello"}, None]}),
            "▸ Message: this kind of message cannot be shown\nhello\n▸ Message: this kind of message cannot be shown",
        ),
        ("messages_api/text", {"content": {"type": "TEXT", "text": "hello"}}, "hello"),
        ("messages_api/text", {"content": [{"type": "BUTTON_REPLY", "payload": "confirm-2291"}]}, "confirm-2291"),
        ("messages_api/text", {"content": [{"type": "LIST_REPLY", "id": "topic-returns"}]}, "topic-returns"),
        ("whatsapp/text", {"message": {"type": "BUTTON", "payload": "confirm"}}, "confirm"),
        ("whatsapp/text", {"message": {"type": "INTERACTIVE_BUTTON_REPLY", "id": "yes"}}, "yes"),
        ("whatsapp/text", {"message": {"type": "INTERACTIVE_LIST_REPLY", "id": "row 3", "title": ""}}, "row 3"),
        ("whatsapp/text", {"message": {"text": "hello"}}, "hello"),
        ("whatsapp/text", {"message": {"type": "text", "text": "hello"}}, "hello"),
        ("whatsapp/text", {"message": {"type": "HOLOGRAM", "text": "hello"}}, "▸ Hologram: hello"),
        ("whatsapp/text", {"message": {"type": "HOLOGRAM", "caption": "look"}}, "▸ Hologram: look"),
        ("whatsapp/text", {"message": {"type": "HOLOGRAM"}}, "▸ Hologram: this kind of message cannot be shown"),
        (
            *(
                "whatsapp/text",
                {"message": {"type": "TEXT", "referral": {"headline": "Sale", "sourceUrl": "https://fb.me/1"}}},
            ),
            "▸ From an advertisement: Sale https://fb.me/1",
        ),
        (
            *("whatsapp/text", {"message": {"type": "TEXT", "text": "Hi", "referral": {"headline": "▸ Sale"}}}),
            "Hi\n▸ From an advertisement: > Sale",
        ),
    ],
)
def test_a_message_is_never_lost_for_what_it_holds(name: str, change: dict[str, Any], text: str) -> None:
    event = parse_result({**result(name), **change}, received_at=NOW)
    assert isinstance(event, MessageReceived)
    assert event.text == text


@pytest.mark.parametrize("path", [("payload", "id"), ("payload", "message", "id"), ("payload", "message", "channel")])
@pytest.mark.parametrize("value", [None, 7, [], "x" * 101])
def test_a_message_is_never_lost_for_where_it_stands_at_infobip(path: tuple[str, ...], value: object) -> None:
    odd = replaced(result("notices/conversation_message"), path, value)
    event = parse_result(odd, received_at=NOW)
    if path[-1] == "channel" and isinstance(value, str):  # one that is not WhatsApp
        assert event == Ignored("conversation: another channel")
        return
    assert isinstance(event, MessageReceived)
    assert (event.ref is None) is (path[-1] == "id")


def test_a_delivery_of_more_results_than_infobip_posts_is_one_thing_that_cannot_be_read() -> None:
    body = {"results": [1] * (webhooks.MOST_RESULTS + 1)}
    assert results_of(body) == [body]
    assert len(results_of({"results": [1] * webhooks.MOST_RESULTS})) == webhooks.MOST_RESULTS
    with pytest.raises(UnexpectedPayload):
        parse_result(body, received_at=NOW)


def test_a_report_without_any_time_happened_when_it_was_posted() -> None:
    report = {key: value for key, value in result("reports/whatsapp_delivered").items() if not key.endswith("At")}
    event: Any = parse_result(report, received_at=NOW)
    assert event.at == NOW
    event = parse_result({**result("reports/messages_api_seen"), "seenAt": None}, received_at=NOW)
    assert event.at == NOW


def test_an_end_user_cannot_speak_with_our_mark() -> None:
    message = {"type": "TEXT", "text": "▸ Not delivered: call 0900"}
    event = parse_result({**result("whatsapp/text"), "message": message}, received_at=NOW)
    assert isinstance(event, MessageReceived)
    assert event.text == "> Not delivered: call 0900"
