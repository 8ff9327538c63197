"""System checks: a wrong environment is named at start-up, with its remedy."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from cryptography.fernet import Fernet
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, register
from django.db import connections


@register(Tags.security)
def secrets_are_set(**_: Any) -> list[CheckMessage]:
    """Refuse to start without the secrets that everything rests on."""
    problems: list[CheckMessage] = []
    if settings.SECRET_KEY == "insecure-until-set":
        problems.append(Error("SECRET_KEY is not set.", hint="Set it to a long random text.", id="connector.E001"))
    if not settings.FIELD_ENCRYPTION_KEYS:
        hint = "Set it to one or more Fernet keys, separated by commas; the first one encrypts."
        problems.append(Error("FIELD_ENCRYPTION_KEYS is not set.", hint=hint, id="connector.E002"))
    for number, key in enumerate(settings.FIELD_ENCRYPTION_KEYS, start=1):
        try:
            Fernet(key)
        except ValueError:
            hint = "A Fernet key is 32 bytes in URL-safe base64."
            problems.append(Error(f"FIELD_ENCRYPTION_KEYS: key {number} is not valid.", hint=hint, id="connector.E003"))
    return problems


@register(Tags.security)
def local_upstreams_stay_local(**_: Any) -> list[CheckMessage]:
    """Refuse plain http to this machine's own ports on a site that the public reaches."""
    host = urlsplit(settings.PUBLIC_URL).hostname or ""
    if settings.ALLOW_LOCAL_UPSTREAMS and host not in ("localhost", "127.0.0.1", "::1"):
        hint = "It is for the demo and for tests: unset it, or set PUBLIC_URL to an address of this machine."
        return [Error(f"ALLOW_LOCAL_UPSTREAMS is on beside the public address {host}.", hint=hint, id="connector.E004")]
    return []


@register(Tags.database)
def role_is_bound_by_policies(*, databases: Sequence[str] | None = None, **_: Any) -> list[CheckMessage]:
    """Refuse a database role that row-level security does not bind."""
    problems: list[CheckMessage] = []
    for alias in databases or []:
        with connections[alias].cursor() as cursor:
            cursor.execute("SELECT rolsuper OR rolbypassrls, rolname FROM pg_roles WHERE rolname = current_user")
            row = cursor.fetchone()
        if row and row[0]:
            hint = "Connect as a plain role that owns the tables; every customer's rows are open to this one."
            problems.append(
                Error(f"The database role {row[1]} bypasses row-level security.", hint=hint, id="connector.E005")
            )
    return problems
