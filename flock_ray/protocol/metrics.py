"""Bits per byte: a loss that compares models with different tokenizers, FLock's metric for language models."""

from __future__ import annotations

from math import inf, isfinite, log


def bits_per_byte(nll_nats: float, num_bytes: int) -> float:
    """Bits that a model spends on one byte of text: total negative log-likelihood / (ln 2 * bytes).

    The formula of FLock's loss validator (`llm-loss-validator`, `src/core/loss.py`); its "bPPL" is 2 to this power.

    Args:
        nll_nats: summed over the scored tokens, nats.
        num_bytes: UTF-8 bytes of the text that the scored tokens spell.

    Returns:
        Bits a byte; infinite for an empty text or a loss that is not finite.
    """
    if num_bytes <= 0 or not isfinite(nll_nats):
        return inf
    return nll_nats / (log(2) * num_bytes)
