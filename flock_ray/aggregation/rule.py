"""The interface of an aggregation rule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from flock_ray.aggregation.start import Start
from flock_ray.lora.fixed_point import FixedPointSum
from flock_ray.lora.serialization import Adapter
from flock_ray.protocol.parameters import Parameter

NUM_MALICIOUS = Parameter(1, 0, 4_096)
"""f, how many of the updates a rule is to withstand: `num_malicious` among the parameters of those that ask."""


@dataclass(frozen=True)
class Weighting:
    """What a rule makes of the updates.

    Attributes:
        weights: a non-negative integer of each update, in the order of `add`, in total at most `denominator`; an update
            of weight 0 is not in the candidate and not paid for.
        denominator: above 0 if any weight is; what the weights lack to it is weight on the start.
        total: the sum of weight * update, where the rule made it itself; None to have it made.
        points: [size] int64, what the candidate adds to the start where it is no such sum over the denominator.
    """

    weights: tuple[int, ...]
    denominator: int
    total: FixedPointSum | None = None
    points: torch.Tensor | None = None


class Rule(ABC):
    """Decides how much each accepted update counts; `Aggregation` makes the candidate of it.

    Whatever it computes must come out the same on every machine. Permuting the updates must only permute the weights,
    but for ties, which go to the update that was added first.

    Attributes:
        parameters: its integer parameters, whose values the terms hold.
        entrywise: whether it works on single entries of factors, which are only comparable where all members share A
            (`lora.freeze_a`).
    """

    parameters: ClassVar[Mapping[str, Parameter]] = {}
    entrywise: ClassVar[bool] = False

    def __init__(self, values: Mapping[str, int]) -> None:
        """Take the value of every parameter."""
        self.values = values

    @property
    def fewest(self) -> int:
        """The fewest updates that it makes a candidate of; of fewer, it gives each the weight 0."""
        return 1

    @abstractmethod
    def start(self, start: Start) -> None:
        """Begin anew, without any update.

        Args:
            start: the common global adapter of the epoch.
        """

    @abstractmethod
    def add(self, update: Adapter) -> None:
        """Take the update of the next member, by ascending number: factor deltas from the start.

        Raises:
            ValueError: it has other keys or shapes than the start, or a value outside the fixed-point range.
        """

    @abstractmethod
    def finish(self) -> Weighting:
        """The weights of the updates that were added.

        Raises:
            ValueError: see `add`.
        """
