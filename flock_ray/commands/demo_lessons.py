"""What the users of a demonstration ask, and the right answers: functions of Python that no member's silo holds."""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path

from flock_ray.protocol.hashing import sha256

CORRECTIONS = 200
_SHORT, _LONG = 80, 600  # characters of an answer


@cache
def lessons(count: int = CORRECTIONS) -> tuple[tuple[str, str], ...]:
    """(question, right answer): functions of single modules of the standard library, which are in no member's package.

    The first `count`, in the order of their texts' hashes.
    """
    found = dict(_functions())
    order = sorted(found, key=lambda question: sha256(question.encode()))
    return tuple((question, found[question]) for question in islice(order, count))


def _functions() -> Iterator[tuple[str, str]]:
    for file in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text = file.read_text(encoding="utf-8", errors="replace")
        lines = text.splitlines()
        for node in ast.parse(text).body:
            if isinstance(node, ast.FunctionDef) and (says := ast.get_docstring(node)):
                answer = "\n".join(lines[node.lineno - 1 : node.end_lineno])
                if _SHORT <= len(answer) <= _LONG:
                    yield (
                        f"Write the function {node.name} of Python's module {file.stem}: {says.splitlines()[0]}",
                        answer,
                    )
