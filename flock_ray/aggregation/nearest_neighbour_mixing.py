"""Nearest neighbour mixing, before a rule."""

from __future__ import annotations

from flock_ray.aggregation.geometry import Mixing, squared_distances
from flock_ray.lora.gram import Gram


def nearest_neighbour_mixing(products: Gram, num_malicious: int) -> Mixing:
    """Each update is replaced by the mean of the n - f updates nearest to it, itself among them.

    NNM (Allouah et al. 2023, "Fixing by mixing", arXiv:2302.01772). Makes the rule after it withstand data that differs
    between members, up to a constant as well as any rule can. Ties go to the update that was added first.
    """
    count = len(products)
    kept = count - num_malicious
    rows = []
    for i, distances in enumerate(squared_distances(products)):
        nearest = sorted(range(count), key=lambda j: (j != i, distances[j], j))[:kept]
        rows.append([1 / kept if j in nearest else 0.0 for j in range(count)])
    return rows
