"""What a rule by distances costs beside the mean: the inner products of an epoch's updates, in a single thread.

Shapes are those of all linear layers of SmolLM2-135M at rank 8, updates of a size that local training makes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.common import environment, step, store
from flock_ray.aggregation.aggregate import aggregate
from flock_ray.aggregation.registry import RULES
from flock_ray.aggregation.start import Start
from flock_ray.lora.algebra import initial_adapter
from flock_ray.lora.fixed_point import dequantize, quantize
from flock_ray.lora.gram import gram
from flock_ray.lora.serialization import LORA_A, LORA_B, Adapter
from flock_ray.protocol.parameters import filled

LAYERS, RANK = 30, 8
SHAPES = ((576, 576), (192, 576), (192, 576), (576, 576), (1_536, 576), (1_536, 576), (576, 1_536))
"""Outputs and inputs of q, k, v, o, gate, up and down."""
MOVED, GROWN = 2e-3, 0.03  # standard deviations of an update's entries, and of B after some epochs
COMPARED = ("mean", "multi_krum", "geometric_median")


def world(num_layers: int, num_updates: int) -> tuple[Adapter, list[Adapter]]:
    """A start after some epochs, and updates from it."""
    shapes = {}
    for layer in range(num_layers):
        for module, (rows, columns) in enumerate(SHAPES):
            shapes[f"{layer:02}.{module}{LORA_A}"] = (RANK, columns)
            shapes[f"{layer:02}.{module}{LORA_B}"] = (rows, RANK)
    noise = torch.Generator().manual_seed(0)
    start = initial_adapter(shapes, 0)
    for key in start:
        if key.endswith(LORA_B):
            start[key] = dequantize(quantize(GROWN * torch.randn(start[key].shape, generator=noise)))
    updates = [
        {key: dequantize(quantize(MOVED * torch.randn(shape, generator=noise))) for key, shape in shapes.items()}
        for _ in range(num_updates)
    ]
    return start, updates


def relative_error(start: Adapter, updates: Sequence[Adapter]) -> float:
    """Largest difference to products of dense matrices in float64, over the largest product."""
    rows = []
    for update in updates:
        moves = []
        for key in (key for key in start if key.endswith(LORA_A)):
            other = key.removesuffix(LORA_A) + LORA_B
            a, b, da, db = (part.double() for part in (start[key], start[other], update[key], update[other]))
            moves.append((db @ (a + da) + b @ da).reshape(-1))
        rows.append(torch.cat(moves))
    dense = (torch.stack(rows) @ torch.stack(rows).T).numpy()
    return float(np.abs(np.array(gram(start, updates)) - dense).max() / np.abs(dense).max())


def run(quick: bool, overrides: Sequence[str]) -> None:
    """Time the products, and whole rules, and store what came of it."""
    if overrides:
        raise SystemExit("error: this benchmark takes no overrides")
    torch.set_num_threads(1)
    repeats = 3 if quick else 9
    headline, seconds = dict[str, float](), dict[str, list[float]]()
    for number in (8, 16):
        start, updates = world(LAYERS, number)
        with step(f"inner products of {number} updates"):
            seconds[f"gram_{number}"] = []
            for _ in range(repeats):
                began = time.process_time()
                gram(start, updates)
                seconds[f"gram_{number}"].append(time.process_time() - began)
        headline[f"gram_seconds_{number}"] = median(seconds[f"gram_{number}"])
        if number == 8:
            for name in COMPARED:
                rule = RULES[name](filled(RULES[name].parameters, {}, "aggregation.parameters"))
                with step(f"{name} of {number} updates"):
                    seconds[name] = []
                    for _ in range(repeats):
                        began = time.process_time()
                        aggregate(Start(start), rule, updates)
                        seconds[name].append(time.process_time() - began)
                headline[f"{name}_seconds_8"] = median(seconds[name])
    with step("comparing with dense matrices"):
        headline["gram_relative_error"] = relative_error(*world(2, 4))
    result: dict[str, Any] = {"headline": headline, "cpu_seconds": seconds, "environment": environment()}
    store("gram", result, quick)
