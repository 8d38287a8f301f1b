"""What `UsageSettlement` says of deposits, stakes and batches, at the latest block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eth_utils.address import to_checksum_address

from flock_ray.chain.abi import contract
from flock_ray.chain.failures import revert_error
from flock_ray.chain.node import ChainNode, Reverted
from flock_ray.chain.usage import UsageSettings
from flock_ray.errors import ChainError


@dataclass(frozen=True)
class UsageBalance:
    """A deposit or a stake, wei.

    Attributes:
        amount: all of it.
        requested: part that its owner asked for.
        ready_at: time from which that part may be taken out; 0: nothing was asked for.
    """

    amount: int
    requested: int
    ready_at: int

    @property
    def standing(self) -> int:
        """What nobody asked for: all that a gateway should lend on, and all that lets it settle."""
        return max(self.amount - self.requested, 0)


@dataclass(frozen=True)
class SettledBatch:
    """A batch on chain: roots of charges and payouts, sum of the leaves of either in wei, and Unix time."""

    charges: bytes
    payouts: bytes
    total: int
    settled_at: int


@dataclass(frozen=True)
class SeriesBooks:
    """Money of a series, wei; the numbers of its last batch, and of the newest one that was collected from."""

    collected: int
    paid: int
    last: int
    newest: int


class UsageReader:
    """One `UsageSettlement`."""

    def __init__(self, node: ChainNode, at: str, caller: str) -> None:
        """Read through `node`.

        Args:
            node: the chain.
            at: address of the contract.
            caller: account that asks.

        Raises:
            ChainError: there is no such contract, or one with other code.
        """
        self._node, self._caller = node, caller
        try:
            self.at = to_checksum_address(at)
        except ValueError:
            raise ChainError(f"{at} is no address of a UsageSettlement") from None
        if not contract("UsageSettlement").runs_as(node.code(self.at)):
            raise ChainError(f"the contract at {self.at}, if there is one, is not this package's UsageSettlement")
        self.token: str = to_checksum_address(self._ask("token"))

    def time(self) -> int:
        """Time of the latest block."""
        return self._node.timestamp()

    def settings(self) -> UsageSettings:
        """What was fixed at deployment."""
        sink, guardian = (to_checksum_address(self._ask(name)) for name in ("sink", "guardian"))
        names = ("minStake", "activationDelay", "responseWindow", "withdrawalDelay")
        return UsageSettings(sink, guardian, *map(self._ask, names))

    def deposit(self, gateway: str, account: str) -> UsageBalance:
        """An account's deposit for a gateway."""
        return UsageBalance(*self._ask("depositOf", gateway, account))

    def deposits(self, gateway: str, accounts: Sequence[str]) -> list[UsageBalance]:
        """Deposits of many accounts for a gateway."""
        return [UsageBalance(*balance) for balance in self._ask_many("depositOf", [(gateway, one) for one in accounts])]

    def stake(self, gateway: str) -> UsageBalance:
        """A gateway's stake."""
        return UsageBalance(*self._ask("stakeOf", gateway))

    def receipt_key_until(self, gateway: str, key: str) -> int:
        """Time until which receipts of a key count against a gateway; 0: never."""
        return int(self._ask("receiptKeyUntil", gateway, key))

    def books(self, series: bytes) -> SeriesBooks:
        """Money and last batch of a series."""
        return SeriesBooks(*self._ask("booksOf", series))

    def batch(self, series: bytes, number: int) -> SettledBatch:
        """A batch of a series; ChainError if there is none with this number."""
        return SettledBatch(*self._ask("batchOf", series, number))

    def collected(self, series: bytes, account: str) -> int:
        """What was taken from an account's deposit for a series, wei."""
        return int(self._ask("collectedFrom", series, account))

    def all_collected(self, charged: Sequence[tuple[bytes, str]]) -> list[int]:
        """What was taken from the deposit of each of many accounts for a series, wei."""
        return [int(units) for units in self._ask_many("collectedFrom", charged)]

    def claimed(self, series: bytes, account: str) -> int:
        """What was paid to an account out of a series, wei."""
        return int(self._ask("claimed", series, account))

    def answer_due(self, series: bytes, account: str, cumulative: int) -> int:
        """Time until which a challenged charge may be collected; 0 if it was not challenged, or the case is over."""
        _, deadline, over = self._ask("challengeOf", series, account, cumulative)
        return 0 if over else int(deadline)

    def _ask_many(self, function: str, arguments: Sequence[tuple[object, ...]]) -> list[Any]:
        compiled = contract("UsageSettlement")
        calls = [(self.at, compiled.encode(function, *args)) for args in arguments]
        try:
            return [compiled.decode(function, answer)[0] for answer in self._node.call_many(calls, self._caller)]
        except Reverted as reverted:
            raise revert_error(f"UsageSettlement.{function} at {self.at}", reverted.data) from None
        except ValueError as error:
            raise ChainError(f"{self.at} is no UsageSettlement: {error}") from None

    def _ask(self, function: str, *args: object) -> Any:
        compiled = contract("UsageSettlement")
        try:
            answer = self._node.call(self.at, compiled.encode(function, *args), self._caller)
            return compiled.decode(function, answer)[0]
        except Reverted as reverted:
            raise revert_error(f"UsageSettlement.{function} at {self.at}", reverted.data) from None
        except ValueError as error:
            raise ChainError(f"{self.at} is no UsageSettlement: {error}") from None
