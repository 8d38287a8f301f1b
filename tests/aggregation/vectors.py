"""Vectors as updates: with A frozen at rows that are orthonormal, the move of a product is as long as that of B."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from flock_ray.aggregation.registry import RULES
from flock_ray.aggregation.rule import Rule, Weighting
from flock_ray.aggregation.start import Start
from flock_ray.lora.fixed_point import SCALE
from flock_ray.lora.serialization import Adapter
from flock_ray.protocol.parameters import filled

A, B = "x.lora_A.weight", "x.lora_B.weight"
Vectors = NDArray[np.float64]
"""[n, size], of an even size."""


def start_of(vectors: Vectors) -> Adapter:
    return {A: torch.eye(2, 3), B: torch.zeros(vectors.shape[1] // 2, 2)}


def updates_of(vectors: Vectors) -> list[Adapter]:
    return [{A: torch.zeros(2, 3), B: torch.from_numpy(row.reshape(-1, 2)).float()} for row in vectors]


def made(name: str, **given: int) -> Rule:
    """The rule of this name, with these parameters and the defaults of the others."""
    return RULES[name](filled(RULES[name].parameters, given, "aggregation.parameters"))


def weigh(rule: Rule, vectors: Vectors) -> Weighting:
    rule.start(Start(start_of(vectors)))
    for update in updates_of(vectors):
        rule.add(update)
    return rule.finish()


def points_of(weighting: Weighting) -> torch.Tensor:
    """What the candidate adds to the start, where the rule made it itself or summed the updates."""
    if weighting.points is not None:
        return weighting.points
    assert weighting.total is not None
    return weighting.total.over(weighting.denominator)


def combined(name: str, vectors: Vectors, **given: int) -> Vectors:
    """What the rule makes of the vectors, read from the points that it adds to the start."""
    weighting = weigh(made(name, **given), vectors)
    entries: Vectors = points_of(weighting)[6:].double().numpy() / SCALE  # after the six of A
    return entries


def random_vectors(seed: int, count: int, size: int = 16, spread: float = 0.3) -> Vectors:
    """On the grid, around a common point: what honest members send whose data differ."""
    generator = np.random.default_rng(seed)
    values = 0.2 + spread * generator.normal(size=(count, size))
    result: Vectors = np.rint(values * 2**16) / 2**16
    return result


def far_away(vectors: Vectors, which: Sequence[int], by: float) -> Vectors:
    """The vectors with some of them moved far away, all in one direction."""
    moved = vectors.copy()
    moved[list(which)] = -by
    return moved
