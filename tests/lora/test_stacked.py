from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import nn
from torch.func import functional_call

from flock_ray.errors import ModelError
from flock_ray.lora.peft_io import LoraSpec, adapter_shapes, inject, load_adapter, save_peft, shortest_targets
from flock_ray.lora.serialization import canonical_bytes
from flock_ray.lora.stacked import Ownership, StackedAdapters, StackedLinear, grouped_product
from tests.lora.test_peft_io import ALL, llama, logits, random_adapter

pytestmark = pytest.mark.model

MEMBERS = 3


def test_adapters_come_back_as_they_went_in() -> None:
    model = llama()
    stack = StackedAdapters(model, ALL)
    adapters = [random_adapter(adapter_shapes(llama(), ALL.target_modules, ALL.rank), seed) for seed in range(MEMBERS)]
    stack.load([*adapters, adapters[0]])
    moved = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert {len(factor) for factor in moved} == {MEMBERS + 1}
    assert stack.weights.shape == (MEMBERS + 1, sum(factor[0].numel() for factor in moved))
    assert list(map(canonical_bytes, stack.read())) == list(map(canonical_bytes, [*adapters, adapters[0]]))


@pytest.mark.parametrize("ends", [None, [10, 30, 40], [0, 40, 40]])
@pytest.mark.parametrize("rank", [4, 3])
def test_each_member_sees_what_peft_computes(ends: list[int] | None, rank: int) -> None:
    """Four rows of ten tokens; whole rows belong to members: one each in turn, or as `ends` says."""
    spec = LoraSpec(rank, 6, ("all-linear",))
    adapters = [random_adapter(adapter_shapes(llama(), spec.target_modules, rank), seed) for seed in range(MEMBERS)]
    model = llama()
    stack = StackedAdapters(model, spec)
    stack.load(adapters)
    if ends is not None:
        stack.ownership.ends = torch.tensor(ends, dtype=torch.int32)
    owners = [0, 1, 2] if ends is None else [sum(10 * row >= end for end in ends) for row in range(4)]
    ids = torch.randint(64, (len(owners), 10), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        ours = model(ids).logits
    for row, owner in enumerate(owners):
        peft_model = inject(llama(), spec)
        load_adapter(peft_model, adapters[owner])
        with torch.no_grad():
            theirs = peft_model(ids[row : row + 1]).logits
        assert torch.allclose(ours[row : row + 1], theirs, atol=1e-5)


def test_exported_member_opens_in_peft(tmp_path: Path) -> None:
    model = llama()
    stack = StackedAdapters(model, ALL)
    stack.load([random_adapter(adapter_shapes(llama(), ALL.target_modules, ALL.rank))])
    save_peft(tmp_path, canonical_bytes(stack.read()[0]), ALL, shortest_targets(llama(), ALL.target_modules), "base")
    assert torch.allclose(logits(PeftModel.from_pretrained(llama(), tmp_path)), logits(model), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("columns", [8, 3])
def test_grouped_product_equals_products_apart(dtype: torch.dtype, columns: int) -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = [5, 0, 7, 12]
    x = torch.randn(sum(sizes), 16, generator=generator).to(dtype).requires_grad_()
    factors = torch.randn(len(sizes), 16, columns, generator=generator).to(dtype).requires_grad_()
    ours = grouped_product(x, factors, torch.tensor(sizes).cumsum(0).int())
    apart = torch.cat([part @ factor for part, factor in zip(x.split(sizes), factors, strict=True)])
    assert torch.allclose(ours, apart, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-5)
    weights = torch.randn(ours.shape, generator=generator).to(dtype)
    for mine, other in zip(
        torch.autograd.grad(ours, (x, factors), weights), torch.autograd.grad(apart, (x, factors), weights), strict=True
    ):
        assert torch.allclose(mine, other, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-5)


def test_what_does_not_fit_is_refused() -> None:
    stack = StackedAdapters(llama(), ALL)
    adapter = random_adapter(adapter_shapes(llama(), ALL.target_modules, ALL.rank))
    key = min(adapter)
    with pytest.raises(ValueError, match="at least one adapter"):
        stack.load([])
    with pytest.raises(ValueError, match="does not fit the model"):
        stack.load([adapter, {name: factor for name, factor in adapter.items() if name != key}])
    with pytest.raises(ValueError, match="has shape"):
        stack.load([adapter | {key: adapter[key][:1]}])
    with pytest.raises(ModelError, match="names no linear layer"):
        StackedAdapters(llama(), LoraSpec(4, 8, ("query",)))


def test_scaling_is_alpha_over_rank() -> None:
    model = llama()
    stack = StackedAdapters(model, LoraSpec(2, 6, ("layers.0.mlp.up_proj",)))
    shapes = adapter_shapes(llama(), ("layers.0.mlp.up_proj",), 2)
    stack.load([{key: torch.ones(shape) for key, shape in shapes.items()}])
    layer = model.model.layers[0].mlp.up_proj
    x = torch.ones(1, 1, 16)
    with torch.no_grad():
        assert torch.allclose(layer(x) - layer.base(x), torch.full((1, 1, 32), 6 / 2 * 2 * 16.0))
    assert math.prod(layer(x).shape) == 32


@pytest.mark.parametrize("bias", [False, True])
def test_gradients_of_a_layer_are_those_of_finite_differences(bias: bool) -> None:
    torch.manual_seed(0)
    layer = StackedLinear(
        nn.Linear(5, 4, bias, dtype=torch.float64).requires_grad_(False), LoraSpec(2, 3, ("all-linear",)), Ownership()
    )
    layer.lora_A = nn.Parameter(torch.randn(MEMBERS, 5, 2, dtype=torch.float64))
    layer.lora_B = nn.Parameter(torch.randn(MEMBERS, 2, 4, dtype=torch.float64))

    def outputs(x: torch.Tensor, lora_a: torch.Tensor, lora_b: torch.Tensor) -> torch.Tensor:
        result = functional_call(layer, {"lora_A": lora_a, "lora_B": lora_b}, (x,))
        assert isinstance(result, torch.Tensor)
        return result.transpose(0, 1)  # what comes back into the layer is then not contiguous

    x = torch.randn(2 * MEMBERS, 5, dtype=torch.float64)
    factors = (layer.lora_A, layer.lora_B)
    assert torch.autograd.gradcheck(outputs, (x.clone().requires_grad_(), *factors))
    assert torch.autograd.gradcheck(outputs, (x, *factors))
