"""Contests that are played on paper with measured losses: what racing saves, and whether it pays the right ones.

A simulated submission is a draw from the measured adapters: its losses on the day's rows are normal with the mean and
the covariance between rows that real adapters have on them. So quality spread, what a row tells of quality, and what
rows say alike are all as measured. Everything after the losses is the protocol: `derive_day` on signed messages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks.common import tell
from flock_ray.config.arena import ContestConfig
from flock_ray.protocol.contest_race import Rung
from flock_ray.protocol.contest_rewards import claim_split, delegated_split, pools, validator_weights
from flock_ray.protocol.contest_scores import (
    Row,
    flock_score,
    micro_bits_per_byte,
    row_micro_nats,
    rows_digest,
    strict_score,
)
from flock_ray.protocol.contest_state import ContestState
from flock_ray.protocol.mechanism import share_out
from tests.protocol.contest_players import ContestPlay, new_contest, payload_of

TOKEN = 10**18
NUM_VALIDATORS, TOP = 7, 8
BAND_Z_BP = round(ContestConfig().band_z * 10_000)

Losses = np.ndarray[Any, np.dtype[np.float64]]
"""[submissions, rows] micro-nats."""


@dataclass
class MeasuredPlay(ContestPlay):
    """Honest validators that find what a table says.

    Attributes:
        table: {payload: micro-nats of each row of the day}.
    """

    table: dict[bytes, Sequence[int]] = field(default_factory=dict)

    def honest_loss(self, payload: bytes, rung: Rung, position: int) -> int:
        """The loss of a row, by its place in the day's chunk."""
        return self.table[payload][rung.places[position]]


def drawn(measured: Losses, number: int, random: Random) -> Losses:
    """`number` submissions with the mean and the covariance of the measured ones' rows; no loss is below 0."""
    mean = measured.mean(axis=0)
    factors = (measured - mean) / np.sqrt(len(measured) - 1)
    weights = np.array([[random.gauss(0, 1) for _ in measured] for _ in range(number)])
    return np.asarray((mean + weights @ factors).clip(0).round())


def contest_on(rows: Sequence[Row], rung_rows: Sequence[int], num_nodes: int, seed: int) -> ContestState:
    """A contest's first of two days on these rows."""
    bare = new_contest(
        num_nodes, NUM_VALIDATORS, days=2, seed=seed, rung_rows=tuple(rung_rows), parameters={"top_nodes": TOP},
        band_z_bp=BAND_Z_BP,
    )  # fmt: skip
    terms = replace(bare.terms, chunks=(rows_digest(rows), bare.terms.chunks[1]))
    return replace(bare, terms=terms, rows=()).opened(rows)


@dataclass(frozen=True)
class Raced:
    """One simulated contest.

    Attributes:
        contenders: of each rung.
        forwards: losses that are measured, over those that there would be without racing. Rungs are nested: who
            measured a row in one need not do so again in the next.
        same_top: whether the best of the race are those of a contest without racing, in the same order.
    """

    contenders: tuple[int, ...]
    forwards: float
    same_top: bool


def race(measured: Losses, rows: Sequence[Row], rung_rows: Sequence[int], num_nodes: int, seed: int) -> Raced:
    """Play a day of `num_nodes` submissions that are drawn from the measured ones."""
    state = contest_on(rows, rung_rows, num_nodes, seed)
    losses = drawn(measured, num_nodes, Random(f"contest {seed}")).astype(int).tolist()
    nodes = [number for number, member in enumerate(state.members) if not member.slots]
    table = {payload_of(1, node): tuple(own) for node, own in zip(nodes, losses, strict=True)}
    record = MeasuredPlay(table=table).record(state)
    truth = sorted(nodes, key=lambda node: strict_score(table[payload_of(1, node)], rows))
    used = sum(
        len(result.rung.contenders) * (len(result.rung.rows) - before)
        for before, result in zip((0, *rung_rows), record.results, strict=False)
    )
    return Raced(
        tuple(len(result.rung.contenders) for result in record.results),
        used / (num_nodes * len(rows)),
        record.ranking[:TOP] == tuple(truth[:TOP]),
    )


def summary(races: Sequence[Raced]) -> dict[str, Any]:
    """What many contests come to."""
    return {
        "contests": len(races),
        "row_forwards_saved": 1 / fmean(one.forwards for one in races),
        "same_top_8": fmean(one.same_top for one in races),
        "contenders_mean": [fmean(rung) for rung in zip(*(one.contenders for one in races), strict=True)],
        "contenders_most": [max(rung) for rung in zip(*(one.contenders for one in races), strict=True)],
    }


def _close(found: float, expected: float, tolerance: float) -> bool:
    return abs(found - expected) <= tolerance


def compatibility_vectors() -> dict[str, bool]:
    """FLock's published figures, and whether our formulas give them: {what: held}."""
    one, thousand = Row(bytes(32), 100, 200), 1_000 * TOKEN
    two, four = [Row(bytes(32), 10, 50), Row(bytes(32), 50, 150)], Row(bytes(32), 100, 400)
    nats = [row_micro_nats(nll) for nll in (69.3147, 100.0, 10.0)]
    budget, nodes, validators = 309_157_680_000_000_000_000_000, 15 * thousand // 2, 12 * thousand
    found: dict[str, bool] = {
        "0.5 bits a byte": flock_score(nats[:1], [one]) == 500_000,
        "bPPL is the root of 2": _close(2 ** (flock_score(nats[:1], [one]) / 1e6), 2**0.5, 1e-6),
        "0.360674 bits a byte": flock_score(nats[1:2], [four]) == 360_674,
        "0.649213 by the mean of means": flock_score([nats[2], nats[1]], two) == 649_213,
        "0.793482 by the mean over tokens": micro_bits_per_byte([nats[2], nats[1]], two) == 793_482,
    }
    published = {0: ("118906.80", "190250.88"), 2_500: ("136742.82", "172414.86"), 5_000: ("154578.84", "154578.84")}
    for gamma, (for_nodes, for_validators) in published.items():
        divided = pools(budget, nodes, validators, gamma)
        found[f"nodes' pool, gamma {gamma / 10_000}"] = _tokens(divided.nodes) == for_nodes
        found[f"validators' pool, gamma {gamma / 10_000}"] = _tokens(divided.validators) == for_validators
    split = delegated_split(58_084 * TOKEN, 3 * thousand, thousand, 4_000)
    found["delegator gets 8,712.60"] = _tokens(split.passed_on) == "8712.60"
    found["node keeps 49,371.40"] = _tokens(split.kept) == "49371.40"
    found["45,421.69 after the fee of 8 %"] = _tokens(claim_split(split.kept, 800).kept) == "45421.69"
    found["7,449.27 after the fee of 14.5 %"] = _tokens(claim_split(split.passed_on, 1_450).kept) == "7449.27"
    income = share_out(pools(budget, nodes, validators, 0).validators, {0: 472_768, 1: 527_232})
    found["validator earns 89,944.53"] = _tokens(income[0]) == "89944.53"
    weights = validator_weights({0: 3_000, 1: 6_000, 2: 3_000}, {0: 0, 1: 10_000, 2: 50_000}, 20, 10_000)
    for weight, share in zip(weights.values(), (0.332741, 0.544850, 0.122409), strict=True):
        found[f"share {share} by distance"] = _close(weight / sum(weights.values()), share, 5e-7)
    return found


def _tokens(wei: int) -> str:
    """In tokens, rounded to two decimals."""
    cents = (wei * 100 + TOKEN // 2) // TOKEN
    return f"{cents // 100}.{cents % 100:02d}"


def in_contests(count: int, play: Callable[[int], Raced]) -> list[Raced]:
    """`count` contests of different seeds; tells of every hundredth."""
    races = []
    for seed in range(1, count + 1):
        races.append(play(seed))
        if seed % 100 == 0:
            tell(f"{seed} of {count} contests played")
    return races
