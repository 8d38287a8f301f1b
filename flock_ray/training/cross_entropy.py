"""Cross-entropy of a frozen output head in chunks of tokens: logits of all tokens never exist at the same time."""

from __future__ import annotations

from typing import Any

import torch

CHUNK_TOKENS = 256

_CACHED = 2**19
"""Logits that a CPU turns into probabilities at a time: in float32 they stay in a core's cache."""


class _LinearCrossEntropy(torch.autograd.Function):
    """Computes the gradient together with the loss, since both need the chunk's logits.

    The head is frozen, so only d loss / d hidden of each token is kept, which backward scales.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, chunk_tokens: int
    ) -> torch.Tensor:
        nll = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        slope = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        at_once = chunk_tokens if hidden.is_cuda else max(1, _CACHED // len(weight))
        for start in range(0, len(hidden), chunk_tokens):
            chunk = slice(start, start + chunk_tokens)
            logits, labels, sums = hidden[chunk] @ weight.T, targets[chunk, None], nll[chunk]
            for first in range(0, len(logits), at_once):
                part = slice(first, first + at_once)
                log_probabilities = torch.log_softmax(logits[part], dim=-1, dtype=torch.float32)
                sums[part] = -log_probabilities.gather(1, labels[part])[:, 0]
                if slope is not None:
                    error = log_probabilities.exp_()  # softmax - one_hot
                    error.scatter_add_(1, labels[part], error.new_full((len(error), 1), -1.0))
                    logits[part] = error
            if slope is not None:
                slope[chunk] = logits @ weight
        if slope is not None:
            ctx.save_for_backward(slope)
        return nll

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        [slope] = ctx.saved_tensors
        return (slope * grads[0][:, None]).to(slope.dtype), None, None, None


def linear_cross_entropy(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, chunk_tokens: int = CHUNK_TOKENS
) -> torch.Tensor:
    """Negative log-likelihood of `targets` under softmax(hidden @ weight.T), in nats.

    At most `chunk_tokens` x vocabulary logits exist at a time.

    Args:
        hidden: [tokens, width], of the type of `weight`.
        weight: [vocabulary, width], frozen.
        targets: [tokens] int64.
        chunk_tokens: at least 1.

    Returns:
        [tokens] float32.
    """
    nll: torch.Tensor = _LinearCrossEntropy.apply(hidden, weight, targets, chunk_tokens)  # type: ignore[no-untyped-call]
    return nll
