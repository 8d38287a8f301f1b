"""How training nodes and validators of a contest cheat; the base class is honest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import asin, tan

import torch

from flock_ray.errors import ConfigError
from flock_ray.lora.algebra import mixture
from flock_ray.lora.fixed_point import dequantize, quantize
from flock_ray.lora.serialization import LORA_A, LORA_B, Adapter
from flock_ray.protocol.contest_race import Column, Rung
from flock_ray.protocol.hashing import tagged
from flock_ray.protocol.state import TaskState


@dataclass(frozen=True)
class ContestContext:
    """What a member knows when it acts: the day, itself, and the day before's leader, which is public."""

    state: TaskState
    member: int
    leader: Adapter | None

    def randomness(self) -> torch.Generator:
        """Of this member and day."""
        seed = tagged("flock_ray/contest-behaviour/1", self.state.scope.task, self.state.epoch, self.member)
        return torch.Generator().manual_seed(int.from_bytes(seed[:7], "big"))


class ContestBehaviour:
    """Honest wherever a member may differ.

    Attributes:
        scale: strength (`adversary.scale`); each behaviour decides what it multiplies.
    """

    def __init__(self, scale: float | None) -> None:
        """Have a strength, 3 if none is configured."""
        self.scale = 3.0 if scale is None else scale

    def submission(self, context: ContestContext, own: Adapter) -> Adapter:
        """What a training node submits in place of what it trained."""
        return own

    def ballot(self, context: ContestContext, rung: Rung, columns: Sequence[Column]) -> Sequence[Column]:
        """What a validator says in place of the losses that its host measured."""
        return columns


class ByteCopy(ContestBehaviour):
    """Submits the leader of the day before."""

    def submission(self, context: ContestContext, own: Adapter) -> Adapter:
        """The leader's bytes, once there is one."""
        return context.leader or own


class GaugeCopy(ContestBehaviour):
    """Submits the leader with other factors of the same products: B M and the inverse of M times A."""

    def submission(self, context: ContestContext, own: Adapter) -> Adapter:
        """Such factors, once there is a leader."""
        if context.leader is None:
            return own
        generator, result = context.randomness(), {}
        for key, a in sorted(context.leader.items()):
            if key.endswith(LORA_A):
                rank, other = a.shape[0], key.removesuffix(LORA_A) + LORA_B
                mixing = torch.eye(rank) + torch.randn(rank, rank, generator=generator) / (4 * rank**0.5)
                result[key] = _on_grid(torch.linalg.solve(mixing, a))
                result[other] = _on_grid(context.leader[other] @ mixing)
        return dict(sorted(result.items()))


class LeaderNoise(ContestBehaviour):
    """Submits the leader with noise on every B, `scale` times as large as it."""

    def submission(self, context: ContestContext, own: Adapter) -> Adapter:
        """The leader with noise, once there is one."""
        if context.leader is None:
            return own
        return _noised(context.leader, self.scale, context.randomness())


class HiddenNoise(ContestBehaviour):
    """Submits the leader with noise on every B, `scale` times as large as what makes it no copy by its sketch.

    Noise of a norm relative to the leader's is away from it by an angle whose tangent is that norm.
    """

    def submission(self, context: ContestContext, own: Adapter) -> Adapter:
        """The leader with so much noise, once there is one."""
        if context.leader is None:
            return own
        limit = min(context.state.terms.mechanism_parameters["copy_distance"] / 1e6, 0.999)
        return _noised(context.leader, self.scale * tan(asin(limit)), context.randomness())


class LeaderMixture(ContestBehaviour):
    """Submits the leader mixed with what it trained itself, of which it takes a part of `scale`."""

    def submission(self, context: ContestContext, own: Adapter) -> Adapter:
        """The mixture, once there is a leader."""
        if context.leader is None:
            return own
        mixed = mixture(context.leader, own, min(1.0, self.scale))
        return {key: _on_grid(factor) for key, factor in mixed.items()}


class NotFinite(ContestBehaviour):
    """Submits what it trained with an entry that is no number, so that whoever loads it computes none either."""

    def submission(self, context: ContestContext, own: Adapter) -> Adapter:
        """Its own adapter, spoiled."""
        key = min(own)
        spoiled = own[key].clone()
        spoiled.view(-1)[0] = torch.nan
        return {**own, key: spoiled}


class LyingValidator(ContestBehaviour):
    """Turns the order around: on each row, as far as a submission is better than the mean it says it is worse."""

    def ballot(self, context: ContestContext, rung: Rung, columns: Sequence[Column]) -> Sequence[Column]:
        """Losses mirrored at the row's mean."""
        there = [column for column in columns if column is not None]
        if not there:
            return columns
        doubled = [2 * (sum(losses) // len(losses)) for losses in zip(*there, strict=True)]
        return [
            None if column is None else tuple(max(0, twice - loss) for twice, loss in zip(doubled, column, strict=True))
            for column in columns
        ]


class LazyValidator(ContestBehaviour):
    """Measures a tenth of the rows, at least one, and guesses the rest from each submission's mean on those."""

    def ballot(self, context: ContestContext, rung: Rung, columns: Sequence[Column]) -> Sequence[Column]:
        """Few losses that were measured, and guesses."""
        tokens = [row.num_tokens for row in rung.rows]
        seen = -(-len(tokens) // 10)
        guessed: list[Column] = []
        for column in columns:
            if column is None:
                guessed.append(None)
                continue
            each = sum(column[:seen]) // sum(tokens[:seen])
            guessed.append((*column[:seen], *(each * count for count in tokens[seen:])))
        return guessed


def _noised(adapter: Adapter, relative: float, generator: torch.Generator) -> Adapter:
    result = dict(adapter)
    for key, factor in sorted(adapter.items()):
        if key.endswith(LORA_B):
            noise = torch.randn(factor.shape, generator=generator)
            result[key] = _on_grid(factor + relative * factor.norm() / noise.norm() * noise)
    return result


def _on_grid(factor: torch.Tensor) -> torch.Tensor:
    return dequantize(quantize(factor.contiguous()))


CONTEST_BEHAVIOURS: dict[str, type[ContestBehaviour]] = {
    "none": ContestBehaviour,
    "byte_copy": ByteCopy,
    "gauge_copy": GaugeCopy,
    "leader_noise": LeaderNoise,
    "hidden_noise": HiddenNoise,
    "leader_mixture": LeaderMixture,
    "not_finite": NotFinite,
    "lying_validator": LyingValidator,
    "lazy_validator": LazyValidator,
}


def get_contest_behaviour(name: str, where: str = "adversary.attack") -> type[ContestBehaviour]:
    """The behaviour of this name.

    Raises:
        ConfigError: no such behaviour; the text lists those that exist.
    """
    if name not in CONTEST_BEHAVIOURS:
        raise ConfigError(
            f"{where} is {name!r}; in a contest it must be one of {', '.join(sorted(CONTEST_BEHAVIOURS))}"
        )
    return CONTEST_BEHAVIOURS[name]
