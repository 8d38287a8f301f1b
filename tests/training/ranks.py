"""Ranks in Ray actors, for engines that take several processes."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, Protocol, TypeVar

import ray

from flock_ray.training.engine import Rendezvous
from tests.waiting import PATIENCE

WORLD = 2

Answer = TypeVar("Answer")


class Closing(Protocol):
    """What holds a process group until it is closed."""

    def close(self) -> None: ...


Held = TypeVar("Held", bound=Closing)


class Rank:
    """One rank, in an actor of its own; holds one engine after the other."""

    def ask(self, make: Callable[[Rendezvous], Held], question: Callable[[Held], Answer], place: Rendezvous) -> Answer:
        with closing(make(place)) as held:
            return question(held)


class Ranks:
    """All ranks of a group."""

    def __init__(self, actors: list[Any]) -> None:
        self._actors = actors

    def ask(self, make: Callable[[Rendezvous], Held], question: Callable[[Held], Answer]) -> list[Answer]:
        """Make an engine on every rank and ask each the same; one answer a rank."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        places = [Rendezvous("127.0.0.1", port, rank, len(self._actors)) for rank in range(len(self._actors))]
        calls = [actor.ask.remote(make, question, place) for actor, place in zip(self._actors, places, strict=True)]
        answers: list[Answer] = ray.get(calls, timeout=PATIENCE)
        return answers


@contextmanager
def two_ranks() -> Iterator[Ranks]:
    """Actors on a Ray cluster of their own, for the length of a block."""
    ray.init(address="local", num_cpus=WORLD, include_dashboard=False, log_to_driver=False)
    try:
        yield Ranks([ray.remote(num_cpus=1)(Rank).remote() for _ in range(WORLD)])
    finally:
        ray.shutdown()
