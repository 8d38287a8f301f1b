"""A coalition that sends noise and votes for it."""

from __future__ import annotations

import torch

from flock_ray.adversary.behaviour import Behaviour, Context, Proposal
from flock_ray.lora.serialization import Adapter

_OWN = 0.1
"""Size of each one's own noise beside the common one."""


class Collude(Behaviour):
    """All accomplices send the same noise, of the norm of an honest update, and vote for one another.

    Fung et al. 2020, "The Limitations of Federated Learning in Sybil Settings", know sybils by updates that share a
    direction. Each adds a little noise of its own, since copies are slashed. A voter reports `scale` times the
    magnitude of what it measured of an accomplice's proposal, and the truth otherwise.
    """

    default_scale = 3.0

    def update(self, context: Context, update: Adapter) -> Adapter:
        """Noise in place of each factor, with the factor's norm."""
        common, own = context.common(), context.own()
        sent = {}
        for key in sorted(update):
            shape = update[key].shape
            noise = torch.randn(shape, generator=common) + _OWN * torch.randn(shape, generator=own)
            sent[key] = noise * (update[key].norm() / noise.norm())
        return sent

    def ballot_a(self, context: Context, proposal: Proposal, gain: int) -> int:
        """`scale` times the magnitude for an accomplice, rounded half to even."""
        return round(self.scale * abs(gain)) if proposal.proposer in context.accomplices else gain
