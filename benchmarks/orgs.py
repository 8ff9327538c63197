"""Provision many orgs at once, with the product's own function: starting manage.py for each would take minutes.

python -m benchmarks.orgs < DOCUMENTS.json
"""

import json
import os
import sys

import django


def main() -> None:
    """Read a list of provision documents and set up each."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    django.setup()
    from tenants.onboarding import provision  # Django must be set up first

    for document in json.load(sys.stdin):
        provision(document)


if __name__ == "__main__":
    main()
