"""Lines of the log that anybody can cause: each kind at once, then counted, and a flood of requests is a few lines."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import structlog
from django.db import OperationalError, transaction
from django.test import Client

from connector.http import AuthenticationFailed
from connector.salesforce import sign_in as openid
from messaging import door_accounts, wake, webhooks
from messaging.api.auth import TokenAuthentication
from tenants import api_tokens, budget, repeats, sign_in
from tenants.repeats import MOST_KINDS, QUIET_SECONDS, kept_back, say
from tenants.tenancy import org_scope
from tests.conftest import World

FLOOD = 20


def test_the_first_of_a_kind_is_a_line_at_once_and_the_next_one_says_how_many_there_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    lines: list[tuple[str, dict[str, Any]]] = []

    def write(event: str, **facts: Any) -> None:
        lines.append((event, facts))

    for number in range(5):
        say(write, "refused", "client", owner=number)
        say(write, "refused", "org", owner=number)
    assert lines == [("refused", {"owner": 0}), ("refused", {"owner": 0})]
    now += QUIET_SECONDS
    say(write, "refused", "client", owner=5)
    say(write, "refused", "client", owner=6)
    assert lines[2:] == [("refused", {"owner": 5, "repeated": 4})]


def test_kinds_are_kept_in_a_bounded_number() -> None:
    for number in range(MOST_KINDS + 5):
        assert kept_back(number) == 0
    assert len(repeats._kinds) == MOST_KINDS
    assert kept_back(MOST_KINDS + 4) is None and kept_back(0) == 0


def raising(exc: Exception) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise exc

    return fail


def events(ask: Callable[[], object]) -> Counter[str]:
    """Ask many times, and count the lines of the log."""
    with structlog.testing.capture_logs() as logs:
        for _ in range(FLOOD):
            ask()
    return Counter(each["event"] for each in logs if each["event"] != "pages refused")  # counted by config/counted.py


def test_calls_with_tokens_that_nobody_has_are_a_line(db: None) -> None:
    client = Client(headers={"Authorization": "Bearer made-up"})
    said = events(lambda: client.post("/api/v1/conversations", {}, "application/json"))
    assert said == {"API call refused": 1}


def test_each_kind_of_refused_call_of_each_org_has_a_line_of_its_own(acme: World, rival: World) -> None:
    clients = []
    for world in (acme, rival):
        with org_scope(world.org.pk):
            scopes = [api_tokens.CONVERSATIONS_WRITE]
            token = api_tokens.make(world.org, name="shop", scopes=scopes, who="Ada")
        clients.append(Client(headers={"Authorization": f"Bearer {token}"}))
    bodies = [{}, {"sender": "999999999", "to": "385991234567"}]
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            for client in clients:
                for body in bodies:
                    client.post("/api/v1/conversations", body, "application/json")
    said = Counter((each["org"], each["status"]) for each in logs if each["event"] == "API call refused")
    assert said == {(world.org.pk, status): 1 for world in (acme, rival) for status in (422, 404)}


def test_calls_while_the_database_is_away_are_a_line(acme: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TokenAuthentication, "authenticate", raising(OperationalError("gone")))
    statuses = set[int]()

    def ask() -> None:
        statuses.add(Client().post("/api/v1/conversations", {}, "application/json").status_code)

    assert events(ask) == {"API call not stored": 1, "API call refused": 1}
    assert statuses == {503}


def test_pages_that_find_no_place_are_a_line_whatever_org_they_name(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "PAGES_AT_ONCE", 0)
    monkeypatch.setattr(budget, "place", raising(budget.Busy()))
    numbers = iter(range(1000))

    def ask() -> None:
        Client().get("/", headers={"X-Forwarded-For": f"198.51.100.{next(numbers)}"})
        Client(headers={"Authorization": "Bearer a"}).get(f"/e/made-up-{next(numbers)}/")

    assert events(ask) == {"page refused: all places are taken": 2}  # one of clients, one of orgs


def test_hand_overs_that_cannot_be_stored_are_a_line(acme: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "_take_bare", raising(OperationalError("gone")))
    said = events(lambda: Client().post("/api/infobip/inbound/answers", {}, "application/json"))
    assert said == {"hand-over not stored": 1}


def test_workers_that_cannot_be_woken_are_a_line(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction, "atomic", raising(OperationalError("gone")))
    assert events(wake.wake) == {"workers not woken": 1}


def test_a_secret_that_no_key_fits_is_a_line_however_many_webhooks_come(acme: World) -> None:
    said = events(lambda: door_accounts._account(acme.account.pk, acme.org.pk, "", "not encrypted", ""))
    assert said == {"webhook secret cannot be decrypted": 1}


def test_sign_ins_that_salesforce_refuses_are_a_line(acme: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openid, "exchange_code", raising(AuthenticationFailed("Salesforce", "invalid_grant")))

    def ask() -> None:
        started = sign_in.start(sign_in.begin(org=acme.org).uuid)
        state = started.url.partition("state=")[2].partition("&")[0]
        with pytest.raises(sign_in.SignInRefused):
            sign_in.complete(state=state, code="made-up", browser=started.browser)

    assert events(ask)["sign-in failed"] == 1


def test_readiness_without_a_database_is_a_line(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("config.health._applied_migrations", raising(OperationalError("gone")))
    assert events(lambda: Client().get("/readyz"))["database down"] == 1
