"""Platform events that are not as they should be, and the fields that a custom event may be given."""

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import grpc.aio
import pytest

from connector.events import Ignored, ReplyWritten, Text, Typing, UnexpectedPayload, Unsupported
from connector.http import AddressRefused, ApiError, AuthenticationFailed, CustomerMustAct, ServiceUnavailable
from connector.salesforce import pubsub
from connector.salesforce.auth import AccessToken
from connector.salesforce.platform_events import PlatformEvent, Topic, created_at, is_typing, parse_event
from connector.salesforce.pubsub.channel import may_subscribe, open_channel
from tests.payloads import load, record
from tests.support.odd import IMPOSSIBLE_TIMES

TOPIC = Topic("/event/Infobip_Event__e", "00D5g00000ABcDE", "EventType__c", "Payload__c")


def event(decoded: dict[str, Any] | None) -> PlatformEvent:
    return PlatformEvent("e-1", b"", decoded)


def changed(place: str, value: Any) -> PlatformEvent:
    """Give the text of a rep with another value at a place such as ``payload.sender``; None takes it out."""
    decoded = load("salesforce/events/text")
    *path, last = place.split(".")
    inner = decoded["Payload__c"]
    for step in path:
        inner = inner[step]
    inner.pop(last)
    if value is not None:
        inner[last] = value
    return event({**decoded, "Payload__c": json.dumps(decoded["Payload__c"])})


def test_the_fields_carry_the_names_that_they_were_given() -> None:
    topic = Topic("/event/ns__Chat__e", "00D5g00000ABcDE", "ns__Kind__c", "ns__Body__c")
    decoded = record("text")
    renamed = {"ns__Kind__c": decoded["EventType__c"], "ns__Body__c": decoded["Payload__c"]}
    assert isinstance(parse_event(event(renamed), topic), ReplyWritten)
    with pytest.raises(UnexpectedPayload, match="ns__Kind__c is missing"):
        parse_event(event(decoded), topic)


@pytest.mark.parametrize("payload", [None, "", "{", "[]", "7", "null", '"text"', '{"payload": []}', '{"payload": "x"}'])
def test_a_payload_that_is_no_object_is_refused(payload: str | None) -> None:
    with pytest.raises(UnexpectedPayload):
        parse_event(event({**record("text"), "Payload__c": payload}), TOPIC)


@pytest.mark.parametrize("event_type", ["RoutingRequested", "SomethingNew", "x" * 5000])
def test_another_type_of_event_is_ignored(event_type: str) -> None:
    assert parse_event(event({**record("text"), "EventType__c": event_type}), TOPIC) == Ignored(event_type[:50])


_MESSAGE = "payload.entryPayload.abstractMessage"


@pytest.mark.parametrize(
    ("place", "value", "problem"),
    [
        ("channelAddressIdentifier", None, "channelAddressIdentifier is missing"),
        ("recipient", None, "recipient is missing"),
        ("recipient", {"role": "EndUser"}, "subject is missing"),
        ("payload.sender", None, "sender is missing"),
        ("payload.identifier", None, "identifier is missing"),
        ("payload.identifier", "x" * 251, "identifier is longer than 250"),
        ("payload.entryPayload", None, "entryPayload is missing"),
        ("payload.entryPayload", "{", "entryPayload is not JSON"),
        ("payload.entryPayload", "[]", "entryPayload is missing or not an object"),
        ("recipient.subject", "x" * 151, "subject is longer than 150"),
    ],
)
def test_a_reply_that_cannot_be_read_names_the_field(place: str, value: Any, problem: str) -> None:
    with pytest.raises(UnexpectedPayload) as caught:
        parse_event(changed(place, value), TOPIC)
    assert problem in str(caught.value)
    assert "4711" not in str(caught.value)


@pytest.mark.parametrize("odd", [None, "soon", [], {}, True, -1, 0, 7, 1e400, 10**30, *IMPOSSIBLE_TIMES])
def test_a_reply_has_the_transcripts_time_else_the_clients_else_that_of_its_event_else_that_of_its_arrival(
    odd: object,
) -> None:
    decoded = load("salesforce/events/text")
    entry = decoded["Payload__c"]["payload"]

    def written_at() -> datetime:
        reply = parse_event(event({**decoded, "Payload__c": json.dumps(decoded["Payload__c"])}), TOPIC)
        assert isinstance(reply, ReplyWritten)
        return reply.written_at

    entry["transcriptedTimestamp"] = odd
    assert written_at().timestamp() == entry["clientTimestamp"] / 1000
    entry["clientTimestamp"] = odd
    assert written_at().timestamp() == decoded["CreatedDate"] / 1000
    decoded["CreatedDate"] = odd
    assert abs(datetime.now(UTC) - written_at()) < timedelta(minutes=1)


@pytest.mark.parametrize("odd", [[], {}, 7, None, ["AutomatedResponse"], {"a": "Consent"}])
def test_a_reply_is_a_persons_where_its_reason_cannot_be_read(odd: object) -> None:
    decoded = load("salesforce/events/text_as_automated_response")
    decoded["Payload__c"]["payload"]["entryPayload"]["messageReason"] = odd
    reply = parse_event(event({**decoded, "Payload__c": json.dumps(decoded["Payload__c"])}), TOPIC)
    assert isinstance(reply, ReplyWritten) and not reply.automatic


@pytest.mark.parametrize("odd", [[], {}, 7, None, {"a": "add"}])
def test_who_came_or_went_is_no_matter_where_it_cannot_be_read(odd: object) -> None:
    decoded = load("salesforce/events/participant_changed")
    for each in decoded["Payload__c"]["payload"]["entryPayload"]["entries"]:
        each["operation"] = odd
    assert parse_event(event({**decoded, "Payload__c": json.dumps(decoded["Payload__c"])}), TOPIC) == Ignored(
        "ParticipantChanged"
    )


@pytest.mark.parametrize("name", ["typing_started", "typing_stopped"])
def test_typing_is_told_from_all_else(name: str) -> None:
    assert parse_event(event(record(name)), TOPIC) == Typing()
    assert is_typing(event(record(name)), TOPIC)
    about_typing = changed(f"{_MESSAGE}.staticContent.text", "TypingStartedIndicator and TypingStoppedIndicator")
    for other in (event(record("text")), about_typing, event(None), event({}), event({"Payload__c": 7})):
        assert not is_typing(other, TOPIC)


@pytest.mark.parametrize(
    ("place", "value", "content"),
    [
        (f"{_MESSAGE}.messageType", "SomethingNew", Unsupported("SomethingNew")),
        (f"{_MESSAGE}.staticContent", {"formatType": "WebView", "url": "https://x.example"}, Unsupported("WebView")),
        (f"{_MESSAGE}.staticContent.text", "a\x00b\ud800 👋", Text("ab 👋")),
        (f"{_MESSAGE}.staticContent.text", "x" * 40_000, Text("x" * 40_000)),
        # the rep sees that it did not leave, which nobody would of an event that is refused
        (_MESSAGE, None, Unsupported("unreadable")),
        (_MESSAGE, [], Unsupported("unreadable")),
        (f"{_MESSAGE}.messageType", 7, Unsupported("unreadable")),
        (f"{_MESSAGE}.staticContent", None, Unsupported("unreadable")),
        (f"{_MESSAGE}.staticContent.formatType", {}, Unsupported("unreadable")),
        (f"{_MESSAGE}.staticContent.text", None, Unsupported("unreadable")),
        (f"{_MESSAGE}.staticContent.text", " \n", Unsupported("unreadable")),
    ],
)
def test_content_is_text_or_named(place: str, value: Any, content: Text | Unsupported) -> None:
    reply = parse_event(changed(place, value), TOPIC)
    assert isinstance(reply, ReplyWritten)
    assert reply.content == content


def test_an_event_tells_when_it_was_published_in_any_spelling() -> None:
    for created in (1785312300123, 1785312300123.0, "1785312300123", "2026-07-29T08:05:00.123Z"):
        at = created_at(event({**record("text"), "CreatedDate": created}))
        assert at is not None and at.timestamp() == 1785312300.123


@pytest.mark.parametrize("created", [None, "soon", -1, True, 10**20, -0.5, 1e400, [], *IMPOSSIBLE_TIMES])
def test_an_event_may_not_tell_when_it_was_published(created: object) -> None:
    assert created_at(event({**record("text"), "CreatedDate": created})) is None
    assert created_at(event(None)) is None


# where tokens may go


def opened(endpoint: str, *, plaintext: bool, monkeypatch: pytest.MonkeyPatch) -> str:
    """Open a channel and say whether it is one with TLS; nothing is sent by that."""
    kinds: list[str] = []
    for kind in ("secure", "insecure"):
        monkeypatch.setattr(grpc.aio, f"{kind}_channel", lambda *_, kind=kind, **__: kinds.append(kind))
    open_channel(endpoint, plaintext=plaintext)
    (kind,) = kinds
    return kind


@pytest.mark.parametrize("plaintext", [False, True])
@pytest.mark.parametrize("host", ["api.pubsub.salesforce.com", "api.deu.pubsub.salesforce.com"])
@pytest.mark.parametrize("port", [443, 7443])
def test_the_endpoints_of_salesforce_are_spoken_to_with_tls_always(
    monkeypatch: pytest.MonkeyPatch, host: str, port: int, plaintext: bool
) -> None:
    assert opened(f"{host}:{port}", plaintext=plaintext, monkeypatch=monkeypatch) == "secure"


@pytest.mark.parametrize("endpoint", ["127.0.0.1:7443", "localhost:8000", "[::1]:1"])
def test_a_stand_in_on_this_machine_is_spoken_to_only_where_that_is_allowed(
    monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    assert opened(endpoint, plaintext=True, monkeypatch=monkeypatch) == "insecure"
    with pytest.raises(AddressRefused, match="no endpoint of the Pub/Sub API"):
        open_channel(endpoint, plaintext=False)


@pytest.mark.parametrize("plaintext", [False, True])
@pytest.mark.parametrize(
    "endpoint",
    [
        *(
            "",
            "api.pubsub.salesforce.com",
            "api.pubsub.salesforce.com:80",
            "api.pubsub.salesforce.com:7443.evil.example:443",
        ),
        *("evil.example:7443", "api.pubsub.salesforce.com.evil.example:7443", "evil.pubsub.salesforce.com:7443"),
        *("apixpubsub.salesforce.com:443", "api.fra.pubsub.salesforce.com:443", "10.0.0.1:7443", "169.254.169.254:443"),
        *("dns://evil.example/api.pubsub.salesforce.com:7443", "unix:/tmp/socket", "https://api.pubsub.salesforce.com:443"),
        *("api.pubsub.salesforce.com:7443\n", "localhost.evil.example:7443", "127.0.0.1.evil.example:1", "0.0.0.0:7443"),
    ],
)
def test_no_token_goes_to_another_endpoint(endpoint: str, plaintext: bool) -> None:
    async def scenario() -> None:
        with pytest.raises(AddressRefused):
            open_channel(endpoint, plaintext=plaintext)

    asyncio.run(scenario())


# asking whether a topic may be read


@contextmanager
def pubsub_that_answers(status: grpc.StatusCode, code: str = "", can_subscribe: bool = False) -> Iterator[str]:
    """Play the one call, on a socket of this machine."""

    def get_topic(request: Any, context: Any) -> Any:
        if status is not grpc.StatusCode.OK:
            context.set_trailing_metadata((("error-code", f"sfdc.platform.eventbus.grpc.{code}"),))
            context.abort(status, "no")
        return pubsub.TopicInfo(topic_name=request.topic_name, can_subscribe=can_subscribe, can_publish=True)

    handler = grpc.unary_unary_rpc_method_handler(
        get_topic,
        request_deserializer=pubsub.TopicRequest.FromString,
        response_serializer=pubsub.TopicInfo.SerializeToString,
    )
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(pubsub.SERVICE, {"GetTopic": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def ask(endpoint: str) -> bool | None:
    token = AccessToken("00D!secret", "https://acme.my.salesforce.com")
    return may_subscribe(endpoint, "/event/Infobip_Event__e", "00D5g00000ABcDEEA4", token, plaintext=True)


@pytest.mark.parametrize("may", [True, False])
def test_whether_a_topic_may_be_read_is_not_whether_it_may_be_written(may: bool) -> None:
    with pubsub_that_answers(grpc.StatusCode.OK, can_subscribe=may) as endpoint:
        assert ask(endpoint) is may


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (grpc.StatusCode.NOT_FOUND, "topic.not.found", None),
        (grpc.StatusCode.PERMISSION_DENIED, "topic.meta.permission", False),
    ],
)
def test_a_topic_that_is_hidden_or_not_there_is_told_apart(
    status: grpc.StatusCode, code: str, expected: bool | None
) -> None:
    with pubsub_that_answers(status, code) as endpoint:
        assert ask(endpoint) is expected


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, "service.auth.error", AuthenticationFailed),
        (grpc.StatusCode.UNAUTHENTICATED, "a.new.one", AuthenticationFailed),
        (grpc.StatusCode.PERMISSION_DENIED, "service.tenant.license", CustomerMustAct),
        (grpc.StatusCode.UNAVAILABLE, "service.unavailable", ServiceUnavailable),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "service.protection.triggered", ServiceUnavailable),
    ],
)
def test_a_question_that_is_not_answered_says_why_and_holds_no_token(
    status: grpc.StatusCode, code: str, error: type[ApiError]
) -> None:
    with pubsub_that_answers(status, code) as endpoint, pytest.raises(ApiError) as raised:
        ask(endpoint)
    assert type(raised.value) is error and "secret" not in str(raised.value)


def test_a_token_goes_to_salesforce_only() -> None:
    for endpoint in ("evil.example:7443", "api.pubsub.salesforce.com.evil.example:443"):
        with pytest.raises(AddressRefused):
            ask(endpoint)
