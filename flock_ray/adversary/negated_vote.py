"""Votes turned around."""

from __future__ import annotations

from flock_ray.adversary.behaviour import Behaviour, Context, Proposal


class NegatedVote(Behaviour):
    """Reports -scale times the gain that it measured of each proposal, and the truth of the candidate.

    The adversarial rater of Raykar & Yu 2012 (JMLR 13). As the candidate is judged truly the epoch goes on, and with it
    the voter's pay.
    """

    def ballot_a(self, context: Context, proposal: Proposal, gain: int) -> int:
        """-scale times the gain, rounded half to even."""
        return round(-self.scale * gain)
