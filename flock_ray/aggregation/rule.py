"""What an aggregation rule is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

from flock_ray.lora.serialization import Adapter


class Rule(Protocol):
    """Decides how much each accepted update counts; `combine` does the sum.

    Attributes:
        uniform: whether every update has weight 1 whatever is in it, so that a sum can be taken as they come in.
    """

    uniform: ClassVar[bool]

    def weights(self, updates: Sequence[Adapter]) -> tuple[int, ...]:
        """One non-negative integer weight an update, not all zero.

        The result must not depend on the order of updates other than by permuting with it.

        Args:
            updates: at least one, factor deltas from the common global adapter, in canonical order.
        """
        ...
