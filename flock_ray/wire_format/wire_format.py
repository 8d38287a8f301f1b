"""The interface of a wire format."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch

from flock_ray.lora.fixed_point import extremes
from flock_ray.lora.serialization import Adapter, Layout, Shapes
from flock_ray.protocol.parameters import Parameter


class MalformedPayload(ValueError):
    """Bytes of a peer that are not a valid update; the text is a short reason without any of the bytes."""


class WireFormat(ABC):
    """Encodes updates, and decodes or refuses bytes that may be hostile. It keeps nothing from one update to the next.

    Attributes:
        parameters: its integer parameters, whose values the terms hold. `max_abs` bounds the magnitude of every entry,
            so that the weights of a rule, in total up to 2^20, keep sums of grid points within int64.
        feedback: whether encoding loses something, which the proposer adds to its next update.
    """

    parameters: ClassVar[Mapping[str, Parameter]] = {"max_abs": Parameter(64, 1, 2**18)}
    feedback: bool = False

    def __init__(self, values: Mapping[str, int]) -> None:
        """Take the value of every parameter."""
        self.max_abs = values["max_abs"]

    @abstractmethod
    def max_bytes(self, shapes: Shapes) -> int:
        """Length of the longest valid payload for these shapes, the limit for fetching one."""

    @abstractmethod
    def encode(self, update: Adapter) -> bytes:
        """Bytes of an update; equal updates give equal bytes, and any with entries up to `max_abs` valid ones.

        Raises:
            ValueError: a factor is not float32.
        """

    @abstractmethod
    def decode(self, data: bytes, shapes: Shapes) -> Adapter:
        """The update in these bytes: float32, CPU, contiguous, exactly the keys and shapes of `shapes`, keys sorted.

        Every entry is finite and at most `max_abs` in magnitude, as far as the format can tell. Encoding it again gives
        the same bytes. Memory stays within a small multiple of `max_bytes(shapes)`.

        Args:
            data: bytes of a peer.
            shapes: keys and shapes of the task's adapter.

        Raises:
            MalformedPayload: the bytes are not valid; no other exception leaves this function.
        """


def entries(data: bytes, expected: Layout, dtype: torch.dtype) -> torch.Tensor:
    """The body of a file that must have this very layout: [size], a copy. The header is compared, nothing is parsed.

    Comparing length and header checks keys, dtypes, shapes, offsets, duplicates, metadata and padding at once.

    Raises:
        MalformedPayload: it has another length or header.
    """
    if len(data) != expected.size:
        raise MalformedPayload(f"it has {len(data)} bytes, a valid one has {expected.size}")
    if not data.startswith(expected.header):
        raise MalformedPayload("its header names other keys, dtypes, shapes or offsets than the task's adapter")
    body = np.frombuffer(data, np.uint8, offset=len(expected.header)).copy()
    return torch.from_numpy(body).view(dtype)


def checked(body: torch.Tensor, expected: Layout, max_abs: float) -> Adapter:
    """The factors in a body of float32 entries, as views of it.

    Raises:
        MalformedPayload: an entry is not finite or above `max_abs` in magnitude.
    """
    update = {
        key: body[first : first + math.prod(shape)].view(shape)
        for key, (first, shape) in sorted(expected.places.items())
    }
    if not _within(body, max_abs):
        key = next(key for key, factor in update.items() if not _within(factor, max_abs))
        raise MalformedPayload(f"{key} has an entry that is not finite or above {max_abs:g} in magnitude")
    return update


def _within(values: torch.Tensor, max_abs: float) -> bool:
    if not values.numel():
        return True
    low, high = extremes(values)
    return -max_abs <= low and high <= max_abs and math.isfinite(high - low)
