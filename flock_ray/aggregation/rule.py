"""The interface of an aggregation rule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from flock_ray.aggregation.start import Start
from flock_ray.lora.fixed_point import FixedPointSum
from flock_ray.lora.serialization import Adapter
from flock_ray.protocol.parameters import Parameter


@dataclass(frozen=True)
class Weighting:
    """What a rule makes of the updates.

    Attributes:
        weights: a non-negative integer of each update, in the order of `add`, in total at most `denominator`; an update
            of weight 0 is not in the candidate and not paid for.
        denominator: above 0 if any weight is; what the weights lack to it is weight on the start.
        total: sum of weight * update, where the rule could sum as the updates came; None to have it made from them.
    """

    weights: tuple[int, ...]
    denominator: int
    total: FixedPointSum | None = None


class Rule(ABC):
    """Decides how much each accepted update counts; `Aggregation` makes the candidate of it.

    Whatever it computes must come out the same on every machine. Permuting the updates must only permute the weights.

    Attributes:
        parameters: its integer parameters, whose values the terms hold.
    """

    parameters: ClassVar[Mapping[str, Parameter]] = {}

    def __init__(self, values: Mapping[str, int]) -> None:
        """Take the value of every parameter."""
        self.values = values

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
        """The weights of the updates that were added."""
