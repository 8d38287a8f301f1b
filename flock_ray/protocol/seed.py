"""The randomness of an epoch: seeds, the voters' hash chains, and whatever else derives from a seed.

seed(e+1) = H(seed(e), digest of the reveals of epoch e). Each voter reveals the next preimage of a hash chain whose
tip it posted when it staked, so nobody can choose a reveal late; a last revealer may only withhold it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flock_ray.protocol.hashing import keccak, tag, tagged, word


def fixed_genesis(run_seed: int) -> bytes:
    """Seed of epoch 1 on an embedded chain, H("genesis", run seed)."""
    return tagged("flock_ray/genesis/1", run_seed)


def next_seed(seed: bytes, reveals_digest: bytes) -> bytes:
    """Seed of the epoch after one that was settled."""
    return tagged("flock_ray/seed/1", seed, reveals_digest)


def skip_seed(seed: bytes) -> bytes:
    """Seed of the epoch after one that was abandoned."""
    return tagged("flock_ray/skip/1", seed)


def reveals_digest(reveals: Mapping[int, bytes]) -> bytes:
    """Digest of {member: preimage} in the order of member numbers."""
    pairs = b"".join(word(member) + word(reveals[member]) for member in sorted(reveals))
    return keccak(tag("flock_ray/reveals/1") + pairs)


def chain_link(value: bytes) -> bytes:
    """One step of a hash chain towards its tip."""
    return tagged("flock_ray/chain/1", value)


@dataclass(frozen=True)
class HashChain:
    """A member's reveals: h(0) from its secret, h(i+1) = H(h(i)), tip = h(length).

    Attributes:
        root: h(0), 32 bytes, secret.
        length: number of epochs that it can reveal for.
    """

    root: bytes
    length: int

    def preimage(self, epoch: int) -> bytes:
        """The value to reveal in `epoch` (1-based): h(length - epoch), 32 bytes.

        Raises:
            ValueError: the chain does not reach that epoch.
        """
        if not 0 <= epoch <= self.length:
            raise ValueError(f"the hash chain covers epochs 1 to {self.length}, not {epoch}")
        value = self.root
        for _ in range(self.length - epoch):
            value = chain_link(value)
        return value

    @property
    def tip(self) -> bytes:
        """h(length), which the member posts when it stakes."""
        return self.preimage(0)


def reveal_matches(tip: bytes, epoch: int, preimage: bytes) -> bool:
    """Whether `preimage`, hashed `epoch` times, is the posted tip."""
    value = preimage
    for _ in range(epoch):
        value = chain_link(value)
    return value == tip


def local_seed(run_seed: int, purpose: str, *numbers: int) -> int:
    """A 63-bit seed for a local random stream (batches, adapter init), from the run seed and plain numbers.

    It uses no address, chain id or time, so the trained adapter depends on none of them.
    """
    return int.from_bytes(tagged("flock_ray/local/1", tag(purpose), run_seed, *numbers)[:8], "big") >> 1
