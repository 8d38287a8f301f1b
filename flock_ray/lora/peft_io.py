"""Adapters in and out of PEFT models and folders (LoRA: Hu et al. 2021, arXiv:2106.09685)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import peft
import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from flock_ray.errors import ModelError
from flock_ray.lora.serialization import LORA_A, LORA_B, Adapter, Shapes, require_storable

ALL_LINEAR = "all-linear"
PEFT_PREFIX = "base_model.model."
"""Prefix that PEFT adds to the base model's names in the keys of an adapter."""


@dataclass(frozen=True)
class LoraSpec:
    """Shape of an adapter: W + alpha / rank * B A on each targeted linear layer.

    Attributes:
        rank: r, columns of B and rows of A.
        alpha: numerator of the scaling.
        target_modules: names of linear layers, each the end of a dotted name ("q_proj", "layers.0.mlp.up_proj"), or
            ("all-linear",) for every `nn.Linear` but the output head.
        freeze_a: whether only B trains (FFA-LoRA, Sun et al. 2024, arXiv:2403.12313).
    """

    rank: int
    alpha: int
    target_modules: tuple[str, ...]
    freeze_a: bool = False


def target_layers(model: PreTrainedModel, target_modules: Sequence[str]) -> dict[str, nn.Linear]:
    """Dotted name -> targeted layer, sorted by name.

    Raises:
        ModelError: a name matches nothing, or nothing in the model can be targeted.
    """
    head = model.get_output_embeddings()
    linear = {n: m for n, m in sorted(model.named_modules()) if isinstance(m, nn.Linear) and m is not head}
    if not linear:
        others = sum(type(module).__name__ == "Conv1D" for module in model.modules())
        instead = f": its weights are in {others} Conv1D layers, as in GPT-2, which are not supported" if others else ""
        raise ModelError(f"the model has no nn.Linear layer but its output head{instead}; take another model.path")
    if tuple(target_modules) == (ALL_LINEAR,):
        return linear
    suffixes = tuple(f".{target}" for target in target_modules)
    unknown = [t for t, s in zip(target_modules, suffixes, strict=True) if not any(f".{n}".endswith(s) for n in linear)]
    if unknown or not target_modules:
        names = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
        raise ModelError(
            f"lora.target_modules {'names no linear layer' if unknown else 'is empty'}: {', '.join(unknown) or '[]'}; "
            f"the model has {names}; [{ALL_LINEAR}] takes all of them"
        )
    return {name: layer for name, layer in linear.items() if f".{name}".endswith(suffixes)}


def adapter_shapes(model: PreTrainedModel, target_modules: Sequence[str], rank: int) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of the adapter that `inject` would add to this base model (which is not changed).

    Returns:
        PEFT's saved key -> shape, sorted by key: `...lora_A.weight` [rank, in], `...lora_B.weight` [out, rank].

    Raises:
        ModelError: a target module does not exist; the text lists the linear layers that do. Or the rank is above the
            full rank of every layer, where factors have more entries than the weights, or makes it too large to store.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    layers = target_layers(model, target_modules)
    full = max(min(layer.in_features, layer.out_features) for layer in layers.values())
    if rank > full:
        raise ModelError(f"lora.rank is {rank}; it must be at most {full}, the full rank of the largest targeted layer")
    for name, layer in layers.items():
        shapes[f"{PEFT_PREFIX}{name}{LORA_A}"] = (rank, layer.in_features)
        shapes[f"{PEFT_PREFIX}{name}{LORA_B}"] = (layer.out_features, rank)
    require_storable(shapes)
    return dict(sorted(shapes.items()))


def inject(model: PreTrainedModel, spec: LoraSpec) -> PeftModel:
    """Add trainable float32 factors to a base model, in place, and freeze everything else, A too if the spec says so.

    The new adapter is PEFT's random one; `load_adapter` puts the real values in.

    Raises:
        ModelError: a target module does not exist; the text lists the linear layers that do.
    """
    targets = target_layers(model, spec.target_modules)
    config = peft.LoraConfig(
        r=spec.rank, lora_alpha=spec.alpha, target_modules=list(targets), lora_dropout=0.0, task_type="CAUSAL_LM"
    )
    peft_model = peft.get_peft_model(model, config)
    assert isinstance(peft_model, PeftModel)
    if spec.freeze_a:
        for name, parameter in peft_model.named_parameters():
            if ".lora_A." in name:
                parameter.requires_grad_(False)
    return peft_model


def _factors(peft_model: PeftModel) -> Adapter:
    """PEFT's saved key -> the live parameter's storage (no copy), sorted by key."""
    state = peft.get_peft_model_state_dict(peft_model, save_embedding_layers=False)
    return dict(sorted(state.items()))


def require_fit(adapter: Adapter, shapes: Shapes) -> None:
    """Check an adapter against the keys and shapes of a model.

    Raises:
        ValueError: they differ.
    """
    if adapter.keys() != shapes.keys():
        raise ValueError(f"the adapter does not fit the model, first differing key {min(adapter.keys() ^ shapes)}")
    for key, shape in shapes.items():
        if tuple(adapter[key].shape) != tuple(shape):
            raise ValueError(f"{key} has shape {tuple(adapter[key].shape)}, the model needs {tuple(shape)}")


def load_adapter(peft_model: PeftModel, adapter: Adapter) -> None:
    """Copy an adapter's values into the model's factors, exactly.

    Raises:
        ValueError: keys or shapes differ from those of the model.
    """
    factors = _factors(peft_model)
    require_fit(adapter, {key: tuple(factor.shape) for key, factor in factors.items()})
    for key, factor in factors.items():
        factor.copy_(adapter[key])


def read_adapter(peft_model: PeftModel) -> Adapter:
    """Copy the model's factors out: float32, CPU, contiguous, keys sorted."""
    return {
        key: torch.empty(factor.shape, dtype=torch.float32).copy_(factor)
        for key, factor in _factors(peft_model).items()
    }


def shortest_targets(model: PreTrainedModel, target_modules: Sequence[str]) -> tuple[str, ...]:
    """The targeted layers by the shortest ends of their names that no other module has, sorted: `q_proj` and the like.

    A reader of the saved folder may have another version of the model's code, in which a prefix is another.

    Raises:
        ModelError: a target module does not exist.
    """
    targets = target_layers(model, target_modules)
    others = [f".{name}" for name, _ in model.named_modules() if name not in targets]
    taken = {name[place:] for name in others for place in range(len(name)) if name[place] == "."}
    ends = set()
    for name in targets:
        parts = name.split(".")
        ends.add(next(e for k in range(1, len(parts) + 1) if f".{(e := '.'.join(parts[-k:]))}" not in taken))
    return tuple(sorted(ends))


def save_peft(
    folder: Path, adapter_bytes: bytes, spec: LoraSpec, targets: Sequence[str], base_name: str, revision: str = ""
) -> None:
    """Write a folder that `PeftModel.from_pretrained(base, folder)` opens, of PEFT 0.10 and of all after it.

    Their `adapter_config.json` has ever more keys, and each version refuses or warns of those that it does not know:
    only what says something is written.

    Args:
        folder: made if missing.
        adapter_bytes: canonical bytes, written unchanged as `adapter_model.safetensors`.
        spec: shape of the adapter.
        targets: of `shortest_targets`.
        base_name: name or path of the base model, as a reader of the folder should find it.
        revision: of the base model on the hub, if not its main one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config: dict[str, object] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": spec.rank,
        "lora_alpha": spec.alpha,
        "target_modules": list(targets),
        "inference_mode": True,
    }
    if revision:
        config["revision"] = revision
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "adapter_model.safetensors").write_bytes(adapter_bytes)
