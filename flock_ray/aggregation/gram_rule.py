"""What rules have in common that see updates only through their inner products."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from flock_ray.aggregation.adaptive_clipping import adaptive_clipping
from flock_ray.aggregation.geometry import Mixing, mixed, shares_of_updates
from flock_ray.aggregation.nearest_neighbour_mixing import nearest_neighbour_mixing
from flock_ray.aggregation.rule import NUM_MALICIOUS, Rule, Weighting
from flock_ray.aggregation.start import Start
from flock_ray.lora.fixed_point import FixedPointSum
from flock_ray.lora.gram import Gram, gram
from flock_ray.lora.serialization import Adapter
from flock_ray.protocol.parameters import Parameter

PRE_AGGREGATIONS: dict[str, Callable[[Gram, int], Mixing]] = {
    "arc": adaptive_clipping,
    "nnm": nearest_neighbour_mixing,
}
"""What may come before a rule, in this order, each if the parameter of its name is 1."""

WEIGHT_SCALE = 2**20
"""Integer weight of a share of 1."""


class GramRule(Rule):
    """A rule that a matrix of inner products is enough for: of the moves of the layers' products, not of the factors.

    Factors of the same product differ by the basis that a member chose, and distances between factors with them; inner
    products of U = (B0 + dB)(A0 + dA) - B0 A0 do not. `lora.gram` gives the same bits on every machine, and what
    follows uses Python's floats, `math.fsum` and `math.sqrt` only, which IEEE 754 defines to the last bit.

    Its updates stay in memory, as float32, until it has seen all.
    """

    parameters: ClassVar[Mapping[str, Parameter]] = {
        "num_malicious": NUM_MALICIOUS,
        **{name: Parameter(0, 0, 1) for name in PRE_AGGREGATIONS},
    }

    @property
    def num_malicious(self) -> int:
        """f, how many of the updates it is to withstand."""
        return self.values["num_malicious"]

    @property
    def fewest(self) -> int:
        """More than half of the updates must be honest: n >= 2f + 1."""
        return 2 * self.num_malicious + 1

    def start(self, start: Start) -> None:
        """No update yet."""
        self._start, self._updates = start, list[Adapter]()

    def add(self, update: Adapter) -> None:
        """Keep the update."""
        self._start.row(update)
        self._updates.append(update)

    def finish(self) -> Weighting:
        """Weights by the inner products of all updates; where there are fewer than `fewest`, all are 0."""
        if len(self._updates) < self.fewest:
            return Weighting((0,) * len(self._updates), 1)
        weights, denominator = integer_weights(self._shares(gram(self._start.adapter, self._updates)))
        total = FixedPointSum(self._start.points.numel())
        for update, weight in zip(self._updates, weights, strict=True):
            total.add(self._start.row(update), weight)
        return Weighting(weights, denominator, total)

    def _shares(self, products: Gram) -> Sequence[float]:
        """Shares of the updates: the rule's own of what it is shown, led back through what was done before."""
        mixings = list[Mixing]()
        for name, mixing_of in PRE_AGGREGATIONS.items():
            if self.values[name]:
                mixings.append(mixing_of(products, self.num_malicious))
                products = mixed(products, mixings[-1])
        shares = self.shares(products)
        for mixing in reversed(mixings):
            shares = shares_of_updates(shares, mixing)
        return shares

    @abstractmethod
    def shares(self, products: Gram) -> Sequence[float]:
        """How much of each update is in the result: not negative, in total at most 1 but for rounding.

        Args:
            products: [n][n] inner products of n >= `fewest` updates, or of what was made of them before.
        """


def integer_weights(shares: Sequence[float]) -> tuple[tuple[int, ...], int]:
    """Weights and denominator of real shares, to 2^-20; what the shares lack to 1 is the start's."""
    weights = [round(share * WEIGHT_SCALE) for share in shares]
    rest = max(0, round((1 - math.fsum(shares)) * WEIGHT_SCALE))
    denominator = sum(weights) + rest
    common = math.gcd(denominator, *weights)
    return tuple(weight // common for weight in weights), denominator // common
