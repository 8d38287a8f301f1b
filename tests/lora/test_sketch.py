from __future__ import annotations

import torch

from flock_ray.lora.foreign import with_rank
from flock_ray.lora.serialization import Adapter
from flock_ray.lora.sketch import FAR, Sketcher, distance, earliest_within

SIZES = {f"base_model.model.layers.{i}.{name}": (96, 80) for i in range(6) for name in ("q_proj", "up_proj")}
SHAPES = {f"{name}.lora_A.weight": (1, inner) for name, (inner, _) in SIZES.items()} | {
    f"{name}.lora_B.weight": (outer, 1) for name, (_, outer) in SIZES.items()
}
SKETCHER = Sketcher(SHAPES, b"s" * 32)
LIMIT = 200_000


def adapter(seed: int, rank: int = 4) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.randn(shape, generator=generator) for key, shape in sorted(with_rank(SHAPES, rank).items())}


def apart(one: Adapter, other: Adapter) -> int:
    return distance(SKETCHER.sketch(one), SKETCHER.sketch(other))


def gauged(given: Adapter, seed: int = 5) -> Adapter:
    """(B M, M^-1 A) with an own M for each layer."""
    generator = torch.Generator().manual_seed(seed)
    result = {}
    for name in SIZES:
        a, b = given[f"{name}.lora_A.weight"], given[f"{name}.lora_B.weight"]
        m = torch.randn(len(a), len(a), generator=generator) + 3 * torch.eye(len(a))
        result[f"{name}.lora_A.weight"] = torch.linalg.solve(m, a)
        result[f"{name}.lora_B.weight"] = b @ m
    return result


def padded(given: Adapter, rank: int) -> Adapter:
    result = {key: torch.zeros(shape) for key, shape in with_rank(SHAPES, rank).items()}
    for key, factor in given.items():
        result[key][: factor.shape[0], : factor.shape[1]] = factor
    return result


def noised(given: Adapter, relative: float, seed: int = 6, layers: int = len(SIZES)) -> Adapter:
    """B plus noise of a norm relative to its own, in the first layers."""
    noise = adapter(seed, rank=len(next(iter(given.values()))))
    result = dict(given)
    for name in list(SIZES)[:layers]:
        key = f"{name}.lora_B.weight"
        result[key] = given[key] + relative * given[key].norm() * noise[key] / noise[key].norm()
    return result


def test_gauge_padding_sign_and_scale_hide_no_copy() -> None:
    original = adapter(1)
    assert apart(original, original) == 0
    assert apart(original, gauged(original)) < 100
    assert apart(original, padded(gauged(original), 9)) < 100
    scaled = {key: factor * (1.3 if "lora_B" in key else 1.0) for key, factor in original.items()}
    assert apart(original, scaled) < 100
    one = original | {key: -factor for key, factor in original.items()}
    assert apart(original, one) < 100  # both factors negated: the same product


def test_the_distance_is_about_the_relative_change() -> None:
    original = adapter(1)
    for relative in (0.02, 0.1, 0.3):
        measured = apart(original, noised(original, relative)) / 1e6
        assert 0.7 * relative < measured < 1.1 * relative


def test_others_are_far_and_a_change_of_most_layers_does_not_hide_a_copy() -> None:
    assert all(apart(adapter(1), adapter(seed)) > 900_000 for seed in range(2, 12))
    original = adapter(1)
    assert apart(original, noised(original, 5.0, layers=9)) < 100  # of twelve
    assert apart(original, noised(original, 5.0, layers=10)) > LIMIT


def test_a_change_hidden_from_one_seeds_probes_is_seen_by_the_next() -> None:
    """A change that is orthogonal to known probes leaves that sketch alone; the day's seed is known too late for it."""
    original = adapter(1)
    changed = dict(original)
    for name in SIZES:
        outputs = SKETCHER._outputs[name]
        noise = torch.randn(80, 4, generator=torch.Generator().manual_seed(9)).double()
        noise -= outputs @ torch.linalg.lstsq(outputs, noise).solution
        changed[f"{name}.lora_B.weight"] = original[f"{name}.lora_B.weight"] + noise.float()
    assert apart(original, changed) < 1_000
    other = Sketcher(SHAPES, b"t" * 32)
    assert distance(other.sketch(original), other.sketch(changed)) > LIMIT


def test_adapters_that_do_nothing() -> None:
    nothing = {key: factor * ("lora_A" in key) for key, factor in adapter(1).items()}
    assert apart(nothing, nothing) == 0
    assert apart(nothing, adapter(2)) == FAR


def test_the_first_within_the_limit_is_named() -> None:
    sketches = [SKETCHER.sketch(one) for one in (adapter(2), noised(adapter(1), 0.1), adapter(1))]
    assert earliest_within(SKETCHER.sketch(gauged(adapter(1))), sketches, LIMIT) == 1
    assert earliest_within(SKETCHER.sketch(gauged(adapter(1))), sketches, 50_000) == 2
    assert earliest_within(SKETCHER.sketch(adapter(3)), sketches, LIMIT) is None


def test_signs_are_the_same_on_every_machine() -> None:
    sketch = Sketcher(SHAPES, bytes(32))
    name = next(iter(SIZES))
    assert sketch._inputs[name][:2, :6].int().tolist() == [[-1, 1, -1, -1, 1, 1], [-1, 1, -1, -1, -1, 1]]
