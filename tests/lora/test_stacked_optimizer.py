from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from flock_ray.lora.stacked_optimizer import StackedAdamW

RATES, DECAYS, NORMS = [0.1, 0.01, 0.03], [0.0, 0.1, 0.5], [1e9, 0.5, 3.0]
SHAPES = [(5, 2), (2, 7), (3, 3)]
STEPS = 6


def draws() -> tuple[list[nn.Parameter], list[list[torch.Tensor]]]:
    """Start values [3, ...] of three factors, and gradients for each step."""
    generator = torch.Generator().manual_seed(0)
    factors = [nn.Parameter(torch.randn(3, *shape, generator=generator)) for shape in SHAPES]
    return factors, [[torch.randn(3, *s, generator=generator) for s in SHAPES] for _ in range(STEPS)]


def alone(member: int, steps: list[int]) -> list[torch.Tensor]:
    """What torch makes of this member's slices by itself in these steps."""
    factors, gradients = draws()
    mine = [nn.Parameter(factor.detach()[member].clone()) for factor in factors]
    optimizer = torch.optim.AdamW(mine, RATES[member], weight_decay=DECAYS[member])
    for step in steps:
        for factor, gradient in zip(mine, gradients[step], strict=True):
            factor.grad = gradient[member].clone()
        torch.nn.utils.clip_grad_norm_(mine, NORMS[member])
        optimizer.step()
    return [factor.detach() for factor in mine]


def assert_equals_alone(factors: list[nn.Parameter], member: int, steps: list[int]) -> None:
    for ours, theirs in zip(factors, alone(member, steps), strict=True):
        assert torch.allclose(ours.detach()[member], theirs, rtol=1e-5, atol=1e-6)


def test_each_member_moves_as_under_torch() -> None:
    factors, gradients = draws()
    optimizer = StackedAdamW(factors, RATES, DECAYS, NORMS)
    for step in gradients:
        for factor, gradient in zip(factors, step, strict=True):
            factor.grad = gradient.clone()
        norms = optimizer.step()
        wanted = [math.sqrt(sum(float((g[k] ** 2).sum()) for g in step)) for k in range(3)]
        assert norms == pytest.approx(wanted, rel=1e-5)
    for member in range(3):
        assert_equals_alone(factors, member, list(range(STEPS)))


def test_inactive_member_stays_and_keeps_its_step_count() -> None:
    factors, gradients = draws()
    optimizer = StackedAdamW(factors, RATES, DECAYS, NORMS)
    for number, step in enumerate(gradients):
        optimizer.active = [True, number not in (2, 3), number < 4]
        for factor, gradient in zip(factors, step, strict=True):
            factor.grad = gradient.clone()
        optimizer.step()
    assert_equals_alone(factors, 0, list(range(STEPS)))
    assert_equals_alone(factors, 1, [0, 1, 4, 5])
    assert_equals_alone(factors, 2, [0, 1, 2, 3])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_member_whose_gradient_is_not_finite_freezes_alone(bad: float) -> None:
    factors, gradients = draws()
    optimizer = StackedAdamW(factors, RATES, DECAYS, NORMS)
    for number, step in enumerate(gradients):
        for factor, gradient in zip(factors, step, strict=True):
            factor.grad = gradient.clone()
        if number == 3:
            factors[1].grad[1, 0, 0] = bad
        optimizer.step()
        assert optimizer.active == [True, number < 3, True]
    assert_equals_alone(factors, 1, [0, 1, 2])
    for member in (0, 2):
        assert_equals_alone(factors, member, list(range(STEPS)))
    optimizer.zero_grad()
    assert all(factor.grad is None for factor in factors)
