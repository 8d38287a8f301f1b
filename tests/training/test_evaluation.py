from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flock_ray.protocol.ballot import MAX_SCORE
from flock_ray.training.engine import SequenceLoss
from flock_ray.training.evaluation import mean_loss, micro_nats, paired_score

nats = st.floats(0, 5_000, allow_nan=False, width=32)
tokens = st.integers(1, 2_048)


def losses(nll: list[float], numbers: list[int]) -> list[SequenceLoss]:
    return [SequenceLoss(value, number) for value, number in zip(nll, numbers, strict=True)]


def test_mean_is_over_tokens() -> None:
    assert mean_loss(losses([1.0, 9.0], [1, 4])) == 2.0


@given(st.lists(st.tuples(nats, nats, tokens), min_size=1, max_size=20))
def test_gain_changes_its_sign_with_the_order(rows: list[tuple[float, float, int]]) -> None:
    before, after, numbers = map(list, zip(*rows, strict=True))
    there = paired_score(losses(before, numbers), losses(after, numbers))
    back = paired_score(losses(after, numbers), losses(before, numbers))
    assert abs(there.gain + back.gain) <= 1
    assert abs(there.standard_error - back.standard_error) <= 1
    assert there.standard_error >= 0


@given(st.lists(st.tuples(nats, nats), min_size=2, max_size=20), tokens)
def test_error_of_equal_lengths_is_the_textbook_one(rows: list[tuple[float, float]], length: int) -> None:
    """Mean and standard error of the paired differences, s / sqrt(S)."""
    before, after = map(list, zip(*rows, strict=True))
    score = paired_score(losses(before, [length] * len(rows)), losses(after, [length] * len(rows)))
    differences = [(b - a) / length for b, a in rows]
    gain = 1e6 * statistics.fmean(differences)
    error = 1e6 * statistics.stdev(differences) / math.sqrt(len(rows))
    if max(abs(gain), error) < MAX_SCORE:
        assert score.gain == pytest.approx(gain, rel=1e-9, abs=1.01)
        assert score.standard_error == pytest.approx(error, rel=1e-6, abs=1.01)


def test_unequal_lengths() -> None:
    """Cochran's ratio estimator by hand: d = (4, -1), n = (3, 1), ratio 3/4, residuals (7/4, -7/4)."""
    score = paired_score(losses([9.0, 1.0], [3, 1]), losses([5.0, 2.0], [3, 1]))
    assert score.gain == 750_000
    assert score.standard_error == round(1e6 * math.sqrt(2 * 2 * (7 / 4) ** 2) / 4)


def test_one_sequence_tells_nothing_of_its_error() -> None:
    score = paired_score(losses([2.0], [1]), losses([1.0], [1]))
    assert (score.gain, score.standard_error) == (1_000_000, MAX_SCORE)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_losses_that_are_not_finite(broken: float) -> None:
    fine, bad = losses([2.0, 3.0], [1, 1]), losses([2.0, broken], [1, 1])
    assert micro_nats(broken) == MAX_SCORE
    worse, better = paired_score(fine, bad), paired_score(bad, fine)
    assert worse.gain < -(MAX_SCORE // 2) and better.gain > MAX_SCORE // 2
    assert worse.standard_error == better.standard_error == MAX_SCORE


def test_scores_stay_in_their_bounds() -> None:
    worst, best = losses([3e38, 3e38], [1, 1]), losses([0.0, 0.0], [1, 1])
    assert paired_score(worst, best).gain == MAX_SCORE
    assert paired_score(best, worst).gain == -MAX_SCORE


def test_both_sides_need_the_same_sequences() -> None:
    with pytest.raises(ValueError, match="argument"):
        paired_score(losses([1.0], [1]), losses([1.0, 2.0], [1, 1]))
