"""The data fee of OP-stack rollups: what a transaction pays for its bytes on the chain below, beside its gas.

Source: https://docs.optimism.io/stack/transactions/fees.
"""

from __future__ import annotations

from eth_abi.abi import decode, encode
from eth_utils.crypto import keccak

from flock_ray.chain.node import ChainNode, Reverted

GAS_PRICE_ORACLE = "0x420000000000000000000000000000000000000F"
"""Address of the oracle on every such rollup; other chains have no code there."""

_FEE, _UPPER_BOUND = keccak(text="getL1Fee(bytes)")[:4], keccak(text="getL1FeeUpperBound(uint256)")[:4]


def data_fee(node: ChainNode, raw: bytes, sender: str) -> int:
    """Data fee of a signed transaction at most, wei; 0 on a chain that has none.

    Args:
        node: the chain.
        raw: the transaction.
        sender: its account.
    """
    if not node.has_code(GAS_PRICE_ORACLE):
        return 0
    answers = []
    for data in (_UPPER_BOUND + encode(["uint256"], [len(raw)]), _FEE + encode(["bytes"], [raw])):
        try:
            answers.append(int(decode(["uint256"], node.call(GAS_PRICE_ORACLE, data, sender))[0]))
        except Reverted:  # a rollup before its Fjord upgrade knows no upper bound
            continue
    return max(answers, default=0)
