"""A read-only chain, rebuilt on a fresh EVM from the journal of another process.

Every transaction is executed here, so the contracts' answers do not depend on what the folder claims. A journal made by
anvil is also replayed on py-evm, under its chain id: contracts reach the same state, but blocks have other hashes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eth_account.typed_transactions.typed_transaction import TypedTransaction
from eth_tester import EthereumTester
from hexbytes import HexBytes
from web3 import EthereumTesterProvider, Web3

from flock_ray.chain.evm import PyEvmNode, new_backend
from flock_ray.chain.journal import Block, Genesis
from flock_ray.chain.signed import parse
from flock_ray.errors import ChainError, VerificationError


class ReplayedNode(PyEvmNode):
    """A chain replayed from a journal, to be read only.

    Attributes:
        created: {contract: the data it was deployed with}.
    """

    backend = "replay"

    def __init__(self, genesis: Genesis, blocks: Sequence[Block]) -> None:
        """Run the blocks.

        Raises:
            VerificationError: the genesis or a block does not run, or a block of eth-tester has another hash.
        """
        self.created: dict[str, bytes] = {}
        self._logs: list[Any] = []
        try:
            self._evm = _evm(genesis)
            super().__init__(Web3(EthereumTesterProvider(EthereumTester(self._evm))), "the replayed chain")
            self.chain_id = genesis.chain_id
        except Exception as error:  # whatever the libraries raise for a hostile genesis
            raise VerificationError(f"chain/genesis.json makes no chain ({type(error).__name__})") from None
        for number, block in enumerate(blocks, start=1):
            try:
                block_hash = self._mine(number, block)
            except ChainError as error:
                raise VerificationError(f"block {number} of the chain does not run: {error}") from None
            except Exception as error:  # whatever the libraries raise for hostile bytes
                raise VerificationError(f"block {number} of the chain does not run ({type(error).__name__})") from None
            if genesis.backend == "eth_tester" and block_hash != block.hash:
                raise VerificationError(f"block {number} of the chain has another hash when it is run again")

    def _mine(self, number: int, block: Block) -> bytes:
        self._evm.chain.set_header_timestamp(block.timestamp)
        hashes = [self._send_raw(raw, parse(raw)) for raw in block.raws]
        (block_hash,) = self._evm.mine_blocks()
        for tx_hash, raw in zip(hashes, block.raws, strict=True):
            receipt = self._web3.eth.get_transaction_receipt(HexBytes(tx_hash))
            if receipt["blockNumber"] != number:
                raise ChainError("a transaction is not mined in it")
            if receipt["contractAddress"]:
                data = TypedTransaction.from_bytes(HexBytes(raw)).as_dict()["data"]
                self.created[receipt["contractAddress"]] = bytes(HexBytes(data))
            self._logs += receipt["logs"]
        return bytes(block_hash)

    def logs(self, address: str, topics: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
        """All logs of a contract with these first topics, from memory: eth-tester reads every block for each search."""
        wanted = list(topics)
        return [
            (bytes(log["transactionHash"]), bytes(log["data"]))
            for log in self._logs
            if log["address"].lower() == address.lower() and list(map(bytes, log["topics"][: len(wanted)])) == wanted
        ]

    def send(self, raw: bytes, epoch: int) -> bytes:
        """Refused: the chain is only read."""
        raise ChainError("a replayed chain takes no transactions")

    def fees(self) -> tuple[int, int]:
        """Nothing is sent, nothing paid."""
        return 0, 0

    def close(self) -> None:
        """Nothing to release."""


def _evm(genesis: Genesis) -> Any:
    evm = new_backend(genesis)
    type(evm.chain).chain_id = genesis.chain_id  # a class of its own, made for this chain alone
    return evm
