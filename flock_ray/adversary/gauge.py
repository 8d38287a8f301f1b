"""Other factors of the same product, which are harmless alone and harmful in a mean of factors."""

from __future__ import annotations

import torch

from flock_ray.adversary.behaviour import Behaviour, Context
from flock_ray.lora.serialization import LORA_A, LORA_B, Adapter


class Rescale(Behaviour):
    """Sends factors A / scale and scale * B in place of A and B.

    The product and so its score are those of the honest update, while the mean of the factors is another one: they are
    defined up to an invertible matrix, and averaging them apart is not averaging products (Sun et al. 2024, "Improving
    LoRA in Privacy-preserving Federated Learning", arXiv:2403.12313, section 3).
    """

    default_scale = 8.0

    def update(self, context: Context, update: Adapter) -> Adapter:
        """Deltas from the global adapter to the factors of the new gauge."""
        start, sent = context.start, dict[str, torch.Tensor]()
        for key_a in sorted(key for key in update if key.endswith(LORA_A)):
            key_b = key_a.removesuffix(LORA_A) + LORA_B
            a, b = (start[key].double() + update[key].double() for key in (key_a, key_b))
            a, b = self._gauge(context, a, b)
            sent[key_a], sent[key_b] = (a - start[key_a].double()).float(), (b - start[key_b].double()).float()
        return dict(sorted(sent.items()))

    def _gauge(self, context: Context, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return a / self.scale, b * self.scale


class Gauge(Rescale):
    """Sends factors Q^-1 A and B Q with a random orthogonal Q, which keeps every norm."""

    default_scale = 1.0

    def _gauge(self, context: Context, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rank = len(a)
        q, _ = torch.linalg.qr(torch.randn(rank, rank, generator=context.common(), dtype=torch.float64))
        return q.T @ a, b @ q
