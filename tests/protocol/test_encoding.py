from __future__ import annotations

import json
from collections import OrderedDict, namedtuple
from contextlib import suppress
from datetime import date
from decimal import Decimal
from enum import IntEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flock_ray.protocol.encoding import canonical_json, from_hex, parse_canonical, to_hex
from flock_ray.protocol.message import Kind

LIMIT = 1 << 16
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(1 - 2**256, 2**256 - 1) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=15,
)


@given(VALUES)
def test_a_value_comes_back_from_its_only_bytes(value: Any) -> None:
    data = canonical_json(value)
    assert parse_canonical(data, LIMIT) == value
    assert canonical_json(json.loads(data)) == data
    assert data == json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


@given(st.dictionaries(TEXT, st.integers(0, 9), min_size=2, max_size=5), st.randoms())
def test_the_order_of_keys_does_not_show(value: dict[str, int], random: Any) -> None:
    items = list(value.items())
    random.shuffle(items)
    assert canonical_json(dict(items)) == canonical_json(value)


def test_the_text_is_sorted_tight_utf_8() -> None:
    assert canonical_json({"b": [True, None], "a": "ü\n", "A": -1}) == '{"A":-1,"a":"ü\\n","b":[true,null]}'.encode()


@pytest.mark.parametrize(
    "value",
    [
        1.0,
        [(1.5,)],
        b"x",
        {1: 2},
        {None: 1},
        {True: 1},
        {"a": {2}},
        2**256,
        [{"a": -(2**256)}],
        "\ud800",
        [object()],
        Kind.ACKNOWLEDGEMENT,
        {Kind.ACKNOWLEDGEMENT: 1},
        IntEnum("Number", {"ONE": 1}).ONE,
        OrderedDict(a=1),
        namedtuple("Pair", "a b")(1, 2),
        dict.fromkeys(map(str, range(257))),
        date(2025, 1, 1),
        Decimal(1),
    ],
)
def test_a_value_without_canonical_text_is_refused(value: Any) -> None:
    with pytest.raises(ValueError):
        canonical_json(value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b" 1",
        b"1\n",
        b"01",
        b"-0",
        b"+1",
        b"1.0",
        b"1e3",
        b"NaN",
        b"Infinity",
        b'{"a":1,"a":1}',
        b'{"b":1,"a":2}',
        b'{"a": 1}',
        b'"\\u00e4"',
        b'"\\/"',
        b'"\\ud800"',
        b'"\xff"',
        b"\xef\xbb\xbf1",
        "1".encode("utf-16"),
        str(2**256).encode(),
        b"[-%d]" % 2**256,
        b"9" * 100,
        b"9" * 10_000,
        b"[" * 18 + b"]" * 18,
        b"[" * 30_000 + b"]" * 30_000,
    ],
)
def test_bytes_that_are_not_the_canonical_ones_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        parse_canonical(data, LIMIT)


@pytest.mark.usefixtures("lifted_recursion_limit")
@pytest.mark.parametrize("data", [b"[" * LIMIT, b'{"a":' * 10_000, b'"\\"",' + b"[" * 60_000, b'["' + b'\\"' * 30_000])
def test_deep_nesting_is_refused_however_high_the_recursion_limit_is(data: bytes) -> None:
    with pytest.raises(ValueError):
        parse_canonical(data, LIMIT)


def test_keys_in_the_worst_order_for_sorting_cost_nothing() -> None:
    keys = sorted({f"{number:x}" for number in range(60_000)})
    hostile = json.dumps({key: 0 for key in [keys[-1], *keys[:-1]]}, separators=(",", ":")).encode()
    with pytest.raises(ValueError, match="at most 256 keys"):
        parse_canonical(hostile, 1 << 20)
    assert parse_canonical(canonical_json(many := {str(key): 0 for key in range(256)}), LIMIT) == many


def test_brackets_inside_a_text_are_no_nesting() -> None:
    value = ["[" * 100 + '"\\' + "{" * 100, "]", "\\"]
    assert parse_canonical(canonical_json(value), LIMIT) == value


@given(st.binary(max_size=80))
def test_hostile_bytes_only_ever_raise_value_errors(data: bytes) -> None:
    try:
        value = parse_canonical(data, LIMIT)
    except ValueError:
        return
    assert canonical_json(value) == data


@given(VALUES, st.data())
def test_a_changed_byte_is_refused_or_another_value(value: Any, draw: st.DataObject) -> None:
    data = bytearray(canonical_json(value))
    place = draw.draw(st.integers(0, len(data) - 1))
    data[place] ^= draw.draw(st.integers(1, 255))
    with suppress(ValueError):
        assert parse_canonical(bytes(data), LIMIT) != value


def test_length_is_checked_before_anything_is_read() -> None:
    assert parse_canonical(b'"abc"', 5) == "abc"
    with pytest.raises(ValueError, match="6 bytes are more than the 5 allowed"):
        parse_canonical(b'"abcd"', 5)


@given(st.binary(max_size=40))
def test_hex_comes_back(value: bytes) -> None:
    assert from_hex(to_hex(value), len(value)) == value


@pytest.mark.parametrize(
    "text",
    [
        None,
        7,
        b"0x" + b"ab" * 32,
        ["0x"],
        "",
        "0x",
        "ab" * 33,
        "0x" + "AB" * 32,
        "0X" + "ab" * 32,
        "0x" + "ab" * 31,
        "0x" + "ab" * 33,
        "0x" + "ag" * 32,
        "0x" + "ab" * 31 + "  ",
        "0x" + "ab " * 21 + "a",
        "0x" + "ab" * 31 + "\n\n",
        "0x" + "\u0661" * 64,
        "0x" + "ab" * 32 + "\n",
    ],
)
def test_hex_of_another_form_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="64 lower-case hex digits"):
        from_hex(text)
