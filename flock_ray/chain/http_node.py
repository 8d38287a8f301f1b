"""A chain behind JSON-RPC over HTTP: what is asked for many accounts or transactions goes in batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from eth_utils.address import to_checksum_address
from web3.providers.base import JSONBaseProvider
from web3.types import RPCEndpoint

from flock_ray.chain.node import ChainNode
from flock_ray.chain.values import TxReceipt


class HttpNode(ChainNode):
    """A node whose web3 speaks JSON-RPC over HTTP.

    Attributes:
        batch_size: most requests in a batch; public endpoints take no longer ones.
    """

    batch_size = 100

    def call_many(self, calls: Sequence[tuple[str, bytes]], sender: str) -> list[bytes]:
        """See `ChainNode.call_many`."""
        fields = [{"to": to, "from": sender, "data": "0x" + data.hex()} for to, data in calls]
        answers = self._batch("eth_call", [(one, "latest") for one in fields])
        return [
            bytes.fromhex(answer["result"][2:]) if "error" not in answer else self.call(to, data, sender)
            for answer, (to, data) in zip(answers, calls, strict=True)
        ]

    def receipts(self, hashes: Sequence[bytes]) -> list[tuple[TxReceipt, bool] | None]:
        """See `ChainNode.receipts`."""
        answers = self._batch("eth_getTransactionReceipt", [("0x" + tx_hash.hex(),) for tx_hash in hashes])
        return [_receipt(tx_hash, answer.get("result")) for tx_hash, answer in zip(hashes, answers, strict=True)]

    def nonces(self, addresses: Sequence[str]) -> list[int]:
        """See `ChainNode.nonces`."""
        answers = self._batch("eth_getTransactionCount", [(address, "pending") for address in addresses])
        return [
            int(answer["result"], 16) if "error" not in answer else self.nonce(address)
            for answer, address in zip(answers, addresses, strict=True)
        ]

    def balances(self, addresses: Sequence[str]) -> list[int]:
        """See `ChainNode.balances`."""
        answers = self._batch("eth_getBalance", [(address, "latest") for address in addresses])
        return [
            int(answer["result"], 16) if "error" not in answer else self.balance(address)
            for answer, address in zip(answers, addresses, strict=True)
        ]

    def _batch(self, method: str, many: Sequence[Sequence[Any]]) -> list[Any]:
        """Answers to requests of one method, each with its own parameters; errors are among them."""
        requests = [(RPCEndpoint(method), list(params)) for params in many]
        answers: list[Any] = []
        for first in range(0, len(requests), self.batch_size):
            answers += self._ask_together(requests[first : first + self.batch_size])
        return answers

    def _ask_together(self, requests: list[tuple[RPCEndpoint, Any]]) -> list[Any]:
        provider = cast(JSONBaseProvider, self._web3.provider)
        with self._reach():
            if len(requests) > 1:
                answers = provider.make_batch_request(requests)
                if isinstance(answers, list) and len(answers) == len(requests):
                    return answers  # another one says that the node takes no batches, or none so long
            return [provider.make_request(*request) for request in requests]


def _receipt(tx_hash: bytes, fields: Any) -> tuple[TxReceipt, bool] | None:
    if not fields:
        return None
    created = fields.get("contractAddress")
    receipt = TxReceipt(
        tx_hash,
        int(fields["gasUsed"], 16),
        int(fields["blockNumber"], 16),
        bytes.fromhex(fields["blockHash"][2:]),
        to_checksum_address(created) if created else None,
    )
    return receipt, bool(int(fields["status"], 16))
