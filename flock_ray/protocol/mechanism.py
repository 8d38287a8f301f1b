"""Who is paid and who is slashed: one strategy per mechanism, in integer wei, conserved to the last unit.

Each mechanism is a strategy in a file of its own; `mechanisms.py` has them by name. A strategy says which ballots need
scores, whether a candidate is accepted, what each member earns and which members are slashed. Divisions floor; what is
not paid stays in the pool. What a member's own signature proves (malformed payloads, copies, equivocation) is slashed
under every mechanism, outside the strategies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

from flock_ray.protocol.parameters import Parameter
from flock_ray.protocol.roles import Roles
from flock_ray.protocol.state import TaskState, Terms
from flock_ray.protocol.verdict import CandidateVerdict, ProposalVerdict


@dataclass(frozen=True)
class Outcome:
    """What the ballots of one epoch said.

    Attributes:
        state: the state that the epoch started from.
        roles: of the epoch.
        proposals: verdict on each proposer's proposal, by ascending member.
        candidate: verdict on the candidate.
        present: voters whose ballots both counted.
    """

    state: TaskState
    roles: Roles
    proposals: tuple[ProposalVerdict, ...]
    candidate: CandidateVerdict
    present: frozenset[int]

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
    """

    parameters: ClassVar[Mapping[str, Parameter]]
    scores_proposals: ClassVar[bool]
    scores_candidate: ClassVar[bool]

    def accepts(self, outcome: Outcome) -> bool:
        """Whether the candidate becomes the global adapter; called only when there is one."""

    def rewards(self, outcome: Outcome, accepted: bool) -> dict[int, int]:
        """{member: wei earned}, at most `outcome.budget` in total."""

    def slashed(self, outcome: Outcome, accepted: bool) -> dict[int, str]:
        """{member: reason} of the members that lose p * stake."""

    def noted(self, outcome: Outcome, accepted: bool) -> dict[int, dict[str, int]]:
        """{member: integers by name} of the members of which it keeps something else than before the epoch."""

    def promises_more(self, terms: Terms) -> bool:
        """Whether payments leave the pool as it is, so that later budgets promise more than it holds."""

    def history(self, terms: Terms) -> int:
        """How many global adapters before the current one it looks back on."""


class Plain:
    """What most mechanisms share: no parameters, nothing kept of members, never more promised than is there."""

    parameters: ClassVar[Mapping[str, Parameter]] = {}

    def noted(self, outcome: Outcome, accepted: bool) -> dict[int, dict[str, int]]:
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
