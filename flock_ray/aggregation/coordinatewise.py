"""The coordinate-wise median and trimmed mean."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from flock_ray.aggregation.rule import NUM_MALICIOUS, Rule, Weighting
from flock_ray.aggregation.start import Start
from flock_ray.lora.fixed_point import quantize
from flock_ray.lora.serialization import Adapter
from flock_ray.protocol.parameters import Parameter

_CHUNK = 2**16  # entries of each update that are sorted together


class Coordinatewise(Rule):
    """Sorts the updates' values entry by entry, on the fixed-point grid (Yin et al. 2018, arXiv:1803.01498).

    Entries of B mean the same to all members only if they share A, as with FFA-LoRA; otherwise each may have chosen
    another basis. All updates count, and are paid for: no single one is in the result or out of it.
    """

    entrywise: ClassVar[bool] = True

    def start(self, start: Start) -> None:
        """No update yet."""
        self._start, self._rows = start, list[torch.Tensor]()

    def add(self, update: Adapter) -> None:
        """Keep the update."""
        self._rows.append(self._start.row(update))

    def finish(self) -> Weighting:
        """Weight 1 for each update, and the points entry by entry; where there are fewer than `fewest`, all are 0."""
        count = len(self._rows)
        if count < self.fewest:
            return Weighting((0,) * count, 1)
        points = torch.empty_like(self._start.points)
        for first in range(0, len(points), _CHUNK):
            part = slice(first, first + _CHUNK)
            values = torch.stack([quantize(row[part]) for row in self._rows]).numpy()
            values.sort(axis=0)
            points[part] = torch.from_numpy(self.middle(values))
        return Weighting((1,) * count, count, points=points)

    @abstractmethod
    def middle(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """What becomes of entries whose values are sorted: [n, size] to [size]."""


class CoordinateMedian(Coordinatewise):
    """The median of each entry; of an even number, the mean of the two in the middle, rounded down."""

    def middle(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """See `Coordinatewise`."""
        count = len(values)
        result: NDArray[np.int64] = (values[(count - 1) // 2] + values[count // 2]) // 2
        return result


class TrimmedMean(Coordinatewise):
    """The mean of each entry without its f largest and its f smallest values, rounded down; n >= 2f + 1."""

    parameters: ClassVar[Mapping[str, Parameter]] = {"num_malicious": NUM_MALICIOUS}

    @property
    def fewest(self) -> int:
        """n >= 2f + 1."""
        return 2 * self.values["num_malicious"] + 1

    def middle(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """See `Coordinatewise`."""
        trimmed = self.values["num_malicious"]
        kept = values[trimmed : len(values) - trimmed]
        result: NDArray[np.int64] = kept.sum(axis=0) // len(kept)
        return result
