"""Many adapters over one frozen base model in one batch: the factors of K members, stacked layer by layer.

The batch is member-major. Every member's rows meet that member's factors alone, so with a loss that sums over members
(each a mean over that member's tokens) the gradient of slice k is what member k would have had by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from flock_ray.lora.peft_io import PEFT_PREFIX, LoraSpec, adapter_shapes, require_fit, target_layers
from flock_ray.lora.serialization import LORA_A, LORA_B, Adapter

_ALIGNMENT = 16
"""Bytes that `grouped_mm` wants the rows of every operand to be a multiple of."""


@dataclass
class Ownership:
    """Which tokens of the batch are whose, shared by all layers of a model.

    Attributes:
        ends: for each member, the number of tokens up to the end of its last row, int32 on the model's device; None
            where every member has as many tokens as every other.
    """

    ends: torch.Tensor | None = None


class StackedLinear(nn.Module):
    """A frozen linear layer with one low-rank product a member: y = W x + alpha / rank * (x A_k) B_k.

    Attributes:
        lora_A: [K, in, rank] float32.
        lora_B: [K, rank, out] float32.
    """

    def __init__(self, base: nn.Linear, spec: LoraSpec, ownership: Ownership) -> None:
        """Wrap a layer, for no members yet."""
        super().__init__()
        self.base = base
        device = base.weight.device
        self.lora_A = nn.Parameter(torch.empty(0, base.in_features, spec.rank, device=device))
        self.lora_B = nn.Parameter(torch.empty(0, spec.rank, base.out_features, device=device))
        self._scaling = spec.alpha / spec.rank
        self._ownership = ownership

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens [..., in], the members' one after the other, to [..., out], in the type of `x`."""
        y: torch.Tensor = self.base(x)
        a, b = self.lora_A.to(x.dtype), self.lora_B.to(x.dtype)
        if self._ownership.ends is None:
            members = len(a)
            hidden = torch.bmm(x.reshape(members, -1, x.shape[-1]), a)
            return torch.baddbmm(y.view(members, -1, y.shape[-1]), hidden, b, alpha=self._scaling).view(y.shape)
        hidden = grouped_product(x.reshape(-1, x.shape[-1]), a, self._ownership.ends)
        return y + self._scaling * grouped_product(hidden, b, self._ownership.ends).view(y.shape)


def grouped_product(x: torch.Tensor, factors: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Rows of `x` up to ends[0] times factors[0], from there up to ends[1] times factors[1], and so on.

    One kernel where rows are aligned as it wants them; else a product a member.

    Args:
        x: [tokens, in].
        factors: [K, in, out].
        ends: [K] int32, rising, the last one is `tokens`.

    Returns:
        [tokens, out].
    """
    if all(size * x.element_size() % _ALIGNMENT == 0 for size in factors.shape[1:]):
        return functional.grouped_mm(x, factors, offs=ends)
    bounds = [0, *ends.tolist()]
    return torch.cat([x[start:end] @ factors[member] for member, (start, end) in enumerate(pairwise(bounds))])


class StackedAdapters:
    """The adapters of a cohort inside one base model.

    Attributes:
        ownership: whose tokens the next batch holds.
        factors: all stacked parameters, [K, ...] each, two a layer.
    """

    def __init__(self, model: PreTrainedModel, spec: LoraSpec) -> None:
        """Replace the targeted layers, in place, and freeze everything but the factors.

        Raises:
            ModelError: a target module does not exist.
        """
        self.ownership = Ownership()
        self._shapes = adapter_shapes(model, spec.target_modules, spec.rank)
        self._by_key: dict[str, nn.Parameter] = {}
        model.requires_grad_(False)
        for name, base in target_layers(model, spec.target_modules).items():
            layer = StackedLinear(base, spec, self.ownership)
            model.set_submodule(name, layer)
            self._by_key[f"{PEFT_PREFIX}{name}{LORA_A}"] = layer.lora_A
            self._by_key[f"{PEFT_PREFIX}{name}{LORA_B}"] = layer.lora_B
        self.factors = list(self._by_key.values())

    def load(self, adapters: Sequence[Adapter]) -> None:
        """Make a stack of these adapters, exactly, one a member; drops gradients.

        Raises:
            ValueError: there is none, or keys or shapes differ from those of the model.
        """
        if not adapters:
            raise ValueError("a stack needs at least one adapter")
        for adapter in adapters:
            require_fit(adapter, self._shapes)
        for key, factor in self._by_key.items():
            factor.grad = None
            factor.data = torch.stack([adapter[key].T for adapter in adapters]).to(factor.device, factor.dtype)

    def read(self, member: int) -> Adapter:
        """Copy one member's factors out in PEFT's layout: float32, CPU, contiguous, keys sorted."""
        return {
            key: torch.empty(self._shapes[key]).copy_(self._by_key[key].detach()[member].T)
            for key in sorted(self._by_key)
        }
