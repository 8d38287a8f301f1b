"""The causal language modelling loss, with logits only where there are labels."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from peft import PeftModel
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from flock_ray.training.cross_entropy import linear_cross_entropy
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
    """Wraps a model with adapter layers: batch in, summed loss of each sequence out.

    Over a bfloat16 base it computes in mixed precision: products in bfloat16; factors, sums and losses in float32.
    It is in evaluation mode for good: dropout of the base model would make training depend on what ran before.

    Attributes:
        whole_logits: logits of every token are made, since the model changes them after its head.
    """

    def __init__(
        self, model: PeftModel | PreTrainedModel, dtype: torch.dtype | None, chunk_tokens: int | None = None
    ) -> None:
        """Wrap.

        Args:
            model: base model with adapter layers, PEFT's or stacked ones.
            dtype: of the base model's weights; None where the adapter layers compute in that type by themselves, which
                saves the automatic casts.
            chunk_tokens: labelled tokens whose logits exist at the same time; None for all of a batch.
        """
        super().__init__()
        self.model = model
        self._mixed = dtype == torch.bfloat16
        self._chunk_tokens = chunk_tokens
        self.eval()
        config = self._causal().config
        self.whole_logits = any(getattr(config, name, None) not in (None, 1.0) for name in _LOGIT_TRANSFORMS)

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
        wanted = targets[rows, columns]
        causal = self._causal()
        head = causal.get_output_embeddings()
        with self._autocast(input_ids.device):
            if self.whole_logits:
                logits = self.model(input_ids=input_ids, use_cache=False).logits[rows, columns]
                nll = functional.cross_entropy(logits.float(), wanted, reduction="none")
            else:
                hidden = causal.get_decoder()(input_ids=input_ids, use_cache=False).last_hidden_state[rows, columns]
                if self._chunk_tokens is None or head.bias is not None:
                    nll = functional.cross_entropy(head(hidden).float(), wanted, reduction="none")
                else:
                    nll = linear_cross_entropy(hidden, head.weight, wanted, self._chunk_tokens)
        return nll.new_zeros(len(labels)).index_add(0, rows, nll)

    def _causal(self) -> PreTrainedModel:
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

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
