"""How a contest's money is divided: FLock's published formulas in integer wei, with floors; the remainder stays.

The formulas are those of FLock's AI Arena (docs.flock.io: training node, validator, delegator, smart contracts). Powers
and exponentials go through `decimal` with 50 digits, never through the machine's libm: every node agrees to the wei.
Shares are in basis points, other factors in millionths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal

from flock_ray.protocol.mechanism import share_out

BASIS = 10_000
MILLION = 1_000_000
_DIGITS = 50
_SCALE = 10**40  # integer weight of the heaviest participant


def _context() -> Context:
    """A context of our own: nothing that a program sets globally reaches these results."""
    return Context(prec=_DIGITS, rounding=ROUND_HALF_EVEN, Emin=-999_999, Emax=999_999, capitals=1, clamp=0, traps=[])


def power(base: int, exponent_bp: int) -> Decimal:
    """base^(exponent_bp / 10,000) in 50 digits; whole exponents by multiplication, others as exp(exponent * ln base).

    `decimal` rounds exp and ln correctly, which its power does not promise; two roundings cost the last digit or two.

    Args:
        base: 0 or more; 0 gives 0, also for exponent 0: who has no stake has no weight.
        exponent_bp: 0 or more, in basis points.
    """
    assert base >= 0 and exponent_bp >= 0
    context = _context()
    if base == 0:
        return Decimal(0)
    if exponent_bp % BASIS == 0:
        return context.plus(Decimal(base ** (exponent_bp // BASIS)))
    exponent = context.divide(Decimal(exponent_bp), Decimal(BASIS))
    return context.exp(context.multiply(exponent, context.ln(Decimal(base))))


def decay(rate: int, distance: int) -> Decimal:
    """exp(-rate * distance) to 50 digits.

    Args:
        rate: lambda, per nat.
        distance: 0 or more, micro-nats.
    """
    assert rate >= 0 and distance >= 0
    context = _context()
    return context.exp(context.divide(Decimal(-rate * distance), Decimal(MILLION)))


def _integer_weights(weights: Mapping[int, Decimal]) -> dict[int, int]:
    """Weights as integers, the heaviest as 10^40: shares depend on their ratios only."""
    context = _context()
    heaviest = max(weights.values(), default=Decimal(0))
    if heaviest == 0:
        return dict.fromkeys(weights, 0)
    scaled = {
        member: context.divide(context.multiply(weight, Decimal(_SCALE)), heaviest)
        for member, weight in weights.items()
    }
    return {member: int(weight) for member, weight in scaled.items()}


def effective_stake(own: int, delegated: int, effectiveness_bp: int) -> int:
    """own + eps * delegated, wei."""
    return own + delegated * effectiveness_bp // BASIS


@dataclass(frozen=True)
class Pools:
    """A budget divided between the two roles, wei; what floors leave over is in neither."""

    nodes: int
    validators: int


def pools(budget: int, node_stake: int, validator_stake: int, floor_bp: int) -> Pools:
    """FLock's division: R0 * (gamma + (1 - 2 gamma) * own stake / all stake) for each role.

    Args:
        budget: R0, wei.
        node_stake: T, effective stake of the training nodes.
        validator_stake: S, effective stake of the validators.
        floor_bp: gamma in basis points, at most a half.
    """
    assert 0 <= floor_bp <= BASIS // 2
    total = node_stake + validator_stake
    if not total:
        return Pools(0, 0)

    def part(stake: int) -> int:
        return budget * (floor_bp * total + (BASIS - 2 * floor_bp) * stake) // (BASIS * total)

    return Pools(part(node_stake), part(validator_stake))


def node_weights(ranking: Sequence[int], stakes: Mapping[int, int], ratio: int, exponent_bp: int) -> dict[int, int]:
    """Weight of each ranked node: q^(rank - 1) * t^alpha, a geometric series over ranks times stake.

    Args:
        ranking: nodes that are paid, best first.
        stakes: effective stake of each, wei.
        ratio: q in millionths, above 0 and at most 1.
        exponent_bp: alpha in basis points.
    """
    assert 0 < ratio <= MILLION
    context = _context()
    factor, weights = Decimal(1), dict[int, Decimal]()
    for node in ranking:
        weights[node] = context.multiply(factor, power(stakes[node], exponent_bp))
        factor = context.divide(context.multiply(factor, Decimal(ratio)), Decimal(MILLION))
    return _integer_weights(weights)


def validator_weights(
    stakes: Mapping[int, int], distances: Mapping[int, int], rate: int, exponent_bp: int
) -> dict[int, int]:
    """Weight of each validator: exp(-lambda * D) * s^alpha, falling with the distance from the consensus.

    Args:
        stakes: what each has at stake or has done: wei, or seats.
        distances: D of each, micro-nats.
        rate: lambda, per nat.
        exponent_bp: alpha in basis points.
    """
    context = _context()
    return _integer_weights(
        {
            member: context.multiply(decay(rate, distances[member]), power(stake, exponent_bp))
            for member, stake in sorted(stakes.items())
        }
    )


def heaviest(weights: Mapping[int, int], count: int) -> dict[int, int]:
    """The `count` largest weights above 0, of equal ones those of lower members: only they are paid."""
    order = sorted((member for member, weight in weights.items() if weight), key=lambda one: (-weights[one], one))
    return {member: weights[member] for member in sorted(order[:count])}


def pay_nodes(
    pool: int, ranking: Sequence[int], stakes: Mapping[int, int], ratio: int, exponent_bp: int, top: int
) -> dict[int, int]:
    """{node: wei} of the first `top` nodes of a ranking; arguments as of `node_weights`."""
    return share_out(pool, node_weights(ranking[:top], stakes, ratio, exponent_bp))


def pay_validators(
    pool: int, stakes: Mapping[int, int], distances: Mapping[int, int], rate: int, exponent_bp: int, top: int
) -> dict[int, int]:
    """{validator: wei} of the `top` validators with the largest weights; arguments as of `validator_weights`."""
    return share_out(pool, heaviest(validator_weights(stakes, distances, rate, exponent_bp), top))


@dataclass(frozen=True)
class Split:
    """An amount divided in two without a remainder, wei."""

    kept: int
    passed_on: int


def delegated_split(income: int, own: int, delegated: int, commission_bp: int) -> Split:
    """A participant's income between itself and its delegators, who get income * (1 - sigma) * their part of the stake.

    Args:
        income: wei.
        own: its own stake.
        delegated: its delegators' stake.
        commission_bp: sigma in basis points; FLock's interface shows the sharing ratio, 1 - sigma.
    """
    assert 0 <= commission_bp <= BASIS
    total = own + delegated
    passed_on = income * (BASIS - commission_bp) * delegated // (BASIS * total) if total else 0
    return Split(income - passed_on, passed_on)


def claim_split(amount: int, fee_bp: int) -> Split:
    """A claim after the protocol's fee: what the claimant keeps, floored, and the fee.

    FLock takes 8 % of nodes' and validators' claims and 14.5 % of delegators'.
    """
    assert 0 <= fee_bp <= BASIS
    kept = amount * (BASIS - fee_bp) // BASIS
    return Split(kept, amount - kept)


def vesting_split(income: int, vested_bp: int) -> Split:
    """A node's income of a day: what is paid at once, and the part, floored, that is held until the contest's end."""
    assert 0 <= vested_bp <= BASIS
    held = income * vested_bp // BASIS
    return Split(income - held, held)


def day_budget(pool_left: int, reserved: int, days_left: int) -> int:
    """Budget of a day, wei: an equal part of what is left of the pool besides the reserved end share."""
    assert days_left > 0
    return max(0, pool_left - reserved) // days_left
