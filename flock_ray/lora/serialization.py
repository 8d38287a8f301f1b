"""The one byte form of an adapter: what is hashed, stored, sent by the dense codec and saved for PEFT."""

from __future__ import annotations

from collections.abc import Mapping

import safetensors.torch
import torch

from flock_ray.protocol.hashing import sha256

Adapter = dict[str, torch.Tensor]
"""PEFT state dict key -> factor: float32, CPU, contiguous; `lora_A` is [rank, in], `lora_B` is [out, rank]."""

LORA_A, LORA_B = ".lora_A.weight", ".lora_B.weight"
"""How the keys of the two factors of a layer end."""

Shapes = Mapping[str, tuple[int, ...]]
"""PEFT state dict key -> shape of its factor."""


def canonical_bytes(adapter: Adapter) -> bytes:
    """Write an adapter as safetensors: float32, keys sorted, no metadata. Equal values give equal bytes.

    Args:
        adapter: factors of any layout and device; every one must be float32.

    Returns:
        The file as bytes; also the content of `adapter_model.safetensors`.

    Raises:
        ValueError: a factor is not float32.
    """
    for key, tensor in adapter.items():
        if tensor.dtype != torch.float32:
            raise ValueError(f"{key} is {tensor.dtype}; canonical bytes hold torch.float32 only")
    copies = {  # safetensors refuses tensors that share memory, which equal values must not depend on
        key: adapter[key].detach().cpu().clone(memory_format=torch.contiguous_format) for key in sorted(adapter)
    }
    return safetensors.torch.save(copies)


def adapter_hash(adapter: Adapter) -> bytes:
    """SHA-256 of the canonical bytes, 32 bytes: the name of a global adapter everywhere."""
    return sha256(canonical_bytes(adapter))
