"""Workers whose local training and scoring are simulated, for what asks about everything else.

The workbench, messages, signatures, journals, payloads, the blob store, ballots and records are the real ones. What a
member trains and what a voter scores are pure functions of start adapter, member, epoch and data, in numbers that are
exact in floating point: a run has the same hashes on every machine, and after a worker was rebuilt.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from flock_ray.cluster.trainer import RowsOf, Trainer
from flock_ray.cluster.workbench import Workbench
from flock_ray.cluster.worker import Worker
from flock_ray.lora.serialization import LORA_A
from flock_ray.training.data import Example, Silo
from flock_ray.training.engine import (
    LossJob,
    MemberJob,
    Rendezvous,
    Result,
    SequenceLoss,
    Tick,
    TrainOutcome,
    no_tick,
)
from flock_ray.training.model import ModelHashes

NUM_LAYERS = 2
MAX_EPOCHS = 64
GRID = 2.0**-24  # of the fixed point that updates are added in
START, SLOPE = 8192.0, 10_000.0  # nats of a sequence under an adapter of zeros, and what it loses a unit of movement


@dataclass(frozen=True)
class Simulation:
    """What is simulated, written as the `model.path` that carries it to the workers.

    Attributes:
        width: inputs and outputs of each adapted layer.
        seconds: that every local step and every measured loss takes.
    """

    width: int
    seconds: float = 0.0

    @property
    def path(self) -> str:
        """Such as `64@0.05`."""
        return f"{self.width}@{self.seconds:g}"

    @classmethod
    def of(cls, path: str) -> Simulation:
        """Read a path back."""
        width, _, seconds = path.partition("@")
        return cls(int(width), float(seconds))


@dataclass(frozen=True)
class SimulatedJob(MemberJob):
    """A member's local training that tells whose it is, and of which epoch."""

    member: int
    epoch: int


class SimulatedEngine:
    """Training that costs one copy of the adapter, and scoring that costs nothing, but for the seconds asked for."""

    def __init__(self, seconds: float, freeze_a: bool = False) -> None:
        self._seconds, self._freeze_a = seconds, freeze_a

    def train(self, jobs: Sequence[SimulatedJob], tick: Tick = no_tick) -> list[Result]:
        """Adapters that were moved, each by an amount that no other member and epoch is moved by."""
        results: list[Result] = []
        for job in jobs:
            for _ in job.batches:
                self._spend(tick)
            amount = (job.member * MAX_EPOCHS + job.epoch) * GRID
            moved = {
                key: factor + (0.0 if self._freeze_a and key.endswith(LORA_A) else amount)
                for key, factor in job.adapter.items()
            }
            results.append(TrainOutcome(moved, [1.0] * len(job.batches), len(job.batches), 0.0))
        return results

    def losses(self, jobs: Sequence[LossJob], tick: Tick = no_tick) -> list[list[SequenceLoss]]:
        """Lower the more a factor B was moved, so that honest updates are accepted; a little else on each sequence."""
        found = []
        for job in jobs:
            moved = job.adapter[max(job.adapter)][0, 0].item()
            found.append(
                [SequenceLoss(START - (SLOPE + example.sample_id[0]) * moved, 100) for example in job.examples]
            )
            self._spend(tick)
        return found

    def _spend(self, tick: Tick) -> None:
        if self._seconds:
            time.sleep(self._seconds)
        tick()

    def close(self) -> None:
        """Nothing to leave."""


class SimulatedTrainer(Trainer):
    """The real trainer, whose jobs tell the engine whose they are."""

    def _job(self, member: int, epoch: int, start: bytes, rows_of: RowsOf | None) -> SimulatedJob:
        job = super()._job(member, epoch, start, rows_of)
        return SimulatedJob(job.adapter, job.batches, job.settings, member, epoch)


class SimulatedBench(Workbench):
    """The real workbench over a base model that has shapes only, tiny silos, and the engine above."""

    training = SimulatedTrainer

    def _load_base(self, rendezvous: Rendezvous) -> Any:
        width = Simulation.of(self.spec.model.path).width
        model = torch.nn.Module()
        model.layers = torch.nn.ModuleList(torch.nn.Linear(width, width, device="meta") for _ in range(NUM_LAYERS))
        model.head = torch.nn.Linear(1, 1)
        model.get_output_embeddings = lambda: model.head
        model.config = SimpleNamespace(hidden_size=width, num_attention_heads=1, num_hidden_layers=NUM_LAYERS)
        return SimpleNamespace(
            model=model,
            tokenizer=SimpleNamespace(batch_decode=lambda targets, **_: ["text" for _ in targets]),
            name="shapes only",
            hashes=ModelHashes(bytes(32), bytes(32), bytes(32)),
            dtype=torch.float32,
            device=torch.device("cpu"),
            num_parameters=0,
            folder=Path(),
        )

    def _look_at_model(self) -> tuple[str, tuple[str, ...]]:
        return "stacked", ()

    def try_step(self) -> None:
        """Nothing: there is no model to try."""

    def _load_silo(self, member: int) -> Silo:
        train, *heldout = (Example.of([member, token], [True, True]) for token in (2, 3, 4))
        return Silo(f"simulated {member}", (train,), tuple(heldout))

    def _make_engine(self, rendezvous: Rendezvous) -> SimulatedEngine:
        return SimulatedEngine(Simulation.of(self.spec.model.path).seconds, self.spec.lora.freeze_a)

    def initial_adapter(self) -> bytes:
        """Hash of an adapter of zeros, which is exact everywhere; puts it into the store."""
        zeros = {key: torch.zeros(shape) for key, shape in sorted(self.updates.shapes.items())}
        digest = self.updates.remember(zeros)
        self.updates.publish(digest)
        return digest


class SimulatedWorker(Worker):
    """A worker over the simulated workbench."""

    workbench = SimulatedBench
