import pytest
from cryptography.fernet import Fernet
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
