import pytest
from django.db import connection
from pytest_django import Settings

from tenants.checks import local_upstreams_stay_local, role_is_bound_by_policies, secrets_are_set


def test_missing_and_broken_secrets_are_named(settings: Settings) -> None:
    settings.SECRET_KEY, settings.FIELD_ENCRYPTION_KEYS = "insecure-until-set", []
    assert [problem.id for problem in secrets_are_set()] == ["connector.E001", "connector.E002"]
    settings.SECRET_KEY, settings.FIELD_ENCRYPTION_KEYS = "set", ["too short"]
    assert [problem.id for problem in secrets_are_set()] == ["connector.E003"]


@pytest.mark.parametrize(
    ("public_url", "refused"), [("https://connector.example.com", True), ("http://127.0.0.1:8000", False)]
)
def test_local_upstreams_are_refused_beside_a_public_address(settings: Settings, public_url: str, refused: bool) -> None:
    settings.ALLOW_LOCAL_UPSTREAMS, settings.PUBLIC_URL = True, public_url
    assert bool(local_upstreams_stay_local()) is refused
    settings.ALLOW_LOCAL_UPSTREAMS = False
    assert not local_upstreams_stay_local()


@pytest.mark.django_db
def test_the_role_of_the_tests_is_bound_by_the_policies() -> None:
    assert role_is_bound_by_policies(databases=["default"]) == []


@pytest.mark.django_db
def test_a_role_that_sees_everything_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT rolname FROM pg_roles WHERE rolsuper LIMIT 1")
        (superuser,) = cursor.fetchone() or ("",)

    class Cursor:
        def __enter__(self) -> "Cursor":
            return self

        def __exit__(self, *_: object) -> None: ...

        def execute(self, _sql: str) -> None: ...

        def fetchone(self) -> tuple[bool, str]:
            return True, superuser

    monkeypatch.setattr(connection, "cursor", Cursor)
    assert [problem.id for problem in role_is_bound_by_policies(databases=["default"])] == ["connector.E005"]
