from io import StringIO

import pytest
from cryptography.fernet import Fernet
from django.core.management import CommandError, call_command
from django.db import connection
from pytest_django import Settings

from tenants.encryption import CannotDecrypt, decrypt, encrypt
from tenants.models import InfobipAccount
from tenants.tenancy import every_org
from tests.conftest import World


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
def test_rotation_leaves_nothing_that_needs_the_old_key(acme: World, rival: World, settings: Settings) -> None:
    old, new = settings.FIELD_ENCRYPTION_KEYS[0], Fernet.generate_key().decode()
    settings.FIELD_ENCRYPTION_KEYS = [new, old]
    out = StringIO()
    call_command("rotate_keys", stdout=out)
    assert out.getvalue().startswith("6 credentials")  # two orgs with a private key, an API key and a secret each
    settings.FIELD_ENCRYPTION_KEYS = [new]
    with every_org():
        assert {account.api_key for account in InfobipAccount.objects.all()} == {"key-acme", "key-rival"}


@pytest.mark.django_db
def test_rotation_without_the_key_that_wrote_says_so(acme: World, settings: Settings) -> None:
    settings.FIELD_ENCRYPTION_KEYS = [Fernet.generate_key().decode()]
    with pytest.raises(CommandError, match="Put the key that wrote it back"):
        call_command("rotate_keys")
