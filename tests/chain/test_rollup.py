"""The data fee of a rollup, where an account signs without asking the chain."""

from __future__ import annotations

from dataclasses import replace

import pytest
from eth_abi.abi import decode, encode
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from hexbytes import HexBytes
from hypothesis import given
from hypothesis import strategies as st

from flock_ray.chain import transactions
from flock_ray.chain.keys import run_signer
from flock_ray.chain.node import Reverted
from flock_ray.chain.rollup import MAX_BYTES, data_fee_line
from flock_ray.chain.values import GWEI, TxContext
from flock_ray.errors import FundsError
from flock_ray.protocol.hashing import keccak

SIGNER = run_signer(1, "creator")
PRICE = 30 * GWEI  # of the chain below, scaled


class Rollup:
    """The formulas of OP's GasPriceOracle, after and before its Fjord upgrade."""

    remote = True

    def __init__(self, fjord: bool) -> None:
        self.fjord = fjord

    def has_code(self, address: str) -> bool:
        return True

    def fee(self, size: int) -> int:
        """Of the most expensive bytes, of which there are so many without the signature."""
        if not self.fjord:
            return (16 * size + 16 * 68) * PRICE // 16
        compressed = size + 68 + size // 255 + 16
        return max(100 * 10**6, 836_500 * compressed - 42_585_600) * PRICE // 10**6

    def call(self, to: str, data: bytes, sender: str) -> bytes:
        if data[:4] == keccak(b"getL1FeeUpperBound(uint256)")[:4]:
            if not self.fjord:
                raise Reverted(b"")
            return encode(["uint256"], [self.fee(decode(["uint256"], data[4:])[0])])
        return encode(["uint256"], [self.fee(len(decode(["bytes"], data[4:])[0]))])


@given(st.booleans(), st.integers(0, MAX_BYTES))
def test_no_transaction_pays_more_than_the_line_says(fjord: bool, size: int) -> None:
    rollup = Rollup(fjord)
    fixed, per_byte = data_fee_line(rollup, SIGNER.address)  # type: ignore[arg-type]
    assert 2 * rollup.fee(size) <= fixed + per_byte * size
    assert fixed + per_byte * size <= 2 * rollup.fee(size) + 2 * 300 * PRICE, "nor is it asked for much more"


def test_what_a_batch_needs_includes_its_data() -> None:
    """A run on a rollup once failed in the middle: its accounts had enough for the gas alone."""
    fixed, per_byte = data_fee_line(Rollup(True), SIGNER.address)  # type: ignore[arg-type]
    places = (run_signer(1, f"member-{i}").address for i in range(5))
    rich = TxContext(10, 7, 2 * GWEI, GWEI, 10**21, 10**21, *places, data_fee=fixed, data_fee_per_byte=per_byte)
    task = keccak(b"task")
    raws = transactions.join(SIGNER, rich, task, 10**21, task, task)
    assert len(raws) == 3
    paid = sum(Rollup(True).fee(len(raw)) for raw in raws)
    gas = sum(TypedTransaction.from_bytes(HexBytes(raw)).as_dict()["gas"] for raw in raws) * 2 * GWEI
    for balance in (gas, gas + 2 * paid - 1):
        with pytest.raises(FundsError, match=f"has {balance} wei for gas, needs"):
            transactions.join(SIGNER, replace(rich, gas_balance=balance), task, 10**21, task, task)


def test_an_embedded_chain_is_not_asked() -> None:
    class Embedded:
        remote = False

    assert data_fee_line(Embedded(), SIGNER.address) == (0, 0)  # type: ignore[arg-type]
