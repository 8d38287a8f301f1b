"""From logits to tokens: each row draws by itself, so its seeded answer does not depend on its neighbours."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from random import Random

import torch

from flock_ray.serving.request import Sampling

_FIRST_LOOK = 1024
"""Tokens among which a nucleus is looked for before the whole vocabulary is sorted."""


@dataclass(frozen=True)
class Scores:
    """Log probabilities at one place, of the model as it is.

    Attributes:
        logprob: of the token there, in nats.
        top: (id, log probability) of the likeliest tokens.
    """

    logprob: float
    top: tuple[tuple[int, float], ...]


class Sampler:
    """Draws the tokens of one answer."""

    def __init__(self, sampling: Sampling) -> None:
        self._how = sampling
        self._random = Random(secrets.randbits(63) if sampling.seed is None else sampling.seed)

    def choose(self, logits: torch.Tensor) -> int:
        """The next token.

        Args:
            logits: [vocabulary] float32 on the CPU, finite.
        """
        if self._how.temperature == 0:
            return int(logits.argmax())
        odds = torch.softmax(logits.double() / self._how.temperature, dim=0)
        kept = nucleus(odds, self._how.top_k, self._how.top_p)
        if kept is not None:  # by id, not by rank: where two odds are close, rounding cannot swap what a draw means
            kept = kept.sort().values
            odds = odds[kept]
        sums = odds.cumsum(0)
        place = int(torch.searchsorted(sums, self._random.random() * sums[-1], right=True))
        place = min(place, len(sums) - 1)
        return place if kept is None else int(kept[place])


def nucleus(odds: torch.Tensor, top_k: int, top_p: float) -> torch.Tensor | None:
    """Ids of the likeliest tokens among which is drawn, likeliest first; None for all.

    Args:
        odds: [vocabulary], in total 1.
        top_k: how many at most; 0 for all.
        top_p: of these the fewest whose odds reach this share of the `top_k`'s.
    """
    size = len(odds)
    most = min(top_k or size, size)
    if most == size and top_p >= 1:
        return None
    if top_p >= 1:
        return odds.topk(most).indices
    for look in (min(most, _FIRST_LOOK), most):
        values, ids = odds.topk(look)
        sums = values.cumsum(0)
        total = sums[-1] if look == most and top_k else odds.sum()
        reached = int((sums < top_p * total).sum()) + 1
        if look == most or (reached <= look and not top_k):
            return ids[:reached]
    raise AssertionError


def score(logits: torch.Tensor, tokens: torch.Tensor, top: int) -> list[Scores]:
    """Log probabilities of tokens.

    Args:
        logits: [n, vocabulary].
        tokens: [n] int64, on the same device.
        top: how many of the likeliest tokens of each place to tell.
    """
    logs = torch.log_softmax(logits.float(), dim=-1)
    own = logs.gather(1, tokens[:, None])[:, 0].tolist()
    values, ids = (x.tolist() for x in logs.topk(top, dim=-1)) if top else ([[]] * len(own), [[]] * len(own))
    return [Scores(one, tuple(zip(i, v, strict=True))) for one, v, i in zip(own, values, ids, strict=True)]
