"""A LoRA adapter of PEFT's, or of an earlier run, as the adapter that a task starts from."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from flock_ray.errors import ModelError
from flock_ray.lora.algebra import initial_adapter
from flock_ray.lora.fixed_point import MAX_ABS, dequantize, quantize
from flock_ray.lora.peft_io import PEFT_PREFIX, LoraSpec
from flock_ray.lora.serialization import LORA_A, LORA_B, Adapter, Shapes

_CONFIG, _FACTORS = "adapter_config.json", "adapter_model.safetensors"
_PLAIN = {
    "bias": "none", "use_dora": False, "fan_in_fan_out": False, "modules_to_save": None, "rank_pattern": {},
    "alpha_pattern": {}, "layer_replication": None, "lora_bias": False,
}  # fmt: skip
"""Options that make an adapter more than W + alpha / r B A of one rank, with the value that turns them off."""


def adapter_folder(path: Path) -> Path:
    """The folder of PEFT's layout that a path names: itself, or `adapter/` of a run.

    Raises:
        ModelError: it is neither.
    """
    for folder in (path, path / "adapter"):
        if (folder / _CONFIG).is_file():
            return folder
    raise ModelError(f"start_from={path} is neither an adapter folder nor a finished run: there is no {_CONFIG}")


def read_peft(folder: Path, spec: LoraSpec, seed: int) -> Adapter:
    """The adapter in a folder, as one of `spec`: the same products B A under its scaling, on the fixed-point grid.

    What differs in the scaling alpha / rank is folded into B. A smaller rank is filled up with new rows of A, drawn as
    for a new adapter, and columns of zeros in B: they change nothing, and can learn. An adapter that a run of the same
    rank and alpha saved comes back bit by bit.

    Args:
        folder: with `adapter_config.json` and `adapter_model.safetensors`.
        spec: rank and alpha of the result; which layers it must have is for the model to say.
        seed: of the new rows.

    Raises:
        ModelError: a file is missing or damaged, or the adapter is of another kind or of a larger rank.
    """
    config = _config(folder)
    rank, scaling = _rank_and_scaling(folder, config)
    if rank > spec.rank:
        raise ModelError(
            f"start_from: the adapter in {folder} has rank {rank}, more than lora.rank = {spec.rank}; set"
            f" lora.rank={rank}"
        )
    factors = _factors(folder, rank)
    shapes = {
        key: (spec.rank, factor.shape[1]) if key.endswith(LORA_A) else (factor.shape[0], spec.rank)
        for key, factor in factors.items()
    }
    ratio = scaling / (spec.alpha / spec.rank)
    adapter = initial_adapter(shapes, seed)
    for key, factor in factors.items():
        if key.endswith(LORA_A):
            adapter[key][:rank] = _on_grid(factor, folder, key)
        else:
            adapter[key][:, :rank] = _on_grid(factor * ratio, folder, key)
    return adapter


def require_start(data: bytes, shapes: Shapes) -> None:
    """Check that an adapter, in its canonical bytes, is one of this model and these target modules.

    Raises:
        ModelError: it is not.
    """
    given = {key: tuple(factor.shape) for key, factor in safetensors.torch.load(data).items()}
    for keys, what in ((shapes.keys() - given.keys(), "lacks"), (given.keys() - shapes.keys(), "has also")):
        if keys:
            layers = sorted({key.removeprefix(PEFT_PREFIX).rpartition(".lora_")[0].rpartition(".")[2] for key in keys})
            some = f"{', '.join(layers[:8])}{', ...' * (len(layers) > 8)}"
            raise ModelError(
                f"start_from: the adapter {what} factors of {some} ({len(keys) // 2} layers); lora.target_modules must"
                " name just the layers that it has"
            )
    for key, shape in shapes.items():
        if given[key] != tuple(shape):
            raise ModelError(
                f"start_from: the adapter is of another base model: {key} has shape {list(given[key])}, this one needs"
                f" {list(shape)}"
            )


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / _CONFIG).read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(f"start_from: {folder / _CONFIG} does not read: {error}") from None
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise ModelError(f"start_from: {folder} holds no LoRA adapter (peft_type of {_CONFIG})")
    for name, off in _PLAIN.items():
        if config.get(name, off) not in (off, None, [], {}):
            raise ModelError(f"start_from: the adapter in {folder} has {name} = {config[name]}, which runs do not know")
    return config


def _rank_and_scaling(folder: Path, config: dict[str, Any]) -> tuple[int, float]:
    """Rank, and the factor before B A; PEFT's defaults where they are not stated."""
    rank, alpha = config.get("r", 8), config.get("lora_alpha", 8)
    if type(rank) is not int or rank < 1 or isinstance(alpha, bool) or not isinstance(alpha, int | float) or alpha <= 0:
        raise ModelError(
            f"start_from: {folder / _CONFIG} has r = {rank!r} and lora_alpha = {alpha!r}, which is no scaling"
        )
    return rank, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _factors(folder: Path, rank: int) -> Adapter:
    """Both factors of each layer, float32, keys sorted."""
    path = folder / _FACTORS
    if not path.is_file():
        raise ModelError(f"start_from: {path} is missing; only safetensors are read")
    try:
        factors = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise ModelError(f"start_from: {path} does not read: {error}") from None
    for key, factor in factors.items():
        other = key.removesuffix(LORA_A) + LORA_B if key.endswith(LORA_A) else key.removesuffix(LORA_B) + LORA_A
        if other == key + LORA_A or other not in factors or factor.dim() != 2:
            raise ModelError(f"start_from: {path} holds {key}, which is no factor of a linear layer")
        if factor.shape[0 if key.endswith(LORA_A) else 1] != rank:
            raise ModelError(f"start_from: {key} in {path} is not of rank {rank}, which {_CONFIG} states")
    if not factors:
        raise ModelError(f"start_from: {path} holds no factors")
    return {key: factors[key].float() for key in sorted(factors)}


def _on_grid(factor: torch.Tensor, folder: Path, key: str) -> torch.Tensor:
    try:
        return dequantize(quantize(factor.contiguous()))
    except ValueError:
        raise ModelError(
            f"start_from: {key} of the adapter in {folder} has an entry that is not finite, or beyond {MAX_ABS:g}"
        ) from None
