"""Adapters of a base model in persistent slots: rows of different adapters pass its layers in one step.

The stacked layers of training (`lora/stacked.py`) hold exactly the adapters of a batch and must have gradients; here
adapters come one at a time and rows are few, so calls cost as much as arithmetic. Layers that read the same input
(query, key and value; gate and up) are therefore one product, and so are their adapters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from flock_ray.lora.foreign import with_rank
from flock_ray.lora.peft_io import PEFT_PREFIX, target_layers
from flock_ray.lora.serialization import LORA_A, LORA_B, Adapter, Shapes
from flock_ray.serving.spans import Span, spans

_TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Layers of one module that read the same input, as nearly every architecture of transformers names them."""

LONG = 64
"""Tokens of a slot from which on a CPU multiplies faster in bfloat16 than in float32, in which it keeps factors."""


@dataclass
class Route:
    """Which tokens of the current step belong to which slots; shared by all layers.

    Attributes:
        spans: of neighbouring slots.
        gathers: for each span [slots * most] int64, the token that stands at each place of its padded block, or None if
            its tokens fill the block in their order.
        cells: for each span [tokens] int64, the place of each of its tokens, or None.
    """

    spans: list[Span] = field(default_factory=list)
    gathers: list[torch.Tensor | None] = field(default_factory=list)
    cells: list[torch.Tensor | None] = field(default_factory=list)

    def set(self, counts: Sequence[tuple[int, int]], device: torch.device) -> None:
        """Route a step; `counts` is as in `spans`."""
        self.spans, self.gathers, self.cells = spans(counts), [], []
        tokens_of = dict(counts)
        for span in self.spans:
            owned = [tokens_of.get(slot, 0) for slot in range(span.first, span.last)]
            if all(tokens == span.most for tokens in owned):
                self.gathers.append(None)
                self.cells.append(None)
                continue
            cells = [at * span.most + place for at, tokens in enumerate(owned) for place in range(tokens)]
            gather = [span.start] * (span.most * len(owned))
            for token, cell in enumerate(cells, start=span.start):
                gather[cell] = token
            self.gathers.append(torch.tensor(gather).to(device))
            self.cells.append(torch.tensor(cells).to(device))


class SlotLinear(nn.Module):
    """Linear layers that read the same input, side by side, with a low-rank product of each token's own adapter.

    Attributes:
        weight: [out of all layers, in]; the layers' own weights become views of it.
        lora_A: [slots, layers * rank, in], of the type that products of adapters are computed in.
        lora_B: [slots, layers * rank, out of all layers]; zero but where a layer's rows meet its own columns.
    """

    def __init__(self, layers: Sequence[nn.Linear], slots: int, rank: int, dtype: torch.dtype, route: Route) -> None:
        """Wrap layers with as many inputs, with every slot zero."""
        super().__init__()
        [inputs] = {layer.in_features for layer in layers}
        self.sizes = [layer.out_features for layer in layers]
        self.rank, self._route = rank, route
        first = layers[0].weight
        self.bias: nn.Parameter | None
        if len(layers) == 1:
            self.weight, self.bias = first, layers[0].bias
        else:
            self.weight = nn.Parameter(torch.cat([layer.weight.detach() for layer in layers]), requires_grad=False)
            biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
            self.bias = nn.Parameter(torch.cat(biases), requires_grad=False) if biases else None
        rows, like = len(layers) * rank, first.detach().to(dtype)
        self.lora_A = nn.Parameter(like.new_zeros(slots, rows, inputs), requires_grad=False)
        self.lora_B = nn.Parameter(like.new_zeros(slots, rows, sum(self.sizes)), requires_grad=False)
        self._input: torch.Tensor | None = None
        self._output: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map tokens [..., in], in the route's order, to [..., out of all layers]."""
        rows = x.reshape(-1, x.shape[-1])
        y = functional.linear(rows, self.weight, self.bias)
        for span, gather, cells in zip(self._route.spans, self._route.gathers, self._route.cells, strict=True):
            part = rows[span.start : span.stop] if gather is None else rows.index_select(0, gather)
            a, b = self.lora_A[span.first : span.last], self.lora_B[span.first : span.last]
            if span.most >= LONG:
                a, b = a.to(x.dtype), b.to(x.dtype)
            block = part.view(span.last - span.first, span.most, -1).to(a.dtype)
            added = torch.bmm(torch.bmm(block, a.mT), b).view(-1, y.shape[-1])
            y[span.start : span.stop] += added if cells is None else added.index_select(0, cells)
        return y.view(*x.shape[:-1], -1)

    def part(self, x: torch.Tensor, index: int) -> torch.Tensor:
        """The output of one of the layers; all are computed when the first of them meets an input."""
        if len(self.sizes) == 1:
            return self(x)  # type: ignore[no-any-return]
        if self._output is None or self._input is not x:
            self._input, self._output = x, self(x)
        start = sum(self.sizes[:index])
        found = self._output[..., start : start + self.sizes[index]]
        if index == len(self.sizes) - 1:  # nobody else asks
            self._input = self._output = None
        return found

    def write(self, slot: int, index: int, a: torch.Tensor, b: torch.Tensor) -> None:
        """Put factors of one of the layers into a slot: `a` [r, in], `b` [out, r] with its scaling."""
        first, column = index * self.rank, sum(self.sizes[:index])
        self.lora_A[slot, first : first + len(a)].copy_(a)
        self.lora_B[slot, first : first + len(a), column : column + len(b)].copy_(b.mT)

    def clear(self, slot: int) -> None:
        """Make a slot zero."""
        self.lora_A[slot].zero_()
        self.lora_B[slot].zero_()


class _Part(nn.Module):
    """Stands where one of the layers stood."""

    def __init__(self, shared: SlotLinear, index: int, base: nn.Linear) -> None:
        super().__init__()
        self.shared, self._index = shared, index
        start = sum(shared.sizes[:index])
        self.weight = nn.Parameter(shared.weight[start : start + shared.sizes[index]], requires_grad=False)
        self.bias = base.bias
        self.in_features, self.out_features = base.in_features, base.out_features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.shared.part(x, self._index)


class AdapterSlots:
    """The slots of all layers of a model; slot 0 is the base model, and stays zero.

    Attributes:
        shapes: key -> shape of the factors that an adapter may have, at the largest rank.
        route: of the next step.
    """

    def __init__(self, model: PreTrainedModel, target_modules: Sequence[str], rank: int, slots: int) -> None:
        """Replace the targeted layers, in place.

        Args:
            model: on its device.
            target_modules: layers that adapters may have.
            rank: largest rank of the adapters to come.
            slots: how many adapters are resident, besides the base model.

        Raises:
            ModelError: a target module does not exist.
        """
        layers = target_layers(model, target_modules)
        model.requires_grad_(False)
        self.rank, self.route = rank, Route()
        self._places: dict[str, tuple[SlotLinear, int]] = {}
        self._layers: list[SlotLinear] = []
        for names in _groups(layers):
            bases = [layers[name] for name in names]
            weight = bases[0].weight
            # On a CPU products of a few tokens are faster in float32, whatever the base model's type.
            dtype = torch.float32 if weight.device.type == "cpu" else weight.dtype
            shared = SlotLinear(bases, slots + 1, rank, dtype, self.route)
            self._layers.append(shared)
            for index, (name, base) in enumerate(zip(names, bases, strict=True)):
                model.set_submodule(name, _Part(shared, index, base))
                self._places[name] = shared, index
        some: Shapes = {
            **{f"{PEFT_PREFIX}{name}{LORA_A}": (rank, layer.in_features) for name, layer in layers.items()},
            **{f"{PEFT_PREFIX}{name}{LORA_B}": (layer.out_features, rank) for name, layer in layers.items()},
        }
        self.shapes = with_rank(dict(sorted(some.items())), rank)

    def write(self, slot: int, adapter: Adapter, scaling: float) -> None:
        """Copy an adapter into a slot, with its scaling folded into B; layers that it has not become zero.

        Args:
            slot: 1 or more, which no row of the running step uses.
            adapter: of `require_served`.
            scaling: what multiplies B A.
        """
        assert slot > 0
        with torch.no_grad():
            for layer in self._layers:
                layer.clear(slot)
            for name, (shared, index) in self._places.items():
                a = adapter.get(f"{PEFT_PREFIX}{name}{LORA_A}")
                if a is not None:
                    shared.write(slot, index, a, adapter[f"{PEFT_PREFIX}{name}{LORA_B}"] * scaling)


def _groups(layers: dict[str, nn.Linear]) -> Iterator[list[str]]:
    """Names of the layers that become one, group by group."""
    grouped: dict[str, list[str]] = {}
    for name in layers:
        parent, _, own = name.rpartition(".")
        together = next((names for names in _TOGETHER if own in names), None)
        siblings = [f"{parent}.{one}" for one in together or ()]
        alike = [layers[one] for one in siblings if one in layers]
        fits = len(alike) == len(siblings) > 1 and len({(one.in_features, one.bias is None) for one in alike}) == 1
        grouped.setdefault(siblings[0] if fits else name, siblings if fits else [name])
    yield from grouped.values()
