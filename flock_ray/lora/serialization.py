"""The canonical bytes of an adapter: what is hashed, stored, sent as the dense wire format and saved for PEFT."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch

from flock_ray.errors import ModelError
from flock_ray.protocol.encoding import parse_json

Adapter = dict[str, torch.Tensor]
"""PEFT state dict key -> factor: float32, CPU, contiguous; `lora_A` is [rank, in], `lora_B` is [out, rank]."""

LORA_A, LORA_B = ".lora_A.weight", ".lora_B.weight"
"""Suffixes of the keys of a layer's two factors."""

MAX_ADAPTER_BYTES = 1 << 34
"""More than any adapter has: a reader of a store or a folder reads no further."""

_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16"}
"""What safetensors calls the types of entries."""

Shapes = Mapping[str, tuple[int, ...]]
"""PEFT state dict key -> shape of its factor."""


@dataclass(frozen=True)
class Layout:
    """Positions of the factors in a canonical file.

    Attributes:
        header: the file's first bytes, with their length prefix.
        size: bytes of the file.
        places: key -> (first entry, shape) in the body; together they fill it.
    """

    header: bytes
    size: int
    places: Mapping[str, tuple[int, tuple[int, ...]]]


def layout(shapes: Shapes, dtype: torch.dtype = torch.float32) -> Layout:
    """The layout of an adapter of these shapes, as the safetensors library writes it."""
    return _layout(tuple(sorted((key, tuple(shape)) for key, shape in shapes.items())), dtype)


@lru_cache(maxsize=8)
def _layout(shapes: tuple[tuple[str, tuple[int, ...]], ...], dtype: torch.dtype) -> Layout:
    entries: dict[str, dict[str, object]] = {}
    places, end = dict[str, tuple[int, tuple[int, ...]]](), 0
    for key, shape in shapes:
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        entries[key] = {"dtype": _DTYPES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
        places[key] = (begin // dtype.itemsize, shape)
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    return Layout(header, len(header) + end, places)


def require_storable(shapes: Shapes) -> None:
    """Check the size of an adapter before memory is taken for it.

    Raises:
        ModelError: readers would refuse it; the text has the largest rank that they do not.
    """
    size = layout(shapes).size
    if size > MAX_ADAPTER_BYTES:
        rank = next(shape[0] for key, shape in shapes.items() if key.endswith(LORA_A))
        raise ModelError(
            f"lora.rank is {rank}: an adapter of this model would have {size / 1e9:,.1f} GB; it must be at most"
            f" {rank * MAX_ADAPTER_BYTES // size}, with which it has {MAX_ADAPTER_BYTES / 1e9:.1f} GB"
        )


def _parts(adapter: Adapter) -> Iterator[bytes | memoryview]:
    """The canonical file piece by piece, without a copy where a factor is contiguous on the CPU."""
    for key, tensor in adapter.items():
        if tensor.dtype != torch.float32:
            raise ValueError(f"{key} is {tensor.dtype}; canonical bytes hold torch.float32 only")
    target = layout({key: tuple(tensor.shape) for key, tensor in adapter.items()})
    yield target.header
    for key in sorted(adapter, key=lambda key: target.places[key]):
        yield memoryview(adapter[key].detach().cpu().contiguous().view(-1).numpy().data).cast("B")


def canonical_bytes(adapter: Adapter) -> bytes:
    """Write an adapter as safetensors: float32, keys sorted, no metadata. Equal values give equal bytes.

    Args:
        adapter: factors of any layout and device; every one must be float32.

    Returns:
        The file as bytes; also the content of `adapter_model.safetensors`.

    Raises:
        ValueError: a factor is not float32.
    """
    return b"".join(_parts(adapter))


def adapter_hash(adapter: Adapter) -> bytes:
    """SHA-256 of the canonical bytes (32 bytes), which identifies a global adapter everywhere."""
    digest = hashlib.sha256()
    for part in _parts(adapter):
        digest.update(part)
    return digest.digest()


def rank_of(data: bytes) -> int:
    """Rank of an adapter's canonical bytes.

    Raises:
        ValueError: they are of no adapter.
    """
    header = parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")].decode(), 4)
    if not isinstance(header, dict):
        raise ValueError("no header of factors")
    for key, entry in header.items():
        shape = entry.get("shape") if isinstance(entry, dict) else None
        if key.endswith(LORA_A) and isinstance(shape, list) and shape and isinstance(shape[0], int):
            return shape[0]
    raise ValueError(f"no factor ends with {LORA_A}")


def flat(adapter: Adapter) -> torch.Tensor:
    """All entries in one row, factor after factor by sorted key: a view if memory has that order, else a copy."""
    factors = [adapter[key] for key in sorted(adapter)]
    following = factors[0].data_ptr()
    for factor in factors:
        if factor.data_ptr() != following or not factor.is_contiguous():
            return torch.cat([factor.reshape(-1) for factor in factors])
        following += factor.numel() * factor.element_size()
    total = sum(factor.numel() for factor in factors)
    first = factors[0]
    if first.storage_offset() + total > first.untyped_storage().nbytes() // first.element_size():
        return torch.cat([factor.reshape(-1) for factor in factors])  # adjacent by chance, in separate storages
    return first.as_strided((total,), (1,))


def unflat(values: torch.Tensor, shapes: Shapes) -> Adapter:
    """The adapter whose `flat` is `values`: views of it, keys sorted."""
    keys = sorted(shapes)
    pieces = torch.split(values, [math.prod(shapes[key]) for key in keys])
    return {key: piece.view(tuple(shapes[key])) for key, piece in zip(keys, pieces, strict=True)}
