"""Provision many orgs at once, with what the product's own command calls: the command itself, for each, would take minutes.

python -m benchmarks.orgs < DOCUMENTS.json
"""

import json
import os
import sys
from importlib import import_module

import django
from django.core.management import get_commands


def main() -> None:
    """Read a list of provision documents and set up each."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    django.setup()
    command = import_module(f"{get_commands()['provision']}.management.commands.provision")
    for document in json.load(sys.stdin):
        command.provision(document)


if __name__ == "__main__":
    main()
