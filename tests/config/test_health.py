import pytest
from django.db import OperationalError
from django.test import Client
from pytest_django import Settings

from tenants import broker

pytestmark = pytest.mark.django_db


def test_a_process_that_can_work_names_its_parts() -> None:
    answer = Client().get("/readyz")
    assert answer.status_code == 200
    assert answer.json() == {"database": "up", "migrations": "applied", "broker": "up"}


def test_without_a_broker_webhooks_are_still_routed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    monkeypatch.setattr(broker, "_memory", broker._Memory())
    answer = Client().get("/readyz")
    assert answer.status_code == 200 and answer.json()["broker"] == "down"


def test_without_a_database_nothing_is_routed(monkeypatch: pytest.MonkeyPatch) -> None:
    def down(*_: object) -> None:
        raise OperationalError("gone")

    monkeypatch.setattr("config.health.MigrationExecutor", down)
    monkeypatch.setattr("config.health.connection.close", lambda: None)
    answer = Client().get("/readyz")
    assert answer.status_code == 503 and answer.json()["database"] == "down"


def test_missing_migrations_keep_traffic_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("config.health.MigrationExecutor.migration_plan", lambda *_: ["one"])
    answer = Client().get("/readyz")
    assert answer.status_code == 503 and "manage.py migrate" in answer.json()["migrations"]
