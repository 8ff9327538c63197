from django.apps import AppConfig
from django.db.backends.signals import connection_created


class TenantsConfig(AppConfig):
    name = "tenants"

    def ready(self) -> None:
        from tenants import checks, database, tenancy  # noqa: F401 (checks register themselves)

        connection_created.connect(database.watch_new_connection)
        connection_created.connect(tenancy.guard_new_connection)
