"""What a batch of receipts charges to whom and pays to whom: cumulative tables in which no unit is made or lost.

Each receipt is divided by itself, with floors, and what they leave over goes to the protocol. So neither the order of
the receipts nor how they are put into batches changes a table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from flock_ray.protocol.encoding import to_hex
from flock_ray.protocol.hashing import tagged
from flock_ray.protocol.price_book import BASIS, LeafTable, Offer, PriceBook
from flock_ray.protocol.receipt import Cap, Receipt

Amounts = Mapping[bytes, int]
"""{account: units}, none of them zero."""


@dataclass(frozen=True)
class Tables:
    """All charges and payouts of a series so far: of one gateway under one price book.

    Attributes:
        charges: what each account was charged.
        payouts: what each account is to get.
    """

    charges: Amounts = field(default_factory=dict)
    payouts: Amounts = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert sum(self.charges.values()) == sum(self.payouts.values()), "units were made or lost"

    @property
    def total(self) -> int:
        """Units: the sum of either table."""
        return sum(self.charges.values())


def series_of(gateway: bytes, price_book: bytes) -> bytes:
    """Name of a gateway's batches under a price book: 32 bytes, as `UsageSettlement.seriesOf` says."""
    return tagged("flock_ray/usage/1", int.from_bytes(gateway, "big"), price_book)


@dataclass(frozen=True)
class Parts:
    """A cost, divided: units, which sum to it."""

    host: int
    owner: int
    members: Amounts
    protocol: int


def divide(cost: int, offer: Offer, weights: Amounts) -> Parts:
    """The parts of a cost, floored; the protocol gets what the floors of all others and its own leave over."""
    split, total = offer.split, sum(weights.values())
    host, owner = cost * split.host // BASIS, cost * split.owner // BASIS
    shared = cost * split.members // BASIS
    members = {account: shared * weight // total for account, weight in weights.items()}
    return Parts(host, owner, members, cost - host - owner - sum(members.values()))


def check_receipt(receipt: Receipt, book: PriceBook) -> Offer:
    """The offer that a receipt is charged by.

    Raises:
        ValueError: the receipt is of another gateway, price book, model or cost.
    """
    name = f"the receipt of request {to_hex(receipt.request)}"
    if receipt.gateway != book.gateway:
        raise ValueError(f"{name} is of the gateway {to_hex(receipt.gateway)}, not of {to_hex(book.gateway)}")
    if receipt.price_book != book.hash:
        raise ValueError(f"{name} is of the price book {to_hex(receipt.price_book)}, not of {to_hex(book.hash)}")
    offer = book.offer(receipt.model)
    cost = offer.cost(receipt.prompt_tokens, receipt.output_tokens)
    if receipt.cost != cost:
        raise ValueError(f"{name} costs {receipt.cost}, but {cost} by the price book")
    return offer


def charge(before: Tables, receipts: Iterable[Receipt], book: PriceBook, weights: Mapping[bytes, LeafTable]) -> Tables:
    """The tables after a batch.

    Args:
        before: after the batch before.
        receipts: of the batch, in any order.
        book: the price book.
        weights: {its hash: leaf table}, of every offer that pays members.

    Raises:
        ValueError: a receipt does not fit the price book, or a request has two; or an offer's weights are missing.
    """
    _check_weights(book, weights)
    charges, payouts, seen = dict(before.charges), dict(before.payouts), set[bytes]()
    for receipt in receipts:
        offer = check_receipt(receipt, book)
        if receipt.request in seen:
            raise ValueError(f"request {to_hex(receipt.request)} has two receipts")
        seen.add(receipt.request)
        if not receipt.cost:
            continue
        charges[receipt.account] = charges.get(receipt.account, 0) + receipt.cost
        parts = divide(receipt.cost, offer, weights[offer.weights].rewards if offer.split.members else {})
        for account, units in (
            (offer.host, parts.host), (offer.owner, parts.owner), (book.protocol, parts.protocol),
            *parts.members.items(),
        ):  # fmt: skip
            if units:
                payouts[account] = payouts.get(account, 0) + units
    return Tables(charges, payouts)


def _check_weights(book: PriceBook, weights: Mapping[bytes, LeafTable]) -> None:
    for offer in book.offers:
        if not offer.split.members:
            continue
        if offer.weights not in weights:
            raise ValueError(f"the weights {to_hex(offer.weights)} of model {to_hex(offer.model)} are missing")
        if weights[offer.weights].hash != offer.weights:
            raise ValueError(f"the weights given as {to_hex(offer.weights)} have another hash")


def uncapped(charges: Amounts, caps: Mapping[bytes, Cap], settled_at: int) -> list[bytes]:
    """Accounts that are charged more than a cap allows in a batch that is settled at a time, ascending.

    Args:
        charges: after the batch.
        caps: {account: its cap under this gateway and price book}.
        settled_at: Unix time.
    """
    return sorted(
        account
        for account, units in charges.items()
        if account not in caps or units > caps[account].cumulative or settled_at > caps[account].expiry
    )
