"""The interface of an aggregation rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

from flock_ray.lora.serialization import Adapter


class Rule(Protocol):
    """Decides how much each accepted update counts; `combine` does the sum.

    Attributes:
        uniform: whether every update has weight 1 whatever its content, so that updates can be summed as they arrive.
    """

    uniform: ClassVar[bool]

    def weights(self, updates: Sequence[Adapter]) -> tuple[int, ...]:
        """A non-negative integer weight per update, not all zero.

        Permuting the updates must only permute the weights.

        Args:
            updates: at least one, factor deltas from the common global adapter, in canonical order.
        """
        ...
