"""AdamW over stacked factors; each member has its own learning rate, clipping and step count, and may diverge alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.optim.adamw import adamw

BETAS = (0.9, 0.999)
EPSILON = 1e-8
_CLIP_EPSILON = 1e-6  # added to a norm, as in `torch.nn.utils.clip_grad_norm_`


class StackedAdamW:
    """K independent AdamW optimizers (Loshchilov & Hutter 2019) over parameters whose first dimension is the member.

    Slice k is updated as by `torch.optim.AdamW` after `torch.nn.utils.clip_grad_norm_` on that slice alone. A member
    that is not active keeps its factors and its state; zero gradients would not have that effect, because of momentum.

    Attributes:
        learning_rates: one per member, for the next step.
        active: whether each member is updated in the next step. A member whose gradient is not finite is frozen.
    """

    def __init__(
        self,
        factors: Sequence[nn.Parameter],
        learning_rates: Sequence[float],
        weight_decays: Sequence[float],
        max_grad_norms: Sequence[float],
    ) -> None:
        """Start with zero moments.

        Args:
            factors: float32 [K, ...] each.
            learning_rates: K rates.
            weight_decays: K decoupled decays.
            max_grad_norms: K norms over all of a member's factors, above which its gradient is scaled down.
        """
        members = range(len(learning_rates))
        assert all(len(factor) == len(members) for factor in factors)
        self.learning_rates = list(learning_rates)
        self.active = [True for _ in members]
        self._weight_decays, self._max_grad_norms = list(weight_decays), list(max_grad_norms)
        self._factors = list(factors)
        means, squares = ([torch.zeros_like(factor.detach()) for factor in factors] for _ in range(2))
        steps = torch.zeros(len(members), len(factors), device=factors[0].device)
        self._state = [
            ([f.detach()[k] for f in factors], [m[k] for m in means], [s[k] for s in squares], list(steps[k].unbind()))
            for k in members
        ]

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for factor in self._factors:
            factor.grad = None

    def grad_norms(self) -> list[float]:
        """Euclidean norm of each member's gradient over all factors."""
        each = torch.stack([torch.linalg.vector_norm(self._gradient(f).flatten(1), dim=1) for f in self._factors])
        norms: list[float] = torch.linalg.vector_norm(each, dim=0).tolist()
        return norms

    @torch.no_grad()
    def step(self) -> list[float]:
        """Clip and update every active member; freeze those whose gradient is not finite.

        Returns:
            Each member's gradient norm before clipping.
        """
        norms = self.grad_norms()
        for member, norm in enumerate(norms):
            self.active[member] = self.active[member] and math.isfinite(norm)
            if self.active[member]:
                self._move(member, min(1.0, self._max_grad_norms[member] / (norm + _CLIP_EPSILON)))
        return norms

    def _move(self, member: int, scale: float) -> None:
        factors, means, squares, steps = self._state[member]
        gradients = [self._gradient(factor)[member] for factor in self._factors]
        if scale < 1.0:
            for gradient in gradients:
                gradient.mul_(scale)
        adamw(
            factors,
            gradients,
            means,
            squares,
            [],
            steps,
            fused=True,
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=self.learning_rates[member],
            weight_decay=self._weight_decays[member],
            eps=EPSILON,
            maximize=False,
        )

    @staticmethod
    def _gradient(factor: nn.Parameter) -> torch.Tensor:
        assert factor.grad is not None, "step before backward"
        return factor.grad
