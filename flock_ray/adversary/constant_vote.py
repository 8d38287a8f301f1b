"""Votes that do not depend on what is voted on."""

from __future__ import annotations

from flock_ray.adversary.behaviour import Behaviour, Candidate, Context, Proposal


class AlwaysYes(Behaviour):
    """Measures nothing and reports a gain of `scale` times the highest acceptance band, of everything; 0 says nothing.

    The lazy verifier of Luu et al. 2015, "Demystifying Incentives in the Consensus Computer" (CCS): whoever is not
    checked does not verify.
    """

    default_scale = 2.0

    def vote(self, context: Context) -> int:
        """What it always says."""
        return round(self.scale * context.state.terms.band_ceiling)

    def ballot_a(self, context: Context, proposal: Proposal, gain: int) -> int:
        """The constant."""
        return self.vote(context)

    def ballot_b(self, context: Context, candidate: Candidate, gain: int) -> int:
        """The constant."""
        return self.vote(context)


class AlwaysNo(AlwaysYes):
    """Reports of everything a loss of `scale` times what counts as harmful."""

    def vote(self, context: Context) -> int:
        """What it always says."""
        terms = context.state.terms
        return -round(self.scale * terms.harmful_factor * terms.band_ceiling)
