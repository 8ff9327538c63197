"""manage.py make_api_token: let a customer's system call our API, from a terminal."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from tenants import api_tokens
from tenants.models import Org
from tenants.tenancy import every_org, org_scope


class Command(BaseCommand):
    """Print a new token, once: only its hash is kept."""

    help = "Make a token of an org for our API."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("org", help="org id of 15 or 18 characters")
        parser.add_argument("name", help="of the system that will use it")

    def handle(self, *args: Any, org: str, name: str, **options: Any) -> None:
        with every_org():
            found = Org.objects.filter(salesforce_id__startswith=org[:15]).first() if len(org) in (15, 18) else None
        if found is None:
            raise CommandError(f"No org has the id {org!r}: an org id has 15 or 18 characters.")
        if not 0 < len(name) <= 100:
            raise CommandError("A name has 1 to 100 characters.")
        with org_scope(found.pk):
            self.stdout.write(api_tokens.make(found, name=name, scopes=list(api_tokens.SCOPES), who="an operator"))
