"""A connection that is of no use is replaced at once, and limits hold for all but migrations."""

import contextlib
import copy
from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest
from django.core.management import call_command
from django.db import Error as DjangoDatabaseError
from django.db import close_old_connections, connection, transaction
from django.db.backends.postgresql.base import DatabaseWrapper
from django.db.models.signals import pre_migrate

from tenants.database import is_spent
from tenants.models import Org
from tenants.tenancy import every_org
from tests.tenants.conftest import Two

pytestmark = pytest.mark.django_db(transaction=True)


def backend() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return int(cursor.fetchone()[0])


def make_read_only() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET default_transaction_read_only = on")


def add_an_org() -> None:
    with every_org():
        Org.objects.create(name="Acme", salesforce_id="00D5g00000ABcDEEA4")


def test_a_connection_that_turns_out_read_only_is_replaced_at_once() -> None:
    before = backend()
    make_read_only()
    with pytest.raises(DjangoDatabaseError):
        add_an_org()
    add_an_org()
    assert backend() != before


def test_so_it_is_in_the_middle_of_a_transaction() -> None:
    before = backend()
    make_read_only()
    with pytest.raises(DjangoDatabaseError), transaction.atomic(), transaction.atomic():
        add_an_org()
    with transaction.atomic():
        add_an_org()
    assert backend() != before


def test_a_connection_that_the_server_ended_costs_one_statement(two: Two) -> None:
    two.other.execute("SELECT pg_terminate_backend(%s)", [backend()])
    with pytest.raises(DjangoDatabaseError):
        backend()
    add_an_org()


def test_or_none_where_a_scope_is_entered_first(two: Two) -> None:
    two.other.execute("SELECT pg_terminate_backend(%s)", [backend()])
    add_an_org()


def test_a_request_after_a_restart_of_the_server_does_not_fail(two: Two) -> None:
    two.other.execute("SELECT pg_terminate_backend(%s)", [backend()])
    close_old_connections()  # as at the beginning of each request
    backend()


def test_a_connection_left_in_a_failed_transaction_is_not_used_by_the_next_request() -> None:
    before = backend()
    with contextlib.suppress(DjangoDatabaseError), connection.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("SELECT 1 / 0")
    close_old_connections()
    assert backend() != before


def test_a_row_at_fault_costs_no_connection() -> None:
    before = backend()
    for statement in ("SELECT 1 / 0", "SELECT pg_advisory_xact_lock('x'::text)"):
        with pytest.raises(DjangoDatabaseError), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(statement)
    assert backend() == before


SPENT = ["08006", "0A000", "25006", "25P03", "26000", "42P05", "57P01", "57P03", "58030", "XX000"]
NOT_SPENT = ["22003", "23505", "25P02", "40P01", "42P01", "53100", "55P03", "57014", "P0001"]


@pytest.mark.parametrize("code", [*SPENT, *NOT_SPENT])
def test_after_which_errors_a_connection_that_still_answers_is_of_no_use(code: str) -> None:
    error = psycopg.errors.lookup(code)()
    assert is_spent(cast(Any, SimpleNamespace(closed=False)), error) is (code in SPENT)
    assert is_spent(cast(Any, SimpleNamespace(closed=True)), error)


def test_the_pool_does_not_hand_out_a_read_only_connection_again() -> None:
    settings_dict = copy.deepcopy(connection.settings_dict)
    settings_dict["OPTIONS"]["pool"] = {"min_size": 1, "max_size": 1, "timeout": 5}
    settings_dict |= {"CONN_MAX_AGE": 0, "CONN_HEALTH_CHECKS": False}
    pooled = DatabaseWrapper(settings_dict, alias="pooled")
    try:
        with pooled.cursor() as cursor:
            cursor.execute("CREATE TABLE odd (id int)")
            cursor.execute("SET default_transaction_read_only = on")
        pooled.close()
        with pytest.raises(DjangoDatabaseError), pooled.cursor() as cursor:  # it comes back as it was
            cursor.execute("INSERT INTO odd VALUES (1)")
        pooled.close()
        with pooled.cursor() as cursor:
            cursor.execute("INSERT INTO odd VALUES (1)")
            cursor.execute("DROP TABLE odd")
    finally:
        pooled.close()
        pooled.close_pool()


def test_migrations_are_not_cut_by_the_limits_of_the_site() -> None:
    limits: list[dict[str, str]] = []

    def look(**_: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT name, setting FROM pg_settings WHERE name IN ('statement_timeout', 'lock_timeout')")
            limits.append(dict(cursor.fetchall()))

    pre_migrate.connect(look)
    try:
        call_command("migrate", verbosity=0)
    finally:
        pre_migrate.disconnect(look)
    look()
    during, afterwards = limits[0], limits[-1]
    assert during["statement_timeout"] == "0" and int(during["lock_timeout"]) > 20_000
    assert afterwards == {"statement_timeout": "15000", "lock_timeout": "2000"}
