"""The plain codec: an update is the canonical safetensors file of its float32 factors."""

from __future__ import annotations

import math

import numpy as np
import torch

from flock_ray.codec.codec import MalformedPayload
from flock_ray.lora.fixed_point import extremes
from flock_ray.lora.serialization import Adapter, Shapes, canonical_bytes, layout


class Dense:
    """Lossless float32.

    The canonical file's length and header follow from the shapes alone. Decoding compares both and parses nothing,
    which checks keys, dtypes, shapes, offsets, duplicates, metadata and padding at once.
    """

    def max_bytes(self, shapes: Shapes) -> int:
        """Length of every valid payload."""
        return layout(shapes).size

    def encode(self, update: Adapter) -> bytes:
        """Canonical bytes of the update (`lora.serialization`)."""
        return canonical_bytes(update)

    def decode(self, data: bytes, shapes: Shapes, max_abs: float) -> Adapter:
        """The update in these bytes, or a refusal: see `Codec.decode`."""
        expected = layout(shapes)
        if len(data) != expected.size:
            raise MalformedPayload(f"it has {len(data)} bytes, a valid one has {expected.size}")
        if not data.startswith(expected.header):
            raise MalformedPayload("its header names other keys, dtypes, shapes or offsets than the task's adapter")
        body = torch.from_numpy(np.frombuffer(data, np.float32, offset=len(expected.header)).copy())
        update = {
            key: body[first : first + math.prod(shape)].view(shape)
            for key, (first, shape) in sorted(expected.places.items())
        }
        if not within(body, max_abs):
            key = next(key for key, factor in update.items() if not within(factor, max_abs))
            raise MalformedPayload(f"{key} has an entry that is not finite or above {max_abs:g} in magnitude")
        return update


def within(values: torch.Tensor, max_abs: float) -> bool:
    """Whether every value is finite and at most `max_abs` in magnitude."""
    if not values.numel():
        return True
    low, high = extremes(values)
    return -max_abs <= low and high <= max_abs and math.isfinite(high - low)
