from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flock_ray.lora.fixed_point import MAX_ABS, SCALE, FixedPointSum, add_quantized, dequantize, quantize

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


@given(st.lists(st.tuples(st.integers(-(2**52), 2**52), floats), min_size=1, max_size=20))
def test_a_move_is_the_sum_on_the_grid(pairs: list[tuple[int, float]]) -> None:
    points, values = torch.tensor([point for point, _ in pairs]), torch.tensor([value for _, value in pairs])
    assert torch.equal(add_quantized(points.double().numpy(), values), dequantize(points + quantize(values)))


def test_a_move_of_many_values_is_the_same_at_every_place() -> None:
    points, values = torch.arange(200_001) << 20, torch.linspace(-3, 3, 200_001)
    assert torch.equal(add_quantized(points.double().numpy(), values), dequantize(points + quantize(values)))


@pytest.mark.parametrize("value", [math.nan, math.inf, MAX_ABS * 1.001])
def test_a_move_outside_the_range_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        add_quantized(torch.zeros(1, dtype=torch.float64).numpy(), torch.tensor([value]))


def mean_of(rows: list[list[float]], weights: list[int]) -> list[int]:
    total = FixedPointSum(len(rows[0]))
    for row, weight in zip(rows, weights, strict=True):
        total.add(torch.tensor(row), weight)
    return total.over(sum(weights)).tolist()


weighted = st.tuples(st.lists(floats, min_size=3, max_size=3), st.integers(0, 100) | st.just(200))


@given(st.lists(weighted, min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_mean_is_the_exact_floor_in_any_order(rows: list[tuple[list[float], int]], order: random.Random) -> None:
    """Weights of 200 take sums beyond what float64 holds exactly."""
    weights = [weight for _, weight in rows]
    if sum(weights) == 0:
        with pytest.raises(ValueError, match="positive"):
            mean_of([row for row, _ in rows], weights)
        return
    columns = zip(*(row for row, _ in rows), strict=True)
    grid = [[round(Fraction(value) * SCALE) for value in column] for column in columns]
    exact = [sum(w * x for w, x in zip(weights, column, strict=True)) // sum(weights) for column in grid]
    shuffled = order.sample(rows, len(rows))
    assert mean_of([row for row, _ in shuffled], [weight for _, weight in shuffled]) == exact


def test_a_long_sum_is_exact_beyond_float64() -> None:
    """The largest value and a single grid point, many times: 2^53 is passed, and no unit is lost."""
    total = FixedPointSum(2)
    for _ in range(5):
        total.add(torch.tensor([MAX_ABS, -MAX_ABS]), 1)
        total.add(torch.tensor([1 / SCALE, -1 / SCALE]), 1)
    assert total.over(10).tolist() == [(5 * 2**52 + 5) // 10, -(5 * 2**52 + 5) // 10]


def test_rows_longer_than_a_chunk_are_summed_whole() -> None:
    row = torch.arange(3 * 2**16 + 7) / SCALE
    total = FixedPointSum(len(row))
    total.add(row, 3)
    total.add(-row, 1)
    assert torch.equal(total.over(4), torch.div(2 * torch.arange(len(row)), 4, rounding_mode="floor"))


def test_inputs_stay_as_they_are() -> None:
    row = torch.tensor([3.0, -3.0])
    total = FixedPointSum(2)
    total.add(row, 2)
    total.over(2)
    total.add(row, 1)
    assert row.tolist() == [3, -3] and total.over(3).tolist() == [3 * SCALE, -3 * SCALE]


@given(st.integers(1, 2**12), st.floats(-MAX_ABS, MAX_ABS, width=32), st.integers(1, 4))
def test_a_sum_that_could_overflow_is_refused_and_no_other(weight: int, value: float, count: int) -> None:
    point = round(Fraction(value) * SCALE)
    if math.ceil(abs(value) * SCALE) * weight * count >= 2**63:
        with pytest.raises(ValueError, match="int64"):
            mean_of([[value]] * count, [weight] * count)
    else:
        assert mean_of([[value]] * count, [weight] * count) == [point]


def test_weights_and_denominators_that_do_not_fit_are_refused() -> None:
    total = FixedPointSum(1)
    for weight, told in ((-1, "non-negative weights"), (2**63, "int64")):
        with pytest.raises(ValueError, match=told):
            total.add(torch.zeros(1), weight)
    for denominator in (-1, 0, 2**63):
        with pytest.raises(ValueError, match="positive"):
            total.over(denominator)


def test_a_sum_is_floored_over_any_denominator() -> None:
    total = FixedPointSum(2)
    total.add(torch.tensor([7 / SCALE, -7 / SCALE]), 1)
    assert total.over(4).tolist() == [1, -2] and total.over(2**62).tolist() == [0, -1]


@given(st.integers(-(2**40), 2**40), st.integers(1, 2**20), st.integers(1, 2**20), st.integers(1, 9))
def test_a_factor_comes_before_the_division(points: int, weight: int, denominator: int, factor: int) -> None:
    total = FixedPointSum(1)
    values = dequantize(torch.tensor([points]))
    total.add(values, weight)
    exact = factor * weight * int(quantize(values)) // denominator
    if factor * max(denominator, weight * abs(int(quantize(values))) // denominator + 1) < 2**63:
        assert total.over(denominator, factor).tolist() == [exact]
    else:
        with pytest.raises(ValueError, match="lower the weights"):
            total.over(denominator, factor)
