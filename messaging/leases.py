"""Leases: rows that one process at a time works on, and another may take over where it died.

A table has them by two columns, ``lease_id`` and ``leased_until``. What a process does for a row it does ``WHERE lease_id =
mine``, so whoever lost a lease changes nothing any more. Rows that somebody else has locked are passed over, never waited
for: one that an operator's session holds delays no other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from messaging.query import query


class LeaseLost(Exception):
    """Somebody else has taken a row up: nothing of ours is written."""


@dataclass(frozen=True, slots=True)
class Leases:
    """The leases on the rows of one table, which last ``seconds`` where nobody renews them."""

    table: str
    seconds: float

    def claim(self, which: str, parameters: Sequence[Any], *, most: int, order: str = "id") -> dict[int, UUID]:
        """Take up to ``most`` rows that nobody holds; gives their lease by their id.

        :param which: a condition of SQL that they fulfil besides
        """
        rows = query(
            f"""UPDATE {self.table} SET lease_id = gen_random_uuid(),
                   leased_until = clock_timestamp() + make_interval(secs => %s)
                -- an array, which is made once: a plan may read a sub-select again for each row, and take more each time
                WHERE id = ANY(ARRAY(
                    SELECT id FROM {self.table}
                    WHERE (leased_until IS NULL OR leased_until < clock_timestamp()) AND ({which})
                    ORDER BY {order} LIMIT %s FOR NO KEY UPDATE SKIP LOCKED))
                RETURNING id, lease_id""",
            [self.seconds, *parameters, most],
        )
        return dict(rows)

    def renew(self, held: Mapping[int, UUID]) -> set[int]:
        """Prolong leases, and name the rows whose lease is lost.

        One that is locked at this moment, as while its holder saves something, is neither: it has its next turn.
        """
        self.change(held, "leased_until = clock_timestamp() + make_interval(secs => %s)", [self.seconds])
        rows = query(
            f"SELECT id FROM {self.table} WHERE id = ANY(%s) AND lease_id = ANY(%s)", [list(held), list(held.values())]
        )
        return set(held) - {row_id for (row_id,) in rows}

    def release(self, held: Mapping[int, UUID]) -> set[int]:
        """Let others have the rows at once; gives those that were held still and are free now."""
        return self.change(held, "lease_id = NULL, leased_until = NULL", [])

    def change(self, held: Mapping[int, UUID], change: str, parameters: Sequence[Any]) -> set[int]:
        """Change rows that are held still, and name them.

        :param change: what SQL's SET says
        """
        rows = query(
            f"""UPDATE {self.table} SET {change}
                WHERE id IN (
                    SELECT id FROM {self.table} WHERE id = ANY(%s) AND lease_id = ANY(%s)
                    ORDER BY id FOR NO KEY UPDATE SKIP LOCKED)
                RETURNING id""",
            [*parameters, list(held), list(held.values())],
        )
        return {row_id for (row_id,) in rows}
