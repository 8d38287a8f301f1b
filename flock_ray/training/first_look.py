"""A first look at a base model and at a member's data: what can be told in seconds, without loading weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase, logging

from flock_ray.errors import ModelError
from flock_ray.lora.peft_io import LoraSpec, adapter_shapes, target_layers
from flock_ray.lora.serialization import Shapes
from flock_ray.training import jsonl, mixed, stdlib_code
from flock_ray.training.architecture import architecture_errors, choose_backend, left_out, require_positions, skeleton
from flock_ray.training.data import DataSpec, load_silo
from flock_ray.training.model import ModelSpec, choose_dtype, locate, require_device

ROWS = 100
"""Rows that are looked at of a silo that is too large to be read in an instant."""
SMALL = 1 << 20
"""Bytes of a silo that is read whole, so that its size is known as well."""


@dataclass(frozen=True)
class ModelLook:
    """What a first look at a base model finds.

    Attributes:
        tokenizer: of the model.
        folder: with its files.
        shapes: of an adapter of it.
        told: what it is, for people.
        notes: how it trains, and what it leaves out, a line each.
    """

    tokenizer: PreTrainedTokenizerBase
    folder: Path
    shapes: Shapes
    told: str
    notes: tuple[str, ...]


def look_at_model(spec: ModelSpec, lora: LoraSpec, backend: str, data: DataSpec) -> ModelLook:
    """Read configuration, tokenizer and the headers of the weight files; make the model without weights.

    Args:
        spec: which model.
        lora: of the adapter.
        backend: `training.backend`.
        data: of the members, whose sequences it has to hold.

    Raises:
        ModelError: it is not there, or cannot train as configured.
    """
    logging.set_verbosity_error()
    require_device(spec.device)
    folder, name = locate(spec, weights=False)
    with architecture_errors(f"the model in {folder}"):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        config = AutoConfig.from_pretrained(folder)
    model = skeleton(config)
    note = left_out(model, lora)
    require_positions(model, data.longest, data.sequence_length)
    chosen, reason = choose_backend(model, backend, data.longest)
    shapes = adapter_shapes(model, lora.target_modules, lora.rank)
    layers = target_layers(model, lora.target_modules)
    size = sum(parameter.numel() for parameter in model.parameters())
    weights = _weights(folder) if spec.source != "hub" else "to be fetched"
    told = (
        f"{name}, {size / 1e6:,.0f} million parameters ({weights}), as"
        f" {str(choose_dtype(spec.dtype, spec.device)).removeprefix('torch.')}; LoRA on {len(layers)} linear layers:"
        f" {', '.join(sorted({layer.rpartition('.')[2] for layer in layers}))}; members {chosen}"
    )
    because = f"members train one after the other: {reason}" if reason else ""
    return ModelLook(tokenizer, folder, shapes, told, tuple(text for text in (because, note) if text))


def _weights(folder: Path) -> str:
    """Size of a folder's weight files, whose headers are read: a file that was cut off does not match its own."""
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        try:
            with safe_open(file, "pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file} is no whole file of weights: {error}") from error
    files = files or sorted(folder.glob("*.bin"))
    if not files:
        raise ModelError(f"{folder} holds no weights (*.safetensors)")
    return f"{sum(file.stat().st_size for file in files) / 1e6:,.0f} MB"


def look_at_data(spec: DataSpec, member: int, tokenizer: PreTrainedTokenizerBase | None) -> str:
    """What a member's silo is: all of a small one, else the first rows.

    Args:
        spec: of the data.
        member: whose.
        tokenizer: of the model; without one only the files are looked for.

    Raises:
        DataError: it is missing, malformed or too small.
    """
    if spec.kind == mixed.KIND:
        return look_at_data(mixed.spec_of(spec, member), member, tokenizer)
    if spec.kind == "stdlib_code":
        files = stdlib_code.files_of(spec, member)
        size, where = sum(file.stat().st_size for file in files), f"{spec.packages[member]}, {len(files)} files"
    elif spec.kind == "jsonl":
        file = spec.files.of(member)
        size, where = file.stat().st_size, str(file)
    else:
        return f"data.kind={spec.kind} is read when the run begins"
    if tokenizer is None:
        unread = ", not read without the model's tokenizer" if spec.kind == "jsonl" else ""
        return f"{where}, {size / 1e3:,.0f} kB{unread}"
    if size <= SMALL:
        silo = load_silo(spec, member, tokenizer)
        parts = f"{len(silo.train)} sequences to train on, {len(silo.heldout)} held out to score with"
        return f"{where}: {silo.counts.told}; {parts}"
    told = f"{where}, {size / 1e6:,.1f} MB"
    if spec.kind == "stdlib_code":
        return told
    counts = jsonl.read_first(spec, member, tokenizer, ROWS).counts
    nothing = f" (none with an assistant's token within data.sequence_length = {spec.sequence_length})"
    return f"{told}, begins with {counts.told}{nothing * (not counts.target_tokens)}"
