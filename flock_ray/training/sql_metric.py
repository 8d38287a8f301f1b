"""Text to SQL by execution: an answer is right if it returns what the gold query returns, on three made-up databases.

The databases of a schema are filled from a seed that nobody knew when adapters were committed, with the literals of its
gold queries among the values: on empty tables almost any query looks right. A row counts only if its gold query returns
something, and if at least two of its mutants return something else; so the rows that are left can tell wrong answers.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from flock_ray.errors import DataError
from flock_ray.protocol.contest_scores import MICRO
from flock_ray.training.sql_databases import Schema, fill, parse_schema
from flock_ray.training.sql_text import Token, mutants, normalised, tokens

NUM_DATABASES = 3
NUM_MUTANTS = 2
MAX_ROWS = 10_000
MAX_STEPS = 4_000_000
_STEPS_BETWEEN_LOOKS = 2_000
_MAX_SQL = 20_000

Result = tuple[tuple[object, ...], ...]

_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 1 << 20,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: _MAX_SQL,
    sqlite3.SQLITE_LIMIT_COLUMN: 100,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 100,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 16,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 25_000,
    sqlite3.SQLITE_LIMIT_FUNCTION_ARG: 8,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 200,
}
_AGGREGATES = ("count", "sum", "total", "avg", "min", "max")
_TEXT = ("lower", "upper", "length", "substr", "substring", "trim", "ltrim", "rtrim", "replace", "instr")
_FUNCTIONS = frozenset(
    (*_AGGREGATES, *_TEXT, "like", "glob", "abs", "round", "coalesce", "ifnull", "nullif", "iif", "typeof")
)
"""What a query may call: nothing that depends on time, chance or the file system."""


def _authorise(action: int, first: str | None, second: str | None, *_: object) -> int:
    allowed = (
        action == sqlite3.SQLITE_SELECT
        or (action == sqlite3.SQLITE_READ and not (first or "").lower().startswith("sqlite_"))
        or (action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in _FUNCTIONS)
    )
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


class Database:
    """A filled database that can only be read, by queries that end soon."""

    def __init__(self, statements: Iterable[tuple[str, Sequence[Sequence[object]]]]) -> None:
        """Fill a database in memory; statements as `sql_databases.fill` makes them."""
        self._connection = sqlite3.connect(":memory:", isolation_level=None)
        for statement, rows in statements:
            if rows:
                self._connection.executemany(statement, rows)
            else:
                self._connection.execute(statement)
        self._connection.execute("PRAGMA query_only = ON")
        for limit, value in _LIMITS.items():
            self._connection.setlimit(limit, value)
        self._looks = 0
        self._connection.set_progress_handler(self._spent, _STEPS_BETWEEN_LOOKS)
        self._connection.set_authorizer(_authorise)

    def _spent(self) -> int:
        self._looks += 1
        return int(self._looks * _STEPS_BETWEEN_LOOKS > MAX_STEPS)

    def run(self, query: str) -> Result | None:
        """Rows of a query in plain values; None where it fails, writes, runs too long or returns too much."""
        self._looks = 0
        try:
            rows = self._connection.execute(query).fetchmany(MAX_ROWS + 1)
        except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError):
            return None
        return tuple(tuple(map(_plain, row)) for row in rows) if len(rows) <= MAX_ROWS else None


def _plain(value: object) -> object:
    """A value as it is compared: numbers by seven digits, whatever their type: versions of SQLite differ in sums."""
    return f"{value:.7g}" if isinstance(value, int | float) else value


def _says_nothing(result: Result) -> bool:
    return all(value in (None, "0") for row in result for value in row)


@dataclass(frozen=True)
class SqlQuestion:
    """A gold query that can tell wrong answers.

    Attributes:
        query: normalised.
        ordered: whether the order of its rows matters.
        results: what it returns on each database.
    """

    query: str
    ordered: bool
    results: tuple[Result, ...]


class SqlMetric:
    """Judges answers to the questions about one schema."""

    def __init__(self, schema_text: str, gold: Sequence[str], seed: bytes) -> None:
        """Make the databases.

        Args:
            schema_text: lines `table(column type [primary key], …)`; other lines are skipped.
            gold: every gold query of the schema.
            seed: 32 bytes.

        Raises:
            DataError: there is no such line.
        """
        self.schema: Schema = parse_schema(schema_text)
        if not self.schema.tables:
            raise DataError("metric sql: the system text has no line of the form table(column type, ...)")
        self._golds = [normalised(query, self.schema.names) for query in gold]
        parsed = [tokens(query) for query in self._golds]
        self._databases = [
            Database(fill(self.schema, parsed, seed + bytes([number]))) for number in range(NUM_DATABASES)
        ]
        self._question = cache(self._look_at)

    def question(self, gold: str) -> SqlQuestion | None:
        """The question of a gold query, None if it does not count: it returns nothing, or too few mutants differ."""
        return self._question(normalised(gold, self.schema.names))

    def matches(self, question: SqlQuestion, answer: str) -> bool:
        """Whether an answer returns what the gold query does, on every database; a trailing semicolon is allowed.

        Columns in the same order; rows in the same order where the gold query orders them.
        """
        if len(answer) > _MAX_SQL:
            return False
        query = normalised(answer, self.schema.names)
        return bool(query) and self._same(question, query)

    def losses(self, questions: Sequence[SqlQuestion], answers: Sequence[str]) -> tuple[int, ...]:
        """What a ballot holds of answers: 0 where one is right, 10^6 where not; a contest's rows count as one token.

        Args:
            questions: that count.
            answers: to each.
        """
        return tuple(
            0 if self.matches(question, answer) else MICRO for question, answer in zip(questions, answers, strict=True)
        )

    def _same(self, question: SqlQuestion, query: str) -> bool:
        for database, expected in zip(self._databases, question.results, strict=True):
            result = database.run(query)
            if result is None or not _equal(result, expected, question.ordered):
                return False
        return True

    def _look_at(self, query: str) -> SqlQuestion | None:
        results = []
        for database in self._databases:
            result = database.run(query)
            if result is None:
                return None
            results.append(result)
        if all(map(_says_nothing, results)):
            return None
        parsed = tokens(query)
        question = SqlQuestion(query, _is_ordered(parsed), tuple(results))
        differing = 0
        for mutant in mutants(parsed, self.schema):
            ran = self._databases[0].run(mutant) is not None
            differing += ran and not self._same(question, mutant)
            if differing == NUM_MUTANTS:
                return question
        return None


def _equal(result: Result, expected: Result, ordered: bool) -> bool:
    return result == expected if ordered else Counter(result) == Counter(expected)


def _is_ordered(parsed: Sequence[Token]) -> bool:
    """Whether a query has ORDER BY outside parentheses."""
    depth = 0
    for token in parsed:
        depth += (token.text == "(") - (token.text == ")")
        if depth == 0 and token.word == "order":
            return True
    return False
