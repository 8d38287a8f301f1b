"""Votes by chance."""

from __future__ import annotations

import torch

from flock_ray.adversary.behaviour import Behaviour, Candidate, Context, Proposal


class RandomVote(Behaviour):
    """Measures nothing and reports normal numbers, of standard deviation `scale` times the highest acceptance band.

    The random raters of Raykar & Yu 2012, "Eliminating Spammers and Ranking Annotators for Crowdsourced Labeling
    Tasks" (JMLR 13).
    """

    def ballot_a(self, context: Context, proposal: Proposal, gain: int) -> int:
        """Of every proposal another number."""
        return self._drawn(context, f"proposal {proposal.proposer}")

    def ballot_b(self, context: Context, candidate: Candidate, gain: int) -> int:
        """Another one."""
        return self._drawn(context, "candidate")

    def _drawn(self, context: Context, what: str) -> int:
        number = torch.randn((), generator=context.own(what), dtype=torch.float64)
        return round(float(number) * self.scale * context.state.terms.band_ceiling)
