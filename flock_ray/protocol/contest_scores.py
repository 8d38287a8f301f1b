"""From losses of single rows to a submission's score: micro-nats a token, bits a byte, and what a comparison is worth.

Row losses are integer micro-nats, summed over the row's target tokens, so that all who read a ballot compute the same
scores. `strict` is the project's mean; `flock` is the figure of FLock's loss validator (`llm-loss-validator`,
`src/core/loss.py`), for contests that must agree with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal
from math import isfinite, isqrt

from flock_ray.protocol.ballot import MAX_SCORE
from flock_ray.protocol.encoding import Json, canonical_json, to_hex
from flock_ray.protocol.hashing import sha256

SCORERS = ("strict", "flock")
MICRO = 1_000_000
FLOCK_WORST = 999 * MICRO
"""What FLock's service is told where there is no loss: 999.0."""

_CONTEXT_DIGITS = 50


@dataclass(frozen=True)
class Row:
    """One row of a contest's data, as everybody knows it.

    Attributes:
        digest: SHA-256 of the row's canonical text.
        num_tokens: target tokens under the base model's tokenizer, at least one.
        num_bytes: UTF-8 bytes of the decoded targets, at least one.
    """

    digest: bytes
    num_tokens: int
    num_bytes: int

    def __post_init__(self) -> None:
        if self.num_tokens < 1 or self.num_bytes < 1:
            raise ValueError(f"row 0x{self.digest.hex()} has no targets; rows of a contest have some to be scored on")

    def json(self) -> Json:
        """`[digest, tokens, bytes]`."""
        return [to_hex(self.digest), self.num_tokens, self.num_bytes]


def rows_digest(rows: Sequence[Row]) -> bytes:
    """What a contest commits to of a chunk of rows: SHA-256 of their canonical list."""
    return sha256(canonical_json([row.json() for row in rows]))


def row_micro_nats(nll: float) -> int:
    """A row's summed loss in nats as the integer that a ballot holds; MAX_SCORE if it is not finite or larger."""
    return min(MAX_SCORE, max(0, round(nll * MICRO))) if isfinite(nll) else MAX_SCORE


def strict_score(losses: Sequence[int], rows: Sequence[Row]) -> int:
    """Micro mean over all target tokens: micro-nats a token, floored; MAX_SCORE if a row has no finite loss.

    Args:
        losses: micro-nats of each row.
        rows: the same rows.
    """
    assert len(losses) == len(rows) > 0
    if MAX_SCORE in losses:
        return MAX_SCORE
    return sum(losses) // sum(row.num_tokens for row in rows)


def flock_score(losses: Sequence[int], rows: Sequence[Row]) -> int:
    """FLock's figure in micro-bits a byte: mean of the rows' means, times all target tokens, over all bytes.

    Rows of one batch each; a row without a finite loss makes it 999.0, as their service does.
    """
    assert len(losses) == len(rows) > 0
    if MAX_SCORE in losses:
        return FLOCK_WORST
    context = Context(prec=_CONTEXT_DIGITS, rounding=ROUND_HALF_EVEN, traps=[])
    mean = Decimal(0)
    for loss, row in zip(losses, rows, strict=True):
        mean = context.add(mean, context.divide(Decimal(loss), Decimal(row.num_tokens)))
    nats = context.divide(context.multiply(mean, Decimal(sum(row.num_tokens for row in rows))), Decimal(len(rows)))
    return _bits(nats, sum(row.num_bytes for row in rows), context)


def micro_bits_per_byte(losses: Sequence[int], rows: Sequence[Row]) -> int:
    """Bits a byte over all targets, in micro-bits, rounded: what is shown beside the strict score."""
    context = Context(prec=_CONTEXT_DIGITS, rounding=ROUND_HALF_EVEN, traps=[])
    return _bits(Decimal(sum(losses)), sum(row.num_bytes for row in rows), context)


def _bits(micro_nats: Decimal, num_bytes: int, context: Context) -> int:
    bits = context.divide(micro_nats, context.multiply(context.ln(Decimal(2)), Decimal(num_bytes)))
    return int(bits.to_integral_value(rounding=ROUND_HALF_EVEN, context=context))


WORST = {"strict": MAX_SCORE, "flock": FLOCK_WORST}
"""By scorer: the score of a submission without a finite loss. It is no number, so it enters no mean."""


def score(scorer: str, losses: Sequence[int], rows: Sequence[Row]) -> int:
    """Score of a submission under one of SCORERS; the smaller the better.

    Micro-nats a token under `strict`, micro-bits a byte under `flock`.
    """
    assert scorer in SCORERS
    return strict_score(losses, rows) if scorer == "strict" else flock_score(losses, rows)


@dataclass(frozen=True)
class Difference:
    """A paired comparison over common rows, micro-nats a token: how much larger the first loss is, and its error."""

    value: int
    standard_error: int


def paired_difference(first: Sequence[int], second: Sequence[int], rows: Sequence[Row]) -> Difference:
    """The first submission's loss minus the second's on the same rows, with the standard error of the ratio estimator.

    Cochran 1977, Sampling Techniques, section 6.4: sqrt(S / (S - 1) * sum (d_s - value * n_s)^2) / sum n_s over S rows,
    here in integers, floored. A single row has the largest standard error.

    Args:
        first: micro-nats of each row.
        second: those of the other submission.
        rows: the rows.
    """
    assert len(first) == len(second) == len(rows) > 0
    tokens = [row.num_tokens for row in rows]
    differences = [a - b for a, b in zip(first, second, strict=True)]
    total, in_all, count = sum(tokens), sum(differences), len(rows)
    value = in_all // total
    if count < 2:
        return Difference(value, MAX_SCORE)
    squares = sum((total * d - in_all * n) ** 2 for d, n in zip(differences, tokens, strict=True))
    return Difference(value, min(MAX_SCORE, isqrt(count * squares // ((count - 1) * total**4))))
