"""Credentials at rest: a text field that PostgreSQL sees as ciphertext only.

A value is decrypted when its attribute is used, never while its row is read: a queue reads many orgs' rows at once, and one
value that no key fits would stop them all.

Keys come from ``FIELD_ENCRYPTION_KEYS``; the first one encrypts, all of them decrypt, so a key is changed by putting a new
one in front. Make one with ``python -c "from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())"``.
"""

from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.apps import apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import models
from django.db.models.query_utils import DeferredAttribute

from connector.http import CustomerMustAct


class CannotDecrypt(CustomerMustAct):
    """No key of ours fits; the key that wrote the value is missing from FIELD_ENCRYPTION_KEYS.

    Its credential makes no call, so it is one of the errors that keep a call from succeeding.
    """

    silent_variable_failure = True  # in a template such a credential is nothing, as one that was never set

    def __init__(self) -> None:
        super().__init__("Connector", "a stored credential cannot be read, since no key in FIELD_ENCRYPTION_KEYS fits it")


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
    except (InvalidToken, ValueError) as exc:  # ValueError: no ciphertext, whatever was written there
        raise CannotDecrypt from exc


def rotate(ciphertext: str) -> str:
    """Encrypt again with the first key.

    :raises CannotDecrypt: if no key fits
    """
    try:
        return _box(tuple(settings.FIELD_ENCRYPTION_KEYS)).rotate(ciphertext.encode()).decode()
    except (InvalidToken, ValueError) as exc:
        raise CannotDecrypt from exc


@dataclass(frozen=True, slots=True)
class Ciphertext:
    """A value as it is stored, which nobody has used yet."""

    stored: str


class _DecryptedAtUse(DeferredAttribute):
    """The attribute of an encrypted field: its text, decrypted once, when it is first read.

    :raises CannotDecrypt: when it is read, if no key fits
    """

    def __get__(self, instance: models.Model | None, cls: type[models.Model] | None = None) -> Any:
        value = super().__get__(instance, cls)
        if isinstance(value, Ciphertext) and instance is not None:
            value = instance.__dict__[self.field.attname] = decrypt(value.stored)
        return value

    def __set__(self, instance: models.Model, value: Any) -> None:
        # a descriptor without this would lose to what the row holds
        instance.__dict__[self.field.attname] = value


class EncryptedField(models.TextField):  # type: ignore[type-arg]  # Django's own is no generic when it runs
    """Text that is encrypted on its way to the database. It cannot be searched; an empty text stays empty.

    ``values()`` gives it as ``Ciphertext``; ``refresh_from_db()`` counts as a use.
    """

    descriptor_class = _DecryptedAtUse

    def get_prep_value(self, value: Any) -> Any:
        if isinstance(value, Ciphertext):
            return value.stored
        return encrypt(value) if value else value

    def from_db_value(self, value: str | None, _expression: object, _connection: object) -> Ciphertext | str | None:
        return Ciphertext(value) if value else value

    def pre_save(self, model_instance: models.Model, add: bool) -> Any:
        value = model_instance.__dict__[self.attname]
        if isinstance(value, Ciphertext):
            with suppress(CannotDecrypt):  # else it is written back as it is
                return Ciphertext(rotate(value.stored))  # it may have been read before the keys were changed
        return value


def readable(row: models.Model, name: str) -> str:
    """Give a credential of a row, or nothing where no key fits: then it is worth as much as none."""
    try:
        return str(getattr(row, name))
    except CannotDecrypt:
        return ""


def unreadable(row: models.Model) -> list[str]:
    """Name the credentials of a row that no key fits."""
    fields = [field for field in row._meta.concrete_fields if isinstance(field, EncryptedField)]
    held = [field for field in fields if row.__dict__.get(field.attname)]
    return [str(field.verbose_name) for field in held if not readable(row, field.attname)]


def rotate_stored() -> tuple[int, list[str]]:
    """Encrypt every stored credential again with the first key; gives their number, and names those that no key fits.

    Each value is replaced only where it is still the one that was read, so that nothing saved meanwhile is undone.
    """
    count, lost = 0, []
    for model in apps.get_models():
        for field in model._meta.concrete_fields:
            if isinstance(field, EncryptedField):
                for row in model._base_manager.exclude(**{field.attname: ""}):
                    stored = row.__dict__[field.attname]
                    try:
                        again = Ciphertext(rotate(stored.stored))
                    except CannotDecrypt:
                        lost.append(_name(row, field))
                        continue
                    same = model._base_manager.filter(pk=row.pk, **{field.attname: stored})
                    count += same.update(**{field.attname: again})
    return count, lost


def _name(row: models.Model, field: EncryptedField) -> str:
    org = getattr(row, "org", None)
    return f"{field.verbose_name} of {row._meta.verbose_name} {row.pk}" + (f" ({org.salesforce_id} {org})" if org else "")
