"""The base class of behaviours, which is that of an honest member."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from flock_ray.lora.serialization import Adapter
from flock_ray.protocol.hashing import tagged
from flock_ray.protocol.message import Message
from flock_ray.protocol.state import TaskState

Row = tuple[Sequence[int], Sequence[bool]]
"""A training example: token ids, and for each whether it carries loss."""


@dataclass(frozen=True)
class Context:
    """What a member knows when it acts.

    Attributes:
        state: of the epoch.
        member: itself.
        accomplices: members of its coalition, itself among them.
        randomness: 32 bytes that the coalition shares in this epoch and nobody else knows.
    """

    state: TaskState
    member: int
    accomplices: frozenset[int]
    randomness: bytes


class Behaviour:
    """Honest wherever a member may differ; a behaviour overrides what it changes.

    A phase may be repeated: the same input must give the same answer, and what is given stays as it is.

    Attributes:
        scale: strength (`adversary.scale`); each behaviour decides what it multiplies.
    """

    def __init__(self, scale: float, accomplices: Collection[int] = (), secret: bytes = bytes(32)) -> None:
        """Belong to a coalition.

        Args:
            scale: strength.
            accomplices: silos of the coalition's members.
            secret: 32 bytes that it shares.
        """
        self.scale = scale
        self._accomplices, self._secret = frozenset(accomplices), secret

    def context(self, state: TaskState, member: int, numbers: Mapping[int, int]) -> Context:
        """What a member of this behaviour knows in the epoch of `state`; `numbers` are {silo: its member}."""
        randomness = tagged("flock_ray/coalition/1", self._secret, state.scope.task, state.epoch, state.seed)
        accomplices = frozenset(numbers[silo] for silo in self._accomplices if silo in numbers)
        return Context(state, member, accomplices, randomness)

    def data(self, context: Context, rows: Sequence[Row]) -> Sequence[Row]:
        """The examples that the member trains on in an epoch, as many, in place of those that it drew from its silo."""
        return rows

    def update(self, context: Context, update: Adapter) -> Adapter:
        """The update that the member sends in place of its honest one."""
        return update

    def payload(self, context: Context, update: Adapter, encode: Callable[[Adapter], bytes]) -> bytes:
        """The bytes that the member sends for what `update` gave, with the wire format's `encode`."""
        return encode(update)

    def ballot_a(self, context: Context, proposer: int, gain: int) -> int:
        """The gain that the member reports of a proposal, for the one that it measured; micro-nats a token."""
        return gain

    def ballot_b(self, context: Context, gain: int) -> int:
        """The gain that the member reports of the candidate, for the one that it measured; micro-nats a token."""
        return gain

    def messages(self, context: Context, message: Message) -> Sequence[Message]:
        """What the member sends in place of a message: none, it alone, or others of the same kind with it."""
        return (message,)
