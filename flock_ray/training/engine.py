"""The interface of a training engine; see `torch_engine`, `stacked_engine` and `deepspeed_engine`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from flock_ray.errors import TrainingError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from flock_ray.lora.serialization import Adapter
    from flock_ray.training.data import Example


@dataclass(frozen=True)
class TrainSettings:
    """Local steps of AdamW (Loshchilov & Hutter 2019) under a triangular learning rate.

    It rises over the first fifth of the steps and falls linearly towards zero: Adam's first steps have the size of the
    rate whatever the gradient, and large last steps would carry the noise of a few small batches into the update.

    Attributes:
        learning_rate: the highest rate.
        steps: optimizer steps.
        batch_size: sequences per step.
        max_grad_norm: gradients are scaled down to this norm over the whole adapter.
    """

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    max_grad_norm: float

    def of_epoch(self, epoch: int, num_epochs: int) -> TrainSettings:
        """The settings of epoch 1, 2, ... num_epochs: the highest rate falls by half a cosine over the task.

        Loshchilov & Hutter 2017, without restarts. The better the global adapter, the more a member's update fits only
        that member's data, and the smaller it must be to help the others.
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
    """The result of local training.

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
    """Address at which the ranks of a node group meet, this rank's number, and the number of ranks.

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
    """A member's local training: starting adapter, batches and settings.

    Attributes:
        batches: one per step, at most `settings.steps`.
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
"""Result of a member's training; an error if a loss or a gradient of that member was not finite."""

Tick = Callable[[], None]
"""Progress callback: called once per step of a member, and once per job of losses."""


def no_tick() -> None:
    """Do nothing: for callers that show no progress."""


class Engine(Protocol):
    """Trains and evaluates the members of a cohort over a resident base model, each as if it were alone.

    With several ranks every rank makes the same calls with the same arguments and gets the same answers.
    """

    def train(self, jobs: Sequence[MemberJob], tick: Tick = no_tick) -> list[Result]:
        """Run every member's local steps, one per batch; the loss of a step is the mean over its labelled tokens.

        Returns:
            One result per job, in order; a member that diverges does not stop the others.
        """

    def losses(self, jobs: Sequence[LossJob], tick: Tick = no_tick) -> list[list[SequenceLoss]]:
        """Loss of each job's examples under its adapter, in order, without dropout or gradients."""

    def close(self) -> None:
        """Leave process groups and free resources."""


@runtime_checkable
class AnsweringEngine(Protocol):
    """An engine that can also let its model speak; one that shards the base model cannot."""

    def answers(
        self, adapters: Sequence[Adapter], tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], max_tokens: int
    ) -> list[list[str]]:
        """The likeliest answers under each adapter, one to each prompt."""


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
        TrainingError: a loss is not finite.
    """
    for step, loss in enumerate(losses, start=1):
        if not math.isfinite(loss):
            raise divergence("loss", step, loss)


def divergence(what: str, step: int, value: float) -> TrainingError:
    """The error for a loss or gradient norm of step 1, 2, ... that is not finite."""
    return TrainingError(f"the {what} of local step {step} is {value}: lower training.learning_rate")
