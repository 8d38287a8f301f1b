"""Many adapters over one base model for many users: this project's engine, and transformers with PEFT.

    python benchmarks/run.py serving [only=grid|only=vllm] [--quick]

SmolLM2-135M-Instruct in the type that a run takes on the machine, random adapters of rank 8 on all linear layers, drawn
by Zipf's law with exponent 1, random prompts of one length, answers of 64 tokens, greedy. Contenders take turns on the
same requests: `ours`; `base`, the same engine and requests without adapters; `mixed`, PEFT's mixed batch, all requests
at once; `each`, PEFT under one adapter after the other, of which few requests are enough. All prompts and answers of a
batch have one length, which is PEFT's best case and not ours. Users of the closed loop ask again once they are
answered; in the open loop requests come at random moments, at a share of the rate that the closed loop reached.

Every answer of ours is checked: each token must be the likeliest under the adapter that was asked for, but for
rounding; how many would also pass as another adapter's says what that check is worth. Needs no Ray. Takes about an hour
on two quiet cores; each section is stored as it is done. `only=grid` measures the grid anew and keeps the rest;
`only=vllm` lets ours and vLLM's CPU build take turns, which comes from the package index into its own environment.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import earlier_result, environment, step, store, tell
from benchmarks.peers.peft_serving import Asked, PeftServer
from benchmarks.serving_load import LAST, Cell, Driver, Played, drawn, percentile, speed, without_answers
from flock_ray.lora.algebra import initial_adapter
from flock_ray.lora.peft_io import LoraSpec, adapter_shapes
from flock_ray.lora.serialization import Adapter
from flock_ray.serving.adapters import InMemory
from flock_ray.serving.batching_engine import BatchingEngine, Options
from flock_ray.training.model import ModelSpec, load_base, prepare_packaged

SPEC = LoraSpec(8, 16, ("all-linear",))
MODEL = ModelSpec("packaged", "", "main", "auto", "cpu")
ROUNDING = {torch.float32: 1e-3, torch.bfloat16: 0.5}
"""Nats by which a token may be behind the likeliest one: what the order of additions changes of logits about 20."""


@dataclass(frozen=True)
class Extent:
    """How much is measured.

    Attributes:
        compared: loads of all contenders.
        grid: loads of ours alone.
        order: whose turn it is: `o` ours, `b` base, `m` mixed, `e` each.
        answer: tokens of an answer.
        each: requests of a turn of PEFT one at a time.
        asked: requests of a turn of ours, for each user.
        open: share of the closed loop's rate at which requests come in the open loop.
        open_requests: of that loop, for each user.
    """

    compared: tuple[Cell, ...]
    grid: tuple[Cell, ...]
    order: str
    answer: int
    each: int
    asked: int
    open: float
    open_requests: int


WHOLE = Extent(
    compared=(Cell(8, 16, 64), Cell(32, 32, 64), Cell(8, 16, 512)),
    grid=tuple(Cell(n, m, prompt) for prompt in (64, 512) for n in (1, 8, 32, 64) for m in (1, 8, 16, 32)),
    order="obmembo", answer=64, each=3, asked=2, open=0.7, open_requests=4,
)  # fmt: skip
QUICK = Extent(
    compared=(Cell(2, 4, 16),), grid=(Cell(2, 2, 16),), order="obme", answer=8, each=1, asked=1, open=0.7,
    open_requests=1,
)  # fmt: skip


def some_adapters(number: int, shapes: dict[str, tuple[int, ...]]) -> list[Adapter]:
    """Random ones, strong enough that the tokens of one are far from likely under another."""
    drawn = torch.Generator().manual_seed(1)
    return [
        {key: x + 0.05 * torch.randn(x.shape, generator=drawn) for key, x in initial_adapter(shapes, seed).items()}
        for seed in range(number)
    ]


class Bench:
    """Our engine and PEFT's model with the same adapters, and what was found wrong."""

    def __init__(self, extent: Extent, model: ModelSpec = MODEL) -> None:
        """Load both."""
        self.extent = extent
        folder = prepare_packaged() if model.source == "packaged" else Path(model.path)
        cells = (*extent.compared, *extent.grid)
        with step("loading"):
            base = load_base(model)
            self.dtype = base.dtype
            self.adapters = some_adapters(
                max(cell.adapters for cell in cells), adapter_shapes(base.model, SPEC.target_modules, SPEC.rank)
            )
            rows = max(cell.users for cell in cells)
            length = max(cell.prompt for cell in cells) + extent.answer
            options = Options(rows, length, adapter_slots=rows, max_rank=SPEC.rank, waiting=1_000)
            self.engine = BatchingEngine(base, options, date(2025, 1, 1))
            hashes = [self.engine.add_adapter(InMemory(adapter, SPEC.alpha / SPEC.rank)) for adapter in self.adapters]
            self.ids = min(LAST, self.engine.limits.vocabulary)
            self.driver = Driver(self.engine, hashes, extent.answer)
        self.folder = folder
        self.checked = self.errors = self.pass_as_others = 0

    @cached_property
    def peft(self) -> PeftServer:
        """PEFT's model with all adapters."""
        with step("loading PEFT"):
            return PeftServer(self.folder, self.dtype, SPEC, self.adapters)

    def drawn(self, cell: Cell, number: int, seed: int) -> list[Asked]:
        """Requests for this model."""
        return drawn(cell, number, seed, self.ids)

    def turn(self, side: str, cell: Cell, seed: int) -> Played:
        """One turn of a contender."""
        extent = self.extent
        if side in "ob":
            asked = self.drawn(cell, extent.asked * cell.users, seed)
            return self.driver.closed(asked, cell.users, adapted=side == "o")
        asked = self.drawn(cell, cell.users if side == "m" else extent.each, seed)
        answer = self.peft.mixed if side == "m" else self.peft.each
        gc.collect()
        cpu, wall = time.process_time(), time.perf_counter()
        answers = answer(asked, extent.answer)
        seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
        return Played(seconds, cpu_seconds, sum(map(len, answers)), [], answers)

    def check(self, cell: Cell, seed: int, played: Played) -> None:
        """Compare answers of ours with what their own adapter says, and with what the next adapter would."""
        asked = self.drawn(cell, len(played.answers), seed)
        most = ROUNDING[self.dtype]
        self.checked += len(asked)
        self.errors += sum(short > most for short in self.peft.shortfalls(asked, played.answers))
        others = [(prompt, ((number or 0) + 1) % len(self.adapters)) for prompt, number in asked]
        if len(self.adapters) > 1:
            self.pass_as_others += sum(short <= most for short in self.peft.shortfalls(others, played.answers))

    def checks(self) -> dict[str, float]:
        """What came of all checks."""
        return {
            "cross_adapter_errors": self.errors,
            "answers_checked": self.checked,
            "answers_that_pass_as_anothers": self.pass_as_others,
        }

    def compare(self, cell: Cell) -> dict[str, list[Played]]:
        """Contenders in turns."""
        found: dict[str, list[Played]] = {}
        for at, side in enumerate(self.extent.order):
            with step(f"{cell.name}: turn {at + 1} of {len(self.extent.order)}, {SIDES[side]}"):
                found.setdefault(side, []).append(self.turn(side, cell, seed=at))
        with step(f"{cell.name}: checking the answers"):
            self.check(cell, self.extent.order.index("o"), found["o"][0])
        return found

    def answer_at_random(self, cell: Cell, rate: float) -> Played:
        """The open loop, `rate` requests a second."""
        with step(f"{cell.name}: open loop, {rate:.2f} requests a second"):
            return self.driver.open(self.drawn(cell, self.extent.open_requests * cell.users, 99), rate, seed=1)


SIDES = {"o": "ours", "b": "ours without adapters", "m": "PEFT, mixed batch", "e": "PEFT, one at a time"}


def figures(cell: Cell, turns: dict[str, list[Played]], quiet: Played) -> dict[str, float]:
    """The headline of a compared load."""
    ours, name = speed(turns["o"]), cell.name
    first = [value for one in turns["o"] for value in one.first_token_ms]
    return {
        f"tok_s_{name}": ours,
        f"share_of_base_{name}": ours / speed(turns["b"]),
        f"ratio_vs_peft_{name}": ours / speed(turns["m"]),
        f"ratio_vs_peft_one_at_a_time_{name}": ours / speed(turns["e"]),
        f"ttft_p95_ms_{name}_closed": percentile(first, 0.95),
        f"ttft_p95_ms_{name}": percentile(quiet.first_token_ms, 0.95),
    }


def told(turns: dict[str, list[Played]]) -> dict[str, Any]:
    """Rounds of each side, without answers."""
    return {SIDES[side]: [without_answers(one) for one in rounds] for side, rounds in turns.items()}


def compared(bench: Bench) -> Iterator[tuple[dict[str, Any], dict[str, float]]]:
    """Each compared load: what was measured, and its headline."""
    for cell in bench.extent.compared:
        turns = bench.compare(cell)
        rate = bench.extent.open * speed(turns["o"]) / bench.extent.answer
        quiet = bench.answer_at_random(cell, rate)
        yield (
            {cell.name: {**told(turns), "open_loop": {"requests_a_second": rate, **without_answers(quiet)}}},
            figures(cell, turns, quiet),
        )


def grid(bench: Bench) -> list[dict[str, Any]]:
    """Ours alone at every load, one turn each."""
    found = []
    for cell in bench.extent.grid:
        with step(f"grid: {cell.adapters} adapters, {cell.users} users, prompts of {cell.prompt}"):
            played = bench.turn("o", cell, seed=7)
        first = percentile(played.first_token_ms, 0.95)
        found.append({**asdict(cell), "tok_s": speed([played]), "ttft_p95_ms": first, **without_answers(played)})
    return found


def main_figures(found: dict[str, float], first: Cell) -> dict[str, float]:
    """The figures of the load that counts, under the names that others look for."""
    names = ("ratio_vs_peft", "share_of_base", "ttft_p95_ms")
    return {**found, **{name: found[f"{name}_{first.name}"] for name in names}}


def run(quick: bool, overrides: Sequence[str]) -> None:
    """Run, measure, store each section as it is done."""
    began, extent = time.perf_counter(), QUICK if quick else WHOLE
    if list(overrides) not in ([], ["only=grid"], ["only=vllm"]):
        raise SystemExit("error: serving takes one override, only=grid or only=vllm")
    bench = Bench(extent)
    result: dict[str, Any] = earlier_result("serving", quick) if overrides else {"compared": {}, "headline": {}}
    only = overrides[0].removeprefix("only=") if overrides else ""

    def keep() -> None:
        result["seconds"] = time.perf_counter() - began
        store("serving", result, quick)

    if not only:
        result |= {
            "environment": environment(), "model": "SmolLM2-135M-Instruct", "dtype": str(bench.dtype),
            "threads": torch.get_num_threads(), "peft_factors": bench.peft.factors, "extent": asdict(extent),
        }  # fmt: skip
        with step("warming up"):
            for side in "obme":
                bench.turn(side, Cell(1, 1, extent.compared[0].prompt), seed=0)
        for measured, headline in compared(bench):
            result["compared"] |= measured
            result["headline"] |= headline | bench.checks()
            keep()
        result["headline"] = main_figures(result["headline"], extent.compared[0])
        keep()
    if only == "vllm":
        from benchmarks.serving_vllm import against_vllm  # imports Ray, which nothing else here does

        result["vllm"] = {"environment": environment()}
        for cell in extent.compared:
            measured, headline = against_vllm(bench, cell, SPEC, rounds=extent.order.count("o"))
            result["vllm"] |= measured
            result["headline"] |= headline
            result["headline"]["ratio_vs_vllm_cpu"] = result["headline"][f"ratio_vs_vllm_cpu_{extent.compared[0].name}"]
            keep()
    else:
        result["grid"] = grid(bench)
    bench.engine.close()
    keep()
    for name, value in result["headline"].items():
        tell(f"{name}: {value:.3g}")
