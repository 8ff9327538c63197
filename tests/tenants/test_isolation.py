"""Every address of the site, those of later days too: with another org's session it shows and changes nothing."""

from collections.abc import Iterator

import pytest
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from messaging.models import Conversation, Message
from tenants import api_tokens
from tenants.models import ApiCall, ApiToken, Channel, InfobipAccount, Org, SalesforceConnection, Sender
from tenants.tenancy import every_org, org_scope
from tests.conftest import World
from tests.tenants.salesforce import OURS, signed_in

pytestmark = pytest.mark.django_db

TABLES = (Org, SalesforceConnection, InfobipAccount, Channel, Sender, ApiToken, ApiCall, Conversation, Message)


def patterns(resolver: URLResolver, prefix: str = "") -> Iterator[str]:
    for each in resolver.url_patterns:
        if isinstance(each, URLResolver):
            yield from patterns(each, prefix + str(each.pattern))
        elif isinstance(each, URLPattern):
            yield prefix + str(each.pattern)


def addresses(world: World) -> list[str]:
    """Fill in each address that belongs to an org, with that org's ids."""
    found = []
    for pattern in patterns(get_resolver()):
        if pattern.startswith("admin/") or "<slug:handle>" not in pattern:
            continue
        for slug in ("connect", "byoc", "channel", "accounts", "senders", "summary") if "<slug:slug>" in pattern else ("",):
            found.append("/" + pattern.replace("<slug:handle>", world.org.handle).replace("<slug:slug>", slug))
    assert len(found) > 8
    return found


def rows(world: World) -> list[object]:
    with every_org():
        return [list(model.objects.filter(**{"pk" if model is Org else "org": world.org.pk}).values()) for model in TABLES]


def test_no_address_shows_or_changes_anything_to_another_orgs_session(acme: World, rival: World) -> None:
    client, token = signed_in(acme)
    client.cookies[f"__Host-sid-{rival.org.handle}"] = token
    before = rows(rival)
    secrets = [rival.account.webhook_secret, rival.org.salesforce.username, rival.sender.number, rival.account.base_url]
    for address in addresses(rival):
        for answer in (
            client.get(address),
            client.get(address, HTTP_AUTHORIZATION=f"Bearer {token}", HTTP_HX_REQUEST="true"),
            client.post(address, {"action": "disconnect", "account": str(rival.account.uuid), "number": "1"}, **OURS),
        ):
            # beginning a sign-in is what anybody may do
            if not address.endswith("/sign-in"):
                assert answer.status_code in (401, 403, 404, 405), address
            for secret in secrets:
                assert secret not in answer.content.decode(), address
    assert rows(rival) == before


def test_ids_of_another_org_in_ones_own_pages_change_nothing(acme: World, rival: World) -> None:
    client, _ = signed_in(acme)
    before = rows(rival)
    base = f"/e/{acme.org.handle}"
    forms = [
        (f"{base}/setup/accounts", {"action": "new secret", "account": str(rival.account.uuid)}),
        (
            f"{base}/setup/senders",
            {"account": str(rival.account.uuid), "number": rival.sender.number, "channel": "", "first": "rep"},
        ),
        (
            f"{base}/setup/senders",
            {"account": str(acme.account.uuid), "number": "447700900999", "channel": str(rival.channel.pk), "first": "rep"},
        ),
    ]
    for address, fields in forms:
        assert client.post(address, fields, **OURS).status_code < 500
    assert rows(rival) == before
    with every_org():
        assert not Sender.objects.filter(number="447700900999").exists()


def test_an_api_token_opens_nothing_of_another_org(acme: World, rival: World) -> None:
    with org_scope(acme.org.pk):
        token = api_tokens.make(acme.org, name="x", scopes=list(api_tokens.SCOPES), who="Ada")
    before = rows(rival)
    client = Client(headers={"Authorization": f"Bearer {token}"})
    for address in addresses(rival) + addresses(acme):  # a program's token is nobody's session either
        if not address.endswith("/sign-in"):
            assert client.get(address).status_code in (401, 404, 405), address
    calls = [each for each in patterns(get_resolver()) if each.startswith("api/v1/")]
    assert calls == ["api/v1/conversations"]
    body = {"sender": rival.sender.number, "to": "385991234567", "template": {"name": "a", "language": "en"}}
    assert client.post("/api/v1/conversations", body, content_type="application/json").status_code == 404
    assert rows(rival) == before


def test_another_orgs_token_is_not_revoked_from_ones_own_page(acme: World, rival: World) -> None:
    with org_scope(rival.org.pk):
        api_tokens.make(rival.org, name="x", scopes=list(api_tokens.SCOPES), who="Rita")
        theirs = rival.org.api_tokens.get()
    client, _ = signed_in(acme)
    page = f"/e/{acme.org.handle}/api-access"
    assert client.post(page, {"action": "revoke", "token": theirs.pk}, **OURS).status_code == 302
    with every_org():
        assert ApiToken.objects.get(pk=theirs.pk).revoked_at is None
    assert theirs.prefix not in client.get(page).content.decode()
