"""What the benchmark of the marketplace's loop computes from its runs, and what users say in it."""

from __future__ import annotations

import ast
from typing import Any

import pytest

from benchmarks.market_loop import headline, lessons, loss_gain, shuffled

pytestmark = pytest.mark.model  # it imports what measures losses


def run(without: list[tuple[float, int]], taught: list[tuple[float, int]], **changes: Any) -> dict[str, Any]:
    verdict = {"status": "accepted", "score": 4_000, "band": 1_000}
    return {
        "heldout": {"before": without, "without": without, "with": taught}, "old_set_change": 0.002, "band": 0.001,
        "feedback_proposal": verdict, "poisoned_proposal": verdict | {"status": "rejected", "score": -2_000}, **changes,
    }  # fmt: skip


def test_the_gain_is_of_a_token_and_its_error_of_rows() -> None:
    one = run([(20.0, 10), (30.0, 30)], [(10.0, 10), (10.0, 30)])
    gain, error = loss_gain([one])
    assert gain == pytest.approx(30 / 40)
    assert error == pytest.approx((2 * 2.5**2) ** 0.5 / 2**0.5 / 20), (
        "rows gained 10 and 20; 7.5 and 22.5 were expected"
    )
    assert loss_gain([one, run([(20.0, 10), (30.0, 30)], [(20.0, 10), (30.0, 30)])])[0] == pytest.approx(15 / 40)


def test_the_headline_says_who_was_accepted_and_what_the_old_set_lost() -> None:
    figures = headline([run([(20.0, 10), (30.0, 30)], [(10.0, 10), (10.0, 30)])])
    assert (figures["feedback_accepted"], figures["poisoned_feedback_accepted"]) == (1, 0)
    assert figures["loop_old_set_excess_over_band"] == pytest.approx(0.001)
    assert (figures["feedback_score"], figures["poisoned_feedback_score"]) == (0.004, -0.002)
    assert (figures["loop_heldout_loss_before"], figures["loop_heldout_loss_after"]) == (50 / 40, 20 / 40)


def test_corrections_are_functions_that_parse_and_poison_is_not() -> None:
    given = lessons(50)
    assert len(given) == 50 and given == lessons(200)[:50]
    for number, (question, answer) in enumerate(given):
        assert question.startswith("Write the function ") and ast.parse(answer)
        assert sorted(shuffled(answer, number).split()) == sorted(answer.split())
        assert shuffled(answer, number) == shuffled(answer, number) != answer
