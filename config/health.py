"""Whether this process can do its work; whether it lives, asgi.py says."""

import structlog
from django.db import Error as DatabaseError
from django.db import InterfaceError, connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, JsonResponse

from tenants.broker import remember

log = structlog.get_logger(__name__)


def ready(_request: HttpRequest) -> JsonResponse:
    """Say what works. 503 without a database that fits this code; a broker that is down does not keep webhooks out."""
    parts = {"database": "up", "migrations": "applied", "broker": "up"}
    try:
        executor = MigrationExecutor(connection)
        if executor.migration_plan(executor.loader.graph.leaf_nodes()):
            parts["migrations"] = "missing: run manage.py migrate"
    except (DatabaseError, InterfaceError) as exc:
        log.error("database down", error=type(exc).__name__)
        connection.close()
        parts |= {"database": "down", "migrations": "unknown"}
    if not remember(lambda redis: redis.ping(), otherwise=False):
        parts["broker"] = "down"
    usable = parts["database"] == "up" and parts["migrations"] == "applied"
    return JsonResponse(parts, status=200 if usable else 503)
