"""The causal language modelling loss, with logits only where there are labels."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from peft import PeftModel
from torch import nn
from torch.nn import functional

from flock_ray.training.data import IGNORED, Example
from flock_ray.training.engine import SequenceLoss

EVALUATION_ROWS = 8
_LOGIT_TRANSFORMS = ("final_logit_softcapping", "logits_scaling", "logit_scale")


def collate(examples: Sequence[Example], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded batch of examples.

    Under causal attention no token sees the padding to its right, so no attention mask is needed.

    Returns:
        input_ids [b, s] int64 and labels [b, s] int64 with `IGNORED` where there is no loss.
    """
    longest = max(len(example.input_ids) for example in examples)
    ids = torch.zeros(len(examples), longest, dtype=torch.long)
    labels = torch.full((len(examples), longest), IGNORED, dtype=torch.long)
    for row, example in enumerate(examples):
        ids[row, : len(example.input_ids)] = example.input_ids
        labels[row, : len(example.labels)] = example.labels
    return ids.to(device), labels.to(device)


class CausalLoss(nn.Module):
    """Wraps a PEFT model: batch in, summed loss of each sequence out.

    Over a bfloat16 base it computes in mixed precision: products in bfloat16; factors, sums and losses in float32.
    It is in evaluation mode for good: dropout of the base model would make training depend on what ran before.
    """

    def __init__(self, model: PeftModel, dtype: torch.dtype) -> None:
        """Wrap.

        Args:
            model: base model with adapter layers.
            dtype: of the base model's weights.
        """
        super().__init__()
        self.model = model
        self._mixed = dtype == torch.bfloat16
        self.eval()
        config = model.get_base_model().config
        self._whole = any(getattr(config, name, None) not in (None, 1.0) for name in _LOGIT_TRANSFORMS)

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood of each sequence, float32.

        Args:
            input_ids: [b, s] int64.
            labels: [b, s] int64; position t is predicted from positions before it, `IGNORED` ones are not.

        Returns:
            [b] sums over labelled tokens, in nats.
        """
        targets = labels[:, 1:]
        rows, columns = torch.nonzero(targets != IGNORED, as_tuple=True)
        causal = self.model.get_base_model()
        with self._autocast(input_ids.device):
            if self._whole:
                logits = self.model(input_ids=input_ids, use_cache=False).logits[rows, columns]
            else:
                hidden = causal.get_decoder()(input_ids=input_ids, use_cache=False).last_hidden_state
                logits = causal.get_output_embeddings()(hidden[rows, columns])
        nll = functional.cross_entropy(logits.float(), targets[rows, columns], reduction="none")
        return nll.new_zeros(len(labels)).index_add(0, rows, nll)

    def _autocast(self, device: torch.device) -> AbstractContextManager[object]:
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self._mixed)


def sequence_losses(model: CausalLoss, examples: Sequence[Example], device: torch.device) -> list[SequenceLoss]:
    """Loss of each example under the adapter that the model holds, `EVALUATION_ROWS` at a time."""
    found: list[SequenceLoss] = []
    with torch.no_grad():
        for start in range(0, len(examples), EVALUATION_ROWS):
            rows = examples[start : start + EVALUATION_ROWS]
            sums = model(*collate(rows, device)).tolist()
            found += [SequenceLoss(nll, row.num_labels) for nll, row in zip(sums, rows, strict=True)]
    return found
