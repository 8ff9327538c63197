"""Whether this process can do its work; whether it lives, asgi.py says."""

from typing import Any

import structlog
from django.conf import settings
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
    if not remember(_takes_tasks, otherwise=False):
        parts["broker"] = "down"
    usable = parts["database"] == "up" and parts["migrations"] == "applied"
    return JsonResponse(parts, status=200 if usable else 503)


def _takes_tasks(redis: Any) -> bool:
    """Try what a broker must be able to do: a replica, a full one, and one that gives us no rights answer PING as well."""
    redis.set("connector:ready", 1, ex=60)
    redis.llen(settings.CELERY_TASK_DEFAULT_QUEUE)
    return True
