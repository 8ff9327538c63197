"""Encrypt all credentials again with the first key of FIELD_ENCRYPTION_KEYS."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from tenants.encryption import CannotDecrypt, rotate_stored
from tenants.tenancy import every_org


class Command(BaseCommand):
    help = "Encrypt all stored credentials again with the first key, so that the others can be dropped."

    def handle(self, *_: Any, **__: Any) -> None:
        try:
            with every_org():
                count = rotate_stored()
        except CannotDecrypt as exc:
            raise CommandError(f"{exc} Put the key that wrote it back, and run this again.") from exc
        self.stdout.write(f"{count} credentials are encrypted with the first key now. The other keys can be dropped.")
