"""Who has a voice, how accurate a voter is and what it weighs, by values computed by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flock_ray.protocol.state import TaskState
from flock_ray.verify.accuracy import ACCURACY, accuracy_of, moved, voiceless_of, weights_of
from flock_ray.verify.draw import Seats
from flock_ray.verify.scores import Electorate, lower_median, upper_median
from tests.protocol.players import new_task

LEAST = 50  # four proposers


def knowing(accuracies: dict[int, int]) -> TaskState:
    """A task that has kept these accuracies."""
    state = new_task(12)
    members = tuple(
        replace(member, noted={ACCURACY: accuracies[number]} if number in accuracies else {})
        for number, member in enumerate(state.members)
    )
    return replace(state, members=members)


def electorate(voters: tuple[int, ...], voiceless: frozenset[int] = frozenset()) -> Electorate:
    return Electorate(new_task(12), Seats(voters, (8, 9, 10, 11)), voiceless)


def test_medians_of_an_even_number_are_two() -> None:
    assert (lower_median([4, 1, 3, 2]), upper_median([4, 1, 3, 2])) == (2, 3)
    assert (lower_median([5, 1, 3]), upper_median([5, 1, 3])) == (3, 3)
    assert (lower_median([7]), upper_median([7])) == (7, 7)


@pytest.mark.parametrize(
    ("voters", "accuracies", "lost"),
    [
        # u is the larger of the two in the middle, 400; below 100 are 1 and 2, and V // 3 = 2 seats may lose it
        ((0, 1, 2, 3, 4, 5), {0: 400, 1: 99, 2: -5, 3: 100, 4: 400, 5: 900}, {1, 2}),
        # of five that are known it is the middle one
        ((0, 1, 2, 3, 4, 5), {0: 403, 1: 99, 2: 100, 3: 800, 4: 900}, {1}),
        # one of three below: only the lowest two, of the same accuracy the lower member
        ((0, 1, 2, 3, 4, 5, 6), {0: 7, 1: 7, 2: 7, 3: 400, 4: 400, 5: 400, 6: 400}, {0, 1}),
        ((0, 1, 2, 3, 4, 5, 6), {0: 7, 1: 7, 2: 6, 3: 400, 4: 400, 5: 400, 6: 400}, {0, 2}),
        # the second has two seats, which end it, though the third has one
        ((0, 1, 1, 2, 3, 4, 5), {0: 1, 1: 2, 2: 3, 3: 400, 4: 400, 5: 400}, {0}),
        ((0, 1, 1, 2, 3, 4, 5), {0: 2, 1: 1, 2: 3, 3: 400, 4: 400, 5: 400}, {1}),
        # one value a member: with one a seat, the median would be 10
        ((0, 0, 0, 1, 2, 3), {0: 10, 1: 800, 2: 800, 3: 1}, {3}),
        ((0, 0, 0, 1, 2, 3), {0: 10, 1: 800, 2: 800}, set()),
        # who is unknown keeps its voice, and counts in no median
        ((0, 1, 2, 3), {3: -1}, set()),
        ((0, 1, 2, 3), {2: 401, 3: 99}, {3}),
        ((0, 1, 2, 3), {}, set()),
        # below zero: -5 is not below floor(-5 / 4) = -2 of itself alone, but -3 is
        ((0, 1, 2), {0: -3}, {0}),
        ((0, 1, 2), {0: -1}, set()),
        ((0, 1), {0: 800, 1: 0}, set()),  # a third of two seats is none
        ((0, 1, 2, 3), {0: 800, 1: 800, 2: 800, 3: 200}, set()),  # as much as a quarter is enough
    ],
)
def test_the_least_accurate_lose_their_voice(
    voters: tuple[int, ...], accuracies: dict[int, int], lost: set[int]
) -> None:
    assert voiceless_of(knowing(accuracies), Seats(voters, (8, 9))) == lost


def test_of_members_that_vote_alone() -> None:
    state = knowing({5: 1, 0: 800, 1: 800, 2: 800, 3: 800})
    assert voiceless_of(state, Seats((0, 1, 2, 3), (8,))) == set()


def test_scores_of_the_voiceless_count_only_where_there_are_no_others() -> None:
    some = electorate((0, 1, 1, 2), frozenset({1}))
    assert some.counted({0, 1, 2}) == [0, 2]
    assert some.counted({1}) == [1, 1]
    assert some.counted({1, 2}) == [2]
    assert some.counted({5}) == []


def test_a_voter_that_measures_as_the_others_is_accurate() -> None:
    """k_ii = 1 of both; k_01 = 1 - 3000 / 4000 and k_10 = 0, as 3000 is more than the other proposal's 1000."""
    gains = [{0: 1_000, 1: 1_000, 2: 1_000}, {0: 4_000, 1: 4_000, 2: 4_000}]
    assert accuracy_of(0, gains, electorate((0, 1, 2)), LEAST) == 10**6 - 250_000 // 2


def test_a_voter_that_says_the_same_of_all_is_not() -> None:
    """Of 1000 for both: k_00 = k_10 = 1, k_11 = k_01 = 1/4."""
    gains = [{0: 1_000, 1: 1_000, 2: 1_000}, {0: 1_000, 1: 4_000, 2: 4_000}]
    assert accuracy_of(0, gains, electorate((0, 1, 2)), LEAST) == 0


def test_a_voter_that_swaps_proposals_is_worse() -> None:
    gains = [{0: 4_000, 1: 1_000, 2: 1_000}, {0: 1_000, 1: 4_000, 2: 4_000}]
    assert accuracy_of(0, gains, electorate((0, 1, 2)), LEAST) == 250_000 // 2 - 10**6


def test_both_parts_are_floored() -> None:
    """The others' are 3, 100 and 100: differences of 1 are measured by 50, of 200 by 100."""
    gains = [{0: 4, 1: 3}, {0: 101, 1: 100}, {0: 300, 1: 100}]
    near, far = 980_000, 990_000  # 1/50 off 3; 1/100 off 100
    own_0 = [near, 10**6 - 960_000, 10**6 - 960_000]  # 4 by 3, and by 100 twice
    own_1 = [0, far, far]  # 101 by 3: 98/50 off
    own_2 = [0, 0, 0]
    crossed = own_0[1] + own_0[2] + own_1[0] + own_1[2] + own_2[0] + own_2[1]
    expected = (own_0[0] + own_1[1] + own_2[2]) // 3 - crossed // 6
    assert accuracy_of(0, gains, electorate((0, 1)), LEAST) == expected == 656_666 - 178_333
    third = [{0: 0, 1: 0}, {0: 1, 1: 3}]  # 1 by 3 is 1 - 2/50; 0 by 3 is 1 - 3/50; 1 by 0 is 1 - 1/50
    assert accuracy_of(0, third, electorate((0, 1)), LEAST) == (10**6 + 960_000) // 2 - (940_000 + 980_000) // 2


def test_what_is_taken_off_is_floored_too() -> None:
    gains = [{0: 0, 1: 3_000}, {0: 1_000, 1: 3_000}]  # 1 - 2000 / 3000: 1 - 666666 millionths
    fits = [0, 10**6 - 666_666]
    assert accuracy_of(0, gains, electorate((0, 1)), LEAST) == sum(fits) // 2 - sum(fits) // 2
    gains = [{0: 0, 1: 3_000}, {0: 1_000, 1: 1_001}]
    crossed = (0, 10**6 - 666_666)
    matched = (0, 10**6 - 10**6 // 1_001)
    assert accuracy_of(0, gains, electorate((0, 1)), LEAST) == sum(matched) // 2 - sum(crossed) // 2


def test_a_proposal_that_it_did_not_score_fits_nothing() -> None:
    gains = [{0: 1_000, 1: 1_000, 2: 1_000}, {1: 4_000, 2: 4_000}]
    assert accuracy_of(0, gains, electorate((0, 1, 2)), LEAST) == 10**6 // 2 - 250_000 // 2


def test_others_are_measured_without_its_own_seats() -> None:
    """The voter has two seats of five; of the others' 1, 2 and 3 the middle one counts."""
    seated = electorate((0, 0, 1, 2, 3))
    gains = [{0: 2_000, 1: 1_000, 2: 2_000, 3: 3_000}, {0: 9_000, 1: 7_000, 2: 8_000, 3: 9_000}]
    assert accuracy_of(0, gains, seated, LEAST) == (10**6 + 875_000) // 2 - (250_000 + 0) // 2


def test_of_an_even_number_of_others_the_smaller_counts() -> None:
    gains = [{0: 1_000, 1: 1_000, 2: 3_000}, {0: 9_000, 1: 9_000, 2: 20_000}]
    assert accuracy_of(0, gains, electorate((0, 1, 2)), LEAST) == 10**6 - (111_112 + 0) // 2


def test_others_without_a_voice_measure_it_only_where_there_are_no_others() -> None:
    gains = [{0: 1_000, 1: 1_000, 2: 90_000}, {0: 9_000, 2: 9_000}]
    heard = electorate((0, 1, 2), frozenset({2}))
    assert accuracy_of(0, gains, heard, LEAST) == 10**6 - 111_112 // 2
    assert accuracy_of(2, gains, heard, LEAST) == 10**6 // 2  # it is measured itself


def test_nobody_is_measured_by_less_than_two_proposals_of_others() -> None:
    both = electorate((0, 1))
    assert accuracy_of(0, [], both, LEAST) is None
    assert accuracy_of(0, [{0: 5, 1: 5}], both, LEAST) is None
    assert accuracy_of(0, [{0: 5, 1: 5}, {0: 7}], both, LEAST) is None
    assert accuracy_of(1, [{0: 5, 1: 5}, {0: 7}], both, LEAST) is not None


def test_scores_as_far_as_they_go_overflow_nothing() -> None:
    most = 10**12
    gains = [{0: -most, 1: most, 2: most}, {0: most, 1: -most, 2: -most}]
    assert accuracy_of(0, gains, electorate((0, 1, 2)), LEAST) == -(10**6)


def test_an_accuracy_moves_a_quarter_of_the_way() -> None:
    assert moved(0, 1_000_003) == 250_000
    assert moved(0, -1) == -1  # floored
    assert moved(800_000, 0) == 600_000
    assert moved(-3, 4) == -2


def test_voters_weigh_what_they_have_above_a_quarter_of_the_middle() -> None:
    seats = Seats((0, 1, 1, 2, 3), (8,))
    # of 0, 100, 400 and 900 the upper median is 400; a quarter of it is taken off each
    assert weights_of({0: -7, 1: 900, 2: 400, 3: 100}, seats) == {0: 0, 1: 1_600, 2: 300, 3: 0}
    assert weights_of({1: 7, 2: 3}, seats) == {1: 12, 2: 2}  # the quarter of 7 is floored to 1
    assert weights_of({0: 0, 3: -4}, seats) == {0: 0, 3: 0}
    assert weights_of({}, seats) == {}
