"""The randomness of an epoch: who gets which seat, what the voters reveal, and the next seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import dataclass
from functools import cached_property

from flock_ray.errors import VerificationError
from flock_ray.protocol.hashing import keccak, tag, tagged, word
from flock_ray.protocol.state import TaskState
from flock_ray.verify.membership import slots_of


@dataclass(frozen=True)
class Seats:
    """Members behind the seats of an epoch, in seat order; nobody who votes is among the proposers."""

    voters: tuple[int, ...]
    proposers: tuple[int, ...]

    @property
    def quorum(self) -> int:
        """q = floor(2V/3) + 1 seats."""
        return len(self.voters) * 2 // 3 + 1

    @cached_property
    def proposing(self) -> Counter[int]:
        """Proposer seats of each member that holds one."""
        return Counter(self.proposers)

    def held_by(self, members: Container[int]) -> int:
        """Voter seats that these members hold together."""
        return sum(voter in members for voter in self.voters)


def seats_of(state: TaskState) -> Seats:
    """Seats of the epoch that `state` starts: a Fisher-Yates shuffle of the slots, cut off after V + P seats.

    Raises:
        VerificationError: there are fewer than V + 1 slots.
    """
    owners = [member for member, _ in slots_of(state).slots]
    num_voters = state.terms.num_voters
    if len(owners) <= num_voters:
        raise VerificationError(f"{len(owners)} slots are too few for {num_voters} voters and a proposer")
    num_seats = min(len(owners), num_voters + state.terms.num_proposers)
    for seat in range(num_seats):
        drawn = tagged("flock_ray/roles/1", state.seed, state.scope.task, state.epoch, seat)
        other = seat + int.from_bytes(drawn, "big") % (len(owners) - seat)
        owners[seat], owners[other] = owners[other], owners[seat]
    voters = tuple(owners[:num_voters])
    voting = frozenset(voters)
    return Seats(voters, tuple(member for member in owners[num_voters:num_seats] if member not in voting))


def genesis_seed(run_seed: int) -> bytes:
    """Seed of epoch 1 where it is fixed: H("genesis", run seed)."""
    return tagged("flock_ray/genesis/1", run_seed)


def digest_of_reveals(reveals: Mapping[int, bytes]) -> bytes:
    """keccak(tag, member, preimage, member, preimage ...) by ascending member."""
    return keccak(
        tag("flock_ray/reveals/1") + b"".join(word(member) + word(reveals[member]) for member in sorted(reveals))
    )


def seed_after(seed: bytes, reveals_digest: bytes) -> bytes:
    """Seed of the epoch after one that was settled."""
    return tagged("flock_ray/seed/1", seed, reveals_digest)


def seed_after_skip(seed: bytes) -> bytes:
    """Seed of the epoch after one that was abandoned."""
    return tagged("flock_ray/skip/1", seed)


def leads_to(tip: bytes, preimage: bytes, epoch: int) -> bool:
    """Whether a reveal, hashed `epoch` times, is the tip that was posted with the stake."""
    value = preimage
    for _ in range(epoch):
        value = tagged("flock_ray/chain/1", value)
    return value == tip
