"""What a test has committed does not outlive it."""

from unittest import mock

import psycopg
import pytest
from django.apps import apps
from django.contrib.auth.models import Permission
from django.contrib.contenttypes.models import ContentType
from django.db import OperationalError, connection

from tenants.tenancy import every_org
from tests.conftest import World
from tests.support import emptying

pytestmark = pytest.mark.django_db(transaction=True)


def filled() -> set[str]:
    """Name the models of which there are rows."""
    with every_org():
        return {model._meta.label_lower for model in apps.get_models() if model._default_manager.exists()}


@pytest.mark.parametrize("many_bytes", [emptying.MANY_BYTES, 0], ids=["deleted", "truncated"])
def test_no_row_is_left_whatever_points_at_it(acme: World, rival: World, many_bytes: int) -> None:
    names = {"contenttypes.contenttype", "auth.permission"}
    assert filled() >= names | {"tenants.org", "tenants.infobipaccount", "tenants.channel", "tenants.sender"}
    known = ContentType.objects.count(), Permission.objects.count()
    with mock.patch.object(emptying, "MANY_BYTES", many_bytes):
        emptying.empty_tables(mock.sentinel.case)
    assert filled() == names
    assert (ContentType.objects.count(), Permission.objects.count()) == known


def test_what_somebody_is_still_writing_is_not_left_for_the_next_test(acme: World) -> None:
    parameters = connection.get_connection_params()
    known = {name: parameters[name] for name in ("host", "port", "user", "password", "dbname")}
    with psycopg.connect(**known) as other, connection.cursor() as cursor:
        other.execute("INSERT INTO auth_group (name) VALUES ('late')")
        cursor.execute("SET lock_timeout = '50ms'")
        with pytest.raises(OperationalError, match="lock timeout"):
            emptying.empty_tables(mock.sentinel.case)
        cursor.execute("SET lock_timeout = '2s'")
        other.rollback()
