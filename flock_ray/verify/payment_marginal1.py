"""`marginal1`: proposers are paid for what they improve, voters for closeness to the consensus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from flock_ray.verify.payment import Outcome, Payment, shares
from flock_ray.verify.scores import Consensus

MILLION = 10**6


class Marginal1Payment(Payment):
    """Voters by closeness to the consensus, accepted proposers by score above the band; both per seat."""

    scored: ClassVar[tuple[bool, bool]] = (True, True)
    bounds: ClassVar[Mapping[str, tuple[int, int]]] = {"voter_share": (0, 10_000)}

    def accepts(self, outcome: Outcome) -> bool:
        """The candidate's score is not below minus its band."""
        consensus = outcome.candidate.consensus
        assert consensus is not None
        return consensus.score >= -consensus.band

    def rewards(self, outcome: Outcome, accepted: bool) -> dict[int, int]:
        """A share for the voters, the rest for proposers unless the candidate was rejected."""
        for_voters = outcome.budget * outcome.state.terms.mechanism_parameters["voter_share"] // 10_000
        rewards = shares(for_voters, _voters_weights(outcome))
        if accepted:
            weights = {}
            for proposal in outcome.contributors:
                assert proposal.consensus is not None
                above_band = proposal.consensus.score - proposal.consensus.band
                weights[proposal.member] = above_band * outcome.seats.proposing[proposal.member]
            rewards |= shares(outcome.budget - for_voters, weights)
        return rewards

    def slashed(self, outcome: Outcome, accepted: bool) -> dict[int, str]:
        """Who proposed harm."""
        return {proposal.member: "harmful" for proposal in outcome.proposals if proposal.status == "harmful"}


def _voters_weights(outcome: Outcome) -> dict[int, int]:
    """Seats times the sum over scored proposals of the closeness, in millionths; the seats alone if none was scored."""
    scored = [proposal.consensus for proposal in outcome.proposals if proposal.consensus]
    weights = {}
    for voter in sorted(outcome.present):
        close = sum(_closeness(consensus.gains[voter], consensus) for consensus in scored if voter in consensus.gains)
        weights[voter] = outcome.seats.voters.count(voter) * (close if scored else 1)
    return weights


def _closeness(own: int, consensus: Consensus) -> int:
    """max(0, 1 - |own - consensus| / (4 max(band, |consensus|))) in millionths; what is taken off is floored."""
    return max(0, MILLION - MILLION * abs(own - consensus.score) // (4 * max(consensus.band, abs(consensus.score))))
