"""Ballots that are committed to and never opened."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from flock_ray.adversary.behaviour import Behaviour, Context
from flock_ray.protocol.message import Kind, Message


class WithheldReveal(Behaviour):
    """Does not open its ballot B, and so keeps back its part of the next seed, in a share `scale` of the epochs.

    The last revealer of commit-and-reveal randomness (Syta et al. 2017, "Scalable Bias-Resistant Distributed
    Randomness", IEEE S&P). More than V - q seats that withhold leave an epoch without a candidate.
    """

    def messages(self, context: Context, message: Message) -> Sequence[Message]:
        """All but the ballot B."""
        if message.kind is not Kind.BALLOT_B:
            return (message,)
        chance = float(torch.rand((), generator=context.common("withheld"), dtype=torch.float64))
        return () if chance < self.scale else (message,)
