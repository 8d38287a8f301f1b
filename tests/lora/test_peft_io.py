from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import LlamaConfig, LlamaForCausalLM

from flock_ray.errors import ModelError
from flock_ray.lora.peft_io import (
    LoraSpec,
    adapter_shapes,
    inject,
    load_adapter,
    read_adapter,
    save_peft,
    shortest_targets,
)
from flock_ray.lora.serialization import Adapter, canonical_bytes

pytestmark = pytest.mark.model

ALL = LoraSpec(rank=4, alpha=8, target_modules=("all-linear",))


def llama(dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).to(dtype).eval()


def random_adapter(shapes: dict[str, tuple[int, ...]], seed: int = 1) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.randn(shape, generator=generator) / 10 for key, shape in shapes.items()}


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        output: torch.Tensor = model(torch.arange(20).reshape(2, 10)).logits
    return output


@pytest.mark.parametrize("targets", [("all-linear",), ("q_proj", "down_proj"), ("layers.1.self_attn.q_proj",)])
def test_shapes_are_those_of_the_injected_model(targets: tuple[str, ...]) -> None:
    spec = LoraSpec(rank=3, alpha=6, target_modules=targets)
    shapes = adapter_shapes(llama(), targets, rank=3)
    read = read_adapter(inject(llama(), spec))
    assert {key: tuple(tensor.shape) for key, tensor in read.items()} == shapes
    assert list(read) == sorted(read) == list(shapes)


def test_all_linear_takes_every_linear_layer_but_the_head() -> None:
    layers = {key.rpartition(".lora_")[0].rpartition(".")[2] for key in adapter_shapes(llama(), ("all-linear",), 2)}
    assert layers == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert len(adapter_shapes(llama(), ("all-linear",), 2)) == 2 * 7 * 2


@pytest.mark.parametrize(
    "targets", [("q_proj", "query"), (), ("lm_head",), ("embed_tokens",), ("all-linear", "q_proj")]
)
def test_unknown_target_lists_the_layers_that_exist(targets: tuple[str, ...]) -> None:
    with pytest.raises(ModelError) as caught:
        adapter_shapes(llama(), targets, rank=2)
    assert "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError):
        inject(llama(), LoraSpec(rank=2, alpha=2, target_modules=targets))


def test_only_float32_factors_train_on_a_bfloat16_base() -> None:
    model = inject(llama(torch.bfloat16), ALL)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (".lora_" in name)
        assert parameter.dtype == (torch.float32 if ".lora_" in name else torch.bfloat16)


def test_load_then_read_is_the_identity_and_read_copies() -> None:
    model = inject(llama(), ALL)
    adapter = random_adapter(adapter_shapes(llama(), ALL.target_modules, ALL.rank))
    load_adapter(model, adapter)
    read = read_adapter(model)
    assert canonical_bytes(read) == canonical_bytes(adapter)
    next(iter(read.values())).add_(1)
    assert canonical_bytes(read_adapter(model)) == canonical_bytes(adapter)


def test_load_refuses_an_adapter_of_another_shape() -> None:
    model = inject(llama(), ALL)
    shapes = adapter_shapes(llama(), ALL.target_modules, ALL.rank)
    key = max(shapes)
    before = canonical_bytes(read_adapter(model))
    with pytest.raises(ValueError, match="shape"):
        load_adapter(model, random_adapter(shapes | {key: (1, 1)}))
    with pytest.raises(ValueError, match="key"):
        load_adapter(model, {k: v for k, v in random_adapter(shapes).items() if k != key})
    assert canonical_bytes(read_adapter(model)) == before


@pytest.mark.parametrize(
    ("targets", "ends"),
    [
        (("all-linear",), ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")),
        (("self_attn.q_proj", "up_proj"), ("q_proj", "up_proj")),
        (("layers.1.self_attn.q_proj",), ("1.self_attn.q_proj",)),
        (("layers.0.mlp.up_proj", "layers.1.mlp.up_proj"), ("up_proj",)),
    ],
)
def test_layers_are_named_as_shortly_as_no_other_module_is_meant(
    targets: tuple[str, ...], ends: tuple[str, ...]
) -> None:
    assert shortest_targets(llama(), targets) == ends
    assert adapter_shapes(llama(), ends, 2) == adapter_shapes(llama(), targets, 2)


def test_a_name_that_a_module_of_another_kind_has_too_is_made_longer() -> None:
    model = llama()
    model.model.layers[0].mlp.up_proj = torch.nn.Embedding(2, 2)  # type: ignore[assignment]
    assert shortest_targets(model, ("up_proj",)) == ("1.mlp.up_proj",)


@pytest.mark.parametrize("targets", [("all-linear",), ("q_proj", "up_proj")])
def test_saved_folder_opens_with_plain_peft(tmp_path: Path, targets: tuple[str, ...]) -> None:
    spec = LoraSpec(rank=4, alpha=8, target_modules=targets)
    adapter = random_adapter(adapter_shapes(llama(), targets, spec.rank))
    model = inject(llama(), spec)
    load_adapter(model, adapter)
    data = canonical_bytes(adapter)
    ends = shortest_targets(llama(), targets)
    save_peft(tmp_path / "adapter", data, spec, ends, "some/base")

    assert (tmp_path / "adapter" / "adapter_model.safetensors").read_bytes() == data
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config == {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "some/base", "r": 4, "lora_alpha": 8,
        "target_modules": list(ends), "inference_mode": True,
    }  # fmt: skip
    opened = PeftModel.from_pretrained(llama(), tmp_path / "adapter")
    assert torch.equal(logits(opened), logits(model))
    assert not torch.allclose(logits(opened), logits(llama()))
    assert canonical_bytes(read_adapter(opened)) == data
