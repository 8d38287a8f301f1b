"""How others train the members that one device hosts: the base model reloaded for each, or adapters swapped in turn."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from flock_ray.lora.peft_io import LoraSpec, inject, load_adapter, read_adapter
from flock_ray.training.engine import MemberJob


@dataclass(frozen=True)
class PeftLoop:
    """The loop of a PEFT user, with what transformers' Trainer takes by default: fused AdamW, gradients clipped.

    Attributes:
        load: makes the frozen base model, from its files.
        spec: of the adapter.
        autocast: products in bfloat16 under autocast, as the Trainer's bf16=True; else PEFT's own casts, to the
            adapter's float32. Which one is faster depends on the device.
    """

    load: Callable[[], PreTrainedModel]
    spec: LoraSpec
    autocast: bool

    def fresh(self) -> PeftModel:
        """Base model from its files, with adapter layers."""
        return inject(self.load(), self.spec)

    def steps(self, model: PeftModel, job: MemberJob) -> int:
        """Local steps by the model's own loss; returns the labelled tokens trained on."""
        factors = [parameter for parameter in model.parameters() if parameter.requires_grad]
        device = factors[0].device
        settings = job.settings
        optimizer = torch.optim.AdamW(factors, settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
        for [example] in job.batches:
            ids, labels = example.input_ids[None].to(device), example.labels[None].to(device)
            with torch.autocast(device.type, torch.bfloat16) if self.autocast else nullcontext():
                loss = model(input_ids=ids, labels=labels, use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(factors, settings.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
        return sum(example.num_labels for [example] in job.batches)

    def swap(self, model: PeftModel, job: MemberJob) -> int:
        """One member's turn on the resident model, as OpenFedLLM takes it."""
        load_adapter(model, job.adapter)
        done = self.steps(model, job)
        read_adapter(model)
        return done

    def reload(self, job: MemberJob) -> int:
        """One member's call, as FlowerTune's client makes it: everything from the files."""
        return self.swap(self.fresh(), job)
