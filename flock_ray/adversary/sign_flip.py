"""Scaled sign flipping."""

from __future__ import annotations

from flock_ray.adversary.behaviour import Behaviour, Candidate, Context, Proposal
from flock_ray.lora.serialization import LORA_B, Adapter


class SignFlip(Behaviour):
    """Sends -scale * its honest update of the weights and votes -scale * its score.

    Li et al. 2019, "RSA: Byzantine-Robust Stochastic Aggregation Methods for Distributed Learning from Heterogeneous
    Datasets" (arXiv:1811.03761): the honest message times a negative constant pulls the mean uphill. The weights move
    by B A, so the sign of B alone is flipped: with both factors flipped the product (-s dB)(A - s dA) keeps a positive
    s^2 dB dA, which near B = 0 can outweigh the flipped part and help the model.
    """

    default_scale = 3.0

    def update(self, context: Context, update: Adapter) -> Adapter:
        """-scale times the deltas of B; those of A stay, so that from B = 0 the product is -scale times the honest."""
        return {key: factor * -self.scale if key.endswith(LORA_B) else factor for key, factor in update.items()}

    def ballot_a(self, context: Context, proposal: Proposal, gain: int) -> int:
        """-scale times the gain, rounded half to even."""
        return round(-self.scale * gain)

    def ballot_b(self, context: Context, candidate: Candidate, gain: int) -> int:
        """-scale times the gain, rounded half to even."""
        return round(-self.scale * gain)
