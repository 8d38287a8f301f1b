"""The plain codec: an update is the canonical safetensors file of its float32 factors."""

from __future__ import annotations

from functools import lru_cache

import safetensors.torch
import torch

from flock_ray.codec.codec import MalformedPayload
from flock_ray.lora.serialization import Adapter, Shapes, canonical_bytes

_ShapeItems = tuple[tuple[str, tuple[int, ...]], ...]


@lru_cache(maxsize=8)
def _layout(shapes: _ShapeItems) -> tuple[bytes, int]:
    """Header (with its length prefix) and total length that every canonical file of these shapes has."""
    blank = canonical_bytes({key: torch.zeros(shape) for key, shape in shapes})
    end = 8 + int.from_bytes(blank[:8], "little")
    return blank[:end], len(blank)


class Dense:
    """Lossless float32.

    The canonical file's length and header follow from the shapes alone. Decoding compares both before anything is
    parsed, which settles keys, dtypes, shapes, offsets, duplicates, metadata and padding at once.
    """

    def max_bytes(self, shapes: Shapes) -> int:
        """Length of every valid payload."""
        return _layout(tuple(sorted(shapes.items())))[1]

    def encode(self, update: Adapter) -> bytes:
        """Canonical bytes of the update (`lora.serialization`)."""
        return canonical_bytes(update)

    def decode(self, data: bytes, shapes: Shapes, max_abs: float) -> Adapter:
        """The update in these bytes, or a refusal: see `Codec.decode`."""
        header, length = _layout(tuple(sorted(shapes.items())))
        if len(data) != length:
            raise MalformedPayload(f"it has {len(data)} bytes, a valid one has {length}")
        if not data.startswith(header):
            raise MalformedPayload("its header names other keys, dtypes, shapes or offsets than the task's adapter")
        update = dict(sorted(safetensors.torch.load(data).items()))
        for key, factor in update.items():
            if not bool((factor.abs() <= max_abs).all()):
                raise MalformedPayload(f"{key} has an entry that is not finite or above {max_abs:g} in magnitude")
        return update
