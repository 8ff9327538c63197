"""Provision many orgs at once, by the product's own command: starting manage.py for each would take minutes.

python -m benchmarks.orgs < DOCUMENTS.json
"""

import io
import json
import os
import sys

import django
from django.core.management import call_command


def main() -> None:
    """Read a list of provision documents and set up each."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    django.setup()
    for document in json.load(sys.stdin):
        sys.stdin = io.StringIO(json.dumps(document))
        call_command("provision", "-", stdout=io.StringIO())


if __name__ == "__main__":
    main()
