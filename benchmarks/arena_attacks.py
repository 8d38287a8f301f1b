"""What attacks on a contest cost and bring: played days, and copies of a real adapter under the real sketch and scores.

`in_defence` makes the figures and the table of docs/arena_attacks.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

import torch

from benchmarks.arena_adapters import on_grid
from benchmarks.arena_attack_plays import CASES, TOP, Case, Played
from benchmarks.arena_contests import NUM_VALIDATORS, Losses, MeasuredPlay
from benchmarks.common import step
from flock_ray.lora.gate import inspect
from flock_ray.lora.serialization import LORA_A, LORA_B, Adapter, canonical_bytes
from flock_ray.lora.sketch import Sketcher, distance, earliest_within
from flock_ray.protocol.contest import VESTED, advance_day
from flock_ray.protocol.contest_entries import shuffled
from flock_ray.protocol.contest_message import ContestKind, Finding
from flock_ray.protocol.contest_record import ContestRecord
from flock_ray.protocol.contest_scores import Row, rows_digest, strict_score
from flock_ray.protocol.contest_state import ContestState
from flock_ray.protocol.hashing import keccak, sha256
from flock_ray.training.contest import RowScorer
from flock_ray.training.data import Example
from tests.protocol.contest_players import new_contest, relayer_share, total_wei

NOISES = (0.05, 0.1, 0.3, 0.6)


def income(record: ContestRecord, members: Sequence[int]) -> int:
    """What members earned on a day, wei: with what is held of it, without what a slash took."""
    total = 0
    for member in members:
        before, after = record.state.members[member], record.members[member]
        total += record.rewards.get(member, 0) + after.noted.get(VESTED, 0) - before.noted.get(VESTED, 0)
    return total


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


@dataclass
class SketchedPlay(MeasuredPlay):
    """Validators that sketch real adapters to find copies.

    Attributes:
        adapters: {payload: adapter} of all days so far.
    """

    adapters: dict[bytes, Adapter] = field(default_factory=dict)

    def original_of(self, payload: bytes, payloads: list[bytes], state: ContestState, shuffle: bytes) -> bytes | None:
        """The earliest submission within the contest's copy distance, itself excepted."""
        sketcher = Sketcher({key: tuple(one.shape) for key, one in self.adapters[payload].items()}, shuffle)
        before = [one.payload for one in state.earlier]
        today = sorted(payloads, key=lambda one: shuffled(shuffle, one))
        before += [one for one in today[: today.index(payload)] if one not in before]
        sketches = [sketcher.sketch(self.adapters[one]) for one in before]
        found = earliest_within(sketcher.sketch(self.adapters[payload]), sketches, state.parameter("copy_distance"))
        return None if found is None or before[found] == payload else before[found]


def gauged(adapter: Adapter, seed: int) -> Adapter:
    """The same products by other factors: B M and M^-1 A."""
    stream, result = torch.Generator().manual_seed(seed), {}
    for key, a in adapter.items():
        if key.endswith(LORA_A):
            mixing = torch.eye(len(a)) + torch.randn(len(a), len(a), generator=stream) / 4
            other = key.removesuffix(LORA_A) + LORA_B
            result[key], result[other] = torch.linalg.solve(mixing, a), adapter[other] @ mixing
    return on_grid(dict(sorted(result.items())))


def noised(adapter: Adapter, relative: float, seed: int) -> Adapter:
    """Noise on every B, of a norm relative to its own."""
    stream, result = torch.Generator().manual_seed(seed), dict[str, torch.Tensor]()
    for key, factor in sorted(adapter.items()):
        noise = torch.randn(factor.shape, generator=stream)
        result[key] = factor + relative * factor.norm() / noise.norm() * noise if key.endswith(LORA_B) else factor
    return on_grid(result)


def copies(
    adapters: Sequence[Adapter], measured: Losses, rows: Sequence[Row], scorer: RowScorer, examples: Sequence[Example],
    noises: Sequence[float],
) -> tuple[list[dict[str, Any]], ContestRecord, int]:  # fmt: skip
    """Two days with real adapters; on the second, accounts submit the first day's leader again, disguised.

    Returns:
        What became of each copy, the second day's record, and how many honest submissions were called copies.
    """
    sent = {sha256(canonical_bytes(one)): one for one in adapters}
    table = {payload: tuple(map(int, own)) for payload, own in zip(sent, measured, strict=True)}
    leader = min(sent, key=lambda payload: strict_score(table[payload], rows))
    made = {"byte copy": sent[leader], "gauge copy": gauged(sent[leader], 1)}
    made |= {f"leader plus noise of {noise:.0%}": noised(sent[leader], noise, 2) for noise in noises}
    disguised = {name: sha256(canonical_bytes(one)) for name, one in made.items()}
    new = {disguised[name]: one for name, one in made.items() if disguised[name] != leader}
    with step(f"scoring {len(new)} copies of the best adapter"):
        table |= scorer.losses(new, examples)
    number = len(adapters)
    bare = new_contest(
        number + len(made), NUM_VALIDATORS, days=3, rung_rows=(len(rows),), parameters={"top_nodes": TOP}
    )
    state = replace(bare, terms=replace(bare.terms, chunks=(rows_digest(rows),) * 3), rows=()).opened(rows)
    nodes = dict(zip(range(NUM_VALIDATORS, NUM_VALIDATORS + number), sent, strict=True))
    thieves = dict(enumerate(disguised.values(), start=NUM_VALIDATORS + number))
    late = [(kind, thief) for thief in thieves for kind in (ContestKind.COMMITMENT, ContestKind.MANIFEST)]
    known = dict(sent) | new
    first = SketchedPlay(payloads=nodes, silent=late, table=dict(table), adapters=known).record(state)
    state = advance_day(state, first, keccak(b"report")).opened(rows)
    second = SketchedPlay(payloads=nodes | thieves, table=dict(table), adapters=known).record(state)
    entries = {entry.member: entry for entry in second.entries}
    sketcher = Sketcher({key: tuple(one.shape) for key, one in adapters[0].items()}, bytes(32))
    original = sketcher.sketch(sent[leader])
    found = []
    for (name, adapter), thief in zip(made.items(), thieves, strict=True):
        entry = entries[thief]
        found.append(
            {
                "copy": name,
                "distance": distance(sketcher.sketch(adapter), original) / 1e6,
                "called_copy": entry.copy_of == leader,
                "unpaid": income(second, [thief]) == 0,
                "worse_by": (strict_score(table[disguised[name]], rows) - strict_score(table[leader], rows)) / 1e6,
                "rank": second.ranking.index(thief) + 1 if thief in second.ranking else None,
            }
        )
    called = sum(entries[node].copy_of is not None for node in nodes)
    return found, second, called


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
    gate: Mapping[str, bool]
    honest_called_copies: int


def in_defence(
    adapters: Sequence[Adapter], measured: Losses, rows: Sequence[Row], scorer: RowScorer, examples: Sequence[Example],
    quick: bool,
) -> Defence:  # fmt: skip
    """Play all attacks.

    Args:
        adapters: real ones.
        measured: their losses on the rows, micro-nats.
        rows: of the day.
        scorer: for the copies.
        examples: the same rows.
        quick: fewer days and copies.
    """
    found, second, called = copies(adapters, measured, rows, scorer, examples, NOISES[:1] if quick else NOISES)
    played = [came_to(case, 1 if quick else case.days) for case in CASES]
    promised = [one for one in played if not one["unsolved"]]
    near = [one for one in found if one["distance"] * 1e6 <= second.state.parameter("copy_distance")]
    figures = {
        "honest_top8_under_attack": fmean(one["unharmed"] for one in promised),
        "copies_caught": fmean(one["called_copy"] and one["unpaid"] for one in near),
        "lazy_validators_unpaid": fmean(one["unpaid"] for one in played if one["lazy"]),
        "wei_conserved": float(all(one["conserved"] for one in played) and conserved(second)),
    }
    return Defence(figures, played, found, bad_bytes(adapters[0]), called)
