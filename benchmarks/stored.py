"""Fills the database with messages of long ago, so that all is measured beside them."""

import psycopg
from psycopg import sql

from benchmarks.page import say
from devstack.stack import Stack

DATABASE = "connector"
AT_ONCE = 100_000  # rows of a statement
# of each table: what a copy has of its own; all other columns are those of the row that it is a copy of
TABLES = {
    "messaging_message": {
        "uuid": "gen_random_uuid()",
        "source_entry": "'stored.' || copy || '.' || old.id",
        "position": "-copy",
        "written_at": "old.written_at - copy * interval '1 minute'",
        "created_at": "old.created_at - copy * interval '1 minute'",
        "status_at": "old.status_at - copy * interval '1 minute'",
    },
    "messaging_receivedevent": {
        "key": "'stored.' || copy || '.' || old.id",
        "received_at": "old.received_at - copy * interval '1 minute'",
    },
}


def store(stack: Stack, count: int) -> None:
    """Copy the messages that there are, and what was received of them, until there are so many of each."""
    with psycopg.connect(stack.owner, dbname=DATABASE, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")  # the copies point where their originals do
        for table, own in TABLES.items():
            copy_rows(connection, table, own, count)
            say(f"{count:,} rows in {table}")
            connection.execute(sql.SQL("VACUUM ANALYZE {}").format(sql.Identifier(table)))
        connection.execute("CHECKPOINT")


def copy_rows(connection: "psycopg.Connection[tuple[object, ...]]", table: str, own: dict[str, str], count: int) -> None:
    """Copy the rows of one table."""
    asked = "SELECT column_name FROM information_schema.columns WHERE table_name = %s AND column_name <> 'id'"
    columns = [str(name) for (name,) in connection.execute(asked, [table]).fetchall()]
    last, originals = connection.execute(
        sql.SQL("SELECT COALESCE(max(id), 0), count(*) FROM {}").format(sql.Identifier(table))
    ).fetchone() or (0, 0)
    statement = sql.SQL(
        "INSERT INTO {table} ({columns}) SELECT {values} FROM {table} old, generate_series(%s::bigint, %s::bigint) copy"
        " WHERE old.id <= %s"
    ).format(
        table=sql.Identifier(table),
        columns=sql.SQL(", ").join(map(sql.Identifier, columns)),
        values=sql.SQL(", ").join(sql.SQL(own[name]) if name in own else sql.Identifier("old", name) for name in columns),
    )
    copies, step = count // max(1, int(str(originals))), max(1, AT_ONCE // max(1, int(str(originals))))
    for first in range(1, copies + 1, step):
        connection.execute(statement, [first, min(first + step - 1, copies), last])
