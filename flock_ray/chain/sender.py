"""Sends calls of one account: prices them, refuses what the contracts would refuse, waits until they are mined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from flock_ray.chain.abi import decode_revert
from flock_ray.chain.calls import Call
from flock_ray.chain.fee_bumper import FeeBumper, fees_up_to
from flock_ray.chain.keys import Signer
from flock_ray.chain.node import ChainNode, Reverted
from flock_ray.chain.refusals import refusal
from flock_ray.chain.rollup import data_fee
from flock_ray.chain.transactions import sign
from flock_ray.chain.values import MAX_FEE, TxReceipt
from flock_ray.chain.words import format_tokens
from flock_ray.errors import ChainError, FundsError
from flock_ray.protocol.hashing import keccak

_LOOKS = 5  # in which a nonce is used and no receipt is there, before somebody else is taken to have used it
_MARGIN = 4  # a gas limit is the estimated gas plus a quarter: the state may change until it is mined


@dataclass(frozen=True)
class Bill:
    """A call and what it costs at most.

    Attributes:
        call: the call.
        gas: limit.
        fees: (max_fee, tip), wei a gas.
        data_fee: of a rollup, wei.
    """

    call: Call
    gas: int
    fees: tuple[int, int]
    data_fee: int

    @property
    def most(self) -> int:
        """What the account pays at most, wei of the chain's coin."""
        return self.gas * self.fees[0] + self.data_fee


class Sender:
    """Sends calls of one account to one chain."""

    def __init__(self, node: ChainNode, signer: Signer, timeout: float, max_fee: int = MAX_FEE) -> None:
        """Send through `node`.

        Args:
            node: the chain.
            signer: the account.
            timeout: seconds until a transaction must be mined.
            max_fee: most to pay, wei a gas.
        """
        self._node, self._signer, self._timeout, self._max_fee = node, signer, timeout, max_fee

    def price(self, calls: Sequence[Call]) -> list[Bill]:
        """What calls that are sent in a row cost, if the contracts take them all; sends nothing.

        Raises:
            ChainError: a contract would refuse one, or FundsError: the account cannot pay for all.
        """
        fees = fees_up_to(self._node, self._max_fee)
        nonce, sender = self._node.nonce(self._signer.address), self._signer.address
        bills = []
        for number, call in enumerate(calls):
            approved = any(earlier.function == "approve" for earlier in calls[:number])
            gas = self._gas(call, approved)
            raw = sign(self._signer, self._node.chain_id, nonce + number, fees, gas, call.to, call.data)
            bills.append(Bill(call, gas, fees, data_fee(self._node, raw, sender)))
        has, needs = self._node.balance(sender), sum(bill.most for bill in bills)
        if has < needs:
            raise FundsError(f"{sender} has {format_tokens(has)} ether for gas, needs {format_tokens(needs)}")
        return bills

    def _gas(self, call: Call, approved: bool) -> int:
        """Gas limit of a call; `approved`: what it lacks now may be the approval that is sent before it."""
        try:
            gas = self._node.estimate_gas(call.to, call.data, self._signer.address)
        except Reverted as reverted:
            # The contracts take tokens last: lacking nothing but the approval, the call passed all other checks.
            if approved and call.gas and decode_revert(reverted.data)[0] == "ERC20InsufficientAllowance":
                return call.gas
            raise refusal(call.name, reverted.data) from None
        return gas + gas // _MARGIN

    def send_in_turn(self, bills: Sequence[Bill]) -> list[TxReceipt]:
        """Send calls one by one, each tried again at the state that the ones before it left.

        Raises:
            ChainError: see `send`; or a contract refuses one now. The text says how many were sent before.
        """
        receipts: list[TxReceipt] = []
        for number, bill in enumerate(bills):
            try:
                receipts.append(self.send(self.price([bill.call])[0] if number else bill))
            except ChainError as error:
                if not number:
                    raise
                raise type(error)(f"{error}; {number} of {len(bills)} transactions were sent before") from None
        return receipts

    def send(self, bill: Bill) -> TxReceipt:
        """Send a call, paying more while it is passed over, until it is mined.

        Raises:
            ChainError: it reverted, was refused or is not mined in time.
        """
        node, signer, call = self._node, self._signer, bill.call
        nonce = node.nonce(signer.address)
        raws = [sign(signer, node.chain_id, nonce, bill.fees, bill.gas, call.to, call.data)]
        hashes = [keccak(raws[0])]
        bumper = FeeBumper(node, signer, self._max_fee)
        looks = count(1)

        def push() -> None:
            if node.mined_nonce(signer.address) > nonce:  # its receipt may come a moment after that
                if not any(map(node.receipt, hashes)) and next(looks) >= _LOOKS:
                    raise ChainError(f"another transaction of {signer.address} was mined in place of {call.name}")
                return
            raw = bumper.next(raws)
            if raw is None:
                return
            if raw not in raws:
                raws.append(raw)
                hashes.append(keccak(raw))
            bumper.send(raw, 0)

        bumper.send(raws[0], 0)
        return node.wait(hashes, self._timeout, push)
