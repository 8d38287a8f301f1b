"""Who is paid and who is slashed: one strategy per mechanism, in integer wei, conserved to the last unit.

A strategy says which ballots need scores, whether a candidate is accepted, what each member earns and which members
are slashed. Divisions floor; what is not paid stays in the pool. What a member's own signature proves (malformed
payloads, copies, equivocation) is slashed under every mechanism, outside the strategies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

from flock_ray.protocol.parameters import Parameter
from flock_ray.protocol.roles import Roles
from flock_ray.protocol.state import TaskState, Terms
from flock_ray.protocol.verdict import CandidateVerdict, Consensus, ProposalVerdict

_UNIT = 1_000_000


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


class _Plain:
    """What most mechanisms share: no parameters, nothing kept of members, never more promised than is there."""

    parameters: ClassVar[Mapping[str, Parameter]] = {}

    def noted(self, outcome: Outcome, accepted: bool) -> dict[int, dict[str, int]]:
        """Nothing."""
        return {}

    def promises_more(self, terms: Terms) -> bool:
        """No."""
        return False


def share_out(amount: int, weights: Mapping[int, int]) -> dict[int, int]:
    """`amount` wei by weight, floored: {member: floor(amount * weight / sum)}; nothing when all weights are 0."""
    total = sum(weights.values())
    return {member: amount * weight // total for member, weight in weights.items() if weight} if total else {}


def closeness(own: int, consensus: Consensus) -> int:
    """Weight of a voter's score in millionths: max(0, 1 - |own - consensus| / (4 * max(band, |consensus|)))."""
    scale = 4 * max(consensus.band, abs(consensus.score))
    return max(0, _UNIT - abs(own - consensus.score) * _UNIT // scale)


class Marginal(_Plain):
    """Pays proposers for their marginal value and voters for measuring it.

    A share of the budget goes to the voters by closeness to the consensus, the rest to accepted proposals by
    (score - band). In a rejected epoch proposers are unpaid, voters are paid. Harmful proposals are slashed.

    Parameters: voter_share, the voters' share of a budget in basis points.
    """

    parameters: ClassVar[Mapping[str, Parameter]] = {"voter_share": Parameter(3_000, 0, 10_000)}
    scores_proposals: ClassVar[bool] = True
    scores_candidate: ClassVar[bool] = True

    def accepts(self, outcome: Outcome) -> bool:
        """Score of the candidate >= -band."""
        consensus = outcome.candidate.consensus
        return consensus is not None and consensus.score >= -consensus.band

    def rewards(self, outcome: Outcome, accepted: bool) -> dict[int, int]:
        """Voters by closeness over their seats, proposers by (score - band) over their seats."""
        for_voters = outcome.budget * outcome.state.terms.mechanism_parameters["voter_share"] // 10_000
        rewards = share_out(for_voters, self._voter_weights(outcome))
        if accepted:
            seats = outcome.roles.proposer_seats
            value = {
                proposal.member: (proposal.consensus.score - proposal.consensus.band) * seats[proposal.member]
                for proposal in outcome.accepted_proposals
                if proposal.consensus
            }
            rewards |= share_out(outcome.budget - for_voters, value)
        return rewards

    def slashed(self, outcome: Outcome, accepted: bool) -> dict[int, str]:
        """Proposers of harmful updates."""
        return {proposal.member: "harmful" for proposal in outcome.proposals if proposal.status == "harmful"}

    @staticmethod
    def _voter_weights(outcome: Outcome) -> dict[int, int]:
        scored = [proposal.consensus for proposal in outcome.proposals if proposal.consensus]
        seats = outcome.roles.voter_seats
        if not scored:
            return {voter: seats[voter] for voter in sorted(outcome.present)}
        return {
            voter: seats[voter]
            * sum(closeness(consensus.gains[voter], consensus) for consensus in scored if voter in consensus.gains)
            for voter in sorted(outcome.present)
        }


class Flock(_Plain):
    """FLock's published rules: one vote on the mean of the valid proposals, whose fate all proposers share.

    Summed vote >= 0: proposers and agreeing voters earn pool / (epochs left) * stake share of the round, the others
    are slashed; < 0: the reverse.

    Parameters: solvent, 1 to lower the pool by what was paid, 0 for the historic form, which does not and so promises
    more than it holds.
    """

    parameters: ClassVar[Mapping[str, Parameter]] = {"solvent": Parameter(1, 0, 1)}
    scores_proposals: ClassVar[bool] = False
    scores_candidate: ClassVar[bool] = True

    def accepts(self, outcome: Outcome) -> bool:
        """Whether the signs of the seats' scores sum to 0 or more."""
        return self._summed_vote(outcome) >= 0

    def rewards(self, outcome: Outcome, accepted: bool) -> dict[int, int]:
        """Round reward by stake share: proposers when accepted, voters in the majority."""
        if outcome.candidate.consensus is None:
            return {}
        state, roles = outcome.state, outcome.roles
        round_stake = sum(state.members[member].stake for member in {*roles.voters, *roles.proposers})
        winners = {voter for voter, vote in self._votes(outcome).items() if (vote >= 0) == accepted}
        if accepted:
            winners |= {proposal.member for proposal in outcome.accepted_proposals}
        if not round_stake:
            return {}
        return {member: outcome.budget * state.members[member].stake // round_stake for member in sorted(winners)}

    def slashed(self, outcome: Outcome, accepted: bool) -> dict[int, str]:
        """Voters in the minority, and every proposer of a rejected candidate."""
        losers = {voter: "minority" for voter, vote in self._votes(outcome).items() if (vote >= 0) != accepted}
        if not accepted and outcome.candidate.consensus is not None:
            losers |= {proposal.member: "rejected" for proposal in outcome.accepted_proposals}
        return losers

    def promises_more(self, terms: Terms) -> bool:
        """In its historic form."""
        return not terms.mechanism_parameters["solvent"]

    @staticmethod
    def _votes(outcome: Outcome) -> Mapping[int, int]:
        return outcome.candidate.consensus.gains if outcome.candidate.consensus else {}

    def _summed_vote(self, outcome: Outcome) -> int:
        seats = outcome.roles.voter_seats
        return sum(seats[voter] * (1 if gain >= 0 else -1) for voter, gain in self._votes(outcome).items())


class Open(_Plain):
    """No scores: every valid proposal is accepted and paid the same per seat. For benchmarks and trusted consortia."""

    scores_proposals: ClassVar[bool] = False
    scores_candidate: ClassVar[bool] = False

    def accepts(self, outcome: Outcome) -> bool:
        """Always."""
        return True

    def rewards(self, outcome: Outcome, accepted: bool) -> dict[int, int]:
        """The budget over the proposer seats of valid proposals."""
        seats = outcome.roles.proposer_seats
        valid = outcome.accepted_proposals if accepted else ()
        return share_out(outcome.budget, {proposal.member: seats[proposal.member] for proposal in valid})

    def slashed(self, outcome: Outcome, accepted: bool) -> dict[int, str]:
        """Nobody."""
        return {}


MECHANISMS: dict[str, Mechanism] = {"marginal": Marginal(), "flock": Flock(), "open": Open()}


def get_mechanism(name: str) -> Mechanism:
    """The mechanism of that name.

    Raises:
        ValueError: with the names that exist.
    """
    if name not in MECHANISMS:
        raise ValueError(f"mechanism.name is {name!r}; it must be one of {', '.join(MECHANISMS)}")
    return MECHANISMS[name]
