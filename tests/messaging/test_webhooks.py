"""The door: who may pass, and what everybody else is told."""

import hashlib
import hmac
import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.test import Client
from pytest_django import Settings

from messaging.models import Message, ReceivedEvent
from tenants.models import Sender
from tenants.tenancy import every_org
from tests.conftest import World, whatsapp_text

pytestmark = pytest.mark.django_db

BARE = "/api/infobip/inbound/messages"


@pytest.fixture(autouse=True)
def nobody_is_rung(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    rung: list[int] = []
    monkeypatch.setattr("messaging.webhooks.ring", lambda: rung.append(1))
    monkeypatch.setattr("messaging.webhooks.count_refusal", lambda *_: None)
    yield rung


def post(world: World, body: Any, *, path: str = "", secret: str | None = None, header: str = "X-Hub-Signature") -> Any:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    secret = world.account.webhook_secret if secret is None else secret
    signature = "SHA256=" + hmac.new(secret.encode(), raw, hashlib.sha256).hexdigest()
    return Client().post(
        path or f"{BARE}/{world.account.uuid}", raw, content_type="application/json", headers={header: signature}
    )


def hello(world: World) -> dict[str, Any]:
    return {"results": [whatsapp_text("hello", to=world.sender.number, message_id=f"wamid.{uuid4()}")]}


def stored() -> int:
    with every_org():
        return ReceivedEvent.objects.count()


def test_a_signed_message_is_taken_and_the_workers_are_rung(acme: World, nobody_is_rung: list[int]) -> None:
    assert post(acme, hello(acme)).status_code == 200
    with every_org():
        assert Message.objects.get().text == "hello"
    assert nobody_is_rung == [1]


def test_the_bare_path_finds_the_account_by_its_sender(acme: World, rival: World) -> None:
    assert post(acme, hello(acme), path=BARE).status_code == 200
    with every_org():
        assert Message.objects.get().org == acme.org


@pytest.mark.parametrize("path", ["", BARE], ids=["own path", "bare path"])
def test_a_wrong_secret_is_refused_and_nothing_is_stored(acme: World, path: str) -> None:
    answer = post(acme, hello(acme), path=path, secret="guess")
    assert answer.status_code == 401 and "signature" in answer.json()["error"]
    assert stored() == 0


def test_a_missing_signature_is_refused(acme: World) -> None:
    answer = Client().post(f"{BARE}/{acme.account.uuid}", hello(acme), content_type="application/json")
    assert answer.status_code == 401 and stored() == 0


def test_a_body_of_nobody_known_is_refused_on_the_bare_path(acme: World) -> None:
    body = {"results": [whatsapp_text("hello", to="15550001111", message_id="wamid.x")]}
    assert post(acme, body, path=BARE).status_code == 401 and stored() == 0


def test_an_unknown_account_is_refused_like_a_wrong_signature(acme: World) -> None:
    assert post(acme, hello(acme), path=f"{BARE}/{uuid4()}").status_code == 401


def test_the_secret_of_one_account_does_not_open_anothers_door(acme: World, rival: World) -> None:
    path = f"{BARE}/{rival.account.uuid}"
    assert post(acme, hello(rival), path=path).status_code == 401 and stored() == 0


def test_a_result_of_another_account_is_refused_alone(acme: World, rival: World) -> None:
    body = {"results": hello(acme)["results"] + hello(rival)["results"]}
    assert post(acme, body).status_code == 200
    with every_org():
        assert Message.objects.get().org == acme.org
    assert stored() == 1


def test_the_secret_of_before_a_change_is_still_accepted_and_noted(acme: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with every_org():
        acme.account.previous_webhook_secret, acme.account.webhook_secret = acme.account.webhook_secret, "new"
        acme.account.save()
    noted: list[int] = []
    monkeypatch.setattr("messaging.webhooks.note_old_secret", noted.append)
    assert post(acme, hello(acme), secret="new").status_code == 200
    assert noted == []
    assert post(acme, hello(acme), secret="s-acme").status_code == 200
    assert noted == [acme.account.pk]


def test_a_sender_added_a_moment_ago_counts_at_once(acme: World) -> None:
    assert post(acme, hello(acme)).status_code == 200
    with every_org():
        new = Sender.objects.create(org=acme.org, account=acme.account, channel=acme.channel, number="447700900188")
    body = {"results": [whatsapp_text("to the new one", to=new.number, message_id="wamid.new")]}
    assert post(acme, body).status_code == 200
    with every_org():
        assert Message.objects.filter(text="to the new one").exists()


def test_an_account_may_name_its_own_signature_header(acme: World) -> None:
    with every_org():
        acme.account.signature_header = "X-Acme-Signature"
        acme.account.save()
    assert post(acme, hello(acme)).status_code == 401
    assert post(acme, hello(acme), header="x-acme-signature").status_code == 200


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe{}", b"[" * 100_000], ids=["empty", "cut", "not utf-8", "deep"])
def test_what_is_not_json_is_told_so(acme: World, body: bytes) -> None:
    answer = post(acme, body)
    assert answer.status_code == 400 and answer.json() == {"error": "The body is not JSON."}


def test_a_body_over_the_limit_is_refused_before_it_is_read(acme: World, settings: Settings) -> None:
    settings.LARGEST_WEBHOOK = 1000
    assert post(acme, b" " * 1001).status_code == 413 and stored() == 0


@pytest.mark.parametrize("body", [[], 7, "text", None, {}, {"results": 1}, {"results": [1, None, []]}, {"what": "ever"}])
def test_json_that_says_nothing_to_us_is_kept_as_unreadable(acme: World, body: object) -> None:
    assert post(acme, body).status_code == 200
    with every_org():
        assert all(event.problem for event in ReceivedEvent.objects.all()) and stored() >= 1


def test_with_the_database_down_infobip_is_asked_to_send_again(acme: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from django.db import OperationalError

    def down(*_: object) -> None:
        raise OperationalError("gone")

    monkeypatch.setattr("messaging.webhooks.receive_webhook", down)
    monkeypatch.setattr(connection, "close", lambda: None)  # the test's own transaction lives on it
    assert post(acme, hello(acme)).status_code == 503


def test_other_methods_are_refused(acme: World) -> None:
    assert Client().get(f"{BARE}/{acme.account.uuid}").status_code == 405
