"""What signatures prove to the settlement contract besides a settlement: a voter's presence, an equivocation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from eth_utils.address import to_checksum_address

from flock_ray.chain.abi import contract
from flock_ray.chain.eip712 import Domain, message_digest
from flock_ray.chain.fee_bumper import fees_up_to
from flock_ray.chain.keys import Signer, compact, recover
from flock_ray.chain.node import ChainNode, Reverted, revert_error
from flock_ray.chain.transactions import sign
from flock_ray.chain.values import MAX_FEE, TxReceipt
from flock_ray.errors import ChainError, ConfigError
from flock_ray.protocol.message import Message, SignedMessage

_ANSWER_GAS = 60_000  # measured: 38,000
_ACCUSE_GAS = 300_000  # measured: 154,000, for a member without delegators


@dataclass(frozen=True)
class Challenge:
    """A voter seat that was challenged to show its signature.

    Attributes:
        epoch: of the report.
        seat: number of the seat.
        owner: account that holds it.
        deadline: last Unix second for an answer, in chain time.
        report: struct hash of the report (32 bytes).
    """

    epoch: int
    seat: int
    owner: str
    deadline: int
    report: bytes


class Evidence:
    """Submits evidence about one task to the settlement contract; one account pays the gas."""

    def __init__(self, node: ChainNode, signer: Signer, domain: Domain, task: bytes, timeout: float) -> None:
        """Submit evidence through `node`.

        Args:
            node: the chain.
            signer: the sender, any account; it gets the accuser's part of a slash.
            domain: chain and settlement contract that the signatures are bound to.
            task: id.
            timeout: seconds to wait for a receipt.
        """
        self._node, self._signer, self._domain, self._task, self._timeout = node, signer, domain, task, timeout

    def challenges(self, epoch: int) -> list[Challenge]:
        """Challenges of an epoch's seats that can still be answered, by seat."""
        _, _, (*_, num_voters, _, _, _) = self._read("headOf", self._task)
        now = self._node.timestamp()
        challenges = []
        for seat in range(num_voters):
            owner, deadline, over, _, _, report = self._read("challengeOf", self._task, epoch, seat)
            if not over and now <= deadline:
                challenges.append(Challenge(epoch, seat, to_checksum_address(owner), deadline, report))
        return challenges

    def answer(self, challenge: Challenge, signatures: Iterable[bytes]) -> TxReceipt | None:
        """Show the seat's signature if it is among `signatures` of 65 bytes; None if it is not.

        Raises:
            ChainError: the contract refuses it, or the transaction is not mined in time.
        """
        digest = self._domain.digest(challenge.report)
        for signature in signatures:
            if recover(digest, signature) == challenge.owner:
                where = self._task, challenge.epoch, challenge.seat
                return self._send("answerChallenge", _ANSWER_GAS, *where, compact(signature))
        return None

    def accuse(self, account: str, seed: bytes, first: SignedMessage, second: SignedMessage) -> TxReceipt:
        """Have a member slashed for two different messages of one kind in one epoch.

        Args:
            account: of the member.
            seed: of the epoch that both were signed in.
            first: one message.
            second: the other.

        Raises:
            ConfigError: the messages prove no equivocation.
            ChainError: the contract refuses them (the offence was punished before), or the transaction is not mined in
                time.
        """
        earlier, later = _parse(first), _parse(second)
        kind, epoch, task = earlier.kind, earlier.epoch, earlier.task
        if (kind, epoch, task) != (later.kind, later.epoch, later.task) or task != self._task:
            raise ConfigError("the two messages are not of one kind, epoch and task")
        if earlier.digest == later.digest:
            raise ConfigError("the two messages are the same: no contradiction")
        for message, signature in ((earlier, first.signature), (later, second.signature)):
            digest = message_digest(self._domain, self._task, message.epoch, seed, str(message.kind), message.digest)
            if recover(digest, signature) != account:
                raise ConfigError(f"a message is not signed by {account} under the seed of epoch {message.epoch}")
        both = compact(first.signature) + compact(second.signature)
        case = self._task, account, epoch, seed, str(kind), earlier.digest, later.digest
        return self._send("slashEquivocation", _ACCUSE_GAS, *case, both)

    def _read(self, function: str, *args: Any) -> Any:
        compiled, at = contract("EpochSettlement"), self._domain.contract
        try:
            (answer,) = compiled.decode(
                function, self._node.call(at, compiled.encode(function, *args), self._signer.address)
            )
        except (Reverted, ValueError):
            raise ChainError(f"the contract at {at} does not answer as an EpochSettlement") from None
        return answer

    def _send(self, function: str, gas: int, *args: Any) -> TxReceipt:
        """Send a call, after a dry run on the latest block so that a refused call costs nothing."""
        data, at = contract("EpochSettlement").encode(function, *args), self._domain.contract
        try:
            self._node.call(at, data, self._signer.address)
        except Reverted as reverted:
            raise revert_error(f"EpochSettlement.{function}", reverted.data) from None
        node, sender = self._node, self._signer.address
        raw = sign(self._signer, node.chain_id, node.nonce(sender), fees_up_to(node, MAX_FEE), gas, at, data)
        return node.wait([node.send(raw, 0)], self._timeout)


def _parse(signed: SignedMessage) -> Message:
    try:
        return Message.parse(signed.data)
    except ValueError as error:
        raise ConfigError(f"a message that does not parse proves nothing: {error}") from None
