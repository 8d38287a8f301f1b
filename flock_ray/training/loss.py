"""The causal language modelling loss, with logits only for labelled tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from peft import PeftModel
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from flock_ray.training.attention import use_packed_attention
from flock_ray.training.cross_entropy import CHUNK_TOKENS, linear_cross_entropy
from flock_ray.training.data import IGNORED, Example
from flock_ray.training.engine import SequenceLoss
from flock_ray.training.packing import Packed

EVALUATION_ROWS = 8
_LOGIT_TRANSFORMS = ("final_logit_softcapping", "logits_scaling", "logit_scale")


def changes_logits(model: PreTrainedModel) -> bool:
    """Whether the model transforms its head's output, so that the head alone does not give the logits."""
    return any(getattr(model.config, name, None) not in (None, 1.0) for name in _LOGIT_TRANSFORMS)


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
    """Wraps a model with PEFT's adapter layers: padded batch in, summed loss of each sequence out.

    Over a bfloat16 base it computes in mixed precision: products in bfloat16; factors, sums and losses in float32.
    It stays in evaluation mode: dropout in the base model would make training depend on what ran before.
    """

    def __init__(self, model: PeftModel, dtype: torch.dtype) -> None:
        """Wrap; `dtype` is that of the base model's weights."""
        super().__init__()
        self.model = model
        self._mixed = dtype == torch.bfloat16
        self.eval()

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
        causal = self.model.get_base_model()
        with torch.autocast(input_ids.device.type, dtype=torch.bfloat16, enabled=self._mixed):
            if changes_logits(causal):
                logits = self.model(input_ids=input_ids, use_cache=False).logits[rows, columns]
            else:
                hidden = causal.get_decoder()(input_ids=input_ids, use_cache=False).last_hidden_state
                logits = causal.get_output_embeddings()(hidden[rows, columns])
            nll = functional.cross_entropy(logits.float(), wanted, reduction="none")
        return nll.new_zeros(len(labels)).index_add(0, rows, nll)


class PackedLoss(nn.Module):
    """Wraps a model with stacked adapter layers: packed batch in, summed loss of each sequence out.

    It computes in the type of the base model's weights, losses in float32, and stays in evaluation mode.

    Attributes:
        whole_logits: whether logits of every token are computed, since the model changes them after its head.
        chunk_tokens: labelled tokens whose logits exist at the same time; None for all of a batch.
    """

    def __init__(self, model: PreTrainedModel, chunk_tokens: int | None = CHUNK_TOKENS) -> None:
        """Wrap, and make the model attend within sequences."""
        super().__init__()
        use_packed_attention(model)
        self.model, self.chunk_tokens = model, chunk_tokens
        self.whole_logits = changes_logits(model)
        self.eval()

    def forward(self, packed: Packed) -> torch.Tensor:
        """Negative log-likelihood of each sequence, [R] float32: sums over labelled tokens, in nats."""
        inputs = {"input_ids": packed.input_ids[None], "position_ids": packed.position_ids[None], "packed": packed}
        head = self.model.get_output_embeddings()
        if self.whole_logits:
            logits = self.model(**inputs, use_cache=False).logits[0, packed.predictors]
            nll = functional.cross_entropy(logits.float(), packed.targets, reduction="none")
        else:
            hidden = self.model.get_decoder()(**inputs, use_cache=False).last_hidden_state[0, packed.predictors]
            if self.chunk_tokens is None or head.bias is not None:
                nll = functional.cross_entropy(head(hidden).float(), packed.targets, reduction="none")
            else:
                nll = linear_cross_entropy(hidden, head.weight, packed.targets, self.chunk_tokens)
        return nll.new_zeros(len(packed.lengths)).index_add(0, packed.owners, nll)


def sequence_losses(model: CausalLoss, examples: Sequence[Example], device: torch.device) -> list[SequenceLoss]:
    """Loss of each example under the adapter that the model holds, `EVALUATION_ROWS` at a time."""
    losses: list[SequenceLoss] = []
    with torch.no_grad():
        for start in range(0, len(examples), EVALUATION_ROWS):
            rows = examples[start : start + EVALUATION_ROWS]
            sums = model(*collate(rows, device)).tolist()
            losses += [SequenceLoss(nll, row.num_labels) for nll, row in zip(sums, rows, strict=True)]
    return losses
