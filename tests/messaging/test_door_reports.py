"""Reports come unsigned to the address that a send carried: it proves itself, and speaks of that one message."""

import json
from collections.abc import Iterator
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import pytest
from django.db import transaction
from pytest_django import Settings

from messaging import claims, results
from messaging.claims import Given
from messaging.conversations import TemplateMessage, start_outbound
from messaging.delivery import Result
from messaging.intake import take_inbox
from messaging.models import Inbox, Message, Outcome, ReceivedEvent, Status
from tenants.cache import refusals_today
from tenants.report_tokens import message_of, token_for
from tenants.tenancy import every_org
from tests.conftest import World, delivery_report, whatsapp_text
from tests.support.happenings import wait_until
from tests.support.web import BARE, Web

pytestmark = pytest.mark.django_db(transaction=True)

SEEN = {"from": "385991234567", "to": "447700900123", "sentAt": "2026-03-02T08:20:00.000+0000"}


@pytest.fixture(scope="module")
def web(django_db_setup: None) -> Iterator[Web]:
    with Web() as running:
        yield running


def sent(world: World, user: str = "385991234567") -> Message:
    """Give a message that Infobip has taken."""
    with every_org(), transaction.atomic():
        template = TemplateMessage(uuid4(), {"templateName": "hello"}, "Hello")
        start_outbound(world.sender, user, name="", language="", template=template)
        ((claim, waiting),) = claims.take([Given(due.id) for due in claims.lock_due(1)], holder=1)
        assert waiting is not None
        claims.take(results.record([Result(claim, waiting, Outcome.SENT, claim.endpoint_id)], holder=1), holder=1)
        return Message.objects.get(uuid=template.uuid)


def path_of(world: World, message: UUID) -> str:
    """Give the path of the address that a send of this message carries."""
    return urlsplit(world.account.report_url(message)).path


def report(*results: object) -> bytes:
    return json.dumps({"results": list(results)}).encode()


def post(web: Web, path: str, body: bytes) -> int:
    """Post a report as Infobip does: without a signature."""
    return web.request("POST", path, body, {"Content-Type": "application/json"})[0]


def stored() -> int:
    with every_org():
        return Inbox.objects.count()


def take_in(message: Message) -> str:
    with every_org():
        while take_inbox().more or Inbox.objects.exists():
            pass
        message.refresh_from_db()
    return message.status


def test_unsigned_reports_at_the_messages_own_address_move_it_forward(web: Web, acme: World) -> None:
    message = sent(acme)
    path = path_of(acme, message.uuid)
    assert post(web, path, report(delivery_report(str(message.uuid)))) == 200
    assert take_in(message) == Status.DELIVERED
    assert post(web, path, report({**SEEN, "messageId": str(message.uuid), "seenAt": "2026-03-02T08:21:12Z"})) == 200
    assert take_in(message) == Status.READ


def test_the_same_report_is_one_whichever_way_it_comes(web: Web, acme: World) -> None:
    message = sent(acme)
    body = report(delivery_report(str(message.uuid)))
    assert post(web, path_of(acme, message.uuid), body) == 200
    assert post(web, path_of(acme, message.uuid), body) == 200
    assert web.post(acme, body)[0] == 200  # signed, by subscription
    assert take_in(message) == Status.DELIVERED
    with every_org():
        assert ReceivedEvent.objects.filter(kind="ReceiptReceived").count() == 1


def test_on_the_bare_path_a_signed_report_finds_its_account_by_the_message(web: Web, acme: World, rival: World) -> None:
    message = sent(acme)
    body = json.dumps({"results": [{"messageId": str(message.uuid), "seenAt": "2026-03-02T08:21:12Z"}]}).encode()
    assert web.post(rival, body, path=BARE)[0] == 401
    assert web.post(acme, body, path=BARE)[0] == 200 and stored() == 1


def test_a_forged_swapped_or_truncated_address_moves_nothing(web: Web, acme: World, rival: World) -> None:
    message, other, theirs = sent(acme), sent(acme, "385990000001"), sent(rival)
    path, body = path_of(acme, message.uuid), report(delivery_report(str(message.uuid)))
    account, mac = str(acme.account.uuid), path[-64:]
    forged = [
        path[:-1] + ("0" if path[-1] != "0" else "1"),
        path[:-64] + "0" * 64,
        path_of(acme, other.uuid)[:-64] + mac,  # the proof of one message beside the name of another
        path_of(rival, message.uuid).replace(str(rival.account.uuid), account),  # made for another account
        path.replace(account, str(rival.account.uuid)),
        path.replace(account, str(uuid4())),
    ]
    assert [post(web, each, body) for each in forged] == [401] * len(forged)
    for short in (path[:-1], path[:-64], path.rpartition("/")[0], path + "0", path.replace(account + "/", "")):
        assert post(web, short, body) in (401, 404)
    # an address speaks of its own message only
    for wrong in (str(other.uuid), str(theirs.uuid)):
        assert post(web, path, report(delivery_report(wrong))) == 401
        assert post(web, path, report(delivery_report(str(message.uuid)), delivery_report(wrong))) == 401
    assert stored() == 0


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"results": []}', b"{", b"[" * 60_000, b"text", b"\xff"])
def test_what_is_no_report_on_the_message_is_refused(web: Web, acme: World, body: bytes) -> None:
    message = sent(acme)
    assert post(web, path_of(acme, message.uuid), body) == 401
    assert stored() == 0


def test_who_has_such_an_address_cannot_write_in_an_end_users_name(web: Web, acme: World) -> None:
    message = sent(acme)
    uuid = str(message.uuid)
    words = whatsapp_text("Pay to this account", to=acme.sender.number, message_id=uuid)
    for bodies in ([words], [delivery_report(uuid), words], [{**words, "seenAt": "2026-03-02T08:21:12Z"}]):
        assert post(web, path_of(acme, message.uuid), report(*bodies)) == 401
    assert stored() == 0


def test_too_large_a_body_and_other_methods_are_refused(web: Web, acme: World) -> None:
    message = sent(acme)
    path, body = path_of(acme, message.uuid), report(delivery_report(str(message.uuid)))
    assert post(web, path, body.ljust(64 * 1024)) == 200
    assert post(web, path, body.ljust(64 * 1024 + 1)) == 413
    assert web.request("GET", path)[0] == 405
    assert stored() == 1


def test_slips_in_the_address_are_forgiven(web: Web, acme: World) -> None:
    message = sent(acme)
    path, body = path_of(acme, message.uuid), report(delivery_report(str(message.uuid)))
    for slip in (path + "/", path + "%20", path + "%0A", "/" + path, path.replace("/reports", "//reports"), path.upper()):
        assert post(web, slip, body) == 200, slip


def test_a_refusal_is_counted_for_the_account(web: Web, acme: World) -> None:
    message = sent(acme)
    assert post(web, path_of(acme, message.uuid), report(delivery_report(str(uuid4())))) == 401
    wait_until(lambda: refusals_today(acme.account.pk).get("report on another message") == 1)


def test_the_proof_of_one_message_is_none_of_another(acme: World) -> None:
    """Whoever has the address of a message makes no address of any other out of it, whatever the body says."""
    one, other, account = uuid4(), uuid4(), acme.account.uuid
    assert message_of(account, token_for(account, one)) == one
    assert message_of(account, other.hex + token_for(account, one)[32:]) is None


def test_reports_still_come_after_the_keys_were_changed(acme: World, settings: Settings) -> None:
    message, account = uuid4(), acme.account.uuid
    token = token_for(account, message)
    before = list(settings.FIELD_ENCRYPTION_KEYS)
    settings.FIELD_ENCRYPTION_KEYS = ["a new one", *before]
    assert message_of(account, token) == message
    assert token_for(account, message) != token
    settings.FIELD_ENCRYPTION_KEYS = ["a new one"]
    assert message_of(account, token) is None
