"""Copies of a real adapter, disguised by whoever knows the rules, and how far honest adapters are from each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from statistics import fmean
from typing import Any

import torch

from benchmarks.arena_adapters import on_grid
from benchmarks.arena_contests import NUM_VALIDATORS, TOP, Losses, MeasuredPlay
from benchmarks.common import step
from flock_ray.lora.algebra import mixture
from flock_ray.lora.serialization import LORA_A, LORA_B, Adapter, canonical_bytes
from flock_ray.lora.sketch import Sketch, Sketcher, distance, earliest_within
from flock_ray.protocol.contest import VESTED, advance_day
from flock_ray.protocol.contest_entries import shuffled
from flock_ray.protocol.contest_message import ContestKind
from flock_ray.protocol.contest_record import ContestRecord
from flock_ray.protocol.contest_scores import Row, rows_digest, strict_score
from flock_ray.protocol.contest_state import ContestState
from flock_ray.protocol.hashing import keccak, sha256
from flock_ray.training.contest import RowScorer
from flock_ray.training.data import Example
from tests.protocol.contest_players import new_contest

TRIES, TRIED_NOISE = 4, 1.2  # beyond the copy distance
HIDDEN_LAYERS, HIDING_NOISE = 0.8, 2.0
OWN_SHARES = (0.25, 0.5)
"""Part of the thief's own training in a mixture with the leader."""


def income(record: ContestRecord, members: Sequence[int]) -> int:
    """What members earned on a day, wei: with what is held of it, without what a slash took."""
    total = 0
    for member in members:
        before, after = record.state.members[member], record.members[member]
        total += record.rewards.get(member, 0) + after.noted.get(VESTED, 0) - before.noted.get(VESTED, 0)
    return total


@dataclass
class SketchedPlay(MeasuredPlay):
    """Validators that sketch real adapters to find copies.

    Attributes:
        adapters: {payload: adapter} of all days so far.
    """

    adapters: dict[bytes, Adapter] = field(default_factory=dict)
    _sketches: dict[tuple[bytes, bytes], Sketch] = field(default_factory=dict)

    def original_of(self, payload: bytes, payloads: list[bytes], state: ContestState, shuffle: bytes) -> bytes | None:
        """The earliest submission within the contest's copy distance, itself excepted."""
        before = [one.payload for one in state.earlier]
        today = sorted(payloads, key=lambda one: shuffled(shuffle, one))
        before += [one for one in today[: today.index(payload)] if one not in before]
        sketches = [self._sketch(one, shuffle) for one in before]
        found = earliest_within(self._sketch(payload, shuffle), sketches, state.parameter("copy_distance"))
        return None if found is None or before[found] == payload else before[found]

    def _sketch(self, payload: bytes, shuffle: bytes) -> Sketch:
        if (payload, shuffle) not in self._sketches:
            self._sketches[payload, shuffle] = _sketcher(self.adapters[payload], shuffle).sketch(self.adapters[payload])
        return self._sketches[payload, shuffle]


def _sketcher(adapter: Adapter, seed: bytes) -> Sketcher:
    return Sketcher({key: tuple(factor.shape) for key, factor in adapter.items()}, seed)


def gauged(adapter: Adapter, seed: int) -> Adapter:
    """The same products by other factors: B M and M^-1 A."""
    stream, result = torch.Generator().manual_seed(seed), {}
    for key, a in adapter.items():
        if key.endswith(LORA_A):
            mixing = torch.eye(len(a)) + torch.randn(len(a), len(a), generator=stream) / 4
            other = key.removesuffix(LORA_A) + LORA_B
            result[key], result[other] = torch.linalg.solve(mixing, a), adapter[other] @ mixing
    return on_grid(dict(sorted(result.items())))


def noised(adapter: Adapter, relative: float, seed: int, part: float = 1.0) -> Adapter:
    """Noise on B of a norm relative to its own, in about this part of the layers."""
    stream, result = torch.Generator().manual_seed(seed), dict[str, torch.Tensor]()
    for key, factor in sorted(adapter.items()):
        noise, drawn = torch.randn(factor.shape, generator=stream), float(torch.rand((), generator=stream))
        chosen = key.endswith(LORA_B) and drawn < part
        result[key] = factor + relative * factor.norm() / noise.norm() * noise if chosen else factor
    return on_grid(result)


def disguises(
    leader: Adapter, own: Adapter, noises: Sequence[float], scorer: RowScorer, examples: Sequence[Example]
) -> dict[str, Adapter]:
    """What thieves make of the leader: {what: adapter}; who mixes it with own work, ends in `own`.

    Args:
        leader: of the day before.
        own: what the thief trained itself.
        noises: relative to B's norm.
        scorer: by which a thief tries several noises.
        examples: rows that it tries them on.
    """
    made = {"byte copy": leader, "gauge copy": gauged(leader, 1)}
    made |= {f"noise of {noise:.0%}": noised(leader, noise, 2) for noise in noises}
    tried = {bytes([seed]): noised(leader, TRIED_NOISE, seed) for seed in range(3, 3 + TRIES)}
    with step(f"a thief tries {TRIES} noises"):
        losses = scorer.losses(tried, examples)
    best = min(losses, key=lambda seed: sum(losses[seed]))
    made[f"best of {TRIES} noises of {TRIED_NOISE:.0%}"] = tried[best]
    made[f"noise of {HIDING_NOISE:.0%} in {HIDDEN_LAYERS:.0%} of the layers"] = noised(
        leader, HIDING_NOISE, 9, HIDDEN_LAYERS
    )
    mixtures = {share: on_grid(mixture(leader, own, share)) for share in OWN_SHARES}
    return made | {f"{1 - share:.0%} leader, {share:.0%} own": adapter for share, adapter in mixtures.items()}


@dataclass(frozen=True)
class Thefts:
    """What became of copies.

    Attributes:
        copies: of each, what it was and what it earned.
        records: of the days with them.
        honest_mean: tokens that an honest node earned on such a day without a thief.
        limit: the copy distance, millionths.
    """

    copies: Sequence[dict[str, Any]]
    records: Sequence[ContestRecord]
    honest_mean: float
    limit: int


def thefts(
    adapters: Sequence[Adapter], measured: Losses, rows: Sequence[Row], scorer: RowScorer, examples: Sequence[Example],
    noises: Sequence[float],
) -> Thefts:  # fmt: skip
    """Two days with real adapters; on each of several second ones an account submits the first's leader, disguised."""
    sent = {sha256(canonical_bytes(one)): one for one in adapters}
    table = {payload: tuple(map(int, own)) for payload, own in zip(sent, measured, strict=True)}
    order = sorted(sent, key=lambda payload: strict_score(table[payload], rows))
    leader, own = sent[order[0]], sent[order[len(order) // 2]]
    made = disguises(leader, own, noises, scorer, examples[::2])
    names = {name: sha256(canonical_bytes(one)) for name, one in made.items()}
    known = sent | {names[name]: one for name, one in made.items()}
    new = {payload: one for payload, one in known.items() if payload not in table}
    with step(f"scoring {len(new)} disguises of the best adapter"):
        table |= scorer.losses(new, examples)
    bare = new_contest(
        len(sent) + 1, NUM_VALIDATORS, days=3, rung_rows=(len(rows),), parameters={"top_nodes": TOP}
    )  # fmt: skip
    state = replace(bare, terms=replace(bare.terms, chunks=(rows_digest(rows),) * 3), rows=()).opened(rows)
    nodes = dict(zip(range(NUM_VALIDATORS, NUM_VALIDATORS + len(sent)), sent, strict=True))
    thief = NUM_VALIDATORS + len(sent)
    silent = [(kind, thief) for kind in (ContestKind.COMMITMENT, ContestKind.MANIFEST)]
    absent = SketchedPlay(payloads=nodes, silent=silent, table=dict(table), adapters=known)
    state = advance_day(state, absent.record(state), keccak(b"report")).opened(rows)
    honest = absent.record(state)
    sketcher = _sketcher(leader, bytes(32))
    original, found, records = sketcher.sketch(leader), [], [honest]
    for name, adapter in made.items():
        with step(f"a day with a thief: {name}"):
            play = SketchedPlay(payloads=nodes | {thief: names[name]}, table=dict(table), adapters=known)
            record = play.record(state)
        records.append(record)
        entry = next(entry for entry in record.entries if entry.member == thief)
        worse = strict_score(table[names[name]], rows) - strict_score(table[order[0]], rows)
        found.append(
            {
                "copy": name,
                "own_work": name.endswith("own"),
                "distance": distance(sketcher.sketch(adapter), original) / 1e6,
                "called_copy": entry.copy_of == order[0],
                "earned": income(record, [thief]) / 1e18,
                "unpaid": income(record, [thief]) == 0,
                "worse_by": worse / 1e6,
                "rank": record.ranking.index(thief) + 1 if thief in record.ranking else None,
            }
        )
    mean = fmean(income(honest, [node]) for node in nodes) / 1e18
    return Thefts(found, records, mean, state.parameter("copy_distance"))


def neighbours(adapters: Sequence[Adapter], one_start: Sequence[Adapter], limit: int) -> dict[str, Any]:
    """How far honest adapters are apart, by sketch: of nodes with own starts and data, and with one start and own data.

    Returns:
        Of both the number of pairs and the smallest distance; `within`: the part of the first ones within the limit.
    """
    sketcher = _sketcher(adapters[0], bytes(32))
    own, alike = (
        [distance(one, other) for one, other in combinations([sketcher.sketch(adapter) for adapter in group], 2)]
        for group in (adapters, one_start)
    )
    return {
        "pairs": len(own),
        "nearest": min(own) / 1e6,
        "within": fmean(found <= limit for found in own),
        "pairs_of_one_start": len(alike),
        "nearest_of_one_start": min(alike) / 1e6,
    }
