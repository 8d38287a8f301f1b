"""The plain wire format: an update is the canonical safetensors file of its float32 factors."""

from __future__ import annotations

import torch

from flock_ray.lora.serialization import Adapter, Shapes, canonical_bytes, layout
from flock_ray.wire_format.wire_format import WireFormat, checked, entries


class Dense(WireFormat):
    """Lossless float32. The canonical file's length and header follow from the shapes alone."""

    def max_bytes(self, shapes: Shapes) -> int:
        """Length of every valid payload."""
        return layout(shapes).size

    def encode(self, update: Adapter) -> bytes:
        """Canonical bytes of the update (`lora.serialization`)."""
        return canonical_bytes(update)

    def decode(self, data: bytes, shapes: Shapes) -> Adapter:
        """The update in these bytes, or a refusal: see `WireFormat.decode`."""
        return read_canonical(data, shapes, self.max_abs)


def read_canonical(data: bytes, shapes: Shapes, max_abs: float = float("inf")) -> Adapter:
    """An adapter or update from its canonical bytes, each entry finite and at most `max_abs` in magnitude.

    Raises:
        MalformedPayload: the bytes are not valid; no other exception leaves this function.
    """
    expected = layout(shapes)
    return checked(entries(data, expected, torch.float32), expected, max_abs)
