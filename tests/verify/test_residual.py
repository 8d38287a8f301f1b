"""What the verifier takes for new in an update, by values computed by hand."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flock_ray.lora.fixed_point import SCALE, dequantize, quantize
from flock_ray.lora.known_moves import KnownMoves
from flock_ray.lora.serialization import LORA_A, LORA_B, Adapter
from flock_ray.verify import residual
from flock_ray.verify.residual import Public, Vector, cholesky, inner_products, length, moves_between, solved, vector_of


def vector(*factors: list[int]) -> Vector:
    return [np.array(factor, np.float64) for factor in factors]


def values(parts: Vector) -> list[list[int]]:
    return [[int(value) for value in part.ravel()] for part in parts]


def product(left: Vector, right: Vector) -> float:
    [[value]] = inner_products([left], [right])
    return value


def test_small_integers_have_their_inner_product() -> None:
    left, right = vector([1, 2], [3]), vector([4, -5], [6])
    assert product(left, right) == 4 - 10 + 18
    assert inner_products([left, right], [right, left, right]) == [[12, 14, 12], [77, 12, 77]]
    assert length(right) == math.sqrt(77)
    assert inner_products([], []) == []


@pytest.mark.parametrize(
    ("size", "bits"), [(1, 26), (2, 26), (3, 25), (4, 25), (5, 25), (8, 25), (9, 24), (2**11, 21), (2**11 + 1, 20)]
)
def test_the_largest_entry_of_a_factor_has_as_many_bits_as_its_size_lets_it(size: int, bits: int) -> None:
    def first_entry(value: int) -> int:
        one, unit = np.zeros(size), np.zeros(size)
        one[0], unit[0] = value, 1
        return int(product([one], [unit]))

    whole = 2**bits
    assert first_entry(whole - 1) == whole - 1
    assert first_entry(whole) == whole
    assert first_entry(whole + 1) == whole  # a bit more: divided by 2, and half rounds to the even one below
    assert first_entry(whole + 3) == whole + 4
    assert first_entry(-whole - 3) == -whole - 4
    assert first_entry(2 * whole - 1) == 2 * whole  # rounded up to one bit more


def test_each_factor_is_cut_by_itself() -> None:
    unit = vector([1, 1], [1, 1])
    assert product(vector([2**52, 1], [3, 0]), unit) == 2**52 + 3  # 1 is lost beside 2^52, 3 is not
    assert product(vector([2**52, 1], [0, 0]), unit) == 2**52
    assert product(vector([2**40, 0]), vector([2**40 + 2**10, 5])) == 2**80  # both are


def test_the_factors_sums_are_rounded_once() -> None:
    """2^53 + 1 and 1 - 2^53 would each lose the 1 if they were added up one after the other."""
    left, right = vector([2**26], [1], [2**26], [1]), vector([2**26 + 2], [1], [-(2**26)], [1])
    assert product(left, right) == 2 + 2**27


def test_a_symmetric_matrix_has_its_root_and_solution() -> None:
    lower = cholesky([[4.0, 2.0, -2.0], [2.0, 5.0, 3.0], [-2.0, 3.0, 14.0]])
    assert lower == [[2.0], [1.0, 2.0], [-1.0, 2.0, 3.0]]
    assert solved(lower, [2.0, 12.0, 46.0]) == [3.125, -1.25, 4.0]
    assert solved([[2.0], [1.0, 2.0]], [8.0, 9.0]) == [1.375, 1.25]
    assert cholesky([]) == [] and solved([], []) == []


def test_under_a_root_stands_no_less_than_10_to_the_minus_12() -> None:
    assert cholesky([[0.0]]) == [[math.sqrt(1e-12)]]
    assert cholesky([[1.0, 2.0], [2.0, 1.0]]) == [[1.0], [2.0, math.sqrt(1e-12)]]


def test_each_bracket_is_rounded_once() -> None:
    """1 - 10^16 + 10^16, which is 0 if it is added up one after the other."""
    assert solved([[1.0], [0.0, 1.0], [1e8, -1e8, 1.0]], [1e8, 1e8, 1.0])[2] == 1.0


def test_an_update_is_split_as_by_hand() -> None:
    """One move of length 2^20; the update goes twice as far along it, and as far across.

    The share is 2 / (1 + 10^-6) = 1.999998000002, 2097149.9 of 2^-20, so 2097150 of the move's 2^20 grid points.
    """
    residual_, entering = Public([vector([2**20, 0])]).split(vector([2**21, 2**20]))
    assert values(residual_) == [[2, 2**20]]
    assert values(entering) == [[2 + 2**20, 2**20]]  # the public part as long as the residual: 1048576.000002


def test_a_public_part_that_is_shorter_than_the_rest_enters_whole() -> None:
    _, entering = Public([vector([2**20, 0])]).split(vector([2**19, 2**20]))
    assert values(entering) == [[2**19, 2**20]]


def test_two_moves_are_solved_for_together() -> None:
    """The update is the second move; only by solving for both does the first one get no share."""
    first, second = vector([2**30, 0]), vector([2**30, 2**30])
    residual_, _ = Public([first, second]).split(vector([2**20, 2**20]))
    assert all(abs(value) < 8 for value in values(residual_)[0])


def test_without_a_public_part_all_enters() -> None:
    update, across = vector([7, 0], [3]), vector([0, 5], [0])
    for public in (Public([]), Public([vector([0, 0], [0])]), Public([across]), Public([across, vector([0, 0], [0])])):
        for part in public.split(update):
            assert values(part) == [[7, 0], [3]]
    for part in Public([across]).split(vector([0, 0], [0])):
        assert values(part) == [[0, 0], [0]]


def test_what_is_public_hardly_enters() -> None:
    move = vector([2**20, -(2**21)], [2**19])
    residual_, entering = Public([move, move, move]).split([3 * factor for factor in move])
    assert length(residual_) < 10 and length(entering) < 20


def test_entries_are_clamped() -> None:
    """All 16 entries of the update are as large as can be; its public part is 4 * 19 / 31 times as large in one."""
    most = 2**42
    move = vector([4 * 2**20, *[2**20] * 15])
    residual_, _ = Public([move]).split(vector([most] * 16))
    first, *others = values(residual_)[0]
    assert first == 0
    assert all(other == pytest.approx(most * 12 / 31, rel=1e-5) for other in others)
    residual_, entering = Public([move]).split(vector([-most, *[most] * 15]))
    assert values(residual_)[0][0] == -most
    assert -most < values(entering)[0][0] < most
    _, entering = Public([vector([2**20, 0])]).split(vector([most, most]))
    assert max(values(entering)[0]) <= most


def adapter(*points: int) -> Adapter:
    half = len(points) // 2
    return {
        "layer" + LORA_B: torch.tensor(points[half:], dtype=torch.float32).view(-1, 1) / SCALE,
        "layer" + LORA_A: torch.tensor(points[:half], dtype=torch.float32).view(1, -1) / SCALE,
    }


def test_factors_are_in_the_order_of_their_keys_and_moves_between_neighbours() -> None:
    assert values(vector_of(adapter(1, 2, 3, 4))) == [[1, 2], [3, 4]]
    moves = moves_between([adapter(1, 2, 3, 4), adapter(1, 5, 3, 4), adapter(0, 0, 0, 0)])
    assert [values(move) for move in moves] == [[[0, 3], [0, 0]], [[-1, -5], [-3, -4]]]
    assert moves_between([adapter(1, 2)]) == []


def test_what_enters_is_an_adapter_again() -> None:
    moves = moves_between([adapter(0, 0, 0, 0), adapter(2**20, 0, 0, 0)])
    entering = Public(moves).entering(adapter(2**21, 2**20, 0, 0))
    assert entering["layer" + LORA_A].dtype == torch.float32 and entering["layer" + LORA_A].shape == (1, 2)
    assert values(vector_of(entering)) == [[2 + 2**20, 2**20], [0, 0]]
    with pytest.raises(ValueError, match="not finite"):
        Public(moves).entering({key: factor * math.inf for key, factor in adapter(1, 1, 1, 1).items()})


@given(st.lists(st.lists(st.integers(-(2**24), 2**24), min_size=6, max_size=6), min_size=1, max_size=4))
def test_a_residual_is_at_right_angles_to_what_is_public(rows: list[list[int]]) -> None:
    *moves, update = [vector(row[:4], row[4:]) for row in rows]
    residual_, entering = Public(moves).split(update)
    for move in moves:
        if length(move):
            cosine = product(move, residual_) / length(move) / max(1.0, length(update))
            assert abs(cosine) < 1e-2 or length(residual_) < 16
    assert length(residual_) <= length(update) * (1 + 1e-3) + 16
    public = [own - rest for own, rest in zip(update, residual_, strict=True)]
    if length(public):
        kept = min(1.0, length(residual_) / length(public))
        for part, rest, known in zip(entering, residual_, public, strict=True):
            assert list(part) == [r + round(Fraction(float(p * kept))) for r, p in zip(rest, known, strict=True)]


def drawn(random: np.random.Generator, sizes: tuple[int, int]) -> Adapter:
    """Two factors of values of many magnitudes, some with a few that are far larger than the others."""
    found = {}
    for suffix, size in zip((LORA_A, LORA_B), sizes, strict=True):
        row = random.standard_normal(size) * 2.0 ** random.integers(-26, 4)
        row[random.random(size) < random.choice([0, 0, 0.1])] *= 2.0 ** random.integers(0, 13)
        kept = torch.from_numpy(row * random.choice([0, 1, 1, 1, 1])).float().clamp(-(2.0**18), 2.0**18)
        found["layer" + suffix] = dequantize(quantize(kept)).view(-1, 1 if suffix == LORA_B else size)
    return found


def mixed(random: np.random.Generator, adapters: list[Adapter], own: Adapter) -> Adapter:
    """An update that is mostly what others were, as far as a wire format lets it go."""
    shares = [random.choice([0.0, 0.0, 1.0, -0.5, 40.0]) for _ in adapters]
    return {
        key: (own[key] + sum(share * other[key] for share, other in zip(shares, adapters, strict=True))).clamp(
            -(2.0**18), 2.0**18
        )
        for key in own
    }


def test_members_clamp_as_the_verifier_does() -> None:
    """The public part is 2.45 times as large in one entry as any format lets an update be."""
    most, unit = 2.0**18, torch.ones(1, 16)
    zeros = {"layer" + LORA_A: 0 * unit, "layer" + LORA_B: unit.T.contiguous()}
    longer = torch.tensor([[4.0, *[1.0] * 15]])
    adapters = [zeros, {**zeros, "layer" + LORA_A: longer}]
    for first in (most, -most):
        row = torch.tensor([[first, *[most] * 15]])
        update = {"layer" + LORA_A: row, "layer" + LORA_B: 0 * unit.T.contiguous()}
        residual_, entering = Public(moves_between(adapters)).split(vector_of(update))
        assert residual_[0][0][0] in (0, -(2**42))
        [theirs] = KnownMoves(adapters).split([update])
        for ours, split in ((residual_, theirs.residual), (entering, theirs.entering)):
            for part, factor in zip(ours, split.values(), strict=True):
                assert torch.equal(dequantize(torch.from_numpy(part).long()), factor.reshape(part.shape))


@pytest.mark.parametrize("seed", range(60))
def test_members_split_updates_as_the_verifier_does(seed: int) -> None:
    random = np.random.default_rng(seed)
    sizes = (int(random.integers(1, 40)), int(random.choice([1, 3, 8, 2_100])))
    adapters = [drawn(random, sizes)]
    for _ in range(seed % 7):
        step = random.choice(["new", "same", "again", "near"])
        last = adapters[-1]
        if step == "same":
            adapters.append(last)
        elif step == "again" and len(adapters) > 1:
            adapters.append({key: (2 * last[key] - adapters[-2][key]).clamp(-(2.0**20), 2.0**20) for key in last})
        elif step == "near":
            adapters.append({key: last[key] + 2.0**-20 * torch.sign(last[key]) for key in last})
        else:
            adapters.append({key: last[key] + other for key, other in drawn(random, sizes).items()})
    updates = [mixed(random, adapters, drawn(random, sizes)) for _ in range(4)]
    updates.append({key: 0 * factor for key, factor in updates[0].items()})
    public = Public(moves_between(adapters))
    for update, theirs in zip(updates, KnownMoves(adapters).split(updates), strict=True):
        residual_, entering = public.split(vector_of(update))
        for ours, split in ((residual_, theirs.residual), (entering, theirs.entering)):
            assert list(split) == sorted(update)
            for part, factor in zip(ours, split.values(), strict=True):
                assert torch.equal(dequantize(torch.from_numpy(part).long()), factor.reshape(part.shape))
        entered = public.entering(update)
        assert all(torch.equal(entered[key], theirs.entering[key]) for key in update)


@pytest.mark.parametrize(
    ("where", "wrong"),
    [
        ("_DIAGONAL", 1.0),
        ("_SHARE", 2.0**19),
        ("_LARGEST", 2.0**41),
        ("_cut", lambda factors: (np.stack([factor.reshape(-1) for factor in factors]), np.ones(len(factors)))),
        ("length", lambda vector: sum(float(np.linalg.norm(part)) for part in vector)),
    ],
)
def test_a_mistake_in_a_part_changes_the_whole(monkeypatch: pytest.MonkeyPatch, where: str, wrong: object) -> None:
    def splits() -> list[list[list[int]]]:
        found = []
        for seed in range(40):
            random = np.random.default_rng(seed)
            scale = [2**30, 2**38, 2**42][seed % 3]
            moves = [[np.rint(random.standard_normal(12) ** 3 * scale / 100)] for _ in range(1 + seed % 5)]
            moves += moves[:1] * (seed % 2)
            update = [np.rint(np.clip(random.standard_normal(12), -1, 1) * scale)]
            found += [values(part) for part in Public(moves).split(update)]
        return found

    right = splits()
    monkeypatch.setattr(residual, where, wrong)
    assert splits() != right
