"""SQL text as tokens: for double quotes that mean strings, for literals, and for mutants of a query."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flock_ray.training.sql_databases import Schema

_TOKEN = re.compile(
    r"""(?P<string>'(?:[^']|'')*')|(?P<quoted>"(?:[^"]|"")*")|(?P<number>\d+(?:\.\d+)?|\.\d+)"""
    r"""|(?P<name>[A-Za-z_]\w*)|(?P<operator><=|>=|<>|!=|==|\|\||[^\s\w])"""
)


@dataclass(frozen=True)
class Token:
    """One token: its kind (`string`, `quoted`, `number`, `name`, `operator`) and its text."""

    kind: str
    text: str

    @property
    def word(self) -> str:
        """Its text in lower case without quotation marks."""
        return self.text.strip('"').lower()


def tokens(query: str) -> tuple[Token, ...]:
    """The tokens of a query; characters that begin none are tokens of their own."""
    return tuple(Token(str(match.lastgroup), match.group()) for match in _TOKEN.finditer(query))


def text_of(parsed: Sequence[Token]) -> str:
    """A query of these tokens."""
    return " ".join(token.text for token in parsed)


def normalised(query: str, names: Collection[str]) -> str:
    """A query without trailing semicolons, in which what stands in double quotes and is no known name is a string.

    SQLite's builds differ in whether they take `"dog"` for a string; the field's gold queries are full of it.
    """
    parsed = list(tokens(query))
    while parsed and parsed[-1].text == ";":
        parsed.pop()
    for place, token in enumerate(parsed):
        if token.kind == "quoted" and token.word not in names:
            inner = token.text[1:-1].replace('""', '"').replace("'", "''")
            parsed[place] = Token("string", f"'{inner}'")
    return text_of(parsed)


_SWAPPED = {
    "max": ("min", "avg"),
    "min": ("max", "avg"),
    "avg": ("sum", "max"),
    "sum": ("avg", "max"),
    "desc": ("asc",),
    "asc": ("desc",),
    "and": ("or",),
    "or": ("and",),
    "union": ("intersect", "except"),
    "intersect": ("except", "union"),
    "except": ("intersect", "union"),
    "distinct": ("",),
    "not": ("",),
    "=": ("!=",),
    "!=": ("=",),
    "<>": ("=",),
    ">": ("<=", "="),
    "<": (">=", "="),
    ">=": ("<", ">"),
    "<=": (">", "<"),
}


def mutants(parsed: Sequence[Token], schema: Schema) -> Iterator[str]:
    """Queries that differ from one in a single place, in a fixed order: plausible wrong answers.

    Operators, aggregates, orders and set operations are swapped, limits and numbers moved, columns and tables replaced
    by others of the schema.
    """
    for place, token in enumerate(parsed):
        others: Sequence[str] = _SWAPPED.get(token.word, ()) if token.kind in ("name", "operator") else ()
        if token.kind == "number":
            others = (f"{token.text} + 1",)
        elif token.kind == "name" and token.word in schema.columns:
            others = [one for one in schema.siblings(token.word) if one.lower() != token.word][:2]
        elif token.kind == "name" and token.word in schema.tables and not _aliased(parsed, place):
            others = [one for one in sorted(schema.tables) if one != token.word][:2]
        elif token.text == "*" and place and parsed[place - 1].text == "(":
            others = [f"DISTINCT {one}" for one in sorted(schema.columns)][:2]
        for other in others:
            yield text_of([*parsed[:place], Token("name", other), *parsed[place + 1 :]])


def _aliased(parsed: Sequence[Token], place: int) -> bool:
    return place + 1 < len(parsed) and parsed[place + 1].text == "."
