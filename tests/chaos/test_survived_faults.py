"""Faults that a run must survive to the same bytes, or refuse in one line: a few of those of `benchmarks/chaos.py`.

A killed worker and a killed coordinator have tests of their own, on the real trainer.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.chaos import Case, ChaosHarness, cases, chaos_harness, show

pytestmark = pytest.mark.ray

CHOSEN = (
    "worker stopped, commit_ballots_a",
    "coordinator stopped, sign",
    "group moved without its folders, ballots A sealed",
    "machine lost, one to spare",
)


def single(name: str) -> Case:
    every = [part for case in cases() for part in (case.parts() if case.sweep else (case,))]
    return next(case for case in every if case.name == name)


@pytest.fixture(scope="module")
def harness() -> Iterator[ChaosHarness]:
    with chaos_harness() as made:
        yield made


@pytest.mark.parametrize("case", [single(name) for name in CHOSEN], ids=CHOSEN)
def test_the_run_ends_as_it_should_after(harness: ChaosHarness, case: Case) -> None:
    [row] = harness.play(case)
    assert row["intended"], show(row)
