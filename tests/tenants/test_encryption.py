"""Credentials at rest, and what becomes of one that no key of ours fits: it concerns the org that it belongs to."""

from collections.abc import Callable
from datetime import timedelta
from io import StringIO

import pytest
from cryptography.fernet import Fernet
from django.apps import apps
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.models import ForeignKey, Model
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from devstack.documents import demo_document
from tenants import connecting, doctor, installation, sign_in
from tenants.encryption import CannotDecrypt, EncryptedField, decrypt, encrypt, readable, unreadable
from tenants.models import Checkup, Draft, InfobipAccount, Installation, PendingSignIn, SalesforceConnection
from tenants.onboarding import provision
from tenants.tenancy import every_org
from tests.conftest import World
from tests.set_up.pages import look, press, signed_in

ENCRYPTED = {
    model: [field for field in model._meta.concrete_fields if isinstance(field, EncryptedField)]
    for model in apps.get_models()
    if any(isinstance(field, EncryptedField) for field in model._meta.concrete_fields)
}


def spoil(row: Model, *names: str) -> None:
    """Write credentials of a row, or all that it has, with a key that is gone."""
    stranger = Fernet(Fernet.generate_key())
    fields = [field for field in ENCRYPTED[type(row)] if not names or field.attname in names]
    table = connection.ops.quote_name(row._meta.db_table)
    with every_org(), connection.cursor() as cursor:
        for field in fields:
            column = connection.ops.quote_name(str(field.column))
            cursor.execute(f"UPDATE {table} SET {column} = %s WHERE id = %s", [stranger.encrypt(b"gone").decode(), row.pk])


@pytest.fixture
def lost(rival: World, private_key: str) -> World:
    """A second org, of whose credentials none can be read; also those that lie about for a while."""
    org = rival.org
    with every_org():
        draft = Draft.objects.create(base_url="https://x.my.salesforce.com", private_key=private_key, certificate="")
        pending = PendingSignIn.objects.create(org=org, verifier="v", token="t", frame_hash="")
        begun = Installation.objects.create(org=org, who="x", token="t")
        old = timezone.now() - timedelta(days=2)
        PendingSignIn.objects.filter(pk=pending.pk).update(created_at=old)
        Installation.objects.filter(pk=begun.pk).update(created_at=old)
    for row in (org.salesforce, rival.account, draft, pending, begun):
        spoil(row)
    return rival


@pytest.mark.django_db
def test_credentials_lie_in_the_database_as_ciphertext_only(acme: World) -> None:
    with every_org(), connection.cursor() as cursor:
        cursor.execute("SELECT api_key, webhook_secret FROM tenants_infobipaccount")
        stored = cursor.fetchone()
        assert InfobipAccount.objects.get().api_key == "key-acme"
    assert stored is not None
    assert "key-acme" not in stored[0] and decrypt(stored[0]) == "key-acme"
    assert "s-acme" not in stored[1]


def test_the_first_key_encrypts_and_every_key_decrypts(settings: Settings) -> None:
    old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()
    settings.FIELD_ENCRYPTION_KEYS = [old]
    before = encrypt("secret")
    settings.FIELD_ENCRYPTION_KEYS = [new, old]
    assert decrypt(before) == "secret"
    after = encrypt("secret")
    settings.FIELD_ENCRYPTION_KEYS = [new]
    assert decrypt(after) == "secret"
    with pytest.raises(CannotDecrypt):
        decrypt(before)


@pytest.mark.django_db
def test_a_row_with_a_credential_that_cannot_be_read_is_read_changed_and_written_without_loss(acme: World) -> None:
    spoil(acme.account, "api_key")
    with every_org():
        account = InfobipAccount.objects.get()
        assert account.name == "main" and account.webhook_secret == "s-acme"
        with pytest.raises(CannotDecrypt, match="FIELD_ENCRYPTION_KEYS"):
            account.client()
        assert readable(account, "api_key") == "" and unreadable(account) == ["API key"]
        before = account.__dict__["api_key"]
        account.name = "other"
        account.save()
        account = InfobipAccount.objects.get()
        assert account.name == "other" and account.__dict__["api_key"] == before and account.webhook_secret == "s-acme"
        account.api_key = "new"
        account.save()
        assert InfobipAccount.objects.get().api_key == "new" and unreadable(account) == []


@pytest.mark.django_db
def test_what_nobody_has_used_is_written_back_with_the_first_key(acme: World, settings: Settings) -> None:
    """A row that was read before the keys were changed must not bring a value back that only the old one fits."""
    with every_org():
        account = InfobipAccount.objects.get()
        new = Fernet.generate_key().decode()
        settings.FIELD_ENCRYPTION_KEYS = [new, *settings.FIELD_ENCRYPTION_KEYS]
        account.save()
        settings.FIELD_ENCRYPTION_KEYS = [new]
        assert InfobipAccount.objects.get().api_key == "key-acme"


@pytest.mark.django_db
@pytest.mark.parametrize("model", ENCRYPTED, ids=lambda model: model.__name__)
def test_reading_many_orgs_rows_does_not_fail_for_one(acme: World, lost: World, model: type[Model]) -> None:
    """Whatever reads them, alone or beside rows that point at them."""
    relations = [
        (reader, field.name)
        for reader in apps.get_models()
        for field in reader._meta.concrete_fields
        if isinstance(field, ForeignKey) and field.related_model is model
    ]
    with every_org():
        rows = list(model._default_manager.all())
        assert any(unreadable(row) for row in rows)
        for reader, name in relations:
            list(reader._default_manager.select_related(name))


@pytest.mark.django_db(transaction=True)
def test_the_doctor_looks_at_the_others_and_names_it_with_its_remedy(acme: World, lost: World, settings: Settings) -> None:
    settings.ALLOW_LOCAL_UPSTREAMS = True
    with every_org():  # nobody answers, and says so at once
        InfobipAccount.objects.update(base_url="http://127.0.0.1:1")
        SalesforceConnection.objects.update(base_url="http://127.0.0.1:1")
    assert doctor.run_due_checks() == 2
    with every_org():
        well, bad = (
            {each["title"]: each for each in Checkup.objects.get(org=world.org).findings} for world in (acme, lost)
        )
    assert well["Stored credentials"]["state"] == "ok"
    assert bad["Stored credentials"]["state"] == "failed"
    for words in ("private key of the Salesforce connection", "API key of Infobip account main", "webhook secret"):
        assert words in bad["Stored credentials"]["found"]
    assert "FIELD_ENCRYPTION_KEYS" in bad["Stored credentials"]["remedy"]
    for title, finding in bad.items():
        assert "the check itself failed" not in finding["found"], title
        assert "My Domain" not in finding["remedy"] or title != "Login to Salesforce"


@pytest.mark.django_db
def test_a_second_account_is_examined_though_the_first_ones_key_cannot_be_read(acme: World, settings: Settings) -> None:
    settings.ALLOW_LOCAL_UPSTREAMS = True
    with every_org():
        SalesforceConnection.objects.update(base_url="http://127.0.0.1:1")
        InfobipAccount.objects.create(
            org=acme.org, name="other", base_url="http://127.0.0.1:1", api_key="k", webhook_secret="s"
        )
    spoil(acme.account)
    with every_org():
        acme.org.refresh_from_db()
    found = {each.title: each.found for each in doctor.run_checks(acme.org)}
    assert "cannot be read" in found["Infobip API key: main"]
    assert "no connection" in found["Infobip API key: other"]


@pytest.mark.django_db
def test_operators_see_every_list_and_the_org_it_concerns(acme: World, lost: World) -> None:
    operator = Client()
    operator.force_login(User.objects.create_superuser("operator"))
    for name in ("org", "salesforceconnection", "infobipaccount", "channel", "sender", "membership", "auditentry"):
        page = operator.get(f"/admin/tenants/{name}/")
        assert page.status_code == 200, name
    for row in (lost.account, lost.org.salesforce):
        page = operator.get(f"/admin/tenants/{row._meta.model_name}/{row.pk}/change/")
        assert page.status_code == 200 and "gAAAA" not in page.content.decode()


@pytest.mark.django_db
def test_the_tokens_of_others_are_given_back_and_one_that_cannot_be_read_is_forgotten(
    acme: World, lost: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    revoked: list[str] = []
    monkeypatch.setattr("tenants.installation.revoke", lambda _url, token, **_: revoked.append(token.value))
    with every_org():
        healthy = Installation.objects.create(org=acme.org, who="x", token="mine")
        Installation.objects.filter(pk=healthy.pk).update(created_at=timezone.now() - timedelta(days=2))
        assert installation.revoke_leftover_tokens() == 3
        assert revoked == ["mine"]
        assert not Installation.objects.exclude(token="").exists()


@pytest.mark.django_db
def test_rotation_leaves_nothing_that_needs_the_old_key(acme: World, rival: World, settings: Settings) -> None:
    old, new = settings.FIELD_ENCRYPTION_KEYS[0], Fernet.generate_key().decode()
    settings.FIELD_ENCRYPTION_KEYS = [new, old]
    out = StringIO()
    call_command("rotate_keys", stdout=out)
    assert out.getvalue().startswith("6 credentials")  # two orgs with a private key, an API key and a secret each
    assert "can be dropped" in out.getvalue()
    settings.FIELD_ENCRYPTION_KEYS = [new]
    with every_org():
        assert {account.api_key for account in InfobipAccount.objects.all()} == {"key-acme", "key-rival"}


@pytest.mark.django_db
def test_rotation_goes_on_past_what_no_key_fits_and_names_it(acme: World, rival: World, settings: Settings) -> None:
    spoil(rival.account, "api_key")
    old, new = settings.FIELD_ENCRYPTION_KEYS[0], Fernet.generate_key().decode()
    settings.FIELD_ENCRYPTION_KEYS = [new, old]
    out = StringIO()
    with pytest.raises(CommandError, match=r"1 of 6 .* Put the key that wrote them back"):
        call_command("rotate_keys", stdout=out)
    named = f"no key fits: API key of infobip account {rival.account.pk} ({rival.org.salesforce_id} Rival)"
    assert out.getvalue().splitlines() == ["5 credentials are encrypted with the first key now.", named]
    settings.FIELD_ENCRYPTION_KEYS = [new]
    with every_org():
        accounts = {account.name: account for account in InfobipAccount.objects.filter(org=acme.org)}
        assert accounts["main"].api_key == "key-acme"
        assert InfobipAccount.objects.get(org=rival.org).webhook_secret == "s-rival"


# what the org that it concerns can still do


@pytest.fixture
def admin(lost: World, settings: Settings) -> Client:
    settings.ALLOW_LOCAL_UPSTREAMS = True
    with every_org():
        InfobipAccount.objects.update(base_url="http://127.0.0.1:1")
        SalesforceConnection.objects.update(base_url="http://127.0.0.1:1", scrt_url="http://127.0.0.1:1")
    return signed_in(lost.org)


@pytest.mark.django_db
@pytest.mark.parametrize("step", ["connect", "channel", "texts", "accounts", "senders", "summary"])
def test_its_pages_are_there(lost: World, admin: Client, step: str) -> None:
    page = look(admin, lost.org, step)
    assert "gAAAA" not in page and "Ciphertext" not in page


@pytest.mark.django_db
def test_a_page_that_cannot_do_without_it_says_so(lost: World, admin: Client) -> None:
    """The package holds the certificate of our key."""
    page = admin.get(f"/e/{lost.org.handle}/setup/byoc")
    assert page.status_code == 503 and "FIELD_ENCRYPTION_KEYS" in page.content.decode()
    assert f'href="/e/{lost.org.handle}/doctor"' in page.content.decode()


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("step", "fields"),
    [
        ("connect", {"consumer_key": "k", "username": "u", "scrt_url": "http://127.0.0.1:1"}),
        ("connect", {"action": "use new key"}),
        ("accounts", {"action": "subscribe"}),
        ("accounts", {"action": "change", "name": "main", "base_url": "http://127.0.0.1:1", "api_key": ""}),
        ("senders", {"action": "subscribe"}),
    ],
    ids=["connection", "next key", "subscription", "account without a new key", "subscription of chatbots"],
)
def test_what_needs_it_is_refused_in_words(lost: World, admin: Client, step: str, fields: dict[str, str]) -> None:
    page = press(admin, lost.org, step, account=str(lost.account.uuid), **fields)
    assert page.status_code == 200
    assert any(words in page.content.decode() for words in ("cannot be read", "can no longer read")), page.content.decode()


def make_secret(world: World) -> None:
    connecting.change_webhook_secret(world.account, who="x")


def make_token(world: World) -> None:
    with every_org():
        seen = connecting.digest_of_token(InfobipAccount.objects.get(pk=world.account.pk))
    connecting.change_handover_token(world.account, seen=seen, who="x")


def disconnect(world: World) -> None:
    connecting.disconnect(world.org, who="x")


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("remedy", "names"), [(make_secret, ["webhook_secret"]), (make_token, ["handover_token"]), (disconnect, [])]
)
def test_each_is_made_anew_without_the_old_one(lost: World, remedy: Callable[[World], None], names: list[str]) -> None:
    with every_org():
        lost.org.refresh_from_db()
        remedy(lost)
        account = InfobipAccount.objects.get(pk=lost.account.pk)
    for name in names:
        assert len(readable(account, name)) > 20
    if names == ["webhook_secret"]:
        assert account.webhook_secrets == [account.webhook_secret, ""]


@pytest.mark.django_db
def test_provisioning_again_replaces_them_all(settings: Settings) -> None:
    settings.ALLOW_LOCAL_UPSTREAMS = True
    document = demo_document(1, 1)
    provision(document)
    with every_org():
        for account in InfobipAccount.objects.all():
            spoil(account, "api_key", "webhook_secret", "handover_token")
        spoil(SalesforceConnection.objects.get(), "private_key")
    provision(document)
    with every_org():
        rows = [*InfobipAccount.objects.all(), SalesforceConnection.objects.get()]
        assert [unreadable(row) for row in rows] == [[] for _ in rows]


@pytest.mark.django_db
def test_who_signs_in_is_told_that_it_is_not_their_doing(lost: World) -> None:
    begun = sign_in.begin(org=lost.org)
    started = sign_in.start(begun.uuid)
    state = started.url.split("state=")[1].split("&")[0]
    with pytest.raises(sign_in.SignInRefused, match="Nobody can sign in here now"):
        sign_in.complete(state=state, code="aPrx", browser=started.browser)
