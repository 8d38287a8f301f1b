"""What the architecture of a base model allows: how its members can train, and what an adapter leaves out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from flock_ray.errors import FlockRayError, ModelError
from flock_ray.lora.peft_io import ALL_LINEAR, LoraSpec, target_layers

_WHOLE, _WINDOW, _CHUNKS = "full_attention", "sliding_attention", "chunked_attention"


def skeleton(config: PreTrainedConfig) -> PreTrainedModel:
    """The model of a configuration without weights: shapes only, in an instant, whatever its size.

    Raises:
        ModelError: transformers does not make a causal language model of it.
    """
    with architecture_errors("the model's configuration"), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert isinstance(model, PreTrainedModel)
    return model


@contextmanager
def architecture_errors(what: str) -> Iterator[None]:
    """Around what other libraries do with an architecture that nobody here may know.

    Args:
        what: begins the text of the error.

    Raises:
        ModelError: in place of theirs, but for memory that ran out: that is no fault of the architecture.
    """
    try:
        yield
    except (FlockRayError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # other libraries raise anything
        reason = next(iter(str(error).splitlines()), "")
        raise ModelError(f"{what} cannot be trained: {type(error).__name__}: {reason}") from error


def choose_backend(model: PreTrainedModel, asked: str, longest: int) -> tuple[str, str]:
    """How members train on this model: (`sequential`, `stacked` or `grouped`, why `auto` is not stacked or nothing).

    Args:
        model: with or without weights.
        asked: `training.backend`.
        longest: tokens of the longest sequence.

    Raises:
        ModelError: the stacked backends cannot train it, and they were asked for.
    """
    reason = why_not_stacked(model, longest) if asked != "sequential" else ""
    if asked == "auto":
        return ("sequential", reason) if reason else ("stacked", "")
    if reason:
        raise ModelError(
            f"{reason}, which training.backend={asked} does not do: take training.backend=sequential, or auto"
        )
    return asked, ""


def require_positions(model: PreTrainedModel, longest: int, sequence_length: int) -> None:
    """Check that the model has a position for every token of a sequence.

    Args:
        model: with or without weights.
        longest: tokens of the longest sequence.
        sequence_length: `data.sequence_length`, which that comes of.

    Raises:
        ModelError: sequences are longer than its `max_position_embeddings`, or what YaRN and the like extend these to.
    """
    positions = positions_of(model.config)
    if longest > positions:
        most = int(positions) - (longest - sequence_length)
        raise ModelError(
            f"data.sequence_length is {sequence_length}; it must be at most {most}: the model has {int(positions)}"
            " positions (max_position_embeddings)"
        )


def positions_of(config: PreTrainedConfig) -> float:
    """Positions that a model has, `max_position_embeddings` or what YaRN and the like extend these to; inf if any."""
    config = config.get_text_config()
    positions: float = getattr(config, "max_position_embeddings", None) or math.inf
    for scaling in (getattr(config, "rope_parameters", None), getattr(config, "rope_scaling", None)):
        if isinstance(scaling, Mapping) and scaling.get("original_max_position_embeddings"):
            extended = scaling["original_max_position_embeddings"] * (scaling.get("factor") or 1)
            positions = max(positions, extended)
    return positions


def why_not_stacked(model: PreTrainedModel, longest: int) -> str:
    """Why members cannot share a batch of this model, whose attention our own replaces; nothing if they can.

    Args:
        model: with or without weights.
        longest: tokens of the longest sequence; a window that holds them all changes nothing.
    """
    config = model.config.get_text_config()
    if getattr(config, "attn_logit_softcapping", None):
        return "the model's attention has a soft cap"
    if any(name.rpartition(".")[2] == "sinks" for name, _ in model.named_parameters()):
        return "the model's attention has sinks"
    window = _shortest_window(config)
    if window < longest:
        return f"the model's attention has a window of {window:g} tokens, and sequences have up to {longest}"
    if model._is_stateful:
        return f"the model ({config.model_type}) carries a state from token to token"
    if not (model._supports_attention_backend and hasattr(model.get_decoder(), "layers")):
        return f"the attention of this model ({config.model_type}) cannot be replaced"
    return ""


def _shortest_window(config: PreTrainedConfig) -> float:
    """Tokens that the most short-sighted layer sees; infinite where all see everything."""
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None) if kinds is None or _WINDOW in kinds else None
    chunk = getattr(config, "attention_chunk_size", None) if kinds is None or _CHUNKS in kinds else None
    return min(window or math.inf, chunk or math.inf)


def left_out(model: PreTrainedModel, spec: LoraSpec) -> str:
    """What `all-linear` does not reach though one might expect it, in a line; nothing if there is nothing.

    Args:
        model: with or without weights, also sharded, before any layer of it was replaced.
        spec: of the adapter.

    Raises:
        ModelError: nothing in the model can be targeted.
    """
    target_layers(model, spec.target_modules)
    sizes = {name: getattr(p, "ds_shape", p.shape) for name, p in model.named_parameters()}  # DeepSpeed's, of shards
    experts = {name: math.prod(shape) for name, shape in sizes.items() if len(shape) == 3 and "expert" in name}
    if not experts or tuple(spec.target_modules) != (ALL_LINEAR,):
        return ""
    share = sum(experts.values()) / sum(map(math.prod, sizes.values()))
    return (
        f"The adapter leaves out the experts ({share:.0%} of the weights): they are no nn.Linear layers, and only such"
        " ones are trained"
    )
