"""EIP-712 digests: what members sign, bound to the chain and the settlement contract.

Source: https://eips.ethereum.org/EIPS/eip-712. The types are fixed and every member is one word, so each hashStruct
is one concatenation; the tests compare with eth_account and with the contract.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from flock_ray.chain.epoch_report import Report, ReportedSlash
from flock_ray.protocol.hashing import keccak, tag, word

NAME = "flock_ray"
VERSION = "1"
DOMAIN_TYPE = "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
MESSAGE_TYPE = "Message(bytes32 task,uint64 epoch,bytes32 seed,string kind,bytes32 digest)"
SLASH_TYPE = "Slash(uint32 member,uint128 amount)"
REPORT_TYPE = (
    "Report(bytes32 task,uint64 epoch,bytes32 previousReport,bytes32 seed,bytes32 revealsDigest,bytes32 rewardsRoot,"
    "uint128 rewardsTotal,Slash[] slashes,bytes32 modelHash,bytes32 recordHash,address relayer)" + SLASH_TYPE
)

CORRECTION_TYPE = "Correction(bytes32 report,bytes32 disabled,bytes32 rewardsRoot,uint128 rewardsTotal)"


def _struct(type_text: str, *members: bytes | int) -> bytes:
    """HashStruct of members that are one word each. A text's hash is its keccak, as a tag's is."""
    return keccak(tag(type_text) + b"".join(map(word, members)))


@dataclass(frozen=True)
class Domain:
    """Where a signature is valid.

    Attributes:
        chain_id: id of the chain.
        contract: address of `EpochSettlement`.
        distributor: address of `RewardDistributor`: no part of the EIP-712 domain, but of the reward leaves.
    """

    chain_id: int
    contract: str
    distributor: str

    @cached_property
    def separator(self) -> bytes:
        """The EIP-712 domain separator."""
        name, version = keccak(NAME.encode()), keccak(VERSION.encode())
        return _struct(DOMAIN_TYPE, name, version, self.chain_id, int(self.contract, 16))

    def digest(self, struct_hash: bytes) -> bytes:
        """The 32 bytes to sign for a struct."""
        return keccak(b"\x19\x01" + self.separator + struct_hash)


def message_digest(domain: Domain, task: bytes, epoch: int, seed: bytes, kind: str, digest: bytes) -> bytes:
    """Digest that a member signs for a message of the protocol.

    Args:
        domain: chain and contract.
        task: id of the task.
        epoch: the epoch that the message belongs to.
        seed: of that epoch; after an abandoned epoch the same number may run again under another seed.
        kind: the kind of message, such as `ballot_a`.
        digest: hash of the message's canonical bytes.
    """
    return domain.digest(_struct(MESSAGE_TYPE, task, epoch, seed, tag(kind), digest))


def report_hash(report: Report) -> bytes:
    """HashStruct of a report, without the domain: the link of the contract's chain of reports."""

    def slash_hash(slash: ReportedSlash) -> bytes:
        return _struct(SLASH_TYPE, slash.member, slash.amount)

    return _struct(
        REPORT_TYPE,
        report.task,
        report.epoch,
        report.previous_report,
        report.seed,
        report.reveals_digest,
        report.rewards_root,
        report.rewards_total,
        keccak(b"".join(map(slash_hash, report.slashes))),
        report.model_hash,
        report.record_hash,
        int(report.relayer, 16),
    )


def report_digest(domain: Domain, report: Report) -> bytes:
    """Digest that a voter signs for a report."""
    return domain.digest(report_hash(report))


def correction_digest(domain: Domain, report: bytes, disabled: bytes, root: bytes, total: int) -> bytes:
    """Digest that a voter signs for a correction.

    Args:
        domain: chain and contract.
        report: struct hash of the report that was settled last.
        disabled: root that the guardian disabled.
        root: the one that takes its place.
        total: sum of the rewards under it, wei.
    """
    return domain.digest(_struct(CORRECTION_TYPE, report, disabled, root, total))
