from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flock_ray.lora.algebra import add, factor_averaging_error, initial_adapter, product_inner, subtract
from flock_ray.lora.fixed_point import dequantize, quantize
from flock_ray.lora.serialization import Adapter, canonical_bytes

SHAPES = {
    "layers.0.q.lora_A.weight": (3, 7),
    "layers.0.q.lora_B.weight": (5, 3),
    "layers.1.q.lora_A.weight": (3, 4),
    "layers.1.q.lora_B.weight": (6, 3),
}
LAYERS = ("layers.0.q", "layers.1.q")
seeds = st.integers(0, 2**32)


def random_adapter(seed: int, scale: float = 1.0) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    return {key: scale * torch.randn(shape, generator=generator) for key, shape in SHAPES.items()}


def dense_factor_averaging_error(start: Adapter, deltas: list[Adapter]) -> float:
    neglected = total = 0.0
    for layer in LAYERS:
        b0, a0 = start[f"{layer}.lora_B.weight"].double(), start[f"{layer}.lora_A.weight"].double()
        b = b0 + torch.stack([delta[f"{layer}.lora_B.weight"].double() for delta in deltas])
        a = a0 + torch.stack([delta[f"{layer}.lora_A.weight"].double() for delta in deltas])
        neglected += float(((b @ a).mean(0) - b.mean(0) @ a.mean(0)).square().sum())
        total += float(((b @ a).mean(0) - b0 @ a0).square().sum())
    return math.sqrt(neglected / total)


@given(seeds, seeds)
def test_product_inner_equals_the_dense_one(left: int, right: int) -> None:
    first, second = random_adapter(left), random_adapter(right)
    b1, a1 = first["layers.0.q.lora_B.weight"], first["layers.0.q.lora_A.weight"]
    b2, a2 = second["layers.0.q.lora_B.weight"], second["layers.0.q.lora_A.weight"]
    dense = float(((b1.double() @ a1.double()) * (b2.double() @ a2.double())).sum())
    assert product_inner(b1, a1, b2, a2) == pytest.approx(dense, abs=1e-10)


@given(seeds, st.lists(st.tuples(seeds, st.floats(1e-3, 10)), min_size=2, max_size=6, unique_by=lambda pair: pair[0]))
def test_factor_averaging_error_equals_the_dense_one(seed: int, parts: list[tuple[int, float]]) -> None:
    start, deltas = random_adapter(seed + 2**33), [random_adapter(seed, scale) for seed, scale in parts]
    expected = dense_factor_averaging_error(start, deltas)
    assert factor_averaging_error(start, deltas) == pytest.approx(expected, rel=1e-6)


def test_a_small_disagreement_is_not_lost_in_cancellation() -> None:
    """The dense figure is left with a few digits: a millionth of the products."""
    start, common, noise = random_adapter(3), random_adapter(1, 1e-1), random_adapter(2, 1e-4)
    left, right = add(common, noise), subtract(common, noise)
    error = factor_averaging_error(start, [left, right])
    assert 1e-9 < error < 1e-6
    assert error == pytest.approx(dense_factor_averaging_error(start, [left, right]), rel=1e-3)


def test_deltas_that_agree_neglect_nothing() -> None:
    start = random_adapter(2)
    assert factor_averaging_error(start, [random_adapter(1)]) == 0.0
    assert factor_averaging_error(start, [random_adapter(1)] * 3) == 0.0


def test_deltas_of_which_none_moves_a_neglect_nothing() -> None:
    frozen = [{key: f * float("lora_B" in key) for key, f in random_adapter(seed).items()} for seed in range(3)]
    assert factor_averaging_error(random_adapter(9), frozen) == 0.0


def test_zero_deltas_neglect_nothing() -> None:
    zero = {key: torch.zeros(shape) for key, shape in SHAPES.items()}
    assert factor_averaging_error(random_adapter(1), [zero, zero]) == 0.0
    only_a = {key: torch.randn(shape) if "lora_A" in key else torch.zeros(shape) for key, shape in SHAPES.items()}
    assert factor_averaging_error(zero, [only_a, zero]) == 0.0


def test_products_that_cancel_each_other_are_infinitely_wrong() -> None:
    def constant(b: float, a: float) -> Adapter:
        return {key: torch.full(shape, a if "lora_A" in key else b) for key, shape in SHAPES.items()}

    zero = constant(0, 0)
    assert math.isinf(factor_averaging_error(zero, [constant(2, 1), constant(1, -2)]))
    assert factor_averaging_error(zero, [constant(1, 1), constant(1, -1)]) == 0.0  # the mean of the factors is zero too


@given(seeds)
def test_initial_adapter_is_on_the_grid_bounded_and_repeatable(seed: int) -> None:
    adapter = initial_adapter(SHAPES, seed)
    assert list(adapter) == sorted(SHAPES)
    for key, factor in adapter.items():
        assert factor.dtype == torch.float32 and tuple(factor.shape) == SHAPES[key]
        assert torch.equal(dequantize(quantize(factor)), factor)
        if "lora_B" in key:
            assert not factor.any()
        else:
            assert factor.any() and factor.abs().max() <= 1 / math.sqrt(SHAPES[key][1]) + 1e-6
    shuffled = dict(reversed(SHAPES.items()))
    assert canonical_bytes(initial_adapter(shuffled, seed)) == canonical_bytes(adapter)
    assert canonical_bytes(initial_adapter(SHAPES, seed + 1)) != canonical_bytes(adapter)


def test_initial_adapter_has_the_spread_of_pefts_own() -> None:
    shapes = {"x.lora_A.weight": (64, 256)}
    ours = initial_adapter(shapes, 0)["x.lora_A.weight"]
    theirs = torch.empty(64, 256)
    torch.nn.init.kaiming_uniform_(theirs, a=math.sqrt(5), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours, theirs, atol=2**-24, rtol=0)


def test_subtract_undoes_add() -> None:
    left, right = random_adapter(1), random_adapter(2)
    for key, value in subtract(add(left, right), right).items():
        torch.testing.assert_close(value, left[key])
