"""FLock's published rules: the mechanism `flock`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from flock_ray.protocol.mechanism import Outcome, Plain
from flock_ray.protocol.parameters import Parameter
from flock_ray.protocol.state import Terms


class Flock(Plain):
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
