"""What a piece of code reads: how many pages of tables and indexes each of its statements touches, and by which plan.

The statements are the real ones, run once, on a connection with the settings of production, prepared as there. What they
touch is what PostgreSQL counts, with all that they set off, such as the look-ups of foreign keys. The plan is the one that
was kept for the prepared statement.
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from django.db import connection

MOST_PAGES = 2_000  # of a statement; a thousand rows by an index are as many, and the largest table has 30,000
MOST_STATEMENTS = 60  # of a page
LARGE = 64  # pages: a table that grows


@dataclass
class Statement:
    """One statement that ran."""

    sql: str
    pages: dict[str, int] = field(default_factory=dict)  # touched, by table
    scans: list[str] = field(default_factory=list)  # of a whole large table

    @property
    def total(self) -> int:
        return sum(self.pages.values())

    def __str__(self) -> str:
        touched = ", ".join(f"{table}: {n}" for table, n in sorted(self.pages.items(), key=lambda pair: -pair[1]))
        sql = re.sub(r'(?s)SELECT "[^()]*? FROM ', "SELECT … FROM ", self.sql)
        return f"{self.total} pages ({touched}) {' '.join(self.scans)}\n    {sql[:1500]}"


_known_scans: dict[str, list[str]] = {}  # by statement, as long as the planner learns nothing new


def forget_plans() -> None:
    """Look at plans anew, after the planner has learnt something."""
    _known_scans.clear()


@contextmanager
def watched() -> Iterator[list[Statement]]:
    """Watch the statements that run inside, on this thread's connection."""
    connection.ensure_connection()
    assert connection.in_atomic_block, "PostgreSQL counts by transaction"
    raw = connection.connection
    statements: list[Statement] = []
    threshold, raw.prepare_threshold = raw.prepare_threshold, 0
    counter = _Counter(raw)

    def watch(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: dict[str, Any]) -> Any:
        given = execute(sql, params, many, context)
        if re.match(r"\s*(SELECT|WITH|INSERT|UPDATE|DELETE|\()", sql, re.IGNORECASE):
            if sql not in _known_scans:
                _known_scans[sql] = _scans(raw, sql)
            statements.append(Statement(sql, counter.since(), _known_scans[sql]))
        return given

    try:
        with connection.execute_wrapper(watch):
            yield statements
    finally:
        raw.prepare_threshold = threshold
    if rest := counter.since():  # such as rows that are fetched bit by bit
        statements.append(Statement("what came after the last statement", rest))


def check(call: Callable[[], Any], *, most: int = MOST_PAGES) -> Any:
    """Run something, and refuse it if one of its statements reads a table; gives what it gave.

    :param most: pages that a statement may touch
    """
    with watched() as statements:
        given = call()
    assert statements, "nothing was asked of the database"
    assert len(statements) <= MOST_STATEMENTS, "\n".join(map(str, statements))
    wrong = [each for each in statements if each.total > most or each.scans]
    assert not wrong, "\n".join(map(str, wrong))
    return given


class _Counter:
    """Reads how many pages of each table this transaction has touched, with its indexes and its large values."""

    def __init__(self, raw: Any) -> None:
        self.raw = raw
        with raw.cursor() as cursor:
            found = cursor.execute(
                """SELECT relation.oid, COALESCE(owner.oid, of.indrelid, relation.oid)::regclass::text
                   FROM pg_class relation LEFT JOIN pg_index of ON of.indexrelid = relation.oid
                   LEFT JOIN pg_class owner ON owner.reltoastrelid = relation.oid
                   WHERE relation.relkind IN ('r', 'i', 't') AND relation.oid >= 16384"""  # not the catalogue's
            ).fetchall()
        self.tables = [table for _, table in found]
        self.oids = [oid for oid, _ in found]
        self.before = self._read()

    def since(self) -> dict[str, int]:
        """Give the pages by table since it was asked before."""
        before, self.before = self.before, self._read()
        touched: dict[str, int] = {}
        for table, old, new in zip(self.tables, before, self.before, strict=True):
            if new > old:
                touched[table] = touched.get(table, 0) + new - old
        return touched

    def _read(self) -> list[int]:
        with self.raw.cursor() as cursor:
            ((counts,),) = cursor.execute(
                "SELECT array_agg(pg_stat_get_xact_blocks_fetched(oid) ORDER BY n) "
                "FROM unnest(%s::oid[]) WITH ORDINALITY AS relation (oid, n)",
                [self.oids],
            ).fetchall()
        return counts  # type: ignore[no-any-return]


def _scans(raw: Any, sql: str) -> list[str]:
    """Name the large tables that the plan of a statement reads from end to end."""
    numbers = iter(range(1, 100_000))
    text = re.sub("%[s%]", lambda found: f"${next(numbers)}" if found[0] == "%s" else "%", sql)
    with raw.cursor() as cursor:
        kept = cursor.execute(
            """SELECT name, cardinality(parameter_types) FROM pg_prepared_statements WHERE statement = %s
               ORDER BY prepare_time DESC LIMIT 1""",
            [text],
        ).fetchone()
        if kept is None:  # one without parameters runs as it stands
            answer = cursor.execute("EXPLAIN (FORMAT JSON) " + text).fetchone()
        else:
            nulls = f"({', '.join(['NULL'] * kept[1])})" if kept[1] else ""
            answer = cursor.execute(f'EXPLAIN (FORMAT JSON) EXECUTE "{kept[0]}"{nulls}').fetchone()
        plan = answer[0] if isinstance(answer[0], list) else json.loads(answer[0])
        return list(_whole_scans(cursor, plan[0]["Plan"], limited=False))


def _whole_scans(cursor: Any, node: dict[str, Any], *, limited: bool) -> Iterator[str]:
    """Find scans that neither a condition, nor a partial index, nor a LIMIT in the order of the index bounds."""
    kind, table = node["Node Type"], node.get("Relation Name", "")
    if kind == "Seq Scan" or (kind in ("Index Scan", "Index Only Scan") and "Index Cond" not in node and not limited):
        pages, partial = cursor.execute(
            """SELECT pg_relation_size(%s::regclass) / current_setting('block_size')::int,
                   (SELECT indpred IS NOT NULL FROM pg_index WHERE indexrelid = to_regclass(%s))""",
            [f"{node.get('Schema', 'public')}.{table}", node.get("Index Name", "")],
        ).fetchone()
        if pages > LARGE and not partial:
            yield f"{kind} of {table}"
    for child in node.get("Plans", ()):
        passes = kind in ("Limit", "Result", "Append", "Subquery Scan", "Nested Loop", "LockRows") and (
            kind != "Nested Loop" or child.get("Parent Relationship") == "Outer"
        )
        yield from _whole_scans(cursor, child, limited=passes and (limited or kind == "Limit"))
