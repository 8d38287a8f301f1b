"""How a validator of today's contests scores a submission, as FLock's public one does on a CPU, in code of our own.

The base model is loaded from its files for every submission, the adapter is merged into it, and rows are passed one at
a time; logits of all tokens are computed, and the score is the mean of the rows' mean losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from flock_ray.training.data import Example


def validate(base: Path, adapter: Path, rows: Sequence[Example]) -> list[float]:
    """Mean loss of each row under a submission, nats a token.

    Args:
        base: folder of the base model.
        adapter: folder of the submission, as PEFT saves it.
        rows: to score on.
    """
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    merged.eval()
    losses = []
    with torch.no_grad():
        for row in rows:
            found = merged(input_ids=row.input_ids[None], labels=row.labels[None], use_cache=False)
            losses.append(float(found.loss))
    return losses
