"""Who is known: what was accepted, by what accepts it, for some minutes, and none of it kept as it is."""

import hashlib
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from uuid import uuid4

import pytest
from django.test import Client
from django.utils import timezone

from tenants import api_tokens, known
from tenants.access import cookie_name
from tenants.known import KNOWN_SECONDS, MOST_KNOWN, is_known, note
from tenants.models import WebSession
from tenants.tenancy import every_org, org_scope
from tests.conftest import World
from tests.set_up.pages import signed_in

ANSWERS = "/api/infobip/inbound/answers"


@pytest.fixture(autouse=True)
def nobody_is_known(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[bytes, float]]:
    kept: dict[bytes, float] = {}
    monkeypatch.setattr(known, "_until", kept)
    yield kept


def test_what_was_accepted_is_known_for_some_minutes_from_the_last_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    note("one")
    now += KNOWN_SECONDS - 1
    assert is_known("one") and not is_known("another") and not is_known("")
    note("one")
    now += KNOWN_SECONDS - 1
    assert is_known("one")
    now += 2
    assert not is_known("one")


def test_no_more_are_kept_than_there_is_room_for_and_the_one_accepted_longest_ago_gives_way(
    nobody_is_known: dict[bytes, float],
) -> None:
    for number in range(MOST_KNOWN):
        note(str(number))
    note("0")
    note("the next")
    assert len(nobody_is_known) == MOST_KNOWN
    assert [is_known(each) for each in ("0", "1", "2", "the next")] == [True, False, True, True]


def test_nothing_is_kept_from_which_a_token_can_be_read_or_tried(nobody_is_known: dict[bytes, float]) -> None:
    note("secret")
    (kept,) = nobody_is_known
    assert len(kept) == 16 and b"secret" not in kept
    assert sys.getsizeof(kept) < 100
    known_elsewhere = hashlib.blake2b(b"secret", digest_size=16).digest()
    assert kept != known_elsewhere  # a short one cannot be guessed from it without this process's key


def test_many_may_be_noted_at_once(nobody_is_known: dict[bytes, float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "MOST_KNOWN", 50)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    failed: list[BaseException] = []

    def run(start: int) -> None:
        try:
            for number in range(start, start + 3000):
                note(str(number % 200))
        except BaseException as exc:
            failed.append(exc)

    threads = [threading.Thread(target=run, args=[start]) for start in range(0, 200, 25)]
    try:
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    finally:
        sys.setswitchinterval(interval)
    assert not failed and len(nobody_is_known) == 50


def test_an_api_token_is_known_once_it_was_accepted_and_no_other_one(acme: World) -> None:
    with org_scope(acme.org.pk):
        mine, revoked = (api_tokens.make(acme.org, name=name, scopes=[], who="Ada") for name in ("mine", "revoked"))
        acme.org.api_tokens.filter(name="revoked").update(revoked_at=timezone.now())
    tried = (mine, revoked, "scc_made-up")
    for token in tried:
        Client().post("/api/v1/conversations", {}, "application/json", headers={"Authorization": f"Bearer {token}"})
    assert [is_known(each) for each in tried] == [True, False, False]


@pytest.mark.parametrize("by_cookie", [True, False])
def test_a_session_is_known_once_it_showed_a_page_and_none_that_is_over_or_made_up(acme: World, by_cookie: bool) -> None:
    mine, over = (signed_in(acme.org).defaults["HTTP_AUTHORIZATION"].removeprefix("Bearer ") for _ in range(2))
    tried = (mine, over, "made-up")
    with every_org():
        newest = WebSession.objects.order_by("-pk")[:1]
        WebSession.objects.filter(pk__in=newest).update(created_at=timezone.now() - timedelta(days=365))
    for token in tried:
        shown = {"Cookie": f"{cookie_name(acme.org.handle)}={token}"} if by_cookie else {"Authorization": f"Bearer {token}"}
        Client(headers=shown).get(f"/e/{acme.org.handle}/")
    assert [is_known(each) for each in tried] == [True, False, False]


def test_who_signs_out_has_no_right_any_more_however_long_they_are_known(acme: World) -> None:
    client = signed_in(acme.org)
    page = f"/e/{acme.org.handle}/setup/summary"
    assert client.get(page).status_code == 200
    with every_org():
        WebSession.objects.all().delete()
    assert is_known(client.defaults["HTTP_AUTHORIZATION"].removeprefix("Bearer "))
    assert client.get(page).status_code == 401


def test_an_operators_session_is_known_once_it_showed_the_admin_and_none_that_is_made_up(operator: Client) -> None:
    assert operator.get("/admin/").status_code == 200
    assert is_known(operator.cookies["sessionid"].value)
    assert Client(headers={"Cookie": "sessionid=made-up"}).get("/admin/").status_code == 302
    assert not is_known("made-up")


def test_a_hand_over_token_is_known_once_it_fitted_its_account(acme: World) -> None:
    with every_org():
        acme.account.handover_token = "t-acme"
        acme.account.save()
    for token, account in (("t-acme", uuid4()), ("made-up", acme.account.uuid)):
        Client().post(f"{ANSWERS}/{account}", {}, "application/json", headers={"X-Connector-Token": token})
        assert not is_known(token)
    Client().post(f"{ANSWERS}/{acme.account.uuid}", {}, "application/json", headers={"X-Connector-Token": "t-acme"})
    assert is_known("t-acme")
