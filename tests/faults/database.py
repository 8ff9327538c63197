"""Looks into the rows, and breaks the database in the ways that only a database can be broken."""

import time
from typing import Any

import psycopg
from psycopg import sql

from devstack.stack import Stack
from tests.faults.checker import Row
from tests.faults.poison import MARK
from tests.faults.scene import Scene

DATABASE = "connector"
INBOX = "messaging_inbox"
FERNET = "gAAAA"  # how every token of Fernet begins: https://github.com/fernet/spec/blob/master/Spec.md
NO_KEY_FITS = "gAAAAABn" + "A" * 120 + "=="
Kept = list[tuple[str, int, str, str]]  # table, row, column, value


def connect(stack: Stack) -> "psycopg.Connection[Any]":
    """Connect as the connector does, once the database is there, and see all orgs' rows."""
    deadline = time.monotonic() + 30
    while True:
        try:
            connection = psycopg.connect(stack.env["DATABASE_URL"], autocommit=True, connect_timeout=2)
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            connection.execute("SET connector.org = '*'")
            return connection


def has_column(connection: "psycopg.Connection[Any]", table: str, column: str) -> bool:
    """Tell whether the code that is tried has a column."""
    asked = "SELECT 1 FROM information_schema.columns WHERE table_name = %s AND column_name = %s"
    return connection.execute(asked, [table, column]).fetchone() is not None


def calls_under_way(stack: Stack) -> int:
    """Count the calls that are under way, of all workers."""
    with connect(stack) as connection:
        if has_column(connection, "messaging_lane", "trying"):
            statement = "SELECT count(*) FROM messaging_lane WHERE to_jsonb(messaging_lane) ->> 'trying' IS NOT NULL"
        else:
            statement = "SELECT count(*) FROM messaging_attempt WHERE outcome = 'open'"
        row = connection.execute(statement).fetchone()
    return int(row[0]) if row else 0


def unfinished(stack: Stack) -> list[str]:
    """Name the lanes, tries and arrivals that did not come to rest."""
    with connect(stack) as connection:
        lanes = connection.execute(
            """SELECT to_jsonb(lane) FROM messaging_lane lane
               WHERE due_at IS NOT NULL OR to_jsonb(lane) ->> 'lease_id' IS NOT NULL
                   OR to_jsonb(lane) ->> 'trying' IS NOT NULL ORDER BY id"""
        ).fetchall()
        tries = connection.execute(
            """SELECT message.uuid, message.status, attempt.started_at FROM messaging_attempt attempt
               JOIN messaging_message message ON message.id = attempt.message_id
               WHERE attempt.outcome = 'open' ORDER BY attempt.id"""
        ).fetchall()
        handovers = connection.execute(
            "SELECT id, state, problem FROM messaging_handover WHERE state IN ('called', 'reading', 'refused') ORDER BY id"
        ).fetchall()
        arrivals = 0
        if has_column(connection, INBOX, "body"):
            waiting = sql.SQL("SELECT count(*) FROM {} WHERE position({}::bytea IN body) = 0")
            row = connection.execute(waiting.format(sql.Identifier(INBOX), sql.Literal(MARK))).fetchone()
            arrivals = int(row[0]) if row else 0
    told = ("due_at", "retry_at", "failures", "leased_until", "holder", "trying")
    return [
        f"{lane['direction']} lane {lane['id']}: " + ", ".join(f"{name} {lane[name]}" for name in told if lane.get(name))
        for (lane,) in lanes
    ] + [
        *(f"hand-over {handover_id} is {state}: {problem}" for handover_id, state, problem in handovers),
        *(f"a try of {status} message {uuid} that began {started} is still open" for uuid, status, started in tries),
        *([f"{arrivals} arrivals wait to be ingested"] if arrivals else []),
    ]


def rows_of(scene: Scene) -> list[Row]:
    """Read what the connector knows of each message, those that came of poison left out."""
    with connect(scene.stack) as connection:
        found = connection.execute(
            """SELECT message.uuid, message.source_entry, message.lane_id, message.position, message.late, message.status,
                   message.error, count(attempt.id) FILTER (WHERE attempt.outcome = 'in doubt')
               FROM messaging_message message LEFT JOIN messaging_attempt attempt ON attempt.message_id = message.id
               GROUP BY message.id ORDER BY message.id"""
        ).fetchall()
    rows = []
    for uuid, entry, *others in found:
        text = scene.text_of_uuid.get(str(uuid)) or scene.text_of_entry.get(entry, "")
        if text:
            rows.append(Row(str(uuid), text, *others))
    return rows


def arrivals_without_effect(stack: Stack) -> list[str]:
    """Name why arrivals had no effect, those left out that nobody can read: of poison, or too short to say anything."""
    with connect(stack) as connection:
        asked = """SELECT problem FROM messaging_receivedevent
                   WHERE problem <> '' AND position(%s::bytea IN body) = 0 AND length(body) > 10"""
        return [problem for (problem,) in connection.execute(asked, [MARK.encode()])]


def as_owner(stack: Stack, database: str = DATABASE) -> "psycopg.Connection[Any]":
    """Connect as somebody who may do everything."""
    return psycopg.connect(stack.owner, dbname=database, autocommit=True)


def set_read_only(stack: Stack, on: bool) -> None:
    """Let every transaction that begins from now on be read-only, or not: a reload reaches open sessions, too.

    https://www.postgresql.org/docs/18/runtime-config-client.html#GUC-DEFAULT-TRANSACTION-READ-ONLY
    """
    with as_owner(stack) as connection:
        value = "on" if on else "off"
        connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
        connection.execute("SELECT pg_reload_conf()")


def scramble_credentials(stack: Stack, org: str) -> Kept:
    """Replace each encrypted field of an org by a text that no key fits, and give what was there."""
    kept: Kept = []
    with as_owner(stack) as connection:
        for table in ("tenants_infobipaccount", "tenants_salesforceconnection"):
            found = connection.execute(
                sql.SQL(
                    """SELECT row.id, field.key, field.value FROM {} row, jsonb_each_text(to_jsonb(row)) field
                       WHERE row.org_id = (SELECT id FROM tenants_org WHERE salesforce_id = %s) AND field.value LIKE %s"""
                ).format(sql.Identifier(table)),
                [org, FERNET + "%"],
            )
            kept += [(table, row, column, value) for row, column, value in found]
    restore_credentials(stack, [(table, row, column, NO_KEY_FITS) for table, row, column, _ in kept])
    return kept


def restore_credentials(stack: Stack, kept: Kept) -> None:
    """Put them back."""
    with as_owner(stack) as connection:
        for table, row, column, value in kept:
            statement = sql.SQL("UPDATE {} SET {} = %s WHERE id = %s").format(sql.Identifier(table), sql.Identifier(column))
            connection.execute(statement, [value, row])
