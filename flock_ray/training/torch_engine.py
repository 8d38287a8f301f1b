"""One process, one device: the reference engine."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import torch

from flock_ray.lora.peft_io import LoraSpec, inject, load_adapter, read_adapter
from flock_ray.lora.serialization import Adapter
from flock_ray.training.data import Example
from flock_ray.training.engine import SequenceLoss, TrainOutcome, TrainSettings, require_finite
from flock_ray.training.loss import CausalLoss, collate, sequence_losses
from flock_ray.training.model import BaseModel


class TorchEngine:
    """Trains and evaluates with plain PyTorch on one device."""

    def __init__(self, base: BaseModel, spec: LoraSpec) -> None:
        """Inject adapter layers into the base model, in place, and move it to its device."""
        self._peft = inject(base.model, spec)
        self._model = CausalLoss(self._peft, base.dtype).to(base.device)
        self._device = base.device

    def train(self, adapter: Adapter, batches: Iterable[list[Example]], settings: TrainSettings) -> TrainOutcome:
        """See `Engine`."""
        start = time.perf_counter()
        load_adapter(self._peft, adapter)
        trainable = [parameter for parameter in self._peft.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trainable, settings.learning_rate, weight_decay=settings.weight_decay)
        losses, num_tokens = [], 0
        for step, batch in enumerate(batches):
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
        require_finite(losses)
        return TrainOutcome(read_adapter(self._peft), losses, num_tokens, time.perf_counter() - start)

    def losses(self, adapter: Adapter, examples: Sequence[Example]) -> list[SequenceLoss]:
        """See `Engine`."""
        load_adapter(self._peft, adapter)
        return sequence_losses(self._model, examples, self._device)

    def close(self) -> None:
        """Nothing is held."""
