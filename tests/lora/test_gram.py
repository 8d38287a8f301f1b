"""Inner products of updates against dense out x in matrices, and the promise that no machine sees other bits."""

from __future__ import annotations

import random
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flock_ray.lora.fixed_point import dequantize, quantize
from flock_ray.lora.gram import gram
from flock_ray.lora.serialization import LORA_A, LORA_B, Adapter

SHAPES = {
    "layers.0.q.lora_A.weight": (3, 7),
    "layers.0.q.lora_B.weight": (5, 3),
    "layers.1.q.lora_A.weight": (3, 40),
    "layers.1.q.lora_B.weight": (33, 3),
}
seeds = st.integers(0, 2**32)
scales = st.floats(1e-4, 60)


def adapter(seed: int, scale: float = 1.0) -> Adapter:
    """Random factors on the fixed-point grid."""
    generator = torch.Generator().manual_seed(seed)
    return {key: on_grid(scale * torch.randn(shape, generator=generator)) for key, shape in SHAPES.items()}


def on_grid(values: torch.Tensor) -> torch.Tensor:
    return dequantize(quantize(values.float()))


def dense(start: Adapter, update: Adapter) -> NDArray[np.float64]:
    """All entries of the moves of the layers' products, in float64: what is never formed otherwise."""
    moves = []
    for key in sorted(SHAPES):
        if key.endswith(LORA_A):
            key_b = key.removesuffix(LORA_A) + LORA_B
            a, b, da, db = (part.double() for part in (start[key], start[key_b], update[key], update[key_b]))
            moves.append((db @ (a + da) + b @ da).reshape(-1))
    return torch.cat(moves).numpy()


def dense_gram(start: Adapter, updates: list[Adapter]) -> NDArray[np.float64]:
    rows = np.stack([dense(start, update) for update in updates])
    result: NDArray[np.float64] = rows @ rows.T
    return result


@settings(max_examples=30)
@given(seeds, st.floats(0, 1), st.lists(st.tuples(seeds, scales), min_size=1, max_size=5))
def test_inner_products_are_those_of_dense_matrices(seed: int, scale: float, parts: list[tuple[int, float]]) -> None:
    start, updates = adapter(seed, scale), [adapter(one, size) for one, size in parts]
    ours, theirs = np.array(gram(start, updates)), dense_gram(start, updates)
    lengths = np.sqrt(np.diag(theirs))
    assert (np.abs(ours - theirs) <= 1e-5 * np.outer(lengths, lengths)).all()


@settings(max_examples=30)
@given(seeds, st.lists(seeds, min_size=2, max_size=5))
def test_without_large_entries_they_are_exact_up_to_float64(seed: int, parts: list[int]) -> None:
    """Entries of trained adapters are of this size: nothing is rounded before the products."""
    start, updates = adapter(seed, 0.02), [adapter(one, 0.005) for one in parts]
    assert np.array(gram(start, updates)) == pytest.approx(dense_gram(start, updates), rel=1e-12, abs=1e-16)


@settings(max_examples=30)
@given(st.lists(st.tuples(seeds, scales), min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_permuting_updates_permutes_rows_and_columns_and_changes_no_bit(
    parts: list[tuple[int, float]], order: random.Random
) -> None:
    start, updates = adapter(1, 0.3), [adapter(one, size) for one, size in parts]
    places = order.sample(range(len(updates)), len(updates))
    whole, permuted = gram(start, updates), gram(start, [updates[place] for place in places])
    assert permuted == [[whole[i][j] for j in places] for i in places]
    assert all(whole[i][j] == whole[j][i] for i, j in product(range(len(updates)), repeat=2))


@settings(max_examples=30)
@given(seeds, scales, st.randoms(use_true_random=False))
def test_the_order_of_summation_changes_no_bit(seed: int, scale: float, order: random.Random) -> None:
    """Rows of B and columns of A in another order are the same sums, added up otherwise."""

    def shuffled(given: Adapter) -> Adapter:
        return {
            key: factor[:, places[key]] if key.endswith(LORA_A) else factor[places[key]]
            for key, factor in given.items()
        }

    lengths = {key: shape[1] if key.endswith(LORA_A) else shape[0] for key, shape in SHAPES.items()}
    places = {key: order.sample(range(length), length) for key, length in lengths.items()}
    start, updates = adapter(seed, 0.2), [adapter(seed + 1 + i, scale) for i in range(3)]
    assert gram(shuffled(start), [shuffled(update) for update in updates]) == gram(start, updates)


def test_the_number_of_threads_changes_no_bit() -> None:
    script = (
        "import torch; from flock_ray.lora.gram import gram;"
        "g = torch.Generator().manual_seed(3); shapes = {'x.lora_A.weight': (8, 700), 'x.lora_B.weight': (900, 8)};"
        "make = lambda size: {k: size * torch.randn(s, generator=g) for k, s in shapes.items()};"
        "print(gram(make(0.5), [make(2.0) for _ in range(9)]))"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True,
            env={"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads, "PATH": ""},
        ).stdout
        for threads in ("1", "2")
    }  # fmt: skip
    assert len(told) == 1 and len(told.pop()) > 500


@settings(max_examples=30)
@given(seeds, seeds, st.integers(0, 2))
def test_the_basis_of_the_factors_does_not_matter(seed: int, basis: int, member: int) -> None:
    """B Q and Q^-1 A have the product of B and A: one member's choice of Q is not seen."""
    start, updates = adapter(seed, 0.2), [adapter(seed + 1 + i, 0.1) for i in range(3)]
    rotated = dict(updates[member])
    generator = np.random.default_rng(basis)
    for key in (key for key in SHAPES if key.endswith(LORA_A)):
        key_b = key.removesuffix(LORA_A) + LORA_B
        q, _ = np.linalg.qr(generator.normal(size=(3, 3)))
        turn = torch.from_numpy(q @ np.diag(generator.uniform(0.5, 2, 3)))
        a, b = (start[one].double() + updates[member][one].double() for one in (key, key_b))
        rotated[key] = on_grid(torch.linalg.inv(turn) @ a - start[key].double())
        rotated[key_b] = on_grid(b @ turn - start[key_b].double())
    plain = np.array(gram(start, updates))
    turned = np.array(gram(start, [rotated if i == member else update for i, update in enumerate(updates)]))
    lengths = np.sqrt(np.diag(plain))
    assert (np.abs(turned - plain) <= 1e-4 * np.outer(lengths, lengths)).all()


@pytest.mark.parametrize("which", ["start", "update"])
def test_the_largest_entries_that_may_travel_neither_overflow_nor_cancel(which: str) -> None:
    large = {key: torch.full(shape, 2.0**18) for key, shape in SHAPES.items()}
    start = large if which == "start" else adapter(1, 0.1)
    updates = [large if which == "update" else adapter(2, 1.0), adapter(3, 0.1)]
    ours, theirs = np.array(gram(start, updates)), dense_gram(start, updates)
    assert np.isfinite(ours).all()
    assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-3 * np.sqrt(theirs[0, 0] * theirs[1, 1]))


def test_no_update_no_product_and_a_value_out_of_range_is_refused() -> None:
    start, far = adapter(1), adapter(2)
    assert gram(start, []) == []
    far["layers.0.q.lora_B.weight"] = torch.full((5, 3), float("nan"))
    with pytest.raises(ValueError, match="finite"):
        gram(start, [adapter(3), far])
