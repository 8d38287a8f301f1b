from __future__ import annotations

from math import inf, log, nan, sqrt
from statistics import stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flock_ray.protocol.ballot import MAX_SCORE
from flock_ray.protocol.contest_scores import (
    FLOCK_WORST,
    Row,
    flock_score,
    micro_bits_per_byte,
    paired_difference,
    row_micro_nats,
    rows_digest,
    score,
    strict_score,
)
from flock_ray.protocol.hashing import sha256


def row(num_tokens: int, num_bytes: int, name: bytes = b"row") -> Row:
    return Row(sha256(name), num_tokens, num_bytes)


@pytest.mark.parametrize(
    ("nats_a_token", "num_tokens", "num_bytes", "bits", "perplexity"),
    [(0.693147, 100, 200, 0.5, sqrt(2)), (1.0, 100, 400, 0.360674, 1.284025)],
)
def test_published_vectors_of_bits_a_byte(
    nats_a_token: float, num_tokens: int, num_bytes: int, bits: float, perplexity: float
) -> None:
    rows, losses = [row(num_tokens, num_bytes)], [row_micro_nats(nats_a_token * num_tokens)]
    assert micro_bits_per_byte(losses, rows) == flock_score(losses, rows) == round(bits * 10**6)
    assert 2 ** (flock_score(losses, rows) / 10**6) == pytest.approx(perplexity, abs=1e-6)


def test_flocks_mean_of_means_and_the_true_mean() -> None:
    """Rows of 10 nats over 10 tokens and 100 nats over 50 tokens, 200 bytes together."""
    rows, losses = [row(10, 50), row(50, 150)], [row_micro_nats(10), row_micro_nats(100)]
    assert flock_score(losses, rows) == score("flock", losses, rows) == 649_213
    assert micro_bits_per_byte(losses, rows) == 793_482  # 110 / (200 ln 2)
    assert strict_score(losses, rows) == score("strict", losses, rows) == 110_000_000 // 60


def test_what_has_no_loss_is_the_worst_and_spoils_nobody_elses_score() -> None:
    for nll in (nan, inf, -inf, 1e30):
        assert row_micro_nats(nll) == MAX_SCORE
    assert row_micro_nats(-0.1) == 0
    rows = [row(1, 4), row(1, 4)]
    assert flock_score([MAX_SCORE, 1], rows) == FLOCK_WORST == 999 * 10**6
    assert strict_score([MAX_SCORE, 1], rows) > strict_score([10**9, 10**9], rows)


@pytest.mark.parametrize(("num_tokens", "num_bytes"), [(0, 4), (4, 0), (-1, 4)])
def test_a_row_without_targets_is_refused(num_tokens: int, num_bytes: int) -> None:
    with pytest.raises(ValueError, match="no targets"):
        row(num_tokens, num_bytes)


def test_rows_are_committed_to_in_their_order() -> None:
    one, other = row(1, 2, b"a"), row(3, 4, b"b")
    digests = {rows_digest(rows) for rows in ([one, other], [other, one], [one], [row(1, 3, b"a"), other])}
    assert len(digests) == 4


LOSSES = st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(1, 400)), min_size=2, max_size=40)


@given(LOSSES, st.data())
def test_scores_depend_on_no_order_of_the_rows(table: list[tuple[int, int, int]], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(table))
    for scorer in ("strict", "flock"):
        first, second = (
            score(scorer, [a for a, _, _ in rows], [row(n, 3 * n) for _, _, n in rows]) for rows in (table, shuffled)
        )
        assert first == second
    assert difference(table) == difference(shuffled)


def difference(table: list[tuple[int, int, int]]) -> tuple[int, int]:
    result = paired_difference([a for a, _, _ in table], [b for _, b, _ in table], [row(n, 1) for _, _, n in table])
    return result.value, result.standard_error


@given(LOSSES)
def test_a_comparison_turned_round_has_the_opposite_sign_and_the_same_error(table: list[tuple[int, int, int]]) -> None:
    value, error = difference(table)
    opposite, same = difference([(b, a, n) for a, b, n in table])
    assert opposite in (-value, -value - 1) and same == error
    assert difference([(a, a, n) for a, _, n in table]) == (0, 0)


@given(st.lists(st.integers(-(10**8), 10**8), min_size=2, max_size=30), st.integers(1, 200))
def test_the_standard_error_of_rows_of_one_length_is_that_of_their_mean(differences: list[int], length: int) -> None:
    table = [(10**9 + d, 10**9, length) for d in differences]
    _, error = difference(table)
    assert error == pytest.approx(stdev(differences) / sqrt(len(differences)) / length, abs=1.0)


def test_one_row_tells_nothing() -> None:
    assert difference([(5, 3, 1)]) == (2, MAX_SCORE)


@given(st.floats(0, 1e5), st.integers(1, 10**5))
def test_bits_a_byte_are_those_of_mathematics(nll: float, num_bytes: int) -> None:
    bits = micro_bits_per_byte([row_micro_nats(nll)], [row(1, num_bytes)])
    assert bits == pytest.approx(nll / log(2) / num_bytes * 10**6, abs=2)
