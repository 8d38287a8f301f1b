"""Canonical JSON: one value, one sequence of bytes. What is signed or hashed is written in it and nothing else.

Keys are sorted, there is no white space, text is UTF-8, and numbers are integers: a float has no canonical text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

Json = None | bool | int | str | Sequence["Json"] | Mapping[str, "Json"]

_MAX_INT = 1 << 256
_MAX_DIGITS = 80
_MAX_DEPTH = 16
_HEX = re.compile("0x[0-9a-f]*")
_ESCAPED = re.compile(r"\\.", re.DOTALL)
_PLAIN = json.JSONDecoder()
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(code for code in range(256) if chr(code) not in "[]{}")


def _nests_deeper(text: str, depth: int) -> bool:
    """Whether the brackets of a JSON text, outside of its strings, nest deeper than `depth`, or are no pairs."""
    plain = _ESCAPED.sub("", text) if "\\" in text else text
    outside = "".join(plain.split('"')[::2]).encode("ascii", "ignore")
    brackets = outside.translate(_BRACKETS, _NO_BRACKETS)
    for _ in range(depth):
        if not brackets:
            break
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)


def parse_json(text: str, max_depth: int, decoder: json.JSONDecoder = _PLAIN) -> Any:
    """The value of a JSON text that others wrote.

    Nesting is bounded before the parser recurses: py-ecc lifts Python's own limit beyond what the C stack bears.

    Args:
        text: of others.
        max_depth: deepest nesting of brackets that is read.
        decoder: reads numbers as it likes.

    Raises:
        ValueError: not JSON, or brackets nested deeper than `max_depth`.
    """
    if _nests_deeper(text, max_depth):
        raise ValueError(f"JSON nests deeper than {max_depth} levels, or its brackets are no pairs")
    return decoder.decode(text)


def _integer(text: str) -> int:
    if len(text) > _MAX_DIGITS or not -_MAX_INT < (value := int(text)) < _MAX_INT:
        raise ValueError("canonical JSON integers are below 2^256")
    return value


def _no_float(text: str) -> NoReturn:
    raise ValueError(f"canonical JSON holds no {text[:20]}")


def _check(value: Any, depth: int = 0) -> None:
    if value is None or isinstance(value, bool | str):
        return
    if isinstance(value, int):
        if not -_MAX_INT < value < _MAX_INT:
            raise ValueError("canonical JSON integers are below 2^256")
    elif depth == _MAX_DEPTH:
        raise ValueError(f"canonical JSON nests at most {_MAX_DEPTH} levels")
    elif isinstance(value, list | tuple):
        for item in value:
            kind = type(item)  # most items are plain: a call for each would take most of the time
            if kind is not str and (kind is not int or not -_MAX_INT < item < _MAX_INT):
                _check(item, depth + 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"canonical JSON keys are strings, not {type(key).__name__}")
            _check(item, depth + 1)
    else:
        raise ValueError(f"canonical JSON holds no {type(value).__name__}")


def _text(value: Any) -> bytes:
    return _ENCODER.encode(value).encode()


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)
_DECODER = json.JSONDecoder(parse_int=_integer, parse_float=_no_float, parse_constant=_no_float)


def canonical_json(value: Json) -> bytes:
    """Bytes of `value`: sorted keys, no spaces, UTF-8.

    Raises:
        ValueError: a float, bytes or other value without a canonical text.
    """
    _check(value)
    return _text(value)


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
    # The parser's hooks refuse what has no canonical text, so its value needs no second look.
    value = parse_json(data.decode(), _MAX_DEPTH, _DECODER)
    if _text(value) != data:
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
