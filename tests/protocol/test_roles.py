from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flock_ray.protocol.hashing import keccak, tagged
from flock_ray.protocol.roles import Roles, draw_seats, quorum, roles

SEED, TASK = keccak(b"seed"), keccak(b"task")
HASHES = st.binary(min_size=32, max_size=32)


def dense_shuffle(seed: bytes, task: bytes, epoch: int, num_slots: int, num_seats: int) -> list[int]:
    """Fisher-Yates on the whole list, as a textbook has it."""
    slots = list(range(num_slots))
    for i in range(num_seats):
        j = i + int.from_bytes(tagged("flock_ray/roles/1", seed, task, epoch, i), "big") % (num_slots - i)
        slots[i], slots[j] = slots[j], slots[i]
    return slots[:num_seats]


@given(HASHES, HASHES, st.integers(1, 1000), st.integers(1, 60), st.data())
def test_the_sparse_shuffle_is_the_dense_one(
    seed: bytes, task: bytes, epoch: int, num_slots: int, draw: st.DataObject
) -> None:
    num_seats = draw.draw(st.integers(0, num_slots))
    seats = draw_seats(seed, task, epoch, num_slots, num_seats)
    assert list(seats) == dense_shuffle(seed, task, epoch, num_slots, num_seats)
    assert len(set(seats)) == num_seats
    assert all(0 <= slot < num_slots for slot in seats)
    assert seats[: num_seats // 2] == draw_seats(seed, task, epoch, num_slots, num_seats // 2)


def test_known_draws() -> None:
    """Values that `EpochSettlement.drawSeats` gives for the same words."""
    assert draw_seats(SEED, TASK, 1, 8, 8) == (0, 7, 3, 5, 4, 2, 6, 1)
    assert draw_seats(SEED, TASK, 2, 1_000_000, 4) == (948267, 665085, 178120, 270642)
    assert draw_seats(bytes(32), bytes(32), 0, 5, 0) == ()


@pytest.mark.parametrize(("num_slots", "num_seats"), [(3, 4), (0, 1), (3, -1)])
def test_seats_beyond_the_slots_are_refused(num_slots: int, num_seats: int) -> None:
    with pytest.raises(ValueError, match="seats cannot be drawn"):
        draw_seats(SEED, TASK, 1, num_slots, num_seats)


def test_every_slot_is_drawn_alike_on_every_seat() -> None:
    """4,000 draws of 3 of 8 slots: each count of 24 is within five standard deviations of 500."""
    counts = Counter(seat for epoch in range(4_000) for seat in enumerate(draw_seats(SEED, TASK, epoch, 8, 3)))
    deviation = (4_000 * 1 / 8 * 7 / 8) ** 0.5
    assert len(counts) == 24
    assert max(abs(count - 500) for count in counts.values()) < 5 * deviation


def test_each_word_changes_the_draw() -> None:
    draws = {
        draw_seats(seed, task, epoch, 1_000, 10) for seed in (SEED, TASK) for task in (SEED, TASK) for epoch in (1, 2)
    }
    assert len(draws) == 8


@pytest.mark.parametrize(("voters", "needed"), [(1, 1), (2, 2), (3, 3), (4, 3), (5, 4), (6, 5), (7, 5), (10, 7)])
def test_the_quorum_is_more_than_two_thirds(voters: int, needed: int) -> None:
    assert quorum(voters) == needed
    assert 3 * needed > 2 * voters >= 3 * (needed - 1)


OWNERS = st.lists(st.integers(0, 9), min_size=2, max_size=24)


@given(HASHES, st.integers(1, 9), OWNERS, st.data())
def test_first_seats_vote_and_next_seats_propose(
    seed: bytes, epoch: int, owners: list[int], draw: st.DataObject
) -> None:
    num_voters = draw.draw(st.integers(1, len(owners) - 1))
    num_proposers = draw.draw(st.integers(1, 2 * len(owners)))
    drawn = roles(seed, TASK, epoch, owners, num_voters, num_proposers)
    seats = [owners[slot] for slot in dense_shuffle(seed, TASK, epoch, len(owners), len(owners))]
    assert list(drawn.voters) == seats[:num_voters]
    proposers = seats[num_voters : num_voters + num_proposers]
    assert list(drawn.proposers) == [member for member in proposers if member not in drawn.voters]
    assert not set(drawn.voters) & set(drawn.proposers)
    assert sum(drawn.voter_seats.values()) == num_voters
    for member in set(owners):
        role = "voter" if member in drawn.voters else "proposer" if member in drawn.proposers else "observer"
        assert drawn.role(member) == role


def test_a_member_drawn_to_both_votes_only() -> None:
    owners = [0, 0, 1, 1, 2, 2]
    for epoch in range(50):
        drawn = roles(SEED, TASK, epoch, owners, 2, 4)
        assert not set(drawn.voters) & set(drawn.proposers)
        assert len(drawn.proposers) == 4 - sum(2 - seats for seats in drawn.voter_seats.values())


def test_with_few_slots_the_proposers_are_fewer() -> None:
    assert len(roles(SEED, TASK, 1, range(8), 4, 4).proposers) == 4
    assert len(roles(SEED, TASK, 1, range(6), 4, 4).proposers) == 2
    assert len(roles(SEED, TASK, 1, range(5), 4, 4).proposers) == 1


def test_voters_without_a_proposer_are_refused() -> None:
    with pytest.raises(ValueError, match="4 voters need 5 slots or more, there are 4"):
        roles(SEED, TASK, 1, range(4), 4, 4)


def test_seats_count_by_member() -> None:
    drawn = Roles((3, 5, 3, 1), (0, 0, 2))
    assert drawn.voter_seats == {3: 2, 5: 1, 1: 1}
    assert drawn.proposer_seats == {0: 2, 2: 1}
    assert drawn.quorum == 3
