"""The data fee of OP-stack rollups: what a transaction pays for its bytes on the chain below, beside its gas.

Source: https://docs.optimism.io/stack/transactions/fees.
"""

from __future__ import annotations

from eth_abi.abi import decode, encode
from eth_utils.crypto import keccak

from flock_ray.chain.node import ChainNode, Reverted

GAS_PRICE_ORACLE = "0x420000000000000000000000000000000000000F"
"""Address of the oracle on every such rollup; other chains have no code there."""

MAX_BYTES = 131_072
"""Longest transaction that nodes take."""

_FEE, _UPPER_BOUND = keccak(text="getL1Fee(bytes)")[:4], keccak(text="getL1FeeUpperBound(uint256)")[:4]
_SAMPLE = 4_096  # bytes; before Fjord the fee is linear in them


def data_fee(node: ChainNode, raw: bytes, sender: str) -> int:
    """Data fee of a signed transaction at most, wei; 0 on a chain that has none.

    Args:
        node: the chain.
        raw: the transaction.
        sender: its account.
    """
    if not node.has_code(GAS_PRICE_ORACLE):
        return 0
    answers = [_ask(node, sender, _bound_of(len(raw))), _ask(node, sender, _fee_of(raw))]
    return max((answer for answer in answers if answer is not None), default=0)


def data_fee_line(node: ChainNode, sender: str) -> tuple[int, int]:
    """(wei, wei a byte): a line above twice the data fee of any transaction, for who signs without asking the chain.

    The fee never grows slower with the size than before, so it stays below the line through its ends. Twice, as the
    maximal fee of gas is twice the base fee: the chain below may become dearer until the transaction is mined.

    Args:
        node: the chain.
        sender: account that pays.
    """
    if not node.remote or not node.has_code(GAS_PRICE_ORACLE):
        return 0, 0
    first, last, size = _ask(node, sender, _bound_of(0)), _ask(node, sender, _bound_of(MAX_BYTES)), MAX_BYTES
    if first is None or last is None:
        first, last, size = _ask(node, sender, _fee_of(b"")), _ask(node, sender, _fee_of(b"\xff" * _SAMPLE)), _SAMPLE
    if first is None or last is None:
        return 0, 0
    slope = -(-max(0, last - first) // size)
    return 2 * (first + slope), 2 * slope  # a byte more: the oracle rounds a part of the size down


def _bound_of(size: int) -> bytes:
    return _UPPER_BOUND + encode(["uint256"], [size])


def _fee_of(raw: bytes) -> bytes:
    return _FEE + encode(["bytes"], [raw])


def _ask(node: ChainNode, sender: str, data: bytes) -> int | None:
    try:
        return int(decode(["uint256"], node.call(GAS_PRICE_ORACLE, data, sender))[0])
    except Reverted:  # a rollup before its Fjord upgrade knows no upper bound
        return None
