"""What attacks on a contest cost and bring: played days, and copies of a real adapter under the real sketch and scores.

`in_defence` makes the figures and the tables of docs/arena_attacks.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch

from benchmarks.arena_attack_plays import CASES, TOP, Case, Played
from benchmarks.arena_contests import Losses
from benchmarks.arena_copies import income, neighbours, thefts
from benchmarks.common import step
from flock_ray.lora.gate import inspect
from flock_ray.lora.serialization import LORA_A, Adapter, canonical_bytes
from flock_ray.protocol.contest import advance_day
from flock_ray.protocol.contest_message import Finding
from flock_ray.protocol.contest_record import ContestRecord
from flock_ray.protocol.contest_scores import Row
from flock_ray.protocol.hashing import keccak
from flock_ray.training.contest import RowScorer
from flock_ray.training.data import Example
from tests.protocol.contest_players import relayer_share, total_wei

NOISES = (0.1, 0.6, 0.9, 1.2, 2.0)


def slashed(record: ContestRecord, members: Sequence[int]) -> int:
    """What members lost of their stakes, wei."""
    return sum(slash.amount for slash in record.slashes if slash.member in members)


def conserved(record: ContestRecord) -> bool:
    """Whether every wei before the day is somewhere after it; who relays the report gets a part of its slashes."""
    after = advance_day(record.state, record, keccak(b"report" + record.digest))
    return total_wei(after) + relayer_share(record) == total_wei(record.state)


def honest_top(record: ContestRecord, attackers: Sequence[int]) -> tuple[int, ...]:
    """The first nodes of the order of pay, attackers left out."""
    return tuple(node for node in record.ranking if node not in attackers)[:TOP]


def unharmed(played: Played) -> bool:
    """Whether the honest nodes that are paid are those of the day without the attack, in the same order."""
    expected = honest_top(played.honest, played.attackers)
    paid = tuple(node for node in expected if income(played.honest, [node]))
    others = [node for node in played.attacked.ranking if node not in played.attackers]
    still = tuple(node for node in others if income(played.attacked, [node]))
    return honest_top(played.attacked, played.attackers) == expected and still[: len(paid)] == paid


def came_to(case: Case, num_days: int) -> dict[str, Any]:
    """What an attack came to, mean over days, amounts in tokens."""
    days = [case.play(seed) for seed in range(1, num_days + 1)]
    gains = [income(one.attacked, one.attackers) - income(one.honest, one.attackers) for one in days]
    return {
        "attack": case.name,
        "what": case.what,
        "days": len(days),
        "unsolved": case.unsolved,
        "lazy": case.lazy,
        "earned_without": fmean(income(one.honest, one.attackers) for one in days) / 1e18,
        "earned": fmean(income(one.attacked, one.attackers) for one in days) / 1e18,
        "gain": fmean(gains) / 1e18,
        "slashed": fmean(slashed(one.attacked, one.attackers) for one in days) / 1e18,
        "unpaid": fmean(income(one.attacked, one.attackers) == 0 for one in days),
        "unharmed": fmean(unharmed(one) for one in days),
        "conserved": all(conserved(one.attacked) for one in days),
    }


def bad_bytes(adapter: Adapter) -> dict[str, bool]:
    """Whether the gate finds what is wrong with real bytes, before anything is loaded."""
    shapes = {key: tuple(factor.shape) for key, factor in adapter.items()}
    good, rank = canonical_bytes(adapter), len(next(f for key, f in adapter.items() if key.endswith(LORA_A)))
    first = min(adapter)
    spoilt = {
        name: canonical_bytes(adapter | {first: torch.full_like(adapter[first], value)})
        for name, value in (("nan", float("nan")), ("inf", float("inf")))
    }
    renamed = canonical_bytes({f"other.{key}": factor for key, factor in adapter.items()})
    tried = {
        "size bomb": (good + bytes(len(good)), Finding.TOO_LARGE),
        "NaN": (spoilt["nan"], Finding.NOT_FINITE),
        "inf": (spoilt["inf"], Finding.NOT_FINITE),
        "no adapter": (b"no adapter", Finding.MALFORMED),
        "keys that match nothing": (renamed, Finding.WRONG_KEYS),
        "an honest one": (good, Finding.VALID),
    }
    limit = 2 * rank  # longer keys than the model's stay below the limit of bytes
    return {name: inspect(data, shapes, rank if name == "size bomb" else limit)[0] is finding
            for name, (data, finding) in tried.items()}  # fmt: skip


@dataclass(frozen=True)
class Defence:
    """What all attacks came to: figures that count, and the rows of the tables."""

    figures: Mapping[str, float]
    attacks: Sequence[Mapping[str, Any]]
    copies: Sequence[Mapping[str, Any]]
    neighbours: Mapping[str, Any]
    gate: Mapping[str, bool]


def in_defence(
    adapters: Sequence[Adapter], one_start: Sequence[Adapter], measured: Losses, rows: Sequence[Row],
    scorer: RowScorer, examples: Sequence[Example], quick: bool,
) -> Defence:  # fmt: skip
    """Play all attacks.

    Args:
        adapters: real ones, of nodes with starts of their own.
        one_start: others, of nodes that started alike.
        measured: losses of `adapters` on the rows, micro-nats.
        rows: of the day.
        scorer: for the copies.
        examples: the same rows.
        quick: fewer days and copies.
    """
    found = thefts(adapters, measured, rows, scorer, examples, NOISES[:1] if quick else NOISES)
    played = []
    for case in CASES:
        with step(f"attack: {case.name}"):
            played.append(came_to(case, 1 if quick else case.days))
    promised = [one for one in played if not one["unsolved"]]
    disguised = [one for one in found.copies if not one["own_work"]]
    near = [one for one in disguised if one["distance"] * 1e6 <= found.limit]
    honest = neighbours(adapters, one_start, found.limit)
    figures = {
        "honest_top8_under_attack": fmean(one["unharmed"] for one in promised),
        "copies_caught": fmean(one["called_copy"] and one["unpaid"] for one in near),
        "copy_earned_vs_honest": max(one["earned"] for one in disguised) / found.honest_mean,
        "honest_called_copies": honest["within"],
        "lazy_validators_unpaid": fmean(one["unpaid"] for one in played if one["lazy"]),
        "wei_conserved": float(all(one["conserved"] for one in played) and all(map(conserved, found.records))),
    }
    return Defence(figures, played, found.copies, honest, bad_bytes(adapters[0]))
