"""Candidates at several steps, as the verifier combines them."""

from __future__ import annotations

import pytest
import torch

from flock_ray.aggregation.aggregate import aggregate
from flock_ray.aggregation.mean import Mean
from flock_ray.aggregation.registry import RULES
from flock_ray.aggregation.rule import Rule, Weighting
from flock_ray.aggregation.start import Start
from flock_ray.lora.fixed_point import SCALE, quantize
from flock_ray.lora.serialization import LORA_A, LORA_B, Adapter
from flock_ray.verify.candidate import combined


def adapter(*points: int) -> Adapter:
    half = len(points) // 2
    return {
        "layer" + LORA_A: torch.tensor([points[:half]], dtype=torch.float64).div(SCALE).float(),
        "layer" + LORA_B: torch.tensor([points[half:]], dtype=torch.float64).div(SCALE).float().T.contiguous(),
    }


def points(found: Adapter) -> list[int]:
    return [int(value) for key in sorted(found) for value in quantize(found[key]).ravel()]


class Weighted(Rule):
    """The first update three times, of a large denominator."""

    def start(self, start: Start) -> None:
        self._count = 0

    def add(self, update: Adapter) -> None:
        self._count += 1

    def finish(self) -> Weighting:
        return Weighting((3 * 2**18, *[2**18] * (self._count - 1)), 2**20)


def test_each_step_is_floored_by_itself() -> None:
    updates = [adapter(-1, 0, 1, 3), adapter(0, 0, 0, -3)]
    weights, found = combined(Start(adapter(10, 0, 0, 5)), Mean({}), updates, (1, 2, 3, 5))
    assert weights == (1, 1)
    assert [points(one) for one in found] == [[9, 0, 0, 5], [9, 0, 1, 5], [8, 0, 1, 5], [7, 0, 2, 5]]


def test_weights_and_denominator_are_the_rule_s() -> None:
    weights, found = combined(
        Start(adapter(0, 0, 0, 0)), Weighted({}), [adapter(4, 1, 0, 0), adapter(0, 1, 2, -1)], (1, 3)
    )
    assert weights == (3 * 2**18, 2**18)
    assert [points(one) for one in found] == [[3, 1, 0, -1], [9, 3, 1, -1]]


def test_no_step_overflows() -> None:
    """The sum of weights times points is 2^62, and five times it no int64."""
    most = 2**42
    _, found = combined(Start(adapter(0, 0, 0, 0)), Weighted({}), [adapter(most, -most, 0, 0)] * 2, (1, 5))
    assert [points(one)[:2] for one in found] == [[most, -most], [5 * most, -5 * most]]


def test_a_rule_that_gives_nobody_weight_makes_no_candidate() -> None:
    assert combined(
        Start(adapter(0, 0)), RULES["krum"]({"num_malicious": 1, "arc": 0, "nnm": 0}), [adapter(1, 1)], (1,)
    ) == ((0,), [])


@pytest.mark.parametrize("name", sorted(RULES))
def test_at_one_step_it_is_what_members_aggregate(name: str) -> None:
    torch.manual_seed(3)
    rule = RULES[name]({key: parameter.default for key, parameter in RULES[name].parameters.items()})
    start = Start(adapter(*range(1, 9)))
    updates = [adapter(*(torch.randn(8) * 2**20).round().int().tolist()) for _ in range(7)]
    expected = aggregate(start, rule, updates)
    weights, [found] = combined(start, rule, updates, (1,))
    assert expected.adapter is not None
    assert (weights, points(found)) == (expected.weights, points(expected.adapter))


def test_entries_of_an_entrywise_rule_go_further_by_themselves() -> None:
    """Medians of 1, 5 and 9, and of -1, 0 and 7; that of (0, 3), rounded down, is 1."""
    updates = [adapter(1, -1), adapter(5, 7), adapter(9, 0)]
    _, found = combined(Start(adapter(100, 0)), RULES["coordinate_median"]({}), updates, (1, 2, 5))
    assert [points(one) for one in found] == [[105, 0], [110, 0], [125, 0]]
    _, found = combined(Start(adapter(0, 0)), RULES["coordinate_median"]({}), [adapter(0, 0), adapter(3, 0)], (1, 3))
    assert [points(one) for one in found] == [[1, 0], [3, 0]]
