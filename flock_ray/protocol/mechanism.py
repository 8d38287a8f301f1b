"""Who is paid and who is slashed: one strategy per mechanism, in integer wei, conserved to the last unit.

Each mechanism is a strategy in a file of its own; `mechanisms.py` has them by name. A strategy says which ballots need
scores and whose scores count, what they say of a proposal, how far the candidate goes and whether it is accepted, what
each member earns or is charged, and which members are slashed. Divisions floor; what is not paid stays in the pool.
What a member's own signature proves (malformed payloads, copies, equivocation) is slashed under every mechanism,
outside the strategies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from flock_ray.protocol.ballot import Score
from flock_ray.protocol.parameters import Parameter
from flock_ray.protocol.roles import Roles
from flock_ray.protocol.state import TaskState, Terms
from flock_ray.protocol.verdict import CandidateVerdict, Consensus, Panel, ProposalVerdict, consensus


@dataclass(frozen=True)
class Outcome:
    """What the ballots of one epoch said.

    Attributes:
        state: the state that the epoch started from.
        roles: of the epoch.
        proposals: verdict on each proposer's proposal, by ascending member.
        candidate: verdict on the candidate.
        present: voters whose ballots both counted.
        voiceless: voters whose scores did not count.
    """

    state: TaskState
    roles: Roles
    proposals: tuple[ProposalVerdict, ...]
    candidate: CandidateVerdict
    present: frozenset[int]
    voiceless: frozenset[int] = frozenset()

    @property
    def budget(self) -> int:
        """Budget of the epoch: floor(pool left / epochs left), wei."""
        return self.state.pool_left // self.state.epochs_left

    @property
    def accepted_proposals(self) -> tuple[ProposalVerdict, ...]:
        """The proposals whose updates the candidate holds: accepted, and with a weight above 0 in it."""
        held = {member for member, weight in self.candidate.weights if weight}
        return tuple(proposal for proposal in self.proposals if proposal.member in held)


class Mechanism(Protocol):
    """A payment rule.

    Attributes:
        parameters: its integer parameters, whose values the terms hold.
        scores_proposals, scores_candidate: whether voters score each proposal, and the candidate.
        splits_updates: whether an update is split into what it adds to what is public, and what of it enters the
            candidate, each scored as one of as many parts as there are proposers.
        steps: multiples of the combined updates that are candidates; the first one is 1.
        fewest_proposers: the fewest proposer seats that it can do with.
        judges_by_terms: whether quantile, bands and harmful factor of the terms decide, or it has rules of its own.
    """

    parameters: ClassVar[Mapping[str, Parameter]]
    scores_proposals: ClassVar[bool]
    scores_candidate: ClassVar[bool]
    splits_updates: ClassVar[bool]
    steps: ClassVar[tuple[int, ...]]
    fewest_proposers: ClassVar[int]
    judges_by_terms: ClassVar[bool]

    def voiceless(self, state: TaskState) -> frozenset[int]:
        """The voters of the epoch that `state` starts whose scores do not count."""

    def consensus(self, scores: Mapping[int, Score], panel: Panel, num_parts: int) -> Consensus:
        """What the seats say together of an adapter.

        Args:
            scores: {voter: its score}, of at least q seats.
            panel: of the epoch.
            num_parts: n where one n-th of an update was scored, else 1.
        """

    def status(self, consensus: Consensus, entering: Consensus | None, panel: Panel) -> str:
        """`accepted`, `rejected` or `harmful`, by the consensus on a proposal, and on what of it enters."""

    def best_step(self, gains: Sequence[Mapping[int, int]], panel: Panel) -> int:
        """Which of the candidates is taken, counted from 0, by {voter: gain} of each; all are of the same voters."""

    def accepts(self, outcome: Outcome) -> bool:
        """Whether the candidate becomes the global adapter; called only when there is one."""

    def rewards(self, outcome: Outcome, accepted: bool) -> dict[int, int]:
        """{member: wei earned}, at most `outcome.budget` in total; fees are not taken off."""

    def charged(self, outcome: Outcome) -> dict[int, int]:
        """{member: wei} of new fees."""

    def slashed(self, outcome: Outcome, accepted: bool) -> dict[int, str]:
        """{member: reason} of the members that lose p * stake."""

    def noted(self, outcome: Outcome) -> dict[int, dict[str, int]]:
        """{member: integers by name} of the members of which it keeps something else than before the epoch."""

    def promises_more(self, terms: Terms) -> bool:
        """Whether payments leave the pool as it is, so that later budgets promise more than it holds."""

    def history(self, terms: Terms) -> int:
        """How many global adapters before the current one it looks back on."""


class Plain:
    """What most mechanisms share.

    One score of an update, one candidate, everybody's scores count by the terms' quantile and band; no parameters, no
    fees, nothing kept of members, never more promised than is there.
    """

    parameters: ClassVar[Mapping[str, Parameter]] = {}
    splits_updates: ClassVar[bool] = False
    steps: ClassVar[tuple[int, ...]] = (1,)
    fewest_proposers: ClassVar[int] = 1
    judges_by_terms: ClassVar[bool] = True

    def voiceless(self, state: TaskState) -> frozenset[int]:
        """Nobody."""
        return frozenset()

    def consensus(self, scores: Mapping[int, Score], panel: Panel, num_parts: int) -> Consensus:
        """Quantile and band of the terms."""
        return consensus(scores, panel.roles, panel.terms)

    def status(self, consensus: Consensus, entering: Consensus | None, panel: Panel) -> str:
        """Above the band, below minus some bands, or between."""
        if consensus.score > consensus.band:
            return "accepted"
        return "harmful" if consensus.score < -panel.terms.harmful_factor * consensus.band else "rejected"

    def best_step(self, gains: Sequence[Mapping[int, int]], panel: Panel) -> int:
        """The first."""
        return 0

    def charged(self, outcome: Outcome) -> dict[int, int]:
        """Nothing."""
        return {}

    def noted(self, outcome: Outcome) -> dict[int, dict[str, int]]:
        """Nothing."""
        return {}

    def promises_more(self, terms: Terms) -> bool:
        """No."""
        return False

    def history(self, terms: Terms) -> int:
        """None."""
        return 0


def share_out(amount: int, weights: Mapping[int, int]) -> dict[int, int]:
    """`amount` wei by weight, floored: {member: floor(amount * weight / sum)}; nothing when all weights are 0."""
    total = sum(weights.values())
    return {member: amount * weight // total for member, weight in weights.items() if weight} if total else {}
