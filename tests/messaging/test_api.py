"""Our own API: a conversation is opened once, for its own org only; each refusal says what is wrong and what to do."""

import json
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from io import StringIO
from typing import Any
from uuid import uuid4

import pytest
import responses
import structlog
from django.core.management import call_command
from django.db import OperationalError
from django.test import Client
from django.utils import timezone

from connector.http import CONNECT_SECONDS
from messaging.api import idempotency, limits, opening, views
from messaging.models import Address, Conversation, Direction, Lane, Message, Status
from messaging.query import query
from tenants import api_tokens, cache
from tenants.models import ApiCall, ApiToken, Org, Sender
from tenants.tenancy import every_org, org_scope
from tests.conftest import World, whatsapp_text
from tests.set_up.pages import at_once
from tests.support.happenings import receive_webhook

pytestmark = pytest.mark.django_db(transaction=True)

ANA, BEN = "385991234567", "385997654321"
ESTABLISH = "https://acme.my.salesforce-scrt.com/api/v1/conversation"
OPENED = {
    "conversationIdentifier": "c0a2c1b4-7f0e-4f6c-9a44-5d2f6f0e7b11",
    "messagingSessionId": "0Mw5g000000AbCdCAK",
    "success": True,
}
ORDER_UPDATE = {"name": "order_update", "language": "en_GB", "placeholders": ["Ada", "2291"]}


@pytest.fixture(autouse=True)
def redis_counts_from_nothing() -> None:
    cache.with_redis(lambda redis: redis.flushdb(), default=None)


@pytest.fixture
def salesforce() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mocked:
        for name in ("acme", "rival"):
            mocked.post(f"https://{name}.my.salesforce.com/services/oauth2/token", json={"access_token": f"00D!{name}"})
        yield mocked


def token_of(world: World, *scopes: str) -> str:
    with org_scope(world.org.pk):
        return api_tokens.make(world.org, name="reminders", scopes=list(scopes or api_tokens.SCOPES), who="Ada Admin")


def body_of(world: World, **more: Any) -> dict[str, Any]:
    return {"sender": world.sender.number, "to": ANA, **more}


def post(token: str, body: Any, key: str = "") -> Any:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    content = body if isinstance(body, str) else json.dumps(body)
    return Client(headers=headers | ({"Idempotency-Key": key} if key else {})).post(
        "/api/v1/conversations", content, content_type="application/json"
    )


def calls(mocked: responses.RequestsMock) -> list[Any]:
    """Give the bodies with which Salesforce was asked to open conversations."""
    return [json.loads(each.request.body or "") for each in mocked.calls if "/api/v1/conversation" in str(each.request.url)]


def templates() -> list[Message]:
    with every_org():
        return list(Message.objects.filter(ours=True))


def with_rep() -> bool:
    with every_org():
        return Lane.objects.get(direction=Direction.INBOUND).with_rep_since is not None


def conversation() -> Conversation:
    with every_org():
        return Conversation.objects.get()


def ana_writes(world: World, **more: Any) -> None:
    with org_scope(world.org.pk):
        result = whatsapp_text("hello", to=world.sender.number, message_id=f"wamid.{uuid4()}", **more)
        receive_webhook(world.account, [result])


# what it does


def test_a_conversation_is_opened_and_kept(acme: World, salesforce: responses.RequestsMock) -> None:
    salesforce.post(ESTABLISH, status=202, json=OPENED)
    answer = post(
        token_of(acme),
        body_of(acme, name="Ana Horvat", language="pt_BR", routingAttributes={"newEndUserName": "Ana Horvat"}),
    )
    assert answer.status_code == 201
    assert answer.json().keys() == {"conversationId", "sessionId", "warning"}
    assert answer.json()["conversationId"] == OPENED["conversationIdentifier"]
    assert answer.json()["sessionId"] == OPENED["messagingSessionId"]
    assert calls(salesforce) == [
        {
            "channelAddressIdentifier": acme.channel.channel_address_identifier,
            "participants": [{"subject": ANA, "role": "EndUser", "appType": "custom"}],
            "routingAttributes": {"newEndUserName": "Ana Horvat"},
        }
    ]
    kept = conversation()
    assert (kept.subject, kept.name, kept.language, with_rep()) == (ANA, "Ana Horvat", "pt-br", True)
    assert (kept.identifier, kept.session, kept.session_open) == (*list(OPENED.values())[:2], True)
    assert kept.last_sender_id == acme.sender.pk and kept.window_closes_at is None
    with every_org():
        assert Address.objects.get().address == ANA
        assert Lane.objects.count() == len(Direction) and not Lane.objects.filter(due_at__isnull=False).exists()


def test_a_template_is_queued_before_salesforce_is_asked(acme: World, salesforce: responses.RequestsMock) -> None:
    seen: list[list[Message]] = []

    def establish(request: Any) -> tuple[int, dict[str, str], str]:
        seen.append(templates())
        return 202, {}, json.dumps(OPENED)

    salesforce.add_callback("POST", ESTABLISH, establish)
    answer = post(token_of(acme), body_of(acme, template=ORDER_UPDATE))
    (message,) = templates()
    assert (answer.status_code, answer.json()["messageId"]) == (201, str(message.uuid))
    assert [each.uuid for each in seen[0]] == [message.uuid]
    assert "warning" not in answer.json()  # a template arrives in any case
    assert message.template == {
        "templateName": "order_update",
        "templateData": {"body": {"placeholders": ["Ada", "2291"]}},
        "language": "en_GB",
    }
    assert message.text == "Template order_update (en_GB): Ada, 2291"
    assert (message.direction, message.status, message.sender_id) == ("outbound", Status.PENDING, acme.sender.pk)
    with every_org():
        lane = Lane.objects.get(direction=Direction.OUTBOUND)
    assert (lane.position, lane.version, message.position) == (1, 1, 1) and lane.due_at is not None


def test_infobips_own_form_of_a_template_is_kept_as_it_is(acme: World, salesforce: responses.RequestsMock) -> None:
    salesforce.post(ESTABLISH, json=OPENED)
    data = {
        "header": {"type": "DOCUMENT", "mediaUrl": "https://files.example.com/1", "filename": "invoice-2291.pdf"},
        "body": {"placeholders": ["Ada"]},
        "buttons": [{"type": "URL", "parameter": "orders/2291"}],
    }
    template = {"name": "order_update", "language": "en_GB", "templateData": data}
    assert post(token_of(acme), body_of(acme, template=template)).status_code == 201
    (message,) = templates()
    assert message.template is not None and message.template["templateData"] == data


@pytest.mark.parametrize("written", [f"+{ANA}", "+385 (99) 123-4567"])
def test_a_number_may_be_written_as_people_write_it(acme: World, salesforce: responses.RequestsMock, written: str) -> None:
    salesforce.post(ESTABLISH, json=OPENED)
    assert post(token_of(acme), body_of(acme, to=written)).status_code == 201
    assert conversation().subject == ANA


def test_whoever_wrote_before_is_the_same_conversation(acme: World, salesforce: responses.RequestsMock) -> None:
    ana_writes(acme)
    salesforce.post(ESTABLISH, json=OPENED)
    answer = post(token_of(acme), body_of(acme))
    assert answer.status_code == 201 and "warning" not in answer.json()  # the window is open
    assert conversation().name == "Ana Horvat"  # no name given: the known one stays


def test_an_end_user_is_known_to_salesforce_by_the_first_address(acme: World, salesforce: responses.RequestsMock) -> None:
    ana_writes(acme)
    with every_org():
        first = Conversation.objects.get()
        Address.objects.create(org=acme.org, channel=acme.channel, conversation=first, address="HR.1234567890")
    salesforce.post(ESTABLISH, json=OPENED)
    assert post(token_of(acme), body_of(acme, to="HR.1234567890")).status_code == 201
    assert calls(salesforce)[0]["participants"][0]["subject"] == ANA
    assert conversation().pk == first.pk


def test_the_window_with_one_sender_is_none_with_another(acme: World, salesforce: responses.RequestsMock) -> None:
    ana_writes(acme)
    with every_org():
        other = Sender.objects.create(org=acme.org, account=acme.account, channel=acme.channel, number="447700900555")
    salesforce.post(ESTABLISH, json=OPENED)
    assert "warning" in post(token_of(acme), body_of(acme, sender=other.number)).json()
    assert (conversation().last_sender_id, conversation().window_closes_at) == (other.pk, None)


# who may


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer "}, {"Authorization": "Basic YTpi"}])
def test_without_a_token_nothing_is_done(acme: World, header: dict[str, str]) -> None:
    answer = Client(headers=header).post("/api/v1/conversations", body_of(acme), content_type="application/json")
    assert answer.status_code == 401 and answer["WWW-Authenticate"] == "Bearer"
    assert answer.json()["code"] == "not_authenticated"


@pytest.mark.parametrize("token", ["scc_unknown", "scc_" + "x" * 43, "ä", "x" * 5000])
def test_an_unknown_token_says_where_one_is_made(acme: World, token: str) -> None:
    answer = post(token, body_of(acme))
    assert answer.status_code == 401 and "API access" in answer.json()["error"]


def test_a_revoked_token_ends_at_once(acme: World) -> None:
    token = token_of(acme)
    with org_scope(acme.org.pk):
        api_tokens.revoke(acme.org, ApiToken.objects.get().pk, who="Ada Admin")
    answer = post(token, body_of(acme))
    assert answer.status_code == 401 and "revoked" in answer.json()["error"]


def test_a_token_without_the_scope_is_told_which_it_lacks(acme: World) -> None:
    answer = post(token_of(acme, "templates:read"), body_of(acme))
    assert answer.status_code == 403 and "conversations:write" in answer.json()["error"]


def test_a_token_opens_nothing_in_another_org(acme: World, rival: World, salesforce: responses.RequestsMock) -> None:
    stranger = {"error": "999999999 is not a sender", "code": "unknown_sender"}
    answer = post(token_of(acme), body_of(rival, template=ORDER_UPDATE))
    unknown = post(token_of(acme), body_of(rival, sender="999999999"))
    # the same words as for a number that nobody has
    assert answer.status_code == unknown.status_code == 404
    assert answer.json()["error"].replace(rival.sender.number, "999999999") == unknown.json()["error"]
    assert unknown.json()["error"].startswith(stranger["error"]) and unknown.json()["code"] == stranger["code"]
    with every_org():
        assert not Conversation.objects.exists() and not Message.objects.exists()
    assert not salesforce.calls


def test_the_same_key_of_two_orgs_is_two_calls(acme: World, rival: World, salesforce: responses.RequestsMock) -> None:
    salesforce.post(ESTABLISH, json=OPENED)
    salesforce.post(ESTABLISH.replace("acme", "rival"), json=OPENED | {"conversationIdentifier": "of-rival"})
    assert post(token_of(acme), body_of(acme), "order-1").json()["conversationId"] != "of-rival"
    assert post(token_of(rival), body_of(rival), "order-1").json()["conversationId"] == "of-rival"
    with every_org():
        assert set(ApiCall.objects.values_list("org_id", flat=True)) == {acme.org.pk, rival.org.pk}


# what does not fit


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"sender": None}, "sender"),
        ({"sender": "Acme"}, "sender"),
        ({"to": ""}, "to"),
        ({"to": "099 123 4567"}, "to"),
        ({"to": ["385991234567"]}, "to"),
        ({"to": "385\u0000991234567"}, "to"),
        ({"name": "x" * 201}, "name"),
        ({"name": "\ud800"}, "name"),
        ({"language": "english please"}, "language"),
        ({"routingAttributes": ["a"]}, "routingAttributes"),
        ({"routingAttributes": {"a": {"b": 1}}}, "routingAttributes.a"),
        ({"routingAttributes": {"a b": "c"}}, "routingAttributes"),
        ({"routingattributes": {}}, "routingattributes"),
        ({"template": "order_update"}, "template"),
        ({"template": {"name": "order_update"}}, "template.language"),
        ({"template": ORDER_UPDATE | {"name": "Order update"}}, "template.name"),
        ({"template": ORDER_UPDATE | {"placeholders": ["Ada", ""]}}, "template.placeholders.1"),
        ({"template": ORDER_UPDATE | {"placeholders": [None]}}, "template.placeholders.0"),
        ({"template": ORDER_UPDATE | {"templateData": {}}}, "template.templateData"),
        ({"template": {"name": "a", "language": "en", "templateData": []}}, "template.templateData"),
        ({"template": {"name": "a", "language": "en", "templateData": {"body": {}}}}, "template.templateData"),
        (
            {"template": {"name": "a", "language": "en", "templateData": {"body": {"placeholders": ["\u0000"]}}}},
            "template.templateData",
        ),
    ],
)
def test_what_does_not_fit_is_named(acme: World, change: dict[str, Any], field: str) -> None:
    answer = post(token_of(acme), body_of(acme) | change)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid"), answer.content
    assert list(answer.json()["fields"]) == [field] and field in answer.json()["error"]
    with every_org():
        assert not Conversation.objects.exists()


def test_all_that_is_wrong_is_named_at_once(acme: World) -> None:
    body = {"sender": acme.sender.number, "too": ANA, "template": {"name": "Order", "lang": "en"}}
    fields = post(token_of(acme), body).json()["fields"]
    assert set(fields) == {"too", "to", "template.lang", "template.name", "template.language"}


@pytest.mark.parametrize("body", ["{", "", "[]", "7", '{"sender": NaN}', "[" * 20_000])
def test_a_body_that_is_no_object_is_refused(acme: World, body: str) -> None:
    answer = post(token_of(acme), body)
    assert answer.status_code in (400, 422) and answer.json()["error"]


def test_other_methods_types_and_sizes_are_refused_in_the_same_form(acme: World) -> None:
    client = Client(headers={"Authorization": f"Bearer {token_of(acme)}"})
    answers = [
        (405, client.get("/api/v1/conversations")),
        (415, client.post("/api/v1/conversations", {"sender": "1"})),
        (413, client.post("/api/v1/conversations", "x" * (views.LARGEST_BODY + 1), content_type="application/json")),
    ]
    for status, answer in answers:
        assert answer.status_code == status and answer.json().keys() == {"error", "code"}


def test_a_disconnected_org_is_told_so(acme: World) -> None:
    token = token_of(acme)
    with every_org():
        Org.objects.filter(pk=acme.org.pk).update(disconnected_at=timezone.now())
    answer = post(token, body_of(acme, template=ORDER_UPDATE))
    assert answer.status_code == 409 and "Connect it again" in answer.json()["error"]
    assert templates() == []


def test_an_org_calls_so_many_times_a_minute(acme: World, rival: World, salesforce: responses.RequestsMock) -> None:
    salesforce.post(ESTABLISH, json=OPENED)
    token = token_of(acme)
    minute = int(time.time() // 60)

    def use_up(all_but: int) -> None:
        used = {f"connector:api:{acme.org.pk}:{each}": limits.CALLS_A_MINUTE - all_but for each in (minute, minute + 1)}
        cache.with_redis(lambda redis: redis.mset(used), default=None)

    use_up(all_but=1)
    assert post(token, body_of(acme)).status_code == 201
    use_up(all_but=0)
    answer = post(token, body_of(acme))
    assert (answer.status_code, answer.json()["code"]) == (429, "throttled")
    assert 1 <= int(answer["Retry-After"]) <= 61
    assert post(token_of(rival), body_of(rival, sender="999999999")).status_code == 404  # not 429


# what Salesforce says


@pytest.mark.parametrize(
    ("status", "body", "expected", "code"),
    [
        (500, {"message": "down", "code": 500}, 503, "unavailable"),
        (429, {"message": "slow down"}, 503, "unavailable"),
        (400, {"message": "Try again.", "code": 10055}, 503, "unavailable"),
        (400, {"message": "Channel does not exist.", "code": 10017}, 502, "set_up"),
        (401, {"message": "token"}, 502, "set_up"),
        (404, {}, 502, "set_up"),
        (400, {"message": "Attribute too long.", "code": 10096}, 422, "refused"),
    ],
)
def test_what_salesforce_answers_is_put_in_words(
    acme: World, salesforce: responses.RequestsMock, status: int, body: Any, expected: int, code: str
) -> None:
    salesforce.post(ESTABLISH, status=status, json=body, headers={"Retry-After": "7"})
    answer = post(token_of(acme), body_of(acme, template=ORDER_UPDATE))
    assert (answer.status_code, answer.json()["code"]) == (expected, code)
    assert ("Retry-After" in answer) is (expected == 503)
    if expected == 503:
        assert answer["Retry-After"] == "7"
    # the template was taken already, and the answer says so
    assert answer.json()["messageId"] == str(templates()[0].uuid)
    assert not with_rep() and not conversation().session_open


def test_a_login_that_fails_is_the_orgs_set_up(acme: World) -> None:
    with responses.RequestsMock() as mocked:
        mocked.post(
            "https://acme.my.salesforce.com/services/oauth2/token", status=400, json={"error": "invalid_app_access"}
        )
        assert post(token_of(acme), body_of(acme)).status_code == 502


def test_an_answer_without_ids_is_taken(acme: World, salesforce: responses.RequestsMock) -> None:
    salesforce.post(ESTABLISH, status=202, json={"success": True})
    answer = post(token_of(acme), body_of(acme))
    assert (answer.status_code, answer.json()["conversationId"], answer.json()["sessionId"]) == (201, "", "")
    assert with_rep() and not conversation().session_open


def test_all_of_it_ends_before_a_caller_gives_up() -> None:
    assert CONNECT_SECONDS < opening.CALL_SECONDS < 15 and timedelta(seconds=opening.CALL_SECONDS) < idempotency.LEASE


# the same call again


def test_the_same_key_is_the_same_call(acme: World, salesforce: responses.RequestsMock) -> None:
    salesforce.post(ESTABLISH, json=OPENED)
    token = token_of(acme)
    answers = [post(token, body_of(acme, template=ORDER_UPDATE), "order-2291") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [201] * 3
    assert answers[0].json() == answers[1].json() == answers[2].json()
    assert len(calls(salesforce)) == len(templates()) == 1


def test_without_a_key_it_is_another_call(acme: World, salesforce: responses.RequestsMock) -> None:
    salesforce.post(ESTABLISH, json=OPENED)
    token = token_of(acme)
    for _ in range(2):
        assert post(token, body_of(acme, template=ORDER_UPDATE)).status_code == 201
    assert len(templates()) == 2


def test_a_key_with_another_body_is_refused(acme: World, salesforce: responses.RequestsMock) -> None:
    salesforce.post(ESTABLISH, json=OPENED)
    token = token_of(acme)
    assert post(token, body_of(acme), "order-2291").status_code == 201
    answer = post(token, body_of(acme, to=BEN), "order-2291")
    assert (answer.status_code, answer.json()["code"]) == (422, "key_reused")
    assert len(calls(salesforce)) == 1


def test_the_same_key_after_a_failure_goes_on_without_a_second_template(
    acme: World, salesforce: responses.RequestsMock
) -> None:
    failing = salesforce.post(ESTABLISH, status=503, json={})
    token, body = token_of(acme), body_of(acme, template=ORDER_UPDATE)
    first = post(token, body, "order-2291")
    assert first.status_code == 503 and "no second one" in first.json()["error"]
    salesforce.remove(failing)
    salesforce.post(ESTABLISH, json=OPENED)
    second = post(token, body, "order-2291")
    assert second.status_code == 201
    assert second.json()["messageId"] == first.json()["messageId"] == str(templates()[0].uuid)
    assert len(templates()) == 1


def test_a_call_whose_process_died_is_taken_over_once_its_lease_ran_out(
    acme: World, salesforce: responses.RequestsMock
) -> None:
    salesforce.post(ESTABLISH, json=OPENED)
    token, body = token_of(acme), body_of(acme, template=ORDER_UPDATE)
    assert post(token, body, "order-2291").status_code == 201
    with every_org():
        ApiCall.objects.update(answer=None, leased_until=timezone.now() + timedelta(seconds=5))
        assert post(token, body, "order-2291").status_code == 409
        ApiCall.objects.update(leased_until=timezone.now() - timedelta(seconds=1))
    assert post(token, body, "order-2291").status_code == 201
    assert len(templates()) == 1


def test_a_key_is_forgotten_after_a_day(acme: World, salesforce: responses.RequestsMock) -> None:
    salesforce.post(ESTABLISH, json=OPENED)
    token = token_of(acme)
    assert post(token, body_of(acme), "order-2291").status_code == 201
    with every_org():
        ApiCall.objects.update(created_at=timezone.now() - timedelta(hours=24, seconds=1))
    assert post(token, body_of(acme, to=BEN), "order-2291").status_code == 201
    assert len(calls(salesforce)) == 2


@pytest.mark.parametrize("key", ["x" * 256])
def test_a_key_that_cannot_be_kept_is_refused(acme: World, key: str) -> None:
    assert post(token_of(acme), body_of(acme), key).status_code == 400


def test_five_at_once_with_one_key_are_one_template_and_one_session(
    acme: World, salesforce: responses.RequestsMock
) -> None:
    def establish(request: Any) -> tuple[int, dict[str, str], str]:
        time.sleep(0.5)
        return 202, {}, json.dumps(OPENED)

    salesforce.add_callback("POST", ESTABLISH, establish)
    token, body = token_of(acme), body_of(acme, template=ORDER_UPDATE)
    answers = at_once(*[lambda: post(token, body, "order-2291")] * 5)
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses[0] == 201 and set(statuses[1:]) <= {409, 429}, statuses
    assert all(int(answer["Retry-After"]) > 0 for answer in answers if answer.status_code != 201)
    again = [post(token, body, "order-2291") for _ in range(2)]
    assert [answer.status_code for answer in again] == [201, 201]
    assert len(calls(salesforce)) == len(templates()) == 1


def test_five_at_once_to_one_stranger_are_one_conversation(acme: World, salesforce: responses.RequestsMock) -> None:
    salesforce.post(ESTABLISH, json=OPENED)
    token = token_of(acme)
    works = [lambda key=key: post(token, body_of(acme, template=ORDER_UPDATE), f"k{key}") for key in range(4)]
    assert [answer.status_code for answer in at_once(*works)] == [201] * 4
    assert with_rep()
    assert sorted(message.position for message in templates()) == [1, 2, 3, 4]


def test_an_org_whose_salesforce_hangs_holds_few_threads(
    acme: World, rival: World, salesforce: responses.RequestsMock
) -> None:
    def hang(request: Any) -> tuple[int, dict[str, str], str]:
        time.sleep(1)
        return 202, {}, json.dumps(OPENED)

    salesforce.add_callback("POST", ESTABLISH, hang)
    salesforce.post(ESTABLISH.replace("acme", "rival"), json=OPENED)
    token, others = token_of(acme), token_of(rival)
    works = [lambda: post(token, body_of(acme, template=ORDER_UPDATE))] * (limits.CALLS_AT_ONCE + 2)
    statuses = [answer.status_code for answer in at_once(*works, lambda: post(others, body_of(rival)))]
    assert statuses[-1] == 201
    assert sorted(statuses[:-1]) == [201] * limits.CALLS_AT_ONCE + [429] * 2
    with every_org():
        assert Message.objects.count() == limits.CALLS_AT_ONCE  # who was turned away left nothing behind


# what stays with us


def test_no_token_number_or_text_reaches_a_log(acme: World, salesforce: responses.RequestsMock) -> None:
    salesforce.post(ESTABLISH, status=400, json={"message": "No.", "code": 10096})
    token = token_of(acme)
    with structlog.testing.capture_logs() as logs:
        post(token, body_of(acme, name="Ana Horvat", template=ORDER_UPDATE), "order-2291")
        post("scc_wrong", body_of(acme))
    assert logs
    for secret in (token, "scc_wrong", ANA, "Ana Horvat", "2291", "00D!acme"):
        assert secret not in str(logs), secret


def test_an_operator_sees_what_was_refused_and_whose_it_was(acme: World) -> None:
    with structlog.testing.capture_logs() as logs:
        post(token_of(acme), {"sender": "x"})
        post("scc_wrong", {})
    refused = [(each["org"], each["status"], each["code"]) for each in logs if each["event"] == "API call refused"]
    assert refused == [(acme.org.pk, 422, "invalid"), (None, 401, "authentication_failed")]


def lost(*_: Any, **__: Any) -> None:
    raise OperationalError("the connection was lost")


def read_only(*_: Any, **__: Any) -> None:
    query("SELECT set_config('transaction_read_only', 'on', true)", [])
    Conversation.objects.update(name="")


@pytest.mark.parametrize("trouble", [lost, read_only])
def test_a_database_in_trouble_is_not_the_callers_fault(
    acme: World, monkeypatch: pytest.MonkeyPatch, trouble: Callable[..., None]
) -> None:
    token = token_of(acme)
    monkeypatch.setattr(opening, "start_outbound", trouble)
    answer = post(token, body_of(acme, template=ORDER_UPDATE), "order-2291")
    assert (answer.status_code, answer.json()["code"], answer["Retry-After"]) == (503, "not_stored", "1")
    with every_org():
        assert not ApiCall.objects.exists()  # the key is free for the next try


def test_of_a_token_only_a_hash_is_kept_and_its_use_is_noted(acme: World, salesforce: responses.RequestsMock) -> None:
    token = token_of(acme)
    with every_org():
        assert token not in str(list(ApiToken.objects.values()))
        assert ApiToken.objects.get().last_used_at is None
    post(token, {})
    with every_org():
        used = ApiToken.objects.get().last_used_at
    assert used is not None and timezone.now() - used < timedelta(minutes=1)
    post(token, {})
    with every_org():
        assert ApiToken.objects.get().last_used_at == used  # accurate to some minutes: no write for each call


# its description


def test_the_openapi_document_is_whole_and_open_to_read(acme: World) -> None:
    written = StringIO()
    call_command("spectacular", "--validate", "--fail-on-warn", stdout=written)
    assert "/api/v1/conversations:" in written.getvalue() and "apiToken" in written.getvalue()
    assert "Idempotency-Key" in written.getvalue()
    answer = Client().get("/api/schema/", HTTP_ACCEPT="application/json")
    assert answer.status_code == 200 and "/api/v1/conversations" in answer.content.decode()
