"""What the committee signs and the contract accepts: reward leaves, their root, the report, EIP-712 digests."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from flock_ray.protocol.hashing import ZERO, keccak, tag, word

_DOMAIN = "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
_MESSAGE = "Message(bytes32 task,uint64 epoch,bytes32 seed,string kind,bytes32 digest)"
_SLASH = "Slash(uint32 member,uint128 amount)"
_REPORT = (
    "Report(bytes32 task,uint64 epoch,bytes32 previousReport,bytes32 seed,bytes32 revealsDigest,bytes32 rewardsRoot,"
    "uint128 rewardsTotal,Slash[] slashes,bytes32 modelHash,bytes32 recordHash,address relayer)" + _SLASH
)


@dataclass(frozen=True)
class SigningDomain:
    """The chain and the contracts that signatures and claims are bound to.

    Attributes:
        chain_id: 0 without a chain.
        settlement: address of the settlement contract, 20 bytes; signatures are bound to it.
        distributor: address of the contract that pays claims, 20 bytes; the reward leaves name it.
    """

    chain_id: int
    settlement: bytes
    distributor: bytes

    @cached_property
    def _separator(self) -> bytes:
        domain = (tag(_DOMAIN), keccak(b"flock_ray"), keccak(b"1"), word(self.chain_id), _address(self.settlement))
        return keccak(b"".join(domain))

    def digest(self, struct: bytes) -> bytes:
        """EIP-712: 0x1901, domain separator, struct hash."""
        return keccak(b"\x19\x01" + self._separator + struct)

    def message_digest(self, task: bytes, epoch: int, seed: bytes, kind: str, digest: bytes) -> bytes:
        """Digest that a member signs for a message, in the epoch of this number and seed."""
        return self.digest(keccak(tag(_MESSAGE) + task + word(epoch) + seed + tag(kind) + digest))

    def report_digest(self, report: Report) -> bytes:
        """Digest that a voter signs for a report."""
        return self.digest(report.hash)

    def leaf(self, task: bytes, account: str, wei: int) -> bytes:
        """Leaf for an account's earnings so far, wei: hashed twice, so that no inner node passes for a leaf."""
        words = (word(self.chain_id), _address(self.distributor), task, _address(bytes.fromhex(account[2:])), word(wei))
        return keccak(keccak(b"".join(words)))


@dataclass(frozen=True)
class Report:
    """The report of one epoch, fields as in the contract's struct; slashes are (member, wei)."""

    task: bytes
    epoch: int
    previous_report: bytes
    seed: bytes
    reveals_digest: bytes
    rewards_root: bytes
    rewards_total: int
    slashes: tuple[tuple[int, int], ...]
    model_hash: bytes
    record_hash: bytes
    relayer: bytes

    @property
    def hash(self) -> bytes:
        """EIP-712 struct hash, the report's name in the chain of reports."""
        slashes = b"".join(keccak(tag(_SLASH) + word(member) + word(wei)) for member, wei in self.slashes)
        return keccak(
            tag(_REPORT) + self.task + word(self.epoch) + self.previous_report + self.seed + self.reveals_digest
            + self.rewards_root + word(self.rewards_total) + keccak(slashes) + self.model_hash + self.record_hash
            + _address(self.relayer)
        )  # fmt: skip


def merkle_root(leaves: Iterable[bytes]) -> bytes:
    """Root over leaf hashes as in OpenZeppelin's StandardMerkleTree; zero without leaves.

    The tree is an array with the sorted leaves at its end, in reverse; node i is the parent of nodes 2i + 1 and 2i + 2.
    A pair is hashed with the smaller hash first.
    """
    tree = sorted(leaves, reverse=True)
    if not tree:
        return ZERO
    tree[:0] = [b""] * (len(tree) - 1)
    for i in reversed(range(len(tree) // 2)):
        tree[i] = keccak(b"".join(sorted(tree[2 * i + 1 : 2 * i + 3])))
    return tree[0]


def _address(value: bytes) -> bytes:
    return value.rjust(32, b"\0")
