"""The arena's benchmark: what it plays and how its figures are made; no test of how fast anything is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from benchmarks.arena import WHOLE, Turns, contests, headline, reached
from benchmarks.arena_adapters import num_tokens, on_grid, read_questions
from benchmarks.arena_attack_plays import CASES, Case, Played, first_day, honest_day
from benchmarks.arena_attacks import bad_bytes, came_to, conserved, unharmed
from benchmarks.arena_contests import Losses, compatibility_vectors, drawn, in_contests, race, summary
from benchmarks.arena_copies import gauged, neighbours, noised, thefts
from benchmarks.peers.todays_validator import validate
from flock_ray.lora.foreign import with_rank
from flock_ray.lora.peft_io import LoraSpec, adapter_shapes, save_peft, shortest_targets
from flock_ray.lora.serialization import LORA_A, LORA_B, Adapter, canonical_bytes
from flock_ray.protocol.contest_scores import Row
from flock_ray.protocol.hashing import sha256
from flock_ray.training.contest import RowScorer
from flock_ray.training.data import IGNORED
from flock_ray.training.model import load_base
from tests.protocol.contest_players import ContestPlay, graded, payload_of
from tests.training.samples import random_examples, tiny_spec

pytestmark = pytest.mark.model

ROWS = [Row(sha256(b"row %d" % place), 20 + place % 7, 90) for place in range(32)]


def measured(spread: float, noise: float) -> Losses:
    """Losses of 8 adapters whose quality differs by `spread`, each with `noise` of its own on each row, in nats."""
    stream = np.random.default_rng(1)
    tokens = np.array([row.num_tokens for row in ROWS])
    quality = np.linspace(-1, 1, 8)[:, None] * spread
    own = stream.normal(size=(8, len(ROWS))) * noise
    return np.asarray((2.0 + quality + own) * tokens * 1e6)


def test_drawn_submissions_have_the_mean_and_the_covariance_of_the_measured_ones() -> None:
    table = measured(0.2, 0.05)
    many = drawn(table, 4_000, Random(3))
    assert many.shape == (4_000, 32)
    assert np.allclose(many.mean(axis=0), table.mean(axis=0), rtol=0.02)
    assert np.abs(np.cov(many.T) - np.cov(table.T)).max() < 0.1 * np.cov(table.T).max()
    assert (drawn(table, 3, Random(3)) == drawn(table, 3, Random(3))).all()
    assert (drawn(measured(50.0, 0.0), 50, Random(1)) >= 0).all()


def test_racing_saves_more_the_clearer_the_differences_are() -> None:
    clear, blurred = (
        summary(in_contests(4, lambda seed, table=table: race(table, ROWS, (4, 8, 32), 24, seed)))
        for table in (measured(0.5, 0.001), measured(0.02, 0.2))
    )
    assert clear["row_forwards_saved"] > 1.3 * blurred["row_forwards_saved"] >= 1.3  # 1: nobody is eliminated
    assert clear["same_top_8"] == 1.0
    assert clear["contenders_mean"][0] == 24 and clear["contenders_most"][-1] < 24


def test_a_short_day_has_other_rows_in_each_contest() -> None:
    extent = replace(WHOLE, submissions=12, rows=32, rung_rows=(4, 8, 32), short_rungs=(2, 8), contests=3)
    found, figures = contests(measured(0.2, 0.05), ROWS, extent)
    assert [found[day]["rung_rows"][-1] for day in ("simulated", "simulated_short_day")] == [32, 8]
    assert figures["arena_row_forwards_saved"] == found["simulated"]["row_forwards_saved"]
    alike = np.repeat(measured(0.5, 0.0)[:, :1], 32, axis=1)  # whatever rows a day has, they say the same
    assert contests(alike, [ROWS[0]] * 32, extent)[1]["arena_same_top_8_short_day"] == 1.0


def test_all_of_flocks_published_figures_hold() -> None:
    vectors = compatibility_vectors()
    assert len(vectors) == 19 and all(vectors.values())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_attack_pays_nothing_and_harms_nobody_unless_the_page_says_so(case: Case) -> None:
    outcome = came_to(case, 1)
    assert outcome["conserved"]
    if not case.unsolved:
        assert outcome["unharmed"] == 1.0
    if not case.unsolved and case.name not in ("Sybil validators", "ballot copier", "ballot withheld"):
        assert outcome["gain"] <= 0
    if case.lazy:
        assert outcome["unpaid"] == 1.0 and outcome["earned_without"] > 0
    if "withheld" in case.name or case.name in ("ballot copier", "… and it is audited", "NaN or inf factors"):
        assert outcome["slashed"] > 0 or outcome["gain"] < 0


def test_an_attack_that_works_is_seen() -> None:
    """A thief whose adapter is the best and nobody's copy takes the first place: the day counts as harmed."""
    state = first_day(1)
    better = ContestPlay(quality=graded(state, {payload_of(1, 22): -(10**6)})).record(state)
    others = ContestPlay(quality=lambda payload: -graded(state)(payload)).record(state)
    assert not unharmed(Played((22,), honest_day(1), better))  # the eighth is not paid any more
    assert not unharmed(Played((), honest_day(1), others))
    assert unharmed(Played((), honest_day(1), honest_day(1))) and conserved(better)


@pytest.fixture(scope="module")
def adapters(tiny_model_dir: Path) -> list[Adapter]:
    shapes = adapter_shapes(load_base(tiny_spec(tiny_model_dir)).model, ("all-linear",), 1)
    stream = torch.Generator().manual_seed(4)
    return [
        on_grid({key: torch.randn(shape, generator=stream) / 8 for key, shape in sorted(with_rank(shapes, 4).items())})
        for _ in range(4)
    ]


def test_copies_of_a_real_adapter_are_called_copies_until_noise_makes_them_others(
    tiny_model_dir: Path, adapters: list[Adapter]
) -> None:
    examples = random_examples(6, 12)
    rows = [Row(sha256(b"%d" % place), example.num_labels, 40) for place, example in enumerate(examples)]
    scorer = RowScorer(load_base(tiny_spec(tiny_model_dir)), ("all-linear",), 4, 4_096)
    own = scorer.losses({bytes([place]): one for place, one in enumerate(adapters)}, examples)
    table = np.array(list(own.values()), dtype=np.float64)
    found = thefts(adapters, table, rows, scorer, examples, (0.05, 2.0))
    copies = {one["copy"]: one for one in found.copies}
    disguised = [one for one in found.copies if not one["own_work"]]
    assert [one["called_copy"] for one in disguised[:4]] == [True, True, True, False]
    for one in disguised:
        if not 0.6 < one["distance"] < 0.8:  # a day's own probes say a little more or less
            assert one["called_copy"] == (one["distance"] * 1e6 <= found.limit)
        assert one["unpaid"] or not one["called_copy"]
    assert copies["gauge copy"]["distance"] < 1e-3 < copies["noise of 5%"]["distance"] < 0.1
    assert abs(copies["gauge copy"]["worse_by"]) < 1e-4
    assert copies["75% leader, 25% own"]["own_work"] and copies["75% leader, 25% own"]["distance"] < 0.7
    assert all(map(conserved, found.records)) and len(found.records) == len(found.copies) + 1
    assert found.honest_mean > 0


def test_honest_adapters_are_far_from_each_other(adapters: list[Adapter]) -> None:
    found = neighbours(adapters, [adapters[0], noised(adapters[0], 0.5, 3)], 700_000)
    assert (found["pairs"], found["within"], found["pairs_of_one_start"]) == (6, 0.0, 1)
    assert found["nearest"] > 0.8 and 0.3 < found["nearest_of_one_start"] < 0.6
    assert neighbours([adapters[0], adapters[0], adapters[1]], adapters[:2], 700_000)["within"] == pytest.approx(1 / 3)


def test_noise_is_of_the_given_size_in_the_given_part(adapters: list[Adapter]) -> None:
    changed = noised(adapters[0], 0.5, 3, part=0.5)
    factors = [key for key in adapters[0] if key.endswith(LORA_B)]
    sizes = [float((changed[key] - adapters[0][key]).norm() / adapters[0][key].norm()) for key in factors]
    assert {round(size, 2) for size in sizes} == {0.0, 0.5}


def test_the_gate_names_what_is_wrong_with_real_bytes(adapters: list[Adapter]) -> None:
    assert all(bad_bytes(adapters[0]).values()) and len(bad_bytes(adapters[0])) == 6


def test_another_gauge_is_the_same_product(adapters: list[Adapter]) -> None:
    other = gauged(adapters[0], 1)
    for key, a in adapters[0].items():
        if key.endswith(LORA_A):
            b = key.removesuffix(LORA_A) + LORA_B
            assert not torch.allclose(other[key], a, atol=1e-3)
            assert torch.allclose(other[b] @ other[key], adapters[0][b] @ a, atol=1e-4)


def test_todays_validator_comes_to_the_losses_that_ours_does(
    tiny_model_dir: Path, tmp_path: Path, adapters: list[Adapter]
) -> None:
    examples = random_examples(5, 12)
    base = load_base(tiny_spec(tiny_model_dir))
    targets = shortest_targets(base.model, ("all-linear",))
    ours = RowScorer(base, ("all-linear",), 4, 4_096).losses({b"one": adapters[1]}, examples)[b"one"]
    save_peft(tmp_path / "one", canonical_bytes(adapters[1]), LoraSpec(4, 4, ("all-linear",)), targets, "base")
    theirs = validate(tiny_model_dir, tmp_path / "one", examples)
    for mean, loss, example in zip(theirs, ours, examples, strict=True):
        assert mean == pytest.approx(loss / 1e6 / example.num_labels, abs=1e-4)


def test_no_answer_is_both_learned_and_scored(tiny_model_dir: Path) -> None:
    questions = read_questions(load_base(tiny_spec(tiny_model_dir)).tokenizer, 32)
    answers = [{tuple(row.labels[row.labels != IGNORED].tolist()) for row in part}
               for part in (questions.train, questions.scored)]  # fmt: skip
    assert answers[0] and not answers[0] & answers[1]
    assert len(questions.scored) == 32 and num_tokens(questions.scored) > 0


def test_ratios_are_of_medians_and_the_last_rung_counts_for_who_reaches_it() -> None:
    turns = Turns({
        "a": [{"seconds": one, "cpu_seconds": 2 * one} for one in (30.0, 10.0, 20.0)],
        "b": [{"seconds": one, "cpu_seconds": one} for one in (5.0, 4.0, 90.0)],
        "r": [{"seconds": 40.0, "cpu_seconds": 40.0}],
        "l": [{"seconds": 3.0, "cpu_seconds": 3.0}],
    })  # fmt: skip
    simulated = {"row_forwards_saved": 3.0, "same_top_8": 1.0, "contenders_mean": [64.0, 20.2, 11.5]}
    contenders = reached(simulated, WHOLE)
    assert contenders == [64, 21, 12]
    figures = headline(turns, contenders)
    assert figures["arena_wall_vs_validator_without_racing"] == 4.0
    assert figures["arena_wall_vs_validator"] == 64 * 20 / (40 + 12 * 3)
    assert figures["arena_cpu_vs_validator_without_racing"] == 8.0
    del turns.rounds["r"]
    assert "arena_wall_vs_validator" not in headline(turns, ())
