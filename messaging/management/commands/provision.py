"""Create or update one org from a JSON document."""

import json
import sys
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from messaging.tasks import announce_orgs
from tenants.onboarding import SetupProblem, provision


class Command(BaseCommand):
    help = "Create or update one org from a JSON document, and print the addresses that Infobip posts to."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", help="the document; - for standard input")

    def handle(self, *, file: str, **_: Any) -> None:
        try:
            text = sys.stdin.read() if file == "-" else Path(file).read_text()
        except (OSError, UnicodeDecodeError) as exc:
            raise CommandError(f"{file} cannot be read: {exc}") from exc
        try:
            document = json.loads(text)
        except ValueError as exc:
            raise CommandError(f"{file} is not JSON: {exc}") from exc
        try:
            result = provision(document)
        except SetupProblem as exc:
            raise CommandError(f"Nothing was changed. Mend these and try again:\n{exc}") from exc
        if not announce_orgs():
            self.stderr.write("The broker is down; the subscribers will find a new org within seconds all the same.")
        self.stdout.write(json.dumps(result, indent=2))
