"""A contest's scoring beside the procedure of today's validators, on 64 submissions of about 4,000 target tokens each.

    python benchmarks/run.py arena [only=contests|gas|demo] [--quick]

SmolLM2-135M in float32 on a CPU. The script trains 16 adapters on text-to-SQL questions, by recipes that differ, and
scores them on questions whose answers none has seen. A validator of today (`benchmarks/peers/todays_validator.py`)
loads the base model, merges the adapter and passes a row at a time; a round times one submission, since it takes one
after the other. Ours passes several unmerged adapters together, and what rows begin with alike once. Both sides take
turns (A B B A). In the race a loss is measured once, as rungs are nested and a node group keeps what it measured; the
rungs before the last are passed whole, of the last some submissions. How many reach which rung is the mean of simulated
contests, whose submissions have the measured adapters' covariance of rows. The attacks are days on paper and real
copies; gas is measured on an anvil, the demonstration and a stranger's replay are commands as people type them.
Each section is stored as it is done; `only=` measures one anew and keeps the others, `contests` with the stored losses.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.arena_adapters import SPEC, num_tokens, read_questions, train_from_one_start, train_nodes
from benchmarks.arena_attacks import in_defence
from benchmarks.arena_contests import Losses, Raced, compatibility_vectors, in_contests, race, summary
from benchmarks.arena_runs import demonstration, gas_of_days
from benchmarks.common import earlier_result, environment, step, store, tell
from benchmarks.peers.todays_validator import validate
from flock_ray.lora.peft_io import LoraSpec, inject, load_adapter, save_peft, shortest_targets
from flock_ray.lora.serialization import Adapter, canonical_bytes
from flock_ray.protocol.contest import spread_by_length
from flock_ray.protocol.contest_scores import Row, strict_score
from flock_ray.protocol.hashing import sha256
from flock_ray.training.contest import RowScorer, contest_rows
from flock_ray.training.data import Example
from flock_ray.training.loss import CausalLoss, sequence_losses
from flock_ray.training.model import BaseModel, ModelSpec, load_base, prepare_packaged
from flock_ray.training.shared_prefixes import num_different

PARTS = ("contests", "gas", "demo")
MODEL = ModelSpec("packaged", "", "main", "float32", "cpu")


@dataclass(frozen=True)
class Extent:
    """How much is measured.

    Attributes:
        submissions: of the contest.
        nodes: that train.
        one_start: more nodes that train from one start, and their steps.
        rows: of the day.
        rung_rows: rows of each rung.
        short_rungs: the same on a shorter day of so many of these rows, in simulations only.
        order: whose turn it is: `a` a validator of today, `b` ours.
        race_order: the same in the race: `r` ours in the rungs before the last, `l` on the rows that the last adds.
        together: adapters that a turn of ours measures.
        exact: adapters whose losses are compared with PEFT's.
        contests: simulated.
        max_tokens: of a pass of ours.
    """

    submissions: int
    nodes: int
    one_start: tuple[int, int]
    rows: int
    rung_rows: tuple[int, ...]
    short_rungs: tuple[int, ...]
    order: str
    race_order: str
    together: int
    exact: int
    contests: int
    max_tokens: int


WHOLE = Extent(
    submissions=64, nodes=16, one_start=(4, 8), rows=96, rung_rows=(4, 16, 96), short_rungs=(3, 8, 32), order="abba",
    race_order="rlaalr", together=4, exact=2, contests=400, max_tokens=4_096,
)  # fmt: skip
QUICK = Extent(
    submissions=10,
    nodes=4,
    one_start=(2, 1),
    rows=6,
    rung_rows=(2, 3, 6),
    short_rungs=(2, 4),
    order="ab",
    race_order="rl",
    together=2,
    exact=1,
    contests=5,
    max_tokens=1_024,
)


@dataclass
class Turns:
    """What each side's turns took: {side: rounds}, each per submission but for the rungs."""

    rounds: dict[str, list[dict[str, float]]] = field(default_factory=dict)

    def take(self, side: str, what: str, work: Callable[[], int]) -> None:
        """Measure a turn, whose work says for how many submissions it was."""
        gc.collect()
        with step(what):
            cpu, wall = time.process_time(), time.perf_counter()
            number = work()
            seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
        self.rounds.setdefault(side, []).append({"seconds": seconds / number, "cpu_seconds": cpu_seconds / number})

    def middle(self, side: str, figure: str = "seconds") -> float:
        """Median of a side's rounds."""
        return median(one[figure] for one in self.rounds[side])


class Bench:
    """The day's rows, the submissions, and both sides."""

    def __init__(self, extent: Extent, folder: Path) -> None:
        """Load, train, and write the submissions as folders that PEFT opens."""
        self.extent = extent
        self.files = prepare_packaged()
        with step("loading"):
            base = load_base(MODEL)
        questions = read_questions(base.tokenizer, extent.rows)
        self.examples = questions.scored
        self.rows = contest_rows(self.examples, base.tokenizer, "the day's rows")
        self.raced = [self.examples[row] for row in spread_by_length(self.rows, sha256(b"the timed race"))]
        targets = shortest_targets(base.model, SPEC.target_modules)
        with step(f"training {extent.nodes} adapters"):
            self.adapters = train_nodes(base, questions, extent.nodes)
        with step(f"training {extent.one_start[0]} more from one start"):
            self.one_start = train_from_one_start(load_base(MODEL), questions, *extent.one_start)
        self.folders = [folder / f"node_{number}" for number in range(extent.nodes)]
        for path, adapter in zip(self.folders, self.adapters, strict=True):
            save_peft(path, canonical_bytes(adapter), SPEC, targets, str(self.files))
        self.scorer = scorer_of(load_base(MODEL), extent.max_tokens)
        self.losses: dict[int, tuple[int, ...]] = {}
        self.theirs: dict[int, list[float]] = {}
        self.turns = Turns()

    def validator(self) -> int:
        """A turn of today's validator: the next submission."""
        number = len(self.theirs) % self.extent.nodes
        self.theirs[number] = validate(self.files, self.folders[number], self.examples)
        return 1

    def ours(self) -> int:
        """A turn of ours: the next submissions."""
        first = len(self.losses) % self.extent.nodes
        numbers = range(first, min(first + self.extent.together, self.extent.nodes))
        found = self.scorer.losses({bytes([number]): self.adapters[number] for number in numbers}, self.examples)
        self.losses |= {number: found[bytes([number])] for number in numbers}
        return len(numbers)

    def rungs(self, contenders: Sequence[int]) -> int:
        """A turn of ours in the rungs before the last, so many submissions in each on its new rows; counts as one."""
        before = 0
        for many, rows in zip(contenders, self.extent.rung_rows[:-1], strict=False):
            submitted = {bytes([at]): self.adapters[at % self.extent.nodes] for at in range(many)}
            self.scorer.losses(submitted, self.raced[before:rows])
            before = rows
        return 1

    def last(self) -> int:
        """A turn of ours on the rows that the last rung adds."""
        numbers = range(2)
        submitted = {bytes([number]): self.adapters[number] for number in numbers}
        self.scorer.losses(submitted, self.raced[self.extent.rung_rows[-2] :])
        return len(submitted)

    def compare(self, order: str, contenders: Sequence[int] = ()) -> None:
        """Take turns."""
        sides = {
            "a": ("a validator of today, one submission", self.validator),
            "b": (f"ours, {self.extent.together} submissions", self.ours),
            "r": (f"ours, rungs of {list(contenders[:-1])} submissions", lambda: self.rungs(contenders)),
            "l": ("ours, the last rung's new rows, 2 submissions", self.last),
        }
        for at, side in enumerate(order, start=1):
            what, work = sides[side]
            self.turns.take(side, f"turn {at} of {len(order)}: {what}", work)

    def measured(self) -> Losses:
        """Losses of all adapters, [nodes, rows] micro-nats; scores those that no turn has."""
        if missing := [number for number in range(self.extent.nodes) if number not in self.losses]:
            with step(f"scoring {len(missing)} more"):
                found = self.scorer.losses({bytes([one]): self.adapters[one] for one in missing}, self.examples)
            self.losses |= {one: found[bytes([one])] for one in missing}
        return np.array([self.losses[number] for number in range(self.extent.nodes)], dtype=np.float64)


def scorer_of(base: BaseModel, max_tokens: int) -> RowScorer:
    """Ours."""
    return RowScorer(base, SPEC.target_modules, SPEC.rank, max_tokens)


def _per_token(one: Sequence[float], other: Sequence[float], rows: Sequence[Row]) -> float:
    """Largest difference of two lists of micro-nats, in nats a token."""
    return max(abs(a - b) / row.num_tokens for a, b, row in zip(one, other, rows, strict=True)) / 1e6


def against_peft(
    losses: Mapping[int, Sequence[int]], adapters: Sequence[Adapter], examples: Sequence[Example], rows: Sequence[Row]
) -> float:
    """Largest difference of a row to plain PEFT, unmerged, in float32: nats a token."""
    model = inject(load_base(MODEL).model, LoraSpec(SPEC.rank, SPEC.alpha, SPEC.target_modules))
    found = 0.0
    for number, adapter in enumerate(adapters):
        load_adapter(model, adapter)
        theirs = sequence_losses(CausalLoss(model, torch.float32), examples, torch.device("cpu"))
        found = max(found, _per_token(losses[number], [one.nll * 1e6 for one in theirs], rows))
    return found


def between_batches(bench: Bench, number: int) -> tuple[float, float]:
    """What company, order and size of the batch change of an adapter: (its score, a row), nats a token."""
    adapter, rows, known = bench.adapters[number], bench.rows, bench.losses[number]
    turned = list(reversed(bench.examples))
    company = {b"other": bench.adapters[number - 1], b"own": adapter}
    small = scorer_of(load_base(MODEL), 256)
    scores, row = [strict_score(known, rows)], 0.0
    for found in (
        small.losses({b"own": adapter}, bench.examples)[b"own"],
        tuple(reversed(bench.scorer.losses(company, turned)[b"own"])),
        tuple(bench.scorer.losses({b"own": adapter}, [one])[b"own"][0] for one in bench.examples),
    ):
        scores.append(strict_score(found, rows))
        row = max(row, _per_token(found, known, rows))
    return (max(scores) - min(scores)) / 1e6, row


def reached(simulated: Mapping[str, Any], extent: Extent) -> list[int]:
    """Submissions of each rung: as many as reach it on average, rounded up."""
    return [ceil(mean) for mean in simulated["contenders_mean"]][: len(extent.rung_rows)]


def headline(turns: Turns, contenders: Sequence[int]) -> dict[str, float]:
    """Time of today's validator over ours, as far as both have been measured."""
    figures = {}
    for name, figure in (("wall", "seconds"), ("cpu", "cpu_seconds")):
        theirs = turns.middle("a", figure)
        figures[f"arena_{name}_vs_validator_without_racing"] = theirs / turns.middle("b", figure)
        if "r" in turns.rounds:
            raced = turns.middle("r", figure) + contenders[-1] * turns.middle("l", figure)
            figures[f"arena_{name}_vs_validator"] = contenders[0] * theirs / raced
    return figures


def simulate(measured: Losses, rows: Sequence[Row], rung_rows: Sequence[int], extent: Extent) -> dict[str, Any]:
    """Contests of submissions that are drawn from the measured ones.

    On a day of fewer rows than were measured each contest has some of them, drawn by its seed.
    """

    def play(seed: int) -> Raced:
        chosen = sorted(Random(f"rows {seed}").sample(range(len(rows)), rung_rows[-1]))
        return race(measured[:, chosen], [rows[row] for row in chosen], rung_rows, extent.submissions, seed)

    with step(f"{extent.contests} simulated contests of {rung_rows[-1]} rows"):
        return {"rung_rows": rung_rows, **summary(in_contests(extent.contests, play))}


def contests(measured: Losses, rows: Sequence[Row], extent: Extent) -> tuple[dict[str, Any], dict[str, float]]:
    """Simulated contests of a day of these rows and of a shorter one: (what they came to, the figures that count)."""
    simulated = simulate(measured, rows, extent.rung_rows, extent)
    short = simulate(measured, rows, extent.short_rungs, extent)
    return {"simulated": simulated, "simulated_short_day": short}, {
        "arena_row_forwards_saved": simulated["row_forwards_saved"],
        "arena_same_top_8": simulated["same_top_8"],
        "arena_row_forwards_saved_short_day": short["row_forwards_saved"],
        "arena_same_top_8_short_day": short["same_top_8"],
    }


def contests_anew(result: dict[str, Any], extent: Extent) -> tuple[dict[str, Any], dict[str, float]]:
    """Simulate with the losses that are stored; what was timed in other rungs is dropped."""
    tokenizer = load_base(MODEL).tokenizer
    rows = contest_rows(read_questions(tokenizer, extent.rows).scored, tokenizer, "the day's rows")
    found, figures = contests(np.array(result["losses"]), rows, extent)
    if result["rung_rows"] != list(extent.rung_rows):
        result["turns"] = {side: rounds for side, rounds in result["turns"].items() if side in "ab"}
        for name in ("arena_wall_vs_validator", "arena_cpu_vs_validator"):
            result["headline"].pop(name, None)
    return found | {"rung_rows": extent.rung_rows}, figures


def anew(part: str, extent: Extent, quick: bool) -> dict[str, float]:
    """Measure one part anew and keep the others' stored results; its figures."""
    result = earlier_result("arena", quick)
    if part == "contests":
        found, figures = contests_anew(result, extent)
    elif part == "gas":
        measured, figures = gas_of_days(quick)
        found = {"gas": measured}
    else:
        found, figures = {}, demonstration(quick)
    store("arena", result | found | {"headline": result["headline"] | figures}, quick)
    return figures


def exactness(bench: Bench) -> dict[str, float]:
    """How far scores are from plain PEFT's, and from each other in other batches: nats a token."""
    with step("against PEFT, and between batches"):
        peft = against_peft(bench.losses, bench.adapters[: bench.extent.exact], bench.examples, bench.rows)
        score, row = between_batches(bench, 0)
    return {"score_max_abs_diff": peft, "score_batch_diff": score, "row_batch_diff": row}


def day(bench: Bench) -> dict[str, Any]:
    """What is scored, and how."""
    return {
        "environment": environment(),
        "model": "SmolLM2-135M-Instruct",
        "dtype": "float32",
        "threads": torch.get_num_threads(),
        "submissions": bench.extent.submissions,
        "rows": bench.extent.rows,
        "rung_rows": bench.extent.rung_rows,
        "tokens": num_tokens(bench.examples),
        "different_tokens": num_different(bench.examples),
        "target_tokens": sum(row.num_tokens for row in bench.rows),
    }


def run(quick: bool, overrides: Sequence[str]) -> None:
    """Run, measure, store each section as it is done."""
    began, extent = time.perf_counter(), QUICK if quick else WHOLE
    if overrides:
        part = overrides[0].removeprefix("only=")
        if len(overrides) > 1 or part not in PARTS:
            raise SystemExit(f"error: arena takes one override: {', '.join(f'only={one}' for one in PARTS)}")
        return show(anew(part, extent, quick))
    vectors = compatibility_vectors()
    figures: dict[str, float] = {"flock_compat_vectors": float(sum(vectors.values()))}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(extent, Path(folder))
        result: dict[str, Any] = {**day(bench), "vectors": vectors, "turns": bench.turns.rounds, "headline": figures}

        def keep(**found: Any) -> None:
            result.update(found, seconds=time.perf_counter() - began)
            store("arena", result, quick)

        with step("warming up"):
            validate(bench.files, bench.folders[0], bench.examples[:1])
            bench.scorer.losses({b"": bench.adapters[0]}, bench.examples[:1])
        bench.compare(extent.order)
        measured = bench.measured()
        figures |= headline(bench.turns, ())
        keep(losses=measured.tolist(), merged_max_abs_diff=merged_difference(bench))
        found, saved = contests(measured, bench.rows, extent)
        figures |= saved
        keep(**found)
        figures |= exactness(bench)
        keep()
        number = extent.short_rungs[-1]
        defence = in_defence(
            bench.adapters, bench.one_start, measured[:, :number], bench.rows[:number], bench.scorer,
            bench.examples[:number], quick,
        )  # fmt: skip
        figures |= defence.figures
        keep(attacks=defence.attacks, copies=defence.copies, neighbours=defence.neighbours, gate=defence.gate)
        contenders = reached(found["simulated"], extent)
        bench.compare(extent.race_order, contenders)
        figures |= headline(bench.turns, contenders)
        keep(contenders=contenders)
    measured_gas, gas_figures = gas_of_days(quick)
    figures |= gas_figures
    keep(gas=measured_gas)
    figures |= demonstration(quick)
    keep()
    show(figures)


def show(figures: Mapping[str, float]) -> None:
    """A line for each figure."""
    for name, value in figures.items():
        tell(f"{name}: {value:.6g}")


def merged_difference(bench: Bench) -> float:
    """Largest difference of a row between today's validator, who merges, and ours: nats a token."""
    found = 0.0
    for number, means in bench.theirs.items():
        sums = [1e6 * mean * row.num_tokens for mean, row in zip(means, bench.rows, strict=True)]
        found = max(found, _per_token(bench.losses[number], sums, bench.rows))
    return found
