"""System checks: a wrong environment is named at start-up, with its remedy."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from cryptography.fernet import Fernet
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.db import connections
from django.http.request import validate_host

OLDEST_POSTGRESQL = 15
LOCAL = ("localhost", "127.0.0.1", "::1")


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
    if settings.ALLOW_LOCAL_UPSTREAMS and host not in LOCAL:
        hint = "It is for the demo and for tests: unset it, or set PUBLIC_URL to an address of this machine."
        return [Error(f"ALLOW_LOCAL_UPSTREAMS is on beside the public address {host}.", hint=hint, id="connector.E004")]
    return []


@register(Tags.security)
def public_url_is_answered(**_: Any) -> list[CheckMessage]:
    """Warn of an address at which `web` would answer nobody, or could keep nobody signed in."""
    url, problems = urlsplit(settings.PUBLIC_URL), list[CheckMessage]()
    host = url.hostname or ""
    if not validate_host(host, settings.ALLOWED_HOSTS):
        hint = "Add it: pages that are asked of other hosts are answered with 400."
        problems.append(Warning(f"ALLOWED_HOSTS lacks the host of PUBLIC_URL, {host}.", hint=hint, id="connector.W001"))
    if url.scheme != "https" and host not in LOCAL:
        hint = "Begin it with https://. Inside Salesforce's pages browsers keep no cookie of anything else."
        problems.append(Warning("PUBLIC_URL is not encrypted.", hint=hint, id="connector.W002"))
    return problems


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


@register(Tags.database)
def database_can_be_used(*, databases: Sequence[str] | None = None, **_: Any) -> list[CheckMessage]:
    """Refuse a server that is too old or keeps no Unicode, and one that is a replica or read-only."""
    problems: list[CheckMessage] = []
    for alias in databases or []:
        with connections[alias].cursor() as cursor:
            cursor.execute(
                """SELECT current_setting('server_version_num')::int / 10000, current_setting('server_encoding'),
                          current_setting('transaction_read_only') = 'on'"""
            )
            version, encoding, read_only = cursor.fetchone() or (0, "", True)
        if version < OLDEST_POSTGRESQL:
            hint = f"Use PostgreSQL {OLDEST_POSTGRESQL} or newer."
            problems.append(Error(f"PostgreSQL {version} is too old.", hint=hint, id="connector.E006"))
        if encoding != "UTF8":
            hint = "Make another with ENCODING 'UTF8': people write in every script."
            problems.append(Error(f"The database is encoded in {encoding}.", hint=hint, id="connector.E007"))
        if read_only:
            hint = "DATABASE_URL must lead to the primary, and the role must be allowed to write: a quota may be used up."
            problems.append(Error("The database is read-only.", hint=hint, id="connector.E008"))
    return problems


@register(Tags.database)
def sessions_are_ours(*, databases: Sequence[str] | None = None, **_: Any) -> list[CheckMessage]:
    """Refuse a pooler that keeps our settings from PostgreSQL, and warn of one that may share sessions."""
    problems: list[CheckMessage] = []
    for alias in databases or []:
        connection = connections[alias]
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT name FROM pg_settings WHERE name = ANY(%s) AND source NOT IN ('client', 'session') ORDER BY name",
                [list(settings.DATABASE_SESSION)],
            )
            lost = [name for (name,) in cursor.fetchall()]
            cursor.execute("SELECT pg_backend_pid()")
            (process,) = cursor.fetchone() or (0,)
        if lost:
            hint = "A pooler ignores the parameter `options` of a connection. Let it pass, or connect to PostgreSQL itself."
            problems.append(Error(f"PostgreSQL does not learn of {', '.join(lost)}.", hint=hint, id="connector.E009"))
        # who asks a pooler is told of a process that is the pooler's own invention
        if process != connection.connection.info.backend_pid:
            hint = "In session mode it may. In transaction mode one company's pages would show another's rows, or none."
            problems.append(Warning("A pooler stands before PostgreSQL.", hint=hint, id="connector.W003"))
    return problems
