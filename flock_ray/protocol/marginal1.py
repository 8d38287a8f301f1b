"""Payment by marginal value in its simpler form: the mechanism `marginal1`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from flock_ray.protocol.mechanism import Outcome, Plain, share_out
from flock_ray.protocol.parameters import Parameter
from flock_ray.protocol.verdict import Consensus

_UNIT = 1_000_000


def closeness(own: int, consensus: Consensus) -> int:
    """Weight of a voter's score in millionths: max(0, 1 - |own - consensus| / (4 * max(band, |consensus|)))."""
    scale = 4 * max(consensus.band, abs(consensus.score))
    return max(0, _UNIT - abs(own - consensus.score) * _UNIT // scale)


class Marginal1(Plain):
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
