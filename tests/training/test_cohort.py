from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from flock_ray.training.cohort import cohorts

SIZES = st.lists(st.integers(1, 5_000), max_size=40)


@given(SIZES, st.integers(1, 8_192))
def test_every_job_is_in_one_cohort_within_the_budget(sizes: list[int], budget: int) -> None:
    packed = cohorts(sizes, budget)
    assert sorted(index for cohort in packed for index in cohort) == list(range(len(sizes)))
    for cohort in packed:
        assert cohort == sorted(cohort)
        assert len(cohort) == 1 or max(sizes[index] for index in cohort) * len(cohort) <= budget


@given(SIZES, st.integers(1, 8_192))
def test_no_cohort_had_room_for_the_next_job(sizes: list[int], budget: int) -> None:
    descending = sorted(
        ([sizes[index] for index in cohort] for cohort in cohorts(sizes, budget)), key=max, reverse=True
    )
    for cohort, following in pairwise(descending):
        assert max(cohort) * (len(cohort) + 1) > budget or max(following) == max(cohort)


def test_alike_go_together() -> None:
    assert cohorts([100, 500, 100, 500], 1_000) == [[0, 2], [1, 3]]
    assert cohorts([512] * 8, 2_048) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert cohorts([3_000, 10], 2_048) == [[0], [1]]
