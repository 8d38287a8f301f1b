"""Made-up databases of a schema: values from a seed, joins that meet, and the literals that its queries look for."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from flock_ray.training.sql_text import Token

_TABLE = re.compile(r"\s*([A-Za-z_]\w*)\((.+)\)\s*")
_COLUMN = re.compile(r"(.+?) ([A-Za-z]\w*)( primary key)?")
_AFFINITIES = {"number": "NUMERIC", "text": "TEXT", "time": "TEXT", "boolean": "NUMERIC"}
_FEWEST_ROWS = 14
_LARGEST = 400  # of numbers that are no keys: ties are rare
_WORDS = 8  # different texts of a column, besides literals
_COMPARISONS = ("=", "==", "!=", "<>", "<", ">", "<=", ">=")


@dataclass(frozen=True)
class Column:
    """A column: its name as the schema spells it, SQLite's type, whether it is the key."""

    name: str
    affinity: str
    key: bool


@dataclass(frozen=True)
class Schema:
    """Tables by lower-case name, each with its columns in order."""

    tables: Mapping[str, tuple[Column, ...]]

    @cached_property
    def columns(self) -> dict[str, str]:
        """{lower-case name: name} of all columns."""
        return {column.name.lower(): column.name for columns in self.tables.values() for column in columns}

    @cached_property
    def names(self) -> frozenset[str]:
        """Lower-case names of tables and columns."""
        return frozenset(self.tables) | frozenset(self.columns)

    def siblings(self, column: str) -> list[str]:
        """Names of all columns of the tables that have this one, in the schema's order."""
        return [
            other.name
            for columns in self.tables.values()
            if any(one.name.lower() == column for one in columns)
            for other in columns
        ]


def parse_schema(text: str) -> Schema:
    """The schema in lines `table(column type [primary key], …)`; other lines are no part of it."""
    tables = {}
    for line in text.splitlines():
        match = _TABLE.fullmatch(line)
        if match and not match[1].lower().startswith("sqlite_"):  # SQLite's own, in the schema of a copied file
            parts = [_COLUMN.fullmatch(part) for part in match[2].split(", ")]
            if all(parts):
                tables[match[1].lower()] = tuple(
                    Column(part[1], _AFFINITIES.get(part[2], "TEXT"), bool(part[3])) for part in parts if part
                )
    return Schema(tables)


class _Draws:
    """Whole numbers from a seed, the same with every version of Python."""

    def __init__(self, seed: bytes) -> None:
        self._seed, self._count = seed, 0

    def below(self, limit: int) -> int:
        self._count += 1
        digest = hashlib.sha256(self._seed + self._count.to_bytes(8, "big")).digest()
        return int.from_bytes(digest[:8], "big") % limit


def fill(schema: Schema, queries: Iterable[Sequence[Token]], seed: bytes) -> list[tuple[str, list[tuple[object, ...]]]]:
    """Statements that make a database: each with the rows to run it for, or none to run it once.

    Args:
        schema: its tables.
        queries: tokens of the gold queries: what they compare is planted, what they join shares its values.
        seed: of all values.
    """
    draws = _Draws(b"flock_ray/contest/sql/1" + seed)
    groups, planted = _joined(schema, queries), _literals(schema, queries)
    keys: dict[str, bool] = {}
    for one in (one for columns in schema.tables.values() for one in columns if one.key):
        group = groups[one.name.lower()]
        keys[group] = keys.get(group, False) or one.affinity == "NUMERIC"
    statements: list[tuple[str, list[tuple[object, ...]]]] = []
    for number, (table, columns) in enumerate(sorted(schema.tables.items())):
        declared = ", ".join(f"{_quoted(one.name)} {one.affinity}" for one in columns)
        statements.append((f"CREATE TABLE {_quoted(table)} ({declared})", []))
        count = _FEWEST_ROWS + 2 * number + draws.below(2)
        rows = [
            tuple(_value(draws, one, groups[one.name.lower()], keys, planted, row) for one in columns)
            for row in range(count)
        ]
        statements.append((f"INSERT INTO {_quoted(table)} VALUES ({', '.join('?' * len(columns))})", rows))
    return statements


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _value(
    draws: _Draws,
    column: Column,
    group: str,
    keys: Mapping[str, bool],
    planted: Mapping[str, Sequence[str]],
    row: int,
) -> object:
    """A value of a cell: keys count from 1, what is joined to them is one of the first, literals come often.

    `keys` says of each group with a key whether its keys are numbers.
    """
    numeric = column.affinity == "NUMERIC"
    literals = planted.get(column.name.lower(), ())
    if column.key and not keys[group] and row < len(literals):
        return _spelt(draws, literals[row])
    if not column.key and literals and draws.below(2):
        literal = literals[draws.below(len(literals))]
        return _near(draws, literal) if numeric and _is_number(literal) else _spelt(draws, literal)
    if group in keys or column.name.lower() == "id":
        number = row + 1 if column.key else draws.below(_FEWEST_ROWS) + 1
        return number if numeric else str(number) if keys.get(group, True) else f"{group} {number}"
    if draws.below(24) == 0:
        return None
    return draws.below(_LARGEST) + 1 if numeric else f"{group} {draws.below(_WORDS) + 1}"


def _is_number(literal: str) -> bool:
    return re.fullmatch(r"\d+(\.\d+)?", literal) is not None


def _near(draws: _Draws, literal: str) -> object:
    """A number at a literal or on either side of it."""
    value = float(literal) + (0, 0, 1, -1, 7, -7)[draws.below(6)]
    return int(value) if value.is_integer() else value


def _spelt(draws: _Draws, literal: str) -> str:
    """A text that a literal matches, patterns of LIKE included."""
    return "".join(("", "x", "xy")[draws.below(3)] if char == "%" else "x" if char == "_" else char for char in literal)


def _literals(schema: Schema, queries: Iterable[Sequence[Token]]) -> dict[str, list[str]]:
    """{column: literals that a query compares it with}, by the last column that was named before each."""
    found: dict[str, dict[str, None]] = {}
    for query in queries:
        column, counts = "", False
        for token in query:
            if token.word in schema.columns and token.kind in ("name", "quoted"):
                column = token.word
            counts = token.word not in ("limit", "having") if token.kind == "name" else counts
            if column and counts and token.kind in ("string", "number"):
                text = token.text[1:-1].replace("''", "'") if token.kind == "string" else token.text
                found.setdefault(column, {})[text] = None
    return {column: list(literals) for column, literals in found.items()}


def _joined(schema: Schema, queries: Iterable[Sequence[Token]]) -> dict[str, str]:
    """{column: name of the group of columns that share their values}: those that a query sets equal."""
    group = {column: column for column in schema.columns}

    def root(column: str) -> str:
        while group[column] != column:
            column = group[column]
        return column

    for query in queries:
        for place, token in enumerate(query):
            if token.text not in _COMPARISONS or place + 1 >= len(query) or place < 1:
                continue
            after = query[place + 3] if place + 3 < len(query) and query[place + 2].text == "." else query[place + 1]
            one, other = query[place - 1].word, after.word
            if one in group and other in group:
                low, high = sorted((root(one), root(other)))
                group[high] = low
    return {column: root(column) for column in schema.columns}
