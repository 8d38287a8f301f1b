from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flock_ray.lora.fixed_point import MAX_ABS, SCALE, dequantize, quantize, weighted_mean

floats = st.floats(-MAX_ABS, MAX_ABS, width=32)
integers = st.integers(-(2**52), 2**52)


@given(st.lists(floats, min_size=1, max_size=20))
def test_quantize_is_the_nearest_grid_point_ties_to_even(values: list[float]) -> None:
    assert quantize(torch.tensor(values)).tolist() == [round(Fraction(value) * SCALE) for value in values]


@pytest.mark.parametrize(("halves", "even"), [(1, 0), (3, 2), (-1, 0), (-3, -2), (5, 2)])
def test_ties_go_to_the_even_integer(halves: int, even: int) -> None:
    assert quantize(torch.tensor([halves / 2 / SCALE])).tolist() == [even]


@given(st.lists(floats, min_size=1, max_size=20))
def test_requantising_what_was_read_back_changes_nothing(values: list[float]) -> None:
    integers = quantize(torch.tensor(values))
    assert torch.equal(quantize(dequantize(integers)), integers)


@given(st.lists(st.integers(-SCALE, SCALE), min_size=1))
def test_reading_is_exact_within_one(points: list[int]) -> None:
    read = dequantize(torch.tensor(points))
    assert read.dtype == torch.float32
    assert [Fraction(value) * SCALE for value in read.tolist()] == points


@given(integers)
def test_reading_is_the_nearest_float32_everywhere(point: int) -> None:
    read = dequantize(torch.tensor([point]))
    assert read.item() == torch.tensor([point / SCALE], dtype=torch.float64).float().item()
    again = quantize(read) if abs(point) < 2**52 else torch.tensor([point])
    assert torch.equal(dequantize(again), read)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, MAX_ABS * 1.001])
def test_values_outside_the_range_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        quantize(torch.tensor([0.0, value]))


@given(st.lists(st.tuples(st.lists(integers, min_size=3, max_size=3), st.integers(0, 100)), min_size=1, max_size=8))
def test_mean_is_the_exact_floor(rows: list[tuple[list[int], int]]) -> None:
    tensors, weights = [torch.tensor(row) for row, _ in rows], [weight for _, weight in rows]
    if sum(weights) == 0:
        with pytest.raises(ValueError, match="not all zero"):
            weighted_mean(tensors, weights)
        return
    columns = zip(*(row for row, _ in rows), strict=True)
    exact = [sum(w * x for w, x in zip(weights, column, strict=True)) // sum(weights) for column in columns]
    assert weighted_mean(tensors, weights).tolist() == exact


@given(st.permutations([(7, 1), (-11, 2), (2**40, 3), (-(2**51), 1), (5, 0)]))
def test_order_changes_nothing(pairs: list[tuple[int, int]]) -> None:
    mean = weighted_mean([torch.tensor([value]) for value, _ in pairs], [weight for _, weight in pairs])
    assert mean.tolist() == [(7 - 22 + 3 * 2**40 - 2**51) // 7]


def test_inputs_stay_as_they_are() -> None:
    row = torch.tensor([3, -3])
    weighted_mean([row, row], [1, 2])
    assert row.tolist() == [3, -3]


@given(st.integers(1, 2**12), st.integers(-(2**52), 2**52), st.integers(1, 4))
def test_a_sum_that_could_overflow_is_refused_and_no_other(weight: int, value: int, count: int) -> None:
    tensors, weights = [torch.tensor([value])] * count, [weight] * count
    if abs(value) * weight * count >= 2**63:
        with pytest.raises(ValueError, match="int64"):
            weighted_mean(tensors, weights)
    else:
        assert weighted_mean(tensors, weights).tolist() == [value]


def test_the_most_negative_integer_counts_against_the_bound() -> None:
    with pytest.raises(ValueError, match="int64"):
        weighted_mean([torch.tensor([-(2**63)])], [1])


@pytest.mark.parametrize("weights", [[], [1], [1, -1], [0, 0], [1, 1, 1]])
def test_weights_that_do_not_fit_are_refused(weights: list[int]) -> None:
    with pytest.raises(ValueError, match="non-negative weights"):
        weighted_mean([torch.tensor([1]), torch.tensor([2])], weights)
