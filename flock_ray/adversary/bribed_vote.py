"""Votes that somebody paid for."""

from __future__ import annotations

from flock_ray.adversary.behaviour import Behaviour, Context, Proposal


class BribedVote(Behaviour):
    """Reports of the briber's proposal `scale` times the highest gain that it measured, and the truth otherwise.

    Buterin 2015, "The P + epsilon Attack": a bribe that is paid for a vote. The briber is the first accomplice; voters
    that are bribed stay close to the consensus on everything else.
    """

    def ballot_a(self, context: Context, proposal: Proposal, gain: int) -> int:
        """The highest gain for the briber, rounded half to even."""
        if proposal.proposer != min(context.accomplices):
            return gain
        return max(gain, round(self.scale * max(proposal.measured.values(), default=gain)))
