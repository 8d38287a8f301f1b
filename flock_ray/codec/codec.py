"""The interface of a codec."""

from __future__ import annotations

from typing import Protocol

from flock_ray.lora.serialization import Adapter, Shapes


class MalformedPayload(ValueError):
    """Bytes of a peer that are not a valid update; the text is a short reason without any of the bytes."""


class Codec(Protocol):
    """Encodes updates, and decodes or refuses bytes that may be hostile."""

    def max_bytes(self, shapes: Shapes) -> int:
        """Length of the longest valid payload for these shapes, the limit for fetching one."""
        ...

    def encode(self, update: Adapter) -> bytes:
        """Bytes of an update; equal updates give equal bytes."""
        ...

    def decode(self, data: bytes, shapes: Shapes, max_abs: float) -> Adapter:
        """The update in these bytes: float32, CPU, contiguous, exactly the keys and shapes of `shapes`, keys sorted.

        Encoding it again gives the same bytes. Memory stays within a small multiple of `max_bytes(shapes)`.

        Args:
            data: bytes of a peer.
            shapes: keys and shapes of the task's adapter.
            max_abs: every entry must be finite and at most this in magnitude.

        Raises:
            MalformedPayload: the bytes are not valid; no other exception leaves this function.
        """
        ...
