"""Unweighted federated averaging."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from flock_ray.lora.serialization import Adapter


class Mean:
    """Every accepted update counts the same (FedAvg, McMahan et al. 2017, arXiv:1602.05629, with equal data sizes)."""

    uniform: ClassVar[bool] = True

    def weights(self, updates: Sequence[Adapter]) -> tuple[int, ...]:
        """Weight 1 for each update."""
        return (1,) * len(updates)
