"""What is wrong with some rows costs the others no more than a moment."""

from collections.abc import Sequence

import pytest
from django.db import connection

from messaging import batches
from messaging.batches import brief_transaction, work_on

pytestmark = pytest.mark.django_db(transaction=True)


def test_of_an_org_whose_rows_raise_a_few_are_taken_alone_and_the_rest_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MOST_ALONE", 2)
    aside: list[int] = []

    def work(rows: Sequence[int]) -> int:
        if min(rows) < 10:
            raise ValueError("poison")
        return len(rows)

    done = work_on({1: [1, 2, 3, 4], 2: [10, 11]}, work, set_aside=lambda row, _: aside.append(row))
    assert aside == [1, 2] and done == [2]


def test_a_lock_that_somebody_holds_is_waited_for_a_moment_only() -> None:
    def limit() -> str:
        with connection.cursor() as cursor:
            cursor.execute("SHOW lock_timeout")
            return str(cursor.fetchone()[0])

    usual = limit()
    with brief_transaction():
        assert limit() == "1s"
    assert limit() == usual != "1s"
