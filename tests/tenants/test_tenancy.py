"""Who sees whose rows; the policies are PostgreSQL's, so these tests ask PostgreSQL."""

import threading
from typing import Any

import pytest
from django.apps import apps
from django.db import IntegrityError, connection, transaction

from tenants.models import Draft, Org, PendingSignIn, Sender
from tenants.tenancy import every_org, org_scope
from tests.conftest import World

# what is not a customer's: Django's own tables
SHARED = {"django_migrations", "django_content_type", "django_session", "django_admin_log"}


def rows(sql: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall())


def is_shared(table: str) -> bool:
    return table in SHARED or table.startswith("auth_")


@pytest.mark.django_db
def test_every_table_of_a_customers_data_has_a_forced_policy() -> None:
    unguarded = rows(
        """SELECT relname FROM pg_class LEFT JOIN pg_policy ON polrelid = pg_class.oid
           WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
             AND NOT (relrowsecurity AND relforcerowsecurity AND polname IS NOT NULL)"""
    )
    assert [table for (table,) in unguarded if not is_shared(str(table))] == []


@pytest.mark.django_db
def test_every_foreign_key_between_customers_tables_holds_the_org_too() -> None:
    composite = {
        (table, column)
        for table, columns in rows(
            """SELECT conrelid::regclass::text, array_agg(attname::text)
               FROM pg_constraint JOIN pg_attribute ON attrelid = conrelid AND attnum = ANY(conkey)
               WHERE contype = 'f' AND array_length(conkey, 1) = 2 GROUP BY pg_constraint.oid, conrelid"""
        )
        for column in columns
    }
    models = [model for app in ("tenants", "messaging") for model in apps.get_app_config(app).get_models()]
    checked = 0
    for model in models:
        for field in model._meta.concrete_fields:
            if field.is_relation and field.related_model not in (Org, Draft):  # a draft is nobody's yet
                assert (model._meta.db_table, field.column) in composite, f"{model.__name__}.{field.name}"
                checked += 1
    assert checked >= 12


@pytest.mark.django_db
def test_a_row_of_one_org_cannot_point_at_anothers(acme: World, rival: World) -> None:
    with every_org(), pytest.raises(IntegrityError, match="tenants_sender_same_org_account_id"), transaction.atomic():
        Sender.objects.create(org=acme.org, account=rival.account, channel=acme.channel, number="447700900999")
        rows("SET CONSTRAINTS ALL IMMEDIATE")


@pytest.mark.django_db
def test_what_belongs_to_no_org_yet_is_seen_with_the_wide_scope_only(acme: World) -> None:
    with every_org():
        draft = Draft.objects.create(token_hash="x", base_url="https://new.example", private_key="k", certificate="c")
        PendingSignIn.objects.create(draft=draft, frame_hash="y")
    with org_scope(acme.org.pk):
        assert not Draft.objects.exists() and not PendingSignIn.objects.exists()
    assert not Draft.objects.exists() and not PendingSignIn.objects.exists()


@pytest.mark.django_db
def test_without_a_scope_nothing_is_seen(acme: World) -> None:
    assert not Org.objects.exists()
    assert not Sender.objects.exists()


@pytest.mark.django_db
def test_in_an_orgs_scope_only_its_own_rows_are_seen_and_written(acme: World, rival: World) -> None:
    with org_scope(acme.org.pk):
        assert list(Sender.objects.values_list("number", flat=True)) == ["447700900123"]
        assert Sender.objects.filter(pk=rival.sender.pk).update(number="1") == 0
        with pytest.raises(Exception, match="row-level security"), transaction.atomic():
            Sender.objects.create(org=rival.org, account=rival.account, channel=rival.channel, number="447700900777")


@pytest.mark.django_db
def test_a_scope_inside_another_is_taken_back(acme: World, rival: World) -> None:
    with org_scope(acme.org.pk):
        with every_org():
            assert Org.objects.count() == 2
        assert Org.objects.get() == acme.org


@pytest.mark.django_db
def test_a_scope_is_right_after_an_error_rolled_back(acme: World, rival: World) -> None:
    with org_scope(acme.org.pk):
        with pytest.raises(IntegrityError), transaction.atomic(), every_org():
            Org.objects.create(name="Twin", salesforce_id=acme.org.salesforce_id)
        assert Org.objects.get() == acme.org


@pytest.mark.django_db(transaction=True)
def test_a_new_connection_inside_a_scope_has_the_scope(acme: World) -> None:
    with org_scope(acme.org.pk):
        connection.close()
        assert Org.objects.get() == acme.org
    connection.close()
    assert not Org.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_another_thread_does_not_inherit_the_scope(acme: World) -> None:
    seen: list[int] = []

    def look() -> None:
        seen.append(Org.objects.count())
        connection.close()

    with every_org():
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    assert seen == [0]


@pytest.mark.django_db(transaction=True)
def test_a_connection_that_was_used_for_an_org_shows_its_rows_to_nobody_afterwards(acme: World) -> None:
    with org_scope(acme.org.pk):
        assert Org.objects.exists()
    assert not Org.objects.exists()
    assert rows("SELECT name FROM tenants_org") == []


@pytest.mark.django_db(transaction=True)
def test_a_scope_that_was_set_inside_a_transaction_does_not_outlive_its_rollback(acme: World, rival: World) -> None:
    with org_scope(acme.org.pk):
        assert Org.objects.get() == acme.org
    with pytest.raises(RuntimeError), transaction.atomic():
        assert not Org.objects.exists()  # the connection is set to nothing, inside the transaction
        raise RuntimeError  # and is set to acme again by its rollback
    assert not Org.objects.exists()
    with pytest.raises(RuntimeError), transaction.atomic(), org_scope(rival.org.pk):
        assert Org.objects.get() == rival.org
        raise RuntimeError
    with org_scope(rival.org.pk):
        assert Org.objects.get() == rival.org
