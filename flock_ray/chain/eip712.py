"""EIP-712 digests: what members sign, bound to the chain and the settlement contract.

Source: https://eips.ethereum.org/EIPS/eip-712. The types are fixed and every member is one word, so each hashStruct
is one concatenation; the tests compare with eth_account and with the contract.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property

from flock_ray.chain.epoch_report import Report, ReportedSlash
from flock_ray.protocol.hashing import keccak, tag, word
from flock_ray.protocol.price_book import PriceBook
from flock_ray.protocol.receipt import Cap, Receipt

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
CAP_TYPE = "Cap(address account,address gateway,bytes32 priceBook,uint128 cumulative,uint64 expiry)"
RECEIPT_TYPE = (
    "Receipt(address gateway,bytes32 request,address account,bytes32 model,bytes32 prompt,bytes32 output,"
    "uint64 promptTokens,uint64 outputTokens,bytes32 priceBook,uint128 cost)"
)
PRICE_BOOK_TYPE = "PriceBook(address gateway,bytes32 digest)"
USAGE_BATCH_TYPE = "UsageBatch(address gateway,bytes32 digest)"


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


def usage_domain(chain_id: int, contract: str) -> Domain:
    """The domain of what is signed about usage, whose leaves name the same contract: `UsageSettlement`."""
    return Domain(chain_id, contract, contract)


def cap_digest(domain: Domain, cap: Cap) -> bytes:
    """Digest that a user signs for a cap."""
    account, gateway = (int.from_bytes(address, "big") for address in (cap.account, cap.gateway))
    return domain.digest(_struct(CAP_TYPE, account, gateway, cap.price_book, cap.cumulative, cap.expiry))


def receipt_digest(domain: Domain, receipt: Receipt) -> bytes:
    """Digest that a receipt key signs for a receipt."""
    values = (getattr(receipt, item.name) for item in fields(receipt))  # in the order of the type
    words = (int.from_bytes(value, "big") if isinstance(value, bytes) else value for value in values)
    return domain.digest(_struct(RECEIPT_TYPE, *words))


def price_book_digest(domain: Domain, book: PriceBook) -> bytes:
    """Digest that a gateway signs for its price book."""
    return domain.digest(_struct(PRICE_BOOK_TYPE, int.from_bytes(book.gateway, "big"), book.hash))


def usage_batch_digest(domain: Domain, gateway: bytes, claims: bytes) -> bytes:
    """Digest that a gateway signs for what it claims of a batch; `claims` is the SHA-256 of its batch.json."""
    return domain.digest(_struct(USAGE_BATCH_TYPE, int.from_bytes(gateway, "big"), claims))
