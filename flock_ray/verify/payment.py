"""What a payment mechanism says of an epoch, for the verifier; `payments.py` has the mechanisms by name.

These are the rules of `protocol/` again, from their documentation. Divisions floor; the rest stays in the pool.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from flock_ray.protocol.ballot import Score
from flock_ray.protocol.state import TaskState, Terms
from flock_ray.verify.draw import Seats
from flock_ray.verify.scores import Candidate, Consensus, Electorate, Judgement, Scores, Verdict, consensus_of


@dataclass(frozen=True)
class Outcome:
    """The outcome of an epoch's ballots; `present` are the voters whose ballots A and B both counted."""

    electorate: Electorate
    proposals: tuple[Verdict, ...]
    candidate: Candidate
    present: frozenset[int]

    @property
    def state(self) -> TaskState:
        """Before the epoch."""
        return self.electorate.state

    @property
    def seats(self) -> Seats:
        """Of the epoch."""
        return self.electorate.seats

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
        split: whether of each update what it adds is judged apart from what enters the candidate, with a score of each.
        steps: the candidates go so many times as far as the rule says.
        bounds: the least and the most that each of its parameters may be.
    """

    scored: ClassVar[tuple[bool, bool]]
    split: ClassVar[bool] = False
    steps: ClassVar[tuple[int, ...]] = (1,)
    bounds: ClassVar[Mapping[str, tuple[int, int]]] = {}

    @property
    def num_scores(self) -> int:
        """Scores of a proposal in ballot A."""
        return self.scored[0] * (1 + self.split)

    def voiceless(self, state: TaskState, seats: Seats) -> frozenset[int]:
        """Voters whose scores count in no median: none."""
        return frozenset()

    def judged(self, electorate: Electorate, scores: Scores) -> Judgement:
        """What the scores of a proposal say: by the quantile of the terms."""
        terms = electorate.state.terms
        consensus = self.consensus(electorate, {voter: own[0] for voter, own in scores.items()})
        harmful = consensus.score < -terms.harmful_factor * consensus.band
        status = "accepted" if consensus.score > consensus.band else "harmful" if harmful else "rejected"
        return Judgement(status, consensus)

    def consensus(self, electorate: Electorate, scores: Mapping[int, Score]) -> Consensus:
        """On a candidate, of {voter: score}: by the quantile of the terms."""
        return consensus_of(scores, electorate.seats, electorate.state.terms)

    def taken(self, electorate: Electorate, scores: Scores) -> int:
        """Index of the step that is taken: the first one."""
        return 0

    @abstractmethod
    def accepts(self, outcome: Outcome) -> bool:
        """Whether a candidate becomes the global adapter."""

    @abstractmethod
    def rewards(self, outcome: Outcome, accepted: bool) -> dict[int, int]:
        """{member: wei}, before fees."""

    def fees(self, outcome: Outcome) -> dict[int, int]:
        """{member: wei} that the epoch charges: nobody."""
        return {}

    def slashed(self, outcome: Outcome, accepted: bool) -> dict[int, str]:
        """{member: reason} beyond what messages prove: nobody."""
        return {}

    def noted(self, outcome: Outcome, accepted: bool) -> dict[int, dict[str, int]]:
        """{member: integers by name} of whom it keeps something else than before, but for fees: nobody."""
        return {}

    def promises_more(self, terms: Terms) -> bool:
        """Whether what it pays stays in the pool, and slashes go there: no."""
        return False

    def history(self, terms: Terms) -> int:
        """How many global adapters before the current one are looked back on: none."""
        return 0


def shares(amount: int, weights: Mapping[int, int], least: int = 0) -> dict[int, int]:
    """`amount` by weight, as parts of no less than `least`."""
    total = max(least, sum(weights.values()))
    return {member: amount * weight // total for member, weight in weights.items() if weight}
