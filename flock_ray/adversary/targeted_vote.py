"""Votes against one member."""

from __future__ import annotations

from flock_ray.adversary.behaviour import Behaviour, Context, Proposal
from flock_ray.adversary.past import chosen_victim

_LOSS = 1_000_000
"""Micro-nats a token: far beyond what counts as harmful."""


class TargetedVote(Behaviour):
    """Reports a loss of `scale` nats a token of one honest member's proposals, always its, and the truth otherwise.

    Bad-mouthing in reputation systems (Hoffman et al. 2009, "A Survey of Attack and Defense Techniques for Reputation
    Systems"): a competitor is to be slashed or go unpaid, at little cost to the liar.
    """

    def ballot_a(self, context: Context, proposal: Proposal, gain: int) -> int:
        """The loss for the victim."""
        honest = [member for member in range(len(context.state.members)) if member not in context.accomplices]
        if not honest or proposal.proposer != chosen_victim(context, honest):
            return gain
        return -round(self.scale * _LOSS)
