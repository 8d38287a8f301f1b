"""What the benchmark of serving compares, and whether its check of answers can fail."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.serving import QUICK, Bench, compared, figures, grid, main_figures
from benchmarks.serving_load import Cell, Played, drawn, percentile
from tests.training.samples import tiny_spec

pytestmark = pytest.mark.model

CELL = Cell(3, 4, 16)


@pytest.fixture(scope="module")
def bench(tiny_model_dir: Path) -> Iterator[Bench]:
    made = Bench(replace(QUICK, compared=(CELL,), grid=(Cell(3, 2, 8),)), tiny_spec(tiny_model_dir))
    yield made
    made.engine.close()


def test_all_contenders_answer_the_same_requests_alike(bench: Bench) -> None:
    ours, mixed, each = (bench.turn(side, CELL, seed=3) for side in "ome")
    assert ours.answers[:4] == mixed.answers and ours.answers[:1] == each.answers
    assert ours.tokens == 4 * QUICK.answer and all(value > 0 for value in ours.first_token_ms)
    assert bench.turn("b", CELL, seed=3).answers != ours.answers, "the base model answers otherwise"


def test_an_answer_of_another_adapter_is_found(bench: Bench) -> None:
    played = bench.turn("o", CELL, seed=4)
    before = bench.errors, bench.pass_as_others
    bench.check(CELL, 4, played)
    assert (bench.errors, bench.pass_as_others) == before
    mixed_up = Played(1.0, 1.0, 0, [], [played.answers[1], played.answers[0], *played.answers[2:]])
    bench.check(CELL, 4, mixed_up)
    assert bench.errors == before[0] + 2


def test_the_headline_is_of_the_first_load(bench: Bench) -> None:
    [(measured, headline)] = compared(bench)
    assert set(measured) == {"3x4_16"} and "answers" not in str(measured)
    found = main_figures(headline, CELL)
    assert found["ratio_vs_peft"] == found["ratio_vs_peft_3x4_16"] > 0
    assert found["ttft_p95_ms"] > 0 and found["share_of_base"] > 0
    assert [one["users"] for one in grid(bench)] == [2]


def test_figures_are_of_median_rounds() -> None:
    def rounds(*seconds: float) -> list[Played]:
        return [Played(one, one, 100, [10.0, 20.0]) for one in seconds]

    turns = {"o": rounds(1.0, 2.0, 50.0), "b": rounds(1.0), "m": rounds(4.0), "e": rounds(10.0)}
    found = figures(Cell(8, 16, 64), turns, Played(1.0, 1.0, 1, [float(one) for one in range(1, 101)]))
    assert found["tok_s_8x16"] == 50 and found["ratio_vs_peft_8x16"] == 2 and found["share_of_base_8x16"] == 0.5
    assert found["ratio_vs_peft_one_at_a_time_8x16"] == 5 and found["ttft_p95_ms_8x16"] == 95
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0


def test_adapters_are_asked_for_by_zipfs_law() -> None:
    asked = [number for _, number in drawn(Cell(8, 1, 1), 4_000, seed=1)]
    assert 1.6 < asked.count(0) / asked.count(1) < 2.4 < asked.count(0) / asked.count(3) < 5.0
