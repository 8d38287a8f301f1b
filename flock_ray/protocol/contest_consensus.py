"""The validators' joint score of a submission: three rules over integer scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flock_ray.protocol.capture import quantile_index

RULES = ("median", "trimmed", "mean")
_TRIMMED_BP = 2_000
_HALF_BP = 5_000


@dataclass(frozen=True)
class Voice:
    """One validator's say.

    Attributes:
        score: what it measured, micro-units.
        seats: seats that it holds.
        stake: its effective stake, wei.
    """

    score: int
    seats: int
    stake: int


def lower_median(values: Sequence[int]) -> int:
    """Lower median of at least one integer."""
    return sorted(values)[quantile_index(len(values), _HALF_BP)]


def consensus_score(voices: Mapping[int, Voice], rule: str, worst: int) -> int:
    """The joint score of one submission.

    `median`: lower median over seats, which no minority of them moves beyond the honest scores. `trimmed`: floored mean
    over seats without a fifth, floored, at either end. `mean`: floored stake-weighted mean, the rule that FLock
    documents, over seats where nobody has stake. Those who found no finite loss are heard only if they hold more than
    half of the seats; then there is none.

    Args:
        voices: {validator: its say}, at least one, each with a seat.
        rule: one of RULES.
        worst: the score that stands for no finite loss.
    """
    assert voices and rule in RULES
    finite = {member: voice for member, voice in voices.items() if voice.score < worst}
    if 2 * sum(voice.seats for voice in finite.values()) < sum(voice.seats for voice in voices.values()):
        return worst
    voices = finite
    if rule == "mean":
        staked = any(voice.stake for voice in voices.values())
        weights = {member: voice.stake if staked else voice.seats for member, voice in voices.items()}
        return sum(voice.score * weights[member] for member, voice in voices.items()) // sum(weights.values())
    seats = sorted(voice.score for voice in voices.values() for _ in range(voice.seats))
    if rule == "median":
        return lower_median(seats)
    cut = len(seats) * _TRIMMED_BP // 10_000
    kept = seats[cut : len(seats) - cut]
    return sum(kept) // len(kept)
