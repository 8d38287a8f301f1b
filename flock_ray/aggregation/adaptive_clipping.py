"""Adaptive robust clipping, before a rule."""

from __future__ import annotations

from flock_ray.aggregation.geometry import Mixing, norms
from flock_ray.lora.gram import Gram


def adaptive_clipping(products: Gram, num_malicious: int) -> Mixing:
    """The k = floor(2 (f / n) (n - f)) longest updates are shortened to the length of the next one.

    ARC (Allouah et al. 2025, "Adaptive gradient clipping for robust federated learning", arXiv:2405.14432): a static
    bound would have to be known, and breaks the guarantee of the rule after it; this one keeps it.
    """
    count, lengths = len(products), norms(products)
    bound = sorted(lengths, reverse=True)[2 * num_malicious * (count - num_malicious) // count]
    return [
        [(min(1.0, bound / length) if length else 1.0) if i == j else 0.0 for j in range(count)]
        for i, length in enumerate(lengths)
    ]
