from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flock_ray.cluster.deadlines import KEPT, Deadlines, Liveness, usual
from flock_ray.cluster.vitals import Vitals

BUDGET = 10.0
IDLE = Vitals("train", 3, 60, cpu_seconds=100.0, peak_bytes=1 << 30)


def test_a_phase_that_was_not_seen_may_take_ten_times_the_estimate_or_the_floor() -> None:
    deadlines = Deadlines(60)
    assert deadlines.budget("train", 60) == 60
    deadlines.estimate = 40.0
    assert deadlines.budget("train", 60) == 400


def test_later_a_phase_may_take_the_median_and_five_deviations_for_each_unit_of_work() -> None:
    deadlines = Deadlines(3)
    for seconds in (9.0, 10.0, 11.0, 10.0, 500.0):
        deadlines.note("train", seconds, 10)
    assert deadlines.budget("train", 10) == pytest.approx(10 + 5)
    assert deadlines.budget("train", 20) == pytest.approx(30)
    assert deadlines.budget("acknowledge", 0) == 3
    for _ in range(KEPT):
        deadlines.note("train", 0.1, 10)
    assert deadlines.budget("train", 10) == 3


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=KEPT))
def test_what_is_usual_is_no_less_than_most_took(seconds: list[float]) -> None:
    assert sum(value <= usual(seconds) for value in seconds) * 2 >= len(seconds)


def test_an_actor_that_does_not_answer_hangs_after_two_budgets() -> None:
    liveness = Liveness(0.0)
    assert liveness.hang(20.0, BUDGET) is None
    assert liveness.hang(20.5, BUDGET) == "no answer to a health check for 20 s"


def test_an_actor_that_answers_and_neither_works_nor_gets_on_hangs_after_two_budgets() -> None:
    liveness, waiting_for_others = Liveness(0.0), Liveness(0.0, may_idle=True)
    for second in range(1, 30):
        vitals = replace(IDLE, cpu_seconds=100.0 + 0.01 * second)  # what answering costs
        liveness.answered(float(second), vitals)
        waiting_for_others.answered(float(second), vitals)
    assert liveness.hang(20.5, BUDGET) is None
    assert liveness.hang(29.0, BUDGET) == "neither progress nor CPU time for 28 s"
    assert waiting_for_others.hang(29.0, BUDGET) is None


@pytest.mark.parametrize("working", [
    [replace(IDLE, done=second) for second in range(3, 600)],
    [replace(IDLE, cpu_seconds=100.0 + 0.2 * second) for second in range(1, 600)],
], ids=["progress", "CPU time"])  # fmt: skip
def test_slowness_is_no_hang(working: list[Vitals]) -> None:
    liveness = Liveness(0.0)
    for second, vitals in enumerate(working, 1):
        liveness.answered(float(second), vitals)
        assert liveness.hang(float(second), BUDGET) is None


def test_an_actor_does_not_hang_because_nobody_listened() -> None:
    liveness = Liveness(0.0)
    liveness.not_looked_at(3_600.0)
    assert liveness.hang(3_601.0, BUDGET) is None
    assert liveness.hang(3_621.0, BUDGET) is not None
