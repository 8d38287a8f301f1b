"""Canonical JSON: exactly one sequence of bytes per value. Everything that is signed or hashed as JSON uses it.

Keys are sorted, there is no white space, text is UTF-8, and numbers are integers: a float has no canonical text.
Values have exactly these types, not subclasses: None, bool, int, str, list, tuple, and dict with keys of str.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn

import msgspec

Json = None | bool | int | str | Sequence["Json"] | Mapping[str, "Json"]

_MAX_INT = 1 << 256
_MAX_DEPTH = 16
_MAX_KEYS = 256  # of one object: the encoder sorts them in time that may grow with their square
_PLAIN = frozenset((type(None), bool, int, str))
_ESCAPED = re.compile(r"\\.", re.DOTALL)
_DIGITS = bytes(ord("0") if chr(code) in "0123456789" else ord(" ") for code in range(256))
_LONG_NUMBER = b"0" * 78  # as many digits as 2^256 has
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(code for code in range(256) if chr(code) not in "[]{}")


def _require_depth(text: str, depth: int) -> None:
    """Refuse a JSON text whose brackets, outside its strings, nest deeper than `depth` or are not balanced."""
    plain = _ESCAPED.sub("", text) if "\\" in text else text
    outside = "".join(plain.split('"')[::2]).encode("ascii", "ignore")
    brackets = outside.translate(_BRACKETS, _NO_BRACKETS)
    for _ in range(depth):
        if not brackets:
            break
        brackets = brackets.replace(b"[]", b"")
    if brackets:
        raise ValueError(f"JSON nests deeper than {depth} levels, or its brackets are no pairs")


def parse_json(text: str, max_depth: int) -> Any:
    """The value of an untrusted JSON text.

    Nesting is checked before the parser recurses: py-ecc raises Python's recursion limit beyond what the C stack holds.

    Args:
        text: JSON from a peer, a chain or a file.
        max_depth: deepest nesting of brackets that is accepted.

    Raises:
        ValueError: not JSON, or brackets nested deeper than `max_depth`.
    """
    _require_depth(text, max_depth)
    return json.loads(text)


def _no_float(text: str) -> NoReturn:
    raise ValueError(f"canonical JSON holds no {text[:20]}")


_ENCODER = msgspec.json.Encoder(order="sorted")
_DECODER = msgspec.json.Decoder(float_hook=_no_float)


def _check(value: Any, plain: frozenset[type] = _PLAIN, depth: int = 0) -> None:
    """Refuse values that the encoder would accept although they have no canonical text.

    Values of the types `plain` pass unchecked; leave int out of them to check that integers are below 2^256.
    """
    if type(value) in plain:
        return
    if type(value) is int:
        if not -_MAX_INT < value < _MAX_INT:
            raise ValueError("canonical JSON integers are below 2^256")
        return
    if depth == _MAX_DEPTH:
        raise ValueError(f"canonical JSON nests at most {_MAX_DEPTH} levels")
    items: Iterable[Any]
    if type(value) is dict:
        if len(value) > _MAX_KEYS or not all(type(key) is str for key in value):
            raise ValueError(f"canonical JSON objects have at most {_MAX_KEYS} keys, which are strings")
        items = value.values()
    elif type(value) in (list, tuple):
        items = value
    else:
        raise ValueError(f"canonical JSON holds no {type(value).__name__}")
    for item in items:
        if type(item) not in plain:  # most are: a call for each would take most of the time
            _check(item, plain, depth + 1)


def _check_integers(value: Any, data: bytes) -> None:
    """Refuse integers of 2^256 and above; the walk over `value` is needed only if `data` has a run of 78 digits."""
    if _LONG_NUMBER in data.translate(_DIGITS):
        _check(value, _PLAIN - {int})


def canonical_json(value: Json) -> bytes:
    """Bytes of `value`: sorted keys, no spaces, UTF-8.

    Raises:
        ValueError: a float, bytes or another value that has no canonical text.
    """
    _check(value)
    data = _ENCODER.encode(value)
    _check_integers(value, data)
    return data


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
    if data.count(b"[") + data.count(b"{") > _MAX_DEPTH:
        _require_depth(data.decode(), _MAX_DEPTH)
    value = _DECODER.decode(data)
    if data.count(b":") > _MAX_KEYS:
        _check(value)
    _check_integers(value, data)
    if _ENCODER.encode(value) != data:
        raise ValueError("JSON is not in canonical form")
    return value


def to_hex(value: bytes) -> str:
    """`0x…` text of bytes."""
    return "0x" + value.hex()


def from_hex(text: object, length: int = 32) -> bytes:
    """Bytes of a lower-case `0x…` text of exactly `length` bytes.

    Raises:
        ValueError: `text` is not of that form.
    """
    if isinstance(text, str) and len(text) == 2 + 2 * length:
        with suppress(ValueError):
            value = bytes.fromhex(text[2:])
            if to_hex(value) == text:
                return value
    raise ValueError(f"expected 0x and {2 * length} lower-case hex digits")
