"""The reference engine: one process, one device, one member after the other, with PEFT's own layers."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerBase

from flock_ray.lora.peft_io import LoraSpec, inject, load_adapter, read_adapter
from flock_ray.lora.serialization import Adapter
from flock_ray.training.engine import (
    LossJob,
    MemberJob,
    Result,
    SequenceLoss,
    Tick,
    TrainOutcome,
    no_tick,
    one_by_one,
    require_finite,
)
from flock_ray.training.generation import Sampling, batched_answers
from flock_ray.training.loss import CausalLoss, collate, sequence_losses
from flock_ray.training.model import BaseModel


class TorchEngine:
    """Trains and evaluates with plain PyTorch on one device."""

    def __init__(self, base: BaseModel, spec: LoraSpec) -> None:
        """Inject adapter layers into the base model, in place, and move it to its device."""
        self._peft = inject(base.model, spec)
        self._model = CausalLoss(self._peft, base.dtype).to(base.device)
        self._device = base.device

    def train(self, jobs: Sequence[MemberJob], tick: Tick = no_tick) -> list[Result]:
        """See `Engine`."""
        return one_by_one(jobs, lambda job: self._train(job, tick))

    def _train(self, job: MemberJob, tick: Tick) -> TrainOutcome:
        start = time.perf_counter()
        settings = job.settings
        load_adapter(self._peft, job.adapter)
        trainable = [parameter for parameter in self._peft.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trainable, settings.learning_rate, weight_decay=settings.weight_decay)
        losses, num_tokens = [], 0
        for step, batch in enumerate(job.batches):
            for group in optimizer.param_groups:
                group["lr"] = settings.rate(step)
            tokens = sum(example.num_labels for example in batch)
            loss = self._model(*collate(batch, self._device)).sum() / tokens
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trainable, settings.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            num_tokens += tokens
            tick()
        require_finite(losses)
        return TrainOutcome(read_adapter(self._peft), losses, num_tokens, time.perf_counter() - start)

    def losses(self, jobs: Sequence[LossJob], tick: Tick = no_tick) -> list[list[SequenceLoss]]:
        """See `Engine`."""
        losses = []
        for job in jobs:
            load_adapter(self._peft, job.adapter)
            losses.append(sequence_losses(self._model, job.examples, self._device))
            tick()
        return losses

    def answers(
        self, adapters: Sequence[Adapter], tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], max_tokens: int
    ) -> list[list[str]]:
        """See `AnsweringEngine`."""
        found = []
        for adapter in adapters:
            load_adapter(self._peft, adapter)
            found += batched_answers(self._peft.get_base_model(), tokenizer, prompts, 1, Sampling(max_tokens))
        return found

    def close(self) -> None:
        """Nothing to release."""
