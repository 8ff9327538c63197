"""The chatbot's door: the token comes first, and what a stranger writes costs nothing."""

import json
import time
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.test import Client

from messaging.handover import Call, UnusableCall, parse_call
from messaging.models import Handover
from tenants.tenancy import every_org
from tests.conftest import World

pytestmark = pytest.mark.django_db(transaction=True)

BARE = "/api/infobip/inbound/answers"
BODY = {"conversationId": "4461ea29-c09e-4ba8-a751-df86cf0a0eb9", "senderNumber": "385991234567"}
PATHOLOGICAL = [" " * 65_000, " " * 65_000 + "x", "{{" * 30_000, "<" * 65_000, "${" * 30_000, "\t\n" * 30_000 + "}}"]


@pytest.fixture
def chatbot(acme: World) -> World:
    with every_org():
        acme.account.handover_token = "t-acme"
        acme.account.save()
    return acme


def post(path: str, body: bytes, token: str = "") -> tuple[int, str]:
    headers = {"X-Connector-Token": token} if token else {}
    answer = Client().post(path, body, content_type="application/json", headers=headers)
    return answer.status_code, answer.json().get("error", "")


@pytest.mark.parametrize("body", [b"{", b"text", b"[]", b"{}", json.dumps(BODY).encode(), b"[" * 60_000, b"x" * 70_000])
@pytest.mark.parametrize("token", ["", "wrong"])
def test_without_the_token_of_the_account_nobody_learns_what_is_wrong_with_a_call(
    chatbot: World, body: bytes, token: str
) -> None:
    status, said = post(f"{BARE}/{chatbot.account.uuid}", body, token)
    assert status == 401 and "X-Connector-Token" in said
    assert post(f"{BARE}/{uuid4()}", body, token) == (status, said)


@pytest.mark.parametrize(("body", "status"), [(b"{", 400), (b"[" * 60_000, 400), (b"[]", 400), (b"x" * 70_000, 413)])
def test_with_it_they_do(chatbot: World, body: bytes, status: int) -> None:
    assert post(f"{BARE}/{chatbot.account.uuid}", body, "t-acme")[0] == status


@pytest.mark.parametrize("text", PATHOLOGICAL)
@pytest.mark.parametrize("field", ["conversationId", "senderNumber", "anything"])
def test_no_text_takes_long_to_read(text: str, field: str) -> None:
    began = time.process_time()
    try:
        parse_call(BODY | {field: text})
    except UnusableCall as exc:
        assert field in str(exc)
    assert time.process_time() - began < 0.1


def test_many_fields_take_no_longer() -> None:
    began = time.process_time()
    call = parse_call(BODY | {f"field{number}": " " * 999 + "x" for number in range(5000)})
    assert len(call.attributes) == 20 and time.process_time() - began < 0.1


@pytest.mark.parametrize("value", ["", " ", None, True, [], "{{conversationId}}", " <conversationId> ", "${conversation}"])
@pytest.mark.parametrize("field", ["conversationId", "senderNumber"])
def test_a_field_that_is_not_filled_is_named(field: str, value: Any) -> None:
    with pytest.raises(UnusableCall, match=f"{field} is missing, empty, or a placeholder"):
        parse_call(BODY | {field: value})


@pytest.mark.parametrize(("field", "value"), [("conversationId", "x" * 101), ("senderNumber", "1" * 151)])
def test_a_field_that_is_too_long_is_named(field: str, value: str) -> None:
    with pytest.raises(UnusableCall, match=f"{field} is empty or longer than"):
        parse_call(BODY | {field: value})


def test_blanks_around_what_counts_and_fields_that_are_not_filled_are_left_out() -> None:
    body = {"conversationId": f" {7} ", "senderNumber": "+385 99 (123) 45-67", "language": "PT_br", "topic": " bill\x00s "}
    call = parse_call(
        body | {"empty": " ", "unset": "{{x}}", "also": "<y>", "third": "${z}", "flag": True, "n": 2, "{": "{"}
    )
    assert call == Call("7", "385991234567", "pt-br", {"language": "PT_br", "topic": "bills", "n": "2", "{": "{"})


def test_a_token_that_no_key_of_ours_decrypts_asks_for_a_repetition(chatbot: World) -> None:
    with connection.cursor() as cursor, every_org():
        cursor.execute("UPDATE tenants_infobipaccount SET handover_token = 'junk'")
    assert post(f"{BARE}/{chatbot.account.uuid}", json.dumps(BODY).encode(), "t-acme")[0] == 503
    with every_org():
        assert not Handover.objects.exists()
