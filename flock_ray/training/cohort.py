"""Local training of several members on one device: one after the other, or all in one batch over one resident base."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Protocol

import torch

from flock_ray.errors import TrainingError
from flock_ray.lora.peft_io import LoraSpec
from flock_ray.lora.serialization import Adapter
from flock_ray.lora.stacked import StackedAdapters
from flock_ray.lora.stacked_optimizer import StackedAdamW
from flock_ray.training.cross_entropy import CHUNK_TOKENS
from flock_ray.training.data import Example
from flock_ray.training.engine import Engine, TrainOutcome, TrainSettings, divergence
from flock_ray.training.loss import CausalLoss, collate
from flock_ray.training.model import BaseModel
from flock_ray.training.torch_engine import TorchEngine

Result = TrainOutcome | TrainingError
"""What a member's training came to; an error where a loss or a gradient of that member was not finite."""

_EMPTY = Example.of([0], [False])
"""A row that fills the batch of a member with fewer rows than others: it has no label, so it moves nothing."""


@dataclass(frozen=True)
class MemberJob:
    """One member's local training: where it starts, one batch a step, and how.

    Attributes:
        batches: as many as `settings.steps`, or fewer.
    """

    adapter: Adapter
    batches: Sequence[list[Example]]
    settings: TrainSettings


class CohortTrainer(Protocol):
    """Trains the members of a cohort; each member's gradients are those of solo training."""

    def train(self, jobs: Sequence[MemberJob]) -> list[Result]:
        """Train every member, in order; one that diverges stops alone."""


class SequentialCohort:
    """One member after the other through an `Engine`: the reference."""

    def __init__(self, engine: Engine) -> None:
        """Train on this engine."""
        self._engine = engine

    def train(self, jobs: Sequence[MemberJob]) -> list[Result]:
        """See `CohortTrainer`."""
        results: list[Result] = []
        for job in jobs:
            try:
                results.append(self._engine.train(job.adapter, job.batches, job.settings))
            except TrainingError as error:
                results.append(error)
        return results


class StackedCohort:
    """All members in one batch, over stacked factors.

    `stacked` fills every member's rows up to the largest batch, so that all have the same shape: one batched product a
    factor. `grouped` takes the rows as they are: one grouped product a factor, for cohorts of unequal members.

    Attributes:
        adapters: the stack.
        loss: of each sequence of a batch.
    """

    def __init__(
        self,
        base: BaseModel,
        spec: LoraSpec,
        grouped: bool = False,
        chunk_tokens: int | None = CHUNK_TOKENS,
        compiled: bool = False,
    ) -> None:
        """Inject stacked factors into the base model, in place, and move it to its device.

        Args:
            base: resident base model.
            spec: of every member's adapter.
            grouped: take ragged rows as they are.
            chunk_tokens: see `CausalLoss`.
            compiled: compile each decoder layer for the shapes it meets; the first step of a shape then takes long.
        """
        self.adapters = StackedAdapters(base.model.to(base.device), spec)
        self.loss = CausalLoss(base.model, None, chunk_tokens)
        self._grouped, self._device = grouped, base.device
        if compiled:
            for layer in base.model.get_decoder().layers:
                layer.compile(dynamic=False)

    def train(self, jobs: Sequence[MemberJob]) -> list[Result]:
        """See `CohortTrainer`; each outcome's `seconds` is an equal share of the cohort's wall time."""
        start = time.perf_counter()
        self.adapters.load([job.adapter for job in jobs])
        settings = [job.settings for job in jobs]
        optimizer = StackedAdamW(
            self.adapters.factors,
            [one.learning_rate for one in settings],
            [one.weight_decay for one in settings],
            [one.max_grad_norm for one in settings],
        )
        losses: list[list[float]] = [[] for _ in jobs]
        errors: dict[int, TrainingError] = {}
        for step in range(max(len(job.batches) for job in jobs)):
            moving = [k for k, job in enumerate(jobs) if step < len(job.batches) and k not in errors]
            found = self._step(step, jobs, moving, optimizer)
            for member, (loss, norm) in found.items():
                losses[member].append(loss)
                if not optimizer.active[member]:
                    what = ("gradient norm", norm) if math.isfinite(loss) else ("loss", loss)
                    errors[member] = divergence(what[0], step + 1, what[1])
        seconds = (time.perf_counter() - start) / len(jobs)
        return [errors.get(k) or self._outcome(k, job, losses[k], seconds) for k, job in enumerate(jobs)]

    def member_losses(self, batches: Sequence[list[Example]]) -> torch.Tensor:
        """Mean loss over each member's labelled tokens, [K] float32 in nats; 0 for a member without rows.

        The gradient of its sum is every member's own.
        """
        rows = [len(batch) for batch in batches]
        if not self._grouped:
            rows = [max(rows)] * len(batches)
        filled = [[*batch, *[_EMPTY] * (size - len(batch))] for batch, size in zip(batches, rows, strict=True)]
        ids, labels = collate(list(chain.from_iterable(filled)), self._device)
        ends = torch.tensor(list(accumulate(rows)), dtype=torch.int32, device=self._device) * ids.shape[1]
        self.adapters.ownership.ends = ends if self._grouped else None
        owners = torch.repeat_interleave(torch.tensor(rows, device=self._device))
        nll: torch.Tensor = self.loss(ids, labels)
        tokens = torch.tensor([max(1, sum(e.num_labels for e in batch)) for batch in batches], device=self._device)
        return nll.new_zeros(len(batches)).index_add(0, owners, nll) / tokens

    def _step(
        self, step: int, jobs: Sequence[MemberJob], moving: Sequence[int], optimizer: StackedAdamW
    ) -> dict[int, tuple[float, float]]:
        """One step of the members that move; returns loss and gradient norm of each."""
        for member in moving:
            optimizer.learning_rates[member] = jobs[member].settings.rate(step)
        loss = self.member_losses([job.batches[step] if k in moving else [] for k, job in enumerate(jobs)])
        torch.autograd.backward(loss.sum())
        losses = loss.tolist()
        optimizer.active = [k in moving and math.isfinite(losses[k]) for k in range(len(jobs))]
        norms = optimizer.step()
        optimizer.zero_grad()
        return {member: (losses[member], norms[member]) for member in moving}

    def _outcome(self, member: int, job: MemberJob, losses: list[float], seconds: float) -> TrainOutcome:
        num_tokens = sum(example.num_labels for batch in job.batches for example in batch)
        return TrainOutcome(self.adapters.read(member), losses, num_tokens, seconds)


BACKENDS = ("sequential", "stacked", "grouped")


def cohort_trainer(backend: str, base: BaseModel, spec: LoraSpec) -> CohortTrainer:
    """A backend by name; it changes the base model, which then serves no other.

    Raises:
        ValueError: an unknown name.
    """
    if backend not in BACKENDS:
        raise ValueError(f"the cohort backend is {backend!r}; it must be one of {', '.join(BACKENDS)}")
    if backend == "sequential":
        return SequentialCohort(TorchEngine(base, spec))
    return StackedCohort(base, spec, grouped=backend == "grouped")
