"""Any wire format, of updates that leave A as it is: only B travels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch

from flock_ray.lora.serialization import LORA_A, Adapter, Shapes
from flock_ray.wire_format.wire_format import WireFormat

T = TypeVar("T")

FREEZE_A = "freeze_a"
"""Stands, as 1, among the wire format's parameters in the terms where A is frozen; it follows `lora.freeze_a`."""


class FrozenA(WireFormat):
    """FFA-LoRA's updates (Sun et al. 2024, arXiv:2403.12313) in another format: about half the bytes.

    What is decoded has a move of zero for every A, so nothing after it needs to know. An update that moves A is encoded
    whole, which no receiver takes: its length and header are those of no valid payload.
    """

    def __init__(self, inner: WireFormat) -> None:
        """Encode B in `inner`."""
        self._inner, self.max_abs = inner, inner.max_abs
        self.feedback = inner.feedback

    def max_bytes(self, shapes: Shapes) -> int:
        """Length of the longest valid payload, which has no A."""
        return self._inner.max_bytes(_without_a(shapes))

    def encode(self, update: Adapter) -> bytes:
        """B of the update; all of it if it moves A."""
        moves_a = any(bool((factor != 0).any()) for key, factor in update.items() if key.endswith(LORA_A))
        return self._inner.encode(update if moves_a else _without_a(update))

    def decode(self, data: bytes, shapes: Shapes) -> Adapter:
        """The update in these bytes, or a refusal: see `WireFormat.decode`."""
        update = self._inner.decode(data, _without_a(shapes))
        still = {key: torch.zeros(shape) for key, shape in shapes.items() if key.endswith(LORA_A)}
        return dict(sorted((update | still).items()))


def _without_a(by_key: Mapping[str, T]) -> dict[str, T]:
    return {key: value for key, value in by_key.items() if not key.endswith(LORA_A)}
