"""What an attack is; left as it is, it is an honest member."""

from __future__ import annotations

from collections.abc import Callable

from flock_ray.lora.serialization import Adapter


class Attack:
    """Honest behaviour in every place where an attack may differ; an attack overrides what it changes.

    Attributes:
        scale: strength of the attack (`adversary.scale`); what it multiplies is the attack's own matter.
    """

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def poison(self, update: Adapter) -> Adapter:
        """What the member sends in place of its honest update (a new adapter; the given one stays as it is)."""
        return update

    def payload(self, update: Adapter, encode: Callable[[Adapter], bytes]) -> bytes:
        """The bytes that travel for an honest update, with the codec's `encode`."""
        return encode(self.poison(update))

    def vote(self, score: int) -> int:
        """The score that the member reports for one that it measured, in micro-nats a token."""
        return score
