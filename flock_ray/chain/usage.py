"""What `UsageSettlement` is told: its settings, a batch with its two trees, and caps with their signatures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property

from flock_ray.chain.calls import Call
from flock_ray.chain.eip712 import Domain
from flock_ray.chain.keys import Signer, checksummed, compact
from flock_ray.chain.merkle import MerkleTree, reward_leaf
from flock_ray.chain.transactions import call, created_at
from flock_ray.chain.values import TxContext
from flock_ray.protocol.receipt import Cap, Receipt
from flock_ray.protocol.usage import Amounts, Tables, series_of

MAX_COLLECTED = 100  # accounts that one transaction collects from
_DEPLOY_GAS = 4_400_000  # measured: 3,440,000


@dataclass(frozen=True)
class UsageSettings:
    """What an operator chooses, permanently; times in seconds.

    Attributes:
        sink: gets what nobody may gain by a slash; nobody should have its key.
        guardian: may void batches that are not active yet; the zero address: nobody.
        min_stake: least stake of a gateway that settles, wei.
        activation_delay: from a batch's settlement to its activation.
        response_window: in which a challenged charge may be collected.
        withdrawal_delay: of deposits and stakes; longer than the two above together.
    """

    sink: str
    guardian: str
    min_stake: int
    activation_delay: int
    response_window: int
    withdrawal_delay: int


def creation(token: str, settings: UsageSettings) -> Call:
    """The deployment of `UsageSettlement` for a token, beside whatever is deployed."""
    return Call("UsageSettlement", "", "", (token, astuple(settings)))


def deploy_usage(signer: Signer, ctx: TxContext, token: str, settings: UsageSettings) -> tuple[bytes, str]:
    """The transaction of `creation`, and the address that the contract will have."""
    return call(signer, ctx, "", creation(token, settings).data, _DEPLOY_GAS), created_at(signer.address, ctx.nonce)


def account_text(account: bytes) -> str:
    """The checksummed text of an account of 20 bytes."""
    return checksummed(account.hex())


class UsageTree:
    """The Merkle tree of a table of charges or payouts.

    Attributes:
        root: 32 bytes.
    """

    def __init__(self, domain: Domain, series: bytes, amounts: Amounts) -> None:
        """Make the tree.

        Args:
            domain: chain and contract (`usage_domain`).
            series: of the batch.
            amounts: {account: all that it was ever charged, or is to get}.
        """
        self._leaves = {
            account: reward_leaf(domain, series, account_text(account), units) for account, units in amounts.items()
        }
        self._tree = MerkleTree(self._leaves.values())
        self.root = self._tree.root

    def proof(self, account: bytes) -> list[bytes]:
        """Proof of an account's leaf; KeyError if it has none."""
        return self._tree.proof(self._leaves[account])

    def multiproof(self, accounts: Iterable[bytes]) -> tuple[list[bytes], list[bytes], list[bool]]:
        """(accounts, proof, flags): the accounts in the order that the proof of their leaves needs."""
        by_leaf = {self._leaves[account]: account for account in accounts}
        leaves, proof, flags = self._tree.multiproof(by_leaf)
        return [by_leaf[leaf] for leaf in leaves], proof, flags


@dataclass(frozen=True)
class SignedCap:
    """A cap and the account's signature of it, 65 bytes."""

    cap: Cap
    signature: bytes


@dataclass(frozen=True)
class SignedReceipt:
    """A receipt, the account of the receipt key, and its signature of 65 bytes."""

    receipt: Receipt
    key: bytes
    signature: bytes


@dataclass(frozen=True)
class UsageBatch:
    """A batch as a gateway settles it.

    Attributes:
        domain: chain and contract (`usage_domain`).
        gateway: account, 20 bytes.
        price_book: hash of the price book.
        number: in its series, from 1.
        tables: all charges and payouts of the series, this batch included.
    """

    domain: Domain
    gateway: bytes
    price_book: bytes
    number: int
    tables: Tables

    @property
    def series(self) -> bytes:
        """Name of the batches of this gateway under this price book."""
        return series_of(self.gateway, self.price_book)

    @cached_property
    def charges(self) -> UsageTree:
        """Tree of the charges."""
        return UsageTree(self.domain, self.series, self.tables.charges)

    @cached_property
    def payouts(self) -> UsageTree:
        """Tree of the payouts."""
        return UsageTree(self.domain, self.series, self.tables.payouts)

    def collections(
        self, caps: Mapping[bytes, SignedCap], accounts: Sequence[bytes]
    ) -> Iterator[tuple[list[tuple[str, int, int, int]], bytes, list[bytes], list[bool]]]:
        """The last arguments of `collect`, for `MAX_COLLECTED` accounts each: charges, signatures, proof, flags.

        Args:
            caps: {account: its cap}.
            accounts: whose charges are collected; each has one, and a cap.
        """
        for first in range(0, len(accounts), MAX_COLLECTED):
            ordered, proof, flags = self.charges.multiproof(accounts[first : first + MAX_COLLECTED])
            signed = [caps[account] for account in ordered]
            charged = [
                (account_text(account), self.tables.charges[account], one.cap.cumulative, one.cap.expiry)
                for account, one in zip(ordered, signed, strict=True)
            ]
            yield charged, b"".join(compact(one.signature) for one in signed), proof, flags
