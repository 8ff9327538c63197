"""What PostgreSQL answers is put down to the row or to the database, whichever it is."""

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import psycopg
import pytest
from django.core.exceptions import ValidationError
from django.db import Error as DjangoDatabaseError
from django.db import IntegrityError, OperationalError, connection, transaction
from psycopg import sql
from psycopg_pool import ConnectionPool

from connector.http import ApiError
from devstack.ports import free_port
from tenants import database, repeats
from tenants.database import facts_of, is_database_trouble, is_rows_fault, note_trouble
from tenants.models import Org
from tests.tenants.conftest import Connection, Two

pytestmark = pytest.mark.django_db(transaction=True)


Case = Callable[[Two], None]
ROWS: list[Case] = []
DATABASES: list[Case] = []


def rows_fault(case: Case) -> Case:
    ROWS.append(case)
    return case


def databases_trouble(case: Case) -> Case:
    DATABASES.append(case)
    return case


@rows_fault
def a_number_out_of_range(two: Two) -> None:
    two.run("INSERT INTO odd VALUES (3, 3000000000)")


@rows_fault
def a_text_that_is_no_number(two: Two) -> None:
    two.mine.execute("SELECT %s::int", ["x"])


@rows_fault
def a_text_with_a_zero_byte(two: Two) -> None:
    two.mine.execute("SELECT %s::text", ["a\0b"])


@rows_fault
def a_text_with_half_a_character(two: Two) -> None:
    two.mine.execute("SELECT %s::text", ["\ud83d"])


@rows_fault
def a_zero_byte_inside_json(two: Two) -> None:
    two.mine.execute("SELECT %s::jsonb", ['{"a": "\\u0000"}'])


@rows_fault
def json_that_is_nested_too_deep(two: Two) -> None:
    two.mine.execute("SELECT %s::jsonb", ["[" * 100_000 + "]" * 100_000])


@rows_fault
def a_text_too_long_for_its_index(two: Two) -> None:
    two.run("INSERT INTO odd SELECT 3, 3, string_agg(md5(i::text), '') FROM generate_series(1, 1000) i")


@rows_fault
def a_time_that_cannot_be_loaded(two: Two) -> None:
    two.mine.execute("SELECT '20000-01-01'::timestamptz").fetchone()


@rows_fault
def a_time_before_all_times(two: Two) -> None:
    two.mine.execute("SELECT '-infinity'::timestamptz").fetchone()


@rows_fault
def a_time_that_does_not_exist(two: Two) -> None:
    two.run("SELECT '2026-13-45'::timestamptz")


@rows_fault
def a_row_that_is_there(two: Two) -> None:
    two.run("INSERT INTO odd VALUES (1, 1)")


@rows_fault
def a_row_without_what_it_needs(two: Two) -> None:
    two.run("INSERT INTO odd VALUES (3, NULL)")


@rows_fault
def a_row_that_breaks_a_rule(two: Two) -> None:
    two.run("INSERT INTO odd VALUES (3, -1)")


@rows_fault
def two_rows_that_are_one(two: Two) -> None:
    two.run("INSERT INTO odd VALUES (3, 3), (3, 4) ON CONFLICT (id) DO UPDATE SET n = excluded.n")


@rows_fault
def a_row_that_a_trigger_refuses(two: Two) -> None:
    raised(two, "P0001")


@databases_trouble
def a_read_only_session(two: Two) -> None:
    two.run("SET default_transaction_read_only = on", "INSERT INTO odd VALUES (3, 3)")


@databases_trouble
def a_session_that_was_ended(two: Two) -> None:
    two.other.execute("SELECT pg_terminate_backend(%s)", [two.mine.info.backend_pid])
    two.run("SELECT 1")


@databases_trouble
def a_statement_after_the_end(two: Two) -> None:
    two.mine.close()
    two.run("SELECT 1")


@databases_trouble
def a_statement_that_was_cancelled(two: Two) -> None:
    two.run("SET statement_timeout = 1", "SELECT pg_sleep(10)")


@databases_trouble
def a_lock_that_was_not_given(two: Two) -> None:
    with two.other.transaction():
        two.other.execute("UPDATE odd SET n = 5 WHERE id = 1")
        two.run("SET lock_timeout = 1", "UPDATE odd SET n = 6 WHERE id = 1")


@databases_trouble
def a_lock_that_was_not_waited_for(two: Two) -> None:
    with two.other.transaction():
        two.other.execute("UPDATE odd SET n = 5 WHERE id = 1")
        two.run("SELECT 1 FROM odd WHERE id = 1 FOR UPDATE NOWAIT")


@databases_trouble
def a_session_idle_in_a_transaction(two: Two) -> None:
    two.run("SET idle_in_transaction_session_timeout = 1", "BEGIN")
    time.sleep(0.3)
    two.run("SELECT 1")


@databases_trouble
def a_transaction_that_failed_before(two: Two) -> None:
    two.run("BEGIN")
    with contextlib.suppress(psycopg.DataError):
        two.run("SELECT 1 / 0")
    two.run("SELECT 1")


@databases_trouble
def a_change_beside_ours(two: Two) -> None:
    two.run("BEGIN ISOLATION LEVEL SERIALIZABLE", "SELECT 1 FROM odd")
    two.other.execute("UPDATE odd SET n = 5 WHERE id = 1")
    two.run("UPDATE odd SET n = 6 WHERE id = 1")


@databases_trouble
def a_deadlock(two: Two) -> None:
    def cross(session: Connection, first: int, second: int) -> None:
        with session.transaction():
            session.execute("UPDATE odd SET n = 5 WHERE id = %s", [first])
            both.wait()
            session.execute("UPDATE odd SET n = 6 WHERE id = %s", [second])

    both = threading.Barrier(2)
    with ThreadPoolExecutor(2) as threads:
        ends = [threads.submit(cross, two.mine, 1, 2), threads.submit(cross, two.other, 2, 1)]
    for end in ends:
        end.result()  # one of them is the victim


@databases_trouble
def no_connection_left(two: Two) -> None:
    name = sql.Identifier(two.mine.info.dbname)
    two.other.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT 0").format(name))
    try:
        psycopg.connect(**two.parameters)
    finally:
        two.other.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT -1").format(name))


@databases_trouble
def no_connection_left_in_the_pool(two: Two) -> None:
    with ConnectionPool(kwargs=two.parameters, min_size=1, max_size=1, timeout=0.1) as pool, pool.connection():
        pool.getconn()


@databases_trouble
def nobody_who_listens(two: Two) -> None:
    psycopg.connect(**two.parameters | {"port": free_port()})


@databases_trouble
def a_table_that_is_not_there_yet(two: Two) -> None:
    two.run("SELECT 1 FROM odder")


@databases_trouble
def a_column_that_is_not_there_yet(two: Two) -> None:
    two.run("SELECT new FROM odd")


@databases_trouble
def a_table_that_we_may_not_read(two: Two) -> None:
    raised(two, "42501")


@databases_trouble
def a_statement_prepared_before_a_migration(two: Two) -> None:
    two.mine.execute("SELECT * FROM odd", prepare=True)
    two.other.execute("ALTER TABLE odd ADD COLUMN new int")
    two.mine.execute("SELECT * FROM odd", prepare=True)


@databases_trouble
def no_disk_left(two: Two) -> None:
    raised(two, "53100")


@databases_trouble
def no_memory_left(two: Two) -> None:
    raised(two, "53200")


@databases_trouble
def a_server_that_starts(two: Two) -> None:
    raised(two, "57P03")


@databases_trouble
def a_disk_that_cannot_be_read(two: Two) -> None:
    raised(two, "58030")


@databases_trouble
def a_fault_of_postgresql(two: Two) -> None:
    raised(two, "XX000")


@databases_trouble
def an_error_that_nobody_knows(two: Two) -> None:
    raised(two, "ZZ999")


def raised(two: Two, state: str) -> None:
    """What cannot be had here: PostgreSQL raises it all the same."""
    two.run(f"DO $$ BEGIN RAISE EXCEPTION 'odd' USING ERRCODE = '{state}'; END $$")


def error_of(case: Case, two: Two) -> Exception:
    with pytest.raises(Exception) as caught:
        case(two)
    return caught.value


def through_django(exc: Exception) -> Exception:
    """Let Django wrap what psycopg raised, as it does for all our statements."""
    with pytest.raises(Exception) as caught, connection.wrap_database_errors:
        raise exc
    return caught.value


@pytest.mark.parametrize("case", ROWS)
def test_a_row_at_fault_is_told_from_the_database(two: Two, case: Case) -> None:
    error = error_of(case, two)
    assert is_rows_fault(error) and is_rows_fault(through_django(error)), repr(error)
    assert not is_database_trouble(error) and not is_database_trouble(through_django(error))


@pytest.mark.parametrize("case", DATABASES)
def test_the_databases_trouble_is_not_put_down_to_the_row(two: Two, case: Case) -> None:
    error = error_of(case, two)
    assert isinstance(error, psycopg.Error), repr(error)
    assert not is_rows_fault(error) and not is_rows_fault(through_django(error)), repr(error)
    assert is_database_trouble(error) and is_database_trouble(through_django(error))


def test_a_policy_that_refuses_is_not_the_rows_fault(db: None) -> None:
    with pytest.raises(DjangoDatabaseError) as caught:
        Org.objects.create(name="Acme", salesforce_id="00D5g00000ABcDEEA4")  # outside of every scope
    assert not is_rows_fault(caught.value)


@pytest.mark.parametrize(
    ("error", "rows"),
    [
        (ValueError("x"), True),
        (RecursionError(), True),
        (ValidationError("x"), True),
        (IntegrityError("of Django's own"), True),
        (transaction.TransactionManagementError(), False),
        (OSError(), False),
        (TimeoutError(), False),
        (MemoryError(), False),
        (RuntimeError("cannot schedule new futures after shutdown"), False),
    ],
)
def test_what_python_raises_is_told_apart_too(error: Exception, rows: bool) -> None:
    assert is_rows_fault(error) is rows


@pytest.mark.parametrize("error", [OSError(), TimeoutError(), RuntimeError(), ApiError("Infobip", ""), ValueError()])
def test_what_does_not_come_from_the_database_is_not_its_trouble(error: Exception) -> None:
    assert not is_database_trouble(error)


def test_a_log_says_what_failed_and_where_and_never_what_somebody_wrote(two: Two) -> None:
    facts = facts_of(through_django(error_of(a_text_with_what_somebody_wrote, two)))
    assert (facts["error"], facts["code"]) == ("DataError", "22P02")
    assert "a secret" not in str(facts) and "test_database.py:" in facts["at"]


def a_text_with_what_somebody_wrote(two: Two) -> None:
    two.mine.execute("SELECT %s::int", ["a secret"])


def test_trouble_that_lasts_is_a_line_at_once_and_one_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several tries a second, in each process, would fill the log for as long as the database is away."""
    refused = OperationalError("connection refused")
    refused.__cause__ = psycopg.OperationalError("connection refused: is the server running?\nhost ...")
    lines: list[dict[str, object]] = []
    told = SimpleNamespace(warning=lambda event, **facts: lines.append({"event": event, **facts}))
    monkeypatch.setattr(database, "log", told)
    for _ in range(50):
        note_trouble("database trouble", refused)
        note_trouble("nothing taken in", refused)
    assert [line["event"] for line in lines] == ["database trouble", "nothing taken in"]
    assert lines[0]["why"] == "connection refused: is the server running?"
    monkeypatch.setattr(repeats, "_kinds", {kind: (0.0, count) for kind, (_, count) in repeats._kinds.items()})
    note_trouble("database trouble", refused)
    assert lines[-1]["repeated"] == 49


def test_another_kind_of_trouble_is_a_line_at_once_and_never_what_somebody_wrote(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[dict[str, object]] = []
    told = SimpleNamespace(warning=lambda event, **facts: lines.append({"event": event, **facts}))
    monkeypatch.setattr(database, "log", told)
    refused = OperationalError("connection refused")
    refused.__cause__ = psycopg.OperationalError("connection refused")
    too_long = OperationalError("a secret")
    too_long.__cause__ = psycopg.errors.DiskFull("a secret")  # one that the server sent, whose words may hold a value
    for error in (refused, too_long, refused, too_long):
        note_trouble("database trouble", error)
    assert [(line["code"], line.get("why")) for line in lines] == [("", "connection refused"), ("53100", None)]
