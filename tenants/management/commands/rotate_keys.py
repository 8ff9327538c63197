"""manage.py rotate_keys: encrypt all credentials again with the first key of FIELD_ENCRYPTION_KEYS."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from tenants.encryption import rotate_stored
from tenants.tenancy import every_org


class Command(BaseCommand):
    """Print how many there were, and what no key fits; end with 1 if there is any of that."""

    help = "Encrypt all stored credentials again with the first key, so that the others can be dropped."

    def handle(self, *_: Any, **__: Any) -> None:
        with every_org():
            count, lost = rotate_stored()
        self.stdout.write(f"{count} credentials are encrypted with the first key now.")
        for each in lost:
            self.stdout.write(f"no key fits: {each}")
        if lost:
            raise CommandError(
                f"{len(lost)} of {count + len(lost)} credentials cannot be read with any of the keys. Put the key that "
                "wrote them back into FIELD_ENCRYPTION_KEYS and run this again, or enter them anew."
            )
        self.stdout.write("The other keys can be dropped.")
