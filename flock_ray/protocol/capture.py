"""The chance that dishonest seats capture a committee: hypergeometric tails over the draw without replacement."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

from flock_ray.protocol.roles import quorum


@dataclass(frozen=True)
class CaptureRisk:
    """Probabilities per epoch, with `num_malicious` of `num_slots` slots dishonest and `num_voters` drawn.

    Attributes:
        median: dishonest seats decide a score (enough of them to move the quantile past every honest seat).
        quorum: dishonest seats alone reach the quorum.
        blocked: honest seats alone do not reach the quorum.
    """

    num_slots: int
    num_malicious: int
    num_voters: int
    median: float
    quorum: float
    blocked: float


def _tail(num_slots: int, num_malicious: int, num_voters: int, at_least: int) -> float:
    ways = sum(
        comb(num_malicious, k) * comb(num_slots - num_malicious, num_voters - k)
        for k in range(at_least, min(num_malicious, num_voters) + 1)
        if num_voters - k <= num_slots - num_malicious
    )
    return ways / comb(num_slots, num_voters)


def quantile_index(count: int, quantile_bp: int) -> int:
    """Index of the kappa-quantile in `count` sorted scores: kappa = 1/2 gives the lower median.

    Args:
        count: number of scores, at least 1.
        quantile_bp: kappa in basis points.
    """
    return max(0, -(-count * quantile_bp // 10_000) - 1)


def capture_risk(num_slots: int, num_malicious: int, num_voters: int, quantile_bp: int = 5_000) -> CaptureRisk:
    """Chances of capture and blockade for one drawn committee.

    Args:
        num_slots: slots of the task.
        num_malicious: slots assumed dishonest.
        num_voters: V.
        quantile_bp: kappa of the score, in basis points.
    """
    index = quantile_index(num_voters, quantile_bp)
    moves = min(index + 1, num_voters - index)
    q = quorum(num_voters)
    return CaptureRisk(
        num_slots,
        num_malicious,
        num_voters,
        _tail(num_slots, num_malicious, num_voters, moves),
        _tail(num_slots, num_malicious, num_voters, q),
        _tail(num_slots, num_malicious, num_voters, num_voters - q + 1),
    )
