"""Credentials at rest: a text field that PostgreSQL sees as ciphertext only.

Keys come from ``FIELD_ENCRYPTION_KEYS``; the first one encrypts, all of them decrypt, so a key is changed by putting a new
one in front. Make one with ``python -c "from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())"``.
"""

from functools import cache
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.apps import apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, models


class CannotDecrypt(Exception):
    """No key of ours fits; the key that wrote the value is missing from FIELD_ENCRYPTION_KEYS."""


@cache
def _box(keys: tuple[str, ...]) -> MultiFernet:
    if not keys:
        raise ImproperlyConfigured("FIELD_ENCRYPTION_KEYS is empty; give at least one Fernet key.")
    return MultiFernet([Fernet(key) for key in keys])


def encrypt(text: str) -> str:
    """Encrypt with the first key."""
    return _box(tuple(settings.FIELD_ENCRYPTION_KEYS)).encrypt(text.encode()).decode()


def decrypt(ciphertext: str) -> str:
    """Decrypt with whichever key fits.

    :raises CannotDecrypt: if none does
    """
    try:
        return _box(tuple(settings.FIELD_ENCRYPTION_KEYS)).decrypt(ciphertext).decode()
    except InvalidToken as exc:
        raise CannotDecrypt("No key in FIELD_ENCRYPTION_KEYS fits a stored credential.") from exc


def rotate(ciphertext: str) -> str:
    """Encrypt again with the first key.

    :raises CannotDecrypt: if no key fits
    """
    try:
        return _box(tuple(settings.FIELD_ENCRYPTION_KEYS)).rotate(ciphertext.encode()).decode()
    except InvalidToken as exc:
        raise CannotDecrypt("No key in FIELD_ENCRYPTION_KEYS fits a stored credential.") from exc


def rotate_stored() -> int:
    """Encrypt every stored credential again with the first key, and count them.

    Each value is replaced only where it is still the one that was read, so that nothing saved meanwhile is undone.

    :raises CannotDecrypt: if no key fits a value; what was done before stands, and it can be run again
    """
    count = 0
    for model in apps.get_models():
        for field in model._meta.concrete_fields:
            if isinstance(field, EncryptedField):
                table, column = (connection.ops.quote_name(name) for name in (model._meta.db_table, str(field.column)))
                with connection.cursor() as cursor:
                    cursor.execute(f"SELECT id, {column} FROM {table} WHERE {column} <> ''")
                    for row_id, stored in cursor.fetchall():
                        cursor.execute(
                            f"UPDATE {table} SET {column} = %s WHERE id = %s AND {column} = %s",
                            [rotate(stored), row_id, stored],
                        )
                        count += cursor.rowcount
    return count


class EncryptedField(models.TextField):  # type: ignore[type-arg]  # Django's own is no generic when it runs
    """Text that is encrypted on its way to the database. It cannot be searched; an empty text stays empty."""

    def get_prep_value(self, value: Any) -> Any:
        return encrypt(value) if value else value

    def from_db_value(self, value: str | None, _expression: object, _connection: object) -> str | None:
        return decrypt(value) if value else value
