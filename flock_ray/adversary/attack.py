"""The base class of attacks, which behaves like an honest member."""

from __future__ import annotations

from collections.abc import Callable

from flock_ray.lora.serialization import Adapter


class Attack:
    """Honest behaviour wherever an attack may differ; an attack overrides what it changes.

    Attributes:
        scale: strength of the attack (`adversary.scale`); each attack decides what it multiplies.
    """

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def poison(self, update: Adapter) -> Adapter:
        """The update that the member sends in place of its honest one: a new adapter; `update` is not changed."""
        return update

    def payload(self, update: Adapter, encode: Callable[[Adapter], bytes]) -> bytes:
        """The bytes that the member sends for its honest update, with the wire format's `encode`."""
        return encode(self.poison(update))

    def vote(self, score: int) -> int:
        """The gain that the member reports for the gain that it measured, both in micro-nats a token."""
        return score
