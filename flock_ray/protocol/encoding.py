"""Canonical JSON: one value, one sequence of bytes. What is signed or hashed is written in it and nothing else.

Keys are sorted, there is no white space, text is UTF-8, and numbers are integers: a float has no canonical text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

Json = None | bool | int | str | Sequence["Json"] | Mapping[str, "Json"]

_MAX_INT = 1 << 256
_MAX_DEPTH = 16
_HEX = re.compile("0x[0-9a-f]*")
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*+"?|[][{}]', re.DOTALL)


def parse_json(text: str, max_depth: int) -> Any:
    """The value of a JSON text that others wrote.

    Nesting is bounded before the parser recurses: py-ecc lifts Python's own limit beyond what the C stack bears.

    Raises:
        ValueError: not JSON, or brackets nested deeper than `max_depth`.
    """
    depth = 0
    for token in _STRING_OR_BRACKET.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
        if depth > max_depth:
            raise ValueError(f"JSON nests deeper than {max_depth} levels")
    return json.loads(text)


def _check(value: Any, depth: int = 0) -> None:
    if depth > _MAX_DEPTH:
        raise ValueError(f"canonical JSON nests at most {_MAX_DEPTH} levels")
    if value is None or isinstance(value, bool | str):
        return
    if isinstance(value, int):
        if not -_MAX_INT < value < _MAX_INT:
            raise ValueError("canonical JSON integers are below 2^256")
    elif isinstance(value, list | tuple):
        for item in value:
            _check(item, depth + 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"canonical JSON keys are strings, not {type(key).__name__}")
            _check(item, depth + 1)
    else:
        raise ValueError(f"canonical JSON holds no {type(value).__name__}")


def canonical_json(value: Json) -> bytes:
    """Bytes of `value`: sorted keys, no spaces, UTF-8.

    Raises:
        ValueError: a float, bytes or other value without a canonical text.
    """
    _check(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def parse_canonical(data: bytes, max_bytes: int) -> Any:
    """The value that `data` encodes.

    Args:
        data: bytes of a peer.
        max_bytes: longest accepted input.

    Raises:
        ValueError: too long, not JSON, or not the canonical bytes of its value.
    """
    if len(data) > max_bytes:
        raise ValueError(f"{len(data)} bytes are more than the {max_bytes} allowed")
    value = parse_json(data.decode(), _MAX_DEPTH + 1)
    if canonical_json(value) != data:
        raise ValueError("JSON is not in canonical form")
    return value


def to_hex(value: bytes) -> str:
    """`0x…` text of bytes."""
    return "0x" + value.hex()


def from_hex(text: object, length: int = 32) -> bytes:
    """Bytes of a lower-case `0x…` text of exactly `length` bytes.

    Raises:
        ValueError: anything else.
    """
    if not isinstance(text, str) or len(text) != 2 + 2 * length or not _HEX.fullmatch(text):
        raise ValueError(f"expected 0x and {2 * length} lower-case hex digits")
    return bytes.fromhex(text[2:])
