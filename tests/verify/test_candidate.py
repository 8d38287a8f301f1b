"""Candidates at several steps, as the verifier combines them, and from which moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from flock_ray.aggregation.aggregate import aggregate
from flock_ray.aggregation.mean import Mean
from flock_ray.aggregation.registry import RULES
from flock_ray.aggregation.rule import Rule, Weighting
from flock_ray.aggregation.start import Start
from flock_ray.errors import VerificationError
from flock_ray.lora.fixed_point import SCALE, quantize
from flock_ray.lora.serialization import LORA_A, LORA_B, Adapter, adapter_hash, canonical_bytes
from flock_ray.protocol.hashing import sha256
from flock_ray.protocol.state import TaskState
from flock_ray.verify.candidate import Payloads, combined
from flock_ray.verify.epoch import Replay, replay
from flock_ray.verify.residual import Public, moves_between
from tests.protocol.players import new_task
from tests.verify.epochs import OddPlay


def adapter(*points: int) -> Adapter:
    half = len(points) // 2
    return {
        "layer" + LORA_A: torch.tensor([points[:half]], dtype=torch.float64).div(SCALE).float(),
        "layer" + LORA_B: torch.tensor([points[half:]], dtype=torch.float64).div(SCALE).float().T.contiguous(),
    }


def points(found: Adapter) -> list[int]:
    return [int(value) for key in sorted(found) for value in quantize(found[key]).ravel()]


class Weighted(Rule):
    """The first update three times, of a large denominator."""

    def start(self, start: Start) -> None:
        self._count = 0

    def add(self, update: Adapter) -> None:
        self._count += 1

    def finish(self) -> Weighting:
        return Weighting((3 * 2**18, *[2**18] * (self._count - 1)), 2**20)


def test_each_step_is_floored_by_itself() -> None:
    updates = [adapter(-1, 0, 1, 3), adapter(0, 0, 0, -3)]
    weights, found = combined(Start(adapter(10, 0, 0, 5)), Mean({}), updates, (1, 2, 3, 5))
    assert weights == (1, 1)
    assert [points(one) for one in found] == [[9, 0, 0, 5], [9, 0, 1, 5], [8, 0, 1, 5], [7, 0, 2, 5]]


def test_weights_and_denominator_are_the_rule_s() -> None:
    weights, found = combined(
        Start(adapter(0, 0, 0, 0)), Weighted({}), [adapter(4, 1, 0, 0), adapter(0, 1, 2, -1)], (1, 3)
    )
    assert weights == (3 * 2**18, 2**18)
    assert [points(one) for one in found] == [[3, 1, 0, -1], [9, 3, 1, -1]]


def test_no_step_overflows() -> None:
    """The sum of weights times points is 2^62, and five times it no int64."""
    most = 2**42
    _, found = combined(Start(adapter(0, 0, 0, 0)), Weighted({}), [adapter(most, -most, 0, 0)] * 2, (1, 5))
    assert [points(one)[:2] for one in found] == [[most, -most], [5 * most, -5 * most]]


def test_a_rule_that_gives_nobody_weight_makes_no_candidate() -> None:
    assert combined(
        Start(adapter(0, 0)), RULES["krum"]({"num_malicious": 1, "arc": 0, "nnm": 0}), [adapter(1, 1)], (1,)
    ) == ((0,), [])


@pytest.mark.parametrize("name", sorted(RULES))
def test_at_every_step_it_is_what_members_aggregate(name: str) -> None:
    torch.manual_seed(3)
    rule = RULES[name]({key: parameter.default for key, parameter in RULES[name].parameters.items()})
    start = Start(adapter(*range(1, 9)))
    updates = [adapter(*(torch.randn(8) * 2**20).round().int().tolist()) for _ in range(7)]
    expected = aggregate(start, rule, updates, (1, 2, 3, 5))
    weights, found = combined(start, rule, updates, (1, 2, 3, 5))
    assert (weights, *map(points, found)) == (expected.weights, *map(points, expected.adapters)) and len(found) == 4


def test_entries_of_an_entrywise_rule_go_further_by_themselves() -> None:
    """Medians of 1, 5 and 9, and of -1, 0 and 7; that of (0, 3), rounded down, is 1."""
    updates = [adapter(1, -1), adapter(5, 7), adapter(9, 0)]
    _, found = combined(Start(adapter(100, 0)), RULES["coordinate_median"]({}), updates, (1, 2, 5))
    assert [points(one) for one in found] == [[105, 0], [110, 0], [125, 0]]
    _, found = combined(Start(adapter(0, 0)), RULES["coordinate_median"]({}), [adapter(0, 0), adapter(3, 0)], (1, 3))
    assert [points(one) for one in found] == [[1, 0], [3, 0]]


class Blobs:
    """What the verifier reads of a run's folder here."""

    def __init__(self) -> None:
        self.blobs: dict[bytes, bytes] = {}

    def put(self, data: bytes) -> bytes:
        self.blobs[sha256(data)] = data
        return sha256(data)

    def blob(self, digest: bytes, max_bytes: int) -> bytes | None:
        return self.blobs.get(digest)

    def lacking(self, what: str) -> VerificationError:
        return VerificationError(f"{what} is not there")


class Task:
    """A task whose epochs are played with true candidates; only the first adapter and the payloads are stored."""

    def __init__(self, history: int, mechanism: str = "marginal") -> None:
        self.blobs = Blobs()
        self.adapters = [adapter(*range(100, 900, 100))]
        digest = self.blobs.put(canonical_bytes(self.adapters[0]))
        parameters = {"history": history} if mechanism == "marginal" else {}
        self.state: TaskState = new_task(
            mechanism=mechanism, num_epochs=9, start_adapter=digest, mechanism_parameters=parameters
        )
        self.history = history
        self.payloads = self.fresh()

    def fresh(self) -> Payloads:
        folder: Any = self.blobs
        return Payloads(folder, self.state.terms)

    def play(self, seed: int, step: int = 1, accepted: bool = True, cancels: bool = False) -> Replay:
        """An epoch in which this step is taken, of updates mostly along what moved so far; it makes the next state."""
        generator = torch.Generator().manual_seed(seed)
        members = sorted(set(self.state.roles.proposers))
        moved = torch.tensor(points(self.adapters[-1])) - torch.tensor(points(self.adapters[0]))
        rows = [(torch.randn(8, generator=generator) * 2**16).long() + 3 * moved for _ in members]
        if cancels:
            rows = [rows[0], -rows[0], rows[1], -rows[1]]
        updates = [adapter(*row.tolist()) for row in rows]
        entering: Sequence[Adapter] = updates
        if self.state.terms.mechanism == "marginal":
            public = Public(moves_between(self.adapters[-self.history - 1 :]))
            entering = [public.entering(update) for update in updates]
        steps = (1, 2, 3, 5) if self.state.terms.mechanism == "marginal" else (1,)
        _, candidates = combined(Start(self.adapters[-1]), Mean({}), entering, steps)
        hashes = list(map(adapter_hash, candidates))
        play = OddPlay(
            payloads={
                member: self.blobs.put(canonical_bytes(update)) for member, update in zip(members, updates, strict=True)
            },
            candidate_gain=lambda voter: 1_000 if accepted else -(10**6),
            step_gain=lambda voter, taken: 1 if taken == step else -1,
            candidates=lambda voter, ballot: replace(
                ballot,
                candidates=tuple((digest, score) for digest, (_, score) in zip(hashes, ballot.candidates, strict=True)),
            ),
        )
        replayed = replay(self.state, play.messages(self.state))
        assert (replayed.accepted, replayed.candidate.step) == (accepted, step)
        if accepted and hashes[steps.index(step)] != adapter_hash(self.adapters[-1]):
            self.adapters.append(candidates[steps.index(step)])
        self.state = replayed.following(sha256(b"report"))
        return replayed


@pytest.mark.parametrize("history", [0, 1, 2, 16])
def test_a_run_s_candidates_come_out_of_its_payloads_alone(history: int) -> None:
    task = Task(history)
    for seed, step, accepted in ((1, 1, True), (2, 5, True), (3, 2, False), (4, 1, True), (5, 3, True), (6, 2, True)):
        replayed = task.play(seed, step, accepted)
        assert task.payloads.check(replayed) == len(replayed.proposals)
        assert task.state.adapter == adapter_hash(task.adapters[-1])
        earlier = tuple(map(adapter_hash, task.adapters[:-1]))
        assert task.state.earlier_adapters == (earlier[-history:] if history else ())


def test_an_epoch_that_moves_nothing_is_no_move() -> None:
    task = Task(2)
    for seed, moves in ((1, 1), (2, 1), (3, 2), (4, 2), (5, 2)):
        replayed = task.play(seed, cancels=seed in (2, 4))
        assert replayed.accepted and task.payloads.check(replayed) == 4
        assert len(task.state.earlier_adapters) == moves
    assert len(task.adapters) == 4


def test_under_another_mechanism_the_updates_themselves_enter() -> None:
    task = Task(0, "marginal1")
    for seed in (1, 2):
        assert task.payloads.check(task.play(seed)) == 4
    assert task.state.earlier_adapters == ()


def test_a_quorum_that_names_another_adapter_at_any_step_is_caught() -> None:
    task = Task(2)
    task.payloads.check(task.play(1))
    replayed = task.play(2, step=3)
    candidate = replayed.candidate
    for index, (step, _, score) in enumerate(candidate.steps):
        steps = list(candidate.steps)
        steps[index] = (step, sha256(b"mine"), score)
        with pytest.raises(VerificationError, match="candidate adapter from the accepted payloads, by step"):
            task.payloads.check(replace(replayed, candidate=replace(candidate, steps=tuple(steps))))
    for changed in (replace(candidate, adapter=sha256(b"mine")), replace(candidate, step=1)):
        with pytest.raises(VerificationError, match="candidate adapter from the accepted payloads"):
            task.payloads.check(replace(replayed, candidate=changed))
    without = replace(replayed.state, earlier_adapters=())
    electorate = replace(replayed.electorate, state=without)
    with pytest.raises(VerificationError, match="candidate adapter from the accepted payloads"):
        task.payloads.check(replace(replayed, state=without, electorate=electorate))
    with pytest.raises(VerificationError, match=r"the global adapter 0x.* is not there"):
        task.fresh().check(replayed)
    assert task.payloads.check(replayed) == 4
