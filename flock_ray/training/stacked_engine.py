"""All members of a cohort in one batch over one resident base model, by stacked factors."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, chain
from typing import Protocol

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedTokenizerBase

from flock_ray.errors import TrainingError
from flock_ray.lora.peft_io import LoraSpec
from flock_ray.lora.serialization import Adapter
from flock_ray.lora.stacked import StackedAdapters
from flock_ray.lora.stacked_optimizer import StackedAdamW
from flock_ray.training.attention import use_packed_attention
from flock_ray.training.cross_entropy import CHUNK_TOKENS
from flock_ray.training.data import Example
from flock_ray.training.engine import (
    LossJob,
    MemberJob,
    Result,
    SequenceLoss,
    Tick,
    TrainOutcome,
    divergence,
    no_tick,
)
from flock_ray.training.generation import Prompts, Sampling, batched_answers
from flock_ray.training.loss import PackedLoss
from flock_ray.training.model import BaseModel
from flock_ray.training.packing import filler, pack
from flock_ray.training.shared_prefixes import pack_shared, passes


@dataclass(frozen=True)
class StackedOptions:
    """Independent options of the stacked step.

    Attributes:
        grouped: keep members of unequal sizes as they are, with a grouped product per factor; else all are padded to
            the largest and share a batched product.
        compiled: compile each decoder layer for the shapes it meets; the first step of a shape then takes long.
        checkpointing: keep only the layers' inputs and compute the rest again in backward: less memory, more time.
        max_tokens: most tokens of a pass that measures losses, longer jobs take several passes; None: no limit.
        chunk_tokens: see `PackedLoss`.
    """

    grouped: bool = False
    compiled: bool = False
    checkpointing: bool = False
    max_tokens: int | None = None
    chunk_tokens: int | None = CHUNK_TOKENS


class Ranks(Protocol):
    """Ranks that hold the same members and divide the rows of each."""

    def share(self, items: Sequence[Example]) -> Sequence[Example]:
        """This rank's rows."""

    def sum(self, tensor: torch.Tensor) -> None:
        """Add up a tensor of all ranks, in place."""


class StackedEngine:
    """Trains and evaluates a cohort as one batch; each member's gradients are those of solo training.

    Attributes:
        adapters: the stack.
        loss: the module that computes the loss of each sequence of a batch.
    """

    def __init__(self, base: BaseModel, spec: LoraSpec, options: StackedOptions, ranks: Ranks | None = None) -> None:
        """Put stacked factors into the base model, in place, and move it to its device.

        Args:
            base: resident base model.
            spec: of every member's adapter.
            options: of the step.
            ranks: divide the rows of every member; None for a single rank.
        """
        model = base.model.to(base.device)
        self.adapters = StackedAdapters(model, spec)
        self.loss = PackedLoss(model, options.chunk_tokens)
        self._options, self._device, self._ranks = options, base.device, ranks
        for layer in model.get_decoder().layers:
            if options.checkpointing:
                layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
        if options.compiled:
            self.compile()

    def compile(self) -> None:
        """Compile each decoder layer for the shapes that it meets."""
        for layer in self.loss.model.get_decoder().layers:
            layer.compile(dynamic=False)

    def train(self, jobs: Sequence[MemberJob], tick: Tick = no_tick) -> list[Result]:
        """See `Engine`; each outcome's `seconds` is an equal share of the cohort's wall time."""
        start = time.perf_counter()
        self.adapters.load([job.adapter for job in jobs])
        settings = [job.settings for job in jobs]
        optimizer = StackedAdamW(
            [self.adapters.trainable],
            [setting.learning_rate for setting in settings],
            [setting.weight_decay for setting in settings],
            [setting.max_grad_norm for setting in settings],
        )
        losses: list[list[float]] = [[] for _ in jobs]
        errors: dict[int, TrainingError] = {}
        for step in range(max(len(job.batches) for job in jobs)):
            moving = [k for k, job in enumerate(jobs) if step < len(job.batches) and k not in errors]
            moved = self._step(step, jobs, moving, optimizer)
            for member, (loss, norm) in moved.items():
                losses[member].append(loss)
                if not optimizer.active[member]:
                    what = ("gradient norm", norm) if math.isfinite(loss) else ("loss", loss)
                    errors[member] = divergence(what[0], step + 1, what[1])
                tick()
        trained = self.adapters.read()
        seconds = (time.perf_counter() - start) / len(jobs)
        return [errors.get(k) or outcome(job, trained[k], losses[k], seconds) for k, job in enumerate(jobs)]

    def losses(self, jobs: Sequence[LossJob], tick: Tick = no_tick) -> list[list[SequenceLoss]]:
        """See `Engine`."""
        self.adapters.load([job.adapter for job in jobs])
        longest = max(len(example.input_ids) for job in jobs for example in job.examples)
        most, limit = max(len(job.examples) for job in jobs), self._options.max_tokens
        rows = most if limit is None else max(1, limit // (longest * len(jobs)))
        collected: list[list[float]] = [[] for _ in jobs]
        with torch.no_grad():
            for start in range(0, most, rows):
                each = self._sequence_losses([job.examples[start : start + rows] for job in jobs])
                for total, sums in zip(collected, each, strict=True):
                    total += sums.tolist()
        for _ in jobs:
            tick()
        return [
            [SequenceLoss(nll, example.num_labels) for nll, example in zip(sums, job.examples, strict=True)]
            for sums, job in zip(collected, jobs, strict=True)
        ]

    def shared_losses(self, adapters: Sequence[Adapter], rows: Sequence[Example]) -> list[list[SequenceLoss]]:
        """Losses of the same rows under every adapter; what rows begin with alike is passed once for each adapter."""
        self.adapters.load(adapters)
        self.adapters.ownership.ends = None  # all have as many tokens
        limit = self._options.max_tokens
        most = sum(len(row.input_ids) for row in rows) if limit is None else limit // len(adapters)
        sums = torch.zeros(len(adapters), len(rows))
        with torch.no_grad():
            for part in passes(rows, most):
                packed = pack_shared([rows[number] for number in part], len(adapters), self._device)
                sums[:, list(part)] = self.loss(packed).view(len(adapters), -1).cpu()
        return [
            [SequenceLoss(nll, row.num_labels) for nll, row in zip(each, rows, strict=True)] for each in sums.tolist()
        ]

    def answers(
        self, adapters: Sequence[Adapter], tokenizer: PreTrainedTokenizerBase, prompts: Prompts, max_tokens: int
    ) -> list[list[str]]:
        """See `AnsweringEngine`; all adapters in one batch."""
        self.adapters.load(adapters)
        self.adapters.ownership.ends = None  # all have as many tokens
        model = self.loss.model
        model.set_attn_implementation("eager")  # packed attention keeps no keys and values
        try:
            return batched_answers(model, tokenizer, prompts, len(adapters), Sampling(max_tokens))
        finally:
            use_packed_attention(model)

    def close(self) -> None:
        """Nothing to release."""

    def member_losses(self, batches: Sequence[Sequence[Example]]) -> torch.Tensor:
        """Mean loss over each member's labelled tokens, [K] float32 in nats; 0 for a member without rows.

        The gradient of its sum is every member's own. With several ranks it is this rank's share of the loss.
        """
        tokens = [max(1, sum(example.num_labels for example in batch)) for batch in batches]
        each = self._sequence_losses([self._ranks.share(batch) for batch in batches] if self._ranks else batches)
        return torch.stack([sums.sum() / count for sums, count in zip(each, tokens, strict=True)])

    def _sequence_losses(self, batches: Sequence[Sequence[Example]]) -> list[torch.Tensor]:
        """Summed loss of each member's sequences."""
        sizes = [sum(len(example.input_ids) for example in batch) for batch in batches]
        longest = max((len(example.input_ids) for example in chain.from_iterable(batches)), default=1)
        full = max(1, *sizes)  # a rank without rows takes part too
        if self._options.grouped:
            rows = [list(batch) or filler(1, 1) for batch in batches]
            sizes = [max(1, size) for size in sizes]
            self.adapters.ownership.ends = torch.tensor(list(accumulate(sizes)), dtype=torch.int32, device=self._device)
        else:
            rows = [[*batch, *filler(full - size, longest)] for batch, size in zip(batches, sizes, strict=True)]
        sums = self.loss(pack(list(chain.from_iterable(rows)), self._device))
        parts: list[torch.Tensor] = list(sums.split([len(row) for row in rows]))
        return [part[: len(batch)] for part, batch in zip(parts, batches, strict=True)]

    def _step(
        self, step: int, jobs: Sequence[MemberJob], moving: Sequence[int], optimizer: StackedAdamW
    ) -> dict[int, tuple[float, float]]:
        """A step of the members in `moving`; returns {member: (loss, gradient norm)}."""
        for member in moving:
            optimizer.learning_rates[member] = jobs[member].settings.rate(step)
        loss = self.member_losses([job.batches[step] if k in moving else [] for k, job in enumerate(jobs)])
        torch.autograd.backward(loss.sum())
        self.adapters.collect_gradients()
        if self._ranks:
            loss = loss.detach()
            self._ranks.sum(loss)
            self._ranks.sum(self.adapters.gradient)
        losses = loss.tolist()
        optimizer.active = [k in moving and math.isfinite(losses[k]) for k in range(len(jobs))]
        norms = optimizer.step()
        optimizer.zero_grad()
        self.adapters.apply()
        return {member: (losses[member], norms[member]) for member in moving}


def outcome(job: MemberJob, adapter: Adapter, losses: list[float], seconds: float) -> TrainOutcome:
    """The outcome of a member that did not diverge."""
    num_tokens = sum(example.num_labels for batch in job.batches for example in batch)
    return TrainOutcome(adapter, losses, num_tokens, seconds)
