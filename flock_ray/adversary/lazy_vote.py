"""Votes that repeat what was agreed on last."""

from __future__ import annotations

from flock_ray.adversary.behaviour import Behaviour, Candidate, Context, Proposal

_FIRST = 3
"""Highest acceptance bands that it reports before anything was agreed on."""


class LazyVote(Behaviour):
    """Measures nothing and reports `scale` times the lower median of the last epoch's scores, of everything.

    The effort-free equilibrium of peer prediction (Dasgupta & Ghosh 2013, "Crowdsourced Judgement Elicitation with
    Endogenous Proficiency", WWW): scores of an epoch are alike, so the last consensus is near the next.
    """

    def vote(self, context: Context) -> int:
        """What it says of everything."""
        scored = [past.scores for past in reversed(context.known.past) if past.scores]
        if not scored:
            return round(self.scale * _FIRST * context.state.terms.band_ceiling)
        last = sorted(scored[0].values())
        return round(self.scale * last[(len(last) - 1) // 2])

    def ballot_a(self, context: Context, proposal: Proposal, gain: int) -> int:
        """The last median."""
        return self.vote(context)

    def ballot_b(self, context: Context, candidate: Candidate, gain: int) -> int:
        """The last median."""
        return self.vote(context)
