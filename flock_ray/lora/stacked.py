"""Many adapters over one frozen base model in one batch: the factors of K members, stacked layer by layer.

The batch is member-major. Every member's tokens are multiplied by that member's factors only, so with a loss that sums
over members (each a mean over that member's tokens) the gradient of slice k is the one that member k would have alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers import PreTrainedModel

from flock_ray.errors import ModelError
from flock_ray.lora.peft_io import PEFT_PREFIX, LoraSpec, adapter_shapes, require_fit, target_layers
from flock_ray.lora.serialization import LORA_A, LORA_B, Adapter

_ALIGNMENT = 16
"""Alignment in bytes that `grouped_mm` requires of the rows of every operand."""


@dataclass
class Ownership:
    """Which tokens of the batch belong to which member, shared by all layers of a model.

    Attributes:
        ends: [K] int32 on the model's device, the end of each member's tokens; None if all members have equally many.
    """

    ends: torch.Tensor | None = None


class StackedLinear(nn.Module):
    """A frozen linear layer with a low-rank product per member: y = W x + alpha / rank * (x A_k) B_k.

    Attributes:
        lora_A: [K, in, rank], of the type of the base layer.
        lora_B: [K, rank, out].
    """

    def __init__(self, base: nn.Linear, spec: LoraSpec, ownership: Ownership) -> None:
        """Wrap a layer, without members yet."""
        super().__init__()
        self.base = base
        like = base.weight.detach()
        self.lora_A = nn.Parameter(like.new_empty(0, base.in_features, spec.rank))
        self.lora_B = nn.Parameter(like.new_empty(0, spec.rank, base.out_features))
        self.lora_A.requires_grad_(not spec.freeze_a)
        self._scaling = spec.alpha / spec.rank
        self._ownership = ownership

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map tokens [..., in], member after member, to [..., out]."""
        members, ends = len(self.lora_A), self._ownership.ends
        if ends is None:
            rows = x.reshape(members, -1, x.shape[-1])
            y: torch.Tensor = _Stacked.apply(  # type: ignore[no-untyped-call]
                rows, self.base.weight, self.base.bias, self.lora_A, self.lora_B, self._scaling
            )
        else:
            rows = x.reshape(-1, x.shape[-1])
            hidden = grouped_product(rows, self.lora_A, ends)
            y = self.base(rows) + self._scaling * grouped_product(hidden, self.lora_B, ends)
        return y.view(*x.shape[:-1], -1)


class _Stacked(torch.autograd.Function):
    """`y = x W^T + b + scaling * (x A_k) B_k` of each member, with its gradients in as few operations as possible.

    Autograd would need another tensor in every layer to add up the two gradients of x.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        lora_a: torch.Tensor,
        lora_b: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        hidden = torch.bmm(x, lora_a).mul_(scaling)
        ctx.save_for_backward(x, weight, lora_a, lora_b, hidden)
        ctx.scaling = scaling
        return functional.linear(x, weight, bias).baddbmm_(hidden, lora_b)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        assert not any(ctx.needs_input_grad[1:3]), "the base layer is frozen"
        x, weight, lora_a, lora_b, hidden = ctx.saved_tensors
        [grad] = grads
        of_hidden = torch.bmm(grad, lora_b.mT).mul_(ctx.scaling)
        of_x = torch.matmul(grad, weight).baddbmm_(of_hidden, lora_a.mT) if ctx.needs_input_grad[0] else None
        of_a = torch.bmm(x.mT, of_hidden) if ctx.needs_input_grad[3] else None
        return of_x, None, None, of_a, torch.bmm(hidden.mT, grad), None


def grouped_product(x: torch.Tensor, factors: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Rows of `x` up to ends[0] times factors[0], from there up to ends[1] times factors[1], and so on.

    A single kernel if rows are aligned as it requires, else a product per member.

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
        ownership: which tokens of the next batch belong to which member.
        weights: [K, D] float32, all factors of a member in its row. The layers compute with copies in the base model's
            type, or with views of `weights` if that is float32 too.
        trainable: [K, T] float32, a view of the factors that train, at the end of each row: what an optimizer updates.
    """

    def __init__(self, model: PreTrainedModel, spec: LoraSpec) -> None:
        """Replace the targeted layers, in place, and freeze everything but the factors.

        Raises:
            ModelError: a target module does not exist.
        """
        self.ownership = Ownership()
        shapes = adapter_shapes(model, spec.target_modules, spec.rank)
        frozen = [key for key in shapes if spec.freeze_a and key.endswith(LORA_A)]
        self._shapes = {key: shapes[key] for key in [*frozen, *(key for key in shapes if key not in frozen)]}
        self._num_frozen = len(frozen)
        self._stacked_shapes = [(columns, rows) for rows, columns in self._shapes.values()]
        self._sizes = [math.prod(shape) for shape in self._shapes.values()]
        by_key: dict[str, nn.Parameter] = {}
        model.requires_grad_(False)
        for name, base in target_layers(model, spec.target_modules).items():
            layer = StackedLinear(base, spec, self.ownership)
            model.set_submodule(name, layer)
            by_key[f"{PEFT_PREFIX}{name}{LORA_A}"] = layer.lora_A
            by_key[f"{PEFT_PREFIX}{name}{LORA_B}"] = layer.lora_B
        self._factors = {key: by_key[key] for key in self._shapes}
        self.weights, self.trainable = torch.empty(0, 0), nn.Parameter(torch.empty(0, 0))

    def load(self, adapters: Sequence[Adapter]) -> None:
        """Make a stack of exact copies of these adapters, one per member; drops gradients.

        Raises:
            ValueError: there is no adapter, or keys or shapes differ from those of the model.
        """
        if not adapters:
            raise ValueError("a stack needs at least one adapter")
        for adapter in adapters:
            require_fit(adapter, self._shapes)
        [like] = {factor.device: factor for factor in self._factors.values()}.values()
        distinct = {id(adapter): adapter for adapter in adapters}  # most members start from the same adapter
        rows = torch.empty(len(distinct), sum(self._sizes), pin_memory=like.is_cuda)
        for row, adapter in zip(rows, distinct.values(), strict=True):
            torch.cat([adapter[key].flatten() for key in self._shapes], out=row)
        weights = self._transposed(rows.to(like.device, non_blocking=True), self._shapes.values())
        order = list(distinct)
        self.weights = weights[[order.index(id(adapter)) for adapter in adapters]]
        self.trainable = nn.Parameter(self.weights[:, sum(self._sizes[: self._num_frozen]) :])
        self._computed = self.weights.to(like.dtype)
        for factor, part in zip(self._factors.values(), self._parts(self._computed), strict=True):
            factor.data, factor.grad = part, None

    @property
    def gradient(self) -> torch.Tensor:
        """[K, T] float32, as stored by `collect_gradients`."""
        assert self.trainable.grad is not None
        return self.trainable.grad

    def collect_gradients(self) -> None:
        """Move the layers' gradients into `trainable.grad`.

        Raises:
            ModelError: a targeted layer took no part in the pass, as experts to whom no token was sent.
        """
        factors = dict(list(self._factors.items())[self._num_frozen :])
        idle = [key for key, factor in factors.items() if factor.grad is None]
        if idle:
            raise ModelError(
                f"{len(idle)} of the adapter's {len(factors)} factors took no part in a step, {idle[0]} for one:"
                " leave such layers out of lora.target_modules, or take training.backend=sequential"
            )
        gradient = torch.empty_like(self.trainable, memory_format=torch.contiguous_format)
        for factor, part in zip(factors.values(), self._parts(gradient, self._num_frozen), strict=True):
            assert factor.grad is not None
            part.copy_(factor.grad)
            factor.grad = None
        self.trainable.grad = gradient

    def apply(self) -> None:
        """Make the layers compute with the current `weights`."""
        if self._computed.dtype != torch.float32:
            self._computed.copy_(self.weights)

    def read(self) -> list[Adapter]:
        """Copy every member's factors out in PEFT's layout: float32, CPU, contiguous, keys sorted.

        They share a block of memory, which is pinned for a GPU so that one transfer moves all. Clone before pickling.
        """
        flat = self._transposed(self.weights.detach(), self._stacked_shapes)
        rows = torch.empty(flat.shape, pin_memory=True).copy_(flat) if flat.is_cuda else flat
        read = []
        for row in rows:
            parts = zip(self._shapes.items(), torch.split(row, self._sizes), strict=True)
            read.append(dict(sorted((key, part.view(shape)) for (key, shape), part in parts)))
        return read

    def _transposed(self, stacked: torch.Tensor, shapes: Iterable[tuple[int, ...]]) -> torch.Tensor:
        """[K, D], whose rows hold matrices of these shapes one after the other, with each matrix transposed."""
        transposed = torch.empty_like(stacked)
        targets, sources = (torch.split(x, self._sizes, dim=1) for x in (transposed, stacked))
        for target, source, (rows, columns) in zip(targets, sources, shapes, strict=True):
            target.view(-1, columns, rows).copy_(source.view(-1, rows, columns).transpose(1, 2))
        return transposed

    def _parts(self, stacked: torch.Tensor, first: int = 0) -> list[torch.Tensor]:
        """Rows of the factors from number `first` on as views of their shapes, [K, ...] each."""
        pieces, shapes = torch.split(stacked, self._sizes[first:], dim=1), self._stacked_shapes[first:]
        return [piece.view(len(stacked), *shape) for piece, shape in zip(pieces, shapes, strict=True)]
