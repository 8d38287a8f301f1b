"""What an aggregation rule is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from flock_ray.lora.serialization import Adapter


class Rule(Protocol):
    """Decides how much each accepted update counts; `combine` does the sum."""

    def weights(self, updates: Sequence[Adapter]) -> tuple[int, ...]:
        """One non-negative integer weight an update, not all zero.

        The result must not depend on the order of updates other than by permuting with it.

        Args:
            updates: at least one, factor deltas from the common global adapter, in canonical order.
        """
        ...
