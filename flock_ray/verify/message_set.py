"""The signed messages of one epoch: who signed what, and which messages count."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from flock_ray.chain.keys import recover
from flock_ray.errors import VerificationError
from flock_ray.protocol.ballot import BallotA, BallotB, ballot_commitment, read_ballot_a, read_ballot_b
from flock_ray.protocol.message import (
    Kind,
    Manifest,
    Message,
    SignedMessage,
    read_acknowledgement,
    read_commitment,
    read_manifest,
)
from flock_ray.protocol.state import TaskState
from flock_ray.verify.draw import Seats, leads_to
from flock_ray.verify.report import SigningDomain

_COMMITMENTS = {Kind.BALLOT_A: Kind.BALLOT_A_COMMITMENT, Kind.BALLOT_B: Kind.BALLOT_B_COMMITMENT}


def open_message(
    signed: SignedMessage, state: TaskState, domain: SigningDomain, parsed: Message | None = None
) -> Message:
    """The message that a member signed for the epoch that `state` starts.

    Args:
        signed: bytes and signature.
        state: before the epoch.
        domain: where signatures are valid.
        parsed: the result of `Message.parse(signed.data)`, if the caller has it already.

    Raises:
        VerificationError: the bytes do not parse, are of another task or epoch, or are not signed by their member.
    """
    assert parsed is None or parsed.data == signed.data
    try:
        message = parsed or Message.parse(signed.data)
        _body(message)
    except ValueError as error:
        raise VerificationError(f"no message of the schema: {error}") from None
    if message.task != state.scope.task or message.epoch != state.epoch:
        raise VerificationError(f"a {message.kind} of epoch {message.epoch} of task 0x{message.task.hex()}")
    if message.member >= len(state.members):
        raise VerificationError(f"a {message.kind} of member {message.member}, whom the task does not have")
    digest = domain.message_digest(message.task, message.epoch, state.seed, message.kind, message.digest)
    if recover(digest, signed.signature) != state.members[message.member].account:
        raise VerificationError(f"member {message.member} did not sign this {message.kind}")
    return message


def _body(message: Message) -> object:
    if message.kind is Kind.ACKNOWLEDGEMENT:
        return read_acknowledgement(message)
    if message.kind is Kind.MANIFEST:
        return read_manifest(message)
    if message.kind is Kind.BALLOT_A:
        return read_ballot_a(message)
    if message.kind is Kind.BALLOT_B:
        return read_ballot_b(message)
    return read_commitment(message)


@dataclass(frozen=True)
class MessageSet:
    """The messages of an epoch, by sender.

    Attributes:
        by_sender: messages by (kind, member), each list by ascending digest.
    """

    by_sender: dict[tuple[Kind, int], list[Message]]

    @classmethod
    def sort(cls, messages: Iterable[Message]) -> MessageSet:
        """Sort opened messages; duplicates of the same bytes are one message."""
        by_sender: dict[tuple[Kind, int], dict[bytes, Message]] = {}
        for message in messages:
            by_sender.setdefault((message.kind, message.member), {})[message.digest] = message
        order = list(Kind)
        keys = sorted(by_sender, key=lambda key: (order.index(key[0]), key[1]))
        return cls({key: [by_sender[key][digest] for digest in sorted(by_sender[key])] for key in keys})

    @property
    def named(self) -> list[tuple[str, int, bytes]]:
        """(kind, member, digest) in the record's order; of an equivocator's messages of one kind the first two."""
        return [
            (str(kind), member, message.digest)
            for (kind, member), messages in self.by_sender.items()
            for message in messages[:2]
        ]

    @property
    def equivocators(self) -> list[int]:
        """Members with two messages of one kind, ascending."""
        return sorted({member for (_, member), messages in self.by_sender.items() if len(messages) > 1})

    def single(self, kind: Kind, member: int) -> Message | None:
        """The member's message of a kind, None if it sent none or several."""
        messages = self.by_sender.get((kind, member), [])
        return messages[0] if len(messages) == 1 else None

    def manifests(self, state: TaskState, seats: Seats) -> dict[int, Manifest]:
        """{proposer: manifest} of those that open a commitment listed by q seats and fit the task and its adapter."""
        lists = {
            voter: set(read_acknowledgement(message))
            for voter in set(seats.voters)
            if (message := self.single(Kind.ACKNOWLEDGEMENT, voter))
        }
        manifests = {}
        for member in sorted(set(seats.proposers)):
            committed, message = self.single(Kind.COMMITMENT, member), self.single(Kind.MANIFEST, member)
            if committed is None or message is None:
                continue
            listing = {voter for voter, listed in lists.items() if committed.digest in listed}
            manifest = read_manifest(message)
            if (
                seats.held_by(listing) >= seats.quorum
                and read_commitment(committed)
                == state.scope.payload_commitment(state.epoch, member, manifest.payload, manifest.salt)
                and manifest.base_model == state.terms.base_model
                and manifest.configuration == state.terms.configuration
                and manifest.global_adapter == state.adapter
            ):
                manifests[member] = manifest
        return manifests

    def ballots_a(self, state: TaskState, seats: Seats) -> dict[int, BallotA]:
        """{voter: ballot A} of the ballots that open their commitment."""
        ballots = {}
        for voter in sorted(set(seats.voters)):
            if message := self.single(Kind.BALLOT_A, voter):
                ballot, salt = read_ballot_a(message)
                if self._committed(state, message, ballot, salt):
                    ballots[voter] = ballot
        return ballots

    def ballots_b(self, state: TaskState, seats: Seats) -> dict[int, BallotB]:
        """{voter: ballot B} of the ballots that open their commitment and reveal the epoch's preimage."""
        ballots = {}
        for voter in sorted(set(seats.voters)):
            if message := self.single(Kind.BALLOT_B, voter):
                ballot, salt = read_ballot_b(message)
                tip = state.members[voter].chain_tip
                if self._committed(state, message, ballot, salt) and leads_to(tip, ballot.reveal, state.epoch):
                    ballots[voter] = ballot
        return ballots

    def _committed(self, state: TaskState, message: Message, ballot: BallotA | BallotB, salt: bytes) -> bool:
        commitment = self.single(_COMMITMENTS[message.kind], message.member)
        opened = ballot_commitment(state.scope.task, state.epoch, message.member, message.kind, ballot, salt)
        return commitment is not None and read_commitment(commitment) == opened
