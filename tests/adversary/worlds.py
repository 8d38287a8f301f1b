"""A task's public past and a coalition's updates, as tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch

from flock_ray.adversary.behaviour import Behaviour, Context, PastEpoch
from flock_ray.adversary.part import make_behaviour
from flock_ray.adversary.vectors import combined, distance, norm
from flock_ray.lora.serialization import Adapter, adapter_hash
from tests.protocol.players import new_task

A, B = "x.lora_A.weight", "x.lora_B.weight"
SHAPES = {A: (4, 30), B: (50, 4)}
STATE = new_task()
"""Voters 3, 5, 2, 0; proposers 7, 1, 4, 6."""
NUMBERS = {silo: silo for silo in range(8)}
COALITION = (1, 4, 5)
"""Two of its members propose in `STATE`, and one votes."""
SECRET = b"\1" * 32


def vector(seed: int, size: float = 1.0) -> Adapter:
    """A random update."""
    generator = torch.Generator().manual_seed(seed)
    return {key: size * torch.randn(shape, generator=generator) for key, shape in SHAPES.items()}


def relative(one: Adapter, other: Adapter) -> float:
    """Distance of two vectors over the norm of the second."""
    return distance(one, other) / norm(other)


@dataclass
class Tensors:
    """What is public and what the coalition trains, given as values.

    Attributes:
        adapters: global adapters, from the first one on; each epoch but a rejected one moved to the next.
        history: {proposer: update} of each epoch.
        scores: {proposer: score} of each epoch.
        honest: {member: update} of the coalition in this epoch.
        best: an adapter; the loss of another one is its distance from it.
        asked: arguments of `trained`.
    """

    adapters: Sequence[Adapter] = field(default_factory=lambda: [vector(100)])
    history: Sequence[dict[int, Adapter]] = ()
    scores: Sequence[dict[int, int]] = ()
    honest: dict[int, Adapter] = field(default_factory=lambda: {member: vector(member) for member in COALITION})
    best: Adapter = field(default_factory=lambda: vector(100))
    asked: list[tuple[tuple[int, ...], int | None, bytes | None]] = field(default_factory=list)

    @property
    def past(self) -> list[PastEpoch]:
        names = list(map(adapter_hash, self.adapters))
        return [
            PastEpoch(
                number + 1, names[number], names[number + 1],
                {member: adapter_hash(update) for member, update in sent.items()},
                dict(self.scores[number]) if self.scores else {},
            )
            for number, sent in enumerate(self.history)
        ]  # fmt: skip

    def adapter(self, digest: bytes) -> Adapter:
        return next(one for one in self.adapters if adapter_hash(one) == digest)

    def sent(self, payload: bytes) -> Adapter | None:
        updates = [update for sent in self.history for update in sent.values()]
        return next((update for update in updates if adapter_hash(update) == payload), None)

    def trained(self, members: Iterable[int], steps: int | None = None, start: bytes | None = None) -> list[Adapter]:
        asked = tuple(members)
        self.asked.append((asked, steps, start))
        return [self.honest[member] for member in asked]

    def loss(self, member: int, adapter: Adapter) -> float:
        return distance(adapter, self.best)


def moved(*movements: Adapter) -> list[Adapter]:
    """Global adapters that these movements lead to."""
    adapters = [vector(100)]
    for movement in movements:
        adapters.append(combined(adapters[-1], movement, 1.0))
    return adapters


def acting(name: str, member: int = 1, world: Tensors | None = None, epoch: int = 1) -> tuple[Behaviour, Context]:
    """A behaviour of the coalition, and what a member of it knows."""
    world = world or Tensors()
    state = replace(STATE, adapter=adapter_hash(world.adapters[-1]))
    if epoch != 1:  # else the roles are those of `STATE`
        state = replace(state, epoch=epoch)
    behaviour = make_behaviour(name, None, COALITION, SECRET)
    return behaviour, behaviour.context(state, member, NUMBERS, world)


def sent(name: str, member: int = 1, world: Tensors | None = None, epoch: int = 1) -> Adapter:
    """What a member sends that trained `vector(member)`."""
    behaviour, context = acting(name, member, world, epoch)
    return behaviour.update(context, vector(member))
