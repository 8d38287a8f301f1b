from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flock_ray.aggregation.aggregate import Aggregation, aggregate
from flock_ray.aggregation.coordinatewise import CoordinateMedian
from flock_ray.aggregation.mean import Mean
from flock_ray.aggregation.rule import Rule
from flock_ray.aggregation.start import Start
from flock_ray.lora.algebra import initial_adapter
from flock_ray.lora.fixed_point import MAX_ABS, SCALE
from flock_ray.lora.serialization import Adapter, canonical_bytes, flat, unflat
from tests.aggregation.rules import Fixed

SHAPES = {"x.lora_A.weight": (2, 5), "x.lora_B.weight": (3, 2)}
small = st.floats(-1 / 4, 1 / 4, width=32)


def random_adapter(seed: int, scale: float = 0.1) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    return {key: scale * torch.randn(shape, generator=generator) for key, shape in SHAPES.items()}


def combine(start: Adapter, updates: Sequence[Adapter], weights: Sequence[int], denominator: int = 0) -> Adapter:
    """start + floor(weighted sum / denominator); without one, the weights' sum."""
    made = aggregate(Start(start), Fixed(weights, denominator), updates)
    assert made.adapter is not None and made.weights == tuple(weights)
    return made.adapter


def scalar(value: float) -> Adapter:
    return {"x": torch.tensor([value])}


@given(st.integers(1, 8), st.randoms(use_true_random=False))
def test_arrival_order_changes_no_byte(num_updates: int, order: random.Random) -> None:
    start = initial_adapter(SHAPES, 0)
    updates = [random_adapter(seed) for seed in range(num_updates)]
    weights = [1 + seed % 3 for seed in range(num_updates)]
    arrival = list(zip(updates, weights, strict=True))
    order.shuffle(arrival)
    shuffled = combine(start, [update for update, _ in arrival], [weight for _, weight in arrival])
    assert canonical_bytes(shuffled) == canonical_bytes(combine(start, updates, weights))


STEPS = (1, 2, 3, 5)


@given(small, st.lists(st.tuples(small, st.integers(1, 9)), min_size=1, max_size=8), st.integers(0, 100))
def test_a_step_multiplies_the_sum_before_it_is_divided(
    start: float, parts: list[tuple[float, int]], rest: int
) -> None:
    total = sum(weight * round(Fraction(value) * SCALE) for value, weight in parts)
    denominator = sum(weight for _, weight in parts) + rest
    rule = Fixed([weight for _, weight in parts], denominator)
    made = aggregate(Start(scalar(start)), rule, [scalar(value) for value, _ in parts], STEPS)
    first = round(Fraction(start) * SCALE)
    exact = [first + step * total // denominator for step in STEPS]
    assert [Start(adapter).points.item() for adapter in made.adapters] == [
        Start(scalar(points / SCALE)).points.item() for points in exact
    ]


@pytest.mark.parametrize("rule", [Mean({}), CoordinateMedian({})])
def test_a_rule_that_sums_itself_gives_every_step(rule: Rule) -> None:
    updates = [scalar(points / SCALE) for points in (3, 4)]
    made = aggregate(Start(scalar(0.0)), rule, updates, STEPS)
    floors = [7 // 2, 14 // 2, 21 // 2, 35 // 2] if isinstance(rule, Mean) else [3, 6, 9, 15]
    assert [Start(adapter).points.item() for adapter in made.adapters] == floors


def test_candidates_and_parts_beyond_the_range_are_clamped_to_it() -> None:
    start, update = Start(scalar(MAX_ABS)), scalar(2.0**18)
    made = aggregate(start, Mean({}), [update], STEPS)
    assert [adapter["x"].item() for adapter in made.adapters] == [MAX_ABS] * 4
    assert start.with_part(update, 3)["x"].item() == MAX_ABS
    largest = aggregate(Start(scalar(0.0)), Fixed([2**20], 2**20), [update], STEPS)
    assert [adapter["x"].item() for adapter in largest.adapters] == [step * 2.0**18 for step in STEPS]


@given(small, small, st.integers(1, 9))
def test_a_part_of_an_update_is_rounded_down(start: float, value: float, parts: int) -> None:
    exact = round(Fraction(start) * SCALE) + round(Fraction(value) * SCALE) // parts
    made = Start(scalar(start)).with_part(scalar(value), parts)["x"]
    assert made.item() == torch.tensor(exact / SCALE).float().item()


@given(small, st.lists(st.tuples(small, st.integers(1, 9)), min_size=1, max_size=8), st.integers(0, 100))
def test_candidate_is_the_exact_fixed_point_value(start: float, parts: list[tuple[float, int]], rest: int) -> None:
    """What the weights lack to the denominator is weight on the start."""
    total = sum(weight * round(Fraction(value) * SCALE) for value, weight in parts)
    denominator = sum(weight for _, weight in parts) + rest
    exact = round(Fraction(start) * SCALE) + total // denominator
    values, weights = [scalar(value) for value, _ in parts], [weight for _, weight in parts]
    assert Fraction(combine(scalar(start), values, weights, denominator)["x"].item()) * SCALE == exact


def test_candidate_is_within_a_grid_step_of_the_float_mean() -> None:
    start, updates = initial_adapter(SHAPES, 0), [random_adapter(seed) for seed in range(4)]
    candidate = combine(start, updates, (1, 1, 1, 1))
    for key, value in candidate.items():
        mean = start[key].double() + torch.stack([update[key].double() for update in updates]).mean(0)
        assert (value.double() - mean).abs().max() <= 1.5 / SCALE


def test_zero_updates_keep_the_global_adapter_through_many_epochs() -> None:
    adapter = start = combine(random_adapter(5, scale=3.0), [random_adapter(6)], (1,))
    zero = {key: torch.zeros(shape) for key, shape in SHAPES.items()}
    for _ in range(5):
        adapter = combine(adapter, [zero, zero, zero], (1, 1, 1))
    assert canonical_bytes(adapter) == canonical_bytes(start)


def test_a_zero_weight_leaves_an_update_out() -> None:
    start, updates = initial_adapter(SHAPES, 0), [random_adapter(1), random_adapter(2)]
    assert canonical_bytes(combine(start, updates, (0, 3))) == canonical_bytes(combine(start, updates[1:], (1,)))


def test_inputs_stay_as_they_are() -> None:
    start, update = initial_adapter(SHAPES, 0), random_adapter(1)
    before = canonical_bytes(start), canonical_bytes(update)
    combine(start, [update], (1,))
    assert (canonical_bytes(start), canonical_bytes(update)) == before


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="keys"):
        combine(scalar(0.0), [{"y": torch.zeros(1)}], (1,))
    with pytest.raises(ValueError, match="shapes"):
        combine(scalar(0.0), [{"x": torch.zeros(2)}], (1,))
    with pytest.raises(ValueError, match="finite"):
        combine(scalar(0.0), [scalar(float("nan"))], (1,))
    with pytest.raises(ValueError, match="int64"):
        combine(scalar(0.0), [scalar(1.0)], (2**62,))


@pytest.mark.parametrize(("weights", "denominator"), [((1,), 1), ((1, -1), 1), ((2, 2), 3), ((1, 1, 1), 3)])
def test_weights_that_a_rule_must_not_give_are_our_mistake(weights: tuple[int, ...], denominator: int) -> None:
    with pytest.raises(AssertionError):
        aggregate(Start(scalar(0.0)), Fixed(weights, denominator), [scalar(0.0), scalar(1.0)])


def test_without_a_weight_there_is_no_candidate() -> None:
    made = aggregate(Start(scalar(0.0)), Fixed((0, 0), 2), [scalar(0.0), scalar(1.0)])
    assert made.adapter is None and made.weights == (0, 0)
    assert aggregate(Start(scalar(0.0)), Mean({}), []).adapter is None


def refuse() -> Iterator[Adapter]:
    raise AssertionError("the rule has a running sum")
    yield {}


@given(st.integers(1, 8), st.randoms(use_true_random=False))
def test_a_running_sum_needs_no_update_again_and_has_the_same_bytes(num_updates: int, order: random.Random) -> None:
    start = initial_adapter(SHAPES, 0)
    updates = [random_adapter(seed, scale=10.0 ** order.randint(-6, 6)) for seed in range(num_updates)]
    running = Aggregation(Start(start), Mean({}))
    for update in order.sample(updates, len(updates)):
        running.add(update)
    made = running.finish(refuse())
    assert made.adapter is not None and made.weights == (1,) * num_updates
    assert canonical_bytes(made.adapter) == canonical_bytes(combine(start, updates, made.weights))


@given(st.integers(0, 99), st.integers(-6, 6))
def test_a_single_update_has_a_short_way_to_the_same_bytes(seed: int, magnitude: int) -> None:
    start, update = random_adapter(seed + 1), random_adapter(seed, scale=10.0**magnitude)
    assert canonical_bytes(Start(start).with_one(update)) == canonical_bytes(combine(start, [update], (3,)))


def test_factors_that_lie_in_one_row_or_apart_give_the_same_bytes() -> None:
    start, apart = initial_adapter(SHAPES, 0), random_adapter(1)
    together = unflat(flat(apart).clone(), SHAPES)
    assert flat(together).data_ptr() == together[min(SHAPES)].data_ptr()
    assert canonical_bytes(combine(start, [together], (1,))) == canonical_bytes(combine(start, [apart], (1,)))
