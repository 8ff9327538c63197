"""A small reader of SOQL, enough for what set-up and its checks ask.

https://developer.salesforce.com/docs/atlas.en-us.soql_sosl.meta/soql_sosl/
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

TOKEN = re.compile(
    r"\s*(?:(?P<text>'(?:\\.|[^'\\])*')|(?P<number>-?\d+(?:\.\d+)?)|(?P<word>\w+(?:\.\w+)*)|(?P<sign>!=|<>|<=|>=|[=<>(),]))"
)
ESCAPED = re.compile(r"\\(.)")
CONTROL = {"n": "\n", "t": "\t", "r": "\r"}
COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda a, b: same(a, b),
    "!=": lambda a, b: not same(a, b),
    "<>": lambda a, b: not same(a, b),
    "<": lambda a, b: a is not None and a < b,
    ">": lambda a, b: a is not None and a > b,
    "<=": lambda a, b: a is not None and a <= b,
    ">=": lambda a, b: a is not None and a >= b,
}
Value = Callable[[str], Any]  # gives the value of a field path
Condition = Callable[[Value], bool]


class Malformed(Exception):
    """A query that cannot be read."""


def same(a: Any, b: Any) -> bool:
    """Compare as the platform does: texts without case, and ids in either form."""
    if isinstance(a, str) and isinstance(b, str):
        if len(a) == 18 and len(b) == 15:
            return a[:15] == b
        return a.lower() == b.lower()
    return type(a) is type(b) and bool(a == b)


@dataclass
class Query:
    """What a query asks."""

    fields: list[str]
    source: str
    counts: bool = False
    where: Condition | None = None
    named: dict[str, list[Any]] = field(default_factory=dict)  # the values that conditions want of a field
    compared: list[str] = field(default_factory=list)  # all fields in conditions
    order: list[tuple[str, bool]] = field(default_factory=list)
    limit: int | None = None


class Reader:
    """Reads one query from left to right."""

    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str]] = []
        place = 0
        text = text.strip()
        while place < len(text):
            found = TOKEN.match(text, place)
            if not found or not found.lastgroup:
                raise Malformed(f"unexpected token: '{text[place : place + 20]}'")
            self.tokens.append((found.lastgroup, found[found.lastgroup]))
            place = found.end()
        self.place = 0
        self.named: dict[str, list[Any]] = {}
        self.compared: list[str] = []

    def peek(self) -> str:
        """Return the next token in upper case, without taking it; texts come with their quotes."""
        return self.tokens[self.place][1].upper() if self.place < len(self.tokens) else ""

    def take(self, kind: str | None = None) -> str:
        """Take the next token."""
        if self.place >= len(self.tokens):
            raise Malformed("unexpected end of query")
        found, value = self.tokens[self.place]
        if kind and found != kind:
            raise Malformed(f"unexpected token: '{value}'")
        self.place += 1
        return value

    def accept(self, *words: str) -> bool:
        """Take the next tokens if they are these."""
        ahead = [value.upper() for _, value in self.tokens[self.place : self.place + len(words)]]
        if ahead != list(words):
            return False
        self.place += len(words)
        return True

    def expect(self, *words: str) -> None:
        """Take the next tokens, which must be these."""
        if not self.accept(*words):
            raise Malformed(f"unexpected token: '{self.peek() or '<EOF>'}'")

    def query(self) -> Query:
        """Read all of it."""
        self.expect("SELECT")
        if self.accept("COUNT", "(", ")"):
            fields, counts = [], True
        else:
            fields, counts = [self.take("word")], False
            while self.accept(","):
                fields.append(self.take("word"))
        self.expect("FROM")
        found = Query(fields, self.take("word"), counts)
        if self.accept("WHERE"):
            found.where = self.any_of()
        found.named, found.compared = self.named, self.compared
        if self.accept("ORDER", "BY"):
            found.order.append(self.ordering())
            while self.accept(","):
                found.order.append(self.ordering())
        if self.accept("LIMIT"):
            found.limit = int(self.take("number"))
        if self.place < len(self.tokens):
            raise Malformed(f"unexpected token: '{self.tokens[self.place][1]}'")
        return found

    def ordering(self) -> tuple[str, bool]:
        """Read one field to order by; True if the greatest comes first."""
        name = self.take("word")
        backwards = self.accept("DESC")
        if not backwards:
            self.accept("ASC")
        if self.accept("NULLS", "FIRST") or self.accept("NULLS", "LAST"):
            raise Malformed("NULLS is not supported here")
        return name, backwards

    def any_of(self) -> Condition:
        """Read conditions of which one must hold."""
        parts = [self.all_of()]
        while self.accept("OR"):
            parts.append(self.all_of())
        return lambda value: any(part(value) for part in parts)

    def all_of(self) -> Condition:
        """Read conditions that must all hold."""
        parts = [self.one()]
        while self.accept("AND"):
            parts.append(self.one())
        return lambda value: all(part(value) for part in parts)

    def one(self) -> Condition:
        """Read one condition."""
        if self.accept("NOT"):
            inner = self.one()
            return lambda value: not inner(value)
        if self.accept("("):
            inner = self.any_of()
            self.expect(")")
            return inner
        name = self.take("word")
        self.compared.append(name)
        if self.accept("LIKE"):
            pattern = like(self.literal())
            return lambda value: bool(pattern.fullmatch(str(value(name) or "")))
        negative = self.accept("NOT", "IN")
        if negative or self.accept("IN"):
            self.expect("(")
            values = [self.literal()]
            while self.accept(","):
                values.append(self.literal())
            self.expect(")")
            self.named.setdefault(name.lower(), []).extend(values)
            return lambda value: any(same(value(name), each) for each in values) is not negative
        sign = self.take("sign")
        if sign not in COMPARISONS:
            raise Malformed(f"unexpected token: '{sign}'")
        wanted, compare = self.literal(), COMPARISONS[sign]
        if sign == "=":
            self.named.setdefault(name.lower(), []).append(wanted)
        return lambda value: compare(value(name), wanted)

    def literal(self) -> Any:
        """Read a value."""
        kind, raw = self.tokens[self.place] if self.place < len(self.tokens) else ("", "")
        self.take()
        if kind == "text":
            return ESCAPED.sub(lambda found: CONTROL.get(found[1], found[1]), raw[1:-1])
        if kind == "number":
            return float(raw) if "." in raw else int(raw)
        if raw.upper() in ("TRUE", "FALSE", "NULL"):
            return {"TRUE": True, "FALSE": False}.get(raw.upper())
        raise Malformed(f"unexpected token: '{raw}'")


def like(pattern: Any) -> re.Pattern[str]:
    """Return what a LIKE pattern matches."""
    parts = (".*" if char == "%" else "." if char == "_" else re.escape(char) for char in str(pattern))
    return re.compile("".join(parts), re.IGNORECASE | re.DOTALL)


def read(text: str) -> Query:
    """Read a query.

    :raises Malformed: if it cannot be read
    """
    return Reader(text).query()
