"""Sketches of adapters: what tells a copy whatever its factors, its rank and its scale.

A sketch holds P^T (B A) Q of each layer, with P and Q of random signs: it depends on the product only, so the gauge
(B M, M^-1 A) and zero padding change nothing (Johnson-Lindenstrauss; signs: Achlioptas 2003). The signs come from the
day's seed, which nobody knew when adapters were committed, so nobody can hide a change from them. Two layers are
compared by the sine of the angle between their sketches, which a common factor does not change, and two adapters by
the lower quartile over layers, which only a change of three quarters of the layers moves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

from flock_ray.lora.serialization import LORA_A, LORA_B, Adapter, Shapes

MILLION = 1_000_000
FAR = MILLION
"""The largest distance: a right angle."""

_PROBES = 12
_NOTHING = 1e-12  # norm of a layer that does nothing

Sketch = torch.Tensor
"""[layers, probes * probes] float64, layers by sorted key."""


class Sketcher:
    """Makes sketches that can be compared with each other: of one model and one seed."""

    def __init__(self, shapes: Shapes, seed: bytes) -> None:
        """Draw the probes.

        Args:
            shapes: key -> shape of all layers, of any rank.
            seed: 32 bytes, the day's shuffle.
        """
        self._layers = [key.removesuffix(LORA_A) for key in sorted(shapes) if key.endswith(LORA_A)]
        self._inputs = {name: _signs(seed, name + LORA_A, shapes[name + LORA_A][1]) for name in self._layers}
        self._outputs = {name: _signs(seed, name + LORA_B, shapes[name + LORA_B][0]) for name in self._layers}

    def sketch(self, adapter: Adapter) -> Sketch:
        """The sketch of an adapter with factors for every layer."""
        rows = []
        for name in self._layers:
            a, b = adapter[name + LORA_A].double(), adapter[name + LORA_B].double()
            rows.append(((self._outputs[name].T @ b) @ (a @ self._inputs[name])).reshape(-1))
        return torch.stack(rows)


def _signs(seed: bytes, key: str, size: int) -> torch.Tensor:
    """[size, probes] of +1 and -1, the same on every machine."""
    bits = hashlib.shake_256(b"flock_ray/contest/sketch/1" + seed + key.encode()).digest(-(-size * _PROBES // 8))
    signs = np.unpackbits(np.frombuffer(bits, np.uint8))[: size * _PROBES].astype(np.float64) * 2 - 1
    return torch.from_numpy(signs).view(size, _PROBES)


def distance(one: Sketch, other: Sketch) -> int:
    """How far apart two adapters are, in millionths: the lower quartile over layers of the sine of their angle.

    Layers in which both do nothing do not count; one in which only one does something is as far as can be. Two adapters
    that do nothing at all are the same.
    """
    norms, others = one.norm(dim=1), other.norm(dim=1)
    active = (norms > _NOTHING) | (others > _NOTHING)
    if not bool(active.any()):
        return 0
    cosines = (one * other).sum(dim=1)[active] / (norms * others).clamp_min(_NOTHING**2)[active]
    sines = (1 - cosines.clamp(-1, 1) ** 2).sqrt()
    sines[(norms <= _NOTHING)[active] | (others <= _NOTHING)[active]] = 1.0
    return round(float(sines.sort().values[(len(sines) - 1) // 4]) * MILLION)


def earliest_within(sketch: Sketch, earlier: Sequence[Sketch], limit: int) -> int | None:
    """Index of the first of `earlier` within a distance of `limit` millionths, None if all are further."""
    return next((index for index, one in enumerate(earlier) if distance(sketch, one) <= limit), None)
