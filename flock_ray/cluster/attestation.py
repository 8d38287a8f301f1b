"""Checking what others signed, and turning a record into the report that the contract takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from flock_ray.chain.eip712 import Domain, message_digest, report_digest
from flock_ray.chain.epoch_report import Report, ReportedSlash
from flock_ray.chain.keys import compact, recover
from flock_ray.chain.merkle import MerkleTree, reward_leaf
from flock_ray.protocol.contest_message import ContestInbox, ContestMessage
from flock_ray.protocol.contest_record import ContestRecord
from flock_ray.protocol.inbox import Inbox, parse_message
from flock_ray.protocol.message import Message, SignedMessage
from flock_ray.protocol.record import Record
from flock_ray.protocol.state import TaskState

Bulletin = tuple[SignedMessage, ...]
"""The signed messages of an epoch so far, in canonical order."""


AnyMessage = Message | ContestMessage
AnyRecord = Record | ContestRecord

Recover = Callable[[bytes, bytes], str | None]
"""(digest, signature) -> account that signed; None if nobody did."""

M = TypeVar("M", bound=AnyMessage)
Collected = TypeVar("Collected")


class Verifier(Generic[M, Collected]):
    """Opens signed messages against a task's state; a signature once checked is not checked again."""

    def __init__(
        self,
        domain: Domain,
        parse: Callable[[bytes], M],
        collect: Callable[[list[M]], Collected],
        recover: Recover = recover,
    ) -> None:
        """Check signatures.

        Args:
            domain: that they are made in.
            parse: reads a message; raises ValueError.
            collect: makes an inbox of the messages of an epoch.
            recover: says who signed.
        """
        self._domain, self._parse, self._collect, self._recover = domain, parse, collect, recover
        self._opened: dict[SignedMessage, M] = {}
        self._inbox: tuple[list[M], Collected] | None = None

    def open(self, signed: SignedMessage, state: TaskState) -> M:
        """The message, if its sender is a member that signed it for this epoch.

        Raises:
            ValueError: malformed, of another task or epoch, or not signed by the member it names.
        """
        message = self._opened.get(signed) or self._parse(signed.data)
        if not state.concerns(message):
            raise ValueError("a message of another task or epoch, or of nobody")
        if signed not in self._opened:
            digest = message_digest(self._domain, message.task, message.epoch, state.seed, message.kind, message.digest)
            if self._recover(digest, signed.signature) != state.members[message.member].account:
                raise ValueError(f"member {message.member} did not sign this {message.kind}")
            self._opened[signed] = message
        return message

    def remember(self, signed: SignedMessage) -> None:
        """Have a message that was signed in this process count as opened, read as everybody else reads it.

        Raises:
            ValueError: nobody would take it, such as one that is too long.
        """
        self._opened[signed] = self._parse(signed.data)

    def parsed(self, signed: SignedMessage) -> M | None:
        """What the bytes of a message that was opened or remembered parse to."""
        return self._opened.get(signed)

    def inbox(self, bulletin: Iterable[SignedMessage], state: TaskState) -> Collected:
        """The epoch's messages among `bulletin`; what does not open is left out.

        The same messages give the same inbox, so that what follows from it is computed once.
        """
        messages = []
        for signed in bulletin:
            try:
                messages.append(self.open(signed, state))
            except ValueError:
                continue
        if self._inbox is None or self._inbox[0] != messages:
            self._inbox = messages, self._collect(messages)
        return self._inbox[1]

    def valid_signatures(self, report: Report, signatures: dict[int, bytes], state: TaskState) -> dict[int, bytes]:
        """The signatures of `report` by the epoch's voters."""
        return valid_signatures(report, signatures, state, self._domain, self._recover)

    def forget(self) -> None:
        """Drop what was checked in the epoch that ended."""
        self._opened.clear()
        self._inbox = None
        recover.cache_clear()  # of the whole process: nobody asks about these signatures again


class MessageVerifier(Verifier[Message, Inbox]):
    """Of an alliance's messages."""

    def __init__(self, domain: Domain, recover: Recover = recover) -> None:
        super().__init__(domain, parse_message, Inbox, recover)


class ContestVerifier(Verifier[ContestMessage, ContestInbox]):
    """Of a contest's messages."""

    def __init__(self, domain: Domain) -> None:
        super().__init__(domain, ContestMessage.parse, ContestInbox)


def report_of(record: AnyRecord, domain: Domain, relayer: str) -> Report:
    """The report that carries a record to the contract.

    Args:
        record: of the epoch.
        domain: chain and contract that the reward leaves are bound to.
        relayer: address that gets the relayer's share of the slashes.
    """
    tree = MerkleTree(reward_leaf(domain, record.task, account, wei) for account, wei in record.leaves)
    return Report(
        task=record.task,
        epoch=record.epoch,
        previous_report=record.previous_report,
        seed=record.seed,
        reveals_digest=record.reveals_digest,
        rewards_root=tree.root,
        rewards_total=record.rewards_total,
        slashes=tuple(ReportedSlash(slash.member, slash.amount) for slash in record.slashes),
        model_hash=record.adapter,
        record_hash=record.digest,
        relayer=relayer,
    )


@dataclass(frozen=True)
class Attestation:
    """A record and the signatures of its committee.

    Attributes:
        record: canonical bytes of the record.
        report: what the contract takes.
        signatures: {voter: 65-byte signature of the report}.
    """

    record: bytes
    report: Report
    signatures: dict[int, bytes]

    def seats(self, voters: tuple[int, ...]) -> int:
        """Bitmap of the voter seats whose holders signed."""
        return sum(1 << seat for seat, voter in enumerate(voters) if voter in self.signatures)

    def packed(self, voters: tuple[int, ...]) -> bytes:
        """The signatures seat by seat, EIP-2098, as the contract takes them."""
        return b"".join(compact(self.signatures[voter]) for voter in voters if voter in self.signatures)


@dataclass(frozen=True)
class Settlement:
    """How an epoch was settled: transaction hash and gas; both None without a chain."""

    epoch: int
    transaction: str | None
    gas_used: int | None


def valid_signatures(
    report: Report, signatures: dict[int, bytes], state: TaskState, domain: Domain, recover: Recover = recover
) -> dict[int, bytes]:
    """The signatures of `report` by the epoch's voters."""
    digest = report_digest(domain, report)
    return {
        voter: signature
        for voter, signature in sorted(signatures.items())
        if voter in state.roles.voter_seats and recover(digest, signature) == state.members[voter].account
    }


def has_quorum(signatures: dict[int, bytes], state: TaskState) -> bool:
    """Whether the signers hold at least q seats."""
    return sum(state.roles.voter_seats[voter] for voter in signatures) >= state.roles.quorum
