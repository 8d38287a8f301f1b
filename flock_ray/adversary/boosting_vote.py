"""Votes for accomplices and against everybody else."""

from __future__ import annotations

from flock_ray.adversary.behaviour import Behaviour, Context, Proposal

_FAR = 1_000_000
"""Micro-nats a token: beyond every honest score."""


class BoostingVote(Behaviour):
    """Reports a large gain of accomplices' proposals, with `scale` times what it measured, and a large loss of others.

    Self-promotion and bad-mouthing at once (Hoffman et al. 2009, "A Survey of Attack and Defense Techniques for
    Reputation Systems"); with a majority of seats it captures the committee.
    """

    default_scale = 10.0

    def ballot_a(self, context: Context, proposal: Proposal, gain: int) -> int:
        """Up for accomplices, down for others."""
        return round(self.scale * abs(gain)) + _FAR if proposal.proposer in context.accomplices else -_FAR
