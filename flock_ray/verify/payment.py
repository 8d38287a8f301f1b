"""What a payment mechanism says of an epoch, for the verifier; `payments.py` has the mechanisms by name.

These are the rules of `protocol/` again, from their documentation. Divisions floor; the rest stays in the pool.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from flock_ray.protocol.state import TaskState, Terms
from flock_ray.verify.draw import Seats
from flock_ray.verify.scores import Candidate, Verdict


@dataclass(frozen=True)
class Outcome:
    """The outcome of an epoch's ballots; `present` are the voters whose ballots A and B both counted."""

    state: TaskState
    seats: Seats
    proposals: tuple[Verdict, ...]
    candidate: Candidate
    present: frozenset[int]

    @property
    def budget(self) -> int:
        """floor(pool left / epochs left), wei."""
        return self.state.pool_left // (self.state.terms.num_epochs - self.state.epoch + 1)

    @property
    def contributors(self) -> list[Verdict]:
        """The accepted proposals that count in the candidate: the others share neither its pay nor its fate."""
        weight = dict(self.candidate.weights)
        return [
            proposal
            for proposal in self.proposals
            if proposal.status == "accepted" and weight.get(proposal.member, 0) > 0
        ]


class Payment(ABC):
    """A payment mechanism.

    Attributes:
        scored: whether it needs scores of proposals, in ballot A, and of the candidate, in ballot B.
        bounds: the least and the most that each of its parameters may be.
    """

    scored: ClassVar[tuple[bool, bool]]
    bounds: ClassVar[Mapping[str, tuple[int, int]]] = {}

    @abstractmethod
    def accepts(self, outcome: Outcome) -> bool:
        """Whether a candidate becomes the global adapter."""

    @abstractmethod
    def rewards(self, outcome: Outcome, accepted: bool) -> dict[int, int]:
        """{member: wei}."""

    def slashed(self, outcome: Outcome, accepted: bool) -> dict[int, str]:
        """{member: reason} beyond what messages prove: nobody."""
        return {}

    def noted(self, outcome: Outcome, accepted: bool) -> dict[int, dict[str, int]]:
        """{member: integers by name} of whom it keeps something else than before: nobody."""
        return {}

    def promises_more(self, terms: Terms) -> bool:
        """Whether what it pays stays in the pool, and slashes go there: no."""
        return False


def shares(amount: int, weights: Mapping[int, int]) -> dict[int, int]:
    """`amount` by weight."""
    total = sum(weights.values())
    return {member: amount * weight // total for member, weight in weights.items() if weight}
