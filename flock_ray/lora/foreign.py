"""A stranger's LoRA adapter, in PEFT's folder layout, as one of ours: taken or refused by the name of what it uses.

What is taken comes out as plain factors under the scaling 1: alpha / r, or alpha / sqrt(r) with rsLoRA (Kalajdzievski
2023, arXiv:2312.03732), is folded into B, and lower ranks are filled up with zeros. Pickles are refused unread, and
nothing of a folder is loaded before names, types, shapes and sizes are known to be right.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import torch

from flock_ray.errors import AdapterError
from flock_ray.lora.fixed_point import MAX_ABS, dequantize, quantize
from flock_ray.lora.serialization import LORA_A, LORA_B, Adapter, Shapes
from flock_ray.protocol.encoding import parse_json

T = TypeVar("T")

CONFIG, FACTORS = "adapter_config.json", "adapter_model.safetensors"
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
_MAX_CONFIG_BYTES = 1 << 20
_MAX_HEADER_BYTES = 1 << 22
_MAX_DEPTH = 8
_DTYPES = {"F32": 4, "F16": 2, "BF16": 2}
_NAME = re.compile(r"\^?[A-Za-z0-9_.]+")

_REFUSED: Mapping[str, str] = {
    "use_dora": "DoRA rescales the base model's columns",
    "modules_to_save": "it replaces whole modules of the base model",
    "layers_to_transform": "layers are chosen by number",
    "layers_pattern": "layers are chosen by number",
    "layer_replication": "it changes the base model's depth",
    "lora_bias": "B has a bias",
    "fan_in_fan_out": "its factors are transposed",
    "trainable_token_indices": "it trains embeddings",
    "target_parameters": "it adapts parameters that are no linear layer",
    "alora_invocation_tokens": "it is active for some tokens only",
    "use_qalora": "its factors are grouped",
    "use_bdlora": "its factors are block-diagonal",
    "megatron_config": "its layers are sharded",
    "arrow_config": "it routes between adapters",
    "kasa_config": "it changes the base model's weights",
    "monteclora_config": "its factors are random",
    "velora_config": "it changes how the base model computes",
}
"""PEFT's options that make an adapter more than W + scaling * B A, and what they do."""

_HARMLESS_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Values of init_lora_weights that leave the base model's weights as they are; PiSSA, OLoRA, CorDA and LoftQ do not."""


@dataclass(frozen=True)
class _Declared:
    """What `adapter_config.json` says of ranks and scaling."""

    rank: int
    alpha: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    rank_stabilised: bool

    def rank_of(self, module: str) -> int:
        """Rank of a module: its pattern's, else the common one."""
        return _matching(self.ranks, module, self.rank)

    def scaling_of(self, module: str) -> float:
        """What multiplies B A of a module."""
        rank, alpha = self.rank_of(module), _matching(self.alphas, module, self.alpha)
        return alpha / (math.sqrt(rank) if self.rank_stabilised else rank)


def _matching(patterns: Mapping[str, T], module: str, common: T) -> T:
    """The value of the first pattern that is the module's name or its dotted end, as PEFT matches them."""
    for pattern, value in patterns.items():
        if module == pattern.removeprefix("^") or (not pattern.startswith("^") and module.endswith(f".{pattern}")):
            return value
    return common


def read_foreign(folder: Path, shapes: Shapes, max_rank: int) -> Adapter:
    """The adapter in a folder with `adapter_config.json` and `adapter_model.safetensors`.

    Args:
        folder: of a stranger.
        shapes: key -> shape of all layers that an adapter may have, of any rank (`peft_io.adapter_shapes`).
        max_rank: largest rank that is taken.

    Returns:
        Factors for every layer of `shapes`: one rank for all, the largest of the folder's; scaling 1; on the
        fixed-point grid, so that an alliance can start from the same bytes. Layers that the folder has not are zero.

    Raises:
        AdapterError: it is refused; the line names what it uses, where, and what would be right.
    """
    declared = _declared(folder)
    path = _factors_file(folder, shapes, max_rank)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            found = {
                key: (tuple(file.get_slice(key).get_shape()), str(file.get_slice(key).get_dtype()))
                for key in sorted(file.keys())
            }
            rank = _check(path, found, shapes, declared, max_rank)
            return _take(path, {key: file.get_tensor(key) for key in found}, shapes, declared, rank)
    except (OSError, safetensors.SafetensorError) as error:
        raise AdapterError(f"{path} is no safetensors file: {error}") from None


def with_rank(shapes: Shapes, rank: int) -> dict[str, tuple[int, ...]]:
    """The same layers at another rank."""
    return {key: (rank, shape[1]) if key.endswith(LORA_A) else (shape[0], rank) for key, shape in shapes.items()}


def padded(adapter: Adapter, rank: int) -> Adapter:
    """The same products with factors of a larger rank, filled up with zeros; under the scaling 1."""
    shapes = with_rank({key: tuple(factor.shape) for key, factor in adapter.items()}, rank)
    result = {key: torch.zeros(shape) for key, shape in sorted(shapes.items())}
    for key, factor in adapter.items():
        rows, columns = factor.shape
        assert rows <= shapes[key][0] and columns <= shapes[key][1]
        result[key][:rows, :columns] = factor
    return result


def _declared(folder: Path) -> _Declared:
    path = folder / CONFIG
    if not path.is_file():
        raise AdapterError(f"{folder} has no {CONFIG}; an adapter is a folder as PEFT saves it")
    if path.stat().st_size > _MAX_CONFIG_BYTES:
        raise AdapterError(f"{path} has {path.stat().st_size} bytes; at most {_MAX_CONFIG_BYTES} are read")
    try:
        config = parse_json(path.read_text(), _MAX_DEPTH)
    except ValueError as error:
        raise AdapterError(f"{path} is no JSON: {error}") from None
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise AdapterError(f"{path}: peft_type is {str(kind)[:40]!r}; only 'LORA' is taken")
    _refuse_options(path, config)
    rank, alpha = config.get("r", 8), config.get("lora_alpha", 8)
    ranks, alphas = (_patterns(path, name, config.get(name) or {}) for name in ("rank_pattern", "alpha_pattern"))
    for name, value in [("r", rank), *(("rank_pattern", one) for one in ranks.values())]:
        if type(value) is not int or value < 1:
            raise AdapterError(f"{path}: {name} has {str(value)[:40]}; ranks are whole numbers above 0")
    for name, value in [("lora_alpha", alpha), *(("alpha_pattern", one) for one in alphas.values())]:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise AdapterError(f"{path}: {name} has {str(value)[:40]}; it must be a finite number")
    return _Declared(rank, alpha, ranks, alphas, config.get("use_rslora") is True)


def _refuse_options(path: Path, config: Mapping[str, Any]) -> None:
    for name, why in _REFUSED.items():
        if config.get(name):
            raise AdapterError(f"{path} uses {name}, which is not taken: {why}; only plain LoRA is")
    if config.get("bias", "none") != "none":
        raise AdapterError(f"{path}: bias is {str(config['bias'])[:40]!r}, which is not taken; it must be 'none'")
    start = config.get("init_lora_weights", True)
    if start not in _HARMLESS_STARTS or config.get("loftq_config") or config.get("lora_ga_config"):
        raise AdapterError(
            f"{path}: init_lora_weights is {str(start)[:40]!r}, which changes the base model's weights; convert the"
            " adapter to plain LoRA first (PEFT's path_initial_model_for_weight_conversion)"
        )


def _patterns(path: Path, name: str, patterns: object) -> Mapping[str, Any]:
    if not isinstance(patterns, dict):
        raise AdapterError(f"{path}: {name} must be an object of module names")
    for pattern in patterns:
        if not _NAME.fullmatch(pattern):
            raise AdapterError(f"{path}: {name} has the expression {pattern[:60]!r}; only names of modules are taken")
    return patterns


def _factors_file(folder: Path, shapes: Shapes, max_rank: int) -> Path:
    """The file of factors, of a size that one of this contest may have."""
    path = folder / FACTORS
    if not path.is_file():
        pickles = sorted(one.name for one in folder.iterdir() if one.suffix in _PICKLES)
        if pickles:
            raise AdapterError(f"{folder / pickles[0]} may run code when it is opened, and was not; save {FACTORS}")
        raise AdapterError(f"{folder} has no {FACTORS}; an adapter is a folder as PEFT saves it")
    most = 4 * sum(math.prod(shape) for shape in with_rank(shapes, max_rank).values()) + _MAX_HEADER_BYTES
    if path.stat().st_size > most:
        raise AdapterError(
            f"{path} has {path.stat().st_size} bytes; an adapter of rank {max_rank} for this model has at most {most}"
        )
    return path


def _check(
    path: Path,
    found: Mapping[str, tuple[tuple[int, ...], str]],
    shapes: Shapes,
    declared: _Declared,
    max_rank: int,
) -> int:
    """Check names, types and shapes of a file's tensors; returns the largest rank."""
    if not found:
        raise AdapterError(f"{path} holds no factors")
    for key, (shape, dtype) in found.items():
        if key not in shapes:
            raise AdapterError(
                f"{path} holds {key[:120]}, which is no factor of this model's layers ({min(shapes)}, …)"
            )
        if dtype not in _DTYPES:
            raise AdapterError(f"{path}: {key} has type {dtype}; it must be one of {', '.join(_DTYPES)}")
        other = key.removesuffix(LORA_A) + LORA_B if key.endswith(LORA_A) else key.removesuffix(LORA_B) + LORA_A
        if other not in found:
            raise AdapterError(f"{path} holds {key} without {other}")
        rank = declared.rank_of(_module(key))
        if shape != with_rank({key: shapes[key]}, rank)[key]:
            raise AdapterError(
                f"{path}: {key} has shape {list(shape)}; with the rank {rank} of {CONFIG} this model needs"
                f" {list(with_rank({key: shapes[key]}, rank)[key])}"
            )
    largest = max(declared.rank_of(_module(key)) for key in found)
    if largest > max_rank:
        raise AdapterError(f"{path} has rank {largest}; at most {max_rank} is taken")
    return largest


def _module(key: str) -> str:
    """The base model's name of the layer that a factor belongs to."""
    return key.removeprefix("base_model.model.").removesuffix(LORA_A).removesuffix(LORA_B)


def _take(path: Path, factors: Adapter, shapes: Shapes, declared: _Declared, rank: int) -> Adapter:
    """Fold the scaling into B, pad, and put on the grid."""
    adapter = {key: torch.zeros(shape) for key, shape in sorted(with_rank(shapes, rank).items())}
    for key, factor in factors.items():
        values = factor.float()
        if key.endswith(LORA_B):
            values = (values.double() * declared.scaling_of(_module(key))).float()
        try:
            values = dequantize(quantize(values.contiguous()))
        except ValueError:
            raise AdapterError(
                f"{path}: {key} has an entry that is not finite, or beyond {MAX_ABS:g} with its scaling"
            ) from None
        rows, columns = values.shape
        adapter[key][:rows, :columns] = values
    return adapter
