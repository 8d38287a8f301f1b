"""A day of a contest with real adapters: trained, gated, sketched and scored, then derived twice."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from flock_ray.lora.fixed_point import dequantize, quantize
from flock_ray.lora.foreign import with_rank
from flock_ray.lora.gate import inspect
from flock_ray.lora.peft_io import LoraSpec, adapter_shapes
from flock_ray.lora.serialization import LORA_A, LORA_B, Adapter, canonical_bytes
from flock_ray.lora.sketch import Sketcher, earliest_within
from flock_ray.protocol.contest import advance_day, derive_day
from flock_ray.protocol.contest_entries import shuffled
from flock_ray.protocol.contest_message import ContestKind
from flock_ray.protocol.contest_race import Rung
from flock_ray.protocol.contest_record import ContestRecord
from flock_ray.protocol.contest_scores import rows_digest
from flock_ray.protocol.contest_state import FINAL, ContestState
from flock_ray.protocol.hashing import sha256
from flock_ray.training.contest import RowScorer, contest_rows
from flock_ray.training.data import Example
from flock_ray.training.engine import MemberJob, TrainOutcome, TrainSettings
from flock_ray.training.model import load_base
from flock_ray.training.stacked_engine import StackedEngine, StackedOptions
from flock_ray.verify.contest import replay_day
from tests.protocol.contest_players import ContestPlay, entry_of, new_contest
from tests.training.samples import tiny_spec

pytestmark = pytest.mark.model

RANK, NODES = 4, 6
TARGETS = ("all-linear",)
FIRST = 7  # the first node's number: validators are 0 to 6
FAKES = (FIRST + NODES, FIRST + NODES + 1, FIRST + NODES + 2)  # gauge copy, small noise, large noise
BAD = FIRST + NODES + 3


def counting(number: int, seed: int) -> list[Example]:
    """Rows in which each token is the last one plus a step of the row: something to learn."""
    stream = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(number):
        start, step, size = (
            int(torch.randint(low, high, (1,), generator=stream)) for low, high in ((3, 99), (1, 4), (10, 20))
        )
        rows.append(Example.of([3 + (start + step * place) % 90 for place in range(size)], [True] * size))
    return rows


@dataclass
class RealPlay(ContestPlay):
    """Validators that inspect, sketch and score real payloads."""

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    adapters: dict[bytes, Adapter] = field(default_factory=dict)
    losses: dict[tuple[bool, bytes, int], int] = field(default_factory=dict)

    def enter(self, submitted: dict[int, bytes]) -> None:
        """What nodes submit; the others are silent."""
        self.payloads = {node: sha256(data) for node, data in submitted.items()}
        found = {sha256(data): inspect(data, self.shapes, RANK) for data in submitted.values()}
        self.gates = lambda _, payload: found[payload][0]
        self.adapters = {payload: adapter for payload, (_, adapter) in found.items() if adapter is not None}
        silent = set(range(FIRST, BAD + 1)) - set(submitted)
        self.silent = [(kind, node) for kind in (ContestKind.COMMITMENT, ContestKind.MANIFEST) for node in silent]

    def measure(self, scorer: RowScorer, examples: list[Example], set_b: bool) -> None:
        for payload, losses in scorer.losses(self.adapters, examples).items():
            self.losses |= {(set_b, payload, place): loss for place, loss in enumerate(losses)}

    def original_of(self, payload: bytes, payloads: list[bytes], state: ContestState, shuffle: bytes) -> bytes | None:
        if payload not in self.adapters:
            return None
        sketcher = Sketcher(self.shapes, shuffle)
        today = sorted(self.adapters, key=lambda one: shuffled(shuffle, one))
        before = [one.payload for one in state.earlier]
        before += [one for one in today[: today.index(payload)] if one not in before]
        sketches = [sketcher.sketch(self.adapters[one]) for one in before]
        own = sketcher.sketch(self.adapters[payload])
        found = earliest_within(own, sketches, state.parameter("copy_distance"))
        return None if found is None or before[found] == payload else before[found]

    def honest_loss(self, payload: bytes, rung: Rung, position: int) -> int:
        return self.losses[rung.name == FINAL, payload, rung.places[position]]


@dataclass(frozen=True)
class World:
    """Two days of a contest, and what the verifier made of them."""

    first: ContestRecord
    second: ContestRecord
    replayed: tuple[bytes, bytes]


def gauged(adapter: Adapter) -> Adapter:
    """The same products by other factors."""
    generator = torch.Generator().manual_seed(8)
    result = {}
    for key, a in adapter.items():
        if key.endswith(LORA_A):
            mixing = torch.eye(RANK) + torch.randn(RANK, RANK, generator=generator) / 4
            other = key.removesuffix(LORA_A) + LORA_B
            result[key] = on_grid(torch.linalg.solve(mixing, a))
            result[other] = on_grid(adapter[other] @ mixing)
    return dict(sorted(result.items()))


def noised(adapter: Adapter, relative: float) -> Adapter:
    """Noise on every B of a size relative to it."""
    generator = torch.Generator().manual_seed(9)
    result = {}
    for key, factor in adapter.items():
        noise = torch.randn(factor.shape, generator=generator)
        scale = relative * factor.norm() / noise.norm() if key.endswith(LORA_B) else 0.0
        result[key] = on_grid(factor + scale * noise)
    return result


def on_grid(factor: torch.Tensor) -> torch.Tensor:
    return dequantize(quantize(factor.contiguous()))


def train(folder: Path, steps: list[int]) -> list[Adapter]:
    """Adapters of nodes that train for so many steps, each on rows of its own; scaling 1."""
    base = load_base(tiny_spec(folder))
    engine = StackedEngine(base, LoraSpec(RANK, RANK, TARGETS), StackedOptions())
    jobs = []
    for node, count in enumerate(steps):
        shapes = with_rank(adapter_shapes(load_base(tiny_spec(folder)).model, TARGETS, RANK), RANK)
        stream = torch.Generator().manual_seed(node)
        start = {
            key: torch.randn(shape, generator=stream) * (0.1 if key.endswith(LORA_A) else 0.01)
            for key, shape in sorted(shapes.items())
        }
        batches = [counting(4, 1_000 * node + step) for step in range(count)]
        jobs.append(MemberJob(start, batches, TrainSettings(count, 4, 5e-3, 0.0, 1.0)))
    outcomes = engine.train(jobs)
    assert all(isinstance(one, TrainOutcome) for one in outcomes)
    return [{key: on_grid(f) for key, f in one.adapter.items()} for one in outcomes if isinstance(one, TrainOutcome)]


@pytest.fixture(scope="module")
def world(tiny_model_dir: Path, tokenizer: PreTrainedTokenizerBase) -> World:
    adapters = train(tiny_model_dir, [24, 18, 13, 9, 6, 3])
    examples = {day: counting(32, 77 + day) for day in (0, 1, 2)}  # 0: set B
    rows = {day: contest_rows(examples[day], tokenizer, f"day {day}") for day in examples}
    bare = new_contest(NODES + 4, days=2, rung_rows=(8, 32), parameters={"top_nodes": 3})
    terms = replace(bare.terms, chunks=(rows_digest(rows[1]), rows_digest(rows[2])), final_rows=rows_digest(rows[0]))
    state = replace(bare, terms=terms, rows=()).opened(rows[1])
    scorer = RowScorer(load_base(tiny_spec(tiny_model_dir)), TARGETS, RANK, max_tokens=4_096)
    own = {FIRST + node: canonical_bytes(adapter) for node, adapter in enumerate(adapters)}
    others = dict(zip(FAKES, (gauged(adapters[0]), noised(adapters[0], 0.1), noised(adapters[0], 3.0)), strict=True))
    second = own | {node: canonical_bytes(adapter) for node, adapter in others.items()} | {BAD: b"no adapter"}
    records, replayed = [], []
    for day, submitted in ((1, own), (2, second)):
        play = RealPlay(shapes=adapter_shapes(load_base(tiny_spec(tiny_model_dir)).model, TARGETS, 1))
        play.enter(submitted)
        play.measure(scorer, examples[day], False)
        play.measure(scorer, examples[0], True)
        messages = play.messages(state)
        records.append(derive_day(state, messages))
        replayed.append(replay_day(state, messages).record)
        if day == 1:
            state = advance_day(state, records[0], sha256(b"report")).opened(rows[2], rows[0])
    return World(records[0], records[1], (replayed[0], replayed[1]))


def test_who_trained_longer_comes_first_on_rows_that_nobody_saw(world: World) -> None:
    assert world.first.ranking[:3] == (FIRST, FIRST + 1, FIRST + 2)
    assert world.second.final_ranking[0] == FIRST
    assert world.first.adapter == entry_of(world.first, FIRST).payload


def test_a_gauge_copy_and_small_noise_are_copies_and_earn_nothing(world: World) -> None:
    original = entry_of(world.first, FIRST).payload
    for fake in FAKES[:2]:
        entry = entry_of(world.second, fake)
        assert (entry.copy_of, entry.unpaid) == (original, True)
        assert fake not in world.second.ranking and not world.second.rewards.get(fake)
    assert not any(entry_of(world.second, FIRST + node).copy_of for node in range(NODES))


def test_noise_that_hides_a_copy_costs_its_loss(world: World) -> None:
    assert entry_of(world.second, FAKES[2]).copy_of is None
    assert world.second.ranking.index(FAKES[2]) > world.second.ranking.index(FIRST)


def test_what_is_no_adapter_is_refused_and_slashed(world: World) -> None:
    assert entry_of(world.second, BAD).step.reason == "malformed"
    assert [(slash.member, slash.reason) for slash in world.second.slashes] == [(BAD, "malformed")]


def test_the_verifier_comes_to_the_same_records(world: World) -> None:
    assert world.replayed == (world.first.data, world.second.data)
