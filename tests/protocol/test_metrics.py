from __future__ import annotations

from math import inf, log, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flock_ray.protocol.metrics import bits_per_byte


def test_the_published_vector() -> None:
    """1.0 nat a token over 100 tokens that spell 400 bytes."""
    bits = bits_per_byte(100 * 1.0, 400)
    assert bits == pytest.approx(0.360674, abs=5e-7)
    assert 2**bits == pytest.approx(1.284025, abs=5e-7)


def test_a_coin_flip_a_byte_is_one_bit_a_byte() -> None:
    assert bits_per_byte(8 * log(2), 8) == pytest.approx(1.0)


@pytest.mark.parametrize(("nll", "num_bytes"), [(1.0, 0), (0.0, 0), (nan, 4), (inf, 4), (-inf, 4), (1.0, -1)])
def test_what_has_no_value_is_infinitely_bad(nll: float, num_bytes: int) -> None:
    assert bits_per_byte(nll, num_bytes) == inf


@given(st.floats(0, 1e6), st.integers(1, 10**6), st.integers(2, 50))
def test_text_cut_into_other_tokens_keeps_its_value(nll: float, num_bytes: int, copies: int) -> None:
    assert bits_per_byte(copies * nll, copies * num_bytes) == pytest.approx(bits_per_byte(nll, num_bytes))
