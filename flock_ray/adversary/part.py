"""What a configuration calls a member's behaviour: `NAME[@SCALE]`, or as a proposer and as a voter, `NAME+NAME`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from flock_ray.adversary.behaviour import AS_PROPOSER, AS_VOTER, Behaviour, Candidate, Context, Proposal, Row
from flock_ray.adversary.registry import get_behaviour
from flock_ray.errors import ConfigError
from flock_ray.lora.serialization import Adapter
from flock_ray.protocol.hashing import sha256, tagged
from flock_ray.protocol.message import Kind, Message

_OF_PROPOSERS = frozenset((Kind.COMMITMENT, Kind.MANIFEST))
_MAX_SCALE = 1_000_000


@dataclass(frozen=True)
class Part:
    """A behaviour and its strength; None for what `adversary.scale` says, or else the behaviour's own."""

    kind: type[Behaviour]
    scale: float | None

    @classmethod
    def of(cls, text: str, where: str) -> Part:
        """Read `NAME` or `NAME@SCALE`.

        Raises:
            ConfigError: no such behaviour, or no such strength.
        """
        name, at, scale = text.partition("@")
        kind = get_behaviour(name, where)
        if not at:
            return cls(kind, None)
        try:
            strength = float(scale)
        except ValueError:
            strength = float("nan")
        if not abs(strength) <= _MAX_SCALE:
            raise ConfigError(
                f"{where} is {text!r}; what follows @ is the behaviour's strength, a number between -{_MAX_SCALE} and"
                f" {_MAX_SCALE}"
            )
        return cls(kind, strength)


def parts(name: str, where: str = "adversary.attack") -> tuple[Part, Part]:
    """How a member behaves as a proposer, and as a voter; the same part twice where one behaviour is named.

    Raises:
        ConfigError: no such behaviour, or no such strength.
    """
    proposing, plus, voting = name.partition("+")
    first = Part.of(proposing, where)
    return first, Part.of(voting, where) if plus else first


def changed_by(name: str) -> frozenset[str]:
    """Which of `AS_PROPOSER` and `AS_VOTER` a behaviour changes."""
    proposing, voting = parts(name)
    return frozenset(
        [method for method in AS_PROPOSER if proposing.kind.overrides(method)]
        + [method for method in AS_VOTER if voting.kind.overrides(method)]
    )


def coalition_secret(run_seed: int, name: str) -> bytes:
    """32 bytes that the members of a behaviour share in a run."""
    return tagged("flock_ray/coalition-secret/1", run_seed, sha256(name.encode()))


def make_behaviour(name: str, scale: float | None, accomplices: Collection[int], secret: bytes) -> Behaviour:
    """A member's behaviour.

    Args:
        name: as it is configured.
        scale: `adversary.scale`, for what has no strength in its name.
        accomplices: silos of the coalition's members.
        secret: 32 bytes that it shares.
    """
    proposing, voting = (
        part.kind(scale if part.scale is None else part.scale, accomplices, secret) for part in parts(name)
    )
    return Both(proposing, voting, accomplices, secret) if "+" in name else proposing


class Both(Behaviour):
    """One behaviour as a proposer, and another one as a voter."""

    def __init__(self, proposing: Behaviour, voting: Behaviour, accomplices: Collection[int], secret: bytes) -> None:
        """Join two of the same coalition."""
        super().__init__(None, accomplices, secret)
        self._proposing, self._voting = proposing, voting

    def data(self, context: Context, rows: Sequence[Row]) -> Sequence[Row]:
        """The proposer's."""
        return self._proposing.data(context, rows)

    def update(self, context: Context, update: Adapter) -> Adapter:
        """The proposer's."""
        return self._proposing.update(context, update)

    def payload(self, context: Context, update: Adapter, encode: Callable[[Adapter], bytes]) -> bytes:
        """The proposer's."""
        return self._proposing.payload(context, update, encode)

    def ballot_a(self, context: Context, proposal: Proposal, gain: int) -> int:
        """The voter's."""
        return self._voting.ballot_a(context, proposal, gain)

    def ballot_b(self, context: Context, candidate: Candidate, gain: int) -> int:
        """The voter's."""
        return self._voting.ballot_b(context, candidate, gain)

    def messages(self, context: Context, message: Message) -> Sequence[Message]:
        """Of either, by the kind of the message."""
        acting = self._proposing if message.kind in _OF_PROPOSERS else self._voting
        return acting.messages(context, message)
