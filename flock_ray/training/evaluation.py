"""From per-sequence losses to the figures that are shown and signed: mean loss, and the score of an adapter."""

from __future__ import annotations

import math
from collections.abc import Sequence

from flock_ray.protocol.ballot import MAX_SCORE, Score
from flock_ray.training.engine import SequenceLoss

MICRO = 1_000_000


def mean_loss(losses: Sequence[SequenceLoss]) -> float:
    """Loss over all labelled tokens, nats a token."""
    return math.fsum(loss.nll for loss in losses) / sum(loss.num_tokens for loss in losses)


def micro_nats(loss: float) -> int:
    """A loss or difference in nats as integer micro-nats; MAX_SCORE if it is not finite."""
    return round(loss * MICRO) if math.isfinite(loss) else MAX_SCORE


def paired_score(before: Sequence[SequenceLoss], after: Sequence[SequenceLoss]) -> Score:
    """Gain of `after` over `before` on the same sequences, with its standard error.

    The gain is a ratio, sum of differences over sum of tokens; its standard error is that of the ratio estimator
    (Cochran 1977, Sampling Techniques, section 6.4): sqrt(S / (S - 1) * sum (d_s - gain * n_s)^2) / sum n_s over S
    sequences. With sequences of equal length this is the standard error of the paired per-sequence differences.

    Args:
        before: losses under the global adapter.
        after: losses of the same sequences under the other adapter.

    Returns:
        Integer micro-nats a token; a single sequence has the largest standard error.
    """
    gain = micro_nats(mean_loss(before)) - micro_nats(mean_loss(after))
    differences = [b.nll - a.nll for b, a in zip(before, after, strict=True)]
    if len(before) < 2 or not all(map(math.isfinite, differences)):
        return Score(gain, MAX_SCORE).clamped()
    tokens = [loss.num_tokens for loss in before]
    ratio = math.fsum(differences) / sum(tokens)
    spread = math.fsum((d - ratio * n) ** 2 for d, n in zip(differences, tokens, strict=True))
    error = math.sqrt(len(tokens) / (len(tokens) - 1) * spread) / sum(tokens)
    return Score(gain, micro_nats(error)).clamped()
