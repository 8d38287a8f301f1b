"""The arithmetic of a contest's day, for the verifier: scores, comparisons, joint scores and weights.

Written from `docs/arena.md`. Ratios are fractions; whatever is irrational is computed in 50 decimal digits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction
from math import floor, isqrt

NO_LOSS = 10**12
"""A row's loss that stands for none that is finite, and the largest standard error."""

_WORST = {"strict": NO_LOSS, "flock": 999_000_000}
_FIFTY = Context(prec=50, rounding=ROUND_HALF_EVEN, Emin=-999_999, Emax=999_999, traps=[])
_HEAVIEST = 10**40


def worst(scorer: str) -> int:
    """The score that stands for no finite loss."""
    return _WORST[scorer]


def middle(values: Iterable[int]) -> int:
    """Lower median."""
    ordered = sorted(values)
    return ordered[(len(ordered) - 1) // 2]


def score_of(scorer: str, losses: Sequence[int], lengths: Sequence[tuple[int, int]]) -> int:
    """Score of a column.

    Args:
        scorer: `strict`, sum of losses over sum of tokens; or `flock`, mean of the rows' means times all tokens over
            all bytes, in bits.
        losses: micro-nats of each row.
        lengths: (tokens, bytes) of each row.
    """
    if max(losses) >= NO_LOSS:
        return _WORST[scorer]
    num_tokens = sum(tokens for tokens, _ in lengths)
    if scorer == "strict":
        return floor(Fraction(sum(losses), num_tokens))
    total = Decimal(0)
    for loss, (tokens, _) in zip(losses, lengths, strict=True):
        total = _FIFTY.add(total, _FIFTY.divide(Decimal(loss), Decimal(tokens)))
    nats = _FIFTY.divide(_FIFTY.multiply(total, Decimal(num_tokens)), Decimal(len(losses)))
    bytes_in_nats = _FIFTY.multiply(_FIFTY.ln(Decimal(2)), Decimal(sum(size for _, size in lengths)))
    return int(_FIFTY.divide(nats, bytes_in_nats).quantize(Decimal(1), rounding=ROUND_HALF_EVEN, context=_FIFTY))


def comparison(first: Sequence[int], second: Sequence[int], tokens: Sequence[int]) -> tuple[int, int]:
    """(difference of the losses a token, its standard error), both floored; one row has the largest error."""
    gaps = [one - other for one, other in zip(first, second, strict=True)]
    ratio = Fraction(sum(gaps), sum(tokens))
    if len(gaps) == 1:
        return floor(ratio), NO_LOSS
    spread = sum(((gap - ratio * size) ** 2 for gap, size in zip(gaps, tokens, strict=True)), Fraction(0))
    variance = spread * Fraction(len(gaps), len(gaps) - 1) / sum(tokens) ** 2
    return floor(ratio), min(NO_LOSS, isqrt(floor(variance)))


def joint_score(rule: str, said: Sequence[tuple[int, int, int]], none: int) -> int:
    """The validators' joint score.

    Args:
        rule: `median`, `trimmed` or `mean`.
        said: (score, seats, stake) of each validator.
        none: the score of who found no finite loss.
    """
    seated = [score for score, seats, _ in said for _ in range(seats)]
    finite = sorted(score for score in seated if score < none)
    if len(finite) * 2 < len(seated):
        return none
    if rule == "median":
        return middle(finite)
    if rule == "trimmed":
        cut = len(finite) // 5
        kept = finite[cut : len(finite) - cut]
        return floor(Fraction(sum(kept), len(kept)))
    heard = [(score, seats, stake) for score, seats, stake in said if score < none]
    if all(stake == 0 for _, _, stake in heard):
        return floor(Fraction(sum(finite), len(finite)))
    return floor(Fraction(sum(one * stake for one, _, stake in heard), sum(stake for _, _, stake in heard)))


def raised(base: int, exponent_bp: int) -> Decimal:
    """A power of a whole number; of 0 it is 0."""
    if base == 0:
        return Decimal(0)
    whole, rest = divmod(exponent_bp, 10_000)
    if rest == 0:
        return _FIFTY.plus(Decimal(base**whole))
    exponent = _FIFTY.divide(Decimal(exponent_bp), Decimal(10_000))
    return _FIFTY.exp(_FIFTY.multiply(exponent, _FIFTY.ln(Decimal(base))))


def faded(rate: int, distance: int) -> Decimal:
    """e^(-rate * distance), the distance in millionths."""
    return _FIFTY.exp(-_FIFTY.divide(Decimal(rate * distance), Decimal(10**6)))


def product(one: Decimal, other: Decimal) -> Decimal:
    """In 50 digits."""
    return _FIFTY.multiply(one, other)


def next_factor(factor: Decimal, millionths: int) -> Decimal:
    """The factor of the next rank: the product is rounded, then the quotient."""
    return _FIFTY.divide(_FIFTY.multiply(factor, Decimal(millionths)), Decimal(10**6))


def whole_weights(weights: Mapping[int, Decimal]) -> dict[int, int]:
    """Weights as whole numbers, the heaviest as 10^40."""
    most = max(weights.values(), default=Decimal(0))
    if not most:
        return {member: 0 for member in weights}
    return {
        member: int(
            _FIFTY.divide(_FIFTY.multiply(weight, Decimal(_HEAVIEST)), most).to_integral_value(
                rounding=ROUND_FLOOR, context=_FIFTY
            )
        )
        for member, weight in weights.items()
    }
