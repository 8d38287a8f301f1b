"""What an update adds to what is public, against dense float64 algebra, and for the most hostile values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flock_ray.lora.algebra import add, subtract
from flock_ray.lora.fixed_point import dequantize, quantize
from flock_ray.lora.gram import inner_products
from flock_ray.lora.known_moves import MAX_UPDATE, KnownMoves, Split, cholesky, solve_cholesky
from flock_ray.lora.serialization import Adapter, adapter_hash, flat
from tests.lora.test_gram import SHAPES, adapter, on_grid

RIDGE = 1e-6
seeds = st.integers(0, 2**32)
Vector = NDArray[np.float64]


def scaled(one: Adapter, factor: float) -> Adapter:
    return {key: on_grid(values * factor) for key, values in one.items()}


def route(moves: list[Adapter], start: int = 0) -> list[Adapter]:
    """Adapters that these moves lead through."""
    adapters = [scaled(adapter(start), 0.1)]
    for move in moves:
        adapters.append(add(adapters[-1], move))
    return adapters


def split(moves: list[Adapter], update: Adapter) -> Split:
    [result] = KnownMoves(route(moves)).split([update])
    return result


def vector(one: Adapter) -> Vector:
    """Grid points."""
    points: Vector = quantize(flat(one)).double().numpy()
    return points


def length(one: Adapter) -> float:
    return float(np.linalg.norm(vector(one)))


def dense(moves: list[Adapter], update: Adapter) -> tuple[Vector, Vector]:
    """(residual, what enters) in float64, without grid and without rounded products."""
    rows, own = np.stack([vector(move) for move in moves]), vector(update)
    lengths = np.linalg.norm(rows, axis=1)
    unit = rows / lengths[:, None]
    shares = np.linalg.solve(unit @ unit.T + RIDGE * np.eye(len(rows)), unit @ own)
    public = shares @ unit
    residual = own - public
    size = float(np.linalg.norm(public))
    return residual, residual + public * (min(1.0, float(np.linalg.norm(residual)) / size) if size else 0.0)


def moves_of(parts: list[int], scale: float = 0.01) -> list[Adapter]:
    return [scaled(adapter(seed), scale) for seed in parts]


MOVES = st.lists(seeds, min_size=1, max_size=5, unique=True).map(moves_of)


@settings(max_examples=30)
@given(MOVES, seeds, st.floats(1e-3, 1), st.floats(-3, 3))
def test_an_update_is_split_as_by_dense_algebra(moves: list[Adapter], seed: int, scale: float, part: float) -> None:
    update = add(scaled(adapter(seed), scale), scaled(moves[-1], part))
    ours, (residual, entering) = split(moves, update), dense(moves, update)
    near = 1e-4 * length(update) + 4
    assert float(np.linalg.norm(vector(ours.residual) - residual)) < near
    assert float(np.linalg.norm(vector(ours.entering) - entering)) < near


def test_a_small_one_by_hand() -> None:
    """One move of (3, 4) grid points, an update of (30, 41): b = |c| rounded, and what is left of it is across."""
    key_a, key_b = "x.lora_A.weight", "x.lora_B.weight"

    def pair(first: int, second: int) -> Adapter:
        return {key_a: dequantize(torch.tensor([[first]])), key_b: dequantize(torch.tensor([[second]]))}

    [made] = KnownMoves([pair(1, 1), pair(4, 5)]).split([pair(30, 41)])
    share = round((3 * 30 + 4 * 41) / 25 / (1 + RIDGE) * 2**20) / 2**20
    public = round(3 * share), round(4 * share)
    assert public == (30, 41)  # 30.48, 40.64
    assert (vector(made.residual) == 0).all() and (vector(made.entering) == 0).all()
    [made] = KnownMoves([pair(1, 1), pair(4, 5)]).split([pair(-40, 30)])  # across: nothing of it is public
    assert vector(made.residual).tolist() == vector(made.entering).tolist() == [-40, 30]
    [made] = KnownMoves([pair(1, 1), pair(4, 5)]).split([pair(30 - 4, 40 + 3)])  # 10 moves and 1 across
    assert vector(made.residual).tolist() == [-4, 3]
    assert vector(made.entering).tolist() == [-4 + 3, 3 + 4]  # 50 long, cut to 5


@settings(max_examples=30)
@given(MOVES, st.lists(st.floats(-20, 20), min_size=5, max_size=5))
def test_of_resubmitted_moves_next_to_nothing_is_left(moves: list[Adapter], parts: list[float]) -> None:
    update = scaled(moves[0], parts[0])
    for move, part in zip(moves[1:], parts[1:], strict=False):
        update = add(update, scaled(move, part))
    made = split(moves, update)
    assert length(made.residual) <= 1e-3 * length(update) + 2 * math.sqrt(len(vector(update)))
    assert length(made.entering) <= 2.5 * length(made.residual) + 1


@settings(max_examples=30)
@given(MOVES, seeds, st.floats(-30, 30))
def test_the_public_part_of_what_enters_is_at_most_as_long_as_what_is_new(
    moves: list[Adapter], seed: int, part: float
) -> None:
    made = split(moves, add(scaled(adapter(seed), 0.003), scaled(moves[0], part)))
    public = subtract(made.entering, made.residual)
    assert length(public) <= length(made.residual) * (1 + 1e-4) + math.sqrt(len(vector(public)))


@given(MOVES, seeds)
def test_adding_a_move_to_an_update_changes_little_of_its_residual(moves: list[Adapter], seed: int) -> None:
    update = scaled(adapter(seed), 0.01)
    plain, shifted = split(moves, update), split(moves, add(update, moves[0]))
    assert length(subtract(plain.residual, shifted.residual)) <= 1e-3 * length(update) + 40


@given(MOVES, st.lists(seeds, min_size=1, max_size=4))
def test_updates_split_together_are_split_as_alone(moves: list[Adapter], parts: list[int]) -> None:
    known, updates = KnownMoves(route(moves)), [scaled(adapter(seed), 0.02) for seed in parts]
    together = list(known.split(updates))
    alone = [split(moves, update) for update in updates]
    for one, other in zip(together, alone, strict=True):
        assert adapter_hash(one.residual) == adapter_hash(other.residual)
        assert adapter_hash(one.entering) == adapter_hash(other.entering)


def test_without_moves_the_whole_update_is_new() -> None:
    update = adapter(3)
    zero = scaled(update, 0.0)
    for adapters in (route([]), route([zero]), route([zero, zero])):
        [made] = KnownMoves(adapters).split([update])
        assert adapter_hash(made.residual) == adapter_hash(made.entering) == adapter_hash(update)
    [made] = KnownMoves(route([update])).split([zero])
    assert not flat(made.residual).any() and not flat(made.entering).any()


def filled_with(value: float) -> Adapter:
    return {key: torch.full(shape, value) for key, shape in SHAPES.items()}


@pytest.mark.parametrize("size", [2.0**18, -(2.0**18), 2.0**-24, 64.0])
@pytest.mark.parametrize("start", [2.0**28, 0.5])
@pytest.mark.parametrize("step", [-(2.0**29), -(2.0**-24), 2.0**-24])
def test_no_values_that_may_come_raise_or_leave_the_range(size: float, start: float, step: float) -> None:
    first = filled_with(start)
    second = filled_with(max(-(2.0**28), min(2.0**28, start + step)))
    one_entry = {key: values.clone() for key, values in second.items()}
    next(iter(one_entry.values()))[0, 0] = 7.0
    known = KnownMoves([first, second, one_entry, second, first])
    for update in (filled_with(size), scaled(adapter(1), 2.0**14)):
        [made] = known.split([update])
        for part in (made.residual, made.entering):
            assert vector(part).max() <= MAX_UPDATE and vector(part).min() >= -MAX_UPDATE


def test_the_same_move_many_times_is_one_move() -> None:
    move, update = scaled(adapter(2), 0.01), scaled(adapter(5), 0.02)
    once, often = split([move], update), split([move] * 9, update)
    assert length(subtract(once.residual, often.residual)) <= 1e-4 * length(update) + 20


@given(st.lists(st.lists(st.integers(-(2**20), 2**20), min_size=3, max_size=3), min_size=1, max_size=4))
def test_inner_products_of_short_integers_are_exact(rows: list[list[int]]) -> None:
    table = np.array(rows, dtype=np.float64)
    exact = [[sum(a * b for a, b in zip(one, other, strict=True)) for other in rows] for one in rows]
    assert inner_products([table]) == exact
    doubled = [[2 * value for value in row] for row in exact]
    assert inner_products([table, table]) == doubled


@settings(max_examples=50)
@given(st.integers(1, 12), seeds)
def test_cholesky_solves(size: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    root = generator.normal(size=(size, size))
    matrix, right = root @ root.T + np.eye(size), generator.normal(size=size)
    found = solve_cholesky(cholesky(matrix.tolist()), right.tolist())
    assert np.allclose(found, np.linalg.solve(matrix, right), rtol=1e-8, atol=1e-8)


def test_a_pivot_below_the_least_is_raised_to_it() -> None:
    assert cholesky([[1.0, 1.0], [1.0, 1.0]])[1] == [1.0, 1e-6]
