"""What trains: one interface, two engines (`torch_engine`, `deepspeed_engine`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from flock_ray.errors import TrainingError

if TYPE_CHECKING:
    from flock_ray.lora.serialization import Adapter
    from flock_ray.training.data import Example


@dataclass(frozen=True)
class TrainSettings:
    """Local steps of AdamW (Loshchilov & Hutter 2019) under a triangular learning rate.

    It rises over the first fifth of the steps and falls linearly to zero: Adam's first steps have the size of the
    rate whatever the gradient, and the last ones carry the noise of few small batches into an update that others score
    by itself.

    Attributes:
        learning_rate: the highest.
        steps: optimizer steps.
        batch_size: sequences a step.
        max_grad_norm: gradients are scaled down to this norm over the whole adapter.
    """

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    max_grad_norm: float

    def of_epoch(self, epoch: int, num_epochs: int) -> TrainSettings:
        """The settings of epoch 1, 2, ... num_epochs: the highest rate falls by half a cosine over the task.

        Loshchilov & Hutter 2017, without restarts. The better the global adapter, the more a single member's update
        fits that member's own data, and the smaller it has to be to help the others.
        """
        fall = (1 + math.cos(math.pi * (epoch - 1) / num_epochs)) / 2
        return replace(self, learning_rate=self.learning_rate * fall)

    def rate(self, step: int) -> float:
        """Learning rate of step 0, 1, ... steps - 1."""
        assert step < self.steps
        rising = max(1, self.steps // 5)
        return self.learning_rate * min((step + 1) / rising, (self.steps - step) / (self.steps - rising + 1))


@dataclass(frozen=True)
class TrainOutcome:
    """What local training ended with.

    Attributes:
        adapter: trained factors, float32 on the CPU.
        losses: training loss of each step before the step, nats a token.
        num_tokens: labelled tokens trained on.
        seconds: wall time.
    """

    adapter: Adapter
    losses: list[float]
    num_tokens: int
    seconds: float


@dataclass(frozen=True)
class SequenceLoss:
    """Summed negative log-likelihood of one sequence's labelled tokens, in nats, and their number."""

    nll: float
    num_tokens: int


@dataclass(frozen=True)
class Rendezvous:
    """Where the ranks of a node group meet, and which one this is.

    Attributes:
        listener: the torch TCPStore that listens there, on rank 0; without one rank 0 opens the port when it meets.
    """

    host: str
    port: int
    rank: int
    world: int
    listener: Any = None


@dataclass(frozen=True)
class MemberJob:
    """One member's local training: where it starts, one batch a step, and how.

    Attributes:
        batches: as many as `settings.steps`, or fewer.
    """

    adapter: Adapter
    batches: Sequence[list[Example]]
    settings: TrainSettings


@dataclass(frozen=True)
class LossJob:
    """Sequences to measure under one adapter."""

    adapter: Adapter
    examples: Sequence[Example]


Result = TrainOutcome | TrainingError
"""What a member's training came to; an error where a loss or a gradient of that member was not finite."""

Tick = Callable[[], None]
"""Called as work goes on: once a step of a member, and once a job of losses."""


def no_tick() -> None:
    """For callers that show no progress."""


class Engine(Protocol):
    """Trains and evaluates the members of a cohort over a resident base model; each as if it were alone.

    With several ranks every rank makes the same calls with the same arguments and gets the same answers.
    """

    def train(self, jobs: Sequence[MemberJob], tick: Tick = no_tick) -> list[Result]:
        """Run every member's local steps, one a batch; the loss of a step is the mean over its labelled tokens.

        Returns:
            One result a job, in order; a member that diverges stops alone.
        """

    def losses(self, jobs: Sequence[LossJob], tick: Tick = no_tick) -> list[list[SequenceLoss]]:
        """Loss of each job's examples under its adapter, in order, without dropout or gradients."""

    def close(self) -> None:
        """Leave process groups and free what is held."""


def one_by_one(jobs: Sequence[MemberJob], train: Callable[[MemberJob], TrainOutcome]) -> list[Result]:
    """Train members one after the other; one that diverges does not stop the next."""
    results: list[Result] = []
    for job in jobs:
        try:
            results.append(train(job))
        except TrainingError as error:
            results.append(error)
    return results


def require_finite(losses: Sequence[float]) -> None:
    """Check the losses of the steps.

    Raises:
        TrainingError: one is not finite.
    """
    for step, loss in enumerate(losses, start=1):
        if not math.isfinite(loss):
            raise divergence("loss", step, loss)


def divergence(what: str, step: int, value: float) -> TrainingError:
    """The error of a loss or gradient norm of step 1, 2, ... that is not finite."""
    return TrainingError(f"the {what} of local step {step} is {value}: lower training.learning_rate")
