"""The page on which tokens of our API are made: shown once, known by their beginning, revoked for good."""

import re
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client

from tenants.models import ApiToken, AuditEntry, Role
from tenants.tenancy import every_org
from tests.conftest import World
from tests.set_up.pages import alerts, signed_in
from tests.tenants.salesforce import OURS

pytestmark = pytest.mark.django_db

MAKE = {"action": "make", "name": "Order reminders", "scopes": ["conversations:write"]}


@pytest.fixture
def ada(acme: World) -> Client:
    return signed_in(acme.org)


def press(client: Client, world: World, **fields: Any) -> Any:
    return client.post(f"/e/{world.org.handle}/api-access", fields, **OURS)


def look(client: Client, world: World) -> str:
    answer = client.get(f"/e/{world.org.handle}/api-access")
    assert answer.status_code == 200
    return answer.content.decode()


def made(page: str) -> str:
    found = re.search(r'data-copy="(scc_[\w-]{43})"', page)
    assert found, page
    return found[1]


def call(token: str) -> int:
    client = Client(headers={"Authorization": f"Bearer {token}"})
    return client.post("/api/v1/conversations", {}, content_type="application/json").status_code


def test_a_token_is_shown_once_and_lets_a_program_in(acme: World, ada: Client) -> None:
    assert "The tokens that you make are listed here." in look(ada, acme)
    token = made(press(ada, acme, **MAKE).content.decode())
    assert call(token) == 422  # in, with a body that says nothing
    page = look(ada, acme)
    assert token not in page and token[:10] in page
    assert "Order reminders" in page and "by Ada Admin" in page and "last used" in page
    with every_org():
        assert token not in str(list(ApiToken.objects.values())) + str(list(AuditEntry.objects.values()))


def test_a_revoked_token_lets_nobody_in_and_stays_in_the_list(acme: World, ada: Client) -> None:
    token = made(press(ada, acme, **MAKE).content.decode())
    with every_org():
        pk = ApiToken.objects.get().pk
    assert press(ada, acme, action="revoke", token=pk).status_code == 302
    assert call(token) == 401
    page = look(ada, acme)
    assert "revoked" in page and "Revoke" not in page
    with every_org():
        revoked_at = ApiToken.objects.get().revoked_at
    press(ada, acme, action="revoke", token=pk)
    with every_org():
        assert ApiToken.objects.get().revoked_at == revoked_at
        whats = list(AuditEntry.objects.order_by("pk").values_list("who", "what"))
    assert whats == [("Ada Admin", "made an API token"), ("Ada Admin", "revoked an API token")]


@pytest.mark.parametrize("token", ["", "0", "-1", "9" * 30, "x", "\u0663"])
def test_what_is_no_token_is_not_revoked(acme: World, ada: Client, token: str) -> None:
    press(ada, acme, **MAKE)
    assert press(ada, acme, action="revoke", token=token).status_code == 302
    with every_org():
        assert ApiToken.objects.get().revoked_at is None


@pytest.mark.parametrize(
    ("change", "field"),
    [({"name": ""}, "name"), ({"name": "x" * 101}, "name"), ({"scopes": []}, "scopes"), ({"scopes": ["admin"]}, "scopes")],
)
def test_what_is_wrong_stands_at_its_field(acme: World, ada: Client, change: dict[str, Any], field: str) -> None:
    page = press(ada, acme, **{**MAKE, **change}).content.decode()
    assert list(alerts(page)) == [field] and "scc_" not in page
    with every_org():
        assert not ApiToken.objects.exists()


def test_a_name_cannot_write_into_the_page(acme: World, ada: Client) -> None:
    press(ada, acme, **MAKE | {"name": "<script>alert(1)</script>"})
    assert "<script>alert" not in look(ada, acme)


def test_reps_make_no_tokens(acme: World) -> None:
    rep = signed_in(acme.org, Role.REP, "Marko Babic")
    assert press(rep, acme, **MAKE).status_code == 403
    assert rep.get(f"/e/{acme.org.handle}/api-access").status_code == 403
    with every_org():
        assert not ApiToken.objects.exists()


def test_another_page_makes_no_tokens(acme: World, ada: Client) -> None:
    answer = ada.post(f"/e/{acme.org.handle}/api-access", MAKE, HTTP_ORIGIN="https://evil.example")
    assert answer.status_code == 403
    with every_org():
        assert not ApiToken.objects.exists()


def test_the_summary_leads_there(acme: World, ada: Client) -> None:
    assert f"/e/{acme.org.handle}/api-access" in ada.get(f"/e/{acme.org.handle}/setup/summary").content.decode()


def test_an_operator_makes_one_from_a_terminal(acme: World) -> None:
    printed = StringIO()
    call_command("make_api_token", acme.org.salesforce_id[:15], "Order reminders", stdout=printed)
    assert call(printed.getvalue().strip()) == 422


@pytest.mark.parametrize(
    ("org", "name"), [("00D", "x"), ("", "x"), ("00D000000000000", "x"), ("00D5g00000ABcDEEA4", ""), ("0" * 16, "x")]
)
def test_a_terminal_is_told_what_is_wrong(acme: World, org: str, name: str) -> None:
    with pytest.raises(CommandError):
        call_command("make_api_token", org, name)
    with every_org():
        assert not ApiToken.objects.exists()
