"""The base class of behaviours, which is that of an honest member, and what a member knows when it acts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch

from flock_ray.lora.algebra import subtract
from flock_ray.lora.serialization import Adapter
from flock_ray.protocol.hashing import sha256, tagged
from flock_ray.protocol.message import Message
from flock_ray.protocol.state import TaskState

Row = tuple[Sequence[int], Sequence[bool]]
"""A training example: token ids, and for each whether it carries loss."""

AS_PROPOSER = ("data", "update", "payload")
AS_VOTER = ("ballot_a", "ballot_b", "messages")
"""What a behaviour may override for each role."""


@dataclass(frozen=True)
class PastEpoch:
    """An epoch before this one, as everybody knows it.

    Attributes:
        epoch: its number.
        start, end: hashes of the global adapter before and after it.
        payloads: {proposer: hash of what it sent} of the proposals that were opened.
        scores: {proposer: score of its proposal} of those that were scored, micro-nats a token.
    """

    epoch: int
    start: bytes
    end: bytes
    payloads: Mapping[int, bytes]
    scores: Mapping[int, int]


class World(Protocol):
    """What a member can look up or compute; the same question gives the same answer."""

    @property
    def past(self) -> Sequence[PastEpoch]:
        """The epochs before this one, oldest first."""

    def adapter(self, digest: bytes) -> Adapter:
        """A global adapter of the task."""

    def sent(self, payload: bytes) -> Adapter | None:
        """What somebody sent, factor deltas; None where it was no valid update or is no longer there."""

    def trained(self, members: Iterable[int], steps: int | None = None, start: bytes | None = None) -> list[Adapter]:
        """Honest updates of members of the coalition on their own data, drawn in this epoch or not, in this order.

        Args:
            members: accomplices.
            steps: of local training; None for all.
            start: hash of the adapter to start from; None for the global one.
        """

    def loss(self, member: int, adapter: Adapter) -> float:
        """Loss of a member of the coalition's held-out data under an adapter, nats a token."""


@dataclass(frozen=True)
class Context:
    """What a member knows when it acts.

    Attributes:
        state: of the epoch.
        member: itself.
        accomplices: members of its coalition, itself among them.
        randomness: 32 bytes that the coalition shares in this epoch and nobody else knows.
        secret: 32 bytes that it shares in all epochs.
        world: what it can look up or compute.
    """

    state: TaskState
    member: int
    accomplices: frozenset[int]
    randomness: bytes
    secret: bytes = bytes(32)
    world: World | None = None

    @property
    def known(self) -> World:
        """What it can look up or compute, where there is something."""
        assert self.world is not None
        return self.world

    def common(self, purpose: str = "") -> torch.Generator:
        """Random numbers that all accomplices draw alike in this epoch."""
        return _generator(tagged("flock_ray/common/1", self.randomness, sha256(purpose.encode())))

    def own(self, purpose: str = "") -> torch.Generator:
        """Random numbers of this member in this epoch."""
        return _generator(tagged("flock_ray/own/1", self.randomness, self.member, sha256(purpose.encode())))

    @property
    def start(self) -> Adapter:
        """The global adapter that the epoch starts from."""
        return self.known.adapter(self.state.adapter)

    def movements(self, most: int) -> list[Adapter]:
        """How the last `most` accepted epochs moved the global adapter, newest first: factor deltas."""
        moved = [past for past in reversed(self.known.past) if past.start != past.end]
        return [subtract(self.known.adapter(past.end), self.known.adapter(past.start)) for past in moved[:most]]

    @property
    def drawn(self) -> list[int]:
        """The accomplices that propose in this epoch, ascending."""
        return sorted(self.accomplices.intersection(self.state.roles.proposers))


@dataclass(frozen=True)
class Proposal:
    """What a score on ballot A is of.

    Attributes:
        proposer: whose update.
        measured: {proposer: gain that the voter measured} of all proposals that it scores, micro-nats a token.
    """

    proposer: int
    measured: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Candidate:
    """What a score on ballot B is of.

    Attributes:
        weights: {proposer: integer weight} of the updates in it.
    """

    weights: Mapping[int, int] = field(default_factory=dict)


class Behaviour:
    """Honest wherever a member may differ; a behaviour overrides what it changes.

    A phase may be repeated: the same input must give the same answer, and what is given stays as it is.

    Attributes:
        scale: strength; each behaviour decides what it multiplies.
        default_scale: strength where none is configured.
        computes: whether it trains or measures beside what the protocol asks of its members: one worker must host all.
        one_silo: whether its accomplices hold the data of the first of them.
    """

    default_scale: ClassVar[float] = 1.0
    computes: ClassVar[bool] = False
    one_silo: ClassVar[bool] = False

    def __init__(
        self, scale: float | None = None, accomplices: Collection[int] = (), secret: bytes = bytes(32)
    ) -> None:
        """Belong to a coalition.

        Args:
            scale: strength; None for the behaviour's own.
            accomplices: silos of the coalition's members.
            secret: 32 bytes that it shares.
        """
        self.scale = self.default_scale if scale is None else scale
        self._accomplices, self._secret = frozenset(accomplices), secret

    @classmethod
    def overrides(cls, method: str) -> bool:
        """Whether it differs from an honest member in one of `AS_PROPOSER` or `AS_VOTER`."""
        return getattr(cls, method) is not getattr(Behaviour, method)

    def context(self, state: TaskState, member: int, numbers: Mapping[int, int], world: World | None = None) -> Context:
        """What a member of this behaviour knows in the epoch of `state`; `numbers` are {silo: its member}."""
        randomness = tagged("flock_ray/coalition/1", self._secret, state.scope.task, state.epoch, state.seed)
        accomplices = frozenset(numbers[silo] for silo in self._accomplices if silo in numbers)
        return Context(state, member, accomplices, randomness, self._secret, world)

    def data(self, context: Context, rows: Sequence[Row]) -> Sequence[Row]:
        """The examples that the member trains on in an epoch, as many, in place of those that it drew from its silo."""
        return rows

    def update(self, context: Context, update: Adapter) -> Adapter:
        """The update that the member sends in place of its honest one."""
        return update

    def payload(self, context: Context, update: Adapter, encode: Callable[[Adapter], bytes]) -> bytes:
        """The bytes that the member sends for what `update` gave, with the wire format's `encode`."""
        return encode(update)

    def ballot_a(self, context: Context, proposal: Proposal, gain: int) -> int:
        """The gain that the member reports of a proposal, for the one that it measured; micro-nats a token."""
        return gain

    def ballot_b(self, context: Context, candidate: Candidate, gain: int) -> int:
        """The gain that the member reports of the candidate, for the one that it measured; micro-nats a token."""
        return gain

    def messages(self, context: Context, message: Message) -> Sequence[Message]:
        """What the member sends in place of a message: none, it alone, or others of the same kind with it."""
        return (message,)


def _generator(seed: bytes) -> torch.Generator:
    return torch.Generator().manual_seed(int.from_bytes(seed[:7], "big"))
