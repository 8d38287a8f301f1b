"""Updates as vectors: what attacks are made of. Everything is computed in float64 and sent in float32."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from flock_ray.lora.serialization import Adapter


def scaled(update: Adapter, factor: float) -> Adapter:
    """`factor` times an update."""
    return {key: value * factor for key, value in update.items()}


def noise_like(update: Adapter, generator: torch.Generator, relative: float = 1.0) -> Adapter:
    """Gaussian noise in place of each factor, of `relative` times its norm; keys draw in sorted order."""
    noises = {key: torch.randn(update[key].shape, generator=generator) for key in sorted(update)}
    return {key: noise * (relative * update[key].norm() / noise.norm()) for key, noise in noises.items()}


def noised(update: Adapter, generator: torch.Generator, relative: float) -> Adapter:
    """An update with such noise: what two members send is no copy then."""
    noise = noise_like(update, generator, relative)
    return {key: value + noise[key] for key, value in update.items()}


def mean(updates: Sequence[Adapter]) -> Adapter:
    """The mean of updates, at least one."""
    return {key: torch.stack([one[key].double() for one in updates]).mean(0).float() for key in updates[0]}


def deviation(updates: Sequence[Adapter]) -> Adapter:
    """The standard deviation of every entry, over N."""
    return {key: torch.stack([one[key].double() for one in updates]).std(0, correction=0).float() for key in updates[0]}


def combined(left: Adapter, right: Adapter, factor: float) -> Adapter:
    """left + factor * right."""
    return {key: value + factor * right[key] for key, value in left.items()}


def distance(left: Adapter, right: Adapter) -> float:
    """Euclidean distance of all entries."""
    return math.sqrt(math.fsum(float((left[key].double() - right[key].double()).square().sum()) for key in left))


def norm(update: Adapter) -> float:
    """Euclidean norm of all entries."""
    return math.sqrt(math.fsum(float(value.double().square().sum()) for value in update.values()))
